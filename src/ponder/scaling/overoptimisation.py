"""Whether choosing harder by a verifier makes answers worse: gold accuracy of best-of-n against how far it moves from the policy.

Best-of-n moves KL = log n - (n - 1) / n away from the policy it draws from. Gao, Schulman and Hilton 2022 (arXiv:2210.10760, section 3.1)
fit the gold score of best-of-n, less that of one sample, as d (alpha - beta d) with d = sqrt(KL): it rises at alpha, and turns at d = alpha / (2 beta).
A fit always has a turn; whether a curve falls at all is another question, and `fall` answers it without a fit. Axes: P problems, K sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, inf, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval, times_drawn

Floats = NDArray[np.float64]


def kl_of_best_of(n: float) -> float:
    """KL(best-of-n || policy) = log n - (n - 1) / n, in nats (Gao et al., section 2.1, after Stiennon et al. 2020, appendix G.3).

    Exact where no two samples have equal scores; an upper bound else (Beirami et al. 2024, arXiv:2401.01879). Raises `ValueError` below n = 1.
    """
    if not n >= 1:
        raise ValueError(f"n is {n}; best-of-n takes at least 1 sample")
    return log(n) - (n - 1) / n


def best_of_with_kl(kl: float) -> float:
    """The n, as a real number, whose best-of-n moves this far; the inverse of `kl_of_best_of`. Raises `ValueError` below 0."""
    if not 0 <= kl < 700:
        raise ValueError(f"kl is {kl}; it lies in [0, 700) nats")
    low, high = 1.0, exp(kl + 1)  # log n - (n - 1) / n > log n - 1
    for _ in range(200):
        middle = sqrt(low * high)
        low, high = (middle, high) if kl_of_best_of(middle) < kl else (low, middle)
    return high


@dataclass(frozen=True, slots=True)
class Overoptimised:
    """The fit d (alpha - beta d) to the gain over one sample, with 95% intervals over problems.

    peak: the n at which the fit turns, inf where it does not (beta <= 0); beyond the largest n it is an extrapolation (`beyond`). fit_K: the
    fitted gain at each n, error: root of its mean squared distance from the measured one.
    """

    alpha: Interval
    beta: Interval
    peak: Interval
    beyond: bool
    fit_K: tuple[float, ...]
    error: float


def fit(gold_P_K: ArrayLike, n_K: Sequence[int], *, seed: int = 0, resamples: int = 1000) -> Overoptimised:
    """Fit gold accuracy (or any gold score) of best-of-n by least squares over the sizes, the gain at n = 1 being 0 by definition.

    Args:
        gold_P_K: gold score of best-of-n by problem, such as `best_of_n_at_k` gives.
        n_K: sizes, rising, the first of them 1, at least three.
        seed: of the bootstrap over problems.
        resamples: at least 100.

    Raises:
        ValueError: a table that does not match, sizes that cannot tell alpha from beta, or resamples below 100.
    """
    gold, sizes = _table(gold_P_K, n_K)
    if len(sizes) < 3 or sizes[0] != 1:
        raise ValueError(f"sizes are {sizes}; to tell a rise from a turn it takes n = 1 and at least two larger ones")
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}; it must be at least 100")
    d_K = np.sqrt([kl_of_best_of(n) for n in sizes[1:]])
    solve = np.linalg.pinv(np.stack([d_K, -(d_K**2)], axis=1))
    gain_P_K = gold[:, 1:] - gold[:, :1]
    ab = solve @ gain_P_K.mean(axis=0)
    ab_R = _resampled(gain_P_K, seed, resamples) @ solve.T
    fitted = np.concatenate([[0.0], d_K * ab[0] - d_K**2 * ab[1]])
    measured = np.concatenate([[0.0], gain_P_K.mean(axis=0)])
    turn = _interval(float(_turn(ab[None])[0]), _turn(ab_R))
    peak = Interval(*(best_of_with_kl(kl) if kl < 700 else inf for kl in (turn.value, turn.low, turn.high)))
    return Overoptimised(
        _interval(ab[0], ab_R[:, 0]),
        _interval(ab[1], ab_R[:, 1]),
        peak,
        peak.value > sizes[-1],
        tuple(map(float, fitted)),
        float(np.sqrt(np.mean((fitted - measured) ** 2))),
    )


@dataclass(frozen=True, slots=True)
class Fall:
    """What the largest size has over the best of the smaller ones, `best`: below 0 where choosing harder makes answers worse."""

    best: int
    gain: Interval

    @property
    def falls(self) -> bool:
        """Whether a fall is established: the interval lies below 0."""
        return self.gain.high < 0


def fall(gold_P_K: ArrayLike, n_K: Sequence[int], *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Fall:
    """Whether gold accuracy at the largest size lies below that of a smaller one.

    The size that looks best was chosen on the problems it is judged on, and in any noise one of many looks better than the last. So the
    interval is simultaneous: at this level it holds for all smaller sizes at once, by the bootstrap of the largest studentised deviation
    (max-t; Romano and Wolf 2005, Econometrica 73:1237). For every search whose cost grows, not only for best-of-n.

    Args:
        gold_P_K: gold score by problem and size.
        n_K: sizes, rising, at least two.
        seed: of the bootstrap over problems.
        resamples: at least 100.
        level: of the simultaneous interval, in (0, 1).

    Raises:
        ValueError: a table that does not match, fewer than 4 problems, or a setting outside its range.
    """
    gold, sizes = _table(gold_P_K, n_K)
    if len(sizes) < 2 or len(gold) < 4:
        raise ValueError(f"{len(gold)} problems and {len(sizes)} sizes show no fall; it takes at least 4 and 2")
    if resamples < 100 or not 0 < level < 1:
        raise ValueError(f"resamples is {resamples} and level {level}; they must be at least 100 and in (0, 1)")
    gain_P_K = gold[:, -1:] - gold[:, :-1]
    mean_K, error_K = gain_P_K.mean(axis=0), gain_P_K.std(axis=0, ddof=1) / sqrt(len(gold))
    told_K = error_K > 0
    off_R_K = np.abs(_resampled(gain_P_K, seed, resamples) - mean_K)[:, told_K] / error_K[told_K]
    width_K = np.quantile(off_R_K.max(axis=1), level) * error_K if told_K.any() else error_K
    best = int(mean_K.argmin())  # the smallest of equally good ones
    return Fall(sizes[best], Interval(float(mean_K[best]), float((mean_K - width_K)[best]), float((mean_K + width_K)[best])))


def _resampled(values_P_K: Floats, seed: int, resamples: int) -> Floats:
    """R x K means of problems drawn with replacement."""
    count = len(values_P_K)
    means: Floats = times_drawn(count, seed=seed, resamples=resamples) @ values_P_K / count
    return means


def _turn(ab_R: Floats) -> Floats:
    """The KL at which d (alpha - beta d) is largest, row by row: 0 where it never rises, inf where it never turns."""
    alpha_R, beta_R = ab_R[:, 0], ab_R[:, 1]
    turns = (alpha_R > 0) & (beta_R > 0)
    kl_R = np.where((alpha_R > 0) | (beta_R < 0), inf, 0.0)
    kl_R[turns] = (alpha_R[turns] / (2 * beta_R[turns])) ** 2
    return kl_R


def _interval(value: float, draws_R: Floats) -> Interval:
    ordered = np.sort(draws_R)  # by rank: a quantile between two infinities is no number
    tail = int(0.025 * len(ordered))
    return Interval(float(value), min(float(value), float(ordered[tail])), max(float(value), float(ordered[-1 - tail])))


def _table(gold_P_K: ArrayLike, n_K: Sequence[int]) -> tuple[Floats, list[int]]:
    gold, sizes = np.asarray(gold_P_K, dtype=np.float64), [int(n) for n in n_K]
    if gold.ndim != 2 or gold.shape[1] != len(sizes) or gold.size == 0 or not np.isfinite(gold).all():
        raise ValueError(f"gold has shape {gold.shape} for {len(sizes)} sizes; it takes a problems x sizes table without holes")
    if sizes[0] < 1 or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"sizes are {sizes}; they must be at least 1 and rise")
    return gold, sizes
