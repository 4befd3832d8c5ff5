"""Best-of-n at every step: the narrowest beam."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.beam import Beam
from ponder.types import Chain


@named("step_best_of_n")
@dataclass(frozen=True, slots=True, repr=False)
class StepBestOfN:
    """Sample `n` next steps, keep the best, go on from it: `beam` of width one (PRM greedy search, Ma et al. 2023, arXiv:2310.10080).

    It ends as soon as a finished chain is the best of its step. The other fields, costs and cases are those of `beam`.
    """

    n: int
    verifier: Verifier
    step: str | int = "line"
    depth: int = 40

    def __post_init__(self) -> None:
        self._beam()

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        await self._beam()(root, run)

    def _beam(self) -> Beam:
        return Beam(1, self.n, self.verifier, self.step, self.depth)
