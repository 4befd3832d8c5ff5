"""Monte-Carlo tree search against a slow textbook version, trees checked by hand, and the best allocation of noisy looks.

`tests/golden/mcts.json` holds whole trees of `evaluate="all"`, as the script at the end of this docstring wrote them; the one of uct, one leaf
at a time, is worked out in `test_the_tree_of_uct_is_the_one_worked_out_by_hand`, the others were checked in the same manner.

    GOLDEN.write_text(json.dumps({name: drawn(*fields) for name, fields in TREES.items()}, indent=1) + "\\n")
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from math import inf, log, sqrt
from pathlib import Path
from random import Random

import pytest

from fakes import Typist, solved
from ponder.core import PolicyInfo, Sampling
from ponder.errors import UsageError
from ponder.strategies.mcts import Mcts
from ponder.strategies.mcts_tree import Node
from ponder.strategies.steps import Worth
from ponder.types import Chain, Score, Step, Usage
from searches import Table, Values, made_by

GOLDEN = Path(__file__).parents[1] / "golden" / "mcts.json"
ROWS = {
    "": [("A\n", None), ("B\n", None), (" A\n", None)],
    "A\n": [("c\n", None), ("d", "stop"), ("c\n", None)],
    "B\n": [("c\n", None), ("d\n", None), ("e", "length")],
    "A\nc\n": [("x", "stop"), ("y", "stop")],
    "B\nc\n": [("x", "stop")],
    "B\nd\n": [("x", "stop"), ("", "error")],
}
WORTH = {"A\n": 0.5, "B\n": 0.25, "A\nc\n": 0.25, "A\nd": 0.75, "B\nc\n": 0.5, "B\nd\n": 1.0}
WORTH |= {"A\nc\nx": 0.5, "A\nc\ny": 0.0, "B\nc\nx": 1.0, "B\nd\nx": 0.25}
TREES = {
    f"{rule}, {parallel} in flight": (rule, prior, parallel, simulations)
    for rule, prior in (("uct", "uniform"), ("puct", "count"))
    for parallel, simulations in ((1, 5), (4, 12))
}


def drawn(rule, prior, parallel, simulations):
    """A tree and the order in which its nodes were judged, as plain data."""
    guide = Values(WORTH)
    search = Mcts(simulations, 3, guide, rule=rule, prior=prior, parallel=parallel)
    return {"judged": guide.judged, "tree": plain(made_by(search.tree, Table(ROWS)))}


def plain(node):
    known = {"text": node.chain.text, "visits": node.visits, "total": round(node.total, 9), "prior": round(node.prior, 9)}
    return known | {"closed": node.closed, "children": [plain(child) for child in node.children]}


@pytest.mark.parametrize("name", TREES)
def test_whole_trees_are_the_golden_ones(name):
    assert drawn(*TREES[name]) == json.loads(GOLDEN.read_text())[name]


def test_the_tree_of_uct_is_the_one_worked_out_by_hand():
    """1. The root: A .5, B .25; a copy of A is one child with it.
    2. N = 2, A .5 + sqrt(ln 2) before B .25 + sqrt(ln 2): Ac .25 and Ad .75, which has ended.
    3. N = 4, B .25 + sqrt(ln 4) = 1.43 before A .5 + sqrt(ln 4 / 3) = 1.18: Bc .5, Bd 1, Be, which was cut: 0.
    4. N = 7, A .5 + sqrt(ln 7 / 3) = 1.31 before B .44 + sqrt(ln 7 / 4) = 1.14; Ad has ended, so Ac: x .5, y 0. All of A has ended.
    5. B: Bd 1 + sqrt(ln 4) before Bc .5 + sqrt(ln 4): x .25; a child that failed is none.
    """
    golden = json.loads(GOLDEN.read_text())["uct, 1 in flight"]
    assert golden["judged"] == ["A\n", "B\n", "A\nc\n", "A\nd", "B\nc\n", "B\nd\n", "A\nc\nx", "A\nc\ny", "B\nd\nx"]
    found = {}

    def walk(node):
        found[node["text"]] = (node["visits"], node["total"], node["closed"])
        for child in node["children"]:
            walk(child)

    walk(golden["tree"])
    assert found == {
        "": (10, 4.0, False),
        "A\n": (5, 2.0, True),
        "A\nc\n": (3, 0.75, True),
        "A\nc\nx": (1, 0.5, True),
        "A\nc\ny": (1, 0.0, True),
        "A\nd": (1, 0.75, True),
        "B\n": (5, 2.0, False),
        "B\nc\n": (1, 0.5, False),
        "B\nd\n": (2, 1.25, True),
        "B\nd\nx": (1, 0.25, True),
        "B\ne": (1, 0.0, True),
    }


@dataclass
class Plain:
    """A node of the slow version."""

    text: str
    ends: bool
    prior: float
    visits: int = 0
    total: float = 0.0
    children: tuple = ()
    over: bool = False


def textbook(rows, values, simulations, rule, c, prior):
    """Kocsis and Szepesvari 2006, and AlphaGo's PUCT, one leaf a simulation; nothing in it is shared with the code under test."""

    def urge(child, parent):
        q = child.total / child.visits if child.visits else 0.0
        if rule == "puct":
            return q + c * child.prior * sqrt(parent.visits) / (1 + child.visits)
        return q + c * sqrt(log(parent.visits) / child.visits) if child.visits else inf

    root, order = Plain("", False, 1.0), []
    for _ in range(simulations):
        if root.over:
            break
        path = [root]
        while path[-1].children:
            parent = path[-1]
            path.append(max((child for child in parent.children if not child.over), key=lambda child: urge(child, parent)))
        leaf = path[-1]
        if leaf.visits or leaf is root:
            counts = Counter((leaf.text + rows[leaf.text][i % len(rows[leaf.text])][0]) for i in range(3))
            ends = {leaf.text + text: finish == "stop" for text, finish in rows[leaf.text]}
            share = {text: counts[text] / 3 if prior == "count" else 1 / len(counts) for text in counts}
            leaf.children = tuple(Plain(text, ends[text], share[text]) for text in counts)
            path.append(max(leaf.children, key=lambda child: child.prior))
        order.append(path[-1].text)
        for node in path:
            node.visits += 1
            node.total += values[path[-1].text]
        path[-1].over = path[-1].ends
        for node in reversed(path[:-1]):
            node.over = all(child.over for child in node.children)
    return order, root


