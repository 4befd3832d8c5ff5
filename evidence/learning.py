"""Policies that learn from their own verified samples: pass@k before and after, by method, at equal sample tokens, on the lab.

`make evidence NAME=learning`, one to two hours on two cores; every part is resumable. The small lab model learns from countdown problems of
the train split; pass@k is measured on the test split, which no loop sees. The main arms run with three seeds, the others with one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, save
from ponder.cli.bases import locate, policy_spec
from ponder.cli.em import Loop
from ponder.cli.hints import LAB_TEMPLATE, answer_of
from ponder.cli.rounds import Measured, measured, run_study
from ponder.cli.study import check
from ponder.core import Task
from ponder.lab.problems import LabProblem, solve_steps
from ponder.learners.datasets import Sample, steps_of
from ponder.learners.em import METHODS
from ponder.learners.policy import finetune
from ponder.learners.rl import Recipe as Reinforcement
from ponder.learners.rl import reinforce
from ponder.learners.training import Recipe
from ponder.scaling.bootstrap import paired_difference
from ponder.spec import parse
from ponder.types import user

WHERE = ROOT / "studies" / "learning"
PROBLEMS, SAMPLES, ROUNDS = 4000, 16, 3
TRAIN = f"countdown(n={PROBLEMS}, split='train')"
DEV = f"countdown(n=60, split='train', skip={PROBLEMS})"
TEST = "countdown(n=200)"
RECIPE = Recipe(epochs=4.0, batch=64, rate=2e-3)
SEEDS = (0, 1, 2)
BASE = "small"


def loop(method: str, seed: int, name: str = "", **changes: object) -> Loop:
    """One arm. All draw as many samples of each problem over all rounds as ReST-EM does."""
    em = replace(METHODS[method], patience=0, **changes)  # type: ignore[arg-type]  # each of its field's type
    out = WHERE / f"{name or method}-{seed}"
    return Loop(base(), (TRAIN,), DEV, em, RECIPE, RECIPE, out, seed, 16, resume="make evidence NAME=learning")


@cache
def base() -> Path:
    """The model that every arm starts from."""
    return locate(f"lab:{BASE}")


@dataclass(frozen=True, slots=True)
class Arm:
    """A trained policy, with what it cost."""

    name: str
    seed: int
    folder: Path
    sampled: int
    trained: int
    flops: float


def em_arms() -> list[Arm]:
    """Every method of the loop; one arm for each round of ReST-EM."""
    arms = []
    whole = SAMPLES * ROUNDS
    plans = [("rest_em", "rest_em", {"rounds": ROUNDS, "samples": SAMPLES}, SEEDS)]
    plans += [
        ("rest", "rest", {"rounds": ROUNDS, "samples": SAMPLES}, SEEDS[:1]),
        ("rft", "rft (distinct derivations)", {"samples": whole}, SEEDS[:1]),
        ("rft", "rft (all)", {"samples": whole, "dedupe": "none"}, SEEDS[:1]),
        ("star", "star (no hint)", {"rounds": ROUNDS, "samples": SAMPLES, "cap": 1, "rationalise": False}, SEEDS[:1]),
    ]
    for method, name, changes, seeds in plans:
        for seed in seeds:
            one = loop(method, seed, name.replace(" ", "_").strip("()"), **changes)
            reports = list(one.run())
            for report in reports[1:]:
                last = report is reports[-1]
                if last or method == "rest_em":
                    label = name if last else f"{name}, round {report.round}"
                    arms.append(
                        Arm(
                            label,
                            seed,
                            one.policy(report.round),
                            report.sampled_tokens,
                            report.trained_tokens,
                            report.train_flops,
                        )
                    )
    return arms


def hinted_arm() -> Arm:
    """STaR with rationalisation. The lab has never seen a hint, so its base first learns what one is, from worked solutions with hints."""
    primed = WHERE / "primed"
    if not primed.is_dir():
        finetune(base(), [hinted_solution(sample) for sample in worked(PROBLEMS)], primed, recipe=RECIPE, seed=0)
    one = replace(loop("star", 0, "star_hint", rounds=ROUNDS, samples=SAMPLES, cap=1), base=primed)
    *_, report = one.run()
    return Arm("star (hint)", 0, one.policy(report.round), report.sampled_tokens, report.trained_tokens, report.train_flops)


def control_arms(arms: Sequence[Arm]) -> list[Arm]:
    """Fine-tuned on worked solutions of the same problems, the lab's original data, for as many tokens as ReST-EM's last round read."""
    found = []
    for seed in SEEDS:
        target = next(arm for arm in arms if arm.name == "rest_em" and arm.seed == seed)
        tokens = json.loads((target.folder / "card.json").read_text())["training"]["cost"]["tokens"]
        solutions = worked(PROBLEMS)
        each = sum(len(one.text) for one in solutions)
        out = WHERE / f"control-{seed}"
        if not out.is_dir():
            once = finetune(base(), solutions, WHERE / "probe", recipe=replace(RECIPE, epochs=0.05), seed=seed).cost.tokens / 0.05
            finetune(base(), solutions, out, recipe=replace(RECIPE, epochs=tokens / once), seed=seed)
        cost = json.loads((out / "card.json").read_text())["training"]["cost"]
        found.append(Arm("control", seed, out, 0, cost["tokens"], cost["flops"]))
        del each
    return found


def rl_arm(tokens: int) -> Arm:
    """GRPO until about as many tokens are sampled as by ReST-EM."""
    out = WHERE / "grpo-0"
    group, prompts = 8, 32
    steps = max(10, round(tokens / (group * prompts * 26)))
    if not out.is_dir():
        task = cast("Task", parse(TRAIN, "tasks"))
        reinforce(base(), task, out, Reinforcement(group=group, prompts=prompts, steps=steps, rate=1e-4, seed=0), report=_told)
    cost = json.loads((out / "card.json").read_text())["training"]["cost"]
    return Arm("grpo", 0, out, cost["sampled_tokens"], cost["trained_tokens"], cost["flops"])


def worked(n: int) -> list[Sample]:
    """A worked solution of each training problem, as the lab's first training draws them."""
    import random

    task = cast("Task", parse(TRAIN, "tasks"))
    made = []
    for problem in task.problems[:n]:
        text = problem.question.messages[-1].text
        posed = LabProblem("countdown", problem.question.id, text, str(problem.reference), 0)
        solution = solve_steps(posed, random.Random(problem.question.id))
        made.append(
            Sample(problem.question.id, problem.question.messages, steps_of(solution), True, None, "stop", "worked", 0.0, None, 0)
        )
    return made


