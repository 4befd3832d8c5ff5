"""From a body's bytes to a checked request: how large it may be, what it says, and what is wrong with it, by the field at fault."""

from __future__ import annotations

import difflib
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from ponder.server.refusal import Refusal
from ponder.server.schema import Body

B = TypeVar("B", bound=Body)

DEEPEST = 64
"""Levels of nesting in a body."""
MOST_VALUES = 50_000
"""Values in a body, each costing as much as a long text: 8 MB of small ones would hold the server up for minutes."""
_BETWEEN = bytes(set(range(256)) - set(b'",[{'))
_PAIRS = bytes(set(range(256)) - set(b'":'))


def read(data: bytes, shape: type[B]) -> B:
    """A request's body, checked. Raises `Refusal` (400) with the field at fault."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES and _values(data) > MOST_VALUES:
        raise Refusal(400, f"the body holds more than {MOST_VALUES} values", code="invalid_json")
    try:
        body = from_json(data, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal(400, f"the body must be a JSON object, not {_kind(body)}", code="invalid_json")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _deeper(body, DEEPEST):
        raise Refusal(400, f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
    fields = _fields(body)
    if data.count(b":") > fields and _outside(data, _PAIRS) > fields:  # which of the two is meant, others read otherwise
        raise Refusal(400, "the body has an object in which a field stands twice", code="invalid_json")
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, body, shape) from None


def _values(data: bytes) -> int:
    """How many values stand in JSON, those that are empty twice, without building any: what separates them, outside of texts."""
    if data.count(b'"') - data.count(b'\\"') > 4 * MOST_VALUES:  # a field of text has four
        return MOST_VALUES + 1
    return _outside(data, _BETWEEN)


def _outside(data: bytes, others: bytes) -> int:
    """How many letters but these stand outside of texts."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, others)
    return sum(map(len, bare.split(b'"')[::2]))


def _fields(body: object) -> int:
    """How many fields all objects have."""
    found, level = 0, [body]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            found += len(value)
            level += [inner for inner in value.values() if isinstance(inner, dict | list)]
        elif isinstance(value, list):
            level += [inner for inner in value if isinstance(inner, dict | list)]
    return found


def _deeper(body: object, most: int) -> bool:
    """Whether a value has more than so many levels, without recursion."""
    level: list[object] = [body]
    for _ in range(most):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _refusal(error: ValidationError, body: object, shape: type[Body]) -> Refusal:
    """The fault, with its place as a path in the body; names of alternatives that pydantic puts into the path are left out."""
    faults = error.errors(include_url=False, include_context=False)
    same = [
        fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]
    ]  # of alternatives, the one that was nearly right
    fault = max(same, key=lambda fault: (not fault["type"].endswith("_type"), len(fault["loc"])))
    at, path = body, ""
    for part in fault["loc"]:
        if isinstance(part, int) and isinstance(at, list) and part < len(at):
            at, path = at[part], f"{path}[{part}]"
        elif isinstance(at, dict) and (part in at or (fault["type"] == "missing" and part == fault["loc"][-1])):
            at, path = at.get(part), f"{path}.{_shown(str(part))}" if path else _shown(str(part))
    if fault["type"] == "missing":
        return Refusal(400, f"{path}: is missing", code="missing_required_parameter", param=path)
    if fault["type"] == "extra_forbidden":
        close = (
            difflib.get_close_matches(str(fault["loc"][-1])[:100], list(shape.model_fields), n=1)
            if len(fault["loc"]) == 1
            else []
        )
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return Refusal(400, f"{path}: there is no such field here{hint}", code="unknown_parameter", param=path)
    code = "invalid_type" if fault["type"].endswith("_type") else "invalid_value"
    return Refusal(400, f"{path}: {fault['msg'].removeprefix('Value error, ')}", code=code, param=path or None)


def _shown(key: str) -> str:
    return key if len(key) <= 100 else f"{key[:100]}..."


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
