"""Runs a study: every strategy on every problem, through one bank, so that nothing is paid for twice and a resume replays.

Work is cut by problem. For each, the declared slice of whole samples is drawn, then every strategy runs; what they ask for again
comes from the bank. A run is stored when it is finished; one with failed children is done again on the next start.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from ponder.bank import TableBank
from ponder.cli.study import Study, capped
from ponder.core import (
    Ask,
    Attempt,
    Bank,
    Budget,
    Outcome,
    Policy,
    Sampling,
    Strategy,
    Task,
    Until,
    Verifier,
    batches,
    logprobs_needed,
    parts,
)
from ponder.errors import OracleError
from ponder.run import Run, solve
from ponder.sandbox.core import Limits, RunsCode
from ponder.sandbox.rooms import room
from ponder.spec import named, parse, render
from ponder.store import Journal, RunRecord, SqliteTable, StudyStore
from ponder.store.journal import fault
from ponder.types import Chain, Problem, Score, Verdict

BEAT = 1.0
"""Seconds from one word on how far a study is to the next, while no problem is done."""


@named("draw")
@dataclass(frozen=True, slots=True, repr=False)
class Draw:
    """Samples `n` whole answers and proposes none: the rectangular slice that estimators read."""

    n: int

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        for size in batches(self.n, 64):
            await run.extend([root], n=size)


@dataclass(frozen=True, slots=True)
class Cell:
    """One combination of task, policy, sampling and seed: what strategies of a study are compared within."""

    task: Task
    policy: Policy
    sampling: Sampling
    seed: int

    @property
    def key(self) -> str:
        """Identity of the cell, as JSON."""
        info, sampling = self.policy.info, f"{self.sampling.key} max_tokens={self.sampling.max_tokens}"
        body = {
            "task": self.task.name,
            "problems": self.task.fingerprint,
            "policy": info.name,
            "fingerprint": info.fingerprint,
            "sampling": sampling,
            "seed": self.seed,
        }
        if info.capabilities.isdisjoint({"seed", "continue"}):
            body["redraws"] = True  # under a larger cap, as it can neither repeat nor continue a sample (see `ponder.bank`)
        return json.dumps(body, sort_keys=True)


def sampling_of(text: str) -> Sampling:
    """The sampling that `Cell.key` wrote."""
    pairs = dict(pair.split("=") for pair in text.split())
    return Sampling(
        float(pairs["temperature"]), float(pairs["top_p"]), int(pairs["top_k"]), int(pairs["max_tokens"]), int(pairs["logprobs"])
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is. done and total count problems over all cells; failed: children that ended by `error`.

    tokens and samples are those of finished runs as they were charged, and what the others have been given so far.
    """

    done: int
    total: int
    tokens: int
    runs: int
    failed: int
    samples: int = 0


@dataclass(slots=True)
class Seen:
    """A bank that counts what it gives to one run, so that a long one shows that it moves."""

    bank: Bank
    samples: int = 0
    tokens: int = 0

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Ask the bank."""
        lines = await self.bank.sample(policy, asks, until=until, sampling=sampling)
        self.samples += sum(map(len, lines))
        self.tokens += sum(child.steps[-1].usage.completion for line in lines for child in line)
        return lines

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """Ask the bank."""
        return await self.bank.score(verifier, chains, run)


def parse_policy(text: str) -> Policy:
    """A policy from a spec string or the URL of a server."""
    spec = f"openai:{text}" if text.startswith(("http://", "https://")) else text
    return cast("Policy", parse(spec, "policies"))


def parse_strategy(text: str) -> Strategy:
    """A strategy from a spec string."""
    return cast("Strategy", parse(text, "strategies"))


def spare_the_collector() -> None:
    """Look for reference cycles less often: what travels has none, and looking after every 700 new values takes a third of a sample's time."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


