"""Model-written tests as a verifier: what counts as a test, what a score is made of, and that nothing of it is trusted."""

import json
from dataclasses import dataclass, field, replace

import pytest
from fake_sandbox import FakeSandbox

from fakes import BehindTheDoor, Door, solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import PolicyInfo
from ponder.errors import DataError, UsageError
from ponder.graders.program import program_key
from ponder.spec import parse
from ponder.strategies.best_of_n import BestOfN
from ponder.types import Chain, Question, Step, Usage, user
from ponder.verifiers.unit_tests import UnitTests

ASKED = Question("q", (user("Complete.\n\n```python\nimport math\n\ndef twice(x):\n    '''Twice x.'''\n```"),))
ROOT = Chain(ASKED.messages)
TESTS = "```python\nassert twice(2) == 4\nassert twice(5) == 10\nassert twice('a') == 'aa'\nassert twice(3) == 7\n```"


def code(body):
    return f"```python\ndef twice(x):\n    {body}\n```"


def chain(text, finish="stop", root=ROOT):
    return root.then(Step(text, Usage(completion=len(text), calls=1)), finish)


RIGHT, HALF, WRONG = code("return x + x"), code("return 2 * x if x != 5 else 0"), code("return 7")


@dataclass
class Coder:
    """Answers a request for tests with one of `tests`, anything else with one of `programs`, by index."""

    tests: tuple[str, ...] = (TESTS,)
    programs: tuple[str, ...] = (RIGHT,)
    prompts: list[str] = field(default_factory=list)
    finish: str = "stop"

    info = PolicyInfo("coder", "coder", frozenset({"seed", "n"}))

    async def sample(self, asks, *, until, sampling):
        lines = []
        for ask in asks:
            text = ask.chain.prompt[-1].text
            self.prompts.append(text)
            texts = self.tests if "test cases" in text else self.programs
            lines.append([chain(texts[i % len(texts)], self.finish, ask.chain) for i in ask.indices])
        return lines


def scored(chains, policy=None, verifier=None, bank=None):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier or UnitTests(sandbox=FakeSandbox()), chains))

    solved(strategy, policy or Coder(), question=ASKED, answer=program_key, bank=bank)
    return found


def test_the_value_is_the_share_of_tests_passed_wrong_tests_included():
    scores = scored([chain(RIGHT), chain(HALF), chain(WRONG)])
    assert [score.value for score in scores] == [0.75, 0.5, 0.25]
    assert [score.raw for score in scores] == [3.0, 2.0, 1.0]


def test_agreement_counts_programs_that_pass_the_same_tests():
    """Consensus sets of 2, 1 and 1 of 4 programs, passing 3, 2 and 1 of 4 tests."""
    verifier = UnitTests(rule="agreement", sandbox=FakeSandbox())
    scores = scored([chain(RIGHT), chain(HALF), chain(code("return 2 * x")), chain(WRONG)], verifier=verifier)
    assert [score.value for score in scores] == [0.75 * 2 / 4, 0.5 / 4, 0.75 * 2 / 4, 0.25 / 4]


def outputs(bodies, *tests):
    verifier = UnitTests(rule="outputs", sandbox=FakeSandbox())
    return scored([chain(code(body)) for body in bodies], Coder(("\n".join(tests) or TESTS,)), verifier)


def test_by_outputs_programs_vote_for_what_they_give_whatever_tests_expect():
    """Groups of 3, 1 and 1 of 5 programs; every test expects what the last one gives."""
    same = ["return x + x", "return 2 * x", "return x * 2.0 if x == 2 else x + x"]
    scores = outputs([*same, "return x", "return 7"], "assert twice(2) == 7", "assert twice([1]) == 7", "assert twice(x=3) == 7")
    assert [score.value for score in scores] == [3 / 5] * 3 + [1 / 5] * 2
    assert [score.raw for score in scores] == [3, 3, 3, 1, 1]


@pytest.mark.parametrize(
    ("body", "other", "equal"),
    [
        ("return (x, x)", "return [x, x]", False),
        ("return {x, 1, 2}", "return {2, 1, x}", True),
        ("return {1: x, 2: 0}", "return {2: 0, 1: x}", True),
        ("return str(x)", "return x", False),
        ("return float('nan')", "return float('nan') + 1", True),
        ("return 1 // 0 if x == 5 else x", "return 2 % 0 if x == 5 else x", True),
        ("return 1 // 0 if x == 5 else x", "return {}[1] if x == 5 else x", False),
        ("return hang() if x == 'a' else x", "return hang() if x == 'a' else x + 0", True),
        ("return iter([x])", "return iter([x])  # again", False),
    ],
)
def test_outputs_are_equal_as_values_of_the_same_kind_are(body, other, equal):
    assert [score.raw for score in outputs([body, other])] == [1 + equal] * 2


