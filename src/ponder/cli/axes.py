"""The axes of a curve: what was spent per question, in the unit that is asked for.

Samples, tokens and seconds are counted as they were recorded. FLOPs are 2 N for each token read afresh, written or scored, with the N of
the policy, and money is at a price for a million tokens; both need facts of the policy that a study file does not hold. They come from the
policies the study names, where these say so without being opened, or from the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from ponder.cli.runner import parse_policy
from ponder.core import PolicyInfo, Price
from ponder.errors import PonderError, UsageError
from ponder.scaling import costs
from ponder.types import Usage

if TYPE_CHECKING:
    from ponder.cli.curve import Line

Axis: TypeAlias = Literal["samples", "tokens", "completion", "prompt", "flops", "money", "seconds"]
COUNTS = ("samples", "prompt", "cached", "completion", "scored", "calls", "seconds")
"""The columns of what was spent; all but the first are those of a `Usage`."""
LABELS: Mapping[Axis, str] = {
    "samples": "samples",
    "tokens": "tokens",
    "completion": "completion tokens",
    "prompt": "prompt tokens",
    "flops": "FLOPs",
    "money": "money",
    "seconds": "seconds",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """An axis with what it takes to convert to it where the policies do not say. parameters: active ones; price: per million tokens."""

    axis: Axis = "tokens"
    parameters: int | None = None
    price: Price | None = None

    @property
    def label(self) -> str:
        """What stands beside the axis."""
        return f"{LABELS[self.axis]} per question"


def price_of(text: str) -> Price:
    """A price from `PROMPT,COMPLETION` or `PROMPT,COMPLETION,CACHED`, each for a million tokens. Raises `UsageError`."""
    try:
        prompt, completion, *cached = [float(part) for part in text.split(",")]
        [rest] = cached or [prompt]
    except ValueError:
        raise UsageError(f"price {text!r}: give PROMPT,COMPLETION or PROMPT,COMPLETION,CACHED, such as 0.15,0.6") from None
    if not all(0 <= number < float("inf") for number in (prompt, completion, rest)):
        raise UsageError(f"price {text!r}: a price is finite and at least 0")
    return Price(prompt, rest, completion)


def counts(usage: Usage, samples: int) -> tuple[float, ...]:
    """What was spent, in the order of `COUNTS`."""
    return (float(samples), *map(float, astuple(usage)))


def tokens_of(spent_C: np.ndarray) -> np.ndarray:
    """Tokens as a budget counts them, over the last axis."""
    return cast("np.ndarray", spent_C[..., COUNTS.index("completion")] + spent_C[..., COUNTS.index("scored")])


def on_axis(lines: Sequence[Line], policies: Sequence[str], unit: Unit) -> list[Line]:
    """The curves with their cost on this axis. policies: specs of the study, asked for size and price.

    Raises `UsageError` where a policy's size or price is needed and not known.
    """
    if unit.axis == "tokens":
        return list(lines)
    known = _known(policies) if unit.axis in ("flops", "money") else {}
    return [replace(line, axis=unit.axis, cost_P_K=_cost(line, known.get(line.policy), unit)) for line in lines]


def _cost(line: Line, info: PolicyInfo | None, unit: Unit) -> np.ndarray:
    name = line.cell.split(" | ")[1] if " | " in line.cell else line.cell
    match unit.axis:
        case "flops":
            size = (info.parameters if info else None) or unit.parameters
            if not size:
                raise UsageError(f"axis flops: the size of {name} is not known here; give --parameters N, its active parameters")
            priced = PolicyInfo(name, line.policy, parameters=size)
            one = [costs.flops(priced, usage) for usage in _UNITS]
        case "money":
            price = (info.price if info else None) or unit.price
            if price is None:
                raise UsageError(f"axis money: the price of {name} is not known here; give --price PROMPT,COMPLETION")
            priced = PolicyInfo(name, line.policy, price=price)
            one = [costs.money(priced, usage) for usage in _UNITS]
        case axis:
            return line.spent_P_K_C[..., COUNTS.index(axis)]
    return cast("np.ndarray", line.spent_P_K_C[..., 1:] @ np.array(one))


_UNITS = tuple(Usage(**{name: 1}) for name in COUNTS[1:])  # both conversions are linear


def _known(policies: Sequence[str]) -> dict[str, PolicyInfo]:
    """What the study's policies say of themselves, by fingerprint; those that must be opened first say nothing."""
    found: dict[str, PolicyInfo] = {}
    for spec in policies:
        with suppress(PonderError, OSError):
            info = parse_policy(spec).info
            found[info.fingerprint] = info
    return found
