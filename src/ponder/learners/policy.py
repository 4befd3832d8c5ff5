"""Supervised fine-tuning of a policy on samples: the M-step of STaR, ReST-EM and their like, through TRL's SFTTrainer.

    L = -(1 / T) sum over the tokens y_t of all answers, their end tokens included, of log p(y_t | x, y_1 .. y_t-1)

The mean is over the tokens of a step. The prompt x is read and not learned. What is a good sample is somebody else's choice: every sample that is given
is imitated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ponder.errors import DataError
from ponder.learners import models
from ponder.learners.training import UNKNOWN, Recipe, Trained, arguments, check_some, grouped, lora, require, run
from ponder.types import Finish, Message


class Imitated(Protocol):
    """What can be imitated: a sample, or a reply of a judge to learn."""

    @property
    def problem(self) -> str:
        """Id of its problem."""
        ...

    @property
    def prompt(self) -> tuple[Message, ...]:
        """What was asked."""
        ...

    @property
    def steps(self) -> tuple[str, ...]:
        """Texts that join to the answer."""
        ...

    @property
    def finish(self) -> Finish:
        """How it ended."""
        ...


def finetune(base: Path, samples: Sequence[Imitated], out: Path, *, recipe: Recipe, seed: int = 0) -> Trained:
    """Train the policy in `base` to write these answers, and write the trained one into `out` when all is done.

    Args:
        base: a model folder.
        samples: answers to imitate, each finished by `stop`.
        out: a folder; what an earlier training left there is replaced.
        recipe: how long and how hard.
        seed: of order and adapters. One seed gives one file on one machine with as many threads.

    Raises:
        DataError: when there is no sample, or one did not finish: the end of a cut answer is not to be learned.
        UsageError: when training diverges.
        MissingExtraError: without TRL, or without peft where the recipe asks for adapters.
    """
    trl = require("trl")
    from datasets import Dataset

    tokenizer = models.open_tokenizer(base)
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for sample in samples:
        if sample.finish != "stop":
            raise DataError(f"a sample of problem {sample.problem!r} finished by {sample.finish!r}; only 'stop' can be imitated")
        answer = models.encode(tokenizer, sample.prompt, sample.steps)
        if len(answer.ids) <= recipe.max_length:
            rows["input_ids"].append(list(answer.ids))
            rows["labels"].append([int(UNKNOWN)] * answer.prompt + list(answer.ids[answer.prompt :]))
    dropped = len(samples) - len(rows["input_ids"])
    check_some(rows["input_ids"], dropped, recipe, "samples")
    with models.fresh(out) as new:
        model = models.open_causal(base)
        trainer = grouped(trl.SFTTrainer, [len(ids) for ids in rows["input_ids"]], recipe)(
            model=model,
            # labels are there already, so nothing is left to prepare
            args=trl.SFTConfig(**arguments(new, recipe, seed), max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=lora(model, recipe, "CAUSAL_LM"),
        )
        return run(trainer, recipe, base, new, out, dropped=dropped)
