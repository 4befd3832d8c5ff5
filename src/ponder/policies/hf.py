"""A Hugging Face causal language model in this process: batched, step by step, with token alternatives.

    async with hf("owner/name") as policy:
        outcome = await solve(SelfConsistency(8), question, policy)

The sampling loop is ours, so that temperature, top-p and top-k mean what they mean on the lab, and a child is a function of its key:
the k-th token is drawn with a number that depends on the sample's key and k alone. What the key cannot fix is arithmetic: logits
differ in their last bits between batch shapes, and a draw that falls within such a difference of a boundary comes out otherwise (about
one token in a million in float32). The capability `seed` is therefore claimed on a CPU in float32 and float64 only.

A chain is always encoded anew from its text: its key is a digest of the text, and tokens cut elsewhere must not change its children.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import json
import math
import struct
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from ponder.core import Ask, Capability, KVShape, PolicyInfo, Sampling, Until, room
from ponder.errors import CapabilityError, DataError, EndpointError, MissingExtraError, SetupError, UsageError
from ponder.lab.sampling import Settings, choose, log_softmax, uniforms
from ponder.policies.pull import digest, find
from ponder.types import Chain, Finish, Message, Step, Tokens, Usage

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_Meta: TypeAlias = dict[str, object]


def hf(model: str, device: str = "cpu", dtype: str = "float32", batch: int = 16) -> HF:
    """A policy over a folder or a Hugging Face id "owner/name" (see `ponder pull`) that holds safetensors and a tokenizer.

    device: as torch names it. dtype: float32, float64, bfloat16 or float16. batch: sequences decoded together. A model without a chat
    template gets the texts of the messages, with an empty line after each. Raises `SetupError` if the model is not on this machine,
    `DataError` if it has no safetensors, `MissingExtraError` without torch and transformers. Code that comes with a model never runs.
    """
    if dtype not in _DTYPES:
        raise UsageError(f"hf({model!r}): dtype = {dtype!r} must be one of {', '.join(_DTYPES)}")
    if batch < 1:
        raise UsageError(f"hf({model!r}): batch = {batch} must be at least 1")
    for needed in ("torch", "transformers"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError(needed, "hf")
    folder = find(model)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise DataError(f"hf({model!r}): {folder} must hold config.json and weights in *.safetensors (no pickles are read)")
    return HF(model, folder, device, dtype, batch)


@dataclass(slots=True, eq=False)
class HF:
    """See `hf`. Loads when entered; one thread of its own computes, and what waits for it meanwhile is decoded together."""

    model: str
    folder: Path
    device: str
    dtype: str
    batch: int
    _info: PolicyInfo | None = field(default=None, init=False, repr=False)
    _engine: _Engine | None = field(default=None, init=False, repr=False)
    _thread: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)
    _waiting: list[_Call] = field(default_factory=list, init=False, repr=False)
    _turns: asyncio.Task[None] | None = field(default=None, init=False, repr=False)

    @property
    def info(self) -> PolicyInfo:
        """Size and cache shape from configuration and headers; the fingerprint covers weights, tokenizer, template, dtype and engine."""
        if self._info is None:
            exact = self.device == "cpu" and self.dtype in ("float32", "float64")
            can: frozenset[Capability] = frozenset({"continue", "logprobs", "n", "stop_reason"})
            can = can | {"seed"} if exact else can
            size, kv = _shape(self.folder)
            self._info = PolicyInfo(f"hf:{self.model}", _fingerprint(self.folder, self.device, self.dtype), can, size, kv)
        return self._info

    async def __aenter__(self) -> HF:
        """Load model and tokenizer. Raises `SetupError` if transformers cannot."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hf")
        try:
            self._engine = await asyncio.get_running_loop().run_in_executor(self._thread, _load, self)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the model."""
        self._engine = None
        if self._thread is not None:
            await asyncio.to_thread(self._thread.shutdown)

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says. A prompt longer than the model's context gives children finished by `error`.

        Raises `EndpointError` if the engine fails (out of memory), `CapabilityError` on a prompt with parts that are not text. A call
        that is cancelled stops at its next token.
        """
        if self._engine is None:
            raise UsageError(f"hf({self.model!r}) is not open: use it inside `async with hf(...) as policy`")
        rows = [
            _Row(at, ask.chain, pool.seed(index), room(ask.chain, sampling))
            for at, ask in enumerate(asks)
            for pool in (ask.pool(self.info.fingerprint, until, sampling),)
            for index in ask.indices
        ]
        call = _Call(rows, until, sampling, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        if self._turns is None or self._turns.done():
            self._turns = asyncio.create_task(self._take_turns())
        try:
            await call.written
        except RuntimeError as error:  # torch's own, out of memory among them
            raise EndpointError(f"{self.info.name}: {error}; try a smaller batch ({self.batch})") from error
        finally:
            for row in rows:
                row.done = True
        children: list[list[Chain]] = [[] for _ in asks]
        for row in rows:
            children[row.ask].append(row.child(sampling.logprobs))
        return children

    async def _take_turns(self) -> None:
        """Compute what waits, in order; calls of one kind that came meanwhile are decoded together, as far as a batch holds them."""
        while self._waiting:
            head, together, size = self._waiting[0], [], 0
            for call in self._waiting:
                if size < self.batch and (call.until, call.sampling) == (head.until, head.sampling):
                    together.append(call)
                    size += len(call.rows)
            self._waiting = [call for call in self._waiting if call not in together]
            rows = [row for call in together for row in call.rows if not row.done]
            failed = None
            try:
                engine, loop = cast("_Engine", self._engine), asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, engine.run, rows, head.until, head.sampling, self.batch)
            except Exception as error:  # whatever it is, it belongs to those who asked
                failed = error
            for call in together:
                if not call.written.done():
                    call.written.set_exception(failed) if failed else call.written.set_result(None)


