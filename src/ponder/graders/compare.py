"""Comparing an answer with a reference: as numbers, as text, as a choice among letters. Pure functions."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from ponder.graders.extract import numeric_key

Reason = Literal["equal", "different", "no_answer"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What comparing found; only "equal" is right. "no_answer": there was nothing of the kind to compare."""

    reason: Reason

    @property
    def equal(self) -> bool:
        """Whether the answer is the reference."""
        return self.reason == "equal"


def numeric(answer: str | None, reference: str) -> Comparison:
    """Equal as exact numbers, by `ponder.graders.extract.numeric_key`: no tolerance, 0.33 is not 1/3.

    Args:
        answer: what was extracted; None or no number is "no_answer".
        reference: a number.

    Raises:
        ValueError: the reference is no number, which is the task's mistake and not the model's.
    """
    wanted = numeric_key(reference)
    if wanted is None:
        raise ValueError(f"the reference {reference!r} is no number; grade this task by exact text or by choice")
    return _compared(None if answer is None else numeric_key(answer), wanted)


def exact(answer: str | None, reference: str) -> Comparison:
    """Equal as text: Unicode composed (NFC), case folded, any run of white space as one space, none at the ends.

    Args:
        answer: what was extracted; None or white space is "no_answer".
        reference: not empty.

    Raises:
        ValueError: an empty reference, which any silence would equal.
    """
    wanted = text_key(reference)
    if wanted is None:
        raise ValueError(f"the reference {reference!r} is empty; a problem needs an answer")
    return _compared(None if answer is None else text_key(answer), wanted)


def choice(answer: str | None, reference: str, letters: str = "ABCDE") -> Comparison:
    """Equal as the letter chosen, by `chosen_letter`.

    Args:
        answer: what was extracted; None or no single choice is "no_answer".
        reference: one of the letters, in any of the forms that `chosen_letter` reads.
        letters: the options of this problem, ASCII letters.

    Raises:
        ValueError: letters that are none, or a reference that is not one of them.
    """
    wanted = chosen_letter(reference, letters)
    if wanted is None:
        raise ValueError(f"the reference {reference!r} is none of the options {letters!r}")
    return _compared(None if answer is None else chosen_letter(answer, letters), wanted)


def text_key(text: str) -> str | None:
    """One spelling for texts that `exact` holds equal; None for white space alone."""
    return unicodedata.normalize("NFC", " ".join(text.split()).casefold()) or None


def chosen_letter(answer: str, letters: str = "ABCDE") -> str | None:
    r"""The one option that an answer names, as a capital; None for none, several, or a word that begins with a letter.

    Read: A, a, (A), [A], A., A), A: , $A$, **A**, \text{A}, each alone or, where a mark follows the letter, followed by
    the option's text, such as "A) 12"; before it at most "the answer is", "answer:", "option", "choice". A letter that is
    followed by bare text is not read ("A cat sat"), nor one inside a sentence ("not A").
    """
    if not letters or not letters.isascii() or not letters.isalpha():
        raise ValueError(f"letters is {letters!r}; the options are ASCII letters, such as 'ABCD'")
    plain = _LATEX.sub(r"\1", answer).translate(_DECORATION).strip()
    match = _CHOICE.fullmatch(plain)
    if match is None:
        return None
    letter = (match["inside"] or match["before"] or match["alone"]).upper()
    others = {option.upper() for option in _MARKED.findall(match["rest"] or "")} - {letter}
    if letter not in letters.upper() or not others.isdisjoint(letters.upper()):
        return None
    return letter


_LATEX = re.compile(r"\\(?:boxed|text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_DECORATION = str.maketrans("", "", "*$`")
_MARKED = re.compile(r"(?<![A-Za-z0-9])\(?([A-Za-z])\)")  # (B) or B) within the text of an option
_CHOICE = re.compile(
    r"""
    (?: (?:the\s+)? (?:(?:final|correct|best)\s+)? answer (?:\s+is\b|\s*:)? \s* :? \s* )?
    (?: (?:option|choice) \s* :? \s* )?
    (?: (?: [(\[] \s* (?P<inside> [A-Za-z] ) \s* [)\]] [.:]? | (?P<before> [A-Za-z] ) \s* (?: \) [.:]? | [.:] ) )
        (?: \s+ (?P<rest> .* ) )?
      | (?P<alone> [A-Za-z] )
    )
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def _compared(found: str | None, wanted: str) -> Comparison:
    if found is None:
        return Comparison("no_answer")
    return Comparison("equal" if found == wanted else "different")
