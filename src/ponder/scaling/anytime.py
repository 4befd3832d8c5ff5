"""How good an answer is while it is still being thought about: the area under accuracy against tokens, and MRT's regrets.

Functions give one number for each problem; means and their intervals are `ponder.scaling.bootstrap`'s business. Axes: P problems, K points of a curve, J episodes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ponder.scaling.fit import Floats

__all__ = ["anytime_area", "cumulative_regret", "normalised_regret", "progress"]


def anytime_area(
    tokens_K: ArrayLike, values_P_K: ArrayLike, limit: float, *, between: Literal["line", "step"] = "line"
) -> Floats:
    """The mean accuracy over all budgets from 0 to `limit` tokens: 1 is a right answer for nothing, 0 none within the limit.

    The curve starts at (0, 0) and stays flat after its last point. "line" joins the points (trapezoids, as MRT does); "step" keeps each value until the next point,
    which is what a run that was cut between them has to show.

    Args:
        tokens_K: of each point, > 0 and ascending; one row for all problems, or P x K.
        values_P_K: accuracy of each problem at each point, in [0, 1].
        limit: tokens, > 0; points beyond count as far as the curve up to the limit depends on them.
        between: two points.

    Returns:
        P areas in [0, 1], divided by the limit.

    Raises:
        ValueError: arrays of the wrong shape, or numbers outside their range.
    """
    values = np.asarray(values_P_K, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"values have shape {values.shape}; it takes a problems x points table of accuracies in [0, 1]")
    tokens = np.asarray(tokens_K, dtype=np.float64)
    if tokens.shape not in (values.shape, values.shape[1:]):
        raise ValueError(
            f"tokens have shape {tokens.shape} and values {values.shape}; it takes one number of tokens for each point"
        )
    tokens = np.broadcast_to(tokens, values.shape)
    if not (np.isfinite(tokens).all() and (tokens[:, 0] > 0).all() and (np.diff(tokens, axis=1) > 0).all()):
        raise ValueError("tokens must be > 0, finite and ascending from point to point")
    if not (np.isfinite(limit) and limit > 0):
        raise ValueError(f"limit is {limit}; it must be > 0")
    x = np.concatenate([np.zeros((len(values), 1)), tokens, np.full((len(values), 1), np.inf)], axis=1)
    y = np.concatenate([np.zeros((len(values), 1)), values, values[:, -1:]], axis=1)
    left, right = np.minimum(x[:, :-1], limit), np.minimum(x[:, 1:], limit)
    if between == "step":
        area_P = ((right - left) * y[:, :-1]).sum(axis=1)
    else:
        width = x[:, 1:] - x[:, :-1]  # the last is infinite, and its slope 0
        slope = (y[:, 1:] - y[:, :-1]) / width
        middle = y[:, :-1] + slope * ((left + right) / 2 - x[:, :-1])
        area_P = ((right - left) * middle).sum(axis=1)
    return np.asarray(area_P / limit, dtype=np.float64)


def normalised_regret(tokens_K: ArrayLike, values_P_K: ArrayLike, limit: float) -> Floats:
    """One minus the anytime area, by lines: what is lost against an answer that is right at once (Qu et al. 2025, MRT, arXiv:2503.07572, analysis).

    The comparator pi*_j is taken as accuracy 1, as in the paper's own analysis, and not as the best policy of j episodes. Arguments as `anytime_area`.
    """
    return 1 - anytime_area(tokens_K, values_P_K, limit)


def cumulative_regret(best_P_J: ArrayLike, forced_P_J: ArrayLike) -> Floats:
    """Delta_k = sum over j < k of J(pi*_j) - J(mu after j episodes), for k = 1..J (MRT, definition of cumulative regret).

    Args:
        best_P_J: success of the best comparator of j episodes, in [0, 1]; a number or one for each episode will do for all problems.
        forced_P_J: success of the policy when it is made to answer after j episodes, j = 0..J-1, in [0, 1].

    Returns:
        P_J regrets, in episodes; negative where the policy beats the comparator.

    Raises:
        ValueError: arrays of the wrong shape, or a number outside [0, 1].
    """
    forced = _successes("forced", forced_P_J)
    best = np.asarray(best_P_J, dtype=np.float64)
    if best.shape not in ((), forced.shape, forced.shape[1:]) or not ((best >= 0) & (best <= 1)).all():
        raise ValueError(f"best has shape {best.shape} and forced {forced.shape}; successes in [0, 1] of the same episodes")
    return np.cumsum(best - forced, axis=1)


def progress(forced_P_J: ArrayLike) -> Floats:
    """r_prg of each episode: what it adds to the success of the policy when it is made to answer (MRT, definition of progress).

    Args:
        forced_P_J: success after j episodes, j = 0..J-1, in [0, 1]; at least two.

    Returns:
        P x (J - 1) differences.

    Raises:
        ValueError: as `cumulative_regret`.
    """
    forced = _successes("forced", forced_P_J)
    if forced.shape[1] < 2:
        raise ValueError("progress is a difference; it takes the success before and after at least one episode")
    return np.diff(forced, axis=1)


def _successes(name: str, values_P_J: ArrayLike) -> Floats:
    values = np.asarray(values_P_J, dtype=np.float64)
    if values.ndim != 2 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"{name} has shape {values.shape}; it takes a problems x episodes table of successes in [0, 1]")
    return values
