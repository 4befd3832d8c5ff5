"""Laws of coverage: what a pool of few samples says about pass@k far beyond it.

Each law is a value: a curve, its parameters and how it is fitted. Those that are curves alone (`EXPONENTIATED_POWER`, `POWER`, `SIGMOID`) are
drawn through pass@k by least squares and ask nothing of the problems; `BETA_BINOMIAL` says how chances are spread over problems and is fitted to counts
by likelihood, which uses all that the samples have to say. Problem by problem failure is exponential in k, (1 - p)^k; a mean that falls as a power of k is made by
many problems of small p (Schaeffer et al. 2025), which is why the left tail of p decides what a law can foresee.

Input is rectangular, as in `ponder.scaling.estimators`. Axes: P problems, N samples, K subset sizes, M parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import UnidentifiedError
from ponder.scaling.descent import Ints, Objective, squares
from ponder.scaling.estimators import pass_at_k
from ponder.scaling.fit import Curve, Fit, Floats, HeldOut, Parameter, Solve, fitted, minimise, missed, outer

__all__ = [
    "BETA_BINOMIAL",
    "EXPONENTIATED_POWER",
    "LAWS",
    "POWER",
    "SIGMOID",
    "Law",
    "extrapolate",
    "fit_coverage",
    "sizes_between",
]

Bools = NDArray[np.bool_]

LEAST_PROBLEMS = 10  # fewer resample into the same few means again and again
SIZES = 40  # of k, spaced evenly in log k (Brown et al. 2024, appendix C.1)
GAIN = 0.5  # nats by which unequal problems must explain the counts better than equal ones


@dataclass(frozen=True, slots=True)
class Law:
    """A law of coverage. solver: from verdicts P x N to the function that fits weighted problems. least: samples of a problem that it takes."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    curve: Curve = field(repr=False)
    solver: Callable[[Law, Bools], Solve] = field(repr=False)
    least: int


def fit_coverage(law: Law, correct_P_N: ArrayLike, *, seed: int = 0, resamples: int = 200) -> Fit:
    """Fit a law to a pool of samples; `predict(k)` then gives pass@k for any k >= 1.

    The fit's `held_out` is the same law fitted on the first quarter of the samples alone, against pass@k of the whole pool beyond.

    Args:
        law: one of `LAWS`.
        correct_P_N: bool, True where the grader accepts.
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Raises:
        UnidentifiedError: fewer than 10 problems, fewer samples than the law takes, all or none solved, no gain with k, a parameter or an interval
            without bound.
        ValueError: an array that is not P x N, or a setting outside its range.
    """
    correct = _checked(law, correct_P_N)
    problems, n = correct.shape
    held_out = None
    with suppress(UnidentifiedError):
        quarter = n // 4
        if quarter >= law.least:
            held_out = extrapolate(
                law, correct[:, :quarter], correct, sizes_between(quarter + 1, n), seed=seed, resamples=resamples
            )
    solve = law.solver(law, correct)
    return fitted(
        law.name,
        law.formula,
        law.parameters,
        law.curve,
        solve,
        problems,
        seed=seed,
        resamples=resamples,
        held_out=held_out,
    )


def extrapolate(
    law: Law, pilot_P_N: ArrayLike, measured_P_N: ArrayLike, k_K: Sequence[int], *, seed: int = 0, resamples: int = 200
) -> HeldOut:
    """What a law fitted on a pilot predicts, minus pass@k of a larger pool of the same problems in the same order.

    Args:
        law: one of `LAWS`.
        pilot_P_N: bool, what the law sees.
        measured_P_N: bool, the larger pool; it may hold the pilot, better not.
        k_K: subset sizes, each in 1..N of the larger pool.
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Raises:
        UnidentifiedError: as `fit_coverage`, of the pilot.
        ValueError: as `fit_coverage`, or pools of different problems.
    """
    pilot, measured = _checked(law, pilot_P_N), np.asarray(measured_P_N)
    if len(measured) != len(pilot):
        raise ValueError(f"the pilot has {len(pilot)} problems and the larger pool {len(measured)}; they must be the same")
    return missed(
        law.name,
        law.parameters,
        law.curve,
        law.solver(law, pilot),
        pass_at_k(measured, k_K),
        k_K,
        fitted_to=pilot.shape[1],
        seed=seed,
        resamples=resamples,
    )


def sizes_between(least: int, most: int, count: int = SIZES) -> list[int]:
    """At most `count` whole numbers from least to most, both included, evenly spaced in their logarithm."""
    if not 1 <= least <= most:
        raise ValueError(f"sizes from {least} to {most}: they must be 1 or more and ascend")
    return [int(k) for k in np.unique(np.rint(np.geomspace(least, most, count)).astype(np.int64))]


