"""What the scores of a large pool show: whether choosing harder by a verifier makes answers worse, and how hard a problem is from few samples.

A part of `make evidence NAME=diagnostics`. The pool is that of `evidence.laws`: 768 samples of each problem, under three seeds. Scores are banked in
studies/scored. What is claimed was fixed beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from scipy.stats import spearmanr

from evidence.common import DOCS, ROOT, Claim
from evidence.laws import FAR, SETTINGS, drawn
from ponder.bank import TableBank
from ponder.learners.datasets import Sample
from ponder.policies.lab import Lab
from ponder.run import Run, solve
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.card import features
from ponder.scaling.difficulty import cross_validate, isotonic_fit, logistic_fit, oracle_bins, table_of
from ponder.scaling.estimators import best_of_n_at_k, value_of_best_at_k
from ponder.scaling.figure import Series, curve_figure
from ponder.scaling.overoptimisation import fall, fit, kl_of_best_of
from ponder.store import Journal, SqliteTable
from ponder.types import Chain, Question, Step
from ponder.verifiers.reward_model import RewardModel

MODELS = ("orm_trial", "orm", "prm")
PROBLEMS, SEEDS = 200, 3
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
SHOWN = (1, 4, 16, 64, 256, 512)
PILOTS = (1, 4, 16, 64)
ANSWERS = ("agreement", "answered", "tokens")
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Scored:
    """The pool: samples of each problem, seed after seed. value, read: by model, its value (nan: none) and the positions it read for it."""

    samples: list[list[Sample]]
    correct_P_N: np.ndarray
    value: dict[str, np.ndarray]
    read: dict[str, np.ndarray]


def pool() -> Scored:
    """The samples of the first problems, and what each model says of each."""
    ordered = sorted(drawn(SETTINGS[0]), key=lambda one: (one.problem, one.stream, one.index))
    samples = [list(group) for _, group in groupby(ordered, key=lambda one: one.problem)][:PROBLEMS]
    if {len(row) for row in samples} != {SEEDS * FAR}:
        raise SystemExit(f"{SETTINGS[0].slug}: not every problem has {SEEDS} x {FAR} samples; make evidence NAME=laws draws them")
    value, read = {}, {}
    for model in MODELS:
        with Journal(ROOT / "studies" / "scored" / f"{model}.db") as journal:
            pairs = asyncio.run(said(RewardModel(f"lab/{model}"), samples, TableBank(SqliteTable(journal))))
        value[model], read[model] = pairs[..., 0], pairs[..., 1]
    return Scored(samples, np.array([[one.correct for one in row] for row in samples]), value, read)


async def said(verifier: RewardModel, samples: Sequence[Sequence[Sample]], bank: TableBank) -> np.ndarray:
    """P x N x 2: value and positions read of every sample that ended with an answer, each text read once."""
    table, policy = np.full((len(samples), SEEDS * FAR, 2), np.nan), Lab()
    for row, mine in enumerate(samples):
        texts = list({one.text: None for one in mine if one.answer is not None})
        found: dict[str, tuple[float, float]] = {}

        async def score(
            root: Chain, run: Run, texts: Sequence[str] = texts, found: dict[str, tuple[float, float]] = found
        ) -> None:
            scores = await run.score(verifier, [root.then(Step(text), "stop") for text in texts])
            for text, one in zip(texts, scores, strict=True):
                found[text] = (np.nan if one.value is None else one.value, one.usage.tokens)

        if texts:
            await solve(score, Question(mine[0].problem, mine[0].prompt), policy, bank=bank)  # type: ignore[arg-type]  # a function is a strategy; see the protocols
        for column, one in enumerate(mine):
            if one.answer is not None:
                table[row, column] = found[one.text]
    return table


@dataclass(frozen=True, slots=True)
class Chosen:
    """Best-of-n by one model: gold accuracy and the model's own value, problems x sizes; the halves that predict each other."""

    model: str
    gold_P_K: np.ndarray
    proxy_P_K: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]


