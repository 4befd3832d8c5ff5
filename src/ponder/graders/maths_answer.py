r"""Whole answers: names ("x ="), chains, units, lists, sets, tuples, intervals, inequalities, matrices, bases, times, words.

`read` gives a tree of `Node`s. Beside the kinds of an expression there are
named (value: the name), chain (equal members), unit (value: what is measured; its factor, the amount), set, assign (values by name),
tuple (value: its two brackets), union, relation (value: < or <= ; left minus right), matrix (value: its shape), colon, base, text.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ponder.graders import maths_tokens
from ponder.graders.compare import chosen_letter
from ponder.graders.maths_expression import fraction, parse
from ponder.graders.maths_text import normalise
from ponder.graders.maths_tokens import MAX_LENGTH, SEPARATORS, Refused, Token, Tokens, split
from ponder.graders.maths_tree import Node, add, branches, negative, number, symbols
from ponder.graders.maths_words import MULTIPLIERS, NEVER_NAMES, familiar, without_unit

MAX_PARTS = 64  # members of a list, entries of a matrix


@lru_cache(maxsize=16)  # an answer is judged, and then its key is asked for
def read(answer: str, own: frozenset[str] = frozenset()) -> Node:
    """The tree of an answer. own: words that may follow a number beside the known ones, the reference's own (`own_words`).

    Raises `Refused` with the reason: no_answer, too_long, too_deep, tower; what is no mathematics is text.
    """
    if len(answer) > MAX_LENGTH:
        raise Refused("too_long")
    text = normalise(answer)
    if len(text) > 2 * MAX_LENGTH:
        raise Refused("too_long")
    if not text.strip(" .?!*_`"):
        raise Refused("no_answer")
    if (words := _words(text)).lower() in _EMPTY:
        return Node("set")
    text = maths_tokens.spelled(words).replace("per cent", "percent")
    if _CHOICE.match(text) and not _DOUBT.search(text, 2) and (letter := chosen_letter(text, "ABCDEFGH")) is not None:
        return Node("sym", letter)
    try:
        if match := _BASE.fullmatch(text):
            return _based(match)
        return _list([familiar(token, own) for token in maths_tokens.tokens(text)])
    except Refused as refused:
        if refused.reason != "unparsable":
            raise
    return Node("text", _plain(text.casefold()))


def _plain(text: str) -> str:
    """One spelling of what is no mathematics to us: words without their punctuation; anything with digits or signs whole but for spaces."""
    if _WORDS_ALONE.fullmatch(text):
        return _NOISE.sub("", text)
    return _SPACE.sub(" ", _STOP.sub("", text)).strip(" .").replace("\\,", "")


def _words(text: str) -> str:
    r"""The text with its \text{} opened, where that is all there is."""
    return match[1].strip() if (match := _ALL_TEXT.fullmatch(text)) else text


_ALL_TEXT = re.compile(r"\(?\\text\{\s*\(?([^{}()]*)\)?\s*\}\)?\.?")
_EMPTY = frozenset(("no solution", "no solutions", "empty set", "the empty set", "no real solution", "no real solutions"))
_CHOICE = re.compile(r"[A-H][).:]\s+\S")  # B) 12
_DOUBT = re.compile(r"\b[A-H]\b|\b(?:not|no|never|wrong|incorrect|false|or|but|isn't|instead|rather)\b")  # B) is wrong; B) or C
_BASE = re.compile(r"(?=[A-Fa-f]*[0-9])([0-9A-Fa-f]++)\s*_\s*(?:\{\s*(?:\\text\{)?\s*([a-z0-9]+)\s*\}?\s*\}|([0-9]{1,2}))")
_WORDS_ALONE = re.compile(r"(?:\\text(?:bf|rm|it)?\{|[^\W\d_]|[\s.,;:'\"{}()-])*")
_STOP = re.compile(r"(?<![0-9])\.(?![0-9])")  # p.m. is pm; 1.5 is not 15
_SPACE = re.compile(r"\s++")
_NOISE = re.compile(r"\\text(?![A-Za-z])|[\s.,;:'\"{}()\\]")
_EQUALS, _IN = "=", "\\in"
_ORDER = {"<": "<", "\\le": "<=", ">": ">", "\\ge": ">="}
_INFINITY = Node("sym", "\\infty")


def _based(match: re.Match[str]) -> Node:
    base = maths_tokens.spelled(match[2] or match[3])
    base = {"sixteen": "16", "twenty": "20"}.get(base, base)
    if not base.isdigit() or (base == "10" and not match[1].isdigit()):
        raise Refused("unparsable")
    return number(fraction(match[1])) if base == "10" else Node("base", f"{match[1].upper()}_{base}")


def _list(found: Tokens) -> Node:
    """Members between commas, semicolons, "or" and "and"; one member is itself."""
    parts = [(before, part) for before, part in split(found, _separates) if part]
    if not parts:
        raise Refused("unparsable")
    if len(parts) > MAX_PARTS:
        raise Refused("too_long")
    nodes = [_item(part) for _, part in parts]
    if len(nodes) == 1:
        return nodes[0]
    names = [node.value if node.kind == "named" else "" for node in nodes]
    values = tuple(node.args[0] if node.kind == "named" else node for node in nodes)
    joined = {before.text.lower() for before, _ in parts if before is not None}
    if all(node.kind == "tuple" for node in values) and joined == {"or"} and len(set(names)) == 1:
        both = Node("union", "", values)  # x < 1 or x > 2
        return Node("named", names[0], (both,)) if names[0] else both
    if all(names) and len(set(names)) == len(names):
        return Node("assign", "", tuple(sorted(nodes, key=lambda node: node.value)))
    if names[0] and set(names) <= {names[0], ""}:  # x = 1, x = 2 and x = 1, 2
        return Node("named", names[0], (_set(values),))
    return _set(tuple(nodes))


def _separates(token: Token) -> bool:
    return token.text in (",", ";", "\\lor", "\\vee") or (token.kind == "word" and token.text.lower() in SEPARATORS)


def _set(parts: tuple[Node, ...]) -> Node:
    flat: list[Node] = []
    for part in parts:
        flat.extend(part.args if part.kind == "set" else (part,))
    return flat[0] if len(flat) == 1 else Node("set", "", tuple(flat))


def _item(found: Tokens) -> Node:
    """One member: a value, a name and its value, a chain of equals signs, an inequality."""
    parts = split(found, lambda token: token.text in _ORDER or token.text in (_EQUALS, _IN))
    signs = [before.text for before, _ in parts if before is not None]
    members = [part for _, part in parts]
    if not all(members):
        raise Refused("unparsable")
    if not signs:
        return _value(found)
    if len(signs) > 8:
        raise Refused("too_long")
    if _IN in signs:
        if signs != [_IN] or (name := _name(members[0])) is None:
            raise Refused("unparsable")
        return Node("named", name, (_value(members[1]),))
    if set(signs) == {_EQUALS}:
        return _chain(members)
    if _EQUALS in signs:
        raise Refused("unparsable")
    return _inequality([_ORDER[sign] for sign in signs], [_value(member) for member in members])


def _chain(members: list[Tokens]) -> Node:
    name = _name(members[0])
    if name is None and len(members) == 2 and (name := _name(members[1])):
        members.reverse()  # 5 = x, and not 5 = words, which may say anything
    if name is not None:
        members = members[1:]
    values = tuple(_value(member) for member in members)
    body = values[0] if len(values) == 1 else Node("chain", "", values)
    return Node("named", name, (body,)) if name else body


def _name(found: Tokens) -> str | None:
    r"""What an equals sign may follow: x, x_1, f(x), P(A), \angle ABC; words are the nameless name ""."""
    words = [token.text.lower() for token in found if token.kind == "word"]
    if words:
        if not NEVER_NAMES.isdisjoint(words) or any(token.kind == "num" or token.text in _COMPUTING for token in found):
            raise Refused("unparsable")
        return ""
    source = "".join(token.text for token in found)
    match = _NAME.fullmatch(source)
    if match is None or source in ("e", "i", "\\pi"):
        return None
    return "" if source[0] == "(" else _ONE_LETTER.sub(r"_\1", source)


_ONE_LETTER = re.compile(r"_\{([A-Za-z0-9])\}")  # x_{1} is x_1
_COMPUTING = frozenset(("+", "-", "*", "/", "^", "!", "%", "\\frac", "\\sqrt"))  # -apples = 5
_NAME = re.compile(
    r"(?:[A-Za-z]|\\(?!pi|infty|frac|sqrt)[a-z]+)'*(?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]+\}))?"  # x, \theta, a_n
    r"|[A-Za-z]'?\((?:[A-Za-z0-9,]|\\[a-z]++)++\)"  # f(x), P(A)
    r"|\((?:[A-Za-z],)+[A-Za-z]\)"  # (x, y)
    r"|\|?(?:m?\\(?:angle|triangle)|\\overline\{?)*[A-Z]{1,4}\}?\|?"  # \angle ABC, AB, |AB|
)


def _inequality(signs: list[str], members: list[Node]) -> Node:
    """The interval of a variable where it stands alone, else left minus right."""
    if any(sign[0] != signs[0][0] for sign in signs) or len(signs) > 2:
        raise Refused("unparsable")
    if signs[0][0] == ">":
        members, signs = members[::-1], [sign.replace(">", "<") for sign in reversed(signs)]
    closed = ["<=" in sign for sign in signs]
    low, high = members[0], members[-1]
    if len(signs) == 2 and _is_variable(members[1]) and members[1].value not in symbols(low) | symbols(high):
        return Node("named", members[1].value, (_interval(low, high, closed[0], closed[1]),))
    if len(signs) == 1 and _is_variable(low) and low.value not in symbols(high):
        return Node("named", low.value, (_interval(negative(_INFINITY), high, False, closed[0]),))
    if len(signs) == 1 and _is_variable(high) and high.value not in symbols(low):
        return Node("named", high.value, (_interval(low, _INFINITY, closed[0], False),))
    if len(signs) == 1:
        return Node("relation", signs[0], (add(low, negative(high)),))
    raise Refused("unparsable")


def _is_variable(node: Node) -> bool:
    return node.kind == "sym" and bool(symbols(node))


def _interval(low: Node, high: Node, with_low: bool, with_high: bool) -> Node:
    return Node("tuple", ("[" if with_low else "(") + ("]" if with_high else ")"), (low, high))


def _value(found: Tokens) -> Node:
    """One value: with a unit, in brackets, a union, a matrix, a ratio or an expression."""
    if len(found) == 1 and found[0].kind == "word" and len(found[0].text) == 1:
        return Node("sym", found[0].text)  # \text{A}
    found, measured = without_unit(found)
    if any(token.kind == "word" and token.text.lower() not in MULTIPLIERS for token in found):
        raise Refused("unparsable")
    node = _bare(found)
    if measured is None or node.kind == "text":
        return node
    return Node("unit", measured.kind, (number(measured.factor), node))


def _bare(found: Tokens) -> Node:
    if not found:
        raise Refused("unparsable")
    if [token.text for token in found] in (["\\mathbb{R}"], ["\\mathbb", "R"], ["\\mathbbR"]):
        return _interval(negative(_INFINITY), _INFINITY, False, False)
    if [token.text for token in found] == ["\\emptyset"]:
        return Node("set")
    parts = [part for _, part in split(found, lambda token: token.text == "\\cup")]
    if len(parts) > 1:
        return Node("union", "", tuple(_bare(part) for part in parts))
    parts = [part for _, part in split(found, lambda token: token.text == ":")]
    if len(parts) > 1:
        return Node("colon", "", tuple(parse(part) for part in parts))
    if maths_tokens.is_bracketed(found):
        node = _bracketed(found)
        if node is not None:
            return node
    return _set(branches(parse(found)))


def _bracketed(found: Tokens) -> Node | None:
    """A set, tuple, interval or matrix; None for brackets that only group."""
    first, last, inside = found[0].text, found[-1].text, found[1:-1]
    if found[0].kind == "env":
        return _matrix(first, inside)
    parts = [part for _, part in split(inside, lambda token: token.text == ",")]
    if len(parts) > MAX_PARTS:
        raise Refused("too_long")
    if first == "\\{" or (first == "{" and len(parts) > 1):
        return _set(tuple(_value(part) for part in parts)) if inside else Node("set")
    if len(parts) > 1 and first in "([" and last in ")]":
        return Node("tuple", first + last, tuple(_value(part) for part in parts))
    return _bare(inside) if maths_tokens.is_bracketed(inside) else None


def _matrix(first: str, inside: Tokens) -> Node:
    if not re.fullmatch(r"\\begin\{(?:[pbB]?matrix|smallmatrix|array)\*?\}(?:\{[lcr|]*\})?", first):
        raise Refused("unparsable")  # a determinant is no matrix
    rows = [part for _, part in split(inside, lambda token: token.text == "\\\\") if part]
    cells = [[part for _, part in split(row, lambda token: token.text == "&")] for row in rows]
    if not cells or len({len(row) for row in cells}) != 1:
        raise Refused("unparsable")
    if len(cells) * len(cells[0]) > MAX_PARTS:
        raise Refused("too_long")
    return Node("matrix", f"{len(cells)}x{len(cells[0])}", tuple(parse(cell) for row in cells for cell in row))
