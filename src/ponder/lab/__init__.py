"""The embedded models: problems with worked solutions, a vocabulary, three tiny language models, and a NumPy engine for them."""

from __future__ import annotations

import threading
from functools import cache
from pathlib import Path

from ponder.lab.engine import Completion, Engine, Request
from ponder.lab.workers import Pool

__all__ = ["Completion", "Engine", "Pool", "Request", "fingerprint", "load", "pool", "weights_path"]


def weights_path(size: str = "base") -> Path:
    """Give the file of the shipped weights of `small`, `base` or `large`; or of any file or folder of weights given by path.

    Raises:
        ValueError: when there is neither such a size nor such a path.
    """
    shipped = Path(__file__).parent / "weights" / f"{size}.safetensors"
    for path in (shipped, Path(size)):
        if path.exists():
            return path
    raise ValueError(f"lab model {size!r} is none of small, base, large, and no file or folder of weights")


@cache
def load(size: str = "base") -> Engine:
    """Load a shipped size, or weights given by path, once per process; errors as for `weights_path`."""
    from ponder.lab.model import load_weights

    return Engine(load_weights(weights_path(size)))


BUSY = 3
"""Pools that keep their workers while they have nothing to do: a loop of learning opens one for each round's policy."""


def pool(size: str = "base", workers: int = 2) -> Pool:
    """Spread the engine of a size over worker processes, once per process; errors as for `weights_path`.

    Of pools that are idle, those used longest ago let their workers go, and start new ones when they are asked again.
    """
    asked = _pool(size, workers)
    with _lock:
        _used.pop(asked, None)
        _used[asked] = None
        for one in list(_used)[:-BUSY]:
            if one.rest():
                del _used[one]
    return asked


@cache
def _pool(size: str, workers: int) -> Pool:
    return Pool(weights_path(size), workers)


_used: dict[Pool, None] = {}
_lock = threading.Lock()


def fingerprint(size: str = "base") -> str:
    """Give the first 16 hexadecimal digits of the SHA-256 of the weight file; errors as for `weights_path`."""
    import hashlib

    path = weights_path(size)
    file = path / "model.safetensors" if path.is_dir() else path
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
