"""One connection to a client: HTTP that makes no sense gets the error object, and nobody holds a connection without using it.

uvicorn reads HTTP by h11, which refuses what is ambiguous (two lengths, a length beside chunks, two hosts). What it leaves open: a
request that never becomes whole, a body in pieces of a byte, each of which costs as much as a large one, and a client that reads
nothing of its answer. What is written in one turn of the event loop (the head of a reply and its body) is sent together.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ponder.server.refusal import Refusal

HEAD_WITHIN = 30.0
"""Seconds in which the head of a request must have come, from its first byte or from the beginning of the connection."""
TAKEN_WITHIN = 60.0
"""Seconds in which a client must take what is ready for it (48 kB or so), once nothing more can be held for it."""
LARGEST_HEAD = 64 * 1024
_FREE_PIECES, _PIECE = 4096, 16  # pieces of a body beyond these must hold so many bytes on average


class Connection(H11Protocol):
    """See the head of this file."""

    _watching: Callable[[], None] | None = None
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a head."""
        super().connection_made(cast("asyncio.Transport", _Together(transport, self.loop)))
        self.conn = _Bounded(h11.SERVER, LARGEST_HEAD)
        self.app_state = {**self.app_state, "connection": self}
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        for timer in (self._late, self._stuck):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        if self._watching is not None:
            self._watching()

    def watch(self, lost: Callable[[], None] | None) -> None:
        """Tell `lost` when the client goes away, at once if it has; None for nobody.

        For a request whose body has come. It finds its connection in its scope: `scope["state"]["connection"]`.
        """
        self._watching = lost
        if lost is not None:
            self.flow.resume_reading()  # who does not read does not see the end
            if self.cycle.disconnected:
                lost()

    @property
    def whole(self) -> bool:
        """Whether all of the request has come."""
        return not self.cycle.more_body

    def data_received(self, data: bytes) -> None:
        """Read on; a head that has begun must end in time."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        elif self._late is not None:
            self._late.cancel()
            self._late = None

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        self._stuck = self._stuck or self.loop.call_later(TAKEN_WITHIN, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 refused, in OpenAI's form, and close."""
        assert isinstance(self.conn, _Bounded)
        large = self.conn.fault_status == 431
        what = (
            f"the head of a request must be at most {LARGEST_HEAD} bytes"
            if large
            else f"this is no HTTP that is read here: {self.conn.fault[:200]}"
        )
        self._refuse(Refusal(431 if large else 400, what, code="head_too_large" if large else "invalid_http"))

    def _wait_for_head(self) -> None:
        self._late = self._late or self.loop.call_later(HEAD_WITHIN, self._no_head)

    def _no_head(self) -> None:
        self._refuse(Refusal(408, f"no whole request came within {HEAD_WITHIN:g} s", code="request_timeout"))

    def _refuse(self, refusal: Refusal) -> None:
        body = json.dumps(refusal.body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            ("x-request-id", f"req_{uuid.uuid4().hex}"),
        ]
        try:
            said = [h11.Response(status_code=refusal.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in said))
        except h11.LocalProtocolError:
            pass  # an answer is under way: there is no place for another
        self.transport.close()


class _Together:
    """A transport that sends what is written in one turn of the event loop in one piece. All else is the transport's own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it at the end of this turn."""
        if data:
            if not self._written:
                self._loop.call_soon(self._flush)
            self._written.append(data)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close, once all that was written is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._written:
            data, self._written = b"".join(self._written), []
            self._transport.write(data)


class _Bounded(h11.Connection):
    """Remembers what was wrong, and refuses a body in too many pieces."""

    fault, fault_status = "", 400
    _pieces = _bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11 has it. Raises `h11.RemoteProtocolError`."""
        try:
            event = super().next_event()
            if type(event) is h11.Data:
                self._pieces, self._bytes = self._pieces + 1, self._bytes + len(event.data)
                if self._pieces > _FREE_PIECES + self._bytes // _PIECE:
                    raise h11.RemoteProtocolError("the body comes in too many small pieces")
            elif type(event) is h11.Request:
                self._pieces = self._bytes = 0
                headers = list(event.headers)
                names = [name for name, _ in headers]
                if b"transfer-encoding" in names and b"content-length" in names:
                    raise h11.RemoteProtocolError("a length beside chunks")
                if event.http_version not in (b"1.0", b"1.1"):
                    raise h11.RemoteProtocolError(f"version {event.http_version.decode()}")
                if len(event.target) + sum(len(name) + len(value) for name, value in headers) > LARGEST_HEAD:
                    raise h11.RemoteProtocolError("too large", error_status_hint=431)
        except h11.RemoteProtocolError as error:
            self.fault, self.fault_status = str(error), error.error_status_hint
            raise
        return event
