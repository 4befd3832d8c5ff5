"""The door: what a budget cuts, what is booked when it is spent, and what a race costs."""

from __future__ import annotations

import asyncio

import pytest
from run_cases import does, said

from fakes import (
    QUESTION,
    Backwards,
    Believer,
    Gate,
    SamplingJudge,
    Scripted,
    Typist,
    Watched,
    first_word,
    solved,
)
from ponder.core import Budget, Price, Sampling, Until
from ponder.errors import BudgetExhausted
from ponder.testing import FakeClock, MazePolicy
from ponder.types import Score, Step, Usage


def test_what_verifiers_sample_is_on_the_same_meter_and_in_order_before_their_scores():
    async def body(root, run):
        children = await run.extend([root], n=2)
        return await asyncio.gather(run.score(SamplingJudge(), children), run.score(SamplingJudge(n=2), children))

    _, straight = does(body, MazePolicy(0.5, 8))
    _, backwards = does(body, Backwards(MazePolicy(0.5, 8)))
    assert backwards == straight
    assert [event.kind for event in straight.events] == ["extend", "extend", "score", "extend", "score"]
    assert straight.spent == straight.events[-1].spent
    assert straight.spent.samples == 2 + 2 + 4
    assert straight.spent.usage.completion == 8 * 8


@pytest.mark.parametrize("cap", [8, 9, 1024])
def test_the_last_child_is_cut_where_the_tokens_end_and_the_rest_is_never_started(cap):
    policy = Typist(["abcdefgh"] * 5)
    children, outcome = does(
        lambda root, run: run.extend([root], n=5), policy, budget=Budget(tokens=20), sampling=Sampling(max_tokens=cap)
    )
    assert [(child.text, child.finish) for child in children] == [
        ("abcdefgh", "stop"), ("abcdefgh", "stop"), ("abcd", "length"), ("", "cancelled"), ("", "cancelled"),
    ]  # fmt: skip
    assert (outcome.spent.samples, outcome.spent.usage.completion, outcome.exhausted) == (3, 20, True)
    assert len(policy.prompts) == 3, "children that nobody can pay for reached the policy"
    assert outcome.chain is None


def test_a_paid_score_waits_for_what_earlier_calls_leave():
    verifier = Believer(usage=Usage(scored=1, calls=1), fingerprint="dear")

    async def body(root, run):
        return await asyncio.gather(run.extend([root], n=4), run.score(verifier, [root]), return_exceptions=True)

    (_, score), _ = does(body, Backwards(MazePolicy(0.5, 8)), budget=Budget(tokens=32))
    assert isinstance(score, BudgetExhausted)
    assert verifier.judged == []


def test_a_budget_that_just_suffices_is_not_exhausted():
    _, outcome = does(lambda root, run: run.extend([root], n=4), budget=Budget(tokens=32, samples=4, calls=4))
    assert not outcome.exhausted


def test_the_call_after_the_last_token_raises_with_what_was_spent():
    async def body(root, run):
        await run.extend([root], n=4)
        with pytest.raises(BudgetExhausted, match=r"^extend: spent 32 of 32 tokens$"):
            await run.extend([root])
        with pytest.raises(BudgetExhausted, match=r"^race: spent 32 of 32 tokens$"):
            await run.race(root, n=2)
        with pytest.raises(BudgetExhausted, match=r"^score: spent 32 of 32 tokens$"):
            await run.score(Believer(fingerprint="dear"), [root])

    _, outcome = does(body, budget=Budget(tokens=32))
    assert outcome.exhausted


def test_a_chain_scored_step_by_step_costs_its_positions_once():
    class Counts:
        fingerprint = "counts"

        async def score(self, chains, run):
            return [Score(0.5, usage=Usage(prompt=5, scored=len(chain.text), calls=1)) for chain in chains]

    async def body(root, run):
        verifier, other = Counts(), Counts()
        other.fingerprint = "other"
        first, second = root.then(Step("ab")), root.then(Step("x"))
        await run.score(verifier, [first, second])
        third = first.then(Step("cde"))
        await run.score(verifier, [third, third])  # drawn twice, paid twice: the three positions that are new
        await run.score(verifier, [third.then(Step("f")).then(Step("g"))])  # past two steps at once
        await run.score(other, [third])

    _, outcome = does(body)
    booked = [event.spent.usage.scored for event in outcome.events]
    assert booked == [3, 9, 11, 16]
    assert outcome.spent.usage.prompt == 6 * 5
    assert [score.usage.scored for score in outcome.events[1].scores] == [
        5,
        5,
    ]  # a score tells of the whole chain, wherever it stands


