"""Calls to the Linux kernel that Python has no name for: namespaces, mounts, capabilities, Landlock, seccomp.

Runs inside the sandbox, before the program does: standard library only. Everything raises `OSError` with the call's name.
Sources: unshare(2), mount(2), capabilities(7), seccomp(2), landlock(7).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x00020000, 0x08000000, 0x10000000, 0x20000000
RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)
_CAPSET = {"x86_64": 126, "aarch64": 91}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_LANDLOCK = 444  # landlock_create_ruleset, _add_rule and _restrict_self have the same numbers everywhere


def unshare(flags: int) -> None:
    """New namespaces for this process (for its children, where it is the process namespace)."""
    _check("unshare", _libc.unshare(flags))


def join(namespace: int, kind: int) -> None:
    """Enter the namespace of this descriptor (for children, where it is a process namespace)."""
    _check("setns", _libc.setns(namespace, kind))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount a file system, or bind a folder."""
    _check(
        f"mount {target}", _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    )


def die_with_parent() -> None:
    """Be killed when the parent ends."""
    _prctl("PR_SET_PDEATHSIG", 1, 9)


def renounce() -> None:
    """Give up every capability, and the way to any, for good."""
    for capability in range(64):
        if _libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP; EINVAL past the last one, EPERM where none can be had
            break
    _libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT, CLEAR_ALL
    header, data = struct.pack("Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this thread; nothing
    _check("capset", _libc.syscall(_CAPSET[os.uname().machine], header, data))
    _prctl("PR_SET_NO_NEW_PRIVS", 38, 1)


def install(program: bytes) -> None:
    """Let the kernel filter system calls, for this process and all it starts. Needs `renounce` first."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    _check("seccomp", _libc.syscall(_SECCOMP[os.uname().machine], 1, 0, header))


def landlock_version() -> int:
    """Which Landlock this kernel has; 0 for none."""
    return max(0, int(_libc.syscall(_LANDLOCK, None, 0, 1)))


def landlock(readable: Sequence[str], listed: Sequence[str]) -> int:
    """A descriptor of Landlock rules for `enter`: read beneath these paths, list the names beneath those, and nothing else with files.

    Reading is reading files and listing folders; nothing can be executed, written, made, removed, renamed or truncated anywhere.
    """
    version = landlock_version()
    if version < 1:
        raise OSError(95, "landlock: this kernel has none, or has it switched off")
    handled = (
        1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)
    ) - 1  # LANDLOCK_ACCESS_FS_*, by version
    networks = 3 if version >= 4 else 0  # TCP bind and connect
    scopes = 3 if version >= 6 else 0  # abstract sockets, signals
    attributes = struct.pack("QQQ", handled, networks, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _check("landlock_create_ruleset", _libc.syscall(_LANDLOCK, attributes, len(attributes), 0))
    for path in (*readable, *listed):
        try:
            at = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        reads = 4 | 8 if os.path.isdir(path) else 4 | 2 if path == os.devnull else 4  # READ_FILE, READ_DIR, WRITE_FILE
        allowed = 8 if path in listed else reads
        rule = struct.pack("=Qi", allowed, at)
        _check(f"landlock_add_rule {path}", _libc.syscall(_LANDLOCK + 1, rules, 1, rule, 0))
        os.close(at)
    return rules


def enter(rules: int) -> None:
    """Let these Landlock rules hold for this process, for good. Needs `renounce` first."""
    _check("landlock_restrict_self", _libc.syscall(_LANDLOCK + 2, rules, 0))


def _prctl(name: str, option: int, value: int) -> None:
    _check(name, _libc.prctl(option, value, 0, 0, 0))


def _check(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
