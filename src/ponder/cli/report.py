"""A comparison as one HTML file that loads and runs nothing, and as Markdown.

All that came from a model, a task or a file is hostile: it is stripped of control and direction-changing characters, cut to a bounded length
and escaped. The page has no script, its one style sheet is allowed by its hash, and figures are drawn by presentation attributes, so its
Content-Security-Policy can forbid everything else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from xml.etree import ElementTree

import numpy as np

from ponder.cli.compare import Entry, Group, Report, accuracies, figure_series, front_points
from ponder.cli.findings import LEVEL, decimals, established, findings, method, p_text, undecided
from ponder.cli.output import clean, counted
from ponder.errors import DataError
from ponder.scaling.figure import curve_figure, labels, short
from ponder.store.export import write as write_lines

if TYPE_CHECKING:
    from markupsafe import Markup

Cells: TypeAlias = dict[str, object]

LARGEST = 3_000_000
"""Bytes of a page."""
COARSER = ((240, 5000), (60, 500), (10, 50))
"""Most columns of a heat map (more problems share them) and most rows of a table of comparisons, until a page is small enough."""
FINDINGS = 12
"""Sentences of a group that stand open."""
APART = 12
"""Problems shown one by one."""
TEMPLATES = Path(__file__).parent / "templates"
SVG = "http://www.w3.org/2000/svg"


def write_html(report: Report, path: Path) -> int:
    """Write the page; returns its bytes. Raises `DataError` where it cannot be written, or cannot be made small enough."""
    size = 0
    for columns, rows in COARSER:
        text = html(report, columns=columns, rows=rows)
        size = len(text.encode("utf-8"))
        if size <= LARGEST:
            _write(path, text)
            return size
    raise DataError(f"{path}: the page would have {size:,} bytes, at most {LARGEST:,} are allowed; compare fewer studies")


def write_markdown(report: Report, path: Path) -> None:
    """Write the report as Markdown. Raises `DataError` where it cannot be written."""
    _write(path, markdown(report))


def draw(report: Report, path: Path) -> list[Path]:
    """The figure of each group, numbered where there are several; returns the files."""
    drawn = []
    for number, group in enumerate(report.groups, 1):
        target = path.with_name(f"{path.stem}-{number}{path.suffix}") if len(report.groups) > 1 else path
        drawn += [_figure(report, group, target)] if figure_series(group) else []
    return drawn


def html(report: Report, *, columns: int = COARSER[0][0], rows: int = COARSER[0][1]) -> str:
    """The page. columns: of a heat map at most; rows: of a table of comparisons at most, the decided ones first where some are left out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = (TEMPLATES / "report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        style=Markup(style),  # ours; escaping would change what is hashed
        title=_title(report),
        unit=report.unit.label,
        groups=[_group(report, group, number, columns, rows) for number, group in enumerate(report.groups)],
        method=method(report),
        most=FINDINGS,
        notes=[shown(note, 600) for note in report.notes],
        sources=[
            {"name": shown(source.path.name, 100), "provenance": shown(json.dumps(source.provenance, indent=1), 4000)}
            for source in report.sources
        ],
    )


def markdown(report: Report) -> str:
    """The report as Markdown, without the heat maps; what it quotes shows as it is written."""
    lines = [f"# {literal(_title(report))}", ""]
    for group in report.groups:
        lines += [f"## {literal(shown(group.title, 200))} ({counted(len(group.ids), 'problem')})", ""]
        lines += [f"- {literal(shown(text, 1200))}" for text in findings(report, group)]
        lines += [
            "",
            f"| strategy | samples | {report.unit.label} | accuracy | 95% interval | front |",
            "|---|--:|--:|--:|---|---|",
        ]
        for row in _points(group):
            name = f"{row['name']} (upper bound)" if row["bound"] else str(row["name"])
            cells = [literal(name), *(str(row[key]) for key in ("k", "cost", "value", "interval", "front"))]
            lines.append(f"| {' | '.join(cells)} |")
        if group.comparisons:
            lines += ["", f"| a | b | {report.unit.label} | a - b | 95% interval | p | Holm |", "|---|---|--:|--:|---|--:|--:|"]
            for row in _comparisons(group):
                cells = [
                    literal(str(row["a"])),
                    literal(str(row["b"])),
                    *(str(row[key]) for key in ("cost", "difference", "interval", "p", "holm")),
                ]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["## How this was measured", "", *(f"- {literal(text)}" for text in method(report))]
    lines += [f"- {literal(shown(note, 600))}" for note in report.notes]
    return "\n".join(lines) + "\n"


