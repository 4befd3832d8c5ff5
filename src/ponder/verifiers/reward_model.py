"""A trained reward model as a verifier, by name, folder, Hugging Face id or address."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from math import log, log1p
from pathlib import Path
from typing import Protocol

from ponder.core import KVShape, PolicyInfo
from ponder.errors import UsageError
from ponder.lab.reward import Asked, Facts, Files, RewardEngine, lab_shaped, logistic, shipped
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Usage
from ponder.verifiers.aggregated import AGGREGATES

SHAPES = ("auto", "orm", "process", "math_shepherd", "rlhflow", "skywork", "qwen_prm")
DTYPES = ("float32", "float64", "bfloat16", "float16")


@named("reward_model")
@dataclass(frozen=True, repr=False)
class RewardModel:
    """Belief that a chain is, or will end, correct, from a model trained to say so.

    path: `lab/NAME`, one that comes with the lab; a folder that a learner wrote; a folder or Hugging Face id "owner/name" of a public
    model; or the address of vLLM's route /pooling, /classify or /score. Models of the lab's shape are scored in NumPy, incrementally;
    others by transformers (extra `hf`).
    shape: what a public model wants to read and where it answers (`ponder.verifiers.reward_hf`); `auto` tells by reward.json, else by
    the architecture or the name. step: the text that ends a step; left out, what reward.json or the shape says.
    batch: chains read together, or requests in flight. device, dtype: of transformers. model: the name under which a server has it.
    key_env: environment variable of the server's key.

    Value: the logistic function of the model's logit; of a process model, of the values after each step (`Score.steps`) what reward.json
    says, else the last: `aggregated(...)` takes another. Raw: the logit of the value. Usage: positions of the prompt, and of the answer.
    No score, with the reason: an empty chain, one longer than the model's positions, text outside the lab's vocabulary, a logit that is
    no finite number, a server that failed. Raises `UsageError` for a path that leads nowhere, `DataError` for files that are no reward model.
    """

    path: str
    shape: str = "auto"
    step: str = ""
    batch: int = 16
    device: str = "cpu"
    dtype: str = "float32"
    model: str = ""
    key_env: str = "OPENAI_API_KEY"

    def __post_init__(self) -> None:
        for name, value, allowed in (("shape", self.shape, SHAPES), ("dtype", self.dtype, DTYPES)):
            if value not in allowed:
                raise UsageError(f"reward_model: {name} = {value!r} must be one of {', '.join(allowed)}")
        if self.batch < 1:
            raise UsageError(f"reward_model: batch = {self.batch} must be at least 1")
        if self.remote and not self.model:
            raise UsageError(
                f"reward_model: model must name what {self.path} serves: its scores are kept under that name, not under the address"
            )

    @property
    def remote(self) -> bool:
        """Whether a server scores."""
        return self.path.startswith(("http://", "https://"))

    @property
    def fingerprint(self) -> str:
        """Of weights, facts and shape; of a remote model, of what is asked of it and the model's name."""
        return self._reader.fingerprint

    @property
    def reader(self) -> PolicyInfo | None:
        """Size and cache of the model that reads, where its file says so without being opened by an engine; None else."""
        return self._reader.info

    @cached_property
    def _reader(self) -> Reader:
        return _open(self)

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, in order; equal chains are read once. Reads nothing but the chains."""
        del run
        keys = [(chain.digest, chain.finish == "stop") for chain in chains]
        different = dict(zip(keys, chains, strict=True))
        readings = {key: Reading(error=why) for key, chain in different.items() if (why := _unreadable(chain))}
        rest = {key: chain for key, chain in different.items() if key not in readings}
        if rest:
            readings |= zip(rest, await self._reader.read(list(rest.values())), strict=True)
        return [_score(readings[key], self._reader.facts) for key in keys]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model said of one chain: values in [0, 1] and their logits, after each step of a process model, else one; or why nothing."""

    values: Sequence[float] = ()
    logits: Sequence[float] = ()
    usage: Usage = Usage()
    error: str = ""


class Reader(Protocol):
    """A reward model that can be asked."""

    @property
    def fingerprint(self) -> str:
        """Identity of the numbers it gives."""
        ...

    @property
    def info(self) -> PolicyInfo | None:
        """Size and cache, where they are known."""
        ...

    @property
    def facts(self) -> Facts:
        """Whether it has values after steps, and how they become one."""
        ...

    async def read(self, chains: Sequence[Chain]) -> list[Reading]:
        """One reading for each chain, in order."""
        ...


def _unreadable(chain: Chain) -> str:
    """Why no reward model can read a chain; "" if one may."""
    if not chain.text.strip():
        return "the chain is empty: there is no answer to score"
    if not chain.prompt or any(not isinstance(part, str) for message in chain.prompt for part in message.content):
        return "the prompt is empty, or has parts that are not text"
    return ""


