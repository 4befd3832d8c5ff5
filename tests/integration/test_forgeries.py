"""No forgery passes, on any kind of test, in any tier that is here; right programs pass on all of them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from hostile.forgeries import FORGERIES, KINDS, PROMPT, STDIO, Forgery
from ponder.errors import SetupError
from ponder.graders.cases import cases
from ponder.graders.code import CodeGrader, Reference
from ponder.graders.stdio import StdioGrader, Trials
from ponder.sandbox.core import Limits
from ponder.sandbox.relay import Suite, examine
from ponder.sandbox.rooms import room
from ponder.types import Problem, Question

pytestmark = [pytest.mark.integration, pytest.mark.slow]
NAMES = {"candidate": "twice", "twice": "twice"}
HONEST = "def twice(x):\n    return True if x is None else x + x"
SECONDS, PATIENT = 1.0, 20.0  # for a forgery that stalls; for a right program on a busy machine


@pytest.fixture(params=["bubblewrap", "landlock"], scope="module")
def sandbox(request):
    try:
        return room(tier=request.param)
    except SetupError as error:
        pytest.skip(str(error))


def problem(test: str) -> Problem:
    body = "".join(f"    {line}\n" for line in test.split("\n"))
    reference = Reference("twice", f"def check(candidate):\n{body}\ncheck(candidate)\n", NAMES, PROMPT, PROMPT)
    return Problem(Question("q", ()), reference.packed())


def passed(sandbox, source: str, seconds: float = SECONDS) -> list[str]:
    """The kinds of test that a program passes."""
    grader = CodeGrader(seconds, sandbox=sandbox)

    async def all_kinds():
        text = f"```python\n{source}\n```"
        return await asyncio.gather(*(grader.grade(problem(test), [None], [text]) for test in KINDS.values()))

    return [kind for kind, [verdict] in zip(KINDS, asyncio.run(all_kinds()), strict=True) if verdict.correct]


def named(forgeries):
    return pytest.mark.parametrize("forgery", forgeries, ids=[forgery.name for forgery in forgeries])


def test_the_kinds_go_both_ways_and_right_programs_pass_them_all(sandbox):
    apart = {kind for kind, test in KINDS.items() if cases(test, NAMES) is None}
    assert apart == {kind for kind in KINDS if kind.startswith("apart")}
    assert passed(sandbox, HONEST, PATIENT) == list(KINDS)


@named(FORGERIES)
def test_no_forgery_passes(sandbox, forgery: Forgery):
    assert passed(sandbox, forgery.source) == []


@named(FORGERIES)
def test_no_forgery_passes_a_test_that_a_model_wrote(sandbox, forgery: Forgery):
    suite = Suite("assert twice(20817) == 41634", {"twice": "twice"})
    assert not examine(sandbox, forgery.source, suite, Limits(SECONDS)).passed


def test_after_all_forgeries_the_honest_still_pass(sandbox):
    assert passed(sandbox, HONEST, PATIENT) == list(KINDS)


@named([forgery for forgery in FORGERIES if forgery.naive])
def test_a_grader_in_one_process_is_taken_in(forgery: Forgery, tmp_path):
    """The forgeries have teeth: what is usual passes them on some kind of test."""

    def naive(test: str) -> bool:
        script = f"import math\n{PROMPT}\n{forgery.source}\ncandidate = twice\n{test}\n"
        done = subprocess.run(
            [sys.executable, "-I", "-"], input=script.encode(), cwd=tmp_path, capture_output=True, timeout=20, check=False
        )
        return done.returncode == 0

    assert any(naive(test) for test in KINDS.values())


TRIALS = Trials((("1 2\n", "3\n"), ("5 6\n", "11\n")))


@named(STDIO)
def test_no_forgery_passes_by_what_it_prints(sandbox, forgery: Forgery):
    grader = StdioGrader(SECONDS, sandbox=sandbox)
    text = f"```python\n{forgery.source}\n```"
    [verdict] = asyncio.run(grader.grade(Problem(Question("q", ()), TRIALS.packed()), [None], [text]))
    assert not verdict.correct


def test_a_right_program_passes_by_what_it_prints(sandbox):
    grader = StdioGrader(5.0, sandbox=sandbox)
    text = "```python\nprint(sum(map(int, input().split())))\n```"
    [verdict] = asyncio.run(grader.grade(Problem(Question("q", ()), TRIALS.packed()), [None], [text]))
    assert verdict.correct, verdict.reason


@pytest.mark.parametrize(
    "test",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "assert twice(1) == 3",
        "raise SystemExit(0)",
        "while True: pass",
        "_ = twice.__globals__; _['_requests'].put(('call', 'open', ('/etc/passwd',), {}))\nassert twice(1) == 3",
        "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'passed\\n')\n    except OSError: pass\nassert twice(1) == 3",
    ],
)
def test_a_hostile_test_spoils_only_itself(sandbox, test):
    suite = Suite(test, {"twice": "twice"})
    assert not examine(sandbox, HONEST, suite, Limits(SECONDS)).passed
    assert examine(sandbox, HONEST, Suite("assert twice(2) == 4", {"twice": "twice"}), Limits(5.0)).passed
