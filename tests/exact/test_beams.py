"""Beam, step-wise best-of-n, DVTS, lookahead, REBASE, best-first and trees of thoughts against closed forms on mazes.

A maze has `depth` crossings, each taken right with probability p. A perfect guide believes a prefix as long as all of it was right.
Everywhere: fixed seeds, n stated, within three standard errors.
"""

from __future__ import annotations

from itertools import product
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import solved
from ponder.strategies.beam import Beam
from ponder.strategies.best_first import BestFirst
from ponder.strategies.dvts import Dvts
from ponder.strategies.lookahead import Lookahead
from ponder.strategies.rebase import Rebase, balance
from ponder.strategies.step_best_of_n import StepBestOfN
from ponder.strategies.tree_of_thoughts import TreeOfThoughts
from ponder.testing import MazePolicy, NoisyVerifier
from searches import Table, Values, gathered, mean_near, near

P, DEPTH, N = 0.4, 4, 600
MAZE = MazePolicy(P, DEPTH)
PERFECT = NoisyVerifier(["a\n" * size for size in range(1, DEPTH + 1)])
RIGHT = ("a\n" * DEPTH).strip()


def found(outcomes):
    return sum(outcome.answer == RIGHT for outcome in outcomes)


def some(n, p=P):
    """At least one of n is right."""
    return 1 - (1 - p) ** n


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 4])
def test_step_best_of_n_under_a_perfect_guide_passes_each_crossing_that_any_child_passes(n):
    outcomes = gathered(StepBestOfN(n, PERFECT), MAZE, N)
    near(found(outcomes), N, some(n) ** DEPTH)
    assert {outcome.spent.samples for outcome in outcomes} == {n * DEPTH}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "fpr", "fnr"), [(2, 0.3, 0.2), (4, 0.3, 0.2), (4, 0.0, 0.6)])
def test_step_best_of_n_under_a_guide_with_known_errors(n, fpr, fnr):
    """The guide judges the last crossing. Equal children are one look; a tie goes to the first child. Crossings are independent."""
    guide = NoisyVerifier(
        ["".join(way) for size in range(DEPTH) for way in product(("a\n", "b\n"), repeat=size) for way in [(*way, "a\n")]],
        fpr,
        fnr,
    )
    preferred, tied = (1 - fnr) * (1 - fpr), (1 - fnr) * fpr + fnr * (1 - fpr)
    both, first_right = 1 - P**n - (1 - P) ** n, P * (1 - P ** (n - 1))
    near(found(gathered(StepBestOfN(n, guide), MAZE, 1500)), 1500, (P**n + both * preferred + first_right * tied) ** DEPTH)


@pytest.mark.parametrize("number", range(8))
def test_the_narrowest_beam_step_best_of_n_and_a_single_tree_are_one_search(number):
    same = [
        solved(search, MAZE, seed=number)
        for search in (StepBestOfN(3, PERFECT), Beam(1, 3, PERFECT), Dvts(1, 3, PERFECT), Beam(1, 3, PERFECT, distinct=False))
    ]
    assert all(outcome == same[0] for outcome in same)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "branch"), [(2, 2), (3, 1), (2, 3)])
def test_a_beam_of_different_prefixes_has_one_right_prefix_at_most(width, branch):
    outcomes = gathered(Beam(width, branch, PERFECT), MAZE, N)
    near(found(outcomes), N, some(width * branch) * some(branch) ** (DEPTH - 1))


@pytest.mark.slow
@pytest.mark.parametrize(("width", "branch"), [(2, 2), (3, 1), (2, 3)])
def test_a_beam_with_copies_has_as_many_right_prefixes_as_a_branching_walk_that_is_cut(width, branch):
    """The right ones among g * branch children are binomial; at most `width` stay."""
    law = {width: 1.0}  # of how many children are asked for below right prefixes, in units of `branch`
    for _ in range(DEPTH):
        following = dict.fromkeys(range(width + 1), 0.0)
        for parents, weight in law.items():
            n = parents * branch
            for right in range(n + 1):
                following[min(width, right)] += weight * comb(n, right) * P**right * (1 - P) ** (n - right)
        law = following
    outcomes = gathered(Beam(width, branch, PERFECT, distinct=False), MAZE, N)
    near(found(outcomes), N, 1 - law[0])
    assert {outcome.spent.samples for outcome in outcomes} == {width * branch * DEPTH}


