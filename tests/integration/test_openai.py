"""The openai policy against the fake endpoint: every kind of server, and what is said of what it cannot do."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from openai_cases import WHOLE, Opened, asks, chain, sampled, written

from ponder.core import END, LINE, Ask, Sampling, Until
from ponder.errors import CapabilityError
from ponder.policies.openai import openai
from ponder.policies.probe import probe
from ponder.testing.endpoint import DIALECTS, UsageRule
from ponder.types import Step, Usage

pytestmark = pytest.mark.slow


# Kinds of servers.

EXPECTED = {  # capabilities, requests for 3 questions x 4 children
    "openai": ({"cached", "logprobs", "n"}, 3),
    "vllm": ({"cached", "continue", "logprobs", "n", "stop_reason"}, 3),
    "vllm_cpu": ({"cached", "continue", "logprobs", "n", "stop_reason"}, 3),
    "llamacpp": ({"cached", "continue", "logprobs"}, 12),
    "ignores_n": ({"cached", "logprobs"}, 12),
    "no_usage": ({"logprobs", "n"}, 3),
    "ignores_max_tokens": ({"cached", "logprobs", "n"}, 3),
    "seeded_equal": ({"cached", "logprobs", "n"}, 3),
    "reasoning": ({"cached", "continue", "n", "stop_reason"}, 3),
    "think_tags": ({"cached", "continue", "logprobs", "n", "stop_reason"}, 3),
}


def test_every_dialect_stands_in_the_table():
    assert set(EXPECTED) == set(DIALECTS)


@pytest.mark.parametrize("dialect", EXPECTED)
def test_the_ledger_is_true_on_every_kind_of_server(endpoint, dialect):
    endpoint.configure(dialect=dialect)
    capabilities, requests = EXPECTED[dialect]
    children, opened = sampled(endpoint, asks(3, range(4)))
    stats = endpoint.stats()
    assert stats.received == stats.answered == requests == len(opened.attempts)
    assert written(children) == opened.billed == stats.completion_tokens
    assert [child.finish for child in children] == ["stop"] * 12
    assert all(len({child.text for child in children[at : at + 4]}) > 1 for at in (0, 4, 8))
    assert all(child.usage.calls == 1 for child in children)
    if dialect != "no_usage":
        assert sum(attempt.usage.prompt for attempt in opened.attempts) == stats.prompt_tokens
        assert all(child.usage.prompt > 0 for child in children)
    assert capabilities == asyncio.run(_capabilities(endpoint))


async def _capabilities(endpoint):
    async with openai(endpoint.url) as policy:
        return policy.info.capabilities


@pytest.mark.parametrize("dialect", [name for name in EXPECTED if name not in ("no_usage", "ignores_max_tokens")])
def test_the_ledger_is_true_under_caps_and_stop_texts(endpoint, dialect):
    endpoint.configure(dialect=dialect)
    for until, cap in ((END, 7), (LINE, 200), (Until(("\n", "."), 9), 200)):
        able = EXPECTED[dialect][0]
        if (until != END and "continue" not in able) or (len(until.stop) > 1 and "stop_reason" not in able):
            continue
        children, opened = sampled(endpoint, asks(3, range(3)), until=until, sampling=Sampling(max_tokens=cap))
        assert written(children) == opened.billed == endpoint.stats().completion_tokens
        assert all(child.usage.completion <= cap for child in children)
        if until == END:
            assert {child.finish for child in children} == {"length"}


def test_a_server_without_usage_is_counted_by_its_tokens_and_says_so(endpoint):
    endpoint.configure(dialect="no_usage")
    _, opened = sampled(endpoint, asks(1, range(4)))
    assert [attempt.detail for attempt in opened.attempts] == ["not counted by the server: counted by its token probabilities"]
    assert endpoint.requests()[0].logprobs == 1


def test_a_server_that_tells_neither_usage_nor_tokens_is_charged_the_cap_and_says_so(endpoint):
    endpoint.configure(dialect=replace(DIALECTS["reasoning"], name="mute", usage=UsageRule.NONE))
    children, opened = sampled(endpoint, asks(1, (0,)), sampling=Sampling(max_tokens=77))
    assert children[0].steps[-1].tokens is None
    assert [(attempt.usage.completion, attempt.detail) for attempt in opened.attempts] == [
        (77, "not counted by the server: charged at the cap")
    ]
    assert written(children) == 77


def test_a_server_that_ignores_the_cap_is_billed_in_full_and_its_child_cut_where_the_cap_is(endpoint):
    endpoint.configure(dialect="ignores_max_tokens")
    children, opened = sampled(endpoint, asks(2, range(3)), sampling=Sampling(max_tokens=6))
    assert [child.finish for child in children] == ["length"] * 6
    assert [child.usage.completion for child in children] == [6] * 6
    assert all(0 < len(child.text) < 40 and len(child.steps[0].tokens) == 6 for child in children)
    assert opened.billed == endpoint.stats().completion_tokens > written(children)


def test_a_seed_that_kills_the_server_is_sent_once_by_the_probe_and_never_again(endpoint):
    endpoint.configure(dialect="vllm_cpu")
    children, _ = sampled(endpoint, asks(4, range(3)))
    assert {child.finish for child in children} == {"stop"}
    assert all(request.seed is None for request in endpoint.requests() if request.number is not None)
    assert endpoint.stats().crashed == 0
    sampled(endpoint, asks(4, range(3)), many=False)
    assert endpoint.stats().crashed == 0


def test_the_probe_of_such_a_server_meets_one_crash(endpoint):
    endpoint.configure(dialect="vllm_cpu")
    asyncio.run(_capabilities(endpoint))
    assert endpoint.stats().crashed == 1


def test_choices_of_one_seed_that_are_all_equal_are_never_taken_for_samples(endpoint):
    endpoint.configure(dialect="seeded_equal")
    children, _ = sampled(endpoint, asks(1, range(8)))
    assert len({child.text for child in children}) > 2
    assert [(request.n, request.seed) for request in endpoint.requests()] == [(8, None)]
    alone, _ = sampled(endpoint, asks(1, range(8)), many=False)
    assert len({child.text for child in alone}) > 2
    assert len({request.seed for request in endpoint.requests()}) == 8


def test_a_server_that_ignores_n_is_never_asked_for_several(endpoint):
    endpoint.configure(dialect="ignores_n")
    sampled(endpoint, asks(2, range(5)))
    assert [request.n for request in endpoint.requests()] == [None] * 10


def test_choices_that_do_not_come_are_asked_for_one_by_one_and_every_attempt_is_reported(endpoint):
    async def main():
        async with Opened(endpoint) as opened:
            endpoint.configure(dialect="ignores_n")  # behind the back of the probe
            return await opened.sample(asks(1, range(5))), opened

    children, opened = asyncio.run(main())
    assert [child.finish for child in children] == ["stop"] * 5
    assert len({child.text for child in children}) > 1
    assert [attempt.children for attempt in opened.attempts] == [1] * 5
    assert [request.n for request in endpoint.requests()] == [5, None, None, None, None]
    assert written(children) == opened.billed == endpoint.stats().completion_tokens


@pytest.mark.parametrize(
    ("dialect", "arguments", "extra"),
    [
        ("vllm", {}, {"roles": ["user", "assistant"], "route": "/chat/completions"}),
        ("llamacpp", {}, {"roles": ["user", "assistant"], "route": "/chat/completions"}),
        ("openai", {"route": "completions"}, {"roles": None, "route": "/completions"}),
    ],
)
def test_a_partial_answer_is_continued_and_not_repeated_wherever_it_can_be(endpoint, dialect, arguments, extra):
    endpoint.configure(dialect=dialect)

    async def main():
        async with Opened(endpoint, **arguments) as opened:
            [first] = await opened.sample(asks(1), LINE)
            [second] = await opened.sample([Ask(first, (0,), "0")], END)
            return first, second

    first, second = asyncio.run(main())
    assert first.finish is None
    assert first.text.startswith("Step 1: ")
    assert first.text.endswith(".\n")
    assert second.finish == "stop"
    assert second.text.count("Step 1: ") == 1
    assert "The answer is" in second.text
    last = endpoint.requests()[-1]
    assert last.continuing
    assert (last.roles, last.route) == (extra["roles"], extra["route"])


def test_a_continuation_that_begins_like_the_partial_answer_loses_nothing(endpoint):
    said = chain("Repeat.\nECHO: hahaha!").then(Step("ha", Usage(completion=1)))
    [child], _ = sampled(endpoint, [Ask(said, (0,), "0")])
    assert child.text == "hahaha!"


def test_a_chat_template_applied_here_lets_a_server_continue_that_cannot_by_chat(endpoint, tmp_path):
    endpoint.configure(dialect="openai")
    path = tmp_path / "chat.jinja"
    path.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{{ '' }}"
    )
    chat, _ = sampled(endpoint, asks(1, range(3)), many=False)

    async def main():
        async with Opened(endpoint, template=str(path), many=False) as opened:
            [line] = await opened.sample(asks(1), LINE)
            [whole] = await opened.sample([Ask(line, (0,), "0")], END)
            return line, whole

    line, whole = asyncio.run(main())
    assert line.finish is None
    assert whole.finish == "stop"
    assert endpoint.requests()[-1].route == "/completions"
    assert {child.finish for child in chat} == {"stop"}


@pytest.mark.parametrize(
    ("asked", "sampling", "says"),
    [
        (None, WHOLE, "this server does not continue a partial answer; use route='completions', or whole samples"),
        (asks(1), Sampling(top_k=9), "this server takes no top_k, and top_k = 9; use top_p, or leave it out"),
    ],
)
def test_what_a_server_cannot_do_is_said_before_anything_is_sent(endpoint, asked, sampling, says):
    endpoint.configure(dialect="openai")

    async def main():
        async with Opened(endpoint, many=False) as opened:
            if asked is None:
                [first] = await opened.sample(asks(1), Until(tokens=4))
                wanted = [Ask(first, (0,), "0")]
            before = endpoint.stats().received
            with pytest.raises(CapabilityError) as caught:
                await opened.sample(asked or wanted, END, sampling)
            assert endpoint.stats().received == before
            return str(caught.value)

    assert asyncio.run(main()) == f"openai('{endpoint.url}', model='fake'): {says}"


def test_several_stop_texts_are_refused_where_the_one_that_ended_a_step_is_not_told(endpoint):
    endpoint.configure(dialect="llamacpp")
    with pytest.raises(CapabilityError) as caught:
        sampled(endpoint, asks(1), until=Until(("\n\n", "\n")))
    assert str(caught.value) == (
        f"openai('{endpoint.url}', model='fake'): this server does not say which of 2 stop texts ended a step; use one stop text, "
        "or whole samples"
    )
    assert len(sampled(endpoint, asks(1), until=LINE)[0]) == 1


def test_an_end_is_believed_only_where_the_probe_saw_a_stop_text_named(endpoint):
    """The last line of an answer, on a server that names stop texts, and on one whose stop_reason is always null."""

    async def main():
        async with Opened(endpoint) as opened:
            [whole] = await opened.sample(asks(1))
            last = [Ask(chain(f"ECHO: {whole.text.splitlines()[-1]}"), (0,), "0")]
            [trusted] = await opened.sample(last, LINE)
            opened.policy.probed = replace(opened.policy.probed, stop_reason=False)
            [doubted] = await opened.sample(last, LINE)
            [ended] = await opened.sample([replace(last[0], chain=chain("ECHO: it").then(Step("it")))], LINE)
            return trusted, doubted, ended

    trusted, doubted, ended = asyncio.run(main())
    assert (trusted.finish, doubted.finish, ended.finish) == ("stop", None, "stop")
    assert doubted.text == trusted.text + "\n"
    assert ended.steps[-1].text == ""


def test_more_alternatives_than_the_route_gives_are_refused(endpoint):
    endpoint.configure(dialect="openai")
    with pytest.raises(CapabilityError) as caught:
        sampled(endpoint, asks(1), sampling=Sampling(logprobs=20), route="completions")
    assert str(caught.value) == (
        f"openai('{endpoint.url}', model='fake'): this server gives 5 alternatives for each token, and 20 are needed; "
        "ask for fewer, or use another engine"
    )


def test_models_that_know_another_name_for_the_cap_get_it_by_that_name(endpoint):
    endpoint.configure(dialect="openai", models=("o9-mini",))
    children, _ = sampled(endpoint, asks(2, range(2)), sampling=Sampling(max_tokens=5))
    assert [child.usage.completion for child in children] == [5] * 4
    assert endpoint.stats().refused == 0


def test_a_request_refused_for_its_content_gives_failed_children_and_others_go_on(endpoint):
    endpoint.configure(context=300)
    long = Ask(chain("word " * 400), (0, 1), "0")
    children, opened = sampled(endpoint, [long, *asks(2)], sampling=Sampling(max_tokens=50))
    assert [child.finish for child in children] == ["error", "error", "stop", "stop"]
    assert [child.usage.completion > 0 for child in children] == [False, False, True, True]
    [refused] = [attempt for attempt in opened.attempts if attempt.status == "refused"]
    assert refused.usage == Usage(calls=1)
    assert refused.detail.startswith(f"{endpoint.url}/chat/completions: 400: This model's maximum context length is 300 tokens.")


def test_half_a_character_in_a_reply_becomes_the_replacement_character(endpoint):
    [child], _ = sampled(endpoint, [Ask(chain("Repeat.\nECHO: half \ud83d here"), (0,), "0")])
    assert child.text == "half \ufffd here"


# What is remembered of a server.


def test_n_copies_of_one_choice_are_not_n_samples():
    async def post(path, body):
        choice = {"message": {"content": "red, green"}, "finish_reason": "stop"}
        return {"choices": [choice] * body.get("n", 1), "usage": {"prompt_tokens": 9, "completion_tokens": 4 * body.get("n", 1)}}

    known, sure = asyncio.run(probe(post, "http://there/v1", "m", "auto"))
    assert (known.many, known.together, sure) == (False, False, True)


def test_a_new_turn_that_begins_as_every_count_does_is_no_continuation_and_a_null_is_no_stop_reason():
    async def post(path, body):
        text = "One, two, three, four, five, six, seven, eight, nine, ten.".partition((body.get("stop") or ["!"])[0])[0]
        usage = {"prompt_tokens": 9 * len(body["messages"]), "completion_tokens": 21}
        return {"choices": [{"message": {"content": text}, "finish_reason": "stop", "stop_reason": None}], "usage": usage}

    known, _ = asyncio.run(probe(post, "http://there/v1", "m", "auto"))
    assert (known.continuation, known.stop_reason) == ("none", False)
