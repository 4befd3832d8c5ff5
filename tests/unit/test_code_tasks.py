"""Files of programming problems: what is asked, what stays hidden, what is refused, and what changes their identity."""

import asyncio
import base64
import gzip
import json
import pickle
import zlib
from dataclasses import replace

import pytest
from fake_sandbox import FakeSandbox

from ponder.errors import DataError, UsageError
from ponder.graders.code import unpacked
from ponder.graders.stdio import unpacked as unpacked_trials
from ponder.tasks import stdio as stdio_task
from ponder.tasks.code import humaneval, mbpp
from ponder.tasks.stdio import stdio

TWICE = {
    "task_id": "Mine/0",
    "prompt": 'def twice(x):\n    """ Twice x.\n    """\n',
    "entry_point": "twice",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(20817) == 41634\n",
}
AREA = {
    "task_id": 2,
    "text": "Write a function to find an area.",
    "code": "class Box:\n    def __init__(self, w): self.w = w\ndef area(box, k=1):\n    return box.w * k",
    "test_list": ["assert area(Box(3)) == 3", "assert area(Box(20817), 2) == 41634"],
    "test_setup_code": "",
    "challenge_test_list": ["assert area(Box(0)) == 0"],
}
SUM = {
    "question_content": "Add {question} numbers.",
    "question_id": "abc1",
    "difficulty": "easy",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "20817 2\n", "output": "20819\n", "testtype": "stdin"}]),
}
METHOD = {
    "question_content": "Add.",
    "question_id": "m1",
    "starter_code": "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        ",
    "metadata": json.dumps({"func_name": "add"}),
    "public_test_cases": json.dumps([{"input": "1\n[2, 3]", "output": "6", "testtype": "functional"}]),
}
CONTEST = {
    "name": "1_A. Add",
    "description": "Add two numbers.",
    "public_tests": {"input": ["1 2\n"], "output": ["3\n"]},
    "private_tests": {"input": [], "output": []},
    "generated_tests": {"input": ["5 6\n"], "output": ["11\n"]},
    "time_limit": {"seconds": 2, "nanos": 500_000_000},
}


def written(tmp_path, *rows, name="p.jsonl"):
    path = tmp_path / name
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    return str(path)


def verdict(task, text, at=0):
    grader = replace(task.grader, sandbox=FakeSandbox())
    [found] = asyncio.run(grader.grade(task.problems[at], [task.answer(text)], [text]))
    return found


def seen(problem):
    """All that a strategy may see of a problem."""
    return json.dumps([[m.text for m in problem.question.messages], dict(problem.question.metadata)])


# --- HumanEval -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_humaneval_asks_for_the_function_and_hides_its_tests(tmp_path, name):
    task = humaneval(written(tmp_path, TWICE, name=name))
    [problem] = task.problems
    assert (task.name, problem.question.id, task.max_tokens) == ("humaneval", "Mine/0", 512)
    assert "```python\ndef twice(x):\n" in problem.question.messages[-1].text
    assert problem.question.metadata == {"entry_point": "twice", "prompt": TWICE["prompt"]}
    assert "20817" not in seen(problem)
    assert "20817" in unpacked(problem.reference).tests
    assert verdict(task, "```python\ndef twice(x):\n    return 2 * x\n```").correct
    assert verdict(task, "    return 2 * x").correct
    assert verdict(task, "    return 3 * x").reason == "failed: line 2"
    assert verdict(task, "It cannot be done.").reason == "no_program"


def test_a_base_model_goes_on_with_the_code_itself(tmp_path):
    task = humaneval(written(tmp_path, TWICE), prompt="plain")
    assert task.problems[0].question.messages[-1].text == TWICE["prompt"].rstrip()


def test_the_answer_of_a_code_task_is_the_program(tmp_path):
    task = humaneval(written(tmp_path, TWICE))
    assert task.answer("Well:\n```python\ndef twice(x):\n    return 2 * x\n\n```\nDone.") == "def twice(x):\n    return 2 * x"
    assert task.answer("I cannot.") is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": None}, r"p\.jsonl:2: has NoneType, no text, under 'prompt'; its fields are task_id, prompt,"),
        ({"test": "assert candidate(1)"}, r"p\.jsonl:2: the test defines no check\(candidate\)"),
        ({"test": "def check(candidate"}, r"p\.jsonl:2: test is no Python"),
        ({"prompt": "def f(:"}, r"p\.jsonl:2: prompt is no Python"),
        ({}, r"the id 'Mine/0' stands on two lines"),
    ],
)
def test_a_humaneval_row_that_is_none_is_refused_with_its_line(tmp_path, change, told):
    with pytest.raises(DataError, match=told):
        humaneval(written(tmp_path, TWICE, {**TWICE, **change}))