def test_a_finished_chain_keeps_its_place_in_the_beam_and_the_search_ends_when_all_are_finished():
    policy = Table(
        {"": [("x", "stop"), ("y\n", None), ("z\n", None)], "y\n": [("1", "stop"), ("2\n", None)], "y\n2\n": [("!", "stop")]}
    )
    guide = Values({"x": 0.7, "y\n": 0.6, "z\n": 0.1, "y\n1": 0.65, "y\n2\n": 0.68, "y\n2\n!": 0.9})
    outcome = solved(Beam(2, 2, guide), policy)
    assert guide.judged == ["x", "y\n", "z\n", "y\n1", "y\n2\n", "y\n2\n!"]
    assert policy.asked == [("", 0), ("", 1), ("", 2), ("", 3), ("y\n", 0), ("y\n", 1), ("y\n2\n", 0), ("y\n2\n", 1)]
    assert [event.chains[0].text for event in outcome.events if event.kind == "propose"] == ["x", "y\n2\n!"]


def test_depth_ends_a_beam_that_never_finishes_without_an_answer():
    outcome = solved(
        Beam(2, 2, Values({"a\n" * size: 0.5 for size in range(9)}), depth=3),
        Table({"a\n" * k: [("a\n", None)] for k in range(9)}),
    )
    assert (outcome.chain, outcome.spent.samples) == (None, 4 + 2 + 2)


@pytest.mark.slow
@pytest.mark.parametrize(("trees", "branch"), [(1, 2), (3, 2), (4, 1)])
def test_trees_of_dvts_are_independent(trees, branch):
    outcomes = gathered(Dvts(trees, branch, PERFECT), MAZE, N)
    near(found(outcomes), N, 1 - (1 - some(branch) ** DEPTH) ** trees)
    assert {outcome.spent.samples for outcome in outcomes} == {trees * branch * DEPTH}


@pytest.mark.parametrize("number", range(4))
def test_a_lookahead_of_no_step_is_a_beam(number):
    beam, lookahead = (solved(search, MAZE, seed=number) for search in (Beam(2, 2, PERFECT), Lookahead(2, 2, PERFECT, ahead=0)))
    kept = [[event for event in outcome.events if event.kind != "score"] for outcome in (beam, lookahead)]
    assert kept[0] == kept[1]
    assert beam.chain == lookahead.chain


@pytest.mark.slow
def test_a_lookahead_believes_a_prefix_when_its_continuation_is_right():
    """Two crossings, two children: the right one is believed with probability p, else the first child is taken; each different prefix
    costs a look. The second crossing is judged as it is."""
    maze, guide = MazePolicy(P, 2), NoisyVerifier(["a\na\n"])
    both = 2 * P * (1 - P)
    outcomes = gathered(Lookahead(1, 2, guide), maze, 2 * N)
    near(sum(o.answer == "a\na" for o in outcomes), 2 * N, (P**2 + both * (P + (1 - P) / 2)) * some(2))
    mean_near([o.spent.samples for o in outcomes], 2 + (1 + both) + 2)


def test_a_lookahead_is_greedy_and_in_a_stream_of_its_own():
    seen = set()

    class Noted(MazePolicy):
        async def sample(self, asks, *, until, sampling):
            seen.update((ask.stream, sampling.temperature) for ask in asks)
            return await super().sample(asks, until=until, sampling=sampling)

    solved(Lookahead(2, 2, PERFECT), Noted(0.5, DEPTH))
    assert seen == {("0", 1.0), ("0/score/lookahead", 0.0)}


def test_a_lookahead_that_was_cut_or_came_to_nothing_gives_no_value():
    policy = Table(
        {
            "": [("x\n", None), ("y\n", None), ("z\n", None)],
            "x\n": [("", "stop")],
            "y\n": [("!", "stop")],
            "z\n": [("?", "length")],
        }
    )
    guide = Values({"y\n!": 0.1})
    outcome = solved(Lookahead(1, 3, guide, depth=1), policy, answer=lambda text: "yes" if "!" in text else None)
    assert guide.judged == ["y\n!"]
    [scores] = [event.scores for event in outcome.events if event.kind == "score" and len(event.chains) == 3]
    assert [score.value for score in scores] == [None, 0.1, None]


