"""What a program prints against what it should: the comparison, and the verdicts of whole programs."""

import asyncio
import contextlib
from decimal import Decimal

import pytest
from fake_sandbox import FakeSandbox

from ponder.graders.stdio import StdioGrader, Trials, same_output
from ponder.sandbox.core import Handle, Reply
from ponder.types import Problem, Question


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("3\n", "3"),
        ("3", "3\n\n"),
        ("1 2  \n3\n", "1 2\n3\n"),
        ("1\t2", "1 2"),
        ("1\r\n2\r\n", "1\n2\n"),
        ("", "\n"),
        ("0.3333333", "0.33333333333"),
        ("1000000.0005", "1000000.0"),
        ("1", "1.0"),
        ("1e-7", "0.0"),
        ("YES 2.50", "YES 2.5"),
    ],
)
def test_the_same_output(printed, expected):
    assert same_output(printed, expected)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("4", "3"),
        ("1.0", "1"),  # an integer was asked for
        ("1\n\n2", "1\n2"),
        ("1 2", "1\n2"),
        ("1 2 3", "1 2"),
        ("1", "1 2"),
        ("\n3", "3"),
        ("yes", "YES"),
        ("0.334", "0.333"),
        ("nan", "0.5"),
        ("inf", "1.5"),
        ("0x1.8p0", "1.5"),
        ("1_0.5", "10.5"),
        ("", "0.0"),
        ("", "3"),
    ],
)
def test_another_output(printed, expected):
    assert not same_output(printed, expected)


def graded(trials, *texts, sandbox=None, **how):
    grader = StdioGrader(sandbox=sandbox or FakeSandbox(), **how)
    return asyncio.run(grader.grade(Problem(Question("q", ()), trials.packed()), [None] * len(texts), texts))


ADD = Trials((("1 2\n", "3"), ("5 6\n", "11")))


def test_a_program_passes_every_test_or_says_which_it_failed_and_how():
    right, wrong, torn, raises, hangs, none = graded(
        ADD,
        "```python\nprint(sum(map(int, input().split())))\n```",
        "```python\ninput(); print(3)\n```",
        "```python\nprint(\n```",
        "```python\nprint(1 // 0, input())\n```",
        "```python\ninput(); hang()\n```",
        "No.",
    )
    assert right.correct
    assert [verdict.reason for verdict in (wrong, hangs, none)] == ["test 2: different", "test 1: timeout", "no_program"]
    assert torn.reason.startswith("test 1: error SyntaxError")
    assert raises.reason.startswith("test 1: error ZeroDivisionError")


def test_each_test_has_a_process_of_its_own_up_to_the_first_failure():
    sandbox = FakeSandbox()
    graded(ADD, "```python\nprint(sum(map(int, input().split())))\n```", "```python\ninput(); print(0)\n```", sandbox=sandbox)
    assert len(sandbox.opened) == 3


def test_a_program_that_exits_early_is_judged_by_what_it_printed_and_how_it_ended():
    [verdict] = graded(ADD, "```python\nimport sys\ninput()\nsys.exit(0)\n```")
    assert not verdict.correct


METHOD = Trials((("2\n[1, 2]", "[2, 4]"), ('"a"\n[0.1]', "[0.30000000001]")), "Solution().scale")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return tuple(k * x for x in xs) if k == 2 else [0.3]", ""),
        ("return [2, 4]", "test 2: different"),
        ("return {2: 4}", "test 1: different"),
        ("return None", "test 1: different"),
        ("return [2, 4, 6]", "test 1: different"),
        ("return [[2], [4]]", "test 1: different"),
        ("return object()", "test 1: different"),
        ("return 1 / 0", "test 1: error ZeroDivisionError division by zero"),
        ("return [Counter(xs)[1] * 2, 4] if k == 2 else [0.3]", ""),  # what puzzles take for imported is there
    ],
)
def test_a_function_is_called_and_its_value_compared(body, reason):
    [verdict] = graded(METHOD, f"```python\nclass Solution:\n    def scale(self, k, xs):\n        {body}\n```")
    assert verdict.reason == reason
    assert verdict.correct is (reason == "")


ODD = Trials((("1", '{"a": [1, 0.5]}'), ("2", "1"), ("3", "null")), "f")


@pytest.mark.parametrize(
    ("first", "second", "third", "reason"),
    [
        ("{'a': (1, 0.5000000001)}", "True", "None", ""),
        ("{'a': [1, 10 ** 400]}", "1", "None", "test 1: different"),
        ("{'a': [1, Decimal('0.5')]}", "1", "None", "test 1: different"),
        ("{'a': [1, 0.5], 'b': object()}", "1", "None", "test 1: different"),
        ("{'a': object()}", "1", "None", "test 1: different"),
        ("{'a': [1, 0.5]}", "Decimal(1)", "None", "test 2: different"),
        ("{'a': [1, 0.5]}", "Fraction(1)", "None", "test 2: different"),
        ("{'a': [1, 0.5]}", "1 + 0j", "None", "test 2: different"),
        ("{'a': [1, 0.5]}", "f", "None", "test 2: different"),
        ("{'a': [1, 0.5]}", "1", "f", "test 3: different"),
        ("{'a': [1, 0.5]}", "1", "0", "test 3: different"),
    ],
)
def test_what_json_has_no_word_for_equals_nothing(first, second, third, reason):
    code = (
        f"from decimal import Decimal\nfrom fractions import Fraction\ndef f(k):\n    return [{first}, {second}, {third}][k - 1]"
    )
    [verdict] = graded(ODD, f"```python\n{code}\n```")
    assert (verdict.reason, verdict.correct) == (reason, reason == "")


class Told:
    """A sandbox in which every call gives one value."""

    tier = "told"

    def __init__(self, value):
        self.value = value

    def open(self, source, limits):
        return contextlib.nullcontext(self)

    def call(self, call):
        return Reply(self.value)


@pytest.mark.parametrize("wanted", ["1", "0.5", '"1"', "null", "true", "[1]", '{"a": 1}'])
@pytest.mark.parametrize("odd", [Decimal("sNaN"), Decimal("1e9999"), float("nan"), Handle(1), b"1", {1}, 10**4000])
def test_a_comparison_never_raises(wanted, odd):
    for value in (odd, [odd], {"a": odd}):
        [verdict] = graded(Trials((("", wanted),), "f"), "```python\ndef f(): ...\n```", sandbox=Told(value))
        assert verdict.reason == "test 1: different"


def test_future_imports_stay_first_under_the_preamble():
    code = "from __future__ import annotations\nclass Solution:\n    def scale(self, k, xs):\n        return [2, 4] if k == 2 else [0.3]"
    assert graded(METHOD, f"```python\n{code}\n```")[0].correct


def test_the_longer_time_limit_holds():
    seen = []

    class Watched(FakeSandbox):
        def run(self, source, inputs, limits):
            seen.append(limits.seconds)
            return super().run(source, inputs, limits)

    for seconds in (0.0, 10.0):
        graded(Trials(ADD.pairs, seconds=seconds), "```python\ninput()\n```", sandbox=Watched(), seconds=6.0)
    assert seen == [6.0, 10.0]
    assert StdioGrader().version == "stdio-2/6s/512MiB"
