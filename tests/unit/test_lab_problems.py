"""The lab's problems: solutions are right, splits cannot overlap, and everything follows from the seed."""

from __future__ import annotations

import random
import subprocess
import sys
from fractions import Fraction

import pytest

from ponder.lab.problems import (
    CHAIN_VALUES,
    COUNTDOWN_SIZES,
    COUNTDOWN_TARGETS,
    LARGEST,
    LabProblem,
    countdown_expression,
    draw,
    problems,
    solve_steps,
    split_of,
)

CASES = [("countdown", size) for size in COUNTDOWN_SIZES] + [("chain", size) for size in (2, 3, 11, 20)]


def evaluate(expression: str) -> Fraction:
    """Evaluate + - * / with parentheses exactly, by an obvious recursive descent."""
    tokens = [*expression.replace("(", " ( ").replace(")", " ) ").translate({ord(c): f" {c} " for c in "+-*/"}).split(), ""]

    def atom() -> Fraction:
        token = tokens.pop(0)
        if token != "(":
            return Fraction(int(token))
        value = level("+-")
        assert tokens.pop(0) == ")"
        return value

    def level(operators: str) -> Fraction:
        inner = (lambda: level("*/")) if operators == "+-" else atom
        value = inner()
        while tokens[0] and tokens[0] in operators:
            operator, right = tokens.pop(0), inner()
            value = {
                "+": lambda v, r: v + r,
                "-": lambda v, r: v - r,
                "*": lambda v, r: v * r,
                "/": lambda v, r: v / r,
            }[operator](value, right)
        return value

    value = level("+-")
    assert tokens == [""]
    return value


def numbers_and_target(problem: LabProblem) -> tuple[list[int], int]:
    numbers, target = problem.reference.removeprefix("numbers=").split(";target=")
    return [int(number) for number in numbers.split(",")], int(target)


@pytest.mark.parametrize(("family", "size"), CASES)
def test_a_drawn_solution_is_right_in_every_line(family, size):
    rng = random.Random(1)
    for _ in range(50):
        problem, solution = draw(family, size, rng)
        *steps, last = solution.splitlines()
        assert solution.endswith("\n")
        assert problem.difficulty == size
        assert len(steps) == (size - 1 if family == "countdown" else size)
        for step in steps:
            claim, _, value = step.partition(" left")[0].partition("=")
            assert evaluate(claim) == int(value)
            assert 0 <= int(value) <= LARGEST
        assert last == f"answer: {steps[-1].partition(' left')[0].partition('=')[2]}"


@pytest.mark.parametrize("size", COUNTDOWN_SIZES)
def test_a_countdown_solution_composes_to_an_expression_of_all_its_numbers_that_is_worth_the_target(size):
    rng = random.Random(2)
    for _ in range(200):
        problem, solution = draw("countdown", size, rng)
        numbers, target = numbers_and_target(problem)
        expression = countdown_expression(solution)
        assert expression is not None
        used = sorted(int(n) for n in "".join(c if c.isdigit() else " " for c in expression).split())
        assert (used, evaluate(expression)) == (numbers, target)
        assert target in COUNTDOWN_TARGETS
        assert problem.text == f"countdown {' '.join(map(str, numbers))} make {target}"


def test_the_remaining_numbers_of_a_countdown_step_are_those_not_used_and_the_result():
    problem, solution = draw("countdown", 4, random.Random(3))
    left, _ = numbers_and_target(problem)
    for step in solution.splitlines()[:-1]:
        claim, _, shown = step.partition(" left ")
        operands, _, value = claim.partition("=")
        for operand in "".join(c if c.isdigit() else " " for c in operands).split():
            left.remove(int(operand))
        left = sorted([*left, int(value)])
        assert shown == " ".join(map(str, left))


