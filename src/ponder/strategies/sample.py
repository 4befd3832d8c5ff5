"""One chain of thought: the baseline that every curve starts from."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain


@named("sample")
@dataclass(frozen=True, slots=True, repr=False)
class Sample:
    """Sample one answer and take it (Wei et al. 2022, arXiv:2201.11903). Greedy when the sampling's temperature is 0.

    Cost: one sample. A truncated or failed sample is no answer.
    """

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        [chain] = await run.extend([root])
        if run.answers([chain]) != [None]:
            run.propose(chain)
