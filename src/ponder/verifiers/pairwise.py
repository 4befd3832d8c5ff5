"""A language model asked which of two answers is more likely correct: belief by comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

from ponder.core import Policy, Sampling
from ponder.errors import CapabilityError, UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Message, Score
from ponder.verifiers.judge import form


@named("pairwise")
@dataclass(frozen=True, slots=True, repr=False)
class Pairwise:
    """How likely an answer is to be preferred to the others that are scored with it.

    policy: who judges; None takes the run's own. prompt: a shipped form or the path of a JSON file (see `ponder.verifiers.judge.form`)
    that holds {answer} and {other}, whose words name the first and the second. top: alternatives read for the token of the reply.

    Each pair is asked in both orders (Zheng et al. 2023, arXiv:2306.05685, section 3.4), and its winning probability is the mean of the two,
    in which a judge's liking for one place cancels: w(i, j) = (P(A | i, j) + 1 - P(A | j, i)) / 2, with P(A) over P(A) + P(B). Deviation: the paper
    counts a win only if both orders agree. Value and raw are the mean of w over the opponents: relative to them, and no probability of
    being correct. Up to `most` different answers meet all others; of more, each meets the `opponents` (an even number) that stand next to it on
    either side when the answers stand in a ring, in the order of the call.

    Only answers to the same question are compared, and answers alike in text are one. A pair that cannot be read in both orders costs and
    does not count, and `error` says how many; no pair is no score, as for an answer without text or without company. Greedy, one token
    for each order, all in one request through the run, in the stream "judge". Answers are not trusted: see `ponder.verifiers.judge`.
    """

    policy: Policy | None = None
    prompt: str = "pairwise@1"
    most: int = 8
    opponents: int = 4
    top: int = 20

    def __post_init__(self) -> None:
        asking = form(self.prompt)
        if asking.mark or not any("{other}" in message.text for message in asking.messages):
            raise UsageError(f"pairwise: prompt {self.prompt!r} must hold {{answer}} and {{other}}, and be answered by one word")
        if not 2 <= self.opponents <= self.most or self.opponents % 2:
            raise UsageError(f"pairwise: opponents = {self.opponents} must be an even number from 2 to most = {self.most}")
        if self.top < 2:
            raise UsageError(f"pairwise: top = {self.top} must be at least 2")
        self._sampling()

    @property
    def fingerprint(self) -> str:
        """It samples through the run, so its scores are never banked; the samples are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, relative to the other chains of the call."""
        answers = [_Answer(chain.prompt, chain.text) for chain in chains]
        rivals: dict[tuple[Message, ...], dict[_Answer, None]] = {}
        for answer in answers:
            if answer.text.strip():
                rivals.setdefault(answer.prompt, {})[answer] = None
        pairs = [(ring[i], ring[j]) for ring in map(list, rivals.values()) for i, j in self._pairs(len(ring))]
        met: dict[_Answer, list[float | None]] = {answer: [] for ring in rivals.values() for answer in ring}
        for (one, two), win in zip(pairs, await self._wins(pairs, run), strict=True):
            met[one].append(win)
            met[two].append(None if win is None else 1 - win)
        return [_score(met.get(answer)) for answer in answers]

    def _pairs(self, n: int) -> list[tuple[int, int]]:
        """Which of `n` answers meet, each pair once."""
        if n <= self.most:
            return list(combinations(range(n), 2))
        return [(at, (at + step) % n) for at in range(n) for step in range(1, self.opponents // 2 + 1)]

    async def _wins(self, pairs: Sequence[tuple[_Answer, _Answer]], run: Run) -> list[float | None]:
        """How likely the first of each pair is preferred; None where it cannot be read in both orders."""
        if not pairs:
            return []
        judge = self.policy or run.policy
        if "logprobs" not in judge.info.capabilities:
            raise CapabilityError(
                f"{judge.info.name}: gives no token probabilities (no 'logprobs' capability), which {self!r} reads; use an engine that "
                "gives them"
            )
        asking = form(self.prompt)
        orders = [order for one, two in pairs for order in ((one, two), (two, one))]
        roots = [Chain(asking.ask(first.prompt, first.text, other=second.text)) for first, second in orders]
        replies = await run.purpose("judge").extend(roots, policy=self.policy, sampling=self._sampling())
        said = [asking.word(reply) for reply in replies]
        return [
            None if there is None or back is None else (there + 1 - back) / 2
            for there, back in zip(said[::2], said[1::2], strict=True)
        ]

    def _sampling(self) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=1, logprobs=self.top)


class _Answer(NamedTuple):
    """What is compared: a text, under what was asked."""

    prompt: tuple[Message, ...]
    text: str


def _score(met: Sequence[float | None] | None) -> Score:
    """Of what came of the comparisons of one answer; None of one without text."""
    if not met:
        why = "the chain has no text" if met is None else "no other answer to its question is scored with it"
        return Score(None, error=f"pairwise: {why}")
    read = [win for win in met if win is not None]
    error = f"pairwise: {len(met) - len(read)} of {len(met)} comparisons cannot be read" if len(read) < len(met) else ""
    return Score(sum(read) / len(read), sum(read) / len(read), error=error) if read else Score(None, error=error)
