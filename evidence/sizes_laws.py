"""Of `evidence.sizes`: how training and test compute exchange at equal accuracy, and whether longer chains are more often right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np

from evidence.common import Claim, ratio
from evidence.sizes_studies import CHAIN, COUNTDOWN, MAJORITY, SEEDS, SIZES, STEPS, Arms, chosen, plain, slug, span
from ponder.errors import UnidentifiedError
from ponder.learners.datasets import Sample
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.exchange import cost_of, fit_exchange, replaced
from ponder.scaling.fit import Fit
from ponder.scaling.lengths import concordance

Fits = dict[tuple[str, str, tuple[str, ...]], Fit | str]
"""By task, way and trainings: the law, or why there is none."""

TRAININGS = (*(f"small-{steps}" for steps in STEPS), *SIZES)
AFTER = TRAININGS[1:]  # looked at after the first was refused, hence without a target
SPENT = (1, 2, 4, 8, 16, 32)  # samples at which training and test compute are exchanged
WITHIN = 0.05  # of accuracy: what a law may err on the training that it has not seen
LEVELS = (0.2, 0.4, 0.6, 0.8)


def exchanges(found: Arms) -> Fits:
    """The law through every set of trainings, or why there is none."""
    own = TRAININGS[: len(STEPS) + 1]
    asked_for = [(COUNTDOWN, way, names) for way in (chosen(COUNTDOWN), MAJORITY) for names in (TRAININGS, own, SIZES, AFTER)]
    asked_for += [(CHAIN, way, SIZES) for way in (chosen(CHAIN), MAJORITY)]
    made: Fits = {}
    for task, way, names in asked_for:
        mine = [(found[task, name, way], n) for name in names for n in SPENT]
        try:
            made[task, way, names] = fit_exchange(
                [arm.model.flops for arm, _ in mine],
                [arm.cost * n for arm, n in mine],
                np.stack([arm.at(n) for arm, n in mine], axis=1),
                resamples=1000,
            )
        except UnidentifiedError as error:
            made[task, way, names] = str(error)
    return made


def exchange_claims(found: Arms, fits: Fits) -> list[Claim]:
    """What ten times the training replaces; and how far off the law is on the largest training, left out."""
    claims = []
    for (task, way, names), fit in fits.items():
        n, seeds = len(found[task, names[0], way].ids), min(found[task, name, way].seeds for name in names)
        name = f"exchange-{slug(task)}-{plain(way).split(' by ')[0].replace(' ', '-')}-{names[0]}-{names[-1]}"
        text = f"how many times less test compute is as good after 10 times the training, {task}, {plain(way)}, through {', '.join(names)}"
        target = "> 1" if names != AFTER else None
        if isinstance(fit, str):
            claims.append(Claim(name, f"{text}: refused", nan, nan, nan, target, False if target else None, n, seeds))
            continue
        worth = replaced(fit)
        above = worth.low > 1 if target else None
        claims.append(Claim(name, text, worth.value, worth.low, worth.high, target, above, n, seeds))
        if fit.held_out is not None:
            worst = max(fit.held_out.errors, key=lambda one: abs(one.value))
            text = f"accuracy that the law without {names[-1]} says of it minus what was measured, the largest error of {len(SPENT)}, {task}, {plain(way)}"
            held = all(max(-one.low, one.high) <= WITHIN for one in fit.held_out.errors)
            near, holds = (f"within {WITHIN}", held) if target else (None, None)
            claims.append(Claim(f"{name}-held-out", text, worst.value, worst.low, worst.high, near, holds, n, seeds))
    return claims


def exchange_table(fits: Fits) -> str:
    """One line for each law."""
    rows = [
        "| task | way | trainings | 10 times the training replaces | 95% interval | largest error on the last, left out |",
        "|---|---|---|--:|---|---|",
    ]
    for (task, way, names), fit in fits.items():
        head = f"| {task} | {plain(way)} | {', '.join(names)}"
        if isinstance(fit, str):
            rows.append(f"{head} | refused: {fit.removeprefix('exchange: ')} | | |")
            continue
        worth = replaced(fit)
        errors = () if fit.held_out is None else fit.held_out.errors
        worst = max(errors, key=lambda one: abs(one.value)) if errors else None
        error = "-" if worst is None else f"{worst.value:+.3f} {span(worst)}"
        rows.append(f"{head} | {worth.value:.2g} x test compute | [{worth.low:.2g}, {worth.high:.2g}] | {error} |")
    return "\n".join(rows)


def level_table(found: Arms) -> str:
    """Test FLOPs at equal accuracy, on a line between two measured sizes."""
    way = chosen(COUNTDOWN)
    rows = [f"| training | FLOPs | {' | '.join(f'accuracy {level:g}' for level in LEVELS)} |", "|---|--:|" + "--:|" * len(LEVELS)]
    for name in TRAININGS:
        curve = found[COUNTDOWN, name, way].curve
        cells = [cost_of(level, curve.costs_K, curve.values_P_K.mean(axis=0)) for level in LEVELS]
        shown = ["-" if cost is None else f"{cost:.2g}" for cost in cells]
        rows.append(f"| {name} | {found[COUNTDOWN, name, way].model.flops:.3g} | {' | '.join(shown)} |")
    return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of one model: steps written beyond the problem's operations, steps, and verdicts; problems x samples."""

    excess_P_N: np.ndarray
    steps_P_N: np.ndarray
    correct_P_N: np.ndarray


