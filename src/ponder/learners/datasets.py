"""From samples to examples: leave out what is said twice, cap, balance, split by problem, pair right with wrong.

    pool = list(harvest([Path("studies/round1")]))              # ponder.cli.harvest: every judged whole answer of a study
    train, evaluation = split(pool, share=0.1, seed=0)          # by problem; a leak is an error
    right = [sample for sample in train if sample.correct]
    rft = distinct(right, derivation)                           # one answer for each derivation (RFT)
    rest_em = cap(distinct(right), 10)                          # at most ten answers of a problem (ReST-EM)
    v_star = pairs(distinct(train), most=16)                    # right against wrong (V-STaR)

All of it is a function of samples and a seed; what `cap` and `pairs` take of a problem depends neither on the order of the input nor on
other problems. A sample that did not finish by `stop` is never right, and wrong only where `truncated` asks for it. `ponder.learners.exports` writes files.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, pairwise, takewhile
from math import lcm
from typing import Protocol, TypeVar

from ponder.errors import DataError, UsageError
from ponder.types import Finish, Message


@dataclass(frozen=True, slots=True)
class Sample:
    """A verified chain: one whole answer of a policy to a problem, with what a grader said of it and what it cost.

    steps: texts that join to the answer, each with the separator that ended it. answer: the canonical key, None where the text gives
    none. policy: fingerprint of the one that wrote it. difficulty: the task's own number. tokens: of the completion. stream and
    index: which draw of its pool it was (see `ponder.core.Pool`).

    Raises `DataError` for a right sample that did not finish by `stop`.
    """

    problem: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    correct: bool
    answer: str | None
    finish: Finish
    policy: str
    temperature: float
    difficulty: float | None
    tokens: int
    stream: str = ""
    index: int = 0

    def __post_init__(self) -> None:
        if self.correct and self.finish != "stop":
            raise DataError(
                f"a sample of problem {self.problem!r} finished by {self.finish!r} and is marked correct; only 'stop' can be"
            )

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.steps)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this sample from all others."""
        return (self.problem, self.policy, repr(self.temperature), self.stream, str(self.index), self.text)


@dataclass(frozen=True, slots=True)
class Pair:
    """A right and a wrong answer to one prompt."""

    chosen: Sample
    rejected: Sample

    @property
    def problem(self) -> str:
        """The problem of both."""
        return self.chosen.problem

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this pair from all others."""
        return (*self.chosen.key, *self.rejected.key)


class Example(Protocol):
    """What can be capped and balanced: a sample, a pair."""

    @property
    def problem(self) -> str:
        """Id of its problem."""
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from all others."""
        ...


