"""Sample many, keep the one the verifier believes most."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier, batches
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain


@named("best_of_n")
@dataclass(frozen=True, slots=True, repr=False)
class BestOfN:
    """Sample `n` answers, take the one with the highest score (Cobbe et al. 2021, arXiv:2110.14168, section 4).

    Ties go to the sample seen first. Only finished samples that give an answer are scored; one whose score failed is never chosen,
    unless no score came at all: then the first sample is the best guess. Cost: n samples and n scores, `batch` in flight.
    """

    n: int
    verifier: Verifier
    batch: int = 64

    def __post_init__(self) -> None:
        batches(self.n, self.batch)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        best, guessed = -1.0, False
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            finished = [chain for chain, answer in zip(chains, run.answers(chains), strict=True) if answer is not None]
            if finished and not guessed:
                run.propose(finished[0])
                guessed = True
            for chain, score in zip(finished, await run.score(self.verifier, finished), strict=True):
                if score.value is not None and score.value > best:
                    best = score.value
                    run.propose(chain)
