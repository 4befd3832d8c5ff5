"""Runs in a sandboxed process of its own, with the tests and without the program under test: stand-ins ask for its calls.

The tests run in a thread. From outside, `begin` and then `step`, with the answer to the last request, are called in turn; each gives
the next request, or how the tests ended:

    ("call", function, args, kwargs)    the program is to be called
    ("passed",)                         the tests ran to their end
    ("failed", name, line, message)     they raised; line: of the tests, 0 where it is not theirs

A value of the program's that is not plain arrives as (mark, number) and lives here as a `Thing`. Standard library only; the relay
outside reads this file as text.
"""

from __future__ import annotations

import builtins
import random
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import cast

_requests: SimpleQueue[tuple[object, ...]] = SimpleQueue()
_answers: SimpleQueue[tuple[object, ...]] = SimpleQueue()
_turn = threading.Lock()  # tests may have threads; an answer belongs to who asked
_mark = ""


def begin(mark: str, names: dict[str, str], setup: str, tests: str) -> tuple[object, ...]:
    """Start the tests; `names` maps what they call to the program's functions."""
    global _mark
    _mark = mark
    threading.Thread(target=_run, args=(names, setup, tests), daemon=True).start()
    return _requests.get()


def step(*answer: object) -> tuple[object, ...]:
    """Hand in ("value", value) or ("error", type name, message), and go on to the next request."""
    _answers.put(answer)
    return _requests.get()


def _run(names: dict[str, str], setup: str, tests: str) -> None:
    random.seed(0)  # tests that draw their inputs draw the same ones for everybody
    functions = {name: _function(called) for name, called in names.items()}
    space: dict[str, object] = {"__name__": "tests", **functions}
    try:
        exec(compile(setup, "<setup>", "exec"), space)  # code of a data set, or of a model, in a sandbox
        space.update(functions)  # the setup may hold an unfinished definition of what is under test
        exec(compile(tests, "<tests>", "exec"), space)
        _requests.put(("passed",))
    except BaseException as error:
        line, trace = 0, error.__traceback__
        while trace is not None:
            line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<tests>" else line
            trace = trace.tb_next
        _requests.put(("failed", type(error).__name__, line, str(error)[:300]))


def _function(name: str) -> Callable[..., object]:
    def stand_in(*args: object, **kwargs: object) -> object:
        return _ask(name, args, kwargs, made=name[:1].isupper())

    stand_in.__name__ = name
    return stand_in


def _ask(function: str, args: tuple[object, ...], kwargs: dict[str, object], *, made: bool = False) -> object:
    with _turn:
        _requests.put(("call", function, replaced(args, _marked), replaced(kwargs, _marked)))
        kind, value, *message = _answers.get()
    if kind == "value":
        return replaced(value, lambda one: _thing(one, made=made))
    found = getattr(builtins, str(value), None)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, _ENDINGS):
        raise found(*message)  # some types want other arguments, and raise TypeError instead
    raise RuntimeError(f"{value}: {message}")


_ENDINGS = (StopIteration, StopAsyncIteration)  # would end a test's `all(map(...))` as if all were well


class Thing:
    """A value of the program's that is not plain. It is true, equals only itself, can be handed back, called, and iterated over.

    Nothing else: an object that a function returned must not answer for itself (`r.startswith("ab")`, `len(r) == 3`). One that a test
    made from a class of the program's (a name with a capital) has its attributes and methods, which are what is tested then.
    """

    def __init__(self, number: int, *, made: bool) -> None:
        self.__dict__.update(_name=f"#{number}", _made=made)

    def __getattr__(self, name: str) -> object:
        return _ask(f"{self._reached(name)}?", (), {}, made=True)

    def __setattr__(self, name: str, value: object) -> None:
        _ask(f"{self._reached(name)}=", (value,), {})

    def __call__(self, *args: object, **kwargs: object) -> object:
        """As the program's object, over there."""
        return _ask(self.__dict__["_name"], args, kwargs, made=self.__dict__["_made"])

    def __iter__(self) -> Iterator[object]:
        return iter(cast("list[object]", _ask(f"{self.__dict__['_name']}[]", (), {})))

    def _reached(self, name: str) -> str:
        if not self.__dict__["_made"] or name.startswith("__"):
            raise AttributeError(f"a value that is not plain has no {name!r} here")
        return f"{self.__dict__['_name']}.{name}"


def _marked(value: object) -> object:
    return (_mark, int(value.__dict__["_name"][1:])) if isinstance(value, Thing) else value


def _thing(value: object, *, made: bool) -> object:
    if type(value) is tuple and len(value) == 2 and value[0] == _mark:
        return Thing(value[1], made=made)
    return value


def replaced(value: object, rule: Callable[[object], object]) -> object:
    """A plain value with `rule` applied to it and, where it leaves a value as it is, to what that contains."""
    if (other := rule(value)) is not value:
        return other
    kind = type(value)
    if kind in (list, tuple, set, frozenset):
        return kind(replaced(item, rule) for item in value)  # type: ignore[attr-defined]  # containers all
    if isinstance(value, dict):
        return {replaced(key, rule): replaced(item, rule) for key, item in value.items()}
    return value
