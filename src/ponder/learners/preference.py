"""V-STaR's verifier: direct preference optimisation on right and wrong answers, with their generator as the reference (TRL's DPOTrainer).

    L = -E log sigmoid(beta [log V(y+ | x) - log G(y+ | x)] - beta [log V(y- | x) - log G(y- | x)])

(Hosseini et al. 2024, arXiv:2402.06457, section 3.2; Rafailov et al. 2023, arXiv:2305.18290, equation 7.) V starts as the generator G. What is
trained stays a language model: an answer's score is its log-likelihood log V(y | x), or the implicit reward beta log V / G.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ponder.errors import DataError
from ponder.learners import models
from ponder.learners.datasets import Pair
from ponder.learners.training import (
    Recipe,
    Trained,
    arguments,
    check_ranges,
    check_some,
    fingerprint,
    grouped,
    lora,
    require,
    run,
)
from ponder.types import JSON


def train_preference(
    generator: Path,
    pairs: Sequence[Pair],
    out: Path,
    *,
    beta: float = 0.1,
    step: str = "\n",
    recipe: Recipe,
    seed: int = 0,
) -> Trained:
    """Train a verifier from the generator, and write it into `out` when all is done.

    Args:
        generator: model folder of the policy fine-tuned on right answers; where the verifier starts, and the reference.
        pairs: right and wrong answers, of the generators of all rounds so far. One that was cut is read without an end token.
        out: a folder; what an earlier training left there is replaced.
        beta: above 0; the smaller, the further the verifier may leave the generator.
        step: the separator at which its user is to cut answers into steps.
        recipe: how long and how hard; `batch` counts pairs, and a tenth of fine-tuning's rate is enough.
        seed: of order and adapters. One seed gives one file on one machine with as many threads.

    Raises:
        DataError: when there is no pair, or the prompts of one differ.
        UsageError: for a beta out of range, or when training diverges.
        MissingExtraError: without TRL, or without peft where the recipe asks for adapters.
    """
    check_ranges("preference", ("beta", beta, 1e-9, 1e9))
    trl = require("trl")
    from datasets import Dataset

    tokenizer = models.open_tokenizer(generator)
    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    lengths = []
    for pair in pairs:
        if pair.chosen.prompt != pair.rejected.prompt:
            raise DataError(f"a pair of problem {pair.problem!r} has two prompts; only answers to one prompt can be compared")
        good, bad = (
            models.encode(tokenizer, sample.prompt, sample.steps, finished=sample.finish == "stop")
            for sample in (pair.chosen, pair.rejected)
        )
        longest = max(len(good.ids), len(bad.ids))
        if longest <= recipe.max_length:
            rows["prompt_ids"].append(list(good.ids[: good.prompt]))
            rows["chosen_ids"].append(list(good.ids[good.prompt :]))
            rows["rejected_ids"].append(list(bad.ids[bad.prompt :]))
            lengths.append(longest)
    dropped = len(pairs) - len(lengths)
    check_some(lengths, dropped, recipe, "pairs")

    class Encoded(grouped(trl.DPOTrainer, lengths, recipe)):  # type: ignore[misc]  # TRL is untyped here
        def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:
            return dataset  # TRL would tokenise texts, and not as the policy does

    with models.fresh(out) as new:
        model = models.open_causal(generator)
        adapters = lora(model, recipe, "CAUSAL_LM")
        trainer = Encoded(
            model=model,
            # without one TRL looks for the reference under the name the model was loaded by; adapters can be switched off instead
            ref_model=models.open_causal(generator) if adapters is None else None,
            args=trl.DPOConfig(**arguments(new, recipe, seed), beta=beta, max_length=None),
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            peft_config=adapters,
        )
        reward: dict[str, JSON] = {
            "kind": "likelihood",
            "step": step,
            "beta": beta,
            "reference": {"name": generator.name, "fingerprint": fingerprint(generator)},
        }
        return run(trainer, recipe, generator, new, out, dropped=dropped, reward=reward, reference=True)
