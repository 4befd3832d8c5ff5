"""The ceiling of resampling under an imperfect verifier, predicted from its measured error rates, against what `rejection` reaches on the lab.

`make evidence NAME=ceiling`, about twenty minutes on two cores; it is a study, and can be stopped and started again. Error rates are measured on
one half of the problems and predict the other, and the other way round. How often a problem's samples are right is taken from the other seeds.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from evidence.common import DOCS, Claim, insert, run_study, save
from ponder.cli.harvest import harvest
from ponder.cli.study import Study, check
from ponder.learners.datasets import Sample
from ponder.run import Run
from ponder.scaling.bootstrap import Interval, mean_intervals
from ponder.scaling.figure import Series, curve_figure
from ponder.scaling.imperfect import ErrorRates, accuracy_at, ceiling, ceiling_by_text, error_rates
from ponder.store import Journal, StudyStore
from ponder.types import Chain, Step, Usage, Verdict
from ponder.verifiers.oracle import Oracle

RATES = ((0.02, 0.0), (0.1, 0.0), (0.3, 0.0), (0.1, 0.1), (0.1, 0.3), (0.3, 0.3))
DRAWN = ((0.02, 0.0), (0.3, 0.0), (0.3, 0.3))  # in the figures
TRIES, WITHIN = 64, 0.03


def study() -> Study:
    """Sixty-four samples of each held-out problem, three seeds, and rejection by verifiers that err at every pair of rates."""
    return check(
        {
            "name": "ceiling",
            "tasks": ["countdown(n=300)", "chain(least=14, n=175)"],
            "policies": ["lab"],
            "strategies": [f"rejection(n={TRIES}, verifier=oracle(fpr={fpr}, fnr={fnr}))" for fpr, fnr in RATES],
            "slice": TRIES,
            "seeds": [0, 1, 2],
            "allow_oracle": True,
        },
        "ceiling",
    )


@dataclass(frozen=True, slots=True)
class Pool:
    """The banked samples of one task: problem, seed, the verdict, whether there is an answer, and the text."""

    task: str
    problems: list[str]
    seeds: list[str]
    samples: list[Sample]
    problem_n: np.ndarray
    seed_n: np.ndarray
    correct_n: np.ndarray
    answered_n: np.ndarray

    def accepted(self, oracle: Oracle) -> np.ndarray:
        """What the verifier of the study says of each sample, asked anew."""
        chains = [Chain(one.prompt).then(Step(one.text, Usage()), one.finish) for one in self.samples]

        class Judged:
            async def verdicts(self, asked: Sequence[Chain]) -> list[Verdict]:
                return [Verdict(one.correct, one.answer) for one in pool.samples]

        pool = self
        scores = asyncio.run(oracle.score(chains, cast("Run", Judged())))
        return np.array([score.value == 1.0 for score in scores])


@dataclass(frozen=True, slots=True)
class Row:
    """One task under one verifier: by problem, averaged over seeds. measured: after 32 and 64 tries; the rest predicted."""

    task: str
    rates: tuple[float, float]
    seen: tuple[ErrorRates, ErrorRates]
    single_P: np.ndarray
    anew_P: np.ndarray
    by_text_P: np.ndarray
    limit_P: np.ndarray
    measured_P_K: np.ndarray
    tries_K: list[int]
    anew_K: np.ndarray

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return f"fpr {self.rates[0]:g}, fnr {self.rates[1]:g}"


def pools(where: Path) -> list[Pool]:
    """The samples of each task, by problem."""
    with Journal(where / "study.db") as journal:
        task_of = {run.problem: json.loads(run.cell)["task"] for run in StudyStore(journal).runs()}
    samples = list(harvest([where]))
    made = []
    for task in sorted(set(task_of.values())):
        mine = [one for one in samples if task_of[one.problem] == task and one.index < TRIES]
        problems, seeds = sorted({one.problem for one in mine}), sorted({one.stream for one in mine})
        place = {name: at for at, name in enumerate(problems)}
        columns = [
            np.array([place[one.problem] for one in mine]),
            np.array([seeds.index(one.stream) for one in mine]),
            np.array([one.correct for one in mine]),
            np.array([one.answer is not None for one in mine]),
        ]
        made.append(Pool(task, problems, seeds, mine, *columns))
    return made


def measured(where: Path, pool: Pool, strategy: str) -> tuple[list[int], np.ndarray]:
    """Accuracy by problem of a rejection stopped after so many tries, averaged over seeds; an abstention is not right."""
    tries = [2**i for i in range(TRIES.bit_length())]
    total, place = np.zeros((len(pool.problems), len(tries))), {name: at for at, name in enumerate(pool.problems)}
    with Journal(where / "study.db") as journal:
        store = StudyStore(journal)
        mine = [run for run in store.runs() if run.strategy == strategy and run.problem in place]
        for run in {(run.problem, run.cell): run for run in mine}.values():
            # The only proposal is the last sample, so a right run is right from as many tries on as it made.
            total[place[run.problem]] += run.correct * (np.array(tries) >= run.spent.samples) / len(pool.seeds)
    return tries, total


def row(where: Path, pool: Pool, rates: tuple[float, float]) -> Row:
    """Predict one verifier's plateau on each half of the problems from its errors on the other."""
    oracle = Oracle(*rates)
    accepted_n = pool.accepted(oracle)
    count, seeds = len(pool.problems), len(pool.seeds)
    half_P = np.random.default_rng(0).permutation(count) % 2
    told_n = pool.answered_n
    seen = []
    for half in (0, 1):
        there_n = told_n & (half_P[pool.problem_n] == half)
        seen.append(error_rates(accepted_n[there_n], pool.correct_n[there_n]))
    tries, measured_P_K = measured(where, pool, f"rejection(n={TRIES}, verifier={oracle!r})")
    found = {name: np.zeros(count) for name in ("single", "anew", "by_text", "limit")}
    anew_P_K = np.zeros((count, len(tries)))
    for p in range(count):
        used = seen[1 - half_P[p]]
        for seed in range(seeds):
            others_n = (pool.problem_n == p) & (pool.seed_n != seed)
            right = float(pool.correct_n[others_n].mean())
            wrong = float((told_n & ~pool.correct_n)[others_n].mean())
            texts = Counter((one.text, one.correct) for n in np.flatnonzero(others_n & told_n) for one in [pool.samples[n]])
            chance = np.array(list(texts.values())) / others_n.sum()
            verdicts = np.array([correct for _, correct in texts], dtype=bool)
            found["single"][p] += right / seeds
            anew_P_K[p] += accuracy_at([right], used, tries, wrong_P=[wrong])[0] / seeds
            found["limit"][p] += ceiling([right], used, wrong_P=[wrong])[0] / seeds
            found["by_text"][p] += ceiling_by_text(chance, verdicts, used, tries=TRIES) / seeds if len(texts) else 0.0
    both = (seen[0], seen[1])
    return Row(
        pool.task,
        rates,
        both,
        found["single"],
        anew_P_K[:, -1],
        found["by_text"],
        found["limit"],
        measured_P_K,
        tries,
        anew_P_K.mean(axis=0),
    )


