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

_BLOCK = re.compile(r"\s*<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


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
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            arguments = function.get("arguments")
            found.append({"name": function["name"], "arguments": _object(arguments if isinstance(arguments, str) else "{}")})
    return "".join(f"\n<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>" for call in found)


def read_calls(text: str) -> tuple[str, Sequence[Call]]:
    """The text without its calls, and the calls. A block that cannot be read stays text."""
    calls: list[Call] = []

    def take(block: re.Match[str]) -> str:
        try:
            call = json.loads(block[1])
        except (ValueError, RecursionError):
            return block[0]
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return block[0]
        arguments = call.get("arguments", {})
        calls.append(Call(call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)))
        return ""

    rest = _BLOCK.sub(take, text) if "<tool_call>" in text else text
    return rest, tuple(calls)


def _object(arguments: str) -> JSON:
    try:
        found: JSON = json.loads(arguments)
        same = json.dumps(found, ensure_ascii=False) == arguments and isinstance(found, dict)
    except (ValueError, RecursionError):
        return arguments
    return found if same else arguments
