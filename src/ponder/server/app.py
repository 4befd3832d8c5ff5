"""The routes, and what stands around each: the door, the gate, errors in OpenAI's form, an end when the client goes away.

Plain ASGI: a request goes from the server to its handler in three calls, as most of what `ponder serve` passes on is passed through.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, cast

from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.errors import PonderError
from ponder.server import schema
from ponder.server.asked import Asked, of_chat, of_text
from ponder.server.config import Config, Key
from ponder.server.connection import Connection
from ponder.server.engine import Engine
from ponder.server.events import Responding
from ponder.server.guard import Door, Fields, Gate, Ledger, deadline
from ponder.server.metrics import Metrics
from ponder.server.openapi import document
from ponder.server.reading import read
from ponder.server.refusal import Refusal, refusal_of
from ponder.server.reply import Reply
from ponder.server.responses import Respond, of_response, renamed
from ponder.types import JSON

Handler: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Header: TypeAlias = tuple[bytes, bytes]
Route: TypeAlias = tuple[str, str, Handler]
"""Its name in metrics, its method, what answers."""

_MODEL = "/v1/models/"  # and a name, which may hold slashes
_GONE = 499  # until a reply begins, and for good where the client went away before
_BODY_WITHIN = 60.0  # seconds for a body to come
_KIND = (b"content-type", b"application/json")
_STREAM: list[Header] = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class GoneError(Exception):
    """The client went away."""


@dataclass
class Server:
    """What all requests share."""

    config: Config
    engine: Engine
    door: Door
    log: Callable[[str], None] = lambda line: print(f"ponder: {line}", file=sys.stderr)
    ledger: Ledger = field(default_factory=Ledger)
    draining: bool = False

    def __post_init__(self) -> None:
        self.gate = Gate(self.config.limits)
        self.metrics = Metrics(self.gate)
        self.started = int(time.time())

        self._routes: dict[str, Route] = {
            "/v1/chat/completions": ("chat", "POST", self._chat),
            "/v1/completions": ("text", "POST", self._text),
            "/v1/responses": ("responses", "POST", self._responses),
            "/v1/models": ("models", "GET", self._models),
            _MODEL: ("model", "GET", self._model),
            "/health": ("health", "GET", self._health),
            "/metrics": ("metrics", "GET", self._metrics),
            "/openapi.json": ("openapi", "GET", self._openapi),
        }
        self._inner: ASGIApp = self._routed
        if origins := self.config.origins:
            headers = ["authorization", "content-type", "ponder-deadline"]
            self._inner = CORSMiddleware(
                self._routed, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application: checks who comes in before anything is read, names every reply by an id, counts it."""
        if scope["type"] != "http":
            return
        started = time.monotonic()
        scope["ponder.route"], scope["ponder.status"] = "none", _GONE

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["ponder.status"] = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", b"req_" + os.urandom(16).hex().encode()),
                    (b"openai-processing-ms", b"%d" % round((time.monotonic() - started) * 1000)),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        headers = scope["ponder.headers"] = Fields(scope["headers"])
        try:
            self.door.check(headers)
            open_to_all = scope["path"] == "/health" or scope["method"] == "OPTIONS"
            scope["ponder.key"] = None if open_to_all else self.door.key(headers)
            await self._inner(scope, receive, named)
        except Refusal as refusal:
            await _refuse(named, refusal)
        except GoneError:
            scope["ponder.status"] = _GONE
        except asyncio.CancelledError:
            if not self.draining:
                raise
            if scope["ponder.status"] == _GONE:  # nothing was sent yet
                await _refuse(named, Refusal(503, "this server is being stopped", code="shutting_down"))
        finally:
            self.gate.held -= scope.get("ponder.held", 0)
            self.metrics.request(scope["ponder.route"], scope["ponder.status"])

    async def _routed(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the path's handler answer; what goes wrong before a reply has begun is said in OpenAI's form."""
        try:
            await _handler(self._routes, scope)(scope, receive, send)
        except GoneError:
            raise
        except Refusal as refusal:
            await _refuse(send, refusal)
        except PonderError as error:
            self.log(f"{type(error).__name__}: {error}")
            await _refuse(send, refusal_of(error))
        except Exception as error:
            self.log(f"a fault of this server: {type(error).__name__}: {error}")
            if scope["ponder.status"] == _GONE:
                await _refuse(send, refusal_of(PonderError()))
            raise  # the ASGI server shows where it was

    async def _chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = read(await self._body(scope, receive), schema.Chat)
        await self._answer(scope, receive, send, of_chat(body, self.engine.models, self.config), body, partial(Reply, chat=True))

    async def _text(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = read(await self._body(scope, receive), schema.Completion)
        await self._answer(scope, receive, send, of_text(body, self.engine.models, self.config), body, partial(Reply, chat=False))

    async def _responses(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = read(await self._body(scope, receive), Respond)
        try:
            asked = of_response(body, self.engine.models, self.config)
            await self._answer(scope, receive, send, asked, body, partial(Responding, body))
        except Refusal as refusal:
            raise renamed(refusal) from None

    @property
    def _unrecorded(self) -> bool:
        """Whether an answer would be paid for and lost: a full disk, a folder that is gone."""
        return self.engine.recorder is not None and self.engine.recorder.journal.failed is not None

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, if there is room for one more request."""
        if self.draining:
            raise Refusal(503, "this server is being stopped", code="shutting_down", headers={"Retry-After": "5"})
        if self._unrecorded:
            raise Refusal(503, "what is answered here is recorded, and nothing can be recorded now", code="recording_failed")
        self.gate.check()
        headers, most = scope["ponder.headers"], self.config.limits.body
        length = headers.get("content-length", "")
        scope["ponder.held"] = self.gate.hold(min(int(length), most) if length.isdecimal() else most)
        whole = scope["state"]["connection"].whole
        body = await read_body(headers, receive, most, within=None if whole else _BODY_WITHIN)
        self.gate.held += len(body) - scope["ponder.held"]
        scope["ponder.held"] = len(body)
        return body

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, asked: Asked, body: schema.Streams, make: Callable[..., Reply]
    ) -> None:
        """Send the reply, whole or as the stream that it is; its place and its allowance are held until its end."""
        ends = time.monotonic() + deadline(scope["ponder.headers"], self.config.limits.seconds)
        key = cast("Key | None", scope["ponder.key"])
        async with (
            WhileConnected(scope["state"]["connection"]),
            self.gate.place(),
            self.ledger.spending(key) as allowance,
        ):
            reply = make(self.engine, self.metrics, asked.within(tokens=allowance.tokens), ends, allowance)
            if not body.stream:
                said = await reply.whole()
            else:
                await send({"type": "http.response.start", "status": 200, "headers": _STREAM})
                usage = bool(body.stream_options and body.stream_options.include_usage)
                last = await reply.stream(partial(_send_data, send), usage=usage)
        if body.stream:
            await send({"type": "http.response.body", "body": last, "more_body": False})
        else:
            await _send_json(send, said)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_json(send, {"object": "list", "data": [self._described(name) for name in self.engine.models.names]})

    async def _model(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(_MODEL)
        if name not in self.engine.models.names:
            raise Refusal(404, f"there is no model {name[:100]!r}", code="model_not_found", param="model")
        await _send_json(send, self._described(name))

    def _described(self, name: str) -> dict[str, JSON]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "ponder"}

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = "draining" if self.draining else "recording failed" if self._unrecorded else "ok"
        await _send_json(send, {"status": status}, 200 if status == "ok" else 503)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send(send, 200, self.metrics.text(), [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")])

    async def _openapi(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _send_json(send, document(self.engine.models, self.config))


class WhileConnected:
    """Run the block until it ends or the client goes away, which cancels it and raises `GoneError`. For after the body has come."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._gone = connection, False

    async def __aenter__(self) -> None:
        """Begin to listen for the end of the connection."""
        self._me = cast("asyncio.Task[object]", asyncio.current_task())
        self._connection.watch(self._leave)

    def _leave(self) -> None:
        self._gone = True
        self._me.cancel()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Listen no more. Raises `GoneError`."""
        self._connection.watch(None)
        if kind is asyncio.CancelledError and self._gone and self._me.uncancel() == 0:
            raise GoneError from None


async def read_body(headers: Mapping[str, str], receive: Receive, most: int, *, within: float | None) -> bytes:
    """The body, once its length and its kind are known to be right. within: seconds, None where it is there already.

    Raises `Refusal` (408, 413, 415), `GoneError`.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON: Content-Type: application/json", code="unsupported_media_type")
    if headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "the body must not be compressed", code="unsupported_media_type")
    said = headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        raise _too_large(most)
    if within is None:
        return await _all_of(receive, most)
    try:
        async with asyncio.timeout(within):
            return await _all_of(receive, most)
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {within:g} s", code="body_timeout") from None


async def _all_of(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most} bytes", code="body_too_large")


def _handler(routes: Mapping[str, Route], scope: Scope) -> Handler:
    """What answers a path. Raises `Refusal` (404, 405)."""
    path, method = scope["path"], scope["method"]
    found = routes.get(path) or (routes[_MODEL] if path.startswith(_MODEL) else None)
    if found is None:
        raise Refusal(404, f"{method} {path[:100]!r}: there is nothing here", code="not_found")
    scope["ponder.route"], takes, handler = found
    if method != takes and (method, takes) != ("HEAD", "GET"):
        headers = {"Allow": "GET, HEAD" if takes == "GET" else takes}
        raise Refusal(405, f"{method} {path[:100]!r}: there is no such method here", code="not_found", headers=headers)
    return handler


async def _send_data(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})


async def _send(send: Send, status: int, body: bytes, headers: Iterable[Header]) -> None:
    headers = [(b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_json(send: Send, body: Mapping[str, JSON], status: int = 200, headers: Iterable[Header] = ()) -> None:
    await _send(send, status, to_json(body), [_KIND, *headers])


async def _refuse(send: Send, refusal: Refusal) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in refusal.headers.items()]
    await _send_json(send, refusal.body(), refusal.status, headers)
