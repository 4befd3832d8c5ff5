"""What the trainers share: a recipe, batches of like length, checkpoints, the bill, and weights that appear when all is done.

A trainer of TRL or transformers does the training; data and loss stand in the learners' own files.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from ponder.errors import DataError, MissingExtraError, UsageError
from ponder.learners import models, muon
from ponder.types import JSON

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, Trainer

UNKNOWN = -100.0  # a label of this value takes no part in a loss; the number that transformers and TRL pad labels with


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how hard to train.

    Attributes:
        epochs: times the examples are gone through; may be a fraction.
        batch: examples, or pairs, of one forward pass. They have like lengths, or padding would be half of the work.
        accumulate: batches gathered into one step; from 2 on a step sees several lengths.
        optimizer: `adamw`, or `muon` for the matrices inside the layers (`ponder.learners.muon`), whose rate is some twenty times higher.
        rate: peak learning rate; it warms up over the first twentieth of the steps and falls linearly to zero. 1e-3 suits the lab's
            models, 1e-5 pretrained ones of 0.1 billion parameters and more, 1e-4 their adapters.
        max_length: tokens of the longest example that takes part, at least 2; longer ones are left out and counted, since one that is
            cut has lost its end.
        lora_rank: of adapters beside the matrices of all layers (Hu et al. 2021, arXiv:2106.09685, section 4.1; alpha is twice the
            rank), which alone learn, and are merged into the weights when these are saved; 0 trains all weights.
        bfloat16: multiply matrices in bfloat16, and keep weights, their gradients and the loss in float32. A processor that has
            instructions for it trains faster; graphics processors always do so.
        checkpoints: how many evenly spaced ones to keep in `step-N` folders, each a complete model, apart from the end.
    """

    epochs: float = 1.0
    batch: int = 128
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    rate: float = 1e-3
    max_length: int = 512
    lora_rank: int = 0
    bfloat16: bool = False
    checkpoints: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            "recipe",
            ("epochs", self.epochs, 1e-6, 1e6),
            ("batch", self.batch, 1, 2**20),
            ("accumulate", self.accumulate, 1, 2**20),
            ("rate", self.rate, 1e-12, 1.0),
            ("max_length", self.max_length, 2, 2**31),
            ("lora_rank", self.lora_rank, 0, 2**16),
            ("checkpoints", self.checkpoints, 0, 2**16),
        )
        if self.optimizer not in ("adamw", "muon"):
            raise UsageError(f"recipe: optimizer = {self.optimizer!r} must be adamw or muon")
        if self.optimizer == "muon" and self.lora_rank:
            raise UsageError("recipe: muon trains whole matrices; leave out lora_rank, or take adamw")


@dataclass(frozen=True, slots=True)
class Cost:
    """What training has cost so far.

    tokens: read, each time they are; padding left out. targets: what the loss is a mean over: tokens, labels, or pairs. steps: of the
    optimizer. flops: for each token 6 for every parameter that learns; 4 for one that does not, which needs no gradient of its own;
    2 for one of a reference model (Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with embeddings, without attention and padding).
    seconds: of the clock.
    """

    tokens: int = 0
    targets: int = 0
    steps: int = 0
    flops: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete model folder, and what it had cost to get there."""

    folder: Path
    cost: Cost


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training. dropped: examples that were longer than the recipe allows. losses: (step, mean since the one before)."""

    folder: Path
    parameters: int
    examples: int
    dropped: int
    cost: Cost
    losses: tuple[tuple[int, float], ...]
    checkpoints: tuple[Checkpoint, ...] = ()


def check_ranges(what: str, *numbers: tuple[str, float, float, float]) -> None:
    """Raises `UsageError` for the first of (name, value, low, high) whose value is outside, or no number."""
    for name, value, low, high in numbers:
        if not low <= value <= high:
            raise UsageError(f"{what}: {name} = {value!r} must lie in [{low:g}, {high:g}]")


