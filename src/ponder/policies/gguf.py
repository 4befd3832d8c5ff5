"""A GGUF file as a policy: llama.cpp serves it on loopback inside this process, and the `openai` policy talks to it.

    async with gguf("smollm2") as policy:
        outcome = await solve(SelfConsistency(8), question, policy)

The server listens on a free port of 127.0.0.1 under a random key, with llama.cpp's sampling defaults (top-k 40, top-p 0.95,
min-p 0.05) switched off and temperature moved before top-k and top-p, so that `Sampling` means here what it means on other engines.
Chat templates in the file are rendered by llama.cpp's own interpreter, not by Python.

Every child has a seed of its own, and yet `seed` is not claimed: logits depend in their last bits on what else is decoded and cached, and
a long child comes out otherwise beside others than alone (seen within 200 tokens). The bank is what makes runs repeatable here.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import math
import os
import secrets
import struct
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO, TypeAlias

from ponder.core import Ask, Attempt, Capability, KVShape, Policy, PolicyInfo, Sampling, Until
from ponder.errors import DataError, MissingExtraError, SetupError, UsageError
from ponder.policies.pull import digest, find
from ponder.types import Chain


def gguf(model: str, context: int = 4096, slots: int = 8, threads: int | None = None) -> Gguf:
    """A policy over a GGUF file: a path, a name of the catalogue, or a Hugging Face id "owner/name:file.gguf" (see `ponder pull`).

    context: tokens that each of the `slots` sequences decoded together may hold; the cache is reserved for all of them. threads: left
    out, half of the logical cores, at least one: llama.cpp's threads wait for each other by spinning, and one core that is busy
    elsewhere stalls them all (measured on two cores with one busy: 1 thread 65 tokens/s, 2 threads 1.2). Raises `SetupError` if the
    model is not on this machine, `DataError` if the file is not GGUF, `MissingExtraError` without xllamacpp.
    """
    for name, value, low in (("context", context, 16), ("slots", slots, 1), ("threads", 1 if threads is None else threads, 1)):
        if value < low:
            raise UsageError(f"gguf({model!r}): {name} = {value} must be at least {low}")
    if importlib.util.find_spec("xllamacpp") is None:
        raise MissingExtraError("xllamacpp", "gguf")
    path = find(model)
    if not path.is_file():
        raise SetupError(f"gguf({model!r}): {path} is not a file; name one of a repository as owner/name:file.gguf")
    return Gguf(model, path, context, slots, threads or max(1, (os.cpu_count() or 1) // 2), read_header(path))


@dataclass(slots=True, eq=False)
class Gguf:
    """See `gguf`. Serves while entered; what the engine can do is probed then, and known from `info` only after.

    `observer` is told of every attempt.
    """

    model: str
    path: Path
    context: int
    slots: int
    threads: int
    header: Header
    observer: Callable[[Attempt], None] = field(default=lambda _: None, init=False, repr=False, compare=False)
    _inner: Policy | None = field(default=None, init=False, repr=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack, init=False, repr=False)
    _fingerprint: str = field(default="", init=False, repr=False)

    @property
    def info(self) -> PolicyInfo:
        """Size and cache shape from the file's header. The fingerprint covers the file (its template with it) and the engine's version."""
        if not self._fingerprint:
            identity = f"{digest(self.path)} xllamacpp {version('xllamacpp')} context {self.context}"
            self._fingerprint = f"gguf-{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"
        can: frozenset[Capability] = frozenset({"continue", "logprobs"})
        can = can if self._inner is None else self._inner.info.capabilities - {"n"}  # see __aenter__
        return PolicyInfo(f"gguf:{self.model}", self._fingerprint, can, self.header.parameters, self.header.kv)

    async def __aenter__(self) -> Gguf:
        """Load the model and serve it. Raises `SetupError` if llama.cpp cannot."""
        from ponder.policies.openai import Secret, openai

        key = secrets.token_urlsafe(24)
        server = await asyncio.to_thread(_serve, self, key)
        self._stack.callback(server.close)
        # One request for each child: llama.cpp seeds a request, not a choice, and counts one choice of several. Probed afresh, because
        # a port says nothing of the model behind it. A queue as long as the slots keeps them busy; its end may wait for long.
        inner = openai(
            f"{server.url}/v1",
            self.path.stem,
            concurrency=2 * self.slots,
            timeout=3600.0,
            many=False,
            fresh=True,
            key=Secret(key),
        )
        inner.observer = lambda attempt: self.observer(attempt)  # whoever it is by then
        self._inner = await self._stack.enter_async_context(inner)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections, then the server."""
        self._inner = None
        await self._stack.aclose()

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says."""
        if self._inner is None:
            raise UsageError(f"gguf({self.model!r}) is not open: use it inside `async with gguf(...) as policy`")
        return await self._inner.sample(asks, until=until, sampling=sampling)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself; kv is None if it varies by layer.

    parameters: active ones, the weights that a token is multiplied with: of the experts as many as it uses, and not the embedding
    table where the output has one of its own.
    """

    architecture: str
    parameters: int
    kv: KVShape | None


def read_header(path: Path) -> Header:
    """Read the metadata of a GGUF file (version 2 or 3, little-endian), bounds checked, tensors untouched. Raises `DataError`.

    Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    try:
        with path.open("rb") as file:
            return _Reader(path, file, path.stat().st_size).header()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


# Plumbing.


class _Server:
    """llama.cpp's server while it runs; it stops when nothing refers to it."""

    def __init__(self, engine: object, url: str) -> None:
        self._engine: object | None = engine
        self.url = url

    def close(self) -> None:
        self._engine = None