@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    pass\n",
        "def check(candidate):\n    assert True\n",
        "def check(candidate):\n    assert abs(-1) == 1\n",
        "def check(candidate):\n    candidate(1)\n",
        "def check(candidate):\n    candidate(1)\n    assert True, 'fine'\n",
        "def check(candidate):\n    assert candidate\n",
        "def check(candidate):\n    assert candidate is not None and abs\n",
        "def check():\n    assert twice(1) == 2\n",
        "def check(candidate):\n    assert candidate(1) == 2\ndef check(candidate):\n    pass\n",
        "candidate = 1\ndef f(candidate):\n    assert candidate(1) == 2\ndef check(one):\n    assert abs(1)\n",
    ],
)
def test_a_test_that_every_program_would_pass_is_refused_with_its_line(tmp_path, test):
    with pytest.raises(DataError, match=r"p\.jsonl:1: the test's check\(candidate\) asserts nothing of its candidate"):
        humaneval(written(tmp_path, {**TWICE, "test": test}))


@pytest.mark.parametrize(
    "test",
    [
        "def check(f):\n    assert f(1) == 2\n",
        "def check(f, /):\n    assert f(1) == 2\n",
        "def check(candidate):\n    assert twice(1) == 2\n",
        "def check(candidate):\n    f = candidate\n    assert f(1) == 2\n",
        "def check(candidate):\n    if candidate(1) != 2:\n        raise ValueError\n",
        "def check(candidate):\n    numpy.testing.assert_allclose(candidate(1), 2)\n",
        "def assertion(out, exp):\n    exec('assert out == exp')\ndef check(candidate):\n    assertion(candidate(1), 2)\n",
        "def check(candidate):\n    unittest.TestCase().assertEqual(candidate(1), 2)\n",
    ],
)
def test_a_test_that_asserts_in_its_own_way_is_read(tmp_path, test):
    assert len(humaneval(written(tmp_path, {**TWICE, "test": test})).problems) == 1


TOO_DEEP = ["-" * 20000 + "1", "not " * 20000 + "1", "lambda:" * 20000 + "1", "2**" * 5000 + "2", "(" * 5000, "9" * 5000, "'\0'", "~" * 3000 + "1"]  # fmt: skip


@pytest.mark.parametrize("source", TOO_DEEP)
def test_a_source_that_the_parser_gives_up_on_is_refused_with_its_line(tmp_path, source):
    for field in ("prompt", "test"):
        row = {**TWICE, field: f"{TWICE[field]}    x = {source}\n"}
        with pytest.raises(DataError, match=rf"p\.jsonl:1: {field} is no Python \(.+\); mend or remove the problem"):
            humaneval(written(tmp_path, row))
    for change in ({"test_list": [f"assert area({source}) == 1"]}, {"code": f"x = {source}"}):
        with pytest.raises(DataError, match=r"p\.jsonl:1: \w+ is no Python \(.+\)"):
            mbpp(written(tmp_path, {**AREA, **change}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"prompt": TWICE["prompt"] + "    x = '\ud800'\n"}, "'prompt' holds a lone surrogate"),
        ({"entry_point": ""}, "entry_point '' is no name of a function"),
        ({"entry_point": "os.system; x"}, r"entry_point 'os\.system; x' is no name of a function"),
        ({"task_id": ["a"]}, "task_id is a list"),
        ({"test": 5}, "has int, no text, under 'test'; its fields are task_id, prompt,"),
    ],
)
def test_a_humaneval_row_of_odd_values_is_refused_with_its_line(tmp_path, change, told):
    with pytest.raises(DataError, match=rf"p\.jsonl:1: {told}"):
        humaneval(written(tmp_path, {**TWICE, **change}))


def test_identity_covers_tests_and_prompt(tmp_path):
    base = humaneval(written(tmp_path, TWICE)).fingerprint
    assert humaneval(written(tmp_path, TWICE), prompt="plain").fingerprint != base
    assert humaneval(written(tmp_path, {**TWICE, "test": TWICE["test"] + "    assert candidate(1) == 2\n"})).fingerprint != base
    assert humaneval(written(tmp_path, TWICE)).fingerprint == base


# --- MBPP ------------------------------------------------------------------------------------------------------------


