"""Diverse verifier tree search: several narrow searches that cannot crowd each other out."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, best, check, check_final, judged, until
from ponder.types import Chain


@named("dvts")
@dataclass(frozen=True, slots=True, repr=False)
class Dvts:
    """`trees` independent greedy searches, each of which samples `branch` next steps and keeps its best (Beeching et al. 2024, section DVTS).

    A tree ends when its best is finished. The paper's n is trees * branch. All trees go on together, so one request serves them all; each has
    children of its own even where two stand at the same prefix. The finished chains of all trees are candidates of `final`. The other
    fields, costs and cases are those of `beam`. Source: "Scaling test-time compute with open models", Hugging Face 2024.
    """

    trees: int
    branch: int
    verifier: Verifier
    step: str | int = "line"
    depth: int = 40
    final: str = "max"

    def __post_init__(self) -> None:
        check("dvts", trees=self.trees, branch=self.branch, depth=self.depth)
        check_final("dvts", self.final)
        until(self.step)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, tips = Choice(self.final), [root] * self.trees
        for _ in range(self.depth):
            tips = [tip for tip in tips if tip.finish is None]
            if not tips:
                return
            children = await run.extend(tips, n=self.branch, until=until(self.step))
            found = await judged(run, self.verifier, children)
            choice.add(run, found)
            known = {id(one.chain): one for one in found}
            families = [children[at : at + self.branch] for at in range(0, len(children), self.branch)]
            alive: list[list[Worth]] = [[known[id(child)] for child in family if id(child) in known] for family in families]
            tips = [best(family, 1)[0].chain for family in alive if family]
