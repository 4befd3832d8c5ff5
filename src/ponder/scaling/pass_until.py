"""PassUntil: success rates far below 1 / N by sampling until something passes, and the law by which they grow with the model.

Hu et al. 2023 (arXiv:2310.03262). A pool that stops on success is biased for pass@k (`ponder.scaling.estimators` refuses such data); here the stopping rule is
part of the estimator. Axes: P problems, S model sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import UnidentifiedError
from ponder.scaling.fit import Fit, Floats, HeldOut, Parameter, Solve, fitted, missed

__all__ = ["fit_task_law", "pass_until"]

TASK_LAW = (Parameter("c", 1e-12, 1e30), Parameter("alpha", 1e-3, 10.0))
NAME, FORMULA = "task law", "PU = exp(-c N^-alpha)"
LEAST_SIZES = 3


def pass_until(passes_P: ArrayLike, draws_P: ArrayLike, *, r: int, cap: int | None = None) -> Floats:
    """The chance to pass with one draw, from draws that went on until r of them had passed or `cap` was reached. Unbiased.

    (r - 1) / (K - 1) where the r-th pass was draw K (Haldane 1945, Biometrika 33:222); passes / cap where the cap came first (Girshick, Mosteller and Savage 1946, Annals
    of Mathematical Statistics 17:13). The paper's own r / K is the likelihood's maximum and reads .038 for a true .020 at r = 2.

    Args:
        passes_P: how many passed, in 0..r.
        draws_P: how many were made; `cap` where fewer than r passed.
        r: passes to stop at, at least 2: one pass says nothing unbiased.
        cap: of the draws, at least r; None if every problem was drawn to its end.

    Returns:
        P rates in [0, 1].

    Raises:
        ValueError: counts that this stopping rule cannot have left.
    """
    passes, draws = np.asarray(passes_P), np.asarray(draws_P)
    if (
        passes.ndim != 1
        or passes.size == 0
        or passes.shape != draws.shape
        or passes.dtype.kind not in "iu"
        or draws.dtype.kind not in "iu"
    ):
        raise ValueError(
            f"passes have shape {passes.shape} and draws {draws.shape}; they must be whole numbers, one of each for every problem"
        )
    if r < 2 or (cap is not None and cap < r):
        raise ValueError(f"r is {r} and cap {cap}; r must be at least 2, and the cap at least r")
    stopped = passes == r
    fits = np.where(stopped, (draws >= r) & (draws <= (cap or np.inf)), (passes >= 0) & (passes < r) & (draws == (cap or -1)))
    if not fits.all():
        at = int(np.flatnonzero(~fits)[0])
        raise ValueError(
            f"problem {at} passed {passes[at]} times in {draws[at]} draws; drawing until {r} have passed or {cap} are made leaves no such counts"
        )
    rates: Floats = np.where(stopped, (r - 1) / np.maximum(draws - 1, 1), passes / draws)
    return rates


def fit_task_law(sizes_S: Sequence[float], rates_P_S: ArrayLike, *, seed: int = 0, resamples: int = 200) -> Fit:
    """The growth of a task's mean success rate with the model: log(-log PU) a line in log N (equation 3 of the paper), by least squares.

    The fit's `held_out` leaves out the largest model, where three smaller ones remain.

    Args:
        sizes_S: parameters of each model, > 0 and ascending.
        rates_P_S: rates in [0, 1] of each problem under each model, from `pass_until` or plain means.
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Returns:
        A fit whose `predict` takes numbers of parameters.

    Raises:
        UnidentifiedError: fewer than three sizes, a mean of 0 or 1, no growth, or more than 2.5% of the resamples like that.
        ValueError: arrays of the wrong shape, or numbers outside their range.
    """
    sizes, rates = np.asarray(sizes_S, dtype=np.float64), np.asarray(rates_P_S, dtype=np.float64)
    if rates.ndim != 2 or sizes.shape != rates.shape[1:] or rates.size == 0 or not ((rates >= 0) & (rates <= 1)).all():
        raise ValueError(f"{len(sizes)} sizes and rates of shape {rates.shape}; rates are problems x sizes, each in [0, 1]")
    if not (np.isfinite(sizes).all() and sizes[0] > 0 and (np.diff(sizes) > 0).all()):
        raise ValueError(f"sizes are {sizes.tolist()}; they must be > 0 and ascend")
    if len(sizes) < LEAST_SIZES:
        raise UnidentifiedError(f"{NAME}: {len(sizes)} sizes; a line with something left to contradict it takes {LEAST_SIZES}")
    held_out: HeldOut | None = None
    if len(sizes) > LEAST_SIZES:
        try:
            held_out = missed(
                NAME,
                TASK_LAW,
                _curve,
                _line(sizes[:-1], rates[:, :-1]),
                rates[:, -1:],
                sizes[-1:],
                fitted_to=float(sizes[-2]),
                seed=seed,
                resamples=resamples,
            )
        except UnidentifiedError:
            held_out = None
    solve = _line(sizes, rates)
    return fitted(NAME, FORMULA, TASK_LAW, _curve, solve, len(rates), seed=seed, resamples=resamples, held_out=held_out)


def _curve(theta: Floats, size_K: NDArray[np.float64]) -> Floats:
    c, alpha = theta[..., 0, None], theta[..., 1, None]
    return np.exp(-c * size_K**-alpha)


def _line(sizes_S: Floats, rates_P_S: Floats) -> Solve:
    x_S = np.log(sizes_S)
    middle = x_S.mean()

    def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
        del start_M
        mean_R_S = weights_R_P @ rates_P_S / weights_R_P.sum(axis=1, keepdims=True)
        inside_R = ((mean_R_S > 0) & (mean_R_S < 1)).all(axis=1)
        if not inside_R.any():
            raise UnidentifiedError(
                f"{NAME}: mean rates are {np.round(mean_R_S[0], 4).tolist()}; log(-log 0) and log(-log 1) are no points of a line: "
                "draw until more pass, or leave out the sizes that always or never do"
            )
        y_R_S = np.log(-np.log(np.where(inside_R[:, None], mean_R_S, 0.5)))
        slope_R = (y_R_S - y_R_S.mean(axis=1, keepdims=True)) @ (x_S - middle) / ((x_S - middle) ** 2).sum()
        found_R_M = np.stack([np.exp(y_R_S.mean(axis=1) - slope_R * middle), -slope_R], axis=1)
        return np.where(inside_R[:, None], found_R_M, np.nan)

    return solve
