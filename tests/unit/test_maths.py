"""The maths grader, as far as it goes without computer algebra: reading, rules, bounds, normal forms, keys, and what becomes of a worker's end."""

import ast
import asyncio
import contextlib
import json
import time
import tracemalloc
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ponder.graders.maths
from ponder.errors import DataError
from ponder.graders.maths import LIMITS, MathsGrader, check_reference, maths_answer, maths_key
from ponder.graders.maths_answer import read
from ponder.graders.maths_compare import Comparison, Question
from ponder.graders.maths_exact import MAX_ATOM, Budget, normal
from ponder.graders.maths_text import normalise, unit
from ponder.graders.maths_tokens import Refused
from ponder.graders.maths_tree import Node
from ponder.graders.maths_words import KNOWN, MULTIPLIERS, NOT_UNITS, is_known, own_words
from ponder.sandbox.core import Outcome, Reply
from ponder.types import Problem, user
from ponder.types import Question as Asked
from work import calls

ROWS = [json.loads(line) for line in (Path(__file__).parents[1] / "data" / "maths_pairs.jsonl").read_text("utf-8").splitlines()]


@dataclass
class Fake:
    """A sandbox that says one thing of every program, and keeps what it was asked."""

    outcome: Outcome | None = None
    asked: list = field(default_factory=list)
    tier: str = "fake"

    def run(self, source, inputs, limits):
        self.asked.append((source, inputs, limits))
        if self.outcome is not None:
            return self.outcome
        return Outcome("ok", tuple(Reply(value=True) for _ in inputs))


def grader(outcome=None):
    fake = Fake(outcome)
    return MathsGrader(room=lambda: fake), fake


def problem(reference):
    return Problem(Asked("p1", (user("What is it?"),)), reference)


def same_without_worker(gold, answer):
    own = own_words(gold)
    return Comparison().same(read(gold, own), read(answer, own))


# The judged table. The whole of it, with the worker, is judged in tests/integration/test_maths_table.py.


def test_the_table_is_long_diverse_and_has_a_rule_on_every_line():
    assert len(ROWS) >= 200
    assert all(set(row) == {"gold", "answer", "correct", "rule"} and row["rule"] for row in ROWS)
    assert len({(row["gold"], row["answer"]) for row in ROWS}) == len(ROWS)
    assert len({row["rule"] for row in ROWS}) >= 25
    assert min(sum(row["correct"] for row in ROWS), sum(not row["correct"] for row in ROWS)) >= 100


PUBLISHED = [
    ("12", "11 = 12", False),
    ("12", "x = 11 = 12", False),
    ("12", r"12\%", False),
    ("(1,2)", r"\{1,2\}", False),
    ("12", "\uff11\uff12", True),
    ("12", "\u0661\u0662", True),
    ("12", "1\u200b2", True),
    ("12", "<answer>12</answer>", True),
    ("-1", r"e^{i\pi}", True),
    ("(1,2)", "1<x<2", True),
]


@pytest.mark.parametrize(("gold", "answer", "correct"), PUBLISHED)
def test_the_published_failures_of_math_verify_are_in_the_table(gold, answer, correct):
    assert [row["correct"] for row in ROWS if (row["gold"], row["answer"]) == (gold, answer)] == [correct]


def test_our_rules_alone_accept_nothing_wrong_reject_next_to_nothing_right_and_leave_little_open():
    accepts, rejects, open_ = [], [], 0
    for row in ROWS:
        try:
            found = same_without_worker(row["gold"], row["answer"])
        except Refused:
            found = False
        open_ += found is None
        if found is not None and found != row["correct"] and "math-verify" not in row["rule"]:
            (accepts if found else rejects).append(row)
    assert accepts == []
    assert len(rejects) <= 0.02 * sum(row["correct"] for row in ROWS)
    assert open_ <= 0.2 * len(ROWS)


def test_a_verdict_does_not_depend_on_which_of_the_two_is_the_reference():
    for row in ROWS:
        try:
            gold, answer = read(row["gold"]), read(row["answer"])
            there, back = Comparison().same(gold, answer), Comparison().same(answer, gold)
        except Refused:
            continue
        assert there == back, row


