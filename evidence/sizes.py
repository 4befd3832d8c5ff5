"""The lab's three sizes: where samples replace parameters, and where they do not. `make evidence NAME=sizes`, an hour on two cores; resumable.

Four questions: when a smaller model with samples beats a larger one at equal FLOPs, how training and test compute exchange, whether longer chains are more often right, and
whether selection stops gaining while coverage still does. Numbers of samples and targets were fixed before any result was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isinf

import numpy as np

from evidence.common import DOCS, Claim, insert, save
from evidence.lab_verifiers import TRIAL
from evidence.sizes_laws import (
    TRAININGS,
    chains,
    exchange_claims,
    exchange_table,
    exchanges,
    length_claims,
    length_table,
    level_table,
)
from evidence.sizes_studies import (
    CHAIN,
    COUNTDOWN,
    GREEDY,
    MAJORITY,
    SIZES,
    TASKS,
    Arm,
    Arms,
    Model,
    arms,
    chosen,
    models,
    plain,
    rates,
    samples,
    slug,
    span,
    verifier_training,
)
from ponder.cli.curve import COVERAGE
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.difficulty import oracle_bins
from ponder.scaling.exchange import matched_budget
from ponder.scaling.figure import Series, curve_figure

RATIOS = (0.16, 0.79, 22.0, inf)  # tokens of inference to those of pretraining: Snell et al. 2024, section 7; and without an end
PAIRS = (("small", "large"), ("small", "base"), ("base", "large"))
BEFORE, LAST = 64, 256  # the last two doublings
FLAT = 0.02  # of accuracy: a gain whose interval lies within this is none
PAGE = DOCS / "evidence" / "sizes.md"


@dataclass(frozen=True, slots=True)
class Match:
    """A smaller model with samples against the greedy answer of a larger, for the same FLOPs in all.

    allowed, spent: for a question, in FLOPs of the larger's answer; n: samples; gain: in accuracy, paired; bins: the same for each fifth of the problems, the easiest for the small model first.
    """

    allowed: float
    spent: float
    n: float
    small: float
    large: float
    gain: Interval
    bins: tuple[Interval, ...]


Matches = dict[tuple[str, str, tuple[str, str], float], Match | None]
"""By task, way, smaller and larger, and ratio."""


def match(
    found: Arms, key: tuple[str, str], pair: tuple[str, str], times: float, level_P: np.ndarray, besides: float = 0.0
) -> Match | None:
    """None where the smaller cannot pay for one sample. key: task and way; times: tokens of inference to those of pretraining; besides: FLOPs of its verifier's training."""
    (task, way), (small, large) = key, pair
    arm, other = found[task, small, way], found[task, large, GREEDY]
    written = other.cost / (2 * other.model.parameters)
    questions = times * other.model.tokens / written
    budget = matched_budget(other.cost, other.model.flops - arm.model.flops - besides, questions)
    if budget < arm.cost:
        return None
    spent = min(budget, float(arm.curve.costs_K[-1]))
    mine_P, theirs_P = arm.curve.at(spent), other.at(1)
    bins = [
        paired_difference(mine_P[level_P == level], theirs_P[level_P == level], seed=0, resamples=2000)
        for level in np.unique(level_P)
    ]
    gain = paired_difference(mine_P, theirs_P, seed=0, resamples=2000)
    return Match(
        budget / other.cost, spent / other.cost, spent / arm.cost, float(mine_P.mean()), float(theirs_P.mean()), gain, tuple(bins)
    )


def matches(found: Arms, levels: dict[str, np.ndarray]) -> Matches:
    """Every task, way, pair and ratio."""
    keys = [(task, way) for task in TASKS for way in (chosen(task), MAJORITY)]
    return {
        (*key, pair, times): match(found, key, pair, times, levels[key[0]]) for key in keys for pair in PAIRS for times in RATIOS
    }


