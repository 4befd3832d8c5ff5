"""Functions to write, judged by tests that stay hidden: HumanEval, MBPP, and files of their shape."""

from __future__ import annotations

import ast
import builtins

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.graders.code import CodeGrader, Reference
from ponder.graders.program import program_key
from ponder.tasks.files import Row, check_ids, digest, plain, read_prompt, read_rows
from ponder.types import Problem, Question


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
    (those of HumanEval+ use numpy). Raises `DataError` with file and line.
    """
    template = read_prompt(prompt)
    problems = []
    for row in read_rows(path):
        place = row.place
        code, entry, test = (text(row, name) for name in ("prompt", "entry_point", "test"))
        _parsed(code, place, "prompt")
        if not any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in _parsed(test, place, "test").body):
            raise DataError(f"{place}: the test defines no check(candidate), so it would test nothing")
        names = {"candidate": entry, entry: entry}
        reference = Reference(entry, f"{test}\n\ncheck(candidate)\n", names, prompt=code, setup=code)
        question = Question(text(row, "task_id"), template.ask(code.rstrip()), {"entry_point": entry, "prompt": code})
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
    if shown < 1:
        raise UsageError(f"mbpp: shown = {shown} must be at least 1: the function's name stands in the tests alone")
    template = read_prompt(prompt)
    problems = []
    for row in read_rows(path):
        place = row.place
        tests = _texts(row, "test_list")
        imports = _texts(row, "test_imports") if "test_imports" in row.fields else []
        setup = "\n".join([*imports, plain(row.fields.get("test_setup_code") or "")])
        source = "\n".join([*tests, *(_texts(row, "challenge_test_list") if "challenge_test_list" in row.fields else [])])
        names = _tested(source, setup, plain(row.fields.get("code") or ""), place)
        reference = Reference(names[0], source, {name: name for name in names}, setup=setup)
        question = Question(
            f"mbpp/{row.fields.get('task_id', row.number)}",
            template.ask(text(row, "text", "prompt"), shown="\n".join(tests[:shown])),
            {"entry_point": names[0]},
        )
        problems.append(Problem(question, reference.packed()))
    check_ids(problems, path, "so mend the file")
    grader = CodeGrader(seconds, preload=preload)
    return Task("mbpp", f"mbpp-{digest(problems)}/{template.fingerprint}", tuple(problems), program_key, grader, max_tokens)


def text(row: Row, *names: str) -> str:
    """What stands under the first of these fields that the row has. Raises `DataError` unless it is a text."""
    value = next((row.fields[name] for name in names if row.fields.get(name) is not None), None)
    if not isinstance(value, str):
        lack = f"{type(value).__name__}, no text," if any(name in row.fields for name in names) else "nothing"
        raise DataError(f"{row.place}: has {lack} under {' or '.join(map(repr, names))}; its fields are {', '.join(row.fields)}")
    return plain(value).replace("\r\n", "\n")


def _texts(row: Row, name: str) -> list[str]:
    items = row.fields.get(name)
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items) or (name == "test_list" and not items):
        raise DataError(f"{row.place}: {name} must be a list of texts, not {str(items)[:80]}")
    return [plain(item).replace("\r\n", "\n") for item in items]


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
    called = [node.func for node in ast.walk(_parsed(tests, place, "tests")) if isinstance(node, ast.Call)]
    loaded = [node.id for node in [*called, *nodes] if isinstance(node, ast.Name)]
    free = [name for name in dict.fromkeys(loaded) if name not in stored]
    found = [name for name in free if name in defined] or [name for name in free if not hasattr(builtins, name)]
    if not found:
        raise DataError(f"{place}: the tests call no function of the program's")
    return found


def _parsed(source: str, place: str, what: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: {what} is no Python ({error})") from None
