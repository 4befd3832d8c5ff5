"""What a hostile program is: source text with places for canaries, a goal, a channel, and what may be expected where nothing contains it.

A program attacks when it is loaded or when `solve` is called, and always answers wrongly (right would be x + 1). It shows what it got
done by its effect on the judge's canaries, or, where the deed leaves no trace outside, by answering with `$flag`, which no program that
failed can know to send: it is sent only behind the success of the deed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from string import Template
from typing import Literal, TypeAlias, get_args

Goal: TypeAlias = Literal["escape", "survive", "starve", "spy", "network", "fill", "daemonise", "disturb", "forge"]
Channel: TypeAlias = Literal["files", "proc", "sockets", "signals", "namespaces", "syscalls", "imports", "source"]
GOALS: tuple[Goal, ...] = get_args(Goal)
CHANNELS: tuple[Channel, ...] = get_args(Channel)

Anchor: TypeAlias = Literal["bites", "quiet", "never"]
"""What is expected in a plain subprocess run by root: an effect; nothing that shows; or harm to the machine, so it is never run there."""


@dataclass(frozen=True, slots=True)
class Program:
    """One attack.

    after: a second program that is run behind it; it answers with `$flag` when it finds what the first has left.
    processes: what its limits allow it in the tiers that can count processes.
    whole: run as a program that reads standard input and prints, instead of being called.
    """

    channel: Channel
    goal: Goal
    variant: str
    body: str
    anchor: Anchor = "bites"
    after: str = ""
    processes: int = 1
    whole: bool = False

    @property
    def name(self) -> str:
        """channel/goal/variant, which tells it from all others."""
        return f"{self.channel}/{self.goal}/{self.variant}{' (as a whole)' if self.whole else ''}"

    def source(self, places: Mapping[str, str | int]) -> str:
        """The program text, with the canaries' addresses in place."""
        return fill(self.body, places) + ("\nprint(solve(int(input())))\n" if self.whole else "")

    def as_a_whole(self) -> Program:
        """The same attack from a program that is fed by standard input."""
        return replace(self, whole=True)


BARE = "${bare}"  # in front of a body that is to stay as it is
TAIL = """

def solve(x):
    return globals().get("seen", -1)
"""
HEADS = {
    # Raw system calls: numbers of x86_64 and aarch64. A failed call gives -errno.
    "raw(": """
import ctypes, errno, os
_libc = ctypes.CDLL(None, use_errno=True)
_NUMBERS = dict(
    clone=(56, 220), clone3=(435, 435), vfork=(58, None), fork=(57, None), ptrace=(101, 117), personality=(135, 92), pivot_root=(155, 41), chroot=(161, 51),
    mount=(165, 40), swapon=(167, 224), reboot=(169, 142), sethostname=(170, 161), init_module=(175, 105), kexec_load=(246, 104),
    settimeofday=(164, 170), mq_open=(240, 180), mq_timedsend=(242, 182), shmget=(29, 194), shmat=(30, 196), msgget=(68, 186), msgsnd=(69, 189),
    semget=(64, 190), add_key=(248, 217), request_key=(249, 218), keyctl=(250, 219), inotify_init1=(294, 26), inotify_add_watch=(254, 27),
    fanotify_init=(300, 262), name_to_handle_at=(303, 264), open_by_handle_at=(304, 265), setns=(308, 268), process_vm_readv=(310, 270),
    process_vm_writev=(311, 271), kcmp=(312, 272), memfd_create=(319, 279), bpf=(321, 280), execveat=(322, 281), userfaultfd=(323, 282),
    perf_event_open=(298, 241), io_uring_setup=(425, 425), pidfd_send_signal=(424, 424), pidfd_open=(434, 434), pidfd_getfd=(438, 438),
    unshare=(272, 97), prlimit64=(302, 261), setpriority=(141, 140), sched_setaffinity=(203, 122), sched_setscheduler=(144, 119),
    ioprio_set=(251, 30), mlockall=(151, 230), modify_ldt=(154, None), fsopen=(430, 430), open_tree=(428, 428), socket=(41, 198), connect=(42, 203),
    socketpair=(53, 199), prctl=(157, 167), rt_sigqueueinfo=(129, 138), memfd_secret=(447, 447), acct=(163, 89), syslog=(103, 116), execve=(59, 221),
    mkdirat=(258, 34), process_madvise=(440, 440), openat=(257, 56), write=(1, 64), seccomp=(317, 277),
)
def raw(name, *args):
    number = _NUMBERS[name][0 if os.uname().machine == "x86_64" else 1]
    if number is None:
        return -errno.ENOSYS
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    got = _libc.syscall(ctypes.c_long(number), *words)
    return got if got != -1 else -ctypes.get_errno()
""",
    # A process that says by its name whose it is, does something, and ends by itself after a while.
    "child(": """
import os, time
def named(name=$comm):
    try:
        import ctypes
        ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
    except (ImportError, OSError):
        pass
def child(work, seconds=40.0):
    pid = os.fork()
    if pid == 0:
        try:
            named()
            work()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.05)
        finally:
            os._exit(0)
    return pid
""",
    # A byte on each of the judge's doors.
    "knock(": """
import socket
def knock(*ways):
    for family, kind, address in ways:
        try:
            with socket.socket(family, kind) as door:
                door.settimeout(0.5)
                door.connect(address)
                door.send($marker.encode())
        except OSError:
            pass
""",
    # What the judge's secrets look like in anything that was read.
    "hunt(": """
import re
def hunt(data):
    if isinstance(data, str):
        data = data.encode("utf-8", "replace")
    found = re.findall(rb"pcny-[0-9a-f]{32}", data)
    return [one.decode() for one in found]
""",
    "slurp(": """
def slurp(path, size=1 << 20):
    try:
        with open(path, "rb") as file:
            return file.read(size)
    except OSError:
        return b""
""",
    # What may be the secret of the answer channel: long hexadecimal texts in the frames above.
    "stamps(": """
import re, sys
def stamps():
    found, frame = [], sys._getframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            for cell in (value, *(cell.cell_contents for cell in getattr(value, "__closure__", None) or ())):
                if isinstance(cell, str) and re.fullmatch("[0-9a-f]{16,64}", cell) and cell not in found:
                    found.append(cell)
        frame = frame.f_back
    return found
""",
    # A file outside gets a line.
    "scrawl(": """
def scrawl(path, text="was here"):
    try:
        with open(path, "a") as file:
            file.write(text)
        return True
    except OSError:
        return False
""",
}


def fill(body: str, places: Mapping[str, str | int]) -> str:
    """A program text from its body: the helpers that it calls in front, a wrong `solve` behind, canaries in place."""
    used = [head for call, head in HEADS.items() if re.search(rf"(?<![\w.]){re.escape(call)}", body)]
    text = "".join(used) + body + ("" if "def solve" in body or "solve =" in body or body.startswith(BARE) else TAIL)
    return Template(text).substitute({"bare": "", **{name: written(name, value) for name, value in places.items()}})


def written(name: str, value: str | int) -> str:
    """A value as Python source. The flag comes in two halves, so that no echo of the source counts as having sent it."""
    if name == "flag":
        half = len(str(value)) // 2
        return f"({str(value)[:half]!r} + {str(value)[half:]!r})"
    return repr(value)
