"""Any OpenAI-compatible endpoint as a policy.

    async with openai("http://127.0.0.1:8000/v1") as policy:
        outcome = await solve(SelfConsistency(8), question, policy)

What the server can do is probed once (`ponder.policies.probe`). Children of one chain share a request where `n` truly works, and are asked
for one by one where it does not. The ledger counts each child by its own tokens; what was really sent and billed goes to `observer`.

Cases. A step ended by a stop text keeps that text and stays open; servers that do not tell a stop text from the end give an open step,
and the empty continuation that follows means the end. A cap reached is `length`; a filtered answer is `filtered`; a request that the
server rejects for its content, or whose tries are spent, gives children finished by `error`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ponder.core import Ask, Attempt, PolicyInfo, Pool, Price, Sampling, Until, cut, room
from ponder.errors import CapabilityError, RefusedError, UnreachableError, UsageError
from ponder.policies.limited import GivenUpError, Limiter, Limits, TransientError, retry_after
from ponder.policies.probe import Probed, RejectedError, probe, remember, remembered
from ponder.policies.template import ChatTemplate
from ponder.policies.wire import (
    Choice,
    MalformedError,
    Reply,
    completion_counts,
    messages_body,
    read_reply,
    sampling_body,
)
from ponder.types import JSON, Chain, Finish, Step, Usage

if TYPE_CHECKING:
    import aiohttp

RouteChoice: TypeAlias = Literal["auto", "chat", "completions"]
_SEED_BITS = 0x7FFFFFFF  # the widest that every server seen takes


def openai(
    url: str,
    model: str = "",
    key_env: str = "OPENAI_API_KEY",
    route: str = "auto",
    concurrency: int = 512,
    timeout: float = 600.0,
    many: bool = True,
    fresh: bool = False,
    key: str | None = None,
    price: Price | None = None,
    template: str = "",
) -> OpenAI:
    """A policy over an endpoint.

    url: up to and with /v1. model: left out, the only one served. key_env: environment variable of the key. route: auto, chat or
    completions. concurrency: most requests in flight. timeout: seconds for one try. many: False never asks for several choices at
    once. fresh: probe again. key: the key itself, for callers that made it. template: path of a chat template (Jinja), applied here
    and sent to the completions route, so that partial answers can be continued on servers whose chat route cannot. Raises `UsageError` for a url or route that makes no sense.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"openai: {url!r} is not an address; it must begin with http:// or https:// and end in /v1")
    if route not in ("auto", "chat", "completions"):
        raise UsageError(f"openai: route {route!r} must be auto, chat or completions")
    if concurrency < 1 or timeout <= 0:
        raise UsageError(f"openai: concurrency = {concurrency} and timeout = {timeout} must be above 0")
    if template and route == "chat":
        raise UsageError("openai: a template is applied on the completions route; leave route='chat' out")
    limits = Limits(concurrency=concurrency)
    chosen: RouteChoice = "completions" if template or route == "completions" else "chat" if route == "chat" else "auto"
    rendered = ChatTemplate(Path(template)) if template else None
    return OpenAI(url.rstrip("/"), model, key_env, chosen, limits, timeout, many, fresh, key, price, rendered)