def _serve(policy: Gguf, key: str) -> _Server:
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path, asked.model_alias = str(policy.path), {policy.path.stem}
    asked.hostnames, asked.port, asked.api_keys = ["127.0.0.1"], 0, [key]
    asked.ui, asked.endpoint_slots, asked.cors_origins = False, False, ""
    asked.verbosity = -1  # llama.cpp writes to stderr by itself; what goes wrong comes back as an exception or a reply
    asked.n_ctx, asked.n_parallel, asked.kv_unified = policy.context * policy.slots, policy.slots, False
    asked.fit_params = False  # the context asked for, or an error; never a smaller one
    asked.cont_batching = asked.cache_prompt = True
    asked.cache_ram_mib = 512  # prefixes of chains that lost their slot; llama.cpp would take 8 GiB
    for pool in (asked.cpuparams, asked.cpuparams_batch):
        pool.n_threads = policy.threads
    drawn = asked.sampling
    drawn.samplers = "temperature;top_k;top_p;min_p"
    drawn.temp, drawn.top_k, drawn.top_p, drawn.min_p = 1.0, 0, 1.0, 0.0
    try:
        engine = xllamacpp.Server(asked)
    except Exception as error:  # the binding raises bare RuntimeErrors
        raise SetupError(
            f"gguf({policy.model!r}): llama.cpp could not serve {policy.path}: {str(error).rstrip('.')}; "
            f"try a smaller context ({policy.context}) or fewer slots ({policy.slots}), and look at the file's architecture "
            f"({policy.header.architecture})"
        ) from error
    return _Server(engine, engine.listening_address)


_FIXED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_Value: TypeAlias = str | int | float | None
_Meta: TypeAlias = dict[str, _Value]
_ENTRIES, _TEXT, _ITEMS = (
    1 << 16,
    1 << 24,
    1 << 24,
)  # more metadata or tensors, longer strings, longer arrays: not a model we know


@dataclass(slots=True)
class _Reader:
    path: Path
    file: BinaryIO
    size: int

    def header(self) -> Header:
        if self._take(4) != b"GGUF":
            raise self._bad("does not begin with 'GGUF'")
        edition = self._number("I")
        if edition not in (2, 3):
            raise self._bad(f"is GGUF version {edition}; 2 and 3 can be read")
        tensors, entries = self._bounded(_ENTRIES, "tensors"), self._bounded(_ENTRIES, "metadata entries")
        meta: _Meta = {}
        for _ in range(entries):
            name = self._text()
            meta[name] = self._value(self._number("I"))
        kind = str(meta.get("general.architecture", ""))
        used, experts = (_whole(meta.get(f"{kind}.{part}")) for part in ("expert_used_count", "expert_count"))
        weights = dict(self._tensor() for _ in range(tensors))
        if "output.weight" in weights:
            weights.pop("token_embd.weight", None)  # looked up, not multiplied with; where the two are tied it is
        share = used / experts if used and experts else 1.0
        active = sum(weight * (share if "_exps." in name else 1.0) for name, weight in weights.items())
        return Header(kind, round(active), _kv(kind, meta))

    def _tensor(self) -> tuple[str, int]:
        name, axes = self._text(), self._number("I")
        if axes > 8:
            raise self._bad(f"gives tensor {name!r} {axes} axes, more than 8")
        shape = [self._number("Q") for _ in range(axes)]
        self._take(4 + 8)  # element type, offset
        return name, math.prod(shape)

    def _value(self, kind: int) -> _Value:
        """A scalar or a string; None for an array, which is stepped over."""
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            form = self._format(kind)
            value: int | float = struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]
            return value
        items, length = self._number("I"), self._bounded(_ITEMS, "items in an array")
        if items == _STRING:
            for _ in range(length):
                self._skip(self._bounded(_TEXT, "bytes in a string"))
        else:
            self._skip(struct.calcsize(f"<{self._format(items)}") * length)
        return None

    def _format(self, kind: int) -> str:
        if kind not in _FIXED:
            raise self._bad(f"has a metadata value of unknown type {kind}")
        return _FIXED[kind]

    def _number(self, form: str) -> int:
        return int.from_bytes(self._take(struct.calcsize(f"<{form}")), "little")

    def _text(self) -> str:
        return self._take(self._bounded(_TEXT, "bytes in a string")).decode("utf-8", "replace")

    def _bounded(self, limit: int, what: str) -> int:
        count = self._number("Q")
        if count > limit:
            raise self._bad(f"claims {count} {what}, more than {limit}")
        return count

    def _take(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) != length:
            raise self._bad("ends inside its header")
        return data

    def _skip(self, length: int) -> None:
        if self.file.tell() + length > self.size:
            raise self._bad("ends inside its header")
        self.file.seek(length, os.SEEK_CUR)

    def _bad(self, why: str) -> DataError:
        return DataError(
            f"{self.path} {why} (near byte {self.file.tell()} of {self.size}); is it a whole GGUF file? pull it again"
        )


def _whole(value: _Value) -> int | None:
    return value if isinstance(value, int) else None


def _kv(kind: str, meta: _Meta) -> KVShape | None:
    def at(name: str) -> int | None:
        return _whole(meta.get(f"{kind}.{name}"))

    layers, heads, width = at("block_count"), at("attention.head_count"), at("embedding_length")
    grouped = f"{kind}.attention.head_count_kv" in meta
    shared = at("attention.head_count_kv") if grouped else heads
    size = at("attention.key_length") or (width // heads if width and heads else None)
    if not (layers and heads and shared and size):
        return None  # not said, or an array: another number in each layer
    return KVShape(layers, shared, size, heads // shared)
