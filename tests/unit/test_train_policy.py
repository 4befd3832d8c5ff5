"""Supervised fine-tuning: the loss is that of the answers, and weights appear when all is done."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from lab_models import SHAPE
from learner_cases import logprob, samples, tensors_of, tiny

import ponder.lab as lab
from ponder.errors import DataError, UsageError
from ponder.lab.engine import Request
from ponder.lab.model import save
from ponder.lab.tokenizer import EOS, decode
from ponder.learners import models
from ponder.learners.training import Batches, Recipe, fingerprint

LENGTHS = [int(length) for length in np.random.default_rng(0).integers(5, 60, 1003)]


def test_batches_hold_every_example_once_and_have_like_lengths():
    order = list(Batches(LENGTHS, 16, seed=0))
    assert sorted(order) == list(range(1003))
    spreads = [np.ptp([LENGTHS[at] for at in order[start : start + 16]]) for start in range(0, 1003 - 16, 16)]
    assert np.mean(spreads) < 2  # at random it is about 48


def test_batches_do_not_come_in_the_order_of_their_lengths():
    order = list(Batches(LENGTHS, 16, seed=0))
    firsts = [LENGTHS[order[start]] for start in range(0, 992, 16)]
    assert abs(np.corrcoef(firsts, range(len(firsts)))[0, 1]) < 0.4


def test_each_round_has_another_order_and_each_seed_its_own():
    one, same, other = (Batches(LENGTHS, 16, seed) for seed in (0, 0, 1))
    first, second = list(one), list(one)
    assert first != second
    assert [first, second] == [list(same), list(same)]
    assert first != list(other)


def test_fewer_examples_than_a_batch_make_one_batch():
    assert sorted(Batches([3, 5, 4], 16, seed=0)) == [0, 1, 2]


def test_a_recipe_out_of_bounds_is_refused():
    with pytest.raises(UsageError, match=r"^recipe: batch = 0 must lie in \[1, 1\.04858e\+06\]$"):
        Recipe(batch=0)


@pytest.mark.slow
@pytest.mark.integration
class TestTraining:
    @pytest.fixture(autouse=True)
    def _needs(self):
        pytest.importorskip("trl")

    @pytest.fixture
    def base(self, tmp_path):
        return tiny(tmp_path / "base")

    @pytest.fixture
    def finetune(self):
        from ponder.learners.policy import finetune

        return finetune

    def test_the_first_loss_is_the_mean_over_all_answer_tokens_and_nothing_else(self, base, tmp_path, finetune):
        data = samples(5)
        tokenizer = models.open_tokenizer(base)
        encoded = [models.encode(tokenizer, sample.prompt, sample.steps) for sample in data]
        assert all(one.ids[-1] == tokenizer.eos_token_id for one in encoded)
        expected = np.concatenate([logprob(base, one.ids, one.prompt) for one in encoded])
        for recipe in (Recipe(batch=8), Recipe(batch=2, accumulate=3)):
            trained = finetune(base, data, tmp_path / "out", recipe=recipe)
            assert trained.losses[0][1] == pytest.approx(-expected.mean(), rel=1e-4)
            assert trained.cost.targets == len(expected)
            assert trained.cost.tokens == sum(len(one.ids) for one in encoded)
            assert trained.cost.steps == 1
            assert trained.cost.flops == 6 * trained.parameters * trained.cost.tokens

    def test_bfloat16_gives_nearly_the_same_loss(self, base, tmp_path, finetune):
        exact, rough = (
            finetune(base, samples(6), tmp_path / f"{half}", recipe=Recipe(batch=8, epochs=20, bfloat16=half))
            for half in (False, True)
        )
        assert rough.losses[0][1] != pytest.approx(exact.losses[0][1], rel=1e-5)  # it did multiply in bfloat16
        assert [loss for _, loss in rough.losses] == pytest.approx([loss for _, loss in exact.losses], rel=0.02)

    def test_a_policy_learns_eight_answers_by_heart_and_the_lab_engine_repeats_them(self, base, tmp_path, finetune, capsys):
        data = samples(8)
        trained = finetune(base, data, tmp_path / "out", recipe=Recipe(epochs=150, batch=8, rate=0.01))
        assert trained.losses[-1][1] < 0.02
        assert capsys.readouterr().out == ""
        tokenizer = models.open_tokenizer(tmp_path / "out")
        prompts = [models.encode(tokenizer, sample.prompt, (), finished=False).ids for sample in data]
        answers = lab.load(str(tmp_path / "out")).run([Request(ids, 0, 64, temperature=0.0) for ids in prompts])
        assert [decode(answer.ids[:-1]) for answer in answers] == [sample.text for sample in data]
        assert {answer.ids[-1] for answer in answers} == {EOS}

    def test_a_single_step_teaches_something(self, base, tmp_path, finetune):
        trained = finetune(base, samples(4), tmp_path / "out", recipe=Recipe(batch=4))
        assert trained.cost.steps == 1
        assert fingerprint(tmp_path / "out") != fingerprint(base)

    def test_nobody_is_told(self, base, tmp_path, finetune, monkeypatch):
        told = []
        monkeypatch.delenv("CI", raising=False)
        monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **facts: told.append(facts))
        finetune(base, samples(2), tmp_path / "out", recipe=Recipe())
        assert told == []

    def test_one_seed_gives_one_file_and_another_seed_another(self, base, tmp_path, finetune):
        recipe = Recipe(epochs=2, batch=2)
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            finetune(base, samples(8), tmp_path / name, recipe=recipe, seed=seed)
        assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b") != fingerprint(tmp_path / "c")

    def test_an_interrupted_training_leaves_nothing(self, base, tmp_path, finetune, monkeypatch):
        from transformers import Trainer

        real = Trainer.training_step

        def stop(self, *given):
            if self.state.global_step == 3:
                raise KeyboardInterrupt
            return real(self, *given)

        monkeypatch.setattr(Trainer, "training_step", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(base, samples(8), tmp_path / "out", recipe=Recipe(batch=1, checkpoints=3))
        assert [path.name for path in tmp_path.iterdir()] == ["base"]

    def test_checkpoints_are_whole_models_on_the_way_with_their_costs(self, base, tmp_path, finetune):
        trained = finetune(base, samples(8), tmp_path / "out", recipe=Recipe(batch=1, checkpoints=3))
        assert [(one.folder.name, one.cost.steps) for one in trained.checkpoints] == [("step-2", 2), ("step-4", 4), ("step-6", 6)]
        tokens = [one.cost.tokens for one in trained.checkpoints] + [trained.cost.tokens]
        assert tokens == sorted(set(tokens))
        prints = {fingerprint(one.folder) for one in trained.checkpoints} | {fingerprint(trained.folder), fingerprint(base)}
        assert len(prints) == 5
        for one in trained.checkpoints:
            models.open_causal(one.folder)
            card = json.loads((one.folder / "card.json").read_text())["training"]
            assert card["cost"]["tokens"] == one.cost.tokens
            assert card["base"] == fingerprint(base)

    def test_more_checkpoints_than_steps_are_one_for_each_step_before_the_end(self, base, tmp_path, finetune):
        trained = finetune(base, samples(3), tmp_path / "out", recipe=Recipe(batch=1, checkpoints=9))
        assert [one.folder.name for one in trained.checkpoints] == ["step-1", "step-2"]

    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks by the old name
    def test_adapters_change_matrices_by_their_rank_and_nothing_else(self, base, tmp_path, finetune):
        pytest.importorskip("peft")
        recipe = Recipe(epochs=30, batch=8, rate=0.01, lora_rank=2, checkpoints=1)
        trained = finetune(base, samples(8), tmp_path / "out", recipe=recipe)
        before, after, halfway = (tensors_of(folder) for folder in (base, tmp_path / "out", trained.checkpoints[0].folder))
        assert before.keys() == after.keys() == halfway.keys()
        for name in before:
            change = after[name] - before[name]
            if "proj" in name:
                sizes = np.linalg.svd(change, compute_uv=False)
                assert sizes[1] > 0
                assert sizes[2] < 0.05 * sizes[0]  # rounding to fp16
                assert (halfway[name] != before[name]).any()
                assert (halfway[name] != after[name]).any()
            else:
                assert not change.any()
        learn = sum(2 * sum(tensor.shape) for name, tensor in before.items() if "proj" in name)
        frozen = sum(tensor.size for tensor in before.values())
        assert trained.parameters == frozen
        assert trained.cost.flops == (6 * learn + 4 * frozen) * trained.cost.tokens

    @pytest.mark.parametrize("rank", [0, 4])
    @pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks by the old name
    def test_a_model_that_is_not_the_labs_is_saved_as_transformers_reads_it(self, tmp_path, finetune, rank):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 256}
        LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2, eos_token_id=EOS)).save_pretrained(tmp_path / "base")
        models.write_lab_tokenizer(tmp_path / "base")
        assert not models.is_lab(tmp_path / "base")
        data = samples(4)
        trained = finetune(
            tmp_path / "base", data, tmp_path / "out", recipe=Recipe(epochs=40, batch=4, rate=0.02, lora_rank=rank)
        )
        assert trained.losses[-1][1] < trained.losses[0][1] - 0.2
        tokenizer, model = models.open_tokenizer(tmp_path / "out"), models.open_causal(tmp_path / "out").eval()
        losses = []
        for answer in (models.encode(tokenizer, sample.prompt, sample.steps) for sample in data):
            with torch.no_grad():
                logs = model(torch.tensor([answer.ids])).logits[0].log_softmax(-1)
            losses += [-float(logs[at - 1, answer.ids[at]]) for at in range(answer.prompt, len(answer.ids))]
        assert np.mean(losses) == pytest.approx(trained.losses[-1][1], rel=0.1)  # which was before the last, smallest step

    def test_examples_that_are_too_long_are_left_out_and_counted(self, base, tmp_path, finetune):
        data = samples(6)
        tokenizer = models.open_tokenizer(base)
        lengths = sorted(len(models.encode(tokenizer, sample.prompt, sample.steps).ids) for sample in data)
        assert lengths[1] < lengths[2]
        trained = finetune(base, data, tmp_path / "out", recipe=Recipe(batch=8, max_length=lengths[1]))
        assert (trained.examples, trained.dropped, trained.cost.tokens) == (2, 4, lengths[0] + lengths[1])
        with pytest.raises(DataError, match=r"^no samples to train on: 6 are longer than max_length = 5 tokens; raise it$"):
            finetune(base, data, tmp_path / "none", recipe=Recipe(max_length=5))
        with pytest.raises(DataError, match=r"^no samples to train on; sample more, or filter less$"):
            finetune(base, [], tmp_path / "none", recipe=Recipe())
        assert not (tmp_path / "none").exists()

    def test_an_answer_that_was_cut_is_refused(self, base, tmp_path, finetune):
        cut = replace(samples(2)[1], finish="length")
        with pytest.raises(DataError, match=r"^a sample of problem 'p1' finished by 'length'; only 'stop' can be imitated$"):
            finetune(base, [cut], tmp_path / "out", recipe=Recipe())

    def test_weights_that_are_no_longer_numbers_are_not_kept(self, base, tmp_path, finetune):
        tensors = tensors_of(base)
        tensors["model.norm.weight"][0] = np.nan
        save(base, SHAPE, tensors)
        with pytest.raises(
            UsageError, match=r"^training diverged: weights are no longer finite; rate = 0\.001 is too high, lower it$"
        ):
            finetune(base, samples(4), tmp_path / "out", recipe=Recipe(batch=4))
        assert [path.name for path in tmp_path.iterdir()] == ["base"]
