"""What every arm shares: the same questions with the same settings, and an end when standard input ends. Stdlib only."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version

IN_FLIGHT = 512
SAMPLES = 64  # of each question
TEMPERATURE = 0.8
MAX_TOKENS = 256


def question(number: int) -> str:
    text = f"A farmer has {number} hens and every hen lays three eggs a week; how many eggs in four weeks? "
    return text + "Write down each step on a line of its own, check it, and finish with the answer alone on the last line."


class Load:
    """Questions without end, until the parent closes standard input."""

    def __init__(self) -> None:
        self._over = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def __iter__(self) -> Iterator[str]:
        return (question(number) for number in itertools.takewhile(lambda _: not self.over, itertools.count(2)))

    def _wait(self) -> None:
        sys.stdin.read()
        self._over.set()


def finish(samples: int, *packages: str, **more: object) -> None:
    """Print what the arm counted itself; the benchmark believes the endpoint's counters, and compares."""
    print(json.dumps({"samples": samples, "versions": {name: version(name) for name in packages}, **more}), flush=True)
