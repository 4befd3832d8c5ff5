"""Reward models as verifiers: what a score holds, which path leads where, and how steps become one number."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass

import numpy as np
import pytest
from lab_models import SHAPE, random_tensors

import ponder.lab.reward as reward
from fakes import solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget
from ponder.errors import DataError, UsageError
from ponder.lab.model import save
from ponder.lab.reward import Facts, RewardEngine
from ponder.lab.tokenizer import encode_prompt
from ponder.run import Run
from ponder.testing import MazePolicy
from ponder.types import Blob, Chain, Message, Score, Step, Usage, user
from ponder.verifiers.aggregated import AGGREGATES, Aggregated
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.reward_model import Reading, RewardModel, _score, logit

QUESTION = "chain 3+4*2"
TEXTS = ("3+4=7\n7*2=14\nanswer: 14", "3+4=8\n8*2=16\nanswer: 16", "3+4=7\n", "answer: 9")


def folder(path, **facts):
    path.mkdir(exist_ok=True)
    head = np.random.default_rng(3).standard_normal((1, SHAPE.width))
    save(path, SHAPE, random_tensors() | {"score.weight": head})
    (path / "reward.json").write_text(json.dumps(facts))
    return str(path)


def chain(text, finish="stop", question=QUESTION):
    return Chain((user(question),)).then(Step(text), finish)


CHAINS = [chain(text) for text in TEXTS]


def scored(verifier, chains=CHAINS, **how):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    return found, solved(strategy, MazePolicy(), **how)


def test_a_process_score_has_the_values_after_each_step_and_the_last_is_its_value(tmp_path):
    path = folder(tmp_path / "prm", kind="process")
    engine = RewardEngine(tmp_path / "prm")
    scores, outcome = scored(RewardModel(path))
    for score, text in zip(scores, TEXTS, strict=True):
        asked = engine.ask(QUESTION, text, finished=True)
        [logits] = engine.logits([asked.ids], [asked.positions])
        assert score.steps == tuple(engine.values([asked.ids], [asked.positions])[0])
        assert len(score.steps) == len(text.rstrip("\n").split("\n"))
        assert (score.value, score.raw) == (score.steps[-1], logits[-1])
        assert score.usage == Usage(prompt=len(encode_prompt(QUESTION)), scored=len(asked.ids) - asked.prompt, calls=1)
    assert outcome.spent.usage.scored == sum(score.usage.scored for score in scores)


def test_a_logit_that_is_no_number_is_no_score_and_is_paid_for(tmp_path):
    path = folder(tmp_path / "orm", kind="outcome")
    save(tmp_path / "orm", SHAPE, random_tensors() | {"score.weight": np.full((1, SHAPE.width), np.nan)})
    scores, _ = scored(RewardModel(path), CHAINS[:1])
    assert scores[0].value is None
    assert scores[0].error.startswith("reward_model: the model's logit is no finite number")
    assert scores[0].usage.scored > 0


@pytest.mark.parametrize("how", AGGREGATES)
def test_reward_json_says_how_steps_become_one_number(tmp_path, how):
    scores, _ = scored(RewardModel(folder(tmp_path / how, kind="process", aggregate=how)))
    for score in scores:
        assert score.value == AGGREGATES[how](score.steps)
        assert score.raw == pytest.approx(logit(score.value))


def test_an_outcome_score_is_one_number_that_depends_on_whether_the_answer_is_finished(tmp_path):
    verifier = RewardModel(folder(tmp_path / "orm", kind="outcome"))
    [done, cut, again], _ = scored(verifier, [chain(TEXTS[0]), chain(TEXTS[0], "length"), chain(TEXTS[0])])
    assert done.steps == () == cut.steps
    assert done == again
    assert done.value != cut.value
    assert done.usage.scored == cut.usage.scored + 1
    assert done.value == pytest.approx(1 / (1 + np.exp(-done.raw)))


def test_a_raw_number_stands_for_a_value_that_floats_cannot_tell_from_one():
    reading = Reading((1.0, 1.0), (50.0, 60.0), Usage(scored=2))
    assert _score(reading, Facts("process", aggregate="last")) == Score(1.0, 60.0, (1.0, 1.0), Usage(scored=2))
    assert _score(reading, Facts("process", aggregate="prod")).raw == 60.0
    tiny = _score(Reading((1e-200,) * 2, (-460.5,) * 2), Facts("process", aggregate="prod"))
    assert (tiny.value, tiny.raw) == (0.0, logit(0.0))
    assert logit(0.0) < -700
    assert logit(1.0) > 36
    assert logit(0.25) == pytest.approx(np.log(1 / 3))


def test_chains_that_cannot_be_read_have_no_score_and_the_others_do(tmp_path):
    verifier = RewardModel(folder(tmp_path / "prm", kind="process"))
    pictured = Chain((Message("user", (QUESTION, Blob("0" * 64, "image/png"))),)).then(Step("3+4=7"), "stop")
    odd = [
        chain("four"),
        chain(""),
        chain("\n"),
        chain("7+" * 90 + "7"),
        pictured,
        chain("7", question="How many?"),
        Chain(()).then(Step("7")),
    ]
    scores, outcome = scored(verifier, [odd[0], CHAINS[0], *odd[1:]])
    assert scores[1] == scored(verifier)[0][0]
    errors = [score.error for score in [scores[0], *scores[2:]]]
    assert all(score.value is None for score in [scores[0], *scores[2:]])
    assert errors[0].startswith("reward_model: 'four' at character")
    assert errors[1:3] == ["reward_model: the chain is empty: there is no answer to score"] * 2
    assert errors[3] == "reward_model: the chain has 189 tokens, and the model has 128 positions"
    assert errors[4] == errors[6] == "reward_model: the prompt is empty, or has parts that are not text"
    assert errors[5].startswith("reward_model: 'H' at character 0")
    assert outcome.spent.usage.scored == scores[1].usage.scored


def test_scores_are_the_same_in_any_order_and_company_and_equal_chains_are_read_once(tmp_path, monkeypatch):
    verifier = RewardModel(folder(tmp_path / "prm", kind="process"))
    asked, logits = [], RewardEngine.logits
    monkeypatch.setattr(RewardEngine, "logits", lambda self, ids, at: asked.append(len(ids)) or logits(self, ids, at))
    scores, _ = scored(verifier)
    assert scored(verifier, CHAINS[::-1])[0] == scores[::-1]
    assert scored(verifier, CHAINS[1:2])[0] == scores[1:2]
    assert scored(verifier, CHAINS * 3)[0] == scores * 3
    assert asked == [4, 4, 1, 4]
    assert scored(verifier, [])[0] == []


def test_scoring_leaves_the_event_loop_to_others(tmp_path, monkeypatch):
    verifier = RewardModel(folder(tmp_path / "prm", kind="process"))
    here, seen, logits = threading.get_ident(), [], RewardEngine.logits
    monkeypatch.setattr(RewardEngine, "logits", lambda self, ids, at: seen.append(threading.get_ident()) or logits(self, ids, at))
    scored(verifier)
    assert here not in seen


def test_a_bank_keeps_its_scores_by_the_weights(tmp_path):
    table = MemoryTable()
    first = RewardModel(folder(tmp_path / "prm", kind="process"))
    direct, paid = scored(first)
    banked, outcome = scored(first, bank=TableBank(table))
    assert banked == direct
    assert outcome.spent == paid.spent
    assert set(table.scores(first.fingerprint, [one.digest for one in CHAINS]).values()) == set(direct)
    elsewhere = RewardModel(folder(tmp_path / "copy", kind="process"))
    assert elsewhere.fingerprint == first.fingerprint
    assert RewardModel(folder(tmp_path / "min", kind="process", aggregate="min")).fingerprint != first.fingerprint


def test_a_folder_written_anew_is_read_anew_by_the_next_verifier(tmp_path):
    path = folder(tmp_path / "prm", kind="process")
    before, _ = scored(RewardModel(path))
    tensors = random_tensors(1) | {"score.weight": np.ones((1, SHAPE.width)), "score.bias": np.zeros(1)}
    save(tmp_path / "prm", SHAPE, tensors)
    after, _ = scored(RewardModel(path))
    assert [one.value for one in after] != [one.value for one in before]


# Which path leads where.


def test_its_spec_writes_and_its_arguments_are_checked():
    verifier = RewardModel("lab/prm", batch=8)
    assert repr(verifier) == "reward_model(path='lab/prm', batch=8)"
    for given, why in (
        ({"shape": "prm"}, "shape = 'prm' must be one of auto, orm, process"),
        ({"batch": 0}, "batch = 0 must be at least 1"),
        ({"dtype": "int8"}, "dtype = 'int8' must be one of float32"),
    ):
        with pytest.raises(UsageError, match=why):
            RewardModel("lab/prm", **given)
    with pytest.raises(UsageError, match=r"model must name what http://127\.0\.0\.1:8000/pooling serves"):
        RewardModel("http://127.0.0.1:8000/pooling")


def test_a_path_that_leads_nowhere_says_what_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "_SHIPPED", tmp_path)
    with pytest.raises(UsageError, match="lab/prm: no such reward model comes with the lab; there are none"):
        _ = RewardModel("lab/prm").fingerprint
    (tmp_path / "orm.reward.json").write_text("{}")
    for path in ("nowhere", str(tmp_path / "nowhere"), "./no/where", "~/no-where", "a/b/c"):
        with pytest.raises(
            UsageError, match=r"there is no folder .*; give lab/NAME \(there are orm\), a folder that a learner wrote"
        ):
            _ = RewardModel(path).fingerprint
    folder(tmp_path / "policy")
    (tmp_path / "policy" / "reward.json").unlink()
    with pytest.raises(DataError, match="cannot be read as the facts of a reward model"):
        _ = RewardModel(str(tmp_path / "policy")).fingerprint


def test_shipped_models_single_files_and_folders_lead_to_the_same_numbers(tmp_path, monkeypatch):
    path = folder(tmp_path / "model", kind="process")
    for source, name in (
        ("model.safetensors", "prm.safetensors"),
        ("config.json", "prm.json"),
        ("reward.json", "prm.reward.json"),
    ):
        (tmp_path / name).write_bytes((tmp_path / "model" / source).read_bytes())
    monkeypatch.setattr(reward, "_SHIPPED", tmp_path)
    verifiers = [RewardModel(path), RewardModel("lab/prm"), RewardModel(str(tmp_path / "prm.safetensors"))]
    assert len({verifier.fingerprint for verifier in verifiers}) == 1
    assert scored(verifiers[0])[0] == scored(verifiers[1])[0] == scored(verifiers[2])[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab").mkdir()
    (tmp_path / "model").rename(tmp_path / "lab" / "mine")
    assert RewardModel("lab/mine").fingerprint == verifiers[0].fingerprint


# aggregated


@dataclass(frozen=True)
class Fixed:
    """Says what it was told, at a price."""

    scores: tuple[Score, ...]
    fingerprint: str = "fixed"

    async def score(self, chains, run):
        return list(self.scores[: len(chains)])


STEPS = (0.9, 0.25, 0.5)


@pytest.mark.parametrize(("how", "value"), [("last", 0.5), ("min", 0.25), ("prod", 0.1125), ("mean", 0.55)])
def test_aggregated_makes_one_number_of_the_steps(how, value):
    inner = Fixed((Score(0.5, 0.0, STEPS, Usage(prompt=4, scored=7, calls=1)),))
    [score], outcome = scored(Aggregated(inner, how), CHAINS[:1])
    assert (score.value, score.steps) == (pytest.approx(value), STEPS)
    assert score.raw == score.value
    assert score.usage == Usage(), "the inner score went through the run, which has booked it"
    assert outcome.spent.usage == Usage(prompt=4, scored=7, calls=1)


@pytest.mark.slow
def test_aggregated_agrees_with_the_model_that_aggregates_by_itself(tmp_path):
    for how in AGGREGATES:
        plain, _ = scored(RewardModel(folder(tmp_path / how, kind="process", aggregate=how)))
        anew, _ = scored(Aggregated(RewardModel(folder(tmp_path / "last", kind="process")), how))
        assert [score.value for score in anew] == [score.value for score in plain]


def test_aggregated_lets_failures_pass_and_refuses_scores_without_steps():
    failed = Score(None, error="reward_model: the chain is empty", usage=Usage(calls=1))
    outcome_only = Score(0.5, 0.0, usage=Usage(scored=2, calls=1))
    [first, second], outcome = scored(Aggregated(Fixed((failed, outcome_only))), CHAINS[:2])
    assert first == Score(None, error="reward_model: the chain is empty")
    assert second.value is None
    assert second.error.endswith("gives no values after steps; name a process reward model")
    assert outcome.spent.usage == Usage(scored=2, calls=2)
    [third], _ = scored(Aggregated(Confidence()), CHAINS[:1])
    assert third.value is None


def test_aggregated_is_never_banked_itself_and_shares_what_its_inner_verifier_has(tmp_path):
    table, inner = MemoryTable(), RewardModel(folder(tmp_path / "prm", kind="process"))
    bank, digests = TableBank(table), [one.digest for one in CHAINS]
    plain, _ = scored(inner, bank=bank)
    keeping = table.keep_scores
    table.keep_scores = lambda *given: pytest.fail("paid for twice")  # type: ignore[method-assign]  # the point of this test
    anew, _ = scored(Aggregated(inner, "mean"), bank=bank)
    assert [score.steps for score in anew] == [score.steps for score in plain]
    table.keep_scores = keeping  # type: ignore[method-assign]  # as before
    assert set(table.scores("", digests)) == set()
    assert Aggregated(inner).fingerprint == ""
    assert repr(Aggregated(inner, "prod")) == f"aggregated(verifier={inner!r}, how='prod')"
    with pytest.raises(UsageError, match="how = 'max' must be one of last, min, prod, mean"):
        Aggregated(inner, "max")


def test_aggregated_keeps_to_the_budget():
    inner = Fixed((Score(0.5, 0.0, STEPS, Usage(scored=7, calls=1)),))
    verifier, seen = Aggregated(inner), []

    async def strategy(root: Chain, run: Run) -> None:
        for one in CHAINS:
            seen.extend(await run.score(verifier, [one]))

    outcome = solved(strategy, MazePolicy(), budget=Budget(tokens=15))
    assert [score.value for score in seen] == [0.25, 0.25, None, None]
    assert "could not be paid for" in seen[2].error
    assert outcome.spent.usage.scored == 14
    assert outcome.exhausted