def shown(text: str, longest: int) -> str:
    """Text that a page and XML may hold: no control, direction-changing or unpaired surrogate character, and of bounded length."""
    kept = re.sub("[\\ufdd0-\\ufdef\\ufffe\\uffff]", "", clean(text[: 4 * longest]))
    return kept if len(kept) <= longest and len(text) <= 4 * longest else f"{kept[: longest - 1]}…"


def literal(text: str) -> str:
    r"""Text on one line that Markdown, and the HTML in it, shows as it is; an address in it is no link."""
    line = re.sub(r"(?i)\b(https?|ftp|www)([:.])", r"\1\\\2", re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", " ".join(text.split())))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def inline(svg: str, prefix: str) -> str:
    """An SVG of matplotlib as an element of a page: styles become attributes, which no policy forbids, and names get a prefix."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        for rule in filter(None, (element.attrib.pop("style", "")).split(";")):
            name, _, value = (part.strip() for part in rule.partition(":"))
            if name == "font":
                element.set("font-weight", "bold" if re.search(r"\b(bold|[6-9]00)\b", value) else "normal")
                found = re.search(r"([\d.]+)px", value)
                element.set("font-size", found[1] if found else "10")
            else:
                element.set(name, value)
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, prefix + value)
            elif name.rpartition("}")[2] == "href" and value.startswith("#"):
                del element.attrib[name]
                element.set("href", f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("stroke-linejoin", "round")  # what the style sheet of the figure said
    root.set("stroke-linecap", "butt")
    root.set("role", "img")
    root.set("aria-label", "Accuracy against cost")
    return ElementTree.tostring(root, encoding="unicode")


def _group(report: Report, group: Group, number: int, columns: int, rows: int) -> Cells:
    return {
        "title": shown(group.title, 200),
        "problems": counted(len(group.ids), "problem"),
        "findings": [shown(text, 1200) for text in established(report, group)],
        "undecided": [shown(text, 1200) for text in undecided(report, group)],
        "figure": _svg(report, group, f"f{number}-"),
        "points": _points(group),
        "comparisons": _most(_comparisons(group), rows),
        "left_out": max(0, len(group.comparisons) - rows),
        "heat": _heat(group, columns),
        "apart": _apart(group),
    }


def _svg(report: Report, group: Group, prefix: str) -> Markup | None:
    from markupsafe import Markup

    if not figure_series(group):
        return None
    with tempfile.TemporaryDirectory() as folder:
        drawn = _figure(report, group, Path(folder) / "figure.svg")
        return Markup(inline(drawn.read_text("utf-8"), prefix))  # serialised by an XML library, which escapes


def _figure(report: Report, group: Group, path: Path) -> Path:
    seeds = max(entry.line.seeds for entry in group.entries)
    caption = f"{counted(len(group.ids), 'problem')}, {counted(seeds, 'seed')}; bands: 95% bootstrap over problems"
    lines = [replace(one, name=shown(one.name, 200)) for one in figure_series(group)]
    title = shown(group.title, 70)
    return curve_figure(lines, path, title=title, caption=caption, x_label=report.unit.label, front=front_points(group))


def _title(report: Report) -> str:
    names = " and ".join(source.path.name or str(source.path.resolve().name) for source in report.sources)
    return shown(f"Comparison: {names}", 160)


def _points(group: Group) -> list[Cells]:
    best = {(entry, k) for entry, k in group.front}
    return [
        {
            "name": shown(point.strategy, 200),
            "first": place == 0,
            "k": point.k,
            "cost": f"{point.cost:,.0f}" if point.cost >= 100 else f"{point.cost:.3g}",
            "value": decimals(point.value),
            "interval": f"[{decimals(point.low)}, {decimals(point.high)}]",
            "front": "front" if (at, place) in best else "",
            "how": "all subsets" if point.how == "subsets" else "runs",
            "bound": point.bound,
        }
        for at, points in enumerate(group.points)
        for place, point in enumerate(points)
    ]


def _comparisons(group: Group) -> list[Cells]:
    return [
        {
            "a": shown(one.a, 200),
            "b": shown(one.b, 200),
            "cost": short(one.cost),
            "a_value": decimals(one.a_value),
            "b_value": decimals(one.b_value),
            "difference": decimals(one.difference.value),
            "interval": f"[{decimals(one.difference.low)}, {decimals(one.difference.high)}]",
            "p": p_text(one.p).removeprefix("= "),
            "holm": p_text(one.holm).removeprefix("= "),
            "decided": one.holm <= LEVEL,
        }
        for one in group.comparisons
    ]


def _most(rows: list[Cells], most: int) -> list[Cells]:
    return rows if len(rows) <= most else sorted(rows, key=lambda row: not row["decided"])[:most]


def _heat(group: Group, most: int) -> Cells:
    values_E_P = accuracies(group)
    order = np.argsort(values_E_P.mean(axis=0), kind="stable")
    bins = np.array_split(order, min(most, len(order)))
    left, step = 220, round(min(18.0, 780 / len(bins)), 2)
    rows = []
    names = labels([shown(entry.name, 200) for entry in group.entries], 34)
    for at, (name, values_P) in enumerate(zip(names, values_E_P, strict=True)):
        cells = []
        for place, members in enumerate(bins):
            value = float(values_P[members].mean())
            of = group.ids[members[0]] if len(members) == 1 else f"{len(members)} problems"
            label = f"{shown(of, 60)}: {decimals(value)}"
            cells.append({"x": round(left + place * step, 2), "level": round(10 * min(1.0, max(0.0, value))), "label": label})
        rows.append({"y": 20 * at, "name": name, "cells": cells})
    few, many = len(bins[-1]), len(bins[0])
    note = (
        f"A column is the mean of {few if few == many else f'{few} or {many}'} problems" if many > 1 else "A column is a problem"
    )
    return {
        "rows": rows,
        "left": left,
        "step": step,
        "legend": left - 94,
        "width": round(left + step * len(bins) + 4),
        "height": 20 * len(rows) + 18,
        "note": f"{note}, ordered by the mean of all strategies.",
    }


def _apart(group: Group) -> list[Cells]:
    values_E_P = accuracies(group)
    spread_P = np.ptp(values_E_P[[not entry.line.bound for entry in group.entries]], axis=0) if _fair(group) else np.zeros(0)
    found: list[Cells] = []
    for at in np.argsort(-spread_P, kind="stable")[:APART]:
        if spread_P[at] > 0:
            name = group.ids[at]
            fair = [
                (entry, values_P[at]) for entry, values_P in zip(group.entries, values_E_P, strict=True) if not entry.line.bound
            ]
            answers = labels([shown(entry.answers.get(name, ""), 4000) for entry, _ in fair], 100)  # programs begin alike
            told = [
                {"name": shown(entry.name, 80), "value": decimals(float(value)), "answer": answer}
                for (entry, value), answer in zip(fair, answers, strict=True)
            ]
            found.append({"id": shown(name, 80), "question": shown(group.questions.get(name, ""), 400), "strategies": told})
    return found


def _fair(group: Group) -> list[Entry]:
    return [entry for entry in group.entries if not entry.line.bound]


def _write(path: Path, text: str) -> None:
    try:
        write_lines(iter(text.removesuffix("\n").split("\n")), path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists") from None
