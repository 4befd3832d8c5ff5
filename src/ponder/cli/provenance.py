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
    """Write it beside the study; a bank shared with other studies keeps its own. sandbox: the tier that held model-written code, if any ran."""
    body = {**provenance(), "study": study.name, "seeds": list(study.seeds), "sandbox": sandbox}
    write_lines(iter([json.dumps(body, indent=2)]), path)


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
