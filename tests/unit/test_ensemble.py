"""Ensembles: every combination by hand, and members that say nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from fakes import ROOT, Believer, SamplingJudge, Scripted, judge_of, solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, logprobs_needed
from ponder.errors import CapabilityError, SpecError, UsageError
from ponder.spec import parse
from ponder.testing import MazePolicy, NoisyVerifier
from ponder.types import Score, Step, Usage
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.ensemble import Ensemble


@dataclass(frozen=True)
class Says:
    """One value for every chain."""

    value: float | None
    fingerprint: str = ""
    usage: Usage = Usage()

    async def score(self, chains, run):
        return [Score(self.value, usage=self.usage, error="" if self.value is not None else "no idea") for _ in chains]


def chain(text, finish="stop"):
    return ROOT.then(Step(text), finish)


def watched(verifier, *chains, policy=None, **how):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    return found, solved(strategy, policy or MazePolicy(), **how)


def combined(values, **how):
    [score], _ = watched(Ensemble(tuple(map(Says, values)), **how), chain("x"))
    return score


@pytest.mark.parametrize(
    ("how", "values", "weights", "number"),
    [
        ("mean", (0.2, 0.6, 0.7), (), 0.5),
        ("mean", (0.2, 0.6), (3.0, 1.0), 0.3),
        ("min", (0.2, 0.6, 0.7), (), 0.2),
        ("median", (0.9, 0.1, 0.7), (), 0.7),
        ("median", (0.9, 0.1, 0.7, 0.3), (), 0.5),
        ("vote", (0.5, 0.49, 0.9, 0.1), (), 0.5),  # the threshold itself is a yes
        ("vote", (0.5, 0.49, 0.9), (1.0, 2.0, 5.0), 0.75),
        ("mean", (1.0,) * 7, (0.1,) * 7, 1.0),  # rounding must not carry it past 1
    ],
)
def test_each_combination_by_hand(how, values, weights, number):
    score = combined(values, combine=how, weights=weights)
    assert score.value == score.raw == pytest.approx(number)
    assert score.error == ""


def test_the_threshold_of_a_vote_is_a_field():
    assert combined((0.5, 0.6, 0.8), combine="vote", threshold=0.7).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(("how", "number"), [("mean", 0.6), ("min", 0.4), ("median", 0.6), ("vote", 0.5)])
def test_members_without_a_value_are_left_out_and_named(how, number):
    score = combined((0.4, None, 0.8), combine=how)
    assert score.value == pytest.approx(number)
    assert score.error.startswith("ensemble: 1 of 3 members gave no value (Says(value=None,")
    assert score.error.endswith(": no idea)")


def test_the_weight_of_a_silent_member_is_left_out_with_it():
    assert combined((0.4, None, 0.8), weights=(1.0, 50.0, 3.0)).value == pytest.approx((0.4 + 3 * 0.8) / 4)


def test_no_value_at_all_is_no_score():
    score = combined((None, None))
    assert score.value is None
    assert "2 of 2 members gave no value" in score.error


def test_chains_keep_their_order():
    members = (Believer((("a", 0.1), ("b", 0.5)), 1.0), Believer((("a", 0.3), ("b", 0.7)), 0.0))
    scores, _ = watched(Ensemble(members), chain("a"), chain("b"), chain("c"), chain("a"))
    assert [score.value for score in scores] == pytest.approx([0.2, 0.6, 0.5, 0.2])


def test_members_are_asked_for_all_chains_at_once_and_at_the_same_time():
    inside, most = 0, 0

    @dataclass(frozen=True)
    class Slow(Says):
        async def score(self, chains, run):
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1
            assert len(chains) == 2
            return await super().score(chains, run)

    watched(Ensemble((Slow(0.1), Slow(0.2))), chain("a"), chain("b"))
    assert most == 2


def test_every_member_is_banked_and_paid_for_under_its_own_name():
    bank = TableBank(MemoryTable())
    dear, cheap = (
        Believer(fingerprint="dear", usage=Usage(scored=7, calls=1)),
        Believer(fingerprint="cheap", usage=Usage(scored=2)),
    )
    for _ in range(2):
        [score], outcome = watched(Ensemble((dear, cheap)), chain("a"), bank=bank)
        assert outcome.spent.usage == Usage(scored=9, calls=1)
        assert score.usage == Usage()
    assert dear.judged == cheap.judged == ["a"], "the second time the bank answered"


def test_a_member_that_cannot_be_paid_for_gave_no_value_and_the_free_ones_still_count():
    dear = Believer(fingerprint="dear", usage=Usage(scored=7, calls=1))
    [one, two], outcome = watched(Ensemble((dear, Says(0.4))), chain("a"), chain("b"), budget=Budget(tokens=7))
    assert one.value == pytest.approx(0.7)
    assert two.value == 0.4
    assert "budget" in two.error
    assert outcome.exhausted

    found = []

    async def strategy(root, run):
        await run.extend([root])
        found.extend(await run.score(Ensemble((dear, Says(0.4))), [root]))

    solved(strategy, MazePolicy(depth=4), budget=Budget(tokens=4))
    assert found[0].value == 0.4
    assert "budget: this score could not be paid for" in found[0].error


def test_what_a_budget_buys_does_not_depend_on_which_member_answers_first():
    """Two sampling judges and three samples: the first member's come first."""
    policy = Scripted([("fine", "stop", 1)])
    members = (SamplingJudge(2), SamplingJudge(2, ""))
    runs = [watched(Ensemble(members), chain("a"), policy=policy, budget=Budget(samples=3)) for _ in range(3)]
    assert [[score.value for score in scores] for scores, _ in runs] == [[0.5]] * 3
    assert {outcome.spent.samples for _, outcome in runs} == {3}


