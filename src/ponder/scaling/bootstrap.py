"""How sure a mean over problems is: bootstrap over problems for curves and paired differences, Wilson for one proportion.

Problems are resampled, never samples: the question is what another set of problems would have shown. All columns of a
table (subset sizes, strategies) see the same resampled problems, so their intervals are paired. The bootstrap knows
only the problems it was given: when all agree it reports no width at all, where `wilson` still does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MEMORY = 1 << 22  # resampled problem numbers held at once (32 MB)


@dataclass(frozen=True, slots=True)
class Interval:
    """A number and the range it plausibly lies in: low <= high, in the unit of the number."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside: for a difference, that its sign is established at the interval's level."""
        return self.low > 0 or self.high < 0


def mean_intervals(values_P_K: ArrayLike, *, seed: int, resamples: int = 1000, level: float = 0.95) -> tuple[Interval, ...]:
    """The mean over problems of each column, with its percentile bootstrap interval.

    Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3; quantiles interpolate linearly.

    Args:
        values_P_K: one row per problem, one column per subset size or strategy; finite. A vector is one column.
        seed: of the resampling, >= 0; the same numbers give the same intervals.
        resamples: at least 100.
        level: two-sided coverage, in (0, 1).

    Returns:
        K intervals, in the order of the columns.

    Raises:
        ValueError: an empty table, nan or infinity, or a setting outside its range.
    """
    values = _table(values_P_K)
    means_R_K = _resampled_means(values, seed, resamples, level)
    tail = (1 - level) / 2
    low_K, high_K = np.quantile(means_R_K, [tail, 1 - tail], axis=0)
    return _intervals(values, low_K, high_K)


def accuracy_intervals(values_P_K: ArrayLike, *, seed: int, resamples: int = 1000, level: float = 0.95) -> tuple[Interval, ...]:
    """As `mean_intervals`, for values in [0, 1] that are no differences: where all are 0 or all are 1, Wilson's interval over the problems.

    Such a column has no spread to resample, and a bootstrap of no width would promise what so many problems cannot.
    """
    values = _table(values_P_K)
    found = mean_intervals(values, seed=seed, resamples=resamples, level=level)
    first_K, same_K = values[0], np.ptp(values, axis=0) == 0
    return tuple(
        wilson(int(first_K[k]) * len(values), len(values), level=level) if same_K[k] and first_K[k] in (0.0, 1.0) else one
        for k, one in enumerate(found)
    )


def bca_intervals(values_P_K: ArrayLike, *, seed: int, resamples: int = 2000, level: float = 0.95) -> tuple[Interval, ...]:
    """As `mean_intervals`, bias-corrected and accelerated: nearer to its level when problems are few and skewed.

    Efron 1987 (JASA 82:171); Efron and Tibshirani 1993, section 14.3. For a mean the acceleration is a sixth of the
    skewness over the root of P. Half of the resamples equal to the mean count as below it, for means of few distinct
    values tie often. A column without spread has no width.
    """
    values = _table(values_P_K)
    means_R_K = _resampled_means(values, seed, resamples, level)
    centre_K = values.mean(axis=0)
    spread_P_K = values - centre_K
    normal = NormalDist()
    low_K, high_K = centre_K.copy(), centre_K.copy()
    for k in np.flatnonzero(np.ptp(values, axis=0) > 0):
        means_R = means_R_K[:, k]
        tied_R = np.isclose(means_R, centre_K[k], rtol=1e-12, atol=0.0)
        below = float(((means_R < centre_K[k]) & ~tied_R).mean() + tied_R.mean() / 2)
        bias = normal.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
        acceleration = float((spread_P_K[:, k] ** 3).sum() / (6 * (spread_P_K[:, k] ** 2).sum() ** 1.5))
        ends = []
        for tail in ((1 - level) / 2, (1 + level) / 2):
            shifted = bias + normal.inv_cdf(tail)
            ends.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
        low_K[k], high_K[k] = np.quantile(means_R, ends)
    return _intervals(values, low_K, high_K)


def paired_difference(a_P: ArrayLike, b_P: ArrayLike, *, seed: int, resamples: int = 1000, level: float = 0.95) -> Interval:
    """The mean of a - b over the same problems in the same order, with its percentile bootstrap interval.

    Pairing removes the spread of difficulty: two strategies that share a bank differ on few problems.

    Args:
        a_P: one finite number per problem.
        b_P: the other strategy's, of the same length and order.
        seed: of the resampling, >= 0.
        resamples: at least 100.
        level: two-sided coverage, in (0, 1).

    Raises:
        ValueError: vectors of different lengths, or as `mean_intervals`.
    """
    a, b = np.asarray(a_P, dtype=np.float64), np.asarray(b_P, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a has shape {a.shape} and b {b.shape}; a pair is one number each for the same problems")
    return mean_intervals(a - b, seed=seed, resamples=resamples, level=level)[0]


def times_drawn(rows: int, *, seed: int, resamples: int) -> Floats:
    """R x P: how often each row was drawn, with replacement, for statistics that are more than a mean; weights of whole numbers that sum to P.

    Raises `ValueError` for fewer than 100 resamples or a seed below 0.
    """
    if resamples < 100 or seed < 0:
        raise ValueError(f"resamples is {resamples} and seed {seed}; they must be at least 100 and 0")
    return np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), resamples).astype(np.float64)


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """A proportion with the Wilson score interval (Wilson 1927, JASA 22:209), honest at 0 and at 1.

    Args:
        successes: in 0..trials.
        trials: independent ones, at least 1.
        level: two-sided coverage, in (0, 1).

    Raises:
        ValueError: a number outside its range.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no proportion; it takes 0 <= successes <= trials and trials >= 1")
    _check_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / (1 + z * z / trials)
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return Interval(share, low, high)


def _resampled_means(values_P_K: Floats, seed: int, resamples: int, level: float) -> Floats:
    """R x K means of P problems drawn with replacement, all columns by the same draw."""
    _check_level(level)
    if resamples < 100 or seed < 0:
        raise ValueError(f"resamples is {resamples} and seed {seed}; they must be at least 100 and 0")
    problems = len(values_P_K)
    rng = np.random.default_rng(seed)
    chunks = []
    size = max(1, MEMORY // problems)
    for start in range(0, resamples, size):
        here = min(size, resamples - start)
        # How often each problem was drawn: one multinomial row per resample, by counting rather than by category.
        drawn = rng.integers(0, problems, (here, problems)) + np.arange(here)[:, None] * problems
        counts_R_P = np.bincount(drawn.ravel(), minlength=here * problems).reshape(here, problems)
        chunks.append(counts_R_P.astype(np.float64) @ values_P_K / problems)
    return np.concatenate(chunks)


def _table(values: ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(
            f"values has shape {table.shape} with {np.count_nonzero(~np.isfinite(table))} numbers that are not finite; "
            "a mean takes a problems x columns table without holes"
        )
    return table


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; a coverage lies between 0 and 1, such as 0.95")


def _intervals(values_P_K: Floats, low_K: Floats, high_K: Floats) -> tuple[Interval, ...]:
    columns = zip(values_P_K.mean(axis=0), low_K, high_K, strict=True)
    return tuple(Interval(float(value), float(low), float(high)) for value, low, high in columns)
