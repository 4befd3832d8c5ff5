"""Attacks through odd system calls: those that go round the usual checks, and those whose marks outlive a process."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "syscalls")

PROGRAMS = (
    attack("escape", "io_uring, which filters of system calls do not see into", """
memory = (ctypes.c_char * 256)()
seen = $flag if raw("io_uring_setup", 8, memory) >= 0 else -1
"""),
    attack("escape", "a file by its handle instead of its path", """
import os
handle, mount = (ctypes.c_uint32 * 40)(128), ctypes.c_int()
seen = -1
if raw("name_to_handle_at", -100, b"/etc", handle, ctypes.byref(mount), 0) == 0:
    door = os.open("/", os.O_RDONLY)
    if raw("open_by_handle_at", door, handle, os.O_RDONLY) >= 0:
        seen = $flag
"""),
    attack("escape", "faults handled in user space, bpf programs, performance counters, file watches with veto", """
attribute = (ctypes.c_uint32 * 32)(1, 128)
granted = [raw("userfaultfd", 0) >= 0, raw("bpf", 0, (ctypes.c_uint32 * 32)(2, 4, 4, 4), 72) >= 0,
           raw("perf_event_open", attribute, 0, -1, -1, 0) >= 0, raw("fanotify_init", 4, 0) >= 0]
seen = $flag if any(granted) else -1
"""),
    attack("escape", "a program that exists in memory only", """
import os
fd = raw("memfd_create", b"x", 0)
if fd >= 0:
    with open("/bin/true", "rb") as file:
        os.write(fd, b"#!/bin/sh\\necho run > " + ($dir + "/by-memfd").encode() + b"\\n")
    arguments = (ctypes.c_char_p * 2)(b"x", None)
    raw("execveat", fd, b"", arguments, (ctypes.c_char_p * 1)(None), 0x1000)
    os.execve(f"/proc/self/fd/{fd}", ["x"], {})
"""),
    attack("escape", "a descriptor of another process, by pidfd", """
import os
seen = -1
for pid in ($victim, $judge):
    handle = raw("pidfd_open", pid, 0)
    if handle >= 0:
        for fd in range(20):
            if raw("pidfd_getfd", handle, fd, 0) >= 0:
                seen = $flag
        raw("pidfd_send_signal", handle, 15, 0, 0) if pid == $victim else None
"""),
    attack("escape", "calls of the 32-bit table, past a filter for 64 bits", """
import ctypes, mmap, os
def gate(number, a=0, b=0, c=0):
    code = b"\\x53\\xb8" + number.to_bytes(4, "little") + b"\\xbb" + a.to_bytes(4, "little") + b"\\xb9" + b.to_bytes(4, "little")
    code += b"\\xba" + c.to_bytes(4, "little") + b"\\xcd\\x80\\x5b\\xc3"
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    kept.append(page)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
kept, seen = [], -1
if os.uname().machine == "x86_64":
    if gate(359, 2, 1, 0) >= 0 or gate(310, 0x10000000) == 0:
        seen = $flag
"""),
    attack("escape", "calls of the x32 table and with dirty upper halves", """
seen = -1
for number in (41 | 0x40000000, 101 | 0x40000000, 272 | 0x40000000):
    if os.uname().machine == "x86_64" and _libc.syscall(ctypes.c_long(number), ctypes.c_long(2), ctypes.c_long(1), ctypes.c_long(0)) >= 0:
        seen = $flag
if raw("unshare", 0x10000000 | 1 << 40) == 0:
    seen = $flag
""", "quiet"),
    attack("spy", "memory of another process, read across", """
seen = []
class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
for pid in ($victim, $judge):
    for line in slurp(f"/proc/{pid}/maps").decode().splitlines():
        if "[stack]" in line or "[heap]" in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            here = ctypes.create_string_buffer(min(high - low, 4 << 20))
            local, remote = Span(ctypes.addressof(here), len(here)), Span(low, len(here))
            if raw("process_vm_readv", pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) > 0:
                seen += hunt(here.raw)
