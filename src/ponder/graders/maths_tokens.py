"""From a normalised answer to tokens: numbers, letters, commands, words, signs; and slices of them by what stands between brackets."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from ponder.graders.maths_text import unit

MAX_LENGTH = 2_000  # characters of an answer; the longest reference of MATH has some 200
MAX_TOKENS = 2_000  # of an answer: raised and lowered characters unfold into four
MAX_DIGITS = 400  # of one number
MAX_DEPTH = 60  # brackets and arguments within each other; a fraction takes two

Reason = Literal["no_answer", "unparsable", "too_long", "too_deep", "tower"]
Kind = Literal["num", "letter", "cmd", "word", "op", "env"]


class Refused(Exception):
    """An answer that no rule reads, or that is not safe to compute with; `reason` says which."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason: Reason = reason


class Token(NamedTuple):
    r"""text: as it is written, without \text{} around words. spaced: white space stands before it."""

    kind: Kind
    text: str
    spaced: bool = False


Tokens = Sequence[Token]


def tokens(text: str) -> list[Token]:
    """The tokens of a normalised answer. Raises `Refused` for characters that are no mathematics, and for numbers without end."""
    found: list[Token] = []
    depth = nested = at = 0
    while at < len(text):
        match = (_SCAN if depth else _SCAN_OUTSIDE).match(text, at)
        if match is None:
            raise Refused("unparsable")
        at = match.end()
        kind, body, spaced = match.lastgroup or "", match[match.lastgroup or 0], bool(match["space"])
        if kind == "num":
            if len(body) > MAX_DIGITS:
                raise Refused("too_long")
            found.append(Token("num", body.replace(",", "").replace(" ", ""), spaced))
        elif kind == "text":
            _add_text(found, body)
        elif kind == "run":
            _add_run(found, body, spaced)
        elif kind in ("cmd", "env"):
            found.append(Token("env" if kind == "env" else "cmd", body.replace(" ", ""), spaced))
        elif kind == "op":
            depth = max(0, depth + (body in OPEN and body != "{") - (body in CLOSE and body != "}"))
            found.append(Token("op", body, spaced))
            nested += opens(found[-1])
            if nested > MAX_DEPTH:
                raise Refused("too_deep")
        if len(found) > MAX_TOKENS:
            raise Refused("too_long")
    return found


OPEN = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
CLOSE = frozenset(OPEN.values())
CONSTANTS = frozenset(("\\pi", "\\infty", "\\emptyset"))
_FUNCTION_NAMES = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp"
FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
SEPARATORS = frozenset(("or", "and"))
_COUNT = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER_WORDS = _COUNT.split()
_SHORT = "yes no odd or and not all any am pm the of is to one two six ten per"
_SHORT_WORDS = frozenset(_SHORT.split())
_NAMES = {"inf": "\\infty", "infinity": "\\infty", "oo": "\\infty", "pi": "\\pi", "sqrt": "\\sqrt", "percent": "%"}

_DIGITS = r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+"
_TEMPLATE = r"""
    (?P<space>\s*)
    (?: (?P<num> {number} )
      | (?P<env> \\(?:begin|end)\s*\{{[a-z]+\*?\}}(?:\{{[lcr|]*\}})? | \\\\ | & )
      | \\text\{{ (?P<text> [^{{}}]* ) \}}
      | (?P<cmd> \\mathbb\s*\{{?\s*[A-Z]\s*\}}? | \\[A-Za-z]+ )
      | (?P<op> \\[{{}}|] | \.\.\. | [-+*/^_=<>()\[\]{{}},:;|!%'.] )
      | (?P<run> [A-Za-z]+ )
    )
"""
_EXPONENT = r"(?:[eE][-+]?[0-9]{1,4}(?![0-9A-Za-z]))?"
_PLAIN = rf"(?:{_DIGITS}){_EXPONENT}"
# Outside brackets 1,234 and 10 000 are one number; inside, a comma separates.
_GROUPED = r"[0-9]{1,3}(?:(?:,[0-9]{3})+|(?:\ [0-9]{3})+)(?![0-9])(?:\.[0-9]+)?"
_SCAN = re.compile(_TEMPLATE.format(number=_PLAIN), re.VERBOSE)
_SCAN_OUTSIDE = re.compile(_TEMPLATE.format(number=f"{_GROUPED}|{_PLAIN}"), re.VERBOSE)


def _add_text(found: list[Token], body: str) -> None:
    r"""What \text{} holds: numbers stay numbers, everything else is words."""
    for word in body.replace("(", " ").replace(")", " ").split():
        lower = word.lower().rstrip(",;:")
        if re.fullmatch(rf"-?(?:{_GROUPED}|{_DIGITS})%?", word):
            found.extend(tokens(word))
        elif lower in ("percent", "%"):
            found.append(Token("op", "%", True))
        elif lower:
            found.append(Token("word", word.rstrip(",;:"), True))


def _add_run(found: list[Token], body: str, spaced: bool) -> None:
    """A run of plain letters: a function, a word, a unit after a number, or variables that multiply."""
    lower = body.lower()
    last = found[-1] if found else None
    if body in FUNCTIONS:
        found.append(Token("cmd", f"\\{body}", spaced))
    elif lower in _NAMES:
        name = _NAMES[lower]
        found.append(Token("op" if name == "%" else "cmd", name, spaced))
    elif len(body) == 1 and not (last and last.text == "/" and len(found) > 1 and found[-2].kind == "word"):
        found.append(Token("letter", body, spaced))
    elif _is_word(body, last, spaced):
        found.append(Token("word", body, spaced))
    else:
        found.extend(Token("letter", letter, spaced and not at) for at, letter in enumerate(body))


def _is_word(body: str, last: Token | None, spaced: bool) -> bool:
    lower = body.lower()
    after_value = last is not None and (last.kind in ("num", "word") or last.text in ("}", ")", "/"))
    if len(body) > 3 or lower in _SHORT_WORDS:
        return True
    if after_value and (unit(lower) is not None and body != body.upper()):
        return True
    return spaced and len(body) == 3 and last is not None and last.kind in ("num", "word")


def split(found: Tokens, at: Callable[[Token], bool]) -> list[tuple[Token | None, Tokens]]:
    """Slices between tokens outside all brackets for which `at` holds, each with the token before it (None for the first)."""
    parts: list[tuple[Token | None, Tokens]] = []
    depth = start = 0
    before: Token | None = None
    for place, token in enumerate(found):
        depth += opens(token)
        if depth == 0 and opens(token) == 0 and at(token):
            parts.append((before, found[start:place]))
            before, start = token, place + 1
    return [*parts, (before, found[start:])]


def opens(token: Token) -> int:
    """+1 for what opens a bracket, -1 for what closes one, 0 for all else."""
    if token.kind == "env":
        return token.text.startswith("\\begin") - token.text.startswith("\\end")
    if token.kind != "op":
        return 0
    return (token.text in OPEN) - (token.text in CLOSE)


def is_bracketed(found: Tokens) -> bool:
    """Whether the first token opens a bracket that the last one closes."""
    if len(found) < 2 or opens(found[0]) != 1:
        return False
    depth = 0
    for token in found[:-1]:
        depth += opens(token)
        if depth == 0:
            return False
    return depth + opens(found[-1]) == 0


def spelled(text: str) -> str:
    """A number word as its digits, any other text as it is."""
    lower = text.lower()
    return str(_NUMBER_WORDS.index(lower)) if lower in _NUMBER_WORDS else text