def matched_claims(found: Arms, levels: dict[str, np.ndarray], made: Matches) -> list[Claim]:
    """Small against large at every ratio; the two ends of difficulty; and with the verifier's training on the bill."""
    claims = []
    for (task, way, pair, times), one in made.items():
        if pair == PAIRS[0] and one is not None:
            text = f"accuracy on {task} of small, {plain(way)}, {one.n:.1f} samples, over the greedy answer of large, at equal FLOPs, {asked(times)}"
            claims.append(
                _gain(
                    f"{slug(task)}-{plain(way).split(' by ')[0].replace(' ', '-')}-{asked(times, short=True)}",
                    text,
                    one.gain,
                    found[task, "small", way],
                )
            )
    for task in TASKS:
        arm = found[task, "small", chosen(task)]
        for end, times, above in ((0, RATIOS[0], True), (-1, RATIOS[2], False)):
            one = made[task, arm.way, PAIRS[0], times]
            if one is not None:
                fifth = np.unique(levels[task])[end]
                name = "easiest" if above else "hardest"
                text = f"the same, {plain(arm.way)}, on the {name} fifth of {task}, {asked(times)}"
                claims.append(
                    _gain(f"{slug(task)}-{name}", text, one.bins[end], arm, above=above, n=int((levels[task] == fifth).sum()))
                )
        burdened = match(found, (task, arm.way), PAIRS[0], RATIOS[0], levels[task], verifier_training())
        if burdened is not None:
            text = f"the same on {task}, {plain(arm.way)}, {burdened.n:.1f} samples, the verifier's training on the bill of small, {asked(RATIOS[0])}"
            claims.append(_gain(f"{slug(task)}-verifier-paid", text, burdened.gain, arm))
    return claims


def _gain(id_: str, text: str, gain: Interval, arm: Arm, *, above: bool = True, n: int | None = None) -> Claim:
    holds = gain.low > 0 if above else gain.high < 0
    return Claim(id_, text, gain.value, gain.low, gain.high, "> 0" if above else "< 0", holds, n or len(arm.ids), arm.seeds)


def asked(times: float, *, short: bool = False) -> str:
    """The ratio of inference to pretraining in words."""
    if isinf(times):
        return "endless" if short else "training left out"
    return f"{times:g}" if short else f"{times:g} tokens of inference for each of pretraining"


