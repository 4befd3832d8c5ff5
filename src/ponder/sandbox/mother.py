"""The trusted side of a room's mother process: how she is started for each tier, and how she is asked for a program.

bubblewrap   in an empty file system, without network, as a user who owns nothing; each program in namespaces of its own
landlock     where namespaces are blocked: the kernel confines each program to reading the standard library; no work folder
plain        no walls but limits: for sources of ours alone, or by explicit leave
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import site
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Literal, TypeAlias

from ponder.errors import SetupError
from ponder.sandbox import kernel, seccomp
from ponder.sandbox.core import Limits

Tier: TypeAlias = Literal["bubblewrap", "landlock", "plain"]

NOBODY = 65533  # who a mother that root starts becomes: an id that no system account has
SAMPLES = (210_000, 50_000)  # first and number of the ids that programs get, one each, where root starts them without namespaces
_READY = 20.0  # seconds a mother may take to start, on a busy machine with heavy modules to import
_LANDLOCK = 3  # least version: before it, what may be read could be truncated by its owner
_MODULES = ("kernel", "seccomp", "wire", "guest", "zygote", "launch")
_BOOT = """
import json, socket, sys, types
control = socket.socket(fileno=int(sys.argv[1]))
order = json.loads(control.recv(1 << 18))
for name in ("ponder", "ponder.sandbox"):
    sys.modules[name] = types.ModuleType(name)
