"""From a configuration to a listening server, and its end: no new request, the live ones finished, then out."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import uvicorn

from ponder.errors import SetupError
from ponder.server.app import Server
from ponder.server.config import Config
from ponder.server.connection import Connection
from ponder.server.engine import Engine
from ponder.server.guard import Door
from ponder.server.record import Recorder, redactor
from ponder.store import Journal


async def serve(config: Config, *, ready: Callable[[str, list[str]], None], log: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the signal's number.

    ready: told the address and the names of models once it listens. Requests that are live at the signal have `config.drain` seconds
    to end. A second signal does not wait for them. Raises `SetupError` if the port cannot be had, and what opening the policy raises.
    """
    listening = listen(config.host, config.port)
    caught: list[int] = []
    try:
        async with AsyncExitStack() as stack:
            recorder = None
            if config.record:
                recorder = Recorder(stack.enter_context(Journal(Path(config.record) / "study.db")), redactor(config.redact))
            engine = await stack.enter_async_context(Engine(config, log, recorder))
            port = listening.getsockname()[1]
            server = Server(config, engine, Door(config, port), log)
            listener = Listener(server)

            def stop(number: int) -> None:
                server.draining = True
                listener.force_exit = bool(caught)
                listener.should_exit = True
                caught.append(number)

            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, stop, number)
            host = f"[{config.host}]" if ":" in config.host else config.host
            _settle()
            ready(f"http://{host}:{port}/v1", engine.models.names)
            await listener.serve(sockets=[listening])
    finally:
        listening.close()
    return caught[0] if caught else 0


def _settle() -> None:
    """What is loaded by now stays: the collector of cycles need not look at it again, nor at every few requests.

    Failed requests leave cycles (errors and their frames), so it must not be put off for long: those of thousands of requests would lie about.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(2_000, 10, 10)


class Listener(uvicorn.Server):
    """uvicorn, with what a client may send bounded before any of it is ours. Signals are the caller's affair."""

    def __init__(self, server: Server) -> None:
        settings = uvicorn.Config(
            server,
            http=Connection,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(server.config.drain)),
            backlog=4096,
        )
        super().__init__(settings)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `SetupError` if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SetupError(
            f"serve: cannot listen on {host}:{port} ({error.strerror}); give another --port, or 0 for a free one"
        ) from None
    listening.listen(4096)
    listening.setblocking(False)
    return listening