"""),
    attack("spy", "another process under the debugger", """
import os, time
seen = -1
if raw("ptrace", 0x4206, $victim, 0, 0) == 0 or raw("ptrace", 16, $victim, 0, 0) == 0:
    seen = $flag
"""),
    attack("spy", "what two processes share, what the kernel logged, what another may use", """
limits = (ctypes.c_uint64 * 2)()
memory = ctypes.create_string_buffer(1 << 16)
granted = [raw("kcmp", $victim, $judge, 2, 0, 0) >= 0, raw("syslog", 3, memory, 65536) > 0, raw("prlimit64", $victim, 7, 0, limits) == 0]
seen = $flag if any(granted) else -1
"""),
    attack("starve", "priority above everybody", """
import os
granted = [raw("setpriority", 0, 0, -20) == 0, raw("sched_setscheduler", 0, 1, (ctypes.c_int * 1)(50)) == 0, raw("sched_setscheduler", 0, 2, (ctypes.c_int * 1)(50)) == 0]
seen = $flag if any(granted) else -1
"""),
    attack("starve", "other processes slowed, pinned and bounded", """
import os, resource
for deed in (lambda: os.setpriority(os.PRIO_PROCESS, $victim, 15), lambda: os.sched_setaffinity($victim, {0}),
             lambda: resource.prlimit($victim, resource.RLIMIT_NOFILE, (7, 7)), lambda: os.sched_setscheduler($victim, os.SCHED_IDLE, os.sched_param(0)),
             lambda: raw("ioprio_set", 1, $victim, 3 << 13)):
    try:
        deed()
    except OSError:
        pass
"""),
    attack("starve", "all memory pinned, and a sleep that no alarm ends", """
import time
raw("mlockall", 7)
raw("prctl", 38, 0, 0, 0, 0)
held = []
try:
    for _ in range(60):
        held.append(bytearray(16 << 20))
except MemoryError:
    pass
_libc.sleep(30)
""", "quiet"),
    attack("starve", "limits lifted before they are run into", """
import resource
for name in ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_DATA", "RLIMIT_MEMLOCK"):
    kind = getattr(resource, name)
    for bound in (lambda: resource.getrlimit(kind)[1], lambda: resource.RLIM_INFINITY):
        try:
            resource.setrlimit(kind, (bound(), bound()))
        except (OSError, ValueError):
            pass
held = []
try:
    for _ in range(30):
        held.append(bytearray(16 << 20))
    seen = $flag
except MemoryError:
    pass
"""),
    attack("starve", "processes until no more can be made", """
import os, time
made = 0
try:
    for _ in range(48):
        child(lambda: None)
        made += 1
except OSError:
    pass
seen = made
""", processes=8),
    attack("starve", "a bomb of two hundred forks, with threads in each", """
import os, threading, time
def work():
    for _ in range(20):
        threading.Thread(target=time.sleep, args=(40,), daemon=True).start()
made = 0
try:
    for _ in range(200):
        child(work)
        made += 1
except OSError:
    pass
seen = $flag if made > 100 else made
""", "never", processes=8),
    attack("starve", "vfork and a child that never gives back", """
import os, time
def solve(x):
    pid = raw("vfork") if os.uname().machine == "x86_64" else raw("clone", 0x4111, 0, 0, 0, 0)
    end = time.monotonic() + 40
    while pid == 0 and time.monotonic() < end:
        time.sleep(0.1)
    os._exit(0)
""", processes=8),
    attack("fill", "files in memory, each below the limit, together above it", """
import os
total, held, piece = 0, [], b"x" * (1 << 20)
try:
    while total < 420 << 20 and len(held) < 500:
        fd = raw("memfd_create", b"m", 0)
        if fd < 0:
            break
        held.append(fd)
        try:
            for _ in range(12):
                total += os.write(fd, piece)
        except OSError:
            pass
except OSError:
    pass
seen = $flag if total > 400 << 20 else total
"""),
    attack("fill", "shared memory segments that outlive everybody", """
