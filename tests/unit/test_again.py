"""A strategy inside a strategy: it counts from the first, and what the run has paid for is free to it."""

from __future__ import annotations

import asyncio

import pytest

from fakes import Backwards, Believer, Flaky, SamplingJudge, Scripted, Watched, first_word, judge_of, solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, Sampling
from ponder.errors import BudgetExhausted
from ponder.spec import parse
from ponder.testing import MazePolicy
from ponder.types import Usage


def does(body, policy=None, **how):
    """Solve with a function of root and run in the place of a strategy; what it returned, and the outcome."""
    returned = []

    async def strategy(root, run):
        returned.append(await body(root, run))

    outcome = solved(strategy, policy or MazePolicy(0.5, 8), **how)
    return (returned or [None])[0], outcome


def texts(chains):
    return [chain.text for chain in chains]


def numbered(n=20, tokens=2):
    return Scripted([(str(i), "stop", tokens) for i in range(n)])


def test_it_counts_from_the_first_and_pays_only_for_what_is_new():
    policy = numbered()

    async def body(root, run):
        pilot = await run.extend([root], n=3)
        return pilot, await run.again().extend([root], n=5), await run.extend([root], n=3), run.spent

    (pilot, inner, outer, spent), outcome = does(body, policy)
    assert [texts(line) for line in (pilot, inner, outer)] == [["0", "1", "2"], ["0", "1", "2", "3", "4"], ["3", "4", "5"]]
    assert (spent.samples, spent.usage) == (6, Usage(prompt=18, completion=12, calls=6))
    assert [index for _, index in policy.asked] == [0, 1, 2, 3, 4, 5], (
        "a sample was asked for twice, without a bank to remember it"
    )
    assert [texts(event.chains) for event in outcome.events] == [["0", "1", "2"], ["3", "4"], ["5"]]


def test_two_of_them_each_count_from_the_first():
    async def body(root, run):
        return [texts(await run.again().extend([root], n=2)) for _ in range(3)]

    lines, outcome = does(body, numbered())
    assert lines == [["0", "1"]] * 3
    assert outcome.spent.samples == 2
    assert len(outcome.events) == 1


def test_a_score_is_free_as_often_as_it_was_bought():
    verifier = Believer(usage=Usage(scored=5, calls=1), fingerprint="dear")
    policy = Scripted([("same", "stop", 1)])

    async def body(root, run):
        pilot = await run.extend([root], n=2)
        first = await run.score(verifier, pilot)
        inner = run.again()
        again = await inner.score(verifier, await inner.extend([root], n=3))
        return first, again, run.spent.usage.scored, len(verifier.judged)

    (first, again, scored, judged), outcome = does(body, policy)
    assert again[:2] == first
    assert scored == 15, "three equal chains are scored three times, as without a pilot"
    assert judged == 3
    assert [len(event.chains) for event in outcome.events] == [2, 2, 1, 1]


@pytest.mark.parametrize("unit", ["samples", "tokens", "calls"])
def test_on_a_spent_budget_it_gets_what_is_paid_for_and_nothing_else(unit):
    limit = {"samples": 4, "tokens": 8, "calls": 4}[unit]

    async def body(root, run):
        await run.extend([root], n=4)
        inner = run.again()
        got = await inner.extend([root], n=6)
        with pytest.raises(BudgetExhausted):
            await inner.extend([root])
        return got

    got, outcome = does(body, numbered(), budget=Budget(**{unit: limit}))
    assert texts(got) == ["0", "1", "2", "3", "", ""]
    assert [chain.finish for chain in got] == ["stop"] * 4 + ["cancelled"] * 2
    assert outcome.exhausted
    assert (outcome.spent.samples, outcome.spent.usage.completion) == (4, 8)


def test_a_score_that_was_bought_is_given_on_a_spent_budget_and_a_new_one_is_not():
    verifier = Believer(usage=Usage(scored=2, calls=1), fingerprint="dear")

    async def body(root, run):
        [one] = await run.extend([root])
        [other] = await run.extend([root])
        await run.score(verifier, [one])
        inner = run.again()
        got = await inner.score(verifier, [one, other])
        with pytest.raises(BudgetExhausted):
            await inner.score(verifier, [other])
        return got

    got, outcome = does(body, numbered(), budget=Budget(tokens=6))
    assert [score.value for score in got] == [1.0, None]
    assert outcome.spent.usage.tokens == 6


def test_what_failed_stays_failed_and_is_not_asked_for_again():
    policy = Watched(Flaky(numbered(), frozenset({1})))

    async def body(root, run):
        await run.extend([root], n=2)
        return await run.again().extend([root], n=3)

    got, outcome = does(body, policy)
    assert [chain.finish for chain in got] == ["stop", "error", "stop"]
    assert (outcome.failed, outcome.spent.samples) == (1, 3)
    assert [index for _, index in policy.indices] == [0, 1, 2]


