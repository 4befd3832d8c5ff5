"""Step labels that others published: PRM800K's human ratings, and Math-Shepherd's roll-out labels, both as JSONL.

Both are read line by line; nothing else of a file is kept in memory. Equal problems have equal ids, whatever line they stand on, so
that a split by problem holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from ponder.errors import DataError
from ponder.learners.labels import Label, Stepwise
from ponder.types import JSON, Message, user

Ask: TypeAlias = Callable[[str], tuple[Message, ...]]
ANSWER = "# Answer"  # stands in the last step of a whole solution in PRM800K
MARK = "ки"  # Math-Shepherd's step tag; its labels have + or - in its place
_FIRST = re.compile(r"\bstep 1:", re.IGNORECASE)


def plain(problem: str) -> tuple[Message, ...]:
    """The problem as a user's message."""
    return (user(problem),)


def prm800k(path: Path, *, neutral: Label = 1.0, separator: str = "\n", ask: Ask = plain) -> Iterator[Stepwise]:
    """Human step ratings of MATH solutions (Lightman et al. 2023, arXiv:2305.20050; github.com/openai/prm800k).

    For each line the chosen path, and each completion that was not chosen as a chain of its own: the path before it, then it. A rating
    stands once: in an alternative the steps before it are unknown, and alternatives that say and are rated the same are one. Ratings
    -1 and 1 become 0 and 1; `neutral` is what 0 becomes: 1 as in the paper, or None to leave such steps out. A step that the labeller
    wrote has no rating and counts as good; any other without a rating, or flagged, is unknown. A line that calls its problem bad, or
    a chain without a known label, gives nothing. separator ends each step but the last of a whole solution. ask: makes the prompt of a problem.

    Raises `DataError` with file and line for what is not of this shape.
    """
    for place, row in _rows(path):
        question, label = _object(row, "question", place), _object(row, "label", place)
        problem = _text(question, "problem", place)
        if label.get("finish_reason") == "bad_problem":
            continue
        for texts, labels in _paths(label, neutral, place):
            if set(labels) <= {None}:
                continue
            whole = ANSWER in texts[-1]
            steps = (*(text + separator for text in texts[:-1]), texts[-1] if whole else texts[-1] + separator)
            yield Stepwise(_identify("prm800k", problem), ask(problem), steps, labels, whole)


def math_shepherd(
    path: Path, *, skipped: Counter[str] | None = None, separator: str = "\n", ask: Ask = plain
) -> Iterator[Stepwise]:
    """Hard labels by roll-outs of GSM8K and MATH solutions (Wang et al. 2024, arXiv:2312.08935; peiyi9979/Math-Shepherd).

    A line has `input`, a question and steps "Step 1: ..." that each end with a tag, and `label`, the same text with + or - for the tag.
    Some are annotated wrongly (a tag inside the question, no first step, other text in the label). Where `skipped` is given they are
    left out and counted there by reason; else they raise `DataError` with file, line and reason, as does a line that is not JSON.
    """
    for place, row in _rows(path):
        marked, label = _text(row, "input", place), _text(row, "label", place)
        try:
            question, steps, labels = _shepherd(marked, label)
        except ValueError as error:
            if skipped is None:
                raise DataError(f"{place}: {error}; give skipped=Counter() to leave such lines out and count them") from None
            skipped[str(error)] += 1
            continue
        texts = (*(step + separator for step in steps[:-1]), steps[-1])
        yield Stepwise(_identify("shepherd", question), ask(question), texts, labels)


def _paths(label: Mapping[str, JSON], neutral: Label, place: str) -> Iterator[tuple[tuple[str, ...], tuple[Label, ...]]]:
    """Each rejected completion after the path that led to it, and the chosen path itself at the end."""
    texts: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    for step in _objects(label, "steps", place):
        completions = _objects(step, "completions", place)
        rated = [(_text(each, "text", place), _rating(each, neutral, place)) for each in completions]
        chosen = step.get("chosen_completion")
        if chosen is not None and (type(chosen) is not int or not 0 <= chosen < len(rated)):
            raise DataError(f"{place}: chosen_completion is {chosen!r}; it must be null or one of the {len(rated)} completions")
        taken = None if chosen is None else rated[chosen]
        for text, value in dict.fromkeys(each for each in rated if each != taken):
            yield (*texts, text), (*[None] * len(texts), value)
        if taken is not None:
            text, value = taken
        elif step.get("human_completion") is not None:
            written = _object(step, "human_completion", place)
            text, value = _text(written, "text", place), None if written.get("flagged") else 1.0
        else:
            break
        texts, labels = (*texts, text), (*labels, value)
    if texts:
        yield texts, labels


def _rating(completion: Mapping[str, JSON], neutral: Label, place: str) -> Label:
    rating = completion.get("rating")
    if rating is None or completion.get("flagged"):
        return None
    if type(rating) is not int or rating not in (-1, 0, 1):
        raise DataError(f"{place}: a rating is {rating!r}; it must be -1, 0, 1 or null")
    return neutral if rating == 0 else float(rating == 1)


def _shepherd(marked: str, label: str) -> tuple[str, list[str], tuple[Label, ...]]:
    """Question, steps and labels. Raises `ValueError` with the reason, which names no text, so that reasons can be counted."""
    *pieces, rest = marked.split(MARK)
    if not pieces or rest.strip():
        raise ValueError("text without a tag at its end" if pieces else "no tag")
    labels: list[Label] = []
    left = label
    for piece in pieces:
        sign = left[len(piece) : len(piece) + 1]
        if not left.startswith(piece) or sign not in ("+", "-"):
            raise ValueError("the label's text is not that of the input")
        labels.append(float(sign == "+"))
        left = left[len(piece) + 1 :]
    if left.strip():
        raise ValueError("the label's text is not that of the input")
    starts = list(_FIRST.finditer(pieces[0]))
    if len(starts) != 1:
        raise ValueError(
            "a tag in the question, or no 'Step 1:'" if not starts else "'Step 1:' stands twice before the first tag"
        )
    question, pieces[0] = pieces[0][: starts[0].start()].strip(), pieces[0][starts[0].start() :]
    steps = [piece.strip() for piece in pieces]
    if not question or not all(steps):
        raise ValueError("an empty question" if not question else "an empty step")
    return question, steps, tuple(labels)


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, JSON]]]:
    """Each line that is not blank, with its place."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                place = f"{path}:{number}"
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{place}: is not JSON ({error}), perhaps torn: mend or remove it") from None
                if not isinstance(row, dict):
                    raise DataError(f"{place}: is {type(row).__name__}; an object is expected")
                yield place, row
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a JSONL file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); unpack or convert it") from None


def _object(row: Mapping[str, JSON], field: str, place: str) -> Mapping[str, JSON]:
    value = row.get(field)
    if not isinstance(value, dict):
        raise DataError(f"{place}: {field} is {_short(value)}; an object is expected")
    return value


def _objects(row: Mapping[str, JSON], field: str, place: str) -> Sequence[Mapping[str, JSON]]:
    value = row.get(field)
    if value is None:
        return []  # some steps of PRM800K have no completions
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise DataError(f"{place}: {field} is {_short(value)}; a list of objects is expected")
    return [each for each in value if isinstance(each, dict)]


def _text(row: Mapping[str, JSON], field: str, place: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{place}: {field} is {_short(value)}; a text is expected")
    return value


def _short(value: JSON) -> str:
    shown = "missing or null" if value is None else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


def _identify(name: str, problem: str) -> str:
    return f"{name}-{hashlib.blake2b(problem.strip().encode('utf-8', 'surrogatepass'), digest_size=6).hexdigest()}"
