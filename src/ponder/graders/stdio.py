"""Whole programs against inputs and outputs: one process for each test, its standard output compared out here.

    printed == expected    white space at the ends of lines and blank lines at the end aside, the lines have the same words; where the
                           expected word has a decimal point, a number within 1e-6 (absolute or relative) of it serves

Problems with more than one right answer need a checker of their own and are judged too strictly here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import ClassVar, Literal, cast

from ponder.graders.program import completed, program
from ponder.graders.verdicts import best_room, verdicts
from ponder.sandbox.core import Call, Limits, Sandbox, Stopped, Value
from ponder.sandbox.relay import Found
from ponder.types import JSON, Problem, Verdict

TOLERANCE = 1e-6  # absolute; relative a thousandth of it, or 2000001 would pass for 2000000.0
PREAMBLE = """\
import bisect, collections, functools, heapq, itertools, math, random, re, string, sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from typing import *
from math import inf
"""
"""What the problem setters of function-style puzzles take for imported; a program's own definitions come after it."""


@dataclass(frozen=True, slots=True)
class Trials:
    """A problem's tests; hidden, in `Problem.reference`, as JSON.

    pairs: input and expected output, in order. function: "" for programs that read a standard input; else what is called, such as
    "Solution().twoSum", with the input's lines as JSON arguments and the output as the JSON it should give. seconds: the
    problem's own limit for one test, 0 for none.
    """

    pairs: tuple[tuple[str, str], ...]
    function: str = ""
    seconds: float = 0.0

    def packed(self) -> JSON:
        """As JSON text; `unpacked` reads it."""
        return json.dumps([self.pairs, self.function, self.seconds])


@lru_cache(maxsize=16)  # they may be megabytes
def unpacked(reference: str) -> Trials:
    """Trials from their JSON text."""
    pairs, function, seconds = json.loads(reference)
    return Trials(tuple((given, wanted) for given, wanted in pairs), function, seconds)


@dataclass(frozen=True, slots=True)
class StdioGrader:
    """Runs the program of each answer on every test, up to the first that fails; correct if none does.

    seconds: wall clock for one test, or the problem's own limit where that is longer. memory: bytes. sandbox: left out, the best of
    this machine. The reason of a wrong answer is "no_program", or "test N: ..." with "different", "error ...", "timeout", "died",
    "output", "garbled". Raises `SetupError` where there is no sandbox.
    """

    runs_code: ClassVar[Literal[True]] = True
    seconds: float = 6.0
    memory: int = 512 * 2**20
    sandbox: Sandbox | None = field(default=None, repr=False, compare=False)

    @property
    def version(self) -> str:
        """Part of a verdict's key."""
        return f"stdio-2/{self.seconds:g}s/{self.memory >> 20}MiB"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each text; equal programs are run once."""
        trials = unpacked(str(problem.reference))
        entry_point = trials.function.partition(".")[0].removesuffix("()")
        programs = [program(text, entry_point) for text in texts]
        return await verdicts(programs, answers, lambda one: self.judge(one, trials))

    def judge(self, source: str, trials: Trials) -> Found:
        """Run one program. Blocks."""
        sandbox, seconds = self.sandbox or best_room(), max(self.seconds, trials.seconds)
        for number, (given, wanted) in enumerate(trials.pairs, 1):
            limits = Limits(seconds, self.memory, output=2**20 + 2 * len(wanted.encode()))
            test = _call if trials.function else _feed
            if fault := test(sandbox, source, given, wanted, limits, trials.function):
                return Found(False, f"test {number}: {fault}")
        return Found(True)


def same_output(printed: str, expected: str) -> bool:
    """Whether a program printed what it should, by the rule at the top of this file."""
    lines, wanted = (text.rstrip().split("\n") for text in (printed, expected))
    return len(lines) == len(wanted) and all(
        _same_word(*pair) for left, right in zip(lines, wanted, strict=True) for pair in zip_longest(left.split(), right.split())
    )


def _same_word(printed: str | None, expected: str | None) -> bool:
    if printed == expected:
        return True
    if printed is None or expected is None or not (_DECIMAL.fullmatch(expected) and _NUMBER.fullmatch(printed)):
        return False
    return math.isclose(float(printed), float(expected), rel_tol=TOLERANCE / 1000, abs_tol=TOLERANCE)


_DECIMAL = re.compile(r"[-+]?[0-9]{0,50}\.[0-9]{1,50}(?:[eE][-+]?[0-9]{1,3})?")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,50}\.?[0-9]{0,50}|\.[0-9]{1,50})(?:[eE][-+]?[0-9]{1,3})?")


def _feed(sandbox: Sandbox, source: str, given: str, wanted: str, limits: Limits, function: str) -> str:
    """What is wrong with one run on a standard input; "" for nothing."""
    del function
    outcome = sandbox.run(source, given, limits)
    if outcome.status != "ok":
        last = outcome.stderr.strip().rpartition("\n")[2][:200]
        return f"error {last}".rstrip() if outcome.status == "error" else outcome.status
    return "" if same_output(outcome.stdout, wanted) else "different"


def _call(sandbox: Sandbox, source: str, given: str, wanted: str, limits: Limits, function: str) -> str:
    """What is wrong with one call of a function; "" for nothing. Tuples count as the lists that JSON has for them."""
    args = tuple(json.loads(line) for line in given.split("\n") if line.strip())
    try:
        with sandbox.open(completed(PREAMBLE, source), limits) as session:
            reply = session.call(Call(function, args))
    except Stopped as stop:
        return f"error {stop.detail}" if stop.status == "error" else stop.status
    if reply.error:
        return f"error {reply.error} {reply.message}".rstrip()
    return "" if _alike(reply.value, json.loads(wanted)) else "different"


def _alike(found: object, wanted: JSON) -> bool:
    """Equal as values of JSON, or within `TOLERANCE` where a fraction is wanted. What JSON has no word for equals nothing."""
    try:
        return _equal(found, wanted)
    except ArithmeticError:  # an integer beyond all floats
        return False


def _equal(found: object, wanted: JSON) -> bool:
    if isinstance(wanted, list):
        same = isinstance(found, list | tuple) and len(found) == len(wanted)
        return same and all(map(_equal, cast("Sequence[Value]", found), wanted))
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or found.keys() != wanted.keys():
            return False
        return all(_equal(found[key], value) for key, value in wanted.items())
    if isinstance(wanted, float) and isinstance(found, int | float):
        return math.isclose(found, wanted, rel_tol=TOLERANCE / 1000, abs_tol=TOLERANCE)
    return (found is None or isinstance(found, int | float | str)) and found == wanted
