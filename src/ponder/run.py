"""The one door through which a strategy spends compute, and `solve`, which opens it.

Rules of the door (the contract suite holds every strategy to them)
- Calls are settled in the order in which the strategy made them, whatever order the engines answered in; that order alone decides
  admission, budget and what a proposal had seen.
- A budget is hard. Children it cannot pay for come back `cancelled` and free; a child that runs past it comes back cut, as `length`;
  the next call raises `BudgetExhausted`, which strategies let pass.
- The i-th child of one chain is the same sample for every strategy of a study: a cursor per pool numbers them in call order.
- A sample is paid for once in a run: a strategy inside another (`Run.again`) counts from the first, and what is paid for is free to it.
- Roll-outs, judgements and proposals never read each other's samples: each purpose is a stream of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

from ponder._meter import Meter, Numbering, Place, Turns
from ponder.core import (
    END,
    MOST_CHILDREN,
    Adapter,
    Ask,
    Bank,
    Budget,
    Environment,
    Event,
    Outcome,
    Policy,
    Pool,
    Sampling,
    Spent,
    Strategy,
    Until,
    Verifier,
    continues,
    cut,
    logprobs_needed,
    pool_of,
    room,
    whole_only,
)
from ponder.errors import BudgetError, BudgetExhausted, CapabilityError, OracleError, UsageError
from ponder.types import Chain, Question, Score, Step, Verdict

Judge = Callable[[Sequence[Chain]], Awaitable[list[Verdict]]]


class Direct:
    """The bank that keeps nothing: every ask goes to the policy, every score to the verifier."""

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Ask the policy."""
        return await policy.sample(asks, until=until, sampling=sampling)

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """Ask the verifier."""
        return await verifier.score(chains, run)