def chosen(found: Scored) -> list[Chosen]:
    """By each model."""
    made = []
    for name, value in found.value.items():
        order = np.random.default_rng(0).permutation(PROBLEMS)
        gold_P_K = best_of_n_at_k(found.correct_P_N, value, SIZES)
        proxy_P_K = value_of_best_at_k(np.nan_to_num(value), value, SIZES)
        made.append(Chosen(name, gold_P_K, proxy_P_K, (np.sort(order[::2]), np.sort(order[1::2]))))
    return made


def measured_peak(gold_P_K: np.ndarray) -> int:
    """The size of the most accurate best-of-n, the smallest of equals."""
    return SIZES[int(gold_P_K.mean(axis=0).argmax())]


def off_by(one: Chosen) -> Interval:
    """Predicted over measured peak in doublings, the mean of both directions; problems of either half resampled. Beyond the pool counts as its end."""

    def between(a_P_K: np.ndarray, b_P_K: np.ndarray) -> float:
        predicted = min(fit(a_P_K, SIZES, resamples=100).peak.value, SIZES[-1])
        return float(np.log2(predicted / measured_peak(b_P_K)))

    def both(halves: Sequence[np.ndarray]) -> float:
        a, b = (one.gold_P_K[half] for half in halves)
        return (between(a, b) + between(b, a)) / 2

    rng = np.random.default_rng(0)
    values = [both([rng.choice(half, len(half)) for half in one.halves]) for _ in range(200)]
    low, high = np.quantile(values, [0.025, 0.975])
    value = both(one.halves)
    return Interval(value, min(value, float(low)), max(value, float(high)))


def overoptimised(found: Scored) -> tuple[list[Claim], str, str]:
    """Claims; accuracy and belief by n; the fits of one half against the other."""
    ways, claims = chosen(found), []
    curves = [
        "| chosen by | n | KL, nats | accuracy | 95% interval | its own belief |",
        "|---|--:|--:|--:|---|--:|",
    ]
    fits = [
        "| chosen by | alpha | beta | turn predicted by one half, and the other | measured on the other, and the one | error of the fit on the other half |",
        "|---|--:|--:|---|---|---|",
    ]
    for one in ways:
        gold = mean_intervals(one.gold_P_K, seed=0, resamples=RESAMPLES)
        for n in SHOWN:
            at = SIZES.index(n)
            curves.append(
                f"| `lab/{one.model}` | {n} | {kl_of_best_of(n):.2f} | {shown(gold[at])} | {one.proxy_P_K[:, at].mean():.3f} |"
            )
        fits.append(fitted(one))
        lost = fall(one.gold_P_K, SIZES, resamples=RESAMPLES)
        text = f"accuracy of best-of-{SIZES[-1]} by lab/{one.model} over that of best-of-{lost.best}, the best smaller size (simultaneous interval)"
        bad = one.model == "orm_trial"
        interval = lost.gain.value, lost.gain.low, lost.gain.high
        target, holds = ("falls: < 0", lost.falls) if bad else ("no fall shown", not lost.falls)
        claims.append(Claim(f"{one.model}-fall", text, *interval, target, holds, PROBLEMS, SEEDS))
        turn = off_by(one)
        text = (
            f"turn of best-of-n by lab/{one.model}, predicted on half the problems over measured on the other, in doublings of n"
        )
        target, holds = ("within 1", abs(turn.value) <= 1) if bad else (None, None)
        claims.append(Claim(f"{one.model}-turn", text, turn.value, turn.low, turn.high, target, holds, PROBLEMS, SEEDS))
        excess = paired_difference(one.proxy_P_K[:, -1], one.gold_P_K[:, -1], seed=0, resamples=2000)
        text = f"belief of lab/{one.model} in what best-of-{SIZES[-1]} chose by it, over its accuracy"
        claims.append(Claim(f"{one.model}-belief", text, excess.value, excess.low, excess.high, None, None, PROBLEMS, SEEDS))
    figure(ways)
    return claims, "\n".join(curves), "\n".join(fits)


