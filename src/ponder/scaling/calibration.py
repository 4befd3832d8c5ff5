"""How far a verifier can be believed: reliability curve, calibration errors, ranking, and error rates at a threshold.

Two different questions. *Ranking*: does the verifier put right answers above wrong ones (AUC)? Best-of-n only ever ranks answers to one
problem, so the AUC within problems is the one that search feels; the pooled one also rewards knowing which problems are easy.
*Calibration*: is a right answer as likely as the score says (ECE, Brier, log loss)? Weighted votes and thresholds feel that.

Samples of one problem are not independent, so intervals resample problems (`ponder.scaling.bootstrap` says why). The bins of a
reliability curve have Wilson intervals, which take samples as independent and are therefore somewhat narrow.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval, mean_intervals, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

CLIP = 1e-6  # log loss takes a score as at least this far from 0 and 1: one certain error must not be an infinite one


@dataclass(frozen=True, slots=True)
class Bin:
    """Scores from `low` to `high`: how many, their mean, and the share of right answers among them (Wilson).

    Of equal width: [low, high), the last one [low, high]. Of equal mass: the least and the largest score that are in it.
    """

    low: float
    high: float
    count: int
    score: float
    right: Interval


@dataclass(frozen=True, slots=True)
class Curve:
    """A reliability curve: the bins that are not empty, and how far scores are from shares in the mean (`ece`) and at worst (`mce`).

    ece = sum_b n_b / n |right_b - score_b| and mce = max_b |right_b - score_b| (Guo et al. 2017, arXiv:1706.04599, eq. 3 and 5). Both
    are biased upwards where bins hold few samples.
    """

    bins: tuple[Bin, ...]
    ece: float
    mce: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What one set of scored answers shows; None where it cannot (no right answer, no wrong one).

    difficulty: of its problems; None for all, and for those without one. n: answers. right: their share of right ones. auc: chance that a
    right answer scores above a wrong one, equal scores counting half. auc_within: the same within a problem, averaged over the
    `mixed` problems that have both. brier: mean squared error, log_loss: mean of -log of the belief in what was the case (nats).
    false_positive: share of the wrong answers whose score reaches the threshold; false_negative: of the right ones whose does not.
    """

    difficulty: float | None
    n: int
    problems: int
    mixed: int
    right: Interval
    auc: Interval | None
    auc_within: Interval | None
    brier: Interval
    log_loss: Interval
    false_positive: Interval | None
    false_negative: Interval | None