def test_a_chain_runs_from_left_to_right_and_stays_in_its_range_without_repeating_an_operand():
    problem, solution = draw("chain", 20, random.Random(4))
    operands = "".join(c if c.isdigit() else " " for c in problem.text).split()
    assert len(set(operands)) == 21
    value = operands[0]
    for step in solution.splitlines()[:-1]:
        assert step.startswith(value)
        value = step.partition("=")[2]
        assert int(value) in CHAIN_VALUES
    assert problem.reference == value


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("4*7=28 left 8 28\n28-8=20 left 20\nanswer: 20\n", "(4*7)-8"),
        ("5+5=10 left 10 10\n10*10=100 left 100\nanswer: 100\n", "(5+5)*10"),
        ("2+2=4 left 4 4\n4+4=8 left 8\nanswer: 8\n", "(2+2)+4"),
        ("3+1=5 left 5 9\n9-5=4 left 4\nanswer: 4\n", "9-(3+1)"),
        ("6*6=36\n", "6*6"),
        ("answer: 20\n", None),
        ("", None),
        ("4*7=28 left 8 28\nanswer: 28 left\n", "4*7"),
        ("4*7=28 left 8 28\n8+1=9 left 9\nanswer: 9\n", None),
        ("4*7=28 left 8 28\n28-8=\nanswer: 20\n", None),
        ("4**7=28\n", None),
        ("wait\n4*7=28\n", None),
        ("2.5*4=10\n", None),
    ],
)
def test_steps_compose_by_their_left_hand_sides_and_anything_else_is_none(text, expression):
    assert countdown_expression(text) == expression


@pytest.mark.parametrize(("family", "size"), CASES)
def test_any_problem_can_be_solved_anew_from_its_text(family, size):
    rng = random.Random(5)
    for _ in range(20):
        problem, _ = draw(family, size, rng)
        solution = solve_steps(problem, rng)
        if family == "chain":
            assert solution.endswith(f"answer: {problem.reference}\n")
        else:
            assert evaluate(countdown_expression(solution) or "0") == numbers_and_target(problem)[1]


def test_countdown_solutions_vary():
    problem = LabProblem("countdown", "countdown-0", "countdown 2 3 4 make 24", "numbers=2,3,4;target=24", 3)
    assert len({solve_steps(problem, random.Random(seed)) for seed in range(20)}) >= 3


def test_an_unsolvable_or_unreadable_problem_is_an_error_that_shows_it():
    unsolvable = LabProblem("countdown", "x", "countdown 1 1 1 make 99", "", 3)
    with pytest.raises(ValueError, match=r"^'countdown 1 1 1 make 99' cannot be solved with whole numbers in 0..199$"):
        solve_steps(unsolvable, random.Random(0))
    with pytest.raises(ValueError, match="the form is 'chain 7\\+5\\*3-8'"):
        solve_steps(LabProblem("chain", "x", "chain 7+", "", 2), random.Random(0))


@pytest.mark.parametrize("family", ["countdown", "chain"])
def test_train_and_test_share_no_problem(family):
    train = {problem.text for problem in problems(family, split="train", n=100, seed=0)}
    test = {problem.text for problem in problems(family, split="test", n=100, seed=0)}
    assert len(train) == len(test) == 100
    assert not train & test


def test_every_small_countdown_problem_has_one_split_wherever_it_comes_from():
    rng, splits = random.Random(6), {}
    for _ in range(3000):
        problem, _ = draw("countdown", 3, rng)
        assert splits.setdefault(problem.text, split_of(problem)) == split_of(problem)
    share = sum(split == "test" for split in splits.values()) / len(splits)
    assert 0.08 < share < 0.12


def test_sizes_are_taken_in_turn():
    some = problems("chain", split="train", n=6, seed=0, size=range(5, 8))
    assert [problem.difficulty for problem in some] == [5, 6, 7, 5, 6, 7]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_problems_in_any_process():
    code = "from ponder.lab.problems import *; print([p.id for f in ('countdown', 'chain') for p in problems(f, split='test', n=5, seed=7)])"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": salt, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    here = [p.id for f in ("countdown", "chain") for p in problems(f, split="test", n=5, seed=7)]
    assert seen == {f"{here}\n".encode()}
    assert here != [p.id for f in ("countdown", "chain") for p in problems(f, split="test", n=5, seed=8)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"family": "sudoku"}, "family is 'sudoku'; it must be 'countdown' or 'chain'"),
        ({"split": "dev"}, "split is 'dev'; it must be 'train' or 'test'"),
        ({"n": -1}, "n is -1; it must be at least 0"),
        ({"size": range(2, 5)}, "size of countdown is range(2, 5); it must lie in range(3, 5) and not be empty"),
    ],
)
def test_arguments_outside_their_bounds_are_named(arguments, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        list(problems(**({"family": "countdown", "split": "test", "n": 1, "seed": 0} | arguments)))
    assert str(caught.value) == message
