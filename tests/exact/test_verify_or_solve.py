"""The surface of solutions and verdicts against enumeration of every subset of both."""

from itertools import combinations, product
from math import inf

import numpy as np
import pytest

from ponder.scaling.bootstrap import Interval
from ponder.scaling.estimators import best_of_n_at_k, maj_at_k
from ponder.scaling.verify_or_solve import Cell, Surface, exponents, surface

RNG = np.random.default_rng(0)
CORRECT = RNG.random((3, 4)) < 0.5
ACCEPTS = (RNG.random((3, 4, 3)) < 0.5).astype(int)
ACCEPTS[0, 1] = ACCEPTS[2] = -1  # one that cannot be chosen, and a problem of nothing else


def enumerated(correct_S, accepts_S_V, s, v):
    total = 0
    right = 0
    for some in combinations(range(len(correct_S)), s):
        for looks in product(combinations(range(accepts_S_V.shape[1]), v), repeat=s):
            scores = {i: accepts_S_V[i, list(look)].sum() for i, look in zip(some, looks, strict=True) if accepts_S_V[i, 0] != -1}
            total += 1
            right += bool(scores) and bool(correct_S[max(scores, key=lambda i: (scores[i], -i))])
    return right / total


@pytest.mark.parametrize("v", [1, 2, 3])
def test_every_cell_equals_the_mean_over_all_subsets_of_solutions_and_verdicts(v):
    found = surface(CORRECT, ACCEPTS, [1, 2, 3, 4], [v]).accuracy_P_A
    for p in range(3):
        expected = [enumerated(CORRECT[p], ACCEPTS[p], s, v) for s in (1, 2, 3, 4)]
        assert found[p] == pytest.approx(expected, abs=1e-12)


def test_all_verdicts_of_a_large_pool_give_best_of_n_by_their_mean():
    correct, accepts = RNG.random((5, 40)) < 0.4, (RNG.random((5, 40, 9)) < 0.5).astype(int)
    sizes = [1, 2, 7, 40]
    found = surface(correct, accepts, sizes, [9]).accuracy_P_A
    assert found == pytest.approx(best_of_n_at_k(correct, accepts.mean(axis=2), sizes), abs=1e-12)


def test_a_table_cut_into_chunks_gives_the_same_surface(monkeypatch):
    correct, accepts = RNG.random((5, 40)) < 0.4, (RNG.random((5, 40, 2)) < 0.5).astype(int)
    whole = surface(correct, accepts, [20], [1, 2]).accuracy_P_A
    monkeypatch.setattr("ponder.scaling.verify_or_solve.MEMORY", 2 * 40 * 20 * 3)
    assert np.array_equal(whole, surface(correct, accepts, [20], [1, 2]).accuracy_P_A)
    assert whole[:, 1] == pytest.approx(best_of_n_at_k(correct, accepts.mean(axis=2), [20])[:, 0], abs=1e-9)


def votes(sizes):
    return maj_at_k(CORRECT, np.where(ACCEPTS[:, :, 0] == -1, -1, np.where(CORRECT, 0, 1)), sizes)


def test_costs_are_solutions_and_verdicts_on_each_and_votes_need_none():
    found = surface(CORRECT, ACCEPTS, [1, 4], [1, 3], solve=100, verify=20, vote_P_K=votes([1, 4]))
    assert found.allocations == ((1, 0), (4, 0), (1, 1), (4, 1), (1, 3), (4, 3))
    assert found.costs == (100, 400, 120, 480, 160, 640)
    assert found.accuracy_P_A[:, 0] == pytest.approx(votes([1, 4])[:, 0])
    assert [cell.cost for cell in found.cells()] == list(found.costs)


TABLE = Surface(((1, 0), (2, 0), (1, 1), (2, 1)), (1.0, 2.0, 3.0, 6.0), np.array([[0.2, 0.4, 0.3, 0.6], [0.2, 0.6, 0.3, 0.8]]))


def test_the_best_allocation_is_the_most_accurate_that_can_be_paid():
    assert [TABLE.allocations[TABLE.best(b)] for b in (1, 2, 5, 6)] == [(1, 0), (2, 0), (2, 0), (2, 1)]
    even = Surface(((1, 2), (1, 1)), (2.0, 1.0), np.array([[0.5, 0.5]]))
    assert even.allocations[even.best(9)] == (1, 1)  # the cheapest of equals
    with pytest.raises(ValueError, match=r"budget 0.5 pays for no allocation; the cheapest costs 1"):
        TABLE.best(0.5)


