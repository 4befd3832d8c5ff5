"""What the operator decides: the engine, the strategies by name, limits, keys. A TOML file, or the options of `ponder serve`.

policy = "http://127.0.0.1:8000/v1"          # or any policy spec
[strategies]
"best_of_n-16" = "best_of_n(n=16, verifier=judge())"
[verifiers]                                  # what callers may name in a spec of their own
judge = "judge()"
[effort]                                     # reasoning_effort -> budget
low = {samples = 4}
[limits]
live = 256
[[keys]]                                     # `ponder serve --new-key` makes one
name = "alice"
sha256 = "..."
tokens_per_day = 1_000_000
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ponder.core import Budget
from ponder.errors import UsageError
from ponder.server.schema import Effort

EFFORT: Mapping[Effort, Budget] = {
    "minimal": Budget(samples=1),
    "low": Budget(samples=4),
    "medium": Budget(samples=16),
    "high": Budget(samples=64),
    "xhigh": Budget(samples=256),
}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Key(_Part):
    """An API key by its SHA-256, and what may be spent with it in a day (UTC): tokens as budgets count them, and requests."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    tokens_per_day: int | None = Field(default=None, ge=1)
    requests_per_day: int | None = Field(default=None, ge=1)


class Limits(_Part):
    """Bounds that hold for everybody.

    live: requests answered at once; queue: requests that wait for a place, for at most `patience` seconds; body: bytes; choices: `n`;
    samples: children of one request, over all its choices; tokens: what `max_tokens` and `max_completion_tokens` may ask for; seconds:
    the longest an answer may take.
    """

    live: int = Field(default=256, ge=1)
    queue: int = Field(default=256, ge=0)
    patience: float = Field(default=30.0, gt=0)
    body: int = Field(default=8 * 2**20, ge=1000)
    choices: int = Field(default=128, ge=1, le=128)
    samples: int = Field(default=4096, ge=1)
    tokens: int = Field(default=131_072, ge=1)
    seconds: float = Field(default=3600.0, gt=0)


class Config(_Part):
    """One server. max_tokens: of an answer whose request gives no cap. any_policy: serve a card that was measured on another. hosts, origins: exact values of the headers that are let in."""

    policy: str = Field(min_length=1)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65_535)
    strategies: dict[str, str] = {}
    verifiers: dict[Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_]*$")], str] = {}
    card: str | None = None
    any_policy: bool = False
    effort: dict[Effort, Budget] = dict(EFFORT)
    max_tokens: int = Field(default=2048, ge=1)
    limits: Limits = Limits()
    keys: tuple[Key, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    record: str | None = None
    redact: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    drain: float = Field(default=30.0, ge=0)

    def check(self) -> Config:
        """This configuration, if it is safe and consistent. Raises `UsageError` with the way out."""
        for name in self.strategies:
            if not NAME.fullmatch(name) or name == "auto":
                raise UsageError(f"serve: {name!r} cannot name a strategy; use letters, digits, '.', '_', '-', and not 'auto'")
        if len({key.name for key in self.keys}) < len(self.keys):
            raise UsageError("serve: two keys have one name; their budgets would be one")
        if self.redact and not self.record:
            raise UsageError("serve: redact is given, and nothing is recorded; give record = FOLDER, too")
        if not loopback(self.host):
            if not self.keys:
                raise UsageError(
                    f"serve: {self.host} can be reached from elsewhere, and there is no key; add [[keys]] to the file "
                    "(`ponder serve --new-key NAME` makes one), or stay on 127.0.0.1"
                )
            if not self.hosts:
                raise UsageError(
                    f"serve: {self.host} can be reached by many names; list those that clients use, such as hosts = ['llm.example.org:8080']"
                )
        return self


def loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(path: Path | None, given: Mapping[str, object]) -> Config:
    """The file, with the given options put over it. Raises `UsageError` with the nearest key."""
    body: dict[str, object] = {}
    if path is not None:
        try:
            body = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: is not TOML: {error}") from None
    where = str(path) if path else "serve"
    try:
        return Config.model_validate({**body, **given}).check()
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            close = difflib.get_close_matches(str(fault["loc"][-1]), [*Config.model_fields, *Limits.model_fields], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(Config.model_fields)}"
            raise UsageError(f"{where}: there is no key {place!r}; {hint}") from None
        if fault["type"] == "missing":
            raise UsageError(f"{where}: {place!r} is missing; give --policy URL, or policy = ... in a file") from None
        cause = fault.get("ctx", {}).get("error", fault["msg"])
        raise UsageError(f"{where}: {place} = {str(fault['input'])[:100]!r}: {cause}") from None
