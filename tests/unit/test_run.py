"""The run: misuse first, then order, budgets, streams, races, scores, the oracle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from fakes import (
    QUESTION,
    ROOT,
    Backwards,
    Believer,
    Coin,
    Gate,
    SamplingJudge,
    Scripted,
    Typist,
    Watched,
    first_word,
    judge_of,
    solved,
)
from ponder.bank import MemoryTable, TableBank
from ponder.core import LINE, Ask, Budget, PolicyInfo, Price, Sampling, Until, logprobs_needed
from ponder.errors import BudgetError, BudgetExhausted, CapabilityError, OracleError, UsageError
from ponder.run import solve
from ponder.strategies.best_of_n import BestOfN
from ponder.testing import FakeClock, MazePolicy
from ponder.types import Chain, Score, Step, Usage
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.oracle import Oracle


def does(body, policy=None, **how):
    """Solve with a function of root and run in the place of a strategy; what it returned, and the outcome."""
    returned = []

    async def strategy(root, run):
        returned.append(await body(root, run))

    outcome = solved(strategy, policy or MazePolicy(0.5, 8), **how)
    return (returned or [None])[0], outcome


def said(text, tokens, finish="stop"):
    return (text, finish, tokens)


# Misuse


@pytest.mark.parametrize(("chains", "n"), [(0, 1), (1, 0), (0, 0), (1, -2)])
def test_asking_for_no_children_is_refused(chains, n):
    with pytest.raises(UsageError) as caught:
        does(lambda root, run: run.extend([root] * chains, n=n))
    assert (
        str(caught.value)
        == f"extend: {chains} chains x n = {n}: at least one child must be asked for, at most 1,000,000 in one call"
    )


def test_a_finished_chain_cannot_be_extended():
    with pytest.raises(ValueError, match=r"^cannot extend a chain that finished by 'stop': \.\.\.'the end'$"):
        does(lambda root, run: run.extend([root.then(Step("the end"), "stop")]))


def test_an_engine_that_cannot_go_on_is_refused_before_it_is_asked():
    policy = Scripted([said("x", 1)], capabilities=frozenset({"seed"}))
    with pytest.raises(CapabilityError) as caught:
        does(lambda root, run: run.extend([root, root.then(Step("so far"))]), policy)
    assert str(caught.value) == (
        "scripted: cannot go on from a partial answer (no 'continue' capability), which steps need; "
        "use an engine that continues an assistant message or offers the completions route, or a strategy of whole samples"
    )
    assert policy.asked == []


def test_an_engine_that_cannot_go_on_is_refused_before_the_first_step_is_paid_for():
    policy = Scripted([said("x", 1)], capabilities=frozenset({"seed"}))
    with pytest.raises(CapabilityError):
        does(lambda root, run: run.extend([root], until=LINE), policy)
    assert policy.asked == []


def test_an_engine_without_token_probabilities_is_refused_before_it_is_asked():
    @dataclass(frozen=True)
    class Confident:
        verifier: Confidence = field(default_factory=Confidence)

        async def __call__(self, root, run):
            run.propose((await run.extend([root]))[0])

    policy = Scripted([said("x", 1)])
    with pytest.raises(CapabilityError, match=r"^scripted: gives no token probabilities \(no 'logprobs' capability\)"):
        solved(Confident(), policy)
    assert policy.asked == []


def test_money_cannot_be_kept_on_a_policy_without_a_price():
    policy = Scripted([said("x", 1)])
    with pytest.raises(BudgetError) as caught:
        does(lambda root, run: run.extend([root]), policy, budget=Budget(money=1.0))
    assert str(caught.value) == (
        "budget money=1.0: scripted has no price, so it cannot be kept; give the policy a price, or bound tokens or samples instead"
    )
    assert policy.asked == []


def test_the_oracle_without_leave_raises():
    with pytest.raises(OracleError) as caught:
        does(lambda root, run: run.score(Oracle(), [root]))
    assert (
        str(caught.value) == "oracle: a grader may take part in a search only with --allow-oracle (its result is an upper bound)"
    )


def test_an_oracle_marks_the_outcome_even_behind_another_verifier_and_another_purpose():
    class Wrapped:
        fingerprint = ""

        async def score(self, chains, run):
            return await run.purpose("inner").score(Oracle(), chains)

    _, outcome = does(lambda root, run: run.purpose("outer").score(Wrapped(), [root]), judge=judge_of("a"))
    assert outcome.oracle
    _, outcome = does(lambda root, run: run.extend([root]), judge=judge_of("a"))
    assert not outcome.oracle, "leave alone is not use"


@pytest.mark.parametrize(("method", "does_what"), [("extend", "samples"), ("score", "scores"), ("verdicts", "asks the grader")])
def test_a_verifier_whose_scores_are_banked_may_not_spend_or_peek_through_its_run(method, does_what):
    """Replayed from the bank it would be free, and its oracle would leave no mark: results better than they are."""

    class Sly:
        fingerprint = "sly"

        def __repr__(self):
            return "sly"

        async def score(self, chains, run):
            await (run.score(Oracle(), chains) if method == "score" else getattr(run, method)(chains))
            return [Score(1.0) for _ in chains]

    with pytest.raises(UsageError) as caught:
        does(lambda root, run: run.score(Sly(), [root]), judge=judge_of("a"))
    assert str(caught.value) == (
        f"sly: {does_what} through its run, so its scores cannot be banked; its fingerprint must be '', not 'sly'"
    )


def test_a_verifier_that_loses_a_score_is_told_so():
    class Short:
        fingerprint = ""

        def __repr__(self):
            return "short"

        async def score(self, chains, run):
            return [Score(1.0)]

    with pytest.raises(UsageError, match=r"^short gave 1 scores for 2 chains; one each is the contract$"):
        does(lambda root, run: run.score(Short(), [root, root]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "sampling: temperature = -0.1 must lie in [0, 100]"),
        ({"temperature": float("nan")}, "sampling: temperature = nan must lie in [0, 100]"),
        ({"top_p": 0}, "sampling: top_p = 0 must lie in [1e-06, 1]"),
        ({"max_tokens": 0}, "sampling: max_tokens = 0 must lie in [1, 2.14748e+09]"),
        ({"logprobs": 21}, "sampling: logprobs = 21 must lie in [0, 20]"),
    ],
)
def test_sampling_out_of_range_is_refused(values, message):
    with pytest.raises(UsageError) as caught:
        Sampling(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("unit", ["samples", "tokens", "calls", "seconds", "money"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_budget_that_can_buy_nothing_is_refused(unit, value):
    with pytest.raises(BudgetError) as caught:
        Budget(**{unit: value})
    assert str(caught.value) == f"budget {unit}={value!r} cannot buy anything: it must be above 0, or left out for no bound"


def test_equal_samplings_have_one_key_and_the_cap_is_not_in_it():
    assert Sampling(temperature=1, top_p=1, max_tokens=3).key == Sampling(temperature=1.0, top_p=1.0).key
    others = [Sampling(temperature=0.5), Sampling(top_p=0.5), Sampling(top_k=1), Sampling(logprobs=1), Sampling()]
    assert len({sampling.key for sampling in others}) == 5


def test_a_verifier_of_any_class_is_asked_which_probabilities_it_reads():
    class Plain:
        logprobs = 3

        async def score(self, chains, run):
            return []

    assert logprobs_needed(BestOfN(2, Plain())) == 3
    assert logprobs_needed(BestOfN(2, Believer())) == 0


# Order


async def crowd(root, run):
    """Twelve calls at once, over two purposes, some of them with two children."""
    views = [run, run.purpose("other")]
    lines = await asyncio.gather(*(views[at % 2].extend([root], n=1 + at % 3) for at in range(12)))
    for line in lines:
        run.propose(line[0])
    return lines


@pytest.mark.parametrize(
    "budget",
    [None, Budget(samples=15), Budget(tokens=90), Budget(calls=17), Budget(seconds=60), Budget(tokens=100, samples=9)],
    ids=str,
)
def test_events_follow_the_calls_and_not_the_answers(budget):
    lines, straight = does(crowd, MazePolicy(0.5, 8), budget=budget, sampling=Sampling(max_tokens=8))
    turned, backwards = does(crowd, Backwards(MazePolicy(0.5, 8)), budget=budget, sampling=Sampling(max_tokens=8))
    assert backwards == straight
    assert turned == lines
    assert not straight.events or straight.spent.samples > 0


@pytest.mark.parametrize("unit", ["samples", "calls"])
def test_calls_in_flight_under_several_purposes_share_one_budget(unit):
    async def body(root, run):
        return await asyncio.gather(*(run.purpose(name).extend([root], n=10) for name in "abc"), return_exceptions=True)

    policy = Watched(Backwards(MazePolicy(0.5, 8)))
    lines, outcome = does(body, policy, budget=Budget(**{unit: 16}))
    assert policy.children == outcome.spent.samples == 16
    assert [chain.finish for chain in lines[1]] == ["stop"] * 6 + ["cancelled"] * 4
    assert isinstance(lines[2], BudgetExhausted)


def test_a_call_that_is_given_up_while_it_waits_does_not_let_later_ones_overtake_earlier_ones():
    async def body(root, run):
        first, second, third = (asyncio.ensure_future(run.extend([root], n=6)) for _ in range(3))
        await gate.entered.wait()
        second.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert gate.requests == 1, "the third call started before the first was settled"
        gate.open.set()
        return await asyncio.gather(first, second, third, return_exceptions=True)

    gate = Gate(policy := MazePolicy(0.5, 8))
    lines, outcome = does(body, gate, budget=Budget(samples=8))
    assert [chain.finish for chain in lines[2]] == ["stop"] * 2 + ["cancelled"] * 4
    assert isinstance(lines[1], asyncio.CancelledError)
    assert policy.calls == outcome.spent.samples == 8


def test_a_call_that_fails_leaves_the_order_of_the_others_alone():
    @dataclass
    class Fails:
        policy: MazePolicy

        @property
        def info(self):
            return self.policy.info

        async def sample(self, asks, *, until, sampling):
            if asks[0].indices[0] == 1:
                raise RuntimeError("engine")
            for _ in range(10 * (asks[0].indices[0] == 0)):
                await asyncio.sleep(0)
            return await self.policy.sample(asks, until=until, sampling=sampling)

    async def body(root, run):
        return await asyncio.gather(*(run.extend([root]) for _ in range(3)), return_exceptions=True)

    lines, outcome = does(body, Fails(MazePolicy(0.5, 8)))
    assert isinstance(lines[1], RuntimeError)
    assert [event.chains for event in outcome.events] == [tuple(lines[0]), tuple(lines[2])]


def test_the_children_of_one_chain_differ_and_are_numbered_in_call_order():
    policy = Scripted([said(str(i), 1) for i in range(9)])

    async def body(root, run):
        twin = Chain(root.prompt)
        return [await run.extend([root], n=2), await run.extend([root, twin, root]), await run.extend([twin])]

    lines, _ = does(body, policy)
    assert [[chain.text for chain in line] for line in lines] == [["0", "1"], ["2", "4", "3"], ["5"]]


def test_children_come_parent_major():
    async def body(root, run):
        halves = await run.extend([root], n=3, until=LINE)
        return halves, await run.extend(halves, n=2)

    (halves, children), _ = does(body)
    assert [child.steps[:-1] for child in children] == [half.steps for half in halves for _ in range(2)]


# Streams


def test_purposes_and_seeds_do_not_share_samples():
    async def body(root, run):
        views = [run, run.purpose("rollout"), run.purpose("judge"), run.purpose("rollout").purpose("judge")]
        lines = [await view.extend([root]) for view in views]
        await run.score(SamplingJudge(), [root])
        return [line[0].text for line in lines]

    texts, _ = does(body, MazePolicy(0.5, 60))
    assert len(set(texts)) == 4
    other, _ = does(body, MazePolicy(0.5, 60), seed=1)
    assert not set(texts) & set(other)
    policy = Watched(MazePolicy(0.5, 8))
    does(body, policy)
    assert [key.split("/", 1)[1] for key, _ in policy.indices] == ["0", "0/rollout", "0/judge", "0/rollout/judge", "0/score"]


def test_two_views_of_one_purpose_go_on_counting():
    async def body(root, run):
        return [(await run.purpose("rollout").extend([root]))[0].text for _ in range(5)]

    texts, _ = does(body, MazePolicy(0.5, 60))
    assert len(set(texts)) == 5


# Budgets


@pytest.mark.parametrize(
    "budget", [Budget(tokens=1), Budget(tokens=40), Budget(samples=5), Budget(calls=9), Budget(tokens=200)], ids=str
)
def test_a_verifier_that_samples_through_its_run_neither_hangs_nor_breaks_the_budget(budget):
    async def body(root, run):
        async def branch():
            children = await run.extend([root], n=2)
            return await run.score(SamplingJudge(n=2), children)

        return await asyncio.gather(*(branch() for _ in range(4)), return_exceptions=True)

    async def within_a_second():
        async with asyncio.timeout(1):
            return await solve(strategy, QUESTION, policy, budget=budget, sampling=Sampling(max_tokens=8))

    async def strategy(root, run):
        await body(root, run)

    policy = Watched(Backwards(MazePolicy(0.5, 8)))
    outcome = asyncio.run(within_a_second())
    assert outcome.spent.usage.tokens <= (budget.tokens or 10**9)
    assert outcome.spent.samples <= (budget.samples or 10**9)
    assert outcome.spent.usage.calls <= (budget.calls or 10**9)
    assert policy.children <= min(budget.samples or 10**9, budget.calls or 10**9)
    assert outcome.exhausted or budget == Budget(tokens=200)


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


# Proposals, answers, failures


def test_a_proposal_without_an_answer_never_displaces_one_with_an_answer():
    async def body(root, run):
        good, bad = root.then(Step("yes"), "stop"), root.then(Step("no"), "length")
        run.propose(bad)
        run.propose(good)
        run.propose(bad)

    _, outcome = does(body)
    assert outcome.answer == "yes"
    assert [event.kind for event in outcome.events] == ["propose", "propose"]


def test_only_what_stopped_gives_an_answer():
    async def body(root, run):
        return run.answers(
            [root] + [root.then(Step("x"), finish) for finish in ("stop", "length", "error", "filtered", "cancelled")]
        )

    answers, _ = does(body)
    assert answers == [None, "x", None, None, None, None]


def test_a_proposal_that_was_cut_is_no_answer_in_the_outcome():
    async def body(root, run):
        run.propose(root.then(Step("42"), "length"))

    _, outcome = does(body)
    assert outcome.answer is None


def test_failed_children_are_counted_and_charged_what_they_cost():
    script = [said("", 3, "error"), said("fine", 5), said("", 2, "error")]
    children, outcome = does(lambda root, run: run.extend([root], n=3), Scripted(script))
    assert (outcome.failed, outcome.spent.usage.completion, outcome.spent.samples) == (2, 10, 3)
    assert [child.finish for child in children] == ["error", "stop", "error"]


def test_acting_and_adapting_are_booked_in_order():
    class World:
        async def act(self, chains):
            return [Step(f"<{chain.text}>", Usage(scored=2), "environment") for chain in chains]

    class Tuner:
        async def adapt(self, policy, chains):
            return MazePolicy(1.0, 2), Usage(completion=7)

    async def body(root, run):
        moved = await run.act(World(), [root.then(Step("x"))])
        tuned = await run.adapt(Tuner(), moved)
        return moved[0].text, (await run.extend([root], policy=tuned))[0].text

    texts, outcome = does(body)
    assert texts == ("x<x>", "a\na\n")
    assert [(event.kind, event.spent.usage.tokens) for event in outcome.events] == [("act", 2), ("adapt", 9), ("extend", 11)]


def test_scores_of_nothing_cost_nothing_even_on_a_spent_budget():
    async def body(root, run):
        await run.extend([root])
        return await run.score(Believer(fingerprint="dear"), [])

    assert does(body, budget=Budget(samples=1, calls=1))[0] == []


def test_a_policy_that_answers_short_is_an_error_and_not_a_smaller_n():
    class Short:
        info = PolicyInfo("short", "short")

        async def sample(self, asks, *, until, sampling):
            return [[ask.chain.then(Step("x"), "stop")] for ask in asks]

    for bank in (None, TableBank(MemoryTable())):
        with pytest.raises(ValueError, match="zip"):
            does(lambda root, run: run.extend([root], n=2), Short(), bank=bank)


def test_a_coin_is_independent_between_children():
    policy = Coin(0.5)
    lines = asyncio.run(policy.sample([Ask(ROOT, tuple(range(400)), "0")], until=Until(), sampling=Sampling()))
    rights = sum(first_word(chain.text) == "right" for chain in lines[0])
    assert abs(rights - 200) < 3 * 10
    assert len({chain.text for chain in lines[0]}) == 400
