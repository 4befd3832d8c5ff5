"""One SQLite file with one writer thread: `await journal.write(...)` returns once the rows are on disk.

The thread drains whatever is queued into one transaction (no timer) and wakes the event loop once for each group. Reads go
through a second connection. The file is held by one process: a lock file with its owner, freed by the kernel when it dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import queue
import signal
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ponder.errors import CorruptError, LockedError, StoreError

VERSION = 1
"""Of the schema, kept in `PRAGMA user_version`. A file of a later version is refused."""

Value: TypeAlias = str | int | float | bytes | None
Rows: TypeAlias = Sequence[Sequence[Value]]

SCHEMA = """
CREATE TABLE prefixes (digest TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE pools (id INTEGER PRIMARY KEY, policy TEXT NOT NULL, chain TEXT NOT NULL, sampling TEXT NOT NULL, stream TEXT NOT NULL,
    UNIQUE (policy, chain, sampling, stream));
CREATE TABLE samples (pool INTEGER NOT NULL, idx INTEGER NOT NULL, cap INTEGER NOT NULL, finish TEXT, text TEXT NOT NULL,
    prompt INTEGER NOT NULL, cached INTEGER NOT NULL, completion INTEGER NOT NULL, calls INTEGER NOT NULL, seconds REAL NOT NULL,
    tokens BLOB, data TEXT, crc INTEGER NOT NULL, UNIQUE (pool, idx, cap));
CREATE TABLE scores (verifier TEXT NOT NULL, chain TEXT NOT NULL, value REAL NOT NULL, raw REAL, steps TEXT NOT NULL,
    prompt INTEGER NOT NULL, completion INTEGER NOT NULL, scored INTEGER NOT NULL, calls INTEGER NOT NULL, seconds REAL NOT NULL,
    crc INTEGER NOT NULL, UNIQUE (verifier, chain));
CREATE TABLE blobs (digest TEXT PRIMARY KEY, media TEXT NOT NULL, bytes BLOB NOT NULL);
CREATE TABLE attempts (id INTEGER PRIMARY KEY, policy TEXT NOT NULL, status TEXT NOT NULL, prompt INTEGER NOT NULL, cached INTEGER NOT NULL,
    completion INTEGER NOT NULL, children INTEGER NOT NULL, seconds REAL NOT NULL, detail TEXT NOT NULL);
CREATE TABLE problems (task TEXT NOT NULL, id TEXT NOT NULL, ord INTEGER NOT NULL, question TEXT NOT NULL, reference TEXT NOT NULL,
    UNIQUE (task, id));
CREATE TABLE verdicts (task TEXT NOT NULL, problem TEXT NOT NULL, chain TEXT NOT NULL, grader TEXT NOT NULL, correct INTEGER NOT NULL,
    answer TEXT, reason TEXT NOT NULL, crc INTEGER NOT NULL, UNIQUE (task, problem, chain, grader));
CREATE TABLE runs (id TEXT PRIMARY KEY, cell TEXT NOT NULL, problem TEXT NOT NULL, strategy TEXT NOT NULL, budget TEXT NOT NULL,
    outcome TEXT NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE events (run TEXT NOT NULL, ord INTEGER NOT NULL, kind TEXT NOT NULL, samples INTEGER NOT NULL, tokens INTEGER NOT NULL,
    usage TEXT NOT NULL, chains TEXT NOT NULL, UNIQUE (run, ord));
"""


class _Work(NamedTuple):
    statements: Sequence[tuple[str, Rows]]
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class Journal:
    """An open study file. Use as a context manager, or `close` it.

    hold: be the one process that writes to it; without, it is only read, as it stood at the first look, and another may hold it.
    """

    def __init__(self, path: Path, *, hold: bool = True) -> None:
        self.path = path
        self._lock = take(path) if hold else None
        fault("lock-taken")
        try:
            self._reader = _connect(path)
            self._check_version()
            if not hold:
                self._reader.execute("PRAGMA query_only = ON")
                self._reader.execute("BEGIN")
        except BaseException:
            if self._lock is not None:
                os.close(self._lock)
            raise
        fault("schema-written")
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._failed: StoreError | None = None
        self._thread = threading.Thread(target=self._drain, name=f"journal {path.name}", daemon=True)
        self._thread.start()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def write(self, statements: Sequence[tuple[str, Rows]]) -> None:
        """Execute each statement for each of its rows; returns once all of them are durable. All or nothing."""
        if self._failed:
            raise self._failed
        if self._lock is None:
            raise StoreError(f"{self.path}: was opened to be read")
        loop = asyncio.get_running_loop()
        work = _Work(statements, loop.create_future(), loop)
        self._queue.put(work)
        await work.done

    @property
    def failed(self) -> StoreError | None:
        """Why nothing can be written any more; None while it can."""
        return self._failed

    def read(self, sql: str, values: Sequence[Value] = ()) -> list[tuple[Value, ...]]:
        """The rows of a query, on what is durable."""
        try:
            return self._reader.execute(sql, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise CorruptError(
                f"{self.path}: cannot be read ({error}); restore it, or start the study in a new folder"
            ) from error

    def close(self) -> None:
        """Write what is queued, then let go of the file."""
        self._queue.put(None)
        self._thread.join()
        fault("journal-before-close")
        self._reader.close()
        if self._lock is not None:
            os.close(self._lock)

    def _check_version(self) -> None:
        [[version]] = self.read("PRAGMA user_version")
        if version == 0 and self._lock is None:
            raise StoreError(f"{self.path}: holds no study yet; start it with `ponder run`")
        if version == 0:
            self._reader.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise CorruptError(
                f"{self.path}: written by a version with schema {version!r}, this one reads {VERSION}; use that version"
            )

    def _drain(self) -> None:
        writer = _connect(self.path)
        while (work := self._queue.get()) is not None:
            group = [work]
            last = False
            while True:
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
                if item is None:
                    last = True
                    break
                group.append(item)
            self._commit(writer, group)
            if last:
                break
        writer.close()

    def _commit(self, writer: sqlite3.Connection, group: list[_Work]) -> None:
        error: StoreError | None = None
        try:
            fault("commit-before-begin")
            writer.execute("BEGIN IMMEDIATE")
            for sql, rows in _joined(group):
                writer.executemany(sql, rows)
                fault("commit-between-statements")
            fault("commit-before-commit")
            writer.execute("COMMIT")
            fault("commit-after-commit")
        except sqlite3.Error as cause:
            error = StoreError(
                f"{self.path}: cannot be written ({cause}); free the disk or the folder, then start the study again"
            )
        except (UnicodeEncodeError, OverflowError) as cause:  # what no column can hold: lone surrogates, more than 64 bits
            error = StoreError(f"{self.path}: a row cannot be stored ({cause}); a policy or a task gave a value that is not data")
        if error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            self._failed = error
        by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for work in group:
            by_loop.setdefault(work.loop, []).append(work.done)
        for loop, futures in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, futures, error)


def _joined(group: Sequence[_Work]) -> Iterator[tuple[str, Rows]]:
    """The statements of a group in order; equal neighbours as one, which is what makes many small writes cheap."""
    waiting, collected = "", list[Sequence[Value]]()
    for sql, rows in (statement for work in group for statement in work.statements if statement[1]):
        if sql != waiting and collected:
            yield waiting, collected
            collected = []
        waiting = sql
        collected.extend(rows)
    if collected:
        yield waiting, collected


def _wake(futures: Sequence[asyncio.Future[None]], error: StoreError | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.DatabaseError as error:
        if "not a database" in str(error):
            raise CorruptError(f"{path}: is not a study file ({error}); name another folder with --out") from error
        raise StoreError(f"{path}: cannot be opened ({error}); name a folder that can be written with --out") from error
    return connection


def take(path: Path) -> int:
    """Take the lock of a study file, or of another that one process writes at a time; gives the descriptor, which frees it when closed.

    Raises `LockedError` naming the owner; the kernel frees the lock when the owner dies.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be written ({error.strerror}); name another folder with --out") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.read(handle, 1000).decode(errors="replace")
        os.close(handle)
        try:
            who = "process {pid} on {host}".format(**json.loads(owner))
        except (ValueError, KeyError, TypeError):
            who = "another process"
        raise LockedError(f"{path.parent}: in use by {who}; wait for it, or name another folder with --out") from error
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps({"pid": os.getpid(), "host": os.uname().nodename}).encode(), 0)
    return handle


_fault_point, _, _fault_count = os.environ.get("PONDER_FAULT", "").partition(":")
_fault_left = int(_fault_count or 1)


def fault(point: str) -> None:
    """Die here by SIGKILL if PONDER_FAULT=point:nth says so: how the tests prove that nothing durable is lost."""
    global _fault_left
    if point == _fault_point:
        _fault_left -= 1
        if _fault_left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
