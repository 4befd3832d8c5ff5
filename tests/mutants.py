"""Wrong versions of right programs: seeded changes of their syntax trees, and a plain reference that says which of them are wrong.

The programs are ours (solutions of a data set with small changes), so a subprocess with limits is safe enough for the reference.
Standard library only.
"""

from __future__ import annotations

import ast
import copy
import random
import subprocess
import sys
from collections.abc import Iterator

OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod)
COMPARISONS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq)


def mutants(source: str, function: str, seed: object) -> Iterator[str]:
    """Different versions of a program with one to three changes in a function of it; gives up after 2,000 repetitions in all."""
    draw = random.Random(str(seed))
    tree = ast.parse(source)
    seen, repeated = {ast.unparse(tree)}, 0
    while repeated < 2000:
        changed = copy.deepcopy(tree)
        [under_test] = (node for node in changed.body if isinstance(node, ast.FunctionDef) and node.name == function)
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
            _change(under_test, draw)
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text in seen:
            repeated += 1
        else:
            seen.add(text)
            yield text


def passes(source: str, entry_point: str, test: str, seconds: float, memory: int = 512 * 2**20) -> bool:
    """Whether a program passes a test that defines `check`, everything in one plain process: the way it is usually done."""
    script = f"{source}\n\n{test}\n\ncheck({entry_point})\nimport os\nos._exit(77)\n"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory})); import sys; exec(compile(sys.stdin.read(), 'program', 'exec'), {{}})"
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", limited],
            input=script.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 77


def _change(tree: ast.FunctionDef, draw: random.Random) -> None:
    spots = [node for node in ast.walk(tree) if isinstance(node, _KINDS)]
    if not spots:
        return
    node = draw.choice(spots)
    match node:
        case ast.BinOp() | ast.AugAssign():
            node.op = draw.choice([kind for kind in OPERATORS if not isinstance(node.op, kind)])()
        case ast.Compare():
            node.ops[0] = draw.choice([kind for kind in COMPARISONS if not isinstance(node.ops[0], kind)])()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.Constant(value=bool() as value):
            node.value = not value
        case ast.Constant(value=int() | float() as value):
            node.value = value + draw.choice((-1, 1))
        case ast.Constant(value=str() as value):
            node.value = value[1:] if value else "x"
        case ast.If() | ast.While() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = draw.choice([ast.Constant(None), ast.List([node.value or ast.Constant(0)], ast.Load())])
        case ast.For() | ast.FunctionDef() if len(node.body) > 1:
            del node.body[draw.randrange(len(node.body))]
        case ast.Call() if node.args:
            node.args = node.args[1:] if draw.random() < 0.5 else [*node.args[1:], node.args[0]]
        case ast.Subscript():
            node.slice = draw.choice([ast.Constant(0), ast.Constant(-1)])


_KINDS = (
    ast.BinOp, ast.AugAssign, ast.Compare, ast.BoolOp, ast.Constant, ast.If, ast.While, ast.IfExp, ast.Return, ast.For, ast.FunctionDef,
    ast.Call, ast.Subscript,
)  # fmt: skip
