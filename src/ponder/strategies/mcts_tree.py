"""The tree of a Monte-Carlo tree search: visits, values and priors, and what is read off them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import exp, inf, log, sqrt

from ponder.errors import UsageError
from ponder.strategies.steps import Worth
from ponder.types import Chain, Step


@dataclass(eq=False, slots=True)
class Node:
    """A prefix in the tree. value: its own; total / visits: the mean of all found here and below. closed: nothing is left to walk to.

    busy: something is in flight here or below, and every other leaf below is closed. Nothing recurses: trees grow as deep as a chain has steps.
    """

    chain: Chain
    parent: Node | None = None
    prior: float = 1.0
    children: list[Node] = field(default_factory=list)
    value: float = 0.0
    visits: int = 0
    total: float = 0.0
    flying: int = 0
    closed: bool = False
    busy: bool = False
    answer: Worth | None = None

    def urge(self, rule: str, c: float) -> float:
        """How much a walk is drawn to this child; what is in flight counts as visits of value 0."""
        visits, above = self.visits + self.flying, self.parent.visits + self.parent.flying if self.parent else 0
        mean = self.total / visits if visits else 0.0
        if rule == "puct":
            return mean + c * self.prior * sqrt(above) / (1 + visits)
        return mean + c * sqrt(log(above) / visits) if visits else inf

    def path(self) -> Iterator[Node]:
        """This node and those above it."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def fly(self, by: int) -> None:
        """Add a virtual loss on the way here, or take it back."""
        for node in self.path():
            node.flying += by
            node.busy = node.flying > 0 and all(child.closed or child.busy for child in node.children)

    def back_up(self, value: float) -> None:
        """Count a value found here for all above."""
        for node in self.path():
            node.visits += 1
            node.total += value

    def close(self) -> None:
        """Walk here no more, nor to what is above and has nothing else below."""
        self.closed = True
        node = self.parent
        while node is not None and all(child.closed for child in node.children):
            node.closed = True
            node = node.parent

    def grow(self, chains: Sequence[Chain], prior: str) -> None:
        """Take these as children, copies as one; what failed is left out."""
        families: dict[tuple[str, str | None], list[Chain]] = {}
        for chain in chains:
            if chain.finish not in ("error", "filtered", "cancelled"):
                families.setdefault((" ".join(chain.text.split()), chain.finish), []).append(chain)
        shares = _shares(list(families.values()), prior)
        self.children = [Node(copies[0], self, share) for copies, share in zip(families.values(), shares, strict=True)]

    def policy(self) -> list[tuple[Chain, float]]:
        """The children and their shares of visits: what expert iteration imitates (Anthony et al. 2017; AlphaZero at temperature 1)."""
        total = sum(child.visits for child in self.children)
        return [(child.chain, child.visits / total) for child in self.children] if total else []

    def ranked(self) -> list[Node]:
        """The children by visits, ties to the higher mean, then to what was seen first."""
        return sorted(self.children, key=lambda child: (-child.visits, -child.total / max(1, child.visits)))

    def played(self) -> Worth | None:
        """The answer reached by going to the child with most visits, as long as it leads to one."""
        walk = [self]
        while walk:
            node = walk.pop()
            if not node.children and node.answer is not None:
                return node.answer
            walk += reversed(node.ranked())
        return None


def _shares(families: Sequence[Sequence[Chain]], prior: str) -> list[float]:
    """The prior of each different child: softmax of the logarithm of what it is in proportion to."""
    if prior == "policy":
        logs = [_logprob(copies[0].steps[-1]) for copies in families]
    else:
        logs = [log(len(copies)) if prior == "count" else 0.0 for copies in families]
    weights = [exp(one - max(logs, default=0.0)) for one in logs]
    return [weight / sum(weights) for weight in weights]


def _logprob(step: Step) -> float:
    """The logarithm of the probability of a step's tokens; of a step without any, which only ends or is cut, that of 1."""
    if not step.text:
        return 0.0
    if step.tokens is None or not step.tokens.logprobs:
        raise UsageError("mcts: prior='policy' needs token probabilities, which this engine did not give")
    return float(sum(step.tokens.logprobs))
