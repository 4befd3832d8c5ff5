"""What compute in training and compute at test time are worth to each other.

`matched_budget` is the accountant's view (Snell et al. 2024, arXiv:2408.03314, section 7): a smaller model costs less to train, and what was saved may be spent
on its answers. `fit_exchange` is the law of board games (Jones 2021, arXiv:2104.03113): lines of equal strength in log train and log test compute are
straight, so that ten times the one always replaces the same multiple of the other. There strength is Elo, a logarithm of odds; here it is the log odds of accuracy.

Axes: P problems, C measured points, R resamples, M parameters.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ponder.errors import UnidentifiedError
from ponder.scaling.bootstrap import Interval
from ponder.scaling.fit import Fit, Floats, HeldOut, Parameter, Solve, fitted, missed

__all__ = ["cost_of", "fit_exchange", "matched_budget", "replaced"]

NAME, FORMULA = "exchange", "log(p / (1 - p)) = g (log10 test + e log10 train) + c"
EXCHANGE = (Parameter("e", -100.0, 100.0), Parameter("g", 1e-6, 1e3), Parameter("c", -1e6, 1e6))
LEAST = 3  # trainings: two always lie on a line


def matched_budget(answer: float, saved: float, questions: float) -> float:
    """FLOPs that a smaller model may spend on a question for the total of a larger one, training included.

    Where both saw D tokens at 6 N D FLOPs and write L at 2 N L, this is the smaller one's own answer times M + 3 (M - 1) D / (L questions), with M the ratio of their
    parameters, which is how Snell et al. put it.

    Args:
        answer: FLOPs of the larger model for one question, > 0.
        saved: training FLOPs of the larger model less those of the smaller, and of what the smaller needs besides, such as a verifier.
        questions: that each answers in its life, > 0; infinity leaves training out.

    Returns:
        The budget; not above 0 where more than the answers was spent on training the smaller.

    Raises:
        ValueError: a number outside its range.
    """
    if not (np.isfinite(answer) and answer > 0 and np.isfinite(saved) and questions > 0):
        raise ValueError(
            f"answer is {answer}, saved {saved} and questions {questions}; an answer costs something, and at least one is asked for"
        )
    return answer + saved / questions


def fit_exchange(
    training_C: ArrayLike, testing_C: ArrayLike, accuracy_P_C: ArrayLike, *, seed: int = 0, resamples: int = 200
) -> Fit:
    """Fit the law through accuracy at C pairs of train and test compute; `predict(train, test)` then gives the accuracy.

    Parameter e: test compute falls as train^-e at equal accuracy; `replaced` says what that is worth. Deviation: Jones fits log test compute and so puts the error there;
    accuracy is what is measured with error here, so its log odds are fitted, by least squares. Each training counts by its number of points. Intervals are over problems: they know
    nothing of other trainings. The fit's `held_out` leaves out the training of the most compute, where three remain.

    Args:
        training_C: FLOPs of each point's training, > 0.
        testing_C: FLOPs of each point on one problem, > 0.
        accuracy_P_C: of each problem at each point, in [0, 1].
        seed: of the bootstrap over problems, >= 0.
        resamples: at least 100.

    Raises:
        UnidentifiedError: fewer than three trainings; trainings whose accuracies do not overlap; test compute that does not vary, or adds
            nothing; a mean of 0 or 1; more than 2.5% of the resamples like that.
        ValueError: columns of different lengths, or numbers outside their range.
    """
    training, testing = np.asarray(training_C, dtype=np.float64), np.asarray(testing_C, dtype=np.float64)
    accuracy = np.asarray(accuracy_P_C, dtype=np.float64)
    if accuracy.ndim != 2 or training.ndim != 1 or not training.shape == testing.shape == accuracy.shape[1:] or not accuracy.size:
        raise ValueError(
            f"{NAME}: training has shape {training.shape}, testing {testing.shape} and accuracy {accuracy.shape}; "
            "accuracy is problems x points, with both computes of each point"
        )
    if (
        not all((np.isfinite(one) & (one > 0)).all() for one in (training, testing))
        or not ((accuracy >= 0) & (accuracy <= 1)).all()
    ):
        raise ValueError(f"{NAME}: compute is finite and > 0, and accuracy lies in [0, 1]")
    _check_shared(training, accuracy.mean(axis=0))
    largest = training.max()
    before_C = training < largest
    held_out: HeldOut | None = None
    with suppress(UnidentifiedError):
        if len(np.unique(training[before_C])) >= LEAST:
            _check_shared(training[before_C], accuracy[:, before_C].mean(axis=0))
            held_out = missed(
                NAME,
                EXCHANGE,
                lambda theta_R_M, test_C: _curve(theta_R_M, np.full_like(test_C, largest), test_C),
                _plane(training[before_C], testing[before_C], accuracy[:, before_C]),
                accuracy[:, ~before_C],
                testing[~before_C],
                fitted_to=float(training[before_C].max()),
                seed=seed,
                resamples=resamples,
            )
    solve = _plane(training, testing, accuracy)
    return fitted(NAME, FORMULA, EXCHANGE, _curve, solve, len(accuracy), seed=seed, resamples=resamples, held_out=held_out)


def replaced(fit: Fit, times: float = 10.0) -> Interval:
    """How many times less test compute is as good after `times` as much training, by a fit of `fit_exchange`: times^e, with its 95% interval.

    Raises:
        ValueError: another law, or `times` not above 1.
    """
    if fit.curve is not _curve:
        raise ValueError(f"{fit.name} exchanges nothing; give a fit of fit_exchange")
    if not 1 < times < np.inf:
        raise ValueError(f"times is {times}; it takes more than once the training")
    exponent = fit.parameters["e"]
    return Interval(*(float(times**one) for one in (exponent.value, exponent.low, exponent.high)))


def cost_of(level: float, costs_K: ArrayLike, accuracy_K: ArrayLike) -> float | None:
    """The cost at which a curve first reaches an accuracy; the inverse of `ponder.scaling.paired.Curve.at`, on a line between two sizes.

    Args:
        level: accuracy that is asked for.
        costs_K: of the sizes, ascending.
        accuracy_K: at each.

    Returns:
        The cost; None where the curve begins above the level, which a smaller size may reach too, or ends below it.

    Raises:
        ValueError: columns of different lengths, or costs that do not ascend.
    """
    costs, accuracy = np.asarray(costs_K, dtype=np.float64), np.asarray(accuracy_K, dtype=np.float64)
    if costs.ndim != 1 or not len(costs) or costs.shape != accuracy.shape or (np.diff(costs) <= 0).any():
        raise ValueError(f"costs are {costs.tolist()} for accuracies of shape {accuracy.shape}; one of each, costs ascending")
    at = int((accuracy >= level).argmax())
    if accuracy[at] < level or (at == 0 and accuracy[0] > level):
        return None
    if at == 0:
        return float(costs[0])
    share = (level - accuracy[at - 1]) / (accuracy[at] - accuracy[at - 1])
    return float((1 - share) * costs[at - 1] + share * costs[at])


def _curve(theta: Floats, training_C: Floats, testing_C: Floats) -> Floats:
    e, g, c = (theta[..., m, None] for m in range(3))
    odds: Floats = g * (np.log10(testing_C) + e * np.log10(training_C)) + c
    return 1 / (1 + np.exp(-np.clip(odds, -700, 700)))


def _check_shared(training_C: Floats, mean_C: Floats) -> None:
    """Equal accuracy is looked at only where the accuracies of the trainings overlap."""
    ranges = sorted(
        (float(mean_C[training_C == one].min()), float(mean_C[training_C == one].max()), float(one))
        for one in np.unique(training_C)
    )
    if len(ranges) < LEAST:
        raise UnidentifiedError(f"{NAME}: {len(ranges)} trainings; it takes {LEAST} of different compute, as two lie on any line")
    reached, by = ranges[0][1], ranges[0][2]
    for (_, high, one), (low, _, other) in pairwise(ranges):
        reached, by = max((reached, by), (high, one))
        if low > reached:
            raise UnidentifiedError(
                f"{NAME}: the training of {by:.3g} FLOPs reaches {reached:.3f} with all its test compute, and that of {other:.3g} begins at {low:.3f}; "
                "nothing was measured at equal accuracy: give the weaker more test compute"
            )


def _plane(training_C: Floats, testing_C: Floats, accuracy_P_C: Floats) -> Solve:
    axes_C_3 = np.stack([np.log10(testing_C), np.log10(training_C), np.ones(len(training_C))], axis=1)
    if np.linalg.matrix_rank(axes_C_3 - axes_C_3.mean(axis=0) * [1, 1, 0]) < 3:
        raise UnidentifiedError(f"{NAME}: test compute does not vary by itself; measure each training at several sizes")
    inverse_3_C = np.linalg.pinv(axes_C_3)

    def solve(weights_R_P: Floats, start_M: Floats | None) -> Floats:
        del start_M
        mean_R_C = weights_R_P @ accuracy_P_C / weights_R_P.sum(axis=1, keepdims=True)
        inside_R = ((mean_R_C > 0) & (mean_R_C < 1)).all(axis=1)
        safe_R_C = np.where(inside_R[:, None], mean_R_C, 0.5)
        g_R, train_R, c_R = (np.log(safe_R_C / (1 - safe_R_C)) @ inverse_3_C.T).T
        kept_R = inside_R & (g_R > 0)
        if not kept_R.any():
            raise UnidentifiedError(
                f"{NAME}: accuracies from {mean_R_C[0].min():.3f} to {mean_R_C[0].max():.3f}; they must lie inside 0 and 1 and rise with test compute"
            )
        g_R = np.where(kept_R, g_R, 1.0)
        return np.where(kept_R[:, None], np.stack([train_R / g_R, g_R, c_R], axis=1), np.nan)

    return solve