class _Shut:
    """The door in the hands of a verifier whose scores are banked: what it did here would be missing whenever the bank answers for it."""

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Refused."""
        raise self._refusal("samples")

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """Refused."""
        raise self._refusal("scores")

    async def judge(self, chains: Sequence[Chain]) -> list[Verdict]:
        """Refused."""
        raise self._refusal("asks the grader")

    def _refusal(self, does: str) -> UsageError:
        return UsageError(
            f"{self.verifier!r}: {does} through its run, so its scores cannot be banked; its fingerprint must be '', not "
            f"{self.verifier.fingerprint!r}"
        )


class Run:
    """One strategy on one question under one budget and seed. Made by `solve`; strategies only call it."""

    def __init__(
        self,
        policy: Policy,
        *,
        sampling: Sampling,
        stream: str,
        answer: Callable[[str], str | None],
        bank: Bank,
        judge: Judge | None,
        meter: Meter,
        turns: Turns,
        numbering: Numbering,
    ) -> None:
        self.policy = policy
        self.sampling = sampling
        self.stream = stream
        self._answer = answer
        self._bank = bank
        self._judge = judge
        self._meter = meter
        self._turns = turns
        self._numbering = numbering

    @property
    def spent(self) -> Spent:
        """What the run has spent so far."""
        return self._meter.spent

    @property
    def budget(self) -> Budget:
        """What it may spend."""
        return self._meter.budget

    def random(self, chain: Chain, name: str = "") -> Random:
        """What a strategy draws of its own accord: a generator that is a function of the study's seed, a chain and a name."""
        return Random(f"{self.stream}/{name}/{chain.digest}")

    def purpose(self, name: str) -> Run:
        """A view of this run whose samples come from a stream of their own, such as "rollout" or "judge"; same meter."""
        return self._view(f"{self.stream}/{name}", self._turns, self._bank, self._judge)

    def again(self, policy: Policy | None = None) -> Run:
        """A view for a strategy inside this one: it numbers children from the first again, and may take another policy for its own.

        What this run has paid for costs it nothing: the same child of the same pool under the same cap, and the score of a chain, as
        often as it was bought. Neither is asked for, counted as a sample or told as an event a second time; a child that failed stays failed.
        """
        view = self._view(self.stream, self._turns, self._bank, self._judge, Numbering(again=True))
        view.policy = policy or self.policy
        return view

    async def extend(
        self,
        chains: Sequence[Chain],
        *,
        n: int = 1,
        until: Until = END,
        policy: Policy | None = None,
        sampling: Sampling | None = None,
    ) -> list[Chain]:
        """`len(chains) * n` children, parent-major, each its parent with one step more.

        Raises `BudgetExhausted` if nothing is left, `CapabilityError` if this makes or continues a partial answer and the engine
        cannot go on from one, `ValueError` on a finished chain. Children that the budget cannot pay for are `cancelled`; children that failed are finished by `error`.
        """
        policy, sampling = policy or self.policy, sampling or self.sampling
        self._check(chains, n, until, policy)
        with self._turns.take() as turn:
            bounded = self._meter.budget.counted
            if bounded:
                await turn.mine()  # what earlier calls leave decides what this one may start
            parents = [chain for chain in chains for _ in range(n)]
            children: list[Chain] = []
            new: list[Chain] = []
            while len(children) < len(parents):
                rest = parents[len(children) :]
                had = self._had(rest, until, policy, sampling) if bounded else 0
                if not had and not children:
                    self._meter.admit("extend")
                wave = rest[: had or self._meter.wave(rest, policy, sampling)]
                if not wave:
                    if not children:  # something is left, but less than one child may cost
                        spent = f"spent {self.spent.money:g} of {self.budget.money} money"
                        self._meter.refuse(f"extend: {spent}; one child more may not fit")
                    new += [parent.then(Step(""), "cancelled") for parent in rest]
                    children += new[-len(rest) :]
                    self._meter.exhausted = True
                    break
                places = self._places(wave, until, policy, sampling)
                sampled = await self._sample(wave, places, until, policy, sampling)
                await turn.mine()
                for child, parent, place in zip(sampled, wave, places, strict=True):
                    known = place in self._meter.paid
                    children.append(self._meter.settle(child, parent, policy, place))
                    new += [] if known else children[-1:]
            if new:
                self._meter.events.append(Event("extend", self.spent, tuple(new)))
            return children

    async def race(self, root: Chain, *, n: int) -> list[Chain]:
        """`n` children of `root`, run until the first of them finishes by `stop` with an answer: fewest tokens, then lowest index.

        The others come back `cancelled` at that length and are charged the tokens they had written by then. This is what an engine
        spends that steps all of them together and stops; what was really billed stands in the attempts. Raises as `extend`.
        """
        children = await self._race(root, n)
        self._meter.events.append(Event("extend", self.spent, tuple(children)))
        return children

    async def score(self, verifier: Verifier, chains: Sequence[Chain]) -> list[Score]:
        """One score for each chain, in order; a score that the budget cannot pay for has no value.

        Raises `BudgetExhausted` if nothing is left.
        """
        if not chains:
            return []
        with self._turns.take() as turn:
            if self._meter.budget != Budget():
                await turn.mine()
            bank, judge = self._bank, self._judge
            had = [self._meter.had_score(verifier, chain, self._numbering) for chain in chains]
            if verifier.fingerprint:
                if all(score is None for score in had):
                    self._meter.admit("score")
                shut = _Shut(verifier)
                bank, judge = shut, judge and shut.judge
            nested = self._view(f"{self.stream}/score", Turns(turn.before), bank, judge)
            wanted = [chain for chain, score in zip(chains, had, strict=True) if score is None]
            count = self._meter.affordable(len(wanted), "calls") if verifier.fingerprint else len(wanted)
            settled: list[Score] = []
            dearest = 0  # tokens of one score, as far as is known: the price of a verifier is learnt from its first
            while len(settled) < count and (size := self._meter.scorable(count - len(settled), dearest, verifier)):
                wave = wanted[len(settled) :][:size]
                scores = await self._bank.score(verifier, wave, nested)
                await turn.mine()
                if len(scores) != len(wave):
                    raise UsageError(f"{verifier!r} gave {len(scores)} scores for {len(wave)} chains; one each is the contract")
                dearest = max([dearest, *(score.usage.tokens for score in scores)])
                settled += [
                    self._meter.settle_score(score, chain, verifier, self._numbering)
                    for score, chain in zip(scores, wave, strict=True)
                ]
            settled += [self._meter.unpaid_score() for _ in wanted[len(settled) :]]
            if wanted:
                self._meter.events.append(Event("score", self.spent, tuple(wanted), tuple(settled)))
            new = iter(settled)
            return [next(new) if score is None else score for score in had]

    async def act(self, environment: Environment, chains: Sequence[Chain]) -> list[Chain]:
        """Let an environment answer each chain with a step; its usage is booked. Raises `BudgetExhausted` if nothing is left."""
        with self._turns.take() as turn:
            self._meter.admit("act")
            steps = await environment.act(chains)
            await turn.mine()
            for step in steps:
                self._meter.pay(step.usage)
            moved = [chain.then(step) for chain, step in zip(chains, steps, strict=True)]
            self._meter.events.append(Event("act", self.spent, tuple(moved)))
            return moved

    async def adapt(self, adapter: Adapter, chains: Sequence[Chain], *, policy: Policy | None = None) -> Policy:
        """A policy fitted to these chains, with a fingerprint of its own; what fitting cost is booked."""
        with self._turns.take() as turn:
            self._meter.admit("adapt")
            fitted, usage = await adapter.adapt(policy or self.policy, chains)
            await turn.mine()
            self._meter.pay(usage)
            self._meter.events.append(Event("adapt", self.spent, tuple(chains)))
            return fitted

    def answers(self, chains: Sequence[Chain]) -> list[str | None]:
        """The answer each chain gives, in canonical form; None where it gives none or may not vote (not finished by `stop`)."""
        return [self._answer(chain.text) or None if chain.finish == "stop" else None for chain in chains]

    def propose(self, chain: Chain) -> None:
        """Make this the best answer so far. A chain that gives no answer is better than nothing, but never displaces one that does."""
        best = self._meter.best
        if best is not None and self.answers([best]) != [None] and self.answers([chain]) == [None]:
            return
        self._meter.best = chain
        self._meter.events.append(Event("propose", self.spent, (chain,)))

    async def verdicts(self, chains: Sequence[Chain]) -> list[Verdict]:
        """What the grader says, for `oracle(...)` alone. Raises `OracleError` without leave; marks the outcome as an upper bound."""
        if self._judge is None:
            raise OracleError(
                "oracle: a grader may take part in a search only with --allow-oracle (its result is an upper bound)"
            )
        self._meter.oracle = True
        return await self._judge(chains)

    async def _race(self, root: Chain, n: int) -> list[Chain]:
        self._check([root], n, END, self.policy)
        with self._turns.take() as turn:
            await turn.mine()
            self._meter.admit("race")
            parents, policy, sampling = [root] * n, self.policy, self.sampling
            count = self._meter.startable(parents, policy, sampling)
            if not count:
                self._meter.refuse(f"race: spent {self.spent.money:g} of {self.budget.money} money; one child more may not fit")
            places = self._places(parents[:count], END, policy, sampling)
            children = await self._sample(parents[:count], places, END, policy, sampling)
        lengths = [child.steps[-1].usage.completion for child in children]
        owed = [0 if place in self._meter.paid else length for place, length in zip(places, lengths, strict=True)]
        votes = [length for length, answer in zip(lengths, self.answers(children), strict=True) if answer is not None]
        line = wanted = min(votes, default=max(lengths))
        if self.budget.tokens is not None:  # all step together until the budget is gone
            left = self.budget.tokens - self.spent.usage.tokens
            line = max(at for at in range(line + 1) if sum(min(length, at) for length in owed) <= left)
        self._meter.exhausted |= line < wanted or count < n
        winner = next((at for at, child in enumerate(children) if lengths[at] == line and self.answers([child]) != [None]), None)
        ended = []
        for at, (child, place) in enumerate(zip(children, places, strict=True)):
            over = lengths[at] > line or (winner is not None and at != winner and lengths[at] == line)
            ended.append(root.then(cut(child.steps[-1], line), "cancelled") if over else child)
            if place not in self._meter.paid:
                self._meter.settle(ended[-1], root, policy, place)
        return ended + [root.then(Step(""), "cancelled")] * (n - count)

    def _view(self, stream: str, turns: Turns, bank: Bank, judge: Judge | None, numbering: Numbering | None = None) -> Run:
        return Run(
            self.policy,
            sampling=self.sampling,
            stream=stream,
            answer=self._answer,
            bank=bank,
            judge=judge,
            meter=self._meter,
            turns=turns,
            numbering=numbering or self._numbering,
        )

    def _check(self, chains: Sequence[Chain], n: int, until: Until, policy: Policy) -> None:
        if not 1 <= len(chains) * n <= MOST_CHILDREN:
            raise UsageError(
                f"extend: {len(chains)} chains x n = {n}: at least one child must be asked for, at most {MOST_CHILDREN:,} in one call"
            )
        if self.budget.money is not None and policy.info.price is None:
            raise BudgetError(
                f"budget money={self.budget.money!r}: {policy.info.name} has no price, so it cannot be kept; give the policy a price, "
                "or bound tokens or samples instead"
            )
        for chain in chains:
            if chain.finish is not None:
                chain.then(Step(""))  # raises with the reason
            if (chain.steps or (until is not END and until != END)) and "continue" not in policy.info.capabilities:
                raise whole_only(policy.info)

    def _places(self, parents: Sequence[Chain], until: Until, policy: Policy, sampling: Sampling) -> list[Place]:
        """The next child of each parent, not counted yet; those of one parent are numbered together."""
        fingerprint, numbered = policy.info.fingerprint, self._numbering.children
        counts: dict[int, int] = {}
        ahead: dict[Pool, int] = {}
        for parent in parents:
            counts[id(parent)] = counts.get(id(parent), 0) + 1
        lines: dict[int, Iterator[Place]] = {}
        for parent in {id(parent): parent for parent in parents}.values():
            pool, cap = pool_of(parent, self.stream, fingerprint, until, sampling), room(parent, sampling)
            first, count = ahead.get(pool, numbered.get(pool, 0)), counts[id(parent)]
            ahead[pool] = first + (count if cap else 0)
            lines[id(parent)] = iter([Place(pool, first + at, cap) for at in range(count)])
        return [next(lines[id(parent)]) for parent in parents]

    def _had(self, parents: Sequence[Chain], until: Until, policy: Policy, sampling: Sampling) -> int:
        """How many of the next children of these parents, from the first on, this run has paid for."""
        many = len(parents) if self._numbering.again else 0
        while many:
            places = self._places(parents[:many], until, policy, sampling)
            paid = next((at for at, place in enumerate(places) if place not in self._meter.paid), many)
            if paid == many:
                break
            many = paid
        return many

    async def _sample(
        self, parents: Sequence[Chain], places: Sequence[Place], until: Until, policy: Policy, sampling: Sampling
    ) -> list[Chain]:
        """One child for each parent, in order; equal neighbours are asked for together, those that are paid for not at all."""
        self._numbering.count(places)
        children: dict[int, Chain] = {}
        groups: dict[int, list[int]] = {}
        for at, (parent, place) in enumerate(zip(parents, places, strict=True)):
            if not place.cap:
                children[at] = parent.then(Step(""), "length")
            elif (known := self._meter.paid.get(place)) is not None:
                children[at] = known
            else:
                groups.setdefault(id(parent), []).append(at)
        if groups:
            asks = [Ask(parents[group[0]], tuple(places[at].child for at in group), self.stream) for group in groups.values()]
            answers = await self._bank.sample(policy, asks, until=until, sampling=sampling)
            for group, answer in zip(groups.values(), answers, strict=True):
                children |= zip(group, answer, strict=True)
        return [children[at] for at in range(len(parents))]


