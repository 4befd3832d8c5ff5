"""Programs in texts, asserts as cases, tests in a process of their own, and the verdicts that come of them."""

import ast
import asyncio
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from fake_sandbox import FakeSandbox

from ponder.errors import SetupError
from ponder.graders.cases import Case, cases, literal
from ponder.graders.code import CodeGrader, Reference
from ponder.graders.program import blocks, completed, defines, program, program_key
from ponder.sandbox.core import Call, Handle, Limits
from ponder.sandbox.relay import Found, Suite, examine
from ponder.types import Problem, Question

PROMPT = 'from math import pi\n\ndef twice(x):\n    """Twice x."""\n'
NAMES = {"candidate": "twice", "twice": "twice"}


# --- the program in a text -------------------------------------------------------------------------------------------


def fenced(code, language="python"):
    return f"```{language}\n{code}\n```"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (fenced("def twice(x):\n    return 2 * x") + "\nUsage:\n" + fenced("print(twice(2))"), "def twice(x):\n    return 2 * x"),
        (
            fenced("def twice(x):\n    return x") + "\nBetter:\n" + fenced("def twice(x):\n    return x + x"),
            "def twice(x):\n    return x + x",
        ),
        (fenced("twice = lambda x: 2 * x") + "\n" + fenced("4", "text"), "twice = lambda x: 2 * x"),
        ("It is\n" + fenced("def twice(x):\n    return 2 * x", "") + "\nbye", "def twice(x):\n    return 2 * x"),
        ("~~~py\ndef twice(x):\n    return 2\n~~~", "def twice(x):\n    return 2"),
        ("1. Item\n   ```python\n   def twice(x):\n       return 2\n   ```", "def twice(x):\n    return 2"),
        ("```python\ndef twice(x):\n    return 2", "def twice(x):\n    return 2"),
        ("<think>```python\ndef twice(x): pass\n```</think>" + fenced("def twice(x): return 1"), "def twice(x): return 1"),
        ("def twice(x):\n    return 2 * x\n", "def twice(x):\n    return 2 * x"),
        ("Here it is:\n\nimport math\ndef twice(x):\n    return 2 * x", "import math\ndef twice(x):\n    return 2 * x"),
        ("````python\ndef twice(x):\n    '''```'''\n````", "def twice(x):\n    '''```'''"),
        ("```python\r\ndef twice(x):\r\n    return 1\r\n```", "def twice(x):\n    return 1"),
    ],
)
def test_the_last_block_that_defines_the_function_is_the_program(text, found):
    assert program(text, "twice") == found


@pytest.mark.parametrize(
    "text", ["", "  \n", "I do not know.", "<think>def twice(x): return 1", "```python\n\n```", "For all x, it is x."]
)
def test_a_text_without_a_program_has_none(text):
    assert program(text, "twice", PROMPT) is None
    assert program_key(text) is None


BODY = "    y = x\n    return y + x"


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        BODY + "\n\n\ndef twice(x):\n    return 0\n",  # a base model that runs on
        BODY + "\nprint(twice(3))\n",
        "y = x\n    return y + x",  # an engine that strips what it returns
        fenced("y = x\nreturn y + x"),
        fenced(BODY),
        "\n\n" + BODY,
    ],
)
def test_a_body_goes_under_its_prompt(text):
    assert program(text, "twice", PROMPT) == PROMPT.rstrip() + "\n" + BODY
    space = {}
    exec(program(text, "twice", PROMPT), space)
    assert space["twice"](4) == 8


def test_a_stripped_body_that_begins_with_a_block_keeps_its_depth():
    text = "for i in range(1):\n        x += i\n    return x"
    assert program(text, "twice", PROMPT).endswith('."""\n    for i in range(1):\n        x += i\n    return x')


def test_a_body_without_any_indentation_is_indented_whole():
    text = fenced("for i in range(1):\n    x += i\nreturn x")
    assert program(text, "twice", PROMPT).endswith('."""\n    for i in range(1):\n        x += i\n    return x')