def _checked(law: Law, correct_P_N: ArrayLike) -> Bools:
    """The verdicts, if a law can be told from them at all."""
    raw = np.asarray(correct_P_N)
    if raw.ndim != 2 or raw.size == 0 or raw.dtype != np.bool_:
        raise ValueError(f"correct has shape {raw.shape} and type {raw.dtype}; it must be a problems x samples table of bool")
    correct: Bools = raw.astype(np.bool_)
    problems, n = correct.shape
    if problems < LEAST_PROBLEMS:
        raise UnidentifiedError(f"{law.name}: {problems} problems; an interval over problems takes at least {LEAST_PROBLEMS}")
    if n < law.least:
        raise UnidentifiedError(f"{law.name}: {n} samples of each problem; it takes at least {law.least} to fit")
    return correct


def _least_squares(starts: Callable[[float, float], list[list[float]]]) -> Callable[[Law, Bools], Solve]:
    """Fitting by least squares through pass@k at up to 40 sizes, all of the same weight, as Brown et al. do. starts: from pass@1 and pass@N."""

    def solver(law: Law, correct_P_N: Bools) -> Solve:
        k_K = np.array(sizes_between(1, correct_P_N.shape[1]), dtype=np.float64)
        coverage_P_K = pass_at_k(correct_P_N, [int(k) for k in k_K])

        def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
            coverage_R_K = weights_R_P @ coverage_P_K / weights_R_P.sum(axis=1, keepdims=True)
            grows_R = _grows(law, coverage_R_K[:, 0], coverage_R_K[:, -1])
            begins = starts(float(coverage_R_K[0, 0]), float(coverage_R_K[0, -1])) if start_M is None else [start_M.tolist()]

            def residuals(points_A_M: Floats, rows_A: Ints) -> Floats:
                gaps_A_K: Floats = law.curve(outer(law.parameters, points_A_M), k_K) - coverage_R_K[rows_A]
                return gaps_A_K

            found_R_M = minimise(law.parameters, squares(residuals), begins, len(weights_R_P))
            return np.where(grows_R[:, None], found_R_M, np.nan)

        return solve

    return solver


def _grows(law: Law, first_R: Floats, last_R: Floats) -> Bools:
    """Where coverage grows from k = 1 on; raises, with the reason, if nowhere."""
    grows_R: Bools = last_R - first_R > 1e-9
    if not grows_R.any():
        first, last = float(first_R[0]), float(last_R[0])
        if last <= 0:
            reason = "no sample is right, and coverage of nothing grows by no law: draw more, or easier problems"
        elif first >= 1:
            reason = "every sample is right, and there is nothing left to cover: take harder problems"
        else:
            reason = f"coverage is {first:.3g} at every k, for a problem is solved always or never: draw more samples of each"
        raise UnidentifiedError(f"{law.name}: {reason}")
    return grows_R


def _exponentiated(theta: Floats, k_K: Floats) -> Floats:
    a, b = theta[..., 0, None], theta[..., 1, None]
    return np.exp(a * k_K**b)


def _power(theta: Floats, k_K: Floats) -> Floats:
    floor, a, b = theta[..., 0, None], theta[..., 1, None], theta[..., 2, None]
    return np.clip(1 - floor - a * k_K**-b, 0.0, 1.0)


def _sigmoid(theta: Floats, k_K: Floats) -> Floats:
    ceiling, middle, slope = theta[..., 0, None], theta[..., 1, None], theta[..., 2, None]
    return ceiling / (1 + (middle / k_K) ** slope)


def _beta_binomial(theta: Floats, k_K: Floats) -> Floats:
    from scipy.special import betaln

    alpha, beta = theta[..., 0, None], theta[..., 1, None]
    covered: Floats = -np.expm1(betaln(alpha, beta + k_K) - betaln(alpha, beta))
    return covered


def _by_likelihood(law: Law, correct_P_N: Bools) -> Solve:
    """Maximum likelihood of a beta-binomial for the number of right samples of each problem."""
    from scipy.special import betaln, xlog1py, xlogy

    n = correct_P_N.shape[1]
    right_P = correct_P_N.sum(axis=1)
    count_C = np.unique(right_P)
    member_P_C = (right_P[:, None] == count_C).astype(np.float64)

    def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
        weight_R_C = weights_R_P @ member_P_C
        total_R = weight_R_C.sum(axis=1)
        mean_R = weight_R_C @ count_C / (total_R * n)
        grows_R = _grows(law, mean_R, weight_R_C @ (count_C > 0) / total_R)
        begins = [[s * mean_R[0], s * (1 - mean_R[0])] for s in (0.3, 3.0, 30.0)] if start_M is None else [start_M.tolist()]
        found_R_M = minimise(law.parameters, _likelihood(weight_R_C, count_C, n), begins, len(weights_R_P))
        alpha, beta = found_R_M[:, :1], found_R_M[:, 1:]
        spread_R = (weight_R_C * (betaln(alpha + count_C, beta + n - count_C) - betaln(alpha, beta))).sum(axis=1)
        equal_R = (weight_R_C * (xlogy(count_C, mean_R[:, None]) + xlog1py(n - count_C, -mean_R[:, None]))).sum(axis=1)
        spreads_R = grows_R & (spread_R - equal_R > GAIN)
        if not spreads_R.any() and grows_R[0]:
            raise UnidentifiedError(
                f"{law.name}: the problems differ no more than chance lets them ({mean_R[0]:.3g} right in the mean), so their spread is not identified: "
                "draw more samples of each, or predict 1 - (1 - p)^k"
            )
        return np.where(spreads_R[:, None], found_R_M, np.nan)

    return solve


