"""An empty proxy: what any server in starlette has to pay that sends a body on with aiohttp and the reply back. Prints its address."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route


def main(upstream: str) -> None:
    sessions: list[aiohttp.ClientSession] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            sessions.append(session)
            yield

    async def chat(request: Request) -> Response:
        body = await request.body()
        sent = sessions[0].post(upstream + "/chat/completions", data=body, headers={"Content-Type": "application/json"})
        if b'"stream": true' not in body:
            async with sent as reply:
                return Response(await reply.read(), reply.status, media_type="application/json")

        async def pieces() -> AsyncIterator[bytes]:
            async with sent as reply:
                async for piece in reply.content.iter_any():
                    yield piece

        return StreamingResponse(pieces(), media_type="text/event-stream")

    app = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])], lifespan=lifespan)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
        config = uvicorn.Config(app, http="h11", loop="asyncio", log_level="error", access_log=False)  # as ponder runs it
        uvicorn.Server(config).run(sockets=[listening])


main(sys.argv[1])
