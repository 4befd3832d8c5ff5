"""Whether two answers are one: member by member by our rules, expressions by their normal forms, and open questions for the worker.

Three-valued: None means that a question is open. `Comparison` collects the open questions; asked again with their answers, it decides.
Symmetric: no rule looks at which of the two is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ponder.graders.maths_exact import MAX_STEPS, Budget, Sum, normal
from ponder.graders.maths_tokens import Refused
from ponder.graders.maths_tree import Node, add, bounded, magnitude, mul, negative, symbols

EXPRESSIONS = frozenset(("num", "sym", "add", "mul", "pow", "fn"))
MAX_QUESTIONS = 32


@dataclass(frozen=True, slots=True)
class Question:
    """What only computer algebra can tell: whether two expressions are equal, or vanish together (an equation, an inequality)."""

    kind: Literal["equal", "equation", "inequality"]
    left: Node
    right: Node

    @property
    def digits(self) -> int:
        """Decimal digits that tell all values apart which expressions of this size can have."""
        return 60 + math.ceil(magnitude(self.left) + magnitude(self.right))


@dataclass(slots=True)
class Comparison:
    """One comparison of two answers. known: what was found out about questions; open: questions that came up and are not known.

    budget: a reference's key took one answer's at most, so that as much is left for the answer.
    """

    known: dict[Question, bool] = field(default_factory=dict)
    open: dict[Question, None] = field(default_factory=dict)
    forms: dict[Node, Sum] = field(default_factory=dict)
    budget: Budget = field(default_factory=lambda: Budget(2 * MAX_STEPS))

    def same(self, a: Node, b: Node) -> bool | None:
        """Whether the answers are one. Raises `Refused` for a division by zero, and for more questions than `MAX_QUESTIONS`."""
        for wrapper, rule in _WRAPPERS:
            if wrapper in (a.kind, b.kind):
                return rule(self, a, b)
        if a.kind in EXPRESSIONS and b.kind in EXPRESSIONS:
            return self.equal(a, b)
        if a.kind != b.kind or a.value != b.value or (len(a.args) != len(b.args) and a.kind != "union"):
            return False
        if a.kind == "union":
            return self.members(a, b)
        if a.kind == "relation":
            return self.vanish_together("inequality", a.args[0], b.args[0])
        return _all(self.same(x, y) for x, y in zip(a.args, b.args, strict=True))

    def named(self, a: Node, b: Node) -> bool | None:
        """A name may be left out; two names must be one, unless what they name depends on a variable: then both are equations."""
        if a.kind != "named" or b.kind != "named":
            name, other = (a, b) if a.kind == "named" else (b, a)
            if other.kind == "chain" and _depends(other):
                return self.equations(name, other) if _depends(name.args[0]) else False
            return self.same(name.args[0], other)
        if a.value == b.value:
            return self.same(a.args[0], b.args[0])
        return self.equations(a, b) if _depends(a.args[0]) and _depends(b.args[0]) else False

    def assigned(self, a: Node, b: Node) -> bool | None:
        """Values by name; a tuple gives them in the order of the names."""
        values, other = (a, b) if a.kind == "assign" else (b, a)
        if other.kind == "tuple" and len(values.args) == len(other.args):
            return _all(self.same(x.args[0], y) for x, y in zip(values.args, other.args, strict=True))
        if other.kind != "assign" or [x.value for x in a.args] != [y.value for y in b.args]:
            return False
        return _all(self.same(x, y) for x, y in zip(a.args, b.args, strict=True))

    def chained(self, a: Node, b: Node) -> bool | None:
        """Every member of a chain must be the other answer; two chains that depend on variables are equations."""
        if a.kind == b.kind == "chain" and len(a.args) == len(b.args) == 2 and _depends(a) and _depends(b):
            return self.equations(a, b)
        left, right = (one.args if one.kind == "chain" else (one,) for one in (a, b))
        return _all(self.same(x, y) for x in left for y in right)

    def measured(self, a: Node, b: Node) -> bool | None:
        """A unit may be left out; two must measure the same, and convert."""
        if a.kind != "unit" or b.kind != "unit":
            return self.same(a.args[1] if a.kind == "unit" else a, b.args[1] if b.kind == "unit" else b)
        if a.value != b.value:
            return False
        if a.args[0] == b.args[0]:
            return self.same(a.args[1], b.args[1])
        if a.args[1].kind not in EXPRESSIONS or b.args[1].kind not in EXPRESSIONS:
            return False
        return self.same(mul(*a.args), mul(*b.args))

    def members(self, a: Node, b: Node) -> bool | None:
        """As sets: each member of one is a member of the other. What is no set is the set of itself."""
        left, right = (one.args if one.kind in ("set", "union") else (one,) for one in (a, b))
        return _all(_any(self.same(x, y) for y in those) for these, those in ((left, right), (right, left)) for x in these)

    def equations(self, a: Node, b: Node) -> bool | None:
        """The same up to a factor, when all is brought to one side."""
        left, right = (_one_side(one) for one in (a, b))
        return False if left is None or right is None else self.vanish_together("equation", left, right)

    def equal(self, a: Node, b: Node) -> bool | None:
        """By normal forms; open where these cannot tell."""
        left, right = self.form(a), self.form(b)
        if left.key == right.key:
            return True
        if (left.plain and right.plain) or "\\infty" in left.key + right.key:
            return False
        return self.ask(Question("equal", a, b))

    def vanish_together(self, kind: Literal["equation", "inequality"], a: Node, b: Node) -> bool | None:
        """By normal forms scaled to one leading coefficient; open where these are no polynomials."""
        left, right = self.form(a), self.form(b)
        if _scaled(left, kind, self.budget) == _scaled(right, kind, self.budget):
            return True
        if _is_polynomial(left) and _is_polynomial(right):
            return False
        return self.ask(Question(kind, a, b))

    def form(self, node: Node) -> Sum:
        """The normal form, kept for members that are compared with many."""
        if node not in self.forms:
            self.forms[node] = normal(node, self.budget)
        return self.forms[node]

    def ask(self, question: Question) -> bool | None:
        """What is known of a question. Raises `Refused("too_long")` for one too many."""
        turned = Question(question.kind, question.right, question.left)
        for one in (question, turned):
            if one in self.known:
                return self.known[one]
        if turned not in self.open:
            self.open[question] = None
        if len(self.open) > MAX_QUESTIONS:
            raise Refused("too_long")
        return None


# What stands around values, from the outside in.
_WRAPPERS = (
    ("assign", Comparison.assigned),
    ("named", Comparison.named),
    ("chain", Comparison.chained),
    ("set", Comparison.members),
    ("unit", Comparison.measured),
)


def key(node: Node, budget: Budget | None = None) -> str:
    """One spelling of an answer for votes: units and names dropped, sets sorted, expressions in normal form. Raises `Refused` as `normal` does."""
    budget = Budget() if budget is None else budget
    if node.kind in EXPRESSIONS:
        return normal(node, budget).key
    if node.kind in ("named", "unit"):
        return key(node.args[-1], budget)
    if node.kind == "chain":
        members = [key(part, budget) for part in node.args]
        return members[0] if len(set(members)) == 1 else "=".join(members)
    parts = [f"{part.value}={key(part, budget)}" if node.kind == "assign" else key(part, budget) for part in node.args]
    if node.kind in ("set", "union"):
        parts = sorted(set(parts))
        if len(parts) < 2:
            return parts[0] if parts else "\\emptyset"
        return "\\{" + ",".join(parts) + "\\}" if node.kind == "set" else "\\cup".join(parts)
    if node.kind == "tuple":
        return node.value[0] + ",".join(parts) + node.value[1]
    if node.kind == "relation":
        return f"{_scaled(normal(node.args[0], budget), 'inequality', budget)}{node.value}0"
    if node.kind == "matrix":
        width = int(node.value.partition("x")[2])
        rows = ["&".join(parts[at : at + width]) for at in range(0, len(parts), width)]
        return "\\begin{pmatrix}" + "\\\\".join(rows) + "\\end{pmatrix}"
    if node.kind == "assign":
        return ",".join(parts)
    return ":".join(parts) if node.kind == "colon" else node.value


def _all(found: Iterable[bool | None]) -> bool | None:
    result: bool | None = True
    for one in found:
        if one is False:
            return False
        result = None if one is None else result
    return result


def _any(found: Iterable[bool | None]) -> bool | None:
    result: bool | None = False
    for one in found:
        if one is True:
            return True
        result = None if one is None else result
    return result


def _depends(node: Node) -> bool:
    return bool(symbols(node))


def _one_side(node: Node) -> Node | None:
    """Left minus right of an equation; None where its sides are no expressions."""
    left = Node("sym", node.value) if node.kind == "named" else node.args[0]
    right = node.args[0] if node.kind == "named" else node.args[1]
    right = right.args[0] if right.kind == "chain" else right
    return add(left, negative(right)) if left.kind in EXPRESSIONS and right.kind in EXPRESSIONS else None


def _scaled(form: Sum, kind: str, budget: Budget) -> str:
    if not form.terms:
        return "0"
    lead = form.terms[min(form.terms)]
    scale = 1 / (abs(lead) if kind == "inequality" else lead)
    for value in form.terms.values():
        budget.take_arithmetic(scale, value)
    return Sum({product: bounded(value * scale) for product, value in form.terms.items()}, form.plain).key


def _is_polynomial(form: Sum) -> bool:
    return form.plain and all(
        atom.isdigit() or (power.denominator == 1 and power > 0) for product in form.terms for atom, power in product
    )
