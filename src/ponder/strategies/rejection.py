"""Sample until the verifier accepts; abstain if it never does."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier, batches
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain


@named("rejection")
@dataclass(frozen=True, slots=True, repr=False)
class Rejection:
    """Sample up to `n` answers, take the first whose score is at least `threshold`, else give none (Stroebl et al. 2024, arXiv:2411.17501).

    An abstention counts as not correct in an accuracy and is reported beside it. Cost: samples and scores up to and including the
    accepting batch; a proposal is final. A failed score does not accept.
    """

    n: int
    verifier: Verifier
    threshold: float = 0.5
    batch: int = 1

    def __post_init__(self) -> None:
        batches(self.n, self.batch)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            finished = [chain for chain, answer in zip(chains, run.answers(chains), strict=True) if answer is not None]
            for chain, score in zip(finished, await run.score(self.verifier, finished), strict=True):
                if score.value is not None and score.value >= self.threshold:
                    run.propose(chain)
                    return
