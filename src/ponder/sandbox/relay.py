"""A program against tests that cannot be turned into calls and plain comparisons: each runs in a process of its own.

    tests  --ask-->  here  --call-->  program
           <-plain-        <-plain--

The process of the tests holds nothing of the program's, so what it says of them is the verdict; the process of the program holds
neither tests nor expected values. Between them pass plain values only. Whoever wrote the tests decides: a test that a model wrote
is an opinion of the model's, and a hostile one can only spoil itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ponder.sandbox import tests_inside
from ponder.sandbox.core import Call, Handle, Limits, Sandbox, Session, Stopped, Value
from ponder.sandbox.mother import MotherDied
from ponder.sandbox.tests_inside import replaced


@dataclass(frozen=True, slots=True)
class Suite:
    """Source of tests. setup: what comes before them. names: what they call, and the program's function that it stands for."""

    source: str
    names: Mapping[str, str]
    setup: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Whether the tests ran to their end, and why not. calls: how often they called the program; tests that never do say nothing of it.

    reason: "" | "failed: line N ..." of the tests | "error: TypeError ..." of the program | how the program stopped ("timeout",
    "died", "output", "garbled") | "tests: ..." where they failed before they had called it, or broke down by themselves.
    """

    passed: bool
    reason: str = ""
    calls: int = 0


def examine(sandbox: Sandbox, program: str, tests: Suite, limits: Limits) -> Found:
    """Run the tests on the program, each with these limits. Raises `SetupError` as the sandbox does."""
    try:
        return _examine(sandbox, program, tests, limits)
    except MotherDied:
        return _examine(sandbox, program, tests, limits)


def _examine(sandbox: Sandbox, program: str, tests: Suite, limits: Limits) -> Found:
    patient = replace(limits, seconds=limits.seconds + _PATIENCE)  # who waits for the program must not be late for it
    with sandbox.open(_INSIDE, patient) as judge, sandbox.open(program, limits) as candidate:
        return _Relay(judge, candidate, tests).found()


_PATIENCE = 0.5  # seconds
_INSIDE = Path(tests_inside.__file__).read_text("utf-8")
_OBJECT = re.compile(r"#\d+(\[\]|\.\w+[?=])?")  # what is asked of a value that is not plain: see `ponder.sandbox.guest`


class _Ended(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(slots=True)
class _Relay:
    judge: Session
    candidate: Session
    tests: Suite
    mark: str = field(default_factory=lambda: secrets.token_hex(8))  # so that no plain value passes for a handle
    error: str = ""  # of the last call
    calls: int = 0

    def found(self) -> Found:
        """What came of it."""
        try:
            reason = self.run()
        except _Ended as end:
            reason = end.reason
        if not reason and not self.calls:
            reason = "tests: they end well without a call"
        return Found(not reason, reason, self.calls)

    def run(self) -> str:
        """Relay requests until the tests have ended; the reason why they failed, or ""."""
        request = self.ask(
            "begin", self.mark, {name: called for name, called in self.tests.names.items()}, self.tests.setup, self.tests.source
        )
        while True:
            match request:
                case ("passed",):
                    return ""
                case ("failed", str() as name, int() as line, str() as message):
                    if name != "AssertionError" and not self.calls:
                        return f"tests: {name} {message}".rstrip()
                    if name != "AssertionError" and self.error:
                        return f"error: {self.error}"
                    return " ".join(filter(None, (f"failed: line {line}", name if name != "AssertionError" else "", message)))
                case ("call", str() as function, tuple() as args, dict() as kwargs):
                    request = self.ask("step", *self.answer(function, args, kwargs))
                case _:
                    raise _Ended("tests: garbled")

    def ask(self, function: str, *args: Value) -> object:
        """The next request of the tests."""
        try:
            reply = self.judge.call(Call(function, args))
        except Stopped as stop:
            raise _Ended(f"tests: {stop.status}") from None
        except ValueError:  # what may just cross from the program may be too deep with a layer more around it
            raise _Ended("garbled") from None
        if reply.error:
            raise _Ended(f"tests: {reply.error}")
        return reply.value

    def answer(self, function: str, args: tuple[object, ...], kwargs: dict[object, object]) -> tuple[Value, ...]:
        """What the program says to one call."""
        if function not in self.tests.names.values() and not _OBJECT.fullmatch(function):
            raise _Ended("tests: garbled")
        self.calls += 1
        given, named = replaced(args, self._handle), replaced(kwargs, self._handle)
        try:
            reply = self.candidate.call(Call(function, given, named))  # type: ignore[arg-type]  # plain, as all that crosses
        except Stopped as stop:
            raise _Ended(f"error: {stop.detail}" if stop.status == "error" else stop.status) from None
        self.error = f"{reply.error} {reply.message}".rstrip() if reply.error else ""
        if reply.error:
            return "error", reply.error, reply.message
        return "value", replaced(reply.value, self._marked)  # type: ignore[return-value]  # without handles it is plain

    def _marked(self, value: object) -> object:
        return (self.mark, value.id) if isinstance(value, Handle) else value

    def _handle(self, value: object) -> object:
        if isinstance(value, Handle):
            raise _Ended("tests: an argument is no plain value, so it cannot cross to the program")
        if type(value) is tuple and len(value) == 2 and value[0] == self.mark and type(value[1]) is int:
            return Handle(value[1])
        return value
