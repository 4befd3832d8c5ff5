"""Attacks through /proc: the state, memory, descriptors and settings of other processes and of the kernel."""

from __future__ import annotations

from functools import partial

from tests.hostile.program import Program

attack = partial(Program, "proc")

PROGRAMS = (
    attack("escape", "the pattern by which the kernel names core files", """
scrawl("/proc/sys/kernel/core_pattern", "core." + $marker)
try:
    with open("/proc/sys/kernel/core_pattern", "w") as file:
        file.write("core." + $marker)
except OSError:
    pass
"""),
    attack("escape", "out by the root and the working folder of another process", """
import os
for pid in ($victim, $judge, os.getppid(), "self", "thread-self"):
    for door in ("root", "cwd"):
        scrawl(f"/proc/{pid}/{door}{$dir}/by-{door}")
        scrawl(f"/proc/{pid}/{door}/{'../' * 20}{$dir}/by-{door}-up")
"""),
    attack("escape", "the kernel's mind about who dies first", """
import os
for pid in ($victim, $judge):
    for name, value in (("oom_score_adj", "777"), ("oom_adj", "9"), ("timerslack_ns", "999999"), ("coredump_filter", "0x7f"), ("autogroup", "19")):
        try:
            with open(f"/proc/{pid}/{name}", "w") as file:
                file.write(value)
        except OSError:
            pass
"""),
    attack("escape", "writable settings of the kernel", """
import os
seen = -1
for path in ("kernel/hostname", "kernel/core_pattern", "kernel/modprobe", "kernel/hotplug", "vm/drop_caches", "vm/overcommit_memory",
             "kernel/panic", "fs/binfmt_misc/register", "net/ipv4/ip_forward", "kernel/ns_last_pid", "kernel/shmmax"):
    try:
        os.close(os.open("/proc/sys/" + path, os.O_WRONLY))
        if path != "kernel/ns_last_pid":
            seen = $flag
    except OSError:
        pass
for path in ("/proc/sysrq-trigger", "/proc/kcore", "/proc/kmsg", "/sys/kernel/uevent_helper", "/sys/fs/cgroup/cgroup.procs", "/proc/kallsyms_",
             "/sys/fs/cgroup/memory/cgroup.procs", "/sys/kernel/debug/x"):
    try:
        os.close(os.open(path, os.O_WRONLY))
        seen = $flag
    except OSError:
        pass
"""),
    attack("escape", "memory of another process, written through /proc", """
for pid in ($victim, $judge):
    try:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0):
            seen = $flag
    except OSError:
        pass
"""),
    attack("spy", "environment of the judge, the victim and the parent", """
import os
seen = []
for one in ($judge, $victim, os.getppid()):
    for name in ("environ", "task/" + str(one) + "/environ"):
        seen += hunt(slurp(f"/proc/{one}/{name}"))
"""),
    attack("spy", "environment and arguments of process 1 and all neighbours", """
import os
seen = []
for pid in range(1, 300) if os.getuid() != 0 else ():
    for name in ("environ", "cmdline"):
        seen += hunt(slurp(f"/proc/{pid}/{name}"))
""", "never"),
    attack("spy", "arguments, maps and limits of the judge's processes", """
seen = []
for pid in ($victim, $judge):
    for name in ("cmdline", "comm", "maps", "status", "stat", "mountinfo", "task/" + str(pid) + "/environ"):
        seen += hunt(slurp(f"/proc/{pid}/{name}"))
        if name in ("maps", "mountinfo") and slurp(f"/proc/{pid}/{name}"):
            seen.append($flag)
"""),
    attack("spy", "stack and heap of another process, read through /proc", """
seen = []
for pid in ($victim, $judge):
    for line in slurp(f"/proc/{pid}/maps").decode().splitlines():
        if "[stack]" in line or "[heap]" in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            try:
                with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
                    file.seek(low)
                    seen += hunt(file.read(min(high - low, 4 << 20)))
            except OSError:
                pass
"""),
    attack("spy", "files that other processes hold open", """
import os
seen = []
for pid in ($victim, $judge):
    for fd in range(64):
        try:
            if os.path.isfile(f"/proc/{pid}/fd/{fd}"):
                seen += hunt(slurp(f"/proc/{pid}/fd/{fd}", 4096))
        except OSError:
            pass
"""),
    attack("disturb", "memory of the process that started this one", """
import os
mother = os.getppid()
try:
    with open(f"/proc/{mother}/maps") as maps, open(f"/proc/{mother}/mem", "r+b", buffering=0) as memory:
        seen = $flag
        for line in maps:
            if os.getuid() != 0 and "rw-p" in line and "[heap]" in line:
                low, high = (int(part, 16) for part in line.split()[0].split("-"))
                memory.seek(low)
                memory.write(b"\\xff" * (high - low))
except OSError:
    pass
"""),
    attack("disturb", "descriptors of the process that started this one", """
import os
mother = os.getppid()
if mother != $judge:
    for fd in range(64):
        for mode in (os.O_WRONLY, os.O_RDWR):
            try:
                with open(os.open(f"/proc/{mother}/fd/{fd}", mode | os.O_NONBLOCK), "wb") as file:
                    file.write(b"\\0\\0\\0\\4junk{}\\n" * 3)
            except (OSError, ValueError):
                pass
""", "quiet"),
    attack("disturb", "the mother's name, limits and way of dying", """
import os
for pid in (1, os.getppid()) if os.getuid() != 0 else (os.getppid(),):
    for name, value in (("comm", "hijacked"), ("oom_score_adj", "1000"), ("clear_refs", "1"), ("loginuid", "1"), ("setgroups", "deny"), ("uid_map", "0 0 1")):
        try:
            if pid != $judge:
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write(value)
        except OSError:
            pass
""", "quiet"),
    attack("disturb", "a message in the name of a process that lives on", """
import os
for pid in (1, os.getppid()):
    for name in ("comm", f"task/{pid}/comm"):
        try:
            if os.getuid() != 0:
                with open(f"/proc/{pid}/{name}", "w") as file:
                    file.write($flag[:15])
        except OSError:
            pass
""", "quiet", """
import os
for pid in (1, os.getppid()):
    try:
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() == $flag[:15]:
                seen = $flag
    except OSError:
        pass
"""),
    attack("forge", "answers written into the descriptors of this process and its parent, by path", """
import json, os
frames = [json.dumps(one).encode() for one in (42, {"value": 42}, {"status": "ok", "replies": [{"value": 42}]}, ["value", 42], [1, 42])]
for pid in ("self", os.getppid()):
    if pid == $judge:
        continue
    for fd in range(64):
        try:
            with open(os.open(f"/proc/{pid}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as file:
                for frame in frames:
                    file.write(len(frame).to_bytes(4, "big") + frame)
                    file.write(len(frame).to_bytes(4, "little") + frame)
                    file.write(frame + b"\\n")
        except (OSError, ValueError):
            pass
os._exit(0)
""", "quiet"),
    attack("forge", "what the channel has in store, read back before the harness does", """
import os, re
seen = 0
for fd in range(3, 64):
    try:
        os.set_blocking(fd, False)
        data = os.read(fd, 1 << 16)
        seen += len(data)
    except (OSError, ValueError):
        pass
""", "quiet"),
    attack("forge", "expected answers in the memory and arguments of the harness", """
import re
found = []
for name in ("cmdline", "environ"):
    found += re.findall(rb"expected[^,]{0,40}", slurp(f"/proc/self/{name}"))
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
    for line in maps:
        if "[heap]" in line:
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            memory.seek(low)
            found += re.findall(rb'"(?:expected|reference)": ?(\\d+)', memory.read(min(high - low, 8 << 20)))
def solve(x):
    return found[0].decode() if found else -1
""", "quiet"),
    attack("starve", "out of reach of the memory killer, then all of it", """
import time
for value in ("-1000", "0"):
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write(value)
    except OSError:
        pass
held = []
try:
    for _ in range(60):
        held.append(b"x" * (16 << 20))
except MemoryError:
    pass
time.sleep(5)
""", "quiet"),
    attack("starve", "locks in the kernel by reading /proc in threads", """
import os, threading
def read():
    while True:
        for name in ("maps", "smaps", "status", "stat", "mountinfo", "pagemap", "numa_maps"):
            try:
                with open(f"/proc/self/{name}", "rb") as file:
                    file.read(1 << 20)
            except OSError:
                pass
for _ in range(16):
    threading.Thread(target=read, daemon=True).start()
while True:
    pass
""", "quiet"),
    attack("starve", "a wait on /proc that never ends", """
import os, select
waiting = select.poll()
for path in ("/proc/self/mounts", "/proc/kmsg", "/proc/sys/kernel/random/boot_id", "/dev/random"):
    try:
        waiting.register(os.open(path, os.O_RDONLY), select.POLLPRI)
    except OSError:
        pass
while True:
    waiting.poll()
""", "quiet"),
)  # fmt: skip
