"""`ponder doctor`: what this machine has, or what a server can do, before anything is spent."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import re
from dataclasses import asdict

from ponder.cli import output
from ponder.cli.provenance import provenance
from ponder.errors import PonderError
from ponder.sandbox.rooms import BEST_FIRST, describe, room
from ponder.types import JSON


def report(url: str | None, model: str, *, fresh: bool, as_json: bool) -> None:
    """Print the machine, or the capabilities of a server."""
    body = asyncio.run(_server(url, model, fresh=fresh)) if url else _machine()
    if as_json:
        print(json.dumps(body))
        return
    width = max(map(len, body))
    for key, value in body.items():
        print(f"{key.ljust(width)}  {output.clean(_text(value))}")


def _machine() -> dict[str, JSON]:
    from ponder import lab
    from ponder.policies.lab import parameters

    body: dict[str, JSON] = {**provenance(), **_extras()}
    for size in ("small", "base", "large"):
        try:
            body[f"lab {size}"] = f"{parameters(lab.load(size).weights):,} parameters, {lab.fingerprint(size)}"
        except (ValueError, OSError) as error:
            body[f"lab {size}"] = f"broken: {error}"
    for tier in BEST_FIRST:
        fault = describe(tier)
        body[f"sandbox {tier}"] = f"not usable: {fault}" if fault else "holds: passed its self-test"
    try:
        body["sandbox"] = f"{room().tier} is used"
    except PonderError as error:
        body["sandbox"] = str(error)
    return body


def _extras() -> dict[str, JSON]:
    told: dict[str, JSON] = {}
    for extra, packages in extras().items():
        missing = [package for package in packages if not _installed(package)]
        way_out = f"in a checkout, pip install -c constraints.txt -e '.[{extra}]'"
        told[f"extra {extra}"] = f"missing {', '.join(missing)}: {way_out}" if missing else "installed"
    return told


def extras() -> dict[str, list[str]]:
    """The packages of every extra, as the metadata of this one has them; without those for work on ponder itself."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("ponder-ttc") or []:
        given = re.match(r"([\w.-]+).*;\s*extra\s*==\s*['\"]([\w-]+)['\"]", line)
        if given and given[2] != "dev":
            found.setdefault(given[2], []).append(given[1])
    return found


def _installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def _server(url: str, model: str, *, fresh: bool) -> dict[str, JSON]:
    from ponder.policies.openai import openai

    policy = openai(url, model, fresh=fresh)
    async with policy:
        info = policy.info
        body: dict[str, JSON] = {
            "name": info.name,
            "fingerprint": info.fingerprint,
            "capabilities": [str(one) for one in sorted(info.capabilities)],
        }
        found = getattr(policy, "probed", None)
        if found is not None:
            body |= asdict(found)
    return body


def _text(value: JSON) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
