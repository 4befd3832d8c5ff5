"""Which strategy answers a request, under which budget: served names, specs of callers, reasoning effort.

`qwen` is the upstream model as it is, `qwen+best_of_n-16` a named strategy on it, `auto` a policy card. A caller may also write a spec,
made of registered strategies, numbers, and the verifiers that the operator named: nothing in it can be a policy, a path or an address.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from ponder import spec
from ponder.core import Budget, Strategy, Verifier
from ponder.errors import SpecError, UsageError
from ponder.server.config import Config
from ponder.server.refusal import Refusal
from ponder.server.schema import Effort, Spend
from ponder.strategies.auto import Auto
from ponder.strategies.sample import Sample

N = TypeVar("N", int, float)

_LARGEST = 4096  # a number in a caller's spec
_WORD = re.compile(r"[a-z][a-z_]{0,39}")
_OF_CARD: Mapping[Effort, float] = {"none": 0.0, "minimal": 0.0, "low": 0.0, "medium": 0.5, "high": 1.0, "xhigh": 1.0}
_SHUT_ARGUMENTS = {"prompt", "policy"}  # a prompt may be a path


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is answered. name: the strategy's, for metrics; shown: to the caller, who learns no address or path from it.

    spec: the strategy's own, for fingerprints. single: one sample, as the engine gives it.
    """

    name: str
    shown: str
    strategy: Strategy
    budget: Budget
    spec: str
    single: bool


def _plan(name: str, shown: str, strategy: Strategy, budget: Budget) -> Plan:
    return Plan(name, shown, strategy, budget, repr(strategy), isinstance(strategy, Sample))


class Models:
    """What is served on one upstream model."""

    def __init__(self, upstream: str, config: Config) -> None:
        self.upstream, self.effort = upstream, config.effort
        self._by_card = "effort" not in config.model_fields_set
        self.strategies: dict[str, Strategy] = {"sample": Sample()}
        self.verifiers = {name: cast("Verifier", spec.parse(text, "verifiers")) for name, text in config.verifiers.items()}
        for name, text in config.strategies.items():
            self.strategies[name] = cast("Strategy", spec.parse(text, "strategies", given=self.verifiers))
        if config.card is not None:
            self.strategies["auto"] = cast(
                "Strategy", spec.parse(f"auto(card={config.card!r}, any_policy={config.any_policy})", "strategies")
            )
        self._plans: dict[str, Plan] = {}
        self._thorough = "auto" if config.card is not None else next(iter(config.strategies), None)

    @property
    def names(self) -> list[str]:
        """The names of models: the upstream's own, each strategy on it, `auto`."""
        own = [f"{self.upstream}+{name}" for name in self.strategies if name not in ("sample", "auto")]
        return [self.upstream, *own, *(["auto"] if "auto" in self.strategies else [])]

    def plan_of(self, model: str) -> Plan:
        """The plan of a model's name alone, made once. Raises `Refusal`."""
        found = self._plans.get(model)
        if found is None:
            found = self._plans[model] = self.plan(model, None, None, None)
        return found

    def plan(self, model: str, asked: str | None, spend: Spend | None, effort: Effort | None) -> Plan:
        """The strategy by the body's `ponder.strategy`, else by the model's name, else by effort; the budget of both. Raises `Refusal`."""
        name = shown = self._named(model)
        if asked is not None:
            shown = asked
            name, strategy = self._asked(asked)
        else:
            if name == "sample" and effort not in (None, "none", "minimal") and self._thorough:
                name = shown = self._thorough
            strategy = self.strategies[name]
        budget = Budget(**spend.model_dump()) if spend else Budget()
        if effort is not None and self._by_card and isinstance(strategy, Auto):
            return _plan(name, shown, _at_effort(strategy, effort, budget.tokens), budget)
        if effort in self.effort and not isinstance(strategy, Sample):
            budget = tighter(budget, self.effort[effort])
        return _plan(name, shown, strategy, budget)

    def _named(self, model: str) -> str:
        if model == self.upstream:
            return "sample"
        if model == "auto" and "auto" in self.strategies:
            return "auto"
        name = model.removeprefix(f"{self.upstream}+")
        if name != model and name in self.strategies:
            return name
        raise Refusal(
            404, f"there is no model {model[:100]!r}; there are {', '.join(self.names)}", code="model_not_found", param="model"
        )

    def _asked(self, text: str) -> tuple[str, Strategy]:
        if text in self.strategies:
            return text, self.strategies[text]
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            check_spec(tree, self.verifiers)
            strategy = cast("Strategy", spec.parse(text, "strategies", given=self.verifiers))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            known = ", ".join(self.strategies)
            why = (
                str(error)
                if isinstance(error, UsageError)
                else f"{text[:100]!r} is no strategy; there are {known}, or a spec such as self_consistency(n=16)"
            )
            raise Refusal(400, why, code="invalid_strategy", param="ponder.strategy") from None
        return getattr(strategy, "__spec__", "strategy"), strategy


