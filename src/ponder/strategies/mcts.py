"""Monte-Carlo tree search over steps: spend each simulation where the tree so far looks promising or unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from ponder.core import Verifier, batches
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.mcts_tree import Node
from ponder.strategies.steps import UNSCORED, Choice, check, check_final, judged, texts, until
from ponder.types import Chain, Step

RULES, PRIORS, EVALUATE = ("uct", "puct"), ("uniform", "count", "policy"), ("all", "one", "random")


@named("mcts")
@dataclass(frozen=True, slots=True, repr=False)
class Mcts:
    """Selection, expansion, evaluation, back-up, `simulations` times (Kocsis and Szepesvari 2006; Silver et al. 2016, 2017).

    rule: which child is walked to, with mean value Q and visits n of the child, N of its parent:
        uct     Q + c sqrt(ln N / n); children without visits first
        puct    Q + c P sqrt(N) / (1 + n), with Q = 0 before the first visit
    prior: P of `puct`: "uniform"; "count", the share of the sampled steps that were this one; "policy", in proportion to the probability of its
        tokens.
    evaluate: "all" new children of a leaf are scored and backed up, which costs a simulation one request; "one" (the child of the highest
        prior) or a "random" one is, and the others when a later simulation walks to them.
    verifier: values a leaf. `rollouts(...)` plays it to the end, `reward_model(...)` is a value function, `ensemble(...)` of both mixes them.
    actions: texts put in front of a leaf's children in turn: `("", "Wait! Let me rethink this.")` reflects on every second.
    parallel: leaves in flight; each counts as a visit of value 0 to those that are chosen after it (virtual loss), and none is chosen twice.

    accept: the search ends once a finished chain has this value. final: see `steps.Choice`, or "visits": down the tree by visits, ties to the
        higher mean, as AlphaZero plays. `tree` returns the tree, `Node.policy` its visit shares.

    Children that differ in white space alone are one child. A child that was cut, or ended without an answer, is backed up as 0; one that
    failed, or has no score, is not backed up. A finished chain is walked to once, a branch whose chains have all ended is left, and the search
    ends when all has ended: what is known needs no simulation. Where visits are to choose, ends are walked to again, as in games, for free.
    Cost: simulations * branch samples at most, and their scores.
    """

    simulations: int
    branch: int
    verifier: Verifier
    rule: str = "uct"
    c: float = 1.0
    prior: str = "uniform"
    evaluate: str = "all"
    actions: tuple[str, ...] = ("",)
    parallel: int = 1
    step: str | int = "line"
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        texts("mcts", actions=self.actions)
        check("mcts", simulations=self.simulations, branch=self.branch, parallel=self.parallel, actions=len(self.actions))
        check_final("mcts", self.final, "visits", accept=self.accept)
        until(self.step)
        if self.branch < len(self.actions):
            raise UsageError(
                f"mcts: branch = {self.branch} must be at least {len(self.actions)}, a child for each of the actions"
            )
        tables = (("rule", self.rule, RULES), ("prior", self.prior, PRIORS), ("evaluate", self.evaluate, EVALUATE))
        for name, value, allowed in tables:
            if value not in allowed:
                raise UsageError(f"mcts: {name} = {value!r} must be one of {', '.join(allowed)}")
        if not 0 <= self.c < inf:
            raise UsageError(f"mcts: c = {self.c} must be at least 0, and finite")

    @property
    def logprobs(self) -> int:
        """A prior from the policy reads the probabilities of tokens."""
        return 1 if self.prior == "policy" else 0

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        await self.tree(root, run)

    async def tree(self, root: Chain, run: Run) -> Node:
        """Search, propose on the way, and give the tree."""
        tree, choice = Node(root), Choice("max" if self.final == "visits" else self.final, self.accept)
        random = run.random(root, "mcts")
        for size in batches(self.simulations, self.parallel):
            leaves = [] if choice.settled else list(self._leaves(tree, size))
            if not leaves:
                break
            await self._expand(run, [leaf for leaf in leaves if leaf.chain.finish is None and (leaf.visits or leaf is tree)])
            fresh = []
            for leaf in leaves:
                if leaf.chain.finish is not None and leaf.visits:
                    leaf.back_up(leaf.value)
                elif leaf.children and self.evaluate == "all":
                    fresh += leaf.children
                elif leaf.children:
                    some = leaf.children
                    fresh.append(random.choice(some) if self.evaluate == "random" else max(some, key=lambda child: child.prior))
                elif not leaf.closed:
                    fresh.append(leaf)
            for leaf in leaves:
                leaf.fly(-1)
            await self._evaluate(run, fresh, choice)
            if self.final == "visits" and (played := tree.played()) is not None:
                run.propose(played.chain)
        return tree

    def _leaves(self, tree: Node, size: int) -> Iterator[Node]:
        """Up to `size` different leaves, each chosen as if those before it had come to nothing."""
        for _ in range(size):
            node = tree
            while node.children:
                open_ = [child for child in node.children if not child.closed and not child.busy]
                if not open_:
                    return
                node = max(open_, key=lambda child: child.urge(self.rule, self.c))
            if node.closed or node.flying:
                return
            node.fly(1)
            yield node

    async def _expand(self, run: Run, leaves: Sequence[Node]) -> None:
        """Give the leaves their children, of all of them in one request."""
        if not leaves:
            return
        begun = []
        for leaf in leaves:
            ways = [leaf.chain.then(Step(action, source="injected")) if action else leaf.chain for action in self.actions]
            begun += [ways[at % len(ways)] for at in range(self.branch)]
        children = await run.extend(begun, until=until(self.step))
        for at, leaf in enumerate(leaves):
            leaf.grow(children[at * self.branch :][: self.branch], self.prior)
            if not leaf.children:
                leaf.close()

    async def _evaluate(self, run: Run, nodes: Sequence[Node], choice: Choice) -> None:
        chains = [node.chain for node in nodes]
        found = {id(one.chain): one for one in await judged(run, self.verifier, chains)}
        choice.add(run, [found[id(chain)] for chain in chains if id(chain) in found])
        for node in nodes:
            one = found.get(id(node.chain))
            lost = one.value == UNSCORED if one is not None else node.chain.finish not in ("stop", "length")
            node.answer = one if one is not None and not one.live else None
            if not lost:
                node.value = one.value if one is not None else 0.0
                node.back_up(node.value)
            if lost or (node.chain.finish is not None and self.final != "visits"):
                node.close()
