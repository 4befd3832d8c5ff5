r"""Prompts of strategies: versioned JSON files in `strategies/prompts`, or anybody's own by path.

    {"last": "{question}\n\nEarlier attempts:\n{attempts}\nWrite a better solution."}

`last` takes the place of the question, which is the last message; what stands before it, a system prompt say, stays, and so do the
images of the question, in front of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

from ponder.errors import DataError
from ponder.types import Blob, Message


def read(prompt: str, *holds: str) -> str:
    """The text of a shipped prompt by name and version, or of a JSON file. Raises `DataError` where it is neither, or lacks a place."""
    shipped = resources.files("ponder.strategies") / "prompts"
    own = shipped / f"{prompt}.json" if re.fullmatch(r"\w+@\d+", prompt) else None
    try:
        text = str(json.loads((own if own is not None and own.is_file() else Path(prompt)).read_text("utf-8"))["last"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        known = ", ".join(sorted(file.name.removesuffix(".json") for file in shipped.iterdir() if "@" in file.name))
        raise DataError(f"prompt {prompt!r} is none of {known}, and no JSON file with a text 'last' ({error})") from None
    for name in holds:
        if f"{{{name}}}" not in text:
            raise DataError(f"prompt {prompt!r}: its text must hold {{{name}}}")
    return text


def ask(text: str, messages: Sequence[Message], **values: str) -> tuple[Message, ...]:
    """The messages with `text` as the last, its places filled once: braces in a value mean nothing."""
    filled = {"question": messages[-1].text, **values}
    said = re.sub(r"\{(\w+)\}", lambda place: filled.get(place[1], place[0]), text)
    shown = [part for part in messages[-1].content if isinstance(part, Blob)]
    return (*messages[:-1], replace(messages[-1], content=(*shown, said)))
