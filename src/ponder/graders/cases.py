"""Asserts that need no program to decide them: a call with plain values, and a comparison that is made here, outside.

    assert candidate([3, 1, 2]) == [1, 2, 3]            Case(call, "==", [1, 2, 3])
    assert not candidate("<<>")                         Case(call, "false")
    assert abs(candidate(1.33) - 0.33) < 1e-6           Case(call, "near", 0.33, within=1e-6)

Only tests of a data set are read here, never a model's text. Nothing is evaluated but literals and arithmetic between them, within bounds.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Number
from typing import Literal, TypeAlias

from ponder.sandbox.core import Call, Handle, Value

Relation: TypeAlias = Literal["==", "is", "true", "false", "near"]


@dataclass(frozen=True, slots=True)
class Case:
    """One assert. line: in its source, from 1. within: of `near`, exclusive. inclusive: `<=` instead."""

    line: int
    call: Call
    relation: Relation
    expected: Value = None
    within: float = 0.0
    inclusive: bool = False

    def holds(self, found: Value | Handle) -> bool:
        """Whether what the call gave is right, as Python compares: 1 == 1.0 == True, (1,) != [1], and a handle equals nothing."""
        try:
            return self._holds(found)
        except (
            TypeError,
            ArithmeticError,
            RecursionError,
        ):  # values that cannot be compared, such as an integer beyond all floats
            return False

    def _holds(self, found: Value | Handle) -> bool:
        if self.relation in ("true", "false"):
            return bool(found) is (self.relation == "true")  # a handle is true, as objects are
        if self.relation == "is":
            return type(found) is type(self.expected) and found == self.expected
        if self.relation == "==":
            return bool(self.expected == found)
        if not isinstance(found, Number):
            return False
        distance = abs(found - self.expected)  # type: ignore[operator]  # numbers, both
        return bool(distance <= self.within if self.inclusive else distance < self.within)


def cases(source: str, names: dict[str, str]) -> tuple[Case, ...] | None:
    """The asserts of a test as cases; None where one of its statements is anything else, so that the test has to be run.

    Args:
        source: asserts at the top level, or in one function `check(candidate)`, as HumanEval has it.
        names: what the tests call, and the program's function that it stands for.
    """
    try:
        body = ast.parse(source).body
        functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
        if len(functions) == 1:
            rest = [node for node in body if node is not functions[0]]
            if not all(_idle(node) or isinstance(node, ast.Assign) or _runs_check(node) for node in rest):
                return None
            body = functions[0].body
        return tuple(case for node in body for case in _case(node, names))
    except (_NotPlainError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        return None


class _NotPlainError(Exception):
    pass


def _idle(node: ast.stmt) -> bool:
    """Statements that can neither fail nor change anything: `pass`, strings, a name alone (HumanEval/129 has `print`)."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Name))


def _runs_check(node: ast.stmt) -> bool:
    return ast.unparse(node) == "check(candidate)"


def _case(node: ast.stmt, names: dict[str, str]) -> Iterator[Case]:
    if _idle(node):
        return
    if not isinstance(node, ast.Assert):
        raise _NotPlainError
    match node.test:
        case ast.Constant(value=True):
            return
        case ast.Call():
            yield Case(node.lineno, _call(node.test, names), "true")
        case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as asked):
            yield Case(node.lineno, _call(asked, names), "false")
        case ast.Compare(left=left, ops=[ast.Lt() | ast.LtE() as op], comparators=[bound]):
            call, center = _near(left, names)
            yield Case(node.lineno, call, "near", center, _real(literal(bound)), isinstance(op, ast.LtE))
        case ast.Compare(left=ast.Call() as asked, ops=[ast.Eq()], comparators=[right]) if _ours(asked, names):
            yield Case(node.lineno, _call(asked, names), "==", literal(right))
        case ast.Compare(left=left, ops=[ast.Eq()], comparators=[ast.Call() as asked]):
            yield Case(node.lineno, _call(asked, names), "==", literal(left))
        case ast.Compare(
            left=ast.Call() as asked, ops=[ast.Is()], comparators=[ast.Constant(value=None | True | False as value)]
        ):
            yield Case(node.lineno, _call(asked, names), "is", value)
        case _:
            raise _NotPlainError


def _near(node: ast.expr, names: dict[str, str]) -> tuple[Call, Value]:
    """`abs(f(x) - c)`, or `abs(c - f(x))`."""
    match node:
        case ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]):
            swapped = not _ours(left, names)
            call, center = (right, left) if swapped else (left, right)
            return _call(call, names), _real(literal(center))
        case _:
            raise _NotPlainError


def _real(value: Value) -> float:
    if not isinstance(value, int | float):
        raise _NotPlainError
    return value


def _ours(node: ast.expr, names: dict[str, str]) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def _call(node: ast.expr, names: dict[str, str]) -> Call:
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in names:
            given = {keyword.arg: literal(keyword.value) for keyword in keywords if keyword.arg}
            if len(given) < len(keywords):
                raise _NotPlainError
            return Call(names[name], tuple(literal(arg) for arg in args), given)
        case _:
            raise _NotPlainError


_ARITHMETIC: dict[type[ast.operator], Callable[..., Value]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_LARGEST_POWER = 1000  # beyond it the test is run instead


def literal(node: ast.expr) -> Value:
    """The value of a literal, or of arithmetic between literals. Raises `_NotPlainError` for anything else."""
    match node:
        case ast.Constant(value=value) if value is not Ellipsis:
            return value
        case ast.List(elts=items):
            return [literal(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(literal(item) for item in items)
        case ast.Set(elts=items):
            return {literal(item) for item in items}
        case ast.Dict(keys=keys, values=values):
            return {literal(_given(key)): literal(value) for key, value in zip(keys, values, strict=True)}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as op, operand=operand):
            number = literal(operand)
            if not isinstance(number, int | float | complex):
                raise _NotPlainError
            return -number if isinstance(op, ast.USub) else +number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _computed(literal(left), op, literal(right))
        case _:
            raise _NotPlainError


def _given(key: ast.expr | None) -> ast.expr:
    if key is None:  # {**other}
        raise _NotPlainError
    return key


def _computed(left: Value, op: ast.operator, right: Value) -> Value:
    if isinstance(op, ast.Pow) and not (
        isinstance(left, int | float) and isinstance(right, int) and abs(right) <= _LARGEST_POWER
    ):
        raise _NotPlainError
    if isinstance(op, ast.Mult) and not all(isinstance(factor, int | float | complex) for factor in (left, right)):
        raise _NotPlainError  # a text or a list, repeated
    try:
        return _ARITHMETIC[type(op)](left, right)
    except ArithmeticError:
        raise _NotPlainError from None
