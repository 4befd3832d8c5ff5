"""V-STaR's verifier against an outcome reward model of the first round, choosing among the same samples of the lab.

`make evidence NAME=vstar`, about ten minutes a seed on one core; every part is resumable. The small lab model learns from countdown problems of
the train split, policy and verifier in turn, for three rounds; samples of the last policy for problems of the test split are chosen from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evidence.common import DOCS, ROOT, Claim, averaged, compare, figures, insert, line, run_study, save, table
from ponder.cli.bases import locate, policy_spec
from ponder.cli.curve import Line
from ponder.cli.em import Loop
from ponder.cli.study import check
from ponder.learners.datasets import distinct
from ponder.learners.em import METHODS
from ponder.learners.outcome import train_outcome
from ponder.learners.training import Recipe

WHERE = ROOT / "studies" / "vstar"
PROBLEMS, SAMPLES, ROUNDS, CHOICES = 1000, 16, 3, 64
SEEDS = (0, 1, 2)
POLICY = Recipe(epochs=3.0, batch=64, rate=1e-3)
VERIFIER = Recipe(epochs=2.0, batch=64, rate=5e-4)
RESUME = "make evidence NAME=vstar"


def loop(seed: int) -> Loop:
    """Three rounds of V-STaR: the policy from the base on all right samples so far, the verifier by preference from the policy."""
    tasks, dev = f"countdown(n={PROBLEMS}, split='train')", f"countdown(n=40, split='train', skip={PROBLEMS})"
    em = replace(METHODS["vstar"], rounds=ROUNDS, samples=SAMPLES, patience=0)
    return Loop(locate("lab:small"), (tasks,), dev, em, POLICY, VERIFIER, WHERE / f"loop-{seed}", seed, SAMPLES, resume=RESUME)


def outcome(one: Loop, rounds: int, seed: int, start: int = 0) -> Path:
    """An outcome reward model of the samples of the first so many rounds, which starts as the policy of round `start`."""
    out = WHERE / (f"outcome-{rounds}-{seed}" + (f"-from-{start}" if start else ""))
    if not out.is_dir():
        pool = [sample for number in range(1, rounds + 1) for sample in one.samples(number)]
        train_outcome(one.policy(start), distinct(pool), out, recipe=VERIFIER, seed=seed)
    return out


def chosen(seed: int) -> list[Line]:
    """Curves of one seed."""
    one = loop(seed)
    *_, _ = one.run()
    vstar, base = one.verifier(ROUNDS), one.policy(ROUNDS)
    verifiers = {
        "V-STaR, log-likelihood": f"likelihood({str(vstar)!r})",
        "V-STaR, implicit reward": f"likelihood({str(vstar)!r}, reference={str(base)!r})",
        "policy's log-likelihood": f"likelihood({str(base)!r})",
        "ORM of the first round": f"reward_model({str(outcome(one, 1, seed))!r})",
        "ORM of all rounds": f"reward_model({str(outcome(one, ROUNDS, seed))!r})",
        "ORM from the last policy": f"reward_model({str(outcome(one, ROUNDS, seed, ROUNDS))!r})",
    }
    name = f"vstar-{seed}"
    body = {
        "name": name,
        "tasks": ["countdown(n=200)"],
        "policies": [policy_spec(base)],
        "strategies": [
            "sample",
            f"self_consistency(n={CHOICES})",
            *(f"best_of_n(n={CHOICES}, verifier={spec})" for spec in verifiers.values()),
        ],
        "slice": CHOICES,
        "seeds": [seed],
    }
    lines, _ = run_study(check(body, name))
    found = [one for one in lines if not one.strategy.startswith("best_of_n")]
    best = [one for one in lines if one.strategy.startswith("best_of_n")]
    named = [replace(curve, strategy=name) for curve, name in zip(best, verifiers, strict=True)]
    return [replace(one, cell="countdown | lab/small after three rounds | ") for one in [*found, *named]]


def claims(lines: Sequence[Line]) -> list[Claim]:
    """What the last point of a curve is above that of another."""
    first, every = "ORM of the first round", "ORM from the last policy"
    pairs = (
        ("vstar-over-first-orm", "V-STaR, log-likelihood", first, "> 0"),
        ("implicit-over-first-orm", "V-STaR, implicit reward", first, None),
        ("all-rounds-over-first-orm", "ORM of all rounds", first, None),
        ("vstar-over-last-orm", "V-STaR, log-likelihood", every, None),
        ("implicit-over-last-orm", "V-STaR, implicit reward", every, None),
        ("vstar-over-likelihood", "V-STaR, log-likelihood", "policy's log-likelihood", None),
        ("vstar-over-majority", "V-STaR, log-likelihood", "self_consistency", None),
        ("first-orm-over-majority", first, "self_consistency", None),
    )
    made = []
    for id_, name, other, target in pairs:
        text = f"accuracy at {CHOICES} samples, {name} over {other.replace('self_consistency', 'majority')}"
        a, b = ((line(lines, "countdown", of), CHOICES) for of in (name, other))
        made.append(compare(id_, text, a, b, target, (lambda found: found.low > 0) if target else None))
    return made


def main() -> None:
    """Train, choose, claim, and put the table into the page."""
    lines = [averaged(of_seeds) for of_seeds in zip(*(chosen(seed) for seed in SEEDS), strict=True)]
    figures(lines, "vstar")
    save("vstar", claims(lines))
    points = [point for one in lines for point in one.points() if point.k in (1, 4, 16, CHOICES)]
    insert(DOCS / "evidence" / "vstar.md", "vstar", table(points))


if __name__ == "__main__":
    main()
