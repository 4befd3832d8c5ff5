"""The system call filter, run by an interpreter of its own byte code, and its numbers against libseccomp's."""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import platform
import struct

import pytest

from ponder.sandbox import seccomp
from ponder.sandbox.seccomp import Rules

if not seccomp.supported():
    pytest.skip(f"no filter for {platform.machine()}", allow_module_level=True)

ARCH, COLUMN = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}[platform.machine()]
NAMES = seccomp._table(seccomp._PLAIN + seccomp._CHANGING + seccomp._SPECIAL)
NUMBER = {name: both[COLUMN] for name, both in NAMES.items() if both[COLUMN] is not None}
ALLOW, KILL = "allow", "kill"


def verdict(rules, number, *arguments, arch=ARCH):
    """What the filter says of a call: a slow reading of classic BPF as seccomp(2) and the kernel's filter.rst define it."""
    data = struct.pack("<iIQ6Q", number, arch, 0, *(list(arguments) + [0] * 6)[:6])
    code = seccomp.build(rules)
    program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
    word, at = 0, 0
    while True:
        operation, yes, no, k = program[at]
        at += 1
        if operation == 0x20:
            word = struct.unpack_from("<I", data, k)[0]
        elif operation == 0x06:
            return ALLOW if k == 0x7FFF0000 else KILL if k == 0x80000000 else k & 0xFFFF
        else:
            held = {0x15: word == k, 0x35: word >= k, 0x45: bool(word & k)}[operation]
            at += yes if held else no


def test_numbers_are_those_of_libseccomp():
    path = ctypes.util.find_library("seccomp")
    if path is None:
        pytest.skip("libseccomp is not installed")
    resolve = ctypes.CDLL(path).seccomp_syscall_resolve_name_arch
    resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    for name, (x86, arm) in NAMES.items():
        for arch, number in ((0xC000003E, x86), (0xC00000B7, arm)):
            found = resolve(arch, name.encode())
            assert (found if found >= 0 else None) == number, name


@pytest.mark.parametrize("name", ["read", "mmap", "exit_group", "futex", "getrandom", "clock_gettime", "rt_sigreturn"])
def test_what_python_needs_is_allowed(name):
    assert verdict(Rules(), NUMBER[name]) == ALLOW


def test_whatever_is_not_named_does_not_exist():
    named = set(NUMBER.values())
    unnamed = [number for number in range(600) if number not in named]
    assert len(unnamed) > 400
    assert {verdict(Rules(processes=True), number) for number in unnamed} == {errno.ENOSYS}


def test_the_kernel_walks_a_short_way_through_the_filter_whatever_the_call():
    for rules in (Rules(), Rules(processes=True), Rules(writes=False, only=4242)):
        walked = 0
        code = seccomp.build(rules)
        program = [struct.unpack_from("<HBBI", code, at) for at in range(0, len(code), 8)]
        for number in range(500):
            word, at, steps = number, 4, 0  # the architecture is right
            while program[at][0] != 0x06:
                operation, yes, no, k = program[at]
                word = number if operation == 0x20 else word
                at += 1 + (
                    0 if operation == 0x20 else yes if {0x15: word == k, 0x35: word >= k, 0x45: bool(word & k)}[operation] else no
                )
                steps += 1
            walked = max(walked, steps)
        assert walked < 60


def test_another_architecture_is_killed():
    assert verdict(Rules(), NUMBER["read"], arch=0x40000003) == KILL  # i386, which int 0x80 reaches
    if platform.machine() == "x86_64":
        assert verdict(Rules(), 0x40000000 | NUMBER["read"]) == KILL  # x32


THREAD = 0x00010000 | 0x100 | 0x200 | 0x400 | 0x800  # CLONE_THREAD and what must come with it


