"""How different the samples of one problem are, and what that says about the gain from drawing more of them.

What is compared are names: canonical answers, derivations, ideas, whatever `Hashable` stands for "the same". Samples without one (truncated,
failed, unparsable) are None: they are never the same as anything and never count as a distinct answer. Axes: P problems, N samples, K subset sizes.

Wang et al. 2024 (PlanSearch, arXiv:2409.03733, section 6) found that the gain of a search over one sample is predicted by the share of pairs of ideas
that differ. `predict_gain` fits that line over methods (or models, or tasks) and says how far it is off for one that it has not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval

Floats = NDArray[np.float64]


def distinct_at_k(names_P_N: Sequence[Sequence[Hashable | None]], k_K: Sequence[int]) -> Floats:
    """Expected number of different names in a random size-k subset: sum over names of 1 - C(N - count, k) / C(N, k), exact.

    Rarefaction (Hurlbert 1971, Ecology 52:577, equation 4).

    Args:
        names_P_N: one name a sample, equal = the same; None for none.
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats, in names.

    Raises:
        ValueError: problems with different numbers of samples, or a k outside 1..N.
    """
    n = _width(names_P_N)
    for k in k_K:
        if not 1 <= k <= n:
            raise ValueError(f"k is {k} but each problem has {n} samples; choose k in 1..{n} or sample more")
    miss_K_C = np.stack([np.concatenate([[1.0], np.cumprod((n - np.arange(n) - k) / (n - np.arange(n)))]) for k in k_K])
    counts = [list(_counts(row).values()) for row in names_P_N]
    return np.array([(1 - miss_K_C[:, one]).sum(axis=1) for one in counts])


def agreement(names_P_N: Sequence[Sequence[Hashable | None]]) -> Floats:
    """The share of the pairs of samples of each problem that have the same name, in [0, 1]: unbiased for the chance that two fresh ones agree.

    1 - agreement is the diversity of PlanSearch. Raises `ValueError` for problems with different numbers of samples, or with one.
    """
    n = _width(names_P_N)
    if n < 2:
        raise ValueError("one sample of a problem agrees with nothing; draw at least 2")
    return np.array([sum(c * (c - 1) for c in _counts(row).values()) / (n * (n - 1)) for row in names_P_N])


@dataclass(frozen=True, slots=True)
class GainLine:
    """gain = intercept + slope x diversity over C methods, with 95% intervals (bootstrap over methods).

    held_out: root mean squared error at a method left out of the fit. flat: the same for predicting the mean of the others; a line that does not beat
    it predicts nothing. correlation: Pearson's; 0 for gains that do not differ.
    """

    slope: Interval
    intercept: float
    correlation: Interval
    held_out: float
    flat: float

    def predict(self, diversity: float) -> float:
        """The gain to expect of a method of this diversity."""
        return self.intercept + self.slope.value * diversity

    @property
    def predicts(self) -> bool:
        """Whether the line beats the mean at methods it has not seen, and its slope's sign is established."""
        return self.held_out < self.flat and self.slope.excludes_zero


def predict_gain(diversity_C: ArrayLike, gain_C: ArrayLike, *, seed: int = 0, resamples: int = 1000) -> GainLine:
    """Fit the gain of methods as a line in their diversity, by least squares.

    Args:
        diversity_C: 1 - agreement of each method (or model, or task), mean over problems.
        gain_C: what the same method gains over one sample, such as pass@k / pass@1 - 1, in any unit.
        seed: of the bootstrap.
        resamples: at least 100.

    Raises:
        ValueError: fewer than 4 methods, columns of different lengths, or methods that are all equally diverse.
    """
    x, y = np.asarray(diversity_C, dtype=np.float64), np.asarray(gain_C, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 4 or not np.isfinite([x, y]).all():
        raise ValueError(
            f"diversity has shape {x.shape} and gain {y.shape}; a line takes one finite number of each for at least 4 methods"
        )
    if np.ptp(x) < 1e-9 or resamples < 100:
        raise ValueError(
            f"diversities span {np.ptp(x):g} and resamples is {resamples}; equally diverse methods tell no slope, and it takes 100"
        )
    slope, intercept = np.polyfit(x, y, 1)
    count = len(x)
    # Leave one out: the residual over 1 - leverage is the error of the fit without that point.
    leverage = 1 / count + (x - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    missed = (y - intercept - slope * x) / np.maximum(1 - leverage, 1e-12)
    flat = (y - y.mean()) * count / (count - 1)
    draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
    spread_R, moved_R = (one[draws] - one[draws].mean(axis=1, keepdims=True) for one in (x, y))
    square_R, across_R = (spread_R**2).sum(axis=1), (spread_R * moved_R).sum(axis=1)
    told = square_R > 1e-12  # a resample of one method alone has no slope
    size_R = np.sqrt(square_R * (moved_R**2).sum(axis=1))
    correlations = across_R[told] / np.maximum(size_R[told], 1e-12)
    return GainLine(
        _around(float(slope), across_R[told] / square_R[told]),
        float(intercept),
        _around(0.0 if np.ptp(y) == 0 else float(np.corrcoef(x, y)[0, 1]), correlations),
        float(np.sqrt(np.mean(missed**2))),
        float(np.sqrt(np.mean(flat**2))),
    )


def _around(value: float, drawn_R: Floats) -> Interval:
    low, high = np.quantile(drawn_R, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def _counts(row: Sequence[Hashable | None]) -> Counter[Hashable]:
    return Counter(name for name in row if name is not None)


def _width(names_P_N: Sequence[Sequence[Hashable | None]]) -> int:
    widths = sorted({len(row) for row in names_P_N})
    if len(widths) != 1 or widths[0] < 1:
        raise ValueError(f"problems have {widths or 'no'} samples; it takes the same number, at least 1, of every problem")
    return widths[0]
