"""One request's runs on the one upstream policy, through the door: streams, budgets and meters are the run's affair.

What a caller sends on (tools, penalties, response formats, pictures) needs an OpenAI-compatible engine; other policies refuse it by
name. A single sample on such an engine is streamed as it comes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar, cast

from ponder import spec
from ponder.core import END, Ask, Attempt, Bank, Budget, Outcome, Policy, PolicyInfo, Sampling, Until, Verifier, parts, room
from ponder.errors import UsageError
from ponder.policies.openai import OpenAI, Passed, all_of
from ponder.policies.streamed import Hear
from ponder.policies.wire import messages_body
from ponder.run import Direct, Run, solve
from ponder.server.asked import Asked, Prompt
from ponder.server.config import Config
from ponder.server.guard import Allowance
from ponder.server.models import Models
from ponder.server.record import Recorder
from ponder.server.refusal import Refusal
from ponder.strategies.auto import Auto
from ponder.types import Chain, Question, Score, Usage

T = TypeVar("T")
Say: TypeAlias = Callable[[str], Awaitable[None]]


@dataclass
class Listener:
    """What a stream wants to know of one choice: pieces of a single sample, and what a search does. Neither for a reply that comes whole."""

    hear: Hear | None = None
    say: Say | None = None


@dataclass
class Solved:
    """What came of all choices of a request. verifier: tokens that judges wrote; rejected: the engine's words where it refused."""

    outcomes: list[Outcome]
    verifier: int = 0
    rejected: str = ""

    @property
    def usage(self) -> Usage:
        """All that was spent."""
        if len(self.outcomes) == 1:
            return self.outcomes[0].spent.usage
        return sum((outcome.spent.usage for outcome in self.outcomes), Usage())


@dataclass
class Watched:
    """A bank that tells what passes through it."""

    bank: Bank
    asked: Asked
    say: Say | None
    verifier: int = 0

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the bank does, with a line before and after."""
        judging = any("/score" in ask.stream for ask in asks)
        if self.say is None and not judging:
            return await self.bank.sample(policy, asks, until=until, sampling=sampling)
        whole = until == END and not any(ask.chain.steps for ask in asks)
        what = "judgement" if judging else "answer" if whole else "continuation"
        wanted = sum(len(ask.indices) for ask in asks)
        if self.say:
            await self.say(f"Asking for {_count(wanted, what)}.\n")
        lines = await self.bank.sample(policy, asks, until=until, sampling=sampling)
        children = [child for line in lines for child in line]
        if judging:
            self.verifier += sum(child.steps[-1].usage.completion for child in children)
        if self.say and what == "answer":
            votes = Counter(key for child in children if child.finish == "stop" and (key := self.asked.key(child.text)))
            most = max(votes.values(), default=0)
            await self.say(f"{_count(len(children), what)}, {len(votes)} different; {most} agree on one.\n")
        return lines

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As the bank does."""
        if self.say:
            await self.say(f"Scoring {_count(len(chains), 'candidate')}.\n")
        return await self.bank.score(verifier, chains, run)


@dataclass
class Charged:
    """A bank whose samples are set aside and counted on a key's account."""

    bank: Bank
    allowance: Allowance

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the bank does. Raises `BudgetExhausted` if nothing is left."""
        caps = [(len(ask.indices), room(ask.chain, sampling)) for ask in asks]
        held = self.allowance.take(sum(count * min(cap, until.tokens or cap) for count, cap in caps))
        try:
            lines = await self.bank.sample(policy, asks, until=until, sampling=sampling)
        except Exception:  # refused before anything was sampled; what was cancelled stays set aside
            self.allowance.count(held, 0)
            raise
        self.allowance.count(held, sum(child.steps[-1].usage.completion for line in lines for child in line))
        return lines

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As the bank does; what a judge writes is sampled, and counted there."""
        scores = await self.bank.score(verifier, chains, run)
        self.allowance.count(0, sum(score.usage.scored for score in scores))
        return scores