class Runner:
    """A study made ready: its specs parsed and checked before anything is opened or spent."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.tasks = [cast("Task", parse(spec, "tasks")) for spec in study.tasks]
        self.tasks = [replace(task, problems=task.problems[: study.limit]) for task in self.tasks]
        self.strategies = [parse_strategy(spec) for spec in study.expanded]
        self.policies = [parse_policy(spec) for spec in study.policies]
        oracles = [strategy for strategy in self.strategies if needs_oracle(strategy)]
        if oracles and not study.allow_oracle:
            raise OracleError(
                f"{oracles[0]!r} lets the grader take part in the search; give --allow-oracle (or allow_oracle = true) if an upper bound is meant"
            )

    def sandbox(self) -> str | None:
        """The tier that will hold model-written code, tried now, before anything is spent; None if none will run.

        Raises `SetupError` (exit code 3) where there is no usable one.
        """
        judges = [task.grader for task in self.tasks] + [part for strategy in self.strategies for part in parts(strategy)]
        tiers = []
        for preload in dict.fromkeys(tuple(getattr(judge, "preload", ())) for judge in judges if isinstance(judge, RunsCode)):
            one = room(preload=preload)
            one.run("", [], Limits())  # starts it: a module that is not there is found now
            tiers.append(one.tier)
        return tiers[0] if tiers else None

    async def open(self, stack: AsyncExitStack, observe: Callable[[Attempt], None]) -> list[Cell]:
        """Open every policy (its own and those inside strategies); returns the cells."""
        inner = [part for strategy in self.strategies for part in parts(strategy)]
        for thing in [*self.policies, *inner]:
            if hasattr(thing, "observer"):
                thing.observer = observe
            if hasattr(thing, "__aenter__"):
                await stack.enter_async_context(thing)  # type: ignore[arg-type]  # checked by the attribute above
        logprobs = logprobs_needed(*self.strategies)
        return [
            Cell(
                task,
                policy,
                replace(capped(sampling, self.study.max_tokens, task.max_tokens), logprobs=max(sampling.logprobs, logprobs)),
                seed,
            )
            for task in self.tasks
            for policy in self.policies
            for sampling in self.study.sampling
            for seed in self.study.seeds
        ]

    async def run(
        self, journal: Journal, bank_journal: Journal | None = None, report: Callable[[Progress], None] | None = None
    ) -> Progress:
        """Run what is not finished. Raises what a policy raises when its engine cannot be used; all that was paid for is kept."""
        spare_the_collector()
        table = SqliteTable(bank_journal or journal)
        attempts: list[Attempt] = []
        async with AsyncExitStack() as stack:
            cells = await self.open(stack, attempts.append)
            worker = Work(self, journal, table, attempts, report, len(cells))
            for task in self.tasks:
                await worker.store.keep_problems(task.fingerprint, task.problems)
            try:
                await worker.all(cells)
            finally:
                await table.keep_attempts(attempts)
                attempts.clear()
        return worker.progress


class Work:
    """The work of a study on an open journal. again: do and judge what is finished once more (from the bank, it costs nothing).

    pause: what waits the seconds between two reports while no problem is done.
    """

    def __init__(
        self,
        runner: Runner,
        journal: Journal,
        table: SqliteTable,
        attempts: list[Attempt],
        report: Callable[[Progress], None] | None,
        cells: int,
        *,
        again: bool = False,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.study, self.strategies = runner.study, runner.strategies
        self.store, self.bank, self.table, self.attempts = StudyStore(journal), TableBank(table), table, attempts
        self.report, self.again, self.pause = report, again, pause
        self.running: list[Seen] = []
        self.finished = {} if again else self.store.finished()
        total = sum(len(task.problems) for task in runner.tasks) * cells // max(1, len(runner.tasks))
        self.progress = Progress(0, total, 0, 0, 0)

    async def all(self, cells: Sequence[Cell]) -> None:
        """Every problem of every cell, `concurrency` of them at a time, in order."""
        items: Iterator[tuple[Cell, Problem]] = ((cell, problem) for cell in cells for problem in cell.task.problems)

        async def worker() -> None:
            for cell, problem in items:
                await self.problem(cell, problem)

        beat = asyncio.create_task(self._beat())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.study.concurrency, self.progress.total)):
                    group.create_task(worker())
        except BaseExceptionGroup as group_error:
            raise _first(group_error) from group_error
        finally:
            beat.cancel()

    async def _beat(self) -> None:
        """Reports now and then, for as long as it is let."""
        while self.report:
            await self.pause(BEAT)
            p = self.progress
            samples, tokens = (sum(getattr(one, name) for one in self.running) for name in ("samples", "tokens"))
            self.report(replace(p, samples=p.samples + samples, tokens=p.tokens + tokens))

    async def problem(self, cell: Cell, problem: Problem) -> None:
        """The slice of one problem, then every strategy on it."""
        todo: list[tuple[Strategy, Budget]] = [(Draw(self.study.slice), Budget())] if self.study.slice else []
        todo += [(strategy, budget) for strategy in self.strategies for budget in self.study.budgets]
        judge = Judge(cell, problem, self.store, again=self.again)
        for strategy, budget in todo:
            name = run_id(cell, problem, strategy, budget)
            if self.finished.get(name, 1) == 0:
                continue
            fault("run-before-solve")
            self.running.append(given := Seen(self.bank))
            outcome = await solve(
                strategy,
                problem.question,
                cell.policy,
                budget=budget,
                sampling=cell.sampling,
                seed=cell.seed,
                answer=cell.task.answer,
                bank=given,
                judge=judge.verdicts if self.study.allow_oracle else None,
            )
            seen = [
                chain
                for event in outcome.events
                if event.kind == "propose" or isinstance(strategy, Draw)
                for chain in event.chains
            ]
            await judge.verdicts(seen)
            await judge.keep()
            correct = outcome.chain is not None and (await judge.verdicts([outcome.chain]))[0].correct
            await self.store.keep_run(record(name, cell, problem, strategy, budget, outcome, correct=correct), outcome)
            self.running = [one for one in self.running if one is not given]
            self._count(outcome)
        self._step()
        if len(self.attempts) >= 1000:
            batch, self.attempts[:] = self.attempts[:], []
            await self.table.keep_attempts(batch)

    def _count(self, outcome: Outcome) -> None:
        p = self.progress
        self.progress = replace(
            p,
            tokens=p.tokens + outcome.spent.usage.tokens,
            samples=p.samples + outcome.spent.samples,
            runs=p.runs + 1,
            failed=p.failed + outcome.failed,
        )

    def _step(self) -> None:
        self.progress = replace(self.progress, done=self.progress.done + 1)
        if self.report:
            self.report(self.progress)


class Judge:
    """The grader of one problem, each chain judged once."""

    def __init__(self, cell: Cell, problem: Problem, store: StudyStore, *, again: bool) -> None:
        self.cell, self.problem, self.store = cell, problem, store
        known = store.verdicts(cell.task.fingerprint, problem.question.id, cell.task.grader.version)
        self.kept = {} if again else known
        self.new: dict[str, Verdict] = {}

    async def verdicts(self, chains: Sequence[Chain]) -> list[Verdict]:
        """One verdict for each chain; one that did not finish by `stop` is not correct, and says why."""
        digests = [verdict_key(chain) for chain in chains]
        unseen = {digest: chain for digest, chain in zip(digests, chains, strict=True) if digest not in self.kept}
        ended = {digest: chain for digest, chain in unseen.items() if chain.finish == "stop"}
        texts = [chain.text for chain in ended.values()]
        found = (
            await self.cell.task.grader.grade(self.problem, [self.cell.task.answer(text) for text in texts], texts)
            if texts
            else []
        )
        new = dict(zip(ended, found, strict=True))
        new |= {digest: Verdict(False, None, str(chain.finish)) for digest, chain in unseen.items() if chain.finish != "stop"}
        self.kept |= new
        self.new |= new
        return [self.kept[digest] for digest in digests]

    async def keep(self) -> None:
        """Store what was newly judged."""
        if self.new:
            task = self.cell.task
            await self.store.keep_verdicts(task.fingerprint, self.problem.question.id, task.grader.version, self.new)
            self.new = {}


def verdict_key(chain: Chain) -> str:
    """Digest under which a verdict is kept; how the chain ended is part of it, as a cut text must not inherit a whole one's."""
    return chain.digest if chain.finish == "stop" else f"{chain.digest}/{chain.finish}"