def fitted(one: Chosen) -> str:
    """A row: the law of each half against the other."""
    halves = [one.gold_P_K[half] for half in one.halves]
    laws = [fit(half, SIZES, resamples=RESAMPLES) for half in halves]
    whole = fit(one.gold_P_K, SIZES, resamples=RESAMPLES)
    turns = ", ".join(f"{times(law.peak.value)} [{times(law.peak.low)}, {times(law.peak.high)}]" for law in laws)
    peaks = ", ".join(str(measured_peak(half)) for half in halves[::-1])
    errors = []
    for law, other in zip(laws, halves[::-1], strict=True):
        gain_K = other.mean(axis=0) - other[:, 0].mean()
        errors.append(f"{np.sqrt(np.mean((np.array(law.fit_K) - gain_K) ** 2)):.3f}")
    numbers = " | ".join(f"{part.value:.3f} [{part.low:.3f}, {part.high:.3f}]" for part in (whole.alpha, whole.beta))
    return f"| `lab/{one.model}` | {numbers} | {turns} | {peaks} | {', '.join(errors)} |"


def times(n: float) -> str:
    """A size, or that it lies far beyond what was measured."""
    return f"{n:.0f}" if n < 10 * SIZES[-1] else "far beyond"


def figure(ways: Sequence[Chosen]) -> None:
    """Gold accuracy and belief against the distance from the policy."""
    kl, solid, dashed = [kl_of_best_of(n) for n in SIZES[1:]], [], []
    for one in ways:
        gold = mean_intervals(one.gold_P_K[:, 1:], seed=0)
        solid.append(
            Series(f"accuracy, {one.model}", kl, *([getattr(each, end) for each in gold] for end in ("value", "low", "high")))
        )
        proxy = mean_intervals(one.proxy_P_K[:, 1:], seed=0)
        dashed.append(
            Series(
                f"belief, {one.model}",
                kl,
                *([getattr(each, end) for each in proxy] for end in ("value", "low", "high")),
                kind="bound",
            )
        )
    caption = (
        f"countdown(4), lab/base, {PROBLEMS} problems, {SEEDS} seeds; n = 2 to {SIZES[-1]}; bands: 95% bootstrap over problems"
    )
    curve_figure(
        [*solid, *dashed],
        DOCS / "evidence" / "diagnostics-overoptimisation.png",
        title="best-of-n: accuracy, and the verifier's belief",
        caption=caption,
        x_label="KL of best-of-n from the policy, nats",
        y_label="accuracy or belief",
    )


@dataclass(frozen=True, slots=True)
class Predicted:
    """Difficulty from the first m samples: predicted pass@1 out of fold, bins against the oracle's, and what the pilot costs a question.

    raw: how a single feature ranks the problems as it is; predictions out of fold come from five fits, and lose rank where a feature says little.
    """

    name: str
    m: int
    ease_P: np.ndarray
    rank: Interval
    raw: Interval | None
    same: Interval
    near: Interval
    tokens: float


def difficulties(found: Scored) -> tuple[list[Claim], str]:
    """Claims and the table: from pilots of the first seed, against pass@1 of the other two."""
    rate_P = found.correct_P_N[:, FAR:].mean(axis=1)
    made = [one for m in PILOTS for one in predicted(found, m, rate_P)]
    by = {(one.name, one.m): one for one in made}
    few, more = by["PRM", 4], by["PRM", 16]
    told = [
        ("rank", "rank correlation of difficulty predicted from the PRM's scores of 4 samples with pass@1", few.rank, ">= .7", few.rank.value >= 0.7),
        ("same", "share of problems that this puts into the oracle's fifth", few.same, ">= .4", few.same.value >= 0.4),
        ("near", "share of problems that this puts at most one fifth away", few.near, ">= .8", few.near.value >= 0.8),
    ]  # fmt: skip
    gap = rank_gap(more.ease_P, by["answers alone", 16].ease_P, rate_P)
    told.append(("gain", "rank correlation from 16 scores of the PRM over that from 16 answers alone", gap, "> 0", gap.low > 0))
    claims = [
        Claim(f"difficulty-{slug}", text, one.value, one.low, one.high, target, holds, PROBLEMS, 1)
        for slug, text, one, target, holds in told
    ]
    rows = [
        "| difficulty from | samples | tokens a question | rank correlation | 95% interval | of the mean score itself | 95% interval | same fifth | 95% interval | at most one off | 95% interval |",
        "|---|--:|--:|--:|---|--:|---|--:|---|--:|---|",
    ]
    for one in [*made, again(found)]:
        rows.append(
            f"| {one.name} | {one.m} | {one.tokens:.0f} | {shown(one.rank)} | {shown(one.raw) if one.raw else ' | '} | {shown(one.same)} | {shown(one.near)} |"
        )
    return claims, "\n".join(rows)


