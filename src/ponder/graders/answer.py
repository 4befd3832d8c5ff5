"""The reference-free key of a stated answer: what votes are counted by where a task has no key of its own."""

from __future__ import annotations

from ponder.graders.extract import DEFAULT_RULES, Rule, extract, numeric_key, without_thinking

STATED_RULES = tuple(rule for rule in DEFAULT_RULES if rule is not Rule.LAST_NUMBER)


def stated_answer(text: str) -> str | None:
    """The answer a text states (boxed, tagged, after "####" or "the answer is"), else its last number, else the text itself.

    Numbers come back in one spelling; other answers with case and outer spaces removed. None for an empty text.
    """
    found = extract(text, STATED_RULES) or extract(text, (Rule.LAST_NUMBER,)) or (without_thinking(text) or "").strip()
    return numeric_key(found) or " ".join(found.casefold().split()) or None


def numeric_answer(text: str) -> str | None:
    """The number a text states as its answer, or its last number; None where there is none."""
    found = extract(text)
    return numeric_key(found) if found is not None else None
