"""The Monte-Carlo value of a prefix: how it ends when it is finished again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ponder.core import Policy, Sampling, Verifier
from ponder.errors import BudgetExhausted, UsageError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Step, Usage


@named("rollouts")
@dataclass(frozen=True, slots=True, repr=False)
class Rollouts:
    """Finish a prefix `n` times and believe it as much as its ends (Wang et al. 2023, arXiv:2312.08935, eq. 4; there the end is graded).

    verifier: judges the ends. The reference takes no part, unless it is `oracle(...)`, which asks for leave and says so in the result.
    policy: who finishes; None takes the run's own. temperature: of the roll-outs; None takes the run's.

    Value and raw are the mean of the ends' values. An end that was cut by its cap, or gives no answer, counts 0. Ends that tell nothing
    of the prefix are left out, and `error` says how many: those that failed, were refused, were not paid for or were cut by the budget,
    and those that the verifier gave no value. None left is no score. A finished chain is its own one end, and has the verifier's score.

    All prefixes of a call are completed together, in the stream "rollout"; prefixes alike in prompt and text once, and ends alike are
    judged once. A prefix scored again in a later call is rolled out anew. Raises `UsageError` for several roll-outs at temperature 0,
    `CapabilityError` for an engine that cannot go on from a prefix.
    """

    verifier: Verifier
    n: int = 4
    policy: Policy | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"rollouts: n = {self.n} must be at least 1")
        self._sampling(Sampling())

    @property
    def fingerprint(self) -> str:
        """It samples and scores through the run, so it is never banked; the samples and the inner scores are."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, open or finished."""
        leaves = await self._completed([chain for chain in chains if chain.finish is None], run)
        ends = [leaves[chain.digest] if chain.finish is None else [chain] for chain in chains]
        said = await self._judged([leaf for line in ends for leaf in line], run)
        return [
            self._mean(line, said) if chain.finish is None else _end(chain, said)
            for chain, line in zip(chains, ends, strict=True)
        ]

    async def _completed(self, chains: Sequence[Chain], run: Run) -> dict[str, list[Chain]]:
        """`n` ends of each prefix, by its digest; `cancelled` where nothing is left to pay with."""
        prefixes = {chain.digest: chain for chain in chains}
        if not prefixes:
            return {}
        try:
            leaves = await run.purpose("rollout").extend(
                list(prefixes.values()), n=self.n, policy=self.policy, sampling=self._sampling(run.sampling)
            )
        except BudgetExhausted:
            leaves = [prefix.then(Step(""), "cancelled") for prefix in prefixes.values() for _ in range(self.n)]
        limit = run.budget.tokens
        if limit is not None and run.spent.usage.tokens >= limit:  # the last that was paid for may have been cut by the budget
            last = max((at for at, leaf in enumerate(leaves) if leaf.finish != "cancelled"), default=-1)
            if last >= 0 and leaves[last].finish == "length":
                leaves[last] = replace(leaves[last], finish="cancelled")
        return {digest: leaves[at * self.n :][: self.n] for at, digest in enumerate(prefixes)}

    async def _judged(self, ends: Sequence[Chain], run: Run) -> dict[str, Score]:
        """What is said of each end that stopped, by its digest; 0 without an answer."""
        told = {end.digest: end for end in ends if end.finish == "stop"}
        answers = dict(zip(told, run.answers(list(told.values())), strict=True))
        asked = {digest: end for digest, end in told.items() if answers[digest] is not None}
        try:
            scores = await run.score(self.verifier, list(asked.values()))
        except BudgetExhausted:
            scores = [Score(None, error="budget: this score could not be paid for") for _ in asked]
        return dict.fromkeys(told, _NOTHING) | {
            digest: replace(score, usage=Usage()) for digest, score in zip(asked, scores, strict=True)
        }

    def _mean(self, ends: Sequence[Chain], said: Mapping[str, Score]) -> Score:
        scores = [_end(end, said) for end in ends]
        values = [score.value for score in scores if score.value is not None]
        why = Counter(score.error for score in scores if score.value is None)
        reasons = ", ".join(f"{many} x {reason}" for reason, many in why.items())
        error = f"rollouts: {self.n - len(values)} of {self.n} say nothing ({reasons})" if reasons else ""
        if not values:
            return Score(None, error=error)
        mean = sum(values) / len(values)
        return Score(mean, mean, error=error)

    def _sampling(self, sampling: Sampling) -> Sampling:
        own = sampling if self.temperature is None else replace(sampling, temperature=self.temperature)
        if self.n > 1 and not own.temperature:
            raise UsageError(f"rollouts: {self.n} roll-outs at temperature 0 are one; give a temperature above 0, or n=1")
        return own


_NOTHING = Score(0.0)


def _end(chain: Chain, said: Mapping[str, Score]) -> Score:
    """What is known of a chain that ended."""
    if chain.finish == "stop":
        return said[chain.digest]
    return _NOTHING if chain.finish == "length" else Score(None, error=f"the chain ended by {chain.finish!r}")