def _likelihood(weight_R_C: Floats, count_C: Ints, n: int) -> Objective:
    """Minus the log-likelihood in log alpha and log beta, with its slopes and the absolute value of its curvature."""
    from scipy.special import betaln, polygamma, psi

    miss_C = n - count_C

    def objective(points_A_M: Floats, rows_A: Ints) -> tuple[Floats, Floats, Floats]:
        weight = weight_R_C[rows_A]
        alpha, beta = np.exp(points_A_M[:, :1]), np.exp(points_A_M[:, 1:])
        value = (weight * (betaln(alpha + count_C, beta + miss_C) - betaln(alpha, beta))).sum(axis=1)
        both, both2 = psi(alpha + beta) - psi(alpha + beta + n), polygamma(1, alpha + beta) - polygamma(1, alpha + beta + n)
        slopes, bends = [], []
        for one, seen_C in ((alpha, count_C), (beta, miss_C)):
            slopes.append((weight * (psi(one + seen_C) - psi(one) + both)).sum(axis=1))
            bends.append((weight * (polygamma(1, one + seen_C) - polygamma(1, one) + both2)).sum(axis=1))
        a, b, mixed = alpha[:, 0], beta[:, 0], (weight * both2).sum(axis=1)
        gradient = np.stack([a * slopes[0], b * slopes[1]], axis=1)
        cross = a * b * mixed
        curvature = np.array([[a * a * bends[0] + gradient[:, 0], cross], [cross, b * b * bends[1] + gradient[:, 1]]]).transpose(
            2, 0, 1
        )
        size, turn = np.linalg.eigh(curvature)
        return -value, -gradient, turn @ (np.abs(size)[:, :, None] * turn.transpose(0, 2, 1))

    return objective


EXPONENTIATED_POWER = Law(
    "exponentiated power law",
    "c = exp(a k^b)",
    (Parameter("a", -50.0, -1e-6), Parameter("b", -5.0, -1e-3)),
    _exponentiated,
    _least_squares(lambda first, last: [[log(min(max(first, 1e-9), 1 - 1e-6)), b] for b in (-0.2, -0.6, -1.2)]),
    4,
)
"""Brown et al. 2024, Large Language Monkeys (arXiv:2407.21787v3), section 3.1, equation 3, a < 0, b < 0: certain success in the end.

Fitted in the unit of coverage, not of its logarithm."""

POWER = Law(
    "power law with irreducible error",
    "c = 1 - e - a k^-b",
    (Parameter("e", 0.0, 1.0, (0.0,)), Parameter("a", 1e-6, 1.0, (1.0,)), Parameter("b", 1e-3, 5.0)),
    _power,
    _least_squares(
        lambda first, last: [[s * (1 - last), (1 - s) * (1 - first), b] for s in (0.05, 0.7) for b in (0.2, 0.5, 1.2)]
    ),
    5,
)
"""A share e of problems is never solved, the rest fail as a power of k (the form of Henighan et al. 2020, arXiv:2010.14701, equation 1, for error
instead of loss)."""

SIGMOID = Law(
    "sigmoid in log k",
    "c = A / (1 + (m/k)^s)",
    (Parameter("A", 1e-6, 1.0, (1.0,)), Parameter("m", 1e-6, 1e9), Parameter("s", 1e-3, 20.0)),
    _sigmoid,
    _least_squares(
        lambda first, last: [[min(1.0, up * last), m, s] for up in (1.02, 1.5) for m in (1.0, 10.0) for s in (0.4, 1.0)]
    ),
    5,
)
"""Ceiling A, half of it at k = m. The form of Khatri et al. 2025 (arXiv:2510.13786), equation 1, for performance against training compute, with nothing
at k = 0."""

BETA_BINOMIAL = Law(
    "beta-binomial",
    "c = 1 - B(alpha, beta + k) / B(alpha, beta)",
    (Parameter("alpha", 1e-4, 1e6), Parameter("beta", 1e-4, 1e6)),
    _beta_binomial,
    _by_likelihood,
    2,
)
"""Chances of problems are Beta(alpha, beta); far out failure falls as k^-alpha. Kazdan et al. 2025 (arXiv:2510.05197), with as many samples of every problem instead
of their adaptive allocation."""

LAWS = (EXPONENTIATED_POWER, BETA_BINOMIAL, POWER, SIGMOID)
