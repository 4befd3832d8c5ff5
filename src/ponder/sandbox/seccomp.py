"""The system calls that a sandboxed program may make, as a filter for the kernel (classic BPF).

An allow-list: what is not named here does not exist (ENOSYS), so a system call that a later kernel brings is refused, too. What is
allowed is what CPython, its standard library and threads need. Runs inside the sandbox as well: standard library only.
Source: seccomp(2), Linux Documentation/userspace-api/seccomp_filter.rst; numbers as libseccomp resolves them (a test compares).
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

_ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, column of the tables below


class Rules(NamedTuple):
    """What differs between programs. processes: may it start any? writes: has it a folder of its own to change?

    only: the one process it may signal; None where a process namespace keeps all others out of reach.
    """

    processes: bool = False
    writes: bool = True
    only: int | None = None


def supported() -> bool:
    """Whether there is a filter for this machine."""
    return platform.machine() in _ARCH


@cache
def build(rules: Rules) -> bytes:
    """The filter as an array of `struct sock_filter`, for this machine.

    Raises:
        OSError: a machine without a table of system calls.
    """
    machine = platform.machine()
    if machine not in _ARCH:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}; there are {', '.join(_ARCH)}")
    arch, column = _ARCH[machine]
    allow, refuse = [_return(_ALLOW)], [_return(_error(errno.EPERM))]
    bodies: dict[int, list[bytes]] = {}
    for names, body in ((_PLAIN, allow), (_CHANGING, allow if rules.writes else refuse), (_SPECIAL, None)):
        for name, numbers in _table(names).items():
            number = numbers[column]
            if number is not None:
                bodies[number] = body or _special(name, rules)
    code = [_load(4), _jump(_EQ, arch, 1, 0), _return(_KILL), _load(0)]
    if machine == "x86_64":
        code += [_jump(_GE, 0x40000000, 0, 1), _return(_KILL)]  # the x32 calls share the architecture's word
    ordered = sorted(bodies)
    for at in range(0, len(ordered), _BLOCK):
        block = ordered[at : at + _BLOCK]
        tests = [line for number in block for line in (_jump(_EQ, number, 0, len(bodies[number])), *bodies[number])]
        tests.append(_return(_error(errno.ENOSYS)))
        code += [_jump(_GE, block[-1] + 1, len(tests), 0), *tests]
    code.append(_return(_error(errno.ENOSYS)))
    return b"".join(code)


def _special(name: str, rules: Rules) -> list[bytes]:
    refuse, allow = _return(_error(errno.EPERM)), _return(_ALLOW)
    match name:
        case "clone3":
            return [_return(_error(errno.ENOSYS))]  # its flags lie in memory, out of a filter's sight; glibc falls back to clone
        case "clone":
            flags = [_load(16), _jump(_SET, _NEW_NAMESPACES, 0, 1), refuse]
            return [*flags, allow] if rules.processes else [*flags, _jump(_SET, _CLONE_THREAD, 0, 1), allow, refuse]
        case "fork" | "vfork" | "execve" | "setsid" | "setpgid":
            return [allow if rules.processes else refuse]
        case "socketpair":  # of a connected kind: a datagram socket can be sent from to any address
            family = [_load(16), _jump(_EQ, _AF_UNIX, 1, 0), _return(_error(errno.EAFNOSUPPORT))]
            return [*family, *_one_of(1, _CONNECTED, refuse)]
        case "sendto":
            address = [_load(16 + 8 * 4), _jump(_EQ, 0, 1, 0), refuse, _load(16 + 8 * 4 + 4), _jump(_EQ, 0, 1, 0), refuse]
            return [*address, _load(16 + 8 * 3), _jump(_SET, _MSG_OOB, 0, 1), refuse, allow]
        case "setsockopt":  # a socket's buffer is memory that no limit of a process counts
            return _one_of(2, _BUFFERS, allow, refuse)
        case "ioctl":
            return _one_of(1, _IOCTLS, _return(_error(errno.ENOTTY)))
        case "fcntl":
            return _one_of(1, _FCNTLS, refuse)  # not F_SETOWN and F_SETSIG, which send any signal to anybody
        case "prctl":
            return _one_of(0, _PRCTLS, refuse)
        case "prlimit64":
            return _one_of(0, (0,), refuse)  # itself
        case "kill" | "tgkill":
            return [allow] if rules.only is None else _one_of(0, (rules.only,), refuse)
        case _:  # tkill: names a thread, which a filter cannot tell from another process's
            return [allow if rules.only is None else refuse]


_BLOCK = (
    12  # numbers between two jumps ahead: the kernel walks the filter once for every system call there is, when it is installed
)
_ALLOW, _KILL = 0x7FFF0000, 0x80000000  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
_EQ, _GE, _SET = 0x15, 0x35, 0x45  # BPF_JMP | BPF_K with BPF_JEQ, BPF_JGE, BPF_JSET
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid, net
_AF_UNIX = 1
_CONNECTED = tuple(kind | flags for kind in (1, 5) for flags in (0, 0x800, 0x80000, 0x80800))  # SOCK_STREAM, SOCK_SEQPACKET
_MSG_OOB = 1
_BUFFERS = (7, 8, 32, 33)  # SO_SNDBUF SO_RCVBUF SO_SNDBUFFORCE SO_RCVBUFFORCE
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032, 1034)  # duplicates, flags, locks, F_GETPIPE_SZ, F_GET_SEALS
_PRCTLS = (15, 16, 0x53564D41)  # PR_SET_NAME PR_GET_NAME PR_SET_VMA


def _instruction(code: int, jt: int, jf: int, k: int) -> bytes:
    return struct.pack("<HBBI", code, jt, jf, k)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)  # BPF_LD | BPF_W | BPF_ABS: a word of struct seccomp_data


def _jump(test: int, k: int, yes: int, no: int) -> bytes:
    return _instruction(test, yes, no, k)


def _return(action: int) -> bytes:
    return _instruction(0x06, 0, 0, action)


def _error(number: int) -> int:
    return 0x00050000 | number  # SECCOMP_RET_ERRNO


def _one_of(argument: int, values: Sequence[int], otherwise: bytes, then: bytes = b"") -> list[bytes]:
    """Allow (or `then`) if the low word of an argument is one of these: the kernel takes it for an int or an unsigned int.

    Like every body it ends in returns, so that the number still stands in the register for the tests that follow.
    """
    tests = [_jump(_EQ, value, len(values) - at, 0) for at, value in enumerate(values)]
    return [_load(16 + 8 * argument), *tests, otherwise, then or _return(_ALLOW)]


def _table(names: str) -> dict[str, tuple[int | None, int | None]]:
    rows = (entry.split(":") for entry in names.split())
    return {name: (int(x86) if x86 else None, int(arm) if arm else None) for name, x86, arm in rows}


# name : number on x86_64 : number on aarch64
_PLAIN = """
    read:0:63 write:1:64 futex:202:98 mmap:9:222 munmap:11:215 brk:12:214 close:3:57 newfstatat:262:79 fstat:5:80 openat:257:56
    lseek:8:62 clock_gettime:228:113 rt_sigprocmask:14:135 rt_sigaction:13:134 madvise:28:233 mprotect:10:226 getrandom:318:278
    poll:7:
    readv:19:65 writev:20:66 pread64:17:67 pwrite64:18:68 preadv:295:69 pwritev:296:70 close_range:436:436 statx:332:291
    fstatfs:138:44 statfs:137:43 open:2: stat:4: lstat:6: access:21: faccessat:269:48 faccessat2:439:439 getdents:78:
    getdents64:217:61 readlink:89: readlinkat:267:78 flock:73:32 dup:32:23 dup2:33: dup3:292:24 pipe:22: pipe2:293:59
    ppoll:271:73 select:23: pselect6:270:72 epoll_create:213: epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232:
    epoll_pwait:281:22 epoll_pwait2:441:441 eventfd:284: eventfd2:290:19 timerfd_create:283:85 timerfd_settime:286:86
    timerfd_gettime:287:87 fsync:74:82 fdatasync:75:83 umask:95:166 chdir:80:49 fchdir:81:50 getcwd:79:17 sendfile:40:71
    copy_file_range:326:285 fadvise64:221:223 mremap:25:216 msync:26:227 mincore:27:232 rt_sigreturn:15:139
    rt_sigpending:127:136 rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 pause:34: alarm:37:
    setitimer:38:103 getitimer:36:102 nanosleep:35:101 clock_nanosleep:230:115 clock_getres:229:114 gettimeofday:96:169
    time:201: times:100:153 timer_create:222:107 timer_settime:223:110 timer_gettime:224:108 timer_delete:226:111
    timer_getoverrun:225:109 getpid:39:172 gettid:186:178 getppid:110:173 getuid:102:174 geteuid:107:175 getgid:104:176
    getegid:108:177 getresuid:118:148 getresgid:120:150 getgroups:115:158 getpgrp:111: getpgid:121:155 getsid:124:156
    sched_yield:24:124 sched_getaffinity:204:123 sched_getparam:143:121 sched_getscheduler:145:120
    sched_get_priority_max:146:125 sched_get_priority_min:147:126 getpriority:140:141 getrlimit:97:163 setrlimit:160:164
    getrusage:98:165 sysinfo:99:179 uname:63:160 getcpu:309:168 arch_prctl:158: futex_waitv:449:449 set_robust_list:273:99
    get_robust_list:274:100 set_tid_address:218:96 rseq:334:293 restart_syscall:219:128 exit:60:93 exit_group:231:94
    wait4:61:260 waitid:247:95 recvfrom:45:207 shutdown:48:210 getsockname:51:204
    getpeername:52:205 getsockopt:55:209
"""
_CHANGING = """
    mkdir:83: mkdirat:258:34 rmdir:84: unlink:87: unlinkat:263:35 rename:82: renameat:264:38 renameat2:316:276 truncate:76:45
    link:86: linkat:265:37 symlink:88: symlinkat:266:36 chmod:90: fchmod:91:52 fchmodat:268:53 utime:132: utimes:235:
    utimensat:280:88 futimesat:261: ftruncate:77:46 fallocate:285:47
"""
_SPECIAL = """
    clone:56:220 clone3:435:435 fork:57: vfork:58: execve:59:221 setsid:112:157 setpgid:109:154 socketpair:53:199 sendto:44:206 setsockopt:54:208 ioctl:16:29
    prctl:157:167 prlimit64:302:261 kill:62:129 tkill:200:130 tgkill:234:131 fcntl:72:25
"""
