"""Problem files: what their keys merge, what their graders accept, what changes their identity."""

import asyncio
import json

import pytest

from ponder.errors import DataError
from ponder.graders.extract import numeric_key
from ponder.tasks.jsonl import jsonl


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def judged(task, text):
    [verdict] = asyncio.run(task.grader.grade(task.problems[0], [task.answer(text)], [text]))
    return verdict.correct


def test_letters_written_differently_are_one_vote_and_silence_is_none(tmp_path):
    task = jsonl(written(tmp_path / "q.jsonl", {"question": "?", "answer": "A"}), grader="choice")
    assert [task.answer(text) for text in ("A) 12", "(A)", "A", "The answer is A")] == ["A"] * 4
    assert task.answer("I do not know") is None
    assert task.answer("<think>A") is None


@pytest.mark.parametrize(
    ("reference", "said", "right"),
    [("0.5", "The answer is 0.5", True), ("7", "The answer is 7 Up", False), ("7 Up", "The answer is 7 Up", True)],
)
def test_exact_compares_what_is_written(tmp_path, reference, said, right):
    task = jsonl(written(tmp_path / "q.jsonl", {"question": "?", "answer": reference}), grader="exact")
    assert judged(task, said) is right


@pytest.mark.parametrize("text", ["18 is wrong", "3 fifths", "5 factorial", "101 base two", "7 lakh", "18 more than Bob"])
def test_a_number_with_words_that_change_it_is_no_number(text):
    assert numeric_key(text) is None


@pytest.mark.parametrize("answer", [None, "a cat"])
def test_a_reference_that_no_answer_can_equal_is_refused_with_its_line(tmp_path, answer):
    path = written(tmp_path / "q.jsonl", {"question": "?", "answer": answer})
    with pytest.raises(DataError, match=r"q\.jsonl:1: "):
        jsonl(path)


def test_the_identity_covers_every_message_of_the_prompt(tmp_path):
    prompt = tmp_path / "two.json"
    messages = [{"role": "user", "content": "{question}"}, {"role": "user", "content": "Think."}]
    prompt.write_text(json.dumps({"version": 1, "messages": messages}))
    prints = []
    for question in ("One and one?", "Two and two?"):
        path = written(tmp_path / "q.jsonl", {"id": "x", "question": question, "answer": "2"})
        prints.append(jsonl(path, prompt=str(prompt)).fingerprint)
    assert prints[0] != prints[1]


def test_line_separators_inside_a_string_do_not_tear_a_line(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text('\ufeff{"question": "a\u2028b", "answer": "2"}\n', "utf-8")
    assert len(jsonl(str(path)).problems) == 1


def test_maths_judges_by_value_and_refuses_a_reference_that_has_none(tmp_path):
    task = jsonl(written(tmp_path / "q.jsonl", {"question": "?", "answer": "\\frac{1}{2}"}), grader="maths")
    assert [judged(task, text) for text in ("\\boxed{0.5}", "\\boxed{0.51}")] == [True, False]
    with pytest.raises(DataError, match=r"q\.jsonl:1: the reference .* cannot be read as mathematics"):
        jsonl(written(tmp_path / "q.jsonl", {"question": "?", "answer": "9" * 100_000}), grader="maths")
