"""Files that tasks are made of: rows of problems, and prompts."""

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

from ponder.errors import DataError
from ponder.types import JSON, Message, Problem, Role

SUFFIXES = (".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Row:
    """One record. file: its name without ending; number: its line, from 1 (of an array: its place); place: both, for messages."""

    file: str
    number: int
    place: str
    fields: Mapping[str, JSON]


def read_rows(path: str, header: Sequence[str] = ()) -> list[Row]:
    """The records of a JSONL, JSON (an array) or CSV file, gzipped or not, or of all such files of a folder, in order of their names.

    header: the names of the columns of a CSV file without a first line of names. Raises `DataError` with file and line.
    """
    where = Path(path)
    files = sorted(file for file in where.iterdir() if file.name.endswith(SUFFIXES)) if where.is_dir() else [where]
    found = [row for file in files for row in _read(file, header)]
    if not found:
        raise DataError(f"{path}: holds no problem; one JSON object a line is expected")
    return found


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages in which {question} stands for the question, and other {names} for other parts. fingerprint: of the file."""

    messages: tuple[tuple[Role, str], ...]
    fingerprint: str

    def ask(self, question: str, **parts: str) -> tuple[Message, ...]:
        """The messages of one problem. What a problem itself says in braces is left alone."""
        said = {name: plain(text) for name, text in {"question": question, **parts}.items()}
        return tuple(Message(role, (_PART.sub(lambda part: said.get(part[1], part[0]), body),)) for role, body in self.messages)


_PART = re.compile(r"\{(\w+)\}")


def read_prompt(name: str) -> Prompt:
    """A prompt of ours by name, or of a JSON file by its path. Raises `DataError` unless it holds {question}."""
    folder = resources.files("ponder.tasks") / "prompts"
    own = folder / f"{name}.json"
    try:
        text = own.read_text("utf-8") if own.is_file() else Path(name).read_text("utf-8")
        messages = tuple((message["role"], message["content"]) for message in json.loads(text)["messages"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(file.name.removesuffix(".json") for file in folder.iterdir()))
        raise DataError(f"prompt {name!r} is neither one of {known} nor a JSON file with messages ({error})") from None
    if not any("{question}" in content for _, content in messages):
        raise DataError(f"prompt {name!r}: none of its messages holds {{question}}")
    return Prompt(messages, hashlib.blake2b(text.encode(), digest_size=8).hexdigest())


def check_ids(problems: Sequence[Problem], path: str, way_out: str) -> None:
    """Raise `DataError` where two problems have one id."""
    seen: set[str] = set()
    for problem in problems:
        if problem.question.id in seen:
            raise DataError(f"{path}: the id {problem.question.id!r} stands on two lines; ids must differ, {way_out}")
        seen.add(problem.question.id)


def digest(problems: Sequence[Problem]) -> str:
    """Of ids, messages and references, as 16 hexadecimal digits."""
    body = [[problem.question.id, [m.text for m in problem.question.messages], problem.reference] for problem in problems]
    return hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()


def plain(value: JSON) -> str:
    """As text, without lone surrogates, which can be neither stored nor sent."""
    return str(value).encode("utf-8", "replace").decode()


def _read(path: Path, header: Sequence[str]) -> Iterator[Row]:
    stem = path.name.partition(".")[0]
    text = _text(path)
    if path.name.removesuffix(".gz").endswith(".csv"):
        table = csv.DictReader(io.StringIO(text, newline=""), fieldnames=header or None)
        for fields in table:
            yield Row(stem, table.line_num, f"{path}:{table.line_num}", {str(key): value for key, value in fields.items()})
    elif text.lstrip().startswith("["):
        for number, item in enumerate(_array(text, str(path)), 1):
            yield Row(stem, number, f"{path}[{number}]", _fields(item, f"{path}[{number}]"))
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield Row(stem, number, f"{path}:{number}", _fields(_json(line, f"{path}:{number}"), f"{path}:{number}"))


def _text(path: Path) -> str:
    try:
        body = path.read_bytes()
        return (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({told}); give the path of a JSONL file") from None


def _array(text: str, place: str) -> list[JSON]:
    body = _json(text, place)
    return body if isinstance(body, list) else [body]


def _fields(item: JSON, place: str) -> dict[str, JSON]:
    if not isinstance(item, dict):
        raise DataError(f"{place}: is {type(item).__name__}, not an object with the fields of a problem")
    return item


def _json(text: str, place: str) -> JSON:
    try:
        body: JSON = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}); the line may be torn: mend or remove it") from None
    return body