@dataclass(slots=True, eq=False)
class _Call:
    """What one caller waits for."""

    rows: list[_Row]
    until: Until
    sampling: Sampling
    written: asyncio.Future[None]


@dataclass(slots=True)
class _Row:
    """A child in the making. `cap` is what the chain may still write; `pieces` holds the text of each token in `ids`.

    A row that is `done` is written no further; a caller that goes away marks its rows so.
    """

    ask: int
    chain: Chain
    seed: int
    cap: int
    prompt: int = 0
    cached: int = 0
    written: int = 0
    seconds: float = 0.0
    finish: Finish | None = None
    done: bool = False
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[str, float]] = field(default_factory=list)

    def end(self, finish: Finish | None) -> None:
        self.done, self.finish = True, finish

    def child(self, width: int) -> Chain:
        usage = Usage(self.prompt, self.cached, self.written, calls=1, seconds=self.seconds)
        texts, alternatives = tuple(text for text, _ in self.top), array("f", (logprob for _, logprob in self.top))
        tokens = Tokens(tuple(self.pieces), array("i", self.ids), array("f", self.logprobs), width, texts, alternatives)
        return self.chain.then(Step("".join(self.pieces), usage, tokens=tokens), self.finish)


@dataclass(slots=True)
class _Engine:
    """Model and tokenizer, used by one thread at a time."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: str
    context: int
    ends: frozenset[int]
    special: frozenset[int]
    anchor: list[int]
    alone: dict[int, str] = field(default_factory=dict)

    def run(self, rows: list[_Row], until: Until, sampling: Sampling, batch: int) -> None:
        """Write every row to its end, `batch` of them together."""
        import torch

        encoded = {chain.digest: self._encode(chain) for chain in {row.chain.digest: row.chain for row in rows}.values()}
        ready = []
        for row in rows:
            row.prompt = len(encoded[row.chain.digest])
            if row.prompt >= self.context:
                row.end("error")
            elif row.cap == 0:
                row.end("length")
            else:
                ready.append(row)
        with torch.inference_mode():
            for first in range(0, len(ready), batch):
                group, begun = [row for row in ready[first : first + batch] if not row.done], time.perf_counter()
                if not group:
                    continue
                self._decode(group, encoded, until, sampling)
                for row in group:
                    row.seconds = (time.perf_counter() - begun) / len(group)

    def _decode(self, rows: list[_Row], encoded: dict[str, list[int]], until: Until, sampling: Sampling) -> None:
        """The sampling loop. Prompts are padded on the left and read once for all children of a chain."""
        import torch
        from transformers import DynamicCache

        asks = list(dict.fromkeys(row.chain.digest for row in rows))
        width = max(len(encoded[ask]) for ask in asks)
        ids = torch.zeros((len(asks), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for at, ask in enumerate(asks):
            ids[at, width - len(encoded[ask]) :] = torch.tensor(encoded[ask])
            mask[at, width - len(encoded[ask]) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        cache = DynamicCache(config=self.model.config)
        logits = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        spread = torch.tensor([asks.index(row.chain.digest) for row in rows], device=self.device)
        cache.reorder_cache(spread)
        mask, logits = mask[spread], logits[spread.cpu().numpy()]
        for before, row in zip([None, *rows], rows, strict=False):
            row.cached = row.prompt if before is not None and before.chain.digest == row.chain.digest else 0
        live, readers = rows, [_Reader(self, encoded[row.chain.digest][-8:]) for row in rows]
        while True:
            chosen = _draw(logits, live, sampling)
            for at, (row, reader, token) in enumerate(zip(live, readers, chosen, strict=True)):
                [own] = log_softmax(logits[at : at + 1])  # a row at a time stays in the processor's cache
                self._take(row, reader, int(token), own, until, sampling.logprobs)
            kept = [at for at, row in enumerate(live) if not row.done]
            if not kept:
                return
            if len(kept) < len(live):
                select = torch.tensor(kept, device=self.device)
                cache.batch_select_indices(select)
                mask, chosen = mask[select], chosen[kept]
                live, readers = [live[at] for at in kept], [readers[at] for at in kept]
            mask = torch.cat([mask, mask.new_ones((len(live), 1))], -1)
            logits = self._forward(torch.from_numpy(chosen).to(self.device)[:, None], mask, mask.sum(-1, keepdim=True) - 1, cache)

    def _forward(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: object) -> NDArray[np.float32]:
        """Logits of the last position, [rows, vocabulary]."""
        out = self.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        last: NDArray[np.float32] = out.logits[:, -1].float().cpu().numpy()
        return last

    def _take(self, row: _Row, reader: _Reader, token: int, logprobs: NDArray[np.float32], until: Until, width: int) -> None:
        """One token more: keep it, and see whether the row ends here."""
        row.written += 1
        if token in self.ends:
            row.end("stop")
            return
        row.ids.append(token)
        row.pieces.append(reader.read(token))
        row.logprobs.append(float(logprobs[token]))
        if width:
            best = np.array([logprobs.argmax()])
            if width > 1:
                best = np.argpartition(-logprobs, width - 1)[:width] if width < len(logprobs) else np.arange(len(logprobs))
                best = best[np.lexsort((best, -logprobs[best]))]
            row.top += [(self._piece(int(at)), float(logprobs[at])) for at in best]
            row.top += [("", -math.inf)] * (width - len(best))
        stopped = bool(until.stop) and _cut_at_stop(row.pieces, until.stop)
        if stopped or (until.tokens is not None and row.written >= until.tokens):
            row.end(None)
        elif row.written >= row.cap or row.prompt + row.written >= self.context:
            row.end("length")

    def _encode(self, chain: Chain) -> list[int]:
        messages = [{"role": message.role, "content": _plain(message, self.name)} for message in chain.prompt]
        if self.tokenizer.chat_template:
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids: list[int] = self.tokenizer(f"{prompt}{chain.text}", add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer("".join(f"{message['content']}\n\n" for message in messages) + chain.text)["input_ids"]
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of tokens, special ones written out."""
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return decoded

    def _piece(self, token: int) -> str:
        """The text of one token inside a text (decoders drop the space that a first token begins with)."""
        if token not in self.alone:
            self.alone[token] = self.text([*self.anchor, token])[len(self.text(self.anchor)) :]
        return self.alone[token]


