"""What is counted before a body is read."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from ponder.server.reading import _PAIRS, MOST_VALUES, _fields, _outside, _values

WORDS = st.text(st.sampled_from('",[{}]:\\/a\né'), max_size=8)
VALUES = st.recursive(
    st.none() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)


def counted(value):
    """Values, an empty object or list twice."""
    if not isinstance(value, dict | list):
        return 1
    inner = value.values() if isinstance(value, dict) else value
    return 1 + sum(map(counted, inner)) + (not value)


@given(VALUES, st.booleans())
def test_values_are_counted_without_reading_them(value, ascii_only):
    assert _values(json.dumps(value, ensure_ascii=ascii_only).encode()) == counted(value) - 1


def test_a_text_of_separators_is_one_value_and_too_many_texts_are_too_many():
    assert _values(json.dumps([",[{" * 10**6]).encode()) == 1
    assert _values(json.dumps(["a"] * 3 * MOST_VALUES).encode()) > MOST_VALUES


@given(VALUES, st.booleans())
def test_fields_are_as_many_as_there_are_pairs_unless_one_stands_twice(value, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert _outside(data, _PAIRS) == _fields(value)
    assert _outside(b'{"a": ' + data + b', "a": ' + data + b"}", _PAIRS) > _fields({"a": value})
