"""The oracle: leave, marks, and error rates that are what they are said to be."""

from __future__ import annotations

import pytest

from fakes import Coin, judge_of, solved
from ponder.errors import OracleError, UsageError
from ponder.types import Chain, Step, user
from ponder.verifiers.oracle import Oracle

RIGHT, WRONG = ([Chain((user(f"q{i}"),), (Step(f"{word} {i}"),), "stop") for i in range(4000)] for word in ("right", "wrong"))


def scores(oracle, chains, **how):
    found = []

    async def strategy(root, run):
        found.extend(score.value for score in await run.score(oracle, chains))

    outcome = solved(strategy, Coin(0.5), judge=judge_of("right"), **how)
    return found, outcome


def test_rates_outside_their_range_are_refused():
    for name, rate in (("fpr", -0.1), ("fnr", 1.1), ("fpr", float("nan"))):
        with pytest.raises(UsageError, match=rf"^oracle: {name} = {rate} must lie in \[0, 1\]$"):
            Oracle(**{name: rate})


def test_it_tells_right_from_wrong_for_nothing_and_leaves_its_mark():
    found, outcome = scores(Oracle(), [RIGHT[0], WRONG[0], RIGHT[1]])
    assert found == [1.0, 0.0, 1.0]
    assert outcome.oracle
    assert outcome.spent.usage.calls == 0


def test_without_leave_it_raises():
    async def strategy(root, run):
        await run.score(Oracle(), RIGHT[:1])

    with pytest.raises(OracleError):
        solved(strategy, Coin(0.5))


@pytest.mark.parametrize(("fpr", "fnr"), [(0.0, 0.0), (0.1, 0.3), (0.5, 0.5), (1.0, 1.0), (0.25, 0.0)])
def test_it_errs_at_the_given_rates_on_each_side(fpr, fnr):
    n = len(RIGHT)
    for chains, accepted in ((RIGHT, 1 - fnr), (WRONG, fpr)):
        found, _ = scores(Oracle(fpr, fnr), chains)
        assert abs(sum(found) / n - accepted) <= 3 * (accepted * (1 - accepted) / n) ** 0.5


def test_the_same_chain_is_judged_the_same_each_time_and_another_seed_judges_anew():
    first, _ = scores(Oracle(0.5, 0.5), RIGHT[:200])
    assert scores(Oracle(0.5, 0.5), RIGHT[:200][::-1])[0] == first[::-1]
    other, _ = scores(Oracle(0.5, 0.5, seed=1), RIGHT[:200])
    agree = sum(a == b for a, b in zip(first, other, strict=True))
    assert abs(agree - 100) < 3 * 50**0.5


def test_a_larger_rate_errs_wherever_a_smaller_one_does():
    small, large = (scores(Oracle(fpr=rate), WRONG[:500])[0] for rate in (0.1, 0.4))
    assert all(a <= b for a, b in zip(small, large, strict=True))
