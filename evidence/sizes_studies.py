"""What `evidence.sizes` draws and reads: the studies, and what each way of answering reaches at which FLOPs.

FLOPs are counted as on the page of the twin plot: 6 x parameters for a token trained on, 2 x the policy's for a token written, 2 x the verifier's for a position scored; the prompt,
read once for all samples, is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from evidence.common import ROOT, completed, run_study
from evidence.lab_verifiers import PRM, TRIAL, named
from evidence.twin import from_nothing, shipped, training
from ponder.cli.axes import COUNTS
from ponder.cli.bases import policy_spec
from ponder.cli.curve import COVERAGE, Line
from ponder.cli.harvest import harvest
from ponder.cli.study import Study, check
from ponder.learners.datasets import Sample
from ponder.learners.lab import train
from ponder.scaling.bootstrap import Interval
from ponder.scaling.paired import Curve

SIZES = ("small", "base", "large")
TASKS = {"countdown(4)": "countdown(numbers=4, n=200)", "chain(14-20)": "chain(least=14, n=70)"}
COUNTDOWN, CHAIN = TASKS
DRAWN = {COUNTDOWN: {"small": 256, "base": 256, "large": 32}, CHAIN: {"small": 64, "base": 64, "large": 32}}
CHOSEN = {
    COUNTDOWN: "best_of_n",
    CHAIN: "weighted_vote",
}  # as the page of the verifiers has it, before anything was looked at here
SEEDS = {COUNTDOWN: [0, 1, 2], CHAIN: [0, 1]}
STEPS = (300, 600)  # of trainings of the small model on schedules of their own; the shipped one made 2400
PILOT = 32  # samples of the small model, of a seed of their own, that say how hard a problem is
MAJORITY, GREEDY = "self_consistency", "greedy"
LEARNED = ROOT / "studies" / "sizes"
RESUME = "make evidence NAME=sizes"


@dataclass(frozen=True, slots=True)
class Model:
    """A policy with what its training cost. tokens: trained on."""

    name: str
    parameters: float
    tokens: float

    @property
    def flops(self) -> float:
        """Of the training."""
        return 6 * self.parameters * self.tokens


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer with one model: right_P_K by problem from n_K samples. cost: FLOPs of one sample, scored where the way scores."""

    task: str
    model: Model
    way: str
    n_K: tuple[int, ...]
    right_P_K: np.ndarray
    cost: float
    ids: tuple[str, ...]
    seeds: int

    @property
    def curve(self) -> Curve:
        """Against FLOPs for one problem."""
        return Curve(f"{self.model.name}, {plain(self.way)}", np.array(self.n_K) * self.cost, self.right_P_K)

    def at(self, n: int) -> np.ndarray:
        """Right or wrong by problem with n samples."""
        found: np.ndarray = self.right_P_K[:, self.n_K.index(n)]
        return found


Arms = dict[tuple[str, str, str], Arm]
"""By task, model and way."""


def chosen(task: str, model: str = PRM) -> str:
    """The name of the curve of a task's choice by a verifier."""
    return named(CHOSEN[task], model)


def plain(way: str) -> str:
    """What a reader calls it."""
    named_way = {MAJORITY: "majority", COVERAGE: "pass@k", "best_of_n": "best-of-n", "weighted_vote": "weighted vote"}
    kind, _, verifier = way.partition("(")
    found = re.search(r"lab/(\w+)'", verifier)
    return named_way.get(way, named_way.get(kind, kind)) + (f" by {found[1]}" if found else "")


def slug(task: str) -> str:
    """The first word of a task, for names."""
    return task.partition("(")[0]


def span(one: Interval, digits: int = 3) -> str:
    """The interval."""
    return f"[{one.low:+.{digits}f}, {one.high:+.{digits}f}]" if one.low < 0 else f"[{one.low:.{digits}f}, {one.high:.{digits}f}]"


def study(task: str, size: str) -> Study:
    """Samples of one size on one task, chosen from in every way of the page; three seeds, two of the long chains."""
    n = DRAWN[task][size]
    ways = [f"{MAJORITY}(n={n})", f"{CHOSEN[task]}(n={n if size == 'base' else min(n, 64)}, verifier={PRM})"]
    if (task, size) == (COUNTDOWN, "base"):
        ways.append(f"{CHOSEN[task]}(n={n}, verifier={TRIAL})")
    return _study(f"sizes-{slug(task)}-{size}", task, f"lab({size!r})", ways, n, SEEDS[task])


