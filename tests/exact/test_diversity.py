"""Diversity against enumeration of all subsets and pairs; the line of gains against points that lie on one."""

from itertools import combinations

import numpy as np
import pytest

from ponder.scaling.diversity import agreement, distinct_at_k, predict_gain

POOL = [["a", "b", "a", None, "c", "a", None], [None] * 7, ["x"] * 7, list("abcdefg")]


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_distinct_names_are_the_mean_over_all_subsets(k):
    for row, found in zip(POOL, distinct_at_k(POOL, [k])[:, 0], strict=True):
        subsets = [len({name for name in subset if name is not None}) for subset in combinations(row, k)]
        assert found == pytest.approx(np.mean(subsets), abs=1e-12)


def test_agreement_is_the_share_of_pairs_and_nothing_agrees_with_no_answer():
    for row, found in zip(POOL, agreement(POOL), strict=True):
        pairs = [a == b and a is not None for a, b in combinations(row, 2)]
        assert found == pytest.approx(np.mean(pairs), abs=1e-12)


def test_agreement_is_unbiased_for_two_fresh_samples():
    rng = np.random.default_rng(0)
    names = rng.choice(3, (5_000, 3), p=[0.5, 0.3, 0.2]).tolist()
    assert agreement(names).mean() == pytest.approx(0.25 + 0.09 + 0.04, abs=0.02)


def test_points_on_a_line_are_predicted_without_error():
    x = np.array([0.1, 0.2, 0.5, 0.7, 0.9])
    found = predict_gain(x, 2 * x + 0.3)
    assert (found.slope.value, found.intercept, found.correlation.value) == pytest.approx((2, 0.3, 1))
    assert (found.correlation.low, found.correlation.high) == pytest.approx((1, 1))
    assert found.held_out == pytest.approx(0, abs=1e-9)
    assert found.predict(0.4) == pytest.approx(1.1)
    assert found.predicts


def test_the_held_out_error_is_that_of_fits_without_each_point():
    rng = np.random.default_rng(1)
    x, y = rng.random(7), rng.random(7)
    missed, flat = [], []
    for i in range(7):
        rest = np.arange(7) != i
        missed.append(y[i] - np.polyval(np.polyfit(x[rest], y[rest], 1), x[i]))
        flat.append(y[i] - y[rest].mean())
    found = predict_gain(x, y)
    assert found.held_out == pytest.approx(np.sqrt(np.mean(np.square(missed))))
    assert found.flat == pytest.approx(np.sqrt(np.mean(np.square(flat))))
    assert found.held_out != pytest.approx(np.std(y - np.polyval(np.polyfit(x, y, 1), x)))


def test_a_line_through_gains_that_go_up_and_down_predicts_nothing():
    assert not predict_gain([1, 2, 3, 4, 5, 6], [1, -1, 1, -1, 1, -1]).predicts


def test_the_interval_of_the_correlation_is_that_of_resampled_methods():
    rng = np.random.default_rng(2)
    x = rng.random(12)
    y = x + 0.3 * rng.standard_normal(12)
    found = predict_gain(x, y, seed=3, resamples=2000).correlation
    other = np.random.default_rng(99)
    drawn = [np.corrcoef(x[at], y[at])[0, 1] for at in other.integers(0, 12, (4000, 12))]
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.05)


def test_gains_that_do_not_differ_are_not_predicted():
    found = predict_gain([0.1, 0.2, 0.3, 0.4], [0.5] * 4)
    assert (found.slope.value, found.correlation.value, found.predicts) == (pytest.approx(0, abs=1e-12), 0.0, False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_at_k([["a"], ["a", "b"]], [1]), r"problems have \[1, 2\] samples"),
        (lambda: distinct_at_k([], [1]), "problems have no samples"),
        (lambda: distinct_at_k(POOL, [8]), "k is 8 but each problem has 7 samples"),
        (lambda: agreement([["a"]]), "draw at least 2"),
        (lambda: predict_gain([1, 2, 3], [1, 2, 3]), "at least 4 methods"),
        (lambda: predict_gain([1, 1, 1, 1], [1, 2, 3, 4]), "tell no slope"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
