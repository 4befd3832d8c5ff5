"""What searches over steps share: how long a step is, which chains may go on, and how one of the finished becomes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from ponder.core import LINE, MOST_CHILDREN, PARAGRAPH, Until, Verifier, cut
from ponder.errors import BudgetExhausted, UsageError
from ponder.run import Run
from ponder.strategies.tally import Tally
from ponder.types import Chain, Step

SENTENCE = Until(stop=(". ", "? ", "! ", "\n"))  # four texts, as many as most endpoints take
NAMES = {"line": LINE, "paragraph": PARAGRAPH, "sentence": SENTENCE}
FINAL = ("max", "vote", "weighted_vote")
UNSCORED = -1.0
"""The worth of a chain whose score failed: it comes after all others, and wins where there is no other."""


def until(step: str | int) -> Until:
    """How far a step goes: to the end of a line, paragraph or sentence, or so many tokens (mini-steps, Marco-o1, arXiv:2411.14405).

    Raises `UsageError` for anything else.
    """
    if isinstance(step, int) and not isinstance(step, bool) and step > 0:
        return Until(tokens=step)
    if step not in NAMES:
        raise UsageError(f"step = {step!r} must be one of {', '.join(NAMES)}, or a number of tokens of at least 1")
    return NAMES[str(step)]


def check(name: str, least: int = 1, **counts: int) -> None:
    """Raise `UsageError` unless each of these fields of the strategy `name` is at least `least`, and at most a million."""
    for field_name, value in counts.items():
        if value < least:
            raise UsageError(f"{name}: {field_name} = {value} must be at least {least}")
        if value > MOST_CHILDREN:
            raise UsageError(f"{name}: {field_name} = {value} must be at most {MOST_CHILDREN:,}")


def texts(name: str, **lists: object) -> None:
    """Raise `UsageError` unless each of these fields of the strategy `name` is a tuple of texts: one text alone would be its letters."""
    for field_name, value in lists.items():
        if not isinstance(value, tuple) or not all(isinstance(one, str) for one in value):
            raise UsageError(f"{name}: {field_name} = {value!r} must be a tuple of texts, such as ('A', 'B')")


def starts(chain: Chain, step: str | int) -> list[int]:
    """The characters of a chain's text at which its steps begin, the first at 0.

    Of mini-steps, from the tokens the engine gave; raises `UsageError` where it gave none.
    """
    text = chain.text
    if isinstance(step, int):
        tokens = [piece for one in chain.steps for piece in (one.tokens.texts if one.tokens is not None else ())]
        if "".join(tokens) != text:
            raise UsageError(f"step = {step}: mini-steps of a whole answer need its tokens, which this engine does not give")
        begun = list(accumulate(map(len, tokens[:-1]), initial=0))
        return [at for at in begun[::step] if at < len(text)] or [0]
    ends = {match.end() for stop in until(step).stop for match in re.finditer(re.escape(stop), text)}
    return [0, *sorted(end for end in ends if text[end:].strip())]


def prefix(chain: Chain, end: int) -> Chain:
    """The first `end` characters of a chain, open again; the step in which they end is cut, and keeps its share of the tokens."""
    kept, left = [], end
    for step in chain.steps:
        if left <= 0:
            break
        kept.append(step if len(step.text) <= left else _cut(step, left))
        left -= len(step.text)
    return Chain(chain.prompt, tuple(kept))


def _cut(step: Step, end: int) -> Step:
    ends = list(accumulate(map(len, step.tokens.texts))) if step.tokens is not None else []
    if end in ends:
        return cut(step, ends.index(end) + 1)
    share = round(step.usage.completion * end / len(step.text))
    return replace(step, text=step.text[:end], tokens=None, usage=replace(step.usage, completion=share))


@dataclass(frozen=True, slots=True)
class Worth:
    """A chain that may go on or has an answer, and what its guide believes of it, in [0, 1], or UNSCORED."""

    chain: Chain
    value: float = UNSCORED

    @property
    def live(self) -> bool:
        """Whether it can be gone on with."""
        return self.chain.finish is None


async def judged(run: Run, verifier: Verifier, chains: Sequence[Chain]) -> list[Worth]:
    """The chains that are open or have an answer, in order, each with its value; equal chains are scored once.

    The rule for the others, in all searches: a chain that was cut, failed, or ended without an answer has been paid for and is gone.
    Where nothing is left to pay scores with, the values are UNSCORED: an answer in hand is worth giving, and the next call ends the search.
    """
    alive = [
        chain for chain, answer in zip(chains, run.answers(chains), strict=True) if chain.finish is None or answer is not None
    ]
    different = {(chain.digest, chain.finish): chain for chain in alive}
    try:
        scores = dict(zip(different, await run.score(verifier, list(different.values())), strict=True))
    except BudgetExhausted:
        return [Worth(chain) for chain in alive]
    values = [scores[chain.digest, chain.finish].value for chain in alive]
    return [Worth(chain, UNSCORED if value is None else value) for chain, value in zip(alive, values, strict=True)]


def best(chains: Sequence[Worth], n: int, *, distinct: bool = True) -> list[Worth]:
    """The n of the highest value, ties to what was seen first. distinct: equal texts once, so that no search is spent on copies."""
    first: dict[object, Worth] = {}
    for at, one in enumerate(chains):
        first.setdefault((one.chain.digest, one.chain.finish) if distinct else at, one)
    return sorted(first.values(), key=lambda one: -one.value)[:n]


def check_final(name: str, final: str, *more: str, accept: float | None = None) -> None:
    """Raise `UsageError` unless `final` is a way to choose, and `accept` a value, or None."""
    if final not in (*FINAL, *more):
        raise UsageError(f"{name}: final = {final!r} must be one of {', '.join((*FINAL, *more))}")
    if accept is not None and not 0.0 <= accept <= 1.0:
        raise UsageError(f"{name}: accept = {accept} must lie in [0, 1], or be None to search to the end")


@dataclass(slots=True)
class Choice:
    """The finished chains of a search, and how one of them becomes the answer.

    max             the one of the highest value, ties to what was seen first
    vote            the answer that most of them give
    weighted_vote   the answer with the largest sum of values

    Chains that are finished stay candidates to the end. One without a value (UNSCORED) has a plain vote, none in a weighted one, and
    is the answer by `max` only as long as there is no other.

    accept: a value that is good enough: a search ends once a finished chain has it. None: it goes on to its end.
    """

    final: str
    accept: float | None = None
    tally: Tally = field(default_factory=Tally)
    top: Worth | None = None

    def add(self, run: Run, found: Sequence[Worth], *, vote: bool = True) -> None:
        """Count the finished ones of these, and propose the leader if it is another now. vote: False keeps them from the votes."""
        before = self.leader
        for one, answer in zip(found, run.answers([one.chain for one in found]), strict=True):
            if answer is None:  # it is open, or came to nothing
                continue
            if self.top is None or one.value > self.top.value:
                self.top = one
            if not vote:
                continue
            if self.final == "vote":
                self.tally.add(answer, one.chain)
            elif one.value != UNSCORED:
                self.tally.add(answer, one.chain, one.value)
        leader = self.leader
        if leader is not None and leader is not before:
            run.propose(leader)

    @property
    def settled(self) -> bool:
        """Whether a finished chain is good enough."""
        return self.accept is not None and self.top is not None and self.top.value >= self.accept

    @property
    def leader(self) -> Chain | None:
        """The answer as it stands."""
        voted = self.tally.leader if self.final != "max" else None
        return voted or (self.top.chain if self.top else None)