@pytest.mark.slow
def test_rebase_at_low_temperature_gives_all_children_to_right_prefixes():
    outcomes = gathered(Rebase(3, PERFECT, temperature=0.01, final="max"), MAZE, N)
    near(found(outcomes), N, some(3) ** DEPTH)
    assert {outcome.spent.samples for outcome in outcomes} == {3 * DEPTH}


@pytest.mark.slow
def test_rebase_at_high_temperature_is_so_many_independent_samples():
    outcomes = gathered(Rebase(5, PERFECT, temperature=1e9, final="max"), MAZE, N)
    near(found(outcomes), N, 1 - (1 - P**DEPTH) ** 5)


def test_rebase_takes_a_child_less_for_each_chain_that_ended():
    policy = Table(
        {"": [("x", "stop"), ("y\n", None), ("z", "error"), ("w\n", None)], "y\n": [("1", "stop")], "w\n": [("1", "stop")]}
    )
    outcome = solved(Rebase(4, Values({"x": 0.5, "y\n": 0.5, "w\n": 0.5, "y\n1": 0.1, "w\n1": 0.2})), policy)
    assert policy.asked[4:] == [("y\n", 0), ("w\n", 0)]
    assert outcome.spent.samples == 6
    assert outcome.chain.text == "x"


@given(
    values=st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    parts=st.integers(0, 40),
    temperature=st.sampled_from([0.01, 0.2, 1.0, 50.0]),
)
def test_the_balance_is_the_rounding_by_largest_remainders(values, parts, temperature):
    """The slow reference hands out one part at a time: whole parts first, then to whoever lacks most, ties to the first."""
    from fractions import Fraction
    from math import exp

    top = max(values)
    weights = [Fraction(exp((value - top) / temperature)) for value in values]
    exact = [parts * weight / sum(weights) for weight in weights]
    slow = [int(share) for share in exact]
    while sum(slow) < parts:
        lacks = [share - have for share, have in zip(exact, slow, strict=True)]
        slow[lacks.index(max(lacks))] += 1
    shares = balance(values, parts, temperature)
    assert sum(shares) == parts
    assert all(abs(share - float(want)) < 1 for share, want in zip(shares, exact, strict=True))
    ties = len({round(float(share % 1), 9) for share in exact}) < len(exact)
    assert ties or shares == slow
    assert balance([], parts, temperature) == []


def test_the_balance_breaks_ties_for_what_was_seen_first():
    assert balance([0.5, 0.5, 0.5], 4, 0.2) == [2, 1, 1]
    assert balance([0.5, 0.5, 0.5], 5, 0.2) == [2, 2, 1]
    assert balance([1.0, 0.0], 8, 1.0) == [6, 2], "8 e / (e + 1) = 5.85"


@pytest.mark.slow
@pytest.mark.parametrize("branch", [1, 3])
def test_best_first_under_a_perfect_guide_expands_the_right_prefix_of_each_depth_once(branch):
    outcomes = gathered(BestFirst(100, branch, PERFECT), MAZE, N)
    near(found(outcomes), N, some(branch) ** DEPTH)
    assert {outcome.spent.samples for outcome in outcomes if outcome.answer == RIGHT} == {branch * DEPTH}


HILLS = {
    "": [("x\n", None), ("y\n", None)],
    "x\n": [("1\n", None), ("2\n", None)],
    "y\n": [("1", "stop"), ("2\n", None)],
    "x\n1\n": [("!", "stop")],
    "x\n2\n": [("!", "stop")],
    "y\n2\n": [("!", "stop")],
}
HEIGHTS = {
    "x\n": 0.6,
    "y\n": 0.5,
    "x\n1\n": 0.4,
    "x\n2\n": 0.45,
    "y\n1": 0.42,
    "y\n2\n": 0.3,
    "x\n1\n!": 0.9,
    "x\n2\n!": 0.41,
    "y\n2\n!": 0.3,
}


def expanded(search):
    policy = Table(HILLS)
    outcome = solved(search, policy)
    return list(dict.fromkeys(text for text, _ in policy.asked)), outcome.answer


