"""Exact arithmetic for the easy majority: the normal form of an expression as a sum of products, with fractions for coefficients.

A `Sum` maps products of atoms to coefficients. Atoms are variables, pi, e, i, primes under roots, and the keys of whatever has no
normal form. Two expressions with one form are equal. Where all atoms are plain (independent over the rationals: Besicovitch 1940 for roots of
primes; pi and e are taken to be so), different forms are different values, too: that decides without any computer algebra.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from ponder.graders.maths_tokens import Refused
from ponder.graders.maths_tree import Node

Product: TypeAlias = tuple[tuple[str, Fraction], ...]

MAX_TERMS = 60  # what is multiplied out at most; beyond it a product or a power is an atom of its own
MAX_TRIAL = 1_000  # primes up to here are taken out of roots
MAX_BITS = 10_000  # of a power that is computed

_ZERO, _ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True, slots=True)
class Sum:
    """terms: coefficients, none 0, by product of atoms. plain: different plain sums are different values."""

    terms: Mapping[Product, Fraction]
    plain: bool = True

    @property
    def number(self) -> Fraction | None:
        """The value, if it is rational."""
        if not self.terms:
            return _ZERO
        return self.terms.get(()) if len(self.terms) == 1 else None

    @property
    def key(self) -> str:
        """One spelling of the sum."""
        if (value := self.number) is not None:
            return str(value)
        return "+".join(_times(coefficient, product) for product, coefficient in sorted(self.terms.items())).replace("+-", "-")


def normal(node: Node) -> Sum:
    """The normal form of a tree. Raises `Refused("unparsable")` for a division by zero."""
    if node.kind == "num":
        return _constant(Fraction(node.value))
    if node.kind == "sym":
        return Sum({((node.value, _ONE),): _ONE}, plain=node.value != "\\infty")
    parts = [normal(part) for part in node.args]
    if node.kind == "add":
        return _add(parts)
    if node.kind == "mul":
        product = _constant(_ONE)
        for part in parts:
            product = _multiply(product, part)
        return product
    if node.kind == "pow":
        return _power(*parts)
    return _function(node.value or node.kind, parts)


def _constant(value: Fraction) -> Sum:
    return Sum({(): value} if value else {})


def _atom(key: str) -> Sum:
    return Sum({((key, _ONE),): _ONE}, plain=False)


def _add(parts: list[Sum]) -> Sum:
    terms: dict[Product, Fraction] = {}
    for part in parts:
        for product, coefficient in part.terms.items():
            terms[product] = terms.get(product, _ZERO) + coefficient
    return Sum({product: value for product, value in terms.items() if value}, all(part.plain for part in parts))


def _multiply(a: Sum, b: Sum) -> Sum:
    if len(a.terms) * len(b.terms) > MAX_TERMS:
        a, b = (_atom(f"({one.key})") if len(one.terms) > 1 else one for one in (a, b))
    parts = []
    for left, x in a.terms.items():
        for right, y in b.terms.items():
            parts.append(_gather((*left, *right), x * y, a.plain and b.plain))
    return _add(parts) if parts else Sum({})


def _gather(factors: Product, coefficient: Fraction, is_plain: bool) -> Sum:
    """One product: equal atoms joined, whole powers of primes and of i moved into the coefficient."""
    exponents: dict[str, Fraction] = {}
    for atom, exponent in factors:
        exponents[atom] = exponents.get(atom, _ZERO) + exponent
    kept = []
    for atom, exponent in sorted(exponents.items()):
        if atom.isdigit():
            whole = math.floor(exponent)
            coefficient *= _raised(Fraction(int(atom)), whole)
            exponent -= whole
        elif atom == "i" and exponent.denominator == 1:
            turns = int(exponent) % 4
            coefficient, exponent = (-coefficient if turns >= 2 else coefficient), Fraction(turns % 2)
        if exponent:
            kept.append((atom, exponent))
    return Sum({tuple(kept): coefficient} if coefficient else {}, is_plain)


def _power(base: Sum, exponent: Sum) -> Sum:
    times = exponent.number
    if times is None:
        return _atom(f"(({base.key})^({exponent.key}))")
    if times == 0:
        return _constant(_ONE)
    if not base.terms:
        if times < 0:
            raise Refused("unparsable")  # a division by zero
        return base
    if len(base.terms) == 1:
        ((product, coefficient),) = base.terms.items()
        if times.denominator == 1 or (coefficient > 0 and not product):
            raised = tuple((atom, power * times) for atom, power in product)
            return _multiply(_root(coefficient, times), _gather(raised, _ONE, base.plain))
        if base.number is not None and times.denominator % 2:  # the cube root of -8 is -2, as at school
            return _multiply(_constant(Fraction((-1) ** times.numerator)), _root(-coefficient, times))
        if base.number is not None and times.denominator == 2:  # the principal root of a negative number
            return _multiply(_root(-coefficient, times), _gather((("i", 2 * times),), _ONE, True))
        if product and all(atom != "i" for atom, _ in product) and coefficient == 1 and len(product) == 1 and product[0][1] == 1:
            return Sum({((product[0][0], times),): _ONE}, base.plain)  # sqrt(x)
    if times.denominator == 1 and 0 < times <= 12 and len(base.terms) ** int(times) <= 4 * MAX_TERMS:
        result = base
        for _ in range(int(times) - 1):
            result = _multiply(result, base)
        return result
    return Sum({((f"({base.key})", times),): _ONE}, plain=False)


def _root(value: Fraction, times: Fraction) -> Sum:
    """A number to a rational power; value > 0 unless the power is whole."""
    if times.denominator == 1:
        return _constant(_raised(value, int(times)))
    factors: list[tuple[str, Fraction]] = []
    is_plain = True
    for number, sign in ((value.numerator, 1), (value.denominator, -1)):
        for prime, count in _factors(number).items():
            is_plain = is_plain and prime <= MAX_TRIAL**2
            factors.append((str(prime), times * count * sign))
    return _gather(tuple(factors), _ONE, is_plain)


def _raised(value: Fraction, times: int) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) * abs(times) > MAX_BITS + abs(times):
        raise Refused("tower")
    return value**times


def _factors(number: int) -> dict[int, int]:
    """Prime factors up to MAX_TRIAL, and what is left as one factor (a prime if it is below MAX_TRIAL squared)."""
    found: dict[int, int] = {}
    trial = 2
    while trial <= MAX_TRIAL and trial * trial <= number:
        while number % trial == 0:
            found[trial] = found.get(trial, 0) + 1
            number //= trial
        trial += 1 if trial == 2 else 2
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return found


def _function(name: str, parts: list[Sum]) -> Sum:
    values = [part.number for part in parts]
    if name == "abs" and values[0] is not None:
        return _constant(abs(values[0]))
    if name in ("floor", "ceiling") and values[0] is not None:
        return _constant(Fraction(math.floor(values[0]) if name == "floor" else math.ceil(values[0])))
    whole = [int(value) for value in values if value is not None and value.denominator == 1 and 0 <= value <= 1_000]
    if len(whole) == len(parts) and name in ("factorial", "binomial"):
        return _constant(Fraction(math.factorial(whole[0]) if name == "factorial" else math.comb(*whole)))
    keys = [part.key for part in parts]
    if name in _WRITTEN:
        return _atom(_WRITTEN[name].format(*keys))
    return _atom(f"{name}({keys[0]})" if len(keys) == 1 else f"{name}_{{{keys[1]}}}({keys[0]})")


_WRITTEN = {
    "binomial": r"\binom{{{0}}}{{{1}}}",
    "factorial": "({0})!",
    "abs": "|{0}|",
    "floor": r"\lfloor {0}\rfloor ",
    "ceiling": r"\lceil {0}\rceil ",
}


def _times(coefficient: Fraction, product: Product) -> str:
    factors = [
        atom if power == 1 else f"{atom}^{power}" if power.denominator == 1 else f"{atom}^({power})" for atom, power in product
    ]
    return "*".join(([] if coefficient == 1 and factors else [str(coefficient)]) + factors)