def test_free_scores_stay_possible_when_the_budget_is_spent():
    async def body(root, run):
        children = await run.extend([root], n=4)
        return await run.score(Believer(otherwise=0.25), children)

    scores, _ = does(body, budget=Budget(samples=4, calls=4, tokens=32))
    assert [score.value for score in scores] == [0.25] * 4


@pytest.mark.parametrize(("budget", "paid"), [(Budget(calls=7), 3), (Budget(tokens=32 + 25), 2)], ids=str)
def test_scores_that_the_budget_cannot_pay_for_have_no_value(budget, paid):
    verifier = Believer(usage=Usage(scored=10, calls=1), fingerprint="dear")

    async def body(root, run):
        return await run.score(verifier, await run.extend([root], n=4))

    scores, outcome = does(body, budget=budget)
    assert [score.value for score in scores] == [1.0] * paid + [None] * (4 - paid)
    assert scores[-1].error == "budget: this score could not be paid for"
    assert outcome.exhausted
    assert outcome.spent.usage.calls == 4 + paid
    assert outcome.spent.usage.scored == 10 * paid
    assert len(verifier.judged) == paid, "scores nobody can pay for reached the verifier"


def test_money_is_bounded_from_the_longest_prompt_before_anything_is_sent():
    price = Price(prompt=1e6, completion=1e6)  # one a token
    size = len(QUESTION.messages[0].text.encode()) + 16
    policy = Watched(Scripted([said("x", 10)], price=price))

    async def body(root, run):
        return await run.extend([root, root.then(Step("y" * 100))])

    children, outcome = does(body, policy, budget=Budget(money=2.0 * (size + 10)), sampling=Sampling(max_tokens=10))
    assert policy.children == 0, "the longer of the two prompts might have cost more than was left"
    assert children is None
    assert outcome.exhausted
    children, outcome = does(
        lambda root, run: run.extend([root], n=9),
        policy,
        budget=Budget(money=3.5 * (size + 10)),
        sampling=Sampling(max_tokens=10),
    )
    assert outcome.spent.money <= 3.5 * (size + 10)
    assert [child.finish for child in children].count("stop") == policy.children == outcome.spent.samples == 7
    assert outcome.spent.money == pytest.approx(outcome.spent.samples * 13.0)


def test_money_that_cannot_buy_one_child_ends_a_strategy_that_would_go_on_forever():
    async def forever(root, run):
        while True:
            await run.extend([root])

    policy = Watched(Scripted([said("x", 10)], price=Price(completion=1e6)))
    outcome = solved(forever, policy, budget=Budget(money=25.0), sampling=Sampling(max_tokens=10))
    assert (outcome.exhausted, outcome.spent.money, policy.children) == (True, 20.0, 2)
    race, raced = does(lambda root, run: run.race(root, n=5), policy, budget=Budget(money=9.0), sampling=Sampling(max_tokens=10))
    assert (race, raced.exhausted, raced.spent.samples) == (None, True, 0)


def test_seconds_are_looked_at_before_each_call():
    clock = FakeClock()

    async def body(root, run):
        run.propose((await run.extend([root]))[0])
        clock.advance(4.0)
        run.propose((await run.extend([root]))[0])
        clock.advance(2.0)
        run.propose((await run.extend([root]))[0])

    _, outcome = does(body, budget=Budget(seconds=5.0), clock=clock)
    assert (outcome.spent.samples, outcome.exhausted) == (2, True)
    assert outcome.chain is not None


def test_seconds_end_a_call_that_never_comes_back_and_keep_the_last_proposal():
    gate = Gate(MazePolicy(1.0, 2))

    async def body(root, run):
        gate.open.set()
        run.propose((await run.extend([root]))[0])
        gate.open.clear()
        await run.extend([root])

    _, outcome = does(body, gate, budget=Budget(seconds=0.02))
    assert (outcome.answer, outcome.exhausted) == ("a\na", True)


