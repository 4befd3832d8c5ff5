"""Laws of training: loss from parameters N and tokens D, and the split of a budget of compute that they say is best.

Fitted to a table of training runs as Hoffmann et al. 2022 (arXiv:2203.15556), section 3.3 (approach 3): Huber's sum over residuals of log loss, the best of a grid
of starts. Intervals resample runs. Deviations: starts are screened by their value before they descend, and the first descent is by least squares; the sum is
minimised and not the mean, whose small numbers end a descent early (Besiroglu et al. 2024, arXiv:2404.10102).

Axes: P runs, G starts, M parameters of a law.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from numpy.typing import ArrayLike

from ponder.errors import UnidentifiedError
from ponder.scaling.bootstrap import Interval
from ponder.scaling.descent import Ints, squares
from ponder.scaling.fit import Curve, Fit, Floats, HeldOut, Parameter, Solve, drawn, fitted, inner, intervals, minimise, outer

__all__ = ["CHINCHILLA", "KAPLAN", "Optimum", "TrainingLaw", "compute_optimal", "fit_training"]

BEND = 1e-3  # Huber's, of residuals of log loss
SCREENED = 40  # starts that descend
SPARE = 2  # runs that a law needs beyond its parameters
HALVINGS = 100  # golden sections of log N: a factor of 1e-20 of its range


@dataclass(frozen=True, slots=True)
class TrainingLaw:
    """A law of loss. curve: (theta, N, D) -> loss in nats per token; starts_G_M: where descents begin."""

    name: str
    formula: str
    parameters: tuple[Parameter, ...]
    curve: Curve = field(repr=False)
    starts_G_M: Floats = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Optimum:
    """What a budget is best spent on: parameters, tokens and the loss they reach, with 95% intervals. flops: of the training."""

    flops: float
    parameters: Interval
    tokens: Interval
    loss: Interval


def fit_training(
    law: TrainingLaw, parameters_P: ArrayLike, tokens_P: ArrayLike, losses_P: ArrayLike, *, seed: int = 0, resamples: int = 200
) -> Fit:
    """Fit a law of loss to training runs; `predict(N, D)` then gives the loss.

    The fit's `held_out` is the same law without the quarter of runs of the most compute (N D), against their losses.

    Args:
        law: `KAPLAN` or `CHINCHILLA`.
        parameters_P: of each run's model, > 0.
        tokens_P: that it was trained on, > 0.
        losses_P: in nats per token, > 0.
        seed: of the bootstrap over runs, >= 0.
        resamples: at least 100.

    Raises:
        UnidentifiedError: too few runs, one size of model or of data only, a parameter or an interval without bound.
        ValueError: columns of different lengths, or a number outside its range.
    """
    table_3_P = np.stack([np.atleast_1d(np.asarray(column, dtype=np.float64)) for column in (parameters_P, tokens_P, losses_P)])
    if table_3_P.ndim != 2 or not (np.isfinite(table_3_P) & (table_3_P > 0)).all():
        raise ValueError(
            f"{law.name}: a run has parameters, tokens and a loss, all finite and > 0; the table has shape {table_3_P.shape}"
        )
    compute_P = table_3_P[0] * table_3_P[1]
    table_3_P = table_3_P[:, np.argsort(compute_P, kind="stable")]
    kept = len(compute_P) - len(compute_P) // 4
    held_out = None
    with suppress(UnidentifiedError):
        early, late = table_3_P[:, :kept], table_3_P[:, kept:]
        best_M, draws_R_M, *_ = drawn(law.name, law.parameters, _huber(law, early), kept, seed=seed, resamples=resamples)
        errors = intervals(law.curve(best_M, late[0], late[1]) - late[2], law.curve(draws_R_M, late[0], late[1]) - late[2])
        held_out = HeldOut(float((early[0] * early[1]).max()), tuple((late[0] * late[1]).tolist()), errors)
    solve = _huber(law, table_3_P)
    rows = len(compute_P)
    return fitted(
        law.name, law.formula, law.parameters, law.curve, solve, rows, seed=seed, resamples=resamples, held_out=held_out
    )


def compute_optimal(fit: Fit, flops: float, *, per: float = 6.0) -> Optimum:
    """The parameters N and tokens D = flops / (per N) of least predicted loss.

    For `CHINCHILLA` this is N = G (flops / 6)^(beta / (alpha + beta)) with G = (alpha A / (beta B))^(1 / (alpha + beta)) (Hoffmann et al. 2022, equation 4); here any law of two
    axes with one valley is searched by golden sections.

    Args:
        fit: of `fit_training`.
        flops: of the training, > per.
        per: FLOPs for each parameter and token; 6 is forward and backward without attention (Kaplan et al. 2020, section 2.1).

    Raises:
        UnidentifiedError: the least loss is at one parameter or at one token.
        ValueError: a number outside its range.
    """
    if not (np.isfinite(flops) and per > 0 and flops > per):
        raise ValueError(f"flops is {flops} and per {per}; it takes more than one parameter and token's worth")
    theta_R_M = np.vstack([fit.values_M, fit.draws_R_M])
    ratio = (5**0.5 - 1) / 2
    top = np.log(flops / per)
    low, high = np.zeros((len(theta_R_M), 1)), np.full((len(theta_R_M), 1), top)

    def loss(log_R_1: Floats) -> Floats:
        return fit.curve(theta_R_M, np.exp(log_R_1), flops / per / np.exp(log_R_1))

    for _ in range(HALVINGS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        first = loss(left) < loss(right)
        low, high = np.where(first, low, left), np.where(first, right, high)
    log_R_1 = (low + high) / 2
    if log_R_1[0, 0] < 1e-6 or log_R_1[0, 0] > top - 1e-6:
        raise UnidentifiedError(
            f"{fit.name}: the loss of {flops:.3g} FLOPs falls to one end; this fit has no best size within them"
        )
    columns = np.exp(log_R_1), flops / per / np.exp(log_R_1), loss(log_R_1)
    size, tokens, least = (intervals(column_R_1[0], column_R_1[1:])[0] for column_R_1 in columns)
    return Optimum(flops, size, tokens, least)


def _huber(law: TrainingLaw, table_3_P: Floats) -> Solve:
    size_P, tokens_P, losses_P = table_3_P
    needed = len(law.parameters) + SPARE
    if len(losses_P) < needed or min(len(np.unique(size_P)), len(np.unique(tokens_P))) < 3:
        raise UnidentifiedError(
            f"{law.name}: {len(losses_P)} runs of {len(np.unique(size_P))} sizes and {len(np.unique(tokens_P))} amounts of data; "
            f"it takes at least {needed} runs, and three of each"
        )

    def residuals(points_A_M: Floats, rows_A: Ints) -> Floats:
        del rows_A
        gaps_A_P: Floats = np.log(law.curve(outer(law.parameters, points_A_M), size_P, tokens_P)) - np.log(losses_P)
        return gaps_A_P

    def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
        huber, fits = squares(residuals, BEND, weights_R_P), len(weights_R_P)
        if start_M is not None:
            return minimise(law.parameters, huber, start_M[None], fits)
        begins_G_M = _screened()
        smooth_R_M = minimise(law.parameters, squares(residuals, weights_R_K=weights_R_P), begins_G_M, fits)
        return minimise(law.parameters, huber, np.vstack([smooth_R_M[~np.isnan(smooth_R_M).any(axis=1)], begins_G_M[:5]]), fits)

    def _screened() -> Floats:
        points_G_M = inner(law.parameters, law.starts_G_M)
        cost_G = np.abs(residuals(points_G_M, np.arange(len(points_G_M)))).sum(axis=1)
        return law.starts_G_M[np.argsort(cost_G, kind="stable")[:SCREENED]]

    return solve


def _chinchilla(theta: Floats, size: Floats, tokens: Floats) -> Floats:
    floor, a, b, alpha, beta = (theta[..., m, None] for m in range(5))
    return floor + a * size**-alpha + b * tokens**-beta


def _kaplan(theta: Floats, size: Floats, tokens: Floats) -> Floats:
    size_c, tokens_c, alpha_n, alpha_d = (theta[..., m, None] for m in range(4))
    return ((size_c / size) ** (alpha_n / alpha_d) + tokens_c / tokens) ** alpha_d


def _grid(*axes: tuple[float, ...]) -> Floats:
    return np.array(list(product(*axes)))


CHINCHILLA = TrainingLaw(
    "Chinchilla",
    "L = E + A / N^alpha + B / D^beta",
    (
        Parameter("E", 1e-4, 100.0),
        Parameter("A", 1e-4, 1e12),
        Parameter("B", 1e-4, 1e12),
        Parameter("alpha", 0.01, 3.0),
        Parameter("beta", 0.01, 3.0),
    ),
    _chinchilla,
    _grid(
        tuple(np.exp([-1.0, -0.5, 0.0, 0.5, 1.0])),
        *[tuple(np.exp(np.arange(0.0, 26.0, 5.0)))] * 2,
        *[(0.1, 0.5, 1.0, 1.5, 2.0)] * 2,
    ),
)
"""Hoffmann et al. 2022 (arXiv:2203.15556), equation 2; their grid of starts, with exponents of .1 for their 0."""

KAPLAN = TrainingLaw(
    "Kaplan",
    "L = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D",
    (
        Parameter("N_c", 1e-3, 1e30),
        Parameter("D_c", 1e-3, 1e30),
        Parameter("alpha_N", 0.003, 3.0),
        Parameter("alpha_D", 0.003, 3.0),
    ),
    _kaplan,
    _grid(*[(1e3, 1e7, 1e11, 1e15)] * 2, *[(0.04, 0.1, 0.3, 0.8)] * 2),
)
"""Kaplan et al. 2020 (arXiv:2001.08361), equation 1.5: nothing is irreducible."""
