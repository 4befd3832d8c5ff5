"""The shape of the package: who may import whom, and how long a file or a function may be (design, section 2)."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import chain as chained
from pathlib import Path
from typing import NamedTuple

import pytest

import ponder.types

SOURCE = Path(ponder.types.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LAYERS = (
    ("types", "errors", "files"),
    ("core", "_meter", "run", "bank", "spec", "prompting"),
    ("sandbox", "lab", "scaling", "testing"),
    ("graders", "policies", "verifiers", "strategies", "learners"),
    ("tasks",),
    ("store",),
    ("cluster", "server", "viewer"),
    ("cli", "__main__"),
    ("facade",),
    ("__init__",),
)
LAYER = {part: number for number, layer in enumerate(LAYERS) for part in layer}
# In the two lowest layers, modules may import each other in this order only.
ORDER = {"types": 0, "errors": 1, "files": 1, "core": 2, "_meter": 3, "run": 4, "bank": 5, "spec": 5, "prompting": 5}
# The contract and the bank hand a run to verifiers and only name its type; `run` is defined on both protocols.
TYPES_ONLY = {("core", "run"), ("bank", "run")}
STRATEGIES_MAY = {
    "ponder.core", "ponder.run", "ponder.spec", "ponder.types", "ponder.errors", "ponder.prompting", "ponder.strategies",
    "__future__", "collections", "collections.abc", "dataclasses", "enum", "functools", "heapq", "itertools", "math", "operator",
    "re", "statistics", "string", "typing",
    "asyncio",  # to have several calls in flight; never to sleep, see below
    "ponder.scaling",  # arithmetic, such as reading a policy card; it knows no engine and no store
}  # fmt: skip
LONGEST_FILE, LONGEST_FUNCTION = 450, 80


class Import(NamedTuple):
    module: str
    line: int
    types_only: bool


def imports(tree: ast.Module) -> Iterator[Import]:
    """Absolute imports anywhere in the file; `from ponder import x` is given as ponder.x, too, if there is such a part."""
    guarded = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in chained.from_iterable(map(ast.walk, node.body))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, node in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            assert node.level == 0, f"line {node.lineno}: relative import"
            if module == "ponder":
                yield from (
                    Import(f"ponder.{alias.name}" if alias.name in LAYER else "ponder", node.lineno, node in guarded)
                    for alias in node.names
                )
            else:
                yield Import(module, node.lineno, node in guarded)


def part_of(path: Path) -> str:
    first = path.relative_to(SOURCE).parts[0]
    return first.removesuffix(".py")


def faults(part: str, tree: ast.Module) -> list[str]:
    """The imports of a file of this part that break the order of the layers."""
    found = []
    for module, line, types_only in imports(tree):
        top, _, rest = module.partition(".")
        if top != "ponder":
            continue
        target = rest.partition(".")[0]
        if not target:
            found.append(f"line {line}: imports the facade")
        elif target == part or (types_only and (part, target) in TYPES_ONLY):
            continue
        elif target not in LAYER:
            found.append(f"line {line}: {module} stands in no layer")
        elif LAYER[target] > LAYER[part]:
            found.append(f"line {line}: {part} imports {module}, which lies above it")
        elif LAYER[target] == LAYER[part] and ORDER.get(target, 99) >= ORDER.get(part, -1):
            found.append(f"line {line}: {part} imports {module}, sideways")
    return found


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))


@every_file
def test_every_file_stands_in_a_layer_and_its_imports_point_down(path):
    part = part_of(path)
    assert part in LAYER, f"{part} stands in no layer: give it one here and in the design"
    assert not (found := faults(part, ast.parse(path.read_text(encoding="utf-8")))), "\n".join(found)


@pytest.mark.parametrize(
    ("part", "source", "fault"),
    [
        ("core", "from ponder.run import Run", "core imports ponder.run, sideways"),
        ("types", "import ponder.errors", "types imports ponder.errors, sideways"),
        ("bank", "from ponder.spec import parse", "bank imports ponder.spec, sideways"),
        ("run", "from ponder.bank import TableBank", "run imports ponder.bank, sideways"),
        ("lab", "from ponder.scaling.estimators import x", "lab imports ponder.scaling.estimators, sideways"),
        ("strategies", "from ponder.verifiers.oracle import Oracle", "strategies imports ponder.verifiers.oracle, sideways"),
        ("verifiers", "def f():\n    from ponder.tasks import load", "verifiers imports ponder.tasks, which lies above it"),
        ("cli", "import ponder", "imports the facade"),
        ("cli", "from ponder import solve", "imports the facade"),
        ("cli", "from ponder.facade import solve", "cli imports ponder.facade, which lies above it"),
        ("core", "from ponder import run", "core imports ponder.run, sideways"),
        ("core", "if TYPE_CHECKING:\n    from ponder.store import Table", "core imports ponder.store, which lies above it"),
        ("core", "from ponder.attic import x", "ponder.attic stands in no layer"),
    ],
)
def test_the_layer_test_finds_each_kind_of_fault(part, source, fault):
    [found] = faults(part, ast.parse(source))
    assert found.endswith(fault)


def test_the_layer_test_lets_good_imports_pass():
    source = "import math\nfrom ponder.types import Chain\nfrom ponder.core import Ask\nif TYPE_CHECKING:\n    from ponder.run import Run"
    assert faults("bank", ast.parse(source)) == []


def test_the_exceptions_are_still_needed():
    for part, target in TYPES_ONLY:
        found = list(imports(ast.parse((SOURCE / f"{part}.py").read_text(encoding="utf-8"))))
        assert any(module == f"ponder.{target}" and types_only for module, _, types_only in found)


@pytest.mark.parametrize("path", [f for f in FILES if part_of(f) == "strategies"], ids=lambda path: path.name)
def test_a_strategy_owns_its_numbers_and_its_idea_and_nothing_else(path):
    assert not (found := plumbing(ast.parse(path.read_text(encoding="utf-8")))), f"{found}: mend the seam instead"


def plumbing(tree: ast.Module) -> list[str]:
    """Imports and calls that a strategy has no business with."""
    found = [
        module
        for module, _, types_only in imports(tree)
        if ".".join(module.split(".")[:2]) not in STRATEGIES_MAY and not (types_only and module == "random")  # given by the run
    ]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return found + sorted(names & {"sleep", "print", "open", "sample", "_meter", "_bank", "_judge", "verdicts"})


def test_the_strategy_test_finds_plumbing():
    source = "import random\nimport asyncio\nfrom time import time\nasyncio.sleep(1)\nrun.policy.sample()\nrun._meter.spent"
    assert plumbing(ast.parse(source)) == ["random", "time", "_meter", "sample", "sleep"]


@every_file
def test_no_file_and_no_function_is_too_long(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_FILE, f"{text.count(chr(10))} lines, at most {LONGEST_FILE}"
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: size for node in functions if (size := (node.end_lineno or 0) - node.lineno + 1) > LONGEST_FUNCTION}
    assert not long, f"functions of more than {LONGEST_FUNCTION} lines: {long}"


_IGNORE = re.compile(r"#\s*type:\s*ignore(\[[\w, -]+\])?(?P<rest>.*)$")


def bare_ignores(text: str) -> list[str]:
    """Type-ignore comments without an error code, or without a reason after it."""
    comments = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT]
    found = [(token.start[0], match) for token in comments if (match := _IGNORE.search(token.string))]
    return [f"line {line}: {match[0]}" for line, match in found if not match[1] or len(match["rest"].strip(" #")) < 8]


@every_file
def test_a_silenced_type_checker_gets_a_reason(path):
    assert not (found := bare_ignores(path.read_text(encoding="utf-8"))), found


def test_the_ignore_test_finds_bare_ones():
    text = "a = 1  # type: ignore\nb = 2  # type: ignore[misc]\nc = 3  # type: ignore[misc]  # the stubs lag behind\nd = '# type: ignore'\n"
    assert bare_ignores(text) == ["line 1: # type: ignore", "line 2: # type: ignore[misc]"]
