"""The mother of all programs of one room: a small clean process that forks once for each, and buries it.

    mother      knows nothing: no secrets in her memory or environment, and no program ever speaks to her
      program   in namespaces of its own: own /tmp, no /proc, no capabilities, limits, filtered system calls; it is process 1 there, so
                all that it starts dies with it

One fork serves one program. Runs inside the sandbox: standard library only. `ponder.sandbox.mother` is the other side.
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
import select
import signal
import site
import socket
import struct
import sys
from typing import NamedTuple, NoReturn, TypedDict

from ponder.sandbox import guest, kernel, seccomp

THREADS = 64  # besides the processes allowed
_REPORT, _RULES = 4, 5  # file descriptors, until the walls stand
_BLANK = 0x7F5A5A5A  # stands for a process id, of which none is so large
_POLL = 0.05  # seconds between two looks at the memory of a tree


class Setup(TypedDict):
    """How a room is built.

    tier: which walls. folder: where programs work. readable: paths that programs may read, everything beneath them too; listed: folders
    of which they may see the names. preload: modules; paths: where they are. uids: first and count of the ids of programs, for a mother that is root.
    """

    tier: str
    folder: str
    readable: list[str]
    listed: list[str]
    preload: list[str]
    paths: list[str]
    uids: list[int]


class Job(TypedDict):
    """One program's limits (see `ponder.sandbox.core.Limits`) and whether a control group watches its memory.

    tasks: threads and processes that its user may have in all.
    """

    seconds: float
    memory: int
    disk: int
    processes: int
    grouped: bool
    tasks: int


class Child(NamedTuple):
    """A program that runs. report: where to say how it ended. watched: most bytes its tree may hold; 0 leaves that to the kernel."""

    report: socket.socket
    watched: int


def serve(control: socket.socket, setup: Setup) -> NoReturn:
    """Fork for every job that comes with its descriptors, and say how each ended, until the other side hangs up."""
    sys.path += setup["paths"]
    for module in (*_COMMON, *setup["preload"]):
        importlib.import_module(module)
    site.setquit()  # `exit` and `quit`, which programs call and which -S leaves out
    gc.freeze()
    folder = setup["folder"]
    os.environ.clear()
    os.environ.update(HOME=folder, TMPDIR=folder, PATH="/usr/bin:/bin", LANG="C.UTF-8", PYTHONHASHSEED="0")
    mother = Mother(setup)
    null = os.open(os.devnull, os.O_RDWR)
    for at in range(3):  # her standard error told why she could not start; from here on nobody must share it
        os.dup2(null, at)
    os.close(null)
    control.send(b"ready")
    poll = select.poll()
    for fd in (control.fileno(), mother.bell):
        poll.register(fd, select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll(_POLL * 1000 if mother.watching else None)]
        mother.look_after()
        if control.fileno() in ready:
            message, fds, _, _ = socket.recv_fds(control, 4096, 5)
            if not message:
                os._exit(0)
            mother.bear(json.loads(message), fds)


class Mother:
    """Who bears programs and waits for them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.children: dict[int, Child] = {}
        self.starved: set[int] = set()
        self.count = int.from_bytes(os.urandom(4), "big")  # two mothers of one root rarely give the same id
        self.bell, ring = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(ring)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # A program's user is its own in a user namespace, or where root gives it an id; else it is everybody's here.
        self.shared = setup["tier"] == "plain" or (setup["tier"] == "landlock" and not setup["uids"])
        self.own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self.table = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.size = int(_read("self/statm", self.table).split()[0]) * resource.getpagesize()
        if setup["tier"] == "bubblewrap":
            for device in (
                path for path in setup["readable"] if path.startswith("/dev/")
            ):  # still written to, but its times are the host's
                kernel.mount("none", device, "", kernel.REMOUNT | kernel.BIND | kernel.RDONLY | kernel.NOSUID | kernel.NOEXEC)
        # What costs time once is made once, here: the filter, and Landlock's rules (a null device where there are none).
        self.rules = kernel.landlock(setup["readable"], setup["listed"]) if setup["tier"] == "landlock" else 0
        if setup["tier"] != "plain":
            _filter(setup, processes=False)

    @property
    def watching(self) -> bool:
        """Whether somebody's memory is to be looked at."""
        return any(child.watched for child in self.children.values())

    def bear(self, job: Job, fds: list[int]) -> None:
        """Fork a program; hand out its process descriptor, or say why there is none."""
        report = socket.socket(fileno=fds[1])
        self.count += 1
        job["memory"] += self.size
        job["tasks"] = THREADS + job["processes"]
        if self.shared:  # with this user's other processes; all there are is more than those
            job["tasks"] += int(_read("loadavg", self.table).split()[3].partition("/")[2])
        try:
            if self.setup["tier"] == "bubblewrap":
                kernel.unshare(kernel.NEWPID)
            try:
                pid = os.fork()
                if pid == 0:
                    _program(self.setup, job, fds, self.rules, self.count)
            finally:
                if self.setup["tier"] == "bubblewrap":
                    kernel.join(self.own, kernel.NEWPID)  # so that the next one gets a namespace of its own, too
            self.children[pid] = Child(report, job["memory"] if job["processes"] > 1 and not job["grouped"] else 0)
            handle = os.pidfd_open(pid)
            with contextlib.suppress(OSError):  # nobody waits for it any more
                socket.send_fds(report, [b"pid"], [handle])
            os.close(handle)
        except OSError as error:
            _tell(report, f"failed {error}")
        for fd in (fds[0], *fds[2:]):
            os.close(fd)

    def look_after(self) -> None:
        """Bury the dead; kill whoever's tree holds too much."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.bell, 4096)
        for pid, child in self.children.items():
            if child.watched and _tree(pid, self.table) > child.watched:
                os.kill(pid, signal.SIGKILL)  # process 1 of its namespace: everything beneath it goes, too
                self.starved.add(pid)
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                why = " memory" if pid in self.starved else ""
                self.starved.discard(pid)
                _tell(self.children.pop(pid).report, f"ended {os.waitstatus_to_exitcode(status)}{why}")


def _tell(report: socket.socket, text: str) -> None:
    with report, contextlib.suppress(OSError):
        report.send(text.encode())


def _program(setup: Setup, job: Job, fds: list[int], rules: int, count: int) -> NoReturn:
    """Build the walls around this process, then let the program in."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.umask(0o077)
        # First out of each other's way, then to their places: streams (0 is the mother's null device), answers, report, rules.
        kept = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _RULES + 1) for fd in (*(fds[2:] or [0, 0, 0]), fds[0], fds[1], rules)]
        for place, fd in enumerate(kept):
            os.dup2(fd, place)
        os.closerange(_RULES + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        _furnish(setup, job, count)
        _limit(job)
        if setup["tier"] != "plain":
            kernel.renounce()
            if setup["tier"] == "landlock":
                kernel.enter(_RULES)
            kernel.install(_filter(setup, processes=job["processes"] > 1))
    except Exception as error:
        os.write(_REPORT, f"failed {type(error).__name__}: {error}".encode())
        os._exit(1)
    os.close(_RULES)
    os.close(_REPORT)
    guest.run()


def _furnish(setup: Setup, job: Job, count: int) -> None:
    """A work folder where the tier can give one, and nobody's user id."""
    if setup["tier"] == "bubblewrap":
        uid, gid = os.getuid(), os.getgid()
        kernel.unshare(kernel.NEWUSER | kernel.NEWNS | kernel.NEWIPC)
        for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{file}", "w") as mapping:
                mapping.write(text)
        hidden = kernel.NOSUID | kernel.NODEV | kernel.NOEXEC
        kernel.mount("tmpfs", setup["folder"], "tmpfs", hidden, f"size={max(4096, job['disk'])},nr_inodes=4096,mode=0700")
        kernel.mount("tmpfs", "/proc", "tmpfs", hidden | kernel.RDONLY, "size=4096,nr_inodes=2,mode=0555")
    elif setup["tier"] == "landlock" and setup["uids"]:
        first, number = setup["uids"]
        uid = first + count % number  # RLIMIT_NPROC counts by user: neighbours must not starve each other
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kernel.die_with_parent()  # last: the kernel forgets it when the user changes or capabilities are gained
    os.chdir(setup["folder"])


def _filter(setup: Setup, *, processes: bool) -> bytes:
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
        (resource.RLIMIT_NPROC, job["tasks"]),
        (resource.RLIMIT_NOFILE, 128),
        (resource.RLIMIT_STACK, 64 * 2**20),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        low = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (low, low))


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


# What most programs import. Not more: every page of hers is paid for at every fork (dataclasses, hashlib and statistics cost a quarter of
# a millisecond), while those who want the others import them themselves.
_COMMON = ["bisect", "collections.abc", "copy", "functools", "heapq", "itertools", "math", "operator", "re", "string", "typing"]
