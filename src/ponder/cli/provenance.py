"""Where a study's numbers come from: versions, machine, git, seeds."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from ponder.cli.study import Study
from ponder.store.export import write as write_lines
from ponder.types import JSON

_PACKAGES = ("ponder-ttc", "numpy", "aiohttp", "torch", "transformers", "xllamacpp", "math-verify", "reasoning-gym")


def provenance() -> dict[str, JSON]:
    """Versions, machine and git state as JSON."""
    versions: dict[str, JSON] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine: dict[str, JSON] = {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count()}
    return {"python": platform.python_version(), "versions": versions, "machine": machine, "git": _git()}


def write_provenance(path: Path, study: Study, sandbox: str | None = None) -> None:
    """Write it beside the study; a bank shared with other studies keeps its own. sandbox: the tier that holds model-written code, if any runs; those of earlier starts stay."""
    before = _sandboxes(path)
    tiers = [*before, *([sandbox] if sandbox and sandbox not in before else [])]
    told: JSON = None if not tiers else tiers[0] if len(tiers) == 1 else list[JSON](tiers)
    body = {**provenance(), "study": study.name, "seeds": list(study.seeds), "sandbox": told}
    write_lines(iter([json.dumps(body, indent=2)]), path)


def _sandboxes(path: Path) -> list[str]:
    """The tiers that held code on earlier starts of the study: its verdicts are theirs, too."""
    try:
        kept = json.loads(path.read_text("utf-8")).get("sandbox")
    except (OSError, ValueError, AttributeError):
        return []
    return [str(one) for one in (kept if isinstance(kept, list) else [kept]) if one]


def _git() -> str | None:
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
