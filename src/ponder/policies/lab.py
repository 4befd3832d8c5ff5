"""The embedded lab models as a policy: NumPy in a process for each core; a child is a function of its key bit for bit."""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

from ponder import lab
from ponder.core import Ask, Capability, KVShape, PolicyInfo, Sampling, Until, room
from ponder.errors import CapabilityError, UnreachableError, UsageError
from ponder.lab import tokenizer
from ponder.lab.engine import Completion, Request
from ponder.lab.model import Weights
from ponder.spec import named
from ponder.types import Chain, Finish, Step, Tokens, Usage


@named("lab")
@dataclass(frozen=True, repr=False)
class Lab:
    """A lab model by size (`small`, `base`, `large`) or by the path of its weights.

    It reads lab problems only (`countdown`, `chain`); other text is refused. A step may end at any text that is one token of its
    vocabulary, such as a line's end. workers: processes that sample; 0 takes one a core, at most 8. How many there are changes no sample.
    """

    size: str = "base"
    workers: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.workers <= 64:
            raise UsageError(f"lab: workers = {self.workers} must lie in 0..64")

    @cached_property
    def info(self) -> PolicyInfo:
        """Measured off the weights. Raises `UsageError` for a size or path that does not exist."""
        try:
            weights, fingerprint = lab.load(self.size).weights, lab.fingerprint(self.size)
        except ValueError as error:
            raise UsageError(str(error)) from None
        shape = weights.shape
        kv = KVShape(shape.layers, 1, shape.head, group=shape.heads)
        able: frozenset[Capability] = frozenset({"continue", "logprobs", "seed", "n", "stop_reason"})
        return PolicyInfo(f"lab/{self.size}", f"lab-{fingerprint}", able, parameters(weights), kv)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says. Raises `CapabilityError` for a stop text of several tokens, `UsageError` for text it cannot read."""
        fingerprint, stops = self.info.fingerprint, {tokenizer.EOS, *map(_token, until.stop)}
        pool_of_workers = lab.pool(self.size, self.workers or min(8, os.cpu_count() or 1))
        pending = []
        for ask in asks:
            left, pool = room(ask.chain, sampling), ask.pool(fingerprint, until, sampling)
            prefix = _prefix(ask.chain)
            for index in ask.indices:
                request = Request(
                    prefix,
                    pool.seed(index),
                    min(left, until.tokens or left),
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    stop=frozenset(stops),
                    top=sampling.logprobs,
                )
                pending.append(asyncio.wrap_future(pool_of_workers.submit(request)))
        try:
            drawn = iter(await asyncio.gather(*pending))
        except RuntimeError as error:
            raise UnreachableError(f"lab: {error}; start the study again, nothing that was paid for is lost") from error
        return [[_child(ask.chain, next(drawn), until, room(ask.chain, sampling)) for _ in ask.indices] for ask in asks]


def parameters(weights: Weights) -> int:
    """How many numbers the model has; a tied unembedding is counted once."""
    inside = sum(getattr(layer, field.name).size for layer in weights.layers for field in fields(layer))
    return int(weights.embedding.size + weights.shape.width + inside)


def _prefix(chain: Chain) -> tuple[int, ...]:
    question = "\n".join(message.text for message in chain.prompt)
    try:
        return tuple(tokenizer.encode_prompt(question, chain.text))
    except ValueError as error:
        raise UsageError(
            f"the lab only reads lab problems, such as 'chain 3+4*2' (a JSONL task sends them bare with prompt='plain'): {error}"
        ) from None


def _token(stop: str) -> int:
    if stop not in tokenizer.VOCABULARY:
        raise CapabilityError(f"lab: a step cannot end at {stop!r}, which is not one token of its vocabulary; use a line's end")
    return tokenizer.VOCABULARY.index(stop)


def _child(chain: Chain, drawn: Completion, until: Until, left: int) -> Chain:
    ids = drawn.ids.tolist()
    ended = drawn.stopped_by == tokenizer.EOS
    prefix = _prefix(chain)
    texts = tokenizer.pieces(ids, after=prefix[-1])
    if ended:
        texts[-1] = ""  # the end is a token that was paid for, but no text
    width = drawn.top_ids.shape[1]
    tokens = Tokens(
        tuple(texts),
        array("i", ids),
        array("f", drawn.logprobs.tolist()),
        width,
        tuple(tokenizer.VOCABULARY[i] for i in drawn.top_ids.ravel().tolist()),
        array("f", drawn.top_logprobs.ravel().tolist()),
    )
    finish: Finish | None = "stop" if ended else None
    if not ended and drawn.stopped_by is None and (until.tokens is None or len(ids) < until.tokens or len(ids) == left):
        finish = "length"
    return chain.then(Step("".join(texts), Usage(prompt=len(prefix), completion=len(ids), calls=1), tokens=tokens), finish)
