"""Your own problems: a JSONL file with a question and an answer a line."""

from __future__ import annotations

from pathlib import Path

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.tasks.compared import RULES, CompareGrader, answer_key
from ponder.tasks.files import fingerprint, rows
from ponder.tasks.files import prompt as read_prompt
from ponder.types import JSON, Problem, Question


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

    question, answer, id: names of the fields (a missing id becomes its number in the file). An answer that ends in `#### x`, as GSM8K
    writes it, means x. grader: numeric (exact fractions), exact (case and spaces aside) or choice (a letter). prompt: a prompt of
    ours by name, or the path of one; a JSON file with a version and messages, in which {question} stands for the question.
    Raises `DataError` with file and line.
    """
    if grader not in RULES:
        raise UsageError(f"jsonl: grader {grader!r} must be one of {', '.join(RULES)}")
    template = read_prompt(prompt)
    judge = CompareGrader(grader)
    problems = []
    for number, (place, row) in enumerate(rows(path), 1):
        for field in (question, answer):
            if field not in row:
                raise DataError(
                    f"{place}: has no field {field!r} (it has {', '.join(row)}); name the right one: jsonl(path, {'question' if field == question else 'answer'}=...)"
                )
        if row[answer] is None:
            raise DataError(f"{place}: the answer is null; every problem needs one")
        reference = _reference(row[answer])
        try:
            judge.compare(None, reference)
        except ValueError as error:  # what no answer could equal is refused before anything is paid for
            raise DataError(f"{place}: {error}: jsonl(path, grader='exact') compares text") from None
        messages = template.fill(question=_stored(row[question]))
        problems.append(Problem(Question(str(row.get(id, number)), messages), reference))
    try:
        identity = f"jsonl-{fingerprint(problems)}/{template.fingerprint}/{grader}"
    except DataError as error:
        raise DataError(f"{path}: {error}, or name another field: jsonl(path, id=...)") from None
    return Task(Path(path).stem, identity, tuple(problems), answer_key(grader), judge, max_tokens)


def _stored(value: JSON) -> str:
    """As text without lone surrogates, which can be neither stored nor sent."""
    return str(value).encode("utf-8", "replace").decode()


def _reference(value: JSON) -> str:
    text = _stored(value)
    return text.rpartition("####")[2].strip() if "####" in text else text.strip()