def predicted(found: Scored, m: int, rate_P: np.ndarray) -> list[Predicted]:
    """Every predictor of difficulty on a pilot of m samples."""
    written = float(np.mean([sum(one.tokens for one in row[:m]) for row in found.samples]))
    scores: dict[str, np.ndarray | None] = {
        "PRM": found.value["prm"],
        "ORM": found.value["orm"],
        "bad ORM": found.value["orm_trial"],
        "PRM and answers": found.value["prm"],
        "answers alone": None,
        "verdicts of the grader": found.correct_P_N.astype(float),
    }
    read = {"PRM": "prm", "PRM and answers": "prm", "ORM": "orm", "bad ORM": "orm_trial"}
    made = []
    for name, values in scores.items():
        if m == 1 and name.endswith(("answers", "alone")):
            continue  # one answer agrees with nothing
        seen = [shown_by(row[:m], None if values is None else values[at, :m]) for at, row in enumerate(found.samples)]
        used = [*ANSWERS * (values is None or "answers" in name), *["mean"] * (values is not None)]
        how = isotonic_fit("mean") if len(used) == 1 else logistic_fit(used)
        table_P_F = table_of(seen, used)
        worth = cross_validate(how, table_P_F, rate_P, np.full(PROBLEMS, (SEEDS - 1) * FAR))
        ease_P = np.array(worth.ease_P)
        cost = written + (float(np.nansum(found.read[read[name]][:, :m]) / PROBLEMS) if name in read else 0.0)
        raw = rank(table_P_F[:, 0], rate_P) if len(used) == 1 else None
        made.append(Predicted(name, m, ease_P, rank(ease_P, rate_P), raw, worth.same, worth.near, cost))
    return made


def shown_by(samples: Sequence[Sample], values: np.ndarray | None) -> dict[str, float]:
    """What a strategy would see of these samples."""
    scores = [] if values is None else [None if np.isnan(value) else float(value) for value in values]
    return features([one.answer for one in samples], [one.tokens for one in samples], scores)


def again(found: Scored) -> Predicted:
    """How well the oracle agrees with itself: the second seed's pass@1 against the third's."""
    one_P, other_P = (found.correct_P_N[:, seed * FAR :][:, :FAR].mean(axis=1) for seed in (1, 2))
    off = np.abs(oracle_bins(one_P) - oracle_bins(other_P))
    same, near = mean_intervals(np.column_stack([off == 0, off <= 1]), seed=0)
    tokens = float(np.mean([sum(sample.tokens for sample in row[FAR : 2 * FAR]) for row in found.samples]))
    return Predicted("the oracle, of other samples", FAR, one_P, rank(one_P, other_P), None, same, near, tokens)


def rank(a_P: np.ndarray, b_P: np.ndarray) -> Interval:
    """Spearman's correlation, with a bootstrap interval over problems."""
    return _resampled(lambda at: float(spearmanr(a_P[at], b_P[at]).statistic), len(a_P))


def rank_gap(a_P: np.ndarray, b_P: np.ndarray, rate_P: np.ndarray) -> Interval:
    """How much better a ranks the problems than b."""
    return _resampled(
        lambda at: float(spearmanr(a_P[at], rate_P[at]).statistic - spearmanr(b_P[at], rate_P[at]).statistic), len(a_P)
    )


def _resampled(of: Callable[[np.ndarray], float], count: int) -> Interval:
    rng = np.random.default_rng(0)
    value = of(np.arange(count))
    low, high = np.quantile([of(rng.integers(0, count, count)) for _ in range(RESAMPLES)], [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def shown(one: Interval) -> str:
    """A number and its interval, as two cells."""
    return f"{one.value:.3f} | [{one.low:.3f}, {one.high:.3f}]"
