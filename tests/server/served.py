"""A served configuration in a thread of this process, for tests: its own event loop, a real port."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from ponder.server.app import Server
from ponder.server.config import Config
from ponder.server.engine import Engine
from ponder.server.guard import Door
from ponder.server.serving import Listener, listen


@dataclass(frozen=True)
class Got:
    """A response, read whole."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def error(self):
        return self.json["error"]

    @property
    def events(self):
        """The data of the events of a stream; the last is "[DONE]"."""
        lines = [line[6:] for line in self.text.split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Served:
    """Use as a context manager; `server` is what listens, `lines` what it logged."""

    def __init__(self, config: Config, recorder=None) -> None:
        self.config, self.recorder = config.check(), recorder
        self.lines: list[str] = []
        self._ready, self._failure = threading.Event(), []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(30)
        if self._failure:
            raise self._failure[0]
        return self

    def __exit__(self, *_) -> None:
        self.listener.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def call(self, method: str, path: str, body=None, headers=None) -> Got:
        """One request; a body that is no bytes is sent as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        given = {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, data, {key: value for key, value in given.items() if value is not None})
            response = connection.getresponse()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Got(response.status, found, response.read().decode())
        finally:
            connection.close()

    def send(self, data: bytes, headers=None) -> Got:
        """Bytes as they are, with HOST replaced and headers put after it; what comes until the other side closes."""
        host, _, rest = data.replace(b"HOST", urlsplit(self.url).netloc.encode()).partition(b"\r\n")
        more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            with suppress(ConnectionError):  # refused before all of it was sent
                connection.sendall(host + b"\r\n" + more.encode() + rest)
            response = http.client.HTTPResponse(connection)
            response.begin()
            found = {key.lower(): value for key, value in response.getheaders()}
            return Got(response.status, found, response.read().decode())

    def chat(self, text: str = "ECHO: hello", model: str = "fake", **more) -> Got:
        headers = more.pop("headers", None)
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return self.call("POST", "/v1/chat/completions", body, headers)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure.append(error)
            self._ready.set()

    async def _serve(self) -> None:
        with listen("127.0.0.1", 0) as listening:
            self.port = listening.getsockname()[1]
            await self._serve_on(listening)

    async def _serve_on(self, listening) -> None:
        async with Engine(self.config, self.lines.append, self.recorder) as engine:
            self.server = Server(self.config, engine, Door(self.config, self.port), self.lines.append)
            self.listener = Listener(self.server)
            asyncio.get_running_loop().call_soon(self._ready.set)
            await self.listener.serve(sockets=[listening])


def until(holds, seconds=5.0):
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.005)


def opened(served, text="ECHO: " + "word " * 50, path="/v1/chat/completions", key=None, **more):
    """A request under way."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], **more}
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **(key or {})})
    return connection


def hang_up(connection):
    """Close the socket, whatever still holds it."""
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
