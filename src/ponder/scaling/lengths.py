"""Whether longer chains are more often right, where difficulty is held equal: among samples of one problem.

Across problems the answer is mostly another question's: hard problems take longer chains and are less often right. Axes: P problems, N samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["concordance"]


def concordance(lengths_P_N: ArrayLike, correct_P_N: ArrayLike) -> NDArray[np.float64]:
    """The chance that a right sample of a problem is longer than a wrong one, less the chance that it is shorter.

    Cliff's delta (Cliff 1993, Psychological Bulletin 114:494) of the right against the wrong samples, all pairs of them counted: 1 where every right one is longer, -1 where
    every right one is shorter, 0 where length says nothing. Only the order of lengths matters, not their unit.

    Args:
        lengths_P_N: of each sample, finite, in any unit.
        correct_P_N: bool, True where the grader accepts.

    Returns:
        One number in [-1, 1] for each problem; nan where all its samples are right, or all wrong.

    Raises:
        ValueError: arrays that are not problems x samples of one shape, or not of these types.
    """
    lengths, correct = np.asarray(lengths_P_N, dtype=np.float64), np.asarray(correct_P_N)
    if lengths.ndim != 2 or lengths.shape != correct.shape or correct.dtype != np.bool_ or not np.isfinite(lengths).all():
        raise ValueError(
            f"lengths have shape {lengths.shape}, correct {correct.shape} and {correct.dtype}; finite numbers and bool, both problems x samples"
        )
    found = np.full(len(lengths), np.nan)
    for p, (length_N, correct_N) in enumerate(zip(lengths, correct, strict=True)):
        right, wrong = length_N[correct_N], np.sort(length_N[~correct_N])
        if len(right) and len(wrong):
            below, through = (np.searchsorted(wrong, right, side) for side in ("left", "right"))
            found[p] = (below - (len(wrong) - through)).mean() / len(wrong)
    return found
