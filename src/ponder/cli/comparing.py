"""The verbs `curve` and `compare`: tables and findings on the terminal, and the report as a page, as Markdown and as a picture."""

from __future__ import annotations

import json as json_
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ponder.cli.axes import Axis, Unit, price_of, size_of
from ponder.cli.main import JSONFlag
from ponder.errors import UsageError

# ruff: noqa: D417  --json is described where it is defined


def curve(
    study: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    png: Path | None = None,
    axis: Axis = "tokens",
    parameters: str | None = None,
    verifier_parameters: str | None = None,
    price: str | None = None,
    json: JSONFlag = False,
) -> None:
    """Print accuracy against compute with 95% intervals for every strategy, and draw it.

    Args:
        study: Folders of studies, or Parquet files of samples.
        png: Where the picture goes, also .svg; default curve.png in the study folder, on other axes than tokens curve-AXIS.png.
        axis: What compute is counted in. FLOPs and money need size and price of the models; attention the shape of their caches, too.
        parameters: Active parameters of a policy that does not say its size, such as 7e9, 7B or 500M.
        verifier_parameters: Active parameters of a reward model that does not say its size; left out, those of the policy.
        price: Of a million tokens, PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED.
    """
    from ponder.cli import verbs

    verbs.curve(study, png, _unit(axis, parameters, verifier_parameters, price), as_json=json)


def compare(
    study: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    axis: Axis = "tokens",
    parameters: str | None = None,
    verifier_parameters: str | None = None,
    price: str | None = None,
    html: Path | None = None,
    markdown: Path | None = None,
    png: Path | None = None,
    json: JSONFlag = False,
) -> None:
    """Compare strategies at equal compute, over the same problems: findings with intervals and corrected p-values, a Pareto front.

    Args:
        study: Folders of studies, or Parquet files of samples; several are compared where they have the same problems.
        axis: What compute is counted in. FLOPs and money need size and price of the models; attention the shape of their caches, too.
        parameters: Active parameters of a policy that does not say its size, such as 7e9, 7B or 500M.
        verifier_parameters: Active parameters of a reward model that does not say its size; left out, those of the policy.
        price: Of a million tokens, PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED.
        html: Write the report as one file that needs no network.
        markdown: Write it as Markdown.
        png: Draw it; also .svg.
    """
    from ponder.cli import compare as comparison
    from ponder.cli import findings, output, report

    if png is not None and png.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"compare: {png} must end in .png or .svg")
    found = comparison.report(study, _unit(axis, parameters, verifier_parameters, price))
    comparison.say(found.notes)
    for group in found.groups:
        if json:
            for one in group.comparisons:
                print(json_.dumps({"problems": group.title, "n": len(group.ids), "axis": axis, **asdict(one)}))
            continue
        print(f"\n{output.clean(group.title)}  ({output.counted(len(group.ids), 'problem')})\n")
        for text in findings.findings(found, group):
            print(f"- {output.clean(text)}")
    if not json:
        print()
        for text in findings.method(found):
            print(text)
    if html is not None:
        size = report.write_html(found, html)
        print(f"ponder: page of {size:,} bytes in {html}", file=sys.stderr)
    if markdown is not None:
        report.write_markdown(found, markdown)
        print(f"ponder: Markdown in {markdown}", file=sys.stderr)
    if png is not None:
        for target in report.draw(found, png):
            print(f"ponder: picture in {target}", file=sys.stderr)


def _unit(axis: Axis, parameters: str | None, verifier_parameters: str | None, price: str | None) -> Unit:
    policy = size_of("--parameters", parameters)
    return Unit(axis, policy, price_of(price) if price else None, size_of("--verifier-parameters", verifier_parameters))
