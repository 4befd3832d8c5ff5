"""OmegaPRM's tree: which wrong roll-out is searched next, and what is found in a maze."""

from __future__ import annotations

from math import ceil, log2

import pytest
from rollouts_cases import EIGHT, LINES, book, ends_well, found, prefix

from fakes import Flaky
from ponder.learners.labels import Count, first_error, soft
from ponder.learners.rollouts import OmegaTree, StepRollouts, _State
from ponder.testing import MazePolicy
from ponder.types import Chain, Step, Usage, user


def test_a_strategy_prints_as_its_spec():
    assert repr(StepRollouts(n=2, method="binary")) == "step_rollouts(n=2, method='binary')"
    assert repr(OmegaTree(k=4)) == "omega_tree(k=4)"


# ---- OmegaPRM's tree ----


def test_the_tree_searches_the_most_promising_wrong_roll_out_and_probes_no_state_twice():
    """The root is right once in four, its wrong roll-outs are long and short: the short one is worth more, beta ** (2 / L) > beta ** (16 / L).

    It is searched from 0 to 2: state "1\n", half right; the wrong roll-out there is worth most of all, alpha ** .5, and has nothing to
    halve. Then the two others, of which the long one is halved at 4 (never right), 2 and 1, and 1 is known.
    """
    pages = book(at4="0", at2="0")
    pages.pages |= {"": ("end\n", EIGHT, "1\nX\n", "off\n"), "1\n": ("end\n", "X\n", "end\n", "off\n")}
    one = found(OmegaTree(k=4, searches=10), pages, ends_well)
    assert dict(pages.probes) == {"": 4, "1\n": 4, prefix(4): 4, prefix(2): 4}
    assert [text for _, text, index in pages.asked if index == 0] == ["", "1\n", prefix(4), prefix(2)]
    by_steps = {chain.steps: chain for chain in one.chains}
    long = by_steps[tuple(LINES)]
    assert long.counts == (Count(1, 4), Count(2, 4), Count(0, 4), Count(), Count(0, 4), Count(), Count(), Count())
    assert first_error(long, 4).labels == (1, 0, 0, 0, 0, 0, 0, 0)
    assert soft(long).labels == (0.5, 0.0, None, 0.0, None, None, None, 0.0)
    assert first_error(by_steps["1\n", "end\n"], 4).labels == (1.0, 1.0)
    assert one.rollouts == 16


@pytest.mark.parametrize(("length", "second"), [(1.0, "shorter"), (float("inf"), "older")])
def test_the_length_of_a_roll_out_counts_against_it(length, second):
    """With one search only the long roll-out, which is older, is halved at 4 where lengths do not matter."""
    pages = book(at4="0", at2="0")
    pages.pages |= {"": ("end\n", EIGHT, "1\nX\n"), "1\n": ("off\n",)}
    found(OmegaTree(k=3, searches=1, length=length), pages, ends_well)
    assert list(pages.probes)[1] == ("1\n" if second == "shorter" else prefix(4))


def test_a_candidate_is_worth_what_the_paper_says():
    rollout = Chain((user("q"),), (Step("1\n", Usage(completion=7)), Step("2\noff\n", Usage(completion=50))), "stop")
    worth = OmegaTree()._worth(_State(right=3, total=4, visits=1), rollout, visits=9)
    assert worth == pytest.approx(0.5**0.25 * 0.9**0.1 + 0.125 * 3 / 2)


def test_a_wrong_roll_out_of_a_state_that_is_mostly_right_goes_first():
    """The root is right once in three, the middle of its first candidate twice: its wrong roll-out overtakes the root's second."""
    pages = book(at4="110")
    pages.pages |= {
        "": ("end\n", EIGHT, "A\nB\nC\nD\n"),
        prefix(4): ("end\n", "end\n", "P\nQ\nR\n"),
        prefix(4) + "P\n": ("off\n",),
    }
    found(OmegaTree(k=3, searches=2, beta=1.0, c_puct=0.0), pages, ends_well)
    assert list(pages.probes) == ["", prefix(4), prefix(6), prefix(5), prefix(4) + "P\n"]


def test_a_state_searched_often_gives_way_to_others_by_its_visits():
    """Two candidates of the root, and one of a state less likely right than it: without exploration the root's second is next."""

    def order(c_puct):
        pages = book(at4="10")
        pages.pages |= {
            "": ("end\n", EIGHT, "A\nB\nC\nD\n"),
            prefix(4): ("end\n", "P\nQ\nR\n", "off\n", "off\n"),
            prefix(6): ("off\n",),
            prefix(5): ("off\n",),
            "A\nB\n": ("off\n",),
            "A\n": ("off\n",),
            prefix(4) + "P\n": ("off\n",),
        }
        found(OmegaTree(k=3, searches=2, c_puct=c_puct, beta=1.0), pages, ends_well)
        return list(pages.probes)

    assert order(0.0)[4] == "A\nB\n"  # MC is 1/3 at both states, the older candidate comes first
    assert order(1.0)[4] == prefix(4) + "P\n"  # N(root) = 1 halves its bonus


def test_a_root_that_is_always_or_never_right_leaves_nothing_to_search():
    for p in (0.0, 1.0):
        assert found(OmegaTree(k=4), MazePolicy(p, 5)).rollouts == 4


def test_the_tree_finds_first_errors_of_a_maze():
    k, searches, depth = 40, 6, 8
    one = found(OmegaTree(k=k, searches=searches), MazePolicy(0.9, depth))
    assert one.rollouts <= k * (1 + searches * ceil(log2(depth)))
    solved_chains = 0
    for chain in one.chains:
        right = "".join(chain.steps).partition("b")[0].count("a")
        labels = first_error(chain, k).labels
        assert all(label is None or label == float(at < right) for at, label in enumerate(labels))
        solved_chains += not chain.correct and None not in labels
    assert solved_chains >= searches


def test_a_tree_stops_a_search_whose_roll_outs_failed():
    pages = book(at2="1")
    pages.pages[""] = (EIGHT, EIGHT, "end\n")
    one = found(OmegaTree(k=3, searches=1), Flaky(pages, frozenset({0})), ends_well)
    assert [chain.counts[4] for chain in one.chains if len(chain.steps) == 8] == [Count(0, 2)]
    assert set(pages.probes) == {"", prefix(4)}
