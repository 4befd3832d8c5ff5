"""Start many, take the one that ends first."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import batches
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain


@named("first_finish")
@dataclass(frozen=True, slots=True, repr=False)
class FirstFinish:
    """Start `n` answers, take the one that finishes first and stop the others (Agarwal et al. 2025, arXiv:2505.18149).

    "First" is the fewest tokens, then the lowest index: not the clock, so that it can be replayed. Cost: each of the n is charged
    the tokens it has written by then (`Run.race`). A sample that finishes without an answer does not win.
    """

    n: int

    def __post_init__(self) -> None:
        batches(self.n, self.n)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        for chain in await run.race(root, n=self.n):
            if run.answers([chain]) != [None]:
                run.propose(chain)
