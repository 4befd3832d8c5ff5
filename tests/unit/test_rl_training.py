"""GRPO and RLOO on two-layer models: the losses by hand, the bill, and what a training leaves behind."""

from __future__ import annotations

import json
import random
import statistics
import threading
from dataclasses import replace

import numpy as np
import pytest
from lab_models import SHAPE
from rl_cases import Broken, Even, task_of

from ponder.errors import DataError, UsageError
from ponder.lab import tokenizer as vocabulary
from ponder.lab.model import load_weights, save
from ponder.learners import models, rl
from ponder.learners.rl import Recipe, reinforce
from ponder.types import Verdict


def training(test):
    """Marks of a test that trains."""
    # TRL reads an old name whenever it samples
    old = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    return pytest.mark.integration(pytest.mark.slow(old(test)))


DIGITS = vocabulary.encode("0 1 2 3 4 5 6 7 8 9")


# ---- training ----


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def base(torch, tmp_path_factory):
    """A lab model of two layers that answers with one digit, each as likely, and ends."""
    from ponder.lab.twin import build

    torch.manual_seed(0)
    rng, model = random.Random(0), build(SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    prompts = [vocabulary.encode_prompt(problem.question.messages[0].text) for problem in task_of(None).problems]
    for _ in range(80):
        rows = torch.tensor([[*prompt, rng.choice(DIGITS), vocabulary.EOS] for prompt in prompts * 8])
        logits = model(rows[:, :-1])[:, -2:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -2:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < (np.log(10) + 0.3) / 2
    folder = tmp_path_factory.mktemp("base")
    save(folder, SHAPE, {f"model.{name}": tensor.detach().numpy() for name, tensor in model.named_parameters()})
    models.write_lab_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def foreign(torch, base, tmp_path_factory):
    """The same model with its key head written out for each query head: not of the lab's shape, so that `generate` samples."""
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("foreign")
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    state = model.state_dict()
    config = model.config
    config.num_key_value_heads = SHAPE.heads
    for layer in range(SHAPE.layers):
        for name in ("k_proj", "v_proj"):
            key = f"model.layers.{layer}.self_attn.{name}.weight"
            state[key] = state[key].repeat(SHAPE.heads, 1)
    wide = LlamaForCausalLM(config)
    wide.load_state_dict(state)
    wide.save_pretrained(folder)
    models.write_lab_tokenizer(folder)
    return folder


SHORT = {"group": 8, "prompts": 8, "steps": 25, "rate": 3e-3}


@training
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
@pytest.mark.parametrize("which", ["base", "foreign"])
def test_the_policy_learns_what_the_grader_asks_for(algorithm, which, request, tmp_path):
    folder = request.getfixturevalue(which)
    done = reinforce(folder, task_of(Even()), tmp_path / "out", Recipe(algorithm=algorithm, **SHORT))
    rewards = [update.reward for update in done.history]
    assert statistics.fmean(rewards[:3]) < 0.65
    assert statistics.fmean(rewards[-3:]) > 0.85
    assert done.history[-1].entropy < done.history[0].entropy - 0.15
    assert models.is_lab(tmp_path / "out") == (which == "base")


class Scripted:
    """Verdicts in a fixed order, whatever was written; one group after the other."""

    version = "scripted-1"

    def __init__(self, *groups: str) -> None:
        self.groups = list(groups)

    async def grade(self, problem, answers, texts):
        return [Verdict(one == "1") for one in self.groups[int(problem.question.id[1:])]][: len(texts)]


def watched(algorithm: str, base, out, monkeypatch, grader, **more):
    """The trainer of TRL after its only step, the loss of that step, and what came of it."""
    import trl

    kind = {"grpo": trl.GRPOTrainer, "rloo": trl.RLOOTrainer}[algorithm]
    seen: list[tuple[object, float]] = []
    step = kind.training_step

    def training_step(self, *args):
        loss = step(self, *args)
        seen.append((self, float(loss)))
        return loss

    monkeypatch.setattr(kind, "training_step", training_step)
    done = reinforce(base, task_of(grader, 3), out, Recipe(algorithm=algorithm, group=4, prompts=3, steps=1, **more))
    ((trainer, loss),) = seen
    return trainer, loss, done


def advantages_of(algorithm: str, base, out, monkeypatch, grader, **more) -> dict[str, list[float]]:
    """What TRL computed for each problem's group in the first step."""
    trainer, _, _ = watched(algorithm, base, out, monkeypatch, grader, **more)
    groups: dict[str, list[float]] = {}
    for prompt, advantage in zip(trainer._logs["prompt"], trainer._logs["advantages"], strict=True):
        groups.setdefault(prompt.removeprefix("<bos>chain ")[0], []).append(advantage)
    return groups


@training
def test_grpo_takes_the_mean_off_and_divides_by_the_deviation_of_the_group(base, tmp_path, monkeypatch):
    groups = advantages_of("grpo", base, tmp_path / "out", monkeypatch, Scripted("1000", "1100", "1111"))
    third = 1 / (3**-0.5 + 1e-4)  # of 1 1 0 0 the variance with G - 1 is 1/3
    assert groups["0"] == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])
    assert groups["1"] == pytest.approx([third / 2, third / 2, -third / 2, -third / 2])
    assert groups["2"] == [0, 0, 0, 0]