class Asked(Protocol):
    """What belongs to a problem and has its prompt: a sample, a chain with labels."""

    @property
    def problem(self) -> str:
        """Id of its problem."""
        ...

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What was asked."""
        ...


T = TypeVar("T", bound=Example)
P = TypeVar("P")


def steps_of(text: str, separator: str = "\n") -> tuple[str, ...]:
    """A text cut after each separator, which stays with the step it ends; blank steps go with their neighbour.

    A text without the separator is one step, an empty text none. Raises `UsageError` for an empty separator.
    """
    if not separator:
        raise UsageError("steps: the separator is empty; name the text that ends a step, such as a line break")
    *ended, rest = text.split(separator)
    steps: list[str] = []
    for piece in [*(part + separator for part in ended), rest]:
        if steps and not (piece.strip() and steps[-1].strip()):
            steps[-1] += piece
        elif piece:
            steps.append(piece)
    return tuple(steps)


# ---- saying the same ----


def folded(text: str) -> str:
    """The text with every run of white space as one blank, none at the ends."""
    return " ".join(text.split())


def derivation(text: str) -> tuple[str, ...]:
    """The equations of a text in their order, such as ("12*3=36", "36-8=28"); its folded text where there is none.

    As in RFT (Yuan et al. 2023, arXiv:2308.01825) answers with equal lists are one derivation. An equation is arithmetic in figures, an equals
    sign and a number, on one line. Numbers lose thousands separators and needless zeros; signs for times, divided and minus are read as
    * / -; currency and percent signs are dropped. The order of operands is kept: 3*4 is not 4*3. What has words or units between its
    numbers is not seen.
    """
    found: list[str] = []
    sides = text.translate(_SIGNS).split("=")
    for before, after in pairwise(sides):
        value = _VALUE.match(after)
        expression = _expression(before[len(before.rstrip(_ARITHMETIC)) :])
        if value and expression:
            found.append(f"{expression}={value[1]}{_number(value[2])}")
    return tuple(found) or (folded(text),)


_SIGNS = str.maketrans("\u00d7\u00b7xX\u00f7\u2212$\u20ac\u00a3%", "****/-    ")
_ARITHMETIC = "0123456789.,+-*/^() \t"
_NUMBER = r"[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+"
_VALUE = re.compile(rf"[ \t]*(-?)[ \t]*({_NUMBER})")
_TOKEN = re.compile(rf"{_NUMBER}|[-+*/^().,]")


def _number(text: str) -> str:
    whole, _, rest = text.replace(",", "").partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (f".{rest}" if rest else "")


def _expression(side: str) -> str | None:
    """The arithmetic that a left side ends in; None where it has no operator between operands."""
    kept: list[str] = []
    for token in _TOKEN.findall(side):
        begins = token[-1].isdigit() or token == "("
        if token in ".," or (begins and kept and (kept[-1][-1].isdigit() or kept[-1] == ")")):
            kept = []  # the full stop of a sentence, or two operands side by side: the expression begins anew
        if begins or (kept and token not in ".,"):
            kept.append(_number(token) if token[-1].isdigit() else token)
    outer = sum(1 for _ in takewhile("(".__eq__, kept))
    kept = kept[max(0, min(outer, kept.count("(") - kept.count(")"))) :]  # without those that are closed after the equation
    whole = kept and (kept[-1][-1].isdigit() or kept[-1] == ")")
    return "".join(kept) if whole and not {*kept}.isdisjoint("+-*/^") else None


def distinct(samples: Iterable[Sample], key: Callable[[str], Hashable] = folded) -> list[Sample]:
    """Of samples of one prompt that say the same the first, in their order. key: what a text says: `folded` or `derivation`.

    A right sample, a wrong one and a cut one never stand for each other.
    """
    first: dict[Hashable, Sample] = {}
    for one in samples:
        first.setdefault((one.problem, one.prompt, one.correct, one.finish == "stop", key(one.text)), one)
    return list(first.values())


# ---- how many ----


def cap(examples: Iterable[T], most: int, *, seed: int = 0) -> list[T]:
    """At most so many of each problem, in their order, drawn by the hash of seed and example.

    Which are taken does not depend on the order of the input, and a smaller cap takes a part of what a larger one takes. The first in
    order would prefer the first study, temperature or round. Raises `UsageError` unless `most` is at least 1.
    """
    if most < 1:
        raise UsageError(f"cap: most = {most} must be at least 1")
    return _thin(examples, lambda example: example.problem, most, seed)


def solve_rates(samples: Iterable[Sample]) -> dict[str, float]:
    """For each problem the share of its samples that are right; cut ones count as wrong.

    Of use for difficulty where every problem has equally many samples that nobody chose: take them before any filter.
    """
    drawn: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for one in samples:
        drawn[one.problem] += 1
        right[one.problem] += one.correct
    return {problem: right[problem] / drawn[problem] for problem in drawn}


def levels(samples: Iterable[Sample], *, bins: int = 5) -> dict[str, tuple[str, float]]:
    """The level of each problem: its difficulty, or where it has none the quantile bin of its solve rate, 0 the hardest.

    Five quantiles of pass@1 are the difficulty of Snell et al. 2024, arXiv:2408.03314, section 3.2. Problems of one rate share a bin, that of
    their middle rank, so there may be fewer bins.
    """
    samples = list(samples)
    if bins < 1:
        raise UsageError(f"levels: bins = {bins} must be at least 1")
    found = {one.problem: ("difficulty", one.difficulty) for one in samples if one.difficulty is not None}
    ranked = sorted((rate, problem) for problem, rate in solve_rates(samples).items() if problem not in found)
    below = 0
    for _, group in groupby(ranked, key=lambda item: item[0]):
        tied = [problem for _, problem in group]
        level = bins * (2 * below + len(tied)) // (2 * len(ranked))
        found |= dict.fromkeys(tied, ("solve rate", float(level)))
        below += len(tied)
    return found


def balance(examples: Iterable[T], level: Mapping[str, Hashable], *, seed: int = 0) -> list[T]:
    """As many examples of each level as the rarest has, in their order, drawn as `cap` draws.

    level: by problem, such as `levels(pool)` of all that was sampled: measured on right samples alone every rate would be 1. A level
    without examples takes no part.
    """
    examples = list(examples)
    counts = Counter(level[example.problem] for example in examples)
    return _thin(examples, lambda example: level[example.problem], min(counts.values(), default=0), seed)


def _thin(examples: Iterable[T], group: Callable[[T], Hashable], most: int, seed: int) -> list[T]:
    """Those among the `most` first of their group by rank, in the order given."""
    examples = list(examples)
    members: dict[Hashable, list[int]] = {}
    for at, example in enumerate(examples):
        members.setdefault(group(example), []).append(at)
    kept = {
        at
        for one in members.values()
        for at in (one if len(one) <= most else sorted(one, key=lambda at: _rank(seed, *examples[at].key))[:most])
    }
    return [example for at, example in enumerate(examples) if at in kept]


def _rank(seed: int, *key: str) -> int:
    """64 bits that are a function of seed and key."""
    body = "\x1f".join((str(seed), *key)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest(), "big")


def pairs(samples: Iterable[Sample], *, most: int | None = None, seed: int = 0, truncated: bool = False) -> list[Pair]:
    """Every right sample against every wrong one of the same problem and prompt, whose texts differ by more than white space.

    The pairs from which V-STaR's verifier learns (Hosseini et al. 2024, arXiv:2402.06457). most: pairs of a prompt, in which all its
    samples of a kind take part equally often, give or take one. truncated: take samples that did not finish by `stop` for wrong ones,
    too. Problems that are all right or all wrong give none.
    """
    if most is not None and most < 1:
        raise UsageError(f"pairs: most = {most} must be at least 1, or left out for all")
    asked: dict[tuple[str, tuple[Message, ...]], list[Sample]] = {}
    for one in samples:
        if one.finish == "stop" or truncated:
            asked.setdefault((one.problem, one.prompt), []).append(one)
    found: list[Pair] = []
    for group in asked.values():
        group = sorted(group, key=lambda one: _rank(seed, *one.key))
        right, wrong = ([(one, folded(one.text)) for one in group if one.correct is verdict] for verdict in (True, False))
        found += islice((Pair(good, bad) for (good, said), (bad, other) in _product(right, wrong) if said != other), most)
    return found


def _product(a: Sequence[P], b: Sequence[P]) -> Iterator[tuple[P, P]]:
    """All of a x b, along diagonals: both are gone through in turn, and shifted by one when a round of both would begin anew."""
    round_ = lcm(len(a), len(b))
    return ((a[k % len(a)], b[(k + k // round_) % len(b)]) for k in range(len(a) * len(b)))


# ---- train and evaluation ----


def held_out(problem: str, *, share: float = 0.1, seed: int = 0) -> bool:
    """Whether a problem is kept for evaluation: a hash of seed and id, so for good, whatever else is sampled later.

    Raises `UsageError` unless 0 < share < 1.
    """
    if not 0 < share < 1:
        raise UsageError(f"split: share = {share!r} of the problems to hold out must lie between 0 and 1")
    return _rank(seed, "split", problem) < share * 2**64


def split(samples: Iterable[Sample], *, share: float = 0.1, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on and samples to evaluate on, by problem. share: of problems, about, on the second side.

    Raises `DataError` where a side is empty, and as `check_split`.
    """
    sides: tuple[list[Sample], list[Sample]] = ([], [])
    for one in samples:
        sides[held_out(one.problem, share=share, seed=seed)].append(one)
    for name, side in zip(("train", "evaluate"), sides, strict=True):
        if not side:
            problems = len({one.problem for both in sides for one in both})
            raise DataError(
                f"split: of {problems} problems none is left to {name} on with share = {share:g} and seed = {seed}; "
                "sample more problems, or take another seed or share"
            )
    check_split(*sides)
    return sides


def check_split(train: Iterable[Asked], evaluation: Iterable[Asked]) -> None:
    """Raises `DataError` with the problem where one is on both sides: by its id, or by a prompt that differs in white space and case only."""
    by_prompt: dict[str, str] = {}
    ids: set[str] = set()
    for one in train:
        ids.add(one.problem)
        by_prompt.setdefault(_asked(one.prompt), one.problem)
    for one in evaluation:
        if one.problem in ids:
            raise DataError(
                f"problem {one.problem!r} is both to be trained and to be evaluated on; split by problem, and give problems of different "
                "files different ids"
            )
        same = by_prompt.get(_asked(one.prompt))
        if same is not None:
            raise DataError(
                f"problem {one.problem!r} is to be evaluated on, and asks what problem {same!r} asks, which is to be trained on; "
                "leave one of them out"
            )


def _asked(prompt: Iterable[Message]) -> str:
    parts = (part if isinstance(part, str) else part.digest for message in prompt for part in message.content)
    return folded("\n".join(parts)).casefold()