def needs_oracle(strategy: Strategy) -> bool:
    """Whether the reference takes part in the strategy's search: a grader, or right answers written into a fake verifier."""
    return any(getattr(part, "__spec__", "") in ("oracle", "noisy") for part in parts(strategy))


def run_id(cell: Cell, problem: Problem, strategy: Strategy, budget: Budget) -> str:
    """Identity of a run: everything that may change what it does."""
    prints = [str(part.fingerprint) for part in parts(strategy) if hasattr(part, "fingerprint")]
    prints += [str(part.info.fingerprint) for part in parts(strategy) if hasattr(part, "info")]
    body = [cell.key, problem.question.id, render(strategy, full=True), prints, str(budget)]
    return hashlib.blake2b(json.dumps(body).encode(), digest_size=16).hexdigest()


def record(
    name: str, cell: Cell, problem: Problem, strategy: Strategy, budget: Budget, outcome: Outcome, *, correct: bool
) -> RunRecord:
    """The stored form of a finished run."""
    return RunRecord(
        name,
        cell.key,
        problem.question.id,
        repr(strategy),
        str(budget),
        verdict_key(outcome.chain) if outcome.chain else None,
        outcome.answer,
        correct,
        outcome.spent,
        outcome.oracle,
        outcome.failed,
        outcome.exhausted,
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is not just a cancellation that followed from it."""
    for error in group.exceptions:
        inner = _first(error) if isinstance(error, BaseExceptionGroup) else error
        if not isinstance(inner, asyncio.CancelledError):
            return inner
    return group.exceptions[0]


def folder(study: Study, out: Path | None) -> Path:
    """Where a study lives."""
    return out or Path("studies") / study.name
