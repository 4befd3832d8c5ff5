"""What runs in the sandboxed process around the program: load it, call it when asked, send plain values back.

The program shares this process, so nothing here is a secret from it and nothing here decides anything: it can at most choose what
it answers, which is what it is asked for. Runs inside the sandbox: standard library only.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterable
from typing import BinaryIO, NoReturn, cast

from ponder.sandbox import wire

ANSWERS = 3  # the file descriptor of the answer channel
_LONGEST = 500  # characters of an exception's message


def run() -> NoReturn:
    """Take the program from the answer channel; answer calls until the other side hangs up, or run it as a whole.

    The first line is [nonce, source, name]; an empty nonce asks for the program as a whole, on its standard input.
    """
    lines = os.fdopen(os.dup(ANSWERS), "rb")
    nonce, source, name = cast("tuple[str, str, str]", wire.loads(lines.readline().decode("ascii")))
    module = types.ModuleType("program" if nonce else "__main__")  # one that is called is imported: its main part must not run
    sys.modules[module.__name__] = module
    sys.argv = [name]
    if nonce:
        _serve(module, lines, nonce, source, name)
    lines.close()
    _whole(module, source, name)


def _serve(module: types.ModuleType, lines: BinaryIO, nonce: str, source: str, name: str) -> NoReturn:
    handles: list[object] = []
    write, dumps, loads, leave = os.write, wire.dumps, wire.loads, os._exit  # the program may replace the names, not these

    def send(number: int, reply: list[object]) -> None:
        body = f"{nonce} {dumps([number, *reply])}\n".encode()
        while body:
            body = body[write(ANSWERS, body) :]

    def keep(value: object) -> int:
        handles.append(value)
        return len(handles) - 1

    try:
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)  # the purpose of a sandbox
        send(0, ["ok"])
    except BaseException as error:
        send(0, _raised(error))
        leave(1)
    for number, line in enumerate(lines, 1):
        function, args, kwargs = cast("tuple[str, wire.Coded, wire.Coded]", loads(line.decode("ascii")))
        try:
            given = cast("tuple[object, ...]", wire.decode(args, handles.__getitem__))
            named = cast("dict[str, object]", wire.decode(kwargs, handles.__getitem__))
            called = cast("Callable[..., object]", _resolve(module, handles, function))
            reply: list[object] = ["value", wire.encode(called(*given, **named), keep)]
        except BaseException as error:
            reply = _raised(error)
        send(number, reply)
    leave(0)


def _resolve(module: types.ModuleType, handles: list[object], function: str) -> object:
    """`f`, `a.f`, `Class().method`, `#3` (a handle), `#3.method`, `#3[]` (all it iterates over), `#3.a?` and `#3.a=` (get and set)."""
    head, *rest = function.split(".")
    if rest and rest[-1][-1] in "?=":
        thing, name = _resolve(module, handles, ".".join([head, *rest[:-1]])), rest[-1][:-1]
        return lambda *value: setattr(thing, name, *value) if value else getattr(thing, name)
    if head.endswith("[]"):
        return lambda: list(cast("Iterable[object]", handles[int(head[1:-2])]))
    if head.startswith("#"):
        found = handles[int(head[1:])]
    else:
        name = head.removesuffix("()")
        if name not in module.__dict__:
            raise NameError(f"name {name!r} is not defined")
        found = module.__dict__[name]
        if name != head:
            found = cast("Callable[[], object]", found)()
    for name in rest:
        found = getattr(found, name)
    return found


def _raised(error: BaseException) -> list[object]:
    try:
        message = str.__str__(str(error))[:_LONGEST]
    except BaseException:  # a message of the program's making
        message = ""
    return ["error", type(error).__name__, message]


def _whole(module: types.ModuleType, source: str, name: str) -> NoReturn:
    """As `python program.py` would: exit code, traceback on standard error, threads awaited, exit handlers run."""
    import atexit
    import threading

    os.close(ANSWERS)
    sys.stdin, sys.stdout, sys.stderr = _stream(0), _stream(1), _stream(2)
    code = 0
    try:
        exec(compile(source, name, "exec", dont_inherit=True), module.__dict__)  # the purpose of a sandbox
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
        if left.code is not None and not isinstance(left.code, int):
            print(left.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # what the interpreter itself does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1
    os._exit(code & 0xFF)


def _stream(number: int) -> io.TextIOWrapper:
    """Standard streams made anew: the mother's were opened before the fork, on nothing."""
    raw = io.FileIO(number, "rb" if number == 0 else "wb", closefd=False)
    buffer = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
    return io.TextIOWrapper(buffer, "utf-8", "surrogateescape" if number < 2 else "backslashreplace", line_buffering=number == 2)
