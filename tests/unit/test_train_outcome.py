"""Outcome reward models: verdicts at the end or at every token, sides of equal weight, and pairs; each loss against its formula."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from learner_cases import head_logits, log_loss, logprob, samples, tiny

from ponder.errors import DataError, UsageError
from ponder.learners import models
from ponder.learners.datasets import Pair
from ponder.learners.training import UNKNOWN, Recipe

pytestmark = [pytest.mark.slow, pytest.mark.integration]
torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
outcome = pytest.importorskip("ponder.learners.outcome")


def verdicts(count: int) -> list:
    """Samples of which every third is right, the last wrong one cut."""
    found = [replace(one, correct=index % 3 == 0) for index, one in enumerate(samples(count))]
    return [*found[:-1], replace(found[-1], correct=False, steps=found[-1].steps[:2], finish="length")]


def pairs(count: int) -> list[Pair]:
    """Answers to one prompt: the worked one, and one that belongs to another problem."""
    found = samples(count)
    return [
        Pair(replace(one, correct=True), replace(one, steps=other.steps, correct=False))
        for one, other in zip(found, [*found[3:], *found[:3]], strict=True)
    ]


def encoded(folder, sample):
    return models.encode(models.open_tokenizer(folder), sample.prompt, sample.steps, finished=sample.finish == "stop")


def terms(folder, data, *, every_token: bool) -> dict[bool, list[float]]:
    """The log-losses of right and of wrong answers."""
    found: dict[bool, list[float]] = {True: [], False: []}
    for sample in data:
        answer = encoded(folder, sample)
        logits = head_logits(folder, answer.ids)
        at = range(answer.prompt, len(answer.ids)) if every_token else [-1]
        found[sample.correct] += [log_loss(logits[one], float(sample.correct)) for one in at]
    return found


@pytest.mark.parametrize("every_token", [False, True])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_first_loss_is_the_log_loss_of_the_verdicts(tmp_path, every_token, balanced):
    base = tiny(tmp_path / "base", head=True, bias=every_token)
    found = terms(base, data := verdicts(7), every_token=every_token)
    wanted = np.mean([np.mean(found[True]), np.mean(found[False])]) if balanced else np.mean(found[True] + found[False])
    recipe = Recipe(batch=8)
    trained = outcome.train_outcome(base, data, tmp_path / "out", balanced=balanced, every_token=every_token, recipe=recipe)
    assert trained.losses[0][1] == pytest.approx(wanted, rel=1e-4)
    assert trained.cost.targets == len(found[True] + found[False])
    kind = {"kind": "process"} if every_token else {"kind": "outcome", "read": "eos"}
    assert json.loads((tmp_path / "out" / "reward.json").read_text()) == {"step": "\n", "aggregate": "last", **kind}


def test_sides_weigh_the_same_without_those_that_are_too_long(tmp_path):
    base = tiny(tmp_path / "base", head=True)
    data = verdicts(7)
    long = replace(data[1], steps=data[1].steps * 4)
    longest = max(len(encoded(base, one).ids) for one in data)
    assert len(encoded(base, long).ids) > longest
    found = terms(base, data, every_token=False)
    recipe = Recipe(batch=8, max_length=longest)
    trained = outcome.train_outcome(base, [*data, long, long], tmp_path / "out", balanced=True, recipe=recipe)
    assert trained.dropped == 2
    assert trained.losses[0][1] == pytest.approx(np.mean([np.mean(found[True]), np.mean(found[False])]), rel=1e-4)
    right = [one for one in data if one.correct]
    with pytest.raises(
        DataError, match=rf"^of 2 samples 2 are right, and 1 more are longer than max_length = {longest} tokens; a"
    ):
        outcome.train_outcome(base, [*right, long], tmp_path / "none", recipe=recipe)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, r"^training: seed = -1 must lie in \[0, 4\.29497e\+09\]$"),
        ({"solve": -1.0, "every_token": True}, r"^training: solve = -1\.0 must lie in \[0, 1e\+06\]$"),
        ({"solve": math.nan, "every_token": True}, r"^training: solve = nan must lie in"),
        ({"weights": [1.0, math.inf, 1.0, 1.0]}, r"^4 weights for 4 examples, inf among them: give a number above 0 for each$"),
    ],
)
def test_numbers_out_of_bounds_are_refused(tmp_path, given, message):
    base = tiny(tmp_path / "base")
    with pytest.raises(UsageError, match=message):
        outcome.train_outcome(base, verdicts(4), tmp_path / "out", recipe=Recipe(), **given)
    assert not (tmp_path / "out").exists()


def test_weights_weigh_within_each_side(tmp_path):
    base = tiny(tmp_path / "base", head=True)
    data, weights = verdicts(7), [1.0, 4.0, 1.0, 2.0, 1.0, 1.0, 0.5]
    sides = []
    for side in (True, False):
        of = [
            (terms(base, [one], every_token=False)[side][0], w)
            for one, w in zip(data, weights, strict=True)
            if one.correct is side
        ]
        sides.append(sum(loss * weight for loss, weight in of) / sum(weight for _, weight in of))
    trained = outcome.train_outcome(base, data, tmp_path / "out", balanced=True, weights=weights, recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(sum(sides) / 2, rel=1e-4)


def test_right_answers_may_be_imitated_beside(tmp_path):
    base = tiny(tmp_path / "base", head=True, bias=True)
    found = terms(base, data := verdicts(7), every_token=True)
    right = [encoded(base, one) for one in data if one.correct]
    written = -np.concatenate([logprob(base, one.ids, one.prompt) for one in right]).mean()
    trained = outcome.train_outcome(base, data, tmp_path / "out", every_token=True, solve=0.5, recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(np.mean(found[True] + found[False]) + 0.5 * written, rel=1e-4)
    with pytest.raises(UsageError, match=r"^solve = 0\.5: right answers can be imitated beside where"):
        outcome.train_outcome(base, data, tmp_path / "none", solve=0.5, recipe=Recipe())


def test_the_verdict_is_the_label_of_every_token_of_the_answer_and_of_no_other(tmp_path):
    base = tiny(tmp_path / "base")
    for sample in verdicts(4):
        answer = encoded(base, sample)
        row = outcome.labelled(models.open_tokenizer(base), sample, every_token=True)
        assert row.ids == answer.ids
        assert row.labels == [UNKNOWN] * answer.prompt + [float(sample.correct)] * (len(answer.ids) - answer.prompt)


def test_pairs_are_learned_by_the_difference_of_their_logits(tmp_path):
    base = tiny(tmp_path / "base", head=True)
    losses = []
    for pair in pairs(5):
        good, bad = (head_logits(base, encoded(base, sample).ids)[-1] for sample in (pair.chosen, pair.rejected))
        losses.append(-np.log(1 / (1 + np.exp(-(good - bad)))))
    trained = outcome.train_pairs(base, pairs(5), tmp_path / "out", recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(np.mean(losses), rel=1e-4)
    assert trained.cost.targets == trained.examples == 5


@pytest.mark.parametrize("every_token", [False, True])
def test_a_policy_learns_eight_verdicts_by_heart(tmp_path, every_token, capsys):
    base, data = tiny(tmp_path / "base"), verdicts(8)
    recipe = Recipe(epochs=100, batch=8, rate=0.01)
    outcome.train_outcome(base, data, tmp_path / "out", every_token=every_token, recipe=recipe)
    assert capsys.readouterr().out == ""
    for sample in data:
        logit = head_logits(tmp_path / "out", encoded(base, sample).ids)[-1]
        assert 1 / (1 + np.exp(-logit)) == pytest.approx(float(sample.correct), abs=0.05)


def test_transformers_reads_the_model_at_the_end_of_padded_answers(tmp_path):
    base, data = tiny(tmp_path / "base", head=True), verdicts(3)
    rows = [encoded(base, sample).ids for sample in data]
    ids = torch.tensor([[*row, *[0] * (64 - len(row))] for row in rows])
    with torch.no_grad():
        logits = models.open_outcome(base).eval()(ids, attention_mask=(ids != 0).long()).logits[:, 0]
    assert logits.tolist() == pytest.approx([head_logits(base, row)[-1] for row in rows], abs=1e-3)


def test_a_model_whose_end_token_also_pads_is_read_before_it(tmp_path):
    base = tiny(tmp_path / "base", head=True)
    tokenizer = models.open_tokenizer(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(base)
    data = verdicts(4)
    trained = outcome.train_outcome(base, data, tmp_path / "out", recipe=Recipe(batch=4))
    rows = [models.encode(tokenizer, sample.prompt, sample.steps, finished=False).ids for sample in data]
    losses = [log_loss(head_logits(base, ids)[-1], float(sample.correct)) for ids, sample in zip(rows, data, strict=True)]
    assert trained.losses[0][1] == pytest.approx(np.mean(losses), rel=1e-4)
    assert json.loads((tmp_path / "out" / "reward.json").read_text())["read"] == "last"


def test_a_policy_learns_eight_pairs_by_heart(tmp_path):
    base = tiny(tmp_path / "base")
    trained = outcome.train_pairs(base, pairs(8), tmp_path / "out", recipe=Recipe(epochs=60, batch=8, rate=0.01))
    assert trained.losses[0][1] == pytest.approx(math.log(2))
    for pair in pairs(8):
        good, bad = (head_logits(tmp_path / "out", encoded(base, sample).ids)[-1] for sample in (pair.chosen, pair.rejected))
        assert good > bad + 2
    assert json.loads((tmp_path / "out" / "reward.json").read_text())["kind"] == "outcome"


def test_one_side_alone_is_refused(tmp_path):
    base = tiny(tmp_path / "base")
    right = [one for one in samples(6) if one.correct]
    with pytest.raises(DataError, match=r"^of 3 samples 3 are right; a verifier learns from right and wrong ones$"):
        outcome.train_outcome(base, right, tmp_path / "out", recipe=Recipe())
    with pytest.raises(DataError, match=r"^of 0 samples 0 are right; a verifier learns from right and wrong ones$"):
        outcome.train_outcome(base, [], tmp_path / "out", recipe=Recipe())


def test_a_pair_that_is_too_long_on_one_side_is_left_out(tmp_path):
    base = tiny(tmp_path / "base")
    one = pairs(1)[0]
    short, long = len(encoded(base, one.chosen).ids), 2 * len(encoded(base, one.chosen).ids)
    longer = replace(one.rejected, steps=one.rejected.steps * 2)
    wrong, right = Pair(one.chosen, longer), Pair(replace(longer, correct=True), one.rejected)
    trained = outcome.train_pairs(base, [one, wrong, right], tmp_path / "out", recipe=Recipe(max_length=short))
    assert (trained.examples, trained.dropped) == (1, 2)
    assert outcome.train_pairs(base, [one, wrong, right], tmp_path / "out", recipe=Recipe(max_length=long)).examples == 3
