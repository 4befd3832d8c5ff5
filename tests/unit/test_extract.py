import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.graders.extract import Extractor, Rule, extract, numeric_key, without_thinking

# text, answer under the default order of rules
CASES = [
    # boxes
    (r"so \boxed{42}.", "42"),
    (r"\boxed{1} and then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"$\boxed{\frac{\sqrt{2}}{3}}$", r"\frac{\sqrt{2}}{3}"),
    (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
    (r"\boxed {7}", "7"),
    (r"\fbox{7}", "7"),
    (r"\boxed 7$ dollars", "7"),
    (r"\boxed{3+\boxed{4}}", "4"),
    (r"\boxed{5} so it is 6", "5"),
    (r"\boxed{5} but \boxed{", "5"),
    (r"\boxed{5} but \boxed{ }", "5"),
    (r"\boxed{$\text{B}$}", r"\text{B}"),
    (r"{ { \boxed{8}", "8"),
    (r"} \boxed{8} }", "8"),
    (r"The final answer is $\boxed{12}$.", "12"),
    # four hashes
    ("3*4=<<3*4=12>>12\n#### 12", "12"),
    ("#### 1,234 \n", "1,234"),
    ("#### 5\n#### 6", "6"),
    ("####\n", None),
    ("#### $70.", "$70"),
    # tags
    ("<answer>10 + 2</answer>", "10 + 2"),
    ("<answer> 1 </answer> or <answer>2</answer>\n", "2"),
    ("<ANSWER>3</ANSWER>", "3"),
    ("<answer>1</answer><answer></answer>", "1"),
    ("<answer>use <answer>4</answer>", "4"),
    ("the words </answer>5</answer>", "5"),
    # phrases
    ("The answer is 42.", "42"),
    ("The answer is 42. I checked it 3 times.", "42"),
    ("The answer is 3.14.", "3.14"),
    ("the answer is: -7", "-7"),
    ("Answer: 5 apples", "5 apples"),
    ("**Answer:** 5", "5"),
    ("**Answer**: 5", "5"),
    ("The answer is **5**.", "5"),
    ("The final answer is $x=5$", "x=5"),
    ("Final Answer:\n\n42\n", "42"),
    ("## Final answer\n\n17", "17"),
    ("answer = 5", "5"),
    ("ANSWER IS 9", "9"),
    ("The answer is 1. No, the answer is 2.", "2"),
    ("The answer is 4. Answer:", "4"),
    ("The answer is `12`", "12"),
    (r"The answer is \(12\).", "12"),
    ("The answer is $5.$", "5"),
    ("Answer: A) 12", "A) 12"),
    ("The correct answer is (C).", "(C)"),
    ("the answer isn't here, maybe 8", "8"),
    ("we answered 3 questions", "3"),
    ("\u7b54\u6848\u662f42\u3002", "42"),
    ("\u7b54\u6848\uff1a-3", "-3"),
    ("Answer\uff1a 6", "6"),
    # the last number
    ("first 3, then 4", "4"),
    ("it costs $1,234.50.", "1,234.50"),
    ("x = -3", "-3"),
    ("5-3", "3"),
    ("from 5 to \u22123", "-3"),
    ("about 1/2 of it", "1/2"),
    (r"gives \frac{3}{4} of it", r"\frac{3}{4}"),
    (r"gives 1\frac{3}{4} of it", r"1\frac{3}{4}"),
    ("50% of it", "50%"),
    ("\uff14\uff12", "42"),
    ("1.5e3 metres", "1.5e3"),
    (".5", ".5"),
    ("version 1,23", "23"),
    ("version 1,2345", "2345"),
    # thinking
    ("<think>\\boxed{1}</think> The answer is 2.", "2"),
    ("<think>it is 1</think>", None),
    ("<think>it is 1", None),
    ("The answer is 3. <think>or is it", None),
    ("it is 1</think> 2", "2"),
    ("1 <think>2</think> it <think>3</think> is", "1"),
    ("<thinking>1</thinking>4", "4"),
    ("<THINK>1</THINK>4", "4"),
    ("<think>a <think>b</think> c 7</think> 8", "8"),
    # nothing
    ("", None),
    (" \n", None),
    ("I do not know", None),
    (r"\boxed{}", None),
    ("$$", None),
    ("Answer: **", None),
]


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_judged_case(text, answer):
    assert extract(text) == answer


def test_the_table_is_long_enough():
    assert len(CASES) >= 60


def test_the_first_rule_that_finds_anything_decides():
    text = "\\boxed{1}\n#### 2\n<answer>3</answer>\nThe answer is 4. Also 5"
    assert [extract(text, [rule]) for rule in Rule] == ["1", "2", "3", "4", "5"]
    assert extract(text, [Rule.TAG, Rule.BOXED]) == "3"
    assert extract("The answer is 4. Also 5", [Rule.TAG, Rule.LAST_NUMBER]) == "5"
    assert extract("Also 5", [Rule.TAG, Rule.BOXED]) is None


def test_an_extractor_is_a_value_and_takes_names():
    assert Extractor(("gsm8k", "last_number")) == Extractor((Rule.GSM8K, Rule.LAST_NUMBER))
    assert hash(Extractor()) == hash(Extractor(tuple(Rule)))
    assert Extractor((Rule.GSM8K,))("#### 5\n6") == "5"


@pytest.mark.parametrize("rules", [(), ("boxed", "boxed"), ("boxes",)])
def test_an_extractor_refuses_rules_it_cannot_follow(rules):
    with pytest.raises(ValueError, match="boxed, gsm8k, tag, phrase, last_number"):
        Extractor(rules)


def test_text_outside_the_thinking_is_kept_in_order():
    assert without_thinking("a<think>b</think>c<think>d</think>e") == "ace"
    assert without_thinking("b</think>c") == "c"
    assert without_thinking("a<think>b</think>c</think>d") == "d"
    assert without_thinking("a<think>b") is None


HOSTILE = [
    r"\boxed{",
    r"\boxed ",
    "{",
    "}",
    "{}",
    "<answer>",
    "</answer>",
    "<think>",
    "</think>",
    "<think></think>",
    "answer",
    "answer ",
    "answer:",
    "final ",
    "final answer ",
    "answer is . ",
    "#### \n",
    "####",
    "1",
    "1,",
    "1,111",
    ",111",
    "1.",
    "1/",
    "-",
    "1e",
    " ",
    "\n",
    "*",
    "$",
    "\\",
    r"\frac{1",
    "\u7b54\u6848",
    "\U0001f642",
]


@pytest.mark.slow
@pytest.mark.parametrize("piece", HOSTILE)
def test_a_megabyte_of_anything_takes_linear_time(piece):
    # The opening words make every rule look at the rest.
    text = "\\boxed{ final answer: <answer> " + piece * (10**6 // len(piece))
    for rule in Rule:
        start = time.process_time()
        answer = extract(text, [rule])
        assert time.process_time() - start < 3  # about 0.3 s when nothing else runs; quadratic would be hours
        assert answer is None or answer


@pytest.mark.slow
@pytest.mark.parametrize("core", ["", "5"])
def test_boxes_nested_a_hundred_thousand_deep_take_linear_time(core):
    start = time.process_time()
    assert extract("\\boxed{" * 100_000 + core + "}" * 100_000, [Rule.BOXED]) == (core or None)
    assert time.process_time() - start < 3


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*HOSTILE, "5", "x", ".", "\\boxed{7}"]), max_size=12).map("".join))
@pytest.mark.slow
def test_there_is_an_answer_or_none_and_never_an_empty_one(text):
    for rule in Rule:
        answer = extract(text, [rule])
        assert answer is None or answer == answer.strip() != ""
    numeric_key(text)