def test_best_first_goes_back_to_what_looked_worse_before():
    guide = Values(HEIGHTS)
    assert expanded(BestFirst(9, 2, guide)) == (["", "x\n", "y\n", "x\n2\n"], "y\n1"), "x2! (.41) comes after y1 (.42)"
    assert expanded(BestFirst(9, 2, guide, finished=2)) == (["", "x\n", "y\n", "x\n2\n"], "y\n1")
    assert expanded(BestFirst(9, 2, guide, finished=3)) == (["", "x\n", "y\n", "x\n2\n", "x\n1\n"], "x\n1\n!")
    assert expanded(BestFirst(3, 2, guide)) == (["", "x\n", "y\n"], "y\n1"), "three expansions"
    assert expanded(BestFirst(9, 2, guide, accept=0.4)) == (["", "x\n", "y\n"], "y\n1")


def test_tokens_written_count_against_a_prefix_where_they_cost():
    """x is worth .6, what is below it .5 and .55, y .52, what is below it .1: without a cost y comes last, at .04 a token between the two,
    .48 against .42 and .47."""
    heights = HEIGHTS | {"x\n1\n": 0.5, "x\n2\n": 0.55, "y\n": 0.52, "y\n1": 0.1, "y\n2\n": 0.1, "x\n1\n!": 0.53, "x\n2\n!": 0.53}
    assert expanded(BestFirst(9, 2, Values(heights))) == (["", "x\n", "x\n2\n"], "x\n2\n!")
    assert expanded(BestFirst(9, 2, Values(heights), cost=0.04)) == (["", "x\n", "y\n", "x\n2\n", "x\n1\n"], "x\n2\n!")


def test_what_has_no_score_comes_last_whatever_others_cost():
    """x1 is worth .4 less 2 x 9; y, which has no value and one token, must not end the search before it."""
    rows = {"": [("x\n", None), ("y", "stop")], "x\n": [("1\n", None)], "x\n1\n": [("!", "stop")]}
    guide = Values({"x\n": 0.5, "y": None, "x\n1\n": 0.4, "x\n1\n!": 0.3})
    assert solved(BestFirst(9, 2, guide, cost=9.0), Table(rows)).answer == "x\n1\n!"


def test_best_first_expands_the_best_few_together():
    policy = Table(HILLS)
    solved(BestFirst(9, 2, Values(HEIGHTS), parallel=2), policy)
    assert [text for text, index in policy.asked if not index] == ["", "x\n", "y\n", "x\n2\n"]


@pytest.mark.slow
@pytest.mark.parametrize("search", ["bfs", "dfs"])
def test_a_tree_of_thoughts_stops_where_its_guide_sees_no_way(search):
    """Wrong prefixes are worth 0 and pruned, equal ones are one, so a right prefix is expanded at each depth or all is over."""
    outcomes = gathered(TreeOfThoughts(3, PERFECT, search=search), MAZE, N)
    near(found(outcomes), N, some(3) ** DEPTH)
    mean_near([outcome.spent.samples for outcome in outcomes], 3 * sum(some(3) ** at for at in range(DEPTH)))


def thought(search, **fields):
    policy = Table(HILLS)
    outcome = solved(TreeOfThoughts(2, Values(HEIGHTS), search=search, **fields), policy)
    return [text for text, index in policy.asked if index % 2 == 0], outcome.answer


def test_breadth_keeps_the_best_states_of_each_depth():
    assert thought("bfs", width=1) == (["", "x\n", "x\n2\n"], "x\n2\n!")
    assert thought("bfs", width=2) == (["", "x\n", "y\n", "x\n2\n", "x\n1\n"], "x\n1\n!")
    assert thought("bfs", width=9, expansions=2) == (["", "x\n"], None)
    assert thought("bfs", width=2, prune=0.4) == (["", "x\n", "y\n", "x\n2\n"], "y\n1"), "a value of .4 is at most .4"


def test_depth_goes_into_the_best_child_and_comes_back():
    assert thought("dfs") == (["", "x\n", "x\n2\n"], "x\n2\n!")
    assert thought("dfs", finished=2) == (["", "x\n", "x\n2\n", "x\n1\n"], "x\n1\n!"), "two copies of x2! are one answer"
    assert thought("dfs", finished=3, prune=0.4) == (["", "x\n", "x\n2\n", "y\n"], "y\n1"), "x1 is a dead end"
