"""Best-first search: go on from whichever prefix looks best by now, wherever it stands in the tree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from math import inf

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import UNSCORED, Choice, Worth, best, check, check_final, judged, until
from ponder.types import Chain


@named("best_first")
@dataclass(frozen=True, slots=True, repr=False)
class BestFirst:
    """Expand the best open prefix, `branch` next steps at a time, until a finished chain is the best of all (Koh et al. 2024, arXiv:2407.01476).

    The order is that of value - cost * tokens written so far: with `cost` above 0 it is the f = g + h of A* with signs turned, tokens
    being the path's cost and the guide the heuristic (Q*, Wang et al. 2024, arXiv:2406.14283); the finished chain that comes first is then the
    best by that measure as far as the guide never believes too little. It ends when `finished` chains came first, after `expansions`, when
    nothing is open, or when a finished chain has the value `accept`. parallel: as many are expanded together, as far as no finished chain
    comes before them. Equal prefixes are expanded once. Ties go to what was seen first; what has no score
    comes last, whatever it cost.

    Cost: up to expansions * branch samples and scores. The other fields and cases are those of `beam`.
    """

    expansions: int
    branch: int
    verifier: Verifier
    cost: float = 0.0
    finished: int = 1
    parallel: int = 1
    step: str | int = "line"
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        check("best_first", expansions=self.expansions, branch=self.branch, finished=self.finished, parallel=self.parallel)
        check_final("best_first", self.final, accept=self.accept)
        until(self.step)
        if not 0 <= self.cost < inf:
            raise UsageError(f"best_first: cost = {self.cost} must be at least 0, and finite")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, queue, seen = Choice(self.final, self.accept), [Worth(root)], {root.digest}
        left, wanted = self.expansions, self.finished
        while left and not choice.settled:
            queue = best(queue, len(queue))
            first = list(takewhile(lambda one: not one.live, queue))
            opened = list(takewhile(lambda one: one.live, queue[len(first) :]))[: min(self.parallel, left)]
            wanted -= len(first)
            if wanted <= 0 or not opened:
                return
            queue = queue[len(first) + len(opened) :]
            parents = [one.chain for one in opened]
            left -= len(parents)
            children = await judged(run, self.verifier, await run.extend(parents, n=self.branch, until=until(self.step)))
            choice.add(run, children)
            for one in children:
                if not one.live or one.chain.digest not in seen:
                    seen.add(one.chain.digest)
                    cost = self.cost * one.chain.usage.completion
                    queue.append(Worth(one.chain, one.value - cost if one.value != UNSCORED else -inf))