got = [raw("shmget", $key, 4 << 20, 0o1666), raw("shmget", $key, 4096, 0o1666)]
got += [raw("msgget", $key, 0o1666), raw("semget", $key, 10, 0o1666)]
if got[2] >= 0:
    raw("msgsnd", got[2], ctypes.create_string_buffer(b"\\1\\0\\0\\0\\0\\0\\0\\0" + b"x" * 4000), 4000, 0o4000)
"""),
    attack("fill", "POSIX message queues", """
attributes = (ctypes.c_long * 8)(0, 10, 8192)
for number in range(3):
    fd = raw("mq_open", ($marker + "-" + str(number) * (number > 0)).rstrip("-").encode(), 0o102 , 0o666, attributes)
    if fd >= 0:
        raw("mq_timedsend", fd, b"x" * 8000, 8000, 1, 0)
"""),
    attack("fill", "memory of many children, each below the limit", """
import os, time
def eat():
    held = []
    try:
        for _ in range(11):
            held.append(b"x" * (16 << 20))
    except MemoryError:
        pass
    time.sleep(0.7)
for _ in range(6):
    child(eat, 0.5)
time.sleep(0.8)
""", processes=8),
    attack("fill", "keys of the kernel's keyrings up to the quota", """
got = 0
for ring in (-4, -3, -5):
    for number in range(30):
        key = raw("add_key", b"user", ($marker + str(number)).encode(), b"x" * 600, 600, ring)
        if key > 0:
            raw("keyctl", 15, key, 5)
            got += 1
        else:
            break
seen = $flag if got else -1
"""),
    attack("disturb", "a secret in the keyring for the next program", """
for ring in (-1, -2, -3, -4, -5):
    raw("keyctl", 15, raw("add_key", b"user", $marker.encode(), $flag.encode(), len($flag), ring), 5)
    raw("keyctl", 5, ring, 0x3f3f3f3f)
raw("keyctl", 1, 0)
""", "bites", """
buffer = ctypes.create_string_buffer(256)
for ring in (-1, -2, -3, -4, -5):
    key = raw("keyctl", 10, ring, b"user", $marker.encode(), 0)
    if key > 0 and raw("keyctl", 11, key, buffer, 255) > 0:
        seen = buffer.value.decode()
"""),
    attack("disturb", "a note in shared memory and queues for the next program", """
one = raw("shmget", $key, 4096, 0o1666)
if one >= 0:
    _libc.shmat.restype = ctypes.c_void_p
    at = _libc.shmat(one, None, 0)
    if at not in (None, ctypes.c_void_p(-1).value):
        ctypes.memmove(at, $flag.encode(), len($flag))
raw("mq_open", $marker.encode(), 0o102, 0o666, 0)
""", "bites", """
one = raw("shmget", $key, 4096, 0o666)
if one >= 0:
    _libc.shmat.restype = ctypes.c_void_p
    at = _libc.shmat(one, None, 0)
    if at not in (None, ctypes.c_void_p(-1).value):
        seen = ctypes.string_at(at, len($flag)).decode("latin1")
if raw("mq_open", $marker.encode(), 0, 0, 0) >= 0:
    seen = $flag
"""),
    attack("disturb", "limits, processors and priority of the mother", """
import os, resource
mother = os.getppid()
if mother != $judge:
    for deed in (lambda: resource.prlimit(mother, resource.RLIMIT_NOFILE, (4, 4)), lambda: resource.prlimit(mother, resource.RLIMIT_NPROC, (0, 0)),
                 lambda: resource.prlimit(mother, resource.RLIMIT_AS, (1 << 20, 1 << 20)), lambda: os.setpriority(os.PRIO_PROCESS, mother, 19),
                 lambda: os.sched_setaffinity(mother, {0}), lambda: os.setpriority(os.PRIO_USER, os.getuid(), 19) if os.getuid() else None,
                 lambda: resource.prlimit(mother, resource.RLIMIT_CPU, (1, 1)), lambda: os.sched_setscheduler(mother, os.SCHED_IDLE, os.sched_param(0))):
        try:
            deed()
        except OSError:
            pass
