"""The openai policy against the fake endpoint: every kind of server, every fault, what is remembered, what never leaks."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import time
from dataclasses import replace

import pytest

from ponder.bank import TableBank
from ponder.core import END, LINE, Ask, Attempt, Sampling, Until
from ponder.errors import CapabilityError, RefusedError, UnreachableError
from ponder.policies.gguf import gguf
from ponder.policies.openai import Secret, openai
from ponder.policies.probe import probe
from ponder.policies.pull import CATALOGUE, cache_dir
from ponder.run import solve
from ponder.store import Journal, SqliteTable
from ponder.strategies.sample import Sample
from ponder.strategies.self_consistency import SelfConsistency
from ponder.testing.endpoint import DIALECTS, FakeEndpoint, Fault, FaultKind, UsageRule
from ponder.types import Chain, Question, Step, Usage, user

pytestmark = pytest.mark.slow
WHOLE = Sampling(max_tokens=200)


@pytest.fixture(scope="module")
def running():
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    plain = {"dialect": "vllm", "latency": 0.0, "key": None, "models": ("fake",), "context": 8192, "weights": 0}
    running.configure(**plain, faults=(), rate_limit=None, max_live=None)
    running.reset()
    return running


def chain(text):
    return Chain((user(text),))


def asks(count, indices=(0,)):
    return [Ask(chain(f"QUESTION: what is {number} and {number}?"), tuple(indices), "0") for number in range(count)]


class Opened:
    """A policy opened on an endpoint, its log empty, with what it reported."""

    def __init__(self, endpoint, faults=(), **arguments):
        self.endpoint, self.faults = endpoint, faults
        self.policy = openai(endpoint.url, **arguments)
        self.attempts: list[Attempt] = []

    async def __aenter__(self):
        await self.policy.__aenter__()
        self.policy.observer = self.attempts.append
        self.policy.limiter.jitter = lambda: 0.02  # pauses of 10 ms, 20 ms ...
        self.endpoint.configure(faults=self.faults)
        self.endpoint.reset()
        return self

    async def __aexit__(self, *_):
        await self.policy.__aexit__()

    async def sample(self, asked, until=END, sampling=WHOLE):
        lines = await self.policy.sample(asked, until=until, sampling=sampling)
        return [child for line in lines for child in line]

    @property
    def statuses(self):
        return [attempt.status for attempt in self.attempts]

    @property
    def billed(self):
        return sum(attempt.usage.completion for attempt in self.attempts if attempt.status == "ok")


def sampled(endpoint, asked, *, until=END, sampling=WHOLE, faults=(), limits=None, **arguments):
    """The children, and the policy they came from."""

    async def main():
        async with Opened(endpoint, faults, **arguments) as opened:
            opened.policy.limiter.limits = replace(opened.policy.limiter.limits, **(limits or {}))
            return await opened.sample(asked, until, sampling), opened

    return asyncio.run(main())


def written(children):
    return sum(child.steps[-1].usage.completion for child in children)


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


# Who is there.


def opening(url, **arguments):
    async def main():
        async with openai(url, **arguments):
            pass

    return main()


@pytest.mark.parametrize(
    ("settings", "arguments", "says"),
    [
        ({"models": ("a", "b")}, {}, "{url}: serves 2 models; name one of them: a, b"),
        ({}, {"model": "fakw"}, "{url}: there is no model 'fakw'; did you mean 'fake'?"),
        ({}, {"model": "llama"}, "{url}: there is no model 'llama'; there are fake"),
        (
            {"key": "sk-right"},
            {"key": Secret("sk-wrong")},
            "{url}: refused the key (401: Incorrect API key provided.); put the right one into `key`",
        ),
    ],
)
def test_what_is_refused_for_good_is_said_at_once(endpoint, settings, arguments, says):
    endpoint.configure(**settings)
    with pytest.raises(RefusedError) as caught:
        asyncio.run(opening(endpoint.url, **arguments))
    assert str(caught.value) == says.format(url=endpoint.url)


def test_the_key_comes_from_the_variable_that_is_named(endpoint, monkeypatch):
    endpoint.configure(key="sk-right")
    monkeypatch.setenv("MY_KEY", "sk-right\n")
    asyncio.run(opening(endpoint.url, key_env="MY_KEY"))
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    with pytest.raises(RefusedError, match=r"put the right one into MY_KEY$"):
        asyncio.run(opening(endpoint.url, key_env="MY_KEY"))


def test_one_model_of_several_is_taken_by_its_name(endpoint):
    endpoint.configure(models=("a", "b"))
    sampled(endpoint, asks(2), model="b")
    assert {request.model for request in endpoint.requests()} == {"b"}


def test_an_address_without_its_v1_is_said_to_be_wrong(endpoint):
    address = endpoint.url.removesuffix("/v1") + "/v2"
    with pytest.raises(RefusedError, match=r"check that the address ends in /v1$"):
        asyncio.run(opening(address))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_nobody_at_the_address_is_said_with_the_address(endpoint):
    url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(UnreachableError) as caught:
        asyncio.run(opening(url))
    assert str(caught.value).startswith(f"{url}: cannot be reached (")
    assert str(caught.value).endswith("; start the server, or give the right address (it ends in /v1)")


@pytest.mark.parametrize("kind", [FaultKind.HANG, FaultKind.EMPTY_CHOICES])
def test_a_server_that_answers_nothing_is_an_endpoint_error_of_ours(endpoint, kind):
    endpoint.configure(faults=(Fault(kind, probability=1.0),))
    with pytest.raises(UnreachableError) as caught:
        asyncio.run(opening(endpoint.url, timeout=0.2))
    assert str(caught.value).startswith(f"{endpoint.url}: no answer to a first small question (")


# Faults.

RETRIED = {
    FaultKind.RETRY_SECONDS: "rate_limited",
    FaultKind.RETRY_DATE: "rate_limited",
    FaultKind.RETRY_MS: "rate_limited",
    FaultKind.RETRY_ABSURD: "rate_limited",
    FaultKind.RETRY_NEGATIVE: "rate_limited",
    FaultKind.SERVER_ERROR: "server_error",
    FaultKind.BAD_GATEWAY: "server_error",
    FaultKind.UNAVAILABLE: "server_error",
    FaultKind.DROP: "reset",
    FaultKind.RESET: "reset",
    FaultKind.SLOW_LORIS: "timeout",
    FaultKind.HANG: "timeout",
    FaultKind.TRUNCATED_JSON: "malformed",
    FaultKind.EMPTY_CHOICES: "malformed",
}
SHORT = {"longest_wait": 0.3}


@pytest.mark.parametrize("kind", RETRIED)
def test_a_fault_that_passes_is_reported_and_the_child_is_the_one_it_would_have_been(endpoint, kind):
    clean, _ = sampled(endpoint, asks(1), many=False)
    fault = Fault(kind, at=(0,), seconds=0.1)
    children, opened = sampled(endpoint, asks(1), faults=(fault,), limits=SHORT, many=False, timeout=0.4)
    assert [child.text for child in children] == [child.text for child in clean]
    assert opened.statuses == [RETRIED[kind], "ok"]
    failed = opened.attempts[0]
    sampled_too = RETRIED[kind] != "rate_limited"
    assert failed.usage == Usage(completion=WHOLE.max_tokens if sampled_too else 0, calls=1)
    assert failed.detail.endswith("not counted by the server: charged at the cap") == sampled_too
    assert failed.children == 0


@pytest.mark.parametrize("kind", [FaultKind.WRONG_CONTENT_TYPE, FaultKind.WRONG_COUNT])
def test_a_fault_that_does_no_harm_costs_no_further_request(endpoint, kind):
    children, opened = sampled(endpoint, asks(1), faults=(Fault(kind, at=(0,)),), many=False)
    assert [child.finish for child in children] == ["stop"]
    assert opened.statuses == ["ok"]
    assert opened.attempts[0].children == 1


def test_a_choice_too_few_is_asked_for_again_alone(endpoint):
    children, opened = sampled(endpoint, asks(1, range(4)), faults=(Fault(FaultKind.WRONG_COUNT, at=(0,)),))
    assert [child.finish for child in children] == ["stop"] * 4
    assert [attempt.children for attempt in opened.attempts] == [3, 1]
    assert written(children) == opened.billed


def test_a_poisonous_prompt_is_put_aside_after_three_connections_and_all_others_finish(endpoint):
    poison = Ask(chain("POISON"), (0,), "0")
    children, opened = sampled(endpoint, [*asks(20), poison, *asks(20)], limits=SHORT)
    assert [child.finish for child in children] == ["stop"] * 20 + ["error"] + ["stop"] * 20
    resets = [attempt for attempt in opened.attempts if attempt.status == "reset"]
    assert len(resets) == endpoint.stats().dropped == 3
    assert "put aside, as it lost its connection 3 times" in resets[-1].detail
    assert children[20].usage.completion == 200  # nobody counted what was lost with the connection: it is charged at its cap


def test_every_reply_finds_its_child_under_a_storm_of_faults(endpoint):
    """1,200 requests, one in five of them faulty, by a script with a seed."""
    clean, _ = sampled(endpoint, asks(300, range(4)), many=False)
    kinds = [kind for kind in RETRIED if kind not in (FaultKind.RETRY_DATE, FaultKind.RETRY_SECONDS)]
    faults = [Fault(kind, probability=0.015, seconds=0.02) for kind in [*kinds, FaultKind.WRONG_COUNT]]
    began = time.monotonic()
    children, opened = sampled(
        endpoint,
        asks(300, range(4)),
        faults=faults,
        limits={"longest_wait": 0.05, "tries": 12, "kills": 6},
        many=False,
        timeout=1.0,
    )
    assert time.monotonic() - began < 20.0
    assert [child.finish for child in children] == ["stop"] * 1200
    assert [child.text for child in children] == [child.text for child in clean]
    assert set(opened.statuses) == {"ok", *RETRIED.values()}
    stats = endpoint.stats()
    assert stats.live == 0
    assert len(opened.attempts) == stats.received > 1350


def test_a_server_that_dies_is_named_to_all_that_wait_within_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))

    async def main():
        with FakeEndpoint(latency=0.2) as endpoint:
            url = endpoint.url
            async with Opened(endpoint, concurrency=20) as opened:
                opened.policy.limiter.limits = replace(opened.policy.limiter.limits, refusals=3)
                work = [asyncio.ensure_future(opened.sample(asks(1, (number,)))) for number in range(100)]
                await asyncio.sleep(0.3)
                await asyncio.to_thread(endpoint.__exit__)
                began = time.monotonic()
                results = await asyncio.gather(*work, return_exceptions=True)
                return url, results, time.monotonic() - began

    url, results, seconds = asyncio.run(main())
    failures = {str(result) for result in results if isinstance(result, BaseException)}
    assert {type(result) for result in results if isinstance(result, BaseException)} == {UnreachableError}
    assert len(failures) == 1
    assert failures.pop().startswith(f"{url}: cannot be connected to (")
    assert seconds < 3.0


def test_cancelling_reaches_the_server_within_a_second(endpoint):
    async def main():
        async with Opened(endpoint, faults=(Fault(FaultKind.HANG, probability=1.0),)) as opened:
            question = Question("q", (user("QUESTION: how many?"),))
            task = asyncio.ensure_future(solve(SelfConsistency(50), question, _one_by_one(opened.policy), sampling=WHOLE))
            await seen(lambda: endpoint.stats().live == 50, 10.0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await seen(lambda: endpoint.stats().aborted == 50, 1.0)
            return endpoint.stats(), opened

    stats, opened = asyncio.run(main())
    assert (stats.aborted, stats.live) == (50, 0)
    assert opened.statuses == ["cancelled"] * 50
    assert opened.policy.limiter.live == 0


async def seen(what, within):
    """Wait until it is so, for at most so many seconds: the endpoint is another process and calls nobody."""
    for _ in range(round(within / 0.01)):
        if what():
            return
        await asyncio.sleep(0.01)


def _one_by_one(policy):
    policy._many = False
    return policy


def test_one_refusal_ends_all_of_a_call_and_is_raised_as_it_is(endpoint):
    async def main():
        async with Opened(endpoint, many=False) as opened:
            endpoint.configure(key="changed")
            with pytest.raises(RefusedError, match="refused the key"):
                await opened.sample(asks(30))
            return opened.policy.limiter.live

    assert asyncio.run(main()) == 0


def test_a_rate_limited_server_gives_most_of_what_it_can(endpoint):
    async def main():
        async with Opened(endpoint, many=False) as opened:
            opened.policy.limiter.jitter = lambda: 0.5
            endpoint.configure(rate_limit=200.0, burst=20.0, latency=0.05)
            await opened.sample(asks(100))
            began, before = time.monotonic(), endpoint.stats()
            await opened.sample(asks(700, (1,)))
            seconds, after = time.monotonic() - began, endpoint.stats()
            return (after.answered - before.answered) / seconds / 200.0, after.limited - before.limited

    share, limited = asyncio.run(main())
    assert share >= 0.8
    assert limited < 140


# What leaves, what stays.

KEY = Secret("sk-canary-7f3a9")


def test_the_key_is_nowhere_but_in_its_header(endpoint, tmp_path, caplog):
    endpoint.configure(key=KEY)
    caplog.set_level("DEBUG")

    async def main():
        said = []
        faults = [Fault(kind, at=(at,), seconds=0.02) for at, kind in enumerate(RETRIED)]
        async with Opened(endpoint, faults, key=KEY, timeout=0.3, many=False) as opened:
            opened.policy.limiter.limits = replace(opened.policy.limiter.limits, longest_wait=0.1)
            children = await opened.sample([*asks(20), Ask(chain("POISON"), (0,), "0")])
            said += [repr(opened.policy), repr(opened.policy.info), repr(opened.policy.probed), repr(children)]
            said += [repr(attempt) for attempt in opened.attempts]
            said += [repr(vars(opened.policy)), repr(opened.policy.limiter)]
            endpoint.configure(key="another")
            for work in (opened.sample(asks(1)), opening(endpoint.url, key=KEY)):
                try:
                    await work
                except RefusedError as error:
                    said += [repr(error), str(error), repr(error.__cause__), repr(error.__context__)]
        return said

    said = asyncio.run(main())
    assert len(said) > 30
    assert not [text for text in said if KEY in text]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if KEY.encode() in path.read_bytes() or KEY in path.name]
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("echo", "kept"),
    [
        ("nul \x00 here", "nul \x00 here"),
        ("\U0001f600 \u202e \ufeff \x7f", "\U0001f600 \u202e \ufeff \x7f"),
        ("word " * 40 + "end", "word " * 40 + "end"),
        ("x" * 1_000_000, "x" * 1_000_000),
    ],
    ids=["NUL", "odd characters", "words", "a megabyte"],
)
def test_odd_and_large_texts_reach_the_bank_as_they_were(endpoint, tmp_path, echo, kept):
    endpoint.configure(context=10_000_000)

    async def main():
        with Journal(tmp_path / "study.db") as journal:
            bank = TableBank(SqliteTable(journal))
            async with Opened(endpoint) as opened:
                question = Question("q", (user(f"Repeat.\nECHO: {echo}"),))
                sampling = Sampling(max_tokens=2_000_000)
                paid = await solve(Sample(), question, opened.policy, sampling=sampling, bank=bank)
                again = await solve(Sample(), question, opened.policy, sampling=sampling, bank=TableBank(SqliteTable(journal)))
                return paid, again, endpoint.stats().received

    paid, again, requests = asyncio.run(main())
    assert paid.chain.text == again.chain.text == kept
    assert paid.spent.usage.completion == again.spent.usage.completion
    assert requests == 1


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


def opened_once(endpoint, **arguments):
    """The fingerprint, and how many requests the opening took."""
    endpoint.reset()

    async def main():
        async with openai(endpoint.url, **arguments) as policy:
            return policy.info.fingerprint

    return asyncio.run(main()), endpoint.stats().received


def test_a_server_is_probed_once_and_then_asked_for_its_canary_alone(endpoint):
    first, probing = opened_once(endpoint)
    assert 8 <= probing <= 16
    assert opened_once(endpoint) == (first, 1)
    assert opened_once(endpoint, fresh=True) == (first, probing)
    assert opened_once(endpoint, route="completions")[1] > 1  # another way to ask is another thing to know


def test_weights_swapped_behind_a_name_are_found_by_the_canary_and_probed_again(endpoint):
    first, probing = opened_once(endpoint)
    endpoint.configure(weights=1)
    second, requests = opened_once(endpoint)
    assert second != first
    assert requests == probing + 1
    assert opened_once(endpoint) == (second, 1)
    endpoint.configure(weights=0)
    assert opened_once(endpoint)[0] == first


def test_a_server_that_refuses_what_was_known_of_it_is_probed_again(endpoint):
    first, _ = opened_once(endpoint, model="fake")
    endpoint.configure(dialect="openai", models=("fake", "o9"))
    opened_once(endpoint, model="o9")
    assert opened_once(endpoint, model="fake") == (first, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00\xff",
        lambda text: json.dumps(json.loads(text) | {"version": 1}),
        lambda text: json.dumps(json.loads(text) | {"caps": "yes"}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "seeds"}),
    ],
    ids=["torn", "empty", "another thing", "bytes", "an old version", "a wrong type", "a field short"],
)
def test_a_cache_that_cannot_be_read_is_made_again(endpoint, tmp_path, spoil):
    first, probing = opened_once(endpoint)
    [file] = tmp_path.rglob("*.json")
    file.write_text(spoil(file.read_text()), encoding="latin-1")
    assert opened_once(endpoint) == (first, probing)
    assert opened_once(endpoint) == (first, 1)


def test_a_cache_that_cannot_be_written_is_no_harm(endpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "file"))
    first, probing = opened_once(endpoint)
    assert opened_once(endpoint) == (first, probing)


def test_what_a_passing_failure_made_of_a_probe_is_not_remembered(endpoint):
    endpoint.configure(faults=[Fault(FaultKind.EMPTY_CHOICES, at=(3,))])
    _, spoilt = opened_once(endpoint)
    endpoint.configure(faults=())
    assert opened_once(endpoint)[1] > 1
    assert opened_once(endpoint)[1] == 1
    assert spoilt > 1


# llama.cpp itself, behind the gguf policy.


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the extra gguf: xllamacpp")
@pytest.mark.skipif(not (cache_dir() / CATALOGUE["smollm2"].file).is_file(), reason="needs the model: ponder pull smollm2")
def test_attempts_on_llama_cpp_reach_the_observer_of_the_gguf_policy_and_its_ledger_is_true(monkeypatch, tmp_path):
    policy = gguf("smollm2", context=256, slots=2)  # finds its file before the cache is moved
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    attempts: list[Attempt] = []
    policy.observer = attempts.append  # before it is open, as the runner does

    async def main():
        async with policy:
            return await policy.sample(asks(1, range(3)), until=END, sampling=Sampling(max_tokens=12))

    [children] = asyncio.run(main())
    assert [attempt.status for attempt in attempts] == ["ok"] * 3
    assert sum(attempt.usage.completion for attempt in attempts) == written(children) > 0
    assert all(child.usage.completion <= 12 for child in children)
