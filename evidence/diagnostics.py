"""Diagnostics on the lab: over-optimisation, difficulty, diversity, behaviours, and where one policy overtakes another.

`make evidence NAME=diagnostics`, a quarter of an hour of two cores where `make evidence NAME=laws` has been; all of it is studies and banked scores, and
can be stopped and started again. What is claimed was fixed beforehand. Behaviours are counted in the samples that `recipes/gsm8k_outcome.toml` has left.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from evidence import laws, scored
from evidence.common import DOCS, ROOT, Claim, claims_table, completed, insert, save
from ponder.cli.harvest import harvest
from ponder.cli.study import Study, check
from ponder.learners.datasets import Sample
from ponder.policies.lab import Lab
from ponder.scaling.behaviours import Shown, profile
from ponder.scaling.bootstrap import Interval, mean_intervals
from ponder.scaling.crossing import Crossing, crossing
from ponder.scaling.diversity import GainLine, agreement, distinct_at_k, predict_gain
from ponder.scaling.estimators import pass_at_k
from ponder.scaling.figure import Series, curve_figure

POLICIES = {"small": "lab('small')", "base": "lab", "large": "lab('large')"}
TEMPERATURES = (0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
FEW, MANY = 8, 64  # samples whose diversity is looked at, and others whose coverage it should tell
REAL = ROOT / "studies" / "gsm8k_outcome"


def study() -> Study:
    """Every size at every temperature on the same held-out problems."""
    body = {
        "name": "diagnostics",
        "tasks": ["countdown(numbers=4, n=100)"],
        "policies": list(POLICIES.values()),
        "strategies": ["sample"],
        "slice": FEW + MANY,
        "sampling": [{"temperature": one} for one in TEMPERATURES],
    }
    return check(body, "diagnostics")


@dataclass(frozen=True, slots=True)
class Method:
    """A size at a temperature, by problem: answers of a few samples, and the verdicts on many others."""

    size: str
    temperature: float
    answers_P_N: list[list[str | None]]
    correct_P_N: np.ndarray

    @property
    def diversity_P(self) -> np.ndarray:
        """The share of pairs of the few that differ; PlanSearch's measure, in which a failed sample differs from all."""
        return 1 - agreement(self.answers_P_N)

    @property
    def distinct_P(self) -> np.ndarray:
        """Different answers among the few, over their number; a failed sample is none."""
        return distinct_at_k(self.answers_P_N, [FEW])[:, 0] / FEW

    @property
    def gain_P(self) -> np.ndarray:
        """pass@64 less pass@1 of the others."""
        found: np.ndarray = np.diff(pass_at_k(self.correct_P_N, [1, MANY]), axis=1)[:, 0]
        return found


def drawn() -> list[Sample]:
    """The samples of the study, drawn as far as they are not there."""
    with completed(study()) as (_, where):
        return [one for one in harvest([where]) if one.index < FEW + MANY]


def methods(samples: Sequence[Sample]) -> list[Method]:
    """Sizes and temperatures, in order."""
    sizes = {Lab(size).info.fingerprint: size for size in POLICIES}
    groups: dict[tuple[str, float], dict[str, dict[int, Sample]]] = defaultdict(lambda: defaultdict(dict))
    for one in samples:
        groups[sizes[one.policy], one.temperature][one.problem][one.index] = one
    found = []
    for size in POLICIES:
        for temperature in TEMPERATURES:
            rows = [[row[n] for n in range(FEW + MANY)] for _, row in sorted(groups[size, temperature].items())]
            answers = [[one.answer for one in row[:FEW]] for row in rows]
            found.append(Method(size, temperature, answers, np.array([[one.correct for one in row[FEW:]] for row in rows])))
    return found


