"""How many tokens a strategy needs for an accuracy, by what a pilot measured, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite

import numpy as np
from numpy.typing import ArrayLike

from ponder.scaling.bootstrap import times_drawn
from ponder.scaling.coverage import BETA_BINOMIAL, fit_coverage

LARGEST = 1 << 20  # samples up to which a law of coverage is followed


@dataclass(frozen=True, slots=True)
class Need:
    """Tokens a question for the target, and samples; inf where it is not reached. low, high: 95% interval over problems.

    reached: share of resampled sets of problems on which it is reached; of a law, whether the lower end of its curve reaches it. best: the highest
    accuracy that was measured.
    """

    tokens: float
    low: float
    high: float
    samples: float
    reached: float
    best: float


def needed(
    values_P_K: ArrayLike, tokens_P_K: ArrayLike, k_K: ArrayLike, target: float, *, seed: int = 0, resamples: int = 1000
) -> Need:
    """The cheapest measured size at which the mean over problems reaches the target; nothing is said of sizes beyond.

    The interval is a percentile bootstrap over problems of that very search, so that it holds the doubt about which size is the first to reach
    it. Resamples that reach the target nowhere count as inf.

    Raises:
        ValueError: tables of different shapes, or a target outside (0, 1].
    """
    values, tokens = np.asarray(values_P_K, np.float64), np.asarray(tokens_P_K, np.float64)
    sizes = np.asarray(k_K, np.float64)
    if values.ndim != 2 or values.size == 0 or tokens.shape != values.shape or sizes.shape != values.shape[1:]:
        raise ValueError(
            f"values has shape {values.shape}, tokens {tokens.shape}, sizes {sizes.shape}; they are problems x sizes, the same, and sizes"
        )
    _check(target)
    drawn = times_drawn(len(values), seed=seed, resamples=resamples) / len(values)
    found_R = _cheapest(drawn @ values, drawn @ tokens, target)
    [whole] = _cheapest(values.mean(axis=0)[None], tokens.mean(axis=0)[None], target)
    ordered = np.sort(found_R)
    low, high = (float(ordered[min(resamples - 1, int(q * resamples))]) for q in (0.025, 0.975))
    at = np.flatnonzero(tokens.mean(axis=0) == whole)
    samples = float(sizes[at[0]]) if at.size else inf
    return Need(float(whole), low, high, samples, float(np.isfinite(found_R).mean()), float(values.mean(axis=0).max()))


def foreseen(correct_P_N: ArrayLike, tokens: float, target: float, *, seed: int = 0) -> Need:
    """Samples, and tokens at so many each, until one of them is right on a share `target` of the questions: beta-binomial coverage, extrapolated.

    Raises:
        UnidentifiedError: the pool does not tell the law's parameters.
        ValueError: a target outside (0, 1], or as `fit_coverage`.
    """
    _check(target)
    fit = fit_coverage(BETA_BINOMIAL, correct_P_N, seed=seed)
    k_K = np.unique(np.round(np.geomspace(1, LARGEST, 400)))
    curve = fit.predict(k_K)
    ends = []
    for line in ([one.value for one in curve], [one.high for one in curve], [one.low for one in curve]):
        at = next((k for k, value in enumerate(line) if value >= target), None)
        ends.append(inf if at is None else float(k_K[at]))
    samples, low, high = ends
    reached = float(np.isfinite(high))
    best = float(np.asarray(correct_P_N).any(axis=1).mean())
    value, least, most = (n * tokens if isfinite(n) else inf for n in (samples, low, high))
    return Need(value, least, most, samples, reached, best)


def _cheapest(values_R_K: np.ndarray, tokens_R_K: np.ndarray, target: float) -> np.ndarray:
    found: np.ndarray = np.where(values_R_K >= target - 1e-12, tokens_R_K, inf).min(axis=1)
    return found


def _check(target: float) -> None:
    if not 0 < target <= 1:
        raise ValueError(f"target is {target}; an accuracy lies above 0 and is at most 1, such as 0.9")
