"""Seconds until ponder is there: `ponder --help`, `import ponder`, and the same import with its names used.

    python -m benchmarks.startup [--runs 10]

Each run is a new process with the files in the page cache; the first run is not counted. `python -c pass` is the floor.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.common import Target, report, say, versions

PONDER = str(Path(sys.executable).with_name("ponder"))
COMMANDS = {
    "floor": [sys.executable, "-c", "pass"],
    "import": [sys.executable, "-c", "import ponder"],
    "import_used": [sys.executable, "-c", "from ponder import *"],
    "help": [PONDER, "--help"],
    "help_run": [PONDER, "run", "--help"],
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("--runs", type=int, default=10, help="of each command (default: 10)")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for run in range(options.runs + 1):
        for name, command in COMMANDS.items():  # in turn, so that a busy moment does not fall on one of them alone
            taken = seconds(command)
            if run:
                times[name].append(taken)
    for name, all_of_them in times.items():
        say(f"{name:12s} least {min(all_of_them):.3f} s, median {median(all_of_them):.3f} s of {len(all_of_them)}")
    targets = [
        Target("ponder --help, median", median(times["help"]), 0.25, "s", at_most=True),
        Target("import ponder, median", median(times["import"]), 0.15, "s", at_most=True),
        Target("from ponder import *, median", median(times["import_used"]), 0.15, "s", at_most=True),
    ]
    body = {name: {"least": round(min(all_), 4), "median": round(median(all_), 4)} for name, all_ in times.items()}
    report("startup", targets, {"seconds": body, "runs": options.runs, "versions": versions("ponder-ttc", "cyclopts", "rich")})


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
