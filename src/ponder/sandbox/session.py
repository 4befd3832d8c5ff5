"""One program, seen from the trusted side: started, called, fed, timed, and killed.

Nothing that comes from the program is believed or interpreted: bytes are counted before they are read, lines must carry the nonce and the
number of the call, values are decoded by `ponder.sandbox.wire`.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from types import TracebackType
from typing import Self, cast

from ponder.errors import SetupError
from ponder.sandbox import wire
from ponder.sandbox.core import Call, Handle, Limits, Outcome, Reply, Status, Stopped, Value
from ponder.sandbox.groups import Group, fitting
from ponder.sandbox.mother import Mother
from ponder.sandbox.slots import slot

LONGEST_SOURCE = 2**20  # characters of a program
_GRACE = 0.2  # seconds between the end of a program's answers and its own
_BIRTH = 30.0  # seconds the machine may take to fork, however busy
_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]++|\\.)*+"|\[')
_LONGEST_MESSAGE = 500  # characters of an exception's name or message
_CONTAINERS = 40_000  # brackets of one answer, two to a container: a megabyte of empty ones would be a hundred here
_CHUNK = 65536


class Program:
    """A program in a process of its own (see `ponder.sandbox.core.Session`). stdin: None for one that is to be called."""

    def __init__(
        self,
        mother: Callable[[], Mother],
        source: str,
        limits: Limits,
        stdin: str | None = None,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self.limits = limits
        self._living, self._source, self._stdin = mother, source, stdin
        self._nonce = secrets.token_hex(16) if stdin is None else ""
        self._replies: list[Reply] = []
        self._buffer, self._seen = bytearray(), 0  # seen: so far there is no end of a line
        self._read = 0
        self._ended: Stopped | None = None
        self._streams: dict[int, bytearray] = {}
        self._fds: list[int] = []
        self._group: Group | None = None
        self._child: int | None = None
        self._channel: socket.socket = None  # type: ignore[assignment]  # from __enter__ on, where opening it may fail
        self._report: socket.socket = None  # type: ignore[assignment]  # as above
        self._seconds = 0.0
        self._turn = turn or slot()

    def __enter__(self) -> Self:
        self._turn.__enter__()
        try:
            self._channel, theirs = socket.socketpair()
            self._report, report = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, report:
                self._bear(theirs.fileno(), report.fileno())
            self._start = time.monotonic()
            self._deadline = self._start + self.limits.seconds
            self._begin()
        except BaseException as error:
            self.__exit__(None, None, None)
            if isinstance(error, OSError):
                raise SetupError(
                    f"sandbox: no program could be started: {error}; this process or machine lacks something"
                ) from error
            raise
        return self

    def _bear(self, channel: int, report: int) -> None:
        """Have the process made; it is let in, into its control group first, by what `_begin` sends."""
        streams = self._open_streams()
        try:
            self._group = fitting(self.limits)
            self._mother = self._living()
            self._mother.bear(self.limits, [channel, report, *streams], grouped=self._group is not None)
        finally:
            for fd in streams:
                os.close(fd)
        self._child = self._born()
        if self._group:
            self._group.add(self._child)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._child, signal.SIGKILL)
            _ready([self._child], 5.0)  # readable once it, and all in its namespace, are dead
            os.close(self._child)
            self._child = None
        for fd in self._fds:
            os.close(fd)
        self._fds = []
        for end in (self._channel, self._report):
            if end is not None:
                end.close()
        if self._group:
            self._group.close()
            self._group = None
        self._turn.__exit__(None, None, None)

    def call(self, call: Call) -> Reply:
        """What the call gave. Raises `Stopped`."""
        [reply] = self.calls([call])
        return reply

    def calls(self, calls: Sequence[Call]) -> list[Reply]:
        """What the calls gave, one after the other; all are on their way before the first answer is read. Raises `Stopped`."""
        if self._ended:
            raise self._ended
        if not calls:
            return []
        lines = [_line(call) for call in calls]
        known = len(self._replies)
        try:
            self._send("\n".join(lines))
            for _ in calls:
                self._replies.append(self._receive(len(self._replies) + 1))
        except Stopped as stopped:
            self._ended = stopped
            self._seconds = time.monotonic() - self._start
            raise
        return self._replies[known:]

    def outcome(self) -> Outcome:
        """How it went so far; waits for the end of a program that has a standard input."""
        if self._stdin is not None and not self._ended:
            self._ended = self._wait()
            self._seconds = time.monotonic() - self._start
        status: Status = self._ended.status if self._ended else "ok"
        out, err = (self._text(fd) for fd in self._fds[:2]) if self._fds else ("", "")
        seconds = self._seconds or time.monotonic() - self._start
        return Outcome(status, tuple(self._replies), out, err, seconds, self._ended.detail if self._ended else "")

    def _begin(self) -> None:
        """Hand over the program; wait until a program that is to be called is loaded."""
        if len(self._source) > LONGEST_SOURCE:
            self._ended = Stopped("error", f"a source of {len(self._source):,} characters; at most {LONGEST_SOURCE:,}")
            return
        try:
            self._send(wire.dumps([self._nonce, self._source, "program.py"]))
            if self._stdin is None:
                loaded = self._receive(0)
                if loaded.error:
                    self._ended = Stopped("error", f"{loaded.error}: {loaded.message}" if loaded.message else loaded.error)
        except Stopped as stopped:
            self._ended = stopped
        self._seconds = time.monotonic() - self._start if self._ended else 0.0

    def _open_streams(self) -> list[int]:
        """The program's ends of its standard streams, if it has any; ours are kept."""
        if self._stdin is None:
            return []
        source = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        body = memoryview(self._stdin.encode("utf-8", "surrogateescape"))
        while body:
            body = body[os.write(source, body) :]
        os.lseek(source, 0, os.SEEK_SET)
        _seal(source)
        ends = [source]
        for _ in range(2):
            ours, theirs = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(ours, False)
            self._fds.append(ours)
            self._streams[ours] = bytearray()
            ends.append(theirs)
        return ends

    def _born(self) -> int:
        """The process descriptor that the keeper hands out."""
        self._report.settimeout(_BIRTH)
        try:
            message, fds, _, _ = socket.recv_fds(self._report, 4096, 1)
        except OSError:
            message, fds = b"", []
        if not fds:
            said = message.decode("utf-8", "replace").removeprefix("failed ")
            raise SetupError(
                f"sandbox {self._mother.blueprint.tier}: no program could be started: {said or 'the mother process did not answer'}"
            )
        return fds[0]

    def _send(self, line: str) -> None:
        """Write, and read what comes meanwhile: a program that answers while it is still being asked must not block both sides."""
        body = memoryview(line.encode("ascii") + b"\n")
        self._channel.setblocking(False)
        while body:
            if select.POLLIN & self._until(select.POLLIN | select.POLLOUT):
                self._absorb()
            with contextlib.suppress(BlockingIOError):
                try:
                    body = body[self._channel.send(body) :]
                except BrokenPipeError:
                    raise self._death() from None

    def _receive(self, number: int) -> Reply:
        prefix = f"{self._nonce} ".encode()
        while (end := self._buffer.find(b"\n", self._seen)) < 0:
            self._seen = len(self._buffer)
            self._until(select.POLLIN)
            self._absorb()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._seen = 0
        if not line.startswith(prefix):
            raise Stopped("garbled", "a line without the nonce on the answer channel")
        if line.count(b"[") > _CONTAINERS and _crowded(line):
            raise Stopped("output", f"an answer of more than {_CONTAINERS // 2:,} containers")
        return _reply(line[len(prefix) :], number)

    def _absorb(self) -> None:
        """Read one piece of answers."""
        try:
            piece = self._channel.recv(_CHUNK)
        except BlockingIOError:  # it was nothing after all
            return
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise self._death()
        self._read += len(piece)
        if self._read > self.limits.output:
            raise Stopped("output", f"answers of more than {self.limits.output:,} bytes")
        self._buffer += piece

    def _until(self, events: int) -> int:
        """Wait for the answer channel; what happened of these events. Raises `Stopped` when time is up."""
        left = self._deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._channel, events)
        happened = poll.poll(math.ceil(left * 1000)) if left > 0 else []
        if not happened:
            raise self._late()
        return happened[0][1]

    def _late(self) -> Stopped:
        return Stopped("timeout", f"still running after {self.limits.seconds:g} s")

    def _death(self) -> Stopped:
        """How it ended, as the mother tells it. Raises `MotherDied` if she cannot."""
        if not _ready([cast("int", self._child)], _GRACE):
            return Stopped("died", "it closed the answer channel")
        self._report.settimeout(_BIRTH)
        try:
            said = self._report.recv(4096).decode("utf-8", "replace")
        except OSError:
            said = ""
        if said.startswith("failed "):
            raise SetupError(
                f"sandbox {self._mother.blueprint.tier}: its walls could not be built: {said.removeprefix('failed ')}"
            )
        word, _, rest = said.partition(" ")
        code, _, reason = rest.partition(" ")
        if word != "ended" or not code.removeprefix("-").isdigit():
            raise self._mother.died()
        if reason or (self._group and self._group.starved()):
            return Stopped("died", f"more than {self.limits.memory:,} bytes of memory")
        return _stopped(int(code), whole=self._stdin is not None)

    def _wait(self) -> Stopped | None:
        """Read both streams to their ends; None for a program that ended well."""
        waiting = set(self._streams)
        child = cast("int", self._child)
        try:
            while waiting:
                left = self._deadline - time.monotonic()
                ready = _ready([*waiting, child], max(0.0, left))
                if not ready:
                    raise self._late()
                for fd in [fd for fd in ready if fd in waiting] or list(waiting):  # after its death: what is left in the pipes
                    if not self._drain(fd):
                        waiting.discard(fd)
            if not _ready([child], max(0.0, self._deadline - time.monotonic())):
                raise self._late()
        except Stopped as stopped:
            return stopped
        ended = self._death()
        return None if ended.status == "ok" else ended

    def _drain(self, fd: int) -> bool:
        """Read one piece; whether there may be more."""
        try:
            piece = os.read(fd, _CHUNK)
        except BlockingIOError:
            return not _ready([cast("int", self._child)], 0.0)  # nobody is left to write
        kept = self._streams[fd]
        kept += piece
        if len(kept) > self.limits.output:
            del kept[self.limits.output :]
            raise Stopped("output", f"printed more than {self.limits.output:,} bytes")
        return bool(piece)

    def _text(self, fd: int) -> str:
        return self._streams[fd].decode("utf-8", "replace")