KEYS = [
    ("42", "42"),
    ("42.0", "42"),
    ("42.", "42"),
    ("042", "42"),
    ("+42", "42"),
    ("-42", "-42"),
    ("-0", "0"),
    ("\u221242", "-42"),
    ("\u201342", "-42"),
    ("\uff14\uff12", "42"),
    ("1,234", "1234"),
    ("1,234,567.50", "2469135/2"),
    ("1{,}234", "1234"),
    ("1\\,234", "1234"),
    ("12,34", None),
    ("1,2345", None),
    ("1, 2", None),
    ("0.5", "1/2"),
    (".5", "1/2"),
    ("0.50", "1/2"),
    ("2/4", "1/2"),
    ("2 / 4", "1/2"),
    ("-1/2", "-1/2"),
    ("1/0", None),
    ("1 1/0", None),
    ("1/-2", None),
    ("1 1/2", "3/2"),
    ("-1 1/2", "-3/2"),
    (r"\frac{1}{2}", "1/2"),
    (r"\dfrac{-1}{2}", "-1/2"),
    (r"-\tfrac{2}{4}", "-1/2"),
    (r"1\frac{1}{9}", "10/9"),
    ("$5", "5"),
    ("$5$", "5"),
    (r"\$5.00", "5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("-$-5", None),
    ("--5", None),
    ("5$", "5"),
    ("\u20ac5", "5"),
    ("10%", "10"),
    (r"10\%", "10"),
    ("10 %", "10"),
    ("10 percent", "10"),
    ("0.1", "1/10"),
    ("18 dollars per day", "18"),
    ("5 apples.", "5"),
    ("5cm", "5"),
    ("5 cm^2", "5"),
    ("60 km/h", "60"),
    (r"5 \text{ m}", "5"),
    (r"5\text{ cm}^2", "5"),
    (r"\text{5}", "5"),
    (r"30^\circ", "30"),
    ("30\u00b0", "30"),
    ("5 million", None),
    (r"5 \text{ million}", None),
    ("5 one two three four five", None),
    ("2 and a bit", None),
    ("7\\pi", None),
    ("7 pi", None),
    ("4t", None),
    ("5 x", None),
    ("3 4", None),
    ("5 or 6", None),
    ("3 hours 20 minutes", None),
    ("4:30", None),
    ("x = 5", "5"),
    ("x=-5", "-5"),
    ("12=x", None),
    ("1e3", "1000"),
    ("1.5E-1", "3/20"),
    (r"1.5 \times 10^{3}", "1500"),
    ("2*10^-1", "1/5"),
    ("2\u00d710^2", "200"),
    ("1e400", "1" + "0" * 400),
    ("1e401", None),
    ("1e99999999", None),
    ("9" * 100, "9" * 100),
    ("9" * 101, None),
    ("1" * 10**6, None),
    ("5" + " " * 1000, None),
    ("2^3", None),
    ("9**9**9", None),
    ("__import__('os')", None),
    ("abc", None),
    ("about 5", None),
    ("inf", None),
    ("nan", None),
    ("", None),
    ("$", None),
]


@pytest.mark.parametrize(("text", "key"), KEYS)
def test_numeric_key(text, key):
    assert numeric_key(text) == key


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.fractions(max_denominator=10**6))
@pytest.mark.slow
def test_a_key_is_its_own_key_and_the_exact_value(value):
    assert numeric_key(str(value)) == str(value)
    assert Fraction(numeric_key(f"{value.numerator:,}")) == value.numerator
