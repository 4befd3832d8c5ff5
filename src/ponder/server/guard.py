"""Who may come in, and when: Host, Origin, key, day's allowance, a place among those that are answered.

The Host header must be one of the names the server is known by, to the letter and the port, so that a page that rebinds its own name to
this machine gets nowhere; a request from a page (`Origin`, `Sec-Fetch-Site`) is let in only from origins that the operator listed. Paths
and headers are read from the ASGI scope; no address is rebuilt from what a client says.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ponder.errors import BudgetExhausted
from ponder.server.config import Config, Key, Limits, loopback
from ponder.server.refusal import Refusal, busy

BODIES = 16
"""The bodies of all requests at once take no more memory than so many of the largest."""
SOONEST = 0.001
"""Seconds: a deadline before it is a mistake."""


class Fields(dict[str, str]):
    """The headers of a request by their names in lower case; of several of one name the first, and how many say `host`."""

    def __init__(self, raw: Iterable[tuple[bytes, bytes]]) -> None:
        raw = list(raw)
        super().__init__((name.decode("latin-1"), value.decode("latin-1")) for name, value in reversed(raw))
        self.hosts = sum(name == b"host" for name, _ in raw)


@dataclass
class Door:
    """Checks of headers. port: the one that is really listened on."""

    config: Config
    port: int

    def __post_init__(self) -> None:
        names = {"127.0.0.1", "localhost", "[::1]"} if loopback(self.config.host) else set()
        bare = names if self.port == 80 else set()
        self.hosts = {f"{name}:{self.port}" for name in names} | bare | {host.lower() for host in self.config.hosts}
        self.origins = set(self.config.origins)

    def check(self, headers: Fields) -> None:
        """Host and origin. Raises `Refusal` (403)."""
        if headers.hosts != 1 or headers["host"].lower() not in self.hosts:
            raise Refusal(
                403, "this server is not known by that Host; its operator lists its names in `hosts`", code="host_refused"
            )
        origin = headers.get("origin")
        if origin is not None:
            if origin not in self.origins:
                raise Refusal(
                    403,
                    "pages of that Origin may not use this server; its operator lists them in `origins`",
                    code="origin_refused",
                )
        elif headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise Refusal(403, "pages of other sites may not use this server", code="origin_refused")

    def key(self, headers: Fields) -> Key | None:
        """The key of a request; None where none is asked for. Raises `Refusal` (401). All keys are compared, whichever fits."""
        if not self.config.keys:
            return None
        scheme, _, said = headers.get("authorization", "").partition(" ")
        digest = hashlib.sha256(said.strip().encode()).hexdigest() if scheme.lower() == "bearer" else ""
        fitting = [key for key in self.config.keys if hmac.compare_digest(key.sha256, digest)]
        if not fitting:
            why = "the API key is not known here" if said else "an API key is needed: Authorization: Bearer KEY"
            raise Refusal(401, why, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return fitting[0]


@dataclass
class Account:
    """What was spent with one key today, of how much, and what is set aside for samples under way."""

    limit: int | None
    tokens: int = 0
    held: int = 0
    requests: int = 0

    @property
    def left(self) -> int | None:
        """Tokens that may still be asked for; None for any number."""
        return None if self.limit is None else self.limit - self.tokens - self.held


@dataclass
class Ledger:
    """The day's accounts, by the key's name. In memory: a restart begins a new day."""

    clock: Callable[[], float] = time.time
    day: int = -1
    accounts: dict[str, Account] = field(default_factory=dict)

    def spending(self, key: Key | None) -> Allowance:
        """What one request may spend. Raises `Refusal` (429) if nothing is left."""
        if key is None:
            return Allowance(None)
        account = self._account(key)
        used_up = account.limit is not None and account.tokens >= account.limit
        if used_up or account.requests >= (key.requests_per_day or float("inf")):
            rest = 86_400 - self.clock() % 86_400
            raise busy(f"the day's allowance of the key {key.name!r} is used up", rest, "insufficient_quota")
        left = account.left
        if left is not None and left <= 0:
            raise busy(f"the rest of the day's allowance of the key {key.name!r} is set aside for requests under way", 1.0)
        account.requests += 1
        return Allowance(left, account)

    def _account(self, key: Key) -> Account:
        today = int(self.clock() // 86_400)
        if today != self.day:
            self.day, self.accounts = today, {}
        return self.accounts.setdefault(key.name, Account(key.tokens_per_day))


@dataclass
class Allowance:
    """What one request may spend, for the length of an `async with` block. tokens: the bound when it began, None for none.

    Tokens are set aside when samples are asked for and counted when they have come, so that requests at once cannot overspend a key
    and a search holds no more of it than it needs. What was asked for and is not known to have come is counted as set aside: who goes
    away in the middle has still spent it.
    """

    tokens: int | None
    account: Account | None = None
    held: int = 0
    spent: int = 0

    async def __aenter__(self) -> Allowance:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.count(self.held, self.held)

    def take(self, most: int) -> int:
        """Set aside up to `most` tokens and say how many. Raises `BudgetExhausted` if nothing is left."""
        left = self.account.left if self.account else None
        if left is not None and left <= 0:
            raise BudgetExhausted("the day's allowance of this key is used up, or set aside")
        held = most if left is None else min(left, most)
        self.held += held
        if self.account is not None:
            self.account.held += held
        return held

    def count(self, held: int, spent: int) -> None:
        """What was set aside has become this."""
        self.held, self.spent = self.held - held, self.spent + spent
        if self.account is not None:
            self.account.held, self.account.tokens = self.account.held - held, self.account.tokens + spent


class Gate:
    """At most `live` requests are answered at once, and at most `queue` wait; whoever comes then is told when to come back."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.live = 0
        self.held = 0  # bytes of all bodies that are being read, or answered
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._usual = 1.0  # seconds of an answer, a moving mean

    def place(self) -> Held:
        """A place, in order of arrival, for the length of an `async with` block.

        Entering raises `Refusal` (429) if there is no room to wait, or the wait was too long.
        """
        return Held(self)

    def check(self) -> None:
        """Raise `Refusal` (429) if there is no room to wait: asked before a body is read, so that to refuse costs next to nothing."""
        if self.live >= self.limits.live and len(self.waiting) >= self.limits.queue:
            what = f"{self.live} requests are being answered and {len(self.waiting)} wait; there is no room for more"
            raise busy(what, self._wait())

    def hold(self, size: int) -> int:
        """Make room for a body of so many bytes. Raises `Refusal` (429) if all bodies at once were more than `BODIES` of the largest."""
        if self.held + size > BODIES * self.limits.body:
            raise busy(f"requests of {self.held} bytes are being read or answered; there is no room for more", self._wait())
        self.held += size
        return size

    async def enter(self) -> None:
        """Take a place. Raises `Refusal` (429)."""
        self.check()
        if self.live < self.limits.live:
            self.live += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        try:
            await asyncio.wait_for(asyncio.shield(place), self.limits.patience)
        except (asyncio.CancelledError, TimeoutError) as error:
            if place.done():
                self._leave()
            else:
                place.cancel()
                self.waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise busy(f"no place became free within {self.limits.patience:g} s", self._wait()) from None
            raise

    def leave(self, seconds: float) -> None:
        """Give the place back, after so long an answer."""
        self._usual += 0.1 * (seconds - self._usual)
        self._leave()

    def _leave(self) -> None:
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(None)  # the place goes from hand to hand
                return
        self.live -= 1

    def _wait(self) -> float:
        return min(60.0, self._usual * (1 + len(self.waiting)) / self.limits.live)


class Held:
    """A place at the gate for the length of an `async with` block."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._started = gate, 0.0

    async def __aenter__(self) -> None:
        await self._gate.enter()
        self._started = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self._gate.leave(time.monotonic() - self._started)


def deadline(headers: Mapping[str, str], longest: float) -> float:
    """Seconds that `Ponder-Deadline` gives, at most `longest`. Raises `Refusal` (400)."""
    text = headers.get("ponder-deadline")
    if text is None:
        return longest
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SOONEST <= seconds < float("inf"):
        raise Refusal(
            400, f"Ponder-Deadline must be a number of seconds, at least {SOONEST}", code="invalid_value", param="Ponder-Deadline"
        )
    return min(seconds, longest)
