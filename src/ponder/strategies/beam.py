"""Beam search over steps: keep the few prefixes that a guide believes in, and go on from those."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, best, check, check_final, judged, until
from ponder.types import Chain


@named("beam")
@dataclass(frozen=True, slots=True, repr=False)
class Beam:
    """Keep the `width` best prefixes after each step, sample `branch` next steps of each (Snell et al. 2024, arXiv:2408.03314, 5.2).

    It starts with width * branch first steps. A finished chain stays in the beam as long as it is among the best, and the search ends
    when all of the beam are finished, or after `depth` steps; every chain that finished on the way is a candidate, chosen from by `final`.
    Deviation: equal prefixes take one place of the beam (`distinct=False`: as many as there are, as in the paper).

    step: "line", "paragraph", "sentence", or a number of tokens. Cut, failed and empty chains: see `steps.judged`. Cost: the samples of
    all branches, dropped ones too, and a score for each different one; children of one prefix are asked for together.
    """

    width: int
    branch: int
    verifier: Verifier
    step: str | int = "line"
    depth: int = 40
    final: str = "max"
    distinct: bool = True

    def __post_init__(self) -> None:
        check("beam", width=self.width, branch=self.branch, depth=self.depth)
        check_final("beam", self.final)
        until(self.step)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, beam = Choice(self.final), [Worth(root)]
        for depth in range(self.depth):
            parents = [one.chain for one in beam if one.live]
            if not parents:
                return
            n = self.branch if depth else self.width * self.branch
            children = await judged(run, self.verifier, await run.extend(parents, n=n, until=until(self.step)))
            choice.add(run, children)
            beam = best([one for one in beam if not one.live] + children, self.width, distinct=self.distinct)
