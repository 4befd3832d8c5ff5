"""Judging a study again: verdicts may change, nothing is sampled, and what cannot be replayed is said."""

from __future__ import annotations

import json

import pytest

from ponder.cli.main import run_app
from ponder.store import Journal, StudyStore
from ponder.tasks.toy import MazeGrader
from ponder.testing import MazePolicy
from ponder.types import Verdict
from studies import exported, options

STRATEGIES = ("self_consistency(n=4)", "adaptive_consistency(n=6)", "first_finish(n=3)")


@pytest.fixture
def study(tmp_path):
    assert run_app(["run", *options(*STRATEGIES), "--out", str(tmp_path)]) == 0
    return tmp_path


def runs(study):
    with Journal(study / "study.db") as journal:
        return StudyStore(journal).runs()


def regraded(study, capsys, *more):
    capsys.readouterr()
    code = run_app(["regrade", str(study), *more])
    return code, capsys.readouterr()


def test_the_same_grader_changes_nothing_and_no_policy_is_asked(study, capsys, monkeypatch):
    async def never(self, asks, *, until, sampling):
        raise AssertionError("sampled")

    monkeypatch.setattr(MazePolicy, "sample", never)
    before = exported(study)
    code, said = regraded(study, capsys, "--json")
    assert code == 0
    assert json.loads(said.out) == {"runs": 48, "right": 0, "wrong": 0}  # 12 problems x (3 strategies + the slice)
    assert exported(study) == before


def test_a_grader_that_judges_otherwise_under_the_same_version_changes_verdicts_and_runs(study, capsys, monkeypatch):
    async def strict(self, problem, answers, texts):
        return [Verdict(False, answer, "strict") for answer in answers]

    right = sum(run.correct for run in runs(study))
    monkeypatch.setattr(MazeGrader, "grade", strict)
    code, said = regraded(study, capsys)
    assert (code, right > 0) == (0, True)
    assert f"0 became right, {right} became wrong" in said.out
    assert not any(run.correct for run in runs(study))


def test_samples_that_are_missing_stop_it(study, capsys, monkeypatch):
    resolved = study / "study.resolved.toml"
    resolved.write_text(resolved.read_text().replace("self_consistency(n=4)", "self_consistency(n=40)"))
    code, said = regraded(study, capsys)
    assert code == 2
    assert "not in the bank; finish the study" in said.err


def test_other_problems_under_the_same_name_stop_it(study, capsys):
    resolved = study / "study.resolved.toml"
    resolved.write_text(resolved.read_text().replace("depth=4", "depth=5"))
    code, said = regraded(study, capsys)
    assert code == 2
    assert "are not those that the study was run on" in said.err


def test_a_folder_without_a_study_is_named(tmp_path, capsys):
    code, said = regraded(tmp_path / "nothing", capsys)
    assert code == 2
    assert "holds no study" in said.err
