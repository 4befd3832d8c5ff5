"""Which of two policies covers more, and where that turns: pass@k of both over the same problems, and pass@k with right reasoning.

Yue et al. 2025 (arXiv:2504.13837): a policy trained by reinforcement leads at k = 1 and may be overtaken by its base at large k. Wen et al. 2025 (arXiv:2506.14245)
answer that right answers by wrong reasoning should not count; `cot_pass_at_k` leaves them out. Axes: P problems, N samples, K subset sizes, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval, times_drawn
from ponder.scaling.estimators import pass_at_k
from ponder.scaling.fit import Floats, intervals

__all__ = ["Crossing", "cot_pass_at_k", "crossing"]

TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the lead of `a` over `b` turns.

    Attributes:
        k_K: subset sizes looked at.
        differences: pass@k of a minus that of b at each, paired over problems, 95%.
        k: where the lead first changes sides, between two sizes on a line in log k; None where it does not. `low` is the first size where a resample began with
            the other side, `high` infinity where one never turned.
        share: of the resamples that turn as the whole does, begin with the same side and change within the sizes.
    """

    k_K: tuple[int, ...]
    differences: tuple[Interval, ...]
    k: Interval | None
    share: float

    @property
    def established(self) -> bool:
        """Whether each leads somewhere beyond doubt, the one before the other: an interval of the differences on one side of zero, and a later one on the other.

        Two policies that are alike cross, too, wherever noise has it; `k` alone does not tell them from policies that do.
        """
        sides = [np.sign(one.value) for one in self.differences if one.excludes_zero]
        return any(before != after for before, after in pairwise(sides))


def crossing(a_P_N: ArrayLike, b_P_N: ArrayLike, k_K: Sequence[int], *, seed: int = 0, resamples: int = 1000) -> Crossing:
    """Compare pass@k of two policies on the same problems in the same order; their pools may differ in size.

    Args:
        a_P_N: bool, verdicts of the one, rectangular.
        b_P_N: bool, of the other.
        k_K: ascending subset sizes, at least two, none above the smaller pool.
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Raises:
        ValueError: pools of different problems, or a number outside its range.
    """
    sizes = [int(k) for k in k_K]
    if len(sizes) < 2 or sorted(set(sizes)) != sizes:
        raise ValueError(f"sizes are {sizes}; a crossing lies between two of an ascending row")
    if resamples < 100 or seed < 0:
        raise ValueError(f"resamples is {resamples} and seed {seed}; they must be at least 100 and 0")
    a_P_K, b_P_K = pass_at_k(a_P_N, sizes), pass_at_k(b_P_N, sizes)
    if len(a_P_K) != len(b_P_K):
        raise ValueError(f"a has {len(a_P_K)} problems and b {len(b_P_K)}; they must be the same ones in the same order")
    gaps_P_K = a_P_K - b_P_K
    problems = len(gaps_P_K)
    gaps_R_K = times_drawn(problems, seed=seed, resamples=resamples) @ gaps_P_K / problems
    log_K = np.log(sizes)
    side, at = _turn(gaps_P_K.mean(axis=0), log_K)
    turns = [_turn(gaps_K, log_K) for gaps_K in gaps_R_K]
    found = np.array([where if began == side else -np.inf for began, where in turns])
    k = None
    if np.isfinite(at):
        low, high = np.quantile(found, [TAIL, 1 - TAIL], method="inverted_cdf")
        k = Interval(float(np.exp(at)), float(sizes[0] if low == -np.inf else np.exp(low)), float(np.exp(high)))
    return Crossing(tuple(sizes), intervals(gaps_P_K.mean(axis=0), gaps_R_K), k, float(np.isfinite(found).mean()))


def cot_pass_at_k(correct_P_N: ArrayLike, reasoning_P_N: ArrayLike, k_K: Sequence[int]) -> Floats:
    """CoT-pass@k: the probability that a random size-k subset holds a right answer that was reached by right reasoning (Wen et al. 2025, section 4).

    Args:
        correct_P_N: bool, True where the grader accepts the answer.
        reasoning_P_N: bool, True where the reasoning was judged right; False where it was not judged, which makes the number a lower bound.
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats in [0, 1], at most pass@k.

    Raises:
        ValueError: arrays of different shapes or not of bool, or a k outside 1..N.
    """
    correct, reasoning = np.asarray(correct_P_N), np.asarray(reasoning_P_N)
    if correct.shape != reasoning.shape or reasoning.dtype != np.bool_ or correct.dtype != np.bool_:
        raise ValueError(
            f"correct has shape {correct.shape} and type {correct.dtype}, reasoning {reasoning.shape} and {reasoning.dtype}; "
            "both are bool, problems x samples"
        )
    return pass_at_k(correct & reasoning, k_K)


def _turn(gaps_K: NDArray[np.float64], log_K: NDArray[np.float64]) -> tuple[float, float]:
    """The side that leads first (1, -1; 0 if neither ever does), and log k where the other one takes over; infinity if never.

    Equal sizes belong to the side before them: a lead that shrinks to nothing and comes back has not turned.
    """
    leads = np.flatnonzero(gaps_K)
    if not len(leads):
        return 0.0, np.inf
    side = float(np.sign(gaps_K[leads[0]]))
    for before, after in pairwise(leads):
        if np.sign(gaps_K[after]) != side:
            share = gaps_K[before] / (gaps_K[before] - gaps_K[after])
            return side, float(log_K[before] + share * (log_K[after] - log_K[before]))
    return side, np.inf
