"""Rationales for GenRM: written by a policy that sees a right answer, kept where they end in the grader's verdict, in a bank of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from ponder.bank import TableBank
from ponder.cli.main import interruptible
from ponder.cli.runner import parse_policy
from ponder.core import Sampling
from ponder.learners.datasets import Sample
from ponder.learners.genrm import Example, rationales
from ponder.run import Run, solve
from ponder.store import Journal, SqliteTable
from ponder.types import Chain, Question
from ponder.verifiers.judge import Form


@dataclass(frozen=True, slots=True)
class Writing:
    """How rationales are written: by whom, how many of an answer, how many of those are kept, and with which words."""

    writer: str
    n: int
    most: int
    asking: Form
    guided: Form
    max_tokens: int


def write(samples: Sequence[Sample], how: Writing, bank: Path, *, resume: str) -> tuple[list[Example], int]:
    """Rationales for samples of problems that have a right sample, which is the reference, and the tokens that took, kept in `bank`."""
    references: dict[str, str] = {}
    for sample in samples:
        if sample.correct:
            references.setdefault(sample.problem, sample.text)
    judged = [sample for sample in samples if sample.problem in references]
    left = len(samples) - len(judged)
    if left:
        print(f"ponder: {left} samples of problems without a right one get no rationale", file=sys.stderr)
    with Journal(bank) as journal:
        return interruptible(_all(judged, references, how, journal), resume=resume)


async def _all(
    samples: Sequence[Sample], references: dict[str, str], how: Writing, journal: Journal
) -> tuple[list[Example], int]:
    found: list[Example] = []
    policy = parse_policy(how.writer)

    @dataclass(frozen=True)
    class Write:
        async def __call__(self, root: Chain, run: Run) -> None:
            found.extend(await rationales(samples, run, how.asking, how.guided, references, n=how.n, most=how.most))

    async with AsyncExitStack() as stack:
        if hasattr(policy, "__aenter__"):
            await stack.enter_async_context(policy)  # type: ignore[arg-type]  # checked by the attribute above
        sampling = Sampling(max_tokens=how.max_tokens)
        bank = TableBank(SqliteTable(journal))
        spent = (await solve(Write(), Question("rationales", ()), policy, sampling=sampling, bank=bank)).spent.usage
    return found, spent.prompt + spent.tokens