def test_a_program_comes_after_its_prompt_with_future_imports_first():
    code = "from __future__ import annotations\ndef twice(x):\n    return 2 * x"
    whole = program(fenced(code), "twice", PROMPT)
    assert whole.startswith("from __future__ import annotations\nfrom math import pi\n")
    assert whole.endswith("def twice(x):\n    return 2 * x")
    assert completed("a = 1\n", "b = 2") == "a = 1\nb = 2"


def test_the_key_prefers_what_defines_or_reads_over_what_only_shows():
    assert program_key(fenced("def f():\n    return 1   ") + "\n" + fenced("print(f())")) == "def f():\n    return 1"
    assert program_key(fenced("n = int(input())\nprint(n)") + "\n" + fenced("3", "text")) == "n = int(input())\nprint(n)"
    assert program_key("n = int(input())\nprint(n)\n") == "n = int(input())\nprint(n)"


def test_a_name_is_defined_at_the_left_edge_only():
    assert defines("x = 1\nasync def f(): pass", "f")
    assert defines("f: int = 3", "f")
    assert not defines("class A:\n    def f(self): pass", "f")
    assert not defines("f == 3", "f")
    assert not defines("def ff(): pass", "f")


def test_blocks_know_their_language_and_end_at_a_fence_of_their_kind():
    assert [(b.language, b.code) for b in blocks("```Python title\na\n~~~\n```\n\n```\nb\n```")] == [
        ("python", "a\n~~~"),
        ("", "b"),
    ]


@pytest.mark.parametrize(
    "text",
    ["```\n" * 60_000, "def " * 60_000, "a" * 200_000, "=" * 200_000, " " * 200_000, "if :#" * 40_000, "x\n" * 100_000, "`" * 200_000,
     "a[" * 100_000, "a:" * 100_000, "<think>" * 30_000, "for x:\n " * 30_000],
)  # fmt: skip
@pytest.mark.slow
def test_a_long_text_takes_linear_time(text):
    began = time.process_time()
    program(text, "twice", PROMPT)
    program(fenced(text), "twice", PROMPT)
    assert time.process_time() - began < 2.0


# --- asserts as cases ------------------------------------------------------------------------------------------------


def check(*lines):
    return (
        "METADATA = {'author': 'us'}\n\ndef check(candidate):\n"
        + "".join(f"    {line}\n" for line in lines)
        + "\ncheck(candidate)\n"
    )


def test_asserts_with_plain_values_are_cases():
    found = cases(
        check(
            "'''A note.'''",
            "assert True, 'prints if it fails'",
            "assert candidate([1, -2], k=(3,)) == {'a': {1, 2}}, 'message'",
            "assert None == candidate('x' + 'y')",
            "assert candidate(2.0 / 3) is True",
            "assert not candidate()",
            "assert twice(1)",
            "assert abs(candidate(1) - 3 * 2) < 1e-6",
            "assert abs(0.5 - candidate(1)) <= 0.1",
            "print",
        ),
        NAMES,
    )
    twice = "twice"
    assert found == (
        Case(6, Call(twice, ([1, -2],), {"k": (3,)}), "==", {"a": {1, 2}}),
        Case(7, Call(twice, ("xy",)), "==", None),
        Case(8, Call(twice, (2.0 / 3,)), "is", True),
        Case(9, Call(twice), "false"),
        Case(10, Call(twice, (1,)), "true"),
        Case(11, Call(twice, (1,)), "near", 6, 1e-6),
        Case(12, Call(twice, (1,)), "near", 0.5, 0.1, inclusive=True),
    )


@pytest.mark.parametrize(
    "line",
    [
        "for x in range(3): assert candidate(x) == x",
        "x = candidate(1)",
        "assert candidate(candidate(1)) == 1",
        "assert candidate(1) == helper(1)",
        "assert candidate(1) == candidate(2)",
        "assert helper(candidate(1)) == 1",
        "assert candidate(1) == candidate",
        "assert candidate(*[1]) == 1",
        "assert candidate(**{'a': 1}) == 1",
        "assert candidate(1) != 1",
        "assert candidate(1) == {**{}}",
        "assert candidate(1) == {[1]}",
        "assert candidate(1) == 9 ** 9 ** 9",
        "assert candidate(1) == [0] * 10 ** 9",
        "assert candidate(1) == 1 / 0",
        "assert candidate(1) == -'a'",
        "assert abs(candidate(1) - 'a') < 1",
        "assert abs(candidate(1) - 1) < candidate(2)",
        "assert candidate.x(1) == 1",
        "assert candidate(1) < 2",
        "import os",
        "return",
    ],
)
def test_any_other_statement_sends_the_whole_test_to_a_process(line):
    assert cases(check("assert candidate(1) == 1", line), NAMES) is None


