"""Reward models with a head on tokens: the process reward model, and the labels and loss that the outcome model shares with it.

    L = -(1 / M) sum_m w_m [c_m log r_m + (1 - c_m) log(1 - r_m)],    r = sigmoid(logit)

over the M labelled positions of a batch. A label c lies in [0, 1]: a share of roll-outs that end right (soft), or 0 and 1 (hard), of which the same
formula is the ordinary log-loss (Wang et al. 2023, arXiv:2312.08935, equations 2 to 4). The process model's positions are the last tokens of the steps; a
step without a label takes no part. The weights w have mean one over all positions of the data.

A model that starts as a policy need not forget what it knew: with `solve` above 0 the log-loss of right answers under its language model is
added, L + solve * L_LM (Cobbe et al. 2021, arXiv:2110.14168, section 4.2 and appendix E, for outcome models; here for both).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from ponder.errors import DataError, UsageError
from ponder.lab.reward import SCALE
from ponder.learners import models
from ponder.learners.labels import Stepwise
from ponder.learners.training import UNKNOWN, Recipe, Trained, arguments, check_ranges, check_some, grouped, lora, require, run
from ponder.types import JSON

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Aggregate: TypeAlias = Literal["last", "min", "prod", "mean"]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Token ids, and labels in [0, 1] or UNKNOWN: one for each id, or a single one for the whole. weight: of each of its labels.

    answer: where in the ids the answer begins. right: whether it is right, so that a language model may imitate it.
    """

    ids: Sequence[int]
    labels: Sequence[float]
    weight: float = 1.0
    answer: int = 0
    right: bool = False

    @property
    def known(self) -> int:
        """How many labels take part."""
        return sum(label != UNKNOWN for label in self.labels)


def train_process(
    base: Path,
    chains: Sequence[Stepwise],
    out: Path,
    *,
    weights: Sequence[float] | None = None,
    solve: float = 0.0,
    surprise: bool = False,
    step: str = "\n",
    aggregate: Aggregate = "min",
    recipe: Recipe,
    seed: int = 0,
) -> Trained:
    """Train a process reward model from the policy (or reward model) in `base`, and write it into `out` when all is done.

    Args:
        base: a model folder.
        chains: with a label, or None, for each step. A chain without any label is left out.
        out: a folder; what an earlier training left there is replaced.
        weights: of the chains, above 0, such as 4 for a hard negative; all 1 when None.
        solve: weight of the language model's loss on right chains, at least 0. Needs tied embeddings, and weights that all learn.
        surprise: let the head read how surprised the model is by its own answer, too. For models of the lab's shape.
        step: the separator at which its user is to cut answers into steps.
        aggregate: how its user is to make one number of the steps' values; Math-Shepherd takes the minimum (section 3.4).
        recipe: how long and how hard.
        seed: of order and adapters. One seed gives one file on one machine with as many threads.

    Raises:
        DataError: when there is nothing to train on, or not one weight for each chain, or one is not above 0.
        UsageError: when training diverges.
        MissingExtraError: without transformers, or without peft where the recipe asks for adapters.
    """
    require("transformers")
    tokenizer = models.open_tokenizer(base)
    rows = [stepwise(tokenizer, chain, weight) for chain, weight in zip(chains, checked(weights, len(chains)), strict=True)]
    reward: dict[str, JSON] = {"kind": "process", "step": step, "aggregate": aggregate}
    reward |= {"surprise": True} if surprise else {}
    model = models.open_surprised(base) if surprise else models.open_process(base)
    return fit(model, "TOKEN_CLS", rows, base, out, reward, recipe, seed, solve, surprise)


def stepwise(tokenizer: PreTrainedTokenizerBase, chain: Stepwise, weight: float = 1.0) -> Labelled:
    """A chain as ids up to the last labelled step, the label of each step at its last token."""
    encoded = models.encode(tokenizer, chain.prompt, chain.steps, finished=False)
    labels = [UNKNOWN] * len(encoded.ids)
    for end, label in zip(encoded.ends, chain.labels, strict=True):
        if label is not None:
            labels[end] = label
    read = 1 + max((at for at, label in enumerate(labels) if label != UNKNOWN), default=-1)
    right = chain.finished and chain.labels[-1:] == (1.0,)
    return Labelled(encoded.ids[:read], labels[:read], weight, encoded.prompt, right)


