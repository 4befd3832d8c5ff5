"""The mother of all programs of one room: a small clean process that forks once for each, builds its walls, and lets it go.

    mother      knows nothing: no secrets in its memory or environment, no sample ever speaks to it
      keeper    makes the namespaces, waits, tells how it ended; a watch over the memory of the whole tree, where there may be one
        program   in its namespaces: own /tmp, no /proc, no capabilities, limits, filtered system calls; process 1, so all its children die with it

One fork serves one program. Runs inside the sandbox: standard library only. See `ponder.sandbox.room` for the other side.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import math
import os
import resource
import signal
import site
import socket
import struct
import sys
import time
from typing import NoReturn, TypedDict

from ponder.sandbox import guest, kernel, seccomp

NAMESPACES = kernel.NEWUSER | kernel.NEWNS | kernel.NEWPID | kernel.NEWIPC
THREADS = 64  # besides the processes allowed
_BLANK = 0x7F5A5A5A  # stands for a process id, of which none is so large
_POLL = 0.05  # seconds between two looks at the memory of a tree


class Setup(TypedDict):
    """How a room is built. tier: which walls. readable: for Landlock. uids: first and count, for a mother that is root."""

    tier: str
    readable: list[str]
    preload: list[str]
    paths: list[str]
    uids: list[int]


class Job(TypedDict):
    """One program's limits (see `ponder.sandbox.core.Limits`) and whether a control group watches its memory."""

    seconds: float
    memory: int
    disk: int
    processes: int
    grouped: bool


def serve(control: socket.socket, setup: Setup) -> NoReturn:
    """Fork for every job that comes with its descriptors, until the other side hangs up."""
    sys.path += setup["paths"]
    for module in (*_COMMON, *setup["preload"]):
        importlib.import_module(module)
    site.setquit()  # `exit` and `quit`, which programs call and which -S leaves out
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries keepers by itself
    mine = _size()
    if setup["tier"] != "plain":
        _filter(setup, False)
    control.send(b"ready")
    count = 0
    while True:
        message, fds, _, _ = socket.recv_fds(control, 4096, 5)
        if not message:
            os._exit(0)
        count += 1
        if os.fork() == 0:
            control.close()
            job: Job = json.loads(message)
            job["memory"] += mine
            _keep(setup, job, fds, count)
        for fd in fds:
            os.close(fd)


def _keep(setup: Setup, job: Job, fds: list[int], count: int) -> NoReturn:
    """The keeper: fork the program, hand out its process descriptor, wait for it, say how it ended."""
    report = socket.socket(fileno=fds[1])
    try:
        if setup["tier"] == "bubblewrap":
            uid, gid = os.getuid(), os.getgid()
            kernel.unshare(NAMESPACES)
            for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{file}", "w") as proc:
                    proc.write(text)
        table = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # the program will cover it
        kernel.die_with_parent()  # after the namespaces: the kernel forgets it when capabilities are gained
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if child == 0:
            _program(setup, job, fds, report, count)
        handle = os.pidfd_open(child)
        socket.send_fds(report, [b"pid"], [handle])
        for fd in (handle, fds[0], *fds[2:]):
            os.close(fd)
        ended = _await(child, job, table)
    except OSError as error:
        ended = f"failed {error}"
    with contextlib.suppress(OSError):  # the other side need not wait for it
        report.send(ended.encode())
    os._exit(0)


def _await(child: int, job: Job, proc: int) -> str:
    if job["processes"] == 1 or job["grouped"]:
        return f"ended {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}"
    while True:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return f"ended {os.waitstatus_to_exitcode(status)}"
        if _tree(child, proc) > job["memory"]:
            os.kill(child, signal.SIGKILL)  # process 1 of its namespace: everything beneath it goes, too
            os.waitpid(child, 0)
            return "ended -9 memory"
        time.sleep(_POLL)