def test_threads_are_free_and_processes_only_where_they_are_allowed():
    for rules in (Rules(), Rules(processes=True)):
        assert verdict(rules, NUMBER["clone"], THREAD) == ALLOW
        assert verdict(rules, NUMBER["clone3"], 0) == errno.ENOSYS
    fork = 0x01200011  # what fork(3) passes to clone
    for name, arguments in [("clone", (fork,)), ("execve", ()), ("setsid", ()), ("fork", ()), ("vfork", ())]:
        if name in NUMBER:
            assert verdict(Rules(), NUMBER[name], *arguments) == errno.EPERM
            assert verdict(Rules(processes=True), NUMBER[name], *arguments) == ALLOW


@pytest.mark.parametrize("flag", [0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
def test_no_new_namespace_is_made_by_clone(flag):
    assert verdict(Rules(processes=True), NUMBER["clone"], 0x11 | flag) == errno.EPERM
    assert verdict(Rules(), NUMBER["clone"], THREAD | flag) == errno.EPERM


def test_without_a_process_namespace_only_itself_can_be_signalled():
    rules = Rules(only=4242)
    for name in ("kill", "tgkill"):
        assert verdict(rules, NUMBER[name], 4242, 9) == ALLOW
        for other in (1, 4241, 0, -1 & 0xFFFFFFFF, -4242 & 0xFFFFFFFF):
            assert verdict(rules, NUMBER[name], other, 9) == errno.EPERM
    assert verdict(rules, NUMBER["tkill"], 4242, 9) == errno.EPERM
    assert verdict(Rules(), NUMBER["kill"], 1, 9) == ALLOW


def test_files_are_changed_only_where_there_is_a_folder_of_its_own():
    for name in ("mkdirat", "unlinkat", "fchmodat", "renameat2", "utimensat", "ftruncate"):
        assert verdict(Rules(), NUMBER[name]) == ALLOW
        assert verdict(Rules(writes=False), NUMBER[name]) == errno.EPERM


def test_arguments_decide_where_a_call_does_many_things():
    rules = Rules(processes=True)
    for kind in (1, 5, 1 | 0x80000, 5 | 0x80800):  # SOCK_STREAM and SOCK_SEQPACKET, with flags
        assert verdict(rules, NUMBER["socketpair"], 1, kind) == ALLOW
    for kind in (2, 3, 2 | 0x80000):  # SOCK_DGRAM, SOCK_RAW: sent from to any address
        assert verdict(rules, NUMBER["socketpair"], 1, kind) == errno.EPERM
    assert verdict(rules, NUMBER["sendto"], 3, 0, 1, 0x4000, 0, 0) == ALLOW  # MSG_NOSIGNAL
    assert verdict(rules, NUMBER["sendto"], 3, 0, 1, 1, 0, 0) == errno.EPERM  # MSG_OOB
    for address in (0x1000, 1 << 40):
        assert verdict(rules, NUMBER["sendto"], 3, 0, 1, 0, address, 16) == errno.EPERM
    assert verdict(rules, NUMBER["socketpair"], 2) == errno.EAFNOSUPPORT
    assert verdict(rules, NUMBER["setsockopt"], 3, 1, 9) == ALLOW  # SO_KEEPALIVE
    assert {verdict(rules, NUMBER["setsockopt"], 3, 1, option) for option in (7, 8, 32, 33)} == {errno.EPERM}
    assert verdict(rules, NUMBER["ioctl"], 0, 0x5401) == ALLOW
    assert verdict(rules, NUMBER["ioctl"], 0, 0x5412) == errno.ENOTTY  # TIOCSTI
    assert verdict(rules, NUMBER["fcntl"], 0, 3) == ALLOW
    assert verdict(rules, NUMBER["fcntl"], 0, 8) == errno.EPERM  # F_SETOWN
    assert verdict(rules, NUMBER["prctl"], 15) == ALLOW
    assert verdict(rules, NUMBER["prctl"], 4) == errno.EPERM  # PR_SET_DUMPABLE
    assert verdict(rules, NUMBER["prlimit64"], 0) == ALLOW
    assert verdict(rules, NUMBER["prlimit64"], 77) == errno.EPERM
    assert verdict(rules, NUMBER["ioctl"], 0, 0x100005401) == ALLOW  # the kernel reads the low word, too
