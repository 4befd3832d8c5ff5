"""Functions against tests: the program is called from outside with plain values, and what it gives back is compared out here.

    trusted     asserts that are a call and a plain comparison (`ponder.graders.cases`) are decided in this process
    relayed     any other test runs in a second sandboxed process, which holds no line of the candidate's (`ponder.sandbox.relay`)

Either way the candidate's process sees arguments and nothing else: no expected value, no comparison, no verdict to reach for. Its
prints, exit code and exceptions are data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal, cast

from ponder.errors import SetupError
from ponder.graders.cases import Case, cases
from ponder.graders.program import program
from ponder.graders.verdicts import best_room, verdicts
from ponder.sandbox.core import Limits, Sandbox
from ponder.sandbox.relay import Found, Suite, examine
from ponder.types import JSON, Problem, Verdict


@dataclass(frozen=True, slots=True)
class Reference:
    """What a problem's tests are; hidden, in `Problem.reference`, as JSON.

    entry_point: the function or class asked for. prompt: code that an answer goes on from, "" for none. tests: their source, and
    setup before them. names: what the tests call, and the program's function that it stands for.
    """

    entry_point: str
    tests: str
    names: dict[str, str]
    prompt: str = ""
    setup: str = ""

    def packed(self) -> JSON:
        """As JSON text; `unpacked` reads it."""
        return json.dumps([self.entry_point, self.tests, self.names, self.prompt, self.setup])


@lru_cache(maxsize=256)
def unpacked(reference: str) -> Reference:
    """A reference from its JSON text."""
    return Reference(*json.loads(reference))


@dataclass(frozen=True, slots=True)
class CodeGrader:
    """Runs the program of each answer against the problem's tests; correct if all of them pass.

    seconds: wall clock for all tests of one answer. memory: bytes. preload: installed modules that programs and tests may use beyond
    the standard library. sandbox: left out, the best of this machine. The reason of a wrong answer is "no_program", "failed: ..." with the line of the tests, "error: ..." with the exception, or how the program stopped:
    "timeout", "died", "output", "garbled"; "tests: ..." if the tests themselves could not be run. Raises `SetupError` where there
    is no sandbox.

    Deviations from running tests and program in one process: arguments are copies, so a test sees no change made to its own; a
    value that is not plain equals nothing, whatever its `__eq__` says; `random` is seeded for tests that use it.
    """

    runs_code: ClassVar[Literal[True]] = True
    seconds: float = 5.0
    memory: int = 512 * 2**20
    preload: tuple[str, ...] = ()
    sandbox: Sandbox | None = field(default=None, repr=False, compare=False)

    @property
    def version(self) -> str:
        """Part of a verdict's key."""
        return "/".join(["code-1", f"{self.seconds:g}s", f"{self.memory >> 20}MiB", *self.preload])

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each text; equal programs are run once."""
        reference = unpacked(str(problem.reference))
        programs = [program(text, reference.entry_point, reference.prompt) for text in texts]
        return await verdicts(programs, answers, lambda one: self.judge(one, reference))

    def judge(self, source: str, reference: Reference) -> Found:
        """Run one program. Blocks."""
        sandbox, limits = self.sandbox or best_room(self.preload), Limits(seconds=self.seconds, memory=self.memory)
        direct = _cases(reference.tests, json.dumps(reference.names))
        if direct is None:
            found = examine(sandbox, source, Suite(reference.tests, reference.names, reference.setup), limits)
            if found.reason.startswith("tests: ModuleNotFoundError"):
                raise SetupError(
                    f"code grader: the tests of {reference.entry_point} need a module: {found.reason}; name it in preload="
                )
            return found
        return called(sandbox, source, direct, limits)


def called(sandbox: Sandbox, source: str, tests: Sequence[Case], limits: Limits) -> Found:
    """Call a program for each case in turn, in one process; the first case that does not hold is the reason."""
    if not tests:
        return Found(False, "tests: nothing is asked of the program")
    outcome = sandbox.run(source, [case.call for case in tests], limits)
    for case, reply in zip(tests, outcome.replies, strict=False):
        if reply.error:
            return Found(False, f"error: {reply.error} {reply.message}".rstrip())
        if not case.holds(reply.value):
            return Found(False, f"failed: line {case.line}")
    if len(outcome.replies) < len(tests):
        return Found(False, f"error: {outcome.detail}" if outcome.status == "error" else outcome.status)
    return Found(True)


@lru_cache(maxsize=1024)
def _cases(tests: str, names: str) -> tuple[Case, ...] | None:
    return cases(tests, cast("dict[str, str]", json.loads(names)))
