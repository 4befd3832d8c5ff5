"""A policy behind a bank, for code that samples without a run: what is kept is not asked for again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core import Ask, Bank, Policy, PolicyInfo, Sampling, Until
from ponder.types import Chain


@dataclass(frozen=True, slots=True)
class Banked:
    """The same policy, with every child durable before it is given out, and paid for once."""

    policy: Policy
    bank: Bank

    @property
    def info(self) -> PolicyInfo:
        """The policy's own."""
        return self.policy.info

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As the protocol says."""
        return await self.bank.sample(self.policy, asks, until=until, sampling=sampling)
