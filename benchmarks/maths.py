r"""The maths grader: the judged table beside raw math-verify, 1,000 nasty answers, simple answers a second.

    python -m benchmarks.maths [--count 1000] [--seed 1] [--raw]

--raw also runs math-verify itself on the table, in a child process with its own timeouts (this takes a minute where it hangs).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.maths_nasty import CANARY, nasty

from benchmarks.common import Target, repeat, report, say, versions
from ponder.graders.maths import LIMITS, MathsGrader, judge_many

TABLE = Path(__file__).parents[1] / "tests" / "data" / "maths_pairs.jsonl"
SIMPLE = [("12", "12"), ("1234", "1,234"), (r"\frac{1}{2}", "0.5"), ("12", "13"), ("(1,2)", "(1, 2)"), (r"\{1,2\}", "2, 1"), ("5", r"5\text{ cm}"),
          (r"\sqrt{8}", r"2\sqrt{2}"), ("x^2-1", "(x-1)(x+1)"), (r"6\pi", r"6\pi"), (r"[0,\infty)", r"x \ge 0"), (r"\text{even}", "even")]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maths")
    parser.add_argument("--count", type=int, default=1_000, help="nasty answers, default: 1,000")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--raw", action="store_true", help="also judge the table by math-verify alone")
    options = parser.parse_args()
    rows = [json.loads(line) for line in TABLE.read_text("utf-8").splitlines()]
    grader = MathsGrader()
    grader.judge(r"\sin 1", "e")  # the mother of the workers starts
    ours = table(rows)
    raw = raw_table(rows) if options.raw else None
    bad = nastiness(grader, options.count, options.seed)
    judged, seconds = repeat(lambda: sum(grader.judge(*pair).answer is not None for pair in SIMPLE), 3.0)
    simple = judged / seconds
    worked, seconds = repeat(lambda: len(judge_many([("-1", r"e^{i\pi}"), (r"\sin 2x", r"2\sin x\cos x")] * 8)), 3.0)
    body = {
        "table": ours,
        "raw_math_verify": raw,
        "nasty": bad,
        "simple_per_second": round(simple, 1),
        "worker_memory_limit_mib": LIMITS.memory / 2**20,
        "worker_per_second": round(worked / seconds, 1),
        "versions": versions("math-verify", "latex2sympy2_extended", "sympy", "antlr4-python3-runtime"),
    }
    targets = [
        Target("false accepts on the table", ours["false_accepts"], 0, at_most=True),
        Target("false rejects on the table, share of right answers", ours["false_rejects"] / ours["right"], 0.02, at_most=True),
        Target("simple answers", simple, 500, "answers/s"),
        Target("slowest nasty answer", bad["slowest_seconds"], 2.0, "s", at_most=True),
        Target("nasty batch on all cores", bad["batch_seconds"], 60.0, "s", at_most=True),
        Target("memory of this process", bad["peak_mib"], 512, "MiB", at_most=True),
        Target("crashes", bad["crashes"], 0, at_most=True),
        Target("nasty answers accepted", bad["accepted"], 0, at_most=True),
        Target("effects on the host", bad["effects"], 0, at_most=True),
    ]
    report("maths", targets, body)


def table(rows: list[dict]) -> dict:
    started = time.perf_counter()
    verdicts = judge_many([(row["gold"], row["answer"]) for row in rows])
    seconds = time.perf_counter() - started
    wrong = [(row, one) for row, one in zip(rows, verdicts, strict=True) if one.correct != row["correct"]]
    for row, one in wrong:
        say(f"{'ACCEPTED' if one.correct else 'REJECTED'} {row['gold']!r} | {row['answer']!r}: {one.reason} ({row['rule']})")
    found = summary(rows, [one.correct for one in verdicts], seconds)
    say(f"table: {found}")
    return found


def summary(rows: list[dict], said: list[bool], seconds: float) -> dict:
    return {
        "pairs": len(rows),
        "right": sum(row["correct"] for row in rows),
        "false_accepts": sum(one and not row["correct"] for row, one in zip(rows, said, strict=True)),
        "false_rejects": sum(row["correct"] and not one for row, one in zip(rows, said, strict=True)),
        "seconds": round(seconds, 2),
    }


def raw_table(rows: list[dict]) -> dict:
    """math-verify by its defaults, `verify(parse(gold), parse(answer))`, in one child with its own timeouts."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        said, seconds = pool.apply(_raw, ([(row["gold"], row["answer"]) for row in rows],))
    found = summary(rows, said, seconds)
    say(f"raw math-verify on the same table: {found}")
    return found


def _raw(pairs: list[tuple[str, str]]) -> tuple[list[bool], float]:
    from math_verify import parse, verify

    started = time.perf_counter()
    # As its users do: mathematics signs around what has none, as its LaTeX extraction expects them.
    said = [bool(verify(parse(_signed(gold)), parse(_signed(answer)))) for gold, answer in pairs]
    return said, time.perf_counter() - started


def _signed(text: str) -> str:
    return text if "$" in text or "boxed" in text or "\\(" in text or "\\[" in text or "answer" in text.lower() else f"${text}$"


def nastiness(grader: MathsGrader, count: int, seed: int) -> dict:
    Path(CANARY).unlink(missing_ok=True)
    cases = list(nasty(count, seed))

    def one(case: tuple[str, str, str]) -> tuple[str, str, float]:
        kind, gold, answer = case
        started = time.perf_counter()
        try:
            verdict = grader.judge(gold, answer)
        except Exception as error:  # what a benchmark counts as a crash
            say(f"CRASH {kind} {answer[:80]!r}: {error!r}")
            return kind, "crash", time.perf_counter() - started
        return kind, "accepted" if verdict.correct else verdict.reason, time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(one, cases))
    batch = time.perf_counter() - started
    reasons = Counter(reason for _, reason, _ in found)
    slowest: dict[str, float] = {}
    for kind, _, seconds in found:
        slowest[kind] = round(max(slowest.get(kind, 0.0), seconds), 3)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {
        "answers": count,
        "seed": seed,
        "batch_seconds": round(batch, 2),
        "slowest_seconds": max(seconds for _, _, seconds in found),
        "slowest_by_kind": slowest,
        "reasons": dict(sorted(reasons.items())),
        "crashes": reasons["crash"],
        "accepted": reasons["accepted"],
        "effects": int(Path(CANARY).exists()),
        "peak_mib": round(
            peak, 1
        ),  # of this process; the sandbox holds a worker to LIMITS.memory of address space, so it is not a measurement
    }
    say(f"nasty: {result}")
    return result


if __name__ == "__main__":
    main()
