"""QAlign: a random walk over whole answers that settles where the policy and the verifier agree."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from ponder.core import Verifier
from ponder.errors import UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.strategies.steps import UNSCORED, Choice, Worth, check, check_final, judged, prefix, starts, until
from ponder.types import Chain


@named("qalign")
@dataclass(frozen=True, slots=True, repr=False)
class Qalign:
    """Metropolis-Hastings towards p(y) exp(v(y) / beta) (Faria et al. 2025, arXiv:2504.03790, section 3; QUEST, arXiv:2406.00049).

    From an answer y of |y| steps, one step is drawn uniformly, what comes before it is kept, the rest is sampled anew to the end; the new
    answer y' is taken with probability min(1, exp((v(y') - v(y)) / beta) |y| / |y'|). v is the verifier's value in [0, 1], so beta means
    the same for all (the paper takes raw rewards). An answer that ends where the old one was cut is not moved to: no step begins there, so the
    walk could not come back the same way, and short answers would gather more than their share. step: where an answer may be cut; the paper cuts at any token, `step=1`.

    `chains` walks go side by side, `moves` proposals each, the first state being a sample. An answer that was cut, failed, or has no score is
    never taken; a walk that has none yet takes the first that can be. Every state of every walk has a vote, as often as it is stayed in, so
    by `vote` the answer is the likeliest of the stationary distribution; of `max` every answer sampled is a candidate. The walks end once one
    has the value `accept`. Cost: chains * (moves + 1) samples, what is kept of an answer not being paid again, and as many scores.
    """

    moves: int
    verifier: Verifier
    beta: float = 0.1
    chains: int = 1
    step: str | int = "line"
    final: str = "vote"
    accept: float | None = None

    def __post_init__(self) -> None:
        check("qalign", moves=self.moves, chains=self.chains)
        check_final("qalign", self.final, accept=self.accept)
        until(self.step)
        if not self.beta > 0:
            raise UsageError(f"qalign: beta = {self.beta} must be above 0")

    @property
    def continues(self) -> bool:
        """It goes on from partial answers (`ponder.core.continues`)."""
        return True

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        choice, random = Choice(self.final, self.accept), run.random(root, "qalign")
        walks: list[Worth | None] = [None] * self.chains
        for _ in range(self.moves + 1):
            cuts = [0 if now is None else random.choice(starts(now.chain, self.step)) for now in walks]
            parents = [root if now is None else prefix(now.chain, cut) for now, cut in zip(walks, cuts, strict=True)]
            children = await run.extend(parents)
            found = await judged(run, self.verifier, children)
            choice.add(run, found, vote=False)
            new = {id(one.chain): one for one in found if one.value != UNSCORED}
            for at, child in enumerate(children):
                now, then = walks[at], new.get(id(child))
                if then is not None and (now is None or random.random() < self.ratio(now, then, cuts[at])):
                    walks[at] = then
            choice.add(run, [now for now in walks if now is not None])
            if choice.settled:
                return

    def ratio(self, now: Worth, then: Worth, cut: int = 0) -> float:
        """The Metropolis-Hastings ratio of a move that kept `cut` characters: the probability of moving, where it is below 1."""
        back = starts(then.chain, self.step)
        if cut not in back:
            return 0.0
        lengths = len(starts(now.chain, self.step)) / len(back)
        return exp(min(700.0, (then.value - now.value) / self.beta)) * lengths  # a float ends at exp(709)
