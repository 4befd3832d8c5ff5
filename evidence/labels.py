"""What step labels cost: OmegaPRM's binary search against rolling out every prefix, on long chains of the lab.

`make evidence NAME=labels`, some minutes. Chains of 16 to 20 operations of the train split; whether a step is really right is
computed exactly, here and nowhere else. Every way labels the same chains, so differences are paired over problems.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, ratio, save
from ponder.cli.labelling import label
from ponder.learners.labels import Counted, Stepwise, first_error, hard, soft
from ponder.learners.rollouts import Findings, StepRollouts
from ponder.scaling.bootstrap import Interval
from ponder.scaling.calibration import auc

TASK = "chain(least=16, n=150, split='train', seed=21)"
K = 8


@dataclass(frozen=True, slots=True)
class Way:
    """One way to label: a strategy, and how its counts become labels."""

    name: str
    strategy: StepRollouts
    read: Callable[[Counted], Stepwise]


WAYS = (
    Way("every prefix, shares", StepRollouts(1, K, reuse=False), soft),
    Way("every prefix, any right", StepRollouts(1, K, reuse=False), lambda chain: hard(chain, K)),
    Way("binary search", StepRollouts(1, K, method="binary", reuse=False), lambda chain: first_error(chain, K)),
    Way(
        "binary search, one at a time",
        StepRollouts(1, K, method="binary", lazy=1, reuse=False),
        lambda chain: first_error(chain, K),
    ),
    Way("every prefix, roll-outs shared", StepRollouts(1, K, reuse=True), soft),
)


def truth(chain: Stepwise) -> list[bool]:
    """Whether each step is right and follows from right ones: recomputed from the problem."""
    text = chain.prompt[-1].text
    start = re.match(r"chain (\d+)", text)
    if start is None:
        raise SystemExit(f"{text!r} is no chain")
    value, fine, found = int(start[1]), True, []
    operations = [(sign, int(number)) for sign, number in re.findall(r"([-+*/])(\d+)", text)]
    for at, step in enumerate(chain.steps):
        if at < len(operations):
            sign, number = operations[at]
            after = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[sign]
            fine = fine and step == f"{value}{sign}{number}={after}\n"
            value = after
        else:
            fine = fine and step == f"answer: {value}\n"
        found.append(fine)
    return found


def labelled(way: Way) -> list[Findings]:
    """What a way found, by problem; from the bank where it is there."""
    where = ROOT / "studies" / "labels"
    where.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "_", repr(way.strategy)).strip("_")
    return label(
        TASK,
        "lab",
        way.strategy,
        "hard",
        Path(where / f"{name}.jsonl"),
        limit=None,
        seed=0,
        temperature=1.0,
        concurrency=64,
        resume="make evidence NAME=labels",
    )


def told(way: Way, found: Sequence[Findings]) -> list[list[tuple[float, bool]]]:
    """For each problem the labels of all steps but the last, whose label is the verdict, with the truth."""
    pairs = []
    for one in found:
        read = [way.read(chain) for chain in one.chains]
        pairs.append(
            [
                (score, fine)
                for steps in read
                for score, fine in zip(steps.labels[:-1], truth(steps), strict=False)
                if score is not None
            ]
        )
    return pairs


def auc_of(pairs: Sequence[Sequence[tuple[float, bool]]]) -> float:
    """How well labels tell right steps from wrong ones, over all problems together."""
    flat = [pair for one in pairs for pair in one]
    return auc([score for score, _ in flat], [fine for _, fine in flat]) or 0.0


def gain(a: Sequence[list[tuple[float, bool]]], b: Sequence[list[tuple[float, bool]]]) -> Interval:
    """AUC of a minus that of b, with its 95% bootstrap interval over problems."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(a), (500, len(a))).tolist()
    found = [auc_of([a[i] for i in draw]) - auc_of([b[i] for i in draw]) for draw in draws]
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(auc_of(a) - auc_of(b), float(low), float(high))


def main() -> None:
    """Label, measure, claim, and put the table into the page."""
    rows = ["| labels | AUC against the truth | roll-outs a chain | tokens a chain |", "|---|--:|--:|--:|"]
    seen = {}
    for way in WAYS:
        found = labelled(way)
        pairs, rollouts, tokens = told(way, found), [one.rollouts for one in found], [one.tokens for one in found]
        seen[way.name] = pairs, np.array(rollouts, float)
        rows.append(f"| {way.name} | {auc_of(pairs):.3f} | {np.mean(rollouts):.1f} | {np.mean(tokens):,.0f} |")
    every, halving = seen["every prefix, any right"], seen["binary search"]
    saved, same = ratio(every[1], halving[1]), gain(halving[0], every[0])
    n = len(every[1])
    claims = [
        Claim(
            "fewer-rollouts",
            f"times fewer roll-outs by binary search than by rolling out every prefix (k = {K}), chains of 16 to 20 operations",
            saved.value,
            saved.low,
            saved.high,
            ">= 3",
            saved.low >= 3,
            n,
            1,
        ),
        Claim(
            "same-auc",
            "AUC of labels against the truth, binary search minus every prefix",
            same.value,
            same.low,
            same.high,
            "low >= -.02",
            same.low >= -0.02,
            n,
            1,
        ),
    ]
    save("labels", claims)
    insert(DOCS / "evidence" / "labels.md", "labels", "\n".join(rows))


if __name__ == "__main__":
    main()
