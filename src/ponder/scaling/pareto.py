"""Which points are worth buying: those that no other point beats in accuracy at the same or a smaller cost."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def front(cost_N: ArrayLike, value_N: ArrayLike) -> list[int]:
    """The points that none dominates, cheapest first; a point dominates another if it costs no more, is worth no less, and differs.

    Equal points stand on the front together, in their own order.

    Args:
        cost_N: what each point costs, finite.
        value_N: what it is worth, finite; more is better.

    Returns:
        Indices into the points.

    Raises:
        ValueError: vectors of different lengths, nan or infinity.
    """
    cost, value = np.asarray(cost_N, dtype=np.float64), np.asarray(value_N, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape or not np.isfinite([cost, value]).all():
        raise ValueError(
            f"cost has shape {cost.shape} and value {value.shape}; a front is drawn through points of one finite cost and value each"
        )
    kept: list[int] = []
    for i in map(int, np.lexsort((-value, cost))):
        if not kept or value[i] > value[kept[-1]] or (cost[i], value[i]) == (cost[kept[-1]], value[kept[-1]]):
            kept.append(i)
    return kept
