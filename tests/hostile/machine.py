"""What the judge sees of processes and of the kernel: families, memory, conditions, things left in shared memory and queues."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = resource.getpagesize()
PR_SET_CHILD_SUBREAPER = 36
MQ_OPEN, MQ_UNLINK = (240, 241) if os.uname().machine == "x86_64" else (180, 181)


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one of the same number."""

    pid: int
    born: int


def text(path: str) -> str:
    """A file of /proc, or nothing if its process is gone or foreign."""
    try:
        return Path(path).read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def processes() -> dict[Process, int]:
    """All processes of the machine that are not dead, with their parents."""
    found = {}
    for name in os.listdir("/proc"):
        fields = text(f"/proc/{name}/stat").rpartition(")")[2].split() if name.isdigit() else []
        if fields and fields[0] not in "ZX":
            found[Process(int(name), int(fields[19]))] = int(fields[1])
    return found


def family(root: int) -> set[Process]:
    """The descendants of a process."""
    parents, known, found = processes(), {root}, set[Process]()
    grown = True
    while grown:
        new = {child for child, parent in parents.items() if parent in known and child not in found}
        grown = bool(new)
        found |= new
        known |= {child.pid for child in new}
    return found


def marked(marks: set[str]) -> Iterator[tuple[Process, str]]:
    """Processes that carry one of the marks in their name, arguments or, where it is ours to read, environment."""
    for process in processes():
        said = text(f"/proc/{process.pid}/comm") + text(f"/proc/{process.pid}/cmdline")
        for mark in marks:
            if mark in said:
                yield process, mark


def memory(members: set[Process]) -> int:
    """Bytes that these processes hold for themselves."""
    total = 0
    for member in members:
        fields = text(f"/proc/{member.pid}/statm").split()
        total += (int(fields[1]) - int(fields[2])) * PAGE if fields else 0
    return total


def proportional(members: set[Process]) -> int:
    """The same without counting twice the pages that forks share until they write to them; slower to find out."""
    total = 0
    for member in members:
        share = text(f"/proc/{member.pid}/smaps_rollup").partition("\nPss:")[2].split()
        total += int(share[0]) * 1024 if share else memory({member})
    return total


def adopt() -> None:
    """Become the parent of every orphan among the descendants, so that none gets out of sight."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> None:
    """Bury the orphans that died."""
    for process in list(Path(f"/proc/{os.getpid()}/task/{os.getpid()}").glob("children")):
        for pid in text(str(process)).split():
            if text(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] == ["Z"] and text(f"/proc/{pid}/comm").startswith("ph-"):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(int(pid), os.WNOHANG)


def condition(pid: int) -> dict[str, str]:
    """What others can do to a process without killing it."""
    status = dict(line.split(":\t", 1) for line in text(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    if not status:
        return {"alive": "no"}
    with contextlib.suppress(OSError):
        return {
            "alive": "no" if status["State"][0] in "ZX" else "yes",
            "stopped": str(status["State"][0] in "Tt"),
            "tracer": status["TracerPid"],
            "nice": str(os.getpriority(os.PRIO_PROCESS, pid)),
            "processors": status["Cpus_allowed_list"],
            "scheduler": str(os.sched_getscheduler(pid)),
            "files": str(resource.prlimit(pid, resource.RLIMIT_NOFILE)),
            "oom": text(f"/proc/{pid}/oom_score_adj").strip(),
        }
    return {"alive": "no"}


def ipc_left(key: int, mark: str) -> list[str]:
    """Shared memory, queues and semaphores with this key or name; they are removed."""
    found = []
    for kind, remove in (("shm", LIBC.shmctl), ("msg", LIBC.msgctl), ("sem", LIBC.semctl)):
        for line in text(f"/proc/sysvipc/{kind}").splitlines()[1:]:
            if line.split()[0] == str(key):
                found.append(f"left a System V {kind} behind")
                remove(*(int(line.split()[1]), 0, None) if kind != "sem" else (int(line.split()[1]), 0, 0))
    for name in (mark, f"{mark}-1", f"{mark}-2"):
        fd = LIBC.syscall(ctypes.c_long(MQ_OPEN), name.encode(), os.O_RDONLY, 0, None)
        if fd >= 0:
            os.close(fd)
            LIBC.syscall(ctypes.c_long(MQ_UNLINK), name.encode())
            found.append("left a message queue behind")
    return found


def own_peak() -> int:
    """The most memory that this process has held since `forget_peak`, in bytes."""
    return int(text("/proc/self/status").partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak() -> int:
    """Start counting `own_peak` anew; gives what is held now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(text("/proc/self/statm").split()[1]) * PAGE
