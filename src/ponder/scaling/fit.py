"""What every law is once it is fitted: parameters and predictions with intervals, how wrong it was beyond what it saw, or a refusal.

A law is a curve with a few parameters. Its interval comes from fitting it again to resampled rows (problems; for laws of training,
models), so a prediction's interval says what other rows would have predicted if the law held. It cannot know whether the law holds:
`held_out` shows that, by fitting on the short end and looking at the rest.

A fit that the data cannot identify is refused (`UnidentifiedError`): a parameter at the edge of where it is looked for, or more resamples without a
fit than the interval leaves out. Axes: P rows, K points, M parameters, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.errors import UnidentifiedError
from ponder.scaling.bootstrap import Interval, times_drawn
from ponder.scaling.descent import Objective, descend
from ponder.scaling.figure import Series

__all__ = [
    "Curve",
    "Fit",
    "HeldOut",
    "Parameter",
    "Solve",
    "drawn",
    "fitted",
    "inner",
    "intervals",
    "minimise",
    "missed",
    "outer",
]

Floats: TypeAlias = NDArray[np.float64]
Curve: TypeAlias = Callable[..., Floats]
"""(parameters_..._M, *axes_K) -> values_..._K."""
Solve: TypeAlias = Callable[[Floats, Floats | None], Floats]
"""(weights_R_P, start_M or None for its own starts) -> parameters_R_M of each weighting of the rows, nan where it identifies nothing.

Raises `UnidentifiedError`, with the reason, where none of them does.
"""

LEVEL = 0.95
EDGE = 0.01  # a parameter within a hundredth of an edge, relative to it, is at it


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter and where it is looked for.

    Edges of one sign are searched on a logarithmic scale. An edge among `answers` is a value it may truly have (a floor of 0, a ceiling of 1); a
    fit that ends at any other edge has found nothing.
    """

    name: str
    low: float
    high: float
    answers: tuple[float, ...] = ()

    @property
    def logarithmic(self) -> bool:
        """Whether it is searched on a logarithmic scale."""
        return self.low * self.high > 0

    def lost(self, values_R: ArrayLike) -> NDArray[np.bool_]:
        """Which values lie at an edge that is no answer, or beyond it."""
        values = np.asarray(values_R, dtype=np.float64)
        low = -np.inf if self.low in self.answers else self.low + EDGE * abs(self.low)
        high = np.inf if self.high in self.answers else self.high - EDGE * abs(self.high)
        beyond: NDArray[np.bool_] = np.asarray((values <= low) | (values >= high))
        return beyond

    def check(self, value: float, law: str) -> None:
        """Raise `UnidentifiedError` for a value at an edge that is no answer."""
        if self.lost(value):
            raise UnidentifiedError(
                f"{law}: {self.name} = {value:.3g} ended at the edge of {self.low:g}..{self.high:g}; the data do not bound it: "
                "give more problems or larger k, or take a law with fewer parameters"
            )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How wrong a law was beyond what it was fitted on: predicted minus measured at each point, with intervals over rows.

    fitted_to: the largest x that the fit saw. at: points beyond. errors: one for each, in the unit of the law. The fit and the measurement are resampled
    together, so an interval holds the noise of both.
    """

    fitted_to: float
    at: tuple[float, ...]
    errors: tuple[Interval, ...]

    @property
    def worst(self) -> float:
        """The largest distance of a prediction from what was measured."""
        return max(abs(one.value) for one in self.errors)


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted law.

    Attributes:
        name: of the law.
        formula: with the names of the parameters.
        parameters: each with its 95% percentile interval.
        rows: how many were fitted and resampled: problems, or models.
        lost: share of resamples that identified nothing and are in no interval, at most 2.5%.
        held_out: None where the short end alone identifies nothing.
        curve: the law itself.
        draws_R_M: parameters of each resample; of two fits on the same rows with the same seed, draw by draw of the same rows where `lost` is 0.
    """

    name: str
    formula: str
    parameters: Mapping[str, Interval]
    rows: int
    lost: float
    held_out: HeldOut | None
    curve: Curve = field(repr=False)
    draws_R_M: Floats = field(repr=False, compare=False)

    @property
    def values_M(self) -> Floats:
        """The parameters as fitted to all rows."""
        return np.array([one.value for one in self.parameters.values()])

    def predict(self, *axes_K: ArrayLike) -> tuple[Interval, ...]:
        """The law's value at each point, with its 95% percentile interval.

        Args:
            axes_K: as many as the law has: subset sizes, or parameters and tokens.

        Raises:
            ValueError: a number that is not > 0, or none.
        """
        axes = [np.atleast_1d(np.asarray(axis, dtype=np.float64)) for axis in axes_K]
        if not axes or any(axis.ndim != 1 or axis.size == 0 or not (np.isfinite(axis) & (axis > 0)).all() for axis in axes):
            raise ValueError(f"{self.name}: cannot predict at {axes_K}; each axis takes one number or a list, finite and > 0")
        return intervals(self.curve(self.values_M, *axes), self.curve(self.draws_R_M, *axes))

    def series(self, xs: Sequence[float], name: str = "") -> Series:
        """The prediction along an ascending axis, to be drawn by `ponder.scaling.figure.curve_figure`."""
        found = self.predict(np.asarray(xs, dtype=np.float64))
        lows, highs = [min(one.low, one.value) for one in found], [max(one.high, one.value) for one in found]
        return Series(name or self.name, list(xs), [one.value for one in found], lows, highs)


