"""From the accuracy of a step to the length of what can be carried out, and back.

Sinha et al. 2025 (arXiv:2509.09677): if every step is right with the same chance p and no error is mended, L steps succeed with p^L, and a success rate s is kept up to
H = ln s / ln p steps. Small gains of a step near 1 are large gains of H. Real models often err more the longer they go on: `fit_steps` shows by how much in `held_out`.
Axes: P problems, N samples, M parameters.
"""

from __future__ import annotations

from contextlib import suppress
from math import exp, inf, log

import numpy as np
from numpy.typing import ArrayLike

from ponder.errors import UnidentifiedError
from ponder.scaling.bootstrap import Interval
from ponder.scaling.descent import Ints
from ponder.scaling.fit import Fit, Floats, HeldOut, Parameter, Solve, drawn, fitted, intervals, minimise

__all__ = ["fit_steps", "fitted_horizon", "horizon", "step_accuracy"]

NAME, FORMULA = "constant step accuracy", "s = (1 - e)^L"
STEPS = (Parameter("e", 1e-9, 0.999),)


def horizon(step: float, success: float = 0.5) -> float:
    """Steps that are all right with chance `success`: ln s / ln p.

    Args:
        step: accuracy p of one step, in (0, 1]; 1 goes on for ever.
        success: s, in (0, 1).

    Raises:
        ValueError: a number outside its range.
    """
    if not 0 < step <= 1 or not 0 < success < 1:
        raise ValueError(f"step is {step} and success {success}; they must lie in (0, 1] and (0, 1)")
    return inf if step == 1 else log(success) / log(step)


def step_accuracy(length: float, success: float = 0.5) -> float:
    """The accuracy of a step that keeps `success` up to `length` steps: s^(1/H).

    Args:
        length: H, > 0.
        success: s, in (0, 1).

    Raises:
        ValueError: a number outside its range.
    """
    if not length > 0 or not 0 < success < 1:
        raise ValueError(f"length is {length} and success {success}; they must be > 0 and in (0, 1)")
    return exp(log(success) / length)


def fit_steps(lengths_P: ArrayLike, correct_P_N: ArrayLike, *, seed: int = 0, resamples: int = 200) -> Fit:
    """The error rate e of a step, by maximum likelihood from whole problems of known length; `predict(L)` gives the success rate at length L.

    The fit's `held_out` has one error: fitted to problems of at most the median length, the mean over all longer ones, said to be at their mean length. Below zero
    errors compound less than the law says, above zero more.

    Args:
        lengths_P: steps of each problem, > 0.
        correct_P_N: bool, True where the grader accepts.
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Raises:
        UnidentifiedError: fewer than 10 problems, all or none solved.
        ValueError: arrays of the wrong shape or type, or numbers outside their range.
    """
    lengths, correct = np.asarray(lengths_P, dtype=np.float64), np.asarray(correct_P_N)
    if correct.ndim != 2 or correct.dtype != np.bool_ or lengths.shape != correct.shape[:1] or not correct.size:
        raise ValueError(
            f"lengths have shape {lengths.shape}, correct {correct.shape} and {correct.dtype}; bool, problems x samples"
        )
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ValueError("every problem has a finite number of steps > 0")
    if len(lengths) < 10:
        raise UnidentifiedError(f"{NAME}: {len(lengths)} problems; an interval over problems takes at least 10")
    right_P = correct.mean(axis=1)
    short_P = lengths <= np.median(lengths)
    held_out = None
    with suppress(UnidentifiedError):
        if not short_P.all():
            held_out = _longer(lengths, right_P, short_P, seed, resamples)
    solve = _likelihood(lengths, right_P)
    return fitted(NAME, FORMULA, STEPS, _curve, solve, len(lengths), seed=seed, resamples=resamples, held_out=held_out)


def fitted_horizon(fit: Fit, success: float = 0.5) -> Interval:
    """The horizon of a fit of `fit_steps`, in steps, with its 95% interval.

    Raises:
        ValueError: a success outside (0, 1), or another law.
    """
    if fit.curve is not _curve:
        raise ValueError(f"{fit.name} has no step accuracy; a horizon is read off a fit of fit_steps")
    horizons_R = np.array([horizon(1 - float(error), success) for error in np.append(fit.values_M, fit.draws_R_M[:, 0])])
    return intervals(horizons_R[:1], horizons_R[1:, None])[0]


def _longer(lengths_P: Floats, right_P: Floats, short_P: np.ndarray, seed: int, resamples: int) -> HeldOut:
    """Mean predicted minus mean measured success over the longer problems; both halves resampled."""
    far_P = ~short_P
    solve = _likelihood(lengths_P, right_P, short_P)
    best_M, draws_R_M, kept_R, weights_R_P = drawn(NAME, STEPS, solve, len(lengths_P), seed=seed, resamples=resamples)
    weights_R_F = weights_R_P[kept_R][:, far_P]
    gaps_R_F = _curve(draws_R_M, lengths_P[far_P]) - right_P[far_P]
    gaps_R = (weights_R_F * gaps_R_F).sum(axis=1) / np.maximum(weights_R_F.sum(axis=1), 1.0)
    mean = np.array([(_curve(best_M, lengths_P[far_P]) - right_P[far_P]).mean()])
    return HeldOut(float(lengths_P[short_P].max()), (float(lengths_P[far_P].mean()),), intervals(mean, gaps_R[:, None]))


def _curve(theta: Floats, length_K: Floats) -> Floats:
    return np.exp(length_K * np.log1p(-theta[..., 0, None]))


def _likelihood(lengths_P: Floats, right_P: Floats, seen_P: ArrayLike = True) -> Solve:
    """Scoring in log e (Fisher's information for the curvature), over the problems that are seen."""
    seen = np.broadcast_to(np.asarray(seen_P), lengths_P.shape).astype(np.float64)

    def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
        weights_R_P = weights_R_P * seen
        mean_R = (weights_R_P @ right_P) / np.maximum(weights_R_P.sum(axis=1), 1.0)
        inside_R = (mean_R > 0) & (mean_R < 1)
        if not inside_R.any():
            every = "every" if mean_R[0] >= 1 else "no"
            raise UnidentifiedError(
                f"{NAME}: {every} sample is right, which bounds the error of a step on one side only; take other lengths"
            )

        def objective(points_A_M: Floats, rows_A: Ints) -> tuple[Floats, Floats, Floats]:
            error_A_1 = np.exp(points_A_M)
            logs = lengths_P * np.log1p(-error_A_1)
            rate, fail = np.exp(logs), np.maximum(-np.expm1(logs), 1e-300)
            slope = -lengths_P * error_A_1 / (1 - error_A_1) * rate
            weight = weights_R_P[rows_A]
            value = -(weight * (right_P * logs + (1 - right_P) * np.log(fail))).sum(axis=1)
            information = np.maximum(rate * fail, 1e-300)
            gradient = -(weight * (right_P - rate) / information * slope).sum(axis=1)
            curvature = (weight * slope**2 / information).sum(axis=1)
            return value, gradient[:, None], curvature[:, None, None]

        begin = -log(max(min(float(mean_R[0]), 1 - 1e-9), 1e-9)) / float(lengths_P.mean())
        starts = [[min(max(-np.expm1(-begin), 1e-6), 0.9)]] if start_M is None else [start_M.tolist()]
        return np.where(inside_R[:, None], minimise(STEPS, objective, starts, len(weights_R_P)), np.nan)

    return solve
