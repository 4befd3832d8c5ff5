import time

import pytest

from ponder.graders.compare import Comparison, choice, chosen_letter, exact, numeric

NUMERIC = [
    ("42", "42", "equal"),
    ("42.0", "42", "equal"),
    ("$1,234.50", "1234.5", "equal"),
    ("0.5", "1/2", "equal"),
    (r"\frac{2}{4}", "0.5", "equal"),
    ("18 dollars", "18", "equal"),
    ("10%", "10", "equal"),
    ("10%", "0.1", "different"),
    ("0.33", "1/3", "different"),
    ("0.3333333333333333", "1/3", "different"),
    ("9007199254740993", "9007199254740992", "different"),
    ("-42", "42", "different"),
    ("forty-two", "42", "no_answer"),
    ("4 or 2", "4", "no_answer"),
    ("", "42", "no_answer"),
    (None, "42", "no_answer"),
]


@pytest.mark.parametrize(("answer", "reference", "reason"), NUMERIC)
def test_numbers_compare_exactly(answer, reference, reason):
    assert numeric(answer, reference) == Comparison(reason)


EXACT = [
    ("Paris", "paris", "equal"),
    ("  Paris \n", "Paris", "equal"),
    ("New\t York", "new york", "equal"),
    ("STRASSE", "stra\u00dfe", "equal"),
    ("Ange\u0301lique", "Ang\u00e9lique", "equal"),
    ("NewYork", "New York", "different"),
    ("Paris.", "Paris", "different"),
    ("42.0", "42", "different"),
    ("", "Paris", "no_answer"),
    (" \n", "Paris", "no_answer"),
    (None, "Paris", "no_answer"),
]


@pytest.mark.parametrize(("answer", "reference", "reason"), EXACT)
def test_texts_compare_up_to_case_and_space(answer, reference, reason):
    assert exact(answer, reference) == Comparison(reason)


CHOICES = [
    ("A", "A"),
    ("a", "A"),
    ("(A)", "A"),
    ("[A]", "A"),
    ("( A )", "A"),
    ("A.", "A"),
    ("A)", "A"),
    ("A:", "A"),
    ("A) 12", "A"),
    ("A. 12", "A"),
    ("A: twelve of them", "A"),
    ("(A) 12", "A"),
    ("(A). 12", "A"),
    ("(A): 12", "A"),
    ("Answer: A", "A"),
    ("answer A", "A"),
    ("The answer is A.", "A"),
    ("The correct answer is (D)", "D"),
    ("the answer is: B", "B"),
    ("Option C", "C"),
    ("choice: C", "C"),
    ("The answer is option C) 7", "C"),
    ("**B**", "B"),
    ("**B)** 12", "B"),
    ("$B$", "B"),
    (r"\text{B}", "B"),
    (r"\boxed{\text{B}}", None),
    (r"\boxed{B}", "B"),
    ("A) 12\nbecause 3*4 is 12", "A"),
    ("not A", None),
    ("Apple", None),
    ("An apple", None),
    ("A cat sat", None),
    ("A or B", None),
    ("A and B", None),
    ("A, B", None),
    ("A/B", None),
    ("AB", None),
    ("(A) and (B)", None),
    ("(A) or B)", None),
    ("A) 12, not B) 13", None),
    ("(A) f(x) = 2", "A"),
    ("(A) as in (a) above", "A"),
    ("A) (a grab) bag", "A"),
    ("(A", None),
    ("F", None),
    ("E", None),
    ("1", None),
    ("A1", None),
    ("A-12", None),
    ("A.5", None),
    ("Answer:", None),
    ("", None),
    ("?", None),
    ("\u0410", None),  # the Cyrillic letter
]


@pytest.mark.parametrize(("answer", "letter"), CHOICES)
def test_the_letter_chosen(answer, letter):
    assert chosen_letter(answer, "ABCD") == letter
    assert choice(answer, letter or "A", "ABCD") == Comparison("equal" if letter else "no_answer")


def test_another_letter_is_different_and_silence_is_no_answer():
    assert choice("(B)", "A").reason == "different"
    assert not choice("(B)", "A").equal
    assert choice("(a)", "A", "abc").equal
    assert choice(None, "A").reason == "no_answer"


def test_there_are_enough_judged_cases():
    assert len(NUMERIC) + len(EXACT) + len(CHOICES) >= 30


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: numeric("1", "one"), "the reference 'one' is no number"),
        (lambda: exact("x", " "), "the reference ' ' is empty"),
        (lambda: choice("A", "F", "ABCD"), "the reference 'F' is none of the options 'ABCD'"),
        (lambda: choice("A", "A", ""), "letters is ''"),
        (lambda: choice("A", "A", "A,B"), "letters is 'A,B'"),
    ],
)
def test_a_reference_that_cannot_be_right_is_the_task_s_mistake(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["A", "A ", "(", "the ", "answer ", " ", "A) ", "(B) ", "*", "\\text{"])
def test_a_megabyte_of_anything_ends_within_a_second(piece):
    text = piece * (10**6 // len(piece))
    start = time.process_time()
    for compared in (exact(text, "x"), numeric(text, "1"), choice(text, "A"), choice("A) " + text, "A")):
        assert isinstance(compared, Comparison)
    assert time.process_time() - start < 3
