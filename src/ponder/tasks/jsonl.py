"""Your own problems: a JSONL file with a question and an answer a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.graders.answer import STATED_RULES, numeric_answer
from ponder.graders.compare import Comparison, choice, chosen_letter, exact, numeric, text_key
from ponder.graders.extract import extract, without_thinking
from ponder.types import JSON, Message, Problem, Question, Role, Verdict

_JUDGES: dict[str, Callable[[str | None, str], Comparison]] = {"numeric": numeric, "exact": exact, "choice": choice}


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

    question, answer, id: names of the fields (a missing id becomes the line's number). An answer that ends in `#### x`, as GSM8K
    writes it, means x. grader: numeric (exact fractions), exact (case and spaces aside) or choice (a letter). prompt: a prompt of
    ours by name, or the path of one; a JSON file with a version and messages, in which {question} stands for the question.
    Raises `DataError` with file and line.
    """
    if grader not in _JUDGES:
        raise UsageError(f"jsonl: grader {grader!r} must be one of {', '.join(_JUDGES)}")
    template, print_ = _prompt(prompt)
    rows = _rows(Path(path))
    problems = []
    for number, row in rows:
        for field in (question, answer):
            if field not in row:
                raise DataError(
                    f"{path}:{number}: has no field {field!r} (it has {', '.join(row)}); name the right one: jsonl(path, {'question' if field == question else 'answer'}=...)"
                )
        text = str(row[question]).encode("utf-8", "replace").decode()  # a lone surrogate cannot be stored or sent
        messages = tuple(Message(role, (body.replace("{question}", text),)) for role, body in template)
        if row[answer] is None:
            raise DataError(f"{path}:{number}: the answer is null; every problem needs one")
        reference = _reference(row[answer])
        _check_reference(reference, grader, f"{path}:{number}")
        problems.append(Problem(Question(str(row.get(id, number)), messages), reference))
    seen: dict[str, int] = {}
    for at, problem in enumerate(problems):
        if problem.question.id in seen:
            raise DataError(
                f"{path}: the id {problem.question.id!r} stands on two lines; ids must differ, or name another field: jsonl(path, id=...)"
            )
        seen[problem.question.id] = at
    digest = hashlib.blake2b(
        json.dumps([[p.question.id, [m.text for m in p.question.messages], p.reference] for p in problems]).encode(),
        digest_size=8,
    )
    key = {"numeric": numeric_answer, "choice": _letter, "exact": _text}[grader]
    return Task(
        Path(path).stem, f"jsonl-{digest.hexdigest()}/{print_}/{grader}", tuple(problems), key, CompareGrader(grader), max_tokens
    )


@dataclass(frozen=True, slots=True)
class CompareGrader:
    """Compares the extracted answer with the reference: `numeric`, `exact` or `choice`."""

    rule: str

    @property
    def version(self) -> str:
        """Part of a verdict's key."""
        return f"{self.rule}-1"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer."""
        del texts
        judge = _JUDGES[self.rule]
        judged = [judge(answer, str(problem.reference)) for answer in answers]
        return [Verdict(one.equal, answer, "" if one.equal else one.reason) for answer, one in zip(answers, judged, strict=True)]


def _check_reference(reference: str, grader: str, place: str) -> None:
    """What no answer could equal is refused before anything is paid for."""
    try:
        _JUDGES[grader](None, reference)
    except ValueError as error:
        raise DataError(f"{place}: {error}: jsonl(path, grader='exact') compares text") from None


def _letter(text: str) -> str | None:
    """The letter chosen, so that "A" and "(A) 12" are one vote; None where none is."""
    found = extract(text, STATED_RULES)
    return chosen_letter(found or without_thinking(text) or "")


def _text(text: str) -> str | None:
    """The answer as text: `exact` compares what is written, so no number is given another spelling."""
    return text_key(extract(text, STATED_RULES) or without_thinking(text) or "")


def _reference(value: JSON) -> str:
    text = str(value).encode("utf-8", "replace").decode()
    return text.rpartition("####")[2].strip() if "####" in text else text.strip()


def _rows(path: Path) -> list[tuple[int, dict[str, JSON]]]:
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a JSONL file: jsonl:FILE") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); convert it first") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}:{number}: is not JSON ({error}); the line may be torn: mend or remove it") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}:{number}: is {type(row).__name__}, not an object with a question and an answer")
            rows.append((number, row))
    if not rows:
        raise DataError(f"{path}: holds no problem; one JSON object a line is expected")
    return rows


def _prompt(name: str) -> tuple[list[tuple[Role, str]], str]:
    """Messages of a prompt, and its fingerprint."""
    own = resources.files("ponder.tasks") / "prompts" / f"{name}.json"
    try:
        text = own.read_text("utf-8") if own.is_file() else Path(name).read_text("utf-8")
        body = json.loads(text)
        messages: list[tuple[Role, str]] = [(message["role"], message["content"]) for message in body["messages"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(
            sorted(file.name.removesuffix(".json") for file in (resources.files("ponder.tasks") / "prompts").iterdir())
        )
        raise DataError(f"prompt {name!r} is neither one of {known} nor a JSON file with messages ({error})") from None
    if not any("{question}" in content for _, content in messages):
        raise DataError(f"prompt {name!r}: none of its messages holds {{question}}")
    return messages, hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