@dataclass
class Engine:
    """The policy, opened, and what is served on it."""

    config: Config
    log: Callable[[str], None]
    recorder: Recorder | None = None
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Engine:
        """Open the policy and every part of every served strategy. Raises what they raise, before anything is listened on."""
        text = self.config.policy
        made = spec.parse(f"openai:{text}" if text.startswith(("http://", "https://")) else text, "policies")
        self.policy = cast("Policy", made)
        async with AsyncExitStack() as stack:
            await _open(stack, [made])
            self.models = Models(self.policy.info.name, self.config)
            served = [part for strategy in self.models.strategies.values() for part in parts(strategy)]
            inner = [*served, *(part for one in self.models.verifiers.values() for part in parts(one))]
            await _open(stack, {id(part): part for part in inner}.values())
            for one in self.models.strategies.values():
                if isinstance(one, Auto):
                    _check(one, self.policy.info)
            if isinstance(made, OpenAI):  # clients wait at our own gate; a slow start here would hold their streams back
                made.limiter.limit = float(made.limiter.limits.concurrency)
            self.stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close what was opened."""
        await self.stack.aclose()

    @property
    def streams(self) -> bool:
        """Whether a single sample can be passed on as it comes."""
        return isinstance(self.policy, OpenAI)

    async def solve(self, asked: Asked, listeners: Sequence[Listener], seconds: float, allowance: Allowance) -> Solved:
        """Run the strategy for each choice, all at once. Raises what a run raises."""
        bounds = asked.budget
        seconds = seconds if bounds.seconds is None else min(seconds, bounds.seconds)
        budget = Budget(bounds.samples, bounds.tokens, bounds.calls, seconds, bounds.money)
        solved = Solved([])
        runs = [self._one(asked, at, listener, budget, solved, allowance) for at, listener in enumerate(listeners)]
        solved.outcomes = [await runs[0]] if len(runs) == 1 else await all_of(runs)
        return solved

    async def _one(
        self, asked: Asked, at: int, listener: Listener, budget: Budget, solved: Solved, allowance: Allowance
    ) -> Outcome:
        prompt = asked.choices[at]
        seed = asked.seed_of(at)
        bank: Bank = self.recorder.bank(seed) if self.recorder else Direct()
        watched = Watched(Charged(bank, allowance) if allowance.account else bank, asked, listener.say)

        def observe(attempt: Attempt) -> None:
            if attempt.status == "refused":
                solved.rejected = attempt.detail.partition(": ")[2]
            if attempt.status not in ("ok", "cancelled"):
                self.log(f"upstream: {attempt.status}: {attempt.detail}")

        policy = self._policy(asked, prompt, listener.hear, observe)
        strategy, question = asked.plan.strategy, Question("served", prompt.messages)
        key = None if asked.plan.single else asked.key  # what a single sample says is its answer: it stands against no other
        try:
            outcome = await solve(
                strategy, question, policy, budget=budget, sampling=asked.sampling, seed=seed, answer=key, bank=watched
            )
        finally:
            solved.verifier += watched.verifier
        if self.recorder:
            if asked.plan.single and outcome.chain:
                outcome = replace(outcome, answer=asked.key(outcome.chain.text))
            await self.recorder.keep(prompt.messages, strategy, policy, asked.sampling, seed, outcome)
        return outcome

    def _policy(self, asked: Asked, prompt: Prompt, hear: Hear | None, observe: Callable[[Attempt], None]) -> Policy:
        """The policy as this request sees it."""
        if isinstance(self.policy, OpenAI):
            view = self.policy.passing(Passed(prompt.messages, prompt.turns, asked.fields, hear))
            view.observer = observe
            return view
        plain = isinstance(prompt.turns, str) or json.dumps(prompt.turns) == json.dumps(messages_body(prompt.messages))
        needed = [name for name in asked.fields if name != "stop"] + ([] if plain else ["messages"])
        if needed:
            message = f"{needed[0]}: the engine of this server ({self.policy.info.name}) takes plain messages only"
            raise Refusal(400, message, code="unsupported_by_engine", param=needed[0])
        return self.policy


async def _open(stack: AsyncExitStack, things: Iterable[object]) -> None:
    for thing in things:
        if hasattr(thing, "__aenter__"):
            await stack.enter_async_context(thing)  # type: ignore[arg-type]  # checked by the attribute above


def _check(auto: Auto, own: PolicyInfo) -> None:
    """Refuse a card that was measured on another policy, with this server's way out."""
    try:
        auto.check(own)
    except UsageError as error:
        raise UsageError(f"serve: {error}; of --card: `--any-policy`, or any_policy = true in the file") from None


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