def test_the_frontier_judges_each_half_at_what_the_other_half_chose():
    mirror = Surface(((1, 1), (1, 2)), (1.0, 1.0), np.array([[1.0, 0.0], [0.0, 1.0]]))
    [cell] = mirror.frontier([1.0])
    assert cell.accuracy.value == 0.0  # chosen and judged on the same problems it would read 1 on each
    [cell] = TABLE.frontier([6.0])
    assert (cell.solutions, cell.verdicts, cell.cost, cell.accuracy.value) == (2, 1, 6.0, pytest.approx(0.7))


def test_how_many_times_the_compute_of_voting():
    assert TABLE.level().value == 3.0  # 0.7 at cost 6 reaches the 0.5 that two votes have at cost 2
    dear = Surface(TABLE.allocations, (1.0, 2.0, 4.0, 6.0), TABLE.accuracy_P_A)
    assert (dear.level(1).value, dear.level(2).value) == (4.0, 3.0)
    low = Surface(TABLE.allocations, TABLE.costs, TABLE.accuracy_P_A * [1, 1, 0.1, 0.1])
    assert low.level() == Interval(inf, inf, inf)
    with pytest.raises(ValueError, match="0 votes and 1 allocations with verdicts; to draw level takes both"):
        Surface(((1, 1),), (1.0,), np.array([[0.1]])).level()
    with pytest.raises(ValueError, match="0 votes of 3 solutions"):
        TABLE.level(3)


def test_the_level_is_as_uncertain_as_the_problems_make_it():
    # One verdict on one solution reaches the vote on one problem of two, two solutions on both: of four resamples of two problems one
    # holds the first alone (cost 3), three hold the second (cost 6).
    split = Surface(((1, 0), (1, 1), (2, 1)), (1.0, 3.0, 6.0), np.array([[0.5, 0.6, 0.7], [0.5, 0.0, 0.7]]))
    assert split.level(resamples=200) == Interval(6.0, 3.0, 6.0)
    sure = Surface(split.allocations, split.costs, np.tile(split.accuracy_P_A[:1], (4, 1)))
    assert sure.level() == Interval(3.0, 3.0, 3.0)


def test_exponents_are_slopes_in_logarithms():
    budgets = [10.0, 100.0, 1000.0]
    cells = [Cell(round(1e6 * c**0.6), round(1e6 * c**0.4), c, Interval(0, 0, 0)) for c in budgets]
    assert exponents(cells) == pytest.approx((0.6, 0.4), abs=1e-6)
    with pytest.raises(ValueError, match="2 allocations with verdicts"):
        exponents(cells[:2])


def test_better_verdicts_make_a_better_surface():
    n = 300
    correct = RNG.random((n, 8)) < 0.3
    blind, keen = (
        (RNG.random((n, 8, 4)) < np.where(correct, up, down)[:, :, None]).astype(int) for up, down in ((0.5, 0.5), (0.8, 0.2))
    )
    means = [surface(correct, one, [8], [1, 4]).accuracy_P_A.mean(axis=0) for one in (blind, keen)]
    assert means[0] == pytest.approx([0.3, 0.3], abs=0.06)
    assert means[1][1] > means[1][0] > 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: surface(CORRECT, ACCEPTS[:, :3], [1], [1]), "problems x solutions"),
        (lambda: surface(CORRECT, np.full((3, 4, 3), 0.5), [1], [1]), "a verdict accepts or it does not"),
        (
            lambda: surface(CORRECT, np.where(np.arange(3) == 0, -1, 0) * np.ones((3, 4, 1)), [1], [1]),
            "for all verdicts of a solution",
        ),
        (lambda: surface(CORRECT, ACCEPTS, [5], [1]), r"solutions are \[5\]; choose sizes in 1..4"),
        (lambda: surface(CORRECT, ACCEPTS, [1], [0]), r"verdicts are \[0\]"),
        (lambda: surface(CORRECT, ACCEPTS, [1], [1], solve=0), "solve costs 0"),
        (lambda: surface(CORRECT, ACCEPTS, [1], [1], vote_P_K=[[0.5]]), "vote has shape"),
        (lambda: Surface(((1, 1),), (1.0,), np.array([[0.1]])).frontier([1.0]), "one problem cannot be split"),
        (lambda: TABLE.level(resamples=99), "resamples is 99"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
