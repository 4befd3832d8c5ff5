"""What the docs show is run: Python blocks, spec strings, names of verbs and files."""

import re
from pathlib import Path

import pytest

from ponder.cli.main import app
from ponder.spec import names, parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_of_the_extension_page_runs_in_order():
    scope: dict[str, object] = {"__name__": "docs"}
    for block in blocks(ROOT / "docs" / "extend.md", "python"):
        exec(compile(block, "docs/extend.md", "exec"), scope)  # our own page, not a model's text
    assert scope["outcome"]


def test_the_python_of_the_readme_runs(capsys):
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {"__name__": "docs"})
    assert capsys.readouterr().out.startswith("14 ")


@pytest.mark.parametrize("name", names("strategies"))
def test_every_strategy_has_a_page_with_cost_source_and_evidence(name):
    text = (ROOT / "docs" / "strategies" / f"{name}.md").read_text("utf-8")
    for part in ("**Costs**", "**Source**", "**Deviations**", "**Cases**", f"<!-- evidence: {name} -->"):
        assert part in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_strategies_written_on_a_page_parse(page):
    for spec in re.findall(r'--strategy "([^"{]+)"', page.read_text("utf-8")):
        if "..." not in spec:
            parse(spec, "strategies")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_verbs_and_links_of_a_page_exist(page):
    text = page.read_text("utf-8")
    verbs = {verb for name in app for verb in [name] if not name.startswith("-")}
    for verb in re.findall(r"^(?: {4})?ponder (\w+)", text, re.MULTILINE):
        assert verb in verbs
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
