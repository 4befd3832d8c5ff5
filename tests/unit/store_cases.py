"""Rows to keep in a study file, and a way to read them past our code."""

from __future__ import annotations

import asyncio
import sqlite3

from fakes import Scripted, solved
from ponder.bank import Row
from ponder.core import Pool
from ponder.store import Journal, RunRecord, SqliteTable, StudyStore
from ponder.strategies.sample import Sample
from ponder.types import Chain, Problem, Question, Score, Step, Usage, Verdict, user

POOL = Pool("policy", Chain((user("Why?"),)).digest, "temperature=1.0", "0")


ROOT = Chain((user("Why?"),))


def row(index=0, text="because", cap=100, pool=POOL, **more):
    return Row(pool, index, cap, "stop", Step(text, Usage(3, 1, 5, 0, 1, 0.25), **more))


def kept(path, *rows):
    with Journal(path) as journal:
        asyncio.run(SqliteTable(journal).keep(rows, [ROOT]))


def read(path, sql, *values):
    """What stands in a file, read past all of our code."""
    connection = sqlite3.connect(path)
    found = connection.execute(sql, values).fetchall()
    connection.commit()
    connection.close()
    return found


def full_store(path):
    """One row of each kind that has a checksum."""
    problem = Problem(Question("q1", (user("Why?"),), {"level": 3}), "because")
    outcome = solved(Sample(), Scripted([("because", "stop", 2)]), question=problem.question)
    record = RunRecord(
        "r1", "{}", "q1", "sample()", "none", outcome.chain.digest, "because", True, outcome.spent, False, 0, False
    )
    with Journal(path) as journal:
        store, table = StudyStore(journal), SqliteTable(journal)

        async def work():
            await table.keep([row(), row(1)], [ROOT])
            await table.keep_scores("v", {"c1": Score(0.5, 2.0)})
            await store.keep_problems("task", [problem])
            await store.keep_verdicts("task", "q1", "g-1", {"c1": Verdict(True, "because", "")})
            await store.keep_run(record, outcome)

        asyncio.run(work())
        assert store.problems("task") == [problem]
        assert store.runs() == [record]
        assert store.verdicts("task", "q1", "g-1") == {"c1": Verdict(True, "because", "")}
        assert store.verdicts("task", "q1", "g-2") == {}, "another version of the grader has not judged yet"
        assert [event.kind for event in store.events("r1")] == ["extend", "propose"]
    return record, outcome
