"""Plain values as JSON with their types kept, for the border between a program and whoever judges it.

Scalars are JSON's own; everything else is a list of a tag and its parts. Decoding trusts nothing: what is not exactly of this form
raises `ValueError`. Runs inside the sandbox as well: standard library only.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import TypeAlias, cast

Coded: TypeAlias = "bool | int | float | str | list[Coded] | None"

DEEPEST = 200  # containers within containers
_COLLIDING = 16  # keys of one hash
_WIDEST_DECIMAL = 10_000  # exponent; comparing with an integer writes it out
_WIDEST_FRACTION = 16_384  # bits; cancelling takes quadratic time
_WIDEST = 2**53  # larger integers travel in hexadecimal, whatever the limits of a JSON reader


def encode(value: object, handle: Callable[[object], object]) -> Coded:
    """The coded form. `handle` gives the coded form of what is not plain.

    Instances of subclasses are read through their base type, so that a named tuple is a tuple and a counter a dictionary.
    Raises `ValueError` for what is nested too deeply, `RuntimeError` for what changes while it is read.
    """
    return _encode(value, handle, 0)


def _encode(value: object, handle: Callable[[object], object], depth: int) -> Coded:
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        number = int.__pos__(value)
        return number if -_WIDEST < number < _WIDEST else ["i", hex(number)]
    if isinstance(value, float):
        return float.__pos__(value)
    if isinstance(value, str):
        return str.__str__(value)

    def each(items: object) -> Coded:
        return [_encode(item, handle, depth + 1) for item in items]  # type: ignore[attr-defined]  # iterators of the base types

    if isinstance(value, list):
        return ["l", each(list.__iter__(value))]
    if isinstance(value, tuple):
        return ["t", each(tuple.__iter__(value))]
    if isinstance(value, dict):
        return ["d", [each(pair) for pair in dict.items(value)]]
    if isinstance(value, frozenset):
        return ["f", each(frozenset.__iter__(value))]
    if isinstance(value, set):
        return ["s", each(set.__iter__(value))]
    if isinstance(value, bytes):
        return ["b", bytes.hex(value)]
    if isinstance(value, complex):
        return ["c", [value.real, value.imag]]
    if getattr(value, "shape", None) == () and type(value).__module__ == "numpy":
        return _encode(value.item(), handle, depth + 1)  # type: ignore[attr-defined]  # a NumPy scalar
    if type(value) is Fraction:
        return ["q", [["i", hex(value.numerator)], ["i", hex(value.denominator)]]]
    if type(value) is Decimal:
        return ["m", str(value)]
    return ["h", handle(value)]  # type: ignore[list-item]  # a handle's number, or what `handle` made of it


def decode(coded: Coded, handle: Callable[[int], object]) -> object:
    """The value. `handle` makes something of a handle's number. Raises `ValueError` for what was never encoded."""
    try:
        return _decode(coded, handle, 0)
    except (TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:  # unhashable, ill-typed, ill-formed
        raise ValueError(f"not a value: {type(error).__name__}") from None


def _decode(coded: Coded, handle: Callable[[int], object], depth: int) -> object:
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} deep")
    if not isinstance(coded, list):
        if coded is None or type(coded) in (bool, int, float, str):
            return coded
        raise ValueError(f"not a value: {type(coded).__name__}")
    tag, body = coded if len(coded) == 2 else (None, None)
    if not isinstance(tag, str) or tag not in _TAGS:
        raise ValueError("not a value: no such tag")
    if tag in "ltsfdqc":
        if not isinstance(body, list):
            raise ValueError(f"not a value: {tag!r} of {type(body).__name__}")
        if tag == "d":
            pairs = [[_decode(item, handle, depth + 1) for item in _pair(pair)] for pair in body]
            _not_flooded([key for key, _ in pairs])
            return {key: value for key, value in pairs}
        items = [_decode(item, handle, depth + 1) for item in body]
        if tag in "sf":
            _not_flooded(items)
        return _MAKERS[tag](items)
    if tag == "h":
        return handle(operator.index(body))  # type: ignore[arg-type]  # raises TypeError, caught above
    if not isinstance(body, str):
        raise ValueError(f"not a value: {tag!r} of {type(body).__name__}")
    if tag == "i":
        return int(body, 16)
    return bytes.fromhex(body) if tag == "b" else _decimal(body)


def _not_flooded(keys: list[object]) -> None:
    """Raises `ValueError` for many keys of one hash: a table of them takes quadratic time, in the process that judges."""
    hashes = sorted(map(hash, keys))
    if any(hashes[at] == hashes[at + _COLLIDING] for at in range(len(hashes) - _COLLIDING)):
        raise ValueError(f"not a value: more than {_COLLIDING} keys of one hash")


def _decimal(text: str) -> Decimal:
    number = Decimal(text)
    if number.is_snan() or (number.is_finite() and abs(number.adjusted()) > _WIDEST_DECIMAL):
        raise ValueError(f"not a value: a decimal that signals, or with an exponent beyond {_WIDEST_DECIMAL:,}")
    return number


def _pair(coded: Coded) -> list[Coded]:
    if not isinstance(coded, list) or len(coded) != 2:
        raise ValueError("not a value: a dictionary's entry is a pair")
    return coded


def _fraction(items: list[object]) -> Fraction:
    top, bottom = items
    if type(top) is not int or type(bottom) is not int or max(top.bit_length(), bottom.bit_length()) > _WIDEST_FRACTION:
        raise ValueError(f"not a value: a fraction is of integers of at most {_WIDEST_FRACTION:,} bits")
    return Fraction(top, bottom)


def _complex(items: list[object]) -> complex:
    real, imaginary = items
    if not isinstance(real, int | float) or not isinstance(imaginary, int | float):
        raise ValueError("not a value: a complex number is of two numbers")
    return complex(real, imaginary)


_MAKERS: dict[str, Callable[[list[object]], object]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "f": frozenset,
    "q": _fraction,
    "c": _complex,
}
_TAGS = frozenset("ltsfdqcihbm")


def _no_object(pairs: list[tuple[str, object]]) -> object:
    raise ValueError("not a value: no coded value holds a JSON object")


def dumps(coded: object) -> str:
    """One line of ASCII; lone surrogates survive as escapes."""
    return json.dumps(coded, separators=(",", ":"))


def loads(line: str) -> object:
    """What `dumps` wrote. Raises `ValueError` (of which RecursionError is made one)."""
    try:
        return cast("object", json.loads(line, object_pairs_hook=_no_object))
    except RecursionError:
        raise ValueError("nested too deeply") from None
