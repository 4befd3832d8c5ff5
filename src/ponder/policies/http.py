"""A lean HTTP/1.1 client for one endpoint: requests with a body, whole replies, connections kept alive.

aiohttp's client takes 0.2 ms of a core for each request, half of what a sample costs us (`make bench NAME=endpoint`); this takes a
fifth of that. It does what a sampling client needs and no more: no redirects, cookies, proxies, compression or streams.

A connection carries one request at a time. One whose request was given up (time, cancellation, bytes that are not HTTP) is cut, so
the server sees it end; one that the server closes while idle is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    import ssl

LONGEST_HEAD = 2**16  # bytes
IDLE = 60.0  # seconds that an unused connection is trusted


class ConnectError(Exception):
    """No connection could be made; the request was not sent."""


class BrokenError(Exception):
    """The connection ended before the reply did, or what came is not HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole reply. headers: names in lower case; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Client:
    """Connections to the server of one http:// or https:// address; to be used in one event loop.

    headers go with every request. timeout: seconds for one request, connecting included; connect: seconds for connecting alone.
    """

    def __init__(self, url: str, headers: Mapping[str, str], *, timeout: float, connect: float = 30.0) -> None:
        parts = urlsplit(url)
        self._tls = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._base = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        lines = {"Host": parts.netloc.encode("idna").decode(), "User-Agent": "ponder", "Accept-Encoding": "identity", **headers}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._timeout, self._connect = timeout, connect
        self._context: ssl.SSLContext | None = None
        self._idle: list[_Line] = []
        self._busy: set[_Line] = set()

    async def request(self, method: str, path: str, body: bytes = b"", *, within: float | None = None) -> Response:
        """The reply to one request, whatever its status; within: seconds, where not the client's.

        Raises `ConnectError`, `BrokenError`, `TimeoutError`.
        """
        loop = asyncio.get_running_loop()
        allowed = self._timeout if within is None else within
        line = self._free_line(loop.time())
        if line is None:
            before = loop.time()
            line = await self._connected(min(allowed, self._connect))
            allowed -= loop.time() - before
        head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._fields}Content-Length: {len(body)}\r\n\r\n"
        self._busy.add(line)
        timer = loop.call_later(allowed, line.cut, TimeoutError())
        try:
            response = await line.ask(head.encode("latin-1") + body)
        except BaseException:
            line.cut(BrokenError("given up"))
            raise
        finally:
            timer.cancel()
            self._busy.discard(line)
        if line.reusable:
            line.idle_since = loop.time()
            self._idle.append(line)
        return response

    def close(self) -> None:
        """Cut all connections; requests under way raise `BrokenError`."""
        for line in [*self._idle, *self._busy]:
            line.cut(BrokenError("closed here"))
        self._idle.clear()

    def _free_line(self, now: float) -> _Line | None:
        while self._idle:
            line = self._idle.pop()
            if line.reusable and now - line.idle_since < IDLE:
                return line
            line.cut(BrokenError("idle for too long"))
        return None

    async def _connected(self, within: float) -> _Line:
        if self._tls and self._context is None:
            import ssl

            self._context = ssl.create_default_context()
        try:
            async with asyncio.timeout(within):
                _, line = await asyncio.get_running_loop().create_connection(_Line, self._host, self._port, ssl=self._context)
        except TimeoutError:
            raise ConnectError(f"no connection within {within:g} s") from None
        except OSError as error:
            raise ConnectError(str(error)) from None
        return line


class _Line(asyncio.Protocol):
    """One connection: bytes in, one response at a time out."""

    def __init__(self) -> None:
        self.reusable = True
        self.idle_since = 0.0
        self._buffer = bytearray()
        self._reply: asyncio.Future[Response] | None = None
        self._start()

    def _start(self) -> None:
        self._status = 0  # until the head is read
        self._headers: dict[str, str] = {}
        self._length: int | None = None  # of the body, where it was announced
        self._body = bytearray()  # of the chunks so far

    def ask(self, data: bytes) -> asyncio.Future[Response]:
        """Send a request; the future brings its reply."""
        self._start()
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        return self._reply

    def cut(self, error: Exception) -> None:
        """End the connection; a request under way fails with the error."""
        self.reusable = False
        self._transport.abort()
        self._fail(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        if self._status and exc is None and self._length is None and not self._chunked:
            self._finish(bytes(self._buffer))  # a body without announced length ends with the connection
        self._fail(BrokenError("the connection ended before the reply"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._reply is None:
            self.cut(BrokenError("bytes that nobody asked for"))
            return
        try:
            if not self._status and not self._read_head():
                return
            if self._length is not None:
                if len(self._buffer) >= self._length:
                    body = bytes(self._buffer[: self._length])
                    del self._buffer[: self._length]
                    self._finish(body)
            elif self._chunked:
                self._read_chunks()
        except ValueError as error:
            self.cut(BrokenError(f"what came is not HTTP/1.1 ({error})"))

    @property
    def _chunked(self) -> bool:
        return "transfer-encoding" in self._headers

    def _read_head(self) -> bool:
        """Whether the head is whole by now; interim heads (status 1xx) are skipped."""
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            del self._buffer[: end + 4]
            protocol, _, rest = first.partition(" ")
            status = int(rest[:3])
            if not protocol.startswith("HTTP/1.") or not 100 <= status <= 999:
                raise ValueError(first[:40])
            if status < 200:
                continue
            for line in lines:
                name, _, value = line.partition(":")
                self._headers[name.lower()] = value.strip()
            self._status = status
            self._read_framing(protocol)
            return True
        if len(self._buffer) > LONGEST_HEAD:
            raise ValueError(f"a head longer than {LONGEST_HEAD} bytes")
        return False

    def _read_framing(self, protocol: str) -> None:
        coding, length = self._headers.get("transfer-encoding", "chunked"), self._headers.get("content-length")
        if coding.lower() != "chunked":
            raise ValueError(f"transfer-encoding {coding[:40]}")
        if self._status in (204, 304):
            self._length = 0
        elif length is not None and not self._chunked:
            if not (length.isascii() and length.isdigit()):
                raise ValueError(f"content-length {length[:40]}")
            self._length = int(length)
        announced = self._length is not None or self._chunked
        self.reusable = announced and protocol == "HTTP/1.1" and self._headers.get("connection", "").lower() != "close"

    def _read_chunks(self) -> None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:end]).partition(b";")[0], 16)
            if size < 0:
                raise ValueError("a chunk of negative size")
            if size == 0:
                over = self._buffer.find(b"\r\n\r\n", end)  # trailers, if any, come before it
                if over >= 0:
                    del self._buffer[: over + 4]
                    self._finish(bytes(self._body))
                return
            after = end + 2 + size
            if len(self._buffer) < after + 2:
                return
            self._body += self._buffer[end + 2 : after]
            del self._buffer[: after + 2]

    def _finish(self, body: bytes) -> None:
        reply, self._reply = self._reply, None
        if self._buffer or not self.reusable:
            self.reusable = False
            self._transport.close()
        if reply is not None and not reply.done():
            reply.set_result(Response(self._status, self._headers, body))

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)
