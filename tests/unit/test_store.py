"""The study file: what was awaited is on disk, what is on disk comes back as it was, and damage is named."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
from array import array
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_cases import POOL, ROOT, full_store, kept, read, row

from fakes import Scripted, solved
from ponder.bank import Row, TableBank
from ponder.core import Attempt, Outcome, Spent
from ponder.errors import CorruptError, LockedError, StoreError
from ponder.store import Journal, RunRecord, SqliteTable, StudyStore
from ponder.store.export import canonical
from ponder.store.export import write as write_lines
from ponder.store.journal import VERSION
from ponder.store.table import checksum, pack, unpack
from ponder.strategies.sample import Sample
from ponder.types import Blob, Score, Step, Tokens, Usage

counts = st.integers(0, 2**40)
reals = st.floats(allow_nan=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.db"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A table for many examples, each under a name of its own: opening a file for each would be most of the time."""
    with Journal(tmp_path_factory.mktemp("shared") / "study.db") as journal:
        yield SqliteTable(journal)


numbers = count()


def test_what_was_awaited_is_on_disk_while_the_journal_is_still_open(path):
    async def work():
        await SqliteTable(journal).keep([row()], [ROOT])
        return read(path, "SELECT text FROM samples")

    with Journal(path) as journal:
        assert asyncio.run(work()) == [("because",)]


def test_the_journal_survives_a_power_cut(path):
    """WAL with synchronous = FULL is what SQLite documents as durable; anything less is faster and loses the last commits."""
    with Journal(path) as journal:
        assert journal.read("PRAGMA journal_mode") == [("wal",)]
        assert journal.read("PRAGMA synchronous") == [(2,)]


def test_closing_writes_what_is_queued(path):
    async def work():
        writes = [asyncio.ensure_future(table.keep([row(i)], [ROOT])) for i in range(50)]
        await asyncio.sleep(0)  # all are queued, none is awaited
        await asyncio.to_thread(journal.close)
        await asyncio.gather(*writes)

    journal = Journal(path)
    table = SqliteTable(journal)
    asyncio.run(work())
    assert read(path, "SELECT count(*) FROM samples") == [(50,)]


def test_many_small_writes_at_once_share_commits(path, monkeypatch):
    """A commit is a disk flush; one for each sample would be the speed limit of a study."""
    commits = []
    monkeypatch.setattr(
        "ponder.store.journal.fault", lambda point: commits.append(point) if point == "commit-after-commit" else None
    )

    async def work():
        await asyncio.gather(*[table.keep([row(i)], [ROOT]) for i in range(500)])

    with Journal(path) as journal:
        table = SqliteTable(journal)
        asyncio.run(work())
        assert [r.index for r in table.rows(POOL)] == list(range(500))
    assert len(commits) < 100


def test_a_table_does_not_grow_by_every_pool_it_has_written(path, monkeypatch):
    monkeypatch.setattr("ponder.store.table.MOST_KNOWN", 8)

    async def work():
        for turn in range(3):
            for at in range(20):
                await table.keep([Row(POOL._replace(stream=f"s{at}"), turn, 5, "stop", Step("x"))], [ROOT])

    with Journal(path) as journal:
        table = SqliteTable(journal)
        asyncio.run(work())
        assert len(table._known) <= 9
    assert read(path, "SELECT count(*), count(DISTINCT stream) FROM pools") == [(20, 20)]
    assert read(path, "SELECT count(*) FROM samples") == [(60,)]
    assert read(path, "SELECT count(*) FROM prefixes") == [(1,)]


def test_a_write_is_all_or_nothing(path):
    async def work():
        await journal.write(
            [("INSERT INTO blobs VALUES ('a', 'text/plain', x'00')", [[]]), ("INSERT INTO nowhere VALUES (1)", [[]])]
        )

    with Journal(path) as journal, pytest.raises(StoreError, match="no such table"):
        asyncio.run(work())
    assert read(path, "SELECT * FROM blobs") == []