def claims(one: Row) -> list[Claim]:
    """Predicted less measured, both laws, and whether there was a plateau to predict."""
    slug = f"{one.task}-{one.rates[0]:g}-{one.rates[1]:g}"
    plateau_P = one.measured_P_K[:, -1]
    found = []
    for id_, law, predicted_P in (
        ("anew", "errors made anew at each try", one.anew_P),
        ("text", "errors by text", one.by_text_P),
    ):
        [gap] = mean_intervals(predicted_P - plateau_P, seed=0, resamples=2000)
        text = f"predicted less measured accuracy of rejection with {TRIES} tries on {one.task}, {one.name}, by the law of {law}"
        target, holds = f"within {WITHIN:g}", abs(gap.value) <= WITHIN
        found.append(Claim(f"{slug}-{id_}", text, gap.value, gap.low, gap.high, target, holds, len(plateau_P), 3))
    [rise] = mean_intervals(plateau_P - one.measured_P_K[:, -2], seed=0, resamples=2000)
    text = f"measured accuracy at {TRIES} tries over {TRIES // 2} on {one.task}, {one.name}"
    found.append(Claim(f"{slug}-rise", text, rise.value, rise.low, rise.high, None, None, len(plateau_P), 3))
    return found


def table(rows: Sequence[Row]) -> str:
    """All verifiers, as Markdown."""
    lines = [
        "| task | fpr, fnr asked for | measured on either half | one sample | errors anew | errors by text | measured, 64 tries | 32 tries | errors anew, no end |",
        "|---|---|---|--:|--:|--:|---|--:|--:|",
    ]
    for one in rows:
        [at_64] = mean_intervals(one.measured_P_K[:, -1], seed=0)
        seen = "; ".join(f"{half.fpr:.3f}, {half.fnr:.3f}" for half in one.seen)
        numbers = [f"{values.mean():.3f}" for values in (one.single_P, one.anew_P, one.by_text_P)]
        rest = [shown(at_64), f"{one.measured_P_K[:, -2].mean():.3f}", f"{one.limit_P.mean():.3f}"]
        lines.append(f"| {one.task} | {one.rates[0]:g}, {one.rates[1]:g} | {seen} | {' | '.join([*numbers, *rest])} |")
    return "\n".join(lines)


def shown(one: Interval) -> str:
    """A number with its interval."""
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def figure(task: str, rows: Sequence[Row]) -> None:
    """Measured accuracy against tries, and the law of errors made anew."""
    drawn = []
    for one in (one for one in rows if one.task == task and one.rates in DRAWN):
        intervals = mean_intervals(one.measured_P_K, seed=0)
        ends = [[getattr(interval, end) for interval in intervals] for end in ("value", "low", "high")]
        drawn.append(Series(one.name, one.tries_K, *ends))
        law = one.anew_K.tolist()
        drawn.append(Series(f"predicted, {one.name}", one.tries_K, law, law, law, kind="bound"))
    slug, title = task.partition("(")[0], f"rejection on {task} under noisy verifiers"
    count = next(len(one.single_P) for one in rows if one.task == task)
    caption = f"lab/base, {count} problems, 3 seeds; bands: 95% bootstrap over problems; dashed: predicted, errors made anew at each try"
    curve_figure(drawn, DOCS / "evidence" / f"ceiling-{slug}.png", title=title, caption=caption, x_label="tries at most")


def main() -> None:
    """Run, predict, claim, draw, and put the table into the page."""
    _, where = run_study(study())
    rows = [row(where, pool, rates) for pool in pools(where) for rates in RATES]
    save("ceiling", [claim for one in rows for claim in claims(one)])
    for task in dict.fromkeys(one.task for one in rows):
        figure(task, rows)
    insert(DOCS / "evidence" / "ceiling.md", "ceiling", table(rows))


if __name__ == "__main__":
    main()
