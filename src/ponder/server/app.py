"""The routes, and what stands around each: the door, the gate, errors in OpenAI's form, an end when the client goes away."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import cast

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ponder.errors import PonderError
from ponder.server import schema
from ponder.server.asked import Asked, of_chat, of_text
from ponder.server.config import Config, Key
from ponder.server.engine import Engine
from ponder.server.events import Responding
from ponder.server.guard import Door, Gate, Ledger, deadline
from ponder.server.metrics import Metrics
from ponder.server.openapi import document
from ponder.server.refusal import Refusal, refusal_of
from ponder.server.reply import Reply
from ponder.server.responses import Respond, of_response, renamed

_BODY_WITHIN = 60.0  # seconds for a body to come


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

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._text, methods=["POST"]),
            Route("/v1/responses", self._responses, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name:path}", self._model, methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._metrics, methods=["GET"]),
            Route("/openapi.json", self._openapi, methods=["GET"]),
        ]
        middleware = [Middleware(_Guarded, server=self)]
        if self.config.origins:
            headers = ["authorization", "content-type", "ponder-deadline"]
            origins = list(self.config.origins)
            middleware.append(
                Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=headers)
            )
        handlers = {HTTPException: _http_error, Refusal: _refused, PonderError: self._failed, Exception: self._broken}
        app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)  # type: ignore[arg-type]  # handlers of one error each
        app.router.redirect_slashes = False
        return app

    async def _chat(self, request: Request) -> Response:
        self._admit()
        body = schema.read(await read_body(request, self.config.limits.body), schema.Chat)
        return await self._answer(request, of_chat(body, self.engine.models, self.config), body, partial(Reply, chat=True))

    async def _text(self, request: Request) -> Response:
        self._admit()
        body = schema.read(await read_body(request, self.config.limits.body), schema.Completion)
        return await self._answer(request, of_text(body, self.engine.models, self.config), body, partial(Reply, chat=False))

    async def _responses(self, request: Request) -> Response:
        self._admit()
        body = schema.read(await read_body(request, self.config.limits.body), Respond)
        try:
            asked = of_response(body, self.engine.models, self.config)
            return await self._answer(request, asked, body, partial(Responding, body))
        except Refusal as refusal:
            raise renamed(refusal) from None

    def _admit(self) -> None:
        if self.draining:
            raise Refusal(503, "this server is being stopped", code="shutting_down", headers={"Retry-After": "5"})
        self.gate.check()

    async def _answer(self, request: Request, asked: Asked, body: schema.Streams, make: Callable[..., Reply]) -> Response:
        """The whole reply, or the stream that will be it; its place and its allowance are held until its end."""
        ends = time.monotonic() + deadline(request.headers, self.config.limits.seconds)
        key = cast("Key | None", request.scope["ponder.key"])
        async with while_connected(request.receive), AsyncExitStack() as stack:
            await stack.enter_async_context(self.gate.place())
            allowance = await stack.enter_async_context(self.ledger.spending(key, asked.most_tokens))
            reply = make(self.engine, self.metrics, asked.within(tokens=allowance.tokens), ends, allowance)
            if not body.stream:
                return JSONResponse(await reply.whole())
            usage = bool(body.stream_options and body.stream_options.include_usage)
            return _EventStream(reply, usage, stack.pop_all())
        raise GoneError  # the block above was left because nobody waits any more

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._described(name) for name in self.engine.models.names]})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.engine.models.names:
            raise Refusal(404, f"there is no model {name[:100]!r}", code="model_not_found", param="model")
        return JSONResponse(self._described(name))

    def _described(self, name: str) -> dict[str, object]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "ponder"}

    async def _health(self, request: Request) -> Response:
        status = "draining" if self.draining else "ok"
        return JSONResponse({"status": status}, status_code=503 if self.draining else 200)

    async def _metrics(self, request: Request) -> Response:
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _openapi(self, request: Request) -> Response:
        return JSONResponse(document(self.engine.models, self.config))

    async def _failed(self, request: Request, error: PonderError) -> Response:
        self.log(f"{type(error).__name__}: {error}")
        return _refused(request, refusal_of(error))

    async def _broken(self, request: Request, error: Exception) -> Response:
        self.log(f"a fault of this server: {type(error).__name__}: {error}")
        return _refused(request, refusal_of(PonderError()))


class _EventStream(Response):
    """A reply that is sent while it is being found. It holds its place among the live requests until its end."""

    def __init__(self, reply: Reply, usage: bool, held: AsyncExitStack) -> None:
        self.reply, self.usage, self.held = reply, usage, held
        self.status_code, self.background = 200, None
        self.init_headers(
            {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""

        async def send_data(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        async with self.held, while_connected(receive):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self.reply.stream(send_data, usage=self.usage)
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Guarded:
    """Checks who comes in before anything is read, names every reply by an id, counts it."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499  # until a reply begins

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = f"req_{uuid.uuid4().hex}"
                headers["openai-processing-ms"] = str(round((time.monotonic() - started) * 1000))
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        headers = Headers(scope=scope)
        try:
            self.server.door.check(headers)
            open_to_all = scope["path"] == "/health" or scope["method"] == "OPTIONS"
            scope["ponder.key"] = None if open_to_all else self.server.door.key(headers)
            await self.app(scope, receive, named)
        except Refusal as refusal:
            await _refused(Request(scope), refusal)(scope, receive, named)
        except (GoneError, ClientDisconnect):
            status = 499
        finally:
            route = getattr(scope.get("endpoint"), "__name__", "_none")[1:]
            self.server.metrics.request(route, status)


@asynccontextmanager
async def while_connected(receive: Receive) -> AsyncIterator[None]:
    """Run the block until it ends or the client goes away, which cancels it and raises `GoneError`. For after the body has come."""
    me, gone = asyncio.current_task(), False
    assert me is not None

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        me.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and me.uncancel() == 0:
            raise GoneError from None
        raise
    finally:
        watcher.cancel()


async def read_body(request: Request, most: int) -> bytes:
    """The body, once its length and its kind are known to be right. Raises `Refusal` (408, 413, 415)."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON: Content-Type: application/json", code="unsupported_media_type")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refusal(415, "the body must not be compressed", code="unsupported_media_type")
    too_large = Refusal(413, f"the body is larger than {most} bytes", code="body_too_large")
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"the body did not come within {_BODY_WITHIN:g} s", code="body_timeout") from None
    return bytes(body)


def _refused(request: Request, refusal: Refusal) -> Response:
    return JSONResponse(refusal.body(), status_code=refusal.status, headers=refusal.headers)


def _http_error(request: Request, error: HTTPException) -> Response:
    """What the router says: no such path, no such method."""
    path = request.scope["path"][:100]
    message = f"{request.method} {path!r}: " + (
        "there is no such method here" if error.status_code == 405 else "there is nothing here"
    )
    refusal = Refusal(error.status_code, message, code="not_found", headers=error.headers)
    return _refused(request, refusal)
