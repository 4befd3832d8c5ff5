"""What both searches of benchmarks/search.py share: the problems, the guide, the right answer, and what is counted. Stdlib only."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Iterator
from hashlib import blake2b
from importlib.metadata import version

from shared import Load

SAMPLES = 16  # particles; of a beam, next steps at a time
WIDTH = 4
MOST_STEPS = 20
TEMPERATURE = 0.8
MAX_TOKENS = 128
CONCLUSION = "The answer is"
ERRS = 0.25  # how often the guide is wrong about a prefix

_SUM = re.compile(r"(\d+) (\+|times) (\d+) (?:=|is) (\d+)\.")


def question(number: int) -> str:
    return f"A farmer has {number} hens and every hen lays three eggs a week; how many eggs in four weeks?"


def prompt(number: int) -> str:
    return f"Write each step on a line of its own, check it, and finish with the answer alone on the last line.\nQUESTION: {question(number)}"


def right(number: int, text: str) -> bool:
    """Whether a whole answer is correct, by the fake endpoint's rule."""
    answer = 20 + int.from_bytes(blake2b(question(number).encode(), digest_size=8).digest(), "big") % 980
    return text.rstrip().endswith(f"{CONCLUSION} {answer}.")


def worth(text: str) -> float:
    """The guide: whether the arithmetic of a prefix holds, wrong about some, as a function of the text; in (0, 1), hardly ever equal."""
    text = text.strip()
    holds = all(int(a) + int(b) == int(c) if sign == "+" else int(a) * int(b) == int(c) for a, sign, b, c in _SUM.findall(text))
    chance = blake2b(text.encode(), digest_size=8).digest()
    wrong, jitter = int.from_bytes(chance[:4], "big") / 2**32 < ERRS, int.from_bytes(chance[4:], "big") / 2**32
    return (0.85 if holds != wrong else 0.05) + 0.1 * jitter


class Problems:
    """Numbers of problems from when the parent says so until it closes standard input, and what came of each."""

    def __init__(self) -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        self._load, self._done = Load(), list[tuple[float, int, bool]]()
        self._started, self._ended = time.perf_counter(), 0.0

    def __iter__(self) -> Iterator[int]:
        for number in itertools.count(2):
            if self._load.over:
                self._ended = self._ended or time.perf_counter()
                return
            yield number

    def done(self, number: int, text: str) -> None:
        self._done.append((time.perf_counter(), number, right(number, text)))

    def finish(self, warm_up: float, *packages: str, **more: object) -> None:
        """Print what was reached. seconds: from the end of the warm-up to the last problem begun; within: problems that ended in it."""
        within = sum(self._started + warm_up < at <= self._ended for at, _, _ in self._done)
        correct = {number: good for _, number, good in self._done}
        body = {
            "problems": len(self._done),
            "seconds": self._ended - self._started - warm_up,
            "within": within,
            "correct": [correct[number] for number in sorted(correct)],
            "versions": {name: version(name) for name in packages},
            **more,
        }
        print(json.dumps(body), flush=True)
