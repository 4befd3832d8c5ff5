"""Reward-balanced expansion: every open prefix gets as many children as its share of the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import Choice, Worth, check, check_final, judged, until
from ponder.types import Chain


@named("rebase")
@dataclass(frozen=True, slots=True, repr=False)
class Rebase:
    """Share `n` chains among the open prefixes by the softmax of their values (REBASE, Wu et al. 2024, arXiv:2408.00724, section 3.2).

    A prefix of value R gets W = B * exp(R / temperature) / sum exp(R' / temperature) children, where B is what is left of n: less one for
    each chain that has finished, was cut or failed. Deviation: W is rounded so that the sum is B (largest remainders, ties to what was
    seen first), where the paper rounds each. Equal prefixes share as many parts as there are of them.

    Cost: at most n samples and scores a step. It ends when n chains have ended. The other fields and cases are those of `beam`.
    """

    n: int
    verifier: Verifier
    temperature: float = 0.2
    step: str | int = "line"
    depth: int = 40
    final: str = "weighted_vote"

    def __post_init__(self) -> None:
        check("rebase", n=self.n, depth=self.depth)
        check_final("rebase", self.final)
        until(self.step)
        if not self.temperature > 0:
            raise UsageError(f"rebase: temperature = {self.temperature} must be above 0")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, tips, left = Choice(self.final), [Worth(root)], self.n
        for _ in range(self.depth):
            shares = balance([tip.value for tip in tips], left, self.temperature)
            parents = [tip.chain for tip, share in zip(tips, shares, strict=True) for _ in range(share)]
            if not parents:
                return
            found = await judged(run, self.verifier, await run.extend(parents, until=until(self.step)))
            choice.add(run, found)
            tips = [one for one in found if one.live]
            left -= len(parents) - len(tips)


def balance(values: Sequence[float], parts: int, temperature: float) -> list[int]:
    """`parts` divided by the softmax of values / temperature, in whole numbers of that sum."""
    if not values:
        return []
    top = max(values)
    weights = [exp((value - top) / temperature) for value in values]
    exact = [parts * weight / sum(weights) for weight in weights]
    whole = [int(share) for share in exact]
    by_rest = sorted(range(len(values)), key=lambda at: whole[at] - exact[at])
    for at in by_rest[: parts - sum(whole)]:
        whole[at] += 1
    return whole
