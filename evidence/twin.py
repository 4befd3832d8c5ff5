"""The twin plot: accuracy against compute spent in training, and against compute spent on each problem, both in FLOPs.

`make evidence NAME=twin`; a quarter of an hour on two cores after `make evidence NAME=learning`, whose policies it shows; it can be
stopped and started again. Training FLOPs are 6 x parameters for a token trained on and 2 x parameters for one sampled on the way; test
FLOPs are 2 x parameters for a token written, and 2 x the verifier's for a position scored.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence import learning
from evidence.common import DOCS, ROOT, Claim, insert, run_study, save
from ponder.cli.bases import locate, policy_spec
from ponder.cli.curve import Line
from ponder.cli.rounds import measured
from ponder.cli.rounds import run_study as run_in
from ponder.cli.study import check
from ponder.learners.lab import train
from ponder.scaling.bootstrap import mean_intervals, paired_difference

SIZES = ("small", "base", "large")
STEPS, CHECKPOINTS = 600, 5  # of the short training whose checkpoints are shown
WHERE = ROOT / "studies" / "twin"
TASK = "countdown(n=200)"
PRM = "reward_model('lab/prm')"


@dataclass(frozen=True, slots=True)
class Point:
    """One place in a panel: FLOPs, and accuracy by problem."""

    group: str
    name: str
    flops: float
    correct_P: np.ndarray


def card(folder: Path) -> dict[str, float]:
    """Parameters and tokens of a training of the lab."""
    facts = json.loads((folder / "card.json").read_text("utf-8"))["training"]
    return {"parameters": float(facts["parameters"]), "tokens": float(facts["tokens"])}


def single(folder: Path, name: str) -> np.ndarray:
    """pass@1 by problem on the test split, of 16 samples."""
    where = WHERE / "test" / name
    body = {"name": "test", "tasks": [TASK], "policies": [policy_spec(folder)], "strategies": ["sample"], "slice": 16}
    run_in(check(body, name), where, resume="make evidence NAME=twin")
    found: np.ndarray = measured(where).pass_P_K[:, 0]
    return found


def trained() -> list[Point]:
    """The left panel: checkpoints of a training from nothing, the three sizes, rounds of EM and RL on top of the small one."""
    short = WHERE / "short"
    if not (short / "card.json").is_file():
        train("small", seed=0, out=short, steps=STEPS, checkpoints=CHECKPOINTS)
    found = []
    for folder in (*sorted(short.glob("step-*"), key=lambda path: int(path.name[5:])), short):
        facts = card(folder)
        name = folder.name if folder != short else f"step-{STEPS}"
        found.append(Point("checkpoints", name, 6 * facts["parameters"] * facts["tokens"], single(folder, f"short-{name}")))
    base = {}
    for size in SIZES:
        facts = card(locate(f"lab:{size}"))
        base[size] = 6 * facts["parameters"] * facts["tokens"]
        found.append(Point("sizes", size, base[size], single(locate(f"lab:{size}"), size)))
    arms = [arm for arm in learning.em_arms() if arm.name.startswith("rest_em") and arm.seed == 0]
    for arm in arms:
        found.append(
            Point(
                "ReST-EM", arm.name, base["small"] + arm.flops, single(arm.folder, arm.name.replace(", ", "-").replace(" ", ""))
            )
        )
    final = learning.rl_arm(next(arm.sampled for arm in arms if arm.name == "rest_em"))
    found.append(Point("GRPO", "grpo", base["small"] + final.flops, single(final.folder, "grpo")))
    return found


def tested() -> list[Point]:
    """The right panel: majority and best-of-n by the lab's process reward model, on the three sizes."""
    strategies = ["self_consistency(n=32)", f"best_of_n(n=32, verifier={PRM})"]
    body = {
        "name": "twin",
        "tasks": [TASK],
        "policies": [f"lab({size!r})" for size in SIZES],
        "strategies": strategies,
        "slice": 32,
    }
    lines, _ = run_study(check(body, "twin"))
    verifier = card_of_prm()
    found = []
    for size in SIZES:
        parameters = card(locate(f"lab:{size}"))["parameters"]
        mine = [line for line in lines if f"| lab/{size} |" in line.cell]
        plain = next(line for line in mine if line.strategy == "self_consistency")
        best = next(line for line in mine if line.strategy.startswith("best_of_n"))
        found += points(f"majority, {size}", plain, 2 * parameters * plain.tokens_P_K.mean(0))
        scored = best.tokens_P_K.mean(0) - plain.tokens_P_K.mean(0)
        found += points(f"best-of-n, {size}", best, 2 * parameters * plain.tokens_P_K.mean(0) + 2 * verifier * scored)
    return found


def points(group: str, line: Line, flops_K: np.ndarray) -> list[Point]:
    """A curve as points."""
    return [Point(group, f"n = {k}", float(flops_K[at]), line.values_P_K[:, at]) for at, k in enumerate(line.ks)]


def card_of_prm() -> float:
    """Parameters of the shipped process reward model, from its weights."""
    from safetensors.numpy import load_file

    import ponder.lab as lab

    file = Path(lab.__file__).parent / "weights" / "prm.safetensors"
    return float(sum(tensor.size for tensor in load_file(file).values()))


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
            style = "none" if group in ("sizes", "GRPO") else "-"
            xs = [point.flops for point in mine]
            axes.errorbar(
                xs, values, errors, marker=MARKERS[at % 8], color=PALETTE[at % 8], linestyle=style, capsize=2, label=group
            )
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
            f"| {point.group} | {point.name} | {point.flops:.2g} | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] |"
        )
    return "\n".join(rows)


def main() -> None:
    """Train, test, draw, and put the tables into the page."""
    left, right = trained(), tested()
    figure(left, right)
    insert(DOCS / "evidence" / "twin.md", "train", table(left, "training FLOPs"))
    insert(DOCS / "evidence" / "twin.md", "test", table(right, "test FLOPs a problem"))
    small = next(point for point in left if point.name == "small")
    large = next(point for point in left if point.name == "large")
    best = next(point for point in right if point.group == "best-of-n, small" and point.flops >= 1 and point.name == "n = 16")
    made = []
    for id_, text, a, b in (
        ("large-over-small", "one sample of `large` over one of `small`", large, small),
        ("best-of-16-over-large", "best-of-16 of `small` by the process reward model over one sample of `large`", best, large),
    ):
        gain = paired_difference(a.correct_P, b.correct_P, seed=0, resamples=2000)
        made.append(Claim(id_, text, gain.value, gain.low, gain.high, None, None, len(a.correct_P), 1))
    save("twin", made)


if __name__ == "__main__":
    main()
