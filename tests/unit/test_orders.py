"""The fast twins of whole-sample strategies, against the strategies themselves, sample by sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
import pytest

from fakes import Scripted, first_word, solved
from ponder.scaling import orders
from ponder.scaling.orders import Guide, Pools
from ponder.spec import parse
from ponder.types import Score, Usage

N = 12
GUIDE = "confidence"  # the name under which the twin finds the scores; the strategy gets them from `Told`
PARTS = {
    "sample": lambda pools: [orders.sampled(pools)],
    "vote": lambda pools: orders.voted(pools, [1, 2, 5, N]),
    "weighted": lambda pools: orders.weighed(pools, GUIDE, [1, 3, N]),
    "adaptive": lambda pools: orders.adapted(pools, [7, N], [0.6, 0.8, 0.95], [1, 2, 5]),
    "best": lambda pools: orders.best(pools, GUIDE, [1, 4, N]),
    "accepted": lambda pools: orders.accepted(pools, GUIDE, [1, 6, N], [0.3, 0.8, 2.0], [1, 4]),
}


@dataclass(frozen=True)
class Told:
    """Scores by text; None where the table has none."""

    table: dict[str, float | None]
    fingerprint: str = "told"
    judged: list[str] = field(default_factory=list)

    async def score(self, chains, run):
        return [Score(self.table[chain.text], usage=Usage(scored=3, calls=1), error="no idea") for chain in chains]


def drawn(seed):
    """A pool as a script, with its scores: ties, failures, truncation and samples without a score are common."""
    random = Random(seed)
    words = random.choice([["a"], ["a", "b"], ["a", "b", "c", "d"]])
    script, table = [], {}
    for at in range(N):
        text = f"{random.choice(words)} {at}"
        script.append((text, random.choices(["stop", "length", "error"], [8, 1, 1])[0], random.randrange(1, 9)))
        table[text] = random.choices([random.random(), 0.5, 0.25, None], [4, 2, 2, 1])[0]
    return script, table


def pools_of(cases):
    """The same pools as arrays; "a" is right."""
    tokens = np.array([[float(length) for _, _, length in script] for script, _ in cases])
    voted = np.array([[finish == "stop" for _, finish, _ in script] for script, _ in cases])
    words = np.array([["abcd".index(text[0]) for text, _, _ in script] for script, _ in cases])
    scores = np.array(
        [[np.nan if table[text] is None else table[text] for text, _, _ in script] for script, table in cases], float
    )
    answers = np.where(voted, words, -1)
    return Pools(np.arange(len(cases)), voted & (words == 0), answers, tokens, {GUIDE: Guide(scores, np.where(voted, 3.0, 0.0))})


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_the_twin_answers_and_stops_as_the_strategy_does(name):
    cases = [drawn(seed) for seed in range(25)]
    seen = set()
    for played in PARTS[name](pools_of(cases)):
        for row, (script, table) in enumerate(cases):
            strategy = parse(played.spec, "strategies")
            if played.guide:
                strategy = type(strategy)(**{f: getattr(strategy, f) for f in strategy.__slots__} | {"verifier": Told(table)})
            outcome = solved(strategy, Scripted(script), answer=first_word)
            assert outcome.spent.samples == played.drawn_R[row], (played.spec, row)
            assert (outcome.answer == "a") == played.right_R[row], (played.spec, row)
            seen.add((bool(played.right_R[row]), int(played.drawn_R[row])))
    assert {right for right, _ in seen} == {True, False}


def test_shuffled_rows_hold_the_same_samples_and_the_first_is_the_pool_itself():
    pools = pools_of([drawn(seed) for seed in range(5)])
    more = pools.shuffled(3, seed=1)
    assert more.problem_R.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    for name in ("correct_R_N", "answers_R_N", "tokens_R_N"):
        old, new = getattr(pools, name), getattr(more, name)
        assert np.array_equal(new[::3], old)
        assert np.array_equal(np.sort(new[1::3], axis=1), np.sort(old, axis=1))
    assert np.array_equal(more.guides[GUIDE].scores_R_N[::3], pools.guides[GUIDE].scores_R_N, equal_nan=True)
    assert not np.array_equal(more.tokens_R_N[1::3], pools.tokens_R_N)
    joint = more.tokens_R_N * 100 + more.answers_R_N  # what belongs to one sample moves together
    assert np.array_equal(np.sort(joint[1::3], axis=1), np.sort(pools.tokens_R_N * 100 + pools.answers_R_N, axis=1))
    assert np.array_equal(pools.shuffled(3, seed=1).tokens_R_N, more.tokens_R_N)
