"""The value of a prefix: closed forms of the toys, hand-made ends, and what costs without telling anything."""

from __future__ import annotations

from math import sqrt

import pytest

from fakes import ROOT, Believer, Flaky, Scripted, Watched, judge_of, solved, words
from ponder.bank import MemoryTable, TableBank
from ponder.core import LINE, Budget, Sampling, logprobs_needed, parts
from ponder.errors import CapabilityError, OracleError, UsageError
from ponder.strategies.best_of_n import BestOfN
from ponder.testing import MarkovPolicy, MazePolicy, NoisyVerifier
from ponder.types import Step, Usage
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.oracle import Oracle
from ponder.verifiers.rollouts import Rollouts

BELIEF = Believer((("good", 0.8), ("fair", 0.4)), otherwise=0.1)


def prefix(text, finish=None):
    return ROOT.then(Step(text, Usage(completion=len(text), calls=1)), finish)


def watched(verifier, policy, *chains, **how):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    return found, solved(strategy, policy, **how)


def scored(*args, **how):
    return watched(*args, **how)[0]


def ends(*script):
    """A policy whose i-th completion is the i-th (text, finish)."""
    return Scripted([(text, finish, 2) for text, finish in script])


@pytest.mark.parametrize("taken", [0, 1, 2, 3])
def test_the_value_of_a_prefix_is_the_chance_to_end_right_from_it(taken):
    """Of four crossings `taken` are done: p ** (4 - taken); within four standard errors of 2,000 roll-outs."""
    chain = prefix("a\n" * taken) if taken else ROOT
    [score] = scored(Rollouts(NoisyVerifier(("a\n" * 4,)), n=2000), MazePolicy(p=0.7), chain)
    truth = 0.7 ** (4 - taken)
    assert score.value == score.raw
    assert score.value == pytest.approx(truth, abs=4 * sqrt(truth * (1 - truth) / 2000))


def test_a_wrong_crossing_is_worth_nothing_and_costs_its_roll_outs():
    [score], outcome = watched(Rollouts(NoisyVerifier(("a\n" * 4,)), n=8), MazePolicy(p=0.7), prefix("b\n"))
    assert score.value == 0.0
    assert outcome.spent.samples == 8


def test_the_mean_is_over_what_the_verifier_believes_of_the_ends():
    policy = ends((" good", "stop"), (" fair", "stop"), (" fair", "stop"), (" else", "stop"))
    [score] = scored(Rollouts(BELIEF), policy, ROOT)
    assert score.value == pytest.approx((0.8 + 0.4 + 0.4 + 0.1) / 4)
    assert score.error == ""


def test_an_end_that_was_cut_or_gives_no_answer_counts_as_nothing_and_is_not_judged():
    verifier = Believer()
    policy = ends(("good", "stop"), ("good and long", "length"), (" ", "stop"), ("fair", "stop"))
    [score] = scored(Rollouts(verifier), policy, ROOT)
    assert score.value == pytest.approx(2 / 4)
    assert score.error == ""
    assert verifier.judged == ["good", "fair"]


def test_ends_that_failed_or_were_refused_or_have_no_value_are_left_out_and_named():
    belief = Believer((("good", 0.8), ("odd", None)), otherwise=0.4)
    policy = ends(("good", "stop"), ("good", "error"), ("no", "filtered"), ("odd", "stop"), ("else", "stop"))
    [score] = scored(Rollouts(belief, n=5), policy, ROOT)
    assert score.value == pytest.approx((0.8 + 0.4) / 2)
    assert score.error == (
        "rollouts: 3 of 5 say nothing (1 x the chain ended by 'error', 1 x the chain ended by 'filtered', 1 x no idea)"
    )


def test_no_end_that_tells_anything_is_no_score():
    [score] = scored(Rollouts(Believer(), n=2), Flaky(MazePolicy(), frozenset({0, 1})), ROOT)
    assert score.value is None
    assert score.error == "rollouts: 2 of 2 say nothing (2 x the chain ended by 'error')"


def test_a_finished_chain_has_the_verifiers_own_score_and_is_not_rolled_out():
    policy = Scripted([("good", "stop", 1)])
    leaf = Believer((("good", 0.8),), usage=Usage(scored=3, calls=1), fingerprint="leaf")
    [good, cut, empty, failed], outcome = watched(
        Rollouts(leaf), policy, prefix("good", "stop"), prefix("good", "length"), prefix(" ", "stop"), prefix("good", "error")
    )
    assert good.value == 0.8
    assert good.raw is None
    assert cut.value == empty.value == 0.0
    assert failed.value is None
    assert failed.error == "the chain ended by 'error'"
    assert policy.asked == []
    assert outcome.spent.usage == Usage(scored=3, calls=1), "booked where it was spent, once"
    assert good.usage == Usage()


