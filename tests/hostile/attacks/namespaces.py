"""Attacks through namespaces and mounts: new ones to gain rights in, old ones to leave by."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "namespaces")

PROGRAMS = (
    attack("escape", "a user namespace of its own, with all capabilities", """
seen = $flag if raw("unshare", 0x10000000) == 0 else -1
"""),
    attack("escape", "a user namespace by clone, by clone3 and by an i386 call", """
import mmap, signal
seen = -1
pid = raw("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    os._exit(0)
if pid > 0:
    seen = $flag
words = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, signal.SIGCHLD)
pid = raw("clone3", words, ctypes.sizeof(words))
if pid == 0:
    os._exit(0)
if pid > 0:
    seen = $flag
""", processes=8),
    attack("escape", "the namespaces of process 1 and of other processes", """
import os
seen = -1
for pid in ($victim, $judge, os.getppid()):
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        try:
            fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        except OSError:
            continue
        if raw("setns", fd, 0) == 0:
            scrawl($dir + "/by-setns")
            if os.getppid() != $judge or kind == "mnt":
                seen = $flag
"""),
    attack("escape", "chroot, and the classic way out of one", """
import os
for place in ("/tmp", ".", $dir):
    try:
        os.mkdir(f"{place}/{$marker}")
    except OSError:
        pass
    try:
        os.chroot(f"{place}/{$marker}")
        for _ in range(64):
            os.chdir("..")
        os.chroot(".")
        scrawl($dir + "/by-chroot")
    except OSError:
        pass
"""),
    attack("escape", "mounts: a bind, a fresh /proc, an overlay, a new root", """
import os
seen = -1
for source, target, kind, flags in ((b"/", b"/tmp", b"", 4096), (b"proc", b"/proc", b"proc", 0), (b"none", b"/tmp", b"tmpfs", 0), (b"x", b"/tmp", b"sysfs", 0),
                                    (b"none", b"/", b"", 1 << 5 | 4096), (b"overlay", b"/tmp", b"overlay", 0)):
    if raw("mount", source, target, kind, flags, 0) == 0:
        seen = $flag
if raw("pivot_root", b"/tmp", b"/tmp") == 0:
    seen = $flag
""", "never"),
    attack("escape", "the new mount calls: fsopen and open_tree", """
seen = -1
for name, args in (("fsopen", (b"tmpfs", 0)), ("open_tree", (-100, b"/", 1))):
    if raw(name, *args) >= 0:
        seen = $flag
"""),
    attack("network", "a network namespace of its own, or the machine's", """
import socket
if raw("unshare", 0x40000000) == 0 or raw("unshare", 0x10000000 | 0x40000000) == 0:
    seen = $flag
"""),
    attack("network", "the network of another process, entered by pidfd", """
import os, socket
for pid in ($victim, $judge):
    handle = raw("pidfd_open", pid, 0)
    if handle >= 0:
        for kind in (0x40000000, 0x10000000 | 0x40000000, 0x00020000 | 0x40000000):
            if raw("setns", handle, kind) == 0:
                knock((socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", $tcp)))
"""),
    attack("network", "a new interface in a new user namespace, to speak raw on", """
import socket
got = raw("unshare", 0x10000000 | 0x40000000)
try:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as door:
        seen = $flag
except OSError:
    pass
"""),
    attack("spy", "a mount namespace of another process, for its files", """
import os
seen = []
for pid in ($victim, $judge, os.getppid()):
    try:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
        raw("setns", fd, 0)
        seen += hunt(slurp($secret_file))
        seen += hunt(slurp(f"/proc/{pid}/root{$secret_file}"))
    except OSError:
        pass
"""),
    attack("spy", "a new /proc over the old one", """
import os
seen = []
raw("unshare", 0x10000000 | 0x00020000)
try:
    with open("/proc/self/uid_map", "w") as file:
        file.write(f"0 {os.getuid()} 1")
except OSError:
    pass
if os.getpid() < 100 and raw("mount", b"proc", b"/tmp", b"proc", 0, 0) == 0:
    for pid in ($victim, $judge):
        seen += hunt(slurp(f"/tmp/{pid}/environ"))
    seen.append($flag)
""", "never"),
    attack("spy", "what was mounted over, seen again by a detached copy", """
import os
seen = []
tree = raw("open_tree", -100, b"/", 1)
if tree >= 0:
    try:
        fd = os.open($secret_file.lstrip("/"), os.O_RDONLY, dir_fd=tree)
        seen += hunt(os.read(fd, 4096))
    except OSError:
        pass
"""),
    attack("disturb", "the name of the machine", """
if raw("sethostname", $marker.encode(), len($marker)) == 0:
    seen = $flag
""", "never"),
    attack("disturb", "a mount over the mother's folders, seen by the next program", """
for target in (b"/tmp", b"/usr", b"/proc", b"/dev", b"/lib"):
    raw("mount", b"none", target, b"tmpfs", 0, 0)
    raw("mount", b"none", target, b"", 1 << 18 | 16384, 0)
raw("chroot", b"/tmp")
""", "never"),
    attack("disturb", "a time and cgroup namespace, and the way up through cgroup files", """
import os
seen = -1
for kind in (0x00000080, 0x02000000, 0x08000000, 0x04000000):
    if raw("unshare", kind) == 0:
        seen = $flag
for place in ("memory", "pids", "unified", "."):
    try:
        os.mkdir(f"/sys/fs/cgroup/{place}/{$marker}")
        os.rmdir(f"/sys/fs/cgroup/{place}/{$marker}")
        seen = $flag
    except OSError:
        pass
"""),
    attack("daemonise", "a process 1 in a pid namespace of its own", """
import os
raw("unshare", 0x10000000 | 0x20000000)
child(os.setsid)
""", processes=8),
    attack("daemonise", "a child that is the parent's sibling", """
import signal, time
pid = raw("clone", 0x8000 | signal.SIGCHLD, 0, 0, 0, 0)
if pid == 0:
    named()
    time.sleep(40)
    os._exit(0)
child(lambda: None, 0.01)
""", processes=8),
    attack("daemonise", "a child by clone3 that joins no group", """
import signal, time
words = (ctypes.c_uint64 * 11)(0x8000 * 0, 0, 0, 0, 0)
pid = raw("clone3", words, 64)
if pid == 0:
    os.setsid()
    named()
    time.sleep(40)
    os._exit(0)
child(os.setsid)
""", processes=8),
    attack("fill", "a memory file system of its own, without bounds", """
import os
seen = -1
raw("unshare", 0x10000000 | 0x00020000)
if os.getpid() < 100 and raw("mount", b"none", b"/tmp", b"tmpfs", 0, 0) == 0:
    seen = $flag
""", "never"),
    attack("fill", "nested user namespaces up to the machine's quota", """
depth = 0
while depth < 33 and raw("unshare", 0x10000000) == 0:
    depth += 1
seen = $flag if depth else -1
"""),
    attack("fill", "message queues and shared memory in an ipc namespace of its own", """
raw("unshare", 0x10000000 | 0x08000000)
got = [raw("shmget", 0, 32 << 20, 0o1600) for _ in range(8)]
seen = $flag if min(got) >= 0 else -1
if seen != -1:
    for one in got:
        _libc.shmctl(one, 0, None)
"""),
)  # fmt: skip