# Text.

SPELLINGS = [
    ("\uff0d\uff13\uff0e\uff15", "-3.5"),
    ("\u096a\u0968", "42"),
    ("\u22123", "-3"),
    ("x\u00b2\u00b3", "x^{23}"),
    ("a\u2081", "a_{1}"),
    ("\u00bd", r"\frac{1}{2}"),
    ("3\u200b\ufeff4", "34"),
    (r"\dfrac{1}{2}", r"\frac{1}{2}"),
    (r"$\left(1,\;2\right)$.", "(1, 2 )"),
    (r"\boxed{\boxed{7}}", "7"),
    (r"\boxed{1} + \boxed{2}", r"\boxed{1} + \boxed{2}"),
    ("**The final answer is: 12.**", "12"),
    (r"\$5", r"\dollar 5"),
    ("$5", r"\dollar 5"),
    (r"5\,000\,000", "5000000"),
    (r"1{,}234", "1234"),
    (r"\mathrm{cm}", r"\text{cm}"),
    (r"30^{\circ}", r"30\degree"),
    (r"a \\ b", r"a \\ b"),
    ("2**3", "2^3"),
]


@pytest.mark.parametrize(("text", "plain"), SPELLINGS)
def test_normalise(text, plain):
    assert normalise(text) == plain


UNITS = [
    ("cm", "length", "1/100"),
    ("centimetres", "length", "1/100"),
    ("inches", "length", "127/5000"),
    ("feet", "length", "381/1250"),
    ("cm^2", "length^2", "1/10000"),
    ("square inches", "length^2", "16129/25000000"),
    ("miles per hour", "length/time^1", "1397/3125"),
    ("mph", "length/time^1", "1397/3125"),
    ("km/h", "length/time^1", "5/18"),
    ("m/s^2", "length/time^2", "1"),
]


@pytest.mark.parametrize(("words", "kind", "factor"), UNITS)
def test_units_have_a_kind_and_an_exact_factor(words, kind, factor):
    found = unit(words)
    assert found is not None
    assert (found.kind, found.factor) == (kind, Fraction(factor))


def test_words_that_measure_nothing_are_no_units():
    assert [unit(words) for words in ("apples", "red apples", "", "per hour")] == [None] * 4


# Bounds: each refusal has its name, and comes before anything is computed.

REFUSED = [
    ("", "no_answer"),
    (" $ $ ", "no_answer"),
    ("\u200b", "no_answer"),
    ("1" * 401, "too_long"),
    ("x" * 2_001, "too_long"),
    ("1" * 200_000, "too_long"),
    ("12\u00b2" * 600, "too_long"),
    (",".join("1" * 70), "too_long"),
    ("(" * 61 + "1" + ")" * 61, "too_deep"),
    (r"\frac{1}{" * 61 + "1" + "}" * 61, "too_deep"),
    (r"\sin" * 400 + " x", "too_deep"),
    ("2^-" * 400 + "1", "too_deep"),
    (r"\frac" * 390 + "1", "too_deep"),
    ("9^{9^9}", "tower"),
    ("9^9^9", "tower"),
    ("9**9**9", "tower"),
    ("2^{10^{10}}", "tower"),
    ("10^{10^{100}}", "tower"),
    ("x^{10^{10}}", "tower"),
    ("2^{-10^{10}}", "tower"),
    ("((9!)!)!", "tower"),
    ("1000000000!", "tower"),
    (r"\binom{1000000000}{500000000}", "tower"),
    ("(x+1)^{101}", "tower"),
    ("1e401", "tower"),
    ("*".join(["1e400"] * 11), "tower"),
    (r"\frac{1}{10^{2990}+1}+\frac{1}{10^{2990}+3}", "tower"),
    ("+".join(rf"\frac1{{10^{{2990}}+{2 * at + 1}}}" for at in range(80)), "too_long"),
    (r"\sqrt{10}^{20001}", "tower"),
    ("x=" + "*".join(["1e400"] * 8), "tower"),
    ("(x+y)" * 300, "too_long"),
    ("7" + "%!" * 100, "too_deep"),
    ("7" + "%" * 1_000, "too_deep"),
    (r"\frac{1}{0}", "unparsable"),
    (r"\frac{1}{x-x}", "unparsable"),
]