def test_other_statements_around_a_check_send_it_to_a_process():
    assert cases("import math\n" + check("assert candidate(1) == 1"), NAMES) is None
    assert cases("def f(): pass\nassert f(1) == 1", {"f": "f"}) is None
    assert cases("assert twice(2) == 4\nassert twice(1) == 2", NAMES) is not None
    assert cases("assert (", NAMES) is None


def test_literals_are_what_python_makes_of_them():
    for text in ("[1, (2,), {3}, {4: None}]", "-1.5e300", "2 ** 10", "b'x'", "3 + 4j", "7 // 2 % 3", "'a' + 'b'", "True"):
        assert literal(ast.parse(text, mode="eval").body) == eval(text)


@pytest.mark.parametrize(
    ("relation", "expected", "right", "wrong"),
    [
        ("==", 1, [1, 1.0, True, Fraction(1)], [2, "1", None, [1], Handle(0)]),
        ("==", [1, 2], [[1, 2], [1.0, 2]], [(1, 2), {1, 2}, Handle(0), [1, Handle(0)]]),
        ("==", float("nan"), [], [float("nan"), 0]),
        ("is", True, [True], [1, 1.0, "True", [True], Handle(0)]),
        ("is", None, [None], [False, 0, Handle(0)]),
        ("true", None, [1, "0", [0], Handle(0)], [0, "", [], None, {}]),
        ("false", None, [0, None, ""], [1, Handle(0)]),
    ],
)
def test_comparing_is_pythons_and_a_handle_equals_nothing(relation, expected, right, wrong):
    case = Case(1, Call("f"), relation, expected)
    assert all(case.holds(value) for value in right)
    assert not any(case.holds(value) for value in wrong)


def test_near_is_exclusive_unless_it_says_otherwise_and_takes_numbers_only():
    case = Case(1, Call("f"), "near", 1.0, 0.5)
    assert case.holds(1.25)
    assert case.holds(Fraction(5, 4))
    assert not any(case.holds(value) for value in (1.5, "1.0", None, [1.0], Handle(0), 10**400, float("nan"), float("inf")))
    assert Case(1, Call("f"), "near", 1.0, 0.5, inclusive=True).holds(1.5)


# --- tests in a process of their own ---------------------------------------------------------------------------------


def examined(program_text, tests, setup="", names=None):
    return examine(FakeSandbox(), program_text, Suite(tests, names or {"f": "f"}, setup), Limits())


def test_tests_that_pass_and_tests_that_fail():
    loop = "for x in range(5):\n    assert f(x, by=2) == 2 * x"
    assert examined("def f(x, by): return by * x", loop) == Found(True, calls=5)
    assert examined("def f(x, by): return by * x if x < 3 else 0", loop) == Found(False, "failed: line 2", 4)
    assert examined("def f(x): return 0", "assert f(1) == 1, 'one'") == Found(False, "failed: line 1 one", 1)


def test_exceptions_of_the_program_arrive_in_the_tests_by_name():
    tests = "try:\n    f(0)\nexcept ZeroDivisionError:\n    pass\nelse:\n    assert False"
    assert examined("def f(x): return 1 / x", tests).passed
    assert examined("def f(x): return x", tests) == Found(False, "failed: line 6", 1)
    assert examined("def f(x): raise SystemExit(0)", "f(1)") == Found(False, "error: SystemExit 0", 1)
    assert examined("class Mine(Exception): pass\ndef f(x): raise Mine('so')", "f(1)") == Found(False, "error: Mine so", 1)
    assert examined("def f(x): return b'\\xff'.decode()", "f(1)").reason.startswith("error: UnicodeDecodeError")
    assert examined("def f(x): assert False", "f(1)") == Found(False, "failed: line 1", 1)
    assert examined("def f(x): raise StopIteration(3)", "assert all(map(f, [1, 2]))") == Found(False, "error: StopIteration 3", 1)


