"""The records of a public file, whatever its form: JSONL, one JSON list, CSV, Parquet, or a folder of such files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ponder.errors import DataError, MissingExtraError
from ponder.tasks.files import rows
from ponder.types import JSON

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """One of them. number: from 1, through all files; file: the name of its file without endings; place: for messages."""

    number: int
    file: str
    place: str
    fields: Mapping[str, JSON]


def read_records(path: str, header: Sequence[str] = ()) -> list[Record]:
    """The records of a file, by its ending: .csv, .parquet (needs pyarrow), any other is JSON (one object a line, or one list).

    A folder stands for all such files in it, in the order of their names. header: names of the columns of a CSV file that has no
    header line of its own, that is, whose first line has as many cells and other ones. Raises `DataError` with file and place,
    `MissingExtraError` for Parquet without pyarrow.
    """
    top = Path(path)
    files = [top]
    if top.is_dir():
        files = sorted(file for file in top.iterdir() if _ending(file) in ENDINGS)
        if not files:
            raise DataError(f"{path}: is a folder without any file that ends in {', '.join(ENDINGS)}; give a file")
    found = [(_stem(file), place, fields) for file in files for place, fields in _read(file, header)]
    if not found:
        raise DataError(f"{path}: holds no problem; give a file with one record for each")
    return [Record(number, *one) for number, one in enumerate(found, 1)]


def _read(path: Path, header: Sequence[str]) -> Sequence[tuple[str, Mapping[str, JSON]]]:
    if _ending(path) == ".csv":
        return _csv(path, header)
    return _parquet(path) if _ending(path) == ".parquet" else rows(str(path))


def _csv(path: Path, header: Sequence[str]) -> list[tuple[str, Mapping[str, JSON]]]:
    csv.field_size_limit(2**24)  # the default of 131,072 characters is shorter than some solutions
    found: list[tuple[str, Mapping[str, JSON]]] = []
    names: list[str] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for cells in filter(None, reader):
                if not names:
                    bare = len(cells) == len(header) and [cell.lower() for cell in cells] != [name.lower() for name in header]
                    names = list(header) if bare else cells
                    if not bare:
                        continue
                place = f"{path}:{reader.line_num}"
                if len(cells) != len(names):
                    raise DataError(f"{place}: has {len(cells)} columns, {len(names)} are expected ({', '.join(names)[:200]})")
                found.append((place, dict(zip(names, cells, strict=True))))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from None
    return found


def _parquet(path: Path) -> list[tuple[str, Mapping[str, JSON]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        body = parquet.ParquetFile(path).read().to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from None
    return [(f"{path}: record {number}", item) for number, item in enumerate(body, 1)]


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _stem(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).stem
