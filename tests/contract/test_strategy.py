"""The laws that every registered strategy keeps. A new strategy needs one line in `SPECS` and nothing else."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_search import SEARCHES

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
    question,
    solved,
)
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, Sampling
from ponder.run import Direct, solve
from ponder.spec import names, parse, render
from ponder.testing import MazePolicy
from ponder.types import Chain, Usage

# Each strategy as it is tried; a verifier is an oracle in the spec, so that no model is needed.
CARD = Path(__file__).parents[1] / "data" / "card.toml"
SPECS = {
    "adaptive_consistency": "adaptive_consistency(n=8, batch=2)",
    "auto": f"auto(card={str(CARD)!r})",
    "best_of_n": "best_of_n(n=8, verifier=oracle(), batch=3)",
    "first_finish": "first_finish(n=8)",
    "rejection": "rejection(n=8, verifier=oracle(), batch=2)",
    "sample": "sample()",
    "self_consistency": "self_consistency(n=8, batch=3)",
    "weighted_vote": "weighted_vote(n=8, verifier=oracle(), batch=3)",
}
every = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
DEPTH = 3
MAZE_ANSWER = "a\n" * DEPTH


async def maze_judge(chains):
    judge = judge_of("right")
    return await judge(
        [
            Chain(chain.prompt, (replace(chain.steps[-1], text="right"),)) if chain.text == MAZE_ANSWER else chain
            for chain in chains
        ]
    )


def strategy_of(spec, verifier=None, **values):
    """The strategy of a spec, with its verifier and numbers replaced where it has such fields."""
    made = parse(spec, "strategies")
    assert is_dataclass(made)
    known = {field.name for field in fields(made)}
    values |= {"verifier": verifier} if verifier is not None else {}
    return replace(made, **{name: value for name, value in values.items() if name in known})


def trust(word="right"):
    """A verifier that believes whatever it is shown, most of all what is not right: what never may win would win by it."""
    return Believer(((word, 0.6),), otherwise=1.0)


def sampled(outcome):
    return [chain for event in outcome.events if event.kind == "extend" for chain in event.chains]


def test_every_registered_strategy_stands_in_the_table():
    assert sorted({*SPECS, *SEARCHES}) == names("strategies"), (
        "give each registered strategy a spec in SPECS, or in SEARCHES of test_search"
    )


@every
def test_the_repr_of_a_strategy_is_the_spec_that_makes_it(spec):
    strategy = parse(spec, "strategies")
    assert parse(repr(strategy), "strategies") == strategy
    assert parse(render(strategy, full=True), "strategies") == strategy


@every
def test_the_same_seed_gives_the_same_events_and_another_seed_another_sample(spec):
    runs = [solved(parse(spec, "strategies"), MazePolicy(0.5, 20), seed=seed, judge=maze_judge) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert sampled(runs[0])[0].text != sampled(runs[2])[0].text


@every
@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from(["samples", "tokens", "calls"]),
    limit=st.integers(1, 60),
    price=st.sampled_from([0, 1, 5]),
    cap=st.integers(1, 4),
)
def test_a_budget_is_never_exceeded_and_nothing_is_started_once_it_is_spent(spec, unit, limit, price, cap):
    verifier = Believer(otherwise=0.4, usage=Usage(scored=price, calls=1), fingerprint="dear") if price else trust()
    policy, budget = Watched(MazePolicy(0.5, DEPTH)), Budget(**{unit: limit})
    outcome = solved(strategy_of(spec, verifier), policy, budget=budget, sampling=Sampling(max_tokens=cap))
    spent = {"samples": outcome.spent.samples, "tokens": outcome.spent.usage.tokens, "calls": outcome.spent.usage.calls}
    assert spent[unit] <= limit
    for event in outcome.events:
        assert {"samples": event.spent.samples, "tokens": event.spent.usage.tokens, "calls": event.spent.usage.calls}[
            unit
        ] <= limit
    if unit in ("samples", "calls"):
        assert policy.children <= limit, "children that nobody can pay for reached the policy"
    started = {"samples": lambda u: u.calls, "tokens": lambda u: u.completion, "calls": lambda u: u.calls}[unit]
    assert all(started(usage) < limit for usage in policy.before), "work was started on a spent budget"


@every
@pytest.mark.parametrize("unit", ["samples", "tokens", "calls"])
def test_it_proposes_before_the_budget_is_gone_when_each_sample_is_right(spec, unit):
    least = {"samples": 1, "calls": 2, "tokens": 8 * DEPTH}[unit]  # a race of eight needs the tokens of eight
    outcome = solved(parse(spec, "strategies"), MazePolicy(1.0, DEPTH), budget=Budget(**{unit: least}), judge=maze_judge)
    assert outcome.chain is not None
    assert outcome.answer == MAZE_ANSWER.strip()
    assert outcome.events[-1].spent == outcome.spent


@every
def test_it_reaches_its_policy_through_the_run_only(spec):
    outcome = solved(parse(spec, "strategies"), BehindTheDoor(MazePolicy(1.0, DEPTH)), bank=Door(), judge=maze_judge)
    assert outcome.chain is not None


def test_the_door_of_these_tests_really_is_shut():
    with pytest.raises(AssertionError, match="past the run"):
        solved(parse("sample", "strategies"), BehindTheDoor(MazePolicy(1.0, DEPTH)), bank=Direct())


@every
def test_the_outcome_is_marked_whenever_a_grader_took_part(spec):
    outcome = solved(parse(spec, "strategies"), MazePolicy(0.5, DEPTH), judge=maze_judge)
    assert outcome.oracle is ("oracle" in spec)


@pytest.mark.slow
@every
def test_accuracy_does_not_fall_as_the_budget_grows_under_a_perfect_verifier(spec):
    """p = .49 for the right answer, the best wrong one .21: votes converge to right. Paired over 300 questions; a fall of more than
    three standard errors of the paired difference (at most sqrt(discordant) / n each) is a fall."""
    strategy, policy, n = strategy_of(spec, n=16), MazePolicy(0.7, 2), 300

    async def judge(chains):
        return await judge_of("right")(
            [c if c.text != "a\na\n" else replace(c, steps=(replace(c.steps[-1], text="right"),)) for c in chains]
        )

    async def right_at(samples):
        outcomes = [await solve(strategy, question(i), policy, budget=Budget(samples=samples), judge=judge) for i in range(n)]
        return [outcome.answer == "a\na" for outcome in outcomes]

    curve = asyncio.run(gathered([right_at(samples) for samples in (1, 2, 4, 8, 16)]))
    for less, more in pairwise(curve):
        lost, won = sum(a > b for a, b in zip(less, more, strict=True)), sum(a < b for a, b in zip(less, more, strict=True))
        assert won - lost >= -3 * (won + lost) ** 0.5
    assert abs(sum(curve[0]) / n - 0.49) < 3 * (0.49 * 0.51 / n) ** 0.5


async def gathered(coroutines):
    return [await coroutine for coroutine in coroutines]


@every
@pytest.mark.parametrize("bad", ["length", "error", "filtered", "cancelled", "empty"])
def test_what_is_cut_failed_filtered_cancelled_or_empty_never_wins(spec, bad):
    loser = (" \n", "stop", 1) if bad == "empty" else ("wrong 7", bad, 1)
    script = [loser, loser, loser, ("right", "stop", 5), loser, loser, loser, loser]
    outcome = solved(strategy_of(spec, trust()), Scripted(script), answer=first_word)
    assert outcome.answer in ("right", None)
    assert outcome.chain is None or outcome.chain.finish == "stop"
    if spec not in (SPECS["sample"],):
        assert outcome.answer == "right", "the one good answer of eight was not found"
    nothing = solved(strategy_of(spec, trust()), Scripted([loser]), answer=first_word)
    assert (nothing.chain, nothing.answer) == (None, None)
    assert nothing.spent.samples >= 1
    assert nothing.failed == (nothing.spent.samples if bad == "error" else 0)


@every
def test_an_answer_key_that_gives_an_empty_string_gives_no_answer(spec):
    outcome = solved(strategy_of(spec, trust()), Scripted([("anything", "stop", 1)]), answer=lambda text: "")
    assert (outcome.chain, outcome.answer) == (None, None)


@every
@pytest.mark.parametrize(("first", "second"), [("x", "y"), ("y", "x")])
def test_ties_go_to_what_was_seen_first(spec, first, second):
    script = [(f"{first} 0", "stop", 4), (f"{second} 1", "stop", 4), (f"{first} 2", "stop", 4), (f"{second} 3", "stop", 4)] * 2
    outcome = solved(strategy_of(spec, Believer(otherwise=0.5)), Scripted(script), answer=first_word)
    assert outcome.chain is not None
    assert outcome.chain.text == f"{first} 0"


@every
def test_duplicates_count_as_often_as_they_came(spec):
    outcome = solved(strategy_of(spec, trust()), Scripted([("same", "stop", 2)]), answer=first_word)
    assert outcome.answer == "same"
    assert outcome.spent.usage.completion == 2 * outcome.spent.samples


@every
def test_when_all_samples_fail_there_is_no_proposal_and_no_crash(spec):
    outcome = solved(parse(spec, "strategies"), Flaky(MazePolicy(1.0, 4), frozenset(range(100))), judge=judge_of())
    assert outcome.chain is None
    assert outcome.answer is None
    assert outcome.failed == outcome.spent.samples > 0
    assert outcome.spent.usage.completion == 2 * outcome.failed, "what failed children wrote is paid for"


@every
@pytest.mark.parametrize("failing", [{0}, {0, 1, 2}, {1, 3, 5}, {7}])
def test_when_k_of_n_fail_the_others_decide(spec, failing):
    outcome = solved(parse(spec, "strategies"), Flaky(MazePolicy(1.0, DEPTH), frozenset(failing)), judge=maze_judge)
    seen = [chain.finish for chain in sampled(outcome) if chain.finish != "cancelled"]
    assert outcome.failed == seen.count("error") == len([index for index in failing if index < outcome.spent.samples])
    assert (outcome.chain is not None) == ("stop" in seen)
    assert len(sampled(outcome)) <= 8, "a failed sample is not made up for in silence"


@every
def test_solves_that_share_a_bank_at_concurrency_pay_for_no_sample_twice(spec):
    strategy, policy, bank = strategy_of(spec, n=24), Watched(MazePolicy(0.5, 12)), TableBank(MemoryTable())

    async def crowd():
        return await asyncio.gather(*(solve(strategy, QUESTION, policy, bank=bank, judge=maze_judge) for _ in range(6)))

    outcomes = asyncio.run(crowd())
    assert all(outcome == outcomes[0] for outcome in outcomes)
    assert max(Counter(policy.indices).values()) == 1
    before = policy.children
    assert asyncio.run(crowd()) == outcomes
    assert policy.children == before, "a replay reached the policy"


def test_all_strategies_together_pay_for_the_samples_of_the_dearest():
    policy, bank = Watched(MazePolicy(0.5, DEPTH)), TableBank(MemoryTable())

    async def study():
        return await asyncio.gather(
            *(solve(parse(s, "strategies"), QUESTION, policy, bank=bank, judge=maze_judge) for s in SPECS.values())
        )

    outcomes = asyncio.run(study())
    assert policy.children == max(outcome.spent.samples for outcome in outcomes) == 8


@every
def test_a_banked_run_is_the_run_without_a_bank(spec):
    bank = TableBank(MemoryTable())
    for budget in (None, Budget(tokens=10), Budget(samples=5), Budget(calls=7)):
        direct = solved(parse(spec, "strategies"), MazePolicy(0.6, DEPTH), budget=budget, judge=maze_judge)
        assert solved(parse(spec, "strategies"), MazePolicy(0.6, DEPTH), budget=budget, judge=maze_judge, bank=bank) == direct


@every
def test_a_smaller_cap_replays_as_length_without_the_policy_and_never_wins(spec):
    policy, bank = MazePolicy(1.0, DEPTH), TableBank(MemoryTable())
    whole = solved(strategy_of(spec, trust()), policy, bank=bank)
    before = policy.calls
    short = solved(strategy_of(spec, trust(), n=whole.spent.samples), policy, bank=bank, sampling=Sampling(max_tokens=DEPTH - 1))
    assert policy.calls == before
    assert {chain.finish for chain in sampled(short)} == {"length"}
    assert short.chain is None
    assert short.spent.usage.completion == (DEPTH - 1) * short.spent.samples


@every
def test_a_larger_cap_gives_what_it_would_have_given_from_scratch(spec):
    policy, bank, how = MazePolicy(0.6, DEPTH), TableBank(MemoryTable()), {"judge": maze_judge}
    solved(parse(spec, "strategies"), policy, bank=bank, sampling=Sampling(max_tokens=1), **how)
    larger = solved(parse(spec, "strategies"), policy, bank=bank, sampling=Sampling(max_tokens=9), **how)
    assert larger == solved(parse(spec, "strategies"), MazePolicy(0.6, DEPTH), sampling=Sampling(max_tokens=9), **how)


@every
@pytest.mark.parametrize("cancelled", [False, True])
def test_two_solves_that_ask_for_the_same_children_pay_once_even_when_the_first_is_cancelled(spec, cancelled):
    strategy, bank = strategy_of(spec, trust(), n=4, batch=4), TableBank(MemoryTable())

    async def both():
        maze = MazePolicy(1.0, DEPTH)
        gate = Gate(maze)
        first = asyncio.ensure_future(solve(strategy, QUESTION, gate, bank=bank))
        await gate.entered.wait()
        second = asyncio.ensure_future(solve(strategy, QUESTION, gate, bank=bank))
        for _ in range(5):
            await asyncio.sleep(0)
        assert gate.requests == 1, "the second asked for what was on its way"
        if cancelled:
            first.cancel()
        gate.open.set()
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        return outcomes, maze.calls

    (first, second), calls = asyncio.run(both())
    assert second.answer == MAZE_ANSWER.strip()
    assert isinstance(first, asyncio.CancelledError) if cancelled else first == second
    assert calls == second.spent.samples


@every
def test_the_root_is_all_it_starts_from(spec):
    outcome = solved(parse(spec, "strategies"), MazePolicy(1.0, DEPTH), judge=maze_judge)
    assert all(chain.prompt == ROOT.prompt and len(chain.steps) == 1 for chain in sampled(outcome))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("self_consistency(n=0)", "n = 0 must be at least 1"),
        ("best_of_n(n=4, verifier=oracle(), batch=0)", "batch = 0 must be at least 1"),
        ("weighted_vote(n=-1, verifier=oracle())", "n = -1 must be at least 1"),
        ("rejection(n=0, verifier=oracle())", "n = 0 must be at least 1"),
        ("first_finish(n=0)", "n = 0 must be at least 1"),
        ("adaptive_consistency(n=0)", "n = 0 must be at least 1"),
        (
            "adaptive_consistency(n=4, threshold=1)",
            "adaptive_consistency: threshold 1.0 must lie between 0.5 and 1, both excluded",
        ),
    ],
)
def test_a_strategy_that_cannot_work_is_refused_when_it_is_made(spec, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared below
        parse(spec, "strategies")
    assert str(caught.value) == message


def test_best_of_n_keeps_the_very_first_sample_when_no_score_comes_at_all():
    script = [(f"w{i}", "stop", 1) for i in range(8)]
    outcome = solved(strategy_of(SPECS["best_of_n"], Believer(otherwise=None), batch=2), Scripted(script))
    assert outcome.answer == "w0"


def test_rejection_abstains_when_nothing_is_accepted_and_stops_at_the_first_that_is():
    script = [("no", "stop", 1), ("no", "stop", 1), ("yes a", "stop", 1), ("yes b", "stop", 1)]
    verifier = Believer((("no", 0.49), ("yes", 0.5)))
    accepted = solved(strategy_of(SPECS["rejection"], verifier, batch=1), Scripted(script))
    assert (accepted.answer, accepted.spent.samples) == ("yes a", 3)
    abstained = solved(strategy_of(SPECS["rejection"], verifier, batch=1), Scripted(script[:1]))
    assert (abstained.chain, abstained.answer, abstained.spent.samples) == (None, None, 8)
    failed = solved(strategy_of(SPECS["rejection"], Believer(otherwise=None)), Scripted(script))
    assert failed.chain is None


def test_weights_decide_a_vote_and_samples_without_a_score_have_none():
    script = [("a", "stop", 1)] * 3 + [("b", "stop", 1)] * 2 + [("c", "stop", 1)] * 3
    outcome = solved(strategy_of(SPECS["weighted_vote"], Believer((("a", 0.3), ("b", 0.5)), otherwise=None)), Scripted(script))
    assert outcome.answer == "b"


def test_adaptive_consistency_stops_as_soon_as_the_leader_is_safe():
    always = solved(strategy_of(SPECS["adaptive_consistency"], n=40, batch=1), Scripted([("a", "stop", 1)]))
    assert always.spent.samples == 4  # Beta(5, 1): 31/32 above one half; after three votes it is 15/16
    torn = solved(strategy_of(SPECS["adaptive_consistency"], n=8, batch=1), Scripted([("a", "stop", 1), ("b", "stop", 1)] * 4))
    assert torn.spent.samples == 8
