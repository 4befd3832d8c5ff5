"""V-STaR's verifier: a language model trained to prefer right answers believes an answer as much as it would have written it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ponder import lab
from ponder.errors import DataError, MissingExtraError, UsageError
from ponder.lab.tokenizer import EOS, VOCABULARY, encode_prompt
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Usage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ponder.lab.engine import Engine


@named("likelihood")
@dataclass(frozen=True, slots=True, repr=False)
class Likelihood:
    """The log-likelihood of an answer under a verifier V trained by DPO (Hosseini et al. 2024, arXiv:2402.06457, section 3).

    without reference   raw = log V(y | x), the sum over the tokens of the answer; value = 1 / (1 - raw)
    with reference      raw = beta log V(y | x) / G(y | x), the reward that DPO implies (Rafailov et al. 2023, arXiv:2305.18290, eq. 5, without the
                        term that is the same for all answers); value = 1 / (1 + exp(-raw)), the chance to beat an answer of reward 0

    path, reference: model folders, or sizes of the lab (`small`, `base`, `large`); the reference is the generator that training started
    from. Both maps rise strictly, so values rank as raw numbers do, across lengths too: a mean over tokens would not rank so. (The
    second one reaches 1 in double precision at a reward of 37, that is 370 nats at beta 0.1.) Neither is calibrated.

    A chain that finished by "stop" is scored with its end token. No score: a chain without text, or one that the model cannot read
    (too long, or outside the lab's vocabulary). Usage: positions read and scored, the reference's included. Raises `UsageError` or
    `DataError` for what is no model or not the verifier's reference, `MissingExtraError` where transformers is needed and missing.
    """

    path: str
    reference: str | None = None
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise UsageError(f"likelihood: beta = {self.beta!r} must be above 0")

    @property
    def fingerprint(self) -> str:
        """Weights and tokenizers of both models, and beta where it plays a part."""
        read = [_digest(path, "tokenizer*.json", "chat_template*") for path in (self.path, self.reference) if path is not None]
        return "-".join(["likelihood", *read, *([] if self.reference is None else [repr(self.beta)])])

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, a function of that chain alone."""
        del run
        return await asyncio.to_thread(self._score, chains)

    def _score(self, chains: Sequence[Chain]) -> list[Score]:
        paths = [self.path] if self.reference is None else [self.path, self.reference]
        if self.reference is not None:
            _check_reference(self.path, self.reference)
        return [self._judge(reads) for reads in zip(*(_read(path, chains) for path in paths), strict=True)]

    def _judge(self, reads: Sequence[_Read | str]) -> Score:
        found = [read for read in reads if not isinstance(read, str)]
        if len(found) < len(reads):
            return Score(None, error=f"likelihood: {next(read for read in reads if isinstance(read, str))}")
        usage = Usage(prompt=sum(read.prompt for read in found), scored=sum(read.scored for read in found), calls=1)
        if self.reference is None:
            raw = found[0].logprob
            return Score(1 / (1 - raw), raw, usage=usage)
        raw = self.beta * (found[0].logprob - found[1].logprob)
        return Score(1 / (1 + exp(-raw)) if raw >= 0 else exp(raw) / (1 + exp(raw)), raw, usage=usage)


class _Read(NamedTuple):
    """Tokens of the prompt, tokens of the answer, and the log-probability of the latter, in nats."""

    prompt: int
    scored: int
    logprob: float


class _Model(Protocol):
    """A causal language model that reads chains."""

    def encode(self, chain: Chain) -> tuple[list[int], int]:
        """Ids of the prompt, the answer and, where it is finished, its end; and how many are the prompt's.

        Raises `ValueError` for what it cannot read.
        """
        ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """The log-probability of every token but the first, given those before it."""
        ...


def _read(path: str, chains: Sequence[Chain]) -> list[_Read | str]:
    """What a model makes of each chain, or why it cannot read it."""
    model = _open(path)
    encoded = [_encoded(model, chain) for chain in chains]
    rows = [one for one in encoded if not isinstance(one, str)]
    scored = iter(model.score([ids for ids, _ in rows]))
    return [one if isinstance(one, str) else _summed(*one, next(scored)) for one in encoded]


def _summed(ids: list[int], prompt: int, logprobs: NDArray[np.float32]) -> _Read:
    return _Read(prompt, len(ids) - prompt, float(logprobs[prompt - 1 :].sum(dtype=np.float64)))


def _encoded(model: _Model, chain: Chain) -> tuple[list[int], int] | str:
    if not chain.text:
        return "the chain has no text"
    try:
        return model.encode(chain)
    except ValueError as error:
        return str(error)


@dataclass(frozen=True, slots=True)
class _Lab:
    """A model of the lab's shape, in NumPy."""

    engine: Engine

    def encode(self, chain: Chain) -> tuple[list[int], int]:
        question = "\n".join(message.text for message in chain.prompt)
        ids = encode_prompt(question, chain.text) + [EOS] * (chain.finish == "stop")
        return _fitting(ids, self.engine.weights.shape.positions), len(encode_prompt(question))

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        return self.engine.score(sequences)


@dataclass(frozen=True, slots=True)
class _Transformer:
    """Any other causal model, through transformers. Sequences are read one by one: what is scored beside one must not change it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def encode(self, chain: Chain) -> tuple[list[int], int]:
        """As `ponder.learners.models.encode` does, or it would not be the text that the verifier was trained on."""
        messages = [{"role": message.role, "content": message.text} for message in chain.prompt]
        if self.tokenizer.chat_template:  # which writes its own special tokens
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            before: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        else:
            before = self.tokenizer("".join(f"{message['content']}\n\n" for message in messages))["input_ids"]
            before = before[:-1] if before and before[-1] == self.tokenizer.eos_token_id else before
        answer: list[int] = self.tokenizer(chain.text, add_special_tokens=False)["input_ids"]
        ids = [*before, *answer, *[self.tokenizer.eos_token_id] * (chain.finish == "stop")]
        return _fitting(ids, getattr(self.model.config, "max_position_embeddings", len(ids))), len(before)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        import torch

        found = []
        with torch.inference_mode():
            for ids in sequences:
                row = torch.tensor([ids])
                logits = self.model(input_ids=row, use_cache=False).logits[0, :-1]
                chosen = logits.gather(-1, row[0, 1:, None])[:, 0] - logits.logsumexp(-1)
                found.append(cast("NDArray[np.float32]", chosen.numpy()))
        return found


def _fitting(ids: list[int], positions: int) -> list[int]:
    if len(ids) > positions:
        raise ValueError(f"the chain has {len(ids)} tokens, and the model reads {positions}")
    return ids


_OPENING = threading.Lock()


def _open(path: str) -> _Model:
    with _OPENING:  # scores are made in threads
        return _load(path)


@cache
def _load(path: str) -> _Model:
    """The model of a folder, once per process."""
    from safetensors import SafetensorError

    if _is_lab(path):
        try:
            return _Lab(lab.load(path))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise DataError(
                f"likelihood: {path}: no language model of the lab ({error}); one with a value head is reward_model({path!r})"
            ) from error
    for needed in ("torch", "transformers"):
        if importlib.util.find_spec(needed) is None:
            raise MissingExtraError(needed, "hf")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"likelihood: {path}: transformers cannot read this model: {error}") from error
    return _Transformer(model.eval(), tokenizer)


def _is_lab(path: str) -> bool:
    """Whether NumPy reads it: a size or weight file of the lab, or a folder of its shape and vocabulary."""
    if not Path(path).is_dir():
        try:
            lab.weights_path(path)
        except ValueError:
            raise UsageError(
                f"likelihood: {path!r} is no folder with a model, and none of the lab's sizes small, base, large"
            ) from None
        return True
    try:
        config = json.loads((Path(path) / "config.json").read_text("utf-8"))
        return bool(config.get("vocab_size") == len(VOCABULARY) and config.get("num_key_value_heads") == 1)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(
            f"likelihood: {path}: holds no model (config.json: {error}); give a folder that a learner wrote"
        ) from None


@cache
def _digest(path: str, *also: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 over the weight files, in the order of their names, and other files there are."""
    digest, place = hashlib.sha256(), Path(path)
    files = [file for pattern in ("*.safetensors", *also) for file in sorted(place.glob(pattern))]
    if _is_lab(path) and not place.is_dir():
        files = [lab.weights_path(path)]
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]


def _check_reference(path: str, reference: str) -> None:
    """Training notes which generator it started from; a reward against any other means nothing."""
    note = Path(path) / "reward.json"
    try:
        told = json.loads(note.read_text("utf-8")).get("reference", {}).get("fingerprint") if note.is_file() else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"likelihood: {note}: is not what a learner wrote ({error}); train the verifier again") from None
    if told is not None and told != _digest(reference):
        raise DataError(
            f"likelihood: {path} was trained with a reference whose weights are {told}, and those of {reference} are {_digest(reference)}; "
            "give the generator that it was trained from"
        )