def fitted(
    name: str,
    formula: str,
    parameters: Sequence[Parameter],
    curve: Curve,
    solve: Solve,
    rows: int,
    *,
    seed: int,
    resamples: int,
    held_out: HeldOut | None = None,
) -> Fit:
    """A `Fit` from a solver.

    Args:
        name: of the law.
        formula: to show.
        parameters: in the order of the solver's answer.
        curve: the law.
        solve: how it is fitted.
        rows: how many, P.
        seed: of the resampling, >= 0.
        resamples: at least 100.
        held_out: to be carried.

    Raises:
        UnidentifiedError: the rows, or more than 2.5% of their resamples, do not identify the law.
        ValueError: a setting outside its range.
    """
    best_M, draws_R_M, kept_R = drawn(name, parameters, solve, rows, seed=seed, resamples=resamples)[:3]
    found = dict(zip((one.name for one in parameters), intervals(best_M, draws_R_M), strict=True))
    return Fit(name, formula, found, rows, 1 - float(kept_R.mean()), held_out, curve, draws_R_M)


def drawn(
    name: str, parameters: Sequence[Parameter], solve: Solve, rows: int, *, seed: int, resamples: int
) -> tuple[Floats, Floats, NDArray[np.bool_], Floats]:
    """Parameters on all rows, on each resample that has any (R x M), which resamples those are, and the weights of all.

    Raises:
        UnidentifiedError: as `fitted`.
        ValueError: a setting outside its range.
    """
    if resamples < 100 or seed < 0:
        raise ValueError(f"resamples is {resamples} and seed {seed}; they must be at least 100 and 0")

    best_M = solve(np.ones((1, rows)), None)[0]
    if np.isnan(best_M).any():
        raise UnidentifiedError(
            f"{name}: no descent came to an end; the data do not identify the law: give more, or take fewer parameters"
        )
    for parameter, value in zip(parameters, best_M, strict=True):
        parameter.check(float(value), name)
    weights_R_P = times_drawn(rows, seed=seed, resamples=resamples)
    draws_R_M = solve(weights_R_P, best_M)
    kept_R: NDArray[np.bool_] = np.asarray(np.isfinite(draws_R_M).all(axis=1))
    for number, parameter in enumerate(parameters):
        kept_R &= ~parameter.lost(draws_R_M[:, number])
    if kept_R.mean() < (1 + LEVEL) / 2:
        raise UnidentifiedError(
            f"{name}: {resamples - int(kept_R.sum())} of {resamples} resamples of {rows} rows do not identify it, so a 95% interval has no bound: "
            "give more problems or larger k, or take a law with fewer parameters"
        )
    return best_M, draws_R_M[kept_R], kept_R, weights_R_P


def missed(
    name: str,
    parameters: Sequence[Parameter],
    curve: Curve,
    solve: Solve,
    measured_P_K: ArrayLike,
    axis_K: ArrayLike,
    *,
    fitted_to: float,
    seed: int,
    resamples: int,
) -> HeldOut:
    """What a law predicts at the points of an axis minus the mean over rows of what was measured there.

    Raises:
        UnidentifiedError: as `fitted`.
        ValueError: a setting outside its range.
    """
    measured, axis = np.asarray(measured_P_K, dtype=np.float64), np.asarray(axis_K, dtype=np.float64)
    best_M, draws_R_M, kept_R, weights_R_P = drawn(name, parameters, solve, len(measured), seed=seed, resamples=resamples)
    seen_R_K = weights_R_P[kept_R] @ measured / len(measured)
    errors_R_K = curve(draws_R_M, axis) - seen_R_K
    errors = intervals(curve(best_M, axis) - measured.mean(axis=0), errors_R_K)
    return HeldOut(fitted_to, tuple(axis.tolist()), errors)


def intervals(values_K: Floats, draws_R_K: Floats) -> tuple[Interval, ...]:
    """Percentile intervals at 95%."""
    low_K, high_K = np.quantile(draws_R_K, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return tuple(Interval(float(v), float(low), float(high)) for v, low, high in zip(values_K, low_K, high_K, strict=True))


def inner(parameters: Sequence[Parameter], values_M: ArrayLike) -> Floats:
    """Where parameters are on the scales on which they are searched."""
    values = np.asarray(values_M, dtype=np.float64)
    flat_M = [not one.logarithmic for one in parameters]
    return np.where(flat_M, values, np.log(np.abs(np.where(flat_M, 1.0, values))))


def outer(parameters: Sequence[Parameter], points_R_M: Floats) -> Floats:
    """The parameters again."""
    flat_M = [not one.logarithmic for one in parameters]
    sign_M = np.sign([one.low + one.high for one in parameters])
    return np.where(flat_M, points_R_M, sign_M * np.exp(np.where(flat_M, 0.0, points_R_M)))


def minimise(parameters: Sequence[Parameter], objective: Objective, starts_S_M: ArrayLike, fits: int) -> Floats:
    """The parameters of least value within their edges, the best of one descent from each start; nan where none came to an end.

    Args:
        parameters: M of them.
        objective: on the scales of `inner`, of `fits` rows.
        starts_S_M: tried for every fit.
        fits: how many, R.
    """
    starts = inner(parameters, starts_S_M)
    many = len(starts)
    edges_2_M = np.sort(
        [inner(parameters, [one.low for one in parameters]), inner(parameters, [one.high for one in parameters])], axis=0
    )
    points, values, done = descend(
        lambda points, rows: objective(points, rows % fits), np.repeat(starts, fits, axis=0), edges_2_M[0], edges_2_M[1]
    )
    values_S_R = np.where(done, values, np.inf).reshape(many, fits)
    best_R = values_S_R.argmin(axis=0)
    found_R_M = outer(parameters, points.reshape(many, fits, -1)[best_R, np.arange(fits)])
    return np.where(np.isfinite(values_S_R.min(axis=0))[:, None], found_R_M, np.nan)
