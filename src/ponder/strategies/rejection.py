"""Sample until the verifier accepts; abstain if it never does, or give the best there was."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier, batches
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain


@named("rejection")
@dataclass(frozen=True, slots=True, repr=False)
class Rejection:
    """Sample up to `n` answers, take the first whose score is at least `threshold`, else give none (Stroebl et al. 2024, arXiv:2411.17501).

    An abstention counts as not correct in an accuracy and is reported beside it. otherwise="best": where none is accepted, the sample of the
    highest score, ties to what was seen first: best-of-n that stops. It proposes as it goes, and where no score came at all the first answer stands.
    Cost: samples and scores up to and including the accepting batch; of "abstain" a proposal is final. A failed score does not accept.
    """

    n: int
    verifier: Verifier
    threshold: float = 0.5
    batch: int = 1
    otherwise: str = "abstain"

    def __post_init__(self) -> None:
        batches(self.n, self.batch)
        if self.otherwise not in ("abstain", "best"):
            raise UsageError(f"rejection: otherwise = {self.otherwise!r} must be 'abstain' or 'best'")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        best: float | None = None
        for size in batches(self.n, self.batch):
            chains = await run.extend([root], n=size)
            finished = [chain for chain, answer in zip(chains, run.answers(chains), strict=True) if answer is not None]
            if finished and best is None and self.otherwise == "best":
                best = -1.0
                run.propose(finished[0])
            for chain, score in zip(finished, await run.score(self.verifier, finished), strict=True):
                if score.value is not None and score.value >= self.threshold:
                    run.propose(chain)
                    return
                if best is not None and score.value is not None and score.value > best:
                    best = score.value
                    run.propose(chain)