@dataclass(frozen=True, slots=True)
class Report:
    """Calibration of one verifier. unscored: answers it could not score, which are in none of the numbers."""

    threshold: float
    unscored: int
    whole: Measured
    difficulties: tuple[Measured, ...]
    equal_width: Curve
    equal_mass: Curve

    def save(self, folder: Path) -> None:
        """Write `calibration.json` into a folder that exists."""
        (folder / "calibration.json").write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    def table(self) -> str:
        """The report as Markdown, which reads as plain text too."""
        head = f"| difficulty | n | right | AUC | AUC within | Brier | log loss | FPR at {self.threshold:g} | FNR at {self.threshold:g} |"
        lines = [head, "|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for one in (self.whole, *self.difficulties):
            name = "all" if one is self.whole else "unknown" if one.difficulty is None else f"{one.difficulty:g}"
            numbers = (one.right, one.auc, one.auc_within, one.brier, one.log_loss, one.false_positive, one.false_negative)
            lines.append(f"| {name} | {one.n} | {' | '.join(map(_shown, numbers))} |")
        lines += ["", "| score | n | mean score | right |", "|---|--:|--:|--:|"]
        lines += [
            f"| {b.low:.3f} .. {b.high:.3f} | {b.count} | {b.score:.3f} | {_shown(b.right)} |" for b in self.equal_mass.bins
        ]
        width, mass, whole = self.equal_width, self.equal_mass, self.whole
        lines += [
            "",
            f"ECE {width.ece:.3f} (bins of equal width; of equal mass, as shown: {mass.ece:.3f}), largest gap {width.mce:.3f} "
            f"({mass.mce:.3f}). {whole.problems} problems, {whole.mixed} of them with right and wrong answers; {self.unscored} answers "
            "without a score. Brackets: 95%, resampled by problem.",
        ]
        return "\n".join(lines) + "\n"


def calibrate(
    scores_n: ArrayLike,
    correct_n: ArrayLike,
    problems_n: Sequence[str],
    difficulties_n: Sequence[float | None] | None = None,
    *,
    threshold: float = 0.5,
    bins: int = 10,
    seed: int = 0,
    resamples: int = 1000,
) -> Report:
    """Measure a verifier on answers whose verdicts are known. They must not be those it was trained on; nothing here can know.

    Args:
        scores_n: values in [0, 1]; nan (or None) where the verifier gave none.
        correct_n: bool, the verdicts.
        problems_n: id of each answer's problem.
        difficulties_n: of each answer's problem; None where it has none.
        threshold: an answer with at least this score is accepted, in [0, 1].
        bins: of the reliability curves, at least 1.
        seed: of the bootstrap, >= 0.
        resamples: of the bootstrap, at least 100.

    Raises:
        ValueError: columns of different lengths, a score outside [0, 1], or nothing that was scored.
    """
    scores, correct = np.asarray(scores_n, dtype=np.float64), np.asarray(correct_n)
    levels = np.array([np.nan if level is None else float(level) for level in difficulties_n or [None] * len(problems_n)])
    if correct.dtype != np.bool_ or not scores.shape == correct.shape == (len(problems_n),) == levels.shape:
        raise ValueError(
            f"scores have shape {scores.shape}, verdicts {correct.shape} and type {correct.dtype}, problems {len(problems_n)}, "
            f"difficulties {levels.shape}; it takes one of each for every answer, verdicts as bool"
        )
    kept = ~np.isnan(scores)
    if not kept.any() or scores[kept].min() < 0 or scores[kept].max() > 1:
        raise ValueError(f"{kept.sum()} of {len(scores)} answers have a score; it takes at least one, and each in [0, 1]")
    if not 0 <= threshold <= 1 or bins < 1:
        raise ValueError(f"threshold is {threshold} and bins {bins}; they must lie in [0, 1] and be at least 1")
    scores, correct, levels = scores[kept], correct[kept], levels[kept]
    problems = np.unique(np.asarray(problems_n, dtype=np.str_)[kept], return_inverse=True)[1].astype(np.int64)

    def measured(some: Bools, level: float | None) -> Measured:
        return _measure(scores[some], correct[some], problems[some], level, threshold, seed, resamples)

    known = [float(level) for level in np.unique(levels) if not np.isnan(level)]
    rows = [measured(levels == level, level) for level in known]
    if known and np.isnan(levels).any():
        rows.append(measured(np.isnan(levels), None))
    edges = np.arange(bins + 1) / bins
    return Report(
        threshold=float(threshold),
        unscored=int((~kept).sum()),
        whole=measured(np.ones(len(scores), np.bool_), None),
        difficulties=tuple(rows),
        equal_width=_curve(scores, correct, np.searchsorted(edges[1:-1], scores, side="right"), edges),
        equal_mass=_curve(scores, correct, _masses(scores, bins)),
    )


def auc(scores_n: ArrayLike, correct_n: ArrayLike) -> float | None:
    """The chance that a right answer scores above a wrong one, equal scores counting half; None without both kinds.

    Exact, by ranks: the Mann-Whitney statistic over the number of pairs (Hanley and McNeil 1982, Radiology 143:29).
    """
    scores, correct = np.asarray(scores_n, dtype=np.float64), np.asarray(correct_n, dtype=np.bool_)
    found = _auc(np.unique(scores, return_inverse=True)[1], correct)(np.ones(len(scores)))
    return None if np.isnan(found) else float(found)


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The never falling sequence nearest to `values` in weighted least squares, by pooling adjacent violators.

    Barlow, Bartholomew, Bremner and Brunk 1972, Statistical Inference under Order Restrictions, section 1.2.
    """
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many values
    for mean, weight in zip(values, weights, strict=True):
        size = 1
        while pools and pools[-1][0] >= mean:
            low, mass, many = pools.pop()
            mean, weight, size = (low * mass + mean * weight) / (mass + weight), mass + weight, size + many
        pools.append((mean, weight, size))
    return [min(1.0, max(0.0, mean)) for mean, _, size in pools for _ in range(size)]


def _auc(level_n: Ints, correct_n: Bools) -> Callable[[Floats], float]:
    """AUC as a function of how often each answer counts; nan without both kinds. level: rank among the different scores."""
    right_n, wrong_n = correct_n.astype(np.float64), (~correct_n).astype(np.float64)

    def weighed(weight_n: Floats) -> float:
        right_L, wrong_L = np.bincount(level_n, weight_n * right_n), np.bincount(level_n, weight_n * wrong_n)
        pairs = right_L.sum() * wrong_L.sum()
        below_L = np.cumsum(wrong_L) - wrong_L / 2
        return float(right_L @ below_L / pairs) if pairs else float("nan")

    return weighed


def _measure(
    scores_n: Floats, correct_n: Bools, problems_n: Ints, difficulty: float | None, threshold: float, seed: int, resamples: int
) -> Measured:
    problem_n = np.unique(problems_n, return_inverse=True)[1]
    count = int(problem_n.max()) + 1
    ranked = _auc(np.unique(scores_n, return_inverse=True)[1], correct_n)
    likely_n = np.clip(np.where(correct_n, scores_n, 1 - scores_n), CLIP, None)
    # Each row is a sum of its column over answers divided by a sum of the other: means, and rates within one kind.
    ones, accepted_n = np.ones(len(scores_n)), scores_n >= threshold
    above_C_n = np.stack(
        [correct_n, (scores_n - correct_n) ** 2, -np.log(likely_n), accepted_n & ~correct_n, ~accepted_n & correct_n]
    )
    below_C_n = np.stack([ones, ones, ones, ~correct_n, correct_n])

    def statistics(weight_n: Floats) -> Floats:
        below_C = below_C_n @ weight_n
        shares_C = np.divide(above_C_n @ weight_n, below_C, out=np.full(len(below_C), np.nan), where=below_C > 0)
        return np.append(shares_C, ranked(weight_n))

    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64) for _ in range(resamples))
    draws_R_C = np.stack([statistics(times_P[problem_n]) for times_P in drawn])
    right, brier, log_loss, positive, negative, pooled = map(_interval, statistics(ones), draws_R_C.T)
    order, ends = np.argsort(problem_n, kind="stable"), np.cumsum(np.bincount(problem_n))[:-1]
    within = [auc(scores_n[mine], correct_n[mine]) for mine in np.split(order, ends)]
    mixed = [one for one in within if one is not None]
    return Measured(
        difficulty=difficulty,
        n=len(scores_n),
        problems=count,
        mixed=len(mixed),
        right=right,
        auc=pooled if right.value not in (0.0, 1.0) else None,
        auc_within=mean_intervals(mixed, seed=seed, resamples=resamples)[0] if mixed else None,
        brier=brier,
        log_loss=log_loss,
        false_positive=positive if right.value < 1 else None,
        false_negative=negative if right.value > 0 else None,
    )


def _interval(value: float, draws_R: Floats) -> Interval:
    """With its percentile interval at 95%, over the resamples that have the statistic."""
    seen = draws_R[~np.isnan(draws_R)]
    low, high = np.quantile(seen, [0.025, 0.975]) if len(seen) else (value, value)
    return Interval(float(value), float(low), float(high))


def _masses(scores_n: Floats, bins: int) -> Ints:
    """The bin of each score, as many answers in each as ties let: equal scores share the bin that the middle of them falls into."""
    _, level_n, count_L = np.unique(scores_n, return_inverse=True, return_counts=True)
    middle_L = (np.cumsum(count_L) - count_L / 2) / len(scores_n)
    return (middle_L * bins).astype(np.int64)[level_n]


def _curve(scores_n: Floats, correct_n: Bools, bin_n: Ints, edges: Floats | None = None) -> Curve:
    bins = []
    for at in np.unique(bin_n):
        inside = scores_n[bin_n == at]
        low, high = (inside.min(), inside.max()) if edges is None else edges[at : at + 2]
        share = wilson(int(correct_n[bin_n == at].sum()), len(inside))
        bins.append(Bin(float(low), float(high), len(inside), float(inside.mean()), share))
    gaps = [abs(one.right.value - one.score) for one in bins]
    ece = sum(gap * one.count for gap, one in zip(gaps, bins, strict=True)) / len(scores_n)
    return Curve(tuple(bins), ece, max(gaps))


def _shown(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
