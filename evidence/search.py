"""Every search over steps on held-out lab problems, at equal tokens, guide included; and what worse guides do to it.

`make evidence NAME=search`, about an hour on two cores; it is three studies, and can be stopped and started again. Sizes are fixed
beforehand; which of them is claimed to save tokens is chosen on problems of the train split and tested on others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from evidence.common import DOCS, Claim, insert, ratio, run_study, save
from ponder.cli.curve import Line
from ponder.cli.study import Study, check
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.figure import Series, curve_figure
from ponder.spec import parse
from ponder.store import Journal, StudyStore

PRM = "reward_model('lab/prm')"
# Families and their sizes, cheapest first; {g} is the guide. Fields that are left out are the defaults of each strategy.
SIZES: dict[str, Sequence[str]] = {
    "beam": [f"beam(width={w}, branch=4, verifier={{g}})" for w in (2, 4, 8)],
    "dvts": [f"dvts(trees={t}, branch=4, verifier={{g}})" for t in (2, 4, 8)],
    "step_best_of_n": [f"step_best_of_n(n={n}, verifier={{g}})" for n in (4, 16, 32)],
    "lookahead": [f"lookahead(width={w}, branch=4, verifier={{g}})" for w in (2, 4)],
    "rebase": [f"rebase(n={n}, final='max', verifier={{g}})" for n in (8, 24)],
    "rebase, temperature 0.5": [f"rebase(n={n}, temperature=0.5, final='max', verifier={{g}})" for n in (8, 24, 64)],
    "best_first": [f"best_first(expansions={n}, branch=8, verifier={{g}})" for n in (8, 32)],
    "tree_of_thoughts": [f"tree_of_thoughts(branch=8, width={w}, prune=0.05, verifier={{g}})" for w in (4, 8)],
    "mcts": [f"mcts(simulations={n}, branch=4, verifier={{g}})" for n in (8, 16, 32)],
    "ab_mcts": [f"ab_mcts(simulations={n}, verifier={{g}})" for n in (64, 128)],
    "particles": [f"particles(n={n}, verifier={{g}})" for n in (8, 24)],
    "particles, ratio": [f"particles(n={n}, potential='ratio', verifier={{g}})" for n in (8, 24, 64)],
    "particles, annealed": [f"particles(n={n}, potential='ratio', anneal=3, verifier={{g}})" for n in (8, 24)],
    "qalign": [f"qalign(moves={n}, chains=4, final='max', verifier={{g}})" for n in (3, 8)],
    "evolve": [f"evolve(population={n}, generations=3, parents=4, mutate='step', verifier={{g}})" for n in (4, 8)],
}
# Searches that end once a finished chain is good enough. A step of 200 tokens is a whole answer: best-of-n, seven at a time.
STOPPED: dict[str, Sequence[str]] = {
    "particles, annealed, stopped": [
        f"particles(n=8, potential='ratio', anneal=3, gibbs=12, accept={a}, verifier={{g}})" for a in (0.5, 0.6, 0.8)
    ],
    "evolve, stopped": [
        f"evolve(population=8, generations=12, parents=4, mutate='step', accept={a}, verifier={{g}})" for a in (0.5, 0.6, 0.8)
    ],
    "mcts, stopped": [f"mcts(simulations=64, branch=16, c=0.3, accept={a}, verifier={{g}})" for a in (0.6, 0.8)],
    "best-of-n, stopped": [f"particles(n=8, step=200, gibbs=9, accept={a}, verifier={{g}})" for a in (0.5, 0.6, 0.8)],
}
WHOLE = ("best_of_n(n=64, verifier={g})", "weighted_vote(n=64, verifier={g})")
FEW = ("beam", "mcts", "rebase", "particles, ratio")  # under every guide
FIGURES = {
    "trees": ("beam", "dvts", "step_best_of_n", "rebase", "best_first", "tree_of_thoughts", "mcts"),
    "stopped": tuple(STOPPED),
    "populations": ("beam", "lookahead", "ab_mcts", "particles", "particles, ratio", "qalign", "evolve"),
}
# What guides a search, best first. A noisy oracle plays a prefix out once and errs about the end at these rates, for right and wrong alike.
GUIDES = {
    **{f"oracle, {rate:.0%} wrong": f"rollouts(n=1, verifier=oracle(fpr={rate}, fnr={rate}))" for rate in (0.02, 0.1, 0.3)},
    "confidence": "confidence",
    "lab/orm_trial": "reward_model('lab/orm_trial')",
}


@dataclass(frozen=True, slots=True)
class Point:
    """One size of one family: accuracy and tokens by problem, averaged over seeds."""

    family: str
    spec: str
    correct_P: np.ndarray
    tokens_P: np.ndarray
    seeds: int

    @property
    def tokens(self) -> float:
        """Mean tokens a question."""
        return float(self.tokens_P.mean())

    @property
    def accuracy(self) -> float:
        """Mean accuracy."""
        return float(self.correct_P.mean())


def study(name: str, task: str, guide: str, families: Sequence[str], seeds: Sequence[int]) -> Study:
    """All sizes of these families under one guide."""
    searches = [spec.format(g=guide) for family in families for spec in (SIZES | STOPPED)[family]]
    body = {
        "name": name,
        "tasks": [task],
        "policies": ["lab"],
        "strategies": ["sample", "self_consistency(n=64)", *(spec.format(g=guide) for spec in WHOLE), *searches],
        "slice": 64,
        "seeds": list(seeds),
    }
    return check(body | ({"allow_oracle": True} if "oracle(" in guide else {}), name)


def points(given: Study, guide: str, families: Sequence[str]) -> tuple[list[Line], list[Point]]:
    """Curves over whole samples, and the points of the searches, from a study that is run as far as it is not."""
    lines, where = run_study(given)
    with Journal(where / "study.db") as journal:
        runs = StudyStore(journal).runs()
    problems = sorted({run.problem for run in runs})
    order = {problem: at for at, problem in enumerate(problems)}
    cells = {run.cell for run in runs}
    made = {spec: family for family in families for spec in (SIZES | STOPPED)[family]}
    found = []
    for spec, family in made.items():
        canonical = repr(parse(spec.format(g=guide), "strategies"))
        mine = list({(run.problem, run.cell): run for run in runs if run.strategy == canonical}.values())
        if len(mine) != len(problems) * len(cells):
            raise SystemExit(f"{canonical}: {len(mine)} of {len(problems) * len(cells)} runs are there")
        correct, tokens = np.zeros(len(problems)), np.zeros(len(problems))
        for run in mine:
            correct[order[run.problem]] += run.correct / len(cells)
            tokens[order[run.problem]] += run.spent.usage.tokens / len(cells)
        found.append(Point(family, spec.format(g="..."), correct, tokens, len(cells)))
    return lines, found


def both(name: str, task: str, seeds: Sequence[int]) -> tuple[list[Line], list[Point]]:
    """All searches under the process reward model, those that stop in a study of their own."""
    lines, found = points(study(name, task, PRM, list(SIZES), seeds), PRM, list(SIZES))
    _, more = points(study(f"{name}-stopped", task, PRM, list(STOPPED), seeds), PRM, list(STOPPED))
    return lines, found + more


def whole(lines: Sequence[Line], name: str) -> list[Point]:
    """A curve over subsets of the slice, as points."""
    one = next(line for line in lines if line.strategy.startswith(name))
    return [
        Point(name, f"{name}, n = {k}", one.values_P_K[:, at], one.tokens_P_K[:, at], one.seeds) for at, k in enumerate(one.ks)
    ]


def between(curve: Sequence[Point], tokens: float) -> np.ndarray:
    """Accuracy by problem of a family at so many tokens: linear in the logarithm between its sizes, its end beyond them."""
    ordered = sorted(curve, key=lambda point: point.tokens)
    xs = np.log([point.tokens for point in ordered])
    at = float(np.clip(np.log(tokens), xs[0], xs[-1]))
    right = int(np.searchsorted(xs, at).clip(1, len(xs) - 1)) if len(xs) > 1 else 0
    if not right:
        return ordered[0].correct_P
    share = (at - xs[right - 1]) / (xs[right] - xs[right - 1])
    found: np.ndarray = (1 - share) * ordered[right - 1].correct_P + share * ordered[right].correct_P
    return found


def cheapest(found: Sequence[Point], target: float) -> Point:
    """The cheapest size that reaches an accuracy; where none does, the most accurate."""
    reaching = [point for point in found if point.accuracy >= target]
    return min(reaching, key=lambda p: p.tokens) if reaching else max(found, key=lambda p: p.accuracy)


def difference(
    id_: str,
    text: str,
    a: np.ndarray,
    b: np.ndarray,
    seeds: int,
    target: str | None = None,
    test: Callable[[Interval], bool] | None = None,
) -> Claim:
    """The difference of two accuracies, paired over problems, as a claim."""
    gain = paired_difference(a, b, seed=0, resamples=2000)
    return Claim(id_, text, gain.value, gain.low, gain.high, target, test(gain) if test else None, len(a), seeds)


def claims(dev: tuple[list[Line], list[Point]], test: tuple[list[Line], list[Point]]) -> list[Claim]:
    """Whether a search saves tokens, whether particles keep up with beams, and each search against best-of-n at equal tokens."""
    goal = whole(dev[0], "best_of_n")[-1]
    searches = [point for point in dev[1] if point.family != "best-of-n, stopped"]
    chosen = cheapest(searches, goal.accuracy)
    best = next(point for point in test[1] if point.spec == chosen.spec)
    plain = cheapest([point for point in test[1] if point.family == "best-of-n, stopped"], 2.0)
    lines, found = test
    curve = whole(lines, "best_of_n")
    saved = ratio(curve[-1].tokens_P, best.tokens_P)
    gain = paired_difference(best.correct_P, curve[-1].correct_P, seed=0, resamples=2000)
    n, seeds = len(best.correct_P), best.seeds
    text = f"tokens of best-of-64 over those of `{best.spec}`, chosen on problems of the train split"
    made = [
        Claim(
            "saving",
            text,
            saved.value,
            saved.low,
            saved.high,
            ">= 4, at no less accuracy",
            saved.value >= 4 and gain.value >= 0,
            n,
            seeds,
        ),
        difference(
            "saving-accuracy", "its accuracy over that of best-of-64", best.correct_P, curve[-1].correct_P, seeds, ">= 0", 0.0
        ),
    ]
    text = f"accuracy of `{best.spec}` over `{plain.spec}`, which is best-of-n that stops ({plain.tokens:.0f} tokens)"
    made.append(difference("saving-over-stopping", text, best.correct_P, plain.correct_P, seeds))
    particles = [point for point in found if point.family == "particles, ratio"]
    for point in found:
        if point.family == "beam":
            text = f"particles (ratio) over `{point.spec}` at its {point.tokens:.0f} tokens"
            other = between(particles, point.tokens)
            made.append(
                difference(
                    f"particles-{point.tokens:.0f}",
                    text,
                    other,
                    point.correct_P,
                    seeds,
                    "interval not below 0",
                    lambda gain: gain.high >= 0,
                )
            )
    for point in found:
        text = f"`{point.spec}` over best-of-n at its {point.tokens:.0f} tokens"
        slug = re.sub(r"\W+", "-", point.spec).strip("-")
        made.append(difference(f"equal-{slug}", text, point.correct_P, between(curve, point.tokens), seeds))
    return made


def table(lines: Sequence[Line], found: Sequence[Point]) -> str:
    """Every size, with its accuracy and how it compares with best-of-n at as many tokens."""
    rows = [
        "| strategy | tokens | accuracy | 95% interval | over best-of-n at equal tokens | 95% interval |",
        "|---|--:|--:|---|--:|---|",
    ]
    curve = whole(lines, "best_of_n")
    others = [point for name in ("sample", "self_consistency", "weighted_vote", "best_of_n") for point in whole(lines, name)]
    for point in [*others, *found]:
        [value] = mean_intervals(point.correct_P[:, None], seed=0)
        row = f"| `{point.spec}` | {point.tokens:.0f} | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] |"
        if point in others:
            rows.append(f"{row} | |")
            continue
        gain = paired_difference(point.correct_P, between(curve, point.tokens), seed=0, resamples=2000)
        verdict = "**loses**" if gain.high < 0 else "**wins**" if gain.low > 0 else ""
        rows.append(f"{row} {gain.value:+.3f} {verdict} | [{gain.low:+.3f}, {gain.high:+.3f}] |")
    return "\n".join(rows)


def drawn(name: str, curve: Sequence[Point]) -> Series:
    """One family as a line of a figure."""
    kept = sorted(curve, key=lambda point: point.tokens)
    intervals = mean_intervals(np.stack([point.correct_P for point in kept], axis=1), seed=0)
    values = [one.value for one in intervals], [one.low for one in intervals], [one.high for one in intervals]
    return Series(name, [point.tokens for point in kept], *values)


def figure(name: str, title: str, lines: Sequence[Line], found: Sequence[Point], families: Sequence[str]) -> None:
    """The picture of some families beside best-of-n."""
    curves = [drawn("best_of_n", whole(lines, "best_of_n"))]
    curves += [drawn(family, [point for point in found if point.family == family]) for family in families]
    n, seeds = len(found[0].correct_P), found[0].seeds
    caption = f"lab/base, countdown of 4 numbers, {n} problems, {seeds} seeds; tokens include the guide's; bands: 95% bootstrap over problems"
    curve_figure(curves, DOCS / "evidence" / f"search-{name}.png", title=title, caption=caption)


def main() -> None:
    """Run, claim, draw, and put the tables into the pages."""
    dev = both("search-dev", "countdown(numbers=4, n=100, split='train', seed=31)", [0])
    test = both("search", "countdown(numbers=4, n=150)", [0, 1, 2])
    made = claims(dev, test)
    insert(DOCS / "evidence" / "search.md", "search", table(*test))
    for name, families in FIGURES.items():
        figure(name, f"searches with the lab's process reward model: {name}", *test, families)
    for page in sorted((DOCS / "strategies").glob("*.md")):
        mine = [point for point in test[1] if point.spec.partition("(")[0] == page.stem]
        with suppress(SystemExit):  # pages of whole-sample strategies have evidence of their own
            if mine:
                head = "4-number countdown, default lab model, guided by `reward_model('lab/prm')`; regenerated by `make evidence NAME=search`.\n\n"
                insert(page, page.stem, head + table(test[0], mine).replace("| `best_of_n", "| `best_of_n"))
    rows = []
    for name, guide in GUIDES.items():
        slug = re.sub(r"\W+", "-", name).strip("-")
        given = study(f"search-{slug}", "countdown(numbers=4, n=100)", guide, FEW, [0, 1])
        lines, found = points(given, guide, FEW)
        figure(slug, f"guide: {name}", lines, found, FEW)
        rows.append(f"**{name}**: `{guide}`\n\n{table(lines, found)}\n")
        made += falls(slug, name, lines, found)
    insert(DOCS / "evidence" / "search.md", "guides", "\n".join(rows))
    save("search", made)


def falls(slug: str, guide: str, lines: Sequence[Line], found: Sequence[Point]) -> list[Claim]:
    """What the largest size gains over the smallest: below zero where a search follows its guide into the ground."""
    made = []
    for family in ("best_of_n", *FEW):
        curve = whole(lines, family) if family == "best_of_n" else [point for point in found if point.family == family]
        top = max(curve, key=lambda point: point.accuracy)
        text = f"accuracy of {family} at its largest size ({curve[-1].tokens:.0f} tokens) over its best ({top.tokens:.0f}), guide: {guide}"
        name = re.sub(r"\W+", "-", family).strip("-")
        made.append(difference(f"falls-{slug}-{name}", text, curve[-1].correct_P, top.correct_P, curve[-1].seeds))
    return made


if __name__ == "__main__":
    main()
