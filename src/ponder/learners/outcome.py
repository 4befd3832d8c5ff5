"""Outcome reward models: the belief that a whole answer is correct, learned from verdicts or from pairs.

    verdicts     L = -E[c log r + (1 - c) log(1 - r)],   r = sigmoid(logit), c the verdict (Cobbe et al. 2021, arXiv:2110.14168)
    balanced     L = -1/2 (E over right answers of log r + E over wrong answers of log(1 - r)): each side weighs the same, however rare
    every token  the verdict is the label at every token of the answer, its end token included (Cobbe et al., section 4.2): what comes
                 out is a value function, which a process reward model's user reads at step ends
    pairs        L = -E log sigmoid(logit of the right answer - logit of the wrong one)   (Bradley-Terry, by TRL's RewardTrainer)

Cobbe et al. train the language model's loss on right answers beside it (`solve`, see `ponder.learners.process`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ponder.errors import DataError
from ponder.learners import models
from ponder.learners.datasets import Pair, Sample
from ponder.learners.process import Labelled, checked, fit
from ponder.learners.training import UNKNOWN, Recipe, Trained, arguments, check_some, grouped, lora, require, run
from ponder.types import JSON

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def train_outcome(
    base: Path,
    samples: Sequence[Sample],
    out: Path,
    *,
    balanced: bool = False,
    every_token: bool = False,
    weights: Sequence[float] | None = None,
    solve: float = 0.0,
    surprise: bool = False,
    step: str = "\n",
    recipe: Recipe,
    seed: int = 0,
) -> Trained:
    """Train an outcome reward model from the policy (or reward model) in `base`, and write it into `out` when all is done.

    Args:
        base: a model folder.
        samples: right and wrong answers. One that was cut is read without an end token.
        out: a folder; what an earlier training left there is replaced.
        balanced: take the means over right and over wrong answers (with `every_token` over their tokens) separately.
        every_token: give the verdict as the label at every token of the answer. The result has the form of a process reward model.
        weights: of the samples, above 0, such as 4 for a wrong answer that an earlier verifier believed; all 1 when None.
        solve: weight of the language model's loss on right answers, with `every_token`; at least 0.
        surprise: let the head read how surprised the model is by its own answer, with `every_token`. For models of the lab's shape.
        step: the separator at which its user is to cut answers into steps.
        recipe: how long and how hard.
        seed: of order and adapters. One seed gives one file on one machine with as many threads.

    Raises:
        DataError: unless there are right and wrong samples that are not too long, and a weight above 0 for each.
        UsageError: when training diverges.
        MissingExtraError: without transformers, or without peft where the recipe asks for adapters.
    """
    require("transformers")
    tokenizer = models.open_tokenizer(base)
    rows = [
        labelled(tokenizer, sample, weight, every_token=every_token)
        for sample, weight in zip(samples, checked(weights, len(samples)), strict=True)
    ]
    read = [sample.correct for sample, row in zip(samples, rows, strict=True) if len(row.ids) <= recipe.max_length]
    if len(set(read)) < 2:
        long = len(samples) - len(read)
        also = f", and {long} more are longer than max_length = {recipe.max_length} tokens" if long else ""
        raise DataError(f"of {len(read)} samples {sum(read)} are right{also}; a verifier learns from right and wrong ones")
    if balanced:
        rows = balance([sample.correct for sample in samples], rows, recipe.max_length)
    if every_token:
        reward: dict[str, JSON] = {"kind": "process", "step": step, "aggregate": "last"}
        reward |= {"surprise": True} if surprise else {}
        model = models.open_surprised(base) if surprise else models.open_process(base)
        return fit(model, "TOKEN_CLS", rows, base, out, reward, recipe, seed, solve, surprise)
    reward = _facts(tokenizer, step)
    return fit(models.open_outcome(base), "SEQ_CLS", rows, base, out, reward, recipe, seed, solve)


def labelled(tokenizer: PreTrainedTokenizerBase, sample: Sample, weight: float = 1.0, *, every_token: bool = False) -> Labelled:
    """An answer as ids, with its verdict as the one label, or as the label of every token after the prompt."""
    answer = models.encode(tokenizer, sample.prompt, sample.steps, finished=sample.finish == "stop")
    label = float(sample.correct)
    if not every_token:
        return Labelled(answer.ids, [label], weight)
    labels = [UNKNOWN] * answer.prompt + [label] * (len(answer.ids) - answer.prompt)
    return Labelled(answer.ids, labels, weight, answer.prompt, sample.correct)


def balance(verdicts: Sequence[bool], rows: Sequence[Labelled], longest: int) -> list[Labelled]:
    """The rows with weights divided by what their side weighs: a weighted mean over all is half the sum of the two sides' means.

    Rows of more than `longest` tokens, which `fit` leaves out, weigh nothing.
    """
    sides = {True: 0.0, False: 0.0}
    for verdict, row in zip(verdicts, rows, strict=True):
        sides[verdict] += row.weight * row.known * (len(row.ids) <= longest)
    return [replace(row, weight=row.weight / sides[verdict]) for verdict, row in zip(verdicts, rows, strict=True)]


def train_pairs(base: Path, pairs: Sequence[Pair], out: Path, *, step: str = "\n", recipe: Recipe, seed: int = 0) -> Trained:
    """Train a reward model on pairs of a right and a wrong answer (Bradley-Terry); what it says is a rank, not a probability.

    Arguments and errors as for `train_outcome`. `recipe.batch` counts pairs.
    """
    trl = require("trl")
    from datasets import Dataset

    tokenizer = models.open_tokenizer(base)
    rows: dict[str, list[list[int]]] = {"chosen_ids": [], "rejected_ids": []}
    lengths = []
    for pair in pairs:
        chosen, rejected = (labelled(tokenizer, sample) for sample in (pair.chosen, pair.rejected))
        longest = max(len(chosen.ids), len(rejected.ids))
        if longest <= recipe.max_length:
            rows["chosen_ids"].append(list(chosen.ids))
            rows["rejected_ids"].append(list(rejected.ids))
            lengths.append(longest)
    dropped = len(pairs) - len(lengths)
    check_some(lengths, dropped, recipe, "pairs")
    with models.fresh(out) as new:
        model = models.open_outcome(base)
        trainer = grouped(trl.RewardTrainer, lengths, recipe)(
            model=model,
            args=trl.RewardConfig(**arguments(new, recipe, seed), max_length=None),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=lora(model, recipe, "SEQ_CLS"),
        )
        return run(trainer, recipe, base, new, out, dropped=dropped, reward=_facts(tokenizer, step))


def _facts(tokenizer: PreTrainedTokenizerBase, step: str) -> dict[str, JSON]:
    """What reward.json says. transformers reads the last token that is not padding, so not the end token where that pads as well."""
    read = "last" if tokenizer.pad_token_id == tokenizer.eos_token_id else "eos"
    return {"kind": "outcome", "step": step, "aggregate": "last", "read": read}
