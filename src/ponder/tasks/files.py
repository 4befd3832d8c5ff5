"""Files that tasks are made of: rows of problems, and prompts."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ponder.errors import DataError
from ponder.types import JSON, Message, Problem, Role

Row = dict[str, JSON]


def rows(path: str) -> list[tuple[str, Row]]:
    """The objects of a JSONL file or a JSON array, gzipped or not, each with its place for messages. Raises `DataError`."""
    try:
        body = Path(path).read_bytes()
        text = (gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); convert it first") from None
    except (OSError, EOFError, zlib.error) as error:
        told = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({told}); give the path of a .jsonl or .jsonl.gz file") from None
    if text.lstrip().startswith("["):
        array = _json(text, path)
        items = [(f"{path}[{number}]", item) for number, item in enumerate(array if isinstance(array, list) else [])]
    else:
        places = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        items = [(place, _json(line, place)) for place, line in places]
    found = []
    for place, item in items:
        if not isinstance(item, dict):
            raise DataError(f"{place}: is {type(item).__name__}, not an object with the fields of a problem")
        found.append((place, item))
    if not found:
        raise DataError(f"{path}: holds no problem; one JSON object a line is expected")
    return found


def field(row: Row, place: str, *names: str) -> str:
    """The text of the first of these fields that the row has. Raises `DataError`."""
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if not isinstance(value, str):
        lack = "no text" if any(name in row for name in names) else "nothing"
        raise DataError(f"{place}: has {lack} under {' or '.join(map(repr, names))}; its fields are {', '.join(row)}")
    return value


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages in which {names} stand for parts of a problem. fingerprint: of the file."""

    messages: tuple[tuple[Role, str], ...]
    fingerprint: str

    def fill(self, **parts: str) -> tuple[Message, ...]:
        """The messages of one problem. What a problem itself says in braces is left alone."""
        return tuple(Message(role, (_PART.sub(lambda part: parts.get(part[1], part[0]), body),)) for role, body in self.messages)


_PART = re.compile(r"\{(\w+)\}")


def prompt(name: str) -> Prompt:
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


def fingerprint(problems: Sequence[Problem]) -> str:
    """Of ids, messages and references. Raises `DataError` where two ids are equal."""
    seen: set[str] = set()
    for problem in problems:
        if problem.question.id in seen:
            raise DataError(f"the id {problem.question.id!r} stands on two lines; ids must differ")
        seen.add(problem.question.id)
    body = [[problem.question.id, [m.text for m in problem.question.messages], problem.reference] for problem in problems]
    return hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()


def clean(text: str) -> str:
    """Without lone surrogates, which can be neither stored nor sent, and with line ends of one kind."""
    return text.encode("utf-8", "replace").decode().replace("\r\n", "\n")


def _json(text: str, place: str) -> JSON:
    try:
        body: JSON = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not JSON ({error}); the line may be torn: mend or remove it") from None
    return body
