"""The part of the maths grader that runs inside a killable process: computer algebra on trees that our own grammar made.

The parent reads this file as text and sends it to the sandbox (`ponder.graders.maths`); nothing here is imported by it. Trees come as plain
values (kind, value, parts), so no text of a model's is parsed here, except by `latex`, which has math-verify's LaTeX grammar read
references beyond our own grammar. All limits of time and memory are the sandbox's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sympy import Expr

Tree = tuple[str, str, list["Tree"]]

POINTS = (
    ("7/5", "19/7"),
    ("13/11", "-31/13"),
    ("-5/3", "17/19"),
    ("23/6", "-3/7"),
    ("2/9", "29/8"),
    ("-41/17", "-11/4"),
    ("37/10", "1/3"),
)
BASE = "the base"  # of a logarithm that names none


def equal(left: Tree, right: Tree, digits: int) -> bool:
    """Whether two expressions have one value, to `digits` digits, wherever both are real (everywhere both are finite, if nowhere real).

    An absolute value on one side only is there to matter: then they must agree wherever both are finite (ln |x| is not ln x).
    Identity testing by evaluation at seven points. `digits` must exceed the size of what can be written with the trees (see
    `maths_tree.magnitude`), so that 1 + 10^-60 is not 1.
    """
    names = sorted(_names(left) | _names(right))
    real = finite = 0
    real_agree = agree = True
    for point in POINTS if names else POINTS[:1]:
        values = _assigned(names, point)
        x, y = _number(_build(left, values), digits), _number(_build(right, values), digits)
        if x is None or y is None:
            continue
        same = _is_zero((x - y) / max(1, abs(x.evalf(15)), abs(y.evalf(15))), digits)
        if x.is_real and y.is_real:
            real, real_agree = real + 1, real_agree and same
        finite, agree = finite + 1, agree and same
    if real >= (2 if names else 1) and _has_abs(left) == _has_abs(right):
        return real_agree
    return finite > 0 and agree


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
    ratios: list[Expr] = []
    for point in POINTS:
        values = _assigned(names, point)
        x, y = (_number(_build(one, values) if isinstance(one, tuple) else one.subs(values), digits) for one in trees)
        if x is not None and y is not None:
            if _is_zero(x, digits) or _is_zero(y, digits):
                return False
            ratios.append(x / y)
    if len(ratios) < 3 or (positive and not ratios[0].evalf(20) > 0):
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


def _assigned(names: list[str], point: tuple[str, str]) -> dict[str, Expr]:
    """A number for every variable, each its own, from the two that make a point."""
    from sympy import Rational

    first, second = (Rational(text) for text in point)
    return {name: first + second * at + Rational(at * at, 7) for at, name in enumerate(names)}


def _names(tree: Tree) -> set[str]:
    kind, value, parts = tree
    if kind == "sym":
        return set() if value in ("\\pi", "e", "i") else {value}
    return set().union(*map(_names, parts)) | ({BASE} if value == "log" and len(parts) == 1 else set())


def _has_abs(tree: Tree) -> bool:
    return tree[1] == "abs" or any(map(_has_abs, tree[2]))


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
