"""Ponder: spend compute at test time, measure what it buys, and keep what it found.

    import ponder

    outcome = ponder.solve("best_of_n(n=16, verifier=confidence)", "chain 3+4*2", policy="lab")
    print(outcome.answer, outcome.spent)

`ponder.core` is the contract and the file to read first.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ponder.bank import MemoryTable, TableBank
    from ponder.core import Budget, Outcome, Policy, PolicyInfo, Sampling, Strategy, Until, Verifier
    from ponder.errors import BudgetExhausted, PonderError
    from ponder.facade import asolve, solve
    from ponder.run import Run
    from ponder.spec import named, parse
    from ponder.types import Chain, Message, Problem, Question, Score, Step, Usage, Verdict, user

__all__ = [
    "Budget",
    "BudgetExhausted",
    "Chain",
    "MemoryTable",
    "Message",
    "Outcome",
    "Policy",
    "PolicyInfo",
    "PonderError",
    "Problem",
    "Question",
    "Run",
    "Sampling",
    "Score",
    "Step",
    "Strategy",
    "TableBank",
    "Until",
    "Usage",
    "Verdict",
    "Verifier",
    "asolve",
    "named",
    "parse",
    "solve",
    "user",
]

_HOME = {
    "ponder.bank": ("MemoryTable", "TableBank"),
    "ponder.core": ("Budget", "Outcome", "Policy", "PolicyInfo", "Sampling", "Strategy", "Until", "Verifier"),
    "ponder.errors": ("BudgetExhausted", "PonderError"),
    "ponder.facade": ("asolve", "solve"),
    "ponder.run": ("Run",),
    "ponder.spec": ("named", "parse"),
    "ponder.types": ("Chain", "Message", "Problem", "Question", "Score", "Step", "Usage", "Verdict", "user"),
}

if (
    not TYPE_CHECKING
):  # names load with their first use: `import ponder` costs a millisecond, and type checkers still see them all

    def __getattr__(name: str) -> object:
        for module, names in _HOME.items():
            if name in names:
                value = globals()[name] = getattr(import_module(module), name)
                return value
        raise AttributeError(f"module 'ponder' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
