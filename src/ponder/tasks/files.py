"""What tasks read from disk: rows of JSONL, JSON, CSV and Parquet files, each with its place, and prompts.

A row that cannot be read is an error with file and line, never a problem less. Files are read as a stream and within bounds: a few
megabytes may unpack to more than any memory.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import cast, get_args

from ponder.errors import DataError
from ponder.tasks.fields import Row, check_names, clip, listed, plain, short
from ponder.tasks.parquet import parquet_rows
from ponder.types import JSON, Message, Problem, Role

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
LARGEST = 2**31  # bytes of a file, unpacked
LONGEST = 2**27  # bytes of a line; a problem of LiveCodeBench, with its tests packed, takes tens of millions
MOST = 2_000_000  # rows


class UnreadableError(DataError):
    """A path from which nothing can be read; what to give instead is the task's to say."""


def read_rows(path: str, header: Sequence[str] = (), *, way_out: str = "give the path of a JSONL file: jsonl:FILE") -> list[Row]:
    """The records of a file: .csv, .parquet (needs pyarrow), any other ending is JSON (one object a line, or one list); or gzipped.

    A folder stands for all such files in it, in the order of their names. header: names of the columns of a CSV file that has no
    header line of its own, that is, whose first line has as many cells and other ones. way_out: what to give for a file that cannot
    be read. Raises `DataError` with file and line, `MissingExtraError` for Parquet without pyarrow.
    """
    rows: list[Row] = []
    try:
        for row in chain.from_iterable(_read(file, header) for file in _files(path)):
            if len(rows) == MOST:
                raise DataError(f"{row.place}: is row {MOST + 1:,}, and a task has at most {MOST:,}; split the file")
            rows.append(row)
    except UnreadableError as error:
        raise DataError(f"{error}; {way_out}") from None
    if not rows:
        raise DataError(f"{_shown(path)}: holds no problem; one JSON object a line is expected")
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
        body = read_json(text, f"prompt {short(name)}")
        messages = tuple(map(_message, cast("dict[str, list[dict[str, JSON]]]", body)["messages"]))
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(file.name.removesuffix(".json") for file in folder.iterdir()))
        raise DataError(
            f"prompt {short(name)} is neither one of {known} nor a JSON file with messages ({_told(error)})"
        ) from None
    if not any("{question}" in content for _, content in messages):
        raise DataError(f"prompt {short(name)}: none of its messages holds {{question}}")
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
            id_ = short(problem.question.id)
            raise DataError(f"{_shown(path)}: the id {id_} stands on two lines; ids must differ, {way_out}")
        seen.add(problem.question.id)