@pytest.mark.parametrize(("answer", "reason"), REFUSED)
def test_what_is_refused_has_a_reason_and_no_key_and_starts_no_worker(answer, reason):
    judge, fake = grader()
    verdict = judge.judge("7", answer)
    assert (verdict.correct, verdict.answer, verdict.reason) == (False, None, reason)
    assert not fake.asked


@pytest.mark.parametrize(
    "answer",
    [
        "2^{100}",
        "x^{2023}",
        r"e^{-x^2}",
        "2^{2^{10}}",
        "1000!",
        r"\binom{1000}{500}",
        r"e^{\pi\sqrt{163}}",
        "(x+1)^{100}",
        "9" * 400,
    ],
)
def test_what_is_large_but_within_the_bounds_is_read(answer):
    assert maths_key(answer) is not None


HOSTILE = ["(", ")", "{", "}", "[", "|", "\\", r"\frac", r"\sqrt", r"\text{", r"\{", "^", "_", "-", "+", "=", "<", ",", "1", "1,", "1,000", " ", "x", "xy ",
           "$", ".", "!", "%", r"\degree", "\u0661", "\u00b2", "\u200b", r"\begin{pmatrix}", r"\\", "&", ":", "cm ", r"\pm", "or ", r"\cup", "1 "]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("piece", HOSTILE)
def test_the_longest_answer_of_anything_is_read_in_no_time(piece):
    for text in (piece * (2_000 // len(piece)), "x" + piece * (1_000 // len(piece)) + "x" + piece * (900 // len(piece))):
        start = time.process_time()
        maths_key(text)
        assert time.process_time() - start < 1  # some 20 ms when nothing else runs


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*HOSTILE, "5", "2", r"\sin ", "i", r"\pi ", "(1,2)", "x<3"]), max_size=14).map("".join))
@pytest.mark.slow
def test_any_answer_has_a_verdict_that_is_the_same_both_ways(text):
    try:
        other = read(text)
    except Refused:
        return
    for gold in ("5", r"\{1,2\}", "x=5", "5 cm"):
        node = read(gold)
        with contextlib.suppress(Refused):
            assert Comparison().same(node, other) == Comparison().same(other, node)


def nested(piece, depth):
    return rf"({piece})\sin(" * depth + "x" + ")" * depth


