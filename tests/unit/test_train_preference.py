"""V-STaR's verifier: the loss is that of direct preference optimisation against the generator, and stays a language model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from learner_cases import logprob, samples, tiny

from ponder.errors import DataError, UsageError
from ponder.learners import models
from ponder.learners.datasets import Pair
from ponder.learners.training import Recipe, fingerprint

# TRL and peft ask by the old name
DEPRECATED = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
pytestmark = [pytest.mark.slow, pytest.mark.integration, DEPRECATED]
pytest.importorskip("trl", reason="the extra `train` is not installed")
preference = pytest.importorskip("ponder.learners.preference")


def pairs(count: int) -> list[Pair]:
    """A worked answer against that of another problem; the last wrong one was cut."""
    found = samples(count)
    made = [
        Pair(replace(one, correct=True), replace(one, steps=other.steps, correct=False))
        for one, other in zip(found, [*found[3:], *found[:3]], strict=True)
    ]
    cut = replace(made[-1].rejected, finish="length", steps=made[-1].rejected.steps[:2])
    return [*made[:-1], Pair(made[-1].chosen, cut)]


def likelihood(folder, sample) -> float:
    answer = models.encode(models.open_tokenizer(folder), sample.prompt, sample.steps, finished=sample.finish == "stop")
    return float(logprob(folder, answer.ids, answer.prompt).sum())


def test_the_loss_is_the_closed_formula_of_two_models(tmp_path, monkeypatch):
    verifier, generator = tiny(tmp_path / "verifier", seed=1), tiny(tmp_path / "generator", seed=2)
    opened = iter([verifier, generator])
    real = models.open_causal
    monkeypatch.setattr(models, "open_causal", lambda _: real(next(opened)))  # as if the verifier had learned something already
    beta, losses = 0.3, []
    for pair in pairs(3):
        good, bad = (beta * (likelihood(verifier, one) - likelihood(generator, one)) for one in (pair.chosen, pair.rejected))
        losses.append(-np.log(1 / (1 + np.exp(-(good - bad)))))
    assert not np.allclose(losses, math.log(2), atol=0.05)
    trained = preference.train_preference(generator, pairs(3), tmp_path / "out", beta=beta, recipe=Recipe(batch=4))
    assert trained.losses[0][1] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_verifier_starts_as_its_generator_and_learns_eight_pairs_by_heart(tmp_path, capsys):
    generator = tiny(tmp_path / "generator")
    trained = preference.train_preference(generator, pairs(8), tmp_path / "out", recipe=Recipe(epochs=60, batch=8, rate=0.003))
    assert capsys.readouterr().out == ""
    assert trained.losses[0][1] == pytest.approx(math.log(2), rel=1e-4)
    assert trained.losses[-1][1] < 0.1
    assert trained.cost.flops == 8 * trained.parameters * trained.cost.tokens
    for pair in pairs(8):
        good, bad = (likelihood(tmp_path / "out", one) - likelihood(generator, one) for one in (pair.chosen, pair.rejected))
        assert good > bad
    assert json.loads((tmp_path / "out" / "reward.json").read_text()) == {
        "kind": "likelihood",
        "step": "\n",
        "beta": 0.1,
        "reference": {"name": "generator", "fingerprint": fingerprint(generator)},
    }
    assert models.is_lab(tmp_path / "out")


def test_with_adapters_the_reference_is_the_model_without_them(tmp_path):
    generator = tiny(tmp_path / "generator")
    recipe = Recipe(epochs=60, batch=8, rate=0.02, lora_rank=4)
    trained = preference.train_preference(generator, pairs(8), tmp_path / "out", recipe=recipe)
    assert trained.losses[0][1] == pytest.approx(math.log(2), rel=1e-4)
    assert trained.losses[-1][1] < 0.3


def test_one_seed_gives_one_file(tmp_path):
    generator = tiny(tmp_path / "generator")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        preference.train_preference(generator, pairs(6), tmp_path / name, recipe=Recipe(batch=2, rate=0.01), seed=seed)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")


def test_what_makes_no_sense_is_refused(tmp_path):
    generator = tiny(tmp_path / "generator")
    with pytest.raises(UsageError, match=r"^preference: beta = 0 must lie in \[1e-09, 1e\+09\]$"):
        preference.train_preference(generator, pairs(2), tmp_path / "out", beta=0, recipe=Recipe())
    with pytest.raises(DataError, match=r"^no pairs to train on; sample more, or filter less$"):
        preference.train_preference(generator, [], tmp_path / "out", recipe=Recipe())
    first, second = samples(2)
    with pytest.raises(DataError, match=r"^a pair of problem 'p0' has two prompts; only answers to one prompt can be compared$"):
        preference.train_preference(generator, [Pair(first, second)], tmp_path / "out", recipe=Recipe())
