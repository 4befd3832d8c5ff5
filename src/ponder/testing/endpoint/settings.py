"""All that can be set on a fake endpoint, at the start or while it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypedDict

from ponder.testing.endpoint.dialects import VLLM, Dialect, dialect_from_fields, find_dialect
from ponder.testing.endpoint.faults import Fault, FaultKind


class Changes(TypedDict, total=False):
    """Settings by name, for `FakeEndpoint` and its `configure`; what each means is said in `Settings`."""

    dialect: Dialect | str
    latency: float
    token_latency: float
    rate_limit: float | None
    burst: float | None
    max_live: int | None
    key: str | None
    models: Sequence[str]
    context: int
    correct: float
    separator: str
    slips: float
    weights: int
    faults: Sequence[Fault]
    fault_seed: int
    log: int


@dataclass(frozen=True, slots=True)
class Settings:
    r"""All that can be set on a fake endpoint.

    Attributes:
        dialect: What kind of server it plays.
        latency: Seconds from the request to the first byte.
        token_latency: Seconds per token: between the events of a stream, before a whole reply times its longest choice.
        rate_limit: Requests per second; more gives 429 with retry-after-ms and Retry-After. None: no limit.
        burst: How many requests the limit lets through at once; None: a second's worth, at least one.
        max_live: Requests in service at once; more gives 429 without a Retry-After. None: no limit.
        key: The API key that /v1 asks for; None: any or none.
        models: Names of the models it serves; another name gives 404.
        context: Length of the context in tokens; a longer prompt gives 400.
        correct: Probability that a reply holds the correct answer, in [0, 1].
        slips: Probability that a reasoning line is off by one, in [0, 1], in steps of 1/256; a reply with such a line is never correct, so that
            a whole one is with probability correct * mean of (1 - slips)^k over k = 1..4.
        separator: What joins the lines of a reply, "\n" or "\n\n".
        weights: Which model answers: another number stands for other weights behind the same name.
        faults: The fault script.
        fault_seed: Seed of the faults that happen by chance.
        log: How many requests the log keeps, the latest ones; 0 keeps counters only.
    """

    dialect: Dialect = VLLM
    latency: float = 0.0
    token_latency: float = 0.0
    rate_limit: float | None = None
    burst: float | None = None
    max_live: int | None = None
    key: str | None = None
    models: tuple[str, ...] = ("fake",)
    context: int = 8192
    correct: float = 0.5
    separator: str = "\n"
    slips: float = 0.0
    weights: int = 0
    faults: tuple[Fault, ...] = ()
    fault_seed: int = 0
    log: int = 100_000

    def __post_init__(self) -> None:
        for name in ("latency", "token_latency", "log"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be at least 0")
        for name in ("rate_limit", "burst", "max_live", "context"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value:g}, must be above 0; leave it out for the default")
        for name in ("correct", "slips"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name):g}, must lie in [0, 1]: it is a probability")
        if not self.models or not self.separator:
            raise ValueError("models and separator must not be empty")

    def changed(self, changes: Changes) -> Settings:
        """These settings with some of them changed; `ValueError` names a setting that does not exist."""
        unknown = sorted(set(changes) - {field.name for field in fields(self)})
        if unknown:
            known = ", ".join(field.name for field in fields(self))
            raise ValueError(f"unknown setting {', '.join(unknown)}: there are {known}")
        plain: dict[str, Any] = {**changes}
        if isinstance(plain.get("dialect"), str):
            plain["dialect"] = find_dialect(plain["dialect"])
        for name in {"models", "faults"} & set(plain):
            plain[name] = tuple(plain[name])
        return replace(self, **plain)


def settings_to_json(settings: Settings) -> str:
    """The settings as one line of JSON."""
    return json.dumps(asdict(settings))


def settings_from_json(line: str | bytes) -> Settings:
    """The settings that `settings_to_json` wrote."""
    plain = json.loads(line)
    plain["dialect"] = dialect_from_fields(plain["dialect"])
    plain["models"] = tuple(plain["models"])
    plain["faults"] = tuple(
        Fault(FaultKind(fault["kind"]), tuple(fault["at"]), fault["probability"], fault["seconds"]) for fault in plain["faults"]
    )
    return Settings(**plain)
