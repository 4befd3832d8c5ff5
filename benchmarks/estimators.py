"""Seconds for all estimators on 10,000 problems x 256 samples at 1, 2, 4 ... 256 samples, and 1,000 bootstraps of every curve.

python -m benchmarks.estimators [--problems 10000] [--subsets 100]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.common import Target, report, say, versions
from ponder.scaling.bootstrap import mean_intervals
from ponder.scaling.estimators import best_of_n_at_k, expected_tokens, maj_at_k, pass_at_k, weighted_at_k

SAMPLES = 256
RESAMPLES = 1000
SIZES = [2**power for power in range(9)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators")
    parser.add_argument("--problems", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--subsets", type=int, default=100, help="random subsets for votes, the estimators' default: 100")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (options.problems, SAMPLES)
    ability = rng.beta(0.6, 0.9, size=(options.problems, 1))
    correct = rng.random(shape) < ability
    wrong = 1 + np.minimum(rng.geometric(0.4, size=shape), 20)
    answers = np.where(correct, 0, wrong)
    scores = np.clip(0.5 * correct + rng.normal(0.3, 0.3, size=shape), 0.0, 1.0)
    tokens = rng.integers(50, 500, size=shape)
    estimators = {
        "pass": lambda: pass_at_k(correct, SIZES),
        "best_of_n": lambda: best_of_n_at_k(correct, scores, SIZES),
        "maj": lambda: maj_at_k(correct, answers, SIZES, subsets=options.subsets),
        "weighted": lambda: weighted_at_k(correct, answers, scores, SIZES, subsets=options.subsets),
        "tokens": lambda: expected_tokens(tokens, SIZES),
    }
    seconds: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    for name, estimate in estimators.items():
        started = time.perf_counter()
        curve_P_K = estimate()
        between = time.perf_counter()
        intervals = mean_intervals(curve_P_K, seed=0, resamples=RESAMPLES)
        seconds[name], seconds[f"{name}_bootstrap"] = between - started, time.perf_counter() - between
        values[name] = [round(one.value, 4) for one in intervals]
        say(f"{name:10s} {seconds[name]:7.2f} s, bootstrap {seconds[f'{name}_bootstrap']:6.2f} s   {values[name]}")
    total = sum(seconds.values())
    body = {
        "seconds": {name: round(taken, 3) for name, taken in seconds.items()},
        "total_seconds": round(total, 2),
        "problems": options.problems,
        "samples": SAMPLES,
        "sizes": SIZES,
        "subsets": options.subsets,
        "resamples": RESAMPLES,
        "values": values,
    }
    targets = [Target("all estimators and their bootstraps", total, 60.0, "s", at_most=True)]
    report("estimators", targets, {**body, "versions": versions("ponder-ttc", "numpy")})


if __name__ == "__main__":
    main()
