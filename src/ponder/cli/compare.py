"""Strategies of one or several studies against each other, at equal compute, over the same problems.

Curves of the same problems make a group, whatever study, policy or sampling they come from; each is cut to the problems that all of
them have. Within a group every two strategies are compared where both were measured (`ponder.scaling.paired`), all p-values of a
report are corrected together, and what can be bought without the reference is drawn on a Pareto front.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ponder.cli.axes import Unit, on_axis
from ponder.cli.curve import Curves, Line, Point, line_of, series
from ponder.cli.runner import parse_strategy
from ponder.cli.verbs import open_study, refuse_traffic
from ponder.errors import StudyError
from ponder.scaling.figure import Series
from ponder.scaling.paired import Comparison, Curve, corrected_together
from ponder.scaling.paired import compare as compare_curves
from ponder.scaling.pareto import front
from ponder.store import StudyStore
from ponder.types import JSON

COLUMNAR = ".parquet"
LONGEST = 160  # characters of a name: a sentence has two of them
SET_BY_STRATEGIES = "logprobs"  # a study keeps as many as its strategies need: nobody chose them
MOST = 100  # curves that are compared pair by pair: some 5,000 pairs, each at several costs


@dataclass(frozen=True, slots=True)
class Source:
    """One study or file. questions: text by problem; answers: what a strategy's widest run answered, by strategy and problem."""

    path: Path
    lines: tuple[Line, ...]
    provenance: Mapping[str, JSON] = field(default_factory=dict)
    questions: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[tuple[str, str], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A curve under the name that tells it from the others of its group. answers: by problem."""

    name: str
    line: Line
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Curves over the same problems, in the same order. front: (entry, place among its sizes), cheapest first."""

    title: str
    ids: tuple[str, ...]
    entries: tuple[Entry, ...]
    comparisons: tuple[Comparison, ...]
    front: tuple[tuple[int, int], ...]
    questions: Mapping[str, str]

    @property
    def points(self) -> list[list[Point]]:
        """Of each entry, under its own name."""
        return [[replace(point, strategy=entry.name) for point in entry.line.points()] for entry in self.entries]


@dataclass(frozen=True, slots=True)
class Report:
    """What `ponder compare` found. tests: comparisons that were corrected together."""

    unit: Unit
    sources: tuple[Source, ...]
    groups: tuple[Group, ...]
    tests: int
    notes: tuple[str, ...]


def gather(path: Path, unit: Unit) -> Source:
    """The curves of a study folder, or of a Parquet file of samples, on one axis. Raises `StudyError`, `DataError`, `UsageError`."""
    if path.suffix == COLUMNAR:
        from ponder.cli.columns import lines_of

        assumed: list[str] = []
        lines = on_axis(lines_of(path), (), unit, assumed)
        return Source(path, tuple(lines), notes=tuple(dict.fromkeys(assumed)))
    with ExitStack() as stack:
        study, journal, table = open_study(path, stack)
        refuse_traffic(path, study)
        store = StudyStore(journal)
        curves = Curves(study, store, table)
        lines = on_axis(curves.lines(), study.policies, unit, curves.notes)
        questions = {
            problem.question.id: "\n".join(message.text for message in problem.question.messages)
            for task in dict.fromkeys(line.task for line in lines)
            for problem in store.problems(task)
        }
        notes = tuple(dict.fromkeys(curves.notes))
        return Source(path, tuple(lines), _provenance(path), questions, _answers(store), notes)


def report(paths: Sequence[Path], unit: Unit) -> Report:
    """Gather, group, compare. Raises as `gather` and `compared`."""
    return compared([gather(path, unit) for path in paths], unit)


def compared(sources: Sequence[Source], unit: Unit) -> Report:
    """Group and compare what was gathered. Raises `StudyError` where there is no curve, or none that costs anything on the axis."""
    found: dict[str, list[tuple[Source, Line]]] = {}
    for source in sources:
        for line in source.lines:
            found.setdefault(line.task, []).append((source, line))
    if not found:
        raise StudyError(f"{sources[0].path}: holds no finished run; `ponder run {sources[0].path}` first")
    notes = [f"{source.path.name}: {note}" for source in sources for note in source.notes]
    groups = [group for lines in found.values() if (group := _group(lines, len(sources) > 1, unit, notes)) is not None]
    if not groups:
        raise StudyError(f"{sources[0].path}: no curve has a cost on the axis {unit.axis}; choose another --axis")
    corrected = corrected_together([group.comparisons for group in groups])
    groups = [replace(group, comparisons=tuple(those)) for group, those in zip(groups, corrected, strict=True)]
    return Report(unit, tuple(sources), tuple(groups), sum(map(len, corrected)), tuple(dict.fromkeys(notes)))


def figure_series(group: Group) -> list[Series]:
    """The lines of a group's figure."""
    points = [replace(point, cell="") for points in group.points for point in points]
    return series(points).get("", [])


def front_points(group: Group) -> list[tuple[float, float]]:
    """Cost and accuracy of the front."""
    return [_point(group.entries[at].line, k) for at, k in group.front]


def _group(found: Sequence[tuple[Source, Line]], several: bool, unit: Unit, notes: list[str]) -> Group | None:
    shared = set.intersection(*(set(line.ids) for _, line in found))
    most = max(len(line.ids) for _, line in found)
    task = found[0][1].cell.partition(" | ")[0]
    ids = tuple(one for one in found[0][1].ids if one in shared)
    if len(ids) < most:
        notes.append(f"{task}: {len(ids)} of {most} problems are in all curves, and only they are compared")
    priced = [(source, line) for source, line in found if (line.costs_K > 0).all()]
    for _, line in found:
        if not (line.costs_K > 0).all():
            notes.append(f"{task}: {line.strategy} has sizes without a cost in {unit.axis}, and is left out")
    if not ids or not priced:
        return None
    names = _names([(source if several else None, line) for source, line in priced])
    entries = [
        Entry(name, _cut(line, ids), {problem: text for (of, problem), text in source.answers.items() if of == line.strategy})
        for name, (source, line) in zip(names, priced, strict=True)
    ]
    fair = [at for at, entry in enumerate(entries) if not entry.line.bound]
    curves = [_curve(entries[at]) for at in fair]
    places = [(at, k) for at in fair for k in range(len(entries[at].line.ks))]
    points = [_point(entries[at].line, k) for at, k in places]
    best: dict[tuple[float, float], int] = {}
    for i in front([cost for cost, _ in points], [value for _, value in points]):
        best.setdefault(points[i], i)  # one sample of any strategy is the same sample: it stands there once
    questions = {one: source.questions[one] for source, _ in priced for one in ids if one in source.questions}
    if len(curves) > MOST:
        notes.append(
            f"{task}: {len(curves)} curves are more than the {MOST} that are compared pair by pair; name fewer studies or strategies"
        )
    found_pairs = compare_curves(curves) if len(curves) <= MOST else []
    return Group(task, ids, tuple(entries), tuple(found_pairs), tuple(places[i] for i in best.values()), questions)


def _point(line: Line, k: int) -> tuple[float, float]:
    """Cost and accuracy to ten digits: sums in another order are no other point."""
    return float(f"{line.costs_K[k]:.10g}"), float(f"{line.values_P_K[:, k].mean():.10g}")


def _curve(entry: Entry) -> Curve:
    """What is compared: of points read off runs not those before the first right answer, where a search had proposed nothing yet."""
    line = entry.line
    told = np.flatnonzero(line.values_P_K.any(axis=0))
    start = int(told[0]) if line.how == "runs" and len(told) else 0
    return Curve(entry.name, line.costs_K[start:], line.values_P_K[:, start:])


def _cut(line: Line, ids: Sequence[str]) -> Line:
    """The rows of these problems, in this order."""
    if line.ids == tuple(ids):
        return line
    place = {one: at for at, one in enumerate(line.ids)}
    rows = [place[one] for one in ids]
    cost = None if line.cost_P_K is None else line.cost_P_K[rows]
    kept = {"values_P_K": line.values_P_K[rows], "tokens_P_K": line.tokens_P_K[rows], "spent_P_K_C": line.spent_P_K_C[rows]}
    return replace(line, ids=tuple(ids), cost_P_K=cost, **kept)  # type: ignore[arg-type]  # all three are arrays


def _names(found: Sequence[tuple[Source | None, Line]]) -> list[str]:
    """The strategy, with what else differs within the group: study, policy, sampling, then whatever is left; unique at the end."""
    rows = [_told_by(source, line) for source, line in found]
    differ = [key for key in dict.fromkeys(key for row in rows for key in row) if len({row.get(key) for row in rows}) > 1]
    plain = [
        _name(line, row, [key for key in differ if key != SET_BY_STRATEGIES]) for row, (_, line) in zip(rows, found, strict=True)
    ]
    whole = [_name(line, row, differ) for row, (_, line) in zip(rows, found, strict=True)]
    often = Counter(plain)
    names: dict[str, None] = {}
    alike: Counter[str] = Counter()
    for short, long in zip(plain, whole, strict=True):
        first = name = short if often[short] == 1 else long
        while name in names:
            alike[first] += 1
            name = f"{first} #{alike[first] + 1}"
        names[name] = None
    return list(names)


def _told_by(source: Source | None, line: Line) -> dict[str, str]:
    """What may tell a curve from others of its strategy, in the order in which it is said; each setting of the sampling by itself."""
    _, policy, sampling, *rest = [*line.cell.split(" | "), "", ""]
    settings = {word.partition("=")[0]: word for word in sampling.split()}
    told = {"study": source.path.name if source else "", "policy": policy, **settings, "rest": ", ".join(filter(None, rest))}
    return {key: text for key, text in told.items() if text}


def _name(line: Line, told: Mapping[str, str], keys: Sequence[str]) -> str:
    rest = ", ".join(told[key] for key in keys if key in told)
    name = f"{line.strategy} [{rest}]" if rest else line.strategy
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _provenance(path: Path) -> Mapping[str, JSON]:
    try:
        body = json.loads((path / "provenance.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _answers(store: StudyStore) -> dict[tuple[str, str], str]:
    """What the widest run of each strategy answered, by the name of its curve and problem; the first seed's."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    names: dict[str, str] = {}
    for run in store.runs():
        if run.strategy.startswith("draw("):
            continue
        if run.strategy not in names:
            names[run.strategy] = line_of(parse_strategy(run.strategy))
        key = names[run.strategy], run.problem
        if key not in found or run.spent.samples > found[key][0]:
            found[key] = run.spent.samples, run.answer or "no answer"
    return {key: text for key, (_, text) in found.items()}


def accuracies(group: Group) -> np.ndarray:
    """Of each entry on each problem, E x P, at its largest size."""
    return np.stack([entry.line.values_P_K[:, int(np.argmax(entry.line.costs_K))] for entry in group.entries])


def say(notes: Iterable[str]) -> None:
    """Print notes to stderr."""
    from ponder.cli.output import clean

    for note in notes:
        print(f"ponder: {clean(note)}", file=sys.stderr)
