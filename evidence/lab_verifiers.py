"""The lab's verifiers on held-out problems: what 1 to 64 samples buy when they choose, against voting and against each other.

`make evidence NAME=lab_verifiers`, about a quarter of an hour; it is a study and can be stopped and started again. `make verifiers`
trains what is measured here.
"""

from __future__ import annotations

from evidence.common import DOCS, Claim, at, compare, figures, insert, line, ratio, run_study, save, table
from ponder.cli.curve import Line
from ponder.cli.study import Study, check
from ponder.scaling.bootstrap import paired_difference

CHAIN, COUNTDOWN = "chain(14-20)", "countdown(4)"
ORM, PRM, TRIAL = (f"reward_model(path='lab/{name}')" for name in ("orm", "prm", "orm_trial"))


def study() -> Study:
    """Sixty-four samples of each held-out problem, three seeds, chosen from in every way."""
    ways = [f"{way}(n=64, verifier={model})" for model in (ORM, PRM, TRIAL) for way in ("best_of_n", "weighted_vote")]
    return check(
        {
            "name": "lab_verifiers",
            "tasks": ["chain(least=14, n=175)", "countdown(numbers=4, n=200)"],
            "policies": ["lab"],
            "strategies": ["sample", "self_consistency(n=64)", *ways],
            "slice": 64,
            "seeds": [0, 1, 2],
        },
        "lab_verifiers",
    )


def named(way: str, model: str) -> str:
    """The name of a curve."""
    return f"{way}({model})".replace("verifier=", "")


def claims(lines: list[Line]) -> list[Claim]:
    """Every claim of this page."""
    vote = line(lines, CHAIN, "self_consistency")
    weighted, orm = line(lines, CHAIN, named("weighted_vote", PRM)), line(lines, CHAIN, named("best_of_n", ORM))
    text = "accuracy on chains at 64 samples, {} over {}"
    above = lambda found: found.low > 0  # noqa: E731  as short as its name
    found = [
        compare(
            "chain-prm-orm",
            text.format("votes weighted by the PRM", "best-of-n by the ORM"),
            (weighted, 64),
            (orm, 64),
            "> 0",
            above,
        ),
        compare("chain-orm-majority", text.format("best-of-n by the ORM", "majority"), (orm, 64), (vote, 64), "> 0", above),
        compare(
            "chain-prm-majority", text.format("votes weighted by the PRM", "majority"), (weighted, 64), (vote, 64), "> 0", above
        ),
    ]
    cover = line(lines, COUNTDOWN, "pass@k (any of k correct)")
    for name, model in (("orm", ORM), ("prm", PRM), ("trial", TRIAL)):
        best = line(lines, COUNTDOWN, named("best_of_n", model))
        share = ratio(at(best, 64), at(cover, 64))
        found.append(
            Claim(
                f"countdown-{name}-share",
                f"best-of-64 by {model} on {COUNTDOWN} as a share of pass@64",
                share.value,
                share.low,
                share.high,
                ">= .8" if name != "trial" else None,
                share.value >= 0.8 if name != "trial" else None,
                len(at(best, 64)),
                best.seeds,
            )
        )
        found.append(falls(name, model, best))
    both = (line(lines, COUNTDOWN, named("best_of_n", PRM)), 64), (line(lines, COUNTDOWN, named("best_of_n", ORM)), 64)
    found.append(compare("countdown-prm-orm", "accuracy of best-of-64 on countdown, by the PRM over by the ORM", *both))
    return found


def falls(name: str, model: str, best: Line) -> Claim:
    """The largest loss from one size to the next; nothing is lost as long as no interval lies below zero."""
    steps = [
        paired_difference(at(best, large), at(best, small), seed=0, resamples=2000)
        for small, large in zip(best.ks, best.ks[1:], strict=False)
    ]
    worst = min(steps, key=lambda step: step.value)
    return Claim(
        f"countdown-{name}-rises",
        f"least gain of best-of-n by {model} on {COUNTDOWN} when n doubles, n = 1 to 64",
        worst.value,
        worst.low,
        worst.high,
        ">= 0" if name != "trial" else None,
        all(step.value >= 0 for step in steps) if name != "trial" else None,
        len(at(best, 64)),
        best.seeds,
    )


def main() -> None:
    """Run, claim, draw, and put the tables into the page."""
    lines, _ = run_study(study())
    save("lab_verifiers", claims(lines))
    figures(lines, "lab_verifiers")
    points = [point for one in lines for point in one.points() if point.k in (1, 4, 16, 64)]
    insert(DOCS / "evidence" / "lab_verifiers.md", "lab_verifiers", table(points))


if __name__ == "__main__":
    main()
