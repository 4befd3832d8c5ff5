"""Every public name says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ponder.types

SOURCE = Path(ponder.types.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods of public classes without a docstring, and the module itself."""
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module"]

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, Documented) and not node.name.startswith("_") and not is_overload(node):
                if not ast.get_docstring(node):
                    missing.append(f"{prefix}{node.name}")
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.If | ast.Try):
                visit(node.body, prefix)

    visit(tree.body, "")
    return missing


def is_overload(node: Documented) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_public_name_has_a_docstring(path):
    missing = undocumented(ast.parse(path.read_text(encoding="utf-8")))
    assert not missing, f"without a docstring: {', '.join(missing)}"


def test_the_test_finds_what_is_missing():
    source = """
def told(): "What."
def untold(): ...
class Half:
    "What."
    def told(self): "What."
    def untold(self): ...
    def _hidden(self): ...
    class Inner: ...
if True:
    async def nested(): ...
def _hidden(): ...
"""
    assert undocumented(ast.parse(source)) == ["the module", "untold", "Half.untold", "Half.Inner", "nested"]


def test_there_is_something_to_look_at():
    assert len(FILES) > 20
