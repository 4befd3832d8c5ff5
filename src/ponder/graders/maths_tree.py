"""The tree of an expression, and how large its value may be.

A `Node` is one of num (an exact fraction), sym, add, mul, pow, fn, pm; `maths_answer` adds what stands around expressions. Everything
here is arithmetic on sizes: `magnitude` refuses towers, factorials and binomials before anything is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from ponder.graders.maths_tokens import Refused
from ponder.sandbox.core import Value

MAX_MAGNITUDE = 3_000.0  # decimal digits of any value on the way
MAX_POWER = 100.0  # of a sum: (x+1)^100 is the largest that may be multiplied out
MAX_CHOICE = 3.0  # log10 of what a factorial or a binomial may be taken of
MAX_BITS = 10_000  # of the numerator and the denominator of a number, together; Python writes no integer beyond 14,000 bits


@dataclass(frozen=True, slots=True)
class Node:
    """A tree: `kind`, its own `value` (a fraction, a name), and what it is made of."""

    kind: str
    value: str = ""
    args: tuple[Node, ...] = ()


def plain(node: Node) -> Value:
    """The tree as plain values, (kind, value, parts), for another process."""
    parts: list[Value] = [plain(part) for part in node.args]
    return (node.kind, node.value, parts)


def bits(value: Fraction) -> int:
    """Bits of numerator and denominator."""
    return value.numerator.bit_length() + value.denominator.bit_length()


def bounded(value: Fraction) -> Fraction:
    """The value itself. Raises `Refused("tower")` for one beyond `MAX_BITS`, which could not be written, nor computed with in no time."""
    if bits(value) > MAX_BITS:
        raise Refused("tower")
    return value


def number(value: Fraction | int) -> Node:
    """An exact number. Raises `Refused("tower")` for one beyond `MAX_BITS`."""
    return Node("num", str(bounded(Fraction(value))))


def add(*parts: Node) -> Node:
    """A sum."""
    return parts[0] if len(parts) == 1 else Node("add", "", parts)


def mul(*parts: Node) -> Node:
    """A product; of numbers, a number."""
    if len(parts) == 1:
        return parts[0]
    if not all(part.kind == "num" for part in parts):
        return Node("mul", "", parts)
    product = Fraction(1)
    for part in parts:
        product = bounded(product * Fraction(part.value))
    return number(product)


def power(base: Node, exponent: Node) -> Node:
    """A power; the reciprocal of a number is a number."""
    if base.kind == "num" and exponent == number(-1) and base.value != "0":
        return number(1 / Fraction(base.value))
    return Node("pow", "", (base, exponent))


def negative(part: Node) -> Node:
    """Minus a tree."""
    return number(-Fraction(part.value)) if part.kind == "num" else mul(number(-1), part)


def over(top: Node, bottom: Node) -> Node:
    """A quotient."""
    return mul(top, power(bottom, number(-1)))


def branches(node: Node) -> tuple[Node, ...]:
    """Both readings of a tree with plus-minus signs (all upper signs, all lower signs), else the tree itself."""
    return tuple(_signed(node, upper) for upper in (True, False)) if "pm" in _kinds(node) else (node,)


def symbols(node: Node) -> frozenset[str]:
    """Names of the variables; pi, e and i are none."""
    if node.kind == "sym":
        return frozenset() if node.value in ("e", "i", "\\pi", "\\infty") else frozenset((node.value,))
    return frozenset().union(*map(symbols, node.args))


def magnitude(node: Node) -> float:
    """A bound on the decimal digits of the value, before and after the point, with every variable about ten. Raises `Refused("tower")` beyond the bounds."""
    sizes = [magnitude(part) for part in node.args]
    size = 1.0
    if node.kind == "num":
        value = Fraction(node.value)
        size = math.log10(max(abs(value.numerator), 1)) + math.log10(value.denominator)
    elif node.kind == "sym":
        size = _SIZES.get(node.value, 1.0)
    elif node.kind == "add":
        size = max(sizes) + math.log10(len(sizes) + 1)
    elif node.kind == "mul":
        size = sum(sizes)
    elif node.kind == "pow":
        base, exponent = node.args
        times = abs(Fraction(exponent.value)) if exponent.kind == "num" else None
        if sizes[1] > 6 and (times is None or times > 10**6):
            raise Refused("tower")
        count = float(times) if times is not None else 10.0 ** sizes[1]
        if base.kind in ("add", "mul") and symbols(base) and count > MAX_POWER:
            raise Refused("tower")
        places = math.log10(Fraction(exponent.value).denominator) if times is not None else 0.0
        size = sizes[0] * max(count, 1.0) + places  # e^0.0001 differs from 1 in the fourth place
    elif node.kind == "fn" and node.value in ("factorial", "binomial"):
        if max(sizes) > MAX_CHOICE + 0.001:
            raise Refused("tower")
        largest = 10.0 ** max(sizes)
        size = largest * (max(sizes) if node.value == "factorial" else math.log10(2))
    elif sizes:
        size = sum(sizes)
    if size > MAX_MAGNITUDE:
        raise Refused("tower")
    return size


_SIZES = {"e": math.log10(math.e), "\\pi": math.log10(math.pi), "i": 0.0}


def _kinds(node: Node) -> frozenset[str]:
    return frozenset((node.kind,)).union(*map(_kinds, node.args))


def _signed(node: Node, upper: bool) -> Node:
    args = tuple(_signed(part, upper) for part in node.args)
    if node.kind == "pm":
        return args[0] if (node.value == "+") == upper else negative(args[0])
    return Node(node.kind, node.value, args)