def hinted_solution(sample: Sample) -> Sample:
    """The same under the question with the hint."""
    task = cast("Task", parse(TRAIN, "tasks"))
    problem = next(one for one in task.problems if one.question.id == sample.problem)
    text = LAB_TEMPLATE.replace("{question}", sample.prompt[-1].text).replace("{answer}", answer_of(problem))
    return replace(sample, prompt=(user(text),))


def tested(folder: Path, name: str) -> Measured:
    """pass@k of a policy on the test split, 64 samples of each problem."""
    where = WHERE / "test" / name
    body = {"name": "test", "tasks": [TEST], "policies": [policy_spec(folder)], "strategies": ["sample"], "slice": 64}
    run_study(check(body, name), where, resume="make evidence NAME=learning")
    return measured(where)


def main() -> None:
    """Train, test, claim, and put the table into the page."""
    arms = em_arms()
    arms += control_arms(arms)
    arms.append(hinted_arm())
    arms.append(rl_arm(next(arm.sampled for arm in arms if arm.name == "rest_em")))
    start = tested(base(), "base")
    seen: dict[str, list[Measured]] = {}
    costs: dict[str, list[Arm]] = {}
    for arm in arms:
        slug = f"{arm.name}-{arm.seed}".replace(" ", "_").replace("(", "").replace(")", "").replace(",", "")
        seen.setdefault(arm.name, []).append(tested(arm.folder, slug))
        costs.setdefault(arm.name, []).append(arm)
    save("learning", claims(start, seen))
    insert(DOCS / "evidence" / "learning.md", "learning", table(start, seen, costs))


def mean(found: Sequence[Measured]) -> np.ndarray:
    """pass@k by problem, averaged over seeds."""
    return np.mean([one.pass_P_K for one in found], axis=0)


def claims(start: Measured, seen: dict[str, list[Measured]]) -> list[Claim]:
    """Gains of pass@1 over the base and the control, and what happened to pass@k at every k."""
    rest = mean(seen["rest_em"])
    ks = start.ks
    found = []
    for id_, other, text in (
        ("over-base", start.pass_P_K, "the base"),
        ("over-control", mean(seen["control"]), "a control fine-tuned as long on worked solutions of the same problems"),
    ):
        gain = paired_difference(rest[:, 0], other[:, 0], seed=0, resamples=2000)
        found.append(
            Claim(
                id_,
                f"pass@1 gained by three rounds of ReST-EM over {text}",
                gain.value,
                gain.low,
                gain.high,
                ">= .10",
                gain.value >= 0.1,
                len(rest),
                len(seen["rest_em"]),
            )
        )
    for name in sorted(seen):
        for at, k in enumerate(ks):
            if k in (1, 8, 64):
                gain = paired_difference(mean(seen[name])[:, at], start.pass_P_K[:, at], seed=0, resamples=2000)
                text = f"pass@{k} of {name} over the base"
                found.append(Claim(f"{name}-{k}", text, gain.value, gain.low, gain.high, None, None, len(rest), len(seen[name])))
    return found


def table(start: Measured, seen: dict[str, list[Measured]], costs: dict[str, list[Arm]]) -> str:
    """One line for each policy."""
    ks = [k for k in start.ks if k in (1, 2, 4, 8, 16, 32, 64)]
    rows = [f"| policy | seeds | sampled tokens | trained tokens | FLOPs | {' | '.join(f'pass@{k}' for k in ks)} | entropy |"]
    rows.append("|---|--:|--:|--:|--:|" + "--:|" * (len(ks) + 1))
    lines = [("base", [start], [Arm("base", 0, base(), 0, 0, 0.0)])]
    lines += [(name, found, costs[name]) for name, found in seen.items()]
    for name, found, bills in lines:
        values = mean(found).mean(axis=0)
        shown = " | ".join(f"{values[start.ks.index(k)]:.3f}" for k in ks)
        bill = [np.mean([getattr(arm, field) for arm in bills]) for field in ("sampled", "trained", "flops")]
        entropy = np.mean([one.entropy for one in found])
        rows.append(f"| {name} | {len(found)} | {bill[0]:,.0f} | {bill[1]:,.0f} | {bill[2]:.2g} | {shown} | {entropy:.3f} |")
    return "\n".join(rows)


def _told(update: object) -> None:
    step = getattr(update, "step", 0)
    if step % 20 == 0:
        print(f"grpo step {step}: {update}", file=sys.stderr)


if __name__ == "__main__":
    main()