def test_mbpp_shows_one_test_hides_the_others_and_finds_what_they_call(tmp_path):
    task = mbpp(written(tmp_path, AREA))
    [problem] = task.problems
    assert problem.question.id == "mbpp/2"
    assert "assert area(Box(3)) == 3" in seen(problem)
    assert "20817" not in seen(problem)
    assert unpacked(problem.reference).names == {"area": "area", "Box": "Box"}
    assert verdict(task, f"```python\n{AREA['code']}\n```").correct
    assert verdict(task, f"```python\n{AREA['code'].replace('* k', '')}\n```").reason == "failed: line 2"
    assert verdict(task, f"```python\n{AREA['code'].replace('return', 'return 1 +')}\n```").reason == "failed: line 1"


def test_mbpp_shows_as_many_tests_as_it_is_told(tmp_path):
    assert "20817" in seen(mbpp(written(tmp_path, AREA), shown=3).problems[0])
    with pytest.raises(UsageError, match="shown = 0"):
        mbpp(written(tmp_path, AREA), shown=0)


def test_mbpp_reads_its_sanitized_form_and_imports_for_tests(tmp_path):
    row = {
        "task_id": 9,
        "prompt": "Root.",
        "code": "def root(x): return x ** 0.5",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(root(2), 1.41421356, rel_tol=0.001)"],
    }
    path = tmp_path / "sanitized-mbpp.json"
    path.write_text(json.dumps([row]))
    task = mbpp(str(path))
    assert unpacked(task.problems[0].reference).names == {"root": "root"}
    assert verdict(task, "```python\ndef root(x): return x ** 0.5\n```").correct
    assert not verdict(task, "```python\ndef root(x): return x\n```").correct


def test_a_function_with_the_name_of_a_builtin_is_the_programs(tmp_path):
    row = {"task_id": 1, "text": "Add.", "code": "def sum(a, b): return a + b", "test_list": ["assert sum(1, 2) == 3"]}
    task = mbpp(written(tmp_path, row))
    assert unpacked(task.problems[0].reference).entry_point == "sum"
    assert verdict(task, "```python\ndef sum(a, b): return a + b\n```").correct


def test_without_a_solution_free_names_are_the_programs(tmp_path):
    row = {"task_id": 1, "text": "Add.", "test_list": ["assert set(add(1, 2)) == {3}", "assert [x for x in add(1, 1)] == [2]"]}
    assert unpacked(mbpp(written(tmp_path, row)).problems[0].reference).names == {"add": "add"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test_list": []}, "test_list must be a list of texts"),
        ({"test_list": "assert area(1)"}, "test_list must be a list of texts"),
        ({"test_list": ["assert ("]}, "tests is no Python"),
        ({"test_list": ["assert len([]) == 0"], "challenge_test_list": []}, "the tests call no function of the program's"),
        ({"text": 3}, "has int, no text, under 'text' or 'prompt'"),
        ({"text": " "}, "'text' or 'prompt' is empty"),
        (
            {"test_list": ["assert 1 == 1"], "challenge_test_list": []},
            "the tests call no function of the program's, or assert nothing",
        ),
        (
            {"test_list": ["assert area"], "challenge_test_list": []},
            "the tests call no function of the program's, or assert nothing",
        ),
        (
            {"test_list": ["area(Box(1))"], "challenge_test_list": []},
            "the tests call no function of the program's, or assert nothing",
        ),
        (
            {"test_list": ["assert len([]) == 0"], "test_setup_code": "b = Box(1)", "challenge_test_list": []},
            "the tests call no function",
        ),
        ({"test_list": ["assert area(1) == '\ud800'"]}, r"test_list\[0\] holds a lone surrogate"),
        ({"test_list": ["assert area(1)", None]}, "test_list must be a list of texts, and its item 1 is None"),
        ({"test_setup_code": {"a": 1}}, "has dict, no text, under 'test_setup_code'"),
        ({"task_id": {}}, "task_id is an object"),
    ],
)
def test_an_mbpp_row_that_is_none_is_refused_with_its_line(tmp_path, change, told):
    with pytest.raises(DataError, match=rf"p\.jsonl:1: {told}"):
        mbpp(written(tmp_path, {**AREA, **change}))


def test_an_mbpp_id_can_be_stored(tmp_path):
    rows = {**AREA, "task_id": "\ud800"}, {name: AREA[name] for name in AREA if name != "task_id"}
    assert [problem.question.id for problem in mbpp(written(tmp_path, *rows)).problems] == ["mbpp/?", "mbpp/2"]


# --- standard input --------------------------------------------------------------------------------------------------


