"""What a sandbox is asked and what it answers. Programs are hostile; what comes back is plain data, never a verdict.

A `Program` is source text that runs in a process of its own and dies with it. It is called by name with plain values, or fed a
standard input; the values, prints and exit code that come back are data for somebody outside to compare. Nothing that the program
could use to forge a verdict (expected outputs, the comparison, the verdict) is ever inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias, runtime_checkable

from ponder.errors import UsageError

Value: TypeAlias = "bool | int | float | complex | str | bytes | Fraction | Decimal | list[Value] | tuple[Value, ...] | set[Value] | frozenset[Value] | dict[Value, Value] | None"
"""What crosses the border: plain types only, exactly these. Instances of subclasses arrive as the plain type they extend."""

Status: TypeAlias = Literal["ok", "error", "timeout", "output", "garbled", "died"]
"""How a program ended.

ok        ran, and answered everything it was asked (single answers may still be errors)
error     raised while it was loaded, or ended (as standard-input programs do) with an exception or a code other than 0
timeout   was still running when its time was up
output    said more than it may
garbled   wrote to the answer channel what no answer looks like
died      was killed (memory, a signal, a forbidden system call), or left before it had answered
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use, all its calls together.

    seconds: wall clock from its start. memory: bytes of address space of each process, and of the whole tree where there are more.
    disk: bytes of its work folder. output: bytes of answers, and bytes of each standard stream. processes: 1 forbids starting any
    (threads are free); more need a tier with namespaces.
    """

    seconds: float = 5.0
    memory: int = 512 * 2**20
    disk: int = 16 * 2**20
    output: int = 2**20
    processes: int = 1

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("seconds", self.seconds, 0.01, 3600.0),
            ("memory", self.memory, 2**26, 2**40),
            ("disk", self.disk, 0, 2**40),
            ("output", self.output, 1, 2**30),
            ("processes", self.processes, 1, 1024),
        ):
            if not low <= value <= high:
                raise UsageError(f"sandbox limits: {name} = {value!r} must lie in [{low:g}, {high:g}]")


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the program by name, with plain values. `Class().method` calls a method of a new instance."""

    function: str
    args: tuple[Value, ...] = ()
    kwargs: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Handle:
    """A value of the program's that is not plain: it stays inside, and can only be passed back as an argument or called upon."""

    id: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What one call gave: a value, or the exception it raised (type name and message). error: "" where it raised none."""

    value: Value | Handle = None
    error: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ran. replies: of the calls, in order, as far as it came. stdout, stderr: what it printed, capped, as data.

    seconds: wall clock. detail: for people.
    """

    status: Status
    replies: tuple[Reply, ...] = ()
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    detail: str = ""


class Session(Protocol):
    """A program that was started and waits to be called. Leaving it kills whatever is left of it."""

    def __enter__(self) -> Self:
        """Started."""
        ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Dead."""
        ...

    def call(self, call: Call) -> Reply:
        """What the call gave. Raises `Stopped` when the program cannot answer any more."""
        ...

    def outcome(self) -> Outcome:
        """How it went so far; for a program fed by standard input this waits for its end."""
        ...


class Stopped(Exception):
    """A program cannot answer any more; `status` says why."""

    def __init__(self, status: Status, detail: str = "") -> None:
        super().__init__(f"{status}: {detail}" if detail else status)
        self.status, self.detail = status, detail


@runtime_checkable
class RunsCode(Protocol):
    """A grader or verifier that runs model-written code says so: a study with one is refused before it spends anything, if it must be."""

    @property
    def runs_code(self) -> Literal[True]:
        """Always."""
        ...


class Sandbox(Protocol):
    """Runs programs, one process each. Safe to use from several threads; every method blocks."""

    @property
    def tier(self) -> str:
        """Which walls hold: "bubblewrap", "landlock", a plug-in's name, or "unsafe"."""
        ...

    def open(self, source: str, limits: Limits) -> Session:
        """Start a program that is to be called. Waits while as many programs run as the machine has cores."""
        ...

    def run(self, source: str, inputs: Sequence[Call] | str, limits: Limits) -> Outcome:
        """Run a program to its end: on calls, all in one process and in order, or on a standard input."""
        ...
