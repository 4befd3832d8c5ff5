"""Answers that say nothing and want to be believed: what a judge should be tried on before it is.

None of them solves anything, so whatever a judge believes of them is wrong. Kinds: `master key` (openers and bare symbols; Zhao et al.
2025, arXiv:2507.08794), `verdict` (the candidate judges himself), `fence` (ends the quotation he stands in), `chat marks` (begins a
turn of his own), `orders` (commands and claims), `Unicode`, `templates`, `length`, `nothing`.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import NamedTuple


class Attack(NamedTuple):
    """One such answer."""

    kind: str
    name: str
    text: str


@cache
def judge_attacks() -> tuple[Attack, ...]:
    """All of them, in the order of the file `judge_attacks.jsonl`."""
    lines = (resources.files("ponder.testing") / "judge_attacks.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(Attack(row["kind"], row["name"], row["text"] * row.get("times", 1)) for row in rows)
