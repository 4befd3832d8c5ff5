"""`ponder label`: step labels by roll-outs, as a file that `ponder train process` reads.

Chains and roll-outs are kept in a bank beside the file, so that labelling goes on where it was stopped, and other labels of the same
roll-outs (hard instead of soft) cost nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, cast

from ponder.bank import TableBank
from ponder.cli import output
from ponder.cli.main import interruptible
from ponder.cli.runner import Cell, Judge, Progress, parse_policy
from ponder.cli.study import capped
from ponder.core import Sampling, Task
from ponder.errors import DataError, UsageError
from ponder.learners import exports
from ponder.learners.labels import Counted, Stepwise, first_error, hard, progress, soft
from ponder.learners.rollouts import Findings, OmegaTree, StepRollouts, labelled
from ponder.run import solve
from ponder.spec import parse
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import JSON, Problem

Labels: TypeAlias = Literal["soft", "hard", "first_error", "progress"]
LABELS: dict[str, Callable[[Counted, int], Stepwise]] = {
    "soft": lambda chain, k: soft(chain, 1),
    "hard": hard,
    "first_error": first_error,
    "progress": lambda chain, k: progress(chain),
}


def label(
    task: str,
    policy: str,
    strategy: StepRollouts | OmegaTree,
    labels: Labels,
    out: Path,
    *,
    limit: int | None,
    seed: int,
    temperature: float,
    concurrency: int,
    resume: str,
) -> list[Findings]:
    """Label the chains of a task's problems and write them to `out` (.jsonl or .parquet, with a card); what was found by problem.

    Raises `DataError` where no chain finished, as nothing can be labelled then, and, before anything is spent, `UsageError` for labels that
    such roll-outs cannot give.
    """
    exports.suffix_of(out)
    if out.is_dir():
        raise UsageError(f"label: {out} is a folder; name a file")
    if concurrency < 1 or (limit is not None and limit < 1):
        raise UsageError(
            f"label: concurrency = {concurrency} and limit = {limit} must be at least 1; leave limit out for all problems"
        )
    if labels in ("soft", "progress") and isinstance(strategy, StepRollouts) and (strategy.lazy or strategy.method == "binary"):
        raise UsageError(
            f"label: {labels} labels are shares of right roll-outs, which {'lazy ones' if strategy.lazy else 'a binary search'} would bias; "
            "take --labels hard or first_error, or --method exhaustive without --lazy"
        )
    posed = cast("Task", parse(task, "tasks"))
    posed = replace(posed, problems=posed.problems[:limit])
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(out.with_name(out.name + ".bank.db")))
        sampling = capped(Sampling(temperature=temperature), None, posed.max_tokens)
        with output.progress() as report:
            found = interruptible(_all(posed, policy, strategy, sampling, seed, journal, concurrency, report), resume=resume)
    chains = [LABELS[labels](chain, strategy.k) for one in found for chain in one.chains]
    if not chains:
        raise DataError(f"label: no chain of {task} finished; raise the cap on tokens, or take another policy")
    rows = [exports.stepwise_row(chain) for chain in chains]
    cost: dict[str, JSON] = {"rollouts": sum(one.rollouts for one in found), "tokens": sum(one.tokens for one in found)}
    known = sum(value is not None for chain in chains for value in chain.labels)
    exports.write(
        out,
        "stepwise",
        rows,
        {"task": task, "policy": policy, "strategy": repr(strategy), "labels": labels, "seed": seed, "known": known, **cost},
    )
    print(
        f"ponder: {len(chains)} chains of {len(found)} problems, {known} labels from {cost['rollouts']} roll-outs, {cost['tokens']} tokens",
        file=sys.stderr,
    )
    return found


async def _all(
    task: Task,
    policy_spec: str,
    strategy: StepRollouts | OmegaTree,
    sampling: Sampling,
    seed: int,
    journal: Journal,
    concurrency: int,
    report: Callable[[Progress], None] | None,
) -> list[Findings]:
    policy = parse_policy(policy_spec)
    found: dict[str, Findings] = {}
    store, bank = StudyStore(journal), TableBank(SqliteTable(journal))
    await store.keep_problems(task.fingerprint, task.problems)
    async with AsyncExitStack() as stack:
        if hasattr(policy, "__aenter__"):
            await stack.enter_async_context(policy)  # type: ignore[arg-type]  # checked by the attribute above
        cell = Cell(task, policy, sampling, seed)
        items = iter(task.problems)

        async def worker() -> None:
            for problem in items:
                found[problem.question.id] = await one(problem)
                if report:
                    tokens = sum(finding.tokens for finding in found.values())
                    report(Progress(len(found), len(task.problems), tokens, len(found), 0))

        async def one(problem: Problem) -> Findings:
            judge = Judge(cell, problem, store, again=False)
            outcome = await solve(
                strategy,
                problem.question,
                policy,
                sampling=sampling,
                seed=seed,
                answer=task.answer,
                bank=bank,
                judge=judge.verdicts,
            )
            await judge.keep()
            return labelled(strategy, problem.question.id, outcome)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(task.problems))):
                group.create_task(worker())
    return [found[problem.question.id] for problem in task.problems]
