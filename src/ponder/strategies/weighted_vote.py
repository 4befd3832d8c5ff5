"""Majority vote in which each sample weighs as much as the verifier believes it."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier, batches
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.tally import Tally
from ponder.types import Chain


@named("weighted_vote")
@dataclass(frozen=True, slots=True, repr=False)
class WeightedVote:
    """Sample `n` answers, take the one with the largest sum of scores (Li et al. 2023, arXiv:2206.02336, section 3).

    Ties go to the answer seen first. A sample whose score failed does not vote. Cost: n samples and n scores, `batch` in flight.
    """

    n: int
    verifier: Verifier
    batch: int = 64

    def __post_init__(self) -> None:
        batches(self.n, self.batch)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        tally = Tally()
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            voters = [(chain, answer) for chain, answer in zip(chains, run.answers(chains), strict=True) if answer is not None]
            scores = await run.score(self.verifier, [chain for chain, _ in voters])
            for (chain, answer), score in zip(voters, scores, strict=True):
                if score.value is not None:
                    tally.add(answer, chain, score.value)
            if tally.leader:
                run.propose(tally.leader)
