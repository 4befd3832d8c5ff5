"""The declared slice of a study as arrays, and strategies tried on its bank: what an allocator chooses from.

Everything goes through a run on the study's own bank: what is banked is replayed at no cost, and what is not (scores of a guide that the study
did not use, the steps of a search) is paid for, within what the purse allows, and kept there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from ponder.bank import TableBank
from ponder.cli.ledger import Ledger, OverSpent, Purse
from ponder.cli.runner import Cell, Runner, parse_strategy, spare_the_collector, verdict_key
from ponder.cli.study import Study, read
from ponder.core import Attempt, Budget, Outcome, Strategy, Verifier, batches, logprobs_needed
from ponder.errors import StudyError
from ponder.run import Run, solve
from ponder.scaling.orders import Guide, Pools
from ponder.spec import render
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import Chain, Problem, Score, Verdict

IN_FLIGHT = 64  # questions at a time


@dataclass(frozen=True, slots=True)
class Place:
    """One question under one seed. number: of the question, over all studies: the same text is the same question, wherever it stands."""

    number: int
    problem: Problem
    cell: Cell


@dataclass(frozen=True, slots=True, repr=False)
class Sliced:
    """Draws the slice and has it scored by every guide; keeps what it saw."""

    n: int
    guides: tuple[Verifier, ...]
    chains: list[Chain] = field(default_factory=list)
    answers: list[str | None] = field(default_factory=list)
    scores: list[list[Score]] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"the slice of {self.n} samples under {', '.join(map(render, self.guides)) or 'no guide'}"

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        for size in batches(self.n, 64):
            self.chains.extend(await run.extend([root], n=size))
        self.answers.extend(run.answers(self.chains))
        finished = [chain for chain, answer in zip(self.chains, self.answers, strict=True) if answer is not None]
        for guide in self.guides:
            found = iter(await run.score(guide, finished))
            self.scores.append([next(found) if answer is not None else Score(None, error="no answer") for answer in self.answers])


class Shop:
    """A study's bank, open: its questions under every seed, its policies and guides, the searches to be tried. Made by `opened`."""

    def __init__(
        self, study: Study, runner: Runner, cells: Sequence[Cell], store: StudyStore, ledger: Ledger, numbers: dict[str, int]
    ) -> None:
        self.study, self.runner, self.cells, self.store, self.ledger = study, runner, cells, store, ledger
        texts = (Chain(problem.question.messages).digest for task in runner.tasks for problem in task.problems)
        self.numbers = [numbers.setdefault(text, len(numbers)) for text in texts]
        self.verdicts: dict[tuple[str, str, str], dict[str, Verdict]] = {}

    def places(self, policy: int = 0) -> list[Place]:
        """Questions under every seed, in the order of the study; those of one question stand together."""
        mine = [cell for cell in self.cells if cell.policy is self.runner.policies[policy]]
        numbered = [(task, problem) for task in self.runner.tasks for problem in task.problems]
        return [
            Place(number, problem, cell)
            for number, (task, problem) in zip(self.numbers, numbered, strict=True)
            for cell in mine
            if cell.task is task
        ]

    async def slices(self, policy: int, guides: Sequence[Verifier]) -> Pools:
        """The slice of every place, scored by these guides. Raises `OverSpent` where scores that are not banked cannot be paid for."""
        places = self.places(policy)
        seen = [Sliced(self.study.slice, tuple(guides)) for _ in places]
        await _all([partial(self.solved, one, place) for one, place in zip(seen, places, strict=True)])
        shape = (len(places), self.study.slice)
        correct, answers, tokens = np.zeros(shape, np.bool_), np.full(shape, -1), np.zeros(shape)
        told = [Guide(np.full(shape, np.nan), np.zeros(shape)) for _ in guides]
        for row, (one, place) in enumerate(zip(seen, places, strict=True)):
            ids: dict[str, int] = {}
            verdicts = await self.judged(one.chains, place)
            for at, (chain, answer, verdict) in enumerate(zip(one.chains, one.answers, verdicts, strict=True)):
                tokens[row, at] = chain.usage.completion
                if answer is not None:
                    answers[row, at] = ids.setdefault(answer, len(ids))
                    correct[row, at] = verdict.correct
            for guide, scores in zip(told, one.scores, strict=True):
                guide.scores_R_N[row] = [np.nan if score.value is None else score.value for score in scores]
                guide.scored_R_N[row] = [score.usage.tokens for score in scores]
        by_name = dict(zip(map(render, guides), told, strict=True))
        return Pools(np.array([place.number for place in places]), correct, answers, tokens, by_name)

    async def tried(self, strategy: Strategy, places: Sequence[Place]) -> list[tuple[bool, int] | None]:
        """Whether a strategy is right at each place, and its tokens; None where it could not be paid for."""
        found: list[tuple[bool, int] | None] = [None] * len(places)

        async def one(at: int, place: Place) -> None:
            try:
                outcome = await self.solved(strategy, place)
            except OverSpent:
                return
            right = outcome.chain is not None and (await self.judged([outcome.chain], place))[0].correct
            found[at] = right, outcome.spent.usage.tokens

        await _all([partial(one, at, place) for at, place in enumerate(places)])
        return found

    async def solved(self, strategy: Strategy, place: Place) -> Outcome:
        """One run on the bank, as the study would make it."""
        cell, question = place.cell, place.problem.question
        how = {"sampling": cell.sampling, "seed": cell.seed, "answer": cell.task.answer, "bank": self.ledger}
        return await solve(strategy, question, cell.policy, **how)  # type: ignore[arg-type]  # named for brevity, typed one by one in solve

    async def judged(self, chains: Sequence[Chain], place: Place) -> list[Verdict]:
        """The grader's verdicts, those of the study where it has them."""
        task, problem = place.cell.task, place.problem
        key = task.fingerprint, problem.question.id, task.grader.version
        if key not in self.verdicts:
            self.verdicts[key] = self.store.verdicts(*key)
        kept = self.verdicts[key]
        new = {verdict_key(chain): chain for chain in chains if verdict_key(chain) not in kept}
        ended = {key: chain for key, chain in new.items() if chain.finish == "stop"}
        texts = [chain.text for chain in ended.values()]
        if texts:
            found = await task.grader.grade(problem, [task.answer(text) for text in texts], texts)
            kept |= zip(ended, found, strict=True)
        kept |= {key: Verdict(False, None, str(chain.finish)) for key, chain in new.items() if chain.finish != "stop"}
        return [kept[verdict_key(chain)] for chain in chains]


