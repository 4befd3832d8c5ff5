"""Judged by hand; the first block holds answers that published checkers accept (and must not)."""

import csv
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.graders.countdown import MAX_DEPTH, Check, canonical, check

CASES = [
    # accepted by at least one published checker
    ("5*5", [5, 7, 11, 13], 25, "wrong_numbers"),
    ("5+5=10; 5*5=25", [5, 7, 11, 13], 25, "not_arithmetic"),
    ("2**3", [2, 3], 8, "not_arithmetic"),
    ("2 * * 3", [2, 3], 6, "not_arithmetic"),
    ("7//2", [7, 2], 3, "not_arithmetic"),
    ("3.4*10", [3, 4, 10], 34, "not_arithmetic"),
    ("1.0+2", [1, 0, 2], 3, "not_arithmetic"),
    ("factorial(3)+2", [3, 2], 8, "not_arithmetic"),
    ("3!+2", [3, 2], 8, "not_arithmetic"),
    ("9**9**9", [9, 9, 9], 1, "not_arithmetic"),
    ("__import__('os').getcwd()", [1], 1, "not_arithmetic"),
    # digits
    ("34+1", [3, 4, 1], 35, "wrong_numbers"),
    ("3 4+1", [3, 4, 1], 35, "not_arithmetic"),
    ("03+4", [3, 4], 7, "not_arithmetic"),
    ("0+4", [0, 4], 4, "ok"),
    ("00+4", [0, 0, 4], 4, "not_arithmetic"),
    ("1e2+3", [1, 2, 3], 103, "not_arithmetic"),
    ("1_0+2", [10, 2], 12, "not_arithmetic"),
    ("0x10", [0, 10], 16, "not_arithmetic"),
    ("٣+4", [3, 4], 7, "not_arithmetic"),
    ("\uff13+\uff14", [3, 4], 7, "not_arithmetic"),
    ("3²", [3, 2], 9, "not_arithmetic"),
    # unary signs and implied products
    ("-3+10", [3, 10], 7, "not_arithmetic"),
    ("10+-3", [3, 10], 7, "not_arithmetic"),
    ("10--3", [3, 10], 13, "not_arithmetic"),
    ("(-3)+10", [3, 10], 7, "not_arithmetic"),
    ("+3+10", [3, 10], 13, "not_arithmetic"),
    ("2(3)", [2, 3], 6, "not_arithmetic"),
    ("(2)(3)", [2, 3], 6, "not_arithmetic"),
    ("2 x 3", [2, 3], 6, "not_arithmetic"),
    ("7%4", [7, 4], 3, "not_arithmetic"),
    ("6^1", [6, 1], 6, "not_arithmetic"),
    # the use of numbers
    ("3+4", [3, 4, 5], 7, "wrong_numbers"),
    ("3+4+4", [3, 4], 11, "wrong_numbers"),
    ("3*3", [3, 3], 9, "ok"),
    ("3+6", [3, 3], 9, "wrong_numbers"),
    ("12", [3, 4], 12, "wrong_numbers"),
    ("12", [12], 12, "ok"),
    # values
    ("3*4", [3, 4], 12, "ok"),
    ("3*4", [3, 4], 13, "wrong_value"),
    ("4-3", [3, 4], -1, "wrong_value"),
    ("3-4", [3, 4], -1, "ok"),
    ("8/(3-8/3)", [3, 3, 8, 8], 24, "ok"),
    ("7/2", [7, 2], 3, "wrong_value"),
    ("1/3*3", [1, 3, 3], 1, "ok"),
    ("8-4-2", [8, 4, 2], 2, "ok"),
    ("8-(4-2)", [8, 4, 2], 6, "ok"),
    ("16/4/2", [16, 4, 2], 2, "ok"),
    ("2+3*4", [2, 3, 4], 14, "ok"),
    ("(2+3)*4", [2, 3, 4], 20, "ok"),
    ("3/(2-2)", [2, 2, 3], 1, "division_by_zero"),
    ("0*(3/(2-2))", [0, 2, 2, 3], 0, "division_by_zero"),
    # form
    ("", [3, 4], 7, "empty"),
    (" \n", [3, 4], 7, "empty"),
    (" ( 3 + 4 )\n", [3, 4], 7, "ok"),
    ("((3)+((4)))", [3, 4], 7, "ok"),
    ("(3+4", [3, 4], 7, "not_arithmetic"),
    ("3+4)", [3, 4], 7, "not_arithmetic"),
    ("()", [], 0, "not_arithmetic"),
    ("3+", [3], 3, "not_arithmetic"),
    ("3\u00d74\u22122\u00f71", [1, 2, 3, 4], 10, "ok"),
    ("3+4 is the answer", [3, 4], 7, "not_arithmetic"),
    # the equals sign: one, last, followed by the target
    ("3*4=12", [3, 4], 12, "ok"),
    ("3*4 = 12 ", [3, 4], 12, "ok"),
    ("3*4=13", [3, 4], 12, "wrong_value"),
    ("3*4=13", [3, 4], 13, "wrong_value"),
    ("12=3*4", [3, 4], 12, "not_arithmetic"),
    ("3*4=12=12", [3, 4], 12, "not_arithmetic"),
    ("3*4==12", [3, 4], 12, "not_arithmetic"),
    ("3*4=6+6", [3, 4], 12, "not_arithmetic"),
    ("3*4=", [3, 4], 12, "not_arithmetic"),
    ("=12", [12], 12, "not_arithmetic"),
    ("3-4=-1", [3, 4], -1, "not_arithmetic"),
]


