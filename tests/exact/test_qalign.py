"""QAlign's walk settles at p(y) exp(v(y) / beta): all answers of a small chain, whose lengths differ, enumerated."""

from __future__ import annotations

from collections import Counter
from math import exp

import pytest
from scipy.stats import chisquare

from fakes import Scripted, solved
from ponder.strategies import qalign
from ponder.strategies.qalign import Qalign
from ponder.strategies.steps import Choice, Worth, prefix, starts
from ponder.testing import MarkovPolicy
from ponder.types import Chain, Step
from searches import Table, Values, gathered

WALK = MarkovPolicy({"start": {"x": 0.5, "m": 0.5}, "m": {"y": 0.4, "z": 0.3, "n": 0.3}, "n": {"u": 0.6, "w": 0.4}})
LAW = {"x\n": 0.5, "m\ny\n": 0.2, "m\nz\n": 0.15, "m\nn\nu\n": 0.09, "m\nn\nw\n": 0.06}
GUIDE = Values({"x\n": 0.3, "m\ny\n": 0.1, "m\nz\n": 0.5, "m\nn\nu\n": 0.4, "m\nn\nw\n": 0.6})
BETA = 0.25
TILTED = {text: p * exp(GUIDE.table[text] / BETA) for text, p in LAW.items()}
TARGET = {text: p / sum(TILTED.values()) for text, p in TILTED.items()}


class NoLengths(Qalign):
    """The same without the ratio of lengths."""

    def ratio(self, now, then, cut=0):
        return exp((then.value - now.value) / self.beta)


def worth(text):
    chain = Chain(())
    for line in text.splitlines(keepends=True):
        chain = chain.then(Step(line))
    return Worth(Chain((), chain.steps, "stop"), GUIDE.table.get(text, 0.5))


def moved(search, law=LAW, target=TARGET):
    """The distribution after one move from the target, by enumeration of cuts and of what may be written after them."""
    after = dict.fromkeys(target, 0.0)
    for text, mass in target.items():
        now = worth(text)
        cuts = starts(now.chain, "line")
        for cut in cuts:
            kept = text[:cut]
            below = {end: p for end, p in law.items() if end.startswith(kept)}
            for end, p in below.items():
                share = mass / len(cuts) * p / sum(below.values())
                taken = min(1.0, search.ratio(now, worth(end), cut))
                after[end] += share * taken
                after[text] += share * (1 - taken)
    return after


def test_a_move_from_the_target_stays_at_the_target():
    assert moved(Qalign(1, GUIDE, BETA)) == pytest.approx(TARGET)
    assert moved(NoLengths(1, GUIDE, BETA)) != pytest.approx(TARGET, abs=5e-3), "the ratio of lengths is needed"


class NoWayBack(Qalign):
    """The same with moves to an answer that ends where the old one was cut."""

    def ratio(self, now, then, cut=0):
        return super().ratio(now, then)


def test_answers_that_begin_as_longer_ones_do_have_no_more_than_their_share():
    law = {"a\n": 0.5, "a\nb\n": 0.3, "a\nb\nc\n": 0.2}
    guide = Values(dict.fromkeys(law, 0.5))
    assert moved(Qalign(1, guide, BETA), law, law) == pytest.approx(law)
    assert moved(NoWayBack(1, guide, BETA), law, law)["a\n"] > 0.55, "without the rule the short one gains"


def test_a_walk_does_not_move_to_what_it_kept(monkeypatch):
    """Each answer of two lines is cut behind the first (the last place to begin), after which the policy stops at once."""
    policy = Table({"": [("a\nb", "stop")], "a\n": [("", "stop")]})
    monkeypatch.setattr("random.Random.choice", lambda self, places: places[-1])
    outcome = solved(Qalign(3, Values({"a\nb": 0.1, "a\n": 0.9})), policy)
    assert outcome.answer == "a\nb", "three stays against none"


def last_states(search, n, monkeypatch):
    """The state of each walk after all moves, over n questions."""
    seen = []

    class Noted(Choice):
        def add(self, run, found, *, vote=True):
            if vote:
                seen.append((run, [one.chain.text for one in found]))
            super().add(run, found, vote=vote)

    monkeypatch.setattr(qalign, "Choice", Noted)
    gathered(search, WALK, n)
    return Counter(text for run, texts in dict(seen).items() for text in texts)


@pytest.mark.slow
@pytest.mark.parametrize(("made", "settles"), [(Qalign, True), (NoLengths, False)])
def test_long_walks_end_where_the_target_says(made, settles, monkeypatch):
    """3,000 walks of 14 moves; each move begins anew with probability 1 / |y| >= 1 / 3. Without the lengths the same test is red."""
    ends = last_states(made(14, GUIDE, BETA, chains=100), 30, monkeypatch)
    pvalue = chisquare([ends[text] for text in TARGET], [p * 3000 for p in TARGET.values()]).pvalue
    assert bool(pvalue > 1e-3) is settles, pvalue


def test_the_ratio_is_that_of_the_targets_times_the_lengths():
    search = Qalign(1, GUIDE, BETA)
    assert search.ratio(worth("x\n"), worth("m\nn\nw\n")) == pytest.approx(exp(0.3 / BETA) * 1 / 3)
    assert search.ratio(worth("m\nn\nw\n"), worth("x\n")) == pytest.approx(exp(-0.3 / BETA) * 3)
    assert Qalign(1, GUIDE, 1e-9).ratio(worth("x\n"), worth("m\nz\n")) > 1e300, "no overflow"


def test_what_is_kept_is_not_paid_again_and_states_vote_as_often_as_they_are_stayed_in():
    outcome = solved(Qalign(6, GUIDE, BETA, chains=2), WALK)
    drawn = [event.chains for event in outcome.events if event.kind == "extend"]
    assert [len(chains) for chains in drawn] == [2] * 7
    assert outcome.spent.usage.completion == sum(chain.steps[-1].usage.completion for chains in drawn for chain in chains)
    script = Scripted([("good", "stop", 1), ("bad", "stop", 1), ("bad", "stop", 1), ("bad", "stop", 1)])
    stubborn = Qalign(3, Values({"good": 1.0, "bad": 0.0}), 0.01)
    assert solved(stubborn, script).answer == "good", "one good state of four samples: it is never left, and has all votes"


def test_an_answer_that_cannot_be_taken_is_never_a_state():
    script = Scripted([("cut", "length", 1), ("unknown", "stop", 1), ("fine", "stop", 1), ("unknown", "stop", 1)])
    outcome = solved(Qalign(3, Values({"unknown": None, "fine": 0.1})), script)
    assert outcome.answer == "fine"


def test_a_walk_goes_on_from_what_it_kept():
    assert prefix(worth("m\nn\nw\n").chain, 4) == Chain((), (Step("m\n"), Step("n\n")))
    assert [starts(worth(text).chain, "line") for text in ("x\n", "m\ny\n", "m\nn\nu\n")] == [[0], [0, 2], [0, 2, 4]]
