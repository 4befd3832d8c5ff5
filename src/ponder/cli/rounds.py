"""What the loops that join search and learning share: a study as a step that can be stopped, and what a study measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ponder.bank import Row
from ponder.cli import output
from ponder.cli.curve import Curves, sizes
from ponder.cli.main import interruptible
from ponder.cli.provenance import write_provenance
from ponder.cli.runner import Runner, sampling_of
from ponder.cli.study import Study, read, write
from ponder.core import END, Ask, Task
from ponder.scaling import bootstrap
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import Chain


def run_study(study: Study, where: Path, *, resume: str, adapt: Callable[[Task], Task] | None = None) -> None:
    """Run a study in a folder, or go on with it. adapt: changes its tasks (hints); resume: the command that goes on."""
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(where / "study.db"))
        bank = stack.enter_context(Journal(Path(study.bank))) if study.bank else None
        runner = Runner(study)
        if adapt is not None:
            runner.tasks = [adapt(task) for task in runner.tasks]
        write(study, where / "study.resolved.toml")
        write_provenance(where / "provenance.json", study, runner.sandbox())
        with output.progress() as report:
            interruptible(runner.run(journal, bank, report), resume=resume)


@dataclass(frozen=True, slots=True)
class Measured:
    """What whole samples of a study showed.

    Attributes:
        pass_P_K: unbiased pass@k by problem, at `ks`.
        ks: 1, 2, 4, ... up to the slice.
        entropy: mean of -log p over the tokens written, nats a token; at temperature 1 an unbiased estimate of the policy's entropy
            a token. nan where the engine gave no probabilities.
        tokens: completion tokens of all samples.
        strategies: by the name of its curve what each reached at its largest size: accuracy, low and high end of its 95% interval, mean
            tokens a question.
    """

    ks: tuple[int, ...]
    pass_P_K: np.ndarray
    entropy: float
    tokens: int
    strategies: dict[str, tuple[float, float, float, float]]

    @property
    def pass_at(self) -> dict[int, float]:
        """Mean pass@k by k."""
        return {k: float(value) for k, value in zip(self.ks, self.pass_P_K.mean(axis=0), strict=True)}

    def interval(self, k: int) -> bootstrap.Interval:
        """pass@k with its 95% interval over problems."""
        return bootstrap.mean_intervals(self.pass_P_K[:, self.ks.index(k)], seed=0)[0]


def measured(where: Path, ks: Sequence[int] | None = None) -> Measured:
    """What the slice of a finished study with one task and one policy shows; seeds are averaged within each problem."""
    study = read(where / "study.resolved.toml")
    sums = [0.0, 0]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(where / "study.db", hold=False))
        bank = stack.enter_context(Journal(Path(study.bank), hold=False)) if study.bank else journal
        store, table = StudyStore(journal), SqliteTable(bank)
        lines = Curves(study, store, table).lines()
        line = next(one for one in lines if one.strategy.startswith("pass@k"))
        reached = {one.strategy: one.points()[-1] for one in lines if one is not line}
        tokens = 0
        for cell in dict.fromkeys(run.cell for run in store.runs()):
            body = json.loads(cell)
            sampling = sampling_of(body["sampling"])
            for problem in store.problems(body["problems"]):
                ask = Ask(Chain(problem.question.messages), (), str(body["seed"]))
                for row in table.rows(ask.pool(body["fingerprint"], END, sampling)):
                    if row.index < study.slice:
                        tokens += row.step.usage.completion
                        _surprise(row, sums)
    wanted = tuple(ks or sizes(study.slice))
    columns = [line.ks.index(k) for k in wanted]
    entropy = sums[0] / sums[1] if sums[1] else float("nan")
    found = {name: (point.value, point.low, point.high, point.tokens) for name, point in reached.items()}
    return Measured(wanted, line.values_P_K[:, columns], entropy, tokens, found)


def sampled_tokens(where: Path) -> int:
    """Tokens of everything in a study's bank, whatever asked for it: completion tokens, and positions scored by reward models."""
    with Journal(where / "study.db", hold=False) as journal:
        [[sampled]] = journal.read("SELECT coalesce(sum(completion), 0) FROM samples")
        [[scored]] = journal.read("SELECT coalesce(sum(scored), 0) FROM scores")
    return int(str(sampled)) + int(str(scored))


def _surprise(row: Row, sums: list[float]) -> None:
    tokens = row.step.tokens
    if tokens is not None and tokens.logprobs:
        sums[0] -= sum(tokens.logprobs)
        sums[1] += len(tokens.logprobs)