def test_programs_of_both_shapes_are_asked_for_and_judged(tmp_path):
    task = stdio(written(tmp_path, SUM, name="lcb.v1.jsonl"))
    [problem] = task.problems
    assert (task.name, problem.question.id, problem.question.metadata) == ("lcb", "abc1", {"difficulty": "easy"})
    assert "Add {question} numbers." in problem.question.messages[-1].text
    assert "20817" not in seen(problem)
    right = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
    assert verdict(task, right).correct
    assert verdict(task, right.replace("a + b", "3")).reason == "test 2: different"
    contest = stdio(written(tmp_path, CONTEST))
    assert contest.problems[0].question.id == "1_A. Add"
    assert unpacked_trials(contest.problems[0].reference).seconds == 2.5
    assert verdict(contest, right).correct
    assert verdict(contest, right.replace("a + b", "3")).reason == "test 2: different"


def test_functions_are_called_with_the_lines_of_the_input(tmp_path):
    task = stdio(written(tmp_path, METHOD))
    assert "class Solution:\n    def add(self" in task.problems[0].question.messages[-1].text
    code = "class Solution:\n    def add(self, a: int, b: List[int]) -> int:\n        return a + sum(b)"
    assert verdict(task, f"```python\n{code}\n```").correct
    assert not verdict(task, f"```python\n{code} + 1\n```").correct


def packed(body):
    return base64.b64encode(zlib.compress(body)).decode()


TESTS = json.dumps([{"input": "20817 2\n", "output": "20819\n", "testtype": "stdin"}])


@pytest.mark.parametrize("protocol", range(2, 6))
def test_packed_tests_are_read_without_unpickling(tmp_path, protocol, monkeypatch):
    monkeypatch.setattr(pickle, "loads", None)
    row = {**SUM, "private_test_cases": packed(pickle.dumps(TESTS, protocol))}
    task = stdio(written(tmp_path, row))
    assert unpacked_trials(task.problems[0].reference).pairs == (("1 2\n", "3\n"), ("20817 2\n", "20819\n"))


class Evil:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (pickle.dumps(Evil()), "is a pickle with .*, not of one text; it is not read"),
        (pickle.dumps([TESTS]), "is a pickle with .*, not of one text"),
        (pickle.dumps(TESTS)[:-1] + pickle.dumps(TESTS)[2:], "is a pickle of 2 texts|is neither JSON nor packed JSON"),
        (pickle.dumps("[{"), "is not JSON"),
        (pickle.dumps("{}"), "is dict, not a list of tests"),
        (b"", "is neither JSON nor packed JSON"),
    ],
)
def test_a_pickle_of_anything_else_is_refused(tmp_path, capsys, body, told):
    with pytest.raises(DataError, match=rf"p\.jsonl:1: private_test_cases:? {told}"):
        stdio(written(tmp_path, {**SUM, "private_test_cases": packed(body)}))
    assert capsys.readouterr().out == ""


def test_packed_tests_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(stdio_task, "LARGEST", 1000)
    with pytest.raises(DataError, match="unpacks to more than 1,000 bytes"):
        stdio(written(tmp_path, {**SUM, "private_test_cases": packed(pickle.dumps("[" + " " * 2000 + "]"))}))


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({**SUM, "public_test_cases": "[]", "private_test_cases": "[]"}, "has no test"),
        ({**SUM, "private_test_cases": json.dumps([{"input": "1", "output": "2", "testtype": "functional"}])}, "tests of type functional, stdin"),
        ({**METHOD, "metadata": "{}"}, "functional tests need a func_name in metadata, not None"),
        ({**METHOD, "public_test_cases": json.dumps([{"input": "a", "output": "6", "testtype": "functional"}])}, "a functional test is not JSON|a functional test: is not JSON"),
        ({**SUM, "public_test_cases": json.dumps([3])}, "public_test_cases holds a test that is no object"),
        ({**SUM, "public_test_cases": json.dumps([{"input": "1"}])}, "has nothing under 'output'"),
        ({**CONTEST, "public_tests": {"input": ["1"], "output": []}}, "public_tests must hold as many texts"),
        ({**CONTEST, "time_limit": "2 s"}, "time_limit must be a number"),
        ({**METHOD, "public_test_cases": [{"input": "[" * 300 + "]" * 300, "output": "6", "testtype": "functional"}]}, "a functional test is nested more than 100 deep"),
        ({**METHOD, "public_test_cases": [{"input": "1", "output": "[NaN]", "testtype": "functional"}]}, "a functional test is nan"),
        ({**METHOD, "metadata": '{"func_name": "a", "func_name": "b"}'}, "metadata: the key 'func_name' stands twice"),
        ({**METHOD, "metadata": {"func_name": "x" * 10**6 + "!"}}, "metadata, not 'x{79}"),
        ({**SUM, "public_test_cases": {}, "private_test_cases": ""}, "public_test_cases is dict, not a list"),
        ({**SUM, "public_test_cases": [{"input": "\ud800", "output": "2"}]}, r"public_test_cases\[0\]: 'input' holds a lone surrogate"),
        ({**SUM, "question_id": ["a"]}, "question_id is a list"),
        ({**SUM, "question_content": ""}, "'question_content' or 'description' is empty"),
        ({**SUM, "difficulty": float("nan")}, "difficulty is nan"),
        ({**SUM, "starter_code": 3}, "has int, no text, under 'starter_code'"),
        ({**CONTEST, "public_tests": {"input": ["\ud800"], "output": ["1"]}}, r"public_tests\.input\[0\] holds a lone surrogate"),
        ({**CONTEST, "public_tests": {"input": ["1", None], "output": ["1", "2"]}}, r"public_tests\.input\[1\] is null"),
        ({**CONTEST, "public_tests": {"input": ["1"], "output": [{"a": 1}]}}, r"public_tests\.output\[0\] is an object"),
        ({**CONTEST, "public_tests": []}, "public_tests must hold as many texts"),
    ],
)  # fmt: skip
def test_a_row_of_programs_that_is_none_is_refused_with_its_line(tmp_path, row, told):
    with pytest.raises(DataError, match=rf"p\.jsonl:1.*({told})"):
        stdio(written(tmp_path, row))


