"""Which sandbox to use: the best tier that this machine really offers, tried before it is trusted, and refused otherwise.

Never a silent plain subprocess. A plain one is used for sources of our own alone (`trusted`), or after `permit_unsafe`, which the command
line calls when `--unsafe-exec` was typed.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from importlib.metadata import entry_points
from weakref import WeakSet

from ponder.errors import SetupError, UsageError
from ponder.sandbox import slots
from ponder.sandbox.core import Call, Limits, Outcome, Sandbox, Session, Stopped
from ponder.sandbox.mother import Blueprint, Mother, MotherDied, Tier, missing
from ponder.sandbox.selftest import faults
from ponder.sandbox.session import Program
from ponder.sandbox.slots import slot

BEST_FIRST: tuple[Tier, ...] = ("bubblewrap", "landlock")
VARIABLE = "PONDER_SANDBOX"


class Room:
    """A sandbox on this machine: one mother process, started at first use, and again if she dies (see `ponder.sandbox.core.Sandbox`)."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self._mother: Mother | None = None
        self._lock = threading.Lock()
        self._alone = threading.RLock()
        _living_rooms.add(self)

    @property
    def tier(self) -> str:
        """Which walls hold."""
        return "unsafe" if self.blueprint.tier == "plain" else self.blueprint.tier

    def open(self, source: str, limits: Limits) -> Session:
        """Start a program that is to be called."""
        return self._started(source, limits, None)

    def run(self, source: str, inputs: Sequence[Call] | str, limits: Limits) -> Outcome:
        """Run a program to its end; calls that it did not come to have no reply. Once more if the mother dies meanwhile."""
        try:
            return self._run(source, inputs, limits)
        except MotherDied:
            return self._run(source, inputs, limits)

    def _run(self, source: str, inputs: Sequence[Call] | str, limits: Limits) -> Outcome:
        with self._started(source, limits, inputs if isinstance(inputs, str) else None) as program:
            if not isinstance(inputs, str):
                with suppress(Stopped):  # the outcome says so
                    program.calls(inputs)
            return program.outcome()

    def close(self) -> None:
        """End the mother and all programs."""
        with self._lock:
            if self._mother:
                self._mother.close()
            self._mother = None

    def forget(self) -> None:
        """Be as new, in a fork of the process that made it."""
        self._lock, self._alone = threading.Lock(), threading.RLock()
        if self._mother:
            self._mother.forget()
        self._mother = None

    def _started(self, source: str, limits: Limits, stdin: str | None) -> Program:
        if limits.processes > 1 and self.blueprint.tier == "landlock":
            raise SetupError(
                f"sandbox landlock: processes = {limits.processes}, but this tier cannot hold more than 1 together; use bubblewrap"
            )
        return Program(self._living, source, limits, stdin, self._turn())

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A slot; where programs share one user, whose number of threads is bounded for all of them together, the only one."""
        alone = self._alone if self.blueprint.tier == "landlock" and os.geteuid() != 0 else nullcontext()
        with alone, slot():
            yield

    def _living(self) -> Mother:
        with self._lock:
            if self._mother and self._mother.ended:
                self._mother.close()
                self._mother = None
            self._mother = self._mother or Mother(self.blueprint)
            return self._mother


def room(*, preload: tuple[str, ...] = (), packages: tuple[str, ...] = (), trusted: bool = False, tier: str = "") -> Sandbox:
    """The sandbox to use, one for each set of arguments and process.

    tier: "" takes what the environment variable PONDER_SANDBOX names, else the best that passes its self-test here. preload: modules that
    all programs find imported; their packages, and what those require, are readable inside; packages: modules of which the same is
    true, but that a program imports itself. trusted: the source is ours and only its data is a
    model's, so that a plain killable process serves where there is no better.

    Raises:
        SetupError: no tier is usable, with what each lacks and how to mend it.
        UsageError: a tier that does not exist.
    """
    wanted = tier or os.environ.get(VARIABLE, "")
    key = (preload, packages, trusted, wanted)
    with _lock:
        if key not in _rooms:
            _rooms[key] = _choose(preload, packages, trusted, wanted)
        return _rooms[key]


def permit_unsafe() -> None:
    """Let programs run without walls where there are none to be had; for the command line's `--unsafe-exec` alone."""
    global _unsafe
    _unsafe = True


def describe(tier: Tier) -> str:
    """Why a tier cannot be used here; "" if it can."""
    lack = missing(tier)
    if lack:
        return lack
    one = Room(Blueprint(tier))
    try:
        return "; ".join(faults(one))
    except (SetupError, OSError) as error:
        return str(error).removeprefix(f"sandbox {tier}: ")
    finally:
        one.close()


_lock = threading.RLock()
_rooms: dict[tuple[tuple[str, ...], tuple[str, ...], bool, str], Sandbox] = {}
_unsafe = False


def _choose(preload: tuple[str, ...], packages: tuple[str, ...], trusted: bool, wanted: str) -> Sandbox:
    if wanted and wanted not in BEST_FIRST:
        return _plugged(wanted)
    lacks = {}
    for tier in (wanted,) if wanted else BEST_FIRST:
        known: Tier = "bubblewrap" if tier == "bubblewrap" else "landlock"
        lacks[tier] = _usable(known)
        if not lacks[tier]:
            return Room(Blueprint(known, preload, packages))
    if wanted and not trusted:
        raise SetupError(
            f"sandbox {wanted}, which {VARIABLE} or tier= picks, is not usable here ({lacks[wanted]}); mend that, or leave the choice to ponder"
        )
    if trusted or _unsafe:
        return Room(Blueprint("plain", preload, packages))
    told = "; ".join(f"{tier}: {lack}" for tier, lack in lacks.items())
    raise SetupError(
        f"no sandbox is usable here, and model-written code is not run without one ({told}). Install bubblewrap and allow unprivileged "
        "user namespaces, or run on Linux 6.2 or later with Landlock; `ponder doctor` tests both; --unsafe-exec runs it unprotected"
    )


@cache
def _usable(tier: Tier) -> str:
    return describe(tier)


def _plugged(name: str) -> Sandbox:
    found = {entry.name: entry for entry in entry_points(group="ponder.sandboxes")}
    if name not in found:
        known = ", ".join([*BEST_FIRST, *sorted(found)])
        raise UsageError(f"sandbox {name!r} does not exist; there are {known} (from {VARIABLE} or tier=)")
    made: Sandbox = found[name].load()()
    return made


_living_rooms: WeakSet[Room] = WeakSet()


def _forked() -> None:
    """In a fork of this process: the mothers are the parent's, locks may be held by threads that are not here."""
    global _lock
    _lock = threading.RLock()
    slots.renew()
    for one in _living_rooms:
        one.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _close_all() -> None:
    for one in _rooms.values():
        if isinstance(one, Room):
            one.close()
