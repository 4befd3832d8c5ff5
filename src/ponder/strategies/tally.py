"""Counting votes: what all voting strategies share."""

from __future__ import annotations

from dataclasses import dataclass, field

from ponder.types import Chain


@dataclass(slots=True)
class Tally:
    """Votes by answer. Ties go to the answer seen first; a chain without an answer has no vote."""

    votes: dict[str, float] = field(default_factory=dict)
    witness: dict[str, Chain] = field(default_factory=dict)

    def add(self, answer: str | None, chain: Chain, weight: float = 1.0) -> None:
        """Count one chain."""
        if answer is not None:
            self.votes[answer] = self.votes.get(answer, 0.0) + weight
            self.witness.setdefault(answer, chain)

    @property
    def leader(self) -> Chain | None:
        """The first chain that gave the answer with the most votes; None before the first vote."""
        return self.witness[max(self.votes, key=self.votes.__getitem__)] if self.votes else None
