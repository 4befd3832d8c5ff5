"""The limiter's rates: order, how many in flight, how a limit is found, lowered and lifted."""

from __future__ import annotations

import asyncio

import pytest
from limited_cases import failing, limiter_in, virtually

from ponder.policies.limited import TransientError, retry_after

NOW = 1_800_000_000.0


DATE = "Fri, 15 Jan 2027 08:00:30 GMT"  # half a minute after NOW


class Server:
    """Takes `latency` seconds for a reply; a token bucket refuses more than `rate` requests a second."""

    def __init__(self, loop, rate, latency, says_when=True):
        self.loop, self.rate, self.latency, self.says_when = loop, rate, latency, says_when
        self.allowance, self.at = rate, 0.0
        self.answered, self.refused, self.most = [], [], 0
        self.live = 0

    async def __call__(self):
        now = self.loop.time()
        self.allowance, self.at = min(self.rate, self.allowance + (now - self.at) * self.rate), now
        if self.allowance < 1.0:
            self.refused.append(now)
            raise TransientError("rate_limited", "429", (1.0 - self.allowance) / self.rate if self.says_when else None)
        self.allowance -= 1.0
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            await asyncio.sleep(self.latency)
        finally:
            self.live -= 1
        self.answered.append(self.loop.time())


def test_waiting_requests_come_in_the_order_in_which_they_were_sent():
    async def main(loop):
        limiter, order = limiter_in(loop, concurrency=3), []

        def numbered(number):
            async def attempt():
                order.append(number)
                await asyncio.sleep(1.0)

            return attempt

        await asyncio.gather(*(limiter.send(numbered(i), lambda *_: None) for i in range(30)))
        return order

    assert virtually(main) == list(range(30))


def test_there_are_never_more_in_flight_than_allowed():
    async def main(loop):
        server = Server(loop, rate=1e9, latency=0.1)
        limiter = limiter_in(loop, concurrency=7)
        await asyncio.gather(*(limiter.send(server, lambda *_: None) for _ in range(200)))
        return server.most

    assert virtually(main) == 7


def test_a_server_without_limits_gets_all_that_is_allowed_within_four_rounds():
    async def main(loop):
        server = Server(loop, rate=1e9, latency=1.0)
        limiter = limiter_in(loop, concurrency=512)
        await asyncio.gather(*(limiter.send(server, lambda *_: None) for _ in range(1984)))
        return limiter.limit, server.most, loop.time()

    assert virtually(main) == (512.0, 512, 6.0)  # 64 + 128 + 256 + 512 + 512 + 512


def test_refusals_of_those_in_flight_together_lower_the_limit_once():
    async def main(loop):
        limiter, refused = limiter_in(loop), []

        def once(number):
            async def attempt():
                await asyncio.sleep(0.125)
                if number not in refused:
                    refused.append(number)
                    raise TransientError("rate_limited", "429", 1.0)
                return limiter.limit

            return attempt

        limits = await asyncio.gather(*(limiter.send(once(i), lambda *_: None) for i in range(40)))
        return limits[0]

    assert virtually(main) == 0.7 * 64


def test_a_limit_that_is_not_used_does_not_grow():
    async def main(loop):
        limiter = limiter_in(loop)
        for _ in range(500):
            await limiter.send(failing(), lambda *_: None)
        return limiter.limit

    assert virtually(main) == 64.0


async def flood(loop, server, seconds, workers=600, **limits):
    """Workers that always have one more request. Returns the limiter."""
    limiter = limiter_in(loop, jitter=lambda: 0.5, **limits)

    async def worker():
        while loop.time() < seconds:
            await limiter.send(server, lambda *_: None)

    await asyncio.gather(*(worker() for _ in range(workers)))
    return limiter


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "latency"), [(50.0, 0.5), (100.0, 0.1), (400.0, 0.5)])
@pytest.mark.parametrize("says_when", [True, False], ids=["says when", "does not say when"])
def test_goodput_is_near_a_rate_limit_and_few_requests_are_refused(rate, latency, says_when):
    async def main(loop):
        server = Server(loop, rate, latency, says_when)
        await flood(loop, server, 60.0)
        return server

    server = virtually(main)
    answered = sum(10.0 <= at < 60.0 for at in server.answered)
    refused = sum(10.0 <= at < 60.0 for at in server.refused)
    assert answered >= 0.85 * rate * 50.0  # seen: .89 to 1.00
    assert refused <= 0.15 * answered  # seen: .01 to .13


@pytest.mark.slow
def test_a_limit_that_is_lifted_twentyfold_is_used_again_within_ten_seconds():
    async def main(loop):
        server = Server(loop, 40.0, 0.5)
        loop.call_at(30.0, setattr, server, "rate", 800.0)
        await flood(loop, server, 60.0)
        return server

    server = virtually(main)
    assert sum(40.0 <= at < 60.0 for at in server.answered) >= 0.7 * 800.0 * 20.0  # seen: .77


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "1000000000"}, 1e9),
        ({"Retry-After": "nan"}, 0.0),
        ({"Retry-After": DATE}, 30.0),
        ({"Retry-After": "Fri, 15 Jan 2021 08:00:30 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "Fri, 99 Jan 2027 08:00:30 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
        ({"retry-after-ms": "?", "Retry-After": "1"}, 1.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers, seconds):
    assert retry_after(headers, NOW) == seconds
