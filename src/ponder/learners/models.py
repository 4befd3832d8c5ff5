"""Model folders: what learners read and write. `config.json`, `model.safetensors`, tokenizer files; `reward.json` where it scores.

A lab model becomes such a folder with a tokenizer of its own, so that one trainer serves the lab and any Hugging Face model; saved
again, it stays a lab model that NumPy samples from and scores with. Code that comes with a model never runs.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ponder import lab
from ponder.errors import DataError, MissingExtraError, UsageError
from ponder.lab import tokenizer as vocabulary
from ponder.types import JSON, Message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

REWARD = "reward.json"
_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"  # what the lab policy reads


def lab_folder(size: str, cache: Path) -> Path:
    """A lab model (`small`, `base`, `large`, or a path of weights) as a model folder below `cache`, made once.

    Raises `ValueError` for a size or path that does not exist.
    """
    folder = cache / f"lab-{lab.fingerprint(size)}"
    if not (folder / "tokenizer.json").is_file():
        file = lab.weights_path(size)
        file = file / "model.safetensors" if file.is_dir() else file
        config = file.with_name("config.json") if file.name == "model.safetensors" else file.with_suffix(".json")
        with fresh(folder) as new:
            shutil.copyfile(file, new / "model.safetensors")
            shutil.copyfile(config, new / "config.json")
            write_lab_tokenizer(new)
    return folder


def dequantised(file: Path, cache: Path) -> Path:
    """A GGUF file as a model folder in float32 below `cache`, made once: what was quantised stays rounded, and can be trained on.

    Raises `MissingExtraError` without the package gguf, `DataError` for a file that transformers cannot read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = cache / f"{file.stem}-float32"
    if not (folder / "config.json").is_file():
        try:
            import_module("gguf")
        except ImportError:
            raise MissingExtraError("gguf", "train") from None
        try:
            model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(f"{file}: transformers cannot read this GGUF file: {error}; give a folder of safetensors") from error
        # The weights are plain float32 by now, but transformers 5.23 refuses to save a model that it has read from a GGUF file.
        model.hf_quantizer = None
        vars(model.config).pop("quantization_config", None)
        with fresh(folder) as new:
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
    return folder


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its name when the block ends well: nobody sees half a model.

    Raises `DataError` where no folder can be made, before the block begins, and where the block finds no room to write.
    """
    from safetensors import SafetensorError

    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file, and a model is a folder; name another, or take the file away")
    new: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        yield new
        if folder.is_dir():  # what is kept of an earlier training, checkpoints among it
            for path in new.iterdir():
                if (folder / path.name).is_dir():
                    shutil.rmtree(folder / path.name)
                os.replace(path, folder / path.name)
        else:
            new.chmod(0o755)
            os.replace(new, folder)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # one of transformers, which says itself what it misses
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{folder}: cannot be written ({why}); name a folder that can be, on a disk with room") from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)


def is_lab(folder: Path) -> bool:
    """Whether a folder holds a model of the lab's shape and vocabulary, which NumPy samples from and scores with."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__} instead of an object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder}: holds no model (config.json: {error}); give a folder that a learner wrote") from None
    return bool(
        config.get("model_type") == "llama"
        and config.get("vocab_size") == len(vocabulary.VOCABULARY)
        and config.get("num_key_value_heads") == 1
    )


