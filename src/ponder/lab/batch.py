"""The samples under way in one model: admission, shared prefixes, one token for everybody at each step."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ponder.lab.model import BLOCK, Cache, Floats, Ints, Slots, Weights, forward, logits
from ponder.lab.sampling import Settings, choose, log_softmax, uniforms
from ponder.lab.tokenizer import EOS, PAD

SLOTS = 256  # samples under way at once
ADMIT = 16  # newcomers wait until so many slots are free, so that their prefixes are prefilled together
PREFIXES = SLOTS  # prefixes kept, least recently used first out; one for every sample admitted together
PREFILL_ROWS = 512  # rows of one forward pass at most


@dataclass(frozen=True, slots=True)
class Request:
    """One sample to draw.

    Attributes:
        prefix: token ids to continue, at least one and fewer than the model's positions (512).
        key: 64-bit; with the prefix and the settings it determines the sample.
        max_tokens: how many tokens to draw at most, at least 1. The end of the model's positions cuts as well.
        temperature: 0 is greedy (the lowest id among equals).
        top_p: keep the likeliest tokens until their probability reaches this; (0, 1].
        top_k: keep the k likeliest tokens; 0 keeps all.
        stop: ids that end the sample; the one met is the last id of the completion.
        top: how many alternatives to record for every token.
    """

    prefix: tuple[int, ...]
    key: int
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: frozenset[int] = frozenset({EOS})
    top: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One drawn sample of T tokens.

    Attributes:
        ids: [T].
        logprobs: [T] natural log-probability of each chosen token under the model at temperature 1, whatever the settings were.
        top_ids: [T, top], likeliest first.
        top_logprobs: [T, top], at temperature 1.
        stopped_by: the stop id that ended it, or None when it was cut.
    """

    ids: Ints
    logprobs: Floats
    top_ids: Ints
    top_logprobs: Floats
    stopped_by: int | None

    @property
    def reason(self) -> Literal["stop", "length"]:
        """`stop` when a stop id was drawn, `length` when the sample was cut."""
        return "length" if self.stopped_by is None else "stop"


