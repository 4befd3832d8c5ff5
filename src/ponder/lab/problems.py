"""Two endless families of problems with worked solutions, split into train and test by problem.

countdown   `countdown 4 7 8 make 20`: reach the target with every number exactly once, by + - * / . Many right answers.
            Difficulty is how many numbers there are, 3 or 4.
chain       `chain 7+5*3-8`: apply the operations from left to right, like a desk calculator. One right answer.
            Difficulty is how many operations there are, 2 to 20.

A solution is one step a line, and ends with the answer:

    7*4=28 left 8 28        7+5=12
    28-8=20 left 20         12*3=36
    answer: 20              36-8=28
                            answer: 28

A countdown derivation stays in steps: a tiny model restates remaining numbers far more reliably than it composes nested
parentheses. `countdown_expression` composes the steps into one expression over the original numbers, so that a grader
judges the text alone.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Family = Literal["countdown", "chain"]
Split = Literal["train", "test"]

LARGEST = 199  # of any number in a countdown derivation; the vocabulary holds 0..LARGEST
COUNTDOWN_SIZES = range(3, 5)  # how many numbers
COUNTDOWN_NUMBERS = range(1, 21)
COUNTDOWN_TARGETS = range(10, 100)
CHAIN_SIZES = range(2, 21)  # how many operations
CHAIN_VALUES = range(0, 100)
CHAIN_TERMS = range(1, 60)  # what may be added or taken away
CHAIN_FACTORS = range(2, 10)
TEST_SHARE = 10  # one problem in ten, by hash of its key, is a test problem

_STEP = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")


@dataclass(frozen=True, slots=True)
class LabProblem:
    """One problem: its plain prompt and the reference that only a grader reads.

    Attributes:
        family: `countdown` or `chain`.
        id: family and 12 hexadecimal digits of the hash of the canonical key; equal problems have equal ids.
        text: the prompt, one line without its newline.
        reference: chain: the answer; countdown: `numbers=4,7,8;target=20`.
        difficulty: numbers (countdown, 3 to 4) or operations (chain, 2 to 20).
    """

    family: Family
    id: str
    text: str
    reference: str
    difficulty: int


def problems(family: Family, *, split: Split, n: int, seed: int, size: range | None = None) -> Iterator[LabProblem]:
    """Yield n distinct problems of one split, their difficulties taken in turn from `size`.

    The split is a property of the problem (a hash of its canonical key), never of the seed. The same arguments give the
    same problems on every machine.

    Args:
        family: which family.
        split: `train` or `test`.
        n: how many, at least 0.
        seed: which sequence of problems.
        size: difficulties; all of the family when None.

    Raises:
        ValueError: for a family, split, size or n outside its bounds, or when the split has fewer than n problems.
    """
    sizes = _check_sizes(family, size)
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'test'")
    if n < 0:
        raise ValueError(f"n is {n}; it must be at least 0")
    rng = random.Random(f"{family}/{split}/{seed}")
    seen: set[str] = set()
    for index in range(n):
        for _ in range(20_000):
            problem, _solution = draw(family, sizes[index % len(sizes)], rng)
            if problem.id not in seen and split_of(problem) == split:
                break
        else:
            raise ValueError(
                f"only {index} of n={n} distinct {split} problems of {family} with size {sizes} could be found; "
                "ask for fewer, or for more sizes"
            )
        seen.add(problem.id)
        yield problem


def draw(family: Family, size: int, rng: random.Random) -> tuple[LabProblem, str]:
    """Draw one problem of either split with one correct worked solution, by drawing the solution first."""
    if family == "countdown":
        numbers = sorted(rng.choices(COUNTDOWN_NUMBERS, k=size))
        while (steps := _derive(tuple(numbers), rng)) is None:
            numbers = sorted(rng.choices(COUNTDOWN_NUMBERS, k=size))
        return _countdown(numbers, steps[-1][3]), _render_countdown(numbers, steps)
    start, operations = _operations(size, rng)
    problem = _chain(start, operations)
    return problem, _render_chain(start, operations)


def split_of(problem: LabProblem) -> Split:
    """Tell the split of a problem: `test` when the hash in its id is 0 modulo 10."""
    return "test" if int(problem.id.rpartition("-")[2], 16) % TEST_SHARE == 0 else "train"


def solve_steps(problem: LabProblem, rng: random.Random) -> str:
    """Write one correct worked solution of a problem; for countdown a random one of the many.

    Raises:
        ValueError: when the text is no problem of its family, or the target cannot be reached within 0..LARGEST.
    """
    if problem.family == "chain":
        return _render_chain(*_parse_chain(problem.text))
    numbers, target = _parse_countdown(problem.text)
    steps = _search(tuple(numbers), target, rng)
    if steps is None:
        raise ValueError(f"{problem.text!r} cannot be solved with whole numbers in 0..{LARGEST}")
    return _render_countdown(numbers, steps)


def countdown_expression(text: str) -> str | None:
    """Compose the step lines of a countdown solution into one expression over the original numbers.

    The operands of a step are looked up among results of earlier steps that are not used yet (the latest first); any
    other operand counts as an original number. Only the left-hand sides are composed, and the claimed result of a step
    names it: whether the arithmetic is right, whether the numbers are the given ones and whether the value is the target is for the
    grader to say, by exact evaluation of the expression.

    Returns:
        The expression with parentheses around every inner step, or None when the text has no step line, when a line
        before the answer is not a step, or when a result of a step other than the last is never used.
    """
    open_results: list[tuple[str, str]] = []  # (claimed value, expression)
    for line in text.splitlines():
        if line.startswith("answer:"):
            break
        match = _STEP.fullmatch(line.partition(" left")[0].strip())
        if match is None:
            return None
        left, operator, right, value = match.groups()
        terms = [_take(open_results, operand) for operand in (left, right)]
        open_results.append((value, f"({terms[0]}{operator}{terms[1]})"))
    if len(open_results) != 1:
        return None
    return open_results[0][1][1:-1]


# ---- countdown ----

_CountdownStep = tuple[int, str, int, int]  # a, operator, b, result, with a >= b


def _apply(a: int, operator: str, b: int) -> int | None:
    """Give a op b for a >= b, or None where the conventions forbid it."""
    if operator == "+":
        value = a + b
    elif operator == "-":
        value = a - b
    elif operator == "*":
        value = a * b
    elif b and a % b == 0:
        value = a // b
    else:
        return None
    return value if value <= LARGEST else None


def _derive(numbers: tuple[int, ...], rng: random.Random) -> list[_CountdownStep] | None:
    """Combine random pairs until one number is left; None when it is no target."""
    left, steps = list(numbers), []
    while len(left) > 1:
        b, a = sorted((left.pop(rng.randrange(len(left))), left.pop(rng.randrange(len(left)))))
        choices = [(op, value) for op in "+-*/" if (value := _apply(a, op, b)) is not None]
        operator, value = rng.choice(choices)
        steps.append((a, operator, b, value))
        left.append(value)
    return steps if left[0] in COUNTDOWN_TARGETS else None


def _search(numbers: tuple[int, ...], target: int, rng: random.Random) -> list[_CountdownStep] | None:
    """Search depth first in random order for steps that reach the target."""
    if len(numbers) == 1:
        return [] if numbers[0] == target else None
    moves = [(i, j, op) for i in range(len(numbers)) for j in range(i) for op in "+-*/"]
    rng.shuffle(moves)
    for i, j, operator in moves:
        b, a = sorted((numbers[i], numbers[j]))
        value = _apply(a, operator, b)
        if value is None:
            continue
        rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
        steps = _search((*rest, value), target, rng)
        if steps is not None:
            return [(a, operator, b, value), *steps]
    return None


def _render_countdown(numbers: Sequence[int], steps: Sequence[_CountdownStep]) -> str:
    left, lines = sorted(numbers), []
    for a, operator, b, value in steps:
        left.remove(a)
        left.remove(b)
        left = sorted([*left, value])
        lines.append(f"{a}{operator}{b}={value} left {' '.join(map(str, left))}\n")
    return "".join(lines) + f"answer: {steps[-1][3]}\n"


def _countdown(numbers: Sequence[int], target: int) -> LabProblem:
    shown = [str(number) for number in sorted(numbers)]
    text = f"countdown {' '.join(shown)} make {target}"
    reference = f"numbers={','.join(shown)};target={target}"
    return LabProblem("countdown", _identify("countdown", text), text, reference, len(numbers))


def _parse_countdown(text: str) -> tuple[list[int], int]:
    match = re.fullmatch(r"countdown ((?:\d+ )+)make (\d+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a countdown problem; the form is 'countdown 4 7 8 make 20'")
    return [int(number) for number in match[1].split()], int(match[2])


def _take(open_results: list[tuple[str, str]], operand: str) -> str:
    for index in reversed(range(len(open_results))):
        if open_results[index][0] == operand:
            return open_results.pop(index)[1]
    return operand


# ---- chain ----


def _operations(size: int, rng: random.Random) -> tuple[int, list[tuple[str, int]]]:
    """Draw a start and operations that keep every value in CHAIN_VALUES; no operand occurs twice.

    Distinct operands make the place reached in the prompt a matter of content: errors are then errors of arithmetic
    at some rate per step, not of losing one's place.
    """
    start = value = rng.choice(CHAIN_VALUES)
    unused_terms = [term for term in CHAIN_TERMS if term != start]
    operations: list[tuple[str, int]] = []
    while len(operations) < size:
        kind = rng.choice("++--*/")
        pool = [term for term in unused_terms if _fits(value, kind, term)]
        if not pool:
            continue
        operand = rng.choice(pool)
        unused_terms.remove(operand)
        value = _calculate(value, kind, operand)
        operations.append((kind, operand))
    return start, operations


def _fits(value: int, operator: str, operand: int) -> bool:
    if operator == "+":
        return value + operand in CHAIN_VALUES
    if operator == "-":
        return value - operand in CHAIN_VALUES
    if operand not in CHAIN_FACTORS or value == 0:
        return False
    return value * operand in CHAIN_VALUES if operator == "*" else value % operand == 0


def _calculate(value: int, operator: str, operand: int) -> int:
    if operator == "+":
        return value + operand
    if operator == "-":
        return value - operand
    return value * operand if operator == "*" else value // operand


def _render_chain(start: int, operations: Sequence[tuple[str, int]]) -> str:
    value, lines = start, []
    for operator, operand in operations:
        result = _calculate(value, operator, operand)
        lines.append(f"{value}{operator}{operand}={result}\n")
        value = result
    return "".join(lines) + f"answer: {value}\n"


def _chain(start: int, operations: Sequence[tuple[str, int]]) -> LabProblem:
    text = f"chain {start}" + "".join(f"{operator}{operand}" for operator, operand in operations)
    answer = start
    for operator, operand in operations:
        answer = _calculate(answer, operator, operand)
    return LabProblem("chain", _identify("chain", text), text, str(answer), len(operations))


def _parse_chain(text: str) -> tuple[int, list[tuple[str, int]]]:
    match = re.fullmatch(r"chain (\d+)((?:[-+*/]\d+)+)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a chain problem; the form is 'chain 7+5*3-8'")
    return int(match[1]), [(operator, int(operand)) for operator, operand in re.findall(r"([-+*/])(\d+)", match[2])]


# ---- both ----


def _identify(family: str, text: str) -> str:
    return f"{family}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def _check_sizes(family: str, size: range | None) -> range:
    bounds = {"countdown": COUNTDOWN_SIZES, "chain": CHAIN_SIZES}.get(family)
    if bounds is None:
        raise ValueError(f"family is {family!r}; it must be 'countdown' or 'chain'")
    sizes = bounds if size is None else size
    if not sizes or any(value not in bounds for value in sizes):
        raise ValueError(f"size of {family} is {sizes}; it must lie in {bounds} and not be empty")
    return sizes
