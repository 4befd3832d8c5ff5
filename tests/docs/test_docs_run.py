"""What the docs show is run: Python blocks, spec strings, names of verbs and files."""

import inspect
import re
from importlib.metadata import entry_points
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


@pytest.mark.slow
def test_the_python_of_the_scaling_page_runs():
    for block in blocks(ROOT / "docs" / "scaling.md", "python"):
        exec(compile(block, "docs/scaling.md", "exec"), {"__name__": "docs"})


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


def test_the_table_of_tasks_names_arguments_that_there_are():
    rows = re.findall(
        r"^\| ((?:`\w+`(?:, )?)+) \|[^|]*\|([^|]*)\|", (ROOT / "docs" / "tasks.md").read_text("utf-8"), re.MULTILINE
    )
    named = {task: set(re.findall(r"`(\w+)`", arguments)) for tasks, arguments in rows for task in re.findall(r"`(\w+)`", tasks)}
    known = {entry.name: entry.load() for entry in entry_points(group="ponder.tasks")}
    assert set(known) <= set(named)
    for task, arguments in named.items():
        assert arguments <= set(inspect.signature(known[task]).parameters), task


@pytest.mark.integration
def test_the_python_of_the_sandbox_page_runs(capsys):
    for block in blocks(ROOT / "docs" / "sandbox.md", "python"):
        exec(compile(block, "docs/sandbox.md", "exec"), {"__name__": "docs"})  # our own page
    assert capsys.readouterr().out == "ok 42\n"
