"""The grader in a verifier's clothes: upper bounds, and verifiers with known error rates."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score


@named("oracle")
@dataclass(frozen=True, slots=True, repr=False)
class Oracle:
    """1 for a correct answer, 0 for a wrong one, by the task's own grader; needs --allow-oracle, and every result says so.

    fpr and fnr are the rates at which it is wrong on purpose: P(1 | wrong) and P(0 | correct). The error is a function of the chain
    and `seed` alone, so the same chain is always judged the same.
    """

    fpr: float = 0.0
    fnr: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, rate in (("fpr", self.fpr), ("fnr", self.fnr)):
            if not 0.0 <= rate <= 1.0:
                raise UsageError(f"oracle: {name} = {rate} must lie in [0, 1]")

    @property
    def fingerprint(self) -> str:
        """Free: never banked."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score in {0, 1} for each chain."""
        verdicts = await run.verdicts(chains)
        return [Score(float(self._judge(verdict.correct, chain))) for chain, verdict in zip(chains, verdicts, strict=True)]

    def _judge(self, correct: bool, chain: Chain) -> bool:
        digest = hashlib.blake2b(f"{self.seed}/{chain.digest}".encode(), digest_size=8).digest()
        wrong = int.from_bytes(digest, "big") / 2**64 < (self.fnr if correct else self.fpr)
        return correct != wrong
