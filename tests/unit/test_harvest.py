"""What is harvested is what the store holds: compared with its tables, read past all of our code."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

import pytest

from fakes import Flaky
from ponder.bank import Row
from ponder.cli import importing
from ponder.cli.harvest import KNOWN, NO_TEXT, NO_VERDICT, harvest
from ponder.cli.runner import Runner
from ponder.cli.study import Study, write
from ponder.core import END, LINE, Ask, PolicyInfo, Sampling
from ponder.errors import DataError, StudyError
from ponder.lab.problems import problems as lab_problems
from ponder.learners.datasets import solve_rates
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.testing import MazePolicy
from ponder.types import Chain, Step, Usage, Verdict, user

RIGHT = "a\na\na\na\n"


def ran(folder, *strategies, policy=None, **more):
    """A study, run in this process into a folder; on the maze, whose problems are right in one way only."""
    chosen = {"tasks": ("maze(n=6)",), "policies": ("maze(0.6)",), "strategies": strategies or ("sample",), "slice": 4}
    study = Study(**(chosen | more))
    runner = Runner(study)
    if policy is not None:
        runner.policies = [policy]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(folder / "study.db"))
        write(study, folder / "study.resolved.toml")
        asyncio.run(runner.run(journal, stack.enter_context(Journal(Path(study.bank))) if study.bank else None))
    return folder


def harvested(*folders, **how):
    skipped = Counter()
    return list(harvest(folders, skipped=skipped, **how)), skipped


def rows(file, query):
    connection = sqlite3.connect(file, isolation_level=None)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


WHOLE = "SELECT policy, stream, idx, text, completion FROM samples JOIN pools ON pools.id = samples.pool"


def named(samples):
    return Counter((one.policy, one.stream, one.index, one.text, one.tokens) for one in samples)


def test_all_of_a_slice_is_harvested_in_order_and_judged(tmp_path):
    found, skipped = harvested(ran(tmp_path))
    assert named(found) == Counter(rows(tmp_path / "study.db", WHOLE))
    assert [(one.problem, one.index) for one in found] == [(f"maze-{at}", index) for at in range(6) for index in range(4)]
    assert not skipped
    for one in found:
        assert one.correct == (one.text == RIGHT)
        assert one.answer == one.text.strip()
        assert one.prompt == (user(f"Maze {one.problem[5:]}: 4 crossings."),)
        assert one.steps == tuple(f"{turn}\n" for turn in one.text.split())
        assert (one.finish, one.policy, one.temperature, one.difficulty, one.stream) == ("stop", "maze(0.6, 4)", 1.0, None, "0")
    assert {one.correct for one in found} == {True, False}


@pytest.mark.slow
def test_every_policy_temperature_and_seed_is_harvested_and_marked(tmp_path):
    ran(tmp_path, policies=("maze(0.6)", "maze(0.7)"), sampling=(Sampling(), Sampling(temperature=0.5)), seeds=(0, 3))
    found, skipped = harvested(tmp_path)
    assert not skipped
    assert Counter((one.policy, one.temperature, one.stream) for one in found) == {
        (policy, temperature, stream): 24
        for policy in ("maze(0.6, 4)", "maze(0.7, 4)")
        for temperature in (1.0, 0.5)
        for stream in ("0", "3")
    }


def test_samples_without_a_verdict_are_passed_over_and_counted(tmp_path):
    """Of 8 samples of a vote the grader saw the slice and what was proposed; others share a verdict only with an equal text."""
    found, skipped = harvested(ran(tmp_path, "self_consistency(n=8)", slice=2))
    judged = {(chain, problem) for chain, problem in rows(tmp_path / "study.db", "SELECT chain, problem FROM verdicts")}
    assert all((Chain(one.prompt, (Step(one.text),)).digest, one.problem) in judged for one in found)
    assert len(found) + skipped[NO_VERDICT] == 6 * 8
    assert skipped == {NO_VERDICT: 6 * 8 - len(found)} != {NO_VERDICT: 0}


def test_a_cut_sample_is_harvested_as_a_failure_whatever_a_verdict_says(tmp_path):
    """A cap of 3 tokens on mazes of 4 crossings: nothing ends."""
    ran(tmp_path, policies=("maze(1.0)",), sampling=(Sampling(max_tokens=3),))
    with Journal(tmp_path / "study.db") as journal:
        store = StudyStore(journal)
        [chain] = store.verdicts("maze-1/4", "maze-0", "maze-1")
        asyncio.run(store.keep_verdicts("maze-1/4", "maze-0", "maze-1", {chain: Verdict(True, "a")}))
    found, _ = harvested(tmp_path)
    assert {(one.text, one.finish, one.correct, one.answer, one.tokens) for one in found} == {
        ("a\na\na\n", "length", False, None, 3)
    }


@pytest.mark.parametrize("caps", [(3, 9), (3, 10), (10, 3)])
def test_a_sample_drawn_under_two_caps_is_told_once_under_the_larger(tmp_path, caps):
    ran(tmp_path, sampling=tuple(Sampling(max_tokens=cap) for cap in caps), limit=2)
    found, skipped = harvested(tmp_path)
    assert (len(found), not skipped) == (8, True)
    assert {one.finish for one in found} == {"stop"}


def test_samples_are_told_by_index_in_whatever_order_they_were_drawn(tmp_path):
    ran(
        tmp_path, policy=Flaky(MazePolicy(0.6), frozenset({1}))
    )  # the second of every problem fails, and is drawn when all others are there
    ran(tmp_path)
    found, _ = harvested(tmp_path)
    assert [one.index for one in found] == [0, 1, 2, 3] * 6


def test_two_draws_under_one_key_are_two_samples(tmp_path):
    """An endpoint does not repeat itself: another folder may hold another answer as the same child of the same pool."""
    ran(tmp_path / "one", policies=("maze(1.0)",))
    ran(tmp_path / "two", policy=Renamed(MazePolicy(0.0), MazePolicy(1.0).info))
    found, skipped = harvested(tmp_path / "one", tmp_path / "two", tmp_path / "one")
    assert Counter((one.policy, one.correct) for one in found) == {("maze(1.0, 4)", True): 24, ("maze(1.0, 4)", False): 24}
    assert skipped == {KNOWN: 24}


@pytest.mark.slow
def test_studies_on_one_bank_tell_each_sample_once_and_only_what_they_judged(tmp_path):
    bank = str(tmp_path / "bank.db")
    ran(tmp_path / "one", bank=bank)
    ran(tmp_path / "two", bank=bank, slice=6, seeds=(0, 1))
    one, _ = harvested(tmp_path / "one")
    both, skipped = harvested(tmp_path / "one", tmp_path / "two")
    digests = {chain for (chain,) in rows(tmp_path / "one" / "study.db", "SELECT chain FROM verdicts")}
    assert all(Chain(sample.prompt, (Step(sample.text),)).digest in digests for sample in one)
    assert {sample.stream for sample in one} == {"0"}, "the bank holds seed 1, too, which this study did not draw"
    assert named(both) == Counter(rows(bank, WHOLE))
    assert skipped == {KNOWN: len(one)}
    assert len(both) == 6 * 6 * 2


@pytest.mark.slow
def test_a_sample_that_one_study_did_not_judge_is_taken_from_one_that_did(tmp_path):
    bank = str(tmp_path / "bank.db")
    ran(tmp_path / "one", "self_consistency(n=8)", slice=1, bank=bank)
    ran(tmp_path / "two", slice=5, bank=bank)
    alone, _ = harvested(tmp_path / "one")
    found, skipped = harvested(tmp_path / "one", tmp_path / "two")
    assert len(found) + skipped[NO_VERDICT] == 6 * 8, "what neither judged is counted once, what either judged is told once"
    assert {(one.problem, one.index) for one in found} >= {(f"maze-{at}", index) for at in range(6) for index in range(5)}
    assert len(alone) < len(found) < 6 * 8


def test_parts_of_answers_and_other_purposes_are_no_samples(tmp_path):
    """A step from the root, a step further on, and a whole answer that was drawn for a roll-out."""
    before, _ = harvested(ran(tmp_path))
    root = before[0].prompt
    step = Step("a\n", Usage(completion=1, calls=1))
    with Journal(tmp_path / "study.db") as journal:
        pools = [
            Ask(Chain(root), (), "0").pool("maze(0.6, 4)", LINE, Sampling(max_tokens=4)),
            Ask(Chain(root, (step,)), (), "0").pool("maze(0.6, 4)", LINE, Sampling(max_tokens=4)),
            Ask(Chain(root), (), "0/rollout").pool("maze(0.6, 4)", END, Sampling(max_tokens=4)),
        ]
        kept = [Row(pool, 0, 4, None, step) for pool in pools]
        asyncio.run(SqliteTable(journal).keep(kept, [Chain(root), Chain(root, (step,))]))
    assert harvested(tmp_path) == (before, Counter())


def test_the_newest_grader_has_the_last_word(tmp_path):
    before, _ = harvested(ran(tmp_path))
    with Journal(tmp_path / "study.db") as journal:
        store = StudyStore(journal)
        for problem in store.problems("maze-1/4"):
            id_ = problem.question.id
            old = store.verdicts("maze-1/4", id_, "maze-1")
            new = {chain: Verdict(not verdict.correct, "new") for chain, verdict in old.items()}
            asyncio.run(store.keep_verdicts("maze-1/4", id_, "maze-2", new))
    after, _ = harvested(tmp_path)
    assert [one.correct for one in after] == [not one.correct for one in before]
    assert {one.answer for one in after} == {"new"}


@dataclass
class Renamed:
    """A policy under another's name, or with other capabilities."""

    policy: MazePolicy
    info: PolicyInfo

    async def sample(self, asks, *, until, sampling):
        return await self.policy.sample(asks, until=until, sampling=sampling)


