"""The part of the maths grader that runs inside a killable process: computer algebra on trees that our own grammar made.

The parent reads this file as text and sends it to the sandbox (`ponder.graders.maths`); nothing here is imported by it. Trees come as plain
values (kind, value, parts), so no text of a model's is parsed here, except by `latex`, which has math-verify's LaTeX grammar read
references beyond our own grammar. All limits of time and memory are the sandbox's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sympy import Expr

Tree = tuple[str, str, list["Tree"]]

POINTS = 9
RANGES = ((1, 2), (0, 1), (2, 5), (0, 1), (1, 4), (0, 1), (1, 3), (0, 2), (2, 4))  # of each point, sign aside
BASE = "the base"  # of a logarithm that names none


def equal(left: Tree, right: Tree, digits: int) -> bool:
    """Whether two expressions have one value, to `digits` digits, wherever both are real (everywhere both are finite, if that is seldom).

    An absolute value on one side only is there to matter: then they must agree wherever both are finite (ln |x| is not ln x).
    Identity testing by evaluation at points that nobody can foresee (`_points`), and where floors jump (`_corners`). One that has
    a value where the other has none is another. `digits` must exceed the size of what can be written with the trees (see
    `maths_tree.magnitude`), so that 1 + 10^-60 is not 1.
    """
    names = sorted(_names(left) | _names(right))
    points = _points(names, left, right)
    real = either = finite = 0
    real_agree = agree = True
    for values in points:
        x, y = _number(_build(left, values), digits), _number(_build(right, values), digits)
        if x is None or y is None:
            if x is not y:
                return False
            continue
        same = _agree(x, y, digits)
        if x.is_real and y.is_real:
            real, real_agree = real + 1, real_agree and same
        either += bool(x.is_real or y.is_real)
        finite, agree = finite + 1, agree and same
    both_real = real >= min(2, len(points)) and 2 * real > either and _has(left, "abs") == _has(right, "abs")
    if 2 * finite <= len(points) or not (real_agree if both_real else agree):
        return False
    return all(_same_corner(left, right, values, digits) for values in _corners(names, left, right))


def _same_corner(left: Tree, right: Tree, values: dict[str, Expr], digits: int) -> bool:
    """Whether two expressions agree at a single point; one that has no real value there may have a hole (x^2/x at 0)."""
    x, y = (_number(_build(tree, values), digits) for tree in (left, right))
    return x is None or y is None or not x.is_real or not y.is_real or _agree(x, y, digits)


def proportional(left: Tree, right: Tree, digits: int, positive: bool) -> bool:
    """Whether two expressions vanish together: one is a constant multiple (`positive`: greater than 0) of the other.

    Denominators are multiplied out first unless `positive`, since a factor that changes sign turns an inequality around.
    """
    from sympy import Symbol, fraction, together

    names = sorted(_names(left) | _names(right))
    trees: list[Expr | Tree] = [left, right]
    if not positive:
        letters = {name: Symbol(name) for name in names}
        trees = [fraction(together(_build(tree, letters)))[0] for tree in (left, right)]
    points = _points(names, left, right)
    ratios: list[Expr] = []
    for at, values in enumerate([*points, *_corners(names, left, right)]):
        x, y = (_number(_build(one, values) if isinstance(one, tuple) else one.subs(values), digits) for one in trees)
        zeros = [value is not None and _is_zero(value, digits) for value in (x, y)]
        if at < len(points) and ((x is None) != (y is None) or any(zeros)):
            return False
        if x is not None and y is not None:
            if zeros[0] != zeros[1]:
                return False
            ratios.extend(() if zeros[0] else (x / y,))
    if 2 * len(ratios) <= len(points) or (positive and not ratios[0].evalf(20) > 0):
        return False
    return all(_is_zero(ratio / ratios[0] - 1, digits - 10) for ratio in ratios)


def latex(left: str, right: str) -> bool:
    """What math-verify says of two LaTeX texts, both ways round: it is not symmetric. Its own timeouts are off, the sandbox kills."""
    from math_verify import LatexExtractionConfig, parse, verify

    rules = [LatexExtractionConfig()]  # never ExprExtractionConfig, which runs Python on the text
    gold, answer = (parse(f"${text}$", rules, fallback_mode="no_fallback", parsing_timeout=None) for text in (left, right))
    return bool(
        gold
        and answer
        and verify(gold, answer, float_rounding=15, timeout_seconds=None)
        and verify(answer, gold, float_rounding=15, timeout_seconds=None)
    )


def _number(expression: Expr, digits: int) -> Expr | None:
    """The value of a constant, None where it has none. What is real up to rounding is given as real."""
    value = expression.evalf(digits, maxn=2 * digits + 100)
    if not value.is_number or value.is_finite is False or value.has(*_infinities()):
        return None
    re, im = value.as_real_imag()
    return re if _is_zero(im, digits) else value


def _points(names: list[str], left: Tree, right: Tree) -> list[dict[str, Expr]]:
    """Numbers for all variables: `POINTS` times, from a hash of both trees (in no order), so that no answer can be made to fit them.

    The first five are positive, where logarithms and roots are real; some are below 1, where the arcsine is; of the others the first
    variable is negative twice, the rest as it falls. Denominators are odd and even, since odd roots of negative numbers are real.
    """
    from sympy import Rational

    draw = _draw(left, right)
    found = []
    for at in range(POINTS if names else 1):
        low, high = RANGES[at % len(RANGES)]
        values = {}
        for place, name in enumerate(names):
            under = (1009, 1024)[draw() % 2]
            value = low + (high - low) * Rational(draw() % 500 * 2 + 1, under)
            sign = -1 if at in (5, 6) and not place else (-1) ** (draw() % 2)
            values[name] = value if at < 5 else sign * value
        found.append(values)
    return found


def _corners(names: list[str], left: Tree, right: Tree) -> list[dict[str, Expr]]:
    """Where floors, ceilings and absolute values jump or turn: whole and half numbers, and where their arguments, if linear, are whole."""
    from sympy import Rational

    inside = [part for tree in (left, right) for part in _arguments(tree)]
    if not names or not inside:
        return []
    draw = _draw(left, right)
    start = draw() % 20 + 2
    found = [
        {name: Rational(twice, 2) + (draw() % 9 if place else 0) for place, name in enumerate(names)}
        for twice in (-2, -1, 0, 1, 2, 4, *range(2 * start, 2 * start + 5))
    ]
    for tree in inside[:8]:
        for name in sorted(_names(tree))[:3]:
            others = {other: Rational(draw() % 50 + 3) for other in names}
            zero, one = (_build(tree, {**others, name: Rational(x)}) for x in (0, 1))
            if zero.is_Rational and one.is_Rational and zero != one:
                found.extend({**others, name: (whole - zero) / (one - zero)} for whole in (0, 1, draw() % 50 + 2))
    return found


def _draw(left: Tree, right: Tree) -> Callable[[], int]:
    """Whole numbers from a hash of both trees: the same ones whichever comes first."""
    import hashlib
    from itertools import count

    seed = "|".join(sorted((repr(left), repr(right)))).encode()
    places = count()
    return lambda: int.from_bytes(hashlib.blake2b(seed, digest_size=8, salt=next(places).to_bytes(16, "big")).digest(), "big")


def _names(tree: Tree) -> set[str]:
    kind, value, parts = tree
    if kind == "sym":
        return set() if value in ("\\pi", "e", "i") else {value}
    return set().union(*map(_names, parts)) | ({BASE} if value == "log" and len(parts) == 1 else set())


def _has(tree: Tree, function: str) -> bool:
    return tree[1] == function or any(_has(part, function) for part in tree[2])


def _arguments(tree: Tree) -> list[Tree]:
    """What floors, ceilings and absolute values are taken of."""
    own = tree[2] if tree[0] == "fn" and tree[1] in ("floor", "ceiling", "abs") else []
    return [*own, *(one for part in tree[2] for one in _arguments(part))]


def _agree(x: Expr, y: Expr, digits: int) -> bool:
    return _is_zero((x - y) / max(1, abs(x.evalf(15)), abs(y.evalf(15))), digits)


def _is_zero(value: Expr, digits: int) -> bool:
    from sympy import Rational

    return bool(abs(value) < Rational(1, 10 ** max(8, digits - 15)))


def _infinities() -> tuple[Expr, ...]:
    import sympy

    return (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan)


def _build(tree: Tree, values: dict[str, Expr]) -> Expr:
    """The sympy expression of a tree, with what its variables are: numbers collapse as it is built. A root of odd order of a negative number is real, as at school."""
    import sympy

    kind, value, parts = tree
    if kind == "num":
        return sympy.Rational(value)
    if kind == "sym":
        return {"\\pi": sympy.pi, "e": sympy.E, "i": sympy.I}.get(value) or values[value]
    args = [_build(part, values) for part in parts]
    if kind == "add":
        return sympy.Add(*args)
    if kind == "mul":
        return sympy.Mul(*args)
    if kind == "pow":
        base, exponent = args
        if exponent.is_Rational and exponent.q % 2 and exponent.q > 1 and base.is_extended_negative:
            return (-1) ** exponent.p * (-base) ** exponent
        return base**exponent
    if value == "log":  # without a base: of a base that nobody wrote, so that log 100 is neither 2 nor ln 100
        base = args[1] if len(args) > 1 else abs(values[BASE])
        return sympy.log(args[0]) / sympy.log(base)
    names = {
        **dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "factorial", "binomial", "floor", "ceiling")),
        "arcsin": "asin", "arccos": "acos", "arctan": "atan", "ln": "log", "lg": "log", "abs": "Abs",
    }  # fmt: skip
    return getattr(sympy, names[value] or value)(*args)
