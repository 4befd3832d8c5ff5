"""What a server can really do, found out by a dozen tiny requests, and remembered if no request failed for another reason.

Servers that call themselves OpenAI-compatible differ in ways that make numbers wrong in silence: one ignores `n`, one counts a
single choice of four, one repeats the partial answer it was to continue, one dies on a seed. Each is asked, none is trusted. When a
server is used again, one greedy canary tells whether the same weights are still behind the name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, TypeAlias

from ponder.core import Capability
from ponder.errors import EndpointError, UnreachableError
from ponder.policies.connection import RejectedError
from ponder.policies.limited import GivenUpError
from ponder.policies.wire import EXTRAS, MalformedError, Reply, Route, logprobs_body, read_reply
from ponder.types import JSON

VERSION = 4
"""Of what is asked; a remembered answer of another version is asked for again."""

Post: TypeAlias = Callable[[str, dict[str, JSON]], Awaitable[JSON]]
Continuation: TypeAlias = Literal["none", "on_request", "automatic", "completions"]

_CANARY = "Count from one to ten in words, separated by commas."
_VARIED = "Write twelve words at random, separated by commas."
_PREFILL = "One, two, banjo, four,"  # odd on purpose: no new turn begins so, and only a repeated one does
_STOP = " "


@dataclass(frozen=True, slots=True)
class Probed:
    """The answers.

    route: which one works. cap_field: how the token cap is called; caps: whether it is honoured. many: n in one request gives n
    choices that differ; usage: what it counts ("all", "one" choice of several, "none"). seeds: "fatal" ones are never sent again.
    logprobs: alternatives given for each token, -1 for none at all. extras: whether top_k, min_p and repetition_penalty are taken.
    stop_reason: whether the stop text that ended a reply is named. continuation: how a partial answer is continued. canary: digest of
    a greedy reply, part of the fingerprint.
    """

    route: Route
    cap_field: str
    caps: bool
    many: bool
    usage: Literal["all", "one", "none"]
    seeds: Literal["work", "ignored", "equal", "fatal", "refused"]
    logprobs: int
    extras: bool
    stop_reason: bool
    continuation: Continuation
    cached: bool
    canary: str
    version: int = VERSION

    @property
    def together(self) -> bool:
        """Whether children may share a request. Not where one choice of several is counted: no ledger could be true then."""
        return self.many and self.usage != "one"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What strategies may rely on. Not `seed`: numerics of a shared batch are not a function of the key."""
        able: dict[Capability, bool] = {
            "continue": self.continuation != "none",
            "logprobs": self.logprobs > 0,
            "n": self.together,
            "stop_reason": self.stop_reason,
            "cached": self.cached,
        }
        return frozenset(name for name, can in able.items() if can)


_SHAPE = {known.name: known.type if known.type in ("bool", "int") else "str" for known in fields(Probed)}


async def probe(post: Post, url: str, model: str, route: Literal["auto", "chat", "completions"]) -> tuple[Probed, bool]:
    """Ask a server, and say whether the answers are worth remembering: none was spoilt by a failure that may pass.

    `post(path, body)` sends one request and raises as the policy's sender does. Raises `EndpointError` if nothing is answered.
    """
    asker = _Asker(post, url, model)
    canary = await asker.first(["chat", "completions"] if route == "auto" else [route])
    return await asker.rest(canary), not asker.shaken


async def unchanged(post: Post, url: str, model: str, known: Probed) -> bool:
    """Whether the greedy canary is answered as it was: one request. Raises `UnreachableError` if it is not answered at all."""
    asker = _Asker(post, url, model, known.route, known.cap_field)
    try:
        return _digest(await asker.canary()) == known.canary
    except (GivenUpError, MalformedError) as error:
        raise asker.silent(error) from None
    except EndpointError:
        return False  # what was known is refused now: ask anew


