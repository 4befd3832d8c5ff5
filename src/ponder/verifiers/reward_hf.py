"""Reward models in the formats of transformers: our own, and public ones (`ponder.verifiers.reward_shapes` says what each shape reads).

    shape                   where it answers
    orm                     sequence classification with one logit, at the last token
    process                 token classification with one logit, at the last token of each step
    math_shepherd, rlhflow  the language model's own head: the logit of "+" minus that of "-"
    skywork                 a linear head `v_head.summary` on the last hidden states
    qwen_prm                a head `score.0`, ReLU, `score.2` on them: the second of two classes against the first

The probability of one of two classes is the logistic function of the difference of their logits, so every shape gives one logit for a step.
Code that comes with a model never runs: heads that transformers has no class for are read from the safetensors by hand.

Chains are padded on the right, in batches of about equal length. Each is read whole; nothing is kept between calls. The last bits of a
logit may depend on what shares its batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from ponder.errors import DataError, MissingExtraError, SetupError, UsageError
from ponder.lab.reward import Asked, Facts, read_facts
from ponder.types import Chain
from ponder.verifiers.reward_model import SHAPES, Reading, reading
from ponder.verifiers.reward_shapes import ASK, STEPS, ask_own, signs

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    _Run: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Transformers:
    """One model; loaded when first asked, one call after another."""

    info = None  # its size is not read off its files

    def __init__(self, name: str, folder: Path, shape: str, step: str, batch: int, device: str, dtype: str) -> None:
        """See `ponder.verifiers.reward_model`. Raises `DataError` for files that are no reward model, `MissingExtraError`."""
        for needed in ("torch", "transformers"):
            if importlib.util.find_spec(needed) is None:
                raise MissingExtraError(needed, "hf")
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise DataError(f"reward_model({name!r}): {folder} must hold config.json and *.safetensors (no pickles are read)")
        self.name, self.folder, self.batch, self.device, self.dtype = name, folder, batch, device, dtype
        self.own = (folder / "reward.json").is_file()
        facts = read_facts(folder / "reward.json") if self.own else None
        self.shape = _shape(name, folder, facts) if shape == "auto" else shape
        facts = facts or Facts(step=STEPS.get(self.shape, "\n"))
        self.facts = replace(facts, kind="outcome" if self.shape == "orm" else "process", step=step or facts.step)
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None

    def __repr__(self) -> str:
        return f"reward_model({self.name!r})"

    @property
    def fingerprint(self) -> str:
        """Weights, configuration, tokenizer, facts, shape, arithmetic and versions; not where they lie."""
        kinds = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
        files = sorted(path for kind in kinds for path in self.folder.glob(kind))
        parts = [f"{path.name} {_digest(path, path.stat().st_mtime_ns, path.stat().st_size)}" for path in files]
        parts += [self.shape, repr(self.facts), self.device.partition(":")[0], self.dtype]
        parts += [f"{name} {version(name)}" for name in ("torch", "transformers")]
        return f"reward-hf-{hashlib.blake2b(' '.join(parts).encode(), digest_size=16).hexdigest()}"

    async def read(self, chains: Sequence[Chain]) -> list[Reading]:
        """One reading for each chain, in order. Raises `SetupError` if transformers cannot load the model."""
        return await asyncio.to_thread(self._read, chains)

    def _read(self, chains: Sequence[Chain]) -> list[Reading]:
        with self._lock:
            loaded = self._loaded = self._loaded or _Loaded(self)
            asked = [self._ask(loaded, chain) for chain in chains]
            whole = {at: one for at, one in enumerate(asked) if isinstance(one, Asked)}
            order = sorted(whole, key=lambda at: -len(whole[at].ids))
            logits: dict[int, list[float]] = {}
            for first in range(0, len(order), loaded.batch):
                some = order[first : first + loaded.batch]
                logits |= zip(some, loaded.logits([whole[at] for at in some]), strict=True)
        return [reading(one, logits[at]) if isinstance(one, Asked) else Reading(error=one) for at, one in enumerate(asked)]

    def _ask(self, loaded: _Loaded, chain: Chain) -> Asked | str:
        try:
            ask = ask_own if self.own and self.shape in ("orm", "process") else ASK[self.shape]
            asked = ask(loaded.tokenizer, chain, self.facts)
        except DataError:
            raise  # the model is not what it was taken for
        except ValueError as error:
            return str(error)
        if len(asked.ids) > loaded.positions:
            return f"the chain has {len(asked.ids)} tokens, and {self.name} has {loaded.positions} positions"
        return asked


def find(name: str) -> Path:
    """The folder of a model on this machine: itself, or where the Hugging Face cache has "owner/name". Never fetches."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hf") from None
    try:
        return Path(hub.snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub's errors come from several libraries and change between versions
        raise SetupError(
            f"reward_model({name!r}): neither a folder here nor in the Hugging Face cache yet; fetch it once: ponder pull {name}"
        ) from error


def _shape(name: str, folder: Path, facts: Facts | None) -> str:
    if facts is not None:
        return "orm" if facts.kind == "outcome" else "process"
    try:
        config = dict(json.loads((folder / "config.json").read_text("utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"reward_model({name!r}): {folder}/config.json describes no model ({error})") from None
    kind, known = " ".join(config.get("architectures") or ()), f"{name} {config.get('_name_or_path', '')}".lower()
    for shape, told in (
        ("qwen_prm", "ProcessRewardModel" in kind),
        ("skywork", "ForPrmModel" in kind),
        ("orm", "ForSequenceClassification" in kind),
        ("process", "ForTokenClassification" in kind),
        ("math_shepherd", "ForCausalLM" in kind and "math-shepherd" in known),
        (
            "rlhflow",
            "ForCausalLM" in kind and ("rlhflow" in known or "prm-deepseek-data" in known or "prm-mistral-data" in known),
        ),
    ):
        if told:
            return shape
    raise UsageError(
        f"reward_model({name!r}): neither reward.json nor the architecture ({kind or 'none named'}) tells how it is read; give shape, one of "
        f"{', '.join(SHAPES[1:])}"
    )


@lru_cache(maxsize=256)
def _digest(path: Path, changed: int, size: int) -> str:
    del changed, size
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Where each shape answers.


class _Loaded:
    """Tokenizer and model, and a function from ids and mask to logits: [rows, positions], or [rows, 1] where the model has one for each."""

    def __init__(self, owner: Transformers) -> None:
        import transformers

        self.owner, self.batch = owner, owner.batch
        self.tokenizer = cast("PreTrainedTokenizerBase", self._from(transformers.AutoTokenizer))
        auto = {
            "orm": transformers.AutoModelForSequenceClassification,
            "process": transformers.AutoModelForTokenClassification,
            "math_shepherd": transformers.AutoModelForCausalLM,
            "rlhflow": transformers.AutoModelForCausalLM,
        }
        self.model = self._model(auto.get(owner.shape, transformers.AutoModel))
        self.positions = int(getattr(self.model.config, "max_position_embeddings", None) or 2**31)
        if owner.shape == "orm" and self.model.config.pad_token_id is None:
            self.batch = 1  # transformers tells the last token of a padded row by the padding
        self._run = self._head()

    def logits(self, asked: Sequence[Asked]) -> list[list[float]]:
        """The logits of each chain at its positions."""
        import torch

        ids = torch.full((len(asked), max(len(one.ids) for one in asked)), self.model.config.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(asked):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = torch.tensor(one.ids), 1
        with torch.inference_mode():
            logits = self._run(ids.to(self.owner.device), mask.to(self.owner.device)).double().cpu()
        return [logits[row, [0] if self.owner.shape == "orm" else list(one.positions)].tolist() for row, one in enumerate(asked)]

    def _head(self) -> _Run:
        import torch

        model, trunk, shape = self.model, self.model.base_model, self.owner.shape
        if shape in ("orm", "process"):
            if model.config.num_labels != 1:
                raise DataError(f"{self.owner}: {shape} reads one logit, and this head has {model.config.num_labels}")
            return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits.reshape(len(ids), -1)
        if shape in ("math_shepherd", "rlhflow"):
            right, wrong = model.get_output_embeddings().weight[list(signs(self.tokenizer, shape))]
            return lambda ids, mask: trunk(input_ids=ids, attention_mask=mask).last_hidden_state @ (right - wrong)
        if shape == "skywork":
            weight, bias = self._tensors("v_head.summary.weight", "v_head.summary.bias")
            return lambda ids, mask: trunk(input_ids=ids, attention_mask=mask).last_hidden_state @ weight[0] + bias
        inner, inner_bias, outer, outer_bias = self._tensors("score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias")

        def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden = trunk(input_ids=ids, attention_mask=mask).last_hidden_state @ inner.T + inner_bias
            return torch.relu(hidden) @ (outer[1] - outer[0]) + (outer_bias[1] - outer_bias[0])

        return run

    def _model(self, auto: type) -> PreTrainedModel:
        import torch

        logging = importlib.import_module("transformers").utils.logging
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # what is left over is a head that is read by hand; what is missing is said below
        logging.disable_progress_bar()
        try:
            # A lab model's config does not tell how many labels its head has.
            more = {"num_labels": 1} if self.owner.own and self.owner.shape in ("orm", "process") else {}
            dtype = getattr(torch, self.owner.dtype)
            loaded = self._from(auto, dtype=dtype, use_safetensors=True, output_loading_info=True, **more)
        finally:
            logging.set_verbosity(before)
        model, told = cast("tuple[PreTrainedModel, Mapping[str, Collection[str]]]", loaded)
        if told["missing_keys"]:
            raise DataError(
                f"{self.owner}: {self.owner.folder} does not hold {sorted(told['missing_keys'])[:3]}: no reward model of the shape "
                f"{self.owner.shape}, or one that was saved without its head"
            )
        model.to(self.owner.device).eval()
        return model

    def _from(self, auto: type, **more: object) -> object:
        how = {"trust_remote_code": False, "local_files_only": True, **more}
        try:
            return auto.from_pretrained(self.owner.folder, **how)  # type: ignore[attr-defined]  # the Auto classes share no typed base
        except Exception as error:  # of several libraries, some of which raise nothing narrower
            raise SetupError(
                f"{self.owner}: transformers cannot load {self.owner.folder} on {self.owner.device}: {error}"
            ) from error

    def _tensors(self, *names: str) -> list[torch.Tensor]:
        """Tensors of the head, from whichever file holds them."""
        import torch
        from safetensors import safe_open

        found: dict[str, torch.Tensor] = {}
        for path in sorted(self.owner.folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                found |= {name: file.get_tensor(name) for name in set(names) & set(file.keys())}
        if missing := [name for name in names if name not in found]:
            raise DataError(f"{self.owner}: {self.owner.folder} does not hold {missing}: not the shape {self.owner.shape}")
        return [found[name].to(self.owner.device, getattr(torch, self.owner.dtype)) for name in names]
