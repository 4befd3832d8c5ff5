"""The axes of a curve: what was spent per question, in the unit that is asked for.

Samples, tokens and seconds are counted as they were recorded. FLOPs are 2 N for each token read afresh, written or scored, with the N of
whoever did it: the policy, or the reward model that reads. Attention adds what grows with the square of a text's length, and needs the shape of
the cache. Money is at a price for a million tokens. Facts of the models come from those that the study names, where they say so without being
opened, or from the command line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np

from ponder.cli.runner import parse_policy, parse_strategy
from ponder.core import PolicyInfo, Price, parts
from ponder.errors import PonderError, UsageError
from ponder.scaling import costs
from ponder.types import Usage

if TYPE_CHECKING:
    from ponder.cli.curve import Line
    from ponder.core import Policy
    from ponder.store.records import EventRecord
    from ponder.verifiers.reward_model import RewardModel

Axis: TypeAlias = Literal["samples", "tokens", "completion", "prompt", "flops", "attention", "money", "seconds"]
USAGE = tuple(field.name for field in fields(Usage))
COUNTS = ("samples", *USAGE, "attended", "read", "read_attended")
"""The columns of what was spent: samples, those of a `Usage`, and, so that every conversion is linear, of policies the sum over calls of the
squared length of a text less that of its cached part; of reward models the positions they worked on, and the same squares."""
LABELS: Mapping[Axis, str] = {
    "samples": "samples",
    "tokens": "tokens",
    "completion": "completion tokens",
    "prompt": "prompt tokens",
    "flops": "FLOPs",
    "attention": "FLOPs with attention",
    "money": "money",
    "seconds": "seconds",
}
SUFFIXES: Mapping[str, int] = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
COUNTED: Mapping[Axis, str] = {
    "flops": "FLOPs per question (2 N a token, attention left out)",
    "attention": "FLOPs per question with attention (2 N a token, and 2 r D a token attended to)",
}


@dataclass(frozen=True, slots=True)
class Unit:
    """An axis with what it takes to convert to it where models do not say: active parameters of policy and verifier, price per million tokens.

    Raises `UsageError` for less than one parameter.
    """

    axis: Axis = "tokens"
    parameters: int | None = None
    price: Price | None = None
    verifier_parameters: int | None = None

    def __post_init__(self) -> None:
        for name, size in (("--parameters", self.parameters), ("--verifier-parameters", self.verifier_parameters)):
            if size is not None and not 1 <= size <= 10**18:
                raise UsageError(f"{name} {size}: a model has 1 to 10^18 active parameters")

    @property
    def label(self) -> str:
        """What stands beside the axis."""
        return COUNTED.get(self.axis, f"{LABELS[self.axis]} per question")


def size_of(option: str, text: str | None) -> int | None:
    """Active parameters from `7000000000`, `7e9`, `7B` or `500M`; None for none. option: whose value it is. Raises `UsageError`."""
    if text is None:
        return None
    found = re.fullmatch(r"([+-]?[0-9_]+(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,2})?)([KMBT]?)", text.strip(), re.IGNORECASE)
    try:
        size = Decimal(found[1]) * SUFFIXES[found[2].upper()] if found else Decimal("nan")
    except InvalidOperation:
        size = Decimal("nan")
    if size != size.to_integral_value():  # nan is not equal to itself
        raise UsageError(f"{option} {text!r}: give a whole number of parameters, such as 7000000000, 7e9, 7B or 500M")
    return int(size)


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


def counts(usage: Usage, samples: int, *, reading: bool = False) -> tuple[float, ...]:
    """What one call spent, in the order of `COUNTS`. reading: it was a reward model's."""
    return (float(samples), *map(float, astuple(usage)), *_long(usage, 1, reading=reading))


def walked(events: Sequence[EventRecord]) -> list[tuple[float, ...]]:
    """What a run had spent after each event, in the order of `COUNTS`; the calls of one event count as equally long, which is the least it may be."""
    found: list[tuple[float, ...]] = []
    before, long = Usage(), (0.0, 0.0, 0.0)
    for event in events:
        spent = Usage(*(after - earlier for after, earlier in zip(astuple(event.usage), astuple(before), strict=True)))
        more = _long(spent, max(1, spent.calls), reading=event.kind == "score")
        before, long = event.usage, cast("tuple[float, float, float]", tuple(a + b for a, b in zip(long, more, strict=True)))
        found.append((float(event.samples), *map(float, astuple(event.usage)), *long))
    return found


def _long(usage: Usage, calls: int, *, reading: bool) -> tuple[float, float, float]:
    whole = float(usage.prompt + usage.completion + usage.scored)
    squares = (whole**2 - float(usage.cached) ** 2) / calls
    return (0.0, whole - usage.cached, squares) if reading else (squares, 0.0, 0.0)