def test_a_program_that_stops_fails_even_where_the_tests_swallow_everything():
    swallow = "try:\n    f(1)\nexcept BaseException:\n    pass"
    assert examined("def f(x): hang()", swallow) == Found(False, "timeout", 1)
    assert examined("def f(x): leave()", swallow) == Found(False, "died", 1)
    assert examined("def f(x: return 1", swallow).reason.startswith("error: SyntaxError")


def test_tests_that_break_down_by_themselves_say_so():
    assert examined("def f(x): return 1", "import no_such_module\nassert f(1) == 1").reason.startswith(
        "tests: ModuleNotFoundError"
    )
    assert examined("def f(x): return 1", "assert f(1 == 1").reason.startswith("tests: SyntaxError")
    assert examined("def f(x): return 1", "assert g(1)") == Found(False, "tests: NameError name 'g' is not defined")
    assert examined("def f(x): return None", "assert f(1) > 2").reason.startswith("failed: line 1 TypeError")
    assert examined("def f(x): return 1", "f(lambda: 1)").reason.startswith("tests: an argument is no plain value")


def test_tests_that_never_call_the_program_say_nothing_of_it():
    assert examined("def f(x): return 1", "assert True") == Found(False, "tests: they end well without a call", calls=0)


OBLIGING = (
    "class Obliging:\n    def __getattr__(self, name): return lambda *a: True\n    def __len__(self): return 3\n"
    "    def __iter__(self): return iter(())\n    def __bool__(self): return True\n    def __eq__(self, other): return True\n"
    "def f(x): return Obliging()"
)


@pytest.mark.parametrize(
    "test",
    [
        "r = f('ab')\nassert r.startswith('abab')",
        "assert f(1).issubset({1, 2})",
        "r = f(1)\nassert len(r) == 3\nfor a, b in zip(r, [1, 2, 3]): assert abs(a - b) < 1e-6",
        "r = f(1)\nassert len(r) == 3 and all(a == b for a, b in zip(r, [1, 2, 3]))",
        "assert len(f(1)) == 3 and not any(a != b for a, b in zip(f(1), [1, 2]))",
        "assert str(f(1)) == 'True' or f(1).strip() == 'x'",
        "assert [f(1)][0].count(1)",
    ],
)
def test_an_object_that_a_function_returns_does_not_answer_for_itself(test):
    assert not examined(OBLIGING, test).passed


def test_a_case_that_cannot_be_compared_does_not_hold():
    for found in (Decimal("sNaN"), 10**400, [[]], complex(1, 1)):
        for relation, expected in (("==", 1.5), ("near", 0.5), ("is", None)):
            assert not Case(1, Call("f"), relation, expected, within=1e-6).holds(found)


def test_values_of_the_programs_stay_with_it_and_are_used_from_afar():
    tree = "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\ndef f(node):\n    return node.v + (f(node.left) if node.left else 0)"
    setup = "root = Node(1)\nroot.left = Node(2)"
    assert examined(
        tree, "assert f(root) == 3\nassert root.left.v == 2\nassert f([root][0]) == 3", setup, {"f": "f", "Node": "Node"}
    ).passed
    lazy = "def f(n): return (x * x for x in range(n))"
    assert examined(lazy, "assert list(f(3)) == [0, 1, 4]\nassert f(3) != [0, 1, 4]").passed
    assert examined("def f(n): return {1: 2}.keys()", "assert f(0) and set(f(0)) == {1}").passed
    assert examined("def f(n): return lambda x: x + n", "assert f(2)(3) == 5").passed
    assert examined("def f(n): return object()", "assert f(1) == f(1)").passed is False


def test_a_value_that_always_equals_equals_nothing_over_there():
    liar = "class Yes:\n    def __eq__(self, other): return True\n    def __hash__(self): return 1\ndef f(x): return Yes()"
    for tests in ("assert f(1) == 1", "assert 1 == f(1)", "assert f(1) in [1]", "assert [f(1)] == [1]", "assert not f(1) != 1"):
        assert not examined(liar, tests).passed


