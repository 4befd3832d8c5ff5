"""An environment of its own for each peer under build/bench-envs, made once from a pinned file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1] / "build" / "bench-envs"


class Unavailable(Exception):
    """A peer that cannot be installed here; the message says why."""


def python(name: str) -> Path:
    """The interpreter of a peer's environment, made if it is not there or its pins have changed. Raises `Unavailable`."""
    pins = HERE / f"{name}.txt"
    found, done = ROOT / name / "bin" / "python", ROOT / name / "installed"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if done.exists() and done.read_text() == wanted:
        return found
    print(f"making the environment of {name} in {ROOT / name} ...", flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(ROOT / name)])
    install = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "-r", str(pins)]
    _run(install)
    done.write_text(wanted)
    return found


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, timeout=900, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except subprocess.CalledProcessError as error:
        last = next(reversed(error.stdout.strip().splitlines()), "no output")
        raise Unavailable(f"{' '.join(command[1:4])} ended with code {error.returncode}: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{' '.join(command[1:4])}: {error}") from error
