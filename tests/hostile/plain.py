"""The anchor: what most evaluation code does instead of a sandbox. A subprocess with resource limits, and nothing else."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from ponder.sandbox.core import Call, Limits, Outcome, Reply, Session, Value

HARNESS = """
import json, sys
task = json.loads(sys.stdin.readline())
space = {"__name__": "program", "__builtins__": __builtins__}
exec(compile(task["source"], "program", "exec"), space)
print(json.dumps([space[name](*args) for name, args in task["calls"]]))
"""


class PlainSandbox:
    """A sandbox in name only, to show that the corpus bites."""

    tier = "plain"

    def open(self, source: str, limits: Limits) -> Session:
        """Not needed by the judge."""
        raise NotImplementedError("the plain subprocess has no sessions")

    def run(self, source: str, inputs: Sequence[Call] | str, limits: Limits) -> Outcome:
        """Run a program on calls, in the usual careless way: environment inherited, the first process killed when time is up."""
        assert not isinstance(inputs, str)

        def bound() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
            resource.setrlimit(resource.RLIMIT_CPU, (int(limits.seconds) + 1, int(limits.seconds) + 1))
            resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 2**20, 64 * 2**20))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        task = json.dumps({"source": source, "calls": [[call.function, call.args] for call in inputs]})
        start = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="ponder-plain-", ignore_cleanup_errors=True) as work,
            tempfile.TemporaryFile() as said,
        ):
            process = subprocess.Popen(
                [sys.executable, "-c", HARNESS],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.DEVNULL,
                cwd=work,
                preexec_fn=bound,
                start_new_session=True,
            )
            try:
                process.communicate(task.encode() + b"\n", timeout=limits.seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return Outcome("timeout", seconds=time.monotonic() - start)
            finally:
                subprocess.run(["rm", "-rf", work], stderr=subprocess.DEVNULL, check=False)
            said.seek(0)
            text = said.read(limits.output).decode("utf-8", "replace")
        return read(text, process.returncode, time.monotonic() - start)


def read(text: str, code: int, seconds: float) -> Outcome:
    """The last line that was printed, taken for the answers."""
    if code != 0:
        return Outcome("error", stdout=text, seconds=seconds)
    try:
        values: list[Value] = json.loads(text.splitlines()[-1])
        return Outcome("ok", tuple(Reply(value) for value in values), stdout=text, seconds=seconds)
    except (ValueError, IndexError, TypeError, RecursionError):
        return Outcome("garbled", stdout=text, seconds=seconds)
