"""Chains, policies and judges whose values of prefixes are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fakes import QUESTION, solved, words
from ponder.core import Ask, PolicyInfo, Sampling, Until
from ponder.learners.rollouts import labelled
from ponder.types import Chain, Step, Usage, Verdict


def judge_by(right):
    """A grader of whole texts; what did not finish by stop must not reach it."""

    async def judge(chains):
        assert all(chain.finish == "stop" for chain in chains)
        return [Verdict(right(chain.text)) for chain in chains]

    return judge


no_b = judge_by(lambda text: "b" not in text)


ends_well = judge_by(lambda text: text.endswith("end\n"))


def found(strategy, policy, judge=no_b, **how):
    asked = how.get("question", QUESTION)
    return labelled(strategy, asked.id, solved(strategy, policy, judge=judge, **how))


@dataclass
class Book:
    """Goes on from a text as the book says, child i with entry i (the last one repeats); notes what it was asked, and in which stream.

    An entry of more than `cap` characters ends by length.
    """

    pages: Mapping[str, Sequence[str]]
    cap: int = 1000
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def info(self) -> PolicyInfo:
        return PolicyInfo("book", "book", frozenset({"continue", "seed", "n"}))

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.asked += [(ask.stream, ask.chain.text, index) for ask in asks for index in ask.indices]
        return [[self.child(ask.chain, index) for index in ask.indices] for ask in asks]

    def child(self, chain: Chain, index: int) -> Chain:
        page = self.pages[chain.text]
        text = page[min(index, len(page) - 1)]
        finish = "stop" if len(text) <= self.cap else "length"
        return chain.then(Step(text, Usage(prompt=1, completion=len(text), calls=1), tokens=words(text)), finish)

    @property
    def probes(self) -> Counter[str]:
        """How often each prefix was rolled out."""
        return Counter(text for stream, text, _ in self.asked if stream.endswith("rollout"))


# ---- by hand ----

EIGHT = "1\n2\n3\n4\nX\n6\n7\n8\n"


LINES = EIGHT.splitlines(keepends=True)


def prefix(steps):
    return "".join(LINES[:steps])


def book(**right):
    """A chain of eight steps that ends badly; roll-outs of the prefixes named end well in the entries named."""
    pages = {"": (EIGHT,)}
    for at in range(1, 8):
        ends = right.get(f"at{at}", "0")
        pages[prefix(at)] = tuple("end\n" if end == "1" else "off\n" for end in ends)
    return Book(pages)
