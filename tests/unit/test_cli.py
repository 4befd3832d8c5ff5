"""What the command line reads and prints: stdout is data, stderr is chatter, and text of a model cannot steer a terminal."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tomllib
import unicodedata
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import Flaky, Scripted
from ponder.cli import doctor, output
from ponder.cli.main import _budget, run_app
from ponder.cli.runner import Progress
from ponder.cli.study import Study, displaced
from ponder.core import Budget
from ponder.errors import PartialError
from ponder.sandbox import rooms
from ponder.store import Journal
from ponder.testing import MazePolicy
from studies import cli, command, exported, kept, options, resume_command

VOTE = options("self_consistency(n=4)", task="maze(n=3)", slice=4)


def called(capsys, *words):
    """Exit code, stdout and stderr of a command line run in this process."""
    code = run_app(list(map(str, words)))
    got = capsys.readouterr()
    return code, got.out, got.err


def objects(out):
    """Every line of an output as JSON: fails on anything else."""
    return [json.loads(line) for line in out.splitlines()]


def test_json_is_one_object_a_line_and_nothing_else(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = called(capsys, "run", *VOTE, "--json")
    [summary] = objects(out)
    assert (code, summary["strategy"], summary["n"]) == (0, "self_consistency(n=4)", 3)
    assert err.count("\n") == 1, "progress alone"
    study = summary["study"]
    for words, least in (
        (["curve", study], 4),
        (["show", study], 3),
        (["show", study, "maze-0"], 1),
        (["ls"], 1),
        (["ls", "tasks"], 4),
    ):
        code, out, _ = called(capsys, *words, "--json")
        assert code == 0
        assert len(objects(out)) >= least
    assert objects(called(capsys, "solve", "Which way?", "--policy", "maze(1.0, 2)", "--json")[1]) == [
        {
            "answer": "a a",
            "text": "a\na\n",
            "samples": 1,
            "usage": {"prompt": 1, "cached": 0, "completion": 2, "scored": 0, "calls": 1, "seconds": 0.0},
            "failed": 0,
            "exhausted": False,
        }
    ]


def test_people_get_tables_on_stdout_and_chatter_on_stderr(capsys, tmp_path):
    _, out, err = called(capsys, "run", *VOTE, "--out", tmp_path / "s")
    assert out.splitlines()[0].split()[:2] == ["strategy", "task"]
    assert "ponder:" not in out
    assert f"curve: ponder curve {tmp_path / 's'}" in err
    _, out, err = called(capsys, "solve", "Which way?", "--policy", "maze(1.0, 2)")
    assert out == "a\na\n\n"
    assert "ponder: 1 sample, 2 completion tokens, " in err


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("samples=16", Budget(samples=16)),
        ("tokens=4000,seconds=0.5", Budget(tokens=4000, seconds=0.5)),
        (" calls = 3 , money=0.25", Budget(calls=3, money=0.25)),
    ],
)
def test_a_budget_on_the_command_line_is_the_budget_of_the_runs(capsys, tmp_path, text, budget):
    code, _, err = called(
        capsys, "run", *options("sample", task="maze(n=1)", slice=0), "--budget", text, "--out", tmp_path / "s", "--dry-run"
    )
    assert code == 0, err
    assert Budget(**_budget(text)) == budget


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample=16", "budget 'sample=16': 'sample' is not one of samples, tokens, calls, seconds, money; write samples=16"),
        ("16", "budget '16': '16' is not one of samples, tokens, calls, seconds, money; write samples=16"),
        ("samples=many", "budget 'samples=many': 'many' is not a number; write samples=16"),
        ("samples=2.5", "budget 'samples=2.5': samples are counted in whole numbers; write samples=2"),
        ("samples=nan", "budget 'samples=nan': 'nan' is not a number; write samples=16"),
        ("seconds=inf", "budget 'seconds=inf': 'inf' is not a number; write seconds=16"),
        ("tokens=0", "budget tokens=0 cannot buy anything: it must be above 0, or left out for no bound"),
        ("samples=1,samples=2", "budget 'samples=1,samples=2': 'samples' is given twice"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(capsys, tmp_path, text, message):
    assert called(capsys, "run", *VOTE, "--budget", text, "--out", tmp_path / "s") == (2, "", f"ponder: {message}\n")
    assert not (tmp_path / "s").exists()
    assert called(capsys, "solve", "Why?", "--policy", "maze", "--budget", text) == (2, "", f"ponder: {message}\n")


def test_a_dry_run_spends_nothing_and_bounds_the_real_one(capsys, tmp_path):
    for strategies, more in (
        (["self_consistency(n=4)", "adaptive_consistency(n=9)"], []),
        (["first_finish(n=6)"], ["--seed", "0", "--seed", "1"]),
        (["self_consistency(n=12)"], ["--budget", "samples=5"]),
        (["sample"], ["--temperature", "0.5", "--temperature", "1.0"]),
    ):
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        words = ["run", *options(*strategies, task="maze(n=3)", slice=4), *more, "--out", where]
        code, out, _ = called(capsys, *words, "--dry-run", "--json")
        [plan] = objects(out)
        assert code == 0
        assert not where.exists()
        assert called(capsys, *words)[0] == 0
        samples = kept(where)["samples"]
        assert 0 < len(samples) <= plan["samples"]
        assert sum(row[-1] for row in samples) <= plan["completion_tokens_at_most"]


def test_a_folder_goes_on_with_all_its_settings(capsys, tmp_path):
    where = tmp_path / "s"
    assert called(capsys, "run", *VOTE, "--seed", "7", "--temperature", "0.5", "--out", where)[0] == 0
    before = kept(where)
    assert called(capsys, "run", where)[0] == 0
    assert called(capsys, "run", where, "--limit", "1")[0] == 0
    assert {name: set(rows) for name, rows in kept(where).items()} == {name: set(rows) for name, rows in before.items()}


def test_a_folder_that_held_another_study_says_so_in_one_line_and_keeps_both(capsys, tmp_path):
    folder, vote = tmp_path / "mine", "self_consistency(n=2)"
    called(capsys, "run", *options(vote, task="maze(n=2)"), "--out", folder)
    before = exported(folder)
    _, _, err = called(capsys, "run", *options(vote, task="maze(n=3)", slice=2), "--out", folder)
    [line] = [line for line in err.splitlines() if "another study" in line]
    assert "held another study (maze(n=2) with maze(0.6, 4))" in line
    assert "shows the new one (maze(n=3) with maze(0.6, 4))" in line
    assert {*before} < {*exported(folder)}
    assert {row["n"] for row in objects(called(capsys, "curve", folder, "--json")[1])} == {3}
    (folder / "study.resolved.toml").write_text("not a study")
    assert "another study" not in called(capsys, "run", *options(vote, task="maze(n=3)"), "--out", folder)[2]


@pytest.mark.parametrize(
    "more",
    [{}, {"limit": 1}, {"slice": 4}, {"task": "maze(n=3)"}, {"policy": "maze(0.5)"}],
    ids=["same", "limit", "slice", "task", "policy"],
)
def test_a_study_is_another_where_a_task_or_a_policy_of_the_old_is_left_out(more):
    old = Study(tasks=("maze(n=2)",), policies=("maze",), strategies=("sample",))
    body = {"tasks": ("maze(n=2)",), "policies": ("maze",), "strategies": ("sample", "first_finish(n=2)")}
    for key, plural in (("task", "tasks"), ("policy", "policies")):
        if key in more:
            assert displaced(old, Study(**{**body, plural: (more[key],)})) == "maze(n=2) with maze"
            body[plural] += (more[key],)
    settings = {key: value for key, value in more.items() if key in ("limit", "slice")}
    assert displaced(old, Study(**body, **settings)) == "", "nothing of the old is hidden"


def test_a_study_that_is_slow_says_so_every_thirty_seconds_and_a_quick_one_every_ten(capsys):
    now = [0.0]
    done_at = {29: 0, 30: 0, 59: 0, 60: 0, 69: 1, 70: 1, 99: 1, 100: 1, 101: 2, 102: 2}
    with output.progress(clock=lambda: now[0]) as report:
        for now[0], done in done_at.items():
            report(Progress(done, 2, 1200, 0, 0, samples=24))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ponder: 0/2 problems, 24 samples, 1,200 tokens of runs so far (banked ones too), 0 failed"
    assert [line.split()[1] for line in lines] == ["0/2", "0/2", "1/2", "1/2", "2/2"]


def test_doctor_knows_the_extras_of_the_project_and_how_to_get_them(monkeypatch):
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = {
        extra: sorted(re.split("[>=]", line)[0] for line in lines)
        for extra, lines in project["optional-dependencies"].items()
        if extra != "dev"
    }
    assert {extra: sorted(packages) for extra, packages in doctor.extras().items()} == wanted
    monkeypatch.setattr(doctor, "_installed", lambda package: package != "uvicorn")
    body = doctor._extras()
    assert {*body} == {f"extra {extra}" for extra in wanted}
    assert body["extra serve"] == "missing uvicorn: in a checkout, pip install -c constraints.txt -e '.[serve]'"
    assert body["extra hf"] == "installed"


def test_what_cannot_be_listed_is_said_with_what_can(capsys, tmp_path):
    known = "must be one of strategies, verifiers, policies, tasks, studies"
    assert called(capsys, "ls", "tools") == (2, "", f"ponder: ls: 'tools' {known}\n")
    way_out = f"`ponder show {tmp_path}` shows the study in a folder"
    assert called(capsys, "ls", tmp_path) == (2, "", f"ponder: ls: {str(tmp_path)!r} {known}; {way_out}\n")


def test_a_partial_study_says_how_to_go_on_and_ends_with_five(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ponder.cli.runner.parse_policy", lambda _: Flaky(MazePolicy(0.6), frozenset({1})))
    code, out, err = called(capsys, "run", *VOTE, "--out", tmp_path / "s")
    assert code == PartialError.exit_code == 5
    assert out.startswith("strategy")
    assert f"samples failed and are no answers; all others are kept in {tmp_path / 's'}" in err
    monkeypatch.undo()
    assert called(capsys, *resume_command(err))[0] == 0
    assert len(kept(tmp_path / "s")["samples"]) == 3 * 4


@given(st.text())
def test_cleaned_text_cannot_steer_a_terminal(text):
    kept_text = output.clean(text)
    assert all(c in "\n\t" or unicodedata.category(c)[0] != "C" or unicodedata.category(c) == "Cn" for c in kept_text)
    assert [c for c in kept_text if c.isalnum()] == [c for c in text if c.isalnum()]


EVIL = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2066 \x9b31m\r\x08 the answer is 7\x00"


def test_control_characters_of_a_model_never_reach_stdout(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("ponder.cli.runner.parse_policy", lambda _: Scripted([(EVIL, "stop", 3)]))
    monkeypatch.setattr("ponder.cli.verbs.parse_policy", lambda _: Scripted([(EVIL, "stop", 3)]))
    outputs = [
        called(capsys, *words)
        for words in (
            ["run", *VOTE, "--out", tmp_path / "s"],
            ["curve", tmp_path / "s"],
            ["show", tmp_path / "s"],
            ["show", tmp_path / "s", "maze-0"],
            ["show", tmp_path / "s", "maze-0", "--json"],
            ["solve", "Why?", "--policy", "maze"],
            ["solve", "Why?", "--policy", "maze", "--json"],
        )
    ]
    assert "the answer is 7" in outputs[3][1]
    for code, out, err in outputs:
        assert code == 0, err
        assert not {c for c in out + err if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t"}


def test_a_pipe_that_closes_early_is_not_an_error(tmp_path):
    """As in `ponder ls tasks | head -1`."""
    process = subprocess.Popen(command("ls", "strategies"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) in (0, 141)


@pytest.mark.slow
def test_a_question_comes_from_standard_input_where_asked(tmp_path):
    done = cli("solve", "-", "--policy", "maze(1.0, 1)", stdin="Which way?")
    assert (done.returncode, done.stdout) == (0, "a\n\n")


def test_a_study_can_be_read_while_another_process_writes_it(capsys, tmp_path):
    assert called(capsys, "run", *VOTE, "--out", tmp_path / "s")[0] == 0
    with ExitStack() as stack:
        stack.enter_context(Journal(tmp_path / "s" / "study.db"))
        assert called(capsys, "curve", tmp_path / "s", "--json")[0] == 0
        assert called(capsys, "export", tmp_path / "s", tmp_path / "e.jsonl")[0] == 0
        assert called(capsys, "run", tmp_path / "s")[0] == 6


def test_a_shared_bank_is_read_by_curve_show_and_export(capsys, tmp_path):
    bank = ["--bank", tmp_path / "bank.db"]
    assert called(capsys, "run", *VOTE, "--out", tmp_path / "own")[0] == 0
    assert called(capsys, "run", *VOTE, "--out", tmp_path / "shared", *bank)[0] == 0
    for words in (["curve", "{}", "--json"], ["show", "{}", "maze-1", "--json"]):
        own, shared = (called(capsys, *[word.format(tmp_path / name) for word in words])[1] for name in ("own", "shared"))
        assert own == shared != ""
    for name in ("own", "shared"):
        assert called(capsys, "export", tmp_path / name, tmp_path / f"{name}.jsonl")[0] == 0
    assert (tmp_path / "own.jsonl").read_text() == (tmp_path / "shared.jsonl").read_text()


def test_a_folder_without_a_study_is_refused(capsys, tmp_path):
    for verb in ("curve", "show"):
        code, out, err = called(capsys, verb, tmp_path)
        assert (code, out) == (2, "")
        assert (
            err == f"ponder: {tmp_path}: holds no study (study.db is missing); `ponder ls` lists the studies below this folder\n"
        )
    Journal(tmp_path / "study.db").close()
    assert called(capsys, "curve", tmp_path)[0] == 2


def test_an_unfinished_study_without_runs_has_no_curve(capsys, tmp_path):
    assert called(capsys, "run", *VOTE, "--out", tmp_path / "s")[0] == 0
    with Journal(tmp_path / "s" / "study.db") as journal:
        asyncio.run(journal.write([("DELETE FROM runs", [[]])]))
    code, _, err = called(capsys, "curve", tmp_path / "s")
    assert (code, err) == (2, f"ponder: {tmp_path / 's'}: holds no finished run; `ponder run {tmp_path / 's'}` first\n")


def test_the_oracle_is_refused_before_a_folder_is_made(capsys, tmp_path):
    words = [
        "run",
        "--task",
        "maze(n=1)",
        "--policy",
        "maze",
        "--strategy",
        "rejection(n=2, verifier=oracle)",
        "--out",
        tmp_path / "s",
    ]
    code, out, err = called(capsys, *words)
    assert (code, out) == (2, "")
    assert "give --allow-oracle" in err
    assert not (tmp_path / "s").exists()
    assert called(capsys, *words, "--allow-oracle")[0] == 0
    assert "(upper bound)" in called(capsys, *words, "--allow-oracle")[1]


def coding_study(tmp_path):
    problems = tmp_path / "HumanEval.jsonl"
    row = {
        "task_id": "t/0",
        "prompt": 'def f(x):\n    """One more."""\n',
        "entry_point": "f",
        "test": "def check(candidate):\n    assert candidate(1) == 2\n",
    }
    problems.write_text(json.dumps(row) + "\n")
    return [
        "run",
        "--task",
        f"humaneval({str(problems)!r})",
        "--policy",
        "maze",
        "--strategy",
        "sample",
        "--out",
        str(tmp_path / "s"),
    ]


def test_a_study_that_needs_a_sandbox_is_refused_before_anything_is_spent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rooms, "_rooms", {})
    monkeypatch.setattr(rooms, "_usable", lambda tier: "cannot be had")
    monkeypatch.setattr(rooms, "_unsafe", False)
    assert run_app(coding_study(tmp_path)) == 3
    said = capsys.readouterr().err
    assert "bubblewrap: cannot be had" in said
    assert "--unsafe-exec" in said
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_without_walls_code_runs_only_when_told_to_and_the_provenance_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rooms, "_rooms", {})
    monkeypatch.setattr(rooms, "_usable", lambda tier: "cannot be had")
    monkeypatch.setattr(rooms, "_unsafe", False)
    assert run_app([*coding_study(tmp_path), "--unsafe-exec"]) == 0
    assert json.loads((tmp_path / "s" / "provenance.json").read_text())["sandbox"] == "unsafe"
    assert "will run as you do" in capsys.readouterr().err
    rooms.room().close()
