"""A study that is killed at any moment goes on as if nothing had happened: nothing durable lost, nothing paid for twice."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

import ponder.types
from studies import STRATEGIES, asked, cli, command, exported, kept, options

pytestmark = [pytest.mark.slow, pytest.mark.integration]

# Where the process dies, and the how-manieth time it comes by there.
POINTS = [
    ("lock-taken", 1),
    ("schema-written", 1),
    ("file-before-rename", 1),  # study.resolved.toml
    ("file-after-rename", 1),
    ("file-before-rename", 2),  # provenance.json
    ("problems-before-keep", 1),
    ("run-before-solve", 1),
    ("run-before-solve", 30),
    ("sample-before-keep", 1),
    ("sample-before-keep", 7),
    ("commit-before-begin", 2),
    ("commit-between-statements", 3),
    ("commit-between-statements", 60),
    ("commit-before-commit", 4),
    ("commit-after-commit", 5),
    ("commit-after-commit", 10),
    ("sample-after-keep", 1),
    ("sample-after-keep", 12),
    ("score-before-keep", 5),
    ("verdict-before-keep", 9),
    ("run-before-keep", 1),
    ("run-before-keep", 40),
    ("run-after-keep", 25),
    ("attempts-before-keep", 1),
    ("journal-before-close", 1),
]
# Four votes of one mind are the fewest that stop adaptive consistency: so many requests, one after the other, for each problem.
REQUESTS, SECONDS = 12 * 4, 0.03
TIMES = [Random(seed).uniform(0.0, 0.9 * REQUESTS * SECONDS) for seed in range(8)]
SLOW = ("adaptive_consistency(n=8, batch=1)", *STRATEGIES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The export of a study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    done = cli("run", *options(), "--out", folder)
    assert done.returncode == 0, done.stderr
    return exported(folder)


def go_on(folder: Path, given: list[str], *, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    """Start the study again: by its folder as the command to go on says, or as at first where nothing was written yet."""
    again = ["run", folder] if (folder / "study.resolved.toml").exists() else ["run", "--out", folder, *given]
    return cli(*again, fault=fault)


def nothing_lost(before: dict[str, list[tuple[object, ...]]], after: dict[str, list[tuple[object, ...]]]) -> None:
    for name, rows in before.items():
        assert set(rows) <= set(after[name]), f"{name}: a durable row is gone or changed"
    keys = [row[:6] for row in after["samples"]]
    assert len(keys) == len(set(keys)), "a sample was kept twice"


def finish_and_check(folder: Path, whole: list[str], given: list[str]) -> None:
    """Go on to the end: same export, and only what was not durable was asked for."""
    before, asked_before = kept(folder), asked(folder)
    done = go_on(folder, given)
    assert done.returncode == 0, done.stderr
    after = kept(folder)
    nothing_lost(before, after)
    assert asked(folder) - asked_before == len(after["samples"]) - len(before["samples"])
    assert exported(folder) == whole


@pytest.mark.parametrize(("point", "nth"), POINTS, ids=[f"{point}-{nth}" for point, nth in POINTS])
def test_killed_at_a_named_point_and_again_while_going_on(point: str, nth: int, whole: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    killed = cli("run", *options(), "--out", folder, fault=f"{point}:{nth}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    first = kept(folder)
    if nth % 2:
        second = Random(f"{point}{nth}").choice([("commit-before-commit", 1), ("commit-after-commit", 1), ("run-after-keep", 1)])
        go_on(folder, options(), fault=":".join(map(str, second)))  # where nothing was left to do, it ends well
        nothing_lost(first, kept(folder))
    finish_and_check(folder, whole, options())


@pytest.mark.parametrize("delay", TIMES, ids=[f"{delay:.3f}s" for delay in TIMES])
def test_killed_at_a_random_time(delay: float, whole_slow: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "study"
    kill_after(["run", *slow_options(SECONDS), "--out", folder], folder / "study.db.lock", delay)
    finish_and_check(folder, whole_slow, slow_options(0.0))  # how long a policy takes is no part of what it is


@pytest.fixture(scope="module")
def whole_slow(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """As `whole`, of the study for random times."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    done = cli("run", *slow_options(0.0), "--out", folder)
    assert done.returncode == 0, done.stderr
    return exported(folder)


def slow_options(seconds: float) -> list[str]:
    return options(*SLOW, policy=f"maze(0.6, 4, {seconds})", slice=0, more=("--concurrency", "1"))


def kill_after(words: list[object], sign: Path, delay: float) -> None:
    """Start a process, and kill it so many seconds after a file shows that it is at work."""
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not sign.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)  # the moment is what is being tried
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it had ended before; the study for random times is too short"
    process.communicate()


def test_an_export_that_is_killed_leaves_no_half_a_file(whole: list[str], tmp_path: Path) -> None:
    folder, file = tmp_path / "study", tmp_path / "export.jsonl"
    assert cli("run", *options(), "--out", folder).returncode == 0
    file.write_text("an older export\n")
    assert cli("export", folder, file, fault="file-before-rename:1").returncode == -signal.SIGKILL
    assert file.read_text() == "an older export\n"
    assert cli("export", folder, file).returncode == 0
    assert file.read_text().splitlines() == whole


def test_there_are_enough_kills_and_every_point_in_the_source_is_among_them() -> None:
    source = Path(ponder.types.__file__).parent
    named = {point for file in source.rglob("*.py") for point in re.findall(r'\bfault\("([\w-]+)"\)', file.read_text("utf-8"))}
    assert named == {point for point, _ in POINTS}
    assert len(POINTS) + len(TIMES) >= 24