async def solve(
    strategy: Strategy,
    question: Question,
    policy: Policy,
    *,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    answer: Callable[[str], str | None] | None = None,
    bank: Bank | None = None,
    judge: Judge | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Run one strategy on one question.

    answer: the task's reference-free answer key, from the text of a finished answer to a canonical form or None; left out, an
    answer is the whole text, stripped. judge: the grader, for `oracle(...)` only. Running out of budget is not an error: the last
    proposal is the answer. Raises what the strategy's parts raise otherwise, `EndpointError` among them.
    """
    sampling = sampling or Sampling()
    needed = logprobs_needed(strategy)
    if needed and "logprobs" not in policy.info.capabilities:
        raise CapabilityError(
            f"{policy.info.name}: gives no token probabilities (no 'logprobs' capability), which {strategy!r} reads; "
            "use an engine that gives them, or a verifier that does not need them"
        )
    if continues(strategy) and "continue" not in policy.info.capabilities:
        raise whole_only(policy.info)
    if needed > sampling.logprobs:
        sampling = replace(sampling, logprobs=needed)
    meter = Meter(budget or Budget(), clock, clock())
    run = Run(
        policy,
        sampling=sampling,
        stream=str(seed),
        answer=answer or _whole_text,
        bank=bank or Direct(),
        judge=judge,
        meter=meter,
        turns=Turns(),
        numbering=Numbering(),
    )
    deadline = asyncio.timeout(meter.budget.seconds)
    try:
        async with deadline:
            await strategy(Chain(question.messages), run)
    except BudgetExhausted:
        meter.exhausted = True
    except TimeoutError:
        if not deadline.expired():
            raise  # somebody else's
        meter.exhausted = True
    except BaseExceptionGroup as group:  # a strategy with several branches in flight: every branch that stopped for the budget
        meter.exhausted = True
        rest = group.split(BudgetExhausted)[1]
        if rest is not None:
            raise rest from None
    found = run.answers([meter.best])[0] if meter.best is not None else None
    return Outcome(meter.best, found, meter.spent, tuple(meter.events), meter.oracle, meter.failed, meter.exhausted)


def _whole_text(text: str) -> str | None:
    return text.strip() or None
