"""What a server can really do, found out by a dozen tiny requests and remembered.

Servers that call themselves OpenAI-compatible differ in ways that make numbers wrong in silence: one ignores `n`, one counts a
single choice of four, one repeats the partial answer it was to continue, one dies on a seed. Each is asked, none is trusted.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal, TypeAlias

from ponder.core import Capability
from ponder.errors import EndpointError
from ponder.policies.limited import GivenUpError, TransientError
from ponder.policies.wire import MalformedError, Reply, Route, read_reply
from ponder.types import JSON

VERSION = 2
"""Of what is asked; a remembered answer of another version is asked for again."""

Post: TypeAlias = Callable[[str, dict[str, JSON]], Awaitable[JSON]]
Continuation: TypeAlias = Literal["none", "on_request", "automatic", "completions"]

_CANARY = "Count from one to ten in words, separated by commas."
_PREFILL = "One, two, three, four,"


class RejectedError(EndpointError):
    """The server refused one request for what is in it (400, 413, 422); others may be fine."""


@dataclass(frozen=True, slots=True)
class Probed:
    """The answers.

    route: which one works. cap_field: how the token cap is called; caps: whether it is honoured. many: n in one request gives n
    choices that differ; usage: what it counts ("all", "one" choice of several, "none"). seeds: "fatal" ones are never sent again.
    logprobs: alternatives given for each token, -1 for none at all. stop_reason: whether a stop text is told from the end.
    continuation: how a partial answer is continued. canary: digest of a greedy reply, part of the fingerprint.
    """

    route: Route
    cap_field: str
    caps: bool
    many: bool
    usage: Literal["all", "one", "none"]
    seeds: Literal["work", "ignored", "equal", "fatal", "refused"]
    logprobs: int
    stop_reason: bool
    continuation: Continuation
    cached: bool
    canary: str
    version: int = VERSION

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What strategies may rely on. Not `seed`: numerics of a shared batch are not a function of the key."""
        found: set[Capability] = set()
        if self.continuation != "none":
            found.add("continue")
        for name, able in (
            ("logprobs", self.logprobs > 0),
            ("n", self.many),
            ("stop_reason", self.stop_reason),
            ("cached", self.cached),
        ):
            if able:
                found.add(name)  # type: ignore[arg-type]  # the four names above
        return frozenset(found)


async def probe(post: Post, model: str, route: Literal["auto", "chat", "completions"]) -> Probed:
    """Ask a server. `post(path, body)` sends one request and raises as the policy's sender does."""
    asker = _Asker(post, model)
    await asker.first(route)
    return await asker.rest()


class _Asker:
    def __init__(self, post: Post, model: str) -> None:
        self.post, self.model = post, model
        self.route: Route = "chat"
        self.cap_field = "max_tokens"
        self.canary: Reply | None = None

    async def first(self, route: str) -> None:
        """The greedy canary, by the first route and cap field that works."""
        routes: list[Route] = ["chat", "completions"] if route == "auto" else [route]  # type: ignore[list-item]
        error: EndpointError | None = None
        for self.route in routes:
            for self.cap_field in ("max_tokens", "max_completion_tokens"):
                try:
                    self.canary = await self.ask(_CANARY, 24, fields={"temperature": 0})
                    return
                except EndpointError as failure:
                    error = error or failure
                    if not isinstance(failure, RejectedError):
                        break
        raise error or EndpointError(f"{self.model}: no route works")

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
        except (RejectedError, GivenUpError, TransientError, MalformedError):
            return None

    async def rest(self) -> Probed:
        canary = self.canary
        if canary is None:
            raise EndpointError(f"{self.model}: was not asked first")
        logprobs, sample = await self.logprobs()
        many, usage = await self.many(logprobs)
        capped = await self.maybe(_CANARY, 2, fields={"temperature": 0, **self.with_logprobs(logprobs)})
        caps = capped is not None and (
            len(capped.choices[0].text) < 0.7 * max(1, len(canary.choices[0].text)) or capped.choices[0].finish == "length"
        )
        again = await self.maybe(_CANARY, 24, fields={"temperature": 0})
        stop_reason = any(choice.told for choice in (sample or canary).choices)
        continuation = await self.continuation()
        cached = (again.cached if again else 0) > 0 or canary.cached > 0
        digest = hashlib.blake2b(canary.choices[0].text.encode(), digest_size=8).hexdigest()
        known = Probed(
            self.route, self.cap_field, caps, many, usage, "refused", logprobs, stop_reason, continuation, cached, digest
        )
        return replace(known, seeds=await self.seeds(known))  # last, as it kills some servers

    def with_logprobs(self, count: int) -> dict[str, JSON]:
        if count < 0:
            return {}
        return {"logprobs": True, "top_logprobs": max(1, count)} if self.route == "chat" else {"logprobs": max(1, count)}

    async def logprobs(self) -> tuple[int, Reply | None]:
        for count in (20, 5, 1):
            reply = await self.maybe(_CANARY, 2, fields={"temperature": 1, **self.with_logprobs(count)})
            if reply is not None:
                tokens = reply.choices[0].tokens
                return (tokens.width if tokens is not None and len(tokens) else -1), reply
        return -1, None

    async def many(self, logprobs: int) -> tuple[bool, Literal["all", "one", "none"]]:
        reply = await self.maybe(_CANARY, 8, fields={"n": 3, "temperature": 1, **self.with_logprobs(min(logprobs, 1))})
        if reply is None or len(reply.choices) != 3:
            known = reply or self.canary
            return False, "none" if known is None or known.completion is None else "all"
        if reply.completion is None:
            return True, "none"
        counted = [len(choice.tokens) for choice in reply.choices if choice.tokens is not None]
        written = sum(counted) if len(counted) == 3 else sum(max(1, len(choice.text) // 12) for choice in reply.choices)
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

    async def seeds(self, known: Probed) -> Literal["work", "ignored", "equal", "fatal", "refused"]:
        replies = []
        for _ in range(2):
            try:
                replies.append(await self.ask(_CANARY, 12, fields={"seed": 7, "temperature": 1}))
            except RejectedError:
                return "refused"
            except (GivenUpError, TransientError, MalformedError):
                return "fatal"
        if replies[0].choices[0].text != replies[1].choices[0].text:
            return "ignored"
        if known.many:
            batch = await self.maybe(_CANARY, 12, fields={"seed": 7, "n": 3, "temperature": 1})
            if batch is not None and len({choice.text for choice in batch.choices}) == 1:
                return "equal"
        return "work"


def remembered(key: str) -> Probed | None:
    """What was found out earlier under this key, if it can still be read."""
    try:
        body = json.loads(_file(key).read_text("utf-8"))
        if body.get("version") == VERSION and set(body) == {field.name for field in fields(Probed)}:
            return Probed(**body)
    except (OSError, ValueError, TypeError, AttributeError):
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
