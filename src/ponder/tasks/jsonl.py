"""Your own problems: a JSONL file with a question and an answer a line."""

from __future__ import annotations

from pathlib import Path

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.graders.maths import MathsGrader, maths_answer
from ponder.tasks.compared import RULES, CompareGrader, answer_key, check_maths
from ponder.tasks.fields import clip, listed, plain, scalar, short, text
from ponder.tasks.files import check_ids, digest, read_prompt, read_rows
from ponder.types import Problem, Question


def jsonl(
    path: str,
    question: str = "question",
    answer: str = "answer",
    id: str = "id",
    grader: str = "numeric",
    prompt: str = "step_by_step",
    max_tokens: int = 512,
) -> Task:
    """Problems of a JSONL file.

    question, answer, id: names of the fields; a question is a text, an answer and an id are a text or a number (a missing id becomes
    the line's number). An answer that ends in `#### x`, as GSM8K
    writes it, means x. grader: numeric (exact fractions), exact (case and spaces aside), choice (a letter) or maths (by value). prompt: a prompt of
    ours by name, or the path of one; a JSON file with a version and messages, in which {question} stands for the question.
    Raises `DataError` with file and line.
    """
    if grader not in (*RULES, "maths"):
        raise UsageError(f"jsonl: grader {short(grader)} must be one of {', '.join((*RULES, 'maths'))}")
    template = read_prompt(prompt)
    judge = MathsGrader() if grader == "maths" else CompareGrader(grader)
    key = maths_answer if grader == "maths" else answer_key(grader)
    problems = []
    for row in read_rows(path):
        for field in (question, answer):
            if field not in row.fields:
                raise DataError(
                    f"{row.place}: has no field {short(field)} (it has {listed(row.fields)}); name the right one: jsonl(path, {'question' if field == question else 'answer'}=...)"
                )
        if row.fields[answer] is None:
            raise DataError(f"{row.place}: the answer is null; every problem needs one")
        reference = _reference(scalar(row.fields[answer], f"{row.place}: the answer"))
        _check(judge, reference, row.place)
        given = row.fields.get(id)
        name = str(row.number) if given in (None, "") else scalar(given, f"{row.place}: the id")
        problems.append(Problem(Question(name, template.ask(text(row, question))), reference))
    check_ids(problems, path, "or name another field: jsonl(path, id=...)")
    fingerprint = f"jsonl-{digest(problems)}/{template.fingerprint}/{grader}"
    return Task(plain(Path(path).stem), fingerprint, tuple(problems), key, judge, max_tokens)


def _check(judge: CompareGrader | MathsGrader, reference: str, place: str) -> None:
    """What no answer could equal is refused before anything is paid for."""
    if not isinstance(judge, CompareGrader):
        return check_maths(reference, place)
    try:
        judge.compare(None, reference)
    except (ValueError, ArithmeticError) as error:
        raise DataError(f"{place}: {clip(error)}: jsonl(path, grader='exact') compares text") from None


def _reference(given: str) -> str:
    return given.rpartition("####")[2].strip()
