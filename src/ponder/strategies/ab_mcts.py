"""Adaptive branching tree search: at every node the choice between going wider and going deeper is a bet on what was seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ponder.core import Verifier, batches
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import UNSCORED, Choice, check, check_final, judged, until
from ponder.types import Chain

if TYPE_CHECKING:
    from random import Random

MOST = 1e6  # the rejection that draws from a Beta never ends at infinity


@named("ab_mcts")
@dataclass(frozen=True, slots=True, repr=False)
class AbMcts:
    """Thompson sampling between a new child and those there (AB-MCTS-A with Beta posteriors, Inoue et al. 2025, arXiv:2503.04412, 3.3).

    Each walk starts at the root. At a node it draws from two posteriors: of the values that new children of this node had (wider), and of
    all values found below its children, their own left out (deeper). If the first is larger, or there is no child to go to, a child is
    sampled here; otherwise it goes to the child whose own posterior, of the values found at and below it, gives the largest draw. A
    posterior is Beta(prior + sum of values, prior + sum of 1 - values).

    Deviation: the paper's nodes are whole answers that are refined; here a child is one step more (`step`), so that "deeper" goes on with a
    chain. Children that differ in white space alone are one. A finished chain, or one that was cut or ended without an answer (value 0), is
    not gone to again; what failed or has no score counts nowhere. parallel: walks drawn from one state of the tree and sampled together.
    accept: the search ends once a finished chain has this value. Cost: up to `simulations` samples and scores.
    """

    simulations: int
    verifier: Verifier
    prior: float = 0.5
    parallel: int = 1
    step: str | int = "line"
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        check("ab_mcts", simulations=self.simulations, parallel=self.parallel)
        check_final("ab_mcts", self.final, accept=self.accept)
        until(self.step)
        if not 0 < self.prior <= MOST:
            raise UsageError(f"ab_mcts: prior = {self.prior} must be above 0, and at most {MOST:g}")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        await self.tree(root, run)

    async def tree(self, root: Chain, run: Run) -> Branch:
        """Search, propose on the way, and give the tree."""
        tree, choice, random = Branch(root), Choice(self.final, self.accept), run.random(root, "ab_mcts")
        for size in batches(self.simulations, self.parallel):
            if choice.settled:
                break
            parents = [tree.walk(random, self.prior) for _ in range(size)]
            children = await run.extend([parent.chain for parent in parents], until=until(self.step))
            found = await judged(run, self.verifier, children)
            choice.add(run, found)
            worth = {id(one.chain): one.value for one in found}
            for parent, child in zip(parents, children, strict=True):
                cut = 0.0 if child.finish in ("stop", "length") else UNSCORED
                value = worth.get(id(child), cut)
                if value != UNSCORED:
                    parent.add(child, value)
        return tree


@dataclass(slots=True)
class Seen:
    """Values in [0, 1] that a posterior has seen."""

    sum: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more."""
        self.sum += value
        self.count += 1

    def draw(self, random: Random, prior: float) -> float:
        """A draw from Beta(prior + sum, prior + count - sum)."""
        return random.betavariate(prior + self.sum, prior + self.count - self.sum)


@dataclass(eq=False, slots=True)
class Branch:
    """A node: what its new children were worth, what was found below them, and what was found at and below itself."""

    chain: Chain
    parent: Branch | None = None
    children: list[Branch] = field(default_factory=list)
    wider: Seen = field(default_factory=Seen)
    deeper: Seen = field(default_factory=Seen)
    own: Seen = field(default_factory=Seen)

    def walk(self, random: Random, prior: float) -> Branch:
        """The node at which the next child is to be sampled."""
        node = self
        while True:
            inner = [child for child in node.children if child.chain.finish is None]
            wide, deep = node.wider.draw(random, prior), node.deeper.draw(random, prior)
            if not inner or wide >= deep:
                return node
            draws = [(child.own.draw(random, prior), -at) for at, child in enumerate(inner)]
            node = inner[-max(draws)[1]]

    def add(self, chain: Chain, value: float) -> None:
        """A new child of this value; a copy of one that is there says only what new children are worth."""
        self.wider.add(value)
        if any(_words(child.chain) == _words(chain) for child in self.children):
            return
        child = Branch(chain, self)
        self.children.append(child)
        for node in child.path():
            node.own.add(value)
            if node not in (child, self):
                node.deeper.add(value)

    def path(self) -> Iterator[Branch]:
        """This node and those above it."""
        node: Branch | None = self
        while node is not None:
            yield node
            node = node.parent


def _words(chain: Chain) -> tuple[list[str], str | None]:
    """What makes a child another child."""
    return chain.text.split(), chain.finish
