"""Strategies against each other at equal compute: paired over problems, corrected for how many comparisons were made.

A curve is measured at a few sizes, whose costs differ from strategy to strategy. Between two neighbouring sizes a curve is read
linearly in cost. That is no guess: who tosses a coin for each problem between the two sizes spends, and reaches, exactly this.
Beyond what was measured nothing is read.

The p-value is that of the sign-flip test: if two strategies were exchangeable on every problem, each difference would have had
either sign with equal chance (Fisher 1935, The Design of Experiments, section 21). The interval is the bootstrap's over problems. Both take the
coin's chances, which follow from mean costs, as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval, mean_intervals

Floats = NDArray[np.float64]

ENUMERATED = 12
"""With up to so many problems that differ, all sign patterns are counted."""
DRAWS = 10_000
"""Random sign patterns beyond that; the smallest p-value is then 1 / (DRAWS + 1)."""
MEMORY = 1 << 22  # signs held at once (32 MB)
TOGETHER = 2000  # comparisons that are resampled at once (32 MB)


@dataclass(frozen=True, slots=True)
class Curve:
    """What one strategy reaches on each problem at K sizes. costs_K: mean per problem at each size, > 0, in any order."""

    name: str
    costs_K: Floats
    values_P_K: Floats

    def __post_init__(self) -> None:
        if self.values_P_K.ndim != 2 or self.costs_K.shape != self.values_P_K.shape[1:] or self.values_P_K.size == 0:
            raise ValueError(
                f"curve {self.name!r} has costs of shape {self.costs_K.shape} and values of shape {self.values_P_K.shape}; "
                "it takes one cost for each column of a problems x sizes table"
            )
        if not (np.isfinite(self.costs_K).all() and (self.costs_K > 0).all() and np.isfinite(self.values_P_K).all()):
            raise ValueError(f"curve {self.name!r} has costs {self.costs_K.tolist()}; they must be > 0, and all numbers finite")

    def at(self, cost: float) -> Floats:
        """The value on each problem at this mean cost, by a coin between the neighbouring sizes.

        Raises `ValueError` outside the measured range.
        """
        order = np.argsort(self.costs_K, kind="stable")
        costs = self.costs_K[order]
        if not costs[0] <= cost <= costs[-1]:
            raise ValueError(f"curve {self.name!r} was measured from {costs[0]:g} to {costs[-1]:g}, not at {cost:g}")
        right = int(np.searchsorted(costs, cost))
        left = max(0, right - 1)
        share = 0.0 if right == left or costs[right] == costs[left] else (cost - costs[left]) / (costs[right] - costs[left])
        values_P: Floats = (1 - share) * self.values_P_K[:, order[left]] + share * self.values_P_K[:, order[right]]
        return values_P


@dataclass(frozen=True, slots=True)
class Comparison:
    """a - b at one mean cost. p: two-sided sign-flip test; holm: the same, corrected for all comparisons made together."""

    a: str
    b: str
    cost: float
    a_value: float
    b_value: float
    difference: Interval
    p: float
    holm: float


def compare(curves: Sequence[Curve], *, seed: int = 0) -> list[Comparison]:
    """Every two curves at the round costs that both reach; the curves' rows are the same problems in the same order.

    Pairs in order, costs ascending; the corrections count all of them. Raises `ValueError` for curves of different problems.
    """
    if len({len(curve.values_P_K) for curve in curves}) > 1:
        raise ValueError(f"curves have {[len(curve.values_P_K) for curve in curves]} problems; pairs need the same ones")
    asked = [(a, b, cost) for a, b in combinations(curves, 2) for cost in common_costs(a.costs_K, b.costs_K)]
    if not asked:
        return []
    values = [(a.at(cost), b.at(cost)) for a, b, cost in asked]
    differences_P_T = np.stack([a_P - b_P for a_P, b_P in values], axis=1)
    ps: list[float] = []
    intervals: list[Interval] = []
    for start in range(0, len(asked), TOGETHER):  # by the same draws: what is compared together changes nothing
        some_P_T = differences_P_T[:, start : start + TOGETHER]
        ps += sign_flip(some_P_T, seed=seed)
        intervals += mean_intervals(some_P_T, seed=seed, resamples=2000)
    return [
        Comparison(a.name, b.name, cost, float(a_P.mean()), float(b_P.mean()), interval, p, corrected)
        for (a, b, cost), (a_P, b_P), interval, p, corrected in zip(asked, values, intervals, ps, holm(ps), strict=True)
    ]


def corrected_together(groups: Sequence[Sequence[Comparison]]) -> list[list[Comparison]]:
    """The same comparisons, corrected for all groups at once: who reads them all has made them all."""
    adjusted = iter(holm([one.p for group in groups for one in group]))
    return [[replace(one, holm=next(adjusted)) for one in group] for group in groups]


def common_costs(a_K: ArrayLike, b_K: ArrayLike) -> list[float]:
    """Where two curves are compared: at 1, 2 and 5 times powers of ten inside what both cover, and at the most that both spend."""
    a, b = np.asarray(a_K, dtype=np.float64), np.asarray(b_K, dtype=np.float64)
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    if low > high:
        return []
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    rounds = [times * 10.0**power for power in decades for times in (1, 2, 5)]
    return [cost for cost in rounds if low <= cost < 0.95 * high] + [float(high)]


def sign_flip(differences_P_T: ArrayLike, *, seed: int, draws: int = DRAWS) -> list[float]:
    """Two-sided p-values of mean differences of zero: the share of sign patterns with a sum at least as far from zero.

    Exact where all differences of a column have one size (then it is McNemar's exact test) or at most `ENUMERATED` are not zero;
    otherwise over random patterns, the observed one counted among them (Phipson and Smyth 2010), the same for all columns.

    Args:
        differences_P_T: one row per problem, one column per test, finite. A vector is one column.
        seed: of the random patterns, >= 0.
        draws: how many, at least 100.

    Raises:
        ValueError: an empty table, nan or infinity, or a number outside its range.
    """
    table = np.asarray(differences_P_T, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise ValueError(f"differences have shape {table.shape}; a test takes a problems x tests table of finite numbers")
    if draws < 100 or seed < 0:
        raise ValueError(f"draws is {draws} and seed {seed}; they must be at least 100 and 0")
    exact = [_exact(column) for column in table.T]
    left = [t for t, p in enumerate(exact) if p is None]
    drawn = dict(zip(left, _drawn(table[:, left], seed, draws), strict=True))
    return [drawn[t] if p is None else p for t, p in enumerate(exact)]


def holm(p_T: Sequence[float]) -> list[float]:
    """p-values corrected for their number: any may be called significant without the chance of one error passing the level.

    Holm 1979 (Scandinavian Journal of Statistics 6:65): the smallest of m is multiplied by m, the next by m - 1 ..., never below
    the one before, never above 1. No independence is needed.
    """
    adjusted, before = [0.0] * len(p_T), 0.0
    for rank, t in enumerate(sorted(range(len(p_T)), key=lambda t: p_T[t])):
        before = adjusted[t] = min(1.0, max(before, (len(p_T) - rank) * p_T[t]))
    return adjusted


def _exact(difference_P: Floats) -> float | None:
    """The p-value by counting, or None where there are too many patterns."""
    moved = difference_P[difference_P != 0]
    sizes = np.abs(moved)
    if not len(moved):
        return 1.0
    if np.ptp(sizes) <= 1e-12 * sizes.max():
        n, fewer = len(moved), int(min((moved > 0).sum(), (moved < 0).sum()))
        ways = [1]
        for i in range(fewer):
            ways.append(ways[-1] * (n - i) // (i + 1))  # the next binomial coefficient, as `comb` anew is slow for thousands
        return min(1.0, 2 * sum(ways) / (1 << n))
    if len(moved) > ENUMERATED:
        return None
    sums = np.array(list(product((-1.0, 1.0), repeat=len(moved)))) @ sizes
    return float((np.abs(sums) >= _reached(moved)).mean())


def _drawn(table_P_T: Floats, seed: int, draws: int) -> list[float]:
    rng = np.random.default_rng(seed)
    problems, tests = table_P_T.shape
    if not tests:
        return []
    bound_T = np.array([_reached(column) for column in table_P_T.T])
    hits_T = np.ones(tests)
    size = max(1, MEMORY // problems)
    for start in range(0, draws, size):
        here = min(size, draws - start)
        bits = np.unpackbits(np.frombuffer(rng.bytes(here * -(-problems // 8)), np.uint8).reshape(here, -1), axis=1)[:, :problems]
        hits_T += (np.abs((2.0 * bits - 1.0) @ table_P_T) >= bound_T).sum(axis=0)
    return [float(p) for p in hits_T / (draws + 1)]


def _reached(difference_P: Floats) -> float:
    """How far from zero the sum is, less what rounding may add: equal sums must count as equal."""
    return float(abs(difference_P.sum()) - 1e-9 * np.abs(difference_P).sum())
