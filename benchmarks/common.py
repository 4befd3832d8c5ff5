"""What all benchmarks share: timing, the machine they ran on, targets beside numbers, one JSON object as the last line."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """A number and what it should be. at_most: smaller is better. A number that is missing meets nothing."""

    what: str
    value: float | None
    target: float
    unit: str = ""
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value is not None and (self.value <= self.target if self.at_most else self.value >= self.target)

    def __str__(self) -> str:
        value = "not measured" if self.value is None else f"{self.value:,.6g}"
        bound = f"{'<=' if self.at_most else '>='} {self.target:,g}"
        return f"{'met   ' if self.met else 'MISSED'} {self.what}: {value} {self.unit} (target {bound})"


def report(name: str, targets: Sequence[Target], body: Mapping[str, object]) -> None:
    """Print the targets and, last, everything as one JSON object."""
    say("")
    for target in targets:
        say(str(target))
    judged = {one.what: {"value": one.value, "target": one.target, "at_most": one.at_most, "met": one.met} for one in targets}
    print(json.dumps({"benchmark": name, **body, "targets": judged, "machine": machine()}), flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def machine() -> dict[str, object]:
    """The machine, and how busy it is with other things: the load average right now and what Linux calls pressure."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown")
    memory = next((int(line.split()[1]) // 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), None)
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.release()}",
        "python": sys.version.split()[0],
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions(*names: str) -> dict[str, str | None]:
    """Versions of installed distributions, None for those that are not."""
    found: dict[str, str | None] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def repeat(work: Callable[[], int], seconds: float) -> tuple[int, float]:
    """Call `work` until `seconds` are over, at least once: the sum of what it returned, and the seconds it took."""
    total, started = 0, time.perf_counter()
    while True:
        total += work()
        taken = time.perf_counter() - started
        if taken >= seconds:
            return total, taken


def cpu_seconds(session: int) -> float:
    """Processor time of all living processes of a session (a process started with start_new_session=True and its children)."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == session:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def process_cpu_seconds(pid: int) -> float:
    """Processor time of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
