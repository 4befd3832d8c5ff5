"""Step labels by roll-outs: finish a prefix again and again, and see how it ends.

`StepRollouts` and `OmegaTree` are strategies, so that roll-outs go through the door: banked, metered, resumed, under a budget. They
ask the grader (`solve(judge=...)`, training mode) and propose nothing: what they found stands in the run's events, and `labelled`
reads it there. Run again on the same bank they cost nothing and find the same.

    outcome = await solve(StepRollouts(n=4, method="binary"), question, policy, bank=bank, judge=judge)
    steps = [first_error(chain, 8) for chain in labelled(strategy, question.id, outcome).chains]

A roll-out that ends by length is not right. One that failed, was not paid for or was cut by the budget says nothing of its prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import sqrt

from ponder.core import Event, Outcome, Policy
from ponder.errors import UsageError
from ponder.learners.datasets import steps_of
from ponder.learners.labels import Counted, Tree, bounds, contradiction
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score, Step, Usage

METHODS = ("exhaustive", "binary")


@named("step_rollouts")
@dataclass(frozen=True, slots=True, repr=False)
class StepRollouts:
    r"""Sample `n` chains, cut them at step ends, and roll prefixes out `k` times, equal prefixes once.

    exhaustive   every prefix: k (T - 1) roll-outs for a chain of T steps (Math-Shepherd, arXiv:2312.08935)
    binary       only wrong chains, only where halving looks for the first error: at most k ceil(log2 T) (OmegaPRM, arXiv:2406.06592).
                 It takes for granted that no step recovers from an error and that the policy can solve the problem at all;
                 right chains need no roll-out. For hard labels alone.

    step: the text that ends a step. lazy: draw so many roll-outs at a time and stop at the first right one: enough for a hard label,
    too few for a share; 0 draws all k at once. reuse: a chain or roll-out that goes through a prefix counts as one of its k draws, and
    a right one proves it; prefixes then take turns by length, shortest first. (A wrong chain is no draw in the binary search, which
    looks at it because it is wrong.) verify: the search also probes the root, where nothing else proves it, and the step
    after the first error, so that `contradiction` can be seen; at most 2 k more. root: estimate the root too, for `progress`. completer:
    who rolls out (the run's policy where None): Math-Shepherd's completer, PAV's prover.

    Chains that did not finish by "stop" get no labels.
    """

    n: int = 1
    k: int = 8
    step: str = "\n"
    method: str = "exhaustive"
    lazy: int = 0
    reuse: bool = True
    verify: bool = False
    root: bool = False
    completer: Policy | None = None

    def __post_init__(self) -> None:
        _check("step_rollouts", self.step, n=self.n, k=self.k)
        if self.method not in METHODS:
            raise UsageError(f"step_rollouts: method {self.method!r} must be one of {', '.join(METHODS)}")
        if not 0 <= self.lazy <= self.k:
            raise UsageError(f"step_rollouts: lazy = {self.lazy} must lie in 0..k = {self.k}")
        if self.verify and self.method != "binary":
            raise UsageError("step_rollouts: verify checks a binary search, and this method is exhaustive; leave it out")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`. Raises `OracleError` without leave to ask the grader, before anything is spent."""
        await run.verdicts([])
        tree = Tree()
        wholes = self._proposed(tree, *await _judged(await run.extend([root], n=self.n), run))
        if self.method == "exhaustive":
            longest = max((len(whole.chain.steps) for whole in wholes), default=0)
            rounds = [range(at, at + 1) for at in range(longest)] if self.reuse else [range(longest)]
            for depths in rounds:
                every = [(whole, at) for whole in wholes for at in depths if at < len(whole.chain.steps)]
                await self._probe([(whole, at) for whole, at in every if at or self.root], tree, run)
            return
        asked: set[tuple[str, ...]] = set()
        while new := [(one, at) for one in wholes for at in self._next(one, tree) if one.texts[:at] not in asked]:
            asked |= {one.texts[:at] for one, at in new}
            await self._probe(new, tree, run)

    def counted(self, problem: str, events: Sequence[Event]) -> list[Counted]:
        """The finished chains, equal ones once, with what the events of a run tell of their prefixes."""
        judged = [event for event in events if event.kind == "score"]
        if not judged:
            return []
        tree = Tree()
        wholes = self._proposed(tree, judged[0].chains, judged[0].scores)
        for event in judged[1:]:
            self._rolled(tree, event.chains, event.scores)
        return [replace(self._known(whole, tree, problem), lazy=self.lazy > 0) for whole in wholes]

    def _proposed(self, tree: Tree, chains: Sequence[Chain], scores: Sequence[Score]) -> list[_Whole]:
        """Note how the chains ended; gives those that finished, equal ones once."""
        fair = self.reuse and self.method == "exhaustive" and self.completer is None
        wholes = [_whole(chain, score, self.step) for chain, score in zip(chains, scores, strict=True)]
        for whole in wholes:
            tree.add(whole.texts, whole.right, range(len(whole.texts) + 1 if fair else 0))
        return _finished(wholes)

    def _rolled(self, tree: Tree, chains: Sequence[Chain], scores: Sequence[Score]) -> None:
        """Note how roll-outs ended."""
        for chain, score in zip(chains, scores, strict=True):
            whole, drawn = _whole(chain, score, self.step), len(chain.steps) - 1
            tree.add(whole.texts, whole.right, range(drawn, len(whole.texts) + 1 if self.reuse else drawn + 1))

    def _known(self, whole: _Whole, tree: Tree, problem: str = "") -> Counted:
        one = tree.counted(problem, whole.chain.prompt, whole.texts, whole.right)
        return one if self.reuse else replace(one, reached=0)

    def _next(self, whole: _Whole, tree: Tree) -> list[int]:
        """Which prefixes of a chain the binary search has to look at next; none where it is done."""
        known = self._known(whole, tree)
        low, high = bounds(known, self.k)
        if whole.right or contradiction(known, self.k) is not None:
            return []
        if high - low > 1:
            return [(low + high) // 2]
        if not self.verify:
            return []
        beside = [high + 1] if low or tree.reached else [0, high + 1]
        return [at for at in beside if at < len(whole.texts)]

    async def _probe(self, wanted: Sequence[tuple[_Whole, int]], tree: Tree, run: Run) -> None:
        """Roll these prefixes out until each has its k draws or, lazily, a right one."""
        rollouts = run.purpose("rollout")
        prefixes = {whole.texts[:at]: Chain(whole.chain.prompt, whole.chain.steps[:at]) for whole, at in wanted}
        missing = {texts: self.k - tree.path(texts)[-1].total for texts in prefixes}
        while left := [texts for texts in prefixes if missing[texts] > 0 and not (self.lazy and tree.path(texts)[-1].right)]:
            sizes = {texts: min(missing[texts], self.lazy or self.k) for texts in left}
            parents = [prefixes[texts] for texts in left for _ in range(sizes[texts])]
            self._rolled(tree, *await _judged(await rollouts.extend(parents, policy=self.completer), run))
            missing |= {texts: missing[texts] - sizes[texts] for texts in left}


@named("omega_tree")
@dataclass(frozen=True, slots=True, repr=False)
class OmegaTree:
    r"""OmegaPRM's tree (arXiv:2406.06592): binary searches in wrong roll-outs, which leave roll-outs for further searches.

    The root is rolled out `k` times. A wrong roll-out r of a state s with 0 < MC(s) < 1 is a candidate; the one with the greatest
    Q(s, r) + U(s) is searched for its first error, each prefix on the way becomes a state with k roll-outs of its own, and so on, at
    most `searches` times.

        Q(s, r) = alpha^(1 - MC(s)) * beta^(len(r) / length)        U(s) = c_puct * sqrt(sum_i N(s_i)) / (1 + N(s))

    len(r) is counted in tokens, N(s) in searches begun at s. Ties go to the older candidate. The numbers are the paper's as public
    reimplementations and notes quote them (its text was not at hand). Deviation: a step is a piece between step ends, not what lies
    between two states; steps where no state was made have no soft label.
    """

    k: int = 8
    searches: int = 20
    step: str = "\n"
    alpha: float = 0.5
    beta: float = 0.9
    length: float = 500.0
    c_puct: float = 0.125

    def __post_init__(self) -> None:
        _check("omega_tree", self.step, k=self.k, searches=self.searches)
        for name, value in (("alpha", self.alpha), ("beta", self.beta)):
            if not 0 < value <= 1:
                raise UsageError(f"omega_tree: {name} = {value} must lie in (0, 1]")
        if not self.length > 0 or not self.c_puct >= 0:
            raise UsageError(f"omega_tree: length = {self.length} must be above 0, c_puct = {self.c_puct} at least 0")

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`. Raises `OracleError` without leave to ask the grader, before anything is spent."""
        await run.verdicts([])
        states: dict[str, _State] = {}
        pool: list[tuple[_State, Chain]] = []
        await self._visit(root, states, pool, run)
        for _ in range(self.searches):
            if not pool:
                return
            visits = sum(state.visits for state in states.values())
            best = max(range(len(pool)), key=lambda at: self._worth(*pool[at], visits))
            state, rollout = pool.pop(best)
            state.visits += 1
            whole = cut_steps(rollout, self.step)
            low, high = len(rollout.steps) - 1, len(whole.steps)
            while high - low > 1:
                middle = (low + high) // 2
                found = await self._visit(Chain(whole.prompt, whole.steps[:middle]), states, pool, run)
                if not found.right and found.total < self.k:
                    break  # roll-outs failed: there is nothing to decide by
                low, high = (middle, high) if found.right else (low, middle)

    def counted(self, problem: str, events: Sequence[Event]) -> list[Counted]:
        """Every finished chain of the tree, equal ones once, with what the events of a run tell of its prefixes."""
        tree, wholes = Tree(), list[_Whole]()
        for chain, score in (pair for event in events for pair in zip(event.chains, event.scores, strict=False)):
            drawn = len(chain.steps) - 1
            wholes.append(_whole(chain, score, self.step))
            tree.add(wholes[-1].texts, wholes[-1].right, range(drawn, drawn + 1))
        return [tree.counted(problem, one.chain.prompt, one.texts, one.right) for one in _finished(wholes)]

    async def _visit(self, prefix: Chain, states: dict[str, _State], pool: list[tuple[_State, Chain]], run: Run) -> _State:
        """The state of a prefix, rolled out when it is new; its wrong roll-outs become candidates if some are right."""
        if prefix.text not in states:
            chains, scores = await _judged(await run.purpose("rollout").extend([prefix], n=self.k), run)
            states[prefix.text] = state = _State(sum(score.value == 1 for score in scores), len(scores))
            ended = zip(chains, scores, strict=True)
            wrong = [(state, chain) for chain, score in ended if score.value == 0 and chain.finish == "stop"]
            pool += wrong if state.right else []
        return states[prefix.text]

    def _worth(self, state: _State, rollout: Chain, visits: int) -> float:
        tokens = rollout.steps[-1].usage.completion
        q: float = self.alpha ** (1 - state.right / state.total) * self.beta ** (tokens / self.length)
        return q + self.c_puct * sqrt(visits) / (1 + state.visits)


@dataclass(slots=True)
class _State:
    right: int
    total: int
    visits: int = 0


@dataclass(frozen=True, slots=True)
class _Whole:
    """A chain cut into steps, and its verdict."""

    chain: Chain
    texts: tuple[str, ...]
    right: bool


@dataclass(frozen=True, slots=True)
class Findings:
    """What a run of roll-outs found in a problem, and at what cost: roll-outs drawn, and tokens of all policies, chains included."""

    chains: tuple[Counted, ...]
    rollouts: int
    tokens: int


def labelled(strategy: StepRollouts | OmegaTree, problem: str, outcome: Outcome) -> Findings:
    """The chains of a run with the counts of their prefixes; a function of the outcome alone, finished or out of budget."""
    drawn = [sum(chain.finish != "cancelled" for chain in event.chains) for event in outcome.events if event.kind == "extend"]
    proposed = 1 if isinstance(strategy, StepRollouts) else 0  # its first call samples the chains themselves
    chains = strategy.counted(problem, outcome.events)
    return Findings(tuple(chains), sum(drawn[proposed:]), outcome.spent.usage.tokens)


def cut_steps(chain: Chain, step: str) -> Chain:
    """The same chain with its last step cut as `steps_of` cuts text; each piece with the tokens that begin in it.

    A prefix of the result is open and can be continued, under what the cap on tokens leaves.
    """
    *before, last = chain.steps
    texts = steps_of(last.text, step)
    ends = list(accumulate(map(len, texts)))
    tokens = last.usage.completion
    if last.tokens is not None:
        starts = list(accumulate(map(len, last.tokens.texts), initial=0))[:-1]
        marks = [bisect_left(starts, end) for end in ends[:-1]]
    else:  # the engine does not say: shared out by length
        marks = [round(tokens * end / ends[-1]) for end in ends[:-1]]
    sizes = [high - low for low, high in pairwise([0, *marks, tokens])]
    sized = zip(texts, sizes, strict=False)  # an empty text has no piece
    pieces = [Step(text, Usage(completion=size), last.source) for text, size in sized]
    return Chain(chain.prompt, (*before, *pieces), chain.finish)


@dataclass(frozen=True, slots=True)
class _Verdicts:
    """The grader as a free verifier, so that events keep what it said; asked only for chains that finished."""

    fingerprint: str = field(default="", init=False)

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """1 for right, 0 for wrong or cut by length."""
        ended = [chain for chain in chains if chain.finish == "stop"]
        right = {chain.digest for chain, one in zip(ended, await run.verdicts(ended), strict=True) if one.correct}
        return [Score(float(chain.finish == "stop" and chain.digest in right)) for chain in chains]


async def _judged(children: Sequence[Chain], run: Run) -> tuple[list[Chain], list[Score]]:
    """Those children that say something of their parents, with their verdicts."""
    drawn = [child for child in children if child.finish in ("stop", "length")]
    limit = run.budget.tokens
    if limit is not None and run.spent.usage.tokens >= limit and drawn and drawn[-1].finish == "length":
        drawn.pop()  # perhaps cut by the budget, not by the cap
    return drawn, await run.score(_Verdicts(), drawn)


def _whole(chain: Chain, score: Score, step: str) -> _Whole:
    whole = cut_steps(chain, step)
    return _Whole(whole, tuple(one.text for one in whole.steps), score.value == 1)


def _finished(wholes: Sequence[_Whole]) -> list[_Whole]:
    """Those that ended by themselves and say something, equal ones once."""
    return list({one.texts: one for one in wholes if one.chain.finish == "stop" and one.texts}.values())


def _check(name: str, step: str, **numbers: int) -> None:
    if not step:
        raise UsageError(f"{name}: step must be the text that ends a step, such as '\\n'; it is empty")
    for field_, value in numbers.items():
        if value < 1:
            raise UsageError(f"{name}: {field_} = {value} must be at least 1")
