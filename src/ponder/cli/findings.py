"""What a comparison found, in sentences.

A sentence calls a difference by its sign only where its p-value, corrected for all comparisons of the report (Holm), is at most .05. The
numbers it quotes are those of the largest compute of the range it speaks of, so that none was chosen for being large.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ponder.cli.axes import LABELS, Axis
from ponder.cli.compare import Group, Report, front_points
from ponder.scaling.bootstrap import Interval
from ponder.scaling.figure import short
from ponder.scaling.paired import Comparison

LEVEL = 0.05


def findings(report: Report, group: Group) -> list[str]:
    """The sentences of a group: what is worth buying, then every pair, decided ones first."""
    return [*established(report, group), *undecided(report, group)]


def established(report: Report, group: Group) -> list[str]:
    """What is worth buying, and the pairs with a decided difference."""
    front = [front_sentence(group, report.unit.axis)] if group.front else []
    return front + [text for decided, text in _told(report, group) if decided]


def undecided(report: Report, group: Group) -> list[str]:
    """The pairs without one."""
    return [text for decided, text in _told(report, group) if not decided]


def front_sentence(group: Group, axis: Axis) -> str:
    """Which strategy is worth buying at which cost."""
    steps: list[list[tuple[float, float]]] = []
    names: list[str] = []
    for (entry, _), point in zip(group.front, front_points(group), strict=True):
        name = group.entries[entry].name
        if not names or names[-1] != name:
            names.append(name)
            steps.append([])
        steps[-1].append(point)
    told = []
    for name, points in zip(names, steps, strict=True):
        (first, low), (last, high) = points[0], points[-1]
        span = f"at {short(first)}" if first == last else f"from {short(first)} to {short(last)}"
        reach = decimals(low) if len(points) == 1 else f"{decimals(low)} to {decimals(high)}"
        told.append(f"{name} {span} {LABELS[axis]} (accuracy {reach})")
    return f"Pareto front, cheapest first: {', then '.join(told)}."


def pair_sentence(pair: Sequence[Comparison], axis: Axis) -> str:
    """One pair at all the costs it was compared at; the subject is who wins at the largest cost that is decided."""
    decided = [one for one in pair if one.holm <= LEVEL]
    if decided and decided[-1].difference.value < 0:
        pair = [turned(one) for one in pair]
    a, b, unit = pair[0].a, pair[0].b, LABELS[axis]
    low, high = pair[0].cost, pair[-1].cost
    span = f"at {short(high)} {unit}" if len(pair) == 1 else f"from {short(low)} to {short(high)} {unit}"
    if not decided:
        last = pair[-1]
        if all(one.difference == Interval(0.0, 0.0, 0.0) for one in pair):
            return f"{a} and {b} reach the same on every problem {span}."
        return f"{a} and {b}: no difference is established {span}; {size(last, signed=True)} at {short(last.cost)}."
    ranges = [(verdict, list(those)) for verdict, those in groupby(pair, key=verdict_of)]
    wins = [_clause(those, pair, unit) for verdict, those in ranges if verdict > 0]
    losses = [_clause(those, pair, unit) for verdict, those in ranges if verdict < 0]
    text = f"{a} beats {b} {'; and '.join(wins)}"
    if losses:
        text += f"; loses {'; and '.join(losses)}"
    left = ", ".join(short(one.cost) for one in pair if verdict_of(one) == 0)
    return f"{text}; undecided at {left}." if left else f"{text}."


def verdict_of(one: Comparison) -> int:
    """1: a wins, -1: b wins, 0: not decided."""
    if one.holm > LEVEL:
        return 0
    return 1 if one.difference.value > 0 else -1


def turned(one: Comparison) -> Comparison:
    """The same comparison, told of b."""
    d = one.difference
    flipped = Interval(0.0 - d.value, 0.0 - d.high, 0.0 - d.low)
    return Comparison(one.b, one.a, one.cost, one.b_value, one.a_value, flipped, one.p, one.holm)


def method(report: Report) -> list[str]:
    """How to read the findings."""
    return [
        f"Strategies are compared at equal mean {LABELS[report.unit.axis]} per question, over the same problems (seeds averaged within problems). "
        "Between two measured sizes a curve is read linearly in cost: a coin for each problem between the two sizes spends and "
        "reaches exactly that. Nothing is read beyond what was measured.",
        "Intervals: 95%, bootstrap over problems, 2,000 resamples. p: two-sided sign-flip test over problems. Both take the mean "
        "costs as given.",
        corrected(report.tests),
        "Points from runs tell what one run of a strategy had proposed by then. A search that is set up for less compute may do better there "
        "than one that is cut; before its first right answer nothing is compared.",
        "Upper bounds that take the reference (pass@k, graders as guides) are shown, but neither compared nor on the front.",
    ]


def corrected(tests: int) -> str:
    """How many comparisons there were, and what was done about it."""
    if not tests:
        return "Nothing was compared: no two strategies that can be had without the reference were measured at a common cost."
    return (
        f"{tests} comparison{'s were' if tests > 1 else ' was'} made. The p-values called Holm are corrected for all of them: the chance that any difference "
        "that is called established is none is at most 5%. Strategies that share samples are correlated, which the pairing uses."
    )


def size(one: Comparison, *, signed: bool = False) -> str:
    """The difference with its interval and p-values."""
    d = one.difference
    if not signed and 0 < abs(d.value) < 0.0005:
        return f"less than .001 (p {p_text(one.p)}, Holm {p_text(one.holm)})"
    value = f"{'+' if d.value > 0 and signed else ''}{decimals(d.value if signed else abs(d.value))}"
    low, high = (d.low, d.high) if signed or d.value >= 0 else (-d.high, -d.low)
    return f"{value} [{decimals(low)}, {decimals(high)}] (p {p_text(one.p)}, Holm {p_text(one.holm)})"


def decimals(value: float) -> str:
    """Three places, without the leading zero: .040, -.012, 1.000."""
    text = f"{value:.3f}"
    text = text.removeprefix("-") if float(text) == 0 else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def p_text(p: float) -> str:
    """= .012, or < .001."""
    return "< .001" if p < 0.001 else f"= {decimals(p)}"


def _told(report: Report, group: Group) -> list[tuple[bool, str]]:
    pairs = [list(those) for _, those in groupby(group.comparisons, key=lambda one: (one.a, one.b))]
    return [(any(one.holm <= LEVEL for one in pair), pair_sentence(pair, report.unit.axis)) for pair in pairs]


def _clause(those: Sequence[Comparison], pair: Sequence[Comparison], unit: str) -> str:
    first, last = those[0], those[-1]
    if len(pair) == 1 or (first.cost == last.cost and pair[0].cost < first.cost < pair[-1].cost):
        span = f"at {short(first.cost)} {unit}"
    elif len(those) == len(pair):
        span = f"everywhere from {short(first.cost)} to {short(last.cost)} {unit}"
    elif last is pair[-1]:
        span = f"from {short(first.cost)} {unit} up"
    elif first is pair[0]:
        span = f"up to {short(last.cost)} {unit}"
    else:
        span = f"from {short(first.cost)} to {short(last.cost)} {unit}"
    return f"{span}, by {size(last)} at {short(last.cost)}"
