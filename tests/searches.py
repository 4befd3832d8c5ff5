"""Policies, guides and rulers for the tests of searches over steps."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log

from fakes import QUESTION, question
from ponder.core import PolicyInfo, room
from ponder.run import solve
from ponder.types import Finish, Score, Step, Tokens, Usage


@dataclass
class Table:
    """Child i of a text is entry i of its row, rows repeating: what is written and how it ends. A text without a row has none.

    probabilities: of what is written, by the whole text; given, each step is one token of that probability. asked: (text, index).
    """

    rows: Mapping[str, Sequence[tuple[str, Finish | None]]]
    probabilities: Mapping[str, float] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)

    @property
    def info(self):
        return PolicyInfo("table", "table", frozenset({"continue", "seed", "n", "logprobs"}))

    async def sample(self, asks, *, until, sampling):
        return [[self.child(ask.chain, index, room(ask.chain, sampling)) for index in ask.indices] for ask in asks]

    def child(self, chain, index, cap):
        self.asked.append((chain.text, index))
        self.prompts.append(chain.prompt[-1].text)
        row = self.rows[chain.text]
        text, finish = row[index % len(row)]
        p = self.probabilities.get(chain.text + text, 1.0)
        tokens = Tokens((text,), array("i", [0]), array("f", [log(p)])) if self.probabilities else None
        return chain.then(Step(text, Usage(prompt=1, completion=1, calls=1), tokens=tokens), finish)


@dataclass(frozen=True)
class Values:
    """A guide that knows the value of each text; None where it has none. judged: what it was asked, in order."""

    table: Mapping[str, float | None]
    judged: list[str] = field(default_factory=list, compare=False)
    fingerprint: str = ""

    async def score(self, chains, run):
        self.judged.extend(chain.text for chain in chains)
        values = [self.table[chain.text] for chain in chains]
        return [Score(value, error="" if value is not None else "no idea") for value in values]


def gathered(search, policy, n, **how):
    """One outcome for each of n questions that differ only by number."""

    async def all_of_them():
        return [await solve(search, question(i), policy, **how) for i in range(n)]

    return asyncio.run(all_of_them())


def made_by(method, policy, *, n=None, **how):
    """What a method of a strategy (such as `Mcts.tree`) gives: for one question, or a list for n questions."""
    made = []

    async def keep(root, run):
        made.append(await method(root, run))

    async def all_of_them():
        for number in range(n or 1):
            await solve(keep, question(number) if n else QUESTION, policy, **how)

    asyncio.run(all_of_them())
    return made if n else made[0]


def near(count, n, p):
    """Within three standard errors of a proportion; exactly, where nothing is random."""
    assert abs(count / n - p) <= 3 * (p * (1 - p) / n) ** 0.5 + 1e-12, f"{count / n:.4f} against {p:.4f} at n = {n}"


def mean_near(values, expected):
    """The mean within three of its standard errors of what is expected."""
    n, mean = len(values), sum(values) / len(values)
    error = (sum((value - mean) ** 2 for value in values) / (n - 1) / n) ** 0.5
    assert abs(mean - expected) <= 3 * error + 1e-12, f"{mean:.5f} against {expected:.5f}, standard error {error:.5f}, n = {n}"
