"""The twin plot: accuracy against compute spent in training, and against compute spent on each problem, both in FLOPs.

`make evidence NAME=twin`, ten minutes on one core; every part is resumable. Everything is trained on problems of the train
split and measured on the same 200 of the test split.

Training FLOPs are 6 x parameters for a token trained on, and 2 x parameters for one sampled on the way; the cards of the shipped sizes
hold parameters and tokens, those of what is trained here the FLOPs. Test FLOPs are 2 x the policy's parameters for a token written and
2 x the verifier's for a position scored. The prompt, which is read once for all samples, is left out of test FLOPs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

import ponder.lab as lab
from evidence.common import DOCS, ROOT, Claim, insert, run_study, save
from ponder.cli.bases import locate, policy_spec
from ponder.cli.curve import Line
from ponder.cli.em import Loop
from ponder.cli.rounds import measured
from ponder.cli.rounds import run_study as run_in
from ponder.cli.study import check
from ponder.core import Task
from ponder.learners.em import METHODS
from ponder.learners.lab import train
from ponder.learners.rl import Recipe as Reinforcement
from ponder.learners.rl import reinforce
from ponder.learners.training import Recipe
from ponder.scaling.bootstrap import mean_intervals, paired_difference
from ponder.spec import parse

WHERE = ROOT / "studies" / "twin"
RESUME = "make evidence NAME=twin"
SIZES = ("small", "base", "large")
TEST, SINGLE, MOST = "countdown(n=200)", 16, 32  # samples for pass@1, and for the right panel
PROBLEMS = 1000
TRAIN, DEV = f"countdown(n={PROBLEMS}, split='train')", f"countdown(n=40, split='train', skip={PROBLEMS})"
CHECKPOINTS = 7  # of the training of the small model from nothing, as the shipped one was trained
EM = replace(METHODS["rest_em"], rounds=3, samples=16, patience=0)
POLICY = Recipe(epochs=3.0, batch=64, rate=1e-3)
RL = Reinforcement(group=8, prompts=32, steps=188, rate=3e-4, checkpoints=3)  # as many samples as the three rounds
PRM = "prm"


@dataclass(frozen=True, slots=True)
class Point:
    """One place in a panel: FLOPs, and accuracy by problem."""

    group: str
    name: str
    flops: float
    correct_P: np.ndarray


def training(folder: Path) -> dict[str, float]:
    """The training in a folder's card."""
    return cast("dict[str, float]", json.loads((folder / "card.json").read_text("utf-8"))["training"])


def shipped(name: str) -> dict[str, float]:
    """The training in the card of weights that come with the lab."""
    file = Path(lab.__file__).parent / "weights" / f"{name}.card.json"
    return cast("dict[str, float]", json.loads(file.read_text("utf-8"))["training"])


def from_nothing(facts: dict[str, float]) -> float:
    """FLOPs of a training from nothing, whose card tells parameters and tokens."""
    return 6 * facts["parameters"] * facts["tokens"]


def single(folder: Path, name: str) -> np.ndarray:
    """pass@1 by problem on the test split."""
    where = WHERE / "test" / name
    body = {"name": "test", "tasks": [TEST], "policies": [policy_spec(folder)], "strategies": ["sample"], "slice": SINGLE}
    run_in(check(body, name), where, resume=RESUME)
    found: np.ndarray = measured(where).pass_P_K[:, 0]
    return found


def trained() -> list[Point]:
    """The left panel: checkpoints of a training from nothing, the three sizes, rounds of ReST-EM and steps of GRPO on the small one."""
    found = []
    whole = WHERE / "small"
    if not (whole / "card.json").is_file():
        train("small", seed=0, out=whole, checkpoints=CHECKPOINTS)
    for folder in in_order(whole):
        facts = training(folder)
        name = f"step {facts['steps']}"
        found.append(Point("small, checkpoints", name, from_nothing(facts), single(folder, f"small-{facts['steps']}")))
    before = from_nothing(shipped("small"))
    for size in SIZES:
        found.append(Point("sizes", size, from_nothing(shipped(size)), single(locate(f"lab:{size}"), size)))
    em = Loop(locate("lab:small"), (TRAIN,), DEV, EM, POLICY, POLICY, WHERE / "em", 0, SINGLE, resume=RESUME)
    for report in list(em.run())[1:]:
        correct_P = single(em.policy(report.round), f"em-{report.round}")
        found.append(Point("small, then ReST-EM", f"round {report.round}", before + report.train_flops, correct_P))
    out = WHERE / "grpo"
    if not out.is_dir():
        reinforce(locate("lab:small"), cast("Task", parse(TRAIN, "tasks")), out, RL)
    for step, folder in zip([*sorted(RL.marks), RL.steps], in_order(out), strict=True):
        cost = cast("dict[str, float]", training(folder)["cost"])
        found.append(Point("small, then GRPO", f"step {step}", before + cost["flops"], single(folder, f"grpo-{step}")))
    return found