def same(node, slow):
    assert (node.chain.text, node.visits, node.total, node.closed) == (slow.text, slow.visits, slow.total, slow.over)
    assert node.prior == pytest.approx(slow.prior)
    assert len(node.children) == len(slow.children)
    for child, other in zip(node.children, slow.children, strict=True):
        same(child, other)


def forest(seed):
    """A random tree of at most four levels; values are eighths, so that sums are exact and ties happen."""
    random, rows, values = Random(seed), {}, {}

    def grow(text, depth):
        rows[text] = []
        for letter in "abc"[: random.randint(1, 3)]:
            ends = depth == 3 or random.random() < 0.2
            below = f"{text}{letter}" if ends else f"{text}{letter}\n"
            rows[text].append((below[len(text) :], "stop" if ends else None))
            values[below] = random.randint(0, 8) / 8
            if not ends:
                grow(below, depth + 1)

    grow("", 0)
    return rows, values


@pytest.mark.parametrize(("rule", "prior"), [("uct", "uniform"), ("puct", "uniform"), ("puct", "count")])
@pytest.mark.parametrize("c", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("seed", range(12))
def test_one_leaf_a_simulation_is_the_textbook_search(rule, prior, c, seed):
    rows, values = forest(seed)
    guide = Values(values)
    search = Mcts(20, 3, guide, rule=rule, c=c, prior=prior, evaluate="one")
    order, slow = textbook(rows, values, 20, rule, c, prior)
    same(made_by(search.tree, Table(rows)), slow)
    assert guide.judged == order


def test_what_is_in_flight_counts_as_a_visit_of_value_0():
    root = Node(Chain(()), visits=4)
    child = Node(Chain(()), root, prior=0.5, visits=3, total=1.5)
    assert child.urge("uct", 1.0) == pytest.approx(0.5 + sqrt(log(4) / 3))
    child.fly(1)
    assert (child.flying, root.flying) == (1, 1)
    assert child.urge("uct", 1.0) == pytest.approx(1.5 / 4 + sqrt(log(5) / 4))
    assert child.urge("puct", 2.0) == pytest.approx(1.5 / 4 + 2.0 * 0.5 * sqrt(5) / 5)
    child.fly(-1)
    assert (child.flying, root.flying) == (0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_leaves_in_flight_are_different_and_land_again(seed):
    rows, values = forest(seed)
    policy = Table(rows)
    tree = made_by(Mcts(60, 3, Values(values), parallel=4).tree, policy)
    assert max(Counter(policy.asked).values()) == 1, "a leaf was expanded twice"

    def landed(node):
        return not node.flying and all(map(landed, node.children))

    assert landed(tree)


def test_a_virtual_loss_sends_the_next_walk_elsewhere():
    """Once x and y are expanded, x has the mean .6 of three visits, y .57. With a walk below x it is 1.8 / 4 = .45, and the next goes to y."""
    rows = {"": [("x\n", None), ("y\n", None)]}
    rows |= {f"{text}\n": [("1\n", None), ("2\n", None)] for text in "xy"}
    rows |= {f"{text}\n{below}\n": [("!\n", None), ("?\n", None)] for text in "xy" for below in "12"}
    values = {"x\n": 0.6, "y\n": 0.5} | {text: 0.6 for text in rows if len(text) > 2}
    policy = Table(rows)
    made_by(Mcts(6, 2, Values(values | {f"{text}{end}\n": 0.6 for text in rows for end in "!?"}), c=0.0, parallel=2).tree, policy)
    assert [text for text, index in policy.asked if not index] == ["", "x\n", "y\n", "x\n1\n", "y\n1\n"]


ENDS = {"": [("x", "stop"), ("y\n", None)], "y\n": [("1", "stop"), ("2", "stop")]}


def test_a_finished_chain_is_walked_to_once_and_the_search_ends_when_all_has_ended():
    policy, guide = Table(ENDS), Values({"x": 0.9, "y\n": 0.1, "y\n1": 0.2, "y\n2": 0.3})
    tree = made_by(Mcts(50, 2, guide).tree, policy)
    assert (tree.closed, tree.visits, len(policy.asked)) == (True, 4, 4)
    assert solved(Mcts(50, 2, guide), Table(ENDS)).answer == "x"


def test_visits_choose_where_they_are_to_choose():
    """x is worth .5, y1 .9 and y2 0: by visits y is gone into as long as its mean is above, and y1 within it; the best value is y1."""
    guide = Values({"x": 0.5, "y\n": 0.6, "y\n1": 0.9, "y\n2": 0.2})
    search = Mcts(40, 2, guide, c=0.2, final="visits")
    policy = Table(ENDS)
    tree = made_by(search.tree, policy)
    assert [child.visits for child in tree.children] == sorted(child.visits for child in tree.children)
    assert len(policy.asked) == 4, "ends are walked to again for free"
    assert tree.visits == 2 + 2 + 38, "two simulations that expand, of two values each, and the others of one"
    assert sum(share for _, share in tree.policy()) == pytest.approx(1.0)
    assert tree.policy()[1] == (tree.children[1].chain, tree.children[1].visits / tree.visits)
    assert solved(search, Table(ENDS)).answer == "y\n1"
    lucky = Mcts(40, 2, Values({"x": 0.5, "y\n": 0.1, "y\n1": 0.6, "y\n2": 0.0}), c=0.2)
    assert solved(lucky, Table(ENDS)).answer == "y\n1", "the best value of all"
    played = Mcts(40, 2, lucky.verifier, c=0.2, final="visits")
    assert solved(played, Table(ENDS)).answer == "x", "the better move: y is .1, then .6 or 0"


def test_a_tie_of_visits_goes_to_the_higher_mean_and_then_to_the_first():
    root = Node(Chain(()))
    one, two, three = (
        Node(Chain(()), root, visits=v, total=t, value=x) for v, t, x in ((2, 0.5, 0.9), (2, 1.0, 0.1), (2, 0.5, 0.9))
    )
    root.children = [one, two, three]
    assert root.ranked() == [two, one, three]


def test_a_tree_may_be_deeper_than_python_recurses():
    node = tree = Node(Chain(()))
    for _ in range(3000):
        node.children = [Node(Chain(()), node), Node(Chain(()), node, closed=True)]
        node = node.children[0]
    node.answer = Worth(Chain((), (Step("x"),), "stop"), 0.5)
    assert tree.played() is node.answer
    node.fly(1)
    assert tree.busy, "its one leaf that is not closed is in flight"
    node.fly(-1)
    assert not tree.busy


def test_what_has_no_score_is_not_counted_and_left_but_stands_where_there_is_nothing_else():
    policy, guide = Table(ENDS), Values({"x": None, "y\n": 0.5, "y\n1": None, "y\n2": 0.1})
    tree = made_by(Mcts(9, 2, guide).tree, policy)
    assert (tree.visits, tree.total, tree.closed) == (2, 0.6, True)
    assert solved(Mcts(9, 2, guide), Table(ENDS)).answer == "y\n2"
    assert solved(Mcts(1, 2, guide), Table(ENDS)).answer == "x"
    assert solved(Mcts(1, 2, guide, final="visits"), Table(ENDS)).answer == "x"


def test_what_goes_on_but_has_no_score_is_not_walked_to_again():
    guide = Values({"x": 0.5, "y\n": None})
    tree = made_by(Mcts(9, 2, guide).tree, Table(ENDS))
    assert (guide.judged, tree.closed) == (["x", "y\n"], True)


def test_a_search_ends_once_an_answer_is_good_enough():
    guide = Values({"x": 0.7, "y\n": 0.9, "y\n1": 0.8, "y\n2": 0.9})
    assert solved(Mcts(9, 2, guide, accept=0.7), Table(ENDS)).spent.samples == 2
    assert solved(Mcts(9, 2, guide, accept=0.75), Table(ENDS)).spent.samples == 4


def test_the_prior_of_the_policy_is_the_share_of_its_probabilities():
    policy = Table(ENDS, {"x": 0.1, "y\n": 0.3})
    tree = made_by(Mcts(1, 2, Values({"x": 0.5, "y\n": 0.5}), rule="puct", prior="policy").tree, policy)
    assert [child.prior for child in tree.children] == pytest.approx([0.25, 0.75], rel=1e-5)
    with pytest.raises(UsageError, match="needs token probabilities, which this engine did not give"):
        solved(Mcts(1, 2, Values({"x": 0.5, "y\n": 0.5}), prior="policy"), Table(ENDS))


def test_a_child_without_tokens_is_no_reason_to_give_up_the_prior():
    """A chain that is at its cap ends without a token."""
    policy = Typist(("ab\ncd", "ab\nef"), capabilities=frozenset({"continue", "logprobs"}))
    outcome = solved(
        Mcts(4, 2, Values({"ab\n": 0.5, "a": 0.5, "ab": 0.5}), prior="policy", step=1), policy, sampling=Sampling(max_tokens=2)
    )
    assert outcome.chain is None


def test_one_child_at_random_is_judged_where_it_is_asked_for():
    first = set()
    for seed in range(12):
        guide = Values({"x": 0.5, "y\n": 0.5})
        solved(Mcts(1, 2, guide, evaluate="random"), Table(ENDS), seed=seed)
        assert len(guide.judged) == 1
        first |= set(guide.judged)
    assert first == {"x", "y\n"}


def test_actions_are_put_in_front_of_the_children_in_turn():
    rows = {"": [("p", "stop"), ("q", "stop")], "Wait! ": [("r", "stop")]}
    policy, guide = Table(rows), Values({"p": 0.1, "q": 0.2, "Wait! r": 0.9})
    outcome = solved(Mcts(1, 3, guide, actions=("", "Wait! ")), policy)
    assert policy.asked == [("", 0), ("", 1), ("Wait! ", 0)]
    assert [step.source for step in outcome.chain.steps] == ["injected", "policy"]
    with pytest.raises(UsageError, match="branch = 1 must be at least 2, a child for each of the actions"):
        Mcts(1, 1, guide, actions=("", "Wait! "))


@cache
def best_allocation(evidence, looks):
    """P(the good one of three arms is named) by the best adaptive use of looks that are right 80% of the time.

    evidence: for each arm, looks that said 1 less those that said 0; the posterior of an arm is in proportion to 4 ** evidence.
    """
    weights = [4.0**one for one in evidence]
    posterior = [weight / sum(weights) for weight in weights]
    if not looks:
        return max(posterior)
    values = []
    for at, good in enumerate(posterior):
        says_yes = 0.8 * good + 0.2 * (1 - good)
        after = [tuple(sorted(one + by * (k == at) for k, one in enumerate(evidence))) for by in (1, -1)]
        values.append(says_yes * best_allocation(after[0], looks - 1) + (1 - says_yes) * best_allocation(after[1], looks - 1))
    return max(values)


def test_the_best_allocation_is_the_one_of_small_cases():
    assert best_allocation((0, 0, 0), 0) == pytest.approx(1 / 3)
    assert best_allocation((0, 0, 0), 1) == pytest.approx(8 / 15), (
        "yes with .4, then it has 2/3; no with .6, then another has 4/9"
    )
    assert best_allocation((0, 0, 0), 14) == pytest.approx(0.9752, abs=5e-5)


class Arms:
    """Three first actions, and below them a tree without end whose texts all differ."""

    info = PolicyInfo("arms", "arms", frozenset({"continue", "seed", "n"}))

    async def sample(self, asks, *, until, sampling):
        return [[self.child(ask.chain, index) for index in ask.indices] for ask in asks]

    def child(self, chain, index):
        text = f"{index}\n" if chain.steps else f"{'abc'[index % 3]}\n"
        return chain.then(Step(text, Usage(prompt=1, completion=1, calls=1)))


def good(prompt):
    return Random(f"good {prompt[0].text}").choice("abc")


class Looks:
    """Says whether the first action was the good one, right 80% of the time; each prefix is another look."""

    fingerprint = ""

    def __init__(self):
        self.many = 0

    async def score(self, chains, run):
        self.many += len(chains)
        return [Score(float((chain.text[0] == good(chain.prompt)) == (Random(chain.digest).random() < 0.8))) for chain in chains]


@pytest.mark.slow
def test_the_good_first_action_of_three_is_found_as_often_as_the_best_allocation_of_14_looks_can_within_3_points():
    """The issue's claim, at the default rule and c; the action that expert iteration would take is the one with most visits."""
    n, looks = 2500, Looks()
    trees = made_by(Mcts(14, 3, looks, evaluate="one").tree, Arms(), n=n)
    picked = sum(tree.ranked()[0].chain.text[0] == good(tree.chain.prompt) for tree in trees) / n
    best, error = best_allocation((0, 0, 0), 14), (picked * (1 - picked) / n) ** 0.5
    assert looks.many == 14 * n
    assert error < 0.01
    assert best - 0.03 <= picked <= best + 3 * error
