"""Calls of tools as text, so that a chain holds them, a bank keeps them, a verifier reads them and a vote can compare them.

A call stands at the end of the text as models of the Hermes format write it: <tool_call>, a JSON object with `name` and `arguments`,
</tool_call>, each on a line. Arguments that would not survive as an object (they are no JSON, or spelt otherwise) stay a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from ponder.types import JSON

_OPEN = "<tool_call>"
_BRACE = re.compile(r"\s*\{")
_CLOSE = re.compile(r"\}\s*</tool_call>")


class Call(NamedTuple):
    """One call: the tool's name, and its arguments as the JSON text that the model wrote."""

    name: str
    arguments: str

    @property
    def key(self) -> str:
        """One spelling for all spellings of the same call."""
        try:
            arguments = json.dumps(json.loads(self.arguments or "{}"), sort_keys=True, separators=(",", ":"))
        except (ValueError, RecursionError):
            arguments = self.arguments.strip()
        return f"{self.name}({arguments})"


def render_calls(calls: JSON) -> str:
    """The text of a message's `tool_calls`; "" for what is no list of calls."""
    found = []
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            arguments = function.get("arguments")
            written = _written(arguments if isinstance(arguments, str) else "{}")
            found.append(f'\n{_OPEN}\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {written}}}\n</tool_call>')
    return "".join(found)


def read_calls(text: str) -> tuple[str, Sequence[Call]]:
    """The text without its calls, and the calls. A block that cannot be read stays text.

    A block ends at the first closing tag after a brace. Every letter is looked at a bounded number of times: a search for whole blocks
    by one expression takes minutes for a text of many openings, or of many spaces.
    """
    calls: list[Call] = []
    rest: list[str] = []
    at, begin = 0, text.find(_OPEN)
    ends = _CLOSE.finditer(text) if begin >= 0 else iter(())
    end = next(ends, None)
    while begin >= 0:
        while end is not None and end.start() < begin:
            end = next(ends, None)
        if end is None:
            break
        after = begin + len(_OPEN)
        if brace := _BRACE.match(text, after):
            call = _call(text[brace.end() - 1 : end.start() + 1])
            rest.append(text[at : end.end()] if call is None else text[at:begin].rstrip())
            calls += [call] if call is not None else []
            at = after = end.end()
        begin = text.find(_OPEN, after)
    rest.append(text[at:])
    return "".join(rest), tuple(calls)


def _call(block: str) -> Call | None:
    try:
        call = json.loads(block)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        return Call(call["name"], arguments)
    try:
        return Call(call["name"], json.dumps(arguments, ensure_ascii=False))
    except RecursionError:
        return None


def _written(arguments: str) -> str:
    """The arguments as they stand in a call: as they are where they are an object as we would write it, else as a string."""
    try:
        found: JSON = json.loads(arguments)
        same = json.dumps(found, ensure_ascii=False) == arguments and isinstance(found, dict)
    except (ValueError, RecursionError):
        same = False
    return arguments if same else json.dumps(arguments, ensure_ascii=False)