@pytest.mark.parametrize("budget", [None, Budget(seconds=60)], ids=str)
def test_a_timeout_of_somebody_else_is_not_taken_for_the_end_of_the_budget(budget):
    async def body(root, run):
        raise TimeoutError("the engine's socket")

    with pytest.raises(TimeoutError, match="the engine's socket"):
        does(body, budget=budget)


def test_branches_that_run_out_together_end_the_run_and_other_errors_come_through():
    async def body(root, run):
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(run.extend([root], n=3))

    _, outcome = does(body, budget=Budget(samples=5))
    assert (outcome.spent.samples, outcome.exhausted) == (5, True)

    async def broken(root, run):
        async def fails():
            raise KeyError("mine")

        async with asyncio.TaskGroup() as group:
            group.create_task(fails())

    with pytest.raises(BaseExceptionGroup) as caught:
        does(broken, budget=Budget(samples=5))
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


def test_a_chain_that_used_up_its_cap_is_not_sampled_further():
    policy = MazePolicy(0.5, 8)

    async def body(root, run):
        [chain] = await run.extend([root], until=Until(tokens=3))
        return await run.extend([chain])

    [child], _ = does(body, policy, sampling=Sampling(max_tokens=3))
    assert (child.finish, child.steps[-1].text, policy.calls) == ("length", "", 1)


# Races


def test_a_race_charges_each_child_up_to_the_length_of_the_winner():
    script = [
        said("slow", 9),
        said("fast", 4),
        said("tie", 4),
        said("cut", 2, "length"),
        said("bad", 3, "error"),
        said("late", 9, "error"),
    ]
    children, outcome = does(lambda root, run: run.race(root, n=6), Scripted(script))
    assert [child.finish for child in children] == ["cancelled", "stop", "cancelled", "length", "error", "cancelled"]
    assert outcome.spent.usage.completion == 4 + 4 + 4 + 2 + 3 + 4
    assert (outcome.spent.samples, outcome.failed, outcome.exhausted) == (6, 1, False)


def test_a_child_that_stops_without_an_answer_does_not_win_a_race():
    children, outcome = does(lambda root, run: run.race(root, n=2), Scripted([said(" ", 1), said("x", 5)]), answer=first_word)
    assert [child.finish for child in children] == ["stop", "stop"]
    assert outcome.spent.usage.completion == 6


def test_a_race_nobody_finishes_costs_all_of_it():
    children, outcome = does(lambda root, run: run.race(root, n=2), Scripted([said("x", 5, "length"), said("y", 7, "length")]))
    assert {child.finish for child in children} == {"length"}
    assert outcome.spent.usage.completion == 12


@pytest.mark.parametrize("tokens", range(1, 14))
def test_a_race_ends_where_the_tokens_of_all_that_run_end(tokens):
    script = [said("slow", 9), said("fast", 4), said("cut", 2, "length")]
    children, outcome = does(lambda root, run: run.race(root, n=3), Scripted(script), budget=Budget(tokens=tokens))
    line = max(at for at in range(5) if min(9, at) + min(4, at) + min(2, at) <= tokens)
    assert outcome.spent.usage.completion == min(9, line) + min(4, line) + min(2, line) <= tokens
    assert (children[1].finish == "stop") is (line == 4) is (tokens >= 10)
    assert outcome.exhausted is (line < 4)
    assert children[0].finish == "cancelled"


def test_a_race_starts_no_more_children_than_can_be_paid_for_and_a_second_one_none():
    async def body(root, run):
        first = await run.race(root, n=8)
        with pytest.raises(BudgetExhausted, match=r"^race: spent 5 of 5 samples$"):
            await run.race(root, n=8)
        return first

    policy = MazePolicy(0.5, 8)
    children, outcome = does(body, policy, budget=Budget(samples=5))
    assert [child.finish for child in children] == ["stop"] + ["cancelled"] * 7
    assert (policy.calls, outcome.spent.samples, outcome.exhausted) == (5, 5, True)
