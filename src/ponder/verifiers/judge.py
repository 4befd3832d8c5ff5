"""A language model asked whether the answer is correct: belief that is read off a word it writes, at once or after a rationale."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, count
from math import exp
from pathlib import Path

from ponder.core import Policy, Sampling, Verifier
from ponder.errors import CapabilityError, DataError, UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Message, Score

READ = ("probability", "stated")
LONGEST = 20_000
"""Characters of an answer that a judge is shown; of a longer one the middle is left out."""
LEAST = 0.01
"""Probability that both words must have together: a model that would say something else has not answered."""


@named("judge")
@dataclass(frozen=True, slots=True, repr=False)
class Judge:
    """A generative verifier (GenRM, Zhang et al. 2024, arXiv:2408.15240, section 3).

    policy: who judges; None takes the run's own. prompt: how it is asked, a shipped form or the path of a JSON file (see `form`):
        genrm_direct@1   one word; r = p(Yes | problem, answer, "Is the answer correct (Yes/No)?")          (eq. 4)
        genrm_cot@1      `votes` rationales, each ending in a verdict; r = mean over them of p(Yes | ..., rationale)
        lab_genrm@1      `PROMPT`, `SOLUTION?`, in the lab's vocabulary, answered by yes or no
    read: "probability" takes P(Yes) / (P(Yes) + P(No)) at the place of the word, "stated" the word that was written, 1 or 0.
    top: alternatives read for each token; behind a rationale five are enough. temperature, max_tokens: of a rationale.
    meta, keep: a verifier of the rationales, and how many votes count: those whose rationale it believes most (DeepSeek-GRM's meta reward,
    Liu et al. 2025, arXiv:2504.02495), ties to the first. It is asked through the run, of chains whose prompt is the judge's and whose text is
    the rationale; a vote it gives no value does not count.

    P sums the alternatives that spell the word, whatever their case and the spaces around them; one that is not among the `top` counts
    as nothing. Deviation: the paper takes P(Yes) alone, but a judge that was not trained may spend much on other words.

    Direct judgements are greedy and cost one token each. A vote that was cut or has no such word costs and does not count; no vote at
    all is no score, some are the mean of the rest, and `error` says how many are missing. Value and raw are r.

    Everything goes through the run, in the stream "judge". Chains alike in prompt and text are judged once in each call of `score`.
    Answers are not trusted: they stand between lines that cannot be guessed, without the marks of chat formats, and cut to a length.
    Raises `CapabilityError` for an engine without token probabilities where they are to be read.
    """

    policy: Policy | None = None
    prompt: str = "genrm_direct@1"
    votes: int = 1
    read: str = "probability"
    top: int = 20
    temperature: float = 1.0
    max_tokens: int = 1024
    meta: Verifier | None = None
    keep: int = 0

    def __post_init__(self) -> None:
        if self.read not in READ:
            raise UsageError(f"judge: read = {self.read!r} must be one of {', '.join(READ)}")
        if self.votes < 1 or self.top < 2:
            raise UsageError(f"judge: votes = {self.votes} must be at least 1, top = {self.top} at least 2")
        asking = form(self.prompt)
        for part, fault in (
            ("{reference}", "shows a reference, which a verifier never has; it is for writing rationales"),
            ("{other}", "compares two answers; it is for pairwise(...)"),
        ):
            if any(part in message.text for message in asking.messages):
                raise UsageError(f"judge: prompt {self.prompt!r} {fault}")
        if asking.mark:
            if self.votes > 1 and not self.temperature:
                raise UsageError(f"judge: {self.votes} votes at temperature 0 are one vote; give a temperature above 0")
        elif self.votes > 1 or self.read == "stated":
            raise UsageError(
                f"judge: {self.prompt!r} is answered by one word and read by its probability; votes and read='stated' are for a prompt "
                "with rationales, such as genrm_cot@1"
            )
        if (self.meta is None and self.keep) or (self.meta is not None and not (asking.mark and 1 <= self.keep <= self.votes)):
            raise UsageError(
                f"judge: meta = {self.meta!r} with keep = {self.keep}: a meta verifier chooses 1..votes = {self.votes} of the rationales, so "
                "give both with a prompt such as genrm_cot@1, or neither"
            )
        self._sampling(rationale=True)

    @property
    def fingerprint(self) -> str:
        """It samples through the run, so its scores are never banked; the samples are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain; none for a chain without text."""
        asking = form(self.prompt)
        prompts = [asking.ask(chain.prompt, chain.text) if chain.text.strip() else None for chain in chains]
        roots = {prompt: Chain(prompt) for prompt in prompts if prompt is not None}
        scores: dict[tuple[Message, ...] | None, Score] = {None: Score(None, error="judge: the chain has no text")}
        if roots:
            self._check(self.policy or run.policy)
            replies = await run.purpose("judge").extend(
                list(roots.values()), n=self.votes, policy=self.policy, sampling=self._sampling(rationale=bool(asking.mark))
            )
            votes = [self._vote(asking, reply) for reply in replies]
            beliefs = await self._beliefs(replies, votes, run)
            for at, prompt in enumerate(roots):
                mine = slice(at * self.votes, (at + 1) * self.votes)
                scores[prompt] = self._mean(replies[mine], votes[mine], beliefs[mine])
        return [scores[prompt] for prompt in prompts]

    def _sampling(self, *, rationale: bool) -> Sampling:
        if not rationale:
            return Sampling(temperature=0.0, max_tokens=1, logprobs=self.top)
        return Sampling(self.temperature, max_tokens=self.max_tokens, logprobs=0 if self.read == "stated" else self.top)

    def _check(self, policy: Policy) -> None:
        if self.read == "probability" and "logprobs" not in policy.info.capabilities:
            raise CapabilityError(
                f"{policy.info.name}: gives no token probabilities (no 'logprobs' capability), which {self!r} reads; use an engine that "
                "gives them, or prompt='genrm_cot@1' with read='stated'"
            )

    async def _beliefs(self, replies: Sequence[Chain], votes: Sequence[float | None], run: Run) -> list[float | None]:
        """What the meta verifier believes of each reply that holds a vote; alike for all where there is none."""
        if self.meta is None:
            return [1.0] * len(replies)
        held = [at for at, vote in enumerate(votes) if vote is not None]
        scores = await run.score(self.meta, [replies[at] for at in held])
        found: list[float | None] = [None] * len(replies)
        for at, score in zip(held, scores, strict=True):
            found[at] = score.value
        return found

    def _mean(self, replies: Sequence[Chain], votes: Sequence[float | None], beliefs: Sequence[float | None]) -> Score:
        held = [(vote, belief) for vote, belief in zip(votes, beliefs, strict=True) if vote is not None]
        told = [(vote, belief) for vote, belief in held if belief is not None]
        best = sorted(told, key=lambda one: -one[1])[: self.keep or None]
        ends = ", ".join(f"{many} {end}" for end, many in sorted(Counter(reply.finish or "open" for reply in replies).items()))
        missing, doubtful = len(replies) - len(held), len(held) - len(told)
        parts = [f"{missing} of {len(replies)} replies ({ends}) hold no verdict that can be read"] * bool(missing)
        parts += [f"{doubtful} of {len(held)} votes have no value by {self.meta!r}"] * bool(doubtful)
        error = f"judge: {'; '.join(parts)}" if parts else ""
        if not best:
            return Score(None, error=error)
        mean = sum(vote for vote, _ in best) / len(best)
        return Score(mean, mean, error=error)

    def _vote(self, asking: Form, reply: Chain) -> float | None:
        """What one reply says, in [0, 1]; None where it was cut, failed, or says something else."""
        if not asking.mark:
            return asking.word(reply)
        found = asking.find(reply.text) if reply.finish == "stop" else None
        if found is None:
            return None
        verdict, at = found
        return float(verdict) if self.read == "stated" else asking.belief(reply, at)


@dataclass(frozen=True, slots=True)
class Form:
    """How a judge is asked, and how its reply is read.

    messages: hold {question} and {answer}, and {fence} before and behind the answer; {reference} where rationales are written by
    somebody who knows it; {other}, fenced as well, where two answers are compared. words: the two verdicts, as a judge is taught to write them. mark: what comes before the verdict on the
    last line, behind a rationale; "" where the reply is the verdict. fenced: whether the answer is fenced off.
    """

    messages: tuple[Message, ...]
    words: tuple[str, str] = ("Yes", "No")
    mark: str = ""
    fenced: bool = True

    def ask(self, prompt: Sequence[Message], answer: str, reference: str = "", other: str = "") -> tuple[Message, ...]:
        """The question, the last message of `prompt`, and an answer to it, as the judge gets them: a function of these texts alone.

        Values are put in once and never looked at again, so that braces in them mean nothing. Where the form fences the answer off, its
        middle is left out beyond `LONGEST` characters, and what a chat template would read as a mark of its own is spelt with a space.
        A lone surrogate, which no engine and no bank takes, is shown as U+FFFD.
        """
        question = prompt[-1].text if prompt else ""
        given = (_LONE.sub("\ufffd", one) for one in (answer, other))
        shown, rival = (_SPECIAL.sub(r"\g<0> ", _clipped(one)) if self.fenced else one for one in given)
        fence = _fence(question, shown, reference, *[rival] * bool(rival))
        parts = {"question": question, "answer": shown, "reference": reference, "other": rival, "fence": fence}
        return tuple(
            Message(message.role, (_PART.sub(lambda part: parts.get(part[1], part[0]), message.text),))
            for message in self.messages
        )

    def find(self, text: str) -> tuple[bool, int] | None:
        """The verdict on the last line of a reply, behind the mark or alone, and the place of its word; None where there is none."""
        text = text.rstrip()
        last = text.rfind("\n") + 1
        marked = text.rfind(self.mark, last) if self.mark else -1
        yes, no = map(re.escape, self.words)
        said = re.compile(rf"{_MARKUP}(?:({yes})|({no})){_MARKUP}", re.IGNORECASE).fullmatch(
            text, last if marked < 0 else marked + len(self.mark)
        )
        return None if said is None else (said[1] is not None, said.start(1 if said[1] else 2))

    def verdict(self, text: str) -> bool | None:
        """What a reply says of the answer: correct, not correct, or nothing that can be read."""
        found = self.find(text)
        return None if found is None else found[0]

    def word(self, reply: Chain) -> float | None:
        """The belief at the first token of a reply that is the verdict; None where it failed, or says something else."""
        return None if reply.finish in ("error", "cancelled", "filtered") else self.belief(reply, 0)

    def belief(self, reply: Chain, at: int) -> float | None:
        """P(yes) / (P(yes) + P(no)) at the token that holds character `at` of a reply; None where it cannot be read."""
        tokens = reply.steps[-1].tokens
        ends = accumulate(map(len, tokens.texts)) if tokens is not None else ()
        place = next((place for place, end in enumerate(ends) if end > at), None)
        if tokens is None or place is None:
            return None
        yes, no = (
            sum(exp(logprob) for text, logprob in tokens[place].top_logprobs if text.strip().lower() == word.lower())
            for word in self.words
        )
        return min(1.0, yes / (yes + no)) if yes + no >= LEAST else None


def form(prompt: str) -> Form:
    """A shipped form by name and version, or one from a JSON file.

        {"messages": [{"role": "user", "content": "{question} [{fence}] {answer} [{fence}] Is it right?"}], "words": ["Right", "Wrong"]}

    Raises `DataError` for what is neither, or does not fence the answer off.
    """
    shipped = resources.files("ponder.verifiers") / "prompts"
    own = shipped / f"{prompt}.json" if _NAME.fullmatch(prompt) else None
    try:
        body = json.loads((own if own is not None and own.is_file() else Path(prompt)).read_text("utf-8"))
        messages = tuple(Message(one["role"], (str(one["content"]),)) for one in body["messages"])
        yes, no = body.get("words", ("Yes", "No"))
        made = Form(messages, (str(yes), str(no)), str(body.get("mark", "")), bool(body.get("fenced", True)))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        known = ", ".join(sorted(file.name.removesuffix(".json") for file in shipped.iterdir() if "@" in file.name))
        raise DataError(f"judge: prompt {prompt!r} is none of {known}, and no JSON file with messages ({error})") from None
    text = "\n".join(message.text for message in messages)
    if "{question}" not in text or "{answer}" not in text:
        raise DataError(f"judge: prompt {prompt!r}: its messages must hold {{question}} and {{answer}}")
    for part in ("{answer}", "{other}"):
        before, _, behind = text.partition(part)
        if made.fenced and part in text and not ("{fence}" in before and "{fence}" in behind):
            raise DataError(
                f'judge: prompt {prompt!r}: {part} must stand between two {{fence}}, or the form must say "fenced": false'
            )
    return made


# Plumbing.

_NAME = re.compile(r"\w+@\d+")
_LONE = re.compile("[\ud800-\udfff]")
_PART = re.compile(r"\{(\w+)\}")
_AROUND = ' \t*_`".'  # a verdict may be set in bold, or end its sentence
_MARKUP = f"[{re.escape(_AROUND)}]*"
# Tokenizers read these as marks wherever they stand, in a user's message too; no fence would hold there.
_SPECIAL = re.compile(
    r"<(?=[|\uff5c]|/?s>|/?(?:bos|eos|pad|unk|start_of_turn|end_of_turn|(?:BOS|EOS|PAD|UNK)_TOKEN)>)|\[(?=/?[A-Z_]{4,}\])"
)


def _clipped(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _fence(*texts: str) -> str:
    """A line that none of the texts holds: whoever writes an answer would have to know the digest of what he is still writing."""
    salted = ("\x1f".join((str(salt), *texts)).encode("utf-8", "surrogatepass") for salt in count())
    digests = (hashlib.blake2b(one, digest_size=6).hexdigest() for one in salted)
    return f"=== {next(digest for digest in digests if not any(digest in text for text in texts))} ==="
