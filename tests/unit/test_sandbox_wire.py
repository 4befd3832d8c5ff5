"""Values that cross the sandbox's border: each arrives as what it was, and nothing else gets through."""

from __future__ import annotations

import collections
import enum
import math
import sys
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.sandbox import wire
from ponder.sandbox.core import Handle

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.fractions()
    | st.decimals(allow_nan=False, min_value=-(10**50), max_value=10**50)
)
hashables = st.recursive(
    st.booleans() | st.integers() | st.text(),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(hashables, max_size=3)
        | st.dictionaries(hashables, inner, max_size=3)
    ),
    max_leaves=8,
)


def there_and_back(value):
    return wire.decode(wire.loads(wire.dumps(wire.encode(value, lambda thing: 7))), Handle)


def same(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, float | complex):
        return repr(a) == repr(b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return a == b


@given(values)
@settings(max_examples=300, deadline=None)
def test_plain_values_come_back_as_they_were(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.namedtuple("P", "x y")(1, 2), (1, 2)),
        (collections.OrderedDict(a=1), {"a": 1}),
        (enum.IntEnum("E", "one")["one"], 1),
        (type("Text", (str,), {"__eq__": lambda self, other: True, "__hash__": str.__hash__})("wrong"), "wrong"),
        (type("Number", (int,), {"__eq__": lambda self, other: True, "__hash__": int.__hash__})(3), 3),
        (type("Many", (list,), {"__iter__": lambda self: iter([1, 2, 3])})([0]), [0]),
        (type("Real", (float,), {"__float__": lambda self: 1.0})(2.5), 2.5),
        (-0.0, -0.0),
        (math.inf, math.inf),
        (2**4000, 2**4000),
        ("\ud800", "\ud800"),
    ],
)
def test_an_instance_of_a_subclass_arrives_as_the_plain_value_it_holds(value, plain):
    found = there_and_back(value)
    assert type(found) is type(plain)
    assert repr(found) == repr(plain)


@pytest.mark.parametrize("thing", [object(), len, range(3), iter([1]), {}.keys(), bytearray(b"x"), type])
def test_what_is_not_plain_arrives_as_a_handle(thing):
    assert there_and_back([thing]) == [Handle(7)]


def test_a_handle_equals_no_value():
    assert Handle(1) not in (1, "1", (1,), [1], None, True)


def test_nesting_is_bounded_on_both_sides():
    deep = []
    for _ in range(wire.DEEPEST + 1):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 200"):
        wire.encode(deep, id)
    coded = ["l", []]
    for _ in range(wire.DEEPEST + 1):
        coded = ["l", [coded]]
    with pytest.raises(ValueError, match="nested more than 200"):
        wire.decode(coded, Handle)
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested"):
        wire.encode(endless, id)


@pytest.mark.parametrize(
    "coded",
    [
        {"a": 1}, [], ["l"], ["l", 1], ["l", [], 3], ["x", []], ["ls", []], ["", []], [["l"], []], ["d", [1]], ["d", [[1]]], ["d", ["ab"]], ["s", [["l", []]]],
        ["i", 5], ["i", "zz"], ["b", "0g"], ["b", 1], ["c", [1]], ["c", ["a", "b"]], ["q", [1, 0]], ["q", [1]], ["q", ["a", 1]], ["q", [["i", "0x1" + "0" * 5000], 3]], ["m", "x"], ["m", "1E+999999999"], ["h", "a"], ["h", None], ["h", 1.5],
    ],
    ids=repr,
)  # fmt: skip
def test_what_was_never_encoded_is_refused(coded):
    with pytest.raises(ValueError, match=r"not a value|hexadecimal|literal|ConversionSyntax|invalid|unpack"):
        wire.decode(coded, Handle)


def test_keys_that_collide_on_purpose_are_refused_and_many_honest_ones_are_not():
    same_hash = [["i", hex(at * sys.hash_info.modulus)] for at in range(1, 2000)]
    for coded in (["s", same_hash], ["f", same_hash], ["d", [[key, 1] for key in same_hash]]):
        with pytest.raises(ValueError, match="keys of one hash"):
            wire.decode(coded, Handle)
    assert there_and_back(set(range(20_000))) == set(range(20_000))
    assert there_and_back({Fraction(1, n + 1): Decimal(n) for n in range(500)})[Fraction(1, 3)] == Decimal(2)


def test_json_that_is_too_deep_is_a_value_error():
    with pytest.raises(ValueError, match="nested too deeply"):
        wire.loads("[" * 100_000)
