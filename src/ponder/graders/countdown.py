"""Countdown: does an arithmetic expression reach the target with exactly the given numbers?

The grammar is the whitelist: `+ - * / ( )` and plain non-negative integers. Nothing is evaluated by Python, so powers,
floor division, decimals, digit pasting, factorials and exponents are not wrong by a rule of their own: there is no way
to write them. Values are fractions; every number must be used as often as it is given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_LENGTH = 1_000  # characters; six numbers need fewer than sixty
MAX_DEPTH = 50  # nested parentheses

Reason = Literal["ok", "empty", "too_long", "not_arithmetic", "wrong_numbers", "division_by_zero", "wrong_value"]


@dataclass(frozen=True, slots=True)
class Check:
    """A judgement and its reason; `ok` exactly when the reason is "ok"."""

    ok: bool
    reason: Reason


def check(expression: str, numbers: Sequence[int], target: int) -> Check:
    """Judge an expression.

    Spaces are free, and the typographic signs for times, divided by and minus are read as * / -. One trailing `= T` is
    allowed where T is the target written as a plain integer; any other equals sign makes it no expression. No unary
    signs, no implied products, no leading zeros.

    Args:
        expression: what the model answered.
        numbers: the given numbers, >= 0, in any order, repeats counted.
        target: the value to reach, an integer.

    Returns:
        Check(ok, reason). The first reason in the order of `Reason` that applies.
    """
    if not expression.strip():
        return Check(False, "empty")
    if len(expression) > MAX_LENGTH:
        return Check(False, "too_long")
    try:
        left, claimed = _parse(expression)
    except _NotArithmeticError:
        return Check(False, "not_arithmetic")
    if Counter(_leaves(left)) != Counter(numbers):
        return Check(False, "wrong_numbers")
    try:
        value = _value(left)
    except ZeroDivisionError:
        return Check(False, "division_by_zero")
    if value != target or claimed not in (None, target):
        return Check(False, "wrong_value")
    return Check(True, "ok")


def canonical(expression: str) -> str | None:
    """One spelling for expressions that differ only by order and grouping, so that they vote together.

    Sums and products are flattened (a-(b-c) is a+c-b, a/(b/c) is a*c/b), their terms sorted, needless parentheses and
    spaces dropped. Nothing is computed or distributed: 2*(3+4) and 2*3+2*4 stay apart, as do (1-2)*(3-4) and
    (2-1)*(4-3). Expressions with the same canonical form use the same numbers and have the same value.

    Returns:
        The canonical form, itself an expression; None for what `check` would call empty, too long, no arithmetic or a
        division by zero, and for `left = T` where T is not the value of the left side.
    """
    if not expression.strip() or len(expression) > MAX_LENGTH:
        return None
    try:
        left, claimed = _parse(expression)
        value = _value(left)
    except (_NotArithmeticError, ZeroDivisionError):
        return None
    if claimed not in (None, value):
        return None
    return _render(left)


@dataclass(frozen=True, slots=True)
class _Group:
    """A sum (kind +, inverse = subtracted) or a product (kind *, inverse = divided by); the first is never inverse."""

    kind: Literal["+", "*"]
    parts: tuple[tuple[bool, _Node], ...]


_Node = int | _Group


class _NotArithmeticError(Exception):
    pass


_SIGNS = str.maketrans("\u00d7\u00f7\u2212", "*/-")
_TOKEN = re.compile(r"[ \t\r\n]*(?:(0(?![0-9])|[1-9][0-9]*)|([-+*/()=]))")


def _parse(expression: str) -> tuple[_Node, int | None]:
    """The left side, and the integer after the equals sign if there is one."""
    tokens = _tokens(expression.translate(_SIGNS))
    node, at = _chain(tokens, 0, 0, "+")
    if at == len(tokens):
        return node, None
    if tokens[at] == "=" and len(tokens) == at + 2 and tokens[at + 1].isdigit():
        return node, int(tokens[at + 1])
    raise _NotArithmeticError


def _tokens(text: str) -> list[str]:
    tokens: list[str] = []
    at = 0
    end = len(text.rstrip(" \t\r\n"))
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise _NotArithmeticError
        tokens.append(match[1] or match[2])
        at = match.end()
    return tokens


_INVERSE = {"+": "-", "*": "/"}


def _chain(tokens: list[str], at: int, depth: int, kind: Literal["+", "*"]) -> tuple[_Node, int]:
    """Parts joined by the kind's two operators; returns the node and where it ends."""
    parts: list[tuple[bool, _Node]] = []
    inverse = False
    while True:
        part, at = _chain(tokens, at, depth, "*") if kind == "+" else _atom(tokens, at, depth)
        parts.append((inverse, part))
        if at == len(tokens) or tokens[at] not in (kind, _INVERSE[kind]):
            return (part if len(parts) == 1 else _Group(kind, tuple(parts))), at
        inverse = tokens[at] != kind
        at += 1


def _atom(tokens: list[str], at: int, depth: int) -> tuple[_Node, int]:
    if at < len(tokens) and tokens[at].isdigit():
        return int(tokens[at]), at + 1
    if at == len(tokens) or tokens[at] != "(" or depth == MAX_DEPTH:
        raise _NotArithmeticError
    node, at = _chain(tokens, at + 1, depth + 1, "+")
    if at == len(tokens) or tokens[at] != ")":
        raise _NotArithmeticError
    return node, at + 1


def _leaves(node: _Node) -> list[int]:
    if isinstance(node, int):
        return [node]
    return [leaf for _, part in node.parts for leaf in _leaves(part)]


def _value(node: _Node) -> Fraction:
    if isinstance(node, int):
        return Fraction(node)
    total = Fraction(0 if node.kind == "+" else 1)
    for inverse, part in node.parts:
        value = _value(part)
        if node.kind == "+":
            total += -value if inverse else value
        else:
            total = total / value if inverse else total * value
    return total


def _render(node: _Node) -> str:
    if isinstance(node, int):
        return str(node)
    parts = sorted(
        (inverse, len(text), text)
        for inverse, part in _flat(node)
        for text in [f"({_render(part)})" if isinstance(part, _Group) and part.kind == "+" else _render(part)]
    )
    signs = {False: node.kind, True: _INVERSE[node.kind]}
    return "".join(signs[inverse] + text for inverse, _, text in parts)[1:]


def _flat(group: _Group) -> list[tuple[bool, _Node]]:
    """The parts with nested groups of the same kind opened; an inverse in front turns theirs."""
    flat: list[tuple[bool, _Node]] = []
    for inverse, part in group.parts:
        inner = _flat(part) if isinstance(part, _Group) and part.kind == group.kind else [(False, part)]
        flat.extend((inverse != turned, node) for turned, node in inner)
    return flat
