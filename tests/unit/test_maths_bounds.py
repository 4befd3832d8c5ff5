"""The maths grader: what is refused, and that nothing takes long or much memory."""

import contextlib
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maths_cases import grader

from ponder.errors import DataError
from ponder.graders.maths import check_reference, maths_answer, maths_key
from ponder.graders.maths_answer import read
from ponder.graders.maths_compare import Comparison
from ponder.graders.maths_exact import MAX_ATOM, Budget, normal
from ponder.graders.maths_tokens import Refused
from ponder.sandbox.core import Outcome
from work import calls

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
        assert time.process_time() - start < 3  # some 20 ms when nothing else runs


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