GROWING = [
    *(nested(piece, depth) for piece in ("x+y", "a+b+c+d+f+g+h+k+m+n", r"1+\sqrt{2}") for depth in (5, 8, 14, 28)),
    *(
        piece * (2_000 // len(piece))
        for piece in ("(x+1)", "(x+y)", "(1+i)", "(x+y+z)^4", "x_{12}y", r"\sqrt{2^{9900}}", "(x+y)^{12}")
    ),
    *(
        "+".join([piece] * (2_000 // (len(piece) + 1)))
        for piece in ("x^{1/3}", "1000!", r"\frac1{10^{2990}+3}", r"\sqrt{10^{2990}+1}")
    ),
    *(",".join([piece] * 60) for piece in ("(x+1)^4", "1000!+x", "x+y<1", "2^{9900}x")),
    "+".join(f"2^{{9900}}x_{{{at}}}" for at in range(100)),
    "*".join(["1e400", "1e-400"] * 140),
    "12\u00b2" * 660,
    *(
        piece * 28 + "x" + "}" * (28 * (piece.count("{") - piece.count("}")))
        for piece in (r"2\frac{1}{", r"2\frac{", r"2\frac{1}{3^{-1}1/3", r"\sqrt[3]{")
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("answer", GROWING, ids=lambda text: f"{text[:20]} {len(text)}")
def test_what_grows_when_it_is_multiplied_out_takes_no_time_and_no_memory_here(answer):
    judge, _ = grader(Outcome("timeout"))

    def both():
        read.cache_clear()
        return maths_key(answer), judge.judge("5", answer)

    start = time.process_time()
    key, verdict = both()
    assert not verdict.correct
    assert time.process_time() - start < 2  # some 50 ms for each of the two; the calls below are the tight bound
    assert calls(both) < 500_000
    assert key is None or len(key) < 1_000_000
    tracemalloc.start()
    both()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_no_atom_of_a_normal_form_is_longer_than_its_digest():
    form = normal(read(nested("a+b+c+d+f+g+h+k+m+n", 8)))
    assert max(len(atom) for product in form.terms for atom, _ in product) <= MAX_ATOM
    other = normal(read(nested("a+b+c+d+f+g+h+k+m+n", 8).replace("x", "y")))
    assert form.key != other.key
    assert form.key == normal(read(nested("n+m+k+h+g+f+d+c+b+a", 8))).key


def test_the_work_on_a_form_is_paid_before_it_is_done():
    budget = Budget(20)
    with pytest.raises(Refused) as refused:
        normal(read("(x+1)(x+2)(x+3)"), budget)
    assert refused.value.reason == "too_long"
    assert normal(read("x+1"), Budget(100)).key == "1+x"


SOUP = [*HOSTILE, "1e400", "1e-400", "*", "/", r"\frac1{10^{2990}+3}", r"\frac{1}{", r"\sqrt{2^{9900}}", "2^{9900}", "1000!", "(x+y)", r"\sin(", "^{12}", "^{-1}",
        r"\lfloor ", r"\rfloor", r"\overline{3}", "\u2460", "\ud800", "#", "5 millions", "A) ", r"\end{pmatrix}", "<", "0.", "i", "e", r"\sum_{k=1}"]  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(SOUP), max_size=20), st.integers(1, 120))
@pytest.mark.slow
def test_no_text_makes_the_grader_raise_or_wait(pieces, times):
    judge, _ = grader(Outcome("timeout"))
    text = ("".join(pieces) * times)[:2_100]
    start = time.process_time()
    key = maths_key(text)
    maths_answer(text)
    for gold in ("5", r"\{1, \sin 2\}", "x+y<3"):
        verdict = judge.judge(gold, text)
        assert verdict.answer == key
    assert time.process_time() - start < 2  # some 50 ms on a quiet machine


def test_a_relation_has_no_key_if_its_scaled_numbers_could_not_be_written():
    numbers = "*".join(["1e390"] * 7)
    assert maths_key(f"x + {numbers} y < 0") is not None
    assert maths_key(f"1e-390 x + {numbers} y < 0") is None


@pytest.mark.parametrize("reference", ["*".join(["1e400"] * 11), "(x+y)" * 300, nested("x+y", 60)])
def test_a_reference_that_grows_without_end_is_the_tasks_mistake(reference):
    with pytest.raises(DataError, match="cannot be judged by value"):
        check_reference(reference, "p1")


# Words beside numbers.


def test_no_word_is_both_dropped_and_counting():
    assert not [word for word in KNOWN if word in NOT_UNITS or word in MULTIPLIERS]
    assert [is_known(word) for word in ("inches", "cherries", "boxes", "children", "apple")] == [True] * 5
    assert [is_known(word) for word in ("negative", "binary", "tenths", "zorbs", "pairs", "millions")] == [False] * 6


def test_a_word_that_no_list_knows_may_only_be_said_after_the_reference():
    judge, _ = grader()
    assert judge.judge("36 widgets", "36").correct
    assert judge.judge("36 widgets", "36 widgets").correct
    assert judge.judge("36", "36 widgets").reason == "unparsable"
    assert not judge.judge("36 widgets", "36 zorbs").correct
    assert own_words(r"5 \text{ widgets per hour, not millions}") == {"widgets"}


# Normal forms.

FORMS = [
    (r"\sqrt{8}", "2*2^(1/2)"),
    (r"\frac{1}{\sqrt{2}}", "1/2*2^(1/2)"),
    (r"\sqrt{\frac{1}{3}}", "1/3*3^(1/2)"),
    (r"\sqrt[3]{-8}", "-2"),
    (r"\sqrt{-4}", "2*i"),
    ("(1+i)^2", "2*i"),
    ("(x+1)(x-1)", "-1+x^2"),
    ("i^{-1}", "-1*i"),
    (r"2^{3/2}", "2*2^(1/2)"),
    (r"\frac{x^2}{x}", "x"),
    ("0^0", "1"),
    (r"\binom{5}{2}!", "3628800"),
    (r"|{-3}|", "3"),
]


@pytest.mark.parametrize(("text", "form"), FORMS)
def test_normal_forms(text, form):
    assert normal(read(text)).key == form


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.fractions(max_denominator=10**4), st.fractions(max_denominator=10**4), st.integers(1, 60))
@pytest.mark.slow
def test_arithmetic_is_exact(a, b, n):
    text = rf"\left(\frac{{{a.numerator}}}{{{a.denominator}}}\right) \cdot ({b}) - ({a})/{n} + \sqrt{{{n}}}^2"
    assert maths_key(text) == str(a * b - a / n + n)


# Keys.


def test_one_key_for_what_is_surely_the_same():
    for spellings in (
        ["1/2", r"\frac{1}{2}", "0.5", r"x = \frac12", r"\boxed{0.50}", r"50\%"],
        ["2, 1", r"\{1, 2\}", "x=1 or x=2", "1 and 2", "1, 2, 2"],
        ["5 cm", "5", r"5\text{ m}", r"\$5"],
        ["x<3", r"(-\infty,3)", "3 > x"],
        ["x^2-1", "(x-1)(x+1)"],
        ["Even", r"\text{even}"],
        ["A", "(A)", "A) 12"],
    ):
        assert len({maths_key(spelling) for spelling in spellings}) == 1, spellings


def test_a_key_is_none_where_nothing_can_be_counted():
    assert [maths_key(text) for text in ("", "?", "1 2", "(42", "9^{9^9}")] == [None] * 5


def test_equal_keys_are_equal_answers_but_for_units_and_names():
    for row in ROWS:
        gold, answer = maths_key(row["gold"]), maths_key(row["answer"])
        if not row["correct"] and gold is not None and gold == answer:
            kinds = {read(row["gold"]).kind, read(row["answer"]).kind}
            assert kinds & {"unit", "named"}, row


def test_a_key_is_read_back_as_its_own_key():
    for row in ROWS:
        key = maths_key(row["answer"])
        if key is not None and read(row["answer"]).kind != "text":
            assert maths_key(key) == key, row


def test_the_answer_of_a_text_is_what_it_states_or_its_last_number():
    assert maths_answer(r"So \boxed{\frac{2}{4}}.") == "1/2"
    assert maths_answer("3 + 4 is 7") == "7"
    assert maths_answer("no idea") is None


# The worker.


def test_what_rules_decide_starts_no_worker():
    judge, fake = grader()
    assert judge.judge(r"\sqrt{8}", r"2\sqrt{2}").correct
    assert judge.judge("12", "13").reason == "different"
    assert not fake.asked


def test_a_worker_gets_the_open_questions_of_one_answer_as_plain_trees_with_our_program_and_limits():
    judge, fake = grader()
    assert judge.judge(r"(1, \ln 9)", r"(1, 2 \ln 3)").correct
    ((source, calls, limits),) = fake.asked
    assert "def equal(" in source
    assert limits == LIMITS
    (call,) = calls
    assert call.function == "equal"
    assert call.args[:2] == (
        ("fn", "ln", [("num", "9", [])]),
        ("mul", "", [("num", "2", []), ("fn", "ln", [("num", "3", [])])]),
    )


def test_digits_grow_with_what_can_be_written():
    one = Node("num", "1")
    small = Node("pow", "", (Node("num", "10"), Node("num", "-500")))
    tiny = Node("pow", "", (Node("sym", "e"), Node("num", "1/" + "1" + "0" * 99)))
    assert Question("equal", one, one).digits < 70
    assert Question("equal", one, tiny).digits > 150
    assert Question("equal", one, Node("add", "", (one, small))).digits > 500


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome("timeout"), "timeout"),
        (Outcome("died"), "died"),
        (Outcome("error"), "died"),
        (Outcome("garbled"), "died"),
        (Outcome("ok", ()), "died"),
        (Outcome("ok", (Reply(error="MemoryError"),)), "died"),
        (Outcome("ok", (Reply(error="ValueError"),)), "unparsable"),
        (Outcome("ok", (Reply(value=False),)), "different"),
        (Outcome("ok", (Reply(value=1),)), "different"),
    ],
)
def test_what_a_worker_cannot_say_is_wrong_with_a_reason(outcome, reason):
    judge, _ = grader(outcome)
    verdict = judge.judge("1", r"\sin x")
    assert (verdict.correct, verdict.reason) == (False, reason)


