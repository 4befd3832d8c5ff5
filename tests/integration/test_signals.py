"""A study that is told to stop keeps what is paid for, says how to go on, and does; and a folder has one owner at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from studies import asked, cli, command, exported, kept, options, resume_command

pytestmark = [pytest.mark.slow, pytest.mark.integration]

# A study that lasts: one request takes a second, so all twelve problems are in flight when the signal comes.
LASTING = options("self_consistency(n=8, batch=1)", policy="maze(0.6, 4, 1.0)", slice=0)


def started(words: list[object], sign: Path, cwd: Path) -> subprocess.Popen[str]:
    """A process that is at work: it has begun to keep what it was asked for."""
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd)
    wait_for(lambda: sign.exists() and kept(sign.parent)["problems"], process)
    return process


def wait_for(holds: object, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not holds():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_within_five_seconds_and_the_printed_command_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    folder = tmp_path / "a folder" / "the study"
    process = started(["run", *LASTING, "--out", "a folder/the study"], folder / "study.db", tmp_path)
    wait_for(lambda: len(kept(folder)["samples"]) >= 12, process)
    process.send_signal(number)
    sent = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - sent < 5
    assert process.returncode == 128 + number
    assert out == ""
    assert f"stopped by {number.name}; go on with: ponder run 'a folder/the study'" in err
    before, asked_before = kept(folder)["samples"], asked(folder)
    assert asked_before == len(before)  # what really happened is on record, too, when there was time to write it

    toml = folder / "study.resolved.toml"
    toml.write_text(toml.read_text().replace("maze(0.6, 4, 1.0)", "maze(0.6, 4)"))  # the same policy, without the waiting
    done = cli(*resume_command(err), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(before) <= set(kept(folder)["samples"])
    assert asked(folder) == len(kept(folder)["samples"])

    other = tmp_path / "undisturbed"
    fast = options("self_consistency(n=8, batch=1)", slice=0)
    assert cli("run", *fast, "--out", other).returncode == 0
    assert exported(folder) == exported(other)


def test_a_study_with_a_shared_bank_goes_on_with_it(tmp_path: Path) -> None:
    process = started(["run", *LASTING, "--out", "s", "--bank", "the bank.db"], tmp_path / "s" / "study.db", tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert resume_command(err) == ["run", "s"]
    assert cli("run", "s", "--policy", "maze(0.6, 4)", cwd=tmp_path).returncode == 0
    assert len(kept(tmp_path, file="the bank.db")["samples"]) == 12 * 8
    assert kept(tmp_path / "s")["samples"] == []


def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    """The journal is kept from finishing, so that only the second signal can end the process."""
    folder = tmp_path / "study"
    process = started(["run", *LASTING, "--out", folder], folder / "study.db", tmp_path)
    import sqlite3

    wall = sqlite3.connect(folder / "study.db", isolation_level=None)
    wall.execute("BEGIN IMMEDIATE")  # the writer now waits for up to 30 s
    time.sleep(1.5)  # until a sample stands in the queue
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "stopping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    process.communicate(timeout=30)
    wall.close()
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - sent < 2


def test_a_folder_in_use_is_refused_with_its_owner_and_is_free_once_that_is_dead(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    owner = started(["run", *LASTING, "--out", folder], folder / "study.db", tmp_path)
    for words in (["run", folder], ["run", *LASTING, "--out", folder]):
        second = cli(*words)
        assert second.returncode == 6
        assert second.stdout == ""
        assert second.stderr == (
            f"ponder: {folder}: in use by process {owner.pid} on {os.uname().nodename}; wait for it, or name another folder with --out\n"
        )
    owner.kill()
    owner.communicate()
    assert json.loads((folder / "study.db.lock").read_text())["pid"] == owner.pid  # a dead owner's name does not keep anyone out
    assert cli("run", folder, "--policy", "maze(0.6, 4)").returncode == 0