""", "quiet", """
import os, resource
if os.nice(0) > 10 or os.sched_getscheduler(0) == os.SCHED_IDLE or len(os.sched_getaffinity(0)) < min(2, os.cpu_count()):
    seen = $flag
"""),
    attack("disturb", "the mother under the debugger, or under advice on her memory", """
import os, time
mother = os.getppid()
if mother != $judge:
    for pid in (mother, 1, 2) if os.getuid() != 0 else (mother,):
        for request in (0x4206, 16):
            if raw("ptrace", request, pid, 0, 0) == 0:
                seen = $flag
                while True:
                    time.sleep(1)
""", "quiet"),
    attack("disturb", "settings of the machine: clock, swap, accounting, ctrl-alt-del, modules, another kernel", """
seen = -1
import errno, time
now = (ctypes.c_long * 2)(int(time.time()), 0)
refused = (-errno.EPERM, -errno.ENOSYS, -errno.EACCES)
for name, args in (("swapon", (b"/nonexistent", 0)), ("acct", (b"/nonexistent",)), ("init_module", (0, 0, b"")), ("kexec_load", (1, 0, 0, 0)), ("settimeofday", (0, 0))):
    if raw(name, *args) not in (*refused, *((0,) if name == "settimeofday" else ())):
        seen = $flag
if raw("reboot", 0xfee1dead, 672274793, 0, 0) == 0:
    seen = $flag
""", "never"),
    attack("daemonise", "a copy of itself by exec, under another name", """
import os, sys
def turn():
    os.setsid()
    os.execve("/bin/sleep", [$marker, "40"], {})
child(turn)
""", processes=8),
    attack("daemonise", "a child that shares the table of descriptors and none of the signals", """
import time
pid = raw("clone", 0x400, 0, 0, 0, 0)
if pid == 0 and raw("clone", 0x8000, 0, 0, 0, 0) >= 0:
    named()
    time.sleep(40)
    os._exit(0)
child(os.setsid)
""", processes=8),
    attack("daemonise", "processes that the parent cannot wait for", """
import os, signal, time
raw("prctl", 36, 1, 0, 0, 0)
raw("prctl", 4, 0, 0, 0, 0)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in range(3):
    child(lambda: raw("prctl", 1, 0, 0, 0, 0))
os._exit(0)
""", processes=8),
    attack("network", "a socket by its bare number", """
address = (2).to_bytes(2, "little") + int($tcp).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + b"\\0" * 8
fd = raw("socket", 2, 1, 0)
if fd >= 0:
    raw("connect", fd, address, 16)
"""),
    attack("network", "a socket by the 32-bit multiplexer", """
import ctypes, mmap, os
page = mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
base = ctypes.addressof(ctypes.c_char.from_buffer(page))
def word(*values):
    return b"".join(value.to_bytes(4, "little") for value in values)
def multiplex(call, *words):
    page[1024:1024 + 4 * len(words)] = word(*words)
    code = b"\\x53\\xb8" + word(102) + b"\\xbb" + word(call) + b"\\xb9" + word(base + 1024) + b"\\xcd\\x80\\x5b\\xc3"
    page[: len(code)] = code
    return ctypes.CFUNCTYPE(ctypes.c_int)(base)()
if os.uname().machine == "x86_64" and base < 1 << 32:
    page[2048:2064] = (2).to_bytes(2, "little") + int($tcp).to_bytes(2, "big") + bytes([127, 0, 0, 1]) + b"\\0" * 8
    fd = multiplex(1, 2, 1, 0)
    if fd >= 0:
        multiplex(3, fd, base + 2048, 16)
"""),
    attack("network", "odd families: vsock, bluetooth, xdp, alg, can, key", """
import socket
seen = -1
for family, kind in ((44, 3), (38, 5), (29, 3), (15, 3), (31, 3), (17, 2), (30, 1)):
    try:
        socket.socket(family, kind, 2 if family == 15 else 0).close()
        seen = $flag
    except OSError:
        pass
"""),
)  # fmt: skip
