"""The study folder on disk: SQLite as journal (WAL, synchronous=FULL), one writer thread, one process at a time."""

from __future__ import annotations

from ponder.store.journal import Journal
from ponder.store.records import RunRecord, StudyStore
from ponder.store.table import SqliteTable

__all__ = ["Journal", "RunRecord", "SqliteTable", "StudyStore"]
