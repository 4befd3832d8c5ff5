"""Exact arithmetic for the easy majority: the normal form of an expression as a sum of products, with fractions for coefficients.

A `Sum` maps products of atoms to coefficients. Atoms are variables, pi, e, i, primes under roots, and the keys of whatever has no
normal form (a digest where the key is long, so that nothing grows with nesting). Two expressions with one form are equal. Where all
atoms are plain (independent over the rationals: Besicovitch 1940 for roots of primes; pi and e are taken to be so), different forms
are different values, too: that decides without any computer algebra. All work is paid from a `Budget`, so none takes long.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

from ponder.graders.maths_tokens import Refused
from ponder.graders.maths_tree import MAX_BITS, Node, bits, bounded

Product: TypeAlias = tuple[tuple[str, Fraction], ...]

MAX_TERMS = 60  # what is multiplied out at most; beyond it a product or a power is an atom of its own
MAX_TRIAL = 1_000  # primes up to here are taken out of roots
MAX_ATOM = 200  # characters of an atom; a longer one is named by its digest
MAX_STEPS = 3_000  # of one answer, of about a microsecond; the costliest answer of the judged table takes 217

_ZERO, _ONE = Fraction(0), Fraction(1)


@dataclass(slots=True)
class Budget:
    """What may still be done, in steps of about a microsecond."""

    left: int = MAX_STEPS

    def take(self, steps: int) -> None:
        """Pays for work that is about to be done. Raises `Refused("too_long")` where it cannot."""
        self.left -= steps
        if self.left < 0:
            raise Refused("too_long")

    def take_arithmetic(self, *values: Fraction) -> None:
        """Pays for a sum or a product of fractions, which is quadratic in their size."""
        size = sum(map(bits, values)) / 1_000
        self.take(2 + int(size * (4 + size)))


@dataclass(frozen=True)  # no slots, which `cached_property` cannot have
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

    @cached_property
    def key(self) -> str:
        """One spelling of the sum."""
        if (value := self.number) is not None:
            return str(value)
        return "+".join(_times(coefficient, product) for product, coefficient in sorted(self.terms.items())).replace("+-", "-")


def normal(node: Node, budget: Budget | None = None) -> Sum:
    """The normal form of a tree. Raises `Refused`: unparsable for a division by zero, tower for a number too large, too_long for too much work."""
    arithmetic = _Arithmetic(Budget() if budget is None else budget)
    form = arithmetic.normal(node)
    arithmetic.key(form)  # paid for here, kept by the form
    return form


def _constant(value: Fraction) -> Sum:
    return Sum({(): value} if value else {})


def _atom(key: str) -> Sum:
    return Sum({((_named(key), _ONE),): _ONE}, plain=False)


def _named(key: str) -> str:
    """An atom's name: its key, or a digest of it. Copies of a key in each of many terms, level upon level, would grow without end."""
    return key if len(key) <= MAX_ATOM else "#" + hashlib.blake2b(key.encode(), digest_size=20).hexdigest()


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    """Sums, products and powers of forms, paid from one budget."""

    budget: Budget

    def normal(self, node: Node) -> Sum:
        self.budget.take(2)
        if node.kind == "num":
            self.budget.take(len(node.value) // 100)
            return _constant(Fraction(node.value))
        if node.kind == "sym":
            return Sum({((node.value, _ONE),): _ONE}, plain=node.value != "\\infty")
        parts = [self.normal(part) for part in node.args]
        if node.kind == "add":
            return self.add(parts)
        if node.kind == "mul":
            return self.product(parts)
        if node.kind == "pow":
            return self.power(*parts)
        return self.function(node.value or node.kind, parts)

    def key(self, form: Sum) -> str:
        for product, coefficient in form.terms.items():
            size = bits(coefficient) // 1_000
            self.budget.take(2 + len(product) + size * (size + 3) // 2)
        return form.key

    def add(self, parts: list[Sum]) -> Sum:
        terms: dict[Product, Fraction] = {}
        for part in parts:
            for product, coefficient in part.terms.items():
                known = terms.get(product, _ZERO)
                self.budget.take_arithmetic(known, coefficient)
                terms[product] = bounded(known + coefficient)
        return Sum({product: value for product, value in terms.items() if value}, all(part.plain for part in parts))

    def product(self, parts: list[Sum]) -> Sum:
        """Single terms first and at once: one by one, a long product would be gathered again for each of its factors."""
        single = [part for part in parts if len(part.terms) == 1]
        coefficient = _ONE
        factors: list[tuple[str, Fraction]] = []
        for part in single:
            ((product, value),) = part.terms.items()
            self.budget.take_arithmetic(coefficient, value)
            coefficient = bounded(coefficient * value)
            factors.extend(product)
        result = self.gather(tuple(factors), coefficient, all(part.plain for part in single))
        for part in parts:
            if len(part.terms) != 1:
                result = self.multiply(result, part)
        return result

    def multiply(self, a: Sum, b: Sum) -> Sum:
        if len(a.terms) * len(b.terms) > MAX_TERMS:
            a, b = (_atom(f"({self.key(one)})") if len(one.terms) > 1 else one for one in (a, b))
        parts = []
        for left, x in a.terms.items():
            for right, y in b.terms.items():
                self.budget.take_arithmetic(x, y)
                parts.append(self.gather((*left, *right), bounded(x * y), a.plain and b.plain))
        return self.add(parts) if parts else Sum({})

    def gather(self, factors: Product, coefficient: Fraction, is_plain: bool) -> Sum:
        """One product: equal atoms joined, whole powers of primes and of i moved into the coefficient."""
        self.budget.take(3 + 3 * len(factors))
        exponents: dict[str, Fraction] = {}
        for atom, exponent in factors:
            exponents[atom] = exponents.get(atom, _ZERO) + exponent
        kept = []
        for atom, exponent in sorted(exponents.items()):
            if atom.isdigit():
                whole = math.floor(exponent)
                raised = self.raised(Fraction(int(atom)), whole)
                self.budget.take_arithmetic(coefficient, raised)
                coefficient = bounded(coefficient * raised)
                exponent -= whole
            elif atom == "i" and exponent.denominator == 1:
                turns = int(exponent) % 4
                coefficient, exponent = (-coefficient if turns >= 2 else coefficient), Fraction(turns % 2)
            if exponent:
                kept.append((atom, exponent))
        return Sum({tuple(kept): coefficient} if coefficient else {}, is_plain)

    def power(self, base: Sum, exponent: Sum) -> Sum:
        times = exponent.number
        if times is None:
            return _atom(f"(({self.key(base)})^({self.key(exponent)}))")
        if times == 0:
            return _constant(_ONE)
        if not base.terms:
            if times < 0:
                raise Refused("unparsable")  # a division by zero
            return base
        if len(base.terms) == 1 and (raised := self.single(base, times)) is not None:
            return raised
        if times.denominator == 1 and 0 < times <= 12 and len(base.terms) ** int(times) <= 4 * MAX_TERMS:
            result = base
            for _ in range(int(times) - 1):
                result = self.multiply(result, base)
            return result
        return Sum({((_named(f"({self.key(base)})"), times),): _ONE}, plain=False)

    def single(self, base: Sum, times: Fraction) -> Sum | None:
        """A power of one product; None where it has no form but itself."""
        ((product, coefficient),) = base.terms.items()
        if times.denominator == 1 or (coefficient > 0 and not product):
            raised = tuple((atom, power * times) for atom, power in product)
            return self.multiply(self.root(coefficient, times), self.gather(raised, _ONE, base.plain))
        if base.number is not None and times.denominator % 2:  # the cube root of -8 is -2, as at school
            return self.multiply(_constant(-_ONE if times.numerator % 2 else _ONE), self.root(-coefficient, times))
        if base.number is not None and times.denominator == 2:  # the principal root of a negative number
            return self.multiply(self.root(-coefficient, times), self.gather((("i", 2 * times),), _ONE, True))
        if len(product) == 1 and product[0][0] != "i" and coefficient == 1 and product[0][1] == 1:
            return Sum({((product[0][0], times),): _ONE}, base.plain)  # sqrt(x)
        return None

    def root(self, value: Fraction, times: Fraction) -> Sum:
        """A number to a rational power; value > 0 unless the power is whole."""
        if times.denominator == 1:
            return _constant(self.raised(value, int(times)))
        factors: list[tuple[str, Fraction]] = []
        is_plain = True
        for number, sign in ((value.numerator, 1), (value.denominator, -1)):
            for prime, count in self.factors(number).items():
                is_plain = is_plain and prime <= MAX_TRIAL**2
                factors.append((str(prime), times * count * sign))
        return self.gather(tuple(factors), _ONE, is_plain)

    def raised(self, value: Fraction, times: int) -> Fraction:
        if max(math.log2(abs(value.numerator)), math.log2(value.denominator)) * abs(times) > MAX_BITS:
            raise Refused("tower")
        size = bits(value) * min(abs(times), MAX_BITS) // 1_000
        self.budget.take(2 + size * (size + 3) // 2)
        return bounded(value**times)

    def factors(self, number: int) -> dict[int, int]:
        """Prime factors up to MAX_TRIAL, and what is left as one factor (a prime if it is below MAX_TRIAL squared)."""
        found: dict[int, int] = {}
        trial = 2
        price = 1 + number.bit_length() // 5_000
        while trial <= MAX_TRIAL and trial * trial <= number:
            self.budget.take(trial % 20 == 1)  # some ten divisions without remainder are a step
            while number % trial == 0:
                self.budget.take(price)
                found[trial] = found.get(trial, 0) + 1
                number //= trial
            trial += 1 if trial == 2 else 2
        if number > 1:
            found[number] = found.get(number, 0) + 1
        return found

    def function(self, name: str, parts: list[Sum]) -> Sum:
        values = [part.number for part in parts]
        if name == "abs" and values[0] is not None:
            return _constant(abs(values[0]))
        if name in ("floor", "ceiling") and values[0] is not None:
            return _constant(Fraction(math.floor(values[0]) if name == "floor" else math.ceil(values[0])))
        whole = [int(value) for value in values if value is not None and value.denominator == 1 and 0 <= value <= 1_000]
        if len(whole) == len(parts) and name in ("factorial", "binomial"):
            self.budget.take(max(whole) // 4)
            return _constant(Fraction(math.factorial(whole[0]) if name == "factorial" else math.comb(*whole)))
        keys = [self.key(part) for part in parts]
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