def open_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, with a padding token. Raises `DataError` where it holds none that can be read."""
    from transformers import AutoTokenizer

    with _readable(folder):
        tokenizer = cast(
            "PreTrainedTokenizerBase", AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def render(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message]) -> str:
    """The text before the answer, as the policy reads it: by the chat template, else the texts with an empty line after each."""
    if tokenizer.chat_template:
        messages = [{"role": message.role, "content": message.text} for message in prompt]
        return cast("str", tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return "".join(f"{message.text}\n\n" for message in prompt)


@dataclass(frozen=True, slots=True)
class Encoded:
    """An answer as ids.

    ids: of the prompt, the steps, and the end token when the answer is finished. prompt: how many are the prompt's. ends: for each
    step the index in ids of its last token; the end token belongs to no step.
    """

    ids: tuple[int, ...]
    prompt: int
    ends: tuple[int, ...]


def encode(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Message], steps: Sequence[str], *, finished: bool = True
) -> Encoded:
    """Prompt and steps as the policy would read them: each encoded as one text, step ends found by the offsets of the tokens.

    A token that reaches over the end of a step ends both it and the next one's beginning; it counts for the step it starts in.
    Raises `DataError` for a step without text, and for text that the vocabulary cannot spell, as the lab's spells its own problems only.
    """
    if not all(steps):
        raise DataError("a step without text has no last token; leave it out")
    special = not tokenizer.chat_template  # a template writes its own special tokens
    asked, said = render(tokenizer, prompt), "".join(steps)
    try:
        before: list[int] = tokenizer(asked, add_special_tokens=special)["input_ids"]
        answer = tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)
    except Exception as error:  # tokenizers raises nothing narrower
        raise DataError(
            f"the model's tokenizer cannot spell {said!r:.100} after {asked!r:.100} ({error}); lab models read lab problems only, so train another: --model"
        ) from error
    if special and before and before[-1] == tokenizer.eos_token_id:
        before = before[:-1]
    starts = [start for start, _ in answer["offset_mapping"]]
    ends, at, past = [], 0, 0
    for step in steps:
        past += len(step)
        while at < len(starts) and starts[at] < past:
            at += 1
        ends.append(len(before) + max(at, 1) - 1)
    end = [tokenizer.eos_token_id] if finished else []
    return Encoded((*before, *answer["input_ids"], *end), len(before), tuple(ends))


def open_causal(folder: Path) -> PreTrainedModel:
    """The policy in a folder, float32."""
    from transformers import AutoModelForCausalLM

    return _open(AutoModelForCausalLM, folder)


def open_outcome(folder: Path) -> PreTrainedModel:
    """Sequence classification with one logit, read at the last token; a head of zeros where the folder has none: belief one half."""
    from transformers import AutoModelForSequenceClassification

    return _zeroed(_open(AutoModelForSequenceClassification, folder, num_labels=1), folder)


def open_process(folder: Path) -> PreTrainedModel:
    """Token classification with one logit at every token; a head of zeros where the folder has none: belief one half."""
    from transformers import AutoModelForTokenClassification

    return _zeroed(_open(AutoModelForTokenClassification, folder, num_labels=1), folder)


def open_surprised(folder: Path) -> PreTrainedModel:
    """As `open_process` for a lab model, with a head that reads surprise, too (`ponder.lab.reward`), zero where new.

    Raises `UsageError` for any other model.
    """
    import torch
    from safetensors.torch import load_file

    if not is_lab(folder):
        raise UsageError(f"{folder}: only models of the lab's shape have a head that reads surprise; leave it out")
    model = open_process(folder) if not _surprised(folder) else _headless(folder)
    width = model.config.hidden_size
    head = torch.nn.Linear(3 * width + 2, 1)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
        kept = {
            name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items() if name.startswith("score.")
        }
        if "score.weight" in kept:
            head.weight[:, : kept["score.weight"].shape[1]] = kept["score.weight"]
        if "score.bias" in kept:
            head.bias.copy_(kept["score.bias"])
    model.score = head
    return model


def save(model: nn.Module, source: Path, folder: Path, extra: Mapping[str, JSON] | None = None) -> None:
    """Write weights, and the tokenizer of `source`, into `folder`; a lab model stays one. `extra` becomes reward.json.

    The folder should be a `fresh` one. Lab weights are kept in fp16, others in float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_lab(source):
        _save_lab(model, source, folder)
    else:
        cast("PreTrainedModel", model).save_pretrained(folder)
        open_tokenizer(source).save_pretrained(folder)
    if extra is not None:
        (folder / REWARD).write_text(json.dumps(dict(extra), indent=1, ensure_ascii=False) + "\n", "utf-8")