def tokens_of(spent_C: np.ndarray) -> np.ndarray:
    """Tokens as a budget counts them, over the last axis."""
    return cast("np.ndarray", spent_C[..., COUNTS.index("completion")] + spent_C[..., COUNTS.index("scored")])


def on_axis(lines: Sequence[Line], policies: Sequence[str], unit: Unit, notes: list[str] | None = None) -> list[Line]:
    """The curves with their cost on this axis. policies: specs of the study, asked for size and price; notes: told what had to be assumed.

    Raises `UsageError` where a policy's size, cache or price is needed and not known.
    """
    if unit.axis == "tokens":
        return list(lines)
    known = _known(policies) if unit.axis in COUNTED or unit.axis == "money" else {}
    told: list[str] = [] if notes is None else notes
    return [replace(line, axis=unit.axis, cost_P_K=_cost(line, known.get(line.policy), unit, told)) for line in lines]


def _cost(line: Line, info: PolicyInfo | None, unit: Unit, notes: list[str]) -> np.ndarray:
    name = line.cell.split(" | ")[1] if " | " in line.cell else line.cell
    match unit.axis:
        case "flops" | "attention":
            return cast("np.ndarray", line.spent_P_K_C @ _flops(line, name, info, unit, notes))
        case "money":
            price = (info.price if info else None) or unit.price
            if price is None:
                raise UsageError(f"axis money: the price of {name} is not known here; give --price PROMPT,COMPLETION")
            priced = PolicyInfo(name, line.policy, price=price)
            one = [costs.money(priced, usage) for usage in _UNITS]
        case axis:
            return line.spent_P_K_C[..., COUNTS.index(axis)]
    return cast("np.ndarray", line.spent_P_K_C[..., 1 : 1 + len(USAGE)] @ np.array(one))


def _flops(line: Line, name: str, info: PolicyInfo | None, unit: Unit, notes: list[str]) -> np.ndarray:
    """FLOPs of one of each of `COUNTS`."""
    size, attention = (info.parameters if info else None) or unit.parameters, unit.axis == "attention"
    if not size:
        raise UsageError(
            f"axis {unit.axis}: the size of {name} is not known here; give --parameters N, its active parameters, such as 7B"
        )
    policy = PolicyInfo(name, line.policy, parameters=size, kv=info.kv if info else None)
    reader, others = _inside(line)
    if others:
        notes.append(f"{line.strategy}: what its own policies write is counted at the size of {name}")
    reads = bool(line.spent_P_K_C[..., COUNTS.index("read")].any())
    if reader is None and unit.verifier_parameters:
        reader = PolicyInfo("its verifier", "", parameters=unit.verifier_parameters)
    if reads and reader is None:
        notes.append(
            f"{line.strategy}: the size of its verifier is not known here and taken for that of {name}; give --verifier-parameters N"
        )
    reader = reader or policy
    if attention and (policy.kv is None or (reads and reader.kv is None)):
        raise UsageError(
            f"axis attention: what the cache of {policy.name if policy.kv is None else reader.name} looks like is not known here, and attention "
            "needs it; give --axis flops, which leaves attention out"
        )
    one = dict.fromkeys(COUNTS, 0.0) | dict(zip(USAGE, (costs.flops(policy, usage) for usage in _UNITS), strict=True))
    one["read"] = 2.0 * ((reader.parameters or 0) - size)
    if attention:
        one["attended"], one["read_attended"] = _squared(policy), _squared(reader) if reads else 0.0
    return np.array([one[key] for key in COUNTS])


def _squared(info: PolicyInfo) -> float:
    """FLOPs of attention for each unit of squared length."""
    return costs.attended_flops(info, 0, 1) - costs.flops(info, Usage(completion=1))


def _inside(line: Line) -> tuple[PolicyInfo | None, bool]:
    """The model that reads for the verifiers of a strategy, where there is one that says its size; and whether other policies write in it."""
    readers: list[PolicyInfo | None] = []
    others = False
    for part in parts(parse_strategy(line.spec)) if line.spec else []:
        with suppress(PonderError, OSError):
            if hasattr(type(part), "reader"):
                readers.append(None)
                readers[-1] = cast("RewardModel", part).reader
            if hasattr(part, "sample"):
                others = True
                others = cast("Policy", part).info.fingerprint != line.policy
    sizes = {(one.parameters, one.kv) if one else None for one in readers}
    return readers[0] if len(sizes) == 1 else None, others


_UNITS = tuple(Usage(**{name: 1}) for name in USAGE)  # both conversions are linear


def _known(policies: Sequence[str]) -> dict[str, PolicyInfo]:
    """What the study's policies say of themselves, by fingerprint; those that must be opened first say nothing."""
    found: dict[str, PolicyInfo] = {}
    for spec in policies:
        with suppress(PonderError, OSError):
            info = parse_policy(spec).info
            found[info.fingerprint] = info
    return found
