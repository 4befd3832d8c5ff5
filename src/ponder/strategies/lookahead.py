"""Lookahead search: a beam whose guide judges where a prefix leads instead of the prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ponder.core import Verifier
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.beam import Beam
from ponder.strategies.steps import check, until
from ponder.types import Chain, Score


@named("lookahead")
@dataclass(frozen=True, slots=True, repr=False)
class Lookahead:
    """Beam search that looks `ahead` greedy steps further before it judges (Snell et al. 2024, arXiv:2408.03314, section 5.2).

    Each prefix is continued for `ahead` steps at temperature 0, in the stream "lookahead", and takes the value of what came of it; a
    continuation that was cut, failed or came to nothing gives no value. `ahead=0` is `beam`. Cost: that of `beam`, and up to `ahead` steps a
    prefix more; what was looked at is not kept. The other fields and cases are those of `beam`.
    """

    width: int
    branch: int
    verifier: Verifier
    ahead: int = 1
    step: str | int = "line"
    depth: int = 40
    final: str = "max"
    distinct: bool = True

    def __post_init__(self) -> None:
        check("lookahead", 0, ahead=self.ahead)
        self._beam()

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        await self._beam()(root, run)

    def _beam(self) -> Beam:
        guide = Ahead(self.verifier, self.ahead, self.step)
        return Beam(self.width, self.branch, guide, self.step, self.depth, self.final, self.distinct)


@dataclass(frozen=True, slots=True)
class Ahead:
    """The scores of a verifier for what `steps` greedy steps make of a chain."""

    verifier: Verifier
    steps: int
    step: str | int

    @property
    def fingerprint(self) -> str:
        """It samples through the run."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain."""
        ends, stream, greedy = list(chains), run.purpose("lookahead"), replace(run.sampling, temperature=0.0)
        for _ in range(self.steps):
            at = [place for place, chain in enumerate(ends) if chain.finish is None]
            if at:
                grown = await stream.extend([ends[place] for place in at], until=until(self.step), sampling=greedy)
                for place, chain in zip(at, grown, strict=True):
                    ends[place] = chain
        told = [chain.finish is None or answer is not None for chain, answer in zip(ends, run.answers(ends), strict=True)]
        scores = iter(await run.score(self.verifier, [chain for chain, tells in zip(ends, told, strict=True) if tells]))
        nothing = "lookahead: the continuation ended by {} without an answer"
        return [
            next(scores) if tells else Score(None, error=nothing.format(chain.finish))
            for chain, tells in zip(ends, told, strict=True)
        ]
