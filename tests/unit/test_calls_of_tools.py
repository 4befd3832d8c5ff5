"""Calls of tools as text: they survive it, and what is no call costs no more than its length."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.policies.tools import Call, read_calls, render_calls


@pytest.mark.parametrize(
    "arguments",
    ['{"a": 1}', '{"a":1}', "{}", "", "not json", '{"a": 1e400}', '{"a": 1, "a": 2}', "[1]", '"text"', '{"q": "</tool_call>"}'],
)
def test_calls_survive_as_text(arguments):
    text = "Let me see." + render_calls(
        [{"function": {"name": "f", "arguments": arguments}}, {"function": {"name": "g", "arguments": "{}"}}]
    )
    rest, calls = read_calls(text)
    assert rest == "Let me see."
    assert [(call.name, call.arguments) for call in calls] == [("f", arguments), ("g", "{}")]


def test_calls_that_say_the_same_have_one_key():
    keys = {
        call.key
        for spelt in ('{"a": 1, "b": 2}', '{"b":2,"a":1}')
        for call in read_calls(render_calls([{"function": {"name": "f", "arguments": spelt}}]))[1]
    }
    assert len(keys) == 1


@pytest.mark.parametrize(
    "text", ["<tool_call>", "<tool_call>{}</tool_call>", "<tool_call>{x}</tool_call>", '<tool_call>{"name": 1}</tool_call>']
)
def test_what_is_no_call_stays_text(text):
    assert read_calls(text) == (text, ())


BITS = [
    "<tool_call>",
    "</tool_call>",
    " ",
    "\n",
    "{",
    "}",
    "x",
    '{"name": "f", "arguments": {"a": "</tool_call>"}}',
    '{"name": "g"}',
]
BLOCK = re.compile(r"\s*<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)


@given(st.lists(st.sampled_from(BITS), max_size=9).map("".join))
def test_calls_are_read_as_one_slow_expression_reads_them(text):
    found = []

    def take(block):
        try:
            found.append(json.loads(block[1])["name"])
        except (ValueError, KeyError, TypeError):
            return block[0]
        return ""

    rest = BLOCK.sub(take, text)
    assert read_calls(text)[0] == rest
    assert [call.name for call in read_calls(text)[1]] == found


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" + " " * 10**6,
        "<tool_call>{" * 10**5 + "</tool_call>",
        "<tool_call>{}" * 10**5 + "x",
        "<tool_call>{" + "} " * 10**5,
    ],
)
def test_a_text_that_is_no_call_is_read_in_a_time_that_grows_with_it(text):
    assert read_calls(text) == (text, ())  # by one expression: minutes


@pytest.mark.parametrize("spaced", [": ", ":"])
def test_calls_are_written_and_read_at_any_depth(spaced):
    for depth in [*range(900, 1010), 3000]:  # about where Python stops reading, and then writing
        arguments = f'{{"a"{spaced}' * depth + "1" + "}" * depth
        text = render_calls([{"function": {"name": "f", "arguments": arguments}}])
        assert read_calls(text) in (("", (Call("f", arguments),)), (text, ()))
