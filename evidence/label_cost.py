"""What labels buy: accuracy gained by a verifier against the tokens spent on what it learned from, by verdicts and by roll-outs.

`make evidence NAME=label_cost`, twenty-five minutes on one core; every part is resumable. For each budget an outcome model learns from as many
sampled and judged problems of the train split as it pays for, a process model from the same samples, and another from as many problems whose
samples were rolled out at every step (Math-Shepherd's soft labels). All choose among the same samples for problems of the test split.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, at, averaged, compare, insert, run_study, save
from ponder.cli.bases import locate
from ponder.cli.curve import Line
from ponder.cli.harvest import harvest
from ponder.cli.labelling import label
from ponder.cli.rounds import run_study as run_in
from ponder.cli.study import check
from ponder.learners.datasets import distinct
from ponder.learners.labels import from_samples, soft
from ponder.learners.outcome import train_outcome
from ponder.learners.process import train_process
from ponder.learners.rollouts import StepRollouts
from ponder.learners.training import Recipe
from ponder.scaling.bootstrap import mean_intervals, paired_difference
from ponder.scaling.figure import Series, curve_figure

WHERE = ROOT / "studies" / "label_cost"
RESUME = "make evidence NAME=label_cost"
BUDGETS = (62_500, 125_000, 250_000, 500_000, 1_000_000)  # tokens of samples and roll-outs
PROBLEMS, ROLLED = 2500, 1100  # enough for the largest budget
SAMPLES, ROLLOUTS = 16, 4
SEEDS = (0, 1, 2)  # of training; samples and roll-outs are the same
RECIPE = Recipe(epochs=3.0, batch=64, rate=1e-3)
TEST, SLICE, N = "countdown(n=200)", 32, 16
ROLLED_OUT, SHARED = "PRM of roll-outs", "PRM of samples"
WAYS = ("ORM", *(f"{name}, {how}" for name in (ROLLED_OUT, SHARED) for how in ("least", "last")))


@dataclass(frozen=True, slots=True)
class Trained:
    """Verifiers of one budget, one for each seed, and what they learned from: tokens of samples and labels, problems, roll-outs."""

    folders: tuple[Path, ...]
    tokens: int
    problems: int
    rollouts: int

    @property
    def bill(self) -> tuple[int, float]:
        """Examples that a training went through, and its FLOPs."""
        card = json.loads((self.folders[0] / "card.json").read_text("utf-8"))["training"]
        return int(card["examples"]), float(card["cost"]["flops"])


def paid(costs: Iterable[int], budget: int) -> tuple[int, int]:
    """How many of the first problems a budget pays for, and what they cost."""
    spent = 0
    for count, cost in enumerate(costs):
        if spent + cost > budget:
            return count, spent
        spent += cost
    raise SystemExit(
        f"label_cost: all problems cost {spent} tokens, which a budget of {budget} does not use up; pose more problems"
    )


def trained(kind: str, budget: int, train: Callable[..., object]) -> tuple[Path, ...]:
    """The verifiers of a kind and a budget, one for each seed; what is there is done."""
    folders = tuple(WHERE / f"{kind}-{budget}-{seed}" for seed in SEEDS)
    for out, seed in zip(folders, SEEDS, strict=True):
        if not out.is_dir():
            train(out, seed=seed)
    return folders


def by_verdicts() -> tuple[list[Trained], list[Trained]]:
    """Outcome models, and process models whose labels are the verdicts of all samples that share a prefix: as many problems as are paid for."""
    where, base = WHERE / "samples", locate("lab:small")
    body = {
        "name": "samples",
        "tasks": [f"countdown(n={PROBLEMS}, split='train')"],
        "policies": ["lab('small')"],
        "strategies": ["sample"],
        "slice": SAMPLES,
    }
    run_in(check(body, "samples"), where, resume=RESUME)
    by_problem = [list(group) for _, group in groupby(harvest([where]), key=lambda sample: sample.problem)]
    outcome, process = [], []
    for budget in BUDGETS:
        count, spent = paid((sum(sample.tokens for sample in group) for group in by_problem), budget)
        pool = [sample for group in by_problem[:count] for sample in group]
        verdicts = distinct(pool)
        chains = list({(one.problem, one.steps): soft(one) for one in from_samples(pool)}.values())
        folders = trained("outcome", budget, partial(train_outcome, base, verdicts, recipe=RECIPE))
        outcome.append(Trained(folders, spent, count, 0))
        folders = trained("shared", budget, partial(train_process, base, chains, recipe=RECIPE))
        process.append(Trained(folders, spent, count, 0))
    return outcome, process


def by_rollouts() -> list[Trained]:
    """Process models of roll-outs from every step of every sample."""
    rolled = label(
        f"countdown(n={ROLLED}, split='train')",
        "lab('small')",
        StepRollouts(SAMPLES, ROLLOUTS),
        "soft",
        WHERE / "rolled.jsonl",
        limit=None,
        seed=0,
        temperature=1.0,
        concurrency=64,
        resume=RESUME,
    )
    found = []
    for budget in BUDGETS:
        count, spent = paid((one.tokens for one in rolled), budget)
        chains = [soft(chain) for one in rolled[:count] for chain in one.chains]
        folders = trained("process", budget, partial(train_process, locate("lab:small"), chains, recipe=RECIPE))
        found.append(Trained(folders, spent, count, sum(one.rollouts for one in rolled[:count])))
    return found


def chosen(spent: Mapping[str, Sequence[Trained]]) -> tuple[dict[str, list[Line]], dict[str, Line]]:
    """For each way to choose a curve for each budget, averaged over seeds; and the curves that need no verifier."""
    specs = []
    for way in WAYS:
        for folder in (folder for model in spent[way] for folder in model.folders):
            spec = f"reward_model({str(folder)!r})"
            specs.append(f"aggregated({spec}, 'last')" if way.endswith("last") else spec)
    body = {
        "name": "label_cost",
        "tasks": [TEST],
        "policies": ["lab('small')"],
        "strategies": ["sample", f"self_consistency(n={SLICE})", *(f"best_of_n(n={SLICE}, verifier={spec})" for spec in specs)],
        "slice": SLICE,
    }
    lines, _ = run_study(check(body, "label_cost"))
    best = iter([one for one in lines if one.strategy.startswith("best_of_n")])
    ways = {way: [averaged([next(best) for _ in SEEDS]) for _ in BUDGETS] for way in WAYS}
    named = (("one sample", "sample"), ("majority", "self_consistency"), ("pass@k", "pass@k"))
    return ways, {name: next(one for one in lines if one.strategy.startswith(start)) for name, start in named}


def claims(ways: dict[str, list[Line]], plain: dict[str, Line]) -> list[Claim]:
    """Gains over one sample, gains of more labels, and process models against outcome models at equal tokens."""
    made = []
    most, doublings = BUDGETS[-1], float(np.log2(BUDGETS[-1] / BUDGETS[0]))
    for way, curves in ways.items():
        slug = way.lower().replace(", ", "-").replace(" ", "-")
        text = f"accuracy gained by best-of-{N} over one sample, {way}, {most:,} tokens"
        made.append(compare(f"{slug}-gain", text, (curves[-1], N), (plain["one sample"], 1)))
        grown = paired_difference(at(curves[-1], N) / doublings, at(curves[0], N) / doublings, seed=0, resamples=2000)
        text = f"accuracy of best-of-{N} gained with each doubling of the tokens, {way}, {BUDGETS[0]:,} to {most:,} tokens"
        interval = grown.value, grown.low, grown.high
        made.append(Claim(f"{slug}-doubling", text, *interval, None, None, len(at(curves[0], N)), len(SEEDS)))
        for budget, prm, orm in zip(BUDGETS, curves, ways["ORM"], strict=True):
            if way != "ORM":
                text = f"accuracy of best-of-{N}, {way}, over ORM, both of {budget:,} tokens"
                made.append(compare(f"{slug}-over-orm-{budget}", text, (prm, N), (orm, N)))
    return made


def table(ways: dict[str, list[Line]], plain: dict[str, Line], spent: Mapping[str, Sequence[Trained]]) -> str:
    """One line for each verifier, after those without."""
    rows = [
        f"| verifier | tokens | of {SAMPLES} samples of problems | roll-outs | examples | training FLOPs | best-of-{N} | 95% interval |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, one in plain.items():
        [value] = mean_intervals(at(one, 1 if name == "one sample" else N)[:, None], seed=0)
        rows.append(f"| none: {name} | 0 | | | | | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] |")
    for name, curves in ways.items():
        for model, one in zip(spent[name], curves, strict=True):
            [value] = mean_intervals(at(one, N)[:, None], seed=0)
            examples, flops = model.bill
            facts = f"{model.tokens:,} | {model.problems:,} | {model.rollouts:,} | {examples:,} | {flops:.2g}"
            rows.append(f"| {name} | {facts} | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] |")
    return "\n".join(rows)


def figure(ways: dict[str, list[Line]], plain: dict[str, Line]) -> None:
    """Accuracy against tokens of labels."""

    def series(name: str, columns: Sequence[np.ndarray], xs: Sequence[float], *, bound: bool = False) -> Series:
        found = mean_intervals(np.stack(columns, axis=1), seed=0)
        values, lows, highs = ([getattr(one, part) for one in found] for part in ("value", "low", "high"))
        return Series(name, xs, values, lows, highs, kind="bound" if bound else "strategy")

    drawn = [series(name, [at(one, N) for one in curves], BUDGETS) for name, curves in ways.items()]
    for name, one in plain.items():
        column = at(one, 1 if name == "one sample" else N)
        drawn.append(series(name.replace("@k", f"@{N}"), [column, column], (BUDGETS[0], BUDGETS[-1]), bound=name == "pass@k"))
    curve_figure(
        drawn,
        DOCS / "evidence" / "label_cost.png",
        title=f"best-of-{N} on countdown by verifiers of lab/small",
        caption=f"{len(at(plain['majority'], N))} problems of the test split, {len(SEEDS)} seeds of training; bands: 95% bootstrap over problems",
        x_label="tokens spent on samples and labels",
    )


def main() -> None:
    """Label, train, choose, claim, and put the table into the page."""
    (outcome, shared), rolled = by_verdicts(), by_rollouts()
    spent = {"ORM": outcome} | {way: rolled if way.startswith(ROLLED_OUT) else shared for way in WAYS[1:]}
    ways, plain = chosen(spent)
    figure(ways, plain)
    save("label_cost", claims(ways, plain))
    insert(DOCS / "evidence" / "label_cost.md", "label_cost", table(ways, plain, spent))


if __name__ == "__main__":
    main()