def logit(value: float) -> float:
    """log(p / (1 - p)), of the nearest number inside (0, 1)."""
    inside = min(max(value, 5e-324), 1.0 - 2.0**-53)
    return log(inside) - log1p(-inside)


def _score(reading: Reading, facts: Facts) -> Score:
    if reading.error:
        return Score(None, error=f"reward_model: {reading.error}", usage=reading.usage)
    if facts.kind == "outcome":
        return Score(reading.values[-1], reading.logits[-1], usage=reading.usage)
    value = AGGREGATES[facts.aggregate](reading.values)
    at = [index for index, one in enumerate(reading.values) if one == value]
    raw = reading.logits[at[-1]] if at else logit(value)
    return Score(value, raw, tuple(reading.values), reading.usage)


class Lab:
    """A reward model of the lab's shape."""

    def __init__(self, files: Files) -> None:
        self.engine = RewardEngine(files)
        self.facts = self.engine.facts
        weights = self.engine.weights
        self.fingerprint = f"reward-lab-{weights.fingerprint}"
        inside = sum(
            getattr(layer, field.name).size for layer in weights.layers for field in fields(layer)
        )  # what a token is multiplied with
        shape = weights.shape
        self.info = PolicyInfo(
            self.fingerprint,
            self.fingerprint,
            parameters=inside + 2 * shape.width,
            kv=KVShape(shape.layers, 1, shape.head, group=shape.heads),
        )

    async def read(self, chains: Sequence[Chain]) -> list[Reading]:
        """In a thread, so that sampling goes on meanwhile."""
        return await asyncio.to_thread(self._read, chains)

    def _read(self, chains: Sequence[Chain]) -> list[Reading]:
        asked = [self._ask(chain) for chain in chains]
        whole = [one for one in asked if isinstance(one, Asked)]
        logits = iter(self.engine.logits([one.ids for one in whole], [one.positions for one in whole]))
        return [reading(one, next(logits).tolist()) if isinstance(one, Asked) else Reading(error=one) for one in asked]

    def _ask(self, chain: Chain) -> Asked | str:
        question = "\n".join(message.text for message in chain.prompt)
        try:
            return self.engine.ask(question, chain.text, finished=chain.finish == "stop")
        except ValueError as error:
            return str(error)


def reading(asked: Asked, logits: Sequence[float]) -> Reading:
    """A reading of logits, with what reading the chain cost."""
    import numpy as np

    usage = Usage(prompt=asked.prompt, scored=len(asked.ids) - asked.prompt, calls=1)
    if not np.isfinite(logits).all():
        return Reading(
            error="the model's logit is no finite number: its weights are damaged, or too large for its dtype", usage=usage
        )
    return Reading(logistic(np.asarray(logits, np.float64)).tolist(), logits, usage)


def _open(model: RewardModel) -> Reader:
    """The reader that a path leads to; one of a local model is shared by all that name it, as long as its files stay the same."""
    if model.remote:
        from ponder.verifiers.reward_remote import Remote

        return Remote(model.path, model.model, model.shape, model.step, model.batch, model.key_env)
    name, path = model.path.removeprefix("lab/"), Path(model.path).expanduser()
    if name != model.path and (name in shipped() or not path.exists()):
        return _lab(Files.named(name), _stamp(Files.named(name).weights))
    if path.is_file() and path.suffix == ".safetensors":
        return _lab(Files.of(path), _stamp(path))
    if path.is_dir() and model.shape == "auto" and not model.step and lab_shaped(path):
        return _lab(Files.of(path), _stamp(path / "model.safetensors"))
    if not path.is_dir() and (model.path.startswith(("/", ".", "~")) or model.path.count("/") != 1):
        raise UsageError(
            f"reward_model: there is no folder {model.path!r}; give lab/NAME (there are {', '.join(shipped()) or 'none'}), a folder that "
            "a learner wrote, a Hugging Face id owner/name, or the address of a vLLM route such as http://127.0.0.1:8000/pooling"
        )
    return _transformers(
        model.path, _stamp(path / "config.json"), model.shape, model.step, model.batch, model.device, model.dtype
    )


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat() if path.exists() else None
    return (stat.st_mtime_ns, stat.st_size) if stat else (0, 0)


@lru_cache(maxsize=8)
def _lab(files: Files, stamp: tuple[int, int]) -> Lab:
    del stamp
    return Lab(files)


@lru_cache(maxsize=2)
def _transformers(path: str, stamp: tuple[int, int], shape: str, step: str, batch: int, device: str, dtype: str) -> Reader:
    from ponder.verifiers.reward_hf import Transformers, find

    del stamp
    return Transformers(path, find(path), shape, step, batch, device, dtype)
