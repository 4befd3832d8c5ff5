"""Rows of Parquet files. Needs pyarrow, which comes with the extra `data`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

from ponder.errors import DataError, MissingExtraError
from ponder.tasks.fields import Cells, Row, check_names, clip, plain

BATCH = 1024  # rows that are unpacked together


def parquet_rows(path: Path, file: str, largest: int) -> Iterator[Row]:
    """The rows of a file. largest: bytes, unpacked. Raises `DataError`, and `MissingExtraError` without pyarrow."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    shown = plain(path)
    number = size = 0
    try:
        with parquet.ParquetFile(path) as body:
            names = [plain(name) for name in body.schema_arrow.names]
            check_names(names, f"{shown}: the column")
            at = {name: index for index, name in enumerate(names)}
            for batch in body.iter_batches(BATCH):
                size += batch.nbytes
                if size > largest:
                    raise DataError(f"{shown}: unpacks to more than {largest:,} bytes; split it")
                columns = batch.columns
                for index in range(batch.num_rows):
                    number += 1
                    place = f"{shown}[{number}]"
                    yield Row(file, number, place, Cells(names, partial(_cell, columns, at, index), place))
    except DataError:
        raise
    except Exception as error:  # whatever a torn or forged file makes the library say
        raise DataError(f"{shown}: cannot be read as Parquet ({clip(error)}); write it again") from None


class _Scalar(Protocol):
    def as_py(self) -> object: ...


class _Column(Protocol):
    def __getitem__(self, index: int, /) -> _Scalar: ...


def _cell(columns: list[_Column], at: dict[str, int], index: int, name: str) -> object:
    value = columns[at[name]][index].as_py()
    if getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0):  # a time of pandas, given where that is installed
        raise ValueError("a time in nanoseconds does not fit into microseconds")
    return value
