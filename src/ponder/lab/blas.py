"""One BLAS thread for products that are too small to be split.

OpenBLAS splits them all the same, and its threads wait for each other: on a busy machine, products of the lab's sizes were measured to take
eighty times as long with two threads as with one. Worker processes set the environment; a process that is running already is told here.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

_lock = threading.Lock()
_inside = 0
_before = 1


@contextmanager
def one_thread() -> Iterator[None]:
    """Let NumPy's products in this process use one thread while the block runs, where its BLAS is the OpenBLAS of its wheels.

    Elsewhere it does nothing. Blocks may overlap, in one thread or several: the setting is put back when the last one ends.
    """
    global _inside, _before
    get, put = _openblas() or (lambda: 1, lambda number: None)
    with _lock:
        if _inside == 0:
            _before = get()
            put(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                put(_before)


@cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to read and set the number of threads."""
    package = Path(np.__file__).parent
    for path in [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]:
        for end in ("64_", ""):
            try:
                library = ctypes.CDLL(str(path))  # NumPy has loaded it: this is the same one
                return library[f"scipy_openblas_get_num_threads{end}"], library[f"scipy_openblas_set_num_threads{end}"]
            except (OSError, AttributeError):
                continue
    return None
