"""What the server makes of a run: thoughts parted, comments sent, how an answer ended, what it cost."""

from __future__ import annotations

import asyncio
import json

import pytest

from ponder.core import Event, Outcome, Spent
from ponder.server.answer import Head, answer_of, message, split_thought, usage_object
from ponder.server.refusal import Refusal
from ponder.server.stream import COMMENT, Chunks, Line, Passing
from ponder.types import Chain, Step, Usage, user

pytest.importorskip("starlette")


# Streams.


def heard(*pieces, top=None):
    """What is passed on of these pieces: (field, text) pairs, joined where the field stays the same."""
    sent = []

    async def put(data):
        sent.extend(json.loads(line[6:])["choices"][0]["delta"] for line in data.splitlines() if line)

    async def scenario():
        passing = Passing(Chunks(Head("id", 0, "m", "fp"), chat=True, usage=False), 0, put, top)
        listener = passing.listener()
        for piece in pieces:
            await listener([{"delta": piece if isinstance(piece, dict) else {"content": piece}}])
        for data in passing.flush():
            await put(data)

    asyncio.run(scenario())
    joined = []
    for field, text in (pair for delta in sent for pair in delta.items()):
        if joined and joined[-1][0] == field:
            joined[-1] = (field, joined[-1][1] + text)
        else:
            joined.append((field, text))
    return joined


@pytest.mark.parametrize(
    "text",
    [
        "plain", "", "<b>bold</b>", "<", "<thin", "a <think>b</think>", "<think>a</think>b", "<think>\na\n</think>\n\nb", "<think></think>b",
        "<think>a", "<think>a</thin", " <think>a < b </ c</think>d<think>e</think>", "<think>\n\n</think>\n\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thoughts_are_parted_in_a_stream_as_in_a_whole_reply(text, size):
    found = dict(heard(*(text[at : at + size] for at in range(0, len(text), size))))
    thought, answer = split_thought(text)
    assert found.get("reasoning_content", "").strip("\n") == thought
    assert found.get("content", "") == answer


def test_thoughts_in_a_field_of_their_own_are_passed_on():
    assert heard({"reasoning_content": "hm"}, {"content": "yes"}) == [("reasoning_content", "hm"), ("content", "yes")]
    assert heard({"reasoning": "hm"}, {"content": "yes"})[0] == ("reasoning_content", "hm")


def test_what_an_engine_garbles_is_passed_on_as_what_clients_can_read():
    assert heard("a\ud83d", "b", {"content": 5}, {"tool_calls": "x"}, {"tool_calls": [None]}) == [("content", "a\ufffdb")]
    passing = Passing(Chunks(Head("id", 0, "m", "fp"), chat=True, usage=False), 0, None, 1)
    rows = [
        {
            "token": "a",
            "logprob": float("nan"),
            "top_logprobs": [{"token": "a", "logprob": float("-inf")}, {"token": "b", "logprob": -1}],
        },
        {"token": "b", "logprob": 10**400, "top_logprobs": "x"},
        7,
    ]
    [chunk] = passing._text("ab", passing._probabilities({"content": rows}))
    shown = json.loads(chunk[6:], parse_constant=pytest.fail)["choices"][0]["logprobs"]["content"]
    assert [row["logprob"] for row in shown] == [-9999.0, -9999.0]
    assert [row["top_logprobs"] for row in shown] == [[{"token": "a", "logprob": -9999.0}], []]


def test_a_silent_search_sends_comments(monkeypatch):
    monkeypatch.setattr("ponder.server.stream.SILENCE", 0.01)

    async def scenario():
        sent, enough = [], asyncio.Event()

        async def send(data):
            sent.append(data)
            if sent.count(COMMENT) == 2:
                enough.set()

        with Line(send) as line:
            await enough.wait()
            await line.put(b"data: x\n\n")
        assert sent == [COMMENT, COMMENT, b"data: x\n\n"]
        await asyncio.sleep(0.03)
        assert len(sent) == 3  # a stream that is over is silent

    asyncio.run(scenario())


def test_a_client_that_does_not_read_holds_the_engine_back_and_not_our_memory(monkeypatch):
    monkeypatch.setattr("ponder.server.stream.SILENCE", 0.001)

    async def scenario():
        begun, unread, given = 0, asyncio.Event(), 0

        async def send(_):
            nonlocal begun
            begun += 1
            await unread.wait()

        async def give(line):
            nonlocal given
            for given in range(1, 1001):  # noqa: B007  # counted for the check below
                await line.put(b"data: x\n\n")

        with Line(send) as line:
            giving = asyncio.create_task(give(line))
            await asyncio.sleep(0.02)
            assert (begun, given) == (1, 1)  # nor are there comments for one who has not read the last chunk
            unread.set()
            await giving
            assert given == 1000

    asyncio.run(scenario())


# Answers.


def outcome(*chains, proposed=None, failed=0, exhausted=False, samples=None):
    spent = Spent(len(chains) if samples is None else samples, Usage(completion=sum(chain.usage.completion for chain in chains)))
    return Outcome(proposed, None, spent, (Event("extend", spent, tuple(chains)),) if chains else (), False, failed, exhausted)


def chain(text, finish="stop", tokens=4):
    return Chain((user("q"),)).then(Step(text, Usage(completion=tokens)), finish)


@pytest.mark.parametrize(
    ("result", "text", "finish"),
    [
        (outcome(chain("a"), proposed=chain("a")), "a", "stop"),
        (outcome(chain("half", "length")), "half", "length"),
        (outcome(chain("", "filtered")), "", "content_filter"),
        (outcome(chain("", "stop", 0)), "", "stop"),
        (outcome(chain("half", "length"), chain("b"), proposed=chain("b")), "b", "stop"),
        (outcome(chain("cut", "length"), proposed=chain("cut", "length")), "cut", "length"),
    ],
)
def test_how_an_answer_ended(result, text, finish):
    answer = answer_of(result, [], tools=False)
    assert (answer.text, answer.finish) == (text, finish)


def test_a_strategy_that_finds_no_sample_good_enough_refuses():
    answer = answer_of(outcome(chain("wrong")), [], tools=False)
    assert message(answer)["content"] is None
    assert "No answer" in message(answer)["refusal"]


@pytest.mark.parametrize(
    ("result", "rejected", "status"),
    [
        (outcome(chain("", "error"), failed=1), "", 502),
        (outcome(chain("", "error"), failed=1), "too long", 400),
        (outcome(exhausted=True), "", 408),
    ],
)
def test_no_answer_is_an_error_and_never_an_empty_text(result, rejected, status):
    with pytest.raises(Refusal) as refused:
        answer_of(result, [], tools=False, rejected=rejected)
    assert refused.value.status == status


def test_a_stop_text_cuts_where_the_engine_did_not():
    answer = answer_of(outcome(chain("a b c"), proposed=chain("a b c")), ["c", "b"], tools=False)
    assert (answer.text, answer.finish) == ("a ", "stop")


def test_usage_parts_what_is_shown_from_what_was_spent():
    usage = usage_object(Usage(prompt=30, cached=10, completion=50, scored=7), visible=12, verifier=9)
    assert usage["completion_tokens"] == 57
    assert usage["total_tokens"] == 87
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 45, "verifier_tokens": 9}
    assert usage["prompt_tokens_details"] == {"cached_tokens": 10}
