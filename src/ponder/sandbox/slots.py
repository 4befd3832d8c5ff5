"""As many programs at a time as there are cores, so that a time limit measures the program and not the crowd."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def cores() -> int:
    """Cores that this process may use."""
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


_slots = threading.BoundedSemaphore(cores())
_held = threading.local()


def renew() -> None:
    """All slots free: in a fork, where those that were held are held by nobody."""
    global _slots, _held
    _slots, _held = threading.BoundedSemaphore(cores()), threading.local()


@contextmanager
def slot() -> Iterator[None]:
    """Wait for a slot and hold it. A thread that holds one has enough: a verdict that needs two programs must not wait for itself."""
    slots, held = _slots, _held
    depth: int = getattr(held, "depth", 0)
    if depth == 0:
        slots.acquire()
    held.depth = depth + 1
    try:
        yield
    finally:
        held.depth = depth
        if depth == 0:
            slots.release()