def test_a_program_that_gives_no_value_has_no_vote_and_no_score():
    """Two that fail alike are no majority over one that answers, but they count among those scored together."""
    scores = outputs(["return y", "return y + 1", "return x"])
    assert [score.value for score in scores] == [None, None, 1 / 3]
    assert scores[0].error == "unit_tests: the program gives no value for any of 4 calls"


@pytest.mark.parametrize(
    "test",
    [
        "assert twice(...) == 1",
        "assert twice(1 == 2",
        "assert twice(**{'x': 1}) == 1",
        "assert twice(y) == twice(open('f'))",
        "assert thrice(1) == 3",
        "assert True",
        f"assert twice({'[' * 300}{']' * 300}) == 1",
        f"assert twice({'-' * 5000}1) == 1",
    ],
)
def test_only_calls_with_literals_are_made(test):
    assert outputs(["return x"], test)[0].error == "unit_tests: the program gives no value for any of 0 calls"


@pytest.mark.parametrize(
    "text", [f"{'[' * 190}{']' * 190}", r"'\ud800'", "1e999", "10 ** 9", "1" * 4000, "{1: {2}, (3,): b''}", "2j"]
)
def test_no_literal_that_a_model_writes_stops_the_others(text):
    assert outputs(["return 1"], f"assert twice({text}) == 1", "assert twice(2) == 4")[0].value == 1.0


def test_equal_calls_are_made_once_and_inner_ones_too():
    scores = outputs(["return y"], "assert twice(2) == 4", "assert twice( 2 ) == twice(twice(3))")
    assert scores[0].error == "unit_tests: the program gives no value for any of 2 calls"


def test_a_chain_without_a_program_or_a_truncated_one_has_no_score():
    scores = scored([chain("I do not know."), chain(""), chain(RIGHT, "length"), chain(RIGHT)])
    assert [score.value for score in scores] == [None, None, None, 0.75]
    assert scores[0].error == "unit_tests: the chain gives no program"


@pytest.mark.parametrize(
    "tests", ["I would rather not.", "assert True", "assert thrice(1) == 3", "assert twice(1 == 2", "def twice(x): pass"]
)
def test_without_a_test_that_calls_the_program_there_is_no_score(tests):
    [score] = scored([chain(RIGHT)], Coder((tests,)))
    assert score.value is None
    assert score.error.startswith("unit_tests: none of ")


def test_tests_of_a_truncated_reply_do_not_count():
    assert scored([chain(RIGHT)], Coder(finish="length"))[0].value is None


def test_whole_lines_of_a_truncated_reply_count_where_that_is_asked_for():
    verifier = UnitTests(unfinished=True, sandbox=FakeSandbox())
    cut = TESTS.removesuffix("\n```").replace("== 7", "== 6")  # what is cut might have gone on
    assert scored([chain(RIGHT)], Coder((cut,), finish="length"), verifier)[0].raw == 3.0
    assert scored([chain(RIGHT)], Coder((TESTS,)), verifier) == scored([chain(RIGHT)])
    assert scored([chain(RIGHT)], Coder((TESTS,), finish="error"), verifier)[0].value is None
    assert scored([chain(RIGHT)], Coder((f"<think>{TESTS}\n",), finish="length"), verifier)[0].value is None
    assert scored([chain(RIGHT)], Coder((f"<think>x</think>{TESTS}\n",), finish="length"), verifier)[0].raw == 3.0


def test_tests_are_lines_outside_thinking_each_once_and_only_so_many():
    thought = "<think>assert twice(2) == 5</think>\n- assert x\n  assert twice(2) == 4\nassert twice(2) == 4\nassert twice(3) == 6\nassert twice(4) == 8"
    assert scored([chain(RIGHT)], Coder((thought,)))[0].raw == 3.0
    assert scored([chain(RIGHT)], Coder((thought,)), UnitTests(tests=2, sandbox=FakeSandbox()))[0].raw == 2.0
    assert scored([chain(RIGHT)], Coder((thought, TESTS)), UnitTests(n=2, sandbox=FakeSandbox()))[0] == replace(
        scored([chain(RIGHT)])[0], value=5 / 6, raw=5.0
    )


def test_a_test_that_fails_by_the_programs_value_counts_against_it():
    tests = "assert twice(2) > 3\nassert len(twice('a')) == 2"
    assert scored([chain(code("return None"))], Coder((tests,)))[0].value == 0.0