def test_several_prefixes_are_completed_in_one_request_and_equal_ones_once():
    policy = Scripted([("good", "stop", 2), ("fair", "stop", 2)])
    asked = []

    class Requests(Watched):
        async def sample(self, asks, **how):
            asked.append([len(ask.indices) for ask in asks])
            return await super().sample(asks, **how)

    chains = [prefix("x "), prefix("y "), ROOT.then(Step("x")).then(Step(" ")), ROOT]
    scores, outcome = watched(Rollouts(BELIEF, n=2), Requests(policy), *chains)
    assert asked == [[2, 2, 2]]
    assert scores[0] == scores[2]
    assert outcome.spent.samples == 6
    assert {stream for stream, _ in policy.asked} == {"0/score/rollout"}


def test_equal_ends_are_judged_once_and_count_as_often_as_they_came():
    leaf = Believer((("good", 0.8),), otherwise=0.2, usage=Usage(scored=3, calls=1), fingerprint="leaf")
    policy = ends(("good", "stop"), ("good", "stop"), ("good", "stop"), ("else", "stop"))
    [score], outcome = watched(Rollouts(leaf), policy, ROOT)
    assert score.value == pytest.approx((3 * 0.8 + 0.2) / 4)
    assert outcome.spent.usage.scored == 6


def test_a_later_call_rolls_out_anew_and_another_run_finds_the_same():
    calls = []

    async def strategy(root, run):
        calls.extend([await run.score(Rollouts(NoisyVerifier(("a\n" * 4,)), n=64), [root]) for _ in range(2)])

    solved(strategy, MazePolicy(p=0.8))
    first, second = calls
    assert first != second
    solved(strategy, MazePolicy(p=0.8))
    assert calls[2:] == calls[:2]


def test_roll_outs_never_read_the_pool_of_the_proposals():
    """A guide that saw the very continuation that the strategy will draw next would know the future."""
    table = MemoryTable()
    drawn = []

    async def strategy(root, run):
        [child] = await run.extend([root], until=LINE)
        drawn.extend(await run.score(Rollouts(NoisyVerifier(("a\n" * 4,)), n=4), [child]))
        drawn.extend(await run.extend([child], n=4))

    solved(strategy, MazePolicy(), bank=TableBank(table))
    streams = {pool.stream for pool in table._rows}
    assert streams == {"0", "0/score/rollout"}


def test_a_bank_replays_what_was_rolled_out():
    bank = TableBank(MemoryTable())
    policy = MazePolicy()
    first = scored(Rollouts(NoisyVerifier(("a\n" * 4,), price=1)), policy, prefix("a\n"), bank=bank)
    calls = policy.calls
    assert scored(Rollouts(NoisyVerifier(("a\n" * 4,), price=1)), policy, prefix("a\n"), bank=bank) == first
    assert policy.calls == calls


def test_another_policy_may_complete_and_at_another_temperature():
    seen = []

    class Sampled(Scripted):
        async def sample(self, asks, *, until, sampling):
            seen.append(sampling)
            return await super().sample(asks, until=until, sampling=sampling)

    other = Sampled([("good", "stop", 2)])
    verifier = Rollouts(BELIEF, n=2, policy=other, temperature=0.3)
    [score] = scored(verifier, MazePolicy(), ROOT, sampling=Sampling(max_tokens=50))
    assert score.value == pytest.approx(0.8)
    assert seen == [Sampling(temperature=0.3, max_tokens=50)]
    assert other in parts(verifier)


def test_the_ends_carry_the_probabilities_that_the_verifier_reads():
    class Telling(Scripted):
        def child(self, chain, index, cap):
            child = super().child(chain, index, cap)
            return chain.then(Step("good", child.steps[-1].usage, tokens=words("good")), "stop")

    verifier = Rollouts(Confidence())
    assert logprobs_needed(BestOfN(2, verifier)) == 1
    policy = Telling([("good", "stop", 4)], capabilities=frozenset({"continue", "logprobs"}))
    assert scored(verifier, policy, ROOT)[0].value == pytest.approx(0.6065, abs=1e-3)  # exp(-0.5)