def _line(call: Call) -> str:
    def handle(value: object) -> object:
        if isinstance(value, Handle):
            return value.id
        raise TypeError(
            f"{call.function}: an argument of type {type(value).__name__} is no plain value; see ponder.sandbox.core.Value"
        )

    return wire.dumps([call.function, wire.encode(call.args, handle), wire.encode(dict(call.kwargs), handle)])


def _reply(line: bytes, number: int) -> Reply:
    try:
        match wire.loads(line.decode("ascii")):
            case [int(said), "ok"] if said == number == 0:
                return Reply()
            case [int(said), "value", coded] if said == number > 0:
                return Reply(cast("Value", wire.decode(cast("wire.Coded", coded), Handle)))
            case [int(said), "error", str(name), str(message)] if said == number and name:
                return Reply(error=_shown(name), message=_shown(message))
    except ValueError:
        pass
    raise Stopped("garbled", "a line that is no answer on the answer channel")


def _shown(text: str) -> str:
    """A program's words, short and such as any file or terminal takes."""
    return text[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode("utf-8")


def _crowded(line: bytes) -> bool:
    """Whether more brackets than an answer may have stand outside its texts."""
    brackets = (None for found in _TEXT_OR_BRACKET.finditer(line) if found[0] == b"[")
    return next(islice(brackets, _CONTAINERS, None), 0) is None


def _stopped(code: int, *, whole: bool) -> Stopped:
    if code < 0:
        with contextlib.suppress(ValueError):
            return Stopped("died", f"killed by {signal.Signals(-code).name}")
        return Stopped("died", f"killed by signal {-code}")
    if whole:
        return Stopped("error", f"exit code {code}") if code else Stopped("ok")
    return Stopped("died", f"it left with code {code}")


def _ready(readable: Sequence[int], seconds: float) -> list[int]:
    """Which descriptors are ready, or hung up, within this time; poll(2), as select(2) stops at descriptor 1,023."""
    poll = select.poll()
    for fd in readable:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(math.ceil(seconds * 1000))]


def _seal(fd: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE)