for name, source in order["modules"]:
    module = types.ModuleType("ponder.sandbox." + name)
    sys.modules[module.__name__] = module
    setattr(sys.modules["ponder.sandbox"], name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
if order["launch"]:
    control.detach()
    module.go(order["launch"])
sys.modules["ponder.sandbox.zygote"].serve(control, order["setup"])
"""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a mother is made from. preload: modules imported once, for all programs; their packages are readable, as are these others."""

    tier: Tier
    preload: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()


class MotherDied(SetupError):
    """The process that all programs of a room come from died under one of them: nobody's wrong answer. The next call starts another."""


class Mother:
    """One mother process. Thread-safe. Ends when closed, or when this process ends, however it ends."""

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint
        self._lock = threading.Lock()
        self._control, self._process = _start(blueprint)

    def bear(self, limits: Limits, fds: Sequence[int], *, grouped: bool) -> None:
        """Ask for a program; the descriptors are answer channel, report, and standard input, output and error if it has any.

        Raises `MotherDied`.
        """
        job = {
            "seconds": limits.seconds,
            "memory": limits.memory,
            "disk": limits.disk,
            "processes": limits.processes,
            "grouped": grouped,
        }
        with self._lock:
            try:
                socket.send_fds(self._control, [json.dumps(job).encode()], list(fds))
            except (BrokenPipeError, ConnectionResetError):
                raise self.died() from None

    def close(self) -> None:
        """End her; programs that still run die with her."""
        self._control.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def died(self) -> MotherDied:
        """Make sure that she is; the error to raise."""
        self._process.kill()
        self._process.wait()
        return MotherDied(
            f"sandbox {self.blueprint.tier}: its mother process died, and the program with her; was the machine out of memory?"
        )

    def forget(self) -> None:
        """Let go of her in a fork of the process that made her, so that she still ends with that one."""
        self._control.close()
        self._process.returncode = 0  # not this process's child: nothing to wait for

    @property
    def ended(self) -> bool:
        """Whether she is dead."""
        return self._process.poll() is not None

    @property
    def pid(self) -> int:
        """Of the outermost process of hers, on this machine."""
        return self._process.pid


def missing(tier: Tier) -> str:
    """What the tier lacks on this machine, as far as it can be seen without trying; "" for nothing."""
    if tier == "plain":
        return ""
    if sys.platform != "linux":
        return f"needs Linux, this is {sys.platform}"
    if not seccomp.supported():
        return f"has no system call filter for {os.uname().machine}"
    if tier == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed (apt install bubblewrap, dnf install bubblewrap)"
    if tier == "landlock" and kernel.landlock_version() < _LANDLOCK:
        return "this kernel has no Landlock that guards files from being cut short (Linux 6.2 or later, not switched off by lsm=)"
    return ""


def _start(blueprint: Blueprint) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    lack = missing(blueprint.tier)
    if lack:
        raise SetupError(f"sandbox {blueprint.tier}: {lack}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    root, walled = os.geteuid() == 0, blueprint.tier != "plain"
    program = [_interpreter(), "-s", "-S", "-P", "-B", "-c", _BOOT, str(theirs.fileno())]
    readable = _readable(blueprint)
    masked = _masked(readable)
    packages = _packages((*blueprint.preload, *blueprint.packages))
    # A program's own folder must not cover what it is to read: an environment may lie beneath /tmp.
    folder = "/work" if any(path.startswith("/tmp/") for path in [*readable, *packages, program[0]]) else "/tmp"
    argv = _bubblewrap(program, readable, masked, packages, folder) if blueprint.tier == "bubblewrap" else program
    orders: list[dict[str, object]] = []
    if root and walled:
        uid = NOBODY if blueprint.tier == "bubblewrap" else None
        covers, binds = _unreachable([*readable, *packages, program[0]])
        orders.append({"launch": {"covers": covers, "binds": binds, "uid": uid, "argv": argv}})
        argv = program
    uids = list(SAMPLES) if root and blueprint.tier == "landlock" else []
    paths = list(dict.fromkeys(os.path.dirname(path) for path in packages))
    allowed, listed = _around(readable, masked) if blueprint.tier == "landlock" else (readable, [])
    folder = folder if blueprint.tier == "bubblewrap" else "/"
    setup = {
        "tier": blueprint.tier,
        "folder": folder,
        "readable": [*allowed, *packages],
        "listed": listed,
        "preload": list(blueprint.preload),
        "paths": paths,
        "uids": uids,
    }
    orders.append({"launch": None, "setup": setup})
    modules = [(name, resources.files("ponder.sandbox").joinpath(f"{name}.py").read_text("utf-8")) for name in _MODULES]
    environment = {
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
    }  # and nothing of ours: /proc shows the environment of the first process
    with os.fdopen(os.memfd_create("said"), "r+b") as said, theirs:
        process = subprocess.Popen(
            argv,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        try:
            for order in orders:
                ours.send(json.dumps({"modules": modules, **order}).encode())
            ours.settimeout(_READY)
            if ours.recv(16) != b"ready":
                raise OSError("it ended at once")
            ours.settimeout(None)
        except OSError as error:
            process.kill()
            process.wait()
            ours.close()
            said.seek(0)
            last = said.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise SetupError(f"sandbox {blueprint.tier}: cannot be started: {last or error}") from None
    return ours, process


def _interpreter() -> str:
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _packages(modules: Sequence[str]) -> list[str]:
    """What the distributions of these modules, and all that they require, have installed: files and folders of site-packages.

    Not the whole folder: benchmarks are packages, too, and hold their answers.
    """
    providers = metadata.packages_distributions()
    wanted = [name for module in modules for name in providers.get(module.partition(".")[0], ())]
    found: dict[str, None] = {}
    known: set[str] = set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in known:
            continue
        known.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            one = metadata.distribution(name)
            wanted += [_REQUIRED.match(line)[0] for line in one.requires or () if "extra ==" not in line]  # type: ignore[index]  # every requirement begins with a name
            tops = {file.parts[0] for file in one.files or () if file.parts and file.parts[0] not in ("..", "__pycache__")}
            found |= {path: None for top in sorted(tops) if os.path.exists(path := str(one.locate_file(top)))}
    return list(found)


_REQUIRED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _readable(blueprint: Blueprint) -> list[str]:
    """Interpreter, standard library, shared libraries, time zones; packages where they are asked for. None is inside another."""
    wanted = [
        sysconfig.get_paths()["stdlib"],
        f"{sys.base_prefix}/lib",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/etc/ld.so.cache",
    ]
    wanted += [
        "/usr/share/zoneinfo",
        "/dev/null",
        "/dev/zero",
        "/dev/urandom",
        *_packages((*blueprint.preload, *blueprint.packages)),
    ]
    there = [path for path in dict.fromkeys(wanted) if os.path.exists(path)]
    return [path for path in there if not any(path != other and path.startswith(f"{other}/") for other in there)]


def _masked(readable: Sequence[str]) -> list[str]:
    """Folders of installed packages that lie beneath what is readable, such as those of an interpreter outside any environment."""
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    candidates = [stdlib / "site-packages", stdlib / "dist-packages", stdlib.parent / "python3" / "dist-packages"]
    candidates += [Path(folder) for folder in (*sysconfig.get_paths().values(), *site.getsitepackages())]
    folders = [str(one) for one in candidates if one.name in ("site-packages", "dist-packages") and one.is_dir()]
    return [one for one in dict.fromkeys(folders) if any(one.startswith(f"{path}/") for path in readable)]


def _around(readable: Sequence[str], masked: Sequence[str]) -> tuple[list[str], list[str]]:
    """The same paths without the masked folders, for rules that can only allow: a folder above one gives way to what is beside it.

    And the folders that gave way: their names may be listed, as imports do.
    """
    paths, listed = list(readable), []
    for hidden in masked:
        while above := next((path for path in paths if hidden.startswith(f"{path}/")), None):
            paths.remove(above)
            listed.append(above)
            paths += [f"{above}/{name}" for name in sorted(os.listdir(above)) if f"{above}/{name}" != hidden]
    return paths, listed


def _unreachable(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Folders that somebody who owns nothing cannot enter on the way to these paths, and the paths beneath them."""
    covers: dict[str, None] = {}
    beneath = []
    for path in paths:
        for folder in reversed(Path(path).parents):
            with contextlib.suppress(OSError):
                if not folder.stat().st_mode & 0o001:
                    covers[str(folder)] = None
                    beneath.append(path)
                    break
    return list(covers), beneath


def _bubblewrap(
    program: Sequence[str], readable: Sequence[str], masked: Sequence[str], packages: Sequence[str], folder: str
) -> list[str]:
    argv = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
    ]
    argv += [
        "--unshare-cgroup-try",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--cap-add",
        "CAP_SYS_ADMIN",
        "--uid",
        str(NOBODY),
        "--gid",
        str(NOBODY),
    ]
    argv += ["--hostname", "sandbox", "--clearenv", "--setenv", "LANG", "C.UTF-8", "--setenv", "PYTHONHASHSEED", "0"]
    for path in [*readable, program[0]]:
        argv += ["--dev-bind" if path.startswith("/dev/") else "--ro-bind", path, path]
    for hidden in masked:
        argv += ["--tmpfs", hidden]
        for path in (path for path in packages if path.startswith(f"{hidden}/")):
            argv += ["--ro-bind", path, path]
        argv += ["--remount-ro", hidden]
    return [*argv, "--proc", "/proc", "--dir", folder, "--remount-ro", "/", "--chdir", "/", "--", *program]
