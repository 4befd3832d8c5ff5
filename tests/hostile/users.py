"""Running the judge as root or as a user who owns nothing, on an interpreter which that user can read. Standard library only."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

User: TypeAlias = Literal["root", "nobody"]
ROOT = Path(__file__).parent.parent.parent
LONGEST = 550.0  # seconds


class Unavailable(Exception):
    """This user, or an interpreter for it, is not to be had here; the message says why."""


@cache
def interpreter(user: User) -> str:
    """A Python that can run the judge as this user. Raises `Unavailable`."""
    if (user == "root") == (os.geteuid() == 0):
        return sys.executable
    if user == "root":
        raise Unavailable("this does not run as root")
    code = "import sys, ponder.sandbox.rooms, tests.hostile.corpus; sys.exit(sys.version_info < (3, 11))"
    for path in (
        "/usr/bin/python3",
        *(f"/usr/bin/python3.{minor}" for minor in range(11, 20)),
        "/usr/local/bin/python3",
        sys.executable,
    ):
        if os.path.exists(path) and launch([path, "-c", code], user).returncode == 0:
            return path
    raise Unavailable("no Python 3.11 or later that an unprivileged user can read, or the sources are out of its reach")


def launch(argv: list[str], user: User) -> subprocess.CompletedProcess[str]:
    """A finished process of this user, who finds the sources, a folder for its files and nothing else."""
    other = user == "nobody" and os.geteuid() == 0
    # Another id each time: what kills all processes of its user must hit nobody else.
    uid = 300_000 + secrets.randbelow(60_000) if other else os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        try:
            return subprocess.run(
                argv,
                env={
                    "PATH": os.environ["PATH"],
                    "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "HOME": folder,
                },
                cwd=ROOT,
                capture_output=True,
                text=True,
                start_new_session=True,
                timeout=LONGEST,
                **({"user": uid, "group": uid, "extra_groups": []} if other else {}),
            )
        except PermissionError as error:
            return subprocess.CompletedProcess(argv, 126, "", str(error))


def judged(tier: str, user: User) -> subprocess.CompletedProcess[str]:
    """What `tests.hostile.judge --json` says of a tier, run by this user. Raises `Unavailable`."""
    return launch([interpreter(user), "-m", "tests.hostile.judge", "--json", "--tier", tier], user)