def diverse(found: Sequence[Method]) -> tuple[list[Claim], str, str]:
    """Whether the diversity of a few samples tells what many more gain: over methods, within a size, and over the problems of a method."""
    gain_C = [float(one.gain_P.mean()) for one in found]
    measures = {
        "share of pairs that differ": [float(one.diversity_P.mean()) for one in found],
        "different answers of 8": [float(one.distinct_P.mean()) for one in found],
    }
    lines = [(f"{name}, all sizes", predict_gain(values, gain_C)) for name, values in measures.items()]
    claims = []
    for slug, (name, one) in zip(("pairs", "distinct"), lines, strict=True):
        text = f"correlation of diversity ({name}) of {FEW} samples with pass@{MANY} less pass@1 of others, {len(found)} sizes and temperatures"
        target = "> 0, and a smaller error than the mean's at a method left out"
        claims.append(
            claim(f"diversity-{slug}", text, one.correlation, target, one.correlation.low > 0 and one.predicts, len(found))
        )
    for size in POLICIES:
        some = [at for at, one in enumerate(found) if one.size == size]
        for name, values in measures.items():
            lines.append((f"{name}, lab/{size}", predict_gain([values[at] for at in some], [gain_C[at] for at in some])))
    first_C, last_C = np.array([pass_at_k(one.correct_P_N, [1, MANY]).mean(axis=0) for one in found]).T
    parts = ((f"share of pairs that differ, all sizes, with pass@{MANY} itself", last_C), ("the same with pass@1", first_C))
    lines += [(name, predict_gain(measures["share of pairs that differ"], values)) for name, values in parts]
    for one in (one for one in found if one.temperature in (0.4, 1.0)):
        name = f"share of pairs that differ, problems of lab/{one.size} at {one.temperature:g}"
        lines.append((name, predict_gain(one.diversity_P, one.gain_P)))
    rows = [
        "| policy | temperature | share of pairs that differ | different answers of 8, over 8 | pass@1 | pass@64 | gain | 95% interval |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for at, one in enumerate(found):
        first, last = pass_at_k(one.correct_P_N, [1, MANY]).mean(axis=0)
        [gain] = mean_intervals(one.gain_P, seed=0)
        numbers = " | ".join(f"{value:.3f}" for value in (*(values[at] for values in measures.values()), first, last))
        rows.append(f"| lab/{one.size} | {one.temperature:g} | {numbers} | {shown(gain)} |")
    return claims, "\n".join(rows), told(lines)


def told(lines: Sequence[tuple[str, GainLine]]) -> str:
    """Fits as a table."""
    rows = [
        "| diversity, with the gain where nothing else is said | correlation | 95% interval | slope | 95% interval | error left out | of the mean |",
        "|---|--:|---|--:|---|--:|--:|",
    ]
    rows += [
        f"| {name} | {shown(one.correlation)} | {shown(one.slope)} | {one.held_out:.3f} | {one.flat:.3f} |" for name, one in lines
    ]
    return "\n".join(rows)


def diversity_figure(found: Sequence[Method]) -> None:
    """Gain against diversity, a line for each size through its temperatures."""
    lines = []
    for size in POLICIES:
        some = sorted((one for one in found if one.size == size), key=lambda one: one.diversity_P.mean())
        gains = [mean_intervals(one.gain_P, seed=0)[0] for one in some]
        ends = [[getattr(gain, end) for gain in gains] for end in ("value", "low", "high")]
        lines.append(Series(f"lab/{size}", [float(one.diversity_P.mean()) for one in some], *ends))
    curve_figure(
        lines,
        DOCS / "evidence" / "diagnostics-diversity.png",
        title="what more samples gain, against how much a few differ",
        caption=f"countdown(4), {len(found[0].correct_P_N)} problems; points: temperatures {TEMPERATURES[0]:g} to {TEMPERATURES[-1]:g}; bands: 95% bootstrap over problems",
        x_label=f"share of the pairs of {FEW} samples that differ",
        y_label=f"pass@{MANY} less pass@1",
    )


def behaved(samples: Sequence[Sample]) -> tuple[list[Claim], str]:
    """Behaviours by rule in the lab's traces, which have no words for them, and in those of a small real model where they were drawn."""
    base = Lab("base").info.fingerprint
    kinds = [("lab/base, countdown(4)", traces([one for one in samples if one.policy == base and one.temperature == 1.0], MANY))]
    if REAL.exists():
        real = list(harvest([REAL]))
        kinds.append(("Qwen2.5-Coder-0.5B, GSM8K", traces(real, 8)))
        kinds.append(("Qwen2.5-Coder-0.5B, GSM8K, finished", traces([one for one in real if one.finish == "stop"], 8)))
    else:
        print("no real samples to look at: ponder run recipes/gsm8k_outcome.toml makes them; going on without")
    rows = [
        "| traces | problems | traces, right | behaviour | share of traces | 95% interval | times in a trace | right less wrong, same problem | 95% interval | problems with both |",
        "|---|--:|---|---|--:|---|--:|--:|---|--:|",
    ]
    claims = []
    for name, (texts, correct) in kinds:
        found: dict[str, Shown] = profile(texts, correct, resamples=2000)
        mixed = sum(any(row) and not all(row) for row in correct)
        counts = f"{sum(map(len, texts))}, {sum(map(sum, correct))}"
        for behaviour, one in found.items():
            gain = f"{one.gain.value:+.3f} | [{one.gain.low:+.3f}, {one.gain.high:+.3f}]" if one.gain else " | "
            plain = behaviour.replace("_", " ")
            rows.append(
                f"| {name} | {len(texts)} | {counts} | {plain} | {shown(one.share)} | {one.times.value:.3f} | {gain} | {mixed} |"
            )
            if name.startswith("Qwen") and one.gain:
                text = f"share of right traces with {plain} less that of wrong ones of the same problem, {name}"
                afterwards = name.endswith("finished")  # its row was added once the cut traces had been seen
                target, holds = (None, None) if afterwards else ("> 0", one.gain.low > 0)
                slug = f"behaviour-{plain.replace(' ', '-')}{'-finished' * afterwards}"
                claims.append(claim(slug, text, one.gain, target, holds, mixed))
    return claims, "\n".join(rows)


def traces(samples: Iterable[Sample], each: int) -> tuple[list[list[str]], list[list[bool]]]:
    """The first samples of each problem under its first seed, and whether they are right."""
    groups: dict[str, list[Sample]] = defaultdict(list)
    for one in samples:
        if one.index < each and one.stream == "0":
            groups[one.problem].append(one)
    rows = [row for _, row in sorted(groups.items())]
    return [[one.text for one in row] for row in rows], [[one.correct for one in row] for row in rows]


def overtaken(found: Sequence[Method]) -> tuple[list[Claim], str, str]:
    """Where a small hot policy overtakes a larger cool one, and where the sizes cross at one temperature."""
    cool, hot = laws.verdicts(laws.SETTINGS[1]), laws.verdicts(laws.SETTINGS[2])
    both = [name for name in cool[0] if name in set(hot[0])]
    a, b = (np.concatenate(correct, axis=1)[[names.index(name) for name in both]] for names, correct in (cool, hot))
    far = crossing(a, b, laws.SIZES)
    text = f"samples at which lab/small at temperature 1 overtakes lab/base at 0.5 in coverage, within {laws.FAR}"
    inside = far.established and far.k is not None and far.k.low > 1 and np.isfinite(far.k.high)
    at = far.k or Interval(np.nan, np.nan, np.nan)
    claims = [claim("crossing", text, at, "an interval inside", bool(inside), len(both), 3)]
    rows = ["| k | lab/base at 0.5 minus lab/small at 1 | 95% interval |", "|--:|--:|---|"]
    rows += [f"| {k} | {d.value:+.3f} | [{d.low:+.3f}, {d.high:+.3f}] |" for k, d in zip(far.k_K, far.differences, strict=True)]
    by = {(one.size, one.temperature): one.correct_P_N for one in found}
    sizes = tuple(2**i for i in range(MANY.bit_length()))
    turns = [
        f"| first | second | temperature | pass@1, first minus second | pass@{MANY} | overtaken at | 95% interval | share of resamples | established |",
        "|---|---|--:|--:|--:|--:|---|--:|---|",
    ]
    for one, other in (("large", "base"), ("base", "small"), ("large", "small")):
        for temperature in TEMPERATURES:
            turn = crossing(by[one, temperature], by[other, temperature], sizes)
            ends = " | ".join(
                f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in (turn.differences[0], turn.differences[-1])
            )
            turns.append(
                f"| lab/{one} | lab/{other} | {temperature:g} | {ends} | {where(turn)} | {turn.share:.2f} | {'yes' if turn.established else 'no'} |"
            )
    return claims, "\n".join(rows), "\n".join(turns)


def where(turn: Crossing) -> str:
    """The k of a crossing and its interval, as two cells."""
    if turn.k is None:
        return "not within | "
    high = f"{turn.k.high:.1f}" if np.isfinite(turn.k.high) else "beyond"
    return f"{turn.k.value:.1f} | [{turn.k.low:.1f}, {high}]"


def claim(id_: str, text: str, found: Interval, target: str | None, holds: bool | None, n: int, seeds: int = 1) -> Claim:
    """A claim of an interval."""
    return Claim(id_, text, found.value, found.low, found.high, target, holds, n, seeds)


def shown(one: Interval) -> str:
    """A number and its interval, as two cells."""
    return f"{one.value:.3f} | [{one.low:.3f}, {one.high:.3f}]"


def main() -> None:
    """Sample, score, claim, draw, and put the tables into the page."""
    samples = drawn()
    found = methods(samples)
    told_by_scores = scored.pool()
    over, curves, fits = scored.overoptimised(told_by_scores)
    hard, difficulty = scored.difficulties(told_by_scores)
    spread, by_method, by_line = diverse(found)
    shown_by, behaviours = behaved(samples)
    crossed, by_k, turns = overtaken(found)
    save("diagnostics", [*over, *hard, *spread, *shown_by, *crossed])
    diversity_figure(found)
    page = DOCS / "evidence" / "diagnostics.md"
    parts = {
        "over claims": claims_table(over),
        "hard claims": claims_table(hard),
        "spread claims": claims_table(spread),
        "behaviour claims": claims_table(shown_by),
        "crossing claims": claims_table(crossed),
        "curves": curves,
        "fits": fits,
        "difficulty": difficulty,
        "diversity": by_method,
        "diversity lines": by_line,
        "behaviours": behaviours,
        "crossing": by_k,
        "crossings": turns,
    }
    for marker, text in parts.items():
        insert(page, marker, text)


if __name__ == "__main__":
    main()
