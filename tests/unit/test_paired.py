"""Tests at equal compute against enumeration, binomials and hands; the front against every pair of points."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from ponder.scaling.paired import Curve, common_costs, compare, corrected_together, holm, sign_flip
from ponder.scaling.pareto import front


def brute_force(differences):
    """The two-sided sign-flip p-value over all 2**n patterns."""
    seen = abs(sum(differences)) - 1e-12
    flipped = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(total >= seen for total in flipped) / len(flipped)


@pytest.mark.parametrize(
    "differences",
    [[0.5, 0.25, -0.125], [1, 1, 1, -1], [0.1, 0.2, 0.3], [0.3, 0, 0, -0.1, 0.7], [0.5], [0.1, -0.3, 0.2], [0, 0]],
)
def test_few_problems_are_counted_over_all_sign_patterns(differences):
    [p] = sign_flip(differences, seed=0)
    assert p == pytest.approx(brute_force(differences))


def test_differences_of_one_size_give_the_exact_test_of_mcnemar():
    """30 problems only one strategy solves, 14 only the other, 200 both or none: the binomial tail, twice."""
    [p] = sign_flip(np.repeat([1.0, -1.0, 0.0], [30, 14, 200]), seed=0)
    assert p == pytest.approx(2 * sum(comb(44, i) for i in range(15)) / 2**44)
    [both] = sign_flip(np.repeat([0.25, -0.25], [7, 7]), seed=0)
    assert both == 1.0


def test_many_problems_are_drawn_near_the_enumerated_p():
    differences = np.array([0.9, 0.8, 0.35, -0.4, 0.31, 0.22, -0.15, 0.6, 0.55, -0.2, 0.45, 0.11, -0.33])
    [p] = sign_flip(differences, seed=1, draws=20_000)
    assert p == pytest.approx(brute_force(differences.tolist()), rel=0.1)


def test_a_drawn_p_is_never_zero_and_is_drawn_in_pieces_where_memory_is_short(monkeypatch):
    differences = np.random.default_rng(0).random((60, 2)) + np.array([1.0, -0.45])
    p, other = sign_flip(differences, seed=0, draws=1000)
    assert p == 1 / 1001
    monkeypatch.setattr("ponder.scaling.paired.MEMORY", 60 * 90)
    assert sign_flip(differences, seed=0, draws=1000)[0] == p
    assert sign_flip(differences, seed=0, draws=1000)[1] == pytest.approx(other, abs=0.05)


def test_under_the_null_the_test_keeps_its_level():
    noise = np.random.default_rng(0).normal(size=(40, 500))
    assert np.mean(np.array(sign_flip(noise, seed=0, draws=1000)) <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_holm_is_what_a_hand_gives():
    """m = 4: .01 x 4 = .04; .02 x 3 = .06; .03 x 2 = .06; .04 x 1 = .04, lifted to .06."""
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_groups_are_corrected_for_the_comparisons_of_all():
    curves = [Curve("a", np.array([10.0]), np.ones((8, 1))), Curve("b", np.array([10.0]), np.zeros((8, 1)))]
    alone = compare(curves)
    assert alone[0].p == alone[0].holm == 2 / 2**8
    first, second = corrected_together([alone, alone])
    assert first[0].holm == second[0].holm == 4 / 2**8


def test_between_two_sizes_a_curve_is_a_coin_between_them():
    curve = Curve("a", np.array([40.0, 10.0]), np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert curve.at(10).tolist() == [0.0, 0.5]
    assert curve.at(40).tolist() == [1.0, 0.5]
    assert curve.at(25).tolist() == [0.5, 0.5]
    assert curve.at(17.5).tolist() == [0.25, 0.5]
    for outside in (9.9, 40.1):
        with pytest.raises(ValueError, match="was measured from 10 to 40"):
            curve.at(outside)


def test_curves_are_compared_at_round_costs_that_both_cover_and_at_the_most_that_both_spend():
    assert common_costs([30, 700], [90, 3000]) == [100, 200, 500, 700]
    assert common_costs([30, 200], [1, 1000]) == [50, 100, 200]
    assert common_costs([10], [5, 20]) == [10]
    assert common_costs([0.0003, 0.004], [0.001, 1.0]) == pytest.approx([0.001, 0.002, 0.004])
    assert common_costs([1, 2], [3, 4]) == []


def test_a_comparison_has_both_values_their_difference_and_its_interval():
    """On 6 problems a gains what b has not, more with cost: worked by hand."""
    a = Curve("a", np.array([1.0, 2.0]), np.array([[0.0, 1.0]] * 5 + [[0.0, 0.0]]))
    b = Curve("b", np.array([1.0, 4.0]), np.array([[0.0, 0.0]] * 5 + [[1.0, 1.0]]))
    first, last = compare([a, b])
    assert (first.cost, first.a_value, first.b_value) == (1.0, 0.0, pytest.approx(1 / 6))
    assert (last.cost, last.a_value, last.difference.value) == (2.0, pytest.approx(5 / 6), pytest.approx(4 / 6))
    assert last.p == pytest.approx(2 * (1 + 6) / 2**6)
    assert last.holm == pytest.approx(2 * last.p)
    assert last.difference.low < last.difference.value < last.difference.high


def test_comparing_in_pieces_changes_no_number(monkeypatch):
    rng = np.random.default_rng(0)
    curves = [Curve(name, np.array([10.0, 20.0, 50.0]), rng.random((30, 3))) for name in "abcd"]
    whole = compare(curves)
    monkeypatch.setattr("ponder.scaling.paired.TOGETHER", 4)
    assert len(whole) > 12
    pieces = compare(curves)
    assert [(one.a, one.b, one.cost, one.p, one.holm) for one in pieces] == [
        (one.a, one.b, one.cost, one.p, one.holm) for one in whole
    ]
    ends = [[(one.difference.low, one.difference.high) for one in found] for found in (pieces, whole)]
    assert np.allclose(ends[0], ends[1], rtol=0, atol=1e-12)


def test_what_cannot_be_compared_is_said():
    a, b = Curve("a", np.array([1.0]), np.zeros((3, 1))), Curve("b", np.array([1.0]), np.zeros((4, 1)))
    with pytest.raises(ValueError, match=r"curves have \[3, 4\] problems"):
        compare([a, b])
    with pytest.raises(ValueError, match="they must be > 0"):
        Curve("free", np.array([0.0]), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="one cost for each column"):
        Curve("odd", np.array([1.0]), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="finite numbers"):
        sign_flip([[np.nan]], seed=0)


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_point_dominates(seed):
    rng = np.random.default_rng(seed)
    points = list(zip(rng.integers(0, 6, 30).tolist(), rng.integers(0, 6, 30).tolist(), strict=True))
    found = front(*zip(*points, strict=True))
    free = [
        i for i, (cost, value) in enumerate(points)
        if not any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)
    ]  # fmt: skip
    assert sorted(found) == free
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_a_front_takes_finite_points():
    assert front([], []) == []
    with pytest.raises(ValueError, match="one finite cost and value"):
        front([1.0, np.inf], [0.0, 1.0])