def _program(setup: Setup, job: Job, fds: list[int], report: socket.socket, count: int) -> NoReturn:
    """Build the walls around this process, then let the program in."""
    try:
        kernel.die_with_parent()
        os.setsid()
        os.umask(0o077)
        for at, fd in enumerate(fds[2:]):
            os.dup2(fd, at)
        os.dup2(fds[0], guest.ANSWERS)
        told = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, 4)
        os.dup2(told, 4)
        os.closerange(5, 65536)
        _furnish(setup, job, count)
        _limit(job)
        if setup["tier"] != "plain":
            kernel.renounce()
            if setup["tier"] == "landlock":
                kernel.landlock(setup["readable"])
            kernel.install(_filter(setup, job["processes"] > 1))
    except Exception as error:
        os.write(4, f"failed {type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(4)
    report.detach()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    guest.run()


def _furnish(setup: Setup, job: Job, count: int) -> None:
    """A work folder where the tier can give one, nothing of the mother's environment, and nobody's user id."""
    folder = "/"
    if setup["tier"] == "bubblewrap":
        hidden = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
        kernel.mount("tmpfs", "/tmp", "tmpfs", hidden, f"size={max(4096, job['disk'])},nr_inodes=4096,mode=0700")
        kernel.mount("tmpfs", "/proc", "tmpfs", hidden | kernel.RDONLY, "size=4096,nr_inodes=2,mode=0555")
        folder = "/tmp"
    elif setup["tier"] == "landlock" and setup["uids"]:
        first, number = setup["uids"]
        uid = first + count % number  # RLIMIT_NPROC counts by user: neighbours must not starve each other
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        kernel.die_with_parent()  # forgotten by the kernel when the user changes
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(HOME=folder, TMPDIR=folder, PATH="/usr/bin:/bin", LANG="C.UTF-8", PYTHONHASHSEED="0")


def _filter(setup: Setup, processes: bool) -> bytes:
    """Built once by the mother; only where there are no process namespaces does it name the program itself."""
    if setup["tier"] == "bubblewrap":
        return seccomp.build(seccomp.Rules(processes))
    blank = seccomp.build(seccomp.Rules(processes, writes=False, only=_BLANK))
    return blank.replace(struct.pack("<I", _BLANK), struct.pack("<I", os.getpid()))


def _limit(job: Job) -> None:
    seconds = math.ceil(job["seconds"]) + 1
    for what, bound in (
        (resource.RLIMIT_AS, job["memory"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, max(4096, job["disk"])),
        (resource.RLIMIT_NPROC, THREADS + job["processes"]),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_STACK, 64 * 2**20),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        low = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (low, low))


def _size() -> int:
    """Bytes of address space that this process has before a program adds any; 0 where the kernel does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _tree(root: int, proc: int) -> int:
    """Bytes of memory that a process and all its descendants hold. proc: a descriptor of /proc."""
    parents: dict[int, int] = {}
    pages: dict[int, int] = {}
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError):  # gone in between
                fields = _read(f"{name}/stat", proc).rpartition(")")[2].split()
                parents[int(name)], pages[int(name)] = int(fields[1]), int(fields[21])
    members = {root}
    for _ in parents:  # children may stand before their parents: as many rounds as there are generations, at most
        grown = members | {pid for pid, parent in parents.items() if parent in members}
        if grown == members:
            break
        members = grown
    return sum(pages.get(pid, 0) for pid in members) * resource.getpagesize()


def _read(path: str, folder: int) -> str:
    with open(os.open(path, os.O_RDONLY, dir_fd=folder)) as file:
        return file.read()


# What most programs import, and what the guest needs; "collections.abc" and "typing" are what generated programs begin with.
_COMMON = [
    "array",
    "bisect",
    "collections.abc",
    "copy",
    "dataclasses",
    "datetime",
    "decimal",
    "fractions",
    "functools",
    "hashlib",
]
_COMMON += ["heapq", "itertools", "math", "operator", "random", "re", "statistics", "string", "typing"]