def test_programs_that_raise_or_hang_or_do_not_compile_score_nothing():
    scores = scored([chain(code(body)) for body in ("raise KeyError", "hang()", "return (")])
    assert [score.value for score in scores] == [0.0, 0.0, 0.0]


def test_a_body_is_run_under_the_code_of_its_question_with_its_imports():
    assert scored([chain("    return x * math.floor(2.5)")])[0].value == 0.75
    assert scored([chain(code("return x * math.floor(2.5)"))])[0].value == 0.75


@pytest.mark.parametrize(
    "text", ["Write\n```python\nassert twice(1) == 2\n```", "Complete\ndef twice(x):\nso that it doubles.", ""]
)
def test_words_and_code_that_defines_nothing_are_left_out(text):
    assert scored([chain(RIGHT, root=Chain((user(text),)))])[0].value == 0.75


def test_a_question_that_is_code_is_gone_on_from():
    root = Chain((user("import math\ndef twice(x):\n    'Twice.'\n"),))
    assert scored([chain("    return x * math.floor(2.5)", root=root)])[0].value == 0.75


def test_tests_are_asked_for_once_a_prompt_with_the_question_in_them():
    policy, other = Coder(), Chain((user("Another question."),))
    scored([chain(RIGHT), chain(WRONG), chain(RIGHT, root=other)], policy)
    assert len(policy.prompts) == 2
    assert policy.prompts[0].startswith("Complete.\n")
    assert "Write 10 test cases" in policy.prompts[0]
    assert policy.prompts[1].startswith("Another question.\n")


def test_the_candidate_never_meets_the_expected_values():
    sandbox = FakeSandbox()
    scored([chain(RIGHT)], Coder(("assert twice(20817) == 41634",)), UnitTests(sandbox=sandbox))
    assert not any("41634" in source for source in sandbox.opened)


def test_best_of_n_keeps_the_program_that_passes_most():
    policy = Coder(programs=(WRONG, HALF, RIGHT, "Sorry."))
    strategy = BestOfN(4, UnitTests(sandbox=FakeSandbox()))
    outcome = solved(strategy, policy, question=ASKED, answer=program_key)
    assert outcome.answer == program_key(RIGHT)
    assert outcome.spent.samples == 5


def test_scores_come_back_from_the_bank_and_samples_go_through_the_run():
    chains, bank = [chain(RIGHT), chain(HALF)], TableBank(MemoryTable())
    first = scored(chains, bank=bank)
    silent = Coder(tests=("No more.",))
    assert scored(chains, silent, bank=bank) == first
    assert silent.prompts == []
    assert scored(chains[::-1], bank=bank) == first[::-1]
    assert scored(chains, BehindTheDoor(Coder()), bank=Door()) == first


def test_the_spec_of_a_verifier_makes_it_again():
    verifier = parse("unit_tests(n=2, rule='agreement')", "verifiers") if registered() else UnitTests(2, rule="agreement")
    assert repr(verifier) == "unit_tests(n=2, rule='agreement')"
    assert verifier == UnitTests(2, rule="agreement")
    assert verifier.fingerprint == ""


def registered():
    from ponder.spec import names

    return "unit_tests" in names("verifiers")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"n": 0}, "unit_tests: n = 0 must be at least 1"),
        ({"tests": 0}, "unit_tests: tests = 0 must be at least 1"),
        ({"rule": "most"}, "unit_tests: rule 'most' must be one of share, agreement"),
        ({"seconds": 0.0}, "sandbox limits: seconds"),
        ({"prompt": "/no/such/file"}, "unit_tests: prompt '/no/such/file' is no JSON file with messages"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, told):
    with pytest.raises(UsageError, match=told):
        UnitTests(**arguments)


def test_another_prompt_takes_the_place_of_the_last_message(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"version": 1, "messages": [{"role": "user", "content": "{question} {tests} test cases {else}"}]}))
    policy = Coder()
    scored([chain(RIGHT)], policy, UnitTests(prompt=str(path), sandbox=FakeSandbox()))
    assert policy.prompts[0].endswith("``` 10 test cases {else}")
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "Tests!"}]}))
    with pytest.raises(DataError, match=r"none of its messages holds \{question\}"):
        UnitTests(prompt=str(path))


def test_programs_that_differ_run_at_the_same_time_and_equal_ones_once():
    sandbox = FakeSandbox()
    scored([chain(RIGHT)] * 5, verifier=UnitTests(sandbox=sandbox))
    assert len(sandbox.opened) == 2 * 4
