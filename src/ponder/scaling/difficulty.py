"""How hard a question is for a policy: known from verdicts, or predicted from a few pilot samples without any.

Snell et al. 2024 (arXiv:2408.03314, section 3.2) bin problems into five quantiles of pass@1 (oracle) or of the mean verifier score of the same
samples (predicted) and choose a strategy for each bin. An `Estimator` predicts pass@1 from what `ponder.scaling.card.features` sees of a pilot. It is
fitted where verdicts are known; at a question it reads features alone. A policy card has bins of another kind (`ponder.scaling.allocate`): what
`cross_validate` says of its pilot stands in it as evidence.

Bins count from 0, the easiest, as Snell's levels do from 1. Axes: P problems, F features, N samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import exp, isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import DataError, UsageError
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.calibration import isotonic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Fitter = Callable[[Floats, Floats, Floats], "Estimator"]
"""From features P x F, pass rates P and numbers of graded samples P to an estimator."""

QUANTILES = 5


@dataclass(frozen=True, slots=True)
class Estimator:
    """A prediction of pass@1 from features, and the bins it falls into. Frozen, and nothing but numbers.

    The index of a question is bias + weights . features; its predicted pass@1 ("ease") is the index through the knots (linear between them,
    constant beyond), or through the logistic function where there are none. edges: of the ease, falling: bin 0 has at least edges[0].
    """

    name: str
    features: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    edges: tuple[float, ...]
    knots_x: tuple[float, ...] = ()
    knots_y: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        numbers = (*self.weights, self.bias, *self.edges, *self.knots_x, *self.knots_y)
        falling = all(b < a for a, b in pairwise(self.edges))
        rising = all(b > a for a, b in pairwise(self.knots_x))
        if not self.features or len(self.weights) != len(self.features) or len(self.knots_x) != len(self.knots_y):
            raise DataError(f"estimator {self.name!r}: it takes a weight for each of at least one feature, and knots in pairs")
        if not all(map(isfinite, numbers)) or not falling or not rising:
            raise DataError(f"estimator {self.name!r}: numbers must be finite, edges {list(self.edges)} fall and knots rise")

    @property
    def bins(self) -> int:
        """How many bins there are."""
        return len(self.edges) + 1

    def ease(self, features: Mapping[str, float]) -> float:
        """Predicted pass@1, in [0, 1]. Raises `UsageError` for a feature that is missing."""
        missing = [name for name in self.features if name not in features]
        if missing:
            raise UsageError(
                f"difficulty {self.name!r} needs {', '.join(missing)}; there are {', '.join(sorted(features))} (scores need the verifier it was fitted with)"
            )
        index = self.bias + sum(w * features[name] for w, name in zip(self.weights, self.features, strict=True))
        if self.knots_x:
            return float(np.interp(index, self.knots_x, self.knots_y))
        return 1 / (1 + exp(-max(-500.0, min(500.0, index))))

    def bin(self, features: Mapping[str, float]) -> int:
        """The bin of a question, 0 the easiest. As `ease`."""
        ease = self.ease(features)
        return sum(ease < edge for edge in self.edges)


def edges_of(ease_P: ArrayLike, bins: int = QUANTILES) -> tuple[float, ...]:
    """Falling edges, between values, that cut problems into bins of about equal size.

    Equal values share a bin; one that they leave empty has no edge. Raises `ValueError` for fewer problems than bins.
    """
    ease = np.asarray(ease_P, dtype=np.float64)
    if bins < 2 or ease.ndim != 1 or ease.size < bins or not np.isfinite(ease).all():
        raise ValueError(
            f"{ease.size} problems cannot be cut into {bins} bins; it takes at least 2 bins and a finite number for a problem in each"
        )
    level, place = np.unique(-ease, return_inverse=True)  # rising in -ease: the easiest first
    last = np.sort(place)[
        [round(len(ease) * b / bins) - 1 for b in range(1, bins)]
    ]  # of each bin but the hardest, its hardest value
    return tuple(float(-(level[at] + level[at + 1]) / 2) for at in np.unique(last) if at + 1 < len(level))


def oracle_bins(rate_P: ArrayLike, bins: int = QUANTILES) -> Ints:
    """Snell's oracle difficulty: the quantile of each problem's pass@1, 0 the easiest. rate: from as many samples as there are (they drew 2,048)."""
    rate = np.asarray(rate_P, dtype=np.float64)
    found: Ints = (rate[:, None] < np.array(edges_of(rate, bins))).sum(axis=1)
    return found


def table_of(seen_P: Sequence[Mapping[str, float]], names: Sequence[str]) -> Floats:
    """P x F: the named features of each problem. Raises `UsageError` for a name that one of them does not have."""
    for name in names:
        if any(name not in row for row in seen_P):
            raise UsageError(f"there is no feature {name!r}; pilots have {', '.join(sorted(seen_P[0]))}")
    return np.array([[row[name] for name in names] for row in seen_P])


def isotonic_fit(feature: str, *, falls: bool = False, bins: int = QUANTILES) -> Fitter:
    """Pass@1 as a monotone function of one feature (such as `mean`, or `agreement`): Snell's predicted difficulty, calibrated.

    Pooling adjacent violators, problems weighed by their graded samples. falls: the pass rate falls in the feature (`tokens`).
    """

    def fit(table_P_F: Floats, rate_P: Floats, graded_P: Floats) -> Estimator:
        sign = -1.0 if falls else 1.0
        at, level = np.unique(sign * table_P_F[:, 0], return_inverse=True)
        weight = np.bincount(level, graded_P)
        mean = np.bincount(level, graded_P * rate_P) / weight
        shares = isotonic(mean.tolist(), weight.tolist())
        ease = np.array(shares)[level]
        edges = edges_of(ease, bins)
        return Estimator(f"isotonic({feature})", (feature,), (sign,), 0.0, edges, tuple(at.tolist()), tuple(shares))

    return fit


def logistic_fit(features: Sequence[str], *, ridge: float = 1.0, bins: int = QUANTILES) -> Fitter:
    """Pass@1 by logistic regression of right answers on features: Newton's method on the binomial likelihood.

    Features are scaled to unit spread for the penalty, ridge / 2 times the squared weights, and back. Each problem weighs the same.
    """
    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}; it must be above 0, or features that separate the problems have no best weight")

    def fit(table_P_F: Floats, rate_P: Floats, graded_P: Floats) -> Estimator:
        del graded_P
        centre, spread = table_P_F.mean(axis=0), table_P_F.std(axis=0)
        scaled = (table_P_F - centre) / np.where(spread > 1e-12, spread, 1.0)
        design = np.column_stack([np.ones(len(scaled)), scaled])
        penalty = np.diag([1e-9, *[ridge] * scaled.shape[1]])
        beta = np.zeros(design.shape[1])
        for _ in range(100):
            ease = _logistic(design @ beta)
            gradient = design.T @ (rate_P - ease) - penalty @ beta
            curve = (design * (ease * (1 - ease))[:, None]).T @ design + penalty
            step = np.linalg.solve(curve, gradient)
            beta = beta + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
            if np.abs(step).max() < 1e-9:
                break
        weights = beta[1:] / np.where(spread > 1e-12, spread, 1.0)
        bias = float(beta[0] - weights @ centre)
        edges = edges_of(_logistic(design @ beta), bins)
        name = f"logistic({', '.join(features)})"
        return Estimator(name, tuple(features), tuple(weights.tolist()), bias, edges)

    return fit


@dataclass(frozen=True, slots=True)
class Validation:
    """How well difficulty is predicted for problems that were not fitted on, with 95% intervals over problems.

    ease_P, bin_P: predictions out of fold; those of different folds come from different fits, so rank problems by a feature and not by them.
    error: mean squared distance from the pass rate. gain: how much smaller it is than that of predicting
    the mean of the other folds (above 0: it predicts). same, near: share of problems in the oracle's bin, and at most one from it.
    """

    ease_P: tuple[float, ...]
    bin_P: tuple[int, ...]
    error: Interval
    gain: Interval
    same: Interval
    near: Interval


def cross_validate(
    fit: Fitter,
    table_P_F: ArrayLike,
    rate_P: ArrayLike,
    graded_P: ArrayLike,
    *,
    folds: int = 5,
    seed: int = 0,
    bins: int = QUANTILES,
) -> Validation:
    """Fit on all folds but one, predict that one, in turn. Samples that make the features should not be among those that make the rates.

    Args:
        fit: `isotonic_fit(...)`, `logistic_fit(...)`, or another.
        table_P_F: features, one row a problem.
        rate_P: pass@1 of each, in [0, 1].
        graded_P: from how many samples, > 0.
        folds: at least 2, at most P / bins.
        seed: of the folds and the bootstrap.
        bins: of the oracle's quantiles.

    Raises:
        ValueError: columns that do not match, or too few problems for the folds.
    """
    table, rate, graded = (np.asarray(one, dtype=np.float64) for one in (table_P_F, rate_P, graded_P))
    count = len(table)
    if (
        table.ndim != 2
        or rate.shape != (count,)
        or graded.shape != (count,)
        or not (np.isfinite(table).all() and (graded > 0).all())
    ):
        raise ValueError(
            f"features have shape {table.shape}, rates {rate.shape}, graded {graded.shape}; each problem has a row, a rate and a count above 0"
        )
    if not ((rate >= 0) & (rate <= 1)).all() or not folds >= 2 or count < 2 * folds or count - count // folds < bins:
        raise ValueError(
            f"{count} problems, {folds} folds: rates lie in [0, 1], and it takes at least 2 folds, 2 problems in each and {bins} to fit on"
        )
    fold_P = np.random.default_rng(seed).permutation(count) % folds
    ease, flat, bin_ = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    for fold in range(folds):
        there = fold_P != fold
        estimator = fit(table[there], rate[there], graded[there])
        flat[~there] = rate[there].mean()
        for p in np.flatnonzero(~there):
            row = dict(zip(estimator.features, table[p].tolist(), strict=True))
            ease[p], bin_[p] = estimator.ease(row), estimator.bin(row)
    missed, missed_flat = (ease - rate) ** 2, (flat - rate) ** 2
    off = np.abs(bin_ - oracle_bins(rate, bins))
    error, same, near = mean_intervals(np.column_stack([missed, off == 0, off <= 1]), seed=seed)
    gain = paired_difference(missed_flat, missed, seed=seed)
    return Validation(tuple(ease.tolist()), tuple(bin_.tolist()), error, gain, same, near)


def _logistic(index_P: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(index_P, -500, 500)))
    return found
