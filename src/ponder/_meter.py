"""What all views of one run share: a meter, and turns that keep its calls in logical order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ponder.core import Budget, Event, Pool, Spent
from ponder.errors import BudgetExhausted
from ponder.types import Chain, Usage


@dataclass
class Meter:
    """The limits of a run, what it has spent, what happened."""

    budget: Budget
    clock: Callable[[], float]
    started: float
    spent: Spent = Spent()
    events: list[Event] = field(default_factory=list)
    cursors: Counter[Pool] = field(default_factory=Counter)
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