def matched_table(made: Matches) -> str:
    """One line for each comparison."""
    rows = [
        "| task | smaller, larger | way | inference / pretraining | budget, answers of the larger | samples | smaller | larger | difference | 95% interval |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for (task, way, pair, times), one in made.items():
        head = f"| {task} | {', '.join(pair)} | {plain(way)} | {'no end' if isinf(times) else f'{times:g}'}"
        if one is None:
            rows.append(f"{head} | 1.0 | none: one sample costs more | | | | |")
            continue
        budget = f"{one.allowed:.1f}" if one.spent == one.allowed else f"{one.allowed:.1f}, {one.spent:.1f} spent"
        rows.append(
            f"{head} | {budget} | {one.n:.1f} | {one.small:.3f} | {one.large:.3f} | {one.gain.value:+.3f} | {span(one.gain)} |"
        )
    return "\n".join(rows)


def binned_table(made: Matches, rate: dict[str, np.ndarray], levels: dict[str, np.ndarray]) -> str:
    """Small against large by difficulty."""
    count = max(len(np.unique(levels[task])) for task in TASKS)
    names = ["1, the easiest", *(str(level + 2) for level in range(count - 1))]
    rows = [f"| task | way | inference / pretraining | {' | '.join(names)} |", "|---|---|--:|" + "---|" * count]
    for task in TASKS:
        means = [f"{rate[task][levels[task] == level].mean():.3f}" for level in np.unique(levels[task])]
        rows.append(f"| {task} | *pass@1 of small* | | {' | '.join([*means, *[''] * (count - len(means))])} |")
        for (of, way, pair, times), one in made.items():
            if of == task and pair == PAIRS[0] and one is not None:
                cells = [f"{gain.value:+.2f} {span(gain, 2)}" for gain in one.bins] + [""] * (count - len(one.bins))
                rows.append(f"| {task} | {plain(way)} | {'no end' if isinf(times) else f'{times:g}'} | {' | '.join(cells)} |")
    return "\n".join(rows)


def plateaus() -> list[tuple[str, str]]:
    """Models and ways of choosing whose last doublings are looked at."""
    return [*(("base", way) for way in (MAJORITY, chosen(COUNTDOWN), chosen(COUNTDOWN, TRIAL))), ("small", MAJORITY)]


def plateau_claims(found: Arms) -> list[Claim]:
    """Coverage still grows; each way of choosing does not; the gap widens."""
    claims = []
    gains = {}
    for size in ("base", "small"):
        arm = found[COUNTDOWN, size, COVERAGE]
        gains[size] = arm.at(LAST) - arm.at(BEFORE)
        [gain] = mean_intervals(gains[size], seed=0, resamples=2000)
        claims.append(_gain(f"coverage-{size}", f"pass@{LAST} over pass@{BEFORE} on {COUNTDOWN}, {size}", gain, arm))
    for size, way in plateaus():
        arm = found[COUNTDOWN, size, way]
        name = plain(way).replace(" ", "-")
        [gain] = mean_intervals(arm.at(LAST) - arm.at(BEFORE), seed=0, resamples=2000)
        text = f"{plain(way)} of {LAST} samples over {BEFORE} on {COUNTDOWN}, {size}"
        flat = max(-gain.low, gain.high) <= FLAT
        claims.append(
            Claim(
                f"plateau-{size}-{name}", text, gain.value, gain.low, gain.high, f"within {FLAT}", flat, len(arm.ids), arm.seeds
            )
        )
        wider = paired_difference(gains[size], arm.at(LAST) - arm.at(BEFORE), seed=0, resamples=2000)
        text = f"what coverage gained more than {plain(way)} from {BEFORE} to {LAST} samples on {COUNTDOWN}, {size}"
        claims.append(_gain(f"widens-{size}-{name}", text, wider, arm))
    return claims


def plateau_table(found: Arms) -> str:
    """What the doublings bring."""
    rows = ["| model | way | 16 | 32 | 64 | 128 | 256 | 64 to 128 | 128 to 256 |", "|---|---|--:|--:|--:|--:|--:|---|---|"]
    for size, way in [("base", COVERAGE), ("small", COVERAGE), *plateaus()]:
        arm = found[COUNTDOWN, size, way]
        values = [f"{arm.at(n).mean():.3f}" for n in (16, 32, 64, 128, 256)]
        steps = [paired_difference(arm.at(2 * n), arm.at(n), seed=0, resamples=2000) for n in (64, 128)]
        rows.append(
            f"| {size} | {plain(way)} | {' | '.join(values)} | {' | '.join(f'{one.value:+.3f} {span(one)}' for one in steps)} |"
        )
    return "\n".join(rows)


def model_table(known: dict[str, Model]) -> str:
    """Parameters, training and the ratio to the small model."""
    rows = [
        "| model | parameters | times small | tokens of training | FLOPs of training | times small |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, one in known.items():
        sizes = one.parameters / known["small"].parameters, one.flops / known["small"].flops
        rows.append(f"| {name} | {one.parameters:,.0f} | {sizes[0]:.2f} | {one.tokens:,.0f} | {one.flops:.3g} | {sizes[1]:.2f} |")
    return "\n".join(rows)


def picture(mine: Sequence[Arm], name: str, title: str, *, by: str = "FLOPs") -> None:
    """A picture of some arms against FLOPs or samples."""
    lines = []
    for arm in mine:
        x = (arm.curve.costs_K if by == "FLOPs" else np.array(arm.n_K, np.float64)).tolist()
        seen = mean_intervals(arm.right_P_K, seed=0)
        label = arm.curve.name if by == "FLOPs" else plain(arm.way)
        value, low, high = ([getattr(one, part) for one in seen] for part in ("value", "low", "high"))
        lines.append(Series(label, x, value, low, high, "bound" if arm.way == COVERAGE else "strategy"))
    seeds = " or ".join(map(str, sorted({arm.seeds for arm in mine})))
    caption = f"{len(mine[0].ids)} problems of the test split, {seeds} seeds; bands: 95% bootstrap over problems"
    where = DOCS / "evidence" / f"sizes-{name}.png"
    curve_figure(lines, where, title=title, caption=caption, x_label=f"{by} for each problem")


def main() -> None:
    """Draw, claim, and put the tables into the page."""
    found = arms()
    rate = {task: rates(task) for task in TASKS}
    levels = {task: oracle_bins(rate[task]) for task in TASKS}
    made, fits = matches(found, levels), exchanges(found)
    tables = {size: chains(samples(CHAIN, size)) for size in SIZES}
    lengths = [claim for size, table in tables.items() for claim in length_claims(size, table)]
    save("sizes", [*matched_claims(found, levels, made), *exchange_claims(found, fits), *lengths, *plateau_claims(found)])
    for marker, text in (
        ("models", model_table(models())),
        ("matched", matched_table(made)),
        ("difficulty", binned_table(made, rate, levels)),
        ("exchange", exchange_table(fits)),
        ("levels", level_table(found)),
        ("lengths", length_table(tables)),
        ("plateau", plateau_table(found)),
    ):
        insert(PAGE, f"sizes-{marker}", text)
    for task in TASKS:
        picture(
            [found[task, size, way] for size in SIZES for way in (chosen(task), MAJORITY)],
            slug(task),
            f"{task}: accuracy against test FLOPs",
        )
    trained = [found[COUNTDOWN, name, chosen(COUNTDOWN)] for name in TRAININGS]
    picture(trained, "exchange", f"{COUNTDOWN}: best-of-n after more and less training")
    ways = (COVERAGE, MAJORITY, chosen(COUNTDOWN), chosen(COUNTDOWN, TRIAL))
    picture(
        [found[COUNTDOWN, "base", way] for way in ways], "plateau", f"{COUNTDOWN}, base: coverage and selection", by="samples"
    )


if __name__ == "__main__":
    main()
