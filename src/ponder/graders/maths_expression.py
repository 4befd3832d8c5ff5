"""Expressions: tokens to a tree, by a grammar of our own. Nothing is looked up, imported or evaluated, so nothing can be injected.

Recursive descent over tokens, linear but for arithmetic on single numbers. Depth is bounded while parsing, sizes before anything is computed.
"""

from __future__ import annotations

import re
from fractions import Fraction

from ponder.graders.maths_tokens import CONSTANTS, FUNCTIONS, MAX_DEPTH, Refused, Token, Tokens
from ponder.graders.maths_tree import Node, add, magnitude, mul, negative, number, over, power
from ponder.graders.maths_words import MULTIPLIERS

MAX_MARKS = 8  # exponents, factorial, percent and degree signs after one factor


def parse(found: Tokens) -> Node:
    """The tree of one expression. Raises `Refused`: no expression, nested too deep, or a tower."""
    parser = _Parser(found)
    node = parser.sum()
    if parser.at != len(found):
        raise Refused("unparsable")
    magnitude(node)
    return node


class _Parser:
    """Recursive descent; `depth` counts brackets and arguments, so that hostile nesting never reaches Python's own limit."""

    def __init__(self, found: Tokens) -> None:
        self.tokens, self.at, self.depth, self.bars = list(found), 0, 0, 0

    def sum(self) -> Node:
        parts: list[Node] = []
        while True:
            sign = self.take("+", "-", "\\pm", "\\mp")
            part = self.product()
            if sign in ("\\pm", "\\mp"):
                part = Node("pm", "+" if sign == "\\pm" else "-", (part,))
            parts.append(negative(part) if sign == "-" else part)
            if self.text() not in ("+", "-", "\\pm", "\\mp"):
                return add(*parts)

    def product(self) -> Node:
        parts = [self.factor()]
        while True:
            if self.take("*"):
                parts.append(self.signed())
            elif self.take("/"):
                parts.append(power(self.signed(), number(-1)))
            elif self.starts_atom():
                if self.here().kind == "num" and self.tokens[self.at - 1].kind == "num":
                    raise Refused("unparsable")  # 1 2 is no product
                parts.append(self.factor())
            else:
                return mul(*parts)

    def signed(self) -> Node:
        sign = self.take("+", "-")
        return negative(self.factor()) if sign == "-" else self.factor()

    def factor(self) -> Node:
        node = self.atom()
        for _ in range(MAX_MARKS):
            if self.take("^"):
                node = power(node, self.exponent())
            elif self.take("!"):
                if self.text() == "!":
                    raise Refused("unparsable")  # a double factorial
                node = Node("fn", "factorial", (node,))
            elif self.take("%"):
                node = mul(node, number(Fraction(1, 100)))
            elif self.take("\\degree"):
                node = mul(node, Node("sym", "\\pi"), number(Fraction(1, 180)))
            else:
                return node
        raise Refused("too_deep")

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused("too_deep")
        node = self.bare()
        self.depth -= 1
        return node

    def bare(self) -> Node:
        token = self.here()
        self.at += 1
        if token.kind == "num":
            return self.numeral(token.text)
        if token.kind == "letter":
            return Node("sym", token.text + self.subscript())
        if token.kind == "word" and token.text.lower() in MULTIPLIERS:
            return number(MULTIPLIERS[token.text.lower()])
        if token.kind == "cmd":
            return self.command(token.text)
        if token.text in _GROUPS:
            return self.group(token.text)
        if token.text == "|":
            self.bars += 1
            inside = self.sum()
            self.bars -= 1
            self.expect("|")
            return Node("fn", "abs", (inside,))
        raise Refused("unparsable")

    def numeral(self, text: str) -> Node:
        r"""A number, with a repeating end (0.1\overline{6}) or a proper fraction after it (1\frac{1}{2}, 1 1/2)."""
        base = number(fraction(text))
        rest = [token.text for token in self.tokens[self.at : self.at + 4]]
        if rest[:2] == ["\\overline", "{"] and rest[3:] == ["}"] and "." in text and rest[2].isdigit():
            self.at += 4
            places = len(text.partition(".")[2])
            return number(fraction(text) + Fraction(int(rest[2]), 10**places * (10 ** len(rest[2]) - 1)))
        if text.isdigit() and _PROPER.match("".join(token.text for token in self.tokens[self.at : self.at + 7])):
            self.at += 1  # looked ahead at, not tried: nested trials would double with each level
            top, bottom = self.argument(split=True), self.argument(split=True)
            return number(Fraction(base.value) + Fraction(top.value) / Fraction(bottom.value))
        if text.isdigit() and len(rest) > 2 and rest[1] == "/" and rest[0].isdigit() and rest[2].isdigit():
            part = Fraction(int(rest[0]), int(rest[2]) or 1)
            if self.here().spaced and 0 < part < 1:
                self.at += 3
                return number(int(text) + part)
        return base

    def command(self, name: str) -> Node:
        if name == "\\frac":
            top = self.argument(split=True)
            return over(top, self.argument(split=True))
        if name == "\\sqrt":
            index = self.group("[") if self.take("[") else number(2)
            return power(self.argument(split=False), power(index, number(-1)))
        if name in ("\\binom", "\\dbinom", "\\tbinom"):
            top = self.argument(split=True)
            return Node("fn", "binomial", (top, self.argument(split=True)))
        if name in ("\\lfloor", "\\lceil"):
            inside = self.sum()
            self.expect(name.replace("l", "r", 1))
            return Node("fn", "floor" if name == "\\lfloor" else "ceiling", (inside,))
        if name in CONSTANTS:
            return Node("sym", name)
        if name.lstrip("\\") in FUNCTIONS:
            return self.function(name.lstrip("\\"))
        if name.lstrip("\\").lower() in _GREEK:
            return Node("sym", name + self.subscript())
        raise Refused("unparsable")

    def function(self, name: str) -> Node:
        """A function of a bracket, or of the plain product that follows it; an exponent before the argument is of the value."""
        base: Node | None = None
        exponent: Node | None = None
        for _ in range(2):
            if self.take("_"):
                base = self.argument(split=True)
            elif self.take("^"):
                exponent = self.exponent()
        if self.text() in ("(", "{"):
            argument = self.atom()
        else:
            parts = [self.factor()]
            while self.starts_atom() and self.text().lstrip("\\") not in FUNCTIONS and self.text() != "(":
                parts.append(self.factor())
            argument = mul(*parts)
        if name == "exp":
            return power(Node("sym", "e"), argument)
        if exponent == number(-1) and name in ("sin", "cos", "tan"):
            name, exponent = f"arc{name}", None
        node = Node("fn", name, (argument,))
        if name in ("log", "lg"):
            node = Node("fn", "log", (argument,) if base is None else (argument, base))
        elif base is not None:
            raise Refused("unparsable")
        return node if exponent is None else power(node, exponent)

    def exponent(self) -> Node:
        """What follows ^; 2^3^2 is 2^(3^2), as in plain text."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Refused("too_deep")
        sign = self.take("+", "-")
        node = self.atom()
        if self.take("^"):
            node = power(node, self.exponent())
        self.depth -= 1
        return negative(node) if sign == "-" else node

    def argument(self, split: bool) -> Node:
        r"""What a command takes: a group, or one token; of a number without braces only its first digit if `split`, as in \frac12."""
        token = self.here()
        if split and token.kind == "num" and len(token.text) > 1:
            self.tokens[self.at] = Token("num", token.text[1:])
            return number(fraction(token.text[0]))
        return self.atom()

    def subscript(self) -> str:
        if not self.take("_"):
            return ""
        start = self.at
        self.argument(split=True)
        inside = [token.text for token in self.tokens[start : self.at] if token.text not in ("{", "}")]
        return "_" + inside[0] if len(inside) == 1 else "_{" + " ".join(inside) + "}"  # a_{n^2} is not a_n^2, nor a_{1 2} a_{12}

    def group(self, opened: str) -> Node:
        inside = self.sum()
        self.expect(_GROUPS[opened])
        return inside

    def here(self) -> Token:
        if self.at >= len(self.tokens):
            raise Refused("unparsable")
        return self.tokens[self.at]

    def text(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def take(self, *texts: str) -> str | None:
        if self.at >= len(self.tokens):
            return None
        token = self.tokens[self.at]
        if token.text not in texts or token.kind == "word":
            return None
        self.at += 1
        return token.text

    def expect(self, text: str) -> None:
        if self.take(text) is None:
            raise Refused("unparsable")

    def starts_atom(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        token = self.tokens[self.at]
        if token.kind == "cmd":
            return token.text not in _NO_ATOMS
        return (
            token.kind in ("num", "letter")
            or token.text in ("(", "{", "[")
            or (token.text == "|" and not self.bars)
            or (token.kind == "word" and token.text.lower() in MULTIPLIERS)
        )


_GROUPS = {"(": ")", "[": "]", "{": "}"}
_NO_ATOMS = frozenset(("\\degree", "\\pm", "\\mp", "\\rfloor", "\\rceil"))
_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron rho sigma tau upsilon phi chi psi omega ell"
)
_GREEK = frozenset(_LETTERS.split())
_PROPER = re.compile(r"\\frac(?:\{[0-9.]*[1-9][0-9.]*\}|[1-9]){2}")
_NUMERAL = re.compile(r"([0-9.]+)(?:[eE]([-+]?[0-9]+))?")


def fraction(text: str) -> Fraction:
    """The exact value of a numeral. Raises `Refused("tower")` for an exponent beyond 400."""
    if text.isdigit():
        return Fraction(int(text))
    match = _NUMERAL.fullmatch(text)
    if match is None:
        raise Refused("unparsable")
    exponent = int(match[2] or 0)
    if abs(exponent) > 400:
        raise Refused("tower")
    return Fraction(match[1]) * Fraction(10) ** exponent
