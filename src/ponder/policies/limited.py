"""How many requests may be in flight, and what happens when one fails: the limiter in front of an endpoint.

Additive increase, multiplicative decrease (Chiu and Jain 1989): the limit doubles each round until the first refusal, then grows by
one a round; a refusal takes it to 0.7 of itself, once per episode, and everybody waits for as long as the server says.
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
    """Bounds of the limiter. concurrency: most requests in flight; tries: of one request, rate limits apart.

    patience: seconds that one request may take in all, waits included; longest_wait: most that a server's Retry-After may ask for;
    kills: how often one request may lose its connection before it is put aside; refusals: connections refused in a row, by
    anybody, before the endpoint counts as gone.
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
        self.limit = float(min(64, self.limits.concurrency))
        self._slow_start = True
        self._resume_at = 0.0
        self._episode = 0
        self._refused = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def send(self, attempt: Callable[[], Awaitable[T]], failed: Callable[[TransientError], None]) -> T:
        """The result of the first try that works. Every failed try is reported to `failed`.

        Raises `GivenUpError` when this request's tries or patience are spent, `UnreachableError` when the endpoint is gone.
        """
        started, tries, kills = self.clock(), 0, 0
        while True:
            await self._enter()
            episode = self._episode
            try:
                result = await attempt()
            except TransientError as error:
                self._leave()
                failed(error)
                tries += error.failure != "rate_limited"
                kills += error.failure == "reset"
                self._note(error, episode)
                if kills >= self.limits.kills:
                    raise GivenUpError(f"lost its connection {kills} times, while others may go on: {error.detail}") from error
                pause = self._pause(error, tries)
                if tries >= self.limits.tries or self.clock() + pause - started > self.limits.patience:
                    raise GivenUpError(f"gave up after {tries} tries: {error.detail}") from error
                await self.sleep(pause)
            except BaseException:
                self._leave()
                raise
            else:
                self._refused = 0
                self._grow()
                self._leave()
                return result

    async def _enter(self) -> None:
        while True:
            rest = self._resume_at - self.clock()
            if rest > 0:
                await self.sleep(rest)
            elif self.live < self.limit:
                self.live += 1
                return
            else:
                place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(place)
                try:
                    await place
                except asyncio.CancelledError:
                    if place.done() and not place.cancelled():
                        self._wake()  # the place was given to a request that is gone: pass it on
                    raise

    def _leave(self) -> None:
        self.live -= 1
        self._wake()

    def _wake(self) -> None:
        free = int(self.limit) - self.live
        while free > 0 and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                free -= 1

    def _grow(self) -> None:
        if self.limit < self.limits.concurrency:
            step = 1.0 if self._slow_start else 1.0 / self.limit
            self.limit = min(float(self.limits.concurrency), self.limit + step)

    def _note(self, error: TransientError, episode: int) -> None:
        if error.failure == "rate_limited":
            if error.wait:
                self._resume_at = max(self._resume_at, self.clock() + min(error.wait, self.limits.longest_wait))
            if episode == self._episode:  # all that were in flight together are one episode
                self._episode += 1
                self._slow_start = False
                self.limit = max(1.0, self.limit * 0.7)
        if error.failure == "unreachable":
            self._refused += 1
            if self._refused >= self.limits.refusals:
                raise UnreachableError(f"{self.name}: {error.detail}; start the server, or give the right address") from error

    def _pause(self, error: TransientError, tries: int) -> float:
        """Exponential, with full jitter; what the server asked for comes first."""
        if error.wait is not None:
            return min(max(0.0, error.wait), self.limits.longest_wait)
        ceiling: float = min(30.0, 0.5 * 2.0 ** max(0, tries - 1))
        return ceiling * self.jitter()


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds a server asks to wait, from `retry-after-ms`, or `Retry-After` in seconds or as a date; never negative."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("Retry-After", headers.get("retry-after"))
        if text is None:
            return None
        try:
            return max(0.0, float(text))
        except ValueError:
            return max(0.0, parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except (ValueError, TypeError, OverflowError):
        return None
