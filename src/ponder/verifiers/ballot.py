"""A language model shown all candidates at once, and asked several times which is the most promising."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core import Policy, Sampling
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Message, Score
from ponder.verifiers.judge import Form, form


@named("ballot")
@dataclass(frozen=True, slots=True, repr=False)
class Ballot:
    """The share of `votes` that a candidate gets (tree of thoughts' vote prompt, Yao et al. 2023, arXiv:2305.10601, section 3, evaluator b).

    policy: who votes; None takes the run's own. prompt: a shipped form or the path of a JSON file (`ponder.verifiers.judge.form`), whose {answer}
    is the numbered list of candidates and whose mark stands before the number on the last line. temperature, max_tokens: of a vote.

    Candidates for the same question are listed in the order of the call, those alike in text once; all of a question's votes are one
    request, in the stream "judge". A vote that was cut, or names none of them, costs and does not count, and `error` says how many. No
    score for a candidate without text or without company, or where no vote counts. Value and raw are the share: relative to the others, and no
    probability of being correct. A candidate can write what looks like the next one's number; the fence keeps it from speaking to the judge.
    """

    policy: Policy | None = None
    prompt: str = "tot_vote@1"
    votes: int = 5
    temperature: float = 1.0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise UsageError(f"ballot: votes = {self.votes} must be at least 1")
        if self.votes > 1 and not self.temperature:
            raise UsageError(f"ballot: {self.votes} votes at temperature 0 are one vote; give a temperature above 0")
        if not form(self.prompt).mark:
            raise UsageError(f"ballot: prompt {self.prompt!r} must have a mark, behind which the number stands on the last line")
        self._sampling()

    @property
    def fingerprint(self) -> str:
        """It samples through the run, so its scores are never banked; the samples are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, relative to the other chains of the call."""
        lists: dict[tuple[Message, ...], dict[str, None]] = {}
        for chain in chains:
            if chain.text.strip():
                lists.setdefault(chain.prompt, {})[chain.text] = None
        contested = {prompt: list(texts) for prompt, texts in lists.items() if len(texts) > 1}
        asking, found = form(self.prompt), dict[tuple[tuple[Message, ...], str], Score]()
        if contested:
            roots = [
                Chain(asking.ask(prompt, "\n\n".join(f"Candidate {at}:\n{text.strip()}" for at, text in enumerate(texts, 1))))
                for prompt, texts in contested.items()
            ]
            replies = await run.purpose("judge").extend(roots, n=self.votes, policy=self.policy, sampling=self._sampling())
            for at, (prompt, texts) in enumerate(contested.items()):
                scores = _counted(asking, replies[at * self.votes :][: self.votes], len(texts))
                found |= {(prompt, text): score for text, score in zip(texts, scores, strict=True)}
        return [found.get((chain.prompt, chain.text)) or _alone(chain) for chain in chains]

    def _sampling(self) -> Sampling:
        return Sampling(self.temperature, max_tokens=self.max_tokens)


def _counted(asking: Form, replies: Sequence[Chain], candidates: int) -> list[Score]:
    said = [_choice(asking, reply) for reply in replies]
    counts = Counter(number for number in said if number is not None and 1 <= number <= candidates)
    read = counts.total()
    error = f"ballot: {len(said) - read} of {len(said)} votes name no candidate" if read < len(said) else ""
    if not read:
        return [Score(None, error=error)] * candidates
    return [Score(counts[number] / read, counts[number] / read, error=error) for number in range(1, candidates + 1)]


def _choice(asking: Form, reply: Chain) -> int | None:
    """The number behind the mark on the last line of a finished reply."""
    last = reply.text.rstrip().rpartition("\n")[2]
    number = (
        re.search(rf"{re.escape(asking.mark)}\W{{0,4}}(\d{{1,6}})\b", last, re.IGNORECASE) if reply.finish == "stop" else None
    )
    return int(number[1]) if number else None


def _alone(chain: Chain) -> Score:
    why = "no other candidate for its question is scored with it" if chain.text.strip() else "the chain has no text"
    return Score(None, error=f"ballot: {why}")