def shorter(steps: int) -> Study:
    """The same of the small model after a shorter training, one seed."""
    n = DRAWN[COUNTDOWN]["large"]
    ways = [f"{MAJORITY}(n={n})", f"{CHOSEN[COUNTDOWN]}(n={n}, verifier={PRM})"]
    return _study(f"sizes-steps-{steps}", COUNTDOWN, policy_spec(learned(steps)), ways, n, [0])


def pilot(task: str) -> Study:
    """Samples of the small model that are used for nothing but the difficulty of a problem."""
    return _study(f"sizes-difficulty-{slug(task)}", task, "lab('small')", ["sample"], PILOT, [3])


def greedy(task: str, size: str) -> Study:
    """The likeliest answer of a size."""
    body = {
        "name": f"sizes-greedy-{slug(task)}-{size}",
        "tasks": [TASKS[task]],
        "policies": [f"lab({size!r})"],
        "strategies": ["sample"],
    }
    return check({**body, "slice": 1, "sampling": [{"temperature": 0.0}]}, str(body["name"]))


def learned(steps: int) -> Path:
    """The small model after a training of so many steps, made first if it is not there."""
    out = LEARNED / f"small-{steps}"
    if not (out / "card.json").is_file():
        train("small", seed=0, out=out, steps=steps)
    return out


def models() -> dict[str, Model]:
    """The shorter trainings and the three sizes, by name."""
    cards = {f"small-{steps}": training(learned(steps)) for steps in STEPS} | {size: shipped(size) for size in SIZES}
    return {name: Model(name, card["parameters"], card["tokens"]) for name, card in cards.items()}


def verifier_training() -> float:
    """FLOPs of the process reward model's training and of the model that it started from; labels are left out."""
    return cast("dict[str, float]", shipped("prm")["cost"])["flops"] + from_nothing(shipped("base"))


def arms() -> Arms:
    """Every arm; drawn first if it is not there."""
    known = models()
    found = [arm for task in TASKS for size in SIZES for arm in _arms(task, known[size], study(task, size))]
    for task, size in ((task, size) for task in TASKS for size in SIZES):
        [single] = [arm for arm in _arms(task, known[size], greedy(task, size)) if arm.way == "sample"]
        found.append(replace(single, way=GREEDY))
    found += [arm for steps in STEPS for arm in _arms(COUNTDOWN, known[f"small-{steps}"], shorter(steps))]
    if len({(arm.task, arm.ids) for arm in found}) != len(TASKS):
        raise SystemExit(f"the arms are not of the same problems; {RESUME} draws what is missing")
    return {(arm.task, arm.model.name, arm.way): arm for arm in found}


def rates(task: str) -> np.ndarray:
    """pass@1 of the small model by problem, from samples that nothing else uses."""
    lines, _ = run_study(pilot(task))
    found: np.ndarray = next(one for one in lines if one.strategy == "sample").values_P_K[:, 0]
    return found


def samples(task: str, size: str) -> list[Sample]:
    """The judged samples themselves."""
    with completed(study(task, size), RESUME) as (_, where):
        pass
    return list(harvest([where]))


def _arms(task: str, model: Model, study: Study) -> list[Arm]:
    lines, _ = run_study(study)
    return [_arm(task, model, line) for line in lines]


def _arm(task: str, model: Model, line: Line) -> Arm:
    spent_C = line.spent_P_K_C[:, 0].mean(axis=0) / line.ks[0]
    written, scored = (float(spent_C[COUNTS.index(kind)]) for kind in ("completion", "scored"))
    verifier = re.search(r"lab/(\w+)'", line.strategy)
    cost = 2 * model.parameters * written + (2 * shipped(verifier[1])["parameters"] * scored if verifier else 0.0)
    return Arm(task, model, line.strategy, tuple(line.ks), line.values_P_K, cost, line.ids, line.seeds)


def _study(name: str, task: str, policy: str, strategies: list[str], n: int, seeds: list[int]) -> Study:
    body = {"name": name, "tasks": [TASKS[task]], "policies": [policy], "strategies": strategies, "slice": n, "seeds": seeds}
    return check(body, name)
