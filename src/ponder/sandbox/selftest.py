"""Does a sandbox hold, here and now? A handful of canaries, before anything is trusted to it; `ponder doctor` prints them.

The hostile corpus in the tests is the real examination; this finds a kernel, a container or a policy under which a wall is missing.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ponder.sandbox.core import Call, Limits, Outcome, Sandbox

_LIMITS = Limits(seconds=10.0)


@dataclass(frozen=True, slots=True)
class Check:
    """One canary. found: what came back that should not have; "" if it held."""

    name: str
    found: str


def examine(sandbox: Sandbox) -> list[Check]:
    """Every check, in order; each runs a program of its own. Raises `SetupError` where no program can be started."""
    with tempfile.TemporaryDirectory(prefix="ponder-canary-") as folder:
        os.chmod(folder, 0o777)  # anybody could write here but for the sandbox
        secret = Path(folder, "secret")
        secret.write_text("canary")
        secret.chmod(0o666)
        checks = [Check("an honest program answers", _honest(sandbox))]
        for name, body in _CANARIES:
            source = f"def attempt(folder, parent):\n    {body}\n"
            outcome = sandbox.run(source, [Call("attempt", (folder, os.getpid()))], _LIMITS)
            checks.append(Check(name, _found(outcome)))
        if secret.read_text() != "canary" or len(os.listdir(folder)) != 1:
            checks.append(Check("the host's files are untouched", f"{folder} was changed"))
        return checks


def faults(sandbox: Sandbox) -> list[str]:
    """The checks that failed, for people; empty if all held."""
    return [f"{check.name}: {check.found}" for check in examine(sandbox) if check.found]


def _honest(sandbox: Sandbox) -> str:
    outcome = sandbox.run("def solve(x):\n    return x + 1\n", [Call("solve", (41,))], _LIMITS)
    right = outcome.status == "ok" and outcome.replies[0].value == 42
    return "" if right else f"{outcome.status} {outcome.detail}".strip()


def _found(outcome: Outcome) -> str:
    """An attempt must end in an exception; one that gives a value got through."""
    for reply in outcome.replies:
        if not reply.error:
            return f"got through: {str(reply.value)[:80]}"
    return ""


_CANARIES = (
    ("files outside cannot be read", "return open(folder + '/secret').read()"),
    ("files outside cannot be changed", "return open(folder + '/secret', 'a').write('x')"),
    ("the parent's environment cannot be read", "return open(f'/proc/{parent}/environ').read()"),
    ("no process can be started", "import os; return os.fork()"),
    ("the parent cannot be signalled", "import os; os.kill(parent, 0); return 'signalled'"),
    ("no network", "import socket; return str(socket.socket())"),
    ("no new namespaces", "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0; return 'unshared'"),
    ("no tracing", "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0; return 'traced'"),
)