def test_a_failed_write_says_what_to_do_and_nothing_is_written_after_it(path):
    with Journal(path):
        pass
    read(path, "CREATE TRIGGER full BEFORE INSERT ON samples BEGIN SELECT RAISE(ABORT, 'the disk is full'); END")

    async def work():
        with pytest.raises(StoreError) as caught:
            await SqliteTable(journal).keep([row()], [ROOT])
        assert str(caught.value) == (
            f"{path}: cannot be written (the disk is full); free the disk or the folder, then start the study again"
        )
        with pytest.raises(StoreError, match="the disk is full"):
            await SqliteTable(journal).keep_attempts([Attempt("p", "ok", Usage(), 1)])

    with Journal(path) as journal:
        asyncio.run(work())
    assert read(path, "SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM pools)") == [(0,)]


@pytest.mark.parametrize(("text", "tokens"), [("half a pair \ud83d", 5), ("fine", 2**70)])
def test_what_no_column_can_hold_is_an_error_and_not_a_silent_wait(path, text, tokens):
    async def work():
        async with asyncio.timeout(20):
            await SqliteTable(journal).keep([Row(POOL, 0, 1, "stop", Step(text, Usage(completion=tokens)))], [ROOT])

    with Journal(path) as journal, pytest.raises(StoreError, match="a row cannot be stored"):
        asyncio.run(work())


tokens = st.integers(0, 3).flatmap(
    lambda width: st.lists(
        st.tuples(st.text(), st.integers(-(2**31), 2**31 - 1), st.floats(width=32, allow_nan=False)), max_size=6
    ).map(
        lambda rows: Tokens(
            tuple(r[0] for r in rows),
            array("i", [r[1] for r in rows]),
            array("f", [r[2] for r in rows]),
            width,
            tuple(r[0] for r in rows for _ in range(width)),
            array("f", [r[2] for r in rows for _ in range(width)]),
        )
    )
)


@given(tokens)
def test_tokens_come_back_as_they_were(given_tokens):
    assert unpack(pack(given_tokens)) == given_tokens


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            lambda index, cap, finish, text, usage, tokens, data: Row(POOL, index, cap, finish, Step(text, Usage(*usage), tokens=tokens, data=data)),
            counts,
            counts,
            st.sampled_from(["stop", "length", "filtered", None]),
            st.text(),
            st.tuples(counts, counts, counts, st.just(0), counts, reals),
            st.none() | tokens,
            st.none() | st.builds(Blob, st.text(), st.text()),
        ),
        unique_by=lambda r: (r.index, r.cap),
        max_size=8,
    ),
)  # fmt: skip
def test_samples_come_back_as_they_were(shared, rows):
    pool = POOL._replace(stream=str(next(numbers)))
    rows = [replace(one, pool=pool) for one in rows]
    asyncio.run(shared.keep(rows, [ROOT]))
    found = SqliteTable(shared.journal).rows(pool)
    assert found == rows
    assert [r.step.tokens for r in found] == [r.step.tokens for r in rows]


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.text(), st.tuples(st.floats(0, 1), st.none() | st.floats(), st.lists(st.floats(0, 1)).map(tuple), reals))
)
def test_scores_come_back_as_they_were(shared, given_scores):
    """Negative zero comes back as zero, and a raw value that is no number as none: SQLite knows neither."""
    scores = {
        chain: Score(value, raw, steps, Usage(1, 0, 2, 3, 1, seconds))
        for chain, (value, raw, steps, seconds) in given_scores.items()
    }
    verifier = str(next(numbers))
    asyncio.run(shared.keep_scores(verifier, scores))
    found = shared.scores(verifier, list(scores))
    assert shared.scores("another", list(scores)) == {}
    for chain, score in scores.items():
        assert found[chain].value == score.value
        assert found[chain].raw == (None if score.raw != score.raw else score.raw)
        assert (found[chain].steps, found[chain].usage) == (score.steps, score.usage)
    assert len(found) == len(scores)


def test_a_thousand_scores_are_found_at_once(path):
    """More chains than one statement may have parameters in old versions of SQLite."""
    with Journal(path) as journal:
        table = SqliteTable(journal)
        asyncio.run(table.keep_scores("v", {str(i): Score(i / 2000) for i in range(1300)}))
        assert {chain: score.value for chain, score in table.scores("v", [str(i) for i in range(1300)]).items()} == {
            str(i): i / 2000 for i in range(1300)
        }


