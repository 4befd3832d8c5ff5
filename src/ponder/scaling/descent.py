"""Many small fits at once: damped Newton steps within edges, one fit a row.

A bootstrap fits one law to hundreds of resamples, and a grid of starts descends from each of them. The fits are alike, so their parameters are the
rows of one array and a step of all of them is a few NumPy calls. Axes: R fits, A of them not finished yet, M parameters, K points.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Objective", "descend", "squares"]

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Objective: TypeAlias = Callable[[Floats, Ints], tuple[Floats, Floats, Floats]]
"""(points_A_M, rows_A) -> value_A, gradient_A_M, curvature_A_M_M of the fits named by their rows; the curvature positive semidefinite."""

LONGEST = 2.0  # of a step in any coordinate: e^2 for one on a logarithmic scale
STILL = 1e-8  # a step that is shorter ends the descent
GAINED = 1e-8  # and so does a bold one that lowers the value by less of itself: Huber's sums end in many small steps
BOLD = 1e-2  # damping up to which a step is bold
STEP = 1e-5  # of central differences


def descend(
    objective: Objective, start_R_M: ArrayLike, low_M: ArrayLike, high_M: ArrayLike, *, steps: int = 300
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """The least value from each start within the edges (Levenberg 1944, Marquardt 1963; edges by projection).

    Args:
        objective: what to make small.
        start_R_M: one start for each fit.
        low_M: lower edges.
        high_M: upper edges.
        steps: at most; a fit that still moves then is not done.

    Returns:
        points_R_M, their values_R, and which are done.
    """
    low, high = np.asarray(low_M, dtype=np.float64), np.asarray(high_M, dtype=np.float64)
    points = np.clip(np.asarray(start_R_M, dtype=np.float64), low, high)
    rows, done = np.arange(len(points)), np.zeros(len(points), np.bool_)
    values, gradients, curvatures = (np.array(part) for part in objective(points, rows))
    damping = np.full(len(points), 1e-3)
    diagonal = np.arange(points.shape[1])
    for _ in range(steps):
        rows = np.flatnonzero(~done)
        if not len(rows):
            break
        here, gradient, matrix = points[rows], gradients[rows], curvatures[rows].copy()
        held = ((here <= low) & (gradient > 0)) | ((here >= high) & (gradient < 0))
        matrix[held[:, :, None] | held[:, None, :]] = 0.0
        scale = matrix[:, diagonal, diagonal]
        scale = np.where(held, 1.0, np.maximum(scale, 1e-12 * (1e-12 + scale.max(axis=1, keepdims=True))))
        matrix[:, diagonal, diagonal] = scale * (1 + damping[rows, None])
        step = -np.linalg.solve(matrix, np.where(held, 0.0, gradient)[:, :, None])[:, :, 0]
        there = np.clip(here + np.clip(step, -LONGEST, LONGEST), low, high)
        value, gradient, matrix = objective(there, rows)
        better = value <= values[rows]  # nan is not
        little = better & (values[rows] - value < GAINED * value) & (damping[rows] < BOLD)
        moved = np.abs(there - here).max(axis=1)
        kept = rows[better]
        points[kept], values[kept], gradients[kept], curvatures[kept] = (
            there[better],
            value[better],
            gradient[better],
            matrix[better],
        )
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-10), damping[rows] * 5)
        done[rows] = (moved < STILL) | little
    return points, values, done & np.isfinite(values)


def squares(residuals: Callable[[Floats, Ints], Floats], bend: float = np.inf, weights_R_K: Floats | None = None) -> Objective:
    """Half the sum of squares of residuals_A_K, or Huber's sum where `bend` is finite: linear beyond it (Huber 1964).

    Slopes are central differences; the curvature is Gauss and Newton's, each residual weighing what Huber's sum gives it, min(1, bend / |r|).
    weights_R_K: how often each residual counts.
    """

    def objective(points_A_M: Floats, rows_A: Ints) -> tuple[Floats, Floats, Floats]:
        at_A_K = residuals(points_A_M, rows_A)
        moves = STEP * np.eye(points_A_M.shape[1])
        slopes_A_K_M = np.stack(
            [(residuals(points_A_M + move, rows_A) - residuals(points_A_M - move, rows_A)) / (2 * STEP) for move in moves], axis=2
        )
        times = 1.0 if weights_R_K is None else weights_R_K[rows_A]
        size = np.abs(at_A_K)
        inside = np.minimum(size, bend)
        cost = times * inside * (size - inside / 2)
        weighted = slopes_A_K_M * (times * np.minimum(1.0, bend / np.maximum(size, 1e-300)))[:, :, None]
        gradient = np.einsum("akm,ak->am", weighted, at_A_K)
        curvature = np.einsum("akm,akl->aml", weighted, slopes_A_K_M)
        return cost.sum(axis=1), gradient, curvature

    return objective