@pytest.mark.parametrize(
    "limit",
    [10**4000, 1e9, float("inf"), float("nan"), -5, 0, 60.5, True, {"seconds": 60, "nanos": 1}, {"seconds": 1, "nanos": 10**400}, {"seconds": 1, "nanos": -1}, {}, [2], {"seconds": "2"}],
)  # fmt: skip
def test_a_time_limit_out_of_bounds_is_refused_with_its_line(tmp_path, limit):
    with pytest.raises(DataError, match=r"p\.jsonl:1: time_limit must be a number of seconds in \(0, 60\]") as caught:
        stdio(written(tmp_path, {**CONTEST, "time_limit": limit}))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(("limit", "seconds"), [(60, 60.0), (0.5, 0.5), (None, 0.0), ({"seconds": None, "nanos": 5e8}, 0.5)])
def test_a_time_limit_within_bounds_is_read(tmp_path, limit, seconds):
    task = stdio(written(tmp_path, {**CONTEST, "time_limit": limit}))
    assert unpacked_trials(task.problems[0].reference).seconds == seconds


def test_numbers_as_inputs_and_outputs_are_read_and_metadata_can_be_stored(tmp_path):
    row = {**CONTEST, "public_tests": {"input": [1], "output": [2.5]}, "difficulty": "\ud800", "name": "\ud800"}
    [problem] = stdio(written(tmp_path, row)).problems
    assert unpacked_trials(problem.reference).pairs[0] == ("1", "2.5")
    assert (problem.question.id, problem.question.metadata) == ("?", {"difficulty": "?"})


@pytest.mark.parametrize("body", [b"I" + b"9" * 5000 + b"\n.", b"\x8b\xff\xff\xff\x7f.", b"\x8d" + b"\xff" * 8 + b".", b"X\x60\xea\0\0" + b"[" * 60000 + b".", b"\xfe."])  # fmt: skip
def test_a_forged_pickle_is_said_once(tmp_path, body):
    with pytest.raises(DataError, match=r"p\.jsonl:1: private_test_cases: is ") as caught:
        stdio(written(tmp_path, {**SUM, "private_test_cases": packed(body)}))
    assert str(caught.value).count("p.jsonl") == 1
    with pytest.raises(DataError) as caught:
        stdio(written(tmp_path, {**SUM, "private_test_cases": packed(pickle.dumps(Evil()))}))
    assert str(caught.value).count("p.jsonl") == 1


def test_tests_that_use_a_module_nobody_imports_are_refused(tmp_path):
    row = {
        "task_id": 1,
        "text": "Add.",
        "code": "def add(a, b): return a + b",
        "test_list": ["assert add(1, 2) == numpy.add(1, 2)"],
    }
    file = tmp_path / "m.jsonl"
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"m\.jsonl:1: the tests use numpy, which nothing imports"):
        mbpp(str(file))
    file.write_text(json.dumps({**row, "test_setup_code": "import numpy"}) + "\n")
    assert len(mbpp(str(file)).problems) == 1