@training
def test_grpo_without_scaling_takes_the_mean_off(base, tmp_path, monkeypatch):
    grader = Scripted("1000", "1100", "1111")
    groups = advantages_of("grpo", base, tmp_path / "out", monkeypatch, grader, scale_rewards="none")
    assert groups == {"0": [0.75, -0.25, -0.25, -0.25], "1": [0.5, 0.5, -0.5, -0.5], "2": [0, 0, 0, 0]}


@training
def test_rloo_takes_the_mean_of_the_others_off(base, tmp_path, monkeypatch):
    groups = advantages_of("rloo", base, tmp_path / "out", monkeypatch, Scripted("1000", "1100", "1111"))
    assert groups["0"] == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert groups["1"] == pytest.approx([2 / 3, 2 / 3, -2 / 3, -2 / 3])
    assert groups["2"] == [0, 0, 0, 0]


@training
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", None])
def test_the_first_loss_is_the_mean_advantage_over_tokens_or_answers(loss_type, base, tmp_path, monkeypatch):
    algorithm = "grpo" if loss_type else "rloo"
    scripted = Scripted("1000", "1100", "1111")
    trainer, loss, _ = watched(algorithm, base, tmp_path / "out", monkeypatch, scripted, loss_type=loss_type, temperature=2.0)
    (answers,) = trainer._buffered_inputs
    advantages, lengths = answers["advantages"].double(), answers["completion_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1
    expected = {
        "dapo": (advantages * lengths).sum() / lengths.sum(),
        "grpo": advantages.mean(),
        "dr_grpo": (advantages * lengths).sum() / (12 * 8),
        None: advantages.mean(),
    }
    assert loss == pytest.approx(-float(expected[loss_type]), abs=1e-6)


@training
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_with_masking_the_loss_sees_the_tokens_of_whole_answers_alone(algorithm, base, tmp_path, monkeypatch):
    trainer, _, done = watched(
        algorithm, base, tmp_path / "out", monkeypatch, Even(), mask_truncated=True, temperature=2.0, max_tokens=2
    )
    (answers,) = trainer._buffered_inputs
    assert 0 < done.verdicts["length"] < 12
    assert int(answers["completion_mask"].sum()) == done.cost.trained_tokens == 2 * (12 - done.verdicts["length"])


@training
@pytest.mark.parametrize("which", ["base", "foreign"])
def test_one_seed_gives_one_file_and_another_seed_another(which, request, tmp_path):
    folder = request.getfixturevalue(which)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        reinforce(folder, task_of(Even()), tmp_path / name, Recipe(group=4, prompts=4, steps=2, seed=seed))
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@training
def test_checkpoints_are_whole_models_with_the_bill_so_far(base, tmp_path):
    recipe = Recipe(group=4, prompts=4, steps=4, checkpoints=3)
    updates = []
    done = reinforce(base, task_of(Even()), tmp_path / "out", recipe, report=updates.append)
    names = {"step-1", "step-2", "step-3"}
    files = {
        "model.safetensors",
        "config.json",
        "card.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | files
    assert [(one.step, one.folder.name) for one in done.checkpoints] == [(1, "step-1"), (2, "step-2"), (3, "step-3")]
    for one in done.checkpoints:
        assert {path.name for path in one.folder.iterdir()} == files
        card = json.loads((one.folder / "card.json").read_text())["training"]
        assert card["cost"]["samples"] == one.cost.samples == 16 * one.step
        assert len(card["history"]) == one.step
        load_weights(one.folder)
    assert tuple(updates) == done.history
    assert [update.step for update in updates] == [1, 2, 3, 4]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (*(one.folder for one in done.checkpoints), done.folder)]
    assert len(set(weights)) == 4
    assert done.cost.samples == sum(done.verdicts.values()) == 64
    assert done.cost.flops > done.checkpoints[-1].cost.flops > 0


@training
@pytest.mark.parametrize(("algorithm", "iterations", "beta"), [("grpo", 1, 0.0), ("grpo", 2, 0.1), ("rloo", 1, 0.1)])
def test_the_bill_counts_sampling_training_and_the_passes_between(algorithm, iterations, beta, base, tmp_path):
    recipe = Recipe(algorithm=algorithm, group=4, prompts=4, steps=2, iterations=iterations, beta=beta, rows=8)
    done = reinforce(base, task_of(Even()), tmp_path / "out", recipe)
    cost, n = done.cost, done.parameters
    assert n == sum(tensor.size for tensor in _tensors(base).values())
    assert cost.prompts == 8 // iterations
    assert cost.samples == 32 // iterations
    assert cost.prompt_tokens == 6 * cost.samples  # <bos> chain a + b and the line's end
    assert cost.sampled_tokens >= 2 * cost.samples
    assert cost.trained_tokens == iterations * cost.sampled_tokens
    passes = {("grpo", 1, 0.0): 1, ("grpo", 2, 0.1): 3, ("rloo", 1, 0.1): 3}[algorithm, iterations, beta]
    read = cost.prompt_tokens + cost.sampled_tokens
    assert cost.flops == 2 * n * passes * read + 6 * n * iterations * read


@training
@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_reference_is_the_base_model(algorithm, base, tmp_path):
    recipe = Recipe(algorithm=algorithm, group=4, prompts=8, steps=4, beta=0.01, rate=3e-3)
    done = reinforce(base, task_of(Even()), tmp_path / "out", recipe)
    assert done.history[0].kl == pytest.approx(0, abs=1e-5)
    assert abs(done.history[-1].kl) > 1e-3


@training
def test_answers_used_twice_keep_their_reward_and_are_clipped_at_epsilon(base, tmp_path):
    recipe = Recipe(group=4, prompts=4, steps=4, iterations=2, rate=1e-2)
    tight, wide = (reinforce(base, task_of(Even()), tmp_path / str(e), replace(recipe, epsilon=e)).history for e in (0.01, 1.0))
    for first, second in (tight[:2], tight[2:]):
        assert first.reward == second.reward
        assert first.clipped == 0
    assert tight[3].clipped > 0  # the first step warms up and moves nothing
    assert wide[3].clipped == 0


@training
@pytest.mark.parametrize("which", ["base", "foreign"])
def test_when_all_answers_are_cut_there_is_nothing_to_learn(which, request, tmp_path):
    base = request.getfixturevalue(which)
    for mask in (False, True):
        out = tmp_path / f"out-{mask}"
        done = reinforce(base, task_of(Even()), out, Recipe(group=4, prompts=2, steps=2, max_tokens=1, mask_truncated=mask))
        assert done.verdicts == {"length": 16}
        assert [update.truncated for update in done.history] == [1, 1]
        assert [update.reward for update in done.history] == ([None, None] if mask else [0, 0])
        assert done.cost.trained_tokens == (0 if mask else 16)
        after, before = _tensors(out), _tensors(base)
        assert all(np.array_equal(after[name], before[name]) for name in before)


@training
@pytest.mark.parametrize("failing", ["grader", "report"])
def test_a_training_that_ends_early_leaves_nothing_behind(failing, base, tmp_path):
    def interrupt(update):
        if update.step == 2:
            raise KeyboardInterrupt

    grader, error = (Broken(), RuntimeError) if failing == "grader" else (Even(), KeyboardInterrupt)
    recipe = Recipe(group=2, prompts=8, steps=3, checkpoints=2)
    with pytest.raises(error):
        reinforce(base, task_of(grader), tmp_path / "out", recipe, report=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert "ponder-rewards" not in {thread.name for thread in threading.enumerate()}


@training
def test_a_folder_that_exists_is_left_alone(base, tmp_path):
    with pytest.raises(UsageError, match=r"exists already; give a new folder, or take that one away$"):
        reinforce(base, task_of(Even()), tmp_path, Recipe())


@training
def test_weights_that_are_lost_are_an_error(base, tmp_path, monkeypatch):
    def lose(model, *rest):
        next(model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(rl, "_train", lose)
    with pytest.raises(UsageError, match=r"^rl: weights are no longer finite; rate = 0.0001 is too high, lower it$"):
        reinforce(base, task_of(Even()), tmp_path / "out", Recipe())
    assert list(tmp_path.iterdir()) == []


@training
def test_trl_is_fed_the_ids_that_the_policy_reads_in_our_order_and_tells_nobody(base, tmp_path, monkeypatch, capsys):
    from trl.trainer.base_trainer import _BaseTrainer

    from ponder.lab.engine import Engine

    def tell(self):
        raise AssertionError("a report of the use of TRL")

    read, run = [], Engine.run
    monkeypatch.setattr(_BaseTrainer, "_send_telemetry", tell)
    monkeypatch.setattr(Engine, "run", lambda self, requests: read.extend(requests) or run(self, requests))
    task, recipe = task_of(Even(), 4), Recipe(group=2, prompts=3, steps=2, temperature=0.7)
    reinforce(base, task, tmp_path / "out", recipe)
    tokenizer = models.open_tokenizer(base)
    prompts = [models.encode(tokenizer, problem.question.messages, (), finished=False).ids for problem in task.problems]
    assert prompts == [tuple(vocabulary.encode_prompt(f"chain {k}+{k + 1}")) for k in range(4)]
    order = rl._rows([("", 6)] * 4, recipe, None)["problem"]
    assert [request.prefix for request in read] == [prompts[at] for at in order for _ in range(2)]
    assert len({request.key for request in read}) == 12
    assert {(request.max_tokens, request.temperature) for request in read} == {(8, 0.7)}
    assert capsys.readouterr().out == ""


@training
def test_the_temperature_is_that_of_the_loss_too(base, tmp_path):
    hot, cold = (
        reinforce(base, task_of(Even()), tmp_path / str(t), Recipe(group=2, prompts=8, steps=1, temperature=t)).history[0]
        for t in (2.0, 1.0)
    )
    assert hot.entropy > cold.entropy + 0.2


@training
def test_a_model_trains_without_its_dropout(base, torch, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=256, n_positions=64, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    models.write_lab_tokenizer(tmp_path / "base")
    recipe = Recipe(group=2, prompts=4, steps=1, beta=0.1)
    (update,) = reinforce(tmp_path / "base", task_of(Even()), tmp_path / "out", recipe).history
    assert update.kl == pytest.approx(0, abs=1e-6)


def _tensors(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.integration
def test_the_text_of_a_lab_model_is_the_labs(base):
    decode = rl._decoder(models.open_tokenizer(base), base)
    rng = np.random.default_rng(0)
    for _ in range(200):
        given = rng.integers(0, len(vocabulary.VOCABULARY), rng.integers(0, 30)).tolist()
        assert decode(given) == vocabulary.decode(given)


@pytest.mark.integration
def test_the_text_of_another_model_leaves_special_tokens_out(foreign):
    decode = rl._decoder(models.open_tokenizer(foreign), foreign)
    assert decode([*vocabulary.encode("make 4"), vocabulary.BOS]) == "make 4"


@pytest.mark.integration
@pytest.mark.parametrize("templated", [True, False])
def test_a_beginning_that_template_and_tokenizer_both_write_is_read_once(templated, base):
    tokenizer = _adding(base, "<bos> $A", templated)
    task = task_of(None, 2)
    for problem, (text, length) in zip(task.problems, rl._prompts(tokenizer, task), strict=True):
        expected = list(models.encode(tokenizer, problem.question.messages, (), finished=False).ids)
        assert tokenizer(text)["input_ids"] == expected
        assert (length, expected.count(vocabulary.BOS)) == (len(expected), 1)


@pytest.mark.integration
def test_a_tokenizer_that_ends_every_text_is_refused(base):
    with pytest.raises(DataError, match=r"^the tokenizer adds tokens of its own to the prompt of p0; switch off add_bos_token"):
        rl._prompts(_adding(base, "<bos> $A <eos>", True), task_of(None, 2))


def _adding(base, pattern: str, templated: bool):
    """The lab's tokenizer with a post-processor that adds special tokens, and without its template if wanted."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = models.open_tokenizer(base)
    special = [("<bos>", vocabulary.BOS), ("<eos>", vocabulary.EOS)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=pattern, special_tokens=special)
    if not templated:
        tokenizer.chat_template = None
    return tokenizer
