"""What tasks read from disk: rows of JSONL, JSON, CSV and Parquet files, each with its place, and prompts.

A row that cannot be read is an error with file and line, never a problem less.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ponder.errors import DataError, MissingExtraError
from ponder.types import JSON, Message, Problem, Role

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One record. file: name of its file without endings; number: its line, or its place in the file from 1; place: for messages."""

    file: str
    number: int
    place: str
    fields: Mapping[str, JSON]


def read_rows(path: str, header: Sequence[str] = ()) -> list[Row]:
    """The records of a file: .csv, .parquet (needs pyarrow), any other ending is JSON (one object a line, or one list); or gzipped.

    A folder stands for all such files in it, in the order of their names. header: names of the columns of a CSV file that has no
    header line of its own, that is, whose first line has as many cells and other ones. Raises `DataError` with file and line,
    `MissingExtraError` for Parquet without pyarrow.
    """
    top = Path(path)
    files = sorted(file for file in top.iterdir() if _ending(file) in ENDINGS) if top.is_dir() else [top]
    if not files:
        raise DataError(f"{path}: is a folder without any file that ends in {', '.join(ENDINGS)}; give a file")
    rows = [row for file in files for row in _read(file, header)]
    if not rows:
        raise DataError(f"{path}: holds no problem; one JSON object a line is expected")
    return rows


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages in which {question} stands for the question, other {names} for other parts. fingerprint: of the file, version included."""

    messages: tuple[tuple[Role, str], ...]
    fingerprint: str

    def ask(self, question: str, **parts: str) -> tuple[Message, ...]:
        """The messages of one problem. What a problem itself says in braces is left alone."""
        said = {name: plain(text) for name, text in {"question": question, **parts}.items()}
        return tuple(Message(role, (_PART.sub(lambda part: said.get(part[1], part[0]), body),)) for role, body in self.messages)


_PART = re.compile(r"\{(\w+)\}")


def read_prompt(name: str) -> Prompt:
    """A prompt of ours by name, or the path of one: a JSON file with a version and messages. Raises `DataError`."""
    folder = resources.files("ponder.tasks") / "prompts"
    own = folder / f"{name}.json"
    try:
        text = own.read_text("utf-8") if own.is_file() else Path(name).read_text("utf-8")
        body = json.loads(text)
        messages: tuple[tuple[Role, str], ...] = tuple((message["role"], message["content"]) for message in body["messages"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(file.name.removesuffix(".json") for file in folder.iterdir()))
        raise DataError(f"prompt {name!r} is neither one of {known} nor a JSON file with messages ({error})") from None
    if not any("{question}" in content for _, content in messages):
        raise DataError(f"prompt {name!r}: none of its messages holds {{question}}")
    return Prompt(messages, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def digest(problems: Sequence[Problem]) -> str:
    """64 bits over ids, prompts and references."""
    body = [[p.question.id, [m.text for m in p.question.messages], p.reference] for p in problems]
    return hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()


def check_ids(problems: Sequence[Problem], path: str, way_out: str) -> None:
    """Raises `DataError` where two problems bear one id."""
    seen: set[str] = set()
    for problem in problems:
        if problem.question.id in seen:
            raise DataError(f"{path}: the id {problem.question.id!r} stands on two lines; ids must differ, {way_out}")
        seen.add(problem.question.id)


def plain(value: object) -> str:
    """As text that can be stored and sent: a lone surrogate becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode()


def _read(path: Path, header: Sequence[str]) -> Iterator[Row]:
    ending = _ending(path)
    if ending == ".parquet":
        return _parquet(path)
    text = _text(path)
    if ending == ".csv":
        return _csv(path, text, header)
    return _json_list(path, text) if text.lstrip()[:1] == "[" else _json_lines(path, text)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold U+2028
        if line.strip():
            place = f"{path}:{number}"
            yield _row(path, number, place, _json(line, place))


def _json_list(path: Path, text: str) -> Iterator[Row]:
    body = _json(text, str(path))
    for number, item in enumerate(body if isinstance(body, list) else [body], 1):
        yield _row(path, number, f"{path}[{number}]", item)


def _csv(path: Path, text: str, header: Sequence[str]) -> Iterator[Row]:
    csv.field_size_limit(2**24)  # the default of 131,072 characters is shorter than some solutions
    reader = csv.reader(io.StringIO(text, newline=""))
    names: list[str] = []
    try:
        for cells in filter(None, reader):
            if not names:
                bare = len(cells) == len(header) and [cell.lower() for cell in cells] != [name.lower() for name in header]
                names = list(header) if bare else cells
                if not bare:
                    continue
            place = f"{path}:{reader.line_num}"
            if len(cells) != len(names):
                raise DataError(f"{place}: has {len(cells)} columns, {len(names)} are expected ({', '.join(names)[:200]})")
            yield _row(path, reader.line_num, place, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        with parquet.ParquetFile(path) as file:
            body = file.read().to_pylist()
    except (OSError, ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from None
    for number, item in enumerate(body, 1):
        yield _row(path, number, f"{path}[{number}]", item)


def _row(path: Path, number: int, place: str, body: object) -> Row:
    if not isinstance(body, dict):
        raise DataError(f"{place}: is {type(body).__name__}, not an object with the fields of a problem")
    return Row(path.name.partition(".")[0], number, place, body)


def _json(text: str, place: str) -> JSON:
    try:
        body: JSON = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}); the line may be torn: mend or remove it") from None
    return body


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({told}); give the path of a JSONL file: jsonl:FILE") from None


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()
