"""`ponder regrade`: judge a finished study again, from its bank and without an engine, with the graders of this version.

Every run is replayed: what it asks for comes from the bank, byte for byte, so only verdicts can change. A sample that is not there
stops it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ponder.cli.runner import Cell, Progress, Runner, Work, sampling_of, spare_the_collector
from ponder.core import Ask, Policy, PolicyInfo, Sampling, Task, Until, parts
from ponder.errors import StudyError
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import Chain


@dataclass(frozen=True, slots=True)
class Changes:
    """What judging again changed, in runs: of all, how many became right, how many wrong."""

    runs: int
    right: int
    wrong: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A policy of which only the bank is at hand."""

    info: PolicyInfo

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Raises `StudyError`: what is not in the bank cannot be had here."""
        raise StudyError(
            f"regrade: {len(asks)} samples of {self.info.name} are not in the bank; finish the study with `ponder run` first"
        )


async def regrade(
    runner: Runner, journal: Journal, bank: Journal | None = None, report: Callable[[Progress], None] | None = None
) -> Changes:
    """Replay and judge every run of a study again. Raises `StudyError` where its tasks have changed, or samples are missing."""
    spare_the_collector()
    if any(isinstance(getattr(part, "info", None), PolicyInfo) for strategy in runner.strategies for part in parts(strategy)):
        raise StudyError("regrade: a strategy of this study holds a policy of its own, which only `ponder run` can open")
    store, table = StudyStore(journal), SqliteTable(bank or journal)
    before = {run.id: run.correct for run in store.runs()}
    tasks = {task.fingerprint: task for task in runner.tasks}
    cells = [_cell(json.loads(key), tasks) for key in dict.fromkeys(run.cell for run in store.runs())]
    if not cells:
        raise StudyError("regrade: the study holds no finished run; `ponder run` it first")
    await Work(runner, journal, table, [], report, len(cells), again=True).all(cells)
    after = {run.id: run.correct for run in store.runs()}
    if len(after) > len(before):
        raise StudyError(
            f"regrade: {len(after) - len(before)} runs have other names than in the version that made the study (a part got new fields); "
            "they were added beside the old ones: start a new study from its study.resolved.toml and --bank"
        )
    changed = [after[run] for run, correct in before.items() if after[run] != correct]
    return Changes(len(after), sum(changed), len(changed) - sum(changed))


def _cell(key: dict[str, str], tasks: dict[str, Task]) -> Cell:
    """The cell of a key that `Cell.key` wrote, with its policy known by name only."""
    if key["problems"] not in tasks:
        raise StudyError(
            f"regrade: the problems or prompts of {key['task']} are not those that the study was run on ({key['problems']}); "
            "give it the same files, or run it anew"
        )
    able = frozenset({"logprobs", "n"} if "redraws" in key else {"continue", "logprobs", "n", "seed"})
    policy: Policy = Kept(PolicyInfo(key["policy"], key["fingerprint"], able))  # type: ignore[arg-type]  # capabilities all
    return Cell(tasks[key["problems"]], policy, sampling_of(key["sampling"]), int(key["seed"]))
