"""Nothing hostile gets out of the sandbox, in any tier, as root or not; and the same programs do get out of a plain subprocess."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hostile.users import ROOT, Unavailable, judged, launch

pytestmark = [pytest.mark.slow, pytest.mark.integration, pytest.mark.timeout(600)]

CASES = [(tier, user) for tier in ("bubblewrap", "landlock") for user in ("root", "nobody")]
CELLS, VARIANTS, PROGRAMS = 30, 3, 90
BITING = 0.6


@pytest.fixture(scope="module")
def judges():
    """All judges, two at a time: they mostly wait for programs that use up their time."""
    with ThreadPoolExecutor(2) as pool:
        yield {case: pool.submit(judged, *case) for case in (*CASES, ("plain", "root"))}


def found(future):
    """What a judge said; skips where its tier or its user is not to be had."""
    try:
        done = future.result()
    except Unavailable as error:
        pytest.skip(str(error))
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("tier", "user"), CASES)
def test_no_hostile_program_gets_anything_done_outside(judges, tier, user):
    said = found(judges[tier, user])
    assert said["tier"] == tier
    assert (said["user"] == 0) == (user == "root")
    assert said["programs"] >= PROGRAMS
    assert [f"{one['name']}: {'; '.join(one['effects'])}" for one in said["escaped"]] == []


def test_most_of_them_get_out_of_a_plain_subprocess_of_root(judges):
    said = found(judges["plain", "root"])
    assert said["bitten"] >= BITING * said["biting"]
    assert said["biting"] >= PROGRAMS


def test_the_corpus_covers_thirty_cells_of_goal_and_channel_three_times_each_and_the_page_shows_it():
    done = launch([sys.executable, "-m", "tests.hostile.corpus"], "root" if os.geteuid() == 0 else "nobody")
    assert done.stdout in (ROOT / "docs" / "sandbox-corpus.md").read_text("utf-8")
    rows = [line.strip("|").split("|")[1:-1] for line in done.stdout.splitlines()[2:-1]]
    cells = [int(cell) for row in rows for cell in row if cell.strip()]
    assert len(cells) >= CELLS
    assert min(cells) >= VARIANTS
