"""AB-MCTS: what its posteriors have seen, by hand, and where draws lead it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from fakes import ROOT, solved
from ponder.strategies.ab_mcts import AbMcts, Branch
from ponder.types import Step
from searches import Table, Values, made_by


class Draws:
    """Gives these numbers where a Beta is drawn from, and notes its parameters."""

    def __init__(self, *numbers):
        self.numbers, self.asked = list(numbers), []

    def betavariate(self, a, b):
        self.asked.append((round(a, 9), round(b, 9)))
        return self.numbers.pop(0)


def grown():
    """root: x .8 (below it y .4, z stop 1, and below y: w .2) and v .6."""
    root = Branch(ROOT)
    chain = lambda branch, text, finish=None: branch.chain.then(Step(text), finish)  # noqa: E731  as short as its name
    root.add(chain(root, "x\n"), 0.8)
    root.add(chain(root, "v\n"), 0.6)
    x = root.children[0]
    x.add(chain(x, "y\n"), 0.4)
    x.add(chain(x, "z", "stop"), 1.0)
    y = x.children[0]
    y.add(chain(y, "w\n"), 0.2)
    return root


def seen(one):
    return (Fraction(one.sum).limit_denominator(1000), one.count)


def test_posteriors_see_what_they_stand_for():
    """A child's own value says what new children are worth (wider), not what lies below them (deeper)."""
    root = grown()
    x, v = root.children
    y = x.children[0]
    assert (seen(root.wider), seen(root.deeper)) == ((Fraction(14, 10), 2), (Fraction(16, 10), 3)), ".8 + .6; .4 + 1 + .2"
    assert (seen(x.wider), seen(x.deeper), seen(x.own)) == ((Fraction(14, 10), 2), (Fraction(2, 10), 1), (Fraction(24, 10), 4))
    assert (seen(y.wider), seen(y.deeper), seen(y.own)) == ((Fraction(2, 10), 1), (0, 0), (Fraction(6, 10), 2))
    assert (seen(v.wider), seen(v.deeper), seen(v.own)) == ((0, 0), (0, 0), (Fraction(6, 10), 1))


def test_a_copy_says_what_new_children_are_worth_and_nothing_else():
    root = grown()
    root.add(ROOT.then(Step(" x\n")), 0.8)
    assert len(root.children) == 2
    assert seen(root.wider) == (Fraction(22, 10), 3)
    assert seen(root.children[0].own) == (Fraction(24, 10), 4)
    root.add(ROOT.then(Step("x"), "stop"), 0.9)
    assert len(root.children) == 3, "one that has ended is another"


def test_a_walk_draws_wider_and_deeper_and_then_among_the_children_that_go_on():
    root = grown()
    x, v = root.children
    wide = Draws(0.5, 0.4)
    assert root.walk(wide, 0.5) is root
    assert wide.asked == [(1.9, 1.1), (2.1, 1.9)], "Beta(.5 + 1.4, .5 + .6) and Beta(.5 + 1.6, .5 + 1.4)"
    deep = Draws(0.4, 0.5, 0.3, 0.6, 0.9, 0.1)
    assert root.walk(deep, 0.5) is v
    assert deep.asked[2:] == [(2.9, 2.1), (1.1, 0.9), (0.5, 0.5), (0.5, 0.5)]
    finished = Draws(0.4, 0.5, 0.7, 0.6, 0.4, 0.5, 0.9, 0.9, 0.1)
    assert root.walk(finished, 0.5) is x.children[0], "of x's children y goes on, z has ended"
    tie = Draws(0.4, 0.5, 0.6, 0.6, 0.9, 0.1)
    assert root.walk(tie, 0.5) is x


def test_a_node_without_children_that_go_on_grows_wider():
    root = Branch(ROOT)
    root.add(ROOT.then(Step("z"), "stop"), 1.0)
    assert root.walk(Draws(0.0, 1.0), 0.5) is root


def test_a_scripted_run_counts_what_was_cut_as_0_and_what_failed_or_has_no_score_nowhere():
    rows = {"": [("x\n", None), ("cut", "length"), ("bad", "error"), ("unknown", "stop"), (" ", "stop")]}
    rows["x\n"] = [("1", "stop")]
    guide = Values({"x\n": 0.6, "unknown": None, "x\n1": 0.9})
    tree = made_by(AbMcts(5, guide, parallel=5).tree, Table(rows), answer=lambda text: text.strip() or None)
    assert seen(tree.wider) == (Fraction(6, 10), 3), "x, what was cut, and what ended without an answer"
    assert [child.chain.text for child in tree.children] == ["x\n", "cut", " "]


def test_it_goes_deeper_where_that_pays_and_wider_where_it_does_not():
    """Below x all is worth 1; new children of the root are worth .1."""
    rows = {"": [("x\n", None), ("y\n", None)], "x\n": [("!\n", None)], "y\n": [("?\n", None)], "x\n!\n": [("!", "stop")]}
    policy = Table(rows)
    guide = Values({"x\n": 0.1, "y\n": 0.1, "x\n!\n": 1.0, "y\n?\n": 0.0, "x\n!\n!": 1.0})
    rows["y\n?\n"] = [("", "error")]
    outcome = solved(AbMcts(60, guide), policy)
    assert outcome.answer == "x\n!\n!"
    wide, deep = (sum(text == parent for text, _ in policy.asked) for parent in ("", "x\n!\n"))
    assert deep > wide


@pytest.mark.parametrize(("accept", "samples"), [(None, 40), (0.7, 1)])
def test_it_ends_once_an_answer_is_good_enough(accept, samples):
    outcome = solved(AbMcts(40, Values({"x": 0.7}), accept=accept), Table({"": [("x", "stop")]}))
    assert outcome.spent.samples == samples
