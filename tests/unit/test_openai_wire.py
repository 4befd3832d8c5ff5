"""What is asked for and what a reply says, as pure functions; what an address, a key and a status mean."""

from __future__ import annotations

import pytest

from ponder.core import Sampling
from ponder.errors import RefusedError, UsageError
from ponder.policies.connection import Connection, RejectedError, check_address, check_key
from ponder.policies.limited import TransientError
from ponder.policies.openai import Secret, openai
from ponder.policies.wire import (
    Choice,
    MalformedError,
    Reply,
    aligned,
    completion_counts,
    messages_body,
    read_reply,
    sampling_body,
    storable,
)
from ponder.types import Blob, Message, Tokens, user


def tokens(*texts):
    return Tokens(texts)


def choice(text="", finish="stop", own=None):
    return Choice(text, finish, own, None, False)


def chat(content="Hello.", **fields):
    return {"choices": [{"message": {"content": content}, "finish_reason": "stop", **fields}]}


# What is asked for.


def test_messages_are_sent_as_text_and_a_partial_answer_as_a_last_turn_of_the_assistant():
    turns = [Message("system", ("Be ", Blob("d", "image/png"), "brief.")), user("Hi")]
    assert messages_body(turns) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert messages_body(turns, "One,")[2:] == [{"role": "assistant", "content": "One,"}]


def test_neutral_values_are_sent_because_servers_have_defaults_of_their_own():
    assert sampling_body(Sampling(), "chat", extras=False) == {"temperature": 1.0, "top_p": 1.0}
    assert sampling_body(Sampling(0.5, 0.9), "chat", extras=True) == {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }


def test_top_k_and_alternatives_are_asked_for_in_the_words_of_the_route():
    asked = Sampling(top_k=7, logprobs=5)
    assert sampling_body(asked, "chat", extras=True)["top_k"] == 7
    assert sampling_body(asked, "chat", extras=True).items() >= {"logprobs": True, "top_logprobs": 5}.items()
    assert sampling_body(asked, "completions", extras=True)["logprobs"] == 5
    assert "top_logprobs" not in sampling_body(asked, "completions", extras=True)


# What a reply says.


def test_both_routes_give_text_usage_and_the_stop_text_that_was_met():
    body = chat("4", stop_reason="\n") | {
        "usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 8}}
    }
    assert read_reply(body) == Reply((Choice("4", "stop", None, "\n", True),), 9, 8, 2)
    plain = {"choices": [{"text": "4", "finish_reason": "length"}]}
    assert read_reply(plain) == Reply((Choice("4", "length", None, None, False),), 0, 0, None)


def test_a_stop_reason_that_is_a_token_number_is_an_end_and_not_a_stop_text():
    assert read_reply(chat(stop_reason=128009)).choices[0] == Choice("Hello.", "stop", None, None, True)


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, (0, 0, None)),
        ({}, (0, 0, None)),
        ({"prompt_tokens": 5, "completion_tokens": None}, (5, 0, None)),
        ({"prompt_tokens": -5, "completion_tokens": -1}, (0, 0, None)),
        ({"prompt_tokens": "5", "completion_tokens": 0}, (0, 0, 0)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": None}, (5, 0, 3)),
        ({"prompt_tokens": 5, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}}, (5, 5, 3)),
    ],
)
def test_usage_that_is_missing_or_nonsense_counts_nothing(usage, read):
    reply = read_reply(chat() | {"usage": usage})
    assert (reply.prompt, reply.cached, reply.completion) == read


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "a reply without choices"),
        ({}, "a reply without choices"),
        ({"choices": []}, "a reply without choices"),
        ({"choices": "x"}, "a reply without choices"),
        ({"choices": [7]}, "a choice that is no object"),
        ({"choices": [{"index": 0}]}, "a choice without text: {'index': 0}"),
        (
            chat(logprobs={"content": [{"token": "a"}]}),
            "token probabilities that cannot be read (KeyError: 'logprob')",
        ),
        (
            chat(logprobs={"content": [7]}),
            "token probabilities that cannot be read (AttributeError: 'int' object has no attribute 'get')",
        ),
        (
            chat(logprobs={"tokens": ["a", "b"], "token_logprobs": [-1.0]}),
            "token probabilities that cannot be read (ValueError: 2 tokens, 1 probabilities, 2 rows of alternatives)",
        ),
    ],
)
def test_what_is_no_reply_is_malformed_and_says_why(body, says):
    with pytest.raises(MalformedError) as caught:
        read_reply(body)
    assert str(caught.value) == says


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_thought_in_a_field_of_its_own_stands_before_the_answer_between_tags(field):
    def text(content, finish="stop", **more):
        message = {"content": content, field: "Hm."}
        return read_reply({"choices": [{"message": message, "finish_reason": finish, **more}]}).choices[0].text

    assert text("4") == "<think>Hm.</think>4"
    assert text(None, "length") == "<think>Hm."  # cut while it thought
    assert text(None, stop_reason="\n") == "<think>Hm."
    assert text("", stop_reason=None) == "<think>Hm.</think>"  # it thought, and said nothing


