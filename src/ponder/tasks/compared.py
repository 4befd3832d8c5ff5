"""Tasks whose answers are compared as a number, a text or a letter: the rule gives the votes' key and the grader alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from ponder.errors import DataError
from ponder.graders.answer import STATED_RULES, numeric_answer
from ponder.graders.compare import Comparison, choice, chosen_letter, exact, numeric, text_key
from ponder.graders.extract import extract, without_thinking
from ponder.graders.maths import maths_key
from ponder.tasks.fields import short
from ponder.types import Problem, Verdict

RULES = ("numeric", "exact", "choice")
LETTERS = "ABCDE"


@dataclass(frozen=True, slots=True)
class CompareGrader:
    """Compares the extracted answer with the reference: `numeric`, `exact` or `choice` (among `letters`)."""

    rule: str
    letters: str = LETTERS

    @property
    def version(self) -> str:
        """Part of a verdict's key."""
        return f"{self.rule}-1" + (f"/{self.letters}" if self.letters != LETTERS else "")

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer."""
        del texts
        judged = [self.compare(answer, str(problem.reference)) for answer in answers]
        return [Verdict(one.equal, answer, "" if one.equal else one.reason) for answer, one in zip(answers, judged, strict=True)]

    def compare(self, answer: str | None, reference: str) -> Comparison:
        """Raises `ValueError` where the reference is none that any answer could equal."""
        if self.rule == "choice":
            return choice(answer, reference, self.letters)
        return {"numeric": numeric, "exact": exact}[self.rule](answer, reference)


def answer_key(rule: str, letters: str = LETTERS) -> Callable[[str], str | None]:
    """The key under which the answers of a rule vote."""
    if rule == "choice":
        return partial(_letter, letters=letters)
    return {"numeric": numeric_answer, "exact": _text}[rule]


def check_maths(reference: str, place: str) -> None:
    """Raises `DataError` for a reference that no answer could equal as mathematics, before anything is paid for."""
    try:
        if maths_key(reference) is not None:
            return
    except (ValueError, ArithmeticError, RecursionError, MemoryError):
        pass
    raise DataError(
        f"{place}: the reference {short(reference)} cannot be read as mathematics, so that no answer could equal it; correct it, or compare text: jsonl(path, grader='exact')"
    )


def _letter(text: str, letters: str) -> str | None:
    """The letter chosen, so that "A" and "(A) 12" are one vote; None where none is."""
    found = extract(text, STATED_RULES)
    return chosen_letter(found or without_thinking(text) or "", letters)


def _text(text: str) -> str | None:
    """The answer as text: `exact` compares what is written, so no number is given another spelling."""
    return text_key(extract(text, STATED_RULES) or without_thinking(text) or "")