def test_the_program_sees_neither_the_tests_nor_their_values():
    sandbox = FakeSandbox()
    examine(sandbox, "def f(x): return 1", Suite("assert f(1) == 20817", {"f": "f"}, "secret = 77123"), Limits())
    inside, candidate = sandbox.opened
    assert "20817" not in candidate
    assert "77123" not in candidate
    assert "def f" not in inside


def test_random_tests_draw_the_same_numbers_for_everybody():
    tests = "import random\nassert f(random.random()) == random.random()"
    seen = [examined("seen = []\ndef f(x):\n    raise ValueError(x)", tests).reason for _ in range(2)]
    assert seen[0] == seen[1]


def test_requests_that_no_test_makes_are_refused():
    tests = "_requests = f.__globals__['_requests']\n_requests.put({})\nf(1)"
    assert examined("def f(x): return 1", tests).reason == "tests: garbled"
    tests = "f.__globals__['_ask']('open', ('/etc/passwd',), {})"
    assert examined("def f(x): return 1", tests).reason == "tests: garbled"


def test_a_value_too_deep_for_the_way_on_is_a_wrong_answer_and_no_crash():
    deep = "def f(x):\n    v = []\n    for _ in range(200):\n        v = [v]\n    return v"
    assert examined(deep, "assert f(1) == 1") == Found(False, "garbled", 1)


# --- the grader ------------------------------------------------------------------------------------------------------


def graded(reference, *texts, **how):
    grader = CodeGrader(sandbox=how.pop("sandbox", None) or FakeSandbox(), **how)
    problem = Problem(Question("q", ()), reference.packed())
    return asyncio.run(grader.grade(problem, [None] * len(texts), texts))


DIRECT = Reference("twice", check("assert candidate(2) == 4", "assert candidate('a') == 'aa'"), NAMES, PROMPT, PROMPT)
RELAYED = Reference("twice", check("for x in range(3):", "    assert candidate(x) == 2 * x"), NAMES, PROMPT, PROMPT)


@pytest.mark.parametrize("reference", [DIRECT, RELAYED], ids=["direct", "relayed"])
def test_right_programs_pass_and_wrong_ones_say_why(reference):
    right, wrong, raises, hangs, nothing, torn = graded(
        reference, "    return x + x", "    return x", "    raise KeyError('no')", "    hang()", "I cannot.", "    return ("
    )
    assert right.correct
    assert not any(verdict.correct for verdict in (wrong, raises, hangs, nothing, torn))
    assert wrong.reason.startswith("failed: line ")
    assert raises.reason == "error: KeyError 'no'"
    assert (hangs.reason, nothing.reason) == ("timeout", "no_program")
    assert torn.reason.startswith("error: SyntaxError")


def test_the_line_of_a_failure_is_that_of_its_assert():
    [verdict] = graded(DIRECT, "    return x * 2 if x == 2 else x")
    assert verdict.reason == "failed: line 5"


def test_equal_programs_run_once_and_verdicts_keep_their_order():
    sandbox = FakeSandbox()
    verdicts = graded(DIRECT, *["    return x", "    return x + x"] * 3, sandbox=sandbox)
    assert [verdict.correct for verdict in verdicts] == [False, True] * 3
    assert len(sandbox.opened) == 2


def test_tests_that_lack_a_module_stop_the_grading_and_name_it():
    reference = Reference("twice", check("import no_such_module", "assert candidate(1)"), NAMES, PROMPT, PROMPT)
    with pytest.raises(
        SetupError, match=r"^code grader: the tests of twice need a module: .*no_such_module.*; name it in preload="
    ):
        graded(reference, "    return 1")
    [verdict] = graded(RELAYED, "    import no_such_module")  # the program's own lack is its own fault
    assert verdict.reason.startswith("error: ModuleNotFoundError")


def test_the_version_names_what_a_verdict_hangs_on():
    assert CodeGrader().version == "code-1/5s/512MiB"
    assert CodeGrader(2.5, 2**28, ("numpy",)).version == "code-1/2.5s/256MiB/numpy"