def checked(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    """The weights, or as many ones; raises `DataError` unless there is one above 0 for each of `count` examples."""
    if weights is None:
        return [1.0] * count
    if len(weights) != count or not all(0 < weight < inf for weight in weights):
        bad = next((weight for weight in weights if not 0 < weight < inf), "none bad")
        raise DataError(f"{len(weights)} weights for {count} examples, {bad} among them: give a number above 0 for each")
    return weights


# What every model learns from labels by.


def log_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The loss above, of logits and labels of one shape [rows, positions] and weights [rows, 1]."""
    from torch.nn.functional import binary_cross_entropy_with_logits

    each = binary_cross_entropy_with_logits(logits.float(), labels.clamp(min=0), reduction="none")
    known = labels != UNKNOWN
    return (each * weights)[known].mean()


def imitation(states: torch.Tensor, embedding: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The mean log-loss of the targets [rows, length] that are not UNKNOWN, each from the state [rows, length, width] before it."""
    from torch.nn.functional import cross_entropy

    known = targets[:, 1:] != UNKNOWN
    logits = states[:, :-1][known] @ embedding.T.to(states.dtype)
    return cross_entropy(logits.float(), targets[:, 1:][known])


def surprised(states: torch.Tensor, embedding: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a head reads that knows surprise: states h [rows, length, width], the two numbers s, and s_1 h, s_2 h, [.., 3 width + 2].

    s: least log-probability, and log-likelihood / SCALE, of the answer up to each token (`ponder.lab.reward`).
    """
    import torch

    ids, at = inputs["input_ids"], torch.arange(inputs["input_ids"].shape[1])
    logits = (states[:, :-1] @ embedding.T.to(states.dtype)).float()
    said = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    said = torch.cat([said.new_zeros(len(ids), 1), said], 1)
    said = torch.where((at >= inputs["answers"]) & (inputs["attention_mask"] > 0), said, 0.0)
    least, total = said.cummin(1).values[..., None], said.cumsum(1)[..., None] / SCALE
    return torch.cat([states, least, total, states * least, states * total], -1)


def collate(rows: Sequence[Labelled], pad: int) -> dict[str, torch.Tensor]:
    """Rows as tensors [rows, longest] of ids, mask and labels (or labels [rows, 1]), padded on the right, and weights [rows, 1].

    targets [rows, longest] are the ids of right answers, UNKNOWN elsewhere.
    """
    import torch

    ids = np.full((len(rows), max(len(row.ids) for row in rows)), pad)
    mask, targets = np.zeros_like(ids), np.full_like(ids, int(UNKNOWN))
    labels = np.full((len(rows), max(len(row.labels) for row in rows)), UNKNOWN, np.float32)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = row.ids
        mask[at, : len(row.ids)] = 1
        labels[at, : len(row.labels)] = row.labels
        if row.right:
            targets[at, row.answer : len(row.ids)] = row.ids[row.answer :]
    arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels, "targets": targets}
    columns = {"weights": [[row.weight] for row in rows], "answers": [[row.answer] for row in rows]}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | {
        name: torch.tensor(column) for name, column in columns.items()
    }


def fit(
    model: PreTrainedModel,
    kind: str,
    rows: Sequence[Labelled],
    base: Path,
    out: Path,
    reward: dict[str, JSON],
    recipe: Recipe,
    seed: int,
    solve: float = 0.0,
    surprise: bool = False,
) -> Trained:
    """Train a model with one logit for each label, and write it into `out`. kind: TOKEN_CLS or SEQ_CLS."""
    from transformers import Trainer, TrainingArguments, set_seed

    check_ranges("training", ("solve", solve, 0, 1e6))
    if solve and (kind != "TOKEN_CLS" or recipe.lora_rank or not model.config.tie_word_embeddings):
        raise UsageError(
            f"solve = {solve}: right answers can be imitated beside where a head on tokens and all weights learn and embeddings are tied"
        )

    kept = [row for row in rows if row.known and len(row.ids) <= recipe.max_length]
    dropped = sum(len(row.ids) > recipe.max_length for row in rows)
    check_some(kept, dropped, recipe, "labelled examples")
    mean = sum(row.weight * row.known for row in kept) / sum(row.known for row in kept)
    kept = [replace(row, weight=row.weight / mean) for row in kept]
    tokenizer = models.open_tokenizer(base)

    class Head(grouped(Trainer, [len(row.ids) for row in kept], recipe)):  # type: ignore[misc]  # transformers is untyped here
        loss_is_scaled_for_ga = False  # it is the mean over one batch

        def compute_loss(self, model: nn.Module, inputs: dict[str, torch.Tensor], *_: object, **__: object) -> torch.Tensor:
            labels, targets, weights = inputs["labels"], inputs["targets"], inputs["weights"]
            read = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
            if not solve and not surprise:
                return log_loss(model(**read).logits.reshape(labels.shape), labels, weights)
            with self.accelerator.autocast():  # which is otherwise entered by the whole model
                states = model.base_model(**read).last_hidden_state
            embedding = model.get_input_embeddings().weight
            seen = surprised(states, embedding, inputs) if surprise else states
            judged = log_loss(model.score(seen).reshape(labels.shape), labels, weights)
            return judged + (solve * imitation(states, embedding, targets) if solve and (targets != UNKNOWN).any() else 0.0)

    adapters = lora(model, recipe, kind)
    if adapters is not None:
        set_seed(seed)
        model = require("peft").get_peft_model(model, adapters)
    with models.fresh(out) as new:
        trainer = Head(
            model=model,
            args=TrainingArguments(**arguments(new, recipe, seed)),
            train_dataset=kept,
            data_collator=partial(collate, pad=tokenizer.pad_token_id),
        )
        return run(trainer, recipe, base, new, out, dropped=dropped, reward=reward)