def chains(drawn: Sequence[Sample]) -> Chains:
    """Samples of all seeds as a table, problem by problem. A step is a line with a calculation."""
    problems = sorted({one.problem for one in drawn})
    by_problem = [[one for one in drawn if one.problem == problem] for problem in problems]
    steps = np.array([[sum("=" in step for step in one.steps) for one in mine] for mine in by_problem])
    operations = np.array([[one.difficulty or 0.0 for one in mine] for mine in by_problem])
    correct = np.array([[one.correct for one in mine] for mine in by_problem], np.bool_)
    return Chains(steps - operations, steps, correct)


def length_claims(size: str, table: Chains) -> list[Claim]:
    """Longer or shorter inside a problem, as long as needed or not, and across problems."""
    seeds = len(SEEDS[CHAIN])
    inside_P = concordance(table.steps_P_N, table.correct_P_N)
    inside_P = inside_P[~np.isnan(inside_P)]
    [inside] = mean_intervals(inside_P, seed=0, resamples=2000)
    text = f"chance that a right chain is longer than a wrong one of the same problem, less that it is shorter, {size} on {CHAIN}"
    claims = [
        Claim(f"length-inside-{size}", text, inside.value, inside.low, inside.high, "< 0", inside.high < 0, len(inside_P), seeds)
    ]
    exact_P_N = table.excess_P_N == 0
    both_P = exact_P_N.any(axis=1) & ~exact_P_N.all(axis=1)
    if both_P.sum() > 1:
        of_exact, of_others = (_share(table.correct_P_N[both_P], of[both_P]) for of in (exact_P_N, ~exact_P_N))
        gap = paired_difference(of_exact, of_others, seed=0, resamples=2000)
        text = f"accuracy of chains with a step for each operation over others of the same problem, {size} on {CHAIN}"
        claims.append(
            Claim(f"length-exact-{size}", text, gap.value, gap.low, gap.high, "> 0", gap.low > 0, int(both_P.sum()), seeds)
        )
    across = pooled(table)
    text = f"the same chance over all pairs, of whatever problems, {size} on {CHAIN}"
    claims.append(
        Claim(f"length-across-{size}", text, across.value, across.low, across.high, "< 0", across.high < 0, len(exact_P_N), seeds)
    )
    return claims


def pooled(table: Chains, resamples: int = 400) -> Interval:
    """Concordance over all pairs, with an interval over problems."""
    draws = np.random.default_rng(0).integers(0, len(table.steps_P_N), (resamples, len(table.steps_P_N)))
    found = [concordance(table.steps_P_N[row].reshape(1, -1), table.correct_P_N[row].reshape(1, -1))[0] for row in draws]
    value = concordance(table.steps_P_N.reshape(1, -1), table.correct_P_N.reshape(1, -1))[0]
    return Interval(float(value), *(float(end) for end in np.quantile(found, [0.025, 0.975])))


def length_table(tables: dict[str, Chains]) -> str:
    """Accuracy by steps written beyond those needed."""
    rows = ["| model | steps beyond the operations | share of chains | right | 95% interval |", "|---|--:|--:|--:|---|"]
    for size, table in tables.items():
        for name, low, high in (("-2 or less", -inf, -2), ("-1", -1, -1), ("0", 0, 0), ("+1", 1, 1), ("+2 or more", 2, inf)):
            here_P_N = (table.excess_P_N >= low) & (table.excess_P_N <= high)
            if here_P_N.any():
                some_P = here_P_N.any(axis=1)
                right = ratio((here_P_N & table.correct_P_N).sum(axis=1)[some_P], here_P_N.sum(axis=1)[some_P])
                rows.append(f"| {size} | {name} | {here_P_N.mean():.4f} | {right.value:.3f} | {span(right)} |")
    return "\n".join(rows)


def _share(of_P_N: np.ndarray, among_P_N: np.ndarray) -> np.ndarray:
    found: np.ndarray = (of_P_N & among_P_N).sum(axis=1) / among_P_N.sum(axis=1)
    return found