def test_an_engine_that_cannot_repeat_itself_gives_the_draws_of_one_cap(tmp_path):
    """Samples that are missing under the larger cap are not filled up from the smaller: that would prefer short answers."""
    policy = Renamed(MazePolicy(0.6), replace(MazePolicy(0.6).info, capabilities=frozenset()))
    ran(tmp_path, policy=policy, sampling=(Sampling(max_tokens=4), Sampling(max_tokens=9)))
    assert rows(tmp_path / "study.db", "SELECT cap, count(*) FROM samples GROUP BY cap") == [(4, 24), (9, 24)]
    assert len(harvested(tmp_path)[0]) == 24
    rows(tmp_path / "study.db", "DELETE FROM samples WHERE cap = 9 AND idx = 2")
    assert [one.index for one in harvested(tmp_path)[0]] == [0, 1, 3] * 6


def test_imported_samples_are_taken_where_they_have_question_and_text(tmp_path):
    lines = [
        {"problem": 1, "question": "1+1?", "samples": [
            {"answer": "2", "correct": True, "text": "1+1=2\nanswer: 2", "tokens": 5}, {"answer": "3", "correct": False}]},
        {"problem": 2, "samples": [{"answer": "2", "correct": True, "text": "So 2."}, {"answer": None, "correct": False}]},
    ]  # fmt: skip
    (tmp_path / "bank.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    importing.bring(tmp_path / "bank.jsonl", tmp_path / "study", None)
    [one], skipped = harvested(tmp_path / "study")
    assert (one.problem, one.text, one.correct, one.answer, one.tokens) == ("1", "1+1=2\nanswer: 2", True, "2", 5)
    assert one.policy.startswith("imported-")
    assert skipped == {NO_TEXT: 3}


def test_a_separator_of_ones_own_cuts_the_steps(tmp_path):
    ran(tmp_path)
    for separator, steps in (("\n\n", 1), ("a", None)):
        for one in harvested(tmp_path, separator=separator)[0]:
            assert len(one.steps) == (steps or max(1, one.text.count("a") + (not one.text.rstrip().endswith("a"))))


def test_a_folder_without_a_study_is_an_error(tmp_path):
    with pytest.raises(StudyError, match="holds no study"):
        next(harvest([tmp_path]))


def test_another_process_may_be_at_work(tmp_path):
    ran(tmp_path)
    with Journal(tmp_path / "study.db"):
        assert len(harvested(tmp_path)[0]) == 24


@pytest.mark.slow
@pytest.mark.skipif(
    not list(files("ponder.lab").joinpath("weights").iterdir()), reason="the lab's weights are not in this checkout"
)
@pytest.mark.parametrize("family", ["chain", "countdown"])
def test_a_study_on_the_lab_is_harvested_as_its_store_holds_it(tmp_path, family):
    ran(tmp_path, "self_consistency(n=4)", tasks=(f"{family}(n=3)",), policies=("lab('small')",), limit=3)
    found, skipped = harvested(tmp_path)
    file = tmp_path / "study.db"
    assert named(found) == Counter(rows(file, WHOLE))
    assert len(found) == 12
    assert not skipped
    asked = {one.id: one for one in lab_problems(family, split="test", n=3, seed=0)}
    judged = {
        chain: (bool(correct), answer) for chain, correct, answer in rows(file, "SELECT chain, correct, answer FROM verdicts")
    }
    ends = {(text, cap): finish for text, cap, finish in rows(file, "SELECT text, cap, finish FROM samples")}
    for one in found:
        key = Chain(one.prompt, (Step(one.text),)).digest
        verdict = judged[key if one.finish == "stop" else f"{key}/{one.finish}"]
        assert (one.correct, one.answer) == verdict
        assert one.finish == ends[one.text, 224]
        assert one.prompt == (user(asked[one.problem].text),)
        assert one.difficulty == asked[one.problem].difficulty
        assert all(step.endswith("\n") for step in one.steps[:-1])
        assert one.policy.startswith("lab")
    right = Counter(one.problem for one in found if one.correct)
    assert solve_rates(found) == {problem: right[problem] / 4 for problem in asked}
    assert asdict(found[0])["tokens"] > 0


def test_two_problems_under_one_id_are_an_error_and_one_asked_twice_is_not(tmp_path):
    def bank(name, question, gold):
        line = {
            "problem": "1",
            "gold": gold,
            "question": question,
            "samples": [{"answer": "5", "correct": True, "text": "It is 5."}],
        }
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line))
        importing.bring(tmp_path / f"{name}.jsonl", tmp_path / name, None)
        return tmp_path / name

    first = bank("a", "What is 2 + 3?", "5")
    assert len(harvested(first, bank("b", "Add 2 and 3.", "5"))[0]) == 2
    with pytest.raises(
        DataError, match=r"the id '1' stands for two problems, one of .*a with the reference '5' and one of .*c with '7'"
    ):
        harvested(first, bank("c", "What is 3 + 4?", "7"))