@dataclass(slots=True)
class _Reader:
    """Turns tokens into pieces of text, one for each; bytes of a character that is not whole yet wait for the token that ends it."""

    engine: _Engine
    ids: list[int]
    shown: int = 0

    def __post_init__(self) -> None:
        self.shown = len(self.ids)

    def read(self, token: int) -> str:
        before = self.engine.text(self.ids[: self.shown])
        self.ids.append(token)
        after = self.engine.text(self.ids)
        if after.endswith("\ufffd"):
            return ""
        self.ids, self.shown = self.ids[-8:], min(8, len(self.ids))
        return "" if token in self.engine.special else after[len(before) :]


def _draw(logits: NDArray[np.float32], rows: list[_Row], sampling: Sampling) -> NDArray[np.int64]:
    """One token for each row, by its key and its position."""
    count = len(rows)
    settings = Settings(
        np.full(count, sampling.temperature), np.full(count, sampling.top_p), np.full(count, sampling.top_k, dtype=np.int64)
    )
    keys = np.array([row.seed for row in rows], dtype=np.uint64)
    return choose(logits, settings, uniforms(keys, np.array([row.written for row in rows], dtype=np.int64))).astype(np.int64)


def _cut_at_stop(pieces: list[str], stops: Sequence[str]) -> bool:
    """Whether a stop text has come up with the last piece; if so the pieces end with it. The earliest end counts."""
    last = pieces[-1]
    tail = "".join(pieces[:-1])[-max(map(len, stops)) :]
    window = tail + last
    ends = [at + len(stop) for stop in stops if (at := window.find(stop, max(0, len(tail) - len(stop) + 1))) >= 0]
    if not ends:
        return False
    pieces[-1] = last[: min(ends) - len(tail)]
    return True