def test_another_policy_another_purpose_and_another_cap_are_other_samples_and_paid_for():
    other, policy = MazePolicy(0.5, 40), numbered(tokens=1)

    async def body(root, run):
        await run.extend([root], n=2)
        inner = run.again(other)
        mazes = await inner.extend([root], n=2)
        judged = await run.again().purpose("judge").extend([root])
        short = await run.again().extend([root], sampling=Sampling(max_tokens=1))
        return mazes, judged, short

    (mazes, judged, short), outcome = does(body, policy)
    assert all(chain.text.endswith("\n") for chain in mazes)
    assert texts(judged + short) == ["0", "0"]
    assert outcome.spent.samples == 6


def test_the_policy_it_takes_is_its_own_and_the_run_keeps_its_own():
    async def body(root, run):
        inner = run.again(numbered())
        return inner.policy.info.name, inner.purpose("x").policy.info.name, run.policy.info.name, run.again().policy.info.name

    assert does(body)[0] == ("scripted", "scripted", "maze(0.5, 8)", "maze(0.5, 8)")


def test_a_judge_that_samples_through_its_run_is_free_where_it_says_the_same_again():
    async def body(root, run):
        judge = SamplingJudge()
        children = await run.extend([root], n=2)
        await run.score(judge, children)
        before = run.spent
        inner = run.again()
        await inner.score(judge, await inner.extend([root], n=2))
        return before, run.spent

    (before, after), _ = does(body)
    assert before == after
    assert before.samples == 4


def test_in_a_race_those_that_have_been_paid_for_run_for_nothing():
    policy = Scripted([("slow", "stop", 9), ("fast", "stop", 3), ("late", "stop", 8)])

    async def body(root, run):
        await run.extend([root], n=2)
        return await run.again().race(root, n=3)

    ended, outcome = does(body, policy, answer=first_word)
    assert [chain.finish for chain in ended] == ["cancelled", "stop", "cancelled"]
    assert outcome.spent.usage.completion == 9 + 3 + 3, "the third is charged up to the length of the winner"


def test_a_race_has_the_tokens_that_those_paid_for_do_not_need():
    policy = Scripted([("slow", "stop", 6), ("other", "stop", 6)])

    async def body(root, run):
        await run.extend([root])
        return await run.again().race(root, n=2)

    ended, outcome = does(body, policy, budget=Budget(tokens=12), answer=first_word)
    assert [chain.finish for chain in ended] == ["stop", "cancelled"]
    assert outcome.spent.usage.completion == 12


@pytest.mark.parametrize("budget", [None, Budget(tokens=400), Budget(samples=30)], ids=str)
def test_those_in_flight_together_pay_once_and_in_the_order_of_their_calls(budget):
    async def body(root, run):
        inner = [run.again() for _ in range(4)]
        return await asyncio.gather(*(view.extend([root], n=n) for view, n in zip(inner, (2, 5, 1, 7), strict=True)))

    bank = TableBank(MemoryTable())
    lines, outcome = does(body, Backwards(MazePolicy(0.5, 8)), bank=bank, budget=budget)
    assert all(texts(line) == texts(lines[3])[: len(line)] for line in lines)
    assert outcome.spent.samples == 7
    assert [len(event.chains) for event in outcome.events] == [2, 3, 2]


WHOLE = {
    "sample": 1,
    "self_consistency(n=6, batch=4)": 6,
    "best_of_n(n=6, verifier=oracle(), batch=4)": 6,
    "weighted_vote(n=6, verifier=oracle(), batch=2)": 6,
    "adaptive_consistency(n=8, batch=2)": None,
    "rejection(n=8, verifier=oracle())": None,
}


@pytest.mark.parametrize("spec", WHOLE)
@pytest.mark.parametrize("pilot", [1, 3, 8])
@pytest.mark.parametrize("budget", [None, Budget(samples=20), Budget(tokens=200)], ids=str)
def test_a_pilot_is_not_wasted_and_changes_no_answer(spec, pilot, budget):
    """Whatever came before it, the strategy inside answers as it would alone; together they pay for the longer of the two."""
    strategy = parse(spec, "strategies")

    async def after_a_pilot(root, run):
        await run.extend([root], n=pilot)
        await strategy(root, run.again())

    for seed in range(5):
        how = {"seed": seed, "judge": judge_of("a"), "answer": first_word, "budget": budget}
        alone = solved(strategy, MazePolicy(0.6, 3), **how)
        inside = solved(after_a_pilot, MazePolicy(0.6, 3), **how)
        assert inside.chain == alone.chain
        assert inside.spent.samples == max(pilot, alone.spent.samples)
