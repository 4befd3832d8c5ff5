"""Training the lab: only train problems, the same weights from the same seed, and a card that is measured."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from lab_models import SHAPE

import ponder.lab as lab
from ponder.lab.engine import Engine, Request
from ponder.lab.model import load_weights, save
from ponder.lab.problems import LabProblem, draw, problems, split_of
from ponder.lab.reward import shipped
from ponder.lab.tokenizer import EOS, decode, encode_prompt
from ponder.lab.twin import build
from ponder.learners.lab import RECIPES, Recipe, _groups, _optimizers, _step, train
from ponder.learners.lab_card import judge

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
FOLDER = lab.weights_path("base").parent
VERIFIERS = shipped()
SHIPPED = sorted({file.stem for file in FOLDER.glob("*.safetensors")} - set(VERIFIERS))


def test_a_group_holds_whole_train_problems_of_one_length_with_their_solutions():
    groups = _groups(600, random.Random(0))
    for expected in ("countdown", "countdown", "chain", "countdown"):
        family, ids, prompt = next(groups)
        assert family == expected
        assert ids.numel() >= 600
        for row in ids.tolist():
            text = decode(row[1:prompt]).rstrip("\n")
            reference = decode(row[prompt:]).rpartition("answer: ")[2].removesuffix("\n<eos>")
            assert row[-1] == EOS
            problem = _named(text, reference)
            assert split_of(problem) == "train"
            assert judge(problem, decode(row[prompt:-1]))


def _named(text: str, answer: str) -> LabProblem:
    """The problem of a text, its id computed from the text alone."""
    import hashlib

    family = "countdown" if text.startswith("countdown") else "chain"
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    if family == "chain":
        return LabProblem(family, f"chain-{digest}", text, answer, 0)
    numbers, target = text.removeprefix("countdown ").split(" make ")
    return LabProblem(family, f"countdown-{digest}", text, f"numbers={numbers.replace(' ', ',')};target={target}", 0)


@pytest.fixture
def _quick(monkeypatch):
    monkeypatch.setitem(RECIPES, "small", Recipe(steps=3, stop=2, tokens=64))


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_training_twice_from_one_seed_gives_the_same_file_and_another_seed_another(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train("small", seed=seed, out=tmp_path / name, checkpoints=2)
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c
    facts = json.loads((tmp_path / "a" / "card.json").read_text())["training"]
    assert (facts["size"], facts["seed"], facts["steps"], facts["planned_steps"]) == ("small", 0, 2, 3)
    assert (facts["parameters"], facts["tokens"]) == (213_568, 2 * 3 * 64)
    checkpoints = [(tmp_path / "a" / f"step-{step}" / "model.safetensors").read_bytes() for step in (1, 2)]
    assert checkpoints[0] != checkpoints[1] == a


@pytest.mark.slow
@pytest.mark.usefixtures("_quick")
def test_training_stops_when_its_minutes_are_over_and_puts_the_threads_back(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        train("small", seed=0, out=tmp_path, steps=1000, minutes=1e-9)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert json.loads((tmp_path / "card.json").read_text())["training"]["steps"] == 1


@pytest.mark.slow
def test_steps_on_one_group_lower_its_loss():
    torch.manual_seed(0)
    model, groups = build(SHAPE), [next(_groups(100, random.Random(0)))]
    optimizers = _optimizers(model, RECIPES["small"])
    losses = [_step(model, optimizers, groups, 1.0)["countdown"] for _ in range(30)]
    assert losses[0] > 5
    assert losses[-1] < 4


def test_the_torch_twin_computes_what_the_numpy_engine_computes(tmp_path):
    torch.manual_seed(0)
    model = build(SHAPE)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
            parameter.copy_(parameter.half().float())
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, 100).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0].numpy()
    save(tmp_path, SHAPE, {f"model.{name}": p.detach().numpy() for name, p in model.named_parameters()})
    (values,) = Engine(load_weights(tmp_path)).logits([ids])
    np.testing.assert_allclose(values, expected, atol=1e-4)


def test_an_unknown_size_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"^size is 'huge'; it must be one of small, base, large$"):
        train("huge", seed=0, out=tmp_path)


@pytest.mark.parametrize("family", ["countdown", "chain"])
def test_the_judge_accepts_worked_solutions(family):
    rng = random.Random(0)
    for size in (3, 4):
        for _ in range(50):
            assert judge(*draw(family, size, rng))


@pytest.mark.parametrize(
    ("problem", "solution"),
    [
        ("countdown 4 7 8 make 20", "7*4=28 left 8 28\n28-4=20 left 20\nanswer: 20\n"),
        ("countdown 4 7 8 make 20", "7*4=20 left 20\nanswer: 20\n"),
        ("countdown 4 7 8 make 20", "7+4=12 left 8 12\n12+8=20 left 20\nanswer: 20\n"),
        ("countdown 4 7 8 make 20", "8/0=20 left 20\nanswer: 20\n"),
        ("countdown 4 7 8 make 20", "answer: 20\n"),
        ("countdown 4 4 8 make 32", "4*8=32 left 32\nanswer: 32\n"),
        ("chain 7+5", "7+5=12\nanswer: 12"),
        ("chain 7+5", "7+5=12\nanswer: 112\n"),
        ("chain 7+5", "7+5=12\n"),
        ("chain 7+5", ""),
    ],
)
def test_the_judge_refuses_wrong_and_unfinished_solutions(problem, solution):
    assert not judge(_named(problem, "12"), solution)


@pytest.mark.parametrize("size", SHIPPED)
def test_a_shipped_card_describes_the_shipped_weights_and_leaves_head_room(size):
    card = json.loads(lab.weights_path(size).with_suffix(".card.json").read_text())
    assert card["evaluation"]["fingerprint"] == lab.fingerprint(size)
    assert card["training"]["size"] == size
    assert {row["family"] for row in card["evaluation"]["rows"]} == {"countdown", "chain"}
    if size == "base":  # the default leaves head-room on the mix of both families
        assert 0.2 <= np.mean(list(card["evaluation"]["pass@1 by family"].values())) <= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("size", SHIPPED)
def test_shipped_weights_solve_test_problems_about_as_often_as_their_card_says(size):
    card = json.loads(lab.weights_path(size).with_suffix(".card.json").read_text())
    (row,) = (row for row in card["evaluation"]["rows"] if (row["family"], row["difficulty"]) == ("chain", 4))
    some = list(problems("chain", split="test", n=40, seed=9, size=range(4, 5)))
    engine = Engine(load_weights(lab.weights_path(size)))
    requests = [Request(tuple(encode_prompt(p.text)), key, 60) for p in some for key in range(4)]
    texts = [decode(done.ids[:-1].tolist()) for done in engine.run(requests)]
    right = np.mean([judge(some[i // 4], text) for i, text in enumerate(texts)])
    assert abs(right - row["pass@1"]) < 4 * np.sqrt(0.25 / 40)


def test_all_three_sizes_are_shipped():
    assert SHIPPED == ["base", "large", "small"]


def test_the_shipped_policies_take_at_most_ten_megabytes_and_the_verifiers_four_more():
    sizes = {name: sum(file.stat().st_size for file in FOLDER.glob(f"{name}.*")) for name in (*SHIPPED, *VERIFIERS)}
    assert sum(sizes[name] for name in SHIPPED) <= 10_000_000
    assert sum(sizes[name] for name in VERIFIERS) <= 4_000_000


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_shipped_verifier_has_a_card_with_its_recipe_and_its_calibration(name):
    card = json.loads((FOLDER / f"{name}.card.json").read_text())
    assert card["training"]["cost"]["tokens"] > 0
    assert card["training"]["recipe"]["epochs"] > 0
    assert card["calibration"]["unscored"] == 0
    assert card["calibration"]["whole"]["problems"] > 10
