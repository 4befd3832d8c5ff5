"""Streamed replies put together: the same reply as one that comes whole, whatever way the bytes are cut."""

from __future__ import annotations

import asyncio
import json

import pytest

from ponder.policies.streamed import Assembled, events
from ponder.policies.wire import MalformedError, read_reply
from ponder.testing.endpoint import DIALECTS, Settings
from ponder.testing.endpoint.completions import Memory, complete

TOOLS = [{"type": "function", "function": {"name": "f"}}]
ASKED = {
    "plain": {},
    "n": {"n": 3},
    "cut": {"max_tokens": 5},
    "stopped": {"stop": ["answer"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "tools": {"tools": TOOLS, "tool_choice": "required"},
}


def streamed_and_whole(dialect, chat, fields):
    """The events of a fake reply, and its body."""
    asked = {"model": "fake", "stream": True, "stream_options": {"include_usage": True}, "seed": 4, **fields}
    asked |= {"messages": [{"role": "user", "content": "QUESTION: 1+1"}]} if chat else {"prompt": "QUESTION: 1+1"}
    settings = Settings().changed({"dialect": dialect})
    completion = complete(asked, settings, Memory(), chat=chat)
    return b"".join(completion.events()) + b"data: [DONE]\n\n", json.loads(completion.body())


def assembled(data, chat, size=10**9):
    heard, buffer = [], bytearray()

    async def scenario():
        async def hear(choices):
            heard.extend(choices)

        whole = Assembled(hear, chat=chat)
        for at in range(0, len(data), size):
            buffer.extend(data[at : at + size])
            await whole.take(events(buffer))
        return whole

    return asyncio.run(scenario()), heard


@pytest.mark.parametrize("dialect", ["vllm", "reasoning", "think_tags", "no_usage"])
@pytest.mark.parametrize("fields", ASKED.values(), ids=ASKED)
def test_a_streamed_chat_reads_as_the_whole_one(dialect, fields):
    data, body = streamed_and_whole(DIALECTS[dialect], True, fields)
    whole, heard = assembled(data, True)
    assert read_reply(whole.body()) == read_reply(body)
    assert whole.done
    assert heard


def test_a_streamed_text_reads_as_the_whole_one():
    data, body = streamed_and_whole(DIALECTS["vllm"], False, {"logprobs": 2, "max_tokens": 9})
    assert read_reply(assembled(data, False)[0].body()) == read_reply(body)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_how_the_bytes_are_cut_does_not_matter(size):
    data, body = streamed_and_whole(DIALECTS["vllm"], True, {})
    assert read_reply(assembled(data, True, size)[0].body()) == read_reply(body)


def test_comments_and_other_fields_are_passed_over():
    assert events(bytearray(b": hello\nevent: x\r\nid: 1\ndata: a\r\rdata:b\n\ndata: c")) == [b"a", b"b"]


@pytest.mark.parametrize("events_", [[], [{"choices": []}], [{"choices": [{"index": 0, "delta": {"content": "half"}}]}]])
def test_a_stream_without_an_end_is_no_reply(events_):
    data = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events_)
    whole, _ = assembled(data, True)
    with pytest.raises(MalformedError, match="before its end"):
        whole.body()


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b"{}", b'{"choices": {}}', b'{"choices": [1]}', b"[" * 10_000])
def test_what_is_no_event_is_malformed(data):
    with pytest.raises(MalformedError):
        assembled(b"data: " + data + b"\n\n", True)


def test_something_was_passed_on_only_once_there_was_something():
    opening = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
    assert not assembled(opening, True)[0].begun
    assert assembled(opening + opening.replace(b'""', b'"a"'), True)[0].begun


def test_a_server_that_does_not_stream_is_heard_at_once():
    body = {"choices": [{"index": 0, "message": {"content": "all"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}
    whole, heard = assembled(b"data: " + json.dumps(body).encode() + b"\n\n", True)
    assert read_reply(whole.body()) == read_reply(body)
    assert len(heard) == 1


@pytest.mark.parametrize("broken", [b"{", b"1],[2", b'{"choices": []},{}', b'{"choices": ['])
def test_what_came_before_a_broken_event_is_heard_though_it_came_with_it(broken):
    piece = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
    heard, buffer = [], bytearray(piece * 3 + b"data: " + broken + b"\n\n" + piece)

    async def hear(choices):
        heard.extend(choices)

    with pytest.raises(MalformedError):
        asyncio.run(Assembled(hear, chat=True).take(events(buffer)))
    assert len(heard) == 3


def test_events_that_are_whole_only_together_are_malformed():
    with pytest.raises(MalformedError):
        assembled(b'data: {"choices": [\n\ndata: ]}\n\n', True)