def test_a_repeated_partial_answer_is_taken_off_text_and_tokens():
    logprobs = {"content": [{"token": text, "logprob": -0.5} for text in ("One,", " two", ",", " three")]}
    reply = read_reply(chat("One, two, three", logprobs=logprobs), strip="One, two")
    assert reply.choices[0].text == ", three"
    assert reply.choices[0].tokens.texts == (",", " three")


def test_tokens_of_the_new_part_alone_are_left_as_they_are_and_so_is_a_reply_that_does_not_repeat():
    logprobs = {"content": [{"token": " three", "logprob": -0.5}]}
    assert read_reply(chat("One, two, three", logprobs=logprobs), strip="One, two,").choices[0].tokens.texts == (" three",)
    assert read_reply(chat(" three"), strip="One, two,").choices[0].text == " three"


def test_alternatives_of_both_routes_come_out_alike_best_first_and_padded():
    top = [{"token": "b", "logprob": -0.25}, {"token": "a", "logprob": -2.0}]
    rows = [{"token": "a", "logprob": -2.0, "top_logprobs": top}, {"token": "c", "logprob": -1.0, "top_logprobs": top[:1]}]
    of_chat = read_reply(chat("ac", logprobs={"content": rows})).choices[0].tokens
    lists = {
        "tokens": ["a", "c"],
        "token_logprobs": [-2.0, -1.0],
        "top_logprobs": [{"a": -2.0, "b": -0.25}, {"b": -0.25}],
    }
    of_text = read_reply({"choices": [{"text": "ac", "finish_reason": "stop", "logprobs": lists}]}).choices[0].tokens
    assert of_chat == of_text
    assert of_chat.width == 2
    assert of_chat[0].top_logprobs == (("b", -0.25), ("a", -2.0))
    assert of_chat[1].top_logprobs == (("b", -0.25),)


def test_a_first_token_without_probability_counts_as_impossible_not_as_certain():
    lists = {"tokens": ["a"], "token_logprobs": [None], "top_logprobs": [None]}
    read = read_reply({"choices": [{"text": "a", "finish_reason": "stop", "logprobs": lists}]}).choices[0].tokens
    assert read[0].logprob == float("-inf")


@pytest.mark.parametrize(
    ("text", "kept"),
    [("a\x00b", "a\x00b"), ("\U0001f600", "\U0001f600"), ("a\ud83db", "a\ufffdb"), ("\udc00", "\ufffd"), (None, ""), (7, "")],
)
def test_text_is_kept_but_for_half_characters_which_nothing_can_store(text, kept):
    assert storable(text) == kept
    assert read_reply({"choices": [{"message": {"content": text}}]}).choices[0].text == kept


# What it cost.


@pytest.mark.parametrize(
    ("choices", "counted", "counts"),
    [
        ([choice("abc", own=tokens("abc"))], 5, [5]),  # the server counts what it does not show
        ([choice("a", own=tokens("a")), choice("ab", own=tokens("a", "b"))], 3, [1, 2]),
        ([choice("a", own=tokens("a")), choice("ab", own=tokens("a", "b"))], 5, [2, 3]),  # a closing token each
        ([choice("a", own=tokens("a")), choice("ab", own=tokens("a", "b"))], 2, [0, 2]),  # fewer than are shown
        ([choice("a" * 10), choice("a" * 30)], 8, [2, 6]),
        ([choice("a" * 10), choice("a" * 10), choice("a" * 10)], 10, [3, 3, 4]),
        ([choice(""), choice("")], 4, [2, 2]),
        ([choice("a" * 10, "length"), choice("a" * 90, "length"), choice("a" * 9)], 200, [99, 99, 2]),
        ([choice("a" * 1), choice("a" * 200), choice("a" * 10)], 120, [15, 99, 6]),  # no share is above the cap
        ([choice("a" * 10), choice("a" * 30)], 400, [100, 300]),  # unless the server went past it
        ([choice("a" * 10, "length"), choice("a" * 30)], 40, [10, 30]),  # ended by the context, not by the cap
        ([choice("abc")], None, [99]),
        ([choice("abc", own=tokens("a", "bc")), choice("a", "length", tokens("a"))], None, [2, 1]),
    ],
)
def test_tokens_of_choices_add_up_to_what_was_counted(choices, counted, counts):
    assert completion_counts(Reply(tuple(choices), 3, 0, counted), 99) == counts
    assert counted is None or sum(counts) == counted


def test_where_nothing_is_counted_a_stop_text_is_a_token_more():
    choices = (choice("a", own=tokens("a")), choice("a", "length", tokens("a")))
    assert completion_counts(Reply(choices, 3, 0, None), 99, True) == [2, 1]