def test_a_row_that_is_there_is_not_written_over(path):
    kept(path, row(text="first"))
    kept(path, row(text="second"))
    assert read(path, "SELECT text FROM samples") == [("first",)]


def test_the_chain_that_a_sample_goes_on_from_is_kept_with_it(path):
    longer = ROOT.then(Step("So far"))
    pool = POOL._replace(chain=longer.digest)
    with Journal(path) as journal:
        table = SqliteTable(journal)
        asyncio.run(table.keep([row()], [ROOT]))
        asyncio.run(table.keep([row(pool=pool)], [longer]))
    found = dict(read(path, "SELECT digest, body FROM prefixes"))
    assert {digest: json.loads(body)["text"] for digest, body in found.items()} == {ROOT.digest: "", longer.digest: "So far"}


def read_everything(journal):
    store, table = StudyStore(journal), SqliteTable(journal)
    table.rows(POOL)
    table.scores("v", ["c1"])
    store.verdicts("task", "q1", "g-1")
    store.runs()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("UPDATE samples SET text = 'Because' WHERE idx = 1", f"sample 1 of chain {POOL.chain}"),
        ("UPDATE samples SET completion = 6 WHERE idx = 0", f"sample 0 of chain {POOL.chain}"),
        ("UPDATE samples SET tokens = x'00' WHERE idx = 0", f"sample 0 of chain {POOL.chain}"),
        ("UPDATE samples SET completion = '5' || char(0) WHERE idx = 0", f"sample 0 of chain {POOL.chain}"),
        ("UPDATE scores SET value = 0.75", "score of chain 'c1'"),
        ("UPDATE verdicts SET correct = 0", "verdict on chain 'c1'"),
        ("UPDATE runs SET outcome = replace(outcome, 'true', 'false')", "run 'r1'"),
    ],
)
def test_a_changed_row_is_named(path, damage, what):
    full_store(path)
    with Journal(path) as journal:
        read_everything(journal)  # whole so far
    read(path, damage)
    with Journal(path) as journal, pytest.raises(CorruptError) as caught:
        read_everything(journal)
    assert str(caught.value) == f"{path}: {what} does not match its checksum; restore the file from a copy"


def test_a_checksum_sees_types_order_and_borders():
    rows = [
        ["1", "2"],
        ["2", "1"],
        [1, 2],
        [1.0, 2.0],
        ["12", ""],
        ["1", None],
        ["1", "None"],
        ["1", b"2"],
        [b"1", "2"],
        ["1, '2'"],
    ]
    assert len({checksum(values) for values in rows}) == len(rows)


def test_a_file_that_is_no_database_is_refused(path):
    path.write_text("This is a diary.\n" * 100)
    with pytest.raises(CorruptError) as caught:
        Journal(path)
    assert str(caught.value) == f"{path}: is not a study file (file is not a database); name another folder with --out"
    assert path.read_text().startswith("This is a diary.")


def test_a_file_of_a_later_version_is_refused_and_left_alone(path):
    full_store(path)
    read(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(CorruptError) as caught:
        Journal(path)
    assert (
        str(caught.value) == f"{path}: written by a version with schema {VERSION + 1}, this one reads {VERSION}; use that version"
    )
    assert len(read(path, "SELECT * FROM samples")) == 2
    Path(path.parent / "study.db.lock").unlink()  # the refusal let go of the lock, or this would hang:
    read(path, f"PRAGMA user_version = {VERSION}")
    Journal(path).close()


def test_a_database_with_a_torn_page_is_refused(path):
    kept(path, *[row(i, text="x" * 500) for i in range(200)])
    body = bytearray(path.read_bytes())
    body[4096 * 12 : 4096 * 30] = b"\xa5" * (4096 * 18)
    path.write_bytes(body)
    with pytest.raises(CorruptError, match="restore"), Journal(path) as journal:
        SqliteTable(journal).rows(POOL)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place, why in ((tmp_path / "file" / "study", "Not a directory"), (Path("/dev/null/study"), "Not a directory")):
        with pytest.raises(StoreError) as caught:
            Journal(place / "study.db")
        assert str(caught.value) == f"{place}: cannot be written ({why}); name another folder with --out"


def hold(path, held, free):
    with Journal(path):
        held.set()
        free.wait(60)


@pytest.mark.slow
def test_a_second_process_is_refused_with_the_owner_until_the_owner_is_done(path):
    context = multiprocessing.get_context("spawn")
    held, free = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, held, free))
    other.start()
    assert held.wait(60)
    with pytest.raises(LockedError) as caught:
        Journal(path)
    assert str(caught.value) == (
        f"{path.parent}: in use by process {other.pid} on {os.uname().nodename}; wait for it, or name another folder with --out"
    )
    free.set()
    other.join(60)
    Journal(path).close()


