"""The wire: a lean HTTP/1.1 keep-alive server that plays the replies of a `Service` and notices who hangs up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys

from ponder.testing.endpoint.service import End, HttpRequest, Reply, Service, respond_json

LONGEST_BODY = 64 * 2**20  # bytes


class Connection(asyncio.Protocol):
    """One client connection: requests are answered one after the other, those sent ahead wait in the buffer."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._reply: Reply | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._sent = 0  # frames of the reply
        self._keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take bytes and answer what is whole."""
        self._buffer += data
        while self._reply is None and not self._transport.is_closing() and (request := self._next_request()) is not None:
            self._reply, self._sent = self._service.respond(request), 0
            if self._reply.delay > 0:
                self._timer = self._loop.call_later(self._reply.delay, self._play)
            else:
                self._play()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the request in service as aborted: its client is gone."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reply is not None:
            reply, self._reply = self._reply, None
            self._service.close(reply, aborted=True)

    def _play(self) -> None:
        self._timer = None
        reply = self._reply
        assert reply is not None
        if reply.gap == 0:
            self._transport.writelines(reply.frames)
        else:
            self._transport.write(reply.frames[self._sent])
            self._sent += 1
            if self._sent < len(reply.frames):
                self._timer = self._loop.call_later(reply.gap, self._play)
                return
        if reply.end is not End.HANG:
            self._finish(reply)

    def _finish(self, reply: Reply) -> None:
        self._reply = None
        self._service.close(reply, aborted=False)
        if reply.end is End.RESET:
            # With a linger time of 0 closing sends a reset instead of an orderly end (socket(7), SO_LINGER).
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        elif reply.end is End.CLOSE or not self._keep:
            self._transport.close()
        elif self._buffer:
            self._loop.call_soon(self.data_received, b"")

    def _next_request(self) -> HttpRequest | None:
        """Cut the next whole request out of the buffer; None while it is not there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].decode("latin-1")
        first, _, rest = head.partition("\r\n")
        headers = {}
        for line in rest.split("\r\n"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = headers.get("content-length", "0")
        parts = first.split(" ")
        if len(parts) != 3 or not size.isdigit() or int(size) > LONGEST_BODY or "transfer-encoding" in headers:
            self._buffer.clear()
            self._transport.write(respond_json(400, {"error": {"message": "send HTTP/1.1 with a Content-Length"}}))
            self._transport.close()
            return None
        whole = end + 4 + int(size)
        if len(self._buffer) < whole:
            if headers.get("expect", "").lower() == "100-continue" and len(self._buffer) == end + 4:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        body = bytes(self._buffer[end + 4 : whole])
        del self._buffer[:whole]
        self._keep = headers.get("connection", "").lower() != "close" and parts[2] == "HTTP/1.1"
        return HttpRequest(parts[0], parts[1], headers.get("authorization", ""), body)


async def serve(service: Service, host: str, port: int, *, until_stdin_ends: bool) -> None:
    """Serve until cancelled; print ``{"url": ..., "pid": ...}`` when ready.

    Args:
        service: What answers.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        until_stdin_ends: Stop when standard input ends, so that the server does not outlive a parent that was killed.
    """
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(service), host, port, backlog=4096)
    bound = server.sockets[0].getsockname()[1]
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    ready = {"url": f"http://{host}:{bound}/v1", "pid": os.getpid()}
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
    if until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 4096) else stopped.set())
    await stopped.wait()
    server.close()
