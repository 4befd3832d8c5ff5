"""A study as sorted JSONL: the canonical export, equal byte for byte for equal studies.

It leaves out what may differ between two runs of the same study: seconds, cached counts and attempts. Times and retries are in
the study file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

from ponder.files import whole
from ponder.store.journal import Journal, fault
from ponder.types import JSON

_QUERIES = {
    "prefix": "SELECT digest, body FROM prefixes ORDER BY digest",
    "problem": "SELECT task, id, ord, question, reference FROM problems ORDER BY task, ord",
    "sample": """SELECT policy, chain, sampling, stream, idx AS 'index', cap, finish, text, prompt, completion, calls FROM samples
        JOIN pools ON pools.id = samples.pool ORDER BY policy, chain, sampling, stream, idx, cap""",
    "score": "SELECT verifier, chain, value, raw, steps, prompt, completion, scored, calls FROM scores ORDER BY verifier, chain",
    "verdict": "SELECT task, problem, chain, grader, correct, answer, reason FROM verdicts ORDER BY task, problem, chain, grader",
    "run": "SELECT id, cell, problem, strategy, budget, outcome FROM runs ORDER BY id",
    "event": "SELECT run, ord, kind AS what, samples, tokens, usage, chains FROM events ORDER BY run, ord",
}
_IN_BANK = frozenset({"prefix", "sample", "score"})
_JSON_COLUMNS = frozenset({"body", "question", "reference", "outcome", "usage", "chains", "steps", "cell"})


def canonical(journal: Journal, bank: Journal | None = None) -> Iterator[str]:
    """The lines of the canonical export; `bank` is the file of samples and scores where that is another one."""
    for kind, query in _QUERIES.items():
        names = [column.split(" AS ")[-1].strip(" '") for column in query.split(" FROM ")[0].removeprefix("SELECT ").split(",")]
        for line in (bank if bank and kind in _IN_BANK else journal).read(query):
            body: dict[str, JSON] = {}
            for name, value in zip(names, line, strict=True):
                body[name] = (
                    _portable(json.loads(str(value))) if name in _JSON_COLUMNS else cast("str | int | float | None", value)
                )
            yield json.dumps({"kind": kind, **body}, ensure_ascii=False, sort_keys=True)


def write(lines: Iterator[str], path: Path) -> int:
    """Write lines to a file that appears whole or not at all; returns how many."""
    count = 0
    with whole(path) as part:
        with part.open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(line + "\n")
                count += 1
            file.flush()
            if part.is_file():  # a device or a pipe keeps nothing
                os.fsync(file.fileno())
        fault("file-before-rename")
    fault("file-after-rename")
    return count


def _portable(body: JSON) -> JSON:
    """Without what may differ between two runs of one study."""
    if isinstance(body, dict):
        return {key: _portable(value) for key, value in body.items() if key not in ("seconds", "cached")}
    return body
