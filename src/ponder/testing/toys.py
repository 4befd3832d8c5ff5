"""Toy policies with closed-form success, and verifiers with given error rates."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from ponder.core import Ask, Attempt, PolicyInfo, Sampling, Until, room
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Finish, Score, Step, Usage


@named("maze")
@dataclass(slots=True, repr=False)
class MazePolicy:
    """`depth` crossings, each taken right ("a") with probability `p`, else wrong ("b"); one token and one line a crossing.

    A whole answer is right with probability p ** depth, so best-of-n under a perfect verifier succeeds with 1 - (1 - p**depth) ** n.
    `seconds` is how long a request takes. `calls` counts what reached the policy: children, not requests. `observer`, where a study
    set one, is told of every request.
    """

    p: float = 0.5
    depth: int = 4
    seconds: float = 0.0
    calls: int = field(default=0, init=False, repr=False)
    observer: Callable[[Attempt], None] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.p <= 1.0 or self.depth < 1 or self.seconds < 0:
            raise UsageError(f"{self!r}: p must lie in [0, 1], depth be at least 1, seconds at least 0")

    @property
    def info(self) -> PolicyInfo:
        """A policy that goes on from any prefix and repeats itself from a seed."""
        name = f"maze({self.p!r}, {self.depth})"
        return PolicyInfo(name, name, frozenset({"continue", "seed", "n"}), parameters=1)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says; `until` a line or a number of tokens ends a step."""
        fingerprint, lines = self.info.fingerprint, []
        if self.seconds:
            await asyncio.sleep(self.seconds)
        for ask in asks:
            self.calls += len(ask.indices)
            pool = ask.pool(fingerprint, until, sampling)
            lines.append([self._child(ask.chain, Random(pool.seed(i)), until, room(ask.chain, sampling)) for i in ask.indices])
        if self.observer:
            usage = sum((child.steps[-1].usage for line in lines for child in line), Usage())
            self.observer(Attempt(self.info.name, "ok", usage, sum(map(len, lines))))
        return lines

    def _child(self, chain: Chain, random: Random, until: Until, cap: int) -> Chain:
        taken = chain.text.count("\n")
        step = 1 if until.stop else until.tokens or self.depth
        size = min(self.depth - taken, step, cap)
        text = "".join("a\n" if random.random() < self.p else "b\n" for _ in range(size))
        finish: Finish | None = "stop" if taken + size == self.depth else "length" if size == cap and size < step else None
        return chain.then(Step(text, Usage(prompt=1 + taken, completion=size, calls=1)), finish)


@dataclass(frozen=True, slots=True)
class MarkovPolicy:
    """A walk over states, one token and one line a step, that ends in a state without successors: that state is the answer.

    `chain[s]` maps successors of s to probabilities. The distribution of answers is the absorption distribution of the chain.
    """

    chain: Mapping[str, Mapping[str, float]]
    start: str = "start"

    @property
    def info(self) -> PolicyInfo:
        """A policy that goes on from any prefix and repeats itself from a seed."""
        rows = ";".join(f"{s}>{t}:{p!r}" for s, row in sorted(self.chain.items()) for t, p in sorted(row.items()))
        print_ = hashlib.blake2b(f"{self.start};{rows}".encode(), digest_size=8).hexdigest()
        return PolicyInfo("markov", f"markov-{print_}", frozenset({"continue", "seed", "n"}), parameters=1)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says; `until` a line or a number of tokens ends a step."""
        fingerprint, lines = self.info.fingerprint, []
        for ask in asks:
            pool = ask.pool(fingerprint, until, sampling)
            lines.append([self._child(ask.chain, Random(pool.seed(i)), until, room(ask.chain, sampling)) for i in ask.indices])
        return lines

    def _child(self, chain: Chain, random: Random, until: Until, cap: int) -> Chain:
        states = [self.start, *chain.text.split()]
        begun = len(states)
        step = 1 if until.stop else until.tokens or cap
        while states[-1] in self.chain and len(states) - begun < min(step, cap):
            row = self.chain[states[-1]]
            states += random.choices(list(row), weights=list(row.values()))
        text = "".join(f"{state}\n" for state in states[begun:])
        size = len(states) - begun
        finish: Finish | None = "stop" if states[-1] not in self.chain else "length" if size == cap else None
        return chain.then(Step(text, Usage(prompt=begun, completion=size, calls=1)), finish)

    def answers(self, steps: int = 10_000) -> dict[str, float]:
        """The probability of each answer, by following the distribution over states until all of it is absorbed."""
        mass, done = {self.start: 1.0}, dict[str, float]()
        for _ in range(steps):
            following: dict[str, float] = {}
            for state, weight in mass.items():
                if state not in self.chain:
                    done[state] = done.get(state, 0.0) + weight
                else:
                    for target, p in self.chain[state].items():
                        following[target] = following.get(target, 0.0) + weight * p
            mass = following
            if sum(mass.values()) < 1e-15:
                break
        return done


@named("noisy")
@dataclass(frozen=True, slots=True, repr=False)
class NoisyVerifier:
    """Judges the text against the right ones, wrong at given rates; the error is a function of chain and seed.

    fpr = P(1 | wrong), fnr = P(0 | right). `price` positions are charged for each score, to try budgets on.
    """

    right: Collection[str]
    fpr: float = 0.0
    fnr: float = 0.0
    seed: int = 0
    price: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.right, str):
            raise UsageError(f"noisy: right = {self.right!r} must be a tuple of texts, such as ({self.right!r},)")
        object.__setattr__(self, "right", tuple(sorted(set(self.right))))  # frozen; a set has no order to print

    @property
    def fingerprint(self) -> str:
        """Banked when it costs something."""
        return f"noisy({self.right!r}, {self.fpr!r}, {self.fnr!r}, {self.seed}, {self.price})" if self.price else ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score in {0, 1} for each chain."""
        del run
        return [Score(float(self._judge(chain)), usage=Usage(scored=self.price, calls=int(self.price > 0))) for chain in chains]

    def _judge(self, chain: Chain) -> bool:
        right = chain.text in self.right
        wrong = Random(f"{self.seed}/{chain.digest}").random() < (self.fnr if right else self.fpr)
        return right != wrong


@dataclass(slots=True)
class FakeClock:
    """A clock that moves only when told to; reads as seconds. `times`, where given, are read one after the other."""

    now: float = 0.0
    times: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        """The time."""
        if self.times:
            self.now = self.times.pop(0)
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass. Time does not run backwards."""
        if seconds < 0:
            raise ValueError(f"time does not run backwards: advance({seconds})")
        self.now += seconds