@pytest.mark.parametrize(("expression", "numbers", "target", "reason"), CASES)
def test_judged_case(expression, numbers, target, reason):
    assert check(expression, numbers, target) == Check(reason == "ok", reason)


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(" * 10**6, "too_long"),
        ("1" * 10**6, "too_long"),
        ("(" * 400 + "1" + ")" * 400, "not_arithmetic"),
        ("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH, "ok"),
        ("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1), "not_arithmetic"),
        ("9" * 999, "wrong_numbers"),
        ("9*" * 499 + "9", "wrong_numbers"),
        ("1-" * 499 + "1", "wrong_numbers"),
    ],
)
def test_hostile_input_ends_at_once(expression, reason):
    assert check(expression, [1], 1).reason == reason


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("1+2", "2+1"),
        ("1+2+3", "3+(1+2)"),
        ("(2*3)*4", "4*(3*2)"),
        ("9-3-2", "9-(3+2)"),
        ("9-(3-2)", "2+9-3"),
        ("8/(4/2)", "2*8/4"),
        ("8/4/2", "8/(2*4)"),
        ("(1+2)*(3+4)", "(4+3)*(2+1)"),
        ("10*2+3", "3+(2*10)"),
        ("3*4=12", "4*3"),
        ("3\u00d74", "4 * 3"),
        ("((5))", "5"),
    ],
)
def test_reordered_and_regrouped_expressions_vote_together(left, right):
    assert canonical(left) == canonical(right) is not None


def test_the_canonical_form_reads_well():
    assert canonical("(10 + 2) - (((3 * 2)))") == "2+10-2*3"
    assert canonical("5/((4-1)*2)*(1+0)") == "5*(0+1)/2/(4-1)"


@pytest.mark.parametrize(
    ("left", "right"),
    [("1-2", "2-1"), ("4/2", "2/4"), ("2*(3+4)", "2*3+2*4"), ("1+2", "3"), ("2+2", "2*2"), ("8-(4-2)", "8-4-2")],
)
def test_different_expressions_vote_apart(left, right):
    assert canonical(left) != canonical(right)


@pytest.mark.parametrize("expression", ["", " ", "1/0", "1/(2-2)", "3*4=13", "2**3", "1+", "x", "1" * 2000])
def test_what_is_no_expression_does_not_vote(expression):
    assert canonical(expression) is None


expressions = st.recursive(
    st.integers(0, 12).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=7,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expressions)
@pytest.mark.slow
def test_the_canonical_form_has_the_same_numbers_and_value_and_is_its_own(expression):
    form = canonical(expression)
    if form is None:
        with pytest.raises(ZeroDivisionError):
            eval(expression)  # generated above: digits, operators, parentheses
        return
    # Python's own arithmetic on fractions is the reference.
    wrapped = "".join(f"Fraction({t})" if t.isdigit() else t for t in split(expression))
    value = eval(wrapped)
    numbers = [int(t) for t in split(expression) if t.isdigit()]
    if value.denominator == 1:
        assert check(form, numbers, int(value)).ok
        assert check(expression, numbers, int(value)).ok
        assert not check(expression, numbers, int(value) + 1).ok
    assert canonical(form) == form


def split(expression):
    for sign in "+-*/()":
        expression = expression.replace(sign, f" {sign} ")
    return expression.split()


def solve(items, target):
    """Some expression over all the items, each a (value, text), that reaches the target; None if there is none."""
    if len(items) == 1:
        return items[0][1] if items[0][0] == target else None
    for i, (a, x) in enumerate(items):
        for j, (b, y) in enumerate(items):
            if i == j:
                continue
            rest = [item for index, item in enumerate(items) if index not in (i, j)]
            joined = [(a - b, f"({x}-{y})")] + ([(a / b, f"({x}/{y})")] if b else [])
            if i < j:
                joined += [(a + b, f"({x}+{y})"), (a * b, f"({x}*{y})")]
            for item in joined:
                if (found := solve([*rest, item], target)) is not None:
                    return found
    return None


@pytest.mark.slow
def test_a_solver_s_answers_to_a_hundred_published_puzzles_are_accepted():
    folder = Path(os.environ.get("PONDER_DATA") or Path(__file__).parents[3] / "shared" / "data")
    file = folder / "game24_900_999.csv"
    if not file.is_file():
        pytest.skip("game24_900_999.csv is in neither PONDER_DATA nor ../shared/data")
    with file.open(encoding="utf-8") as lines:
        puzzles = [[int(number) for number in row["Puzzles"].split()] for row in csv.DictReader(lines)]
    assert len(puzzles) == 100
    for numbers in puzzles:
        found = solve([(Fraction(n), str(n)) for n in numbers], 24)
        assert check(found, numbers, 24).ok, (numbers, found)
        assert check(canonical(found), numbers, 24).ok
        assert check(found, numbers, 25).reason == "wrong_value"
        assert check(found, [*numbers[:3], numbers[3] + 1], 24).reason == "wrong_numbers"
