"""What every evidence script shares: claims, the JSON they are kept in, and the tables of the docs pages.

A script runs a study (so it can be stopped and started again), computes claims from it and writes `docs/evidence/NAME.json`. A claim that
does not hold stays, with `holds: false`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path

import numpy as np

from ponder.cli import output
from ponder.cli.curve import Curves, Line, Point, series
from ponder.cli.main import interruptible
from ponder.cli.provenance import provenance, write_provenance
from ponder.cli.runner import Runner
from ponder.cli.study import Study, write
from ponder.scaling.bootstrap import Interval, paired_difference
from ponder.scaling.figure import curve_figure
from ponder.store import Journal, SqliteTable, StudyStore

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence with its number. low and high: 95% interval; target: what was hoped for, holds: whether it came; n: problems.

    A number that is only reported has neither target nor verdict.
    """

    id: str
    text: str
    value: float
    low: float
    high: float
    target: str | None
    holds: bool | None
    n: int
    seeds: int


def run_study(study: Study) -> tuple[list[Line], Path]:
    """Run a study in `studies/`, or go on with it; returns its curves and where it is kept."""
    with completed(study) as (journal, where):
        return Curves(study, StudyStore(journal), SqliteTable(journal)).lines(), where


@contextmanager
def completed(study: Study, resume: str | None = None) -> Iterator[tuple[Journal, Path]]:
    """The journal and folder of a study in `studies/`, once it has been run to its end. resume: the line that goes on with it."""
    where = ROOT / "studies" / study.name
    with Journal(where / "study.db") as journal:
        write(study, where / "study.resolved.toml")
        runner = Runner(study)
        write_provenance(where / "provenance.json", study, runner.sandbox())
        with output.progress() as report:
            interruptible(runner.run(journal, None, report), resume=resume or f"make evidence NAME={study.name}")
        yield journal, where


def line(lines: Sequence[Line], task: str, strategy: str) -> Line:
    """The curve of one strategy on one task."""
    return next(one for one in lines if one.cell.startswith(f"{task} |") and one.strategy == strategy)


def at(one: Line, k: int) -> np.ndarray:
    """Accuracy by problem at one size."""
    return one.values_P_K[:, one.ks.index(k)]


def averaged(lines: Sequence[Line]) -> Line:
    """One curve of several over the same problems and sizes, each of a seed of its own: the mean problem by problem."""
    values_P_K, tokens_P_K = (np.mean([getattr(one, name) for one in lines], axis=0) for name in ("values_P_K", "tokens_P_K"))
    return replace(lines[0], values_P_K=values_P_K, tokens_P_K=tokens_P_K, seeds=len(lines))


def compare(
    id_: str,
    text: str,
    a: tuple[Line, int],
    b: tuple[Line, int],
    target: str | None = None,
    test: Callable[[Interval], bool] | None = None,
) -> Claim:
    """The paired difference a - b over problems, as a claim."""
    found = paired_difference(at(*a), at(*b), seed=0, resamples=2000)
    return Claim(id_, text, found.value, found.low, found.high, target, test(found) if test else None, len(at(*a)), a[0].seeds)


def ratio(top_P: np.ndarray, bottom_P: np.ndarray) -> Interval:
    """Ratio of two means over the same problems, with its 95% bootstrap interval over problems."""
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(top_P), (2000, len(top_P)))
    low, high = np.quantile(top_P[draws].mean(1) / bottom_P[draws].mean(1), [0.025, 0.975])
    return Interval(float(top_P.mean() / bottom_P.mean()), float(low), float(high))


def save(name: str, claims: Sequence[Claim]) -> None:
    """Write the claims, and print them. A number that is none (beyond what was measured, refused) is null."""
    told = [
        {key: None if isinstance(value, float) and not isfinite(value) else value for key, value in asdict(claim).items()}
        for claim in claims
    ]
    body = {"claims": told, "provenance": provenance()}
    target = DOCS / "evidence" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    for claim in claims:
        verdict = {True: "holds", False: "FAILS", None: "shows"}[claim.holds]
        print(f"{verdict}  {claim.id}: {claim.value:.3f} [{claim.low:.3f}, {claim.high:.3f}], target {claim.target}")
        print(f"       {claim.text} (n = {claim.n}, {claim.seeds} seeds)")
    print(f"written to {os.path.relpath(target, ROOT)}")


def figures(lines: Sequence[Line], name: str) -> None:
    """The picture of each cell, under docs/evidence/."""
    points = [point for one in lines for point in one.points()]
    for cell, drawn in series(points).items():
        task = cell.partition(" | ")[0]
        slug = re.sub(r"\W+", "-", task).strip("-")
        one = next(point for point in points if point.cell == cell)
        caption = f"{cell.split(' | ')[1]}, {one.n} problems, {one.seeds} seeds; bands: 95% bootstrap over problems"
        curve_figure(drawn, DOCS / "evidence" / f"{name}-{slug}.png", title=task, caption=caption)


def table(points: Sequence[Point]) -> str:
    """Points as a Markdown table."""
    rows = [
        "| task | policy | strategy | samples | tokens | accuracy | 95% interval | problems x seeds |",
        "|---|---|---|--:|--:|--:|---|--:|",
    ]
    for p in points:
        task, policy, *_ = p.cell.split(" | ")
        rows.append(
            f"| {task} | {policy} | `{p.strategy}` | {p.k} | {p.tokens:.0f} | {p.value:.3f} | [{p.low:.3f}, {p.high:.3f}] | {p.n} x {p.seeds} |"
        )
    return "\n".join(rows)


def claims_table(claims: Sequence[Claim]) -> str:
    """Claims as a Markdown table; one beyond what was measured says so."""
    rows = ["| claim | value | 95% interval | target | holds | n |", "|---|--:|---|---|---|--:|"]
    for one in claims:
        value, low, high = (f"{x:.3f}" if isfinite(x) else "beyond" for x in (one.value, one.low, one.high))
        held = {True: "yes", False: "**no**", None: ""}[one.holds]
        rows.append(f"| {one.text} | {value} | [{low}, {high}] | {one.target or ''} | {held} | {one.n} |")
    return "\n".join(rows)


def insert(page: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- evidence: marker -->` and `<!-- end -->` on a page."""
    body = page.read_text("utf-8")
    pattern = re.compile(rf"(<!-- evidence: {re.escape(marker)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(body):
        raise SystemExit(f"{page}: has no place for evidence {marker!r}")
    page.write_text(pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", body), "utf-8")
