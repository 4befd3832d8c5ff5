"""Choice from tables: against enumeration, against runs of `auto` itself, and honest where there is nothing to find."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from test_orders import GUIDE, N, Told, drawn, pools_of

from fakes import Scripted, first_word, solved
from ponder.errors import UsageError
from ponder.scaling import allocate, orders
from ponder.scaling.allocate import Candidate, Table
from ponder.scaling.card import Card, Choice, Split, Triple, features, write
from ponder.strategies.auto import Auto

NUMBER = Triple(0.5, 0.4, 0.6)


def costs(right, tokens, share, chosen):
    every = np.arange(len(share))
    return float(share @ right[every, chosen]), float(share @ tokens[every, chosen])


@pytest.mark.parametrize("seed", range(12))
def test_an_allocation_keeps_to_the_budget_and_is_the_best_at_the_corners_of_the_hull(seed):
    rng = np.random.default_rng(seed)
    right, tokens, share = rng.random((3, 5)), rng.integers(1, 100, (3, 5)).astype(float), rng.dirichlet(np.ones(3))
    least = float(share @ tokens.min(axis=1))
    for budget in (least, least * 1.5, least * 3, 200.0):
        chosen, price = allocate.allocate(right, tokens, share, budget, "mean")
        value, cost = costs(right, tokens, share, chosen)
        best = max(
            costs(right, tokens, share, list(one))
            for one in product(range(5), repeat=3)
            if costs(right, tokens, share, list(one))[1] <= budget + 1e-9
        )
        assert cost <= budget + 1e-9
        assert value <= best[0] + 1e-9
        hull = np.argmax(right - price * tokens, axis=1)
        at = costs(right, tokens, share, hull)[1]
        again, _ = allocate.allocate(right, tokens, share, at, "mean")
        corner = max(
            costs(right, tokens, share, list(one))[0]
            for one in product(range(5), repeat=3)
            if costs(right, tokens, share, list(one))[1] <= at + 1e-9
        )
        assert costs(right, tokens, share, again)[0] == pytest.approx(corner, abs=1e-5)
    assert allocate.allocate(right, tokens, share, 1e9, "mean")[0].tolist() == right.argmax(axis=1).tolist()


def test_each_bin_within_the_budget_is_snells_rule():
    right = np.array([[0.1, 0.5, 0.9], [0.2, 0.8, 0.8]])
    tokens = np.array([[1.0, 10.0, 30.0], [1.0, 20.0, 10.0]])
    chosen, _ = allocate.allocate(right, tokens, np.array([0.5, 0.5]), 20.0, "each")
    assert chosen.tolist() == [1, 2], "of equals, the cheaper"


def test_a_mean_moves_tokens_to_where_they_buy_most():
    right = np.array([[0.5, 0.52], [0.0, 1.0]])
    tokens = np.array([[10.0, 100.0], [10.0, 100.0]])
    chosen, _ = allocate.allocate(right, tokens, np.array([0.5, 0.5]), 60.0, "mean")
    assert chosen.tolist() == [0, 1]
    with pytest.raises(
        UsageError, match=r"^a budget of 60 tokens is below the cheapest candidate, which costs 70 with its pilot$"
    ):
        allocate.allocate(right, tokens + 60, np.array([0.5, 0.5]), 60.0, "mean")


def candidates(pools):
    """One of each kind, and a search from another pool."""
    made = [
        orders.sampled(pools),
        *orders.voted(pools, [5]),
        *orders.adapted(pools, [N], [0.8], [2]),
        *orders.best(pools, GUIDE, [4]),
        *orders.accepted(pools, GUIDE, [9], [0.8], [2]),
    ]
    return [allocate.whole(pools, one) for one in made]


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["", GUIDE])
@pytest.mark.parametrize("pilot", [1, 3, 6])
def test_a_table_says_of_every_row_what_auto_itself_answers_and_spends(tmp_path, guide, pilot):
    cases = [drawn(seed) for seed in range(12)]
    pools = pools_of(cases)
    made = candidates(pools)
    table = allocate.table(pools, made, pilot, guide)
    splits = (Split(0, "agreement", 0.4, 1), Split(1, "tokens", 4.0, 2), *([Split(0, "best", 0.5, 3)] if guide else []))
    bins = allocate.binned(splits, table.seen, len(cases))
    assert len(set(bins.tolist())) > 1
    for column, one in enumerate(made):
        choices = tuple(
            Choice(bin_, 99, made[(column + bin_) % len(made)].spec, "", NUMBER, NUMBER, 1.0) for bin_ in range(len(splits) + 1)
        )
        write(Card(pilot, guide, splits, choices), tmp_path / "card.toml")
        auto = Auto(str(tmp_path / "card.toml"))
        for row, (script, scores) in enumerate(cases):
            told = Told(scores)
            parts = tuple(replace(s, verifier=told) if hasattr(s, "verifier") else s for s in auto.strategies)
            object.__setattr__(auto, "strategies", parts)
            object.__setattr__(auto, "guides", (told,) if guide else ())
            outcome = solved(auto, Scripted(script), answer=first_word)
            at = (column + bins[row]) % len(made)
            assert outcome.spent.usage.tokens == table.tokens_R_C[row, at], (one.spec, row)
            if pilot == 1 and not guide:  # a strategy that abstains leaves the best of the pilot standing
                assert (outcome.answer == "a") == bool(table.right_R_C[row, at])


def test_features_and_bins_are_those_of_the_card():
    cases = [drawn(seed) for seed in range(30)]
    pools = pools_of(cases)
    splits = (Split(0, "mean", 0.4, 1), Split(0, "agreement", 0.5, 2), Split(2, "answered", 0.9, 3))
    card = Card(4, GUIDE, splits, ())
    seen = allocate.features(pools, 4, GUIDE)
    bins = allocate.binned(splits, seen, len(cases))
    for row, (script, scores) in enumerate(cases):
        first = script[:4]
        answers = [text[0] if finish == "stop" else None for text, finish, _ in first]
        told = [scores[text] for text, finish, _ in first if finish == "stop"]
        by_hand = features(answers, [length for _, _, length in first], told)
        assert {name: values[row] for name, values in seen.items()} == pytest.approx(by_hand)
        assert bins[row] == card.bin(by_hand)
    assert set(bins.tolist()) == {0, 1, 2, 3}


def two_kinds(problems=40, rows=3, seed=0):
    """Candidate 1 is right on short problems, candidate 2 on long ones, candidate 0 on none; all cost the same but 0. Length is what a pilot shows."""
    rng = np.random.default_rng(seed)
    long_P = np.arange(problems) % 2 == 1
    problem = np.repeat(np.arange(problems), rows)
    long_R = long_P[problem]
    right = np.stack([np.zeros(len(problem)), ~long_R, long_R], axis=1).astype(np.float32)
    tokens = np.tile(np.array([1.0, 9.0, 9.0], np.float32), (len(problem), 1))
    seen = {"agreement": rng.random(len(problem)), "tokens": np.where(long_R, 50.0, 5.0) + rng.random(len(problem))}
    return Table(problem, right, tokens, seen)


def test_a_tree_finds_the_split_that_pays_and_needs_no_other():
    given = two_kinds()
    splits = allocate.grown(given, 8, [9], "mean")
    assert [(split.bin, split.feature, split.becomes) for split in splits] == [(0, "tokens", 1)]
    assert 6 < splits[0].above < 50
    plan = allocate.fitted(given, splits, [9], "mean")
    right, tokens = allocate.applied(plan, given, 9)
    assert (right.mean(), tokens.mean()) == (1.0, 9.0)
    assert allocate.applied(allocate.fitted(given, (), [9], "mean"), given, 9)[0].mean() == 0.5


def test_a_bin_that_no_candidate_is_cheap_enough_for_is_not_split_off():
    """Easy questions cost 40 tokens at least, hard ones 150: within 100 for each bin they stay together, for the mean they need not."""
    problem_R = np.repeat(np.arange(40), 2)
    hard_R = problem_R >= 28
    right = np.stack([np.where(hard_R, 0.0, 1.0), np.where(hard_R, 0.9, 1.0)], axis=1).astype(np.float32)
    tokens = np.stack([np.where(hard_R, 150.0, 40.0), np.where(hard_R, 300.0, 80.0)], axis=1).astype(np.float32)
    given = Table(problem_R, right, tokens, {"tokens": np.where(hard_R, 5.0, 1.0)})
    for budget, spread, splits in ((100, "mean", 1), (100, "each", 0), (160, "each", 1)):
        found = allocate.grown(given, 4, [budget], spread)
        assert len(found) == splits, (budget, spread)
        allocate.fitted(given, found, [budget], spread)
    with pytest.raises(
        UsageError, match=r"^a budget of 60 tokens is below the cheapest candidate, which costs 73 with its pilot$"
    ):
        allocate.grown(given, 4, [60], "each")


def test_what_is_expected_is_what_cross_validation_finds_and_the_single_strategy_is_judged_alike():
    given = two_kinds(problems=80)
    rate = np.full(len(given.problem_R), 0.5)
    [found] = allocate.expected({(1, ""): given}, given, ["none", "short", "long"], [1, 2, 4], rate, [9], "mean")
    assert (found.accuracy.value, found.tokens.value) == (1.0, 9.0)
    assert (found.fixed_accuracy.value, found.fixed) == (0.5, "short")


@pytest.mark.slow
def test_nothing_is_promised_where_there_is_nothing_to_find():
    """Sixty candidates that are right by a coin: the best of them looks good on the problems it was chosen on, and is expected to be a coin."""
    promised, looked = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problem = np.arange(60)
        right = (rng.random((60, 60)) < 0.5).astype(np.float32)
        seen = {"agreement": rng.random(60), "tokens": rng.random(60)}
        given = Table(problem, right, np.ones((60, 60), np.float32), seen)
        [found] = allocate.expected({(1, ""): given}, given, [""] * 60, [1, 2, 4], right.mean(axis=1), [2], "mean")
        promised.append(found.accuracy.value)
        splits = allocate.grown(given, 4, [2], "mean")
        looked.append(allocate.applied(allocate.fitted(given, splits, [2], "mean"), given, 2)[0].mean())
    error = (0.25 / 60 / 20) ** 0.5
    assert abs(np.mean(promised) - 0.5) < 3 * error
    assert np.mean(looked) > 0.6, "the same choice, judged on the problems it was made on"


def test_problems_that_let_a_search_through_do_not_judge_it():
    """Of thirty coins the one that fell best on the first third is let through; it is right more often there than anywhere else, and is no more than a coin."""
    promised, with_them = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        coins = (rng.random((60, 30)) < 0.5).astype(np.float32)
        looked = np.arange(60) < 20
        best = coins[:, [int(coins[looked].mean(axis=0).argmax())]]
        right = np.concatenate([np.zeros((60, 1), np.float32), best], axis=1)
        given = Table(np.arange(60), right, np.ones((60, 2), np.float32), {"tokens": np.ones(60)})
        how = ({(1, ""): given}, given, ["none", "raced"], [1], right.mean(axis=1), [2], "mean")
        raced = {"raced_C": np.array([False, True]), "looked_R": looked}
        promised.append(allocate.expected(*how, **raced)[0].accuracy.value)
        with_them.append(allocate.expected(*how)[0].accuracy.value)
        [line] = allocate.expected(*how, **raced)
        assert line.accuracy.value == pytest.approx(best[~looked].mean(), abs=1e-6), "the rest of the problems, all of them"
    assert abs(np.mean(promised) - 0.5) < 0.03
    assert np.mean(with_them) > 0.55, "which is what they would have added"
    none = allocate.expected(*how, raced_C=np.array([True, False]), looked_R=looked)
    assert none[0].accuracy.value == with_them[-1], "where no such search is chosen, all problems judge"


def test_halves_share_no_problem_and_are_as_hard_as_each_other():
    problem = np.repeat(np.arange(40), 5)
    rate = np.repeat(np.random.default_rng(0).random(40), 5)
    one, two = allocate.halves(problem, rate)
    assert not np.any(one & two)
    assert np.all(one | two)
    assert not set(problem[one]) & set(problem[two])
    assert one.sum() == two.sum()
    assert abs(rate[one].mean() - rate[two].mean()) < 0.02
    some = problem < 20
    assert np.all(np.logical_or(*allocate.halves(problem, rate, some)) == some)


def test_a_pilot_that_no_budget_pays_for_is_not_chosen():
    given = two_kinds()
    dear = replace(given, tokens_R_C=given.tokens_R_C + 90)
    tables = {(1, ""): given, (4, ""): dear}
    every = given.problem_R >= 0
    rate = np.full(len(every), 0.5)
    assert allocate.chosen_setting(tables, [1, 2], every, rate, [9], "mean").pilot == 1
    with pytest.raises(UsageError, match=r"^a budget of 9 tokens is below every candidate with its pilot"):
        allocate.chosen_setting({(4, ""): dear}, [1], every, rate, [9], "mean")


def test_the_best_single_strategy_is_the_most_accurate_within_the_budget():
    given = Table(np.arange(4), np.array([[0, 1, 1]] * 4, np.float32), np.array([[1, 7, 5]] * 4, np.float32), {})
    assert [allocate.fixed(given, budget) for budget in (1, 4, 5, 99)] == [0, 0, 2, 2]
    with pytest.raises(UsageError, match=r"cheapest candidate, which costs 1$"):
        allocate.fixed(given, 0.5)


def test_a_search_from_another_pool_pays_for_the_whole_pilot():
    pools = pools_of([drawn(seed) for seed in range(3)])
    one = Candidate("x", "", np.ones(3, np.float32), np.full(3, 10.0, np.float32), np.zeros(3, np.int64))
    table = allocate.table(pools, [one], 2, GUIDE)
    pilot = pools.tokens_R_N[:, :2].sum(axis=1) + pools.guides[GUIDE].scored_R_N[:, :2].sum(axis=1)
    assert table.tokens_R_C[:, 0].tolist() == (10.0 + pilot).tolist()
