"""The openai policy opened on an endpoint, and what it gave."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ponder.core import END, Ask, Attempt, Sampling
from ponder.policies.openai import openai
from ponder.types import Chain, user

WHOLE = Sampling(max_tokens=200)


def chain(text):
    return Chain((user(text),))


def asks(count, indices=(0,)):
    return [Ask(chain(f"QUESTION: what is {number} and {number}?"), tuple(indices), "0") for number in range(count)]


class Opened:
    """A policy opened on an endpoint, its log empty, with what it reported."""

    def __init__(self, endpoint, faults=(), **arguments):
        self.endpoint, self.faults = endpoint, faults
        self.policy = openai(endpoint.url, **arguments)
        self.attempts: list[Attempt] = []

    async def __aenter__(self):
        await self.policy.__aenter__()
        self.policy.observer = self.attempts.append
        self.policy.limiter.jitter = lambda: 0.02  # pauses of 10 ms, 20 ms ...
        self.endpoint.configure(faults=self.faults)
        self.endpoint.reset()
        return self

    async def __aexit__(self, *_):
        await self.policy.__aexit__()

    async def sample(self, asked, until=END, sampling=WHOLE):
        lines = await self.policy.sample(asked, until=until, sampling=sampling)
        return [child for line in lines for child in line]

    @property
    def statuses(self):
        return [attempt.status for attempt in self.attempts]

    @property
    def billed(self):
        return sum(attempt.usage.completion for attempt in self.attempts if attempt.status == "ok")


def sampled(endpoint, asked, *, until=END, sampling=WHOLE, faults=(), limits=None, **arguments):
    """The children, and the policy they came from."""

    async def main():
        async with Opened(endpoint, faults, **arguments) as opened:
            opened.policy.limiter.limits = replace(opened.policy.limiter.limits, **(limits or {}))
            return await opened.sample(asked, until, sampling), opened

    return asyncio.run(main())


def written(children):
    return sum(child.steps[-1].usage.completion for child in children)