@pytest.mark.parametrize(
    ("texts", "text", "out"),
    [
        (("a", "b"), "ab", ("a", "b")),
        (("a", "b", "<|end|>"), "ab", ("a", "b", "")),
        (("a", "b"), "ab\n", ("a", "b\n")),
        (("Hm", ".", "4"), "<think>Hm.</think>4", ("<think>Hm", ".", "</think>4")),
        (("I ", "\ufffd", "\ufffd", "!"), "I \U0001f600!", ("I ", "", "", "\U0001f600!")),
        (("a",) * 3, "a", ("a", "", "")),
        (("b", "a"), "a" + "x" * 60 + "b", ("", "a" + "x" * 60 + "b")),  # not looked for any further than 32 characters
        ((), "ab", ()),
    ],
)
def test_token_texts_are_made_to_join_to_the_text(texts, text, out):
    assert aligned(tokens(*texts), text).texts == out


# Addresses, keys, statuses.


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("there:8000/v1", "openai: 'there:8000/v1' is not an address; it must begin with http:// or https:// and end in /v1"),
        ("http:///v1", "openai: 'http:///v1' is not an address; it must begin with http:// or https:// and end in /v1"),
        ("http://[::1/v1", "openai: the address cannot be read; it must be http:// or https://, a host, and end in /v1"),
        ("http://a:99999/v1", "openai: the address cannot be read; it must be http:// or https://, a host, and end in /v1"),
        (
            "https://me:hidden@there/v1",
            "openai: the address holds a user name or password, which would be shown; give a key by key_env instead",
        ),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_without_showing_a_password(url, says):
    with pytest.raises(UsageError) as caught:
        check_address(url)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"route": "talk"}, "openai: route 'talk' must be auto, chat or completions"),
        ({"concurrency": 0}, "openai: concurrency = 0 and timeout = 600.0 must be above 0"),
        ({"timeout": float("nan")}, "openai: concurrency = 512 and timeout = nan must be above 0"),
        ({"route": "chat", "template": "x"}, "openai: a template is applied on the completions route; leave route='chat' out"),
        (
            {"key": "sk-1"},
            "openai: a key in a spec would be stored with the study; put it into the environment and name it by key_env",
        ),
        ({"key": Secret("ab\ncd")}, "openai: the key in `key` holds characters that no header can carry; set it again"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, says):
    with pytest.raises(UsageError) as caught:
        openai("http://127.0.0.1:1/v1", **arguments)
    assert str(caught.value) == says


def test_a_key_is_taken_without_the_white_space_around_it():
    assert check_key(" sk-1\n", "KEY") == "sk-1"
    assert check_key(None, "KEY") == ""


KEY = "sk-canary"


@pytest.mark.parametrize(
    ("status", "raw", "kind", "says"),
    [
        (429, b'{"error": {"message": "Slow down."}}', TransientError, "429: Slow down."),
        (
            429,
            b'{"error": {"message": "Pay.", "code": "insufficient_quota"}}',
            RefusedError,
            "http://there/v1: nothing is left to pay with (429: Pay.); fill the account up, or use another key",
        ),
        (503, b"<html>\n<h1>503</h1>\x1b[31m", TransientError, "503: <html> <h1>503</h1> [31m"),
        (408, b"", TransientError, "408: no reason given"),
        (
            401,
            b'{"error": {"message": "Incorrect API key provided: sk-canary."}}',
            RefusedError,
            "http://there/v1: refused the key (401: Incorrect API key provided: [key].); put the right one into MY_KEY",
        ),
        (
            404,
            b'{"error": "no model x"}',
            RefusedError,
            "http://there/v1/chat/completions: 404: no model x; check the model's name, and that the address ends in /v1",
        ),
        (
            307,
            b"",
            RefusedError,
            "http://there/v1/chat/completions: is elsewhere (307); give the address it redirects to",
        ),
        (400, b'["too long"]', RejectedError, "http://there/v1/chat/completions: 400: ['too long']"),
        (422, b"x" * 999, RejectedError, "http://there/v1/chat/completions: 422: " + "x" * 200),
    ],
)
def test_a_status_becomes_an_error_that_says_what_to_do_and_never_the_key(status, raw, kind, says):
    error = Connection("http://there/v1", KEY, "MY_KEY", 1.0)._failure(status, "/chat/completions", raw, {})
    assert (type(error), str(error)) == (kind, says)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400, "x", None, True - 2**60])
def test_a_probability_that_is_no_number_is_none(number):
    body = {"choices": [{"text": "a", "finish_reason": "stop", "logprobs": {"tokens": ["a"], "token_logprobs": [number]}}]}
    [token] = read_reply(body).choices[0].tokens
    assert token.logprob == float("-inf")


@pytest.mark.parametrize("count", [-1, 2**53 + 1, 10**30, "3", 1.5, None])
def test_a_count_that_makes_no_sense_is_no_count(count):
    usage = {"prompt_tokens": count, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    reply = read_reply({"choices": [{"text": "a", "finish_reason": "stop"}], "usage": usage})
    assert (reply.prompt, reply.cached, reply.completion) == (0, 0, None)