def require(module: str) -> ModuleType:
    """A module of the extra `train`; raises `MissingExtraError` without it."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError(module, "train") from None


def check_some(examples: Sequence[object], dropped: int, recipe: Recipe, what: str) -> None:
    """Raises `DataError` when there is nothing to train on."""
    if not examples:
        raise DataError(
            f"no {what} to train on: {dropped} are longer than max_length = {recipe.max_length} tokens; raise it"
            if dropped
            else f"no {what} to train on; sample more, or filter less"
        )


def arguments(folder: Path, recipe: Recipe, seed: int) -> dict[str, object]:
    """The keyword arguments that the configs of all trainers share; `folder` is where a trainer may write.

    Raises `UsageError` for a seed that not all generators take.
    """
    check_ranges("training", ("seed", seed, 0, 2**32 - 1))
    given = models.settings(
        folder, epochs=recipe.epochs, batch=recipe.batch, rate=recipe.rate, seed=seed, accumulate=recipe.accumulate
    )
    half = {"bf16": True} if recipe.bfloat16 else {}
    return given | half | {"logging_steps": 0.02, "logging_nan_inf_filter": False}  # a fiftieth of all steps


def lora(model: PreTrainedModel, recipe: Recipe, kind: str) -> object:
    """The config of the adapters in the words of peft, None where all weights learn. kind: CAUSAL_LM, SEQ_CLS or TOKEN_CLS."""
    if not recipe.lora_rank:
        return None
    from torch import nn

    matrices = {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return require("peft").LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=2 * recipe.lora_rank,
        target_modules=sorted(matrices - {"lm_head", "score"}),
        task_type=kind,  # a head learns whole
    )


@dataclass(slots=True)
class Batches:
    """The order in which examples are seen: batches of like length, in random order; those of the last, smaller one are drawn first.

    Each time round is another order. Same seed, same orders.
    """

    lengths: Sequence[int]
    batch: int
    seed: int
    round: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.round))
        self.round += 1
        order = rng.permutation(len(self.lengths))
        rest, order = np.split(order, [len(order) % self.batch])
        order = order[np.argsort(np.asarray(self.lengths)[order], kind="stable")]
        yield from np.concatenate([*rng.permutation(order.reshape(-1, self.batch)), rest]).tolist()


def grouped(kind: type[Trainer], lengths: Sequence[int], recipe: Recipe) -> type[Trainer]:
    """The trainer class with batches of like length, a count of what it reads, and no report of its use to anybody."""

    class Grouped(kind):  # type: ignore[misc]  # transformers is untyped here
        read = targets = 0
        optimizer: torch.optim.Optimizer | None

        def create_optimizer(self, *given: object) -> torch.optim.Optimizer:
            if self.optimizer is None and recipe.optimizer == "muon":
                self.optimizer = muon.build(self.model, self.args.learning_rate)
            return cast("torch.optim.Optimizer", super().create_optimizer(*given))

        def create_scheduler(self, num_training_steps: int, *rest: object) -> torch.optim.lr_scheduler.LRScheduler:
            if num_training_steps == 1:
                self.args.warmup_steps = 0  # a first step of warming up has rate zero, and the only one would teach nothing
            return super().create_scheduler(num_training_steps, *rest)

        def _get_train_sampler(self, train_dataset: object = None) -> Batches:
            return Batches(lengths, self.args.per_device_train_batch_size, self.args.data_seed)

        def _send_telemetry(self) -> None:
            """TRL would tell Hugging Face which trainer and architecture this is."""

        def training_step(self, model: nn.Module, inputs: dict[str, torch.Tensor], *rest: object) -> torch.Tensor:
            self.read += int(inputs["attention_mask"].sum())
            self.targets += _targets(inputs)
            return cast("torch.Tensor", super().training_step(model, inputs, *rest))

    return Grouped


def _targets(inputs: Mapping[str, torch.Tensor]) -> int:
    if "completion_mask" in inputs:
        return int(inputs["completion_mask"].sum())
    if "labels" in inputs:
        return int((inputs["labels"] != UNKNOWN).sum())
    return len(inputs["input_ids"]) // 2  # chosen, then rejected


def run(
    trainer: Trainer,
    recipe: Recipe,
    base: Path,
    new: Path,
    out: Path,
    *,
    dropped: int = 0,
    reward: Mapping[str, JSON] | None = None,
    reference: bool = False,
) -> Trained:
    """Train, and write weights, tokenizer, `card.json` and the checkpoints into `new`, which is to become `out`.

    Args:
        trainer: of a `grouped` class.
        recipe: as given to the trainer.
        base: whose tokenizer is copied.
        new: a `models.fresh` folder.
        out: where it will be found.
        dropped: examples left out, for the card.
        reward: becomes reward.json.
        reference: whether a model of the same size is read beside.

    Raises:
        UsageError: when a weight is no longer a finite number.
    """
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    watch = _Watch(trainer, recipe, reference, fingerprint(base), dropped)
    checkpoints: list[Checkpoint] = []

    def keep(folder: Path, *, last: bool) -> Cost:
        cost = watch.cost
        models.save(_merged(trainer.model, last), base, folder, reward)
        watch.write_card(folder, cost)
        return cost

    class Keep(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, *_: object, **__: object) -> None:
            step = trainer.state.global_step
            if step in watch.marks:
                checkpoints.append(Checkpoint(out / f"step-{step}", keep(new / f"step-{step}", last=False)))

    if recipe.bfloat16 and trainer.args.use_cpu:  # where fused attention in bfloat16 takes twice the time of the plain one
        for model in filter(None, (trainer.model, getattr(trainer, "ref_model", None))):
            model.set_attn_implementation("eager")
    trainer.remove_callback(PrinterCallback)  # standard output is for data
    trainer.add_callback(Keep())
    trainer.train()
    if not all(parameter.isfinite().all() for parameter in trainer.model.parameters()):
        raise UsageError(f"training diverged: weights are no longer finite; rate = {recipe.rate:g} is too high, lower it")
    cost = keep(new, last=True)
    return Trained(out, watch.parameters, watch.examples, dropped, cost, watch.losses, tuple(checkpoints))


def fingerprint(folder: Path) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of the weight files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


class _Watch:
    """Follows a training, and makes out the bill."""

    def __init__(self, trainer: Trainer, recipe: Recipe, reference: bool, base: str, dropped: int) -> None:
        self.trainer, self.recipe, self.base, self.dropped = trainer, recipe, base, dropped
        self.began, self.examples = time.monotonic(), len(trainer.train_dataset)
        parts = {name: part for name, part in trainer.model.named_parameters() if "original_module" not in name}  # peft's copy
        learn = sum(part.numel() for part in parts.values() if part.requires_grad)
        frozen = sum(part.numel() for part in parts.values() if not part.requires_grad)
        self.parameters = sum(part.numel() for name, part in parts.items() if "lora_" not in name)
        self.flops = 6 * learn + 4 * frozen + 2 * self.parameters * reference  # for each token

    @property
    def marks(self) -> set[int]:
        total, count = self.trainer.state.max_steps, self.recipe.checkpoints
        return {round(total * (k + 1) / (count + 1)) for k in range(count)} - {0, total}

    @property
    def losses(self) -> tuple[tuple[int, float], ...]:
        return tuple((log["step"], log["loss"]) for log in self.trainer.state.log_history if "loss" in log)

    @property
    def cost(self) -> Cost:
        tokens, steps, seconds = self.trainer.read, self.trainer.state.global_step, round(time.monotonic() - self.began, 3)
        return Cost(tokens, self.trainer.targets, steps, self.flops * tokens, seconds)

    def write_card(self, folder: Path, cost: Cost) -> None:
        facts = {
            "base": self.base,
            "recipe": asdict(self.recipe),
            "seed": self.trainer.args.seed,
            "parameters": self.parameters,
            "examples": self.examples,
            "dropped": self.dropped,
            "cost": asdict(cost),
            "losses": self.losses,
            "versions": {name: import_module(name).__version__ for name in ("torch", "transformers")},
        }
        (folder / "card.json").write_text(json.dumps({"training": facts}, indent=1) + "\n", "utf-8")


def _merged(model: nn.Module, last: bool) -> nn.Module:
    """The model without adapters. Before the end a copy, since training goes on with them."""
    if not hasattr(model, "merge_and_unload"):
        return model
    return cast("nn.Module", (model if last else copy.deepcopy(model)).merge_and_unload())
