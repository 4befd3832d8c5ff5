"""Particle filtering: a population of chains, in which what looks likely to be right multiplies and the rest dies out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum, inf, log
from typing import TYPE_CHECKING

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.resampling import RESAMPLERS, effective, flattened, multinomial
from ponder.strategies.steps import UNSCORED, Choice, Worth, check, check_final, judged, until
from ponder.types import Chain

if TYPE_CHECKING:
    from random import Random

LEAST = 1e-6  # values are kept this far from 0 and 1, where odds have no logarithm


@named("particles")
@dataclass(frozen=True, slots=True, repr=False)
class Particles:
    """`n` chains grow step by step and are resampled by their guide's values (Puri et al. 2025, arXiv:2502.01618, algorithm 1).

    potential: what a step multiplies a particle's weight by, v being its value now and u the one before:
        odds    v / (1 - v): the paper's softmax over the logits of the process reward
        value   v: the likelihood of being right, as in a state-space model
        ratio   odds(v) / odds(u): the target after t steps is p(x_1..t) odds(v_t), whatever values were on the way
    A finished particle keeps its value (and its potential; of `ratio`, 1); one that was cut, failed or has no value has weight 0. It
    ends when all particles are finished or dead.

    resample: "multinomial" as in the paper, "systematic" or "residual" (less noise; Douc and Cappe 2005); done when the effective sample
    size 1 / sum w^2 is below `ess` * n (1: after every step, as in the paper).
    gibbs: sweeps of particle Gibbs (the paper's section 3.3; Andrieu et al. 2010): each after the first keeps one particle of the one before,
    drawn by weight, as its first, untouched. Each chain that finishes is a candidate of `max`, those that are
    there when a sweep ends have votes; no sweep follows one that finished with the value `accept`.
    anneal: while t < `anneal` steps, weights are flattened, w^(1 / tau) with the least tau >= 1 for which their effective size is at least
    (1 - t / anneal) * n: entropic annealing in the manner of Giannone et al. 2025, by effective size instead of entropy. Flattened weights
    decide what is copied; the estimate of evidence is then biased.

    Copies of one chain are asked for together. Cost: at most n samples and n scores a step and sweep. Candidates are chosen from by `final`.
    """

    n: int
    verifier: Verifier
    potential: str = "odds"
    resample: str = "systematic"
    ess: float = 1.0
    gibbs: int = 1
    anneal: int = 0
    step: str | int = "line"
    depth: int = 40
    final: str = "max"
    accept: float | None = None

    def __post_init__(self) -> None:
        check("particles", n=self.n, gibbs=self.gibbs, depth=self.depth)
        check("particles", 0, anneal=self.anneal)
        check_final("particles", self.final, accept=self.accept)
        until(self.step)
        for name, value, table in (("potential", self.potential, POTENTIALS), ("resample", self.resample, RESAMPLERS)):
            if value not in table:
                raise UsageError(f"particles: {name} = {value!r} must be one of {', '.join(table)}")
        if not 0.0 <= self.ess <= 1.0:
            raise UsageError(f"particles: ess = {self.ess} must lie in [0, 1]")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, random = Choice(self.final, self.accept), run.random(root, "particles")
        kept: list[Worth] = []
        for _ in range(self.gibbs):
            swept = await self.sweep(root, run, random, kept, choice)
            choice.add(run, swept.particles)
            if not any(swept.weights) or choice.settled:
                return
            [at] = multinomial(swept.weights, 1, random)
            kept = swept.trace(at)

    async def sweep(
        self, root: Chain, run: Run, random: Random, kept: Sequence[Worth] = (), choice: Choice | None = None
    ) -> Sweep:
        """One pass of the filter. kept: the prefixes, one a step, of a particle that is to survive as the first.

        choice: told of what finishes, at once, so that a run that ends in the middle has an answer.
        """
        particles, weights, evidence = [Worth(root, 0.5)] * self.n, [1.0] * self.n, 0.0
        lines: list[list[Worth]] = [[] for _ in range(self.n)]
        for t in range(self.depth):
            moving = [at for at in range(self.n) if particles[at].live and weights[at] and not (kept and at == 0)]
            if not moving and not (kept and t < len(kept)):
                break
            before = list(particles)
            moved = await self._move(run, [particles[at] for at in moving])
            if choice is not None:
                choice.add(run, moved, vote=False)
            for at, one in zip(moving, moved, strict=True):
                particles[at] = one
            if kept:
                particles[0] = kept[min(t, len(kept) - 1)]
            factors = [self._factor(now, then) for now, then in zip(particles, before, strict=True)]
            weights = [weight * factor for weight, factor in zip(weights, factors, strict=True)]
            if not any(weights):
                return Sweep(particles, weights, -inf, lines)
            mean = fsum(weights) / self.n
            weights = [weight / mean for weight in weights]  # of mean 1, as odds of many steps would pass the range of a float
            evidence += log(mean)
            lines = [[*line, one] for line, one in zip(lines, particles, strict=True)]
            if any(one.live for one, weight in zip(particles, weights, strict=True) if weight):
                particles, weights, lines = self._resampled(particles, weights, lines, t, random, bool(kept))
        return Sweep(particles, weights, evidence, lines)

    async def _move(self, run: Run, tips: Sequence[Worth]) -> list[Worth]:
        """Each with one step more; what was cut, failed or has no answer comes back without a value."""
        if not tips:
            return []
        children = await run.extend([tip.chain for tip in tips], until=until(self.step))
        found = {id(one.chain): one for one in await judged(run, self.verifier, children)}
        return [found.get(id(child), Worth(child)) for child in children]

    def _factor(self, now: Worth, before: Worth) -> float:
        if now.value == UNSCORED:
            return 0.0
        if now.chain is before.chain and not now.live:
            return 1.0 if self.potential == "ratio" else POTENTIALS[self.potential](now.value, 0.5)
        return POTENTIALS[self.potential](now.value, before.value)

    def _resampled(
        self, particles: list[Worth], weights: list[float], lines: list[list[Worth]], t: int, random: Random, pinned: bool
    ) -> tuple[list[Worth], list[float], list[list[Worth]]]:
        shares = flattened(weights, (1 - t / self.anneal) * self.n) if t < self.anneal else weights
        if effective(shares) >= self.ess * self.n:
            return particles, weights, lines
        chosen = RESAMPLERS[self.resample](shares, self.n, random)
        if pinned:  # conditional filter: the kept particle stays, the others are drawn from all
            chosen = [0, *multinomial(shares, self.n - 1, random)]
        return [particles[at] for at in chosen], [1.0] * self.n, [lines[at] for at in chosen]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What one pass came to: particles and their weights, of mean 1 (or all 0), the logarithm of the evidence, and how each came to be, one prefix a step.

    exp(evidence) estimates E[product of potentials] over chains of the policy without bias, as long as nothing is annealed and, but for
    `ratio`, all chains take as many steps: elsewhere what has finished goes on multiplying until the last one has.
    """

    particles: list[Worth]
    weights: list[float]
    evidence: float
    lines: list[list[Worth]]

    def trace(self, at: int) -> list[Worth]:
        """The prefixes of a particle."""
        return self.lines[at]


def odds(value: float) -> float:
    """The odds v / (1 - v)."""
    value = min(1 - LEAST, max(LEAST, value))
    return value / (1 - value)


POTENTIALS: dict[str, Callable[[float, float], float]] = {
    "odds": lambda now, before: odds(now),
    "value": lambda now, before: now,
    "ratio": lambda now, before: odds(now) / odds(before),
}
