"""Majority vote that stops when the leader can hardly be caught."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from ponder.core import batches
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.tally import Tally
from ponder.types import Chain


@named("adaptive_consistency")
@dataclass(frozen=True, slots=True, repr=False)
class AdaptiveConsistency:
    """Vote until P(leader beats runner-up | votes) reaches `threshold` (Aggarwal et al. 2023, arXiv:2305.11860, Beta criterion).

    The votes of the two front runners give Beta(v1 + 1, v2 + 1) over the leader's share of them. Deviation: it is looked at after
    every `batch` samples instead of after each, so that they can be in flight together; all of a batch is charged.
    """

    n: int
    threshold: float = 0.95
    batch: int = 4

    def __post_init__(self) -> None:
        batches(self.n, self.batch)
        if not 0.5 < self.threshold < 1.0:
            raise UsageError(f"adaptive_consistency: threshold {self.threshold} must lie between 0.5 and 1, both excluded")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        tally = Tally()
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            for chain, answer in zip(chains, run.answers(chains), strict=True):
                tally.add(answer, chain)
            if tally.leader:
                run.propose(tally.leader)
                first, second = (*sorted(map(int, tally.votes.values()), reverse=True), 0)[:2]
                if ahead(first, second) >= self.threshold:
                    return


def ahead(first: int, second: int) -> float:
    """P(p > 1/2) for p ~ Beta(first + 1, second + 1), exactly: a binomial tail, as both parameters are whole."""
    flips = first + second + 1
    tail: int = sum(comb(flips, heads) for heads in range(first + 1))
    return tail / (1 << flips)
