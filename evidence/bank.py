"""A published bank of real answers and reward-model scores: bon@k, maj@k and weighted@k against every subset, one by one.

`make evidence NAME=bank`, seconds; PONDER_DATA is the folder of rm_bank_math100.jsonl: 100 MATH problems x 8 answers of one policy, each with the grader's
verdict and the raw score of a reward model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, save
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.estimators import best_of_n_at_k, maj_at_k, pass_at_k, weighted_at_k

SIZES = range(1, 9)
EVERY_SUBSET = 70  # C(8, 4), the most there are of one size


def pool() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(correct, answers, scores), each 100 x 8; answers are named by number within a problem."""
    data = Path(os.environ.get("PONDER_DATA", ROOT.parent / "shared" / "data")) / "rm_bank_math100.jsonl"
    rows = [json.loads(line)["samples"] for line in data.read_text("utf-8").splitlines()]
    answers = [[[s["answer"] for s in row].index(sample["answer"]) for sample in row] for row in rows]
    correct, scores = ([[sample[field] for sample in row] for row in rows] for field in ("correct", "score"))
    return np.array(correct), np.array(answers), np.array(scores)


def best(subset: Sequence[int], scores: np.ndarray, answers: np.ndarray) -> int:
    """The sample of the highest score, the first of equals."""
    del answers
    return max(subset, key=lambda i: (scores[i], -i))


def voted(subset: Sequence[int], weights: np.ndarray, answers: np.ndarray) -> int:
    """The first sample of the answer of the largest summed weight; of equals, that of the answer seen first. Sums are exact."""
    totals: dict[int, Fraction] = {}
    for i in subset:
        totals[answers[i]] = totals.get(answers[i], Fraction(0)) + Fraction(float(weights[i]))
    winner = max(totals, key=lambda answer: totals[answer])  # the first of equals: dictionaries keep their order
    return next(i for i in subset if answers[i] == winner)


def brute_force(choose: Callable[..., int], correct: np.ndarray, numbers: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Problems x sizes: the share of all subsets in which the chosen sample is right."""
    found = np.zeros((len(correct), len(SIZES)))
    for p, at in np.ndindex(found.shape):
        subsets = list(combinations(range(correct.shape[1]), SIZES[at]))
        found[p, at] = sum(bool(correct[p, choose(subset, numbers[p], answers[p])]) for subset in subsets) / len(subsets)
    return found


def main() -> None:
    """Estimate, enumerate, claim, and put the table into the page."""
    correct, answers, scores = pool()
    weights, ones = 1 / (1 + np.exp(-scores)), np.ones(scores.shape)
    estimated = {
        "bon": best_of_n_at_k(correct, scores, SIZES),
        "maj": maj_at_k(correct, answers, SIZES, subsets=EVERY_SUBSET),
        "weighted": weighted_at_k(correct, answers, weights, SIZES, subsets=EVERY_SUBSET),
    }
    enumerated = {
        "bon": brute_force(best, correct, scores, answers),
        "maj": brute_force(voted, correct, ones, answers),
        "weighted": brute_force(voted, correct, weights, answers),
    }
    cover = pass_at_k(correct, SIZES)
    n = len(correct)
    found = []
    for name, table in estimated.items():
        off = float(np.abs(table - enumerated[name]).max())
        text = f"largest difference between {name}@k and the share over all subsets, every problem and k = 1..8"
        found.append(Claim(f"{name}-equal", text, off, off, off, "<= 1e-12", off <= 1e-12, n, 1))
    for name, table, published in (
        ("pass", cover, 0.96),
        *((name, estimated[name], p) for name, p in (("bon", 0.94), ("maj", 0.93))),
    ):
        [at_8] = mean_intervals(table[:, -1], seed=0)
        holds = abs(at_8.value - published) < 5e-3
        found.append(Claim(f"{name}-8", f"{name}@8", at_8.value, at_8.low, at_8.high, f"{published} as published", holds, n, 1))
    for name in ("bon", "weighted"):
        gain = paired_difference(estimated[name][:, -1], estimated["maj"][:, -1], seed=0, resamples=2000)
        found.append(Claim(f"{name}-maj-8", f"{name}@8 over maj@8, paired", gain.value, gain.low, gain.high, None, None, n, 1))
    save("bank", found)
    columns = {**estimated, "pass": cover}
    rows = [f"| k | {' | '.join(f'{name}@k' for name in columns)} |", "|--:|" + "---|" * len(columns)]
    intervals = {name: mean_intervals(table, seed=0) for name, table in columns.items()}
    rows += [f"| {k} | {' | '.join(shown(intervals[name][at]) for name in columns)} |" for at, k in enumerate(SIZES)]
    insert(DOCS / "evidence" / "bank.md", "bank", "\n".join(rows))


def shown(one: Interval) -> str:
    """A number with its interval."""
    return f"{one.value:.4f} [{one.low:.3f}, {one.high:.3f}]"


if __name__ == "__main__":
    main()