@dataclass
class _Asker:
    post: Post
    url: str
    model: str
    route: Route = "chat"
    cap_field: str = "max_tokens"
    shaken: bool = False

    async def first(self, routes: Sequence[Route]) -> Reply:
        """The greedy canary, by the first route and cap field that works."""
        error: EndpointError | None = None
        for self.route in routes:
            for self.cap_field in ("max_tokens", "max_completion_tokens"):
                try:
                    return await self.canary()
                except (GivenUpError, MalformedError) as failure:
                    error = error or self.silent(failure)
                    break
                except UnreachableError:
                    raise
                except EndpointError as failure:
                    error = error or failure
                    if not isinstance(failure, RejectedError):
                        break
        raise error or EndpointError(f"{self.url}: no route works")

    def silent(self, failure: Exception) -> UnreachableError:
        return UnreachableError(f"{self.url}: no answer to a first small question ({failure}); look into the server's log")

    async def canary(self) -> Reply:
        return await self.ask(_CANARY, 24, fields={"temperature": 0})

    async def ask(self, text: str, cap: int, prefill: str = "", fields: dict[str, JSON] | None = None) -> Reply:
        body: dict[str, JSON] = {"model": self.model, self.cap_field: cap, **(fields or {})}
        if self.route == "chat":
            turns: list[JSON] = [{"role": "user", "content": text}]
            body["messages"] = [*turns, {"role": "assistant", "content": prefill}] if prefill else turns
            return read_reply(await self.post("/chat/completions", body))
        return read_reply(await self.post("/completions", {**body, "prompt": f"{text}\n{prefill}"}))

    async def maybe(self, text: str, cap: int, prefill: str = "", fields: dict[str, JSON] | None = None) -> Reply | None:
        """As `ask`; None where the server refuses or fails."""
        try:
            return await self.ask(text, cap, prefill, fields)
        except RejectedError:
            return None
        except (GivenUpError, MalformedError):
            self.shaken = True
            return None

    async def rest(self, canary: Reply) -> Probed:
        logprobs = await self.logprobs()
        told = logprobs_body(1, self.route) if logprobs > 0 else {}
        many, usage = await self.many(canary, told)
        capped = await self.maybe(_CANARY, 2, fields={"temperature": 0})
        shorter = capped is not None and len(capped.choices[0].text) < 0.7 * max(1, len(canary.choices[0].text))
        caps = capped is None or shorter or capped.choices[0].finish == "length"
        extras = await self.maybe(_CANARY, 2, fields={"temperature": 1, **EXTRAS}) is not None
        continuation = await self.continuation()
        stopped = await self.maybe(_CANARY, 24, fields={"temperature": 0, "stop": [_STOP]})
        again = await self.maybe(_CANARY, 24, fields={"temperature": 0})
        return Probed(
            route=self.route,
            cap_field=self.cap_field,
            caps=caps,
            many=many,
            usage=usage,
            logprobs=logprobs,
            extras=extras,
            stop_reason=stopped is not None and stopped.choices[0].stopped_by == _STOP,
            continuation=continuation,
            cached=canary.cached > 0 or (again is not None and again.cached > 0),
            canary=_digest(canary),
            seeds=await self.seeds(many),  # last, as it kills some servers
        )

    async def logprobs(self) -> int:
        for count in (20, 5, 1):
            reply = await self.maybe(_CANARY, 2, fields={"temperature": 1, **logprobs_body(count, self.route)})
            if reply is not None:
                tokens = reply.choices[0].tokens
                return min(tokens.width, count) if tokens is not None and len(tokens) else -1
        return -1

    async def many(self, canary: Reply, told: dict[str, JSON]) -> tuple[bool, Literal["all", "one", "none"]]:
        """Whether n choices come and differ, and what is counted of them."""
        counts = canary.completion is not None
        reply = await self.maybe(_VARIED, 16, fields={"n": 3, "temperature": 1, **told})
        if reply is None or len(reply.choices) != 3 or len({choice.text for choice in reply.choices}) == 1:
            return False, "all" if counts else "none"
        if reply.completion is None:
            return True, "none"
        shown = [len(choice.tokens) for choice in reply.choices if choice.tokens is not None]
        written = sum(shown) if len(shown) == 3 else sum(max(1, len(choice.text) // 12) for choice in reply.choices)
        # An engine may count a closing token that it does not show; one that counts a third has counted one choice.
        return True, "all" if reply.completion >= 0.7 * written else "one"

    async def continuation(self) -> Continuation:
        if self.route == "completions":
            return "completions"
        plain = await self.maybe(_CANARY, 8, _PREFILL, {"temperature": 0})
        if plain is not None and plain.choices[0].text.startswith(_PREFILL):
            return "automatic"
        headless: dict[str, JSON] = {"temperature": 0, "add_generation_prompt": False}
        ended = await self.maybe(_CANARY, 8, _PREFILL, headless)
        asked = await self.maybe(_CANARY, 8, _PREFILL, {**headless, "continue_final_message": True})
        if asked is not None and asked.choices[0].text.startswith(_PREFILL):
            return "automatic"
        # A continued turn has no end of its own, so its prompt is shorter than that of the same turn ended.
        return "on_request" if asked is not None and ended is not None and 0 < asked.prompt < ended.prompt else "none"

    async def seeds(self, many: bool) -> Literal["work", "ignored", "equal", "fatal", "refused"]:
        texts = []
        for _ in range(2):
            try:
                reply = await self.ask(_VARIED, 16, fields={"seed": 7, "temperature": 1})
            except RejectedError:
                return "refused"
            except (GivenUpError, UnreachableError, MalformedError):
                return "fatal"
            texts.append(reply.choices[0].text)
        if texts[0] != texts[1]:
            return "ignored"
        batch = await self.maybe(_VARIED, 16, fields={"seed": 7, "n": 3, "temperature": 1}) if many else None
        if batch is not None and len({choice.text for choice in batch.choices}) == 1:
            return "equal"
        return "work"


def _digest(canary: Reply) -> str:
    return hashlib.blake2b(canary.choices[0].text.encode(), digest_size=8).hexdigest()


def remembered(key: str) -> Probed | None:
    """What was found out earlier under this key, if it can still be read."""
    try:
        body = json.loads(_file(key).read_text("utf-8"))
        shape = {field.name: type(body[field.name]).__name__ for field in fields(Probed)}
        if body["version"] == VERSION and len(body) == len(shape) and shape == _SHAPE:
            return Probed(**body)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return None


def remember(key: str, found: Probed) -> None:
    """Keep it for the next time; a cache that cannot be written is no harm."""
    try:
        file = _file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(asdict(found)), "utf-8")
        part.replace(file)
    except OSError:
        return


def _file(key: str) -> Path:
    base = os.environ.get("PONDER_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ponder"
    )
    return Path(base) / "endpoints" / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.json"