@asynccontextmanager
async def opened(
    folder: Path, guides: Sequence[str], searches: Sequence[str], purse: Purse, numbers: dict[str, int]
) -> AsyncIterator[Shop]:
    """The bank of a study, held for writing; `shop.runner.strategies` are carriers of the guides, then the searches.

    numbers: of the questions met so far, by text; those of this study are put into it.

    Raises `StudyError` for a study without a slice, with several samplings, or whose samples were banked without what a guide reads.
    """
    study = read(folder / "study.resolved.toml")
    if not study.slice:
        raise StudyError(f"{folder}: has no slice of whole samples to choose from; run it with --slice 64")
    if len(study.sampling) > 1:
        raise StudyError(f"{folder}: has {len(study.sampling)} samplings; a card is for one, so tune a study of one")
    banked = logprobs_needed(*map(parse_strategy, study.expanded))
    carriers = [f"best_of_n(n=1, verifier={guide})" for guide in guides]
    runner = Runner(study.model_copy(update={"strategies": (*carriers, *searches), "budgets": (Budget(),)}))
    needed = logprobs_needed(*runner.strategies)
    if needed > banked:
        raise StudyError(
            f"{folder}: its samples were banked with {banked} alternatives for each token, and a guide reads {needed}; add a strategy with "
            "that guide to the study and run it again"
        )
    spare_the_collector()
    attempts: list[Attempt] = []
    async with AsyncExitStack() as stack:
        journal = stack.enter_context(Journal(folder / "study.db"))
        bank = stack.enter_context(Journal(Path(study.bank))) if study.bank else journal
        table = SqliteTable(bank)
        cells = await runner.open(stack, attempts.append)
        cells = [
            replace(cell, sampling=replace(cell.sampling, logprobs=max(study.sampling[0].logprobs, banked))) for cell in cells
        ]
        try:
            yield Shop(study, runner, cells, StudyStore(journal), Ledger(TableBank(table), purse), numbers)
        finally:
            await table.keep_attempts(attempts)


def guides_of(shop: Shop, count: int) -> list[Verifier]:
    """The guides that the first so many carriers carry."""
    return [cast("Verifier", carrier.verifier) for carrier in shop.runner.strategies[:count]]  # type: ignore[attr-defined]  # best_of_n has one


async def _all(work: Sequence[Callable[[], Awaitable[object]]]) -> None:
    """So many at a time, in order; the first error ends the others and is raised alone."""
    gate = asyncio.Semaphore(IN_FLIGHT)

    async def one(job: Callable[[], Awaitable[object]]) -> None:
        async with gate:
            await job()

    tasks = [asyncio.ensure_future(one(job)) for job in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
