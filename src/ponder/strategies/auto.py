"""Looks at a question first, then does what a policy card found best for such questions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import cast

from ponder.core import Policy, PolicyInfo, Strategy, Verifier, parts
from ponder.errors import UsageError
from ponder.run import Run
from ponder.scaling.card import Card, Choice, features, read
from ponder.spec import named, parse
from ponder.types import Chain

AUTO = re.compile(r"\bauto\s*([(:]|$)")  # anywhere in a spec: a card that is read for its own sake would be read for ever


@named("auto")
@dataclass(frozen=True, slots=True, repr=False)
class Auto:
    """Compute-optimal scaling (Snell et al. 2024, arXiv:2408.03314, section 3, eq. 1) by the card of `ponder tune`.

    It draws the card's pilot, scores it where the card has a guide, and takes the strategy that the card has for the question's bin and the
    budget. That strategy begins anew (`Run.again`): it answers as it would alone, and what the pilot has paid for costs it nothing. It
    stops when it stops: that is where questions that turn out to be easy save.

    card: a file. budget: tokens that a question may cost on average, of which the card's largest within it counts; left out, the run's own
    budget of tokens, or the largest of the card. any_policy: use the card under policies and verifiers that it was not measured with, which
    is refused otherwise. The best of the pilot is proposed at once. Deviations: bins are what the pilot shows, not quantiles of an estimated
    pass rate; estimating them is paid for. Raises `DataError` for a file that is no card, `UsageError` for a budget below all of the card's
    and for a stranger, before anything is spent. Cost: the pilot, and what the chosen strategy draws beyond it.
    """

    card: str
    budget: int | None = None
    any_policy: bool = False
    plan: Card = field(init=False)
    guides: tuple[Verifier, ...] = field(init=False)
    strategies: tuple[Strategy, ...] = field(init=False)
    policies: tuple[Policy, ...] = field(init=False)

    def __post_init__(self) -> None:
        plan = read(self.card)
        if self.budget is not None and self.budget < plan.budgets[0]:
            known = ", ".join(map(str, plan.budgets))
            raise UsageError(f"auto: budget = {self.budget} is below all of the card {self.card!r}, which has {known} tokens")
        if any(AUTO.search(choice.strategy) for choice in plan.choices):
            raise UsageError(f"auto: the card {self.card!r} names auto itself; a card chooses among other strategies")
        specs = dict.fromkeys(choice.strategy for choice in plan.choices)
        owners = dict.fromkeys(choice.policy for choice in plan.choices if choice.policy)
        made = {
            "plan": plan,
            "guides": (cast("Verifier", parse(plan.guide, "verifiers")),) if plan.guide else (),
            "strategies": tuple(cast("Strategy", parse(spec, "strategies")) for spec in specs),
            "policies": tuple(cast("Policy", parse(spec, "policies")) for spec in owners),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`."""
        self.check(run.policy.info)
        pilot = await run.extend([root], n=self.plan.pilot)
        answers = run.answers(pilot)
        finished = [chain for chain, answer in zip(pilot, answers, strict=True) if answer is not None]
        if finished:
            run.propose(finished[0])
        scores: list[float | None] = []
        for guide in self.guides:
            scores = [score.value for score in await run.score(guide, finished)]
        known = [(score, chain) for score, chain in zip(scores, finished, strict=False) if score is not None]
        if known:
            run.propose(max(known, key=lambda pair: pair[0])[1])
        lengths = [chain.usage.completion for chain in pilot]
        choice = self.choice(self.plan.bin(features(answers, lengths, scores)), run.budget.tokens)
        strategy, policy = self._parts(choice)
        await strategy(root, run.again(policy))

    def check(self, own: PolicyInfo) -> None:
        """Raise `UsageError` if the card was not measured with this policy, or with the parts that it names as they are now."""
        inside = [part for part in parts(self)[1:] if part is not self.plan]
        policies = [own.fingerprint, *(cast("Policy", part).info.fingerprint for part in inside if hasattr(part, "sample"))]
        scorers = [cast("Verifier", part).fingerprint for part in inside if hasattr(part, "score")]
        verifiers = [one for one in scorers if one]
        if not self.any_policy and (strange := self.plan.strangers(policies, verifiers)):
            known = dict(self.plan.measured)
            names, prints = (" and ".join(map(str, known.get(key, ()))) for key in ("policies", "fingerprints"))
            what = (
                f"the policy here is {own.name} ({strange[0]})"
                if strange[0] == own.fingerprint
                else f"a part of it is now {strange[0]}"
            )
            raise UsageError(
                f"auto: the card {self.card!r} was measured on {names or 'policies'} ({prints}), and {what}: what it promises does not hold; "
                f"tune a card on this (`ponder tune`), or use it all the same: auto(card={self.card!r}, any_policy=True)"
            )

    def within(self, tokens: int) -> Auto:
        """The same card under another budget, with the very parts of this one: what is open stays open."""
        other = object.__new__(Auto)
        for one in fields(Auto):
            object.__setattr__(other, one.name, tokens if one.name == "budget" else getattr(self, one.name))
        return other

    def choice(self, bin_: int, tokens: int | None) -> Choice:
        """What the card has for a bin, under this strategy's budget or, without one, that of the run."""
        budget = self.plan.affordable(tokens if self.budget is None else self.budget)
        return next(one for one in self.plan.choices if (one.bin, one.budget) == (bin_, budget))

    def _parts(self, choice: Choice) -> tuple[Strategy, Policy | None]:
        specs = list(dict.fromkeys(one.strategy for one in self.plan.choices))
        owners = list(dict.fromkeys(one.policy for one in self.plan.choices if one.policy))
        policy = self.policies[owners.index(choice.policy)] if choice.policy else None
        return self.strategies[specs.index(choice.strategy)], policy
