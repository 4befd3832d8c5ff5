"""A policy that says what a judge would, and a way to be judged by it."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf, log

from fakes import solved
from ponder.core import PolicyInfo, Sampling
from ponder.types import Chain, Question, Step, Tokens, Usage, user

ASKED = Question("q", (user("What is 2 + 2?"),))


ROOT = Chain(ASKED.messages)


MARK = "Verification: Is the answer correct (Yes/No)?"


def chain(text, finish="stop"):
    return ROOT.then(Step(text, Usage(completion=4, calls=1)), finish)


def tokens(*told):
    """Tokens as (text, {alternative: probability})."""
    width = max((len(top) for _, top in told), default=0)
    rows = [[*top.items(), *[("", 0.0)] * (width - len(top))] for _, top in told]
    flat = [pair for row in rows for pair in row]
    return Tokens(
        tuple(text for text, _ in told),
        width=width,
        top_texts=tuple(text for text, _ in flat),
        top_logprobs=array("f", [log(p) if p else -inf for _, p in flat]),
    )


def word(**alternatives):
    """A one-token reply that was cut there, as a cap of one token leaves it."""
    return tokens((max(alternatives, key=alternatives.get, default=""), alternatives)), "length"


@dataclass
class Speaker:
    """Replies to a judge's prompt by a function of (its text, index); answers all else with `texts`, by index."""

    reply: Callable[[str, int], tuple[Tokens | None, str]]
    texts: tuple[str, ...] = ("4",)
    capabilities: frozenset[str] = frozenset({"seed", "n", "logprobs"})
    prompts: list[str] = field(default_factory=list)
    asked: list[tuple[str, Sampling]] = field(default_factory=list)
    cost: int = 1

    @property
    def info(self):
        return PolicyInfo("speaker", "speaker", self.capabilities)

    async def sample(self, asks, *, until, sampling):
        return [[self.child(ask, index, sampling) for index in ask.indices] for ask in asks]

    def child(self, ask, index, sampling):
        if "judge" not in ask.stream:
            return ask.chain.then(Step(self.texts[index % len(self.texts)], Usage(completion=1, calls=1)), "stop")
        self.prompts.append(ask.chain.prompt[-1].text)
        self.asked.append((ask.stream, sampling))
        told, finish = self.reply(self.prompts[-1], index)
        text = "".join(told.texts) if told is not None else "Yes"
        return ask.chain.then(Step(text, Usage(prompt=9, completion=self.cost, calls=1), tokens=told), finish)


def judged(verifier, policy, *chains, **how):
    found, outcome = watched(verifier, policy, *chains, **how)
    del outcome
    return found


def watched(verifier, policy, *chains, **how):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    return found, solved(strategy, policy, question=ASKED, **how)


def always(*replies):
    return Speaker(lambda _, index: replies[index % len(replies)])
