"""Process reward models: labels lie at step ends, the loss is the log-loss of soft labels, unknown ones take no part."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from learner_cases import head_logits, log_loss, logprob, samples, tiny

from ponder.errors import DataError, UsageError
from ponder.learners import models
from ponder.learners.labels import Stepwise
from ponder.learners.training import UNKNOWN, Recipe, fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.integration]
torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
process = pytest.importorskip("ponder.learners.process")


def labelled(count: int, *, seed: int = 0) -> list[Stepwise]:
    """Chains with soft labels, one in four of them unknown."""
    rng = np.random.default_rng(seed)
    return [
        Stepwise(
            one.problem, one.prompt, one.steps, tuple(None if rng.random() < 0.25 else round(rng.random(), 2) for _ in one.steps)
        )
        for one in samples(count, seed=seed)
    ]


@pytest.fixture
def base(tmp_path):
    return tiny(tmp_path / "base", head=True, bias=True)


def expected(base, chains, weights):
    """The loss of these chains and how many labels it has, step by step."""
    tokenizer, total, weight, count = models.open_tokenizer(base), 0.0, 0.0, 0
    for chain, one in zip(chains, weights, strict=True):
        encoded = models.encode(tokenizer, chain.prompt, chain.steps)
        logits = head_logits(base, encoded.ids)
        for end, label in zip(encoded.ends, chain.labels, strict=True):
            if label is not None:
                total += one * log_loss(logits[end], label)
                weight += one
                count += 1
    return total / weight, count


def test_log_loss_is_that_of_known_labels_hard_or_soft():
    logits = [[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]]
    labels = [[1.0, UNKNOWN, 0.25], [0.0, 0.5, UNKNOWN]]
    weights = [1.5, 0.5]
    terms = [
        weight * log_loss(logit, label)
        for row, known, weight in zip(logits, labels, weights, strict=True)
        for logit, label in zip(row, known, strict=True)
        if label != UNKNOWN
    ]
    found = process.log_loss(torch.tensor(logits), torch.tensor(labels), torch.tensor(weights)[:, None])
    assert float(found) == pytest.approx(sum(terms) / 4)


def test_an_unknown_label_gives_no_gradient():
    logits = torch.tensor([[0.5, 1e4, 2.0]], requires_grad=True)
    process.log_loss(logits, torch.tensor([[1.0, UNKNOWN, 0.5]]), torch.ones(1, 1)).backward()
    assert logits.grad is not None
    assert [bool(one) for one in logits.grad[0]] == [True, False, True]


def test_rows_are_padded_on_the_right_and_their_labels_with_unknown():
    rows = [process.Labelled([5, 6, 7], [UNKNOWN, 0.0, 1.0], 2.0, answer=1, right=True), process.Labelled([8], [0.5])]
    batch = {name: tensor.tolist() for name, tensor in process.collate(rows, pad=0).items()}
    assert batch == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "labels": [[UNKNOWN, 0.0, 1.0], [0.5, UNKNOWN, UNKNOWN]],
        "targets": [[-100, 6, 7], [-100, -100, -100]],
        "weights": [[2.0], [1.0]],
        "answers": [[1], [0]],
    }


def test_right_answers_are_imitated_from_the_state_before_each_token():
    states, embedding = torch.randn(2, 3, 4), torch.randn(9, 4)
    targets = torch.tensor([[-100, 6, 7], [-100, -100, -100]])
    terms = []
    for at, token in ((0, 6), (1, 7)):
        logits = [math.fsum(a * b for a, b in zip(states[0, at].tolist(), row, strict=True)) for row in embedding.tolist()]
        terms.append(math.log(math.fsum(math.exp(logit) for logit in logits)) - logits[token])
    found = process.imitation(states, embedding, targets)
    assert float(found) == pytest.approx(sum(terms) / 2, abs=1e-5)


def test_a_verifier_that_imitates_right_answers_stays_a_policy(base, tmp_path):
    chains = [replace(one, labels=(*one.labels[:-1], float(at % 2))) for at, one in enumerate(labelled(8))]
    recipe = Recipe(epochs=30, batch=8, optimizer="muon", rate=0.02)
    process.train_process(base, chains, tmp_path / "both", recipe=recipe, solve=1.0)
    process.train_process(base, chains, tmp_path / "alone", recipe=recipe)
    encoded = [process.stepwise(models.open_tokenizer(base), one) for one in chains]
    right = next(one for one in encoded if one.right)

    def surprise(folder):
        from safetensors.torch import load_file

        model = models.open_causal(base)
        model.load_state_dict(
            {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name.startswith("model.")},
            strict=False,
        )
        with torch.no_grad():
            logits = model.eval()(torch.tensor([right.ids])).logits[0].float()
        targets = torch.tensor(right.ids[right.answer :])
        return float(torch.nn.functional.cross_entropy(logits[right.answer - 1 : -1], targets))

    assert surprise(tmp_path / "both") < surprise(tmp_path / "alone") - 1


@pytest.mark.parametrize("recipe", [Recipe(lora_rank=2)])
def test_imitation_needs_weights_that_all_learn(base, tmp_path, recipe):
    with pytest.raises(UsageError, match=r"^solve = 1.0: right answers can be imitated beside where"):
        process.train_process(base, labelled(4), tmp_path / "out", recipe=recipe, solve=1.0)


def test_labels_lie_at_step_ends_and_what_follows_the_last_is_not_read(base):
    tokenizer, one = models.open_tokenizer(base), samples(1)[0]
    row = process.stepwise(tokenizer, Stepwise("p", one.prompt, one.steps, (0.25, 1.0, None)))
    ends = [at for at, label in enumerate(row.labels) if label != UNKNOWN]
    prompt = len(models.encode(tokenizer, one.prompt, ()).ids) - 1
    assert tokenizer.decode(row.ids[prompt:]) == "".join(one.steps[:2])
    assert tokenizer.decode(row.ids[prompt : ends[0] + 1]) == one.steps[0]
    assert [row.labels[at] for at in ends] == [0.25, 1.0]
    assert ends[-1] == len(row.ids) - 1


def test_the_first_loss_is_the_mean_over_the_labelled_steps(base, tmp_path):
    chains = labelled(6)
    loss, count = expected(base, chains, [1.0] * 6)
    trained = process.train_process(base, chains, tmp_path / "out", recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(loss, rel=1e-4)
    assert trained.cost.targets == count


def test_batches_gathered_into_a_step_have_the_mean_of_their_losses(base, tmp_path):
    chains = [Stepwise(one.problem, one.prompt, one.steps, (0.1, 0.9, 0.4)) for one in samples(12) if len(one.steps) == 3]
    trained = process.train_process(base, chains[:4], tmp_path / "out", recipe=Recipe(batch=2, accumulate=2))
    assert trained.losses == ((1, pytest.approx(expected(base, chains[:4], [1.0] * 4)[0], rel=1e-4)),)


def test_weights_weigh_chains(base, tmp_path):
    chains, weights = labelled(6), [4.0, 1.0, 1.0, 0.5, 1.0, 2.0]
    trained = process.train_process(base, chains, tmp_path / "out", weights=weights, recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(expected(base, chains, weights)[0], rel=1e-4)
    with pytest.raises(DataError, match=r"^6 weights for 6 examples, 0\.0 among them: give a number above 0 for each$"):
        process.train_process(base, chains, tmp_path / "none", weights=[0.0] * 6, recipe=Recipe())


def test_right_chains_may_be_imitated_beside(base, tmp_path):
    chains = labelled(6)
    chains[1:4] = [replace(one, labels=(*one.labels[:-1], 1.0), finished=at != 3) for at, one in enumerate(chains[1:4], start=1)]
    judged, _ = expected(base, chains, [1.0] * 6)
    tokenizer = models.open_tokenizer(base)
    answers = [models.encode(tokenizer, one.prompt, one.steps, finished=False) for one in chains[1:3]]
    written = -np.concatenate([logprob(base, one.ids, one.prompt) for one in answers]).mean()
    trained = process.train_process(base, chains, tmp_path / "out", solve=0.3, recipe=Recipe(batch=8))
    assert trained.losses[0][1] == pytest.approx(judged + 0.3 * written, rel=1e-4)
    assert fingerprint(tmp_path / "out") != fingerprint(base)
    rough = process.train_process(base, chains, tmp_path / "out", solve=0.3, recipe=Recipe(batch=8, bfloat16=True))
    assert rough.losses[0][1] == pytest.approx(judged + 0.3 * written, rel=0.02)
    assert rough.losses[0][1] != pytest.approx(trained.losses[0][1], rel=1e-5)  # it did multiply in bfloat16
    with pytest.raises(UsageError, match=r"^solve = 0\.3: right answers can be imitated beside where"):
        process.train_process(base, chains, tmp_path / "none", solve=0.3, recipe=Recipe(lora_rank=1))


def test_chains_without_a_label_are_left_out(base, tmp_path):
    chains = labelled(4)
    blank = [Stepwise("b", one.prompt, one.steps, (None,) * len(one.steps)) for one in samples(3)]
    trained = process.train_process(base, chains + blank, tmp_path / "out", recipe=Recipe(batch=1))
    assert (trained.examples, trained.dropped, trained.cost.steps) == (4, 0, 4)
    with pytest.raises(DataError, match=r"^no labelled examples to train on; sample more, or filter less$"):
        process.train_process(base, blank, tmp_path / "none", recipe=Recipe())


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks by the old name
def test_a_policy_becomes_a_model_of_eight_chains_soft_labels(tmp_path, rank, capsys):
    base = tiny(tmp_path / "base")
    chains = labelled(8)
    recipe = Recipe(epochs=150, batch=8, rate=0.02 if rank else 0.01, lora_rank=rank)
    process.train_process(base, chains, tmp_path / "out", aggregate="last", recipe=recipe)
    assert capsys.readouterr().out == ""
    tokenizer = models.open_tokenizer(tmp_path / "out")
    for chain in chains:
        encoded = models.encode(tokenizer, chain.prompt, chain.steps)
        values = 1 / (1 + np.exp(-head_logits(tmp_path / "out", encoded.ids)))
        for end, label in zip(encoded.ends, chain.labels, strict=True):
            if label is not None:
                assert values[end] == pytest.approx(label, abs=0.05)
    assert json.loads((tmp_path / "out" / "reward.json").read_text()) == {"kind": "process", "step": "\n", "aggregate": "last"}
    model = models.open_process(tmp_path / "out").eval()
    with torch.no_grad():
        logits = model(torch.tensor([encoded.ids])).logits[0, :, 0]
    assert logits.tolist() == pytest.approx(list(head_logits(tmp_path / "out", encoded.ids)), abs=1e-3)


def test_a_fresh_head_believes_one_half(tmp_path):
    trained = process.train_process(tiny(tmp_path / "base"), labelled(4), tmp_path / "out", recipe=Recipe(batch=4))
    assert trained.losses[0][1] == pytest.approx(math.log(2))


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks by the old name
def test_the_seed_draws_the_adapters(base, tmp_path):
    recipe = Recipe(epochs=3, batch=8, rate=0.01, lora_rank=2)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        process.train_process(base, labelled(8), tmp_path / name, recipe=recipe, seed=seed)
        torch.rand(1)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")


def test_one_seed_gives_one_file_and_an_interrupted_training_none(base, tmp_path, monkeypatch):
    recipe = Recipe(epochs=2, batch=2, checkpoints=1)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        process.train_process(base, labelled(8), tmp_path / name, recipe=recipe, seed=seed)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")
    assert (tmp_path / "a" / "step-4" / "reward.json").is_file()

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ponder.learners.training._Watch.write_card", stop)
    with pytest.raises(KeyboardInterrupt):
        process.train_process(base, labelled(8), tmp_path / "out", recipe=recipe)
    assert {path.name for path in tmp_path.iterdir()} == {"base", "a", "b", "c"}