def settings(
    out: Path, *, epochs: float, batch: int, rate: float, seed: int, accumulate: int = 1, steps: int = -1
) -> dict[str, object]:
    """The keyword arguments that all trainers share: on this machine's processor or its accelerator, silent, decaying linearly.

    epochs: over the data; batch: examples a step; rate: peak learning rate; accumulate: steps gathered into one; steps: overrides
    epochs when positive.
    """
    import torch

    fast = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.05,  # below one: a share of all steps
        "weight_decay": 0.0,
        "max_steps": steps,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": not fast,
        "bf16": fast,
        "activation_checkpointing": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "steps",
        "logging_steps": 50,
        "disable_tqdm": True,
        "dataloader_pin_memory": fast,
        "remove_unused_columns": False,
    }


# Plumbing.


def write_lab_tokenizer(folder: Path) -> None:
    """The lab's vocabulary as a tokenizer of transformers: the same ids for the same text, both ways."""
    tokenizers = import_module("tokenizers")
    split = tokenizers.Regex(r"\d+|[a-z]+:?|</?[a-z]+\d*>|\n|[^ \n]")
    idle = tokenizers.Regex(r"(?<![0-9a-z:]) | (?![0-9a-z])")  # a space stands between two words or numbers and nowhere else
    words = {token: index for index, token in enumerate(vocabulary.VOCABULARY)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=None))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(split, behavior="removed", invert=True)
    decoders = tokenizers.decoders
    steps = [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), decoders.Replace(idle, "")]
    tokenizer.decoder = decoders.Sequence(steps)
    transformers = import_module("transformers")
    whole = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )
    whole.chat_template = _TEMPLATE
    whole.save_pretrained(folder)


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turns whatever transformers raises for files that are damaged, or of another kind, into a `DataError`."""
    try:
        yield
    except Exception as error:  # of many libraries, some of which raise nothing narrower
        raise DataError(
            f"{folder}: transformers cannot open this model ({type(error).__name__}: {error}); give a whole one, as a learner wrote it"
        ) from error


def _open(kind: type, folder: Path, *, ignore_head: bool = False, **more: object) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig

    logging = import_module("transformers").utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # that a head is new is no news
    logging.disable_progress_bar()
    try:
        with _readable(folder):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **more)
            config.classifier_dropout = 0.0  # token classification drops a tenth of its inputs otherwise
            return cast(
                "PreTrainedModel",
                kind.from_pretrained(  # type: ignore[attr-defined]  # the Auto classes share no typed base
                    folder,
                    config=config,
                    ignore_mismatched_sizes=ignore_head,
                    dtype=torch.float32,
                    use_safetensors=True,
                    trust_remote_code=False,
                    local_files_only=True,
                ),
            )
    finally:
        logging.set_verbosity(before)


def _zeroed(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    import torch

    if not any(name.startswith("score.") for name in _tensors(folder)):
        with torch.no_grad():
            for parameter in cast("nn.Module", model.score).parameters():
                parameter.zero_()
    model.config.pad_token_id = open_tokenizer(folder).pad_token_id
    return model


def _surprised(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / REWARD).read_text("utf-8")).get("surprise"))
    except (OSError, ValueError):
        return False


def _headless(folder: Path) -> PreTrainedModel:
    """Token classification over a folder whose head is of another width: that of the folder is left out."""
    from transformers import AutoModelForTokenClassification

    return _open(AutoModelForTokenClassification, folder, ignore_head=True, num_labels=1)


def _tensors(folder: Path) -> list[str]:
    from safetensors import safe_open

    names: list[str] = []
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            names += file.keys()
    return names


def _save_lab(model: nn.Module, source: Path, folder: Path) -> None:
    from ponder.lab.model import read_shape, save

    state = {name: tensor.detach().cpu().float().numpy() for name, tensor in model.state_dict().items()}
    tensors = {name: tensor for name, tensor in state.items() if name.startswith(("model.", "score."))}
    save(folder, read_shape(source / "config.json"), tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
