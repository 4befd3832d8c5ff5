"""Several verifiers asked together, and one number made of what they say."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf
from statistics import median

from ponder.core import Verifier
from ponder.errors import BudgetExhausted, UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score

COMBINES = ("mean", "min", "vote", "median")


@named("ensemble")
@dataclass(frozen=True, slots=True, repr=False)
class Ensemble:
    """What several verifiers believe of a chain, combined (Coste et al. 2023, arXiv:2310.02743: mean and worst case, against over-optimisation).

    mean     the mean of the values, by weight
    min      the least: a chain is worth what its sternest reader says, which is harder to please by accident
    vote     the share of members, by weight, whose value is at least `threshold`
    median   the middle value, of an even number the mean of the middle two

    weights: one above 0 for each member, of `mean` and `vote`; left out, all are equal. Value and raw are the combined number. Members that
    gave no value are left out, and named in `error`; none left is no score. Every member is asked through the run: it is banked and paid
    for under its own name. A member that the budget does not let ask gave no value.
    """

    verifiers: tuple[Verifier, ...]
    combine: str = "mean"
    weights: tuple[float, ...] = ()
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.verifiers, tuple) or not self.verifiers:
            raise UsageError(
                f"ensemble: verifiers = {self.verifiers!r} must be a tuple of at least one, such as (confidence(), judge())"
            )
        if strangers := [member for member in self.verifiers if not hasattr(member, "score")]:
            raise UsageError(f"ensemble: {strangers[0]!r} is no verifier")
        if self.combine not in COMBINES:
            raise UsageError(f"ensemble: combine = {self.combine!r} must be one of {', '.join(COMBINES)}")
        if self.weights and (len(self.weights) != len(self.verifiers) or not all(0 < weight < inf for weight in self.weights)):
            raise UsageError(
                f"ensemble: weights = {self.weights!r} must be {len(self.verifiers)} finite numbers above 0, one a member"
            )
        if self.weights and self.combine not in ("mean", "vote"):
            raise UsageError(f"ensemble: {self.combine!r} has no use for weights; leave them out, or take mean or vote")
        if not 0.0 <= self.threshold <= 1.0:
            raise UsageError(f"ensemble: threshold = {self.threshold!r} must lie in [0, 1]")

    @property
    def fingerprint(self) -> str:
        """It scores through the run, so it is never banked; its members are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain."""
        found = await asyncio.gather(*(_asked(member, chains, run) for member in self.verifiers), return_exceptions=True)
        lines: list[list[Score]] = []
        for line in found:  # raised only now, when no member is still at work
            if isinstance(line, BaseException):
                raise line
            lines.append(line)
        return [self._combined(scores) for scores in zip(*lines, strict=True)]

    def _combined(self, scores: Sequence[Score]) -> Score:
        weights = self.weights or (1.0,) * len(scores)
        told = [(score.value, weight) for score, weight in zip(scores, weights, strict=True) if score.value is not None]
        silent = [
            f"{member!r}: {score.error}" for member, score in zip(self.verifiers, scores, strict=True) if score.value is None
        ]
        error = f"ensemble: {len(silent)} of {len(scores)} members gave no value ({'; '.join(silent)})" if silent else ""
        if not told:
            return Score(None, error=error)
        value = self._number(told)
        return Score(value, value, error=error)

    def _number(self, told: Sequence[tuple[float, float]]) -> float:
        """Of at least one (value, weight)."""
        if self.combine == "min":
            return min(value for value, _ in told)
        if self.combine == "median":
            return median(value for value, _ in told)
        counted = [(float(value >= self.threshold), weight) for value, weight in told] if self.combine == "vote" else told
        return min(1.0, fsum(value * weight for value, weight in counted) / fsum(weight for _, weight in counted))


async def _asked(member: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
    try:
        return await run.score(member, chains)
    except BudgetExhausted:
        return [Score(None, error="budget: this score could not be paid for") for _ in chains]
