"""The openai policy under faults: what is refused at once, what is tried again, and a key that never leaks."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace

import pytest
from openai_cases import WHOLE, Opened, asks, chain, sampled, written

from ponder.bank import TableBank
from ponder.core import Ask, Sampling
from ponder.errors import RefusedError, UnreachableError
from ponder.policies.openai import Secret, openai
from ponder.run import solve
from ponder.store import Journal, SqliteTable
from ponder.strategies.sample import Sample
from ponder.strategies.self_consistency import SelfConsistency
from ponder.testing.endpoint import FakeEndpoint, Fault, FaultKind
from ponder.types import Question, Usage, user

pytestmark = pytest.mark.slow


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
