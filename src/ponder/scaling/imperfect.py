"""Sampling until an imperfect verifier accepts: what it can reach, and when to stop (Stroebl et al. 2024, arXiv:2411.17501).

A sample of problem p is right with probability right_P[p]. The verifier accepts a right one with probability 1 - fnr and a wrong one with
probability fpr. What it accepts is right with a probability that no number of tries changes,

    (1 - fnr) right / ((1 - fnr) right + fpr wrong),

so with fpr > 0 there is a ceiling below 1 however much is spent. Tries only decide whether anything is accepted at all.

These laws hold where every try errs anew. A verifier that is a function of the text errs the same way on every copy of it: then
a problem whose one right answer it refuses is lost for good, and `ceiling_by_text` is the law. Axes: P problems, K numbers of tries, J texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAR = 60.0  # the integral over time ends here, in units of the rarest text: e^-60 is nothing beside a probability


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """How a verifier errs. fpr = P(accept | wrong), fnr = P(refuse | right); in the paper soundness is 1 - fpr, completeness 1 - fnr."""

    fpr: float
    fnr: float

    def __post_init__(self) -> None:
        if not (0 <= self.fpr <= 1 and 0 <= self.fnr <= 1):
            raise ValueError(f"fpr is {self.fpr} and fnr {self.fnr}; both are rates in [0, 1]")


def error_rates(accepted_n: ArrayLike, correct_n: ArrayLike) -> ErrorRates:
    """The rates seen on labelled answers; intervals are `ponder.scaling.calibration`'s business.

    Args:
        accepted_n: bool, whether the verifier accepted each answer.
        correct_n: bool, the verdicts.

    Raises:
        ValueError: columns that differ in length, or without a right or without a wrong answer: then a rate is not known.
    """
    accepted, correct = np.asarray(accepted_n), np.asarray(correct_n)
    if accepted.dtype != np.bool_ or correct.dtype != np.bool_ or accepted.shape != correct.shape or accepted.ndim != 1:
        raise ValueError(
            f"accepted has shape {accepted.shape}, correct {correct.shape}; it takes one bool of each for every answer"
        )
    if correct.all() or not correct.any():
        raise ValueError(
            f"{int(correct.sum())} of {correct.size} answers are right; error rates take right ones and wrong ones, so add problems"
        )
    return ErrorRates(float(accepted[~correct].mean()), float((~accepted[correct]).mean()))


def ceiling(right_P: ArrayLike, rates: ErrorRates, *, wrong_P: ArrayLike | None = None) -> Floats:
    """The accuracy of each problem after ever so many tries; 0 where nothing would ever be accepted.

    Args:
        right_P: probability that a sample is right, in [0, 1].
        rates: of the verifier.
        wrong_P: probability that it gives a wrong answer. Left out, 1 - right; less where some samples give none, which is never accepted.

    Returns:
        P floats in [0, 1].

    Raises:
        ValueError: probabilities outside [0, 1], or that sum to more than 1.
    """
    good_P, bad_P = _accepted(right_P, wrong_P, rates)
    total_P = good_P + bad_P
    return np.divide(good_P, total_P, out=np.zeros_like(total_P), where=total_P > 0)


def accuracy_at(right_P: ArrayLike, rates: ErrorRates, tries_K: Sequence[int], *, wrong_P: ArrayLike | None = None) -> Floats:
    """The probability that at most k tries end in an accepted right answer: ceiling x (1 - beta^k), beta the chance that one try is refused.

    Args:
        right_P: as in `ceiling`, also what it raises.
        rates: of the verifier.
        tries_K: numbers of tries, each >= 0.
        wrong_P: as in `ceiling`.

    Returns:
        P_K floats in [0, 1]. An abstention counts as not right.
    """
    return ceiling(right_P, rates, wrong_P=wrong_P)[:, None] * answered_at(right_P, rates, tries_K, wrong_P=wrong_P)


def answered_at(right_P: ArrayLike, rates: ErrorRates, tries_K: Sequence[int], *, wrong_P: ArrayLike | None = None) -> Floats:
    """The probability that at most k tries end in an accepted answer, right or wrong; the rest are abstentions. As `accuracy_at`."""
    good_P, bad_P = _accepted(right_P, wrong_P, rates)
    refused_P = np.clip(1 - good_P - bad_P, 0.0, 1.0)
    found: Floats = 1 - refused_P[:, None] ** _tries(tries_K)
    return found


@dataclass(frozen=True, slots=True)
class Stakes:
    """What an outcome is worth. right > 0, wrong <= 0, an abstention 0; price: of one try, verdict included, >= 0, in the same unit."""

    right: float = 1.0
    wrong: float = -1.0
    price: float = 0.0

    def __post_init__(self) -> None:
        if not (self.right > 0 >= self.wrong and self.price >= 0):
            raise ValueError(f"{self} must have right > 0 >= wrong and price >= 0")


def utility_at(
    right_P: ArrayLike,
    rates: ErrorRates,
    stakes: Stakes,
    tries_K: Sequence[int],
    *,
    wrong_P: ArrayLike | None = None,
    share_P: ArrayLike | None = None,
) -> Floats:
    """Expected utility of a policy of at most k tries, then abstaining (section 4): sum_P share (good V_right + bad V_wrong - price) S_k.

    S_k = (1 - beta^k) / (1 - beta) is the expected number of tries. Our addition: the price of a try.

    Args:
        right_P: as in `ceiling`, also what it raises.
        rates: of the verifier.
        stakes: what right and wrong answers are worth.
        tries_K: numbers of tries, each >= 0.
        wrong_P: as in `ceiling`.
        share_P: how common each problem is; left out, all are equally common. Scaled to sum to 1.

    Returns:
        K floats, 0 for no tries.
    """
    worth_P, refused_P, share_P = _worth(right_P, rates, stakes, wrong_P, share_P)
    tries_K1 = _tries(tries_K)
    sure_P = refused_P >= 1.0  # nothing is ever accepted: every try is made
    left_P = np.where(sure_P, 0.5, refused_P)[:, None]
    expected_P_K = np.where(sure_P[:, None], tries_K1, (1 - left_P**tries_K1) / (1 - left_P))
    total_K: Floats = (share_P * worth_P) @ expected_P_K
    return total_K


def best_tries(
    right_P: ArrayLike,
    rates: ErrorRates,
    stakes: Stakes,
    *,
    most: int = 1000,
    wrong_P: ArrayLike | None = None,
    share_P: ArrayLike | None = None,
) -> int:
    """The number of tries in 0..most of the largest expected utility, the smallest such; `most` where it still rises there.

    As `utility_at`. Deviation: the paper stops at the first try that is not worth it; this looks at all.
    """
    if most < 0:
        raise ValueError(f"most is {most}; it must be at least 0")
    utility_K = utility_at(right_P, rates, stakes, range(most + 1), wrong_P=wrong_P, share_P=share_P)
    best = utility_K.max()
    return int(np.flatnonzero(utility_K >= best - 1e-12 * max(1.0, abs(float(best))))[0])


def ceiling_by_text(chance_J: ArrayLike, right_J: ArrayLike, rates: ErrorRates, *, tries: float = np.inf) -> float:
    """The ceiling of one problem under a verifier whose verdict is a function of the text, expected over which texts it errs on.

    Each distinct text is accepted or not once and for all. With R and W the chances of accepted right and wrong texts, this is
    E[R / (R + W)], where nothing accepted counts 0. As 1 / x is the integral of e^(-x t) over t > 0, it is an integral over time of a product over
    texts. With `tries`, the number of tries is a Poisson number of that mean, and the integral ends there.

    Args:
        chance_J: probability of each distinct text that gives an answer, > 0, summing to at most 1.
        right_J: bool, which of them are right.
        rates: of the verifier.
        tries: mean number of tries, > 0.

    Returns:
        A probability; error below 1e-6 where no chance is under 1e-6.

    Raises:
        ValueError: columns of different lengths, or numbers outside their range.
    """
    chance, right = np.asarray(chance_J, dtype=np.float64), np.asarray(right_J)
    if right.dtype != np.bool_ or chance.shape != right.shape or chance.ndim != 1:
        raise ValueError(
            f"chance has shape {chance.shape}, right {right.shape} and type {right.dtype}; each text has a chance and a bool"
        )
    if (chance.size and (not chance.min() > 0 or chance.sum() > 1 + 1e-9)) or not tries > 0:
        raise ValueError(
            f"chances reach from {chance.min(initial=1):g} and sum to {chance.sum():g}, tries are {tries}: it takes chances above 0 that sum to at most 1, and tries above 0"
        )
    if not right.any():
        return 0.0
    accept_J = np.where(right, 1 - rates.fnr, rates.fpr)
    # In log time the integrand is smooth at every scale of the chances; Gauss-Legendre on panels of it.
    end = min(tries, FAR / float(chance.min()))
    low, high = np.log(1e-9), np.log(end)
    edges = np.linspace(low, high, max(2, int(np.ceil(high - low)) + 1))
    node, weight = np.polynomial.legendre.leggauss(12)
    half = np.diff(edges) / 2
    log_t = (edges[:-1, None] + half[:, None] * (node + 1)).ravel()
    weight_T = (half[:, None] * weight).ravel() * np.exp(log_t)
    fade_T_J = np.exp(-np.exp(log_t)[:, None] * chance)
    factor_T_J = 1 - accept_J + accept_J * fade_T_J
    whole_T = np.prod(factor_T_J, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        share_T_J = np.where(factor_T_J > 0, accept_J * chance * fade_T_J / factor_T_J, 0.0)
    return float(np.clip(weight_T @ (whole_T * share_T_J[:, right].sum(axis=1)), 0.0, 1.0))


def _accepted(right_P: ArrayLike, wrong_P: ArrayLike | None, rates: ErrorRates) -> tuple[Floats, Floats]:
    """Chances that one try is accepted and right, and accepted and wrong."""
    right = np.asarray(right_P, dtype=np.float64)
    wrong = 1 - right if wrong_P is None else np.asarray(wrong_P, dtype=np.float64)
    if right.ndim != 1 or right.size == 0 or right.shape != wrong.shape:
        raise ValueError(
            f"right has shape {right.shape} and wrong {wrong.shape}; it takes one probability of each for every problem"
        )
    if not ((right >= 0) & (wrong >= 0) & (right + wrong <= 1 + 1e-9)).all():
        raise ValueError(
            "right and wrong hold a number outside [0, 1], or sum to more than 1; they are probabilities of one sample"
        )
    return (1 - rates.fnr) * right, rates.fpr * wrong


def _worth(
    right_P: ArrayLike, rates: ErrorRates, stakes: Stakes, wrong_P: ArrayLike | None, share_P: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    """Worth of one try, chance that it is refused, and share of each problem."""
    good_P, bad_P = _accepted(right_P, wrong_P, rates)
    share = np.ones_like(good_P) if share_P is None else np.asarray(share_P, dtype=np.float64)
    if share.shape != good_P.shape or not (share >= 0).all() or not share.sum() > 0:
        raise ValueError(f"share has shape {share.shape}; it takes one number >= 0 for each of {good_P.size} problems, not all 0")
    return good_P * stakes.right + bad_P * stakes.wrong - stakes.price, 1 - good_P - bad_P, share / share.sum()


def _tries(tries_K: Sequence[int]) -> Ints:
    tries = np.asarray(tries_K, dtype=np.int64)
    if tries.ndim != 1 or tries.size == 0 or tries.min() < 0:
        raise ValueError(f"tries are {list(tries_K)[:5]}; give at least one number of tries, each >= 0")
    return tries
