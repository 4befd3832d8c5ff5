"""The limiter in virtual time: no test here waits for anything."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest
from limited_cases import failing, limiter_in, virtually

from ponder.errors import UnreachableError
from ponder.policies.limited import GivenUpError, TransientError


def sent(attempt, **limits):
    """What came of sending it: the result or the error, the failures reported, the seconds it took."""

    async def main(loop):
        reported = []
        try:
            result = await limiter_in(loop, **limits).send(attempt, lambda error, fate: reported.append((error.failure, fate)))
        except (GivenUpError, UnreachableError) as error:
            result = error
        return result, reported, loop.time()

    return virtually(main)


def test_failures_that_pass_are_waited_out_with_doubling_pauses():
    result, reported, seconds = sent(failing("server_error", "timeout", "malformed"))
    assert result == "done"
    assert reported == [("server_error", ""), ("timeout", ""), ("malformed", "")]
    assert seconds == 0.5 + 1.0 + 2.0


def test_jitter_takes_any_part_of_a_pause():
    async def main(loop):
        await limiter_in(loop, jitter=lambda: 0.25).send(failing("server_error", "server_error"), lambda *_: None)
        return loop.time()

    assert virtually(main) == 0.25 * (0.5 + 1.0)


def test_a_request_is_given_up_after_its_tries_and_the_last_report_says_so():
    result, reported, _ = sent(failing(*["server_error"] * 9), tries=3)
    assert str(result) == "gave up after 3 tries: it was server_error"
    assert reported == [("server_error", ""), ("server_error", ""), ("server_error", "gave up after 3 tries")]


def test_rate_limits_cost_patience_but_no_tries():
    result, reported, _ = sent(failing(*["rate_limited"] * 20), tries=2)
    assert result == "done"
    assert len(reported) == 20


def test_patience_bounds_what_rate_limits_can_take():
    always = [TransientError("rate_limited", "429: busy", 40.0) for _ in range(99)]
    result, reported, seconds = sent(failing(*always), patience=100.0)
    assert str(result) == "gave up, as another try would end past 100 s: 429: busy"
    assert len(reported) == 3
    assert seconds == 80.0


def test_patience_is_counted_from_the_first_try_not_from_the_queue():
    async def main(loop):
        limiter = limiter_in(loop, concurrency=1, patience=10.0)

        async def slow():
            await asyncio.sleep(100.0)

        first = asyncio.ensure_future(limiter.send(slow, lambda *_: None))
        await asyncio.sleep(1.0)
        second = await limiter.send(failing("server_error"), lambda *_: None)
        await first
        return second

    assert virtually(main) == "done"


@pytest.mark.parametrize(
    ("asked", "waited"),
    [(7.0, 7.0), (1e9, 120.0), (float("inf"), 120.0), (0.0, 0.5), (None, 0.5)],
    ids=["as asked", "absurd is capped", "endless is capped", "nothing is a pause of ours", "unsaid is a pause of ours"],
)
def test_everybody_waits_as_long_as_the_server_says_up_to_a_cap(asked, waited):
    assert sent(failing(TransientError("rate_limited", "429", asked)))[2] == waited


def test_what_the_server_asked_of_one_request_holds_for_all():
    async def main(loop):
        limiter = limiter_in(loop)
        began = []

        async def noted():
            began.append(loop.time())

        await limiter.send(failing(TransientError("rate_limited", "429", 5.0)), lambda *_: None)
        task = asyncio.ensure_future(limiter.send(failing(TransientError("rate_limited", "429", 5.0)), lambda *_: None))
        await asyncio.sleep(1.0)
        await limiter.send(noted, lambda *_: None)
        await task
        return began

    assert virtually(main) == [10.0]


def test_a_request_that_loses_its_connection_three_times_is_put_aside():
    result, reported, _ = sent(failing(*["reset"] * 9))
    assert str(result) == "put aside, as it lost its connection 3 times: it was reset"
    assert [fate for _, fate in reported] == ["", "", "put aside, as it lost its connection 3 times"]


def test_poison_is_put_aside_and_those_it_tears_down_are_not():
    async def main(loop):
        limiter = limiter_in(loop, jitter=lambda: 0.5)
        crashes = asyncio.Event()
        done = []

        async def poison():
            nonlocal crashes
            await asyncio.sleep(0.05)
            dead, crashes = crashes, asyncio.Event()
            dead.set()  # takes all that are in flight with it
            raise TransientError("reset", "it died")

        def innocent(number):
            async def attempt():
                try:
                    async with asyncio.timeout(0.1):
                        await crashes.wait()
                except TimeoutError:
                    done.append(number)
                    return
                raise TransientError("reset", "it died")

            return attempt

        work = [limiter.send(poison, lambda *_: None), *(limiter.send(innocent(i), lambda *_: None) for i in range(50))]
        results = await asyncio.gather(*work, return_exceptions=True)
        return [type(result).__name__ for result in results], sorted(done)

    results, done = virtually(main)
    assert results == ["GivenUpError"] + ["NoneType"] * 50
    assert done == list(range(50))


GONE = "http://there/v1: cannot be connected to (refused), 5 times in a row; start the server, or give the right address (it ends in /v1)"


def test_a_server_that_is_gone_is_named_to_all_that_wait_within_seconds():
    async def main(loop):
        limiter = limiter_in(loop, concurrency=8)

        async def refused():
            raise TransientError("unreachable", "cannot be connected to (refused)")

        work = [limiter.send(refused, lambda *_: None) for _ in range(100)]
        results = await asyncio.gather(*work, return_exceptions=True)
        return {(type(result), str(result)) for result in results}, loop.time(), limiter.live

    assert virtually(main) == ({(UnreachableError, GONE)}, 0.25 + 0.5 + 1.0 + 2.0, 0)


def test_sixty_refusals_of_one_moment_are_one_wave():
    async def main(loop):
        limiter = limiter_in(loop)
        up = loop.time() + 3.0

        async def restarting():
            await asyncio.sleep(0.125)
            if loop.time() < up:
                raise TransientError("unreachable", "cannot be connected to (refused)")
            return loop.time()

        return await asyncio.gather(*(limiter.send(restarting, lambda *_: None) for _ in range(60)))

    assert set(virtually(main)) == {0.25 + 0.5 + 1.0 + 2.0 + 5 * 0.125}


def test_an_endpoint_that_was_gone_is_tried_again_after_a_while():
    async def main(loop):
        limiter = limiter_in(loop, refusals=1)
        with pytest.raises(UnreachableError):
            await limiter.send(failing("unreachable"), lambda *_: None)
        tried = []

        async def attempt():
            tried.append(loop.time())

        with pytest.raises(UnreachableError):
            await limiter.send(attempt, lambda *_: None)
        await asyncio.sleep(11.0)
        await limiter.send(attempt, lambda *_: None)
        return tried

    assert virtually(main) == [11.0]


def test_an_answer_between_refusals_starts_the_count_anew():
    async def main(loop):
        limiter = limiter_in(loop, refusals=3)
        for _ in range(5):
            await limiter.send(failing("unreachable", "unreachable"), lambda *_: None)
        return "all done"

    assert virtually(main) == "all done"


def test_other_errors_pass_through_at_once_and_free_their_place():
    async def main(loop):
        limiter = limiter_in(loop, concurrency=1)
        with pytest.raises(ZeroDivisionError):
            await limiter.send(failing(ZeroDivisionError()), lambda *_: None)
        return await limiter.send(failing(), lambda *_: None)

    assert virtually(main) == "done"


def test_cancelled_requests_leave_no_place_taken_wherever_they_were():
    async def main(loop):
        limiter = limiter_in(loop, concurrency=2)

        async def slow():
            await asyncio.sleep(10.0)

        tasks = [asyncio.ensure_future(limiter.send(slow, lambda *_: None)) for _ in range(6)]
        await asyncio.sleep(1.0)
        for task in tasks[1:5]:  # one in flight, three that wait
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks = [asyncio.ensure_future(limiter.send(slow, lambda *_: None)) for _ in range(3)]
        await asyncio.sleep(10.0)
        tasks[2].cancel()  # its place has just been given to it
        await asyncio.gather(*tasks, return_exceptions=True)
        return limiter.live, await limiter.send(failing(), lambda *_: None)

    assert virtually(main) == (0, "done")


@pytest.mark.parametrize("failures", [1, 6])
def test_a_request_that_failed_on_its_way_leaves_nothing_for_the_collector(failures):
    """An error holds the frames it went through: kept in one of them, it would keep the request in memory until a full collection."""

    class Body:
        pass

    def attempt_of(body):
        outcomes = iter(["fails"] * failures + [body])

        async def attempt():
            if (outcome := next(outcomes)) == "fails":
                raise TransientError("malformed", "no JSON")
            return outcome

        return attempt

    async def main(loop):
        body = Body()
        with contextlib.suppress(GivenUpError):
            await limiter_in(loop).send(attempt_of(body), lambda error, fate: None)
        return weakref.ref(body)

    gc.disable()
    try:
        assert virtually(main)() is None
    finally:
        gc.enable()