def test_a_grader_takes_part_only_as_an_oracle_that_asks_for_leave():
    policy = ends(("right", "stop"), ("wrong", "stop"))
    [score], outcome = watched(Rollouts(Oracle(), n=2), policy, ROOT, judge=judge_of("right"))
    assert score.value == 0.5
    assert outcome.oracle
    with pytest.raises(OracleError, match="--allow-oracle"):
        scored(Rollouts(Oracle(), n=2), policy, ROOT)


def test_roll_outs_that_the_budget_cannot_pay_for_are_missing():
    policy = ends(("good", "stop"), ("fair", "stop"))
    [one, two], outcome = watched(Rollouts(BELIEF), policy, ROOT, prefix("x "), budget=Budget(samples=3))
    assert one.value == pytest.approx((0.8 + 0.4 + 0.4) / 3)
    assert one.error == "rollouts: 1 of 4 say nothing (1 x the chain ended by 'cancelled')"
    assert two.value is None
    assert two.error == "rollouts: 4 of 4 say nothing (4 x the chain ended by 'cancelled')"
    assert outcome.exhausted


def test_an_end_that_the_budget_cut_tells_nothing():
    policy = Scripted([("good", "stop", 4)])
    [score], outcome = watched(Rollouts(BELIEF, n=2), policy, ROOT, budget=Budget(tokens=6), sampling=Sampling(max_tokens=5))
    assert score.value == 0.8, "four tokens were left for the first, two for the second"
    assert "1 of 2" in score.error
    assert outcome.exhausted


def test_nothing_left_is_no_score_for_prefixes_while_a_free_verifier_still_judges_what_is_finished():
    found = []

    async def strategy(root, run):
        await run.extend([root])
        found.extend(await run.score(Rollouts(BELIEF), [root, prefix("good", "stop")]))

    outcome = solved(strategy, ends(("good", "stop")), budget=Budget(samples=1))
    assert [score.value for score in found] == [None, 0.8]
    assert outcome.exhausted


def test_ends_that_cannot_be_judged_any_more_are_no_score():
    leaf = Believer(usage=Usage(scored=1, calls=1), fingerprint="leaf")
    [score], outcome = watched(Rollouts(leaf, n=2), ends(("good", "stop")), ROOT, budget=Budget(tokens=4))
    assert score.value is None
    assert score.error == "rollouts: 2 of 2 say nothing (2 x budget: this score could not be paid for)"
    assert outcome.spent.usage.tokens == 4


def test_a_prefix_without_room_counts_as_nothing():
    [score] = scored(Rollouts(BELIEF), MazePolicy(), prefix("a\na\n"), sampling=Sampling(max_tokens=4))
    assert score.value == 0.0


def test_an_engine_that_cannot_go_on_is_refused():
    policy = Scripted([("good", "stop", 2)], capabilities=frozenset({"n"}))
    with pytest.raises(CapabilityError, match="cannot go on from a partial answer"):
        scored(Rollouts(BELIEF), policy, prefix("x"))
    assert scored(Rollouts(BELIEF), policy, ROOT)[0].value == 0.8


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n": 0}, r"^rollouts: n = 0 must be at least 1$"),
        ({"temperature": 0.0}, r"^rollouts: 4 roll-outs at temperature 0 are one; give a temperature above 0, or n=1$"),
        ({"temperature": -1.0}, r"^sampling: temperature = -1.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(how, message):
    with pytest.raises(UsageError, match=message):
        Rollouts(BELIEF, **how)


def test_several_greedy_roll_outs_are_refused_where_the_run_is_greedy_and_one_is_not():
    with pytest.raises(UsageError, match="4 roll-outs at temperature 0 are one"):
        scored(Rollouts(BELIEF), MazePolicy(), ROOT, sampling=Sampling(temperature=0.0))
    assert scored(Rollouts(BELIEF, n=1), MazePolicy(), ROOT, sampling=Sampling(temperature=0.0))[0].value == 0.1


def test_a_walk_is_worth_the_mass_that_ends_right():
    policy = MarkovPolicy({"start": {"mid": 0.5, "wrong": 0.5}, "mid": {"right": 0.6, "start": 0.4}})

    class Last(Believer):
        async def score(self, chains, run):
            return await NoisyVerifier(tuple(c.text for c in chains if c.text.endswith("right\n"))).score(chains, run)

    truth = policy.answers()["right"]  # .3 / (1 - .2)
    assert truth == pytest.approx(0.375)
    [score] = scored(Rollouts(Last(), n=2000), policy, ROOT)
    assert score.value == pytest.approx(truth, abs=4 * sqrt(truth * (1 - truth) / 2000))
