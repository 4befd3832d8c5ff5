"""A bank that counts what really reaches the engines, and stops before a bound is passed: what a replay costs is nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ponder.core import Ask, Bank, Policy, PolicyInfo, Sampling, Until, Verifier, room
from ponder.run import Run
from ponder.types import Chain, Score


class OverSpent(Exception):
    """What is asked for next may cost more new tokens than are left. What was paid for is kept."""


@dataclass
class Purse:
    """New tokens so far: written, and read by reward models. limit: None for no bound; pending: taken for spent until it is known."""

    limit: int | None = None
    written: int = 0
    read: int = 0
    pending: int = 0

    @property
    def spent(self) -> int:
        """New tokens so far."""
        return self.written + self.read

    @contextmanager
    def holding(self, tokens: int) -> Iterator[None]:
        """So many tokens held back while they may be spent. Raises `OverSpent` where they are not there."""
        if self.limit is not None and self.spent + self.pending + tokens > self.limit:
            raise OverSpent(f"{self.spent} of {self.limit} new tokens are spent, and what comes next may take {tokens}")
        self.pending += tokens
        try:
            yield
        finally:
            self.pending -= tokens


@dataclass
class Ledger:
    """A bank behind which new tokens are counted: completion, and positions that reward models read, prefixes once.

    Before children are asked for, all that they may write is held back, so that the bound holds; of scores, the tokens of the chains.
    """

    bank: Bank
    purse: Purse
    scored: dict[tuple[str, str], int] = field(default_factory=dict)

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the bank; raises `OverSpent`."""
        return await self.bank.sample(_Watched(policy, self.purse), asks, until=until, sampling=sampling)

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As the bank; raises `OverSpent`."""
        return await self.bank.score(_Reading(verifier, self) if verifier.fingerprint else verifier, chains, run)


@dataclass(frozen=True)
class _Watched:
    policy: Policy
    purse: Purse

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        most = sum(len(ask.indices) * min(room(ask.chain, sampling), until.tokens or sampling.max_tokens) for ask in asks)
        with self.purse.holding(most):
            lines = await self.policy.sample(asks, until=until, sampling=sampling)
        self.purse.written += sum(child.steps[-1].usage.completion for line in lines for child in line)
        return lines


@dataclass(frozen=True)
class _Reading:
    verifier: Verifier
    ledger: Ledger

    def __repr__(self) -> str:
        return repr(self.verifier)

    @property
    def fingerprint(self) -> str:
        return self.verifier.fingerprint

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        with self.ledger.purse.holding(sum(chain.usage.completion for chain in chains)):
            scores = await self.verifier.score(chains, run)
        for chain, score in zip(chains, scores, strict=True):
            self.ledger.purse.read += self._new(chain, score) + score.usage.completion
        return scores

    def _new(self, chain: Chain, score: Score) -> int:
        """Positions past the longest prefix that was read before, as a run charges them."""
        known, name = self.ledger.scored, self.fingerprint
        prefixes = (Chain(chain.prompt, chain.steps[:end]).digest for end in range(len(chain.steps) - 1, -1, -1))
        before = next((known[name, digest] for digest in prefixes if (name, digest) in known), 0)
        known[name, chain.digest] = score.usage.scored
        return max(0, score.usage.scored - before)