def test_the_same_process_cannot_hold_a_folder_twice(path):
    with Journal(path), pytest.raises(LockedError, match=f"in use by process {os.getpid()} on "):
        Journal(path)


def test_the_export_is_sorted_and_leaves_out_what_may_differ(path, tmp_path):
    """Two files with the same rows, written in another order, in other groups, at another speed."""
    full_store(path)
    other = tmp_path / "other" / "study.db"
    kept(other, row(1))
    record, outcome = full_store(other)
    slower = Spent(outcome.spent.samples, outcome.spent.usage + Usage(seconds=9.0, cached=2), outcome.spent.money)

    async def work():
        await StudyStore(journal).keep_run(
            RunRecord(**{name: getattr(record, name) for name in RunRecord.__slots__} | {"spent": slower}), outcome
        )
        await SqliteTable(journal).keep_attempts([Attempt("p", "timeout", Usage(), 0)])

    with Journal(other) as journal:
        asyncio.run(work())
        second = list(canonical(journal))
    read(other, "UPDATE samples SET seconds = 7.5, cached = 3")
    with Journal(path) as journal:
        first = list(canonical(journal))
    assert first == second
    assert [json.loads(line)["kind"] for line in first] == [
        "prefix",
        "problem",
        *["sample"] * 2,
        "score",
        "verdict",
        "run",
        *["event"] * 2,
    ]
    assert "seconds" not in "".join(first)


def test_an_outcome_without_a_proposal_is_kept_as_one(path):
    silent = Outcome(None, None, Spent(3, Usage(completion=9)), (), oracle=True, failed=2, exhausted=True)
    record = RunRecord("r", "{}", "q", "rejection(n=3)", "samples=3", None, None, False, silent.spent, True, 2, True)
    with Journal(path) as journal:
        asyncio.run(StudyStore(journal).keep_run(record, silent))
    with Journal(path) as journal:
        store = StudyStore(journal)
        assert store.runs() == [record]
        assert store.runs("{}") == [record]
        assert store.runs("another cell") == []
        assert store.finished() == {"r": 2}


def test_a_run_done_again_takes_the_place_of_the_first(path):
    record, outcome = full_store(path)
    with Journal(path) as journal:
        asyncio.run(StudyStore(journal).keep_run(record, outcome))
        assert len(StudyStore(journal).events("r1")) == 2
        assert len(StudyStore(journal).runs()) == 1


def test_an_export_replaces_a_file_whole_or_not_at_all(tmp_path):
    target = tmp_path / "export.jsonl"
    assert write_lines(iter(["one", "two"]), target) == 2
    assert target.read_text() == "one\ntwo\n"

    def breaks():
        yield "three"
        raise RuntimeError("the export broke off")

    with pytest.raises(RuntimeError):
        write_lines(breaks(), target)
    assert target.read_text() == "one\ntwo\n"


def test_a_bank_on_disk_gives_again_what_it_gave(path):
    script = Scripted([("a", "stop", 1), ("b", "stop", 2), ("c", "length", 3)])

    def outcome():
        with Journal(path) as journal:
            return solved(Sample(), script, bank=TableBank(SqliteTable(journal)))

    first = outcome()
    assert outcome() == first
    assert script.asked == [("0", 0)]
