"""The program in a model's text. Pure string work, linear in the text; nothing is parsed as Python and nothing is run.

A program stands in a fenced block, or is the whole text of a base model that goes on with its prompt. What does not define the
function that was asked for is taken for its body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ponder.graders.extract import without_thinking


def program(text: str, entry_point: str = "", prompt: str = "") -> str | None:
    """The program that an answer means; None where it holds none.

    Of the fenced blocks the last Python one that defines `entry_point` at its left edge is taken (where that is not known: one that
    defines anything or reads an input), else the last Python one, else the last. A block that is never closed runs to the end.
    Without blocks the text itself is taken, from where it looks like code.

    Args:
        text: the answer. Thinking sections are removed; an unclosed one leaves nothing.
        entry_point: the function or class that was asked for; "" where it is not known.
        prompt: code that the answer goes on from, or "". A program comes after it, so that its imports and helpers exist; a body,
            which does not define `entry_point`, comes under it, indented.
    """
    said = without_thinking(text)
    found = None if said is None else _of_blocks(said, entry_point) or _of_text(said)
    if not found or not found.strip():
        return None
    found = found.strip("\n").rstrip()
    if not prompt.strip():
        return found
    return completed(prompt, found if not entry_point or defines(found, entry_point) else _indented(found))


def program_key(text: str) -> str | None:
    """The reference-free key of an answer that is a program: its text, without white space at the end."""
    return program(text)


def completed(prompt: str, found: str) -> str:
    """The prompt's code, then the program's; future imports first, the only place where Python allows them."""
    lines = [*prompt.rstrip().split("\n"), *found.split("\n")]
    future = [line for line in lines if line.startswith("from __future__ ")]
    return "\n".join([*future, *(line for line in lines if not line.startswith("from __future__ "))])


def defines(code: str, name: str) -> bool:
    """Whether a line at the left edge defines this name, or assigns it."""
    return any(name in (match[1], match[2]) for match in _DEFINITION.finditer(code))


_DEFINITION = re.compile(r"^(?:(?:async[ \t]+)?def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: the first word after the fence, in small letters, and what the fences enclose."""

    language: str
    code: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown text, in order; one that is never closed runs to the end."""
    found: list[Block] = []
    fence, language, indent, held = "", "", 0, list[str]()
    for line in text.replace("\r\n", "\n").split("\n"):
        match = _FENCE.match(line)
        if not fence and match and "`" not in match[3]:
            fence, indent, held = match[2], len(match[1]), []
            language = (match[3].split() or [""])[0].lower()
        elif fence and match and match[2].startswith(fence) and not match[3].strip():
            found.append(Block(language, "\n".join(held)))
            fence = ""
        elif fence:
            held.append(line[min(indent, len(line) - len(line.lstrip(" "))) :])
    return [*found, Block(language, "\n".join(held))] if fence else found


_FENCE = re.compile(r"( {0,12})(`{3,}|~{3,})([^\n]*)$")
_PYTHON = ("", "python", "python3", "py", "py3", "{.python}", "python:")


def _of_blocks(text: str, entry_point: str) -> str | None:
    held = [block for block in blocks(text) if block.code.strip()]
    python = [block for block in held if block.language in _PYTHON]
    wanted = [block for block in python if (defines(block.code, entry_point) if entry_point else _WHOLE.search(block.code))]
    return (wanted or python or held)[-1].code if held else None


_WHOLE = re.compile(r"^(?:(?:async[ \t]+)?def|class)[ \t]|\binput\(|\bstdin\b|\bopen\(0", re.MULTILINE)


def _of_text(text: str) -> str:
    """A text without blocks: the body of a function up to where the left edge is reached again, or a program from its first line on."""
    lines = text.replace("\r\n", "\n").strip("\n").split("\n")
    first = next((line for line in lines if line.strip() and not line.startswith("#")), "")
    if first[:1] in (" ", "\t") or (_STATEMENT.match(first) and _continues(lines)):
        end = next((at for at, line in enumerate(lines) if at and line[:1].strip() and line[0] not in ")]}"), len(lines))
        return "\n".join(lines[:end])
    if _STATEMENT.match(first):
        return text
    start = next((at for at, line in enumerate(lines) if _TOP.match(line)), len(lines))
    return "\n".join(lines[start:])


_TOP = re.compile(
    r"(?:(?:async[ \t]+)?def[ \t]+\w+[ \t]*\(|class[ \t]+\w+[ \t]*[(:]|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b|@\w)"
)
_STATEMENT = re.compile(
    r"(?:return\b|pass$|print\(|(?:if|for|while|with|try)\b.*:\s*(?:#.*)?$|[A-Za-z_][\w.\[\], ]*\s?(?:[-+*/|&^%]|//|\*\*)?=[^=]|\"\"\")"
)


def _indented(body: str) -> str:
    """A body as it stands under a `def`: indented by four, unless it is indented already or only its first line is not."""
    lines = body.split("\n")
    if lines[0][:1] in (" ", "\t"):
        return body
    if _continues(lines):
        return "    " + body
    return "\n".join("    " + line if line.strip() else line for line in lines)


def _continues(lines: list[str]) -> bool:
    """Whether only the first line lost its indentation, as where an engine strips what it returns."""
    rest = [line for line in lines[1:] if line.strip()]
    step = len(rest[0]) - len(rest[0].lstrip(" ")) if rest else 0
    return step >= 8 or (step >= 4 and not lines[0].split("#")[0].rstrip().endswith((":", "(", "[", "{", ",")))
