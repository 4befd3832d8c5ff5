"""The run: misuse first, then order, budgets, streams, races, scores, the oracle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from run_cases import does, said

from fakes import (
    QUESTION,
    ROOT,
    Backwards,
    Believer,
    Coin,
    Gate,
    SamplingJudge,
    Scripted,
    Watched,
    first_word,
    judge_of,
    solved,
)
from ponder.bank import MemoryTable, TableBank
from ponder.core import LINE, Ask, Budget, PolicyInfo, Sampling, Until, logprobs_needed
from ponder.errors import BudgetError, BudgetExhausted, CapabilityError, OracleError, UsageError
from ponder.run import solve
from ponder.strategies.best_of_n import BestOfN
from ponder.testing import MazePolicy
from ponder.types import Chain, Score, Step, Usage
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.oracle import Oracle

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