class Batch:
    """The samples under way and those waiting. One `step` draws a token for each, then admits what fits."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._reset()

    def _reset(self) -> None:
        shape = self.weights.shape
        self._waiting: deque[tuple[Request, Future[Completion]]] = deque()
        self._samples: dict[int, _Sample] = {}  # by slot
        self._free = list(range(SLOTS))
        self._prefixes: OrderedDict[tuple[int, ...], _Prefix] = OrderedDict()
        self._fresh = list(range(SLOTS, SLOTS + PREFIXES))
        self._scratch = SLOTS + PREFIXES  # the slot that padding rows write to
        self._cache = Cache.empty(shape, SLOTS + PREFIXES + 1)
        self._ids = np.zeros((SLOTS, shape.positions), np.int64)
        self._logprobs = np.zeros((SLOTS, shape.positions), np.float32)
        self._last = np.zeros(SLOTS, np.int64)  # position of the last token, which is not in the cache yet
        self._end = np.zeros(SLOTS, np.int64)  # position at which a sample is cut
        self._keys = np.zeros(SLOTS, np.uint64)
        self._stops = np.zeros((SLOTS, shape.vocabulary), np.bool_)
        self._settings = Settings(np.ones(SLOTS), np.ones(SLOTS), np.zeros(SLOTS, np.int64))

    @property
    def busy(self) -> bool:
        """Whether anything is under way or waiting."""
        return bool(self._waiting or self._samples)

    def add(self, request: Request, future: Future[Completion]) -> None:
        """Queue a checked request; its future is resolved by a later step."""
        self._waiting.append((request, future))

    def step(self) -> None:
        """Draw one token for every sample under way, then admit newcomers and draw their first. Errors go to the futures."""
        try:
            self._release([slot for slot, sample in self._samples.items() if sample.future.cancelled()])
            if self._samples:
                slots = np.array(sorted(self._samples), dtype=np.int64)
                positions = self._last[slots]
                tokens = self._ids[slots, positions]
                states = _forward(self.weights, self._cache, tokens, positions, slots, self._scratch)
                self._draw(slots, project(self.weights, states))
            if self._waiting and len(self._free) >= ADMIT:
                self._admit()
        except Exception as error:  # whoever waits must hear of it
            self._fail(error)

    def _admit(self) -> None:
        """Give free slots to the first in the queue; a round takes no more new prefixes than one forward pass holds."""
        admitted: list[tuple[int, _Sample]] = []
        new: list[tuple[int, ...]] = []
        rows = 0
        while self._waiting and self._free:
            request, future = self._waiting[0]
            if not future.cancelled():
                if request.prefix not in self._prefixes and request.prefix not in new:
                    rows += len(request.prefix)
                    if new and rows > PREFILL_ROWS:
                        break
                    new.append(request.prefix)
                admitted.append((self._free.pop(), _Sample(request, future)))
            self._waiting.popleft()
        used = {sample.request.prefix for _, sample in admitted}
        if not admitted:
            return
        for slot, sample in admitted:
            self._place(slot, sample)
        self._learn(new, used)
        for prefix in used:
            targets = np.array([slot for slot, sample in admitted if sample.request.prefix == prefix])
            known = self._prefixes[prefix]
            self._prefixes.move_to_end(prefix)
            self._cache.copy_slot(known.slot, targets, len(prefix))
        slots = np.array([slot for slot, _ in admitted])
        self._draw(slots, np.stack([self._prefixes[sample.request.prefix].logits for _, sample in admitted]))

    def _learn(self, new: Sequence[tuple[int, ...]], used: set[tuple[int, ...]]) -> None:
        """Prefill new prefixes, each from the longest known one that it continues, into slots of their own."""
        jobs: list[tuple[int, int, Sequence[int]]] = []
        for prefix in new:
            shorter = (prefix[:cut] for cut in range(len(prefix) - 1, 0, -1))
            known = next((short for short in shorter if short in self._prefixes), ())
            source = self._prefixes[known].slot if known else -1
            slot = self._allocate(used)
            if known:
                self._cache.copy_slot(source, np.array([slot]), len(known))
            jobs.append((slot, len(known), prefix[len(known) :]))
        states = prefill(self.weights, self._cache, jobs, scratch=self._scratch)
        if not jobs:
            return
        after = project(self.weights, np.stack([state[-1] for state in states]))
        for (slot, _, _), prefix, values in zip(jobs, new, after, strict=True):
            self._prefixes[prefix] = _Prefix(slot, values)

    def _allocate(self, used: set[tuple[int, ...]]) -> int:
        """Give a prefix slot: a fresh one, or that of the prefix unused for longest. There are as many as sample slots."""
        if self._fresh:
            return self._fresh.pop()
        oldest = next(prefix for prefix in self._prefixes if prefix not in used)
        return self._prefixes.pop(oldest).slot

    def _place(self, slot: int, sample: _Sample) -> None:
        request = sample.request
        self._samples[slot] = sample
        self._last[slot] = len(request.prefix) - 1
        self._end[slot] = min(len(request.prefix) + request.max_tokens, self.weights.shape.positions) - 1
        self._keys[slot] = request.key
        self._stops[slot] = False
        self._stops[slot, list(request.stop)] = True
        self._settings.temperature[slot] = request.temperature
        self._settings.top_p[slot] = request.top_p
        self._settings.top_k[slot] = request.top_k

    def _draw(self, slots: Ints, values: Floats) -> None:
        """Draw the next token of the samples in `slots` from logits [slots, vocabulary], and finish those that end."""
        positions = self._last[slots] + 1
        chosen = choose(values, self._settings[slots], uniforms(self._keys[slots], positions))
        scores = log_softmax(values)
        self._last[slots] = positions
        self._ids[slots, positions] = chosen
        self._logprobs[slots, positions] = scores[np.arange(len(slots)), chosen]
        for row, slot in enumerate(slots.tolist()):
            sample = self._samples[slot]
            if sample.request.top:
                sample.record(scores[row])
        stopped = self._stops[slots, chosen]
        for row in np.flatnonzero(stopped | (positions >= self._end[slots])).tolist():
            slot = int(slots[row])
            sample = self._samples[slot]
            span = slice(len(sample.request.prefix), int(positions[row]) + 1)
            sample.finish(self._ids[slot, span].copy(), self._logprobs[slot, span].copy(), bool(stopped[row]))
            self._release([slot])

    def _release(self, slots: Iterable[int]) -> None:
        for slot in slots:
            del self._samples[slot]
            self._free.append(slot)

    def _fail(self, error: Exception) -> None:
        futures = [future for _, future in self._waiting] + [sample.future for sample in self._samples.values()]
        self._reset()  # a failed step may have left anything behind
        for future in futures:
            resolve(future, error)


@dataclass(frozen=True, slots=True)
class _Prefix:
    """A prefilled prefix: the slot that holds its keys and values, and the logits after it."""

    slot: int
    logits: Floats


@dataclass(frozen=True, slots=True)
class _Sample:
    """A sample under way."""

    request: Request
    future: Future[Completion]
    top_ids: list[Ints] = field(default_factory=list)
    top_logprobs: list[Floats] = field(default_factory=list)

    def record(self, scores: Floats) -> None:
        best = np.argsort(-scores, kind="stable")[: self.request.top]
        self.top_ids.append(best)
        self.top_logprobs.append(scores[best])

    def finish(self, ids: Ints, logprobs: Floats, stopped: bool) -> None:
        size = (len(ids), self.request.top)
        top_ids = np.array(self.top_ids, dtype=np.int64).reshape(size)
        top_logprobs = np.array(self.top_logprobs, dtype=np.float32).reshape(size)
        resolve(self.future, Completion(ids, logprobs, top_ids, top_logprobs, int(ids[-1]) if stopped else None))


def prefill(weights: Weights, cache: Cache, jobs: Sequence[tuple[int, int, Sequence[int]]], *, scratch: int) -> list[Floats]:
    """Compute (slot, first position, token ids) jobs; give the hidden states of each, [ids, width]."""
    if not jobs:
        return []
    tokens = np.concatenate([np.asarray(ids, dtype=np.int64) for _, _, ids in jobs])
    positions = np.concatenate([np.arange(start, start + len(ids)) for _, start, ids in jobs])
    slots = np.concatenate([np.full(len(ids), slot) for slot, _, ids in jobs])
    parts = [slice(first, first + PREFILL_ROWS) for first in range(0, len(tokens), PREFILL_ROWS)]
    states = [_forward(weights, cache, tokens[part], positions[part], slots[part], scratch) for part in parts]
    ends = np.cumsum([len(ids) for _, _, ids in jobs])
    return np.split(np.concatenate(states), ends[:-1])


def project(weights: Weights, states: Floats) -> Floats:
    """Give logits [rows, vocabulary] of any number of hidden states [rows, width]."""
    padded = np.zeros((-(-len(states) // BLOCK) * BLOCK, states.shape[1]), np.float32)
    padded[: len(states)] = states
    return logits(weights, padded)[: len(states)]


def check(request: Request, weights: Weights, *, room: int = 1) -> None:
    """Raise ValueError, naming field, value and bound, for a request that cannot be drawn; `room` tokens must fit after it."""
    shape = weights.shape
    if not 1 <= len(request.prefix) <= shape.positions - room:
        raise ValueError(f"prefix has {len(request.prefix)} tokens; the model takes 1 to {shape.positions - room}")
    outside = [token for token in (*request.prefix, *request.stop) if not 0 <= token < shape.vocabulary]
    if outside:
        raise ValueError(f"token id {outside[0]} is outside 0..{shape.vocabulary - 1}")
    bounds = (
        ("key", request.key, 0 <= request.key < 2**64, "0 to 2**64 - 1"),
        ("max_tokens", request.max_tokens, request.max_tokens >= 1, "at least 1"),
        ("temperature", request.temperature, 0 <= request.temperature < float("inf"), "finite and at least 0"),
        ("top_p", request.top_p, 0 < request.top_p <= 1, "above 0 and at most 1"),
        ("top_k", request.top_k, request.top_k >= 0, "at least 0"),
        ("top", request.top, 0 <= request.top <= shape.vocabulary, f"0 to {shape.vocabulary}"),
    )
    for name, value, holds, bound in bounds:
        if not holds:
            raise ValueError(f"{name} is {value}; it must be {bound}")


def _forward(weights: Weights, cache: Cache, tokens: Ints, positions: Ints, slots: Ints, scratch: int) -> Floats:
    """Run `forward` on any number of rows, padded to whole blocks; gives the hidden states of the rows alone."""
    missing = -len(tokens) % BLOCK
    at = np.concatenate([positions, np.zeros(missing, np.int64)])
    memory = Slots(cache, at, np.concatenate([slots, np.full(missing, scratch)]))
    states = forward(weights, memory, np.concatenate([tokens, np.full(missing, PAD)]), at)
    return states[: len(tokens)]


def resolve(future: Future[Completion], outcome: Completion | Exception) -> None:
    """Give a future its outcome, unless it was cancelled meanwhile."""
    try:
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass
