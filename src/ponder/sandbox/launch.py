"""Started by root before the mother: makes the interpreter reachable for a user who owns nothing, becomes that user, goes on.

An interpreter may live under a home that nobody else can enter (a version manager under root's home). In a mount namespace of its own,
this covers such a folder with an empty one and binds back only what is to be read. Standard library only.
"""

from __future__ import annotations

import os
from typing import NoReturn, TypedDict

from ponder.sandbox import kernel


class Launch(TypedDict):
    """covers: folders to hide; binds: what to bring back, files or folders beneath them; uid: whom to become, None to stay; argv."""

    covers: list[str]
    binds: list[str]
    uid: int | None
    argv: list[str]


def go(plan: Launch) -> NoReturn:
    """Become what the plan says. Raises `OSError` where the kernel says no."""
    os.umask(0o022)
    if plan["covers"]:
        kernel.unshare(kernel.NEWNS)
        kernel.mount("none", "/", "", kernel.REC | kernel.PRIVATE)
        kept = [(path, os.open(path, os.O_PATH)) for path in plan["binds"]]
        for path in plan["covers"]:
            kernel.mount("tmpfs", path, "tmpfs", kernel.NOSUID | kernel.NODEV, "size=1m,mode=0755")
        for path, fd in kept:
            if os.path.isdir(f"/proc/self/fd/{fd}"):
                os.makedirs(path, 0o755, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            kernel.mount(f"/proc/self/fd/{fd}", path, "", kernel.BIND | kernel.REC)
            os.close(fd)
    if plan["uid"] is not None:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    os.execve(plan["argv"][0], plan["argv"], {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"})