def check_spec(tree: ast.expr, verifiers: Mapping[str, Verifier]) -> None:
    """Raise `SpecError` unless a caller's spec holds nothing but registered strategies, numbers, plain words and the operator's verifiers."""
    allowed = set(spec.names("strategies")) - {"auto"}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name), args=args):
                if any(isinstance(value, ast.Constant) and isinstance(value.value, str) for value in args):
                    raise SpecError(f'{name[:100]}: write what a word is for, such as final="max"')
                if name not in allowed:
                    raise SpecError(f"{name[:100]!r} cannot be called here; strategies are {', '.join(sorted(allowed))}")
            case ast.Name(id=name):
                if name not in allowed and name not in verifiers:
                    named = ", ".join(sorted(verifiers)) or "none"
                    raise SpecError(
                        f"{name[:100]!r} is neither a strategy nor a verifier of this server ({named}); its operator names verifiers under [verifiers] of --config"
                    )
            case ast.keyword(arg=name):
                if name is None:
                    raise SpecError("** has no meaning in a spec")
                if name in _SHUT_ARGUMENTS:
                    raise SpecError(f"{name!r} is decided by this server's operator")
            case ast.Constant(value=bool() | None):
                pass
            case ast.Constant(value=int() | float() as value):
                if not abs(value) <= _LARGEST:
                    raise SpecError(f"{value!r} is too large; at most {_LARGEST}")
            case ast.Constant(value=str() as value):
                if not _WORD.fullmatch(value):
                    raise SpecError(f"{value[:100]!r}: a text in a spec must be one word of lower-case letters here")
            case ast.UnaryOp(op=ast.USub()) | ast.USub() | ast.Load():
                pass
            case _:
                raise SpecError("a spec holds names with arguments, numbers and words, nothing else")


def _at_effort(strategy: Auto, effort: Effort, tokens: int | None) -> Auto:
    """A card's strategy under the smallest, the middle or the largest of its budgets, none above `tokens` where there is one within."""
    budgets = strategy.plan.budgets
    wanted = budgets[int(_OF_CARD[effort] * (len(budgets) - 1))]
    return strategy.within(wanted if tokens is None else min(wanted, tokens))


def tighter(first: Budget, second: Budget) -> Budget:
    """The smaller bound of each unit."""
    if first.seconds is None and not first.counted:
        return second
    return Budget(
        _least(first.samples, second.samples),
        _least(first.tokens, second.tokens),
        _least(first.calls, second.calls),
        _least(first.seconds, second.seconds),
        _least(first.money, second.money),
    )


def served_name(text: str, taken: Iterable[str]) -> str:
    """The name that `--strategy SPEC` is served under: best_of_n(n=16, ...) is best_of_n-16. Raises `UsageError` if it is taken."""
    made = spec.parse(text, "strategies")
    n = getattr(made, "n", None)
    name = f"{getattr(made, '__spec__', 'strategy')}{f'-{n}' if isinstance(n, int) else ''}"
    if name in set(taken):
        raise UsageError(f'serve: two strategies would be called {name!r}; give them names in a file: [strategies] name = "spec"')
    return name


def _least(a: N | None, b: N | None) -> N | None:
    return a if b is None else b if a is None else min(a, b)
