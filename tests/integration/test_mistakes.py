"""Twelve mistakes that users make, each as a real command line: one clear message with the way out, and the right exit code."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ponder.spec import names
from ponder.store import Journal
from ponder.testing.endpoint import FakeEndpoint
from studies import command

pytestmark = [pytest.mark.slow, pytest.mark.integration]

MAZE = ["run", "--task", "maze(n=2)", "--policy", "maze", "--strategy"]


def refused(cwd: Path, *words: object, code: int, env: dict[str, str] | None = None) -> str:
    """What a command line that fails says, after what holds for all of them."""
    given = {**os.environ, "OPENAI_API_KEY": "wrong", "XDG_CACHE_HOME": str(cwd / "cache"), "HOME": str(cwd), **(env or {})}
    done = subprocess.run(command(*words), cwd=cwd, env=given, timeout=100, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert done.stderr.startswith("ponder: ")
    assert done.stderr.count("\n") <= 8
    assert not list(cwd.glob("**/*.part"))
    return done.stderr


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with FakeEndpoint(key="right", models=("llama-tiny", "llama-small")) as running:
        yield running


def asks(url: str) -> list[str]:
    return ["run", "--task", "maze(n=1)", "--strategy", "sample", "--policy", url]


def test_1_a_wrong_url(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    said = refused(tmp_path, *asks(endpoint.url.removesuffix("/v1") + "/v2"), code=4, env={"OPENAI_API_KEY": "right"})
    assert endpoint.url.removesuffix("/v1") + "/v2" in said
    assert "/v1" in said.replace(endpoint.url, "")
    said = refused(tmp_path, *asks("openai('localhost:8000')"), code=2)
    assert "'localhost:8000' is not an address; it must begin with http:// or https://" in said


def test_2_a_wrong_key(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    said = refused(tmp_path, *asks(f"openai('{endpoint.url}', model='llama-tiny')"), code=4)
    assert f"{endpoint.url}: refused the key" in said
    assert "OPENAI_API_KEY" in said
    assert "wrong" not in said.replace("the wrong", ""), "a key is not for the screen"


def test_3_an_unknown_model(endpoint: FakeEndpoint, tmp_path: Path) -> None:
    said = refused(tmp_path, *asks(f"openai('{endpoint.url}', model='llama-tony')"), code=4, env={"OPENAI_API_KEY": "right"})
    assert "there is no model 'llama-tony'" in said
    assert "llama-tiny" in said


def test_4_a_port_where_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = refused(tmp_path, *asks(f"http://127.0.0.1:{port}/v1"), code=4)
    assert f"http://127.0.0.1:{port}/v1" in said
    assert "start the server, or give the right address" in said


def test_5_a_misspelt_argument_of_a_strategy(tmp_path: Path) -> None:
    assert refused(tmp_path, *MAZE, "self_consistency(m=4)", code=2) == (
        "ponder: 'self_consistency(m=4)': self_consistency has no argument 'm'; it takes n, batch\n"
    )
    said = refused(tmp_path, *MAZE, "adaptive_consistency(n=4, treshold=0.9)", code=2)
    assert "(did you mean 'threshold'?)" in said


def test_6_a_budget_of_zero(tmp_path: Path) -> None:
    assert refused(tmp_path, *MAZE, "sample", "--budget", "samples=0", code=2) == (
        "ponder: budget samples=0 cannot buy anything: it must be above 0, or left out for no bound\n"
    )
    (tmp_path / "study.toml").write_text(
        'tasks = ["maze"]\npolicies = ["maze"]\nstrategies = ["sample"]\nbudgets = [{tokens = 0}]\n'
    )
    said = refused(tmp_path, "run", "study.toml", code=2)
    assert "budget tokens=0 cannot buy anything" in said
    assert "study.toml:4" in said


def problems(cwd: Path, *lines: str) -> Path:
    (cwd / "mine.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return cwd / "mine.jsonl"


def test_7_a_missing_field(tmp_path: Path) -> None:
    problems(tmp_path, '{"question": "1 + 1?", "answer": 2}', '{"question": "2 + 2?", "result": 4}')
    said = refused(tmp_path, "run", "--task", "jsonl:mine.jsonl", "--policy", "maze", "--strategy", "sample", code=2)
    assert said == (
        "ponder: mine.jsonl:2: has no field 'answer' (it has question, result); name the right one: jsonl(path, answer=...)\n"
    )


def test_8_a_torn_line(tmp_path: Path) -> None:
    problems(tmp_path, '{"question": "1 + 1?", "answer": 2}', '{"question": "2 + ')
    said = refused(tmp_path, "run", "--task", "jsonl:mine.jsonl", "--policy", "maze", "--strategy", "sample", code=2)
    assert said.startswith("ponder: mine.jsonl:2: is not JSON (")
    assert said.endswith("perhaps torn: mend or remove it\n")
    problems(tmp_path, json.dumps({"problem": 1, "samples": [{"answer": "2", "correct": True}]}), '{"problem": 2, "sam')
    said = refused(tmp_path, "import", "mine.jsonl", code=2)
    assert said.startswith("ponder: mine.jsonl:2: is not ")
    assert not (tmp_path / "studies").exists()


def test_9_an_unknown_task(tmp_path: Path) -> None:
    said = refused(tmp_path, "run", "--task", "countdwn", "--policy", "maze", "--strategy", "sample", code=2)
    known = ", ".join(names("tasks"))
    assert said == f"ponder: 'countdwn': there is no task 'countdwn' (did you mean 'countdown'?); there are {known}\n"


def test_10_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(tmp_path, *MAZE, "sample", "--out", "file/study", code=6)
    assert said == "ponder: file/study: cannot be written (Not a directory); name another folder with --out\n"
    refused(tmp_path, *MAZE, "sample", "--out", "/proc/study", code=6)
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "study.db").write_text("Dear diary, " * 100)
    said = refused(tmp_path, *MAZE, "sample", "--out", "diary", code=6)
    assert said == "ponder: diary/study.db: is not a study file (file is not a database); name another folder with --out\n"


def test_11_a_folder_in_use(tmp_path: Path) -> None:
    with Journal(tmp_path / "study" / "study.db"):
        said = refused(tmp_path, *MAZE, "sample", "--out", "study", code=6)
    assert said == (
        f"ponder: study: in use by process {os.getpid()} on {os.uname().nodename}; wait for it, or name another folder with --out\n"
    )


@pytest.mark.parametrize(("policy", "module", "extra"), [("gguf:smollm2", "xllamacpp", "gguf"), ("hf:some/model", "torch", "hf")])
def test_12_a_missing_extra(tmp_path: Path, policy: str, module: str, extra: str) -> None:
    """The module is hidden from the process as it is where the extra is not installed."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "sitecustomize.py").write_text(
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Without(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        f"        return None if name.split('.')[0] == {module!r} else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]\n"
    )
    words = ["run", "--task", "maze(n=1)", "--strategy", "sample", "--policy", policy]
    said = refused(tmp_path, *words, code=3, env={"PYTHONPATH": str(tmp_path / "hidden")})
    assert said == f"ponder: {module} is not installed; it comes with the extra {extra!r}: pip install 'ponder-ttc[{extra}]'\n"


def test_and_a_damaged_row_is_named(tmp_path: Path) -> None:
    assert (
        subprocess.run([*command(*MAZE, "sample", "--slice", "2", "--out", "s")], cwd=tmp_path, capture_output=True).returncode
        == 0
    )
    connection = sqlite3.connect(tmp_path / "s" / "study.db")
    connection.execute("UPDATE samples SET text = replace(text, 'a', 'b') || 'a' WHERE idx = 1")
    connection.commit()
    connection.close()
    said = refused(tmp_path, "curve", "s", code=6)
    assert "s/study.db: sample 1 of chain " in said
    assert said.endswith(" does not match its checksum; restore the file from a copy\n")


def test_and_an_unknown_option_or_verb_is_a_usage_error(tmp_path: Path) -> None:
    for words in (["run", "--tsk", "maze"], ["rnu"], [*MAZE, "sample", "--limit", "many"], ["curve"]):
        said = refused(tmp_path, *words, code=2)
        assert "ponder --help" in said or "run --help" in said
