"""Drawing a population anew by its weights: what particle filters share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from random import Random


def effective(weights: Sequence[float]) -> float:
    """The effective sample size (sum w)^2 / sum w^2."""
    return fsum(weights) ** 2 / fsum(weight * weight for weight in weights)


def flattened(weights: Sequence[float], target: float) -> list[float]:
    """w^(1 / tau) with the least tau >= 1 whose effective size is at least `target` (at most the number of weights above 0)."""
    target, top = min(target, sum(weight > 0 for weight in weights)), max(weights)
    low, high = 0.0, 1.0  # of 1 / tau
    power: Callable[[float], list[float]] = lambda beta: [(w / top) ** beta if w > 0 else 0.0 for w in weights]  # noqa: E731  as short as its name
    if effective(power(1.0)) >= target:
        return power(1.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(power(middle)) >= target else (low, middle)
    return power(low)


def multinomial(weights: Sequence[float], n: int, random: Random) -> list[int]:
    """`n` independent draws."""
    return sorted(random.choices(range(len(weights)), weights, k=n))


def systematic(weights: Sequence[float], n: int, random: Random) -> list[int]:
    """`n` draws at even distances from one random start."""
    total, start = fsum(weights), random.random()
    chosen, passed, at = [], weights[0], 0
    for k in range(n):
        mark = (start + k) * total / n
        while mark >= passed and at < len(weights) - 1:
            at += 1
            passed += weights[at]
        chosen.append(at)
    return chosen


def residual(weights: Sequence[float], n: int, random: Random) -> list[int]:
    """The whole part of n w for certain, what is left by draws from the fractions."""
    total = fsum(weights)
    shares = [n * weight / total for weight in weights]
    sure = [at for at, share in enumerate(shares) for _ in range(int(share))]
    left = n - len(sure)
    return sorted(sure + (multinomial([share - int(share) for share in shares], left, random) if left > 0 else []))


Resampler: TypeAlias = "Callable[[Sequence[float], int, Random], list[int]]"
RESAMPLERS: dict[str, Resampler] = {"multinomial": multinomial, "systematic": systematic, "residual": residual}
