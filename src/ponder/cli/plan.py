"""`ponder plan`: from a small study, how many tokens which strategy needs for an accuracy."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from ponder.cli.main import JSONFlag
from ponder.errors import StudyError, UnidentifiedError, UsageError

if TYPE_CHECKING:
    from ponder.cli.curve import Line
    from ponder.scaling.need import Need

BEYOND = "not within what was measured"


@dataclass(frozen=True, slots=True)
class Planned:
    """One strategy of a study. how: from the study's sizes alone (measured), or by a law of coverage beyond them."""

    cell: str
    strategy: str
    need: Need
    problems: int
    seeds: int
    how: Literal["measured", "law"]
    bound: bool


# ruff: noqa: D417  --json is described where it is defined
def plan(
    study: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    target_accuracy: float,
    json: JSONFlag = False,
) -> None:
    """Say how many tokens a question each strategy of a study needs for an accuracy, with a 95% interval over problems.

    Within the sizes that were measured. Beyond them only coverage is foreseen, by a law fitted to the samples: what a choice among more samples
    would gain is not.

    Args:
        study: Folders of studies; a small slice of each problem will do.
        target_accuracy: Such as 0.9.
    """
    if not 0 < target_accuracy <= 1:
        raise UsageError(f"plan: --target-accuracy {target_accuracy:g} must lie above 0 and be at most 1, such as 0.9")
    found = [one for folder in study for one in planned(folder, target_accuracy, several=len(study) > 1)]
    if not found:
        raise StudyError(f"{study[0]}: holds no finished run; `ponder run {study[0]}` first")
    report(found, target_accuracy, as_json=json)


def planned(folder: Path, target: float, *, several: bool = False) -> list[Planned]:
    """Every line of a study's curves, the cheapest first, cell by cell."""
    from ponder.cli.curve import Curves
    from ponder.cli.verbs import open_study, refuse_traffic
    from ponder.scaling.need import needed
    from ponder.store import StudyStore

    found = []
    with ExitStack() as stack:
        study, journal, table = open_study(folder, stack)
        refuse_traffic(folder, study)
        curves = Curves(study, StudyStore(journal), table)
        for line in curves.lines():
            need = needed(line.values_P_K, line.tokens_P_K, line.ks, target)
            one = Planned(line.cell, line.strategy, need, len(line.values_P_K), line.seeds, "measured", line.bound)
            beyond = _foreseen(line, target) if line.strategy.startswith("pass@k") and not isfinite(need.tokens) else None
            found.append(replace(one, need=beyond, how="law") if beyond else one)
        for note in dict.fromkeys(curves.notes):
            print(f"ponder: {folder}: {note}", file=sys.stderr)
    order = list(dict.fromkeys(one.cell for one in found))
    found.sort(key=lambda one: (order.index(one.cell), one.bound, one.need.tokens))
    return [replace(one, cell=f"{one.cell} | {folder.name}") if several else one for one in found]


def _foreseen(line: Line, target: float) -> Need | None:
    """Coverage beyond the slice; None, with a note, where the samples do not tell a law."""
    import numpy as np

    from ponder.cli.output import counted
    from ponder.scaling.need import foreseen

    n = max(line.ks) * line.seeds
    right_P = np.round(line.values_P_K[:, line.ks.index(1)] * n)
    correct_P_N = np.random.default_rng(0).permuted(np.arange(n) < right_P[:, None], axis=1)
    try:
        return foreseen(correct_P_N, float(line.tokens_P_K[:, line.ks.index(1)].mean()), target)
    except UnidentifiedError as error:
        print(f"ponder: coverage beyond {counted(max(line.ks), 'sample')} is not foreseen: {error}", file=sys.stderr)
        return None


def report(found: list[Planned], target: float, *, as_json: bool) -> None:
    """A line for each strategy, those that reach the target first."""
    from ponder.cli import output

    if as_json:
        for one in found:
            body = {"cell": one.cell, "strategy": one.strategy, "target": target, **asdict(one.need), "how": one.how}
            numbers = {key: value if not isinstance(value, float) or isfinite(value) else None for key, value in body.items()}
            print(json.dumps({**numbers, "problems": one.problems, "seeds": one.seeds, "bound": one.bound}))
        return
    for cell in dict.fromkeys(one.cell for one in found):
        group = [one for one in found if one.cell == cell]
        print(f"\n{output.clean(cell)}: tokens a question for an accuracy of {target:g}")
        print(
            f"({output.counted(group[0].problems, 'problem')}, {output.counted(group[0].seeds, 'seed')}; 95% intervals over problems)\n"
        )
        rows = []
        for one in group:
            need = one.need
            tokens = f"{need.tokens:.0f}" if isfinite(need.tokens) else f"best {need.best:.3f}"
            ends = [f"{end:.0f}" if isfinite(end) else "beyond" for end in (need.low, need.high)]
            interval = f"[{ends[0]}, {ends[1]}]" if isfinite(need.low) else BEYOND
            samples = f"{need.samples:.0f}" if isfinite(need.samples) else ""
            rows.append([one.strategy, samples, tokens, interval, one.how, "bound" if one.bound else ""])
        output.table(["strategy", "samples", "tokens", "95% interval", "from", ""], rows)
    print("ponder: strategies that do not reach it may with more samples: run the study with a larger --slice", file=sys.stderr)
