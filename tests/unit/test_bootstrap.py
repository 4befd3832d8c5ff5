from itertools import product

import numpy as np
import pytest

from ponder.scaling.bootstrap import Interval, accuracy_intervals, bca_intervals, mean_intervals, paired_difference, wilson


def exhaustive_means(values):
    """Means of all P**P equally likely resamples."""
    return np.array([np.mean(draw) for draw in product(values, repeat=len(values))])


def test_percentile_ends_are_those_of_the_full_bootstrap_distribution():
    values = [0.0, 1.13, 2.41, 5.37, 10.09]
    low, high = np.quantile(exhaustive_means(values), [0.1, 0.9])
    (interval,) = mean_intervals(values, seed=1, resamples=40_000, level=0.8)
    assert interval.value == pytest.approx(3.8)
    assert interval.low == pytest.approx(low, abs=0.15)
    assert interval.high == pytest.approx(high, abs=0.15)


def test_every_resample_draws_as_many_problems_as_there_are():
    (interval,) = mean_intervals(np.full(7, 3.0), seed=0)
    assert interval == Interval(3.0, 3.0, 3.0)


def test_width_of_a_proportion_is_its_binomial_standard_error():
    values = np.repeat([0.0, 1.0], [700, 300])
    (interval,) = mean_intervals(values, seed=0, resamples=4000)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert interval.high - 0.3 == pytest.approx(half, rel=0.06)
    assert 0.3 - interval.low == pytest.approx(half, rel=0.06)


def test_columns_share_their_resamples():
    first = np.random.default_rng(0).random(50)
    table = np.stack([first, first + 1, 2 * first], axis=1)
    a, b, c = mean_intervals(table, seed=3)
    assert b.low - 1 == pytest.approx(a.low)
    assert c.high / 2 == pytest.approx(a.high)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = np.random.default_rng(0).random(50)
    assert mean_intervals(values, seed=3) == mean_intervals(values, seed=3)
    assert mean_intervals(values, seed=3) != mean_intervals(values, seed=4)


def test_memory_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(0).random((40, 2))
    whole = mean_intervals(values, seed=5)
    monkeypatch.setattr("ponder.scaling.bootstrap.MEMORY", 40 * 7)
    chunked = mean_intervals(values, seed=5)
    for left, right in zip(whole, chunked, strict=True):
        assert (left.low, left.high) == pytest.approx((right.low, right.high))


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    difficulty = np.linspace(0, 1, 200)
    better = difficulty + 0.02 + 0.001 * np.sin(np.arange(200))
    paired = paired_difference(better, difficulty, seed=0)
    separate_a, separate_b = mean_intervals(np.stack([better, difficulty], axis=1), seed=0)
    assert paired.excludes_zero
    assert paired.value == pytest.approx(0.02, abs=0.001)
    assert separate_a.low < separate_b.high
    assert not paired_difference(difficulty, difficulty, seed=0).excludes_zero
    assert paired_difference(difficulty, better, seed=0).excludes_zero


def test_bca_of_symmetric_data_is_close_to_percentile():
    values = np.concatenate([np.arange(50.0), -np.arange(50.0)])
    (plain,) = mean_intervals(values, seed=0, resamples=20_000)
    (bca,) = bca_intervals(values, seed=0, resamples=20_000)
    assert bca.low == pytest.approx(plain.low, abs=0.25)
    assert bca.high == pytest.approx(plain.high, abs=0.25)


def test_bca_leans_towards_the_long_tail():
    values = np.repeat([0.0, 1.0, 30.0], [60, 30, 3])
    (plain,) = mean_intervals(values, seed=0, resamples=4000)
    (bca,) = bca_intervals(values, seed=0, resamples=4000)
    assert bca.low > plain.low
    assert bca.high > plain.high


def test_bca_of_one_column_by_its_textbook_formula():
    from statistics import NormalDist

    values = np.array([1.0, 2.0, 2.0, 3.0, 9.0, 14.0])
    means = exhaustive_means(values)
    centre = values.mean()
    leave_one_out = np.array([np.delete(values, i).mean() for i in range(6)])
    pull = leave_one_out.mean() - leave_one_out
    a = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    normal = NormalDist()
    tied = np.isclose(means, centre)
    z0 = normal.inv_cdf(((means < centre) & ~tied).mean() + tied.mean() / 2)
    ends = [normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))) for z in (normal.inv_cdf(0.1), normal.inv_cdf(0.9))]
    low, high = np.quantile(means, ends)
    (interval,) = bca_intervals(values, seed=0, resamples=60_000, level=0.8)
    assert interval.low == pytest.approx(low, abs=0.18)
    assert interval.high == pytest.approx(high, abs=0.18)


def test_bca_counts_ties_half_so_that_a_fair_coin_stays_symmetric():
    (interval,) = bca_intervals([0.0, 1.0] * 5, seed=0, resamples=20_000, level=0.7)
    assert interval.low == pytest.approx(1 - interval.high, abs=0.02)


def test_bca_without_spread_has_no_width():
    (interval,) = bca_intervals([0.1, 0.1, 0.1], seed=0)
    assert interval.low == interval.high == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Wilson's closed form worked by hand with z = 1.959964: (p + z2/2n -+ z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n).
    [(0, 10, 0.0, 0.27754), (10, 10, 0.72246, 1.0), (5, 10, 0.23659, 0.76341), (81, 263, 0.25529, 0.36621)],
)
def test_wilson_interval(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert interval.value == successes / trials
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-5)


def test_wilson_reaches_zero_and_one_exactly():
    assert {wilson(0, n).low for n in range(1, 200)} == {0.0}
    assert {wilson(n, n).high for n in range(1, 200)} == {1.0}


def test_wilson_narrows_with_the_level():
    assert wilson(5, 10, level=0.5).high < wilson(5, 10, level=0.95).high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: mean_intervals([], seed=0), "shape"),
        (lambda: mean_intervals([0.0, np.nan], seed=0), "1 numbers that are not finite"),
        (lambda: mean_intervals([0.0, 1.0], seed=0, resamples=10), "resamples is 10"),
        (lambda: mean_intervals([0.0, 1.0], seed=0, level=95), "level is 95"),
        (lambda: mean_intervals([0.0, 1.0], seed=-1), "seed -1"),
        (lambda: paired_difference([0.0], [0.0, 1.0], seed=0), "same problems"),
        (lambda: wilson(3, 2), "3 of 2"),
        (lambda: wilson(0, 0), "0 of 0"),
        (lambda: wilson(1, 2, level=0.0), "level is 0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_accuracy_without_spread_has_the_width_that_so_many_problems_leave():
    values = np.column_stack([np.zeros(5), np.ones(5), [0, 0, 0, 0, 1], np.full(5, 0.5)])
    none, all_, some, half = accuracy_intervals(values, seed=0)
    assert (none.value, none.low, round(none.high, 3)) == (0.0, 0.0, 0.434)
    assert (all_.value, round(all_.low, 3), all_.high) == (1.0, 0.566, 1.0)
    assert (some, half) == mean_intervals(values, seed=0)[2:]
