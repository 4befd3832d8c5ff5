"""How many requests may be in flight, and what happens when one fails: the limiter in front of an endpoint.

Additive increase, multiplicative decrease (Chiu and Jain 1989): the limit doubles each round until the first refusal (429), then
grows by one a round; a refusal takes it to 0.7 of itself, once for all that were in flight together, and everybody waits for as long
as the server says. Well above the limit that was last refused, it doubles again: the server has more to give now.

A request that lost its connection twice makes its last try while no other suspect is in flight, so that what one poisonous request
tears down with it is not put aside too. Refused connections are counted in waves, all that fail together as one; after five waves in a
row the endpoint counts as gone, for all that wait, and is tried again only after a while.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal, TypeAlias, TypeVar

from ponder.errors import UnreachableError

T = TypeVar("T")
Failure: TypeAlias = Literal["rate_limited", "timeout", "reset", "unreachable", "server_error", "malformed"]

_FIRST_LIMIT = 64
_DECREASE = 0.7
_GROWTH = 1.0
_CLEAR = 1.2  # so far above the limit last refused, the server has become faster
_GONE_FOR = 10.0  # seconds in which an endpoint that is gone is not tried again


class TransientError(Exception):
    """A failure worth another try. wait: seconds the server asked for, None if it did not."""

    def __init__(self, failure: Failure, detail: str, wait: float | None = None) -> None:
        super().__init__(detail)
        self.failure: Failure = failure
        self.detail = detail
        self.wait = wait


class GivenUpError(Exception):
    """All tries of one request are spent; others may go on."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the limiter. concurrency: most requests in flight; tries: of one request, rate limits and refused connections apart.

    patience: seconds from a request's first try after which it is not tried again; longest_wait: most that a server's Retry-After may
    ask for; kills: how often one request may lose its connection before it is put aside; refusals: waves of refused connections in a
    row before the endpoint counts as gone.
    """

    concurrency: int = 512
    tries: int = 6
    patience: float = 1800.0
    longest_wait: float = 120.0
    kills: int = 3
    refusals: int = 5


@dataclass
class Limiter:
    """One per endpoint. `clock`, `sleep` and `jitter` are for tests."""

    name: str
    limits: Limits = field(default_factory=Limits)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    jitter: Callable[[], float] = random.random
    live: int = 0

    def __post_init__(self) -> None:
        self.limit = float(min(_FIRST_LIMIT, self.limits.concurrency))
        self._slow_start = True
        self._ceiling = float("inf")  # the limit that was last refused
        self._episode = 0
        self._resume_at = float("-inf")
        self._waves = 0
        self._gone_until = float("-inf")
        self._gone_why = ""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._alone = asyncio.Lock()

    async def send(self, attempt: Callable[[], Awaitable[T]], failed: Callable[[TransientError, str], None]) -> T:
        """The result of the first try that works. Every failed try is reported to `failed`, with why it was the last one, or "".

        Raises `GivenUpError` when this request's tries or patience are spent, `UnreachableError` when the endpoint is gone.
        """
        tries = waits = kills = 0
        started: float | None = None
        while True:
            suspect = 0 < kills == self.limits.kills - 1
            if suspect:
                await self._alone.acquire()
            try:
                await self._enter()
                started = self.clock() if started is None else started
                episode = self._episode
                try:
                    result = await attempt()
                    self._succeeded()
                    return result
                except TransientError as error:
                    self._note(error, episode)
                    failure = error.with_traceback(None)  # it holds this frame: a cycle that would outlive the request
                finally:
                    self._leave()
            finally:
                if suspect:
                    self._alone.release()
            if failure.failure in ("rate_limited", "unreachable"):
                waits += 1
            else:
                tries += 1
            kills += failure.failure == "reset"
            pause = self._pause(failure, tries + waits)
            given_up = self._given_up(tries, kills, self.clock() + pause - started)
            failed(failure, given_up)
            if given_up:
                raise GivenUpError(f"{given_up}: {failure.detail}") from failure
            if pause:
                await self.sleep(pause)

    async def _enter(self) -> None:
        """Take a place among those in flight; first come, first served. Nobody goes on while the server asked for silence."""
        self._check_gone()
        if self.live < int(self.limit):
            self.live += 1
        else:
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            try:
                await place  # whoever makes it ready has counted it
            except asyncio.CancelledError:
                if place.done() and not place.cancelled() and place.exception() is None:
                    self._leave()
                raise
        try:
            while (rest := self._resume_at - self.clock()) > 0:
                await self.sleep(rest)
            self._check_gone()
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        self.live -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.live < int(self.limit):
            place = self._waiting.popleft()
            if not place.done():
                self.live += 1
                place.set_result(None)

    def _succeeded(self) -> None:
        self._waves = 0
        if self.limit < self.limits.concurrency and 2 * self.live > self.limit:  # a limit that is not used proves nothing
            self._slow_start = self._slow_start or self.limit > _CLEAR * self._ceiling
            self.limit = min(float(self.limits.concurrency), self.limit + (1.0 if self._slow_start else _GROWTH / self.limit))

    def _note(self, error: TransientError, episode: int) -> None:
        now = self.clock()
        if error.failure == "rate_limited":
            if error.wait:
                self._resume_at = max(self._resume_at, now + min(error.wait, self.limits.longest_wait))
            if episode == self._episode:  # all that were in flight together are one episode
                self._episode += 1
                self._slow_start = False
                self._ceiling = self.limit
                self.limit = max(1.0, self.limit * _DECREASE)
        if error.failure == "unreachable" and now >= self._resume_at:  # the others of this wave find the pause already there
            self._waves += 1
            self._resume_at = now + 0.25 * 2.0 ** (self._waves - 1)
            if self._waves >= self.limits.refusals:
                self._declare_gone(now, error)

    def _declare_gone(self, now: float, error: TransientError) -> None:
        self._gone_why = f"{self.name}: {error.detail}, {self._waves} times in a row; start the server, or give the right address (it ends in /v1)"
        self._gone_until, self._resume_at = now + _GONE_FOR, now
        self._waves = self.limits.refusals - 1  # one more refusal, after that time, is enough
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_exception(UnreachableError(self._gone_why))

    def _check_gone(self) -> None:
        if self.clock() < self._gone_until:
            raise UnreachableError(self._gone_why)

    def _pause(self, error: TransientError, failures: int) -> float:
        """What the server asked for, else exponential with full jitter; refused connections wait together, in `_enter`."""
        if error.failure == "unreachable":
            return 0.0
        if error.wait:
            return min(error.wait, self.limits.longest_wait)
        ceiling: float = min(30.0, 0.5 * 2.0 ** min(failures - 1, 10))
        return ceiling * self.jitter()

    def _given_up(self, tries: int, kills: int, taken: float) -> str:
        if kills >= self.limits.kills:
            return f"put aside, as it lost its connection {kills} times"
        if tries >= self.limits.tries:
            return f"gave up after {tries} tries"
        if taken > self.limits.patience:
            return f"gave up, as another try would end past {self.limits.patience:g} s"
        return ""


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds a server asks to wait, from `retry-after-ms`, or `Retry-After` in seconds or as a date; never negative.

    headers: case-insensitive, as HTTP's are. now: seconds since 1970. None where nothing readable is asked for.
    """
    milliseconds = _seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("Retry-After")
    seconds = _seconds(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text is not None else None  # not a number counts as 0
    except ValueError:
        return None
