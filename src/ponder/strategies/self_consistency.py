"""Majority vote over independent samples."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import batches
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.tally import Tally
from ponder.types import Chain


@named("self_consistency")
@dataclass(frozen=True, slots=True, repr=False)
class SelfConsistency:
    """Sample `n` answers, take the most frequent (Wang et al. 2023, arXiv:2203.11171, section 2).

    Ties go to the answer seen first. Truncated, failed and unparsable samples cost but do not vote. Cost: n samples, `batch` of
    them in flight; a proposal follows each batch.
    """

    n: int
    batch: int = 64

    def __post_init__(self) -> None:
        batches(self.n, self.batch)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        tally = Tally()
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            for chain, answer in zip(chains, run.answers(chains), strict=True):
                tally.add(answer, chain)
            if tally.leader:
                run.propose(tally.leader)