def test_more_questions_than_one_worker_answers_are_refused():
    judge, fake = grader()
    many = ", ".join(rf"\sin {n}" for n in range(1, 40))
    assert judge.judge(many, many.replace("sin", "cos")).reason == "too_long"
    assert not fake.asked


def test_math_verify_is_asked_only_where_the_reference_is_beyond_our_grammar():
    judge, fake = grader()
    assert judge.judge(r"\sum_{k=1}^{n} k", r"\sum_{j=1}^{n} j").correct
    assert [call.function for _, calls, _ in fake.asked for call in calls] == ["latex"]
    assert not judge.judge("7", r"\sum_{j=1}^{n} j").correct
    assert not judge.judge(r"\sum_{k=1}^{n} k", r"\sum_{j=1}^{n} j = 12").correct
    assert judge.judge(r"\sum_{k=1}^{n} k", r"\sum_{k=1}^{99999999} k").reason == "tower"
    assert len(fake.asked) == 1


# The grader.


def graded(reference, answers, texts=None):
    judge, _ = grader(Outcome("timeout"))
    return asyncio.run(judge.grade(problem(reference), answers, texts or ["" for _ in answers]))


def test_a_batch_is_judged_in_order_and_keeps_its_keys():
    verdicts = graded("1/2", ["1/2", None, "2", "1/2"])
    assert [(one.correct, one.answer, one.reason) for one in verdicts] == [
        (True, "1/2", ""),
        (False, None, "no_answer"),
        (False, "2", "different"),
        (True, "1/2", ""),
    ]