def read_json(text: str, place: str) -> JSON:
    """The value of a JSON text. Raises `DataError` for anything else, and for an object in which a key stands twice."""

    def once(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
        body = dict(pairs)
        if len(body) < len(pairs):
            check_names((key for key, _ in pairs), f"{place}: the key")
        return body

    try:
        body: JSON = json.loads(text, object_pairs_hook=once)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({_told(error)}), perhaps torn: mend or remove it") from None
    return body


def stem(path: str) -> str:
    """The name of a file without its endings, as the name of a task."""
    return plain(Path(path).name.partition(".")[0])


def _files(path: str) -> list[Path]:
    if not path:
        raise DataError("the path of the problems is ''; give the path of a file")
    top = Path(path)
    try:
        if not top.is_dir():
            top.stat()
            return [top]
        files = sorted(file for file in top.iterdir() if _ending(file) in ENDINGS)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    if not files:
        raise DataError(f"{_shown(path)}: is a folder without any file that ends in {', '.join(ENDINGS)}; give a file")
    return files


def _read(path: Path, header: Sequence[str]) -> Iterator[Row]:
    ending = _ending(path)
    if ending == ".parquet":
        return parquet_rows(path, stem(path.name), LARGEST)
    return _csv(path, header) if ending == ".csv" else _json(path)


def _json(path: Path) -> Iterator[Row]:
    lines = ((number, line) for number, line in enumerate(_lines(path), 1) if line.strip())
    first = next(lines, (0, ""))
    if first[1].lstrip()[:1] == "[":
        yield from _json_list(path, first[1], lines)
    elif first[0]:
        for number, line in chain([first], lines):
            place = f"{plain(path)}:{number}"
            yield _row(path, number, place, read_json(line, place))


def _json_list(path: Path, first: str, rest: Iterator[tuple[int, str]]) -> Iterator[Row]:
    parts, size, shown = [first], len(first), plain(path)
    for _, line in rest:
        size += len(line)
        if size > LONGEST:
            raise DataError(f"{shown}: is a JSON list of more than {LONGEST:,} characters; write one object a line (JSONL)")
        parts.append(line)
    body = read_json("".join(parts), shown)
    for number, item in enumerate(body if isinstance(body, list) else [body], 1):
        yield _row(path, number, f"{shown}[{number}]", item)


def _csv(path: Path, header: Sequence[str]) -> Iterator[Row]:
    """Strict: a quote that is never closed would make one cell of all that follows."""
    csv.field_size_limit(2**24)  # the default of 131,072 characters is shorter than some solutions
    reader = csv.reader(_lines(path), strict=True)
    shown, names, begin = plain(path), list[str](), 1
    try:
        for cells in reader:
            place, begin = f"{shown}:{begin}", reader.line_num + 1
            if not cells:
                continue
            if not names:
                bare = len(cells) == len(header) and [cell.lower() for cell in cells] != [name.lower() for name in header]
                names = list(header) if bare else cells
                check_names(names, f"{place}: the column")
                if not bare:
                    continue
            if len(cells) != len(names):
                raise DataError(f"{place}: has {len(cells)} columns, {len(names)} are expected ({listed(names)})")
            yield _row(path, reader.line_num, place, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise DataError(
            f"{shown}:{begin}: the record that begins here is not CSV ({error}); close its quotes, and double those inside a cell"
        ) from None


def _row(path: Path, number: int, place: str, body: JSON) -> Row:
    if not isinstance(body, dict):
        raise DataError(f"{place}: is {type(body).__name__}, not an object with the fields of a problem")
    return Row(stem(path.name), number, place, body)


def _lines(path: Path) -> Iterator[str]:
    """The lines with their ends, as text. Not splitlines: JSON strings may hold U+2028."""
    size = 0
    for number, line in enumerate(_raw_lines(path), 1):
        size += len(line)
        if len(line) > LONGEST:
            raise DataError(f"{plain(path)}:{number}: is a line of more than {LONGEST:,} bytes; is this a file of problems?")
        if size > LARGEST:
            raise DataError(f"{plain(path)}:{number}: the file is larger than {LARGEST:,} bytes (unpacked); split it")
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{plain(path)}:{number}: is not UTF-8 (byte {error.start}); convert it first") from None


def _raw_lines(path: Path) -> Iterator[bytes]:
    try:
        with ExitStack() as stack:
            file = stack.enter_context(open(path, "rb"))
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            stream = stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file
            while line := cast("BufferedIOBase", stream).readline(LONGEST + 1):
                yield line
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(str(path), error) from None


def _unreadable(path: str, error: Exception) -> UnreadableError:
    return UnreadableError(f"{_shown(path)}: cannot be read ({_told(error)})")


def _told(error: BaseException) -> str:
    return clip(getattr(error, "strerror", None) or error)


def _shown(path: str) -> str:
    """A path for a message: as it is, or in quotes where it is none that could be."""
    return path if path.isprintable() and len(path) <= 1024 else short(path)


def _message(message: dict[str, JSON]) -> tuple[Role, str]:
    role, content = message["role"], message["content"]
    if role not in get_args(Role) or not isinstance(content, str):
        raise ValueError(f"a message of role {short(role)} with content {short(content)}")
    return cast("Role", role), plain(content)


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()
