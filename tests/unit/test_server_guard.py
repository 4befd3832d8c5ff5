"""The server's door: hosts, origins, keys, deadlines, places, a day's allowance."""

from __future__ import annotations

import asyncio

import pytest
from server_parts_cases import config

from ponder.errors import BudgetExhausted
from ponder.server.config import Key, Limits
from ponder.server.guard import Door, Fields, Gate, Ledger, deadline
from ponder.server.refusal import Refusal

pytest.importorskip("starlette")


# The door.


def headers(**given):
    return Fields([(key.replace("_", "-").encode(), value.encode()) for key, value in given.items()])


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:80", "LOCALHOST:80", "[::1]:80", "localhost"])
def test_this_machines_names_may_come_in(host):
    Door(config(), 80).check(headers(host=host))


@pytest.mark.parametrize(
    "host",
    ["", "localhost:81", "localhost.", "localhost:80.", "evil", "a@localhost:80", "localhost:80@evil", "127.0.0.1:80:80", "0.0.0.0:80", "127.1:80", "localhost:080"],
)  # fmt: skip
def test_no_other_host_may(host):
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(headers(host=host))


def test_two_hosts_are_none():
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(Fields([(b"host", b"localhost"), (b"host", b"evil")]))
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(Fields([]))


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"origin": "https://app.example"}, True),
        ({"origin": "https://app.example", "sec_fetch_site": "cross-site"}, True),
        ({"origin": "https://app.example.evil.example"}, False),
        ({"origin": "https://app.example:444"}, False),
        ({"origin": "http://app.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "none"}, True),
        ({}, True),
    ],
)
def test_pages_come_in_only_from_listed_origins(given, allowed):
    door = Door(config(origins=("https://app.example",)), 80)
    if allowed:
        door.check(headers(host="localhost", **given))
    else:
        with pytest.raises(Refusal) as refused:
            door.check(headers(host="localhost", **given))
        assert refused.value.code == "origin_refused"


def test_keys_are_known_by_their_hash_alone():
    import hashlib

    key = Key(name="a", sha256=hashlib.sha256(b"sk-1").hexdigest())
    door = Door(config(keys=(key,)), 80)
    assert door.key(headers(authorization="Bearer sk-1")) == key
    assert door.key(headers(authorization="bearer  sk-1")) == key
    for wrong in ("", "sk-1", "Bearer", "Bearer ", "Bearer sk-2", "Basic sk-1", f"Bearer {key.sha256}"):
        with pytest.raises(Refusal) as refused:
            door.key(headers(authorization=wrong))
        assert refused.value.status == 401
    assert Door(config(), 80).key(headers()) is None


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "1e-9"])
def test_a_deadline_is_a_number_of_seconds(text):
    with pytest.raises(Refusal):
        deadline({"ponder-deadline": text}, 60)


def test_the_operators_bound_holds_beside_a_deadline():
    assert deadline({}, 60) == 60
    assert deadline({"ponder-deadline": "5"}, 60) == 5
    assert deadline({"ponder-deadline": "500"}, 60) == 60


# Places and allowances.


def test_a_full_queue_says_when_to_come_back_and_places_go_in_order():
    async def scenario():
        gate, order = Gate(Limits(live=1, queue=2)), []
        release = asyncio.Event()

        async def one(name):
            async with gate.place():
                order.append(name)
                await release.wait()

        tasks = [asyncio.create_task(one(name)) for name in "abc"]
        await asyncio.sleep(0)
        assert (gate.live, len(gate.waiting), order) == (1, 2, ["a"])
        with pytest.raises(Refusal) as refused:
            gate.check()
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        with pytest.raises(Refusal):
            await one("d")
        tasks[1].cancel()  # a client that goes away while it waits
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["a", "c"]
        assert (gate.live, len(gate.waiting)) == (0, 0)

    asyncio.run(scenario())


def test_a_wait_that_is_too_long_is_refused_and_leaves_no_hole():
    async def scenario():
        gate = Gate(Limits(live=1, queue=5, patience=0.01))
        async with gate.place():
            with pytest.raises(Refusal, match="no place became free"):
                async with gate.place():
                    pass
            assert not gate.waiting
        assert gate.live == 0

    asyncio.run(scenario())


def test_a_place_handed_over_in_the_moment_of_cancellation_is_not_lost():
    async def scenario():
        gate = Gate(Limits(live=1, queue=5))
        first = gate.place()
        await first.__aenter__()

        async def second():
            async with gate.place():
                pass

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)  # the place is on its way to the second ...
        waiting.cancel()  # ... who goes away before it arrives
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.live == 0

    asyncio.run(scenario())


def test_a_days_allowance_is_hard_also_for_requests_at_once():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, tokens_per_day=100), Ledger(clock=lambda: 86_400.0 * 3 + 80_000)
        first, second = ledger.spending(key), ledger.spending(key)
        async with first, second:
            assert (first.tokens, second.tokens) == (100, 100)  # nothing was asked for yet
            assert first.take(70) == 70
            assert second.take(70) == 30  # what the first has not set aside
            with pytest.raises(BudgetExhausted):
                first.take(1)
            with pytest.raises(Refusal) as refused:
                ledger.spending(key)
            assert (refused.value.code, refused.value.headers["Retry-After"]) == ("rate_limit_exceeded", "1")
            first.count(70, 20)
            assert first.take(999) == 50
            first.count(50, 50)
            second.count(30, 30)
            with pytest.raises(Refusal) as refused:
                ledger.spending(key)
            assert refused.value.code == "insufficient_quota"
            assert refused.value.headers["Retry-After"] == str(86_400 - 80_000)
        assert (ledger.accounts["a"].tokens, ledger.accounts["a"].held) == (100, 0)
        ledger.clock = lambda: 86_400.0 * 4
        assert ledger.spending(key).tokens == 100

    asyncio.run(scenario())


def test_what_was_asked_for_and_did_not_come_is_counted_as_set_aside():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, tokens_per_day=100), Ledger(clock=lambda: 0.0)
        async with ledger.spending(key) as allowance:
            allowance.count(allowance.take(40), 15)
            allowance.take(30)
        assert (ledger.accounts["a"].tokens, ledger.accounts["a"].held) == (45, 0)

    asyncio.run(scenario())


def test_requests_of_a_day_are_counted():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, requests_per_day=1), Ledger(clock=lambda: 0.0)
        async with ledger.spending(key) as allowance:
            assert allowance.tokens is None
            assert allowance.take(10**9) == 10**9
        with pytest.raises(Refusal):
            ledger.spending(key)

    asyncio.run(scenario())
