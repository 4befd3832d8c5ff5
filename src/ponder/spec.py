"""Spec strings: `best_of_n(n=16, verifier=confidence("marco"))` read into frozen dataclasses, and written back.

A spec is a registered name with literal arguments and nested specs; nothing of it is ever evaluated as Python. `name:arg` is
short for `name("arg")`. Names are entry points (groups `ponder.strategies`, `ponder.verifiers`, `ponder.policies`, `ponder.tasks`);
the built-in ones go through the same door as anybody's.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Literal, TypeAlias, TypeVar

from ponder.errors import SetupError, SpecError

Kind: TypeAlias = Literal["strategies", "verifiers", "policies", "tasks"]
T = TypeVar("T")

_LONGEST = 10_000  # no spec of ours comes near it, and Python's parser slows down far beyond it
KINDS: tuple[Kind, ...] = ("strategies", "verifiers", "policies", "tasks")
_SHORT = re.compile(r"([a-z_][a-z0-9_]*):(.+)", re.DOTALL)
_SCALARS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def named(name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: the repr of an instance is the spec string that makes it, arguments at their defaults left out."""

    def decorate(cls: type[T]) -> type[T]:
        cls.__spec__ = name  # type: ignore[attr-defined]  # read by `render` alone
        cls.__repr__ = render  # type: ignore[method-assign]  # the one purpose of this decorator
        return cls

    return decorate


def render(thing: object, *, full: bool = False) -> str:
    """The spec string of a value; `full` writes out defaults too, for identities that must not depend on them."""
    if isinstance(thing, tuple):
        items = [render(item, full=full) for item in thing]
        return f"({', '.join(items)}{',' * (len(items) == 1)})"
    if not is_dataclass(thing) or isinstance(thing, type) or not hasattr(thing, "__spec__"):
        return repr(thing)
    shown = []
    for field in fields(thing):
        value = getattr(thing, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.init and field.repr and (full or value != default):
            shown.append(f"{field.name}={render(value, full=full)}")
    return f"{thing.__spec__}({', '.join(shown)})"


def parse(text: str, kind: Kind, *, given: Mapping[str, object] = MappingProxyType({})) -> object:
    """What the spec names, made. `given`: names, in place of an argument, that stand for these very objects.

    Raises `SpecError` with the nearest name, the accepted arguments and the place.
    """
    text = text.strip()
    if len(text) > _LONGEST:
        raise SpecError(f"{text[:40]!r}... is no spec: {len(text):,} characters, at most {_LONGEST:,}")
    shown = _clipped(text)
    short = _SHORT.fullmatch(text)
    if short:
        return _make(short[1], (short[2],), {}, kind, shown)
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        at = getattr(error, "offset", None) or 1
        raise SpecError(f"{shown!r} is not a spec (column {at}); write a name with arguments, such as best_of_n(n=16)") from None
    return _build(tree, kind, shown, given)


def names(kind: Kind) -> list[str]:
    """The registered names of a kind, sorted."""
    return sorted(entry.name for entry in _entries(kind))


def _build(node: ast.expr, kind: Kind | None, text: str, objects: Mapping[str, object]) -> object:
    match node:
        case ast.Constant(value=value) if kind is None and isinstance(value, str | int | float | bool | None):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            kind is None and value is not True and value is not False
        ):
            return -value
        case ast.Tuple(elts=items) | ast.List(elts=items) if kind is None:
            return tuple(_build(item, None, text, objects) for item in items)
        case ast.Name(id=name) if kind is None and name in objects:
            return objects[name]
        case ast.Name(id=name):
            return _make(name, (), {}, kind, text)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords):
            if any(keyword.arg is None for keyword in keywords) or any(isinstance(arg, ast.Starred) for arg in args):
                raise SpecError(f"{text!r}: * and ** have no meaning in a spec; write the arguments out")
            given: dict[str, object] = {}
            for keyword in keywords:
                if keyword.arg in given:
                    raise SpecError(f"{text!r}: {name} got {_clipped(str(keyword.arg))!r} twice")
                given[str(keyword.arg)] = _build(keyword.value, None, text, objects)
            return _make(name, tuple(_build(arg, None, text, objects) for arg in args), given, kind, text)
        case _:
            raise SpecError(
                f"{text!r}: column {node.col_offset + 1} is neither a literal nor a registered name with arguments; specs are never evaluated"
            )


def _make(name: str, args: Sequence[object], given: dict[str, object], kind: Kind | None, text: str) -> object:
    factory = _find(name, kind, text)
    accepted = list(inspect.signature(factory).parameters.values())
    takes = ", ".join(parameter.name for parameter in accepted)
    if len(args) > len(accepted):
        raise SpecError(f"{text!r}: {name} takes {len(accepted)} arguments ({takes}), {len(args)} were given")
    bound = dict(zip((parameter.name for parameter in accepted), args, strict=False))
    for key, value in given.items():
        if key not in {parameter.name for parameter in accepted}:
            raise SpecError(
                f"{text!r}: {name} has no argument {_clipped(key)!r}{_nearest(key, [p.name for p in accepted])}; it takes {takes}"
            )
        if key in bound:
            raise SpecError(f"{text!r}: {name} got {key!r} twice")
        bound[key] = value
    for parameter in accepted:
        if parameter.name in bound:
            bound[parameter.name] = _checked(bound[parameter.name], parameter, name, text)
        elif parameter.default is inspect.Parameter.empty:
            raise SpecError(f"{text!r}: {name} needs {parameter.name!r}; it takes {takes}")
    return factory(**bound)


def _checked(value: object, parameter: inspect.Parameter, name: str, text: str) -> object:
    """Scalars against their annotation, parts against the verb that makes them what they are; 1 is written for 1.0."""
    kind = parameter.annotation  # a string where annotations are postponed, the type itself where they are not
    wanted = kind.__name__ if isinstance(kind, type) else str(kind)
    scalar = _SCALARS.get(wanted.removesuffix(" | None"))
    verb = {"Verifier": "score", "Policy": "sample", "Strategy": "__call__"}.get(wanted.removesuffix(" | None"))
    missing = value is None and wanted.endswith("| None")
    wrong_scalar = scalar and (not isinstance(value, scalar) or (isinstance(value, bool) and bool not in scalar))
    if not missing and (wrong_scalar or (verb and not hasattr(value, verb))):
        raise SpecError(f"{text!r}: {name}({parameter.name}=...) must be {wanted}, not {_clipped(repr(value))}")
    if scalar == _SCALARS["float"] and isinstance(value, int):
        try:
            return float(value)
        except OverflowError:
            raise SpecError(f"{text!r}: {name}({parameter.name}=...) is too large for a float") from None
    return value


def _find(name: str, kind: Kind | None, text: str) -> Callable[..., object]:
    kinds = (kind,) if kind else KINDS[:3]
    for entry in (entry for each in kinds for entry in _entries(each)):
        if entry.name == name:
            try:
                factory: Callable[..., object] = entry.load()
            except (ImportError, AttributeError) as error:
                raise SetupError(f"{text!r}: {name!r} is registered as {entry.value}, which cannot be loaded: {error}") from error
            return factory
    known = [entry for each in kinds for entry in names(each)]
    what = {"strategies": "strategy", "verifiers": "verifier", "policies": "policy", "tasks": "task"}.get(kind or "", "name")
    raise SpecError(f"{text!r}: there is no {what} {_clipped(name)!r}{_nearest(name, known)}; there are {', '.join(known)}")


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@cache
def _entries(kind: Kind) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"ponder.{kind}"))
