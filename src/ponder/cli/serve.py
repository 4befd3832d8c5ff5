"""`ponder serve`: every strategy behind the OpenAI API."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from ponder.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from ponder.server.config import Config

app = App(name="serve", help_format="plaintext", result_action="return_value")


@app.default
def serve(
    *,
    config: Path | None = None,
    policy: str | None = None,
    strategy: Annotated[list[str] | None, Parameter(negative="")] = None,
    card: Path | None = None,
    any_policy: Annotated[bool, Parameter(negative="")] = False,
    host: str | None = None,
    port: int | None = None,
    max_tokens: int | None = None,
    record: Path | None = None,
    new_key: str | None = None,
) -> None:
    """Serve every strategy behind the OpenAI API: any program that speaks to OpenAI uses it by its address.

    ponder serve --policy http://127.0.0.1:8000/v1 --strategy "self_consistency(n=16)"

    Args:
        config: A TOML file; the options go over it (recipes/serve.toml shows all of it).
        policy: The upstream model: URL of an OpenAI-compatible server, or a policy spec.
        strategy: Served as MODEL+NAME-N, such as qwen+self_consistency-16. May be given several times.
        card: A policy card; served as `auto`.
        any_policy: Serve the card though it was measured on another policy.
        host: Where to listen; anything but this machine needs keys.
        port: Where to listen; 0 takes a free one.
        max_tokens: Of an answer whose request gives no cap.
        record: Folder that every request is recorded to.
        new_key: Print a new API key of this name and the lines for the file, and stop.
    """
    if new_key is not None:
        key = f"sk-ponder-{secrets.token_urlsafe(32)}"
        print(key)
        print(f'[[keys]]\nname = {json.dumps(new_key)}\nsha256 = "{sha256(key.encode()).hexdigest()}"', file=sys.stderr)
        return
    try:
        from ponder.server.config import load
        from ponder.server.models import served_name
        from ponder.server.serving import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("starlette", "uvicorn", "prometheus_client"):
            raise
        raise MissingExtraError(str(error.name), "serve") from None

    given: dict[str, object] = {
        "policy": policy,
        "card": str(card) if card else None,
        "any_policy": any_policy or None,
        "host": host,
        "port": port,
        "max_tokens": max_tokens,
        "record": str(record) if record else None,
    }
    if config is None and policy is None:
        raise UsageError("serve: give --policy URL, or --config FILE; `ponder serve --help` has an example")
    known = load(config, {key: value for key, value in given.items() if value is not None})
    strategies = dict(known.strategies)
    for text in strategy or ():
        strategies[served_name(text, strategies)] = text
    known = known.model_copy(update={"strategies": strategies}).check()

    def ready(address: str, names: list[str]) -> None:
        if known.record:
            _describe(known)
        _ready(address, names)

    caught = asyncio.run(run(known, ready=ready, log=_log))
    sys.exit(128 + caught if caught else 0)


def _describe(config: Config) -> None:
    """Say beside the record what a study's folder says, so that `show`, `ls` and `export` read it as one."""
    from ponder.cli.study import check, write
    from ponder.server.record import TASK

    body: dict[str, object] = {
        "name": Path(config.record or "").name,
        "tasks": [TASK],
        "policies": [config.policy],
        "strategies": ["sample", *config.strategies.values()],
    }
    write(check(body, "serve"), Path(config.record or "") / "study.resolved.toml")


def _ready(address: str, names: list[str]) -> None:
    print(json.dumps({"url": address, "models": names}), flush=True)
    print(f"ponder: serving {', '.join(names)} at {address}; Ctrl-C ends it when the live requests are done", file=sys.stderr)


def _log(line: str) -> None:
    from ponder.cli.output import clean

    print(f"ponder: {' '.join(clean(line).split())[:2000]}", file=sys.stderr)  # one line, whatever a caller or an engine wrote
