"""Control groups: the kernel's own bound on the memory and the number of processes of a whole tree, where we may make one.

Only for programs that may start processes. One that may not is bounded by its address space already, exactly; and moving a process
into a group makes the kernel wait for all others, which costs more than the rest of a verdict.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ponder.sandbox.core import Limits

_THREADS = 64  # besides processes, as in `ponder.sandbox.zygote`
_MOUNTS = Path("/sys/fs/cgroup")
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Group:
    """A control group of one program: one folder in version 2, one for each controller in version 1."""

    folders: tuple[Path, ...]

    def add(self, child: int) -> None:
        """Put the process of this descriptor in, and so all that it will start."""
        info = Path(f"/proc/self/fdinfo/{child}").read_text("ascii")
        pid = next(line.split()[1] for line in info.splitlines() if line.startswith("Pid:"))
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(pid)

    def starved(self) -> bool:
        """Whether the kernel killed something in it for want of memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    for line in (folder / name).read_text("ascii").splitlines():
                        key, _, count = line.partition(" ")
                        if key == "oom_kill" and int(count):
                            return True
        return False

    def close(self) -> None:
        """Remove it; it is empty once its program is dead."""
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def fitting(limits: Limits) -> Group | None:
    """A group with these limits; None where none is needed or none can be made (the keeper watches the tree instead)."""
    parents = _parents() if limits.processes > 1 else ()
    made: list[Path] = []
    try:
        for parent in parents:
            folder = parent / f"ponder-{os.getpid()}-{next(_numbers)}"
            folder.mkdir()
            made.append(folder)
            _bound(folder, limits)
    except OSError:
        Group(tuple(made)).close()
        return None
    return Group(tuple(made)) if made else None


def _bound(folder: Path, limits: Limits) -> None:
    bounds = {
        "memory.max": limits.memory,
        "memory.swap.max": 0,
        "memory.oom.group": 1,
        "memory.limit_in_bytes": limits.memory,
        "memory.memsw.limit_in_bytes": limits.memory,
        "pids.max": limits.processes + _THREADS,
    }
    for name, bound in bounds.items():
        if (folder / name).exists():
            (folder / name).write_text(str(bound))


@cache
def _parents() -> tuple[Path, ...]:
    """Where groups with a memory bound can be made, tried once: beside this process's own, as far as they are writable."""
    own = dict(_entries())
    candidates = [_MOUNTS / "unified" / own.get("", ""), _MOUNTS / own.get("", "")]
    for root in candidates:  # version 2: one folder, if its parent hands the controller down
        if "memory" in _words(root / "cgroup.subtree_control") and os.access(root, os.W_OK):
            return (root,)
    first = tuple(
        folder for name in ("memory", "pids") if name in own and os.access(folder := _MOUNTS / name / own[name], os.W_OK)
    )
    return first if first and first[0].is_relative_to(_MOUNTS / "memory") else ()


def _entries() -> list[tuple[str, str]]:
    """(controller, path within its mount) of this process; "" is the unified hierarchy."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text("ascii").splitlines()
        rows = [line.split(":", 2) for line in lines]
        return [(name.removeprefix("name="), path.lstrip("/")) for _, names, path in rows for name in names.split(",")]
    return []


def _words(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text("ascii").split()
    return []
