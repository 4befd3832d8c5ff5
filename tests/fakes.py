"""Policies, verifiers and banks for the tests of the core, most of which misbehave on purpose."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from random import Random

from ponder.core import Ask, Policy, PolicyInfo, Price, Sampling, Until, cut, room
from ponder.run import Direct, Run, solve
from ponder.types import Chain, Finish, Question, Score, Step, Tokens, Usage, Verdict, user

QUESTION = Question("q", (user("Which way?"),))
ROOT = Chain(QUESTION.messages)


def question(number: int) -> Question:
    return Question(f"q{number}", (user(f"Which way, number {number}?"),))


def solved(strategy, policy, **how):
    """`solve` in a loop of its own."""
    return asyncio.run(solve(strategy, how.pop("question", QUESTION), policy, **how))


def first_word(text: str) -> str | None:
    return next(iter(text.split()), None)


def words(text: str) -> Tokens:
    """One token a character."""
    return Tokens(tuple(text), array("i", range(len(text))), array("f", [-0.5] * len(text)))


def judge_of(*right: str):
    """A grader that knows the right answers, by the first word."""

    async def judge(chains: Sequence[Chain]) -> list[Verdict]:
        return [Verdict(first_word(chain.text) in right) for chain in chains]

    return judge


@dataclass
class Scripted:
    """Child i of any chain is line i of the script (the last one repeats): text, how it ends, and how many tokens it takes.

    `asked` lists what reached it as (stream, index), in order.
    """

    script: Sequence[tuple[str, Finish | None, int]]
    capabilities: frozenset[str] = frozenset({"seed", "continue", "n"})
    price: Price | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def info(self) -> PolicyInfo:
        return PolicyInfo("scripted", "scripted", self.capabilities, price=self.price)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.asked += [(ask.stream, index) for ask in asks for index in ask.indices]
        return [[self.child(ask.chain, index, room(ask.chain, sampling)) for index in ask.indices] for ask in asks]

    def child(self, chain: Chain, index: int, cap: int) -> Chain:
        text, finish, tokens = self.script[min(index, len(self.script) - 1)]
        whole = Step(text, Usage(prompt=3, completion=tokens, calls=1))
        return chain.then(whole, finish) if tokens <= cap else chain.then(cut(whole, cap), "length")


@dataclass
class Coin:
    """Says "right" with probability p, else one of the `wrong` words; a number makes each text different from all others."""

    p: float
    wrong: tuple[str, ...] = ("wrong",)
    calls: int = 0

    @property
    def info(self) -> PolicyInfo:
        return PolicyInfo("coin", f"coin{self.p!r}{self.wrong!r}", frozenset({"seed", "n"}))

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        lines = []
        for ask in asks:
            pool = ask.pool(self.info.fingerprint, until, sampling)
            self.calls += len(ask.indices)
            lines.append([self._child(ask.chain, Random(pool.seed(index))) for index in ask.indices])
        return lines

    def _child(self, chain: Chain, random: Random) -> Chain:
        word = "right" if random.random() < self.p else random.choice(self.wrong)
        return chain.then(Step(f"{word} {random.getrandbits(64)}", Usage(prompt=3, completion=2, calls=1)), "stop")


@dataclass
class Flaky:
    """Passes on to a policy, but children with these indices fail after half of their tokens."""

    policy: Policy
    failing: frozenset[int]

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        lines = await self.policy.sample(asks, until=until, sampling=sampling)
        return [
            [
                self._fail(ask.chain, child) if index in self.failing else child
                for index, child in zip(ask.indices, line, strict=True)
            ]
            for ask, line in zip(asks, lines, strict=True)
        ]

    def _fail(self, parent: Chain, child: Chain) -> Chain:
        step = child.steps[-1]
        return parent.then(replace(step, usage=replace(step.usage, completion=step.usage.completion // 2)), "error")


@dataclass
class Backwards:
    """Answers later requests sooner: request k waits for `most - k` turns of the event loop."""

    policy: Policy
    most: int = 20
    requests: int = 0

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.requests += 1
        for _ in range(3 * max(0, self.most - self.requests)):
            await asyncio.sleep(0)
        return await self.policy.sample(asks, until=until, sampling=sampling)


@dataclass
class Gate:
    """Answers nothing until `open` is set; `entered` is set when the first request is there."""

    policy: Policy
    open: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    requests: int = 0

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.requests += 1
        self.entered.set()
        await self.open.wait()
        return await self.policy.sample(asks, until=until, sampling=sampling)


@dataclass
class Watched:
    """Notes, at each request, how many children, tokens and calls had been delivered before it, and which indices it asks for."""

    policy: Policy
    before: list[Usage] = field(default_factory=list)
    delivered: Usage = Usage()
    children: int = 0
    indices: list[tuple[str, int]] = field(default_factory=list)

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.before.append(self.delivered)
        lines = await self.policy.sample(asks, until=until, sampling=sampling)
        for ask, line in zip(asks, lines, strict=True):
            self.indices += [(f"{ask.chain.digest}/{ask.stream}", index) for index in ask.indices]
            self.children += len(line)
            self.delivered += sum((child.steps[-1].usage for child in line), Usage())
        return lines


_inside: ContextVar[bool] = ContextVar("inside", default=False)


class Door(Direct):
    """A bank through which alone a `BehindTheDoor` policy can be reached."""

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        token = _inside.set(True)
        try:
            return await super().sample(policy, asks, until=until, sampling=sampling)
        finally:
            _inside.reset(token)


@dataclass
class BehindTheDoor:
    """Raises when it is called past the run."""

    policy: Policy

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        if not _inside.get():
            raise AssertionError("a strategy called its policy past the run")
        return await self.policy.sample(asks, until=until, sampling=sampling)


@dataclass
class Typist:
    """Writes a fixed text for each index, a character a token, and can only go on, not repeat itself: no seed.

    Where it starts anew for a child it has begun before, it writes the text in capitals: nobody may mistake that for the same sample.
    """

    texts: Sequence[str]
    begun: set[int] = field(default_factory=set)
    prompts: list[str] = field(default_factory=list)
    capabilities: frozenset[str] = frozenset({"continue"})

    @property
    def info(self) -> PolicyInfo:
        return PolicyInfo("typist", "typist", self.capabilities)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        return [[self._child(ask, index, until, room(ask.chain, sampling)) for index in ask.indices] for ask in asks]

    def _child(self, ask: Ask, index: int, until: Until, cap: int) -> Chain:
        self.prompts.append(ask.chain.text)
        if ask.chain.text:
            text = next(text for text in self.texts if text.startswith(ask.chain.text))
        else:
            text = self.texts[index].upper() if index in self.begun else self.texts[index]
            self.begun.add(index)
        rest = text[len(ask.chain.text) :]
        most = min(cap, until.tokens or cap)
        written = rest[:most]
        finish: Finish | None = "stop" if written == rest else "length" if most == cap and not until.tokens else None
        if until.tokens and written != rest and cap < until.tokens:
            finish = "length"
        usage = Usage(prompt=5 + len(ask.chain.text), completion=len(written), calls=1)
        return ask.chain.then(Step(written, usage, tokens=words(written)), finish)


@dataclass(frozen=True)
class Believer:
    """Gives each chain a fixed score by its first word; None where the table has none."""

    table: tuple[tuple[str, float], ...] = ()
    otherwise: float | None = 1.0
    usage: Usage = Usage()
    fingerprint: str = ""
    judged: list[str] = field(default_factory=list)

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        self.judged.extend(chain.text for chain in chains)
        return [self._score(dict(self.table).get(first_word(chain.text) or "", self.otherwise)) for chain in chains]

    def _score(self, value: float | None) -> Score:
        return Score(value, usage=self.usage, error="" if value is not None else "no idea")


@dataclass(frozen=True)
class SamplingJudge:
    """A verifier that asks the run's policy for an opinion on each chain."""

    n: int = 1
    fingerprint: str = ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        opinions = await run.extend([Chain((user(f"Is this right? {chain.text}"),)) for chain in chains], n=self.n)
        return [Score(0.5 if opinions[at * self.n].finish == "stop" else None, error="no opinion") for at in range(len(chains))]
