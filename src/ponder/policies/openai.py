"""Any OpenAI-compatible endpoint as a policy.

    async with openai("http://127.0.0.1:8000/v1") as policy:
        outcome = await solve(SelfConsistency(8), question, policy)

What the server can do is probed once (`ponder.policies.probe`). Children of one chain share a request where `n` truly works, and are asked
for one by one where it does not. The ledger counts each child by its own tokens; what was really sent and billed goes to `observer`.

Cases. A step ended by a stop text keeps that text and stays open; servers that do not tell a stop text from the end give an open step,
and the empty continuation that follows means the end; they are sent one stop text at most, as which of several it was is not told. A
cap reached is `length`; a filtered answer is `filtered`; a request that the server rejects for its content, or whose tries are spent,
gives children finished by `error`. Replies are read whole: a reply has come or it has not, and there is no half of one to be taken for
a sample. One that somebody listens to (`Passed.hear`) is streamed, put together, and then read in the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, TypeVar

from ponder.core import Ask, Attempt, PolicyInfo, Pool, Price, Sampling, Until, cut, room
from ponder.errors import CapabilityError, UsageError
from ponder.policies.connection import Connection, RejectedError, check_address, check_key
from ponder.policies.limited import GivenUpError, Limiter, Limits, TransientError
from ponder.policies.probe import Probed, probe, remember, remembered, unchanged
from ponder.policies.streamed import Assembled, Hear
from ponder.policies.template import ChatTemplate
from ponder.policies.wire import (
    Choice,
    MalformedError,
    aligned,
    completion_counts,
    messages_body,
    read_reply,
    sampling_body,
    write_json,
)
from ponder.types import JSON, Chain, Finish, Message, Step, Usage

RouteChoice: TypeAlias = Literal["auto", "chat", "completions"]
_SEED_BITS = 0x7FFFFFFF  # the widest that every server seen takes
_MOST_TOGETHER = 128  # choices in one request: the most that OpenAI takes

T = TypeVar("T")


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
    and sent to the completions route, so that partial answers can be continued on servers whose chat route cannot. Raises `UsageError`
    for an address, key or route that makes no sense.
    """
    address = check_address(url)
    if route not in ("auto", "chat", "completions"):
        raise UsageError(f"openai: route {route!r} must be auto, chat or completions")
    if concurrency < 1 or not timeout > 0:
        raise UsageError(f"openai: concurrency = {concurrency} and timeout = {timeout} must be above 0")
    if template and route == "chat":
        raise UsageError("openai: a template is applied on the completions route; leave route='chat' out")
    if key is not None and not isinstance(key, Secret):
        raise UsageError(
            "openai: a key in a spec would be stored with the study; put it into the environment and name it by key_env"
        )
    source = key_env if key is None else "`key`"
    secret = check_key(os.environ.get(key_env) if key is None else key, source)
    chosen: RouteChoice = "completions" if template or route == "completions" else "chat" if route == "chat" else "auto"
    return OpenAI(
        Connection(address, secret, source, timeout),
        model,
        chosen,
        Limiter(address, Limits(concurrency=concurrency)),
        many=many,
        fresh=fresh,
        price=price,
        template=ChatTemplate(Path(template)) if template else None,
    )


class Secret(str):
    """A key made by code that keeps it to itself; a spec string cannot write one."""

    __slots__ = ()


class Passed(NamedTuple):
    """A request that came from elsewhere, as it is to be sent on.

    prompt: the prompt that stands for it in chains. turns: its messages as they came (tools, names, pictures), or the text that the
    completions route goes on from. fields: what else goes into the body, such as tools. hear: told of each piece of a single sample as
    it comes; the reply is then streamed, and one that breaks off after its first piece is not tried again.
    """

    prompt: tuple[Message, ...]
    turns: tuple[JSON, ...] | str
    fields: Mapping[str, JSON]
    hear: Hear | None = None

    def body(self, said: str) -> dict[str, JSON]:
        """The prompt, and a partial answer after it."""
        if isinstance(self.turns, str):
            return {"prompt": self.turns + said}
        prefill: list[JSON] = [{"role": "assistant", "content": said}] if said else []
        return {"messages": [*self.turns, *prefill]}


