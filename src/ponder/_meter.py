"""What all views of one run share: a meter, and turns that keep its calls in logical order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from ponder.core import Budget, Event, Policy, Pool, Sampling, Spent, Verifier, cut, score_key
from ponder.errors import BudgetExhausted
from ponder.types import Chain, Score, Step, Usage


class Place(NamedTuple):
    """A child of a pool under a token cap: one sample, paid for once in a run, whichever view of it asks."""

    pool: Pool
    child: int
    cap: int


@dataclass(slots=True)
class Numbering:
    """Which child of each pool a view asks for next, and how often it has had each chain scored by each verifier."""

    children: dict[Pool, int] = field(default_factory=dict)
    scores: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    again: bool = False
    """Whether what it asks for may have been paid for."""

    def count(self, places: Sequence[Place]) -> None:
        """These are asked for; one without room is no sample."""
        for place in places:
            if place.cap:
                self.children[place.pool] = self.children.get(place.pool, 0) + 1


@dataclass
class Meter:
    """The limits of a run, what it has spent, what happened."""

    budget: Budget
    clock: Callable[[], float]
    started: float
    spent: Spent = Spent()
    events: list[Event] = field(default_factory=list)
    paid: dict[Place, Chain] = field(default_factory=dict)
    """The children that were paid for, as they came: a view that asks for one again gets this one."""
    bought: dict[tuple[str, str], list[Score]] = field(default_factory=dict)
    """The scores that were paid for, by verifier and chain, as often as they were."""
    scored: dict[tuple[str, str], int] = field(default_factory=dict)
    """Positions of chains that a verifier has scored, by its fingerprint and the chain's digest."""
    best: Chain | None = None
    failed: int = 0
    oracle: bool = False
    exhausted: bool = False

    def admit(self, what: Literal["extend", "race", "score", "act", "adapt"]) -> None:
        """Refuse work that nothing is left for: raises `BudgetExhausted`."""
        limits = self.budget
        spent: list[tuple[str, float, float | None]] = [
            ("samples", self.spent.samples, limits.samples if what in ("extend", "race") else None),
            ("tokens", self.spent.usage.tokens, limits.tokens),
            ("calls", self.spent.usage.calls, limits.calls),
            ("money", self.spent.money, limits.money),
            ("seconds", self.clock() - self.started, limits.seconds),
        ]
        for unit, value, limit in spent:
            if limit is not None and value >= limit:
                self.refuse(f"{what}: spent {value:g} of {limit:g} {unit}")

    def refuse(self, why: str) -> None:
        """Raise `BudgetExhausted`, and remember it."""
        self.exhausted = True
        raise BudgetExhausted(why)

    def affordable(self, wanted: int, *units: Literal["samples", "calls"]) -> int:
        """How many of the wanted children or scores these limits can pay for."""
        left = [wanted]
        if self.budget.samples is not None and "samples" in units:
            left.append(self.budget.samples - self.spent.samples)
        if self.budget.calls is not None and "calls" in units:
            left.append(self.budget.calls - self.spent.usage.calls)
        return max(0, min(left))

    def startable(self, parents: Sequence[Chain], policy: Policy, sampling: Sampling) -> int:
        """How many children of these parents, in order, samples, calls and money can surely pay for."""
        count = self.affordable(len(parents), "samples", "calls")
        price = policy.info.price
        if count and self.budget.money is not None and price is not None:
            # A token is at least one byte of UTF-8, so the bytes of the prompt bound its tokens.
            sizes = {
                id(parent): sum(len(m.text.encode()) + 16 for m in parent.prompt) + len(parent.text.encode())
                for parent in parents[:count]
            }
            dearest = price.of(Usage(prompt=max(sizes.values()), completion=sampling.max_tokens))
            count = min(count, int((self.budget.money - self.spent.money) / dearest)) if dearest > 0 else count
        return count

    def wave(self, parents: Sequence[Chain], policy: Policy, sampling: Sampling) -> int:
        """How many of these children can be started so that at most the last of them may run past the budget."""
        count = self.startable(parents, policy, sampling)
        if count and self.budget.tokens is not None:
            left = self.budget.tokens - self.spent.usage.tokens
            count = min(count, max(1, left // sampling.max_tokens)) if left > 0 else 0
        return count

    def unscored(self, verifier: str, chain: Chain, usage: Usage) -> Usage:
        """What a score of a whole chain adds: the positions past the longest shorter prefix, in steps, that this verifier has scored.

        Reward models are causal: what they kept of a prefix is as good as reading it again, and what scoring step by step costs must
        not depend on how often it is done. The same chain scored twice is paid twice, as a sample drawn twice is.
        """
        if not usage.scored:
            return usage
        prefixes = (Chain(chain.prompt, chain.steps[:end]).digest for end in range(len(chain.steps) - 1, -1, -1))
        known = next((self.scored[verifier, digest] for digest in prefixes if (verifier, digest) in self.scored), 0)
        return replace(usage, scored=max(0, usage.scored - known))

    def settle(self, child: Chain, parent: Chain, policy: Policy, place: Place) -> Chain:
        """Book one child, in logical order, unless it was before; cut or cancel it where the budget ends."""
        known = self.paid.get(place)
        if known is not None:
            return parent.then(known.steps[-1], known.finish)
        step = child.steps[-1]
        money = policy.info.price.of(step.usage) if policy.info.price else 0.0
        limit = self.budget.tokens
        if limit is not None and self.spent.usage.tokens + step.usage.tokens > limit:
            left = limit - self.spent.usage.tokens
            self.exhausted = True
            if left <= 0:
                return parent.then(Step(""), "cancelled")
            child = parent.then(cut(step, left), "length")
            step = child.steps[-1]
        self.failed += child.finish == "error"
        self.pay(step.usage, samples=1, money=money)
        if place.cap and child.finish != "cancelled":
            self.paid[place] = child
        return child

    def scorable(self, wanted: int, dearest: int, verifier: Verifier) -> int:
        """How many scores can be started so that none of them runs past the tokens left, at the dearest price seen so far."""
        if self.budget.tokens is None or not verifier.fingerprint:
            return wanted
        left = self.budget.tokens - self.spent.usage.tokens
        return min(wanted, left // dearest if dearest else 1) if left > 0 else 0

    def settle_score(self, score: Score, chain: Chain, verifier: Verifier, numbering: Numbering) -> Score:
        """Book one score, in logical order; one that the budget cannot pay for has no value."""
        usage = self.unscored(verifier.fingerprint, chain, score.usage)
        spent, limits = self.spent.usage + usage, self.budget
        if (limits.tokens is not None and spent.tokens > limits.tokens) or (
            limits.calls is not None and spent.calls > limits.calls
        ):
            return self.unpaid_score()
        self.pay(usage)
        self.scored[verifier.fingerprint, chain.digest] = score.usage.scored
        if verifier.fingerprint:
            key = verifier.fingerprint, score_key(chain)
            self.bought.setdefault(key, []).append(score)
            numbering.scores[key] += 1
        return score

    def had_score(self, verifier: Verifier, chain: Chain, numbering: Numbering) -> Score | None:
        """A score that was bought more often than this view has been given it, as which it counts from now on."""
        if not (numbering.again and verifier.fingerprint):
            return None
        key = verifier.fingerprint, score_key(chain)
        given, bought = numbering.scores[key], self.bought.get(key, [])
        if given >= len(bought):
            return None
        numbering.scores[key] += 1
        return bought[given]

    def unpaid_score(self) -> Score:
        """What stands for a score that cannot be paid for."""
        self.exhausted = True
        return Score(None, error="budget: this score could not be paid for")

    def pay(self, usage: Usage, *, samples: int = 0, money: float = 0.0) -> None:
        """Book what was spent."""
        self.spent = Spent(self.spent.samples + samples, self.spent.usage + usage, self.spent.money + money)


class Turns:
    """Hands out places in call order, all of them after `after`."""

    def __init__(self, after: Turn | None = None) -> None:
        self._last = after

    def take(self) -> Turn:
        """The next place."""
        self._last = Turn(self._last)
        return self._last


class Turn:
    """A place in the order of calls, held for the length of a `with` block."""

    def __init__(self, before: Turn | None) -> None:
        self.before = before
        self.done = asyncio.Event()

    async def mine(self) -> None:
        """Return once all earlier places are done. One that was left before its turn came (cancelled) stands for those before it."""
        while self.before is not None:
            await self.before.done.wait()
            self.before = self.before.before

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
