"""The fake endpoint, asked over HTTP: replies, streams, dialects, refusals."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import fields
from http.client import RemoteDisconnected

import pytest
from fake_endpoint_client import ASKED, QUESTION, deltas, post

from ponder.testing.endpoint import (
    FakeEndpoint,
    Settings,
    split_tokens,
)


@pytest.fixture(scope="module")
def running():
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running):
    running.configure(**{field.name: getattr(Settings(), field.name) for field in fields(Settings)})
    running.reset()
    return running


# One request.


def test_the_same_seed_gives_the_same_reply_and_another_seed_another(endpoint):
    first, again, other = post(endpoint, seed=1), post(endpoint, seed=1), post(endpoint, seed=2)
    assert first.texts == again.texts != other.texts


def test_choices_of_one_request_differ_and_begin_with_the_single_choice(endpoint):
    four = post(endpoint, seed=7, n=4).texts
    assert len(set(four)) == 4
    assert four[:1] == post(endpoint, seed=7).texts


def test_unseeded_draws_are_numbered_per_prompt_so_that_n_and_single_requests_agree(endpoint):
    four = post(endpoint, n=4).texts
    assert not set(four) & set(post(endpoint, n=4).texts)
    endpoint.reset()
    assert [text for _ in range(4) for text in post(endpoint).texts] == four


def test_temperature_zero_gives_one_reply_until_the_weights_are_swapped(endpoint):
    greedy = post(endpoint, temperature=0, n=2).texts + post(endpoint, temperature=0, seed=5).texts
    assert len(set(greedy)) == 1
    sampled = post(endpoint, seed=5).texts
    endpoint.configure(weights=1)
    assert post(endpoint, seed=5).texts != sampled
    assert post(endpoint, temperature=0).texts != greedy[:1]


def test_echo_is_answered_exactly(endpoint):
    said = "  two  blanks, ünïcödé \\n and a full stop. "
    assert post(endpoint, messages=[{"role": "user", "content": f"Please.\nECHO: {said}"}]).texts == [said]
    assert post(endpoint, "/v1/completions", prompt="ECHO: abc\nAnswer:").json["choices"][0]["text"] == "abc"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_cap_cuts_after_that_many_tokens_and_says_length(endpoint, name):
    whole = post(endpoint, seed=3)
    tokens = split_tokens(whole.texts[0])
    assert (whole.json["choices"][0]["finish_reason"], whole.json["usage"]["completion_tokens"]) == ("stop", len(tokens))
    for cap in (1, 5, len(tokens) - 1):
        cut = post(endpoint, seed=3, **{name: cap})
        assert cut.texts == ["".join(tokens[:cap])]
        assert cut.json["choices"][0]["finish_reason"] == "length"
        assert cut.json["usage"]["completion_tokens"] == cap
    assert post(endpoint, seed=3, **{name: len(tokens)}).json["choices"] == whole.json["choices"]


def test_a_stop_string_cuts_before_it_is_paid_for_and_is_named_as_the_reason(endpoint):
    whole = post(endpoint, seed=3).texts[0]
    cut = post(endpoint, seed=3, stop=["The answer", "\n", "never"]).json
    choice, line = cut["choices"][0], whole.split("\n")[0]
    assert (choice["message"]["content"], choice["finish_reason"], choice["stop_reason"]) == (line, "stop", "\n")
    assert cut["usage"]["completion_tokens"] == len(split_tokens(line)) + 1  # the token that holds the line break
    assert post(endpoint, seed=3).json["choices"][0]["stop_reason"] is None
    short = post(endpoint, seed=3, stop="\n", max_tokens=2).json["choices"][0]
    assert (short["finish_reason"], short["stop_reason"]) == ("length", None)
    kept = post(endpoint, seed=3, stop="\n", include_stop_str_in_output=True)
    assert kept.texts == [line + "\n"]


def test_chat_logprobs_list_the_chosen_token_and_join_to_the_text(endpoint):
    reply = post(endpoint, seed=3, logprobs=True, top_logprobs=5, stop="\n")
    content = reply.json["choices"][0]["logprobs"]["content"]
    assert "".join(item["token"] for item in content) == reply.texts[0]
    for item in content:
        top = {entry["token"]: entry["logprob"] for entry in item["top_logprobs"]}
        assert len(top) == 5
        assert top[item["token"]] == item["logprob"] < 0
        assert bytes(item["bytes"]).decode() == item["token"]
        assert sum(map(math.exp, top.values())) < 1
        assert list(top.values()) == sorted(top.values(), reverse=True)
    assert post(endpoint, seed=3).json["choices"][0]["logprobs"] is None


def test_logprobs_do_not_depend_on_how_many_alternatives_are_listed_and_vary_in_rank(endpoint):
    def listed(top):
        reply = post(endpoint, seed=3, n=8, logprobs=True, top_logprobs=top).json
        return [item for choice in reply["choices"] for item in choice["logprobs"]["content"]]

    assert [item["logprob"] for item in listed(1)] == [item["logprob"] for item in listed(20)]
    for item in listed(1):
        assert item["token"] in [entry["token"] for entry in item["top_logprobs"]]
    ranks = Counter([e["token"] for e in item["top_logprobs"]].index(item["token"]) for item in listed(20))
    assert ranks[0] > ranks[1] > 0
    assert all(item["top_logprobs"] == [] for item in listed(0))


def test_completions_logprobs_give_four_lists_with_offsets_into_the_text(endpoint):
    choice = post(endpoint, "/v1/completions", prompt=ASKED, seed=3, logprobs=3, max_tokens=50).json["choices"][0]
    logprobs = choice["logprobs"]
    assert "".join(logprobs["tokens"]) == choice["text"]
    for token, chosen, top, at in zip(*(logprobs[k] for k in ("tokens", "token_logprobs", "top_logprobs", "text_offset"))):  # noqa: B905
        assert choice["text"][at:].startswith(token)
        assert top[token] == chosen
        assert len(top) == 3


def test_a_rendered_chat_on_the_completions_route_is_answered_like_the_chat(endpoint):
    text = post(endpoint, "/v1/completions", prompt=ASKED, seed=3, max_tokens=200).json["choices"][0]["text"]
    assert [text] == post(endpoint, seed=3).texts
    assert post(endpoint, "/v1/completions", prompt=ASKED, seed=3).json["usage"]["completion_tokens"] <= 16


def test_cached_tokens_cover_the_prefix_that_was_seen(endpoint):
    long = QUESTION * 20
    first = post(endpoint, messages=[{"role": "user", "content": long}]).json["usage"]
    again = post(endpoint, messages=[{"role": "user", "content": long}]).json["usage"]
    longer = post(endpoint, messages=[{"role": "user", "content": long + " And then?" * 50}]).json["usage"]
    other = post(endpoint, messages=[{"role": "system", "content": "x"}, {"role": "user", "content": long}]).json["usage"]
    cached = [usage["prompt_tokens_details"]["cached_tokens"] for usage in (first, again, longer, other)]
    assert cached[0] == cached[3] == 0
    assert first["prompt_tokens"] - 20 <= cached[1] < first["prompt_tokens"]
    assert cached[1] <= cached[2] + 20
    assert cached[2] <= first["prompt_tokens"]


# Streams.


def test_a_stream_tells_the_same_as_the_whole_reply_token_by_token(endpoint):
    whole = post(endpoint, seed=3, n=2, logprobs=True, top_logprobs=2).json
    stream = post(endpoint, seed=3, n=2, logprobs=True, top_logprobs=2, stream=True, stream_options={"include_usage": True})
    assert stream.headers["content-type"] == "text/event-stream"
    assert stream.events[-1] == b"[DONE]"
    for choice in whole["choices"]:
        parts = deltas(stream.events, choice["index"])
        pieces = [part["delta"].get("content", "") for part in parts]
        assert pieces[1:-1] == split_tokens(choice["message"]["content"])
        assert [e for p in parts if p.get("logprobs") for e in p["logprobs"]["content"]] == choice["logprobs"]["content"]
        assert [part.get("finish_reason") for part in parts[1:]] == [None] * (len(parts) - 2) + ["stop"]
    usage = json.loads(stream.events[-2])
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert b"usage" not in post(endpoint, seed=3, stream=True).body


def test_a_completions_stream_joins_to_the_text(endpoint):
    arguments = {"prompt": ASKED, "seed": 3, "max_tokens": 40, "logprobs": 2}
    whole = post(endpoint, "/v1/completions", **arguments).json["choices"][0]
    parts = deltas(post(endpoint, "/v1/completions", stream=True, **arguments).events)
    assert "".join(part["text"] for part in parts) == whole["text"]
    offsets = [at for part in parts if part["logprobs"] for at in part["logprobs"]["text_offset"]]
    assert offsets == whole["logprobs"]["text_offset"]


# Dialects.

CONTINUED = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Step 1: 17 + 25"}]
ON_REQUEST = {"continue_final_message": True, "add_generation_prompt": False}


def test_vllm_continues_on_request_without_repeating_and_agrees_with_the_completions_route(endpoint):
    continued = post(endpoint, messages=CONTINUED, seed=3, **ON_REQUEST)
    assert not continued.texts[0].startswith("Step 1: 17")
    raw = post(endpoint, "/v1/completions", prompt=ASKED + "Step 1: 17 + 25", seed=3, max_tokens=99)
    assert [raw.json["choices"][0]["text"]] == continued.texts
    assert post(endpoint, messages=CONTINUED, seed=3).texts[0].startswith("Step 1: ")
    assert [entry.continuing for entry in endpoint.requests()] == [True, True, False]
    assert post(endpoint, messages=CONTINUED, continue_final_message=True).status == 400
    bare = post(endpoint, "/v1/completions", prompt=ASKED.removesuffix("<|im_start|>assistant\n")).json["usage"]
    assert post(endpoint, add_generation_prompt=False).json["usage"]["prompt_tokens"] == bare["prompt_tokens"]
    assert post(endpoint, messages=CONTINUED[:1], **ON_REQUEST).status == 400


def test_llamacpp_continues_unasked_repeats_the_prefill_and_counts_one_choice(endpoint):
    endpoint.configure(dialect="llamacpp")
    reply = post(endpoint, messages=CONTINUED, n=4, seed=3)
    assert all(text.startswith("Step 1: 17 + 25") for text in reply.texts)
    assert len(reply.texts) == 4
    new = [len(split_tokens(text.removeprefix("Step 1: 17 + 25"))) for text in reply.texts]
    assert reply.json["usage"]["completion_tokens"] == new[0]
    assert endpoint.stats().completion_tokens == sum(new)
    assert set(reply.json["timings"]) >= {"cache_n", "prompt_n", "predicted_n"}
    streamed = deltas(post(endpoint, messages=CONTINUED, seed=3, stream=True).events)
    assert "".join(part["delta"].get("content", "") for part in streamed) == reply.texts[0]


def test_llamacpp_applies_its_template_and_tokenizes(endpoint):
    endpoint.configure(dialect="llamacpp")
    assert post(endpoint, "/apply-template", messages=CONTINUED).json == {"prompt": ASKED + "Step 1: 17 + 25"}
    assert len(post(endpoint, "/tokenize", content=QUESTION).json["tokens"]) == len(split_tokens(QUESTION))
    endpoint.configure(dialect="vllm")
    assert post(endpoint, "/apply-template", messages=CONTINUED).status == 404
    assert post(endpoint, "/tokenize", prompt=QUESTION).json["count"] == len(split_tokens(QUESTION))


def test_openai_starts_afresh_after_an_assistant_message_and_refuses_what_it_does_not_know(endpoint):
    endpoint.configure(dialect="openai", models=("fake", "o4-fake"))
    assert post(endpoint, messages=CONTINUED, seed=3).texts[0].startswith("Step 1: ")
    refused = post(endpoint, messages=CONTINUED, top_k=3)
    assert refused.status == 400
    assert refused.json["error"]["message"] == "Unrecognized request argument supplied: top_k"
    assert "max_completion_tokens" in post(endpoint, model="o4-fake", max_tokens=5).json["error"]["message"]
    assert post(endpoint, model="o4-fake", max_completion_tokens=5).status == 200
    assert post(endpoint, logprobs=True, top_logprobs=20).status == 200
    assert post(endpoint, logprobs=True, top_logprobs=21).status == 400


def test_vllm_cpu_dies_of_a_seed_and_only_of_a_seed(endpoint):
    endpoint.configure(dialect="vllm_cpu")
    with pytest.raises(RemoteDisconnected):
        post(endpoint, seed=0)
    assert post(endpoint, seed=None).status == 200
    assert (endpoint.stats().crashed, endpoint.stats().answered) == (1, 1)


def test_the_other_dialects_each_break_their_one_promise(endpoint):
    endpoint.configure(dialect="ignores_n")
    assert len(post(endpoint, n=4).texts) == 1
    endpoint.configure(dialect="no_usage")
    assert "usage" not in post(endpoint).json
    endpoint.configure(dialect="ignores_max_tokens")
    assert post(endpoint, max_tokens=2).json["choices"][0]["finish_reason"] == "stop"
    endpoint.configure(dialect="seeded_equal")
    assert len(set(post(endpoint, n=4, seed=1).texts)) == 1
    assert len(set(post(endpoint, n=4).texts)) == 4


def test_reasoning_goes_into_its_field_or_between_tags(endpoint):
    endpoint.configure(dialect="reasoning")
    reply = post(endpoint, seed=3).json
    message = reply["choices"][0]["message"]
    assert re.fullmatch(r"The answer is \d+\.", message["content"])
    assert message["reasoning_content"].startswith("Step 1: ")
    thought = reply["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert thought == len(split_tokens(message["reasoning_content"]))
    cut = post(endpoint, seed=3, max_tokens=2).json["choices"][0]
    assert (cut["message"]["content"], cut["message"]["reasoning_content"], cut["finish_reason"]) == (None, "Step 1:", "length")
    parts = deltas(post(endpoint, seed=3, stream=True).events)
    assert "".join(part["delta"].get("reasoning_content", "") for part in parts) == message["reasoning_content"]
    endpoint.configure(dialect="think_tags")
    tagged = post(endpoint, seed=3).texts[0]
    assert tagged == f"<think>\n{message['reasoning_content']}\n</think>\n\n{message['content']}"


# Refusals.


def test_refusals_carry_a_status_and_an_error_object(endpoint):
    endpoint.configure(key="sk-right", context=40)
    right = {"Authorization": "Bearer sk-right"}
    assert post(endpoint, headers={"Authorization": "Bearer sk-wrong"}).status == 401
    assert post(endpoint).json["error"]["code"] == "invalid_api_key"
    assert post(endpoint, headers=right).status == 200
    unknown = post(endpoint, headers=right, model="nope")
    assert (unknown.status, unknown.json["error"]["code"]) == (404, "model_not_found")
    long = post(endpoint, headers=right, messages=[{"role": "user", "content": "word " * 40}])
    assert (long.status, long.json["error"]["code"]) == (400, "context_length_exceeded")
    assert post(endpoint, "/v1/nowhere", headers=right).status == 404
    for wrong in ({"n": 0}, {"messages": []}, {"stop": 5}, {"max_tokens": "8"}, {"logprobs": True, "top_logprobs": "5"}):
        assert post(endpoint, headers=right, **wrong).status == 400
    stats = endpoint.stats()
    assert (stats.refused, stats.answered) == (9, 1)


def test_a_reply_ends_where_the_context_does(endpoint):
    room = 5
    endpoint.configure(context=len(split_tokens(ASKED)) + room)
    reply = post(endpoint, seed=3).json
    assert (reply["usage"]["completion_tokens"], reply["choices"][0]["finish_reason"]) == (room, "length")
