"""Tree of thoughts: propose several next thoughts, evaluate them, go on in breadth or in depth."""

from __future__ import annotations

from dataclasses import dataclass

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, best, check, check_final, judged, until
from ponder.types import Chain


@named("tree_of_thoughts")
@dataclass(frozen=True, slots=True, repr=False)
class TreeOfThoughts:
    """Breadth-first or depth-first search over thoughts (Yao et al. 2023, arXiv:2305.10601, algorithms 1 and 2).

    search: "bfs" keeps the `width` best open states of each depth; "dfs" goes into the best child first and comes back from dead ends.
    A state is a dead end when its value is at most `prune`, in both (the paper's v_th). The evaluator is the verifier: the paper's value
    prompt is `judge(prompt="tot_value@1")`, its vote prompt `ballot()`; a process reward model will do as well.

    It ends when no state is left, after `expansions` states were expanded, when a finished chain has the value `accept`, or, in depth, when
    `finished` different chains have finished with an answer. Equal states of one expansion are kept once.

    Deviation: thoughts are sampled independently at the policy's temperature (the paper's first way), not proposed in one
    list. Cost: up to expansions * branch samples and scores. Candidates are chosen from by `final`; cut and failed chains: `steps.judged`.
    """

    branch: int
    verifier: Verifier
    search: str = "bfs"
    width: int = 5
    prune: float = 0.0
    expansions: int = 100
    finished: int = 1
    step: str | int = "line"
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        counts = {"branch": self.branch, "width": self.width, "expansions": self.expansions, "finished": self.finished}
        check("tree_of_thoughts", **counts)
        check_final("tree_of_thoughts", self.final, accept=self.accept)
        until(self.step)
        if self.search not in ("bfs", "dfs"):
            raise UsageError(f"tree_of_thoughts: search = {self.search!r} must be bfs or dfs")
        if not -1.0 <= self.prune < 1.0:
            raise UsageError(
                f"tree_of_thoughts: prune = {self.prune} must lie in [-1, 1); below 0 prunes nothing that has a value"
            )

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, states = Choice(self.final, self.accept), [Worth(root)]
        left, wanted = self.expansions, self.finished
        while states and left and not choice.settled:
            now, later = (states[:left], []) if self.search == "bfs" else (states[:1], states[1:])
            left -= len(now)
            children = await run.extend([state.chain for state in now], n=self.branch, until=until(self.step))
            found = await judged(run, self.verifier, children)
            choice.add(run, found)
            ranked = best(found, len(found))
            promising = [one for one in ranked if one.live and one.value > self.prune]
            if self.search == "bfs":
                states = promising[: self.width]
            else:
                wanted -= sum(not one.live for one in ranked)
                states = promising + later if wanted > 0 else []