class OpenAI:
    """See `openai`. Usable while entered; `probed` and `info` are known from then on."""

    def __init__(
        self,
        url: str,
        model: str,
        key_env: str,
        route: RouteChoice,
        limits: Limits,
        timeout: float,
        many: bool,
        fresh: bool,
        key: str | None,
        price: Price | None,
        template: ChatTemplate | None,
    ) -> None:
        self.url, self.model, self.route, self.timeout, self.price = url, model, route, timeout, price
        self.observer: Callable[[Attempt], None] = lambda _: None
        self.limiter = Limiter(url, limits)
        self.probed: Probed | None = None
        self._many, self._fresh, self._key_env, self._given_key = many, fresh, key_env, key
        self._template = template
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"openai({self.url!r}, model={self.model!r})"

    @property
    def info(self) -> PolicyInfo:
        """Name, fingerprint (model, what the server does, a greedy canary; not the address), capabilities."""
        if self.probed is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        shape = self._template.fingerprint if self._template else self.probed.route
        identity = f"{self.model}\x1f{shape}\x1f{self.probed.canary}"
        digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        return PolicyInfo(self.model, f"openai-{digest}", self.probed.capabilities, price=self.price)

    async def __aenter__(self) -> OpenAI:
        """Connect, find the model, probe. Raises `UnreachableError`, `RefusedError`."""
        import aiohttp

        key = self._given_key if self._given_key is not None else os.environ.get(self._key_env)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=self.timeout, sock_connect=30)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers, auto_decompress=True)
        try:
            await self._find_model()
            name = f"{self.url}\x1f{self.model}\x1f{self.route}"
            self.probed = None if self._fresh else remembered(name)
            if self.probed is None:
                self.probed = await probe(self._post_limited, self.model, self.route)
                remember(name, self.probed)
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections; what is in flight is cancelled."""
        if self._session is not None:
            await self._session.close()

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says. Raises `CapabilityError` for a partial answer that the server cannot continue."""
        fingerprint, probed = self.info.fingerprint, self._ready()
        jobs: list[tuple[Ask, tuple[int, ...], Pool]] = []
        for ask in asks:
            if ask.chain.text and probed.continuation == "none":
                raise CapabilityError(
                    f"{self!r}: this server does not continue a partial answer; use route='completions', or whole samples"
                )
            pool = ask.pool(fingerprint, until, sampling)
            together = self._many and probed.many and (probed.usage != "one" or sampling.logprobs > 0)
            groups = (
                [ask.indices[i : i + 128] for i in range(0, len(ask.indices), 128)] if together else [(i,) for i in ask.indices]
            )
            jobs += [(ask, tuple(group), pool) for group in groups]
        if len(jobs) == 1:
            lines = [await self._children(*jobs[0], until, sampling)]
        else:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._children(*job, until, sampling)) for job in jobs]
            lines = [task.result() for task in tasks]
        found = iter([child for line in lines for child in line])
        return [[next(found) for _ in ask.indices] for ask in asks]

    async def _children(self, ask: Ask, indices: tuple[int, ...], pool: Pool, until: Until, sampling: Sampling) -> list[Chain]:
        """The children of one request; where a reply holds fewer choices than asked for, the rest are asked for one by one."""
        probed = self._ready()
        left = room(ask.chain, sampling)
        cap = min(left, until.tokens or left)
        body = self._body(ask, until, sampling, cap)
        if len(indices) > 1:
            body["n"] = len(indices)
        if probed.seeds == "work" or (probed.seeds == "equal" and len(indices) == 1):
            body["seed"] = pool.seed(indices[0]) & _SEED_BITS
        started = time.monotonic()
        path = "/chat/completions" if probed.route == "chat" else "/completions"
        try:
            reply = await self._send(path, body, len(indices), cap, strip=ask.chain.text)
        except (GivenUpError, RejectedError) as error:
            spent = Usage(calls=1, seconds=time.monotonic() - started)
            self.observer(Attempt(self.url, "refused", Usage(calls=1), 0, str(error)))
            return [ask.chain.then(Step("", spent), "error") for _ in indices]
        seconds = time.monotonic() - started
        counts = completion_counts(reply, cap)
        children = [
            _child(ask.chain, choice, Usage(reply.prompt, reply.cached, count, 0, 1, seconds), until, cap, left)
            for choice, count in zip(reply.choices[: len(indices)], counts, strict=False)
        ]
        rest = indices[len(children) :]
        more = [await self._children(ask, (index,), pool, until, sampling) for index in rest] if children else []
        return children + [child for line in more for child in line]

    def _body(self, ask: Ask, until: Until, sampling: Sampling, cap: int) -> dict[str, JSON]:
        probed = self._ready()
        said = ask.chain.text
        body: dict[str, JSON] = {"model": self.model, probed.cap_field: cap, **sampling_body(sampling, probed.route)}
        if probed.usage == "none" and probed.logprobs > 0 and not sampling.logprobs:
            body |= sampling_body(replace(sampling, logprobs=1), probed.route)  # the only way to count tokens there
        if until.stop:
            body["stop"] = list(until.stop)
        if probed.route == "completions":
            if self._template:
                return {**body, "prompt": self._template.render(ask.chain.prompt) + said}
            return {**body, "prompt": "\n\n".join(message.text for message in ask.chain.prompt) + "\n" + said}
        body["messages"] = messages_body(ask.chain.prompt, said)
        if said and probed.continuation == "on_request":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    async def _send(self, path: str, body: dict[str, JSON], children: int, cap: int, *, strip: str) -> Reply:
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")

        async def attempt() -> Reply:
            try:
                reply = read_reply(await self._post(path, data), strip=strip)
            except MalformedError as error:
                raise TransientError("malformed", str(error)) from None
            billed = reply.completion if reply.completion is not None else cap * len(reply.choices)
            self.observer(Attempt(self.url, "ok", Usage(reply.prompt, reply.cached, billed, 0, 1), len(reply.choices)))
            return reply

        def failed(error: TransientError) -> None:
            charged = 0 if error.failure in ("rate_limited", "unreachable") else cap * children
            self.observer(Attempt(self.url, error.failure, Usage(completion=charged, calls=1), 0, error.detail))

        return await self.limiter.send(attempt, failed)

    async def _post_limited(self, path: str, body: dict[str, JSON]) -> JSON:
        """One request of the probe: few tries, so that what kills a server is not repeated."""
        data = json.dumps(body).encode()
        limiter = Limiter(self.url, replace(self.limiter.limits, tries=2, kills=1))
        return await limiter.send(lambda: self._post(path, data), lambda _: None)

    async def _post(self, path: str, data: bytes) -> JSON:
        """One try. Raises `TransientError` for what may pass, `RejectedError` and `RefusedError` for what will not."""
        import aiohttp

        session = self._session
        if session is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        try:
            async with session.post(self.url + path, data=data) as response:
                raw = await response.read()
                if response.status == 200:
                    return _json(raw)
                self._refuse(response.status, path, raw, retry_after(response.headers))
        except aiohttp.ClientConnectorError as error:
            raise TransientError("unreachable", f"cannot be connected to ({error.os_error or error})") from None
        except TimeoutError:
            raise TransientError("timeout", f"no answer within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("reset", f"the connection broke ({type(error).__name__})") from None
        raise AssertionError("unreachable")

    def _refuse(self, status: int, path: str, raw: bytes, wait: float | None) -> None:
        said = _message(raw)
        if status == 429:
            raise TransientError("rate_limited", f"429: {said}", wait)
        if status in (408, 409, 425) or status >= 500:
            raise TransientError("server_error", f"{status}: {said}", wait)
        if status in (401, 403):
            raise RefusedError(f"{self.url}: refused the key ({status}: {said}); put the right one into {self._key_env}")
        if status in (404, 405) and path != "/models":
            raise RefusedError(f"{self.url}{path}: {status}: {said}; check the model's name, and that the address ends in /v1")
        raise RejectedError(f"{self.url}{path}: {status}: {said}")

    async def _find_model(self) -> None:
        """The only model where none was named; a clear error where the named one is not served."""
        import aiohttp

        session = self._session
        if session is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        try:
            async with session.get(f"{self.url}/models") as response:
                raw, status = await response.read(), response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise UnreachableError(
                f"{self.url}: cannot be reached ({error}); start the server, or give the right address (it ends in /v1)"
            ) from None
        if status in (401, 403):
            self._refuse(status, "/models", raw, None)
        names = _names(raw) if status == 200 else []
        if not names:
            if not self.model:
                raise RefusedError(
                    f"{self.url}: lists no models ({status}); name one: openai('{self.url}', model='...'), and check that the address ends in /v1"
                )
            return
        if not self.model:
            if len(names) > 1:
                raise RefusedError(f"{self.url}: serves {len(names)} models; name one of them: {', '.join(names[:8])}")
            self.model = names[0]
        elif self.model not in names and len(names) > 0:
            close = get_close_matches(self.model, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(names[:8])}"
            raise RefusedError(f"{self.url}: there is no model {self.model!r}; {hint}")

    def _ready(self) -> Probed:
        if self.probed is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        return self.probed


def _child(chain: Chain, choice: Choice, usage: Usage, until: Until, cap: int, left: int) -> Chain:
    """One child: how it ended, and the stop text put back where the server took it away."""
    text, tokens = choice.text, choice.tokens
    finish: Finish | None = "stop"
    if choice.finish == "length":
        finish = "length" if cap == left else None
    elif choice.finish == "content_filter":
        finish = "filtered"
    elif until.stop and choice.finish == "stop" and (choice.stopped_by in until.stop or (not choice.told and text)):
        finish, ended = None, choice.stopped_by or until.stop[0]
        text = text if text.endswith(ended) else text + ended
    elif choice.finish not in ("stop", "eos", "tool_calls", "function_call"):
        finish = "error"
    step = Step(text, usage, tokens=tokens)
    if usage.completion > cap:  # a server that ignores the cap
        step, finish = cut(step, cap), "length" if cap == left else None
    return chain.then(step, finish)


def _json(raw: bytes) -> JSON:
    try:
        body: JSON = json.loads(raw)
    except ValueError:
        raise TransientError("malformed", f"a reply that is not JSON: {raw[:80]!r}") from None
    return body


def _message(raw: bytes) -> str:
    """The server's own words, trimmed to one line."""
    try:
        body = json.loads(raw)
        error = body.get("error", body) if isinstance(body, dict) else body
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    except ValueError:
        text = raw[:200].decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no reason given"


def _names(raw: bytes) -> list[str]:
    try:
        return [str(one["id"]) for one in json.loads(raw)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
