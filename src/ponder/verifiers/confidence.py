"""The policy's own confidence, read off its token probabilities: free, and no better than the policy knows itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal, TypeAlias

from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Token

Measure: TypeAlias = Literal["mean_logprob", "self_certainty", "marco"]


@named("confidence")
@dataclass(frozen=True, slots=True, repr=False)
class Confidence:
    """How sure the policy was of its own tokens, averaged over the chain.

    mean_logprob     mean log-probability of the tokens written; value exp(mean), their geometric mean probability
    self_certainty   mean divergence from uniform, -1/k sum_j log(k p_j) (Kang et al. 2025, arXiv:2502.18581, eq. 6); value r / (1 + r).
                     Deviation: over the k = 5 likeliest tokens, renormalised, not the whole vocabulary.
    marco            mean share of the written token among the five likeliest (Marco-o1, Zhao et al. 2024, arXiv:2411.14405, eq. 1-2)

    A chain without token probabilities gets no score.
    """

    measure: Measure = "mean_logprob"

    def __post_init__(self) -> None:
        if self.measure not in _MEASURES:
            raise UsageError(f"confidence: there is no measure {self.measure!r}; there are {', '.join(_MEASURES)}")

    @property
    def fingerprint(self) -> str:
        """Free: never banked."""
        return ""

    @property
    def logprobs(self) -> int:
        """How many alternatives it reads."""
        return 1 if self.measure == "mean_logprob" else 5

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain; reads nothing but the chain."""
        del run
        return [self._score(chain) for chain in chains]

    def _score(self, chain: Chain) -> Score:
        per_token, value = _MEASURES[self.measure]
        tokens = [token for step in chain.steps if step.source == "policy" for token in step.tokens or ()]
        seen = [number for number in map(per_token, tokens) if number is not None]
        if not seen:
            return Score(None, error="confidence: the engine gave no token probabilities for this chain")
        raw = sum(seen) / len(seen)
        return Score(min(1.0, max(0.0, value(raw))), raw)


def _own(token: Token) -> float | None:
    return token.logprob


def _certainty(token: Token) -> float | None:
    top = [logprob for _, logprob in token.top_logprobs[:5]]
    if len(top) < 2:
        return None
    total = log(sum(exp(logprob - top[0]) for logprob in top)) + top[0]
    return -sum(log(len(top)) + logprob - total for logprob in top) / len(top)


def _share(token: Token) -> float | None:
    if token.logprob is None or not token.top_logprobs:
        return None
    top = sum(exp(logprob) for _, logprob in token.top_logprobs[:5])
    return min(1.0, exp(token.logprob) / top) if top > 0 else None


_MEASURES: dict[str, tuple[Callable[[Token], float | None], Callable[[float], float]]] = {
    "mean_logprob": (_own, exp),
    "self_certainty": (_certainty, lambda raw: raw / (1.0 + raw)),
    "marco": (_share, lambda raw: raw),
}
