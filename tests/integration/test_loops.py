"""The loops that join search and learning, end to end on the smallest lab model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("trl")

from ponder.cli.bases import locate
from ponder.cli.circle import label
from ponder.cli.em import Loop
from ponder.cli.hints import answer_of, hinted
from ponder.cli.loop import loop_of, read
from ponder.cli.rounds import sampled_tokens
from ponder.errors import CorruptError, DataError, LockedError, StoreError, StudyError, UsageError
from ponder.graders.countdown import check
from ponder.learners.em import METHODS
from ponder.learners.exports import read_stepwise
from ponder.learners.training import Recipe
from ponder.tasks.lab import chain, countdown

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TRAIN, DEV = "countdown(numbers=3, n=12, split='train')", "countdown(numbers=3, n=6, split='train', seed=7)"


@pytest.fixture
def loop(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    em = replace(METHODS["rest_em"], rounds=1, samples=4)
    return Loop(locate("lab:small"), (TRAIN,), DEV, em, Recipe(batch=8), Recipe(batch=8), tmp_path / "out", slice=4)


def test_a_loop_reports_each_round_and_goes_on_without_training_again(loop):
    first = list(loop.run())
    assert [one.round for one in first] == [0, 1]
    assert first[0].sampled_tokens == first[0].kept == 0
    assert first[1].sampled_tokens > 0
    assert first[1].kept > 0
    assert sorted(first[1].pass_at) == [1, 2, 4]
    assert first[1].train_flops > 2 * 213_568 * first[1].sampled_tokens
    weights = loop.policy(1) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert list(loop.run()) == first
    assert weights.stat().st_mtime_ns == before
    body = json.loads((loop.out / "em.json").read_text())
    assert len(body["rounds"]) == 2
    assert set(body["best"]) == {"round", "policy"}


def test_what_a_choosing_verifier_reads_is_on_the_bill(loop, tmp_path):
    plain = list(loop.run())[-1].sampled_tokens
    em = replace(METHODS["bond"], samples=4, verifier="reward_model('lab/orm_trial')")
    chosen = list(replace(loop, em=em, out=tmp_path / "bond").run())[-1].sampled_tokens
    assert chosen > plain, "the same samples, and each of them scored"


def test_a_lost_policy_is_trained_again_from_the_banked_samples_to_the_same_bytes(loop):
    list(loop.run())
    weights = loop.policy(1) / "model.safetensors"
    before = weights.read_bytes()
    for path in sorted(loop.policy(1).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    loop.policy(1).rmdir()
    list(loop.run())
    assert weights.read_bytes() == before


def test_a_folder_with_other_settings_is_refused(loop):
    loop.out.mkdir()
    loop._keep_settings()
    with pytest.raises(UsageError, match=r"holds a loop with another seed \(0, not 1\); give another --out"):
        list(replace(loop, seed=1).run())


def test_a_verifiers_recipe_and_the_weights_of_the_base_are_settings_too(loop, tmp_path):
    loop = replace(loop, base=Path(shutil.copytree(loop.base, tmp_path / "same")))
    loop.out.mkdir()
    loop._keep_settings()
    loop._keep_settings()
    with pytest.raises(UsageError, match=r"holds a loop with another verifier_recipe "):
        replace(loop, verifier_recipe=Recipe(batch=9))._keep_settings()
    shutil.copyfile(locate("lab:base") / "model.safetensors", loop.base / "model.safetensors")
    with pytest.raises(UsageError, match=r"holds a loop with another weights "):
        loop._keep_settings()


def test_two_processes_never_work_on_one_loop(loop):
    first = loop.run()
    next(first)
    with pytest.raises(LockedError, match=r"out: in use by process \d+"):
        next(loop.run())
    first.close()
    assert next(loop.run()).round == 0


def test_what_no_loop_wrote_is_refused(loop, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file: cannot be written"):
        next(replace(loop, out=tmp_path / "file").run())
    loop.out.mkdir()
    (loop.out / "em.json").write_text("[]")
    with pytest.raises(CorruptError, match=r"em.json: is not what a loop wrote"):
        next(loop.run())


def test_a_killed_training_is_done_again_and_its_remains_go(loop):
    before = list(loop.run())
    weights = (loop.policy(1) / "model.safetensors").read_bytes()
    shutil.rmtree(loop.policy(1))
    remains = loop.policy(1).with_name(".policy-killed")
    remains.mkdir()
    (remains / "model.safetensors").write_bytes(weights[:1000])
    assert [replace(one, train_flops=0) for one in loop.run()] == [replace(one, train_flops=0) for one in before]
    assert (loop.policy(1) / "model.safetensors").read_bytes() == weights
    assert not remains.exists()
    (loop.policy(1) / "card.json").write_text("{")
    with pytest.raises(
        CorruptError, match=r"card.json: is not what a training wrote .*; remove .*policy, and it is trained again"
    ):
        list(loop.run())


def test_measuring_is_on_the_bill(loop):
    reports = list(loop.run())
    spent = [sampled_tokens(loop.out / f"round-{number}" / "eval") for number in (0, 1)]
    assert [one.held_out_tokens for one in reports] == [spent[0], sum(spent)]
    assert min(spent) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slice": 0}, r"loop: slice = 0 samples of each held-out problem must be at least 1"),
        ({"seed": -1}, r"loop: seed = -1 must lie in \[0, 2\*\*31\)"),
        ({"search": ("best_of_n(n=4, verifier={verifier})",)}, r"search names \{verifier\}, and no verifier is trained"),
    ],
)
def test_a_loop_that_cannot_be_is_refused_before_anything_is_spent(loop, change, message):
    with pytest.raises(UsageError, match=message):
        replace(loop, **change)


def test_two_training_problems_under_one_id_are_an_error(loop, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": f"What is {name}?", "answer": "1"}))
    tasks = tuple(f"jsonl({str(tmp_path / name)!r})" for name in ("one.jsonl", "two.jsonl"))
    with pytest.raises(DataError, match=r"two training problems bear the id '1' .* different ids, as with jsonl\(path, id=...\)"):
        next(replace(loop, tasks=tasks).run())


def test_a_held_out_problem_among_the_training_problems_is_an_error(loop):
    with pytest.raises(DataError, match=r"is both to be trained and to be evaluated on"):
        list(replace(loop, dev="countdown(numbers=3, n=3, split='train')").run())
    assert not loop.out.exists()


def test_hinted_samples_train_under_the_question_without_the_hint(loop):
    em = replace(loop.em, rationalise=True, samples=1)
    hinting = replace(loop, em=em, tasks=("countdown(numbers=4, n=12, split='train')",))
    list(hinting.run())
    with_hint = [one for one in hinting.samples(1) if one.stream.endswith("/hint")]
    assert with_hint
    assert all("<hint>" not in message.text for one in with_hint for message in one.prompt)


def test_a_verifier_beside_the_policy_searches_with_it(loop):
    em = replace(METHODS["vstar"], rounds=1, samples=8, beside="process")
    searching = replace(loop, em=em, search=("best_of_n(n=4, verifier={verifier})", "self_consistency(n=4)"))
    first, last = searching.run()
    assert list(first.search) == ["self_consistency"]
    assert len(last.search) == 2
    assert all(found.tokens > 0 for found in last.search.values())


def test_a_hint_is_a_right_answer():
    for problem in countdown(n=20, split="train").problems:
        body = dict(part.split("=") for part in str(problem.reference).split(";"))
        assert check(answer_of(problem), [int(one) for one in body["numbers"].split(",")], int(body["target"])).ok
    task = chain(n=3, split="train")
    [first] = hinted(task, {task.problems[0].question.id}, "").problems
    assert (
        first.question.messages[-1].text
        == f"{task.problems[0].question.messages[-1].text}<hint>{task.problems[0].reference}</hint>"
    )


def test_labelling_again_costs_nothing_and_gives_the_same_labels(tmp_path):
    file = tmp_path / "labels.jsonl"
    task = "chain(least=4, most=6, n=4, split='train')"
    label(task=task, policy="lab:small", out=file, chains=2, rollouts=4)
    before, card = file.read_bytes(), json.loads(Path(f"{file}.card.json").read_text())
    assert card["rollouts"] > 0
    chains = read_stepwise(file)
    assert all(len(one.labels) == len(one.steps) for one in chains)
    assert all(value in (0.0, 0.25, 0.5, 0.75, 1.0) for one in chains for value in one.labels)
    bank = tmp_path / "labels.jsonl.bank.db"
    size = bank.stat().st_size
    label(task=task, policy="lab:small", out=file, chains=2, rollouts=4)
    assert file.read_bytes() == before
    assert bank.stat().st_size == size


def test_a_file_that_labels_cannot_be_written_to_is_refused_before_anything_is_spent(tmp_path):
    with pytest.raises(UsageError, match=r"labels.csv: examples are written as .jsonl or .parquet, not '.csv'"):
        label(task="chain(n=2, split='train')", policy="lab:small", out=tmp_path / "labels.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = [", r"is not TOML"),
        ("dev = 'countdown'", r"tasks: Field required"),
        ("tasks = ['countdown']\ndev = 'chain'\nmethod = 'magic'", r"there is no method 'magic'; there are star, rest"),
        (
            "tasks = ['countdown']\ndev = 'chain'\n[em]\nround = 2",
            r"loop: \[em\] has no field 'round'; there are rounds, samples",
        ),
        ("tasks = ['countdown']\ndev = 'chain'\nslice = true", r"slice: Input should be a valid integer"),
        ("tasks = ['countdown']\ndev = 'chain'\n[em]\nrounds = '2'", r"loop: em.rounds = '2': Input should be a valid integer"),
        ("tasks = ['countdown']\ndev = 'chain'\n[em]\nrestart = 'no'", r"em.restart = 'no': Input should be a valid boolean"),
        ("tasks = ['countdown']\ndev = 'chain'\n[recipe]\nbatch = 2.5", r"recipe.batch = 2.5: Input should be a valid integer"),
        ("tasks = ['countdown']\ndev = 'chain'\n[verifier_recipe]\nlora_rank = true", r"verifier_recipe.lora_rank = True"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_the_place(tmp_path, text, message):
    (tmp_path / "loop.toml").write_text(text)
    with pytest.raises(StudyError, match=message):
        loop_of(read(tmp_path / "loop.toml"), tmp_path, "")