def test_the_text_still_has_the_unit_that_its_key_has_lost():
    texts = [r"\boxed{5\text{ m}}", r"\boxed{5\text{ cm}}", "nothing here"]
    assert [one.correct for one in graded(r"5\text{ cm}", ["5", "5", "5"], texts)] == [False, True, True]


def test_a_reference_may_list_what_is_accepted():
    verdicts = graded(["20", r"20\%"], ["20", "1/5", "21"])
    assert [one.correct for one in verdicts] == [True, True, False]
    assert graded(20, ["20"])[0].correct


@pytest.mark.parametrize("reference", [None, [], "", "9^{9^9}", r"\frac{1}{0}"])
def test_a_reference_that_cannot_be_judged_by_is_the_tasks_mistake(reference):
    with pytest.raises(DataError, match="reference"):
        check_reference(reference, "p1")
    with pytest.raises(DataError, match="reference"):
        graded(reference, ["7"])


def test_nothing_in_the_parent_evaluates_text():
    folder = Path(ponder.graders.maths.__file__).parent
    files = sorted(folder.glob("maths*.py"))
    assert len(files) >= 8
    forbidden = {"eval", "exec", "compile", "__import__", "sympify", "parse_expr", "literal_eval", "S"}
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = node.func if isinstance(node, ast.Call) else None
            called = name.id if isinstance(name, ast.Name) else ""
            assert called not in forbidden, f"{file.name}:{node.lineno}"
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) else []
            if file.name != "maths_worker.py":
                assert not any(one.split(".")[0] in ("sympy", "math_verify", "ast") for one in imported)


def test_names_with_many_commands_are_read_in_no_time():
    start = time.perf_counter()
    maths_key("f(" + r"\alpha" * 200 + "!)=5")  # once a factor of five for each command
    assert time.perf_counter() - start < 1.0