class OpenAI:
    """See `openai`. Usable while entered; `probed` and `info` are known from then on. `observer` is told of every attempt."""

    def __init__(
        self,
        connection: Connection,
        model: str,
        route: RouteChoice,
        limiter: Limiter,
        *,
        many: bool,
        fresh: bool,
        price: Price | None,
        template: ChatTemplate | None,
    ) -> None:
        self.model, self.limiter = model, limiter
        self.observer: Callable[[Attempt], None] = lambda _: None
        self.probed: Probed | None = None
        self._connection, self._route, self._template = connection, route, template
        self._many, self._fresh, self._price = many, fresh, price
        self._info: PolicyInfo | None = None
        self._passed: Passed | None = None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"openai({self._connection.url!r}, model={self.model!r})"

    @property
    def info(self) -> PolicyInfo:
        """Name, fingerprint (model, what the server does, a greedy canary; not the address), capabilities."""
        if self._info is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        return self._info

    async def __aenter__(self) -> OpenAI:
        """Connect, find the model; probe, or see whether what was probed still holds. Raises `UnreachableError`, `RefusedError`."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._connection)
            self.model = await self._connection.find_model(self.model)
            url = self._connection.url
            name = "\x1f".join((url, self.model, self._route))
            known = None if self._fresh else remembered(name)
            if known is not None and not await unchanged(self._probe_by, url, self.model, known):
                known = None
            if known is None:
                known, sure = await probe(self._probe_by, url, self.model, self._route)
                if sure:
                    remember(name, known)
            self.probed = known
            shape = self._template.fingerprint if self._template else known.route
            identity = f"{self.model}\x1f{shape}\x1f{known.canary}"
            digest = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
            self._info = PolicyInfo(self.model, f"openai-{digest}", known.capabilities, price=self._price)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections; what is in flight is cancelled."""
        self.probed = self._info = None
        await self._stack.aclose()

    def passing(self, passed: Passed) -> OpenAI:
        """This open policy for one request that came from elsewhere: what it adds is part of the fingerprint. It has an `observer` of its own."""
        view, probed = object.__new__(OpenAI), self._ready()
        vars(view).update(vars(self), _passed=passed)
        if isinstance(passed.turns, str):
            view.probed = replace(probed, route="completions", cap_field="max_tokens", continuation="completions")
        plain = messages_body(passed.prompt)
        if passed.fields or list(passed.turns) != plain:
            added = json.dumps([passed.turns, dict(passed.fields)], sort_keys=True)
            digest = hashlib.blake2b(added.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
            view._info = replace(
                self.info, fingerprint=f"{self.info.fingerprint}-{digest}", capabilities=view._ready().capabilities
            )
        return view

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says. Raises `CapabilityError` for what the server cannot do, before anything is sent."""
        fingerprint, probed = self.info.fingerprint, self._ready()
        self._check(asks, until, sampling, probed)
        jobs: list[_Job] = []
        together = _MOST_TOGETHER if self._many and probed.together else 1
        for ask in asks:
            left = room(ask.chain, sampling)
            cap = min(left, until.tokens or left)
            head = write_json(self._body(ask, until, sampling, cap, probed))[:-1]
            pool = ask.pool(fingerprint, until, sampling) if probed.seeds in ("work", "equal") else None
            groups = (ask.indices[at : at + together] for at in range(0, len(ask.indices), together))
            jobs += [_Job(ask.chain, group, pool, head, until, cap, left) for group in groups]
        lines = (
            [await self._children(jobs[0], probed)] if len(jobs) == 1 else await all_of(self._children(j, probed) for j in jobs)
        )
        found = iter([child for line in lines for child in line])
        return [[next(found) for _ in ask.indices] for ask in asks]

    def _check(self, asks: Sequence[Ask], until: Until, sampling: Sampling, probed: Probed) -> None:
        for ask in asks:
            if ask.chain.finish is not None:
                ask.chain.then(Step(""))  # raises with the reason
        if probed.continuation == "none" and any(ask.chain.text for ask in asks):
            raise CapabilityError(
                f"{self!r}: this server does not continue a partial answer; use route='completions', or whole samples"
            )
        if len(until.stop) > 1 and not probed.stop_reason:
            raise CapabilityError(
                f"{self!r}: this server does not say which of {len(until.stop)} stop texts ended a step; use one stop text, or whole samples"
            )
        if sampling.top_k and not probed.extras:
            raise CapabilityError(
                f"{self!r}: this server takes no top_k, and top_k = {sampling.top_k}; use top_p, or leave it out"
            )
        if sampling.logprobs > max(0, probed.logprobs):
            raise CapabilityError(
                f"{self!r}: this server gives {max(0, probed.logprobs)} alternatives for each token, and {sampling.logprobs} are "
                "needed; ask for fewer, or use another engine"
            )

    def _body(self, ask: Ask, until: Until, sampling: Sampling, cap: int, probed: Probed) -> dict[str, JSON]:
        said = ask.chain.text
        if probed.logprobs > 0 and (probed.usage == "none" or not probed.caps):
            sampling = replace(sampling, logprobs=max(1, sampling.logprobs))  # to count tokens, and to cut where the cap is
        body: dict[str, JSON] = {"model": self.model, probed.cap_field: cap}
        body |= sampling_body(sampling, probed.route, extras=probed.extras)
        passed = self._passed if self._passed and ask.chain.prompt == self._passed.prompt else None
        body |= passed.fields if passed else {}
        if until.stop:
            body["stop"] = list(until.stop)
        if probed.route == "completions" and not (passed and isinstance(passed.turns, str)):
            prompt = ask.chain.prompt
            rendered = self._template.render(prompt) if self._template else "\n\n".join(turn.text for turn in prompt) + "\n"
            return {**body, "prompt": rendered + said}
        body |= passed.body(said) if passed else {"messages": messages_body(ask.chain.prompt, said)}
        if probed.route == "completions":
            return body
        if said and probed.continuation == "on_request":
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return body

    async def _children(self, job: _Job, probed: Probed) -> list[Chain]:
        """The children of one request; where a reply holds fewer choices than asked for, the rest are asked for one by one."""
        wanted = len(job.indices)
        more = f', "n": {wanted}' if wanted > 1 else ""
        if job.pool is not None and (probed.seeds == "work" or wanted == 1):
            more += f', "seed": {job.pool.seed(job.indices[0]) & _SEED_BITS}'
        if self._hears(job):
            more += ', "stream": true, "stream_options": {"include_usage": true}'
        data = job.head + more.encode() + b"}"
        started = time.monotonic()
        try:
            children = await self.limiter.send(
                lambda: self._attempt(job, data, probed, started),
                lambda error, fate: self._failed(job, error, fate),
            )
        except (GivenUpError, RejectedError) as error:
            # What was given up may have been sampled, and nobody counted it: it is charged at its cap. What was refused was not.
            charged = job.cap if isinstance(error, GivenUpError) else 0
            spent = Usage(completion=charged, calls=1, seconds=time.monotonic() - started)
            return [job.chain.then(Step("", spent), "error") for _ in job.indices]
        if len(children) == wanted:
            return children
        rest = await all_of(self._children(job._replace(indices=(index,)), probed) for index in job.indices[len(children) :])
        return children + [child for line in rest for child in line]

    async def _attempt(self, job: _Job, data: bytes, probed: Probed, started: float) -> list[Chain]:
        strip = job.chain.text if probed.continuation == "automatic" else ""
        path = "/chat/completions" if probed.route == "chat" else "/completions"
        url = self._connection.url
        try:
            reply = read_reply(await self._body_of(job, path, data), strip=strip)
        except MalformedError as error:
            raise TransientError("malformed", str(error)) from None
        except RejectedError as error:
            self.observer(Attempt(url, "refused", Usage(calls=1), 0, str(error)))
            raise
        except asyncio.CancelledError:
            self.observer(Attempt(url, "cancelled", Usage(completion=job.most, calls=1), 0, _AT_CAP))
            raise
        counts = completion_counts(reply, job.cap, bool(job.until.stop))
        how = "" if reply.completion is not None else _AT_CAP if reply.choices[0].tokens is None else _BY_TOKENS
        taken = len(job.indices)
        self.observer(Attempt(url, "ok", Usage(reply.prompt, reply.cached, sum(counts), 0, 1), min(taken, len(counts)), how))
        seconds = time.monotonic() - started
        return [
            _child(job, choice, probed.stop_reason and choice.told, Usage(reply.prompt, reply.cached, count, 0, 1, seconds))
            for choice, count in zip(reply.choices[:taken], counts, strict=False)
        ]

    def _hears(self, job: _Job) -> Hear | None:
        return self._passed.hear if self._passed and len(job.indices) == 1 and job.chain.prompt == self._passed.prompt else None

    async def _body_of(self, job: _Job, path: str, data: bytes) -> JSON:
        hear = self._hears(job)
        if hear is None:
            return await self._connection.post(path, data)
        whole = Assembled(hear, chat=path == "/chat/completions")
        try:
            await self._connection.stream(path, data, whole.take)
            return whole.body()
        except (TransientError, MalformedError) as error:
            if not whole.begun:
                raise
            failed = error if isinstance(error, TransientError) else TransientError("malformed", str(error))
            self._failed(job, failed, "gave up, as its beginning had been passed on")
            raise GivenUpError(failed.detail) from None

    def _failed(self, job: _Job, error: TransientError, fate: str) -> None:
        sampled = error.failure not in ("rate_limited", "unreachable")  # what fails later may have been sampled, and billed
        detail = "; ".join(filter(None, (error.detail, fate, _AT_CAP if sampled else "")))
        usage = Usage(completion=job.most if sampled else 0, calls=1)
        self.observer(Attempt(self._connection.url, error.failure, usage, 0, detail))

    async def _probe_by(self, path: str, body: dict[str, JSON]) -> JSON:
        """One request of the probe: few tries, so that what kills a server is not repeated."""
        data = json.dumps(body).encode()
        limiter = replace(self.limiter, limits=replace(self.limiter.limits, tries=3, kills=1))
        return await limiter.send(lambda: self._connection.post(path, data), lambda error, fate: None)

    def _ready(self) -> Probed:
        if self.probed is None:
            raise UsageError(f"{self!r} is not open: use it inside `async with`")
        return self.probed


# Plumbing.

_AT_CAP = "not counted by the server: charged at the cap"
_BY_TOKENS = "not counted by the server: counted by its token probabilities"


class _Job(NamedTuple):
    """One request. pool: where seeds are sent; head: its body without the closing brace; cap: of this step; left: of the chain."""

    chain: Chain
    indices: tuple[int, ...]
    pool: Pool | None
    head: bytes
    until: Until
    cap: int
    left: int

    @property
    def most(self) -> int:
        """Tokens it may have cost, whatever became of it."""
        return self.cap * len(self.indices)


def _child(job: _Job, choice: Choice, told: bool, usage: Usage) -> Chain:
    """One child: how it ended, and the stop text put back where the server took it away. told: a stop text would have been named."""
    text, stops = choice.text, job.until.stop
    at_cap: Finish | None = "length" if job.cap == job.left else None
    finish: Finish | None = "stop"
    if choice.finish == "length":
        finish = at_cap
    elif choice.finish == "content_filter":
        finish = "filtered"
    elif stops and choice.finish == "stop" and (choice.stopped_by in stops or (not told and text)):
        finish, ended = None, choice.stopped_by or stops[0]
        text = text if text.endswith(ended) else text + ended
    elif choice.finish not in ("stop", "eos", "tool_calls", "function_call"):
        finish = "error"
    step = Step(text, usage, tokens=aligned(choice.tokens, text) if choice.tokens is not None else None)
    if usage.completion > job.cap:  # a server that ignores the cap
        step, finish = cut(step, job.cap), at_cap
    return job.chain.then(step, finish)


async def all_of(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """All results, in order. The first failure, or a cancellation, cancels the others, waits for their end, and is raised as it is."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
