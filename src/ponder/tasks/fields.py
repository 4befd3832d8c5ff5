"""What one row of a file says under a name, as the type that a problem needs, or an error with its place.

text     a text; lone surrogates, which can be neither stored nor sent, become question marks
exact    a text that must stay as it is, such as a test; a lone surrogate is an error
scalar   a text or a number, as text: an answer, an id
as_json  any value of JSON: metadata
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Integral, Real

from ponder.errors import DataError
from ponder.types import JSON

DEEPEST = 100  # lists within lists; the border of the sandbox takes twice as many
CLIPPED = 80


@dataclass(frozen=True, slots=True)
class Row:
    """One record. file: name of its file without endings; number: its line, or its place in the file from 1; place: for messages."""

    file: str
    number: int
    place: str
    fields: Mapping[str, JSON]


class Cells(Mapping[str, JSON]):
    """The fields of a row of a table, each made a JSON value when it is read: what no task asks for may be of any type.

    read: gives the value under a name. Reading raises `DataError` with place and column for what is no JSON value.
    """

    __slots__ = ("_names", "_place", "_read")

    def __init__(self, names: Iterable[str], read: Callable[[str], object], place: str) -> None:
        self._names, self._read, self._place = dict.fromkeys(names), read, place

    def __getitem__(self, name: str) -> JSON:
        """Raises `KeyError` for an unknown name, `DataError` for a value that cannot be read."""
        if name not in self._names:
            raise KeyError(name)
        place = f"{self._place}: column {short(name)}"
        try:
            value = self._read(name)
        except Exception as error:  # whatever the library says of a value that Python has no room for
            raise DataError(f"{place} holds what cannot be read ({clip(error)}); write it as text") from None
        return as_json(value, place)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a field, readable or not."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return iter(self._names)

    def __len__(self) -> int:
        """How many names."""
        return len(self._names)


def text(row: Row, *names: str) -> str:
    """What stands under the first of these fields that the row has. Raises `DataError` unless it is a text that says something."""
    found = plain(_raw(row, *names))
    if not found.strip():
        raise DataError(f"{row.place}: {_either(names)} is empty; every problem needs one")
    return found


def exact(row: Row, *names: str) -> str:
    """As `text`, for what is run or compared: it may be empty, and a lone surrogate is an error."""
    return unchanged(_raw(row, *names), f"{row.place}: {_either(names)}")


def optional(row: Row, name: str) -> str:
    """As `exact`; a missing field and null are the empty text."""
    return "" if row.fields.get(name) is None else exact(row, name)


def scalar(value: JSON, place: str) -> str:
    """A text or a number, as text. Raises `DataError` for anything else: null, true, lists, objects, nan and infinity."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{place} is {_kind(value)}, {short(value)}; a text or a number is expected")
    if not math.isfinite(value):
        raise DataError(f"{place} is {value}, which is no number; write it as text if it is meant")
    return str(value)


def unchanged(text: str, place: str) -> str:
    """The text itself. Raises `DataError` for a lone surrogate, which cannot be encoded."""
    if plain(text) != text:
        raise DataError(
            f"{place} holds a lone surrogate (half a character, such as \\ud800), which cannot be run; mend or remove it"
        )
    return text


def as_json(value: object, place: str, depth: int = 0) -> JSON:
    """As a JSON value: tuples are lists, numbers plain, dates and decimals text, lone surrogates question marks.

    Raises `DataError` for bytes, nan, infinity, what is nested more than `DEEPEST` deep, and types that JSON has no word for.
    """
    if depth > DEEPEST:
        raise DataError(f"{place} is nested more than {DEEPEST} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if not math.isfinite(number):
            raise DataError(f"{place} is {number}, which is no number; leave the field out, or write it as text")
        return number
    if isinstance(value, list | tuple):
        return [as_json(item, place, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {plain(key): as_json(item, place, depth + 1) for key, item in value.items()}
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | timedelta):
        return str(value)
    raise DataError(f"{place} holds {_kind(value)}, {short(value)}; convert it to text first")


def plain(value: object) -> str:
    """As text that can be stored and sent: a lone surrogate becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode()


def short(value: object) -> str:
    """As a message shows it: Python's spelling, cut to `CLIPPED` characters."""
    shown = plain(_SHORT.repr(value[: CLIPPED + 1] if isinstance(value, str) else value))
    return shown if len(shown) <= CLIPPED + 2 else f"{shown[:CLIPPED]}..."


def clip(text: object) -> str:
    """Words of others for a message, cut to twice `CLIPPED` characters."""
    shown = plain(text)
    return shown if len(shown) <= 2 * CLIPPED else f"{shown[: 2 * CLIPPED]}..."


def listed(names: Iterable[str]) -> str:
    """Names for a message, cut to three times that."""
    shown = plain(", ".join(name[:CLIPPED] for name, _ in zip(names, range(CLIPPED), strict=False)))
    return shown if len(shown) <= 3 * CLIPPED else f"{shown[: 3 * CLIPPED]}..."


def check_names(names: Iterable[str], place: str) -> None:
    """Raises `DataError` for a name that stands twice: one of the two values would be lost."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{place} {short(name)} stands twice, and must not: which is meant? rename or remove one")
        seen.add(name)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 2 * CLIPPED
_SHORT.maxlevel = 3


def _raw(row: Row, *names: str) -> str:
    value = next((row.fields[name] for name in names if row.fields.get(name) is not None), None)
    if not isinstance(value, str):
        lack = f"{type(value).__name__}, no text," if any(name in row.fields for name in names) else "nothing"
        raise DataError(f"{row.place}: has {lack} under {_either(names)}; its fields are {listed(row.fields)}")
    return value.replace("\r\n", "\n")


def _either(names: Iterable[str]) -> str:
    return " or ".join(map(short, names))


def _kind(value: object) -> str:
    return {
        type(None): "null",
        bool: "true or false",
        list: "a list",
        dict: "an object",
        str: "a text",
        bytes: "bytes",
    }.get(type(value), f"of type {type(value).__name__}")