# Loading, and what a folder says of itself.


def _load(policy: HF) -> _Engine:
    import torch

    transformers = importlib.import_module("transformers")

    transformers.utils.logging.disable_progress_bar()  # it would write over ours
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(policy.folder, trust_remote_code=False, local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            policy.folder,
            dtype=getattr(torch, policy.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        model.to(policy.device).eval()
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise SetupError(f"hf({policy.model!r}): transformers cannot load {policy.folder} on {policy.device}: {error}") from error
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return _Engine(
        name=policy.info.name,
        model=model,
        tokenizer=tokenizer,
        device=policy.device,
        context=int(getattr(model.config, "max_position_embeddings", None) or 2**31),
        ends=frozenset(end for end in (*ends, tokenizer.eos_token_id) if end is not None),
        special=frozenset(tokenizer.all_special_ids),
        anchor=tokenizer("a", add_special_tokens=False)["input_ids"],
    )


def _plain(message: Message, name: str) -> str:
    if any(not isinstance(part, str) for part in message.content):
        raise CapabilityError(
            f"{name}: reads text only, and a {message.role} message has other parts; use an engine that sees them"
        )
    return message.text


def _fingerprint(folder: Path, device: str, dtype: str) -> str:
    """Weights, configuration, tokenizer with its template, arithmetic and versions; not where they lie."""
    parts = [f"{path.name} {digest(path)}" for path in sorted(folder.glob("*.safetensors"))]
    for path in sorted(path for kind in ("*.json", "*.jinja", "*.model", "*.txt") for path in folder.glob(kind)):
        parts.append(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}")
    parts += [device.partition(":")[0], dtype, *(f"{name} {version(name)}" for name in ("torch", "transformers"))]
    return f"hf-{hashlib.blake2b(' '.join(parts).encode(), digest_size=16).hexdigest()}"


def _shape(folder: Path) -> tuple[int, KVShape | None]:
    """Active parameters (an embedding table that is not tied is looked up, not multiplied with) and the shape of the cache."""
    config: _Meta = json.loads((folder / "config.json").read_text())
    weights: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        weights |= _weights(path)
    if any(name.endswith("lm_head.weight") for name in weights) and not config.get("tie_word_embeddings", False):
        weights = {name: size for name, size in weights.items() if not name.endswith("embed_tokens.weight")}
    layers, heads, width = (config.get(name) for name in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
    shared, head = config.get("num_key_value_heads") or heads, config.get("head_dim")
    kv = None
    if isinstance(layers, int) and isinstance(heads, int) and isinstance(shared, int) and isinstance(width, int):
        kv = KVShape(layers, shared, head if isinstance(head, int) else width // heads, heads // shared)
    return sum(weights.values()), kv


def _weights(path: Path) -> dict[str, int]:
    """Tensor names and sizes from the header of a safetensors file: 8 bytes of length, then JSON."""
    try:
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            if length > min(100_000_000, path.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        return {name: math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, struct.error) as error:
        raise DataError(f"{path} is not a safetensors file: {error}") from error
