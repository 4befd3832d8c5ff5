"""Traffic kept as a study's bank: every sample with its prompt, every search with what it spent. Written, never read again.

What one caller paid for is never given to another: this bank keeps and does not answer. Samples of equal prompts stand in one pool (the
seed of a request goes into a sample's index), so that `ponder show` and `ponder export` read traffic as they read a study. There is no
reference and no verdict in it. `redact` sees every text before it is written.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from ponder.bank import Row
from ponder.core import Ask, Outcome, Policy, Sampling, Until, Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.store import Journal, RunRecord, SqliteTable, StudyStore
from ponder.types import Chain, Message, Problem, Question, Score

TASK = "served"
Redact = Callable[[str], str]


@dataclass
class Recorder:
    """A journal that traffic goes to."""

    journal: Journal
    redact: Redact

    def __post_init__(self) -> None:
        self.table, self.store = SqliteTable(self.journal), StudyStore(self.journal)

    def bank(self, seed: int) -> Recorded:
        """The bank of one choice."""
        return Recorded(self, seed)

    async def keep(
        self, messages: Sequence[Message], strategy: object, policy: Policy, sampling: Sampling, seed: int, outcome: Outcome
    ) -> None:
        """Remember what was asked and what came of it. A request that comes again with its seed, and to the same end, is one run."""
        prompt = self.clean(Chain(tuple(messages)))
        question = Question(prompt.digest, prompt.prompt)
        await self.store.keep_problems(TASK, [Problem(question, None)])
        cell = {
            "task": TASK,
            "problems": TASK,
            "policy": policy.info.name,
            "fingerprint": policy.info.fingerprint,
            "sampling": f"{sampling.key} max_tokens={sampling.max_tokens}",
            "seed": 0,
        }
        chosen = self.clean(outcome.chain) if outcome.chain else None
        cleaned = replace(
            outcome, events=tuple(replace(event, chains=tuple(map(self.clean, event.chains))) for event in outcome.events)
        )
        described, chosen_digest, spent = json.dumps(cell, sort_keys=True), chosen.digest if chosen else None, outcome.spent
        whole = (seed, prompt.digest, described, strategy, chosen_digest, spent.samples, spent.usage.tokens)
        record = RunRecord(
            hashlib.blake2b("\x1f".join(map(repr, whole)).encode(), digest_size=16).hexdigest(),
            described,
            question.id,
            repr(strategy),
            "none",
            chosen_digest,
            self.redact(outcome.answer) if outcome.answer else None,
            False,
            spent,
            outcome.oracle,
            outcome.failed,
            outcome.exhausted,
        )
        await self.store.keep_run(record, cleaned)

    def clean(self, chain: Chain) -> Chain:
        """The chain with every text redacted; a step whose text changed loses its tokens."""
        prompt = tuple(
            Message(turn.role, tuple(self.redact(part) if isinstance(part, str) else part for part in turn.content))
            for turn in chain.prompt
        )
        steps = []
        for step in chain.steps:
            text = self.redact(step.text)
            steps.append(step if text == step.text else replace(step, text=text, tokens=None))
        return Chain(prompt, tuple(steps), chain.finish)


@dataclass
class Recorded:
    """The bank that keeps what comes and gives none of it away."""

    recorder: Recorder
    seed: int

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Ask the policy; return once what came is durable."""
        lines = await policy.sample(asks, until=until, sampling=sampling)
        rows, prefixes = [], []
        for ask, children in zip(asks, lines, strict=True):
            parent = self.recorder.clean(ask.chain)
            stream = "/".join(["0", *ask.stream.split("/")[1:]])
            pool = Ask(parent, (), stream).pool(policy.info.fingerprint, until, sampling)
            prefixes.append(parent)
            for index, child in zip(ask.indices, children, strict=True):
                if child.finish not in ("error", "cancelled"):
                    step = self.recorder.clean(child).steps[-1]
                    rows.append(Row(pool, self._index(index), sampling.max_tokens, child.finish, step))
        await self.recorder.table.keep(rows, prefixes)
        return lines

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """Ask the verifier."""
        return await verifier.score(chains, run)

    def _index(self, index: int) -> int:
        return int.from_bytes(hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=6).digest(), "big")


def redactor(place: str | None) -> Redact:
    """The operator's function, written module:name; without one, texts stay as they are. Raises `UsageError`."""
    if place is None:
        return lambda text: text
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"serve: redact = {place!r} cannot be loaded: {error}") from None
    if not callable(found):
        raise UsageError(f"serve: redact = {place!r} is no function")
    return cast("Redact", found)
