"""Nothing hostile gets out of the sandbox, in any tier, as root or not; and the same programs do get out of a plain subprocess."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parent.parent.parent
CASES = [(tier, user) for tier in ("bubblewrap", "landlock") for user in ("root", "nobody")]
CELLS, VARIANTS, PROGRAMS = 30, 3, 90
BITING = 0.6


def somebody() -> int:
    """A user id of nobody's, another one each time: what kills all processes of its user must hit no other test."""
    return 300_000 + secrets.randbelow(60_000)


@cache
def interpreter(user: str) -> str:
    """A Python that this user can run; skips where there is none."""
    if (user == "root") != (os.geteuid() == 0):
        if user == "root":
            pytest.skip("these tests do not run as root")
        for path in (
            "/usr/bin/python3",
            *(f"/usr/bin/python3.{minor}" for minor in range(11, 20)),
            sys.executable,
            "/usr/local/bin/python3",
        ):
            code = "import sys, ponder.sandbox.rooms; sys.exit(sys.version_info < (3, 11))"
            if os.path.exists(path) and launch([path, "-c", code], user).returncode == 0:
                return path
        pytest.skip("no Python 3.11 that an unprivileged user can read, or the sources are out of its reach")
    return sys.executable


def launch(argv: list[str], user: str) -> subprocess.CompletedProcess[str]:
    """A finished process of this user, who finds the sources, a folder for its files and nothing else."""
    other = user == "nobody" and os.geteuid() == 0
    uid = somebody() if other else os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        return subprocess.run(
            argv,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": folder,
            },
            cwd=ROOT,
            capture_output=True,
            text=True,
            start_new_session=True,
            timeout=550,
            **({"user": uid, "group": uid, "extra_groups": []} if other else {}),
        )


def judged(tier: str, user: str) -> subprocess.CompletedProcess[str]:
    return launch([interpreter(user), "-m", "tests.hostile.judge", "--json", "--tier", tier], user)


@pytest.fixture(scope="module")
def judges() -> Mapping[tuple[str, str], Future[subprocess.CompletedProcess[str]]]:
    """All judges, two at a time: they mostly wait for programs that use up their time."""
    pool = ThreadPoolExecutor(2)
    asked = [*CASES, *([("plain", "root")] if os.geteuid() == 0 else [])]
    return {case: pool.submit(judged, *case) for case in asked}


def found(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("tier", "user"), CASES)
def test_no_hostile_program_gets_anything_done_outside(judges, tier, user):
    interpreter(user)
    said = found(judges[tier, user].result())
    assert said["tier"] == tier
    assert (said["user"] == 0) == (user == "root")
    assert said["programs"] >= PROGRAMS
    assert [f"{one['name']}: {'; '.join(one['effects'])}" for one in said["escaped"]] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the anchor is a plain subprocess of root's")
def test_most_of_them_get_out_of_a_plain_subprocess(judges):
    said = found(judges["plain", "root"].result())
    assert said["bitten"] >= BITING * said["biting"]
    assert said["biting"] >= PROGRAMS


def test_the_corpus_covers_thirty_cells_of_goal_and_channel_three_times_each():
    done = launch([sys.executable, "-m", "tests.hostile.corpus"], "root" if os.geteuid() == 0 else "nobody")
    rows = [line.strip("|").split("|")[1:-1] for line in done.stdout.splitlines()[2:-1]]
    cells = [int(cell) for row in rows for cell in row if cell.strip()]
    assert len(cells) >= CELLS
    assert min(cells) >= VARIANTS
