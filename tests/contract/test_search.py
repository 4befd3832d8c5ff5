"""The laws that every search over steps keeps. A new one needs one line in `SEARCHES` and nothing else.

The laws of strategies that draw whole, independent answers stand in test_strategy.py; here a run may go on from a prefix, so that what
it draws depends on what its guide believes.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import (
    QUESTION,
    ROOT,
    BehindTheDoor,
    Believer,
    Door,
    Flaky,
    Gate,
    Scripted,
    Watched,
    first_word,
    judge_of,
    solved,
)
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, Sampling
from ponder.errors import OracleError, UsageError
from ponder.run import solve
from ponder.spec import parse, render
from ponder.testing import MazePolicy
from ponder.types import Score, Usage

# Each search as it is tried; the verifier is replaced by a guide that knows the maze, so that no model is needed.
SEARCHES = {
    "ab_mcts": "ab_mcts(simulations=60, parallel=2, verifier=confidence)",
    "beam": "beam(width=2, branch=3, verifier=confidence)",
    "best_first": "best_first(expansions=8, branch=3, verifier=confidence)",
    "dvts": "dvts(trees=2, branch=3, verifier=confidence)",
    "evolve": "evolve(population=4, generations=2, mutate='step', verifier=confidence)",
    "lookahead": "lookahead(width=2, branch=3, verifier=confidence)",
    "mcts": "mcts(simulations=12, branch=3, parallel=2, verifier=confidence)",
    "particles": "particles(n=6, verifier=confidence)",
    "qalign": "qalign(moves=4, chains=2, verifier=confidence)",
    "rebase": "rebase(n=6, verifier=confidence)",
    "stages": "stages(branch=4, stages=('A', 'B'), prompt='', verifier=confidence)",
    "step_best_of_n": "step_best_of_n(n=4, verifier=confidence)",
    "tree_of_thoughts": "tree_of_thoughts(branch=3, width=2, verifier=confidence)",
}
every = pytest.mark.parametrize("spec", SEARCHES.values(), ids=SEARCHES.keys())
# A stage is put between tags, which a maze does not walk by.
mazes = pytest.mark.parametrize(
    "spec", [s for n, s in SEARCHES.items() if n != "stages"], ids=[n for n in SEARCHES if n != "stages"]
)
DEPTH = 4
RIGHT = "a\n" * DEPTH


@dataclass(frozen=True)
class Knowing:
    """Believes a prefix of the maze by the share of its crossings that were right; price: positions of each score."""

    price: int = 0
    fingerprint: str = ""

    async def score(self, chains, run):
        usage = Usage(scored=self.price, calls=1) if self.price else Usage()
        return [Score((1 + c.text.count("a")) / (2 + c.text.count("\n")), usage=usage) for c in chains]


def search_of(spec, verifier=None, **values):
    """The search of a spec, with its guide and numbers replaced where it has such fields."""
    made = parse(spec, "strategies")
    assert is_dataclass(made)
    known = {field.name for field in fields(made)}
    return replace(made, verifier=verifier or Knowing(), **{name: value for name, value in values.items() if name in known})


def sampled(outcome):
    return [chain for event in outcome.events if event.kind == "extend" for chain in event.chains]


@every
def test_the_repr_of_a_search_is_the_spec_that_makes_it(spec):
    strategy = parse(spec, "strategies")
    assert parse(repr(strategy), "strategies") == strategy
    assert parse(render(strategy, full=True), "strategies") == strategy


@mazes
def test_the_same_seed_gives_the_same_events_and_another_seed_another_sample(spec):
    runs = [solved(search_of(spec), MazePolicy(0.5, 20), seed=seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert [c.text for c in sampled(runs[0])] != [c.text for c in sampled(runs[2])]


@mazes
@settings(max_examples=40, deadline=None)
@given(
    unit=st.sampled_from(["samples", "tokens", "calls"]),
    limit=st.integers(1, 60),
    price=st.sampled_from([0, 1, 5]),
    cap=st.integers(1, 5),
)
def test_a_budget_is_never_exceeded_and_nothing_is_started_once_it_is_spent(spec, unit, limit, price, cap):
    policy, budget = Watched(MazePolicy(0.5, DEPTH)), Budget(**{unit: limit})
    guide = Knowing(price, "knowing" if price else "")
    outcome = solved(search_of(spec, guide), policy, budget=budget, sampling=Sampling(max_tokens=cap))
    for event in outcome.events:
        spent = {"samples": event.spent.samples, "tokens": event.spent.usage.tokens, "calls": event.spent.usage.calls}
        assert spent[unit] <= limit
    if unit in ("samples", "calls"):
        assert policy.children <= limit, "children that nobody can pay for reached the policy"
    assert outcome.events[-1].spent == outcome.spent
    if "lookahead" not in spec:  # what it looks at is no candidate
        assert (outcome.chain is None) == all(chain.finish != "stop" for chain in sampled(outcome)), "an answer was not given"


@mazes
def test_it_reaches_its_policy_through_the_run_only_and_finds_the_way(spec):
    outcome = solved(search_of(spec), BehindTheDoor(MazePolicy(1.0, DEPTH)), bank=Door())
    assert outcome.chain is not None
    assert outcome.chain.text == RIGHT
    assert outcome.chain.prompt == ROOT.prompt
    assert not outcome.oracle


@every
@pytest.mark.parametrize("bad", ["length", "error", "filtered", "cancelled", "empty"])
def test_what_is_cut_failed_filtered_cancelled_or_empty_never_wins(spec, bad):
    loser = (" \n", "stop", 1) if bad == "empty" else ("wrong 7", bad, 1)
    script = [loser, ("right", "stop", 5), loser, loser]
    greedy = Believer((("right", 0.6),), otherwise=1.0)  # believes most what never may win
    outcome = solved(search_of(spec, greedy), Scripted(script), answer=word_outside_tags)
    assert outcome.answer in ("right", None)
    assert outcome.chain is None or outcome.chain.finish == "stop"
    nothing = solved(search_of(spec, greedy), Scripted([loser]), answer=word_outside_tags)
    assert (nothing.chain, nothing.answer) == (None, None)
    assert nothing.spent.samples >= 1
    assert nothing.failed == (nothing.spent.samples if bad == "error" else 0)


def word_outside_tags(text):
    return first_word(text.replace("<A>", "").replace("<B>", ""))


@every
def test_scores_that_fail_do_not_end_a_search_and_its_first_answer_stands(spec):
    script = [("w0", "stop", 1), ("w1", "stop", 1)]
    outcome = solved(search_of(spec, Believer(otherwise=None)), Scripted(script), answer=word_outside_tags)
    assert outcome.answer == "w0"


@every
@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("y", "x")])
def test_ties_go_to_what_was_seen_first(spec, first, second):
    script = [(f"{first} 0", "stop", 4), (f"{second} 1", "stop", 4)]
    one = search_of(spec, Believer(otherwise=0.5), final="max")
    outcome = solved(one, Scripted(script), answer=word_outside_tags)
    assert outcome.answer == first


@every
def test_when_all_samples_fail_there_is_no_proposal_and_no_crash(spec):
    outcome = solved(search_of(spec), Flaky(MazePolicy(1.0, DEPTH), frozenset(range(1000))))
    assert (outcome.chain, outcome.answer) == (None, None)
    assert outcome.failed == outcome.spent.samples > 0


@mazes
@pytest.mark.parametrize("failing", [{0}, {0, 2}, {1, 3, 5}])
def test_when_some_children_of_each_prefix_fail_the_others_go_on(spec, failing):
    outcome = solved(search_of(spec), Flaky(MazePolicy(1.0, DEPTH), frozenset(failing)))
    assert outcome.failed == [c.finish for c in sampled(outcome)].count("error")
    assert outcome.chain is None or outcome.chain.text == RIGHT


@mazes
def test_solves_that_share_a_bank_at_concurrency_pay_for_no_sample_twice(spec):
    strategy, policy, bank = search_of(spec), Watched(MazePolicy(0.5, DEPTH)), TableBank(MemoryTable())

    async def crowd():
        return await asyncio.gather(*(solve(strategy, QUESTION, policy, bank=bank) for _ in range(4)))

    outcomes = asyncio.run(crowd())
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert max(Counter(policy.indices).values()) == 1
    before = policy.children
    assert asyncio.run(crowd()) == outcomes
    assert policy.children == before, "a replay reached the policy"


@mazes
def test_a_banked_run_is_the_run_without_a_bank(spec):
    bank = TableBank(MemoryTable())
    for budget in (None, Budget(tokens=10), Budget(samples=5), Budget(calls=7)):
        direct = solved(search_of(spec), MazePolicy(0.6, DEPTH), budget=budget)
        assert solved(search_of(spec), MazePolicy(0.6, DEPTH), budget=budget, bank=bank) == direct


@mazes
def test_under_a_cap_that_no_answer_fits_all_chains_are_cut_and_none_wins(spec):
    outcome = solved(search_of(spec), MazePolicy(1.0, DEPTH), sampling=Sampling(max_tokens=DEPTH - 1))
    assert outcome.chain is None
    assert "stop" not in {chain.finish for chain in sampled(outcome)}
    assert all(chain.usage.completion <= DEPTH - 1 for chain in sampled(outcome))


@mazes
def test_a_larger_cap_gives_what_it_would_have_given_from_scratch(spec):
    policy, bank = MazePolicy(0.6, DEPTH), TableBank(MemoryTable())
    for cap in (2, DEPTH, 9):
        banked = solved(search_of(spec), policy, bank=bank, sampling=Sampling(max_tokens=cap))
        assert banked == solved(search_of(spec), MazePolicy(0.6, DEPTH), sampling=Sampling(max_tokens=cap))


@mazes
def test_a_smaller_cap_replays_from_the_bank_what_was_sampled_under_a_larger_one(spec):
    policy, bank = Watched(MazePolicy(1.0, DEPTH)), TableBank(MemoryTable())
    for cap in (DEPTH, DEPTH - 1, 1):
        short = solved(search_of(spec), policy, bank=bank, sampling=Sampling(max_tokens=cap))
        assert (short.chain is None) == (cap < DEPTH)
    assert max(Counter(policy.indices).values()) == 1, "a sample in the bank was paid again"


@mazes
@pytest.mark.parametrize("cancelled", [False, True])
def test_two_solves_that_ask_for_the_same_children_pay_once_even_when_the_first_is_cancelled(spec, cancelled):
    strategy, bank = search_of(spec), TableBank(MemoryTable())

    async def both():
        maze = MazePolicy(0.8, DEPTH)
        watched = Watched(maze)
        gate = Gate(watched)
        first = asyncio.ensure_future(solve(strategy, QUESTION, gate, bank=bank))
        await gate.entered.wait()
        second = asyncio.ensure_future(solve(strategy, QUESTION, gate, bank=bank))
        for _ in range(5):
            await asyncio.sleep(0)
        assert gate.requests == 1, "the second asked for what was on its way"
        if cancelled:
            first.cancel()
        gate.open.set()
        return await asyncio.gather(first, second, return_exceptions=True), watched.indices

    (first, second), indices = asyncio.run(both())
    assert second == solved(strategy, MazePolicy(0.8, DEPTH))
    assert isinstance(first, asyncio.CancelledError) if cancelled else first == second
    assert max(Counter(indices).values()) == 1


@mazes
def test_the_outcome_is_marked_when_a_grader_is_the_guide_and_only_with_leave(spec):
    oracle = parse("oracle()", "verifiers")
    marked = solved(search_of(spec, oracle), MazePolicy(0.5, DEPTH), judge=judge_of("a"))
    assert marked.oracle
    with pytest.raises(OracleError):
        solved(search_of(spec, oracle), MazePolicy(0.5, DEPTH))


@pytest.mark.parametrize("name", ["beam", "best_first", "lookahead", "mcts", "step_best_of_n", "tree_of_thoughts"])
def test_children_of_one_prefix_are_asked_for_together_so_that_a_prefix_cache_serves_them(name):
    asked = []

    class Noted(MazePolicy):
        async def sample(self, asks, *, until, sampling):
            asked.append([(ask.chain.digest, ask.stream) for ask in asks])
            return await super().sample(asks, until=until, sampling=sampling)

    outcome = solved(search_of(SEARCHES[name]), Noted(0.5, DEPTH))
    assert all(max(Counter(request).values()) == 1 for request in asked)
    assert len(asked) == len([event for event in outcome.events if event.kind == "extend"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("beam(width=0, branch=1, verifier=confidence)", "beam: width = 0 must be at least 1"),
        ("beam(width=1, branch=1, verifier=confidence, step='word')", "step = 'word' must be one of line, paragraph, sentence"),
        (
            "beam(width=1, branch=1, verifier=confidence, final='best')",
            "beam: final = 'best' must be one of max, vote, weighted_vote",
        ),
        ("particles(n=1000001, verifier=confidence)", "particles: n = 1000001 must be at most 1,000,000"),
        ("dvts(trees=1, branch=0, verifier=confidence)", "dvts: branch = 0 must be at least 1"),
        ("rebase(n=4, verifier=confidence, temperature=0)", "rebase: temperature = 0.0 must be above 0"),
        ("best_first(expansions=1, branch=1, verifier=confidence, cost=-1)", "best_first: cost = -1.0 must be at least 0"),
        ("best_first(expansions=1, branch=1, verifier=confidence, accept=2)", "best_first: accept = 2.0 must lie in"),
        ("tree_of_thoughts(branch=1, verifier=confidence, search='x')", "tree_of_thoughts: search = 'x' must be bfs or dfs"),
        ("mcts(simulations=1, branch=1, verifier=confidence, rule='ucb')", "mcts: rule = 'ucb' must be one of uct, puct"),
        ("mcts(simulations=1, branch=1, verifier=confidence, c=-1)", "mcts: c = -1.0 must be at least 0"),
        ("mcts(simulations=1, branch=1, verifier=confidence, actions=())", "mcts: actions = 0 must be at least 1"),
        ("ab_mcts(simulations=1, verifier=confidence, prior=0)", "ab_mcts: prior = 0.0 must be above 0"),
        ("mcts(simulations=1, branch=2, verifier=confidence, actions=5)", "mcts: actions = 5 must be a tuple of texts"),
        ("mcts(simulations=1, branch=2, verifier=confidence, actions=(1, 2))", "mcts: actions = (1, 2) must be a tuple of texts"),
        ("stages(branch=1, verifier=confidence, stages='ABC')", "stages: stages = 'ABC' must be a tuple of texts"),
        ("ab_mcts(simulations=1, verifier=confidence, prior=1e999)", "ab_mcts: prior = inf must be above 0, and at most 1e+06"),
        ("mcts(simulations=1, branch=1, verifier=confidence, c=1e999)", "mcts: c = inf must be at least 0, and finite"),
        ("best_first(expansions=1, branch=1, verifier=confidence, cost=1e999)", "cost = inf must be at least 0, and finite"),
        ("tree_of_thoughts(branch=1, verifier=confidence, prune=1)", "tree_of_thoughts: prune = 1.0 must lie in [-1, 1)"),
        ("particles(n=1, verifier=confidence, resample='x')", "particles: resample = 'x' must be one of multinomial"),
        ("particles(n=1, verifier=confidence, ess=2)", "particles: ess = 2.0 must lie in"),
        ("qalign(moves=1, verifier=confidence, beta=0)", "qalign: beta = 0.0 must be above 0"),
        ("evolve(population=1, generations=1, verifier=confidence, mutate='x')", "evolve: mutate = 'x' must be prompt or step"),
        ("evolve(population=1, generations=1, verifier=confidence, prompt='x@1')", "prompt 'x@1' is none of evolve@1, stages@1"),
        ("stages(branch=1, verifier=confidence, stages=('a b',))", "stages: a stage is a tag of letters and digits, not 'a b'"),
        ("lookahead(width=1, branch=1, verifier=confidence, ahead=-1)", "lookahead: ahead = -1 must be at least 0"),
    ],
)
def test_a_search_that_cannot_work_is_refused_when_it_is_made(spec, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared below
        parse(spec, "strategies")
    assert message in str(caught.value)


def test_no_call_asks_for_more_children_than_fit_in_memory():
    with pytest.raises(
        UsageError,
        match=r"extend: 1 chains x n = 1000000000: at least one child must be asked for, at most 1,000,000 in one call",
    ):
        solved(
            search_of("beam(width=1000, branch=1000000, verifier=confidence)"), MazePolicy(0.5, DEPTH), budget=Budget(samples=1)
        )
