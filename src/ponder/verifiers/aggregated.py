"""How the values of a process reward model become one number, as a wrapper with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import fsum, prod

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Usage


def _last(values: Sequence[float]) -> float:
    return values[-1]


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)


AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {"last": _last, "min": min, "prod": prod, "mean": _mean}
"""Of the values after each step, at least one, in [0, 1]."""


@named("aggregated")
@dataclass(frozen=True, slots=True, repr=False)
class Aggregated:
    """The scores of another verifier, with what it says after each step made one number anew.

    last   the value after the last step: all that a value function says of the chain
    min    the least (Math-Shepherd, Wang et al. 2023, arXiv:2312.08935, section 3.4)
    prod   the product: that every step is right, if they were independent (Lightman et al. 2023, arXiv:2305.20050, section 2.6)
    mean   the mean

    A chain without values after steps has no score. The inner verifier is asked through the run: its scores are banked and paid for
    under its own name, and this one costs nothing.
    """

    verifier: Verifier
    how: str = "min"

    def __post_init__(self) -> None:
        if self.how not in AGGREGATES:
            raise UsageError(f"aggregated: how = {self.how!r} must be one of {', '.join(AGGREGATES)}")

    @property
    def fingerprint(self) -> str:
        """It scores through the run, so it is never banked; the inner verifier is."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain; `raw` is the value, as no model said it."""
        return [self._anew(score) for score in await run.score(self.verifier, chains)]

    def _anew(self, score: Score) -> Score:
        if score.value is None:
            return replace(score, usage=Usage())
        if not score.steps:
            return Score(None, error=f"aggregated: {self.verifier!r} gives no values after steps; name a process reward model")
        value = AGGREGATES[self.how](score.steps)
        return Score(value, value, score.steps)