def test_an_error_of_a_member_is_raised_when_the_others_are_done():
    done = []

    @dataclass(frozen=True)
    class Broken(Says):
        async def score(self, chains, run):
            raise CapabilityError("no")

    @dataclass(frozen=True)
    class Later(Says):
        async def score(self, chains, run):
            await asyncio.sleep(0)
            done.append(True)
            return await super().score(chains, run)

    with pytest.raises(CapabilityError, match=r"^no$"):
        watched(Ensemble((Broken(0.1), Later(0.2))), chain("a"))
    assert done


def test_an_oracle_in_it_leaves_its_mark():
    verifier = parse("ensemble((oracle(), noisy(right=('x',))))", "verifiers")
    [score], outcome = watched(verifier, chain("right"), judge=judge_of("right"))
    assert score.value == 0.5
    assert outcome.oracle


def test_what_its_members_read_is_asked_for():
    assert logprobs_needed(Ensemble((NoisyVerifier(("x",)), Confidence("marco")))) == 5


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"verifiers": ()}, r"^ensemble: verifiers = \(\) must be a tuple of at least one"),
        ({"verifiers": Says(0.1)}, "must be a tuple of at least one"),
        ({"verifiers": (3,)}, r"^ensemble: 3 is no verifier$"),
        ({"combine": "max"}, r"^ensemble: combine = 'max' must be one of mean, min, vote, median$"),
        ({"weights": (1.0,)}, r"weights = \(1.0,\) must be 2 finite numbers above 0, one a member$"),
        ({"weights": (1.0, 0.0)}, "must be 2 finite numbers above 0"),
        ({"weights": (1.0, float("nan"))}, "must be 2 finite numbers above 0"),
        ({"weights": (1.0, float("inf"))}, "must be 2 finite numbers above 0"),
        ({"weights": (1.0, 1.0), "combine": "min"}, r"^ensemble: 'min' has no use for weights"),
        ({"threshold": 1.5, "combine": "vote"}, r"^ensemble: threshold = 1.5 must lie in \[0, 1\]$"),
    ],
)
def test_fields_that_make_no_sense_are_refused(how, message):
    with pytest.raises(UsageError, match=message):
        Ensemble(**{"verifiers": (Says(0.1), Says(0.2))} | how)


def test_its_repr_is_the_spec_that_makes_it():
    spec = "ensemble(verifiers=(confidence(), judge()), combine='vote', threshold=0.6)"
    assert repr(parse(spec, "verifiers")) == spec
    with pytest.raises(SpecError):
        parse("ensemble((confidense(),))", "verifiers")