def in_order(folder: Path) -> list[Path]:
    """The checkpoints of a training, and its end."""
    return [*sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-"))), folder]


def tested() -> list[Point]:
    """The right panel: majority and best-of-n by the lab's process reward model, on the three sizes."""
    body = {
        "name": "twin",
        "tasks": [TEST],
        "policies": [f"lab({size!r})" for size in SIZES],
        "strategies": [f"self_consistency(n={MOST})", f"best_of_n(n={MOST}, verifier=reward_model('lab/{PRM}'))"],
        "slice": MOST,
    }
    lines, _ = run_study(check(body, "twin"))
    verifier = shipped(PRM)["parameters"]
    found = []
    for size in SIZES:
        parameters = shipped(size)["parameters"]
        mine = [line for line in lines if f"| lab/{size} |" in line.cell]
        plain = next(line for line in mine if line.strategy == "self_consistency")
        best = next(line for line in mine if line.strategy.startswith("best_of_n"))
        written = plain.tokens_P_K.mean(axis=0)
        scored = best.tokens_P_K.mean(axis=0) - written
        found += points(f"{size}, majority", plain, 2 * parameters * written)
        found += points(f"{size}, best-of-n", best, 2 * parameters * written + 2 * verifier * scored)
    return found


def points(group: str, line: Line, flops_K: np.ndarray) -> list[Point]:
    """A curve as points."""
    return [Point(group, f"n = {k}", float(flops_K[at]), line.values_P_K[:, at]) for at, k in enumerate(line.ks)]


def figure(left: Sequence[Point], right: Sequence[Point]) -> None:
    """Two panels, one axis of accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from ponder.scaling.figure import MARKERS, PALETTE

    drawn, panels = plt.subplots(1, 2, sharey=True, figsize=(11, 4.8), constrained_layout=True)
    for axes, found, label in zip(panels, (left, right), ("training FLOPs", "test FLOPs a problem"), strict=True):
        for at, group in enumerate(dict.fromkeys(point.group for point in found)):
            mine = [point for point in found if point.group == group]
            intervals = mean_intervals(np.stack([point.correct_P for point in mine], axis=1), seed=0)
            values = np.array([one.value for one in intervals])
            errors = [values - [one.low for one in intervals], np.array([one.high for one in intervals]) - values]
            size = next((number for number, name in enumerate(SIZES) if found is right and group.startswith(name)), at)
            style = "none" if group == "sizes" else "--" if "majority" in group else "-"
            look = {"marker": MARKERS[at % 8], "color": PALETTE[size % 8], "linestyle": style, "markersize": 5}
            axes.errorbar([point.flops for point in mine], values, errors, capsize=2, label=group, **look)
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("accuracy on countdown, test split")
    drawn.suptitle("One sample after more training, or more samples after training")
    drawn.savefig(DOCS / "evidence" / "twin.png", dpi=150)
    plt.close(drawn)


def table(found: Sequence[Point], axis: str) -> str:
    """One line for each point."""
    rows = [f"| | | {axis} | accuracy | 95% interval |", "|---|---|--:|--:|---|"]
    for point in found:
        [value] = mean_intervals(point.correct_P[:, None], seed=0)
        rows.append(
            f"| {point.group} | {point.name} | {point.flops:.3g} | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] |"
        )
    return "\n".join(rows)


def claims(left: Sequence[Point], right: Sequence[Point]) -> list[Claim]:
    """Accuracy bought by more training against accuracy bought by more samples; numbers without a target."""
    found = {f"{point.group} {point.name}": point for point in [*left, *right]}
    samples, em = "small, best-of-n n = 16", f"small, then ReST-EM round {EM.rounds}"
    pairs = (
        ("large-over-small", "one sample of large over one of small", "sizes large", "sizes small"),
        ("em-over-small", "one sample after three rounds of ReST-EM over one of small", em, "sizes small"),
        ("grpo-over-em", "one sample after GRPO over one after ReST-EM", f"small, then GRPO step {RL.steps}", em),
        ("grpo-over-large", "one sample after GRPO over one of large", f"small, then GRPO step {RL.steps}", "sizes large"),
        ("samples-over-small", "best-of-16 of small by lab/prm over one sample of it", samples, "sizes small"),
        ("samples-over-large", "best-of-16 of small by lab/prm over one sample of large", samples, "sizes large"),
        ("samples-over-em", "best-of-16 of small by lab/prm over one sample after ReST-EM", samples, em),
        ("large-over-small-16", "best-of-16 of large by lab/prm over best-of-16 of small", "large, best-of-n n = 16", samples),
    )
    made = []
    for id_, text, a, b in pairs:
        gain = paired_difference(found[a].correct_P, found[b].correct_P, seed=0, resamples=2000)
        made.append(Claim(id_, text, gain.value, gain.low, gain.high, None, None, len(found[a].correct_P), 1))
    return made


def verifier_cost() -> str:
    """What the verifier of the right panel had cost, which is on neither axis."""
    facts = shipped(PRM)
    last = cast("dict[str, float]", facts["cost"])["flops"]
    start = from_nothing(shipped("base"))
    return (
        f"`lab/{PRM}` has {facts['parameters']:,} parameters; its last training took {last:.2g} FLOPs, after the {start:.2g} of `base`, "
        f"which it started from ({from_nothing(shipped('small')):.2g} went into `small`)."
    )


def main() -> None:
    """Train, test, draw, and put the tables into the page."""
    left, right = trained(), tested()
    figure(left, right)
    page = DOCS / "evidence" / "twin.md"
    insert(page, "twin-train", table(left, "training FLOPs"))
    insert(page, "twin-test", table(right, "test FLOPs a problem"))
    insert(page, "twin-verifier", verifier_cost())
    save("twin", claims(left, right))


if __name__ == "__main__":
    main()
