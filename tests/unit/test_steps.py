"""What searches over steps share: steps and their ends, prefixes, values, candidates; and what a run draws for them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import ROOT, Scripted, first_word, solved, words
from ponder.core import LINE, PARAGRAPH, Budget, Until
from ponder.errors import UsageError
from ponder.strategies.steps import SENTENCE, UNSCORED, Choice, Worth, best, check_final, judged, prefix, starts, until
from ponder.types import Chain, Score, Step, Tokens, Usage
from searches import Values, made_by


def chain(*texts, finish=None, tokens=True):
    """A chain of these steps, a character a token."""
    steps = tuple(
        Step(text, Usage(prompt=3, completion=len(text), calls=1), tokens=words(text) if tokens else None) for text in texts
    )
    return Chain(ROOT.prompt, steps, finish)


def done(text, value=0.5):
    return Worth(chain(text, finish="stop"), value)


@pytest.mark.parametrize(
    ("step", "how"),
    [("line", LINE), ("paragraph", PARAGRAPH), ("sentence", SENTENCE), (1, Until(tokens=1)), (64, Until(tokens=64))],
)
def test_a_step_is_named_or_a_number_of_tokens(step, how):
    assert until(step) == how


@pytest.mark.parametrize("step", [0, -3, True, 2.0, "word", ""])
def test_a_step_that_is_neither_is_refused(step):
    with pytest.raises(UsageError) as caught:
        until(step)
    assert str(caught.value) == f"step = {step!r} must be one of line, paragraph, sentence, or a number of tokens of at least 1"


@pytest.mark.parametrize(
    ("text", "step", "begun"),
    [
        ("a\nb\nc", "line", [0, 2, 4]),
        ("a\nb\nc\n", "line", [0, 2, 4]),
        ("a\nb\n \n", "line", [0, 2]),
        ("one", "line", [0]),
        ("", "line", [0]),
        ("a\nb\n\nc\n\n", "paragraph", [0, 5]),
        ("One. Two? Three! Four\nFive.", "sentence", [0, 5, 10, 17, 22]),
    ],
)
def test_a_step_begins_where_one_has_ended_and_something_follows(text, step, begun):
    assert starts(chain(text), step) == begun
    assert starts(chain(text[:1], text[1:], tokens=False), step) == begun, "where the chain was cut before does not matter"


def test_mini_steps_begin_at_every_so_many_tokens():
    assert starts(chain("abcdefg"), 1) == [0, 1, 2, 3, 4, 5, 6]
    assert starts(chain("abc", "defg"), 3) == [0, 3, 6]
    assert starts(chain("abc"), 9) == [0]
    assert starts(chain(""), 2) == [0]
    wide = Step("abcde", tokens=Tokens(("ab", "", "cde"), array("i"), array("f")))
    assert starts(Chain((), (wide,)), 1) == [0, 2, 2]


def test_mini_steps_need_tokens():
    with pytest.raises(UsageError) as caught:
        starts(chain("abc", tokens=False), 2)
    assert str(caught.value) == "step = 2: mini-steps of a whole answer need its tokens, which this engine does not give"
    with pytest.raises(UsageError, match="need its tokens"):
        starts(Chain((), (*chain("ab").steps, Step("Wait!", source="injected"))), 2)


@given(texts=st.lists(st.text("ab\n", min_size=1, max_size=5), min_size=1, max_size=4), data=st.data())
def test_a_prefix_is_what_the_policy_would_go_on_from(texts, data):
    whole = chain(*texts, finish="stop")
    end = data.draw(st.integers(0, len(whole.text)))
    part = prefix(whole, end)
    assert part.text == whole.text[:end]
    assert part.digest == Chain(ROOT.prompt, (Step(whole.text[:end]),) if end else ()).digest
    assert part.finish is None
    assert part.usage.completion == end, "a character is a token"
    assert part.steps[:-1] == whole.steps[: len(part.steps) - 1] if part.steps else not end
    assert all(len(step.tokens) == len(step.text) for step in part.steps)


def test_a_step_that_is_cut_between_tokens_keeps_its_share_of_them():
    step = Step("abcdef", Usage(prompt=5, completion=3, calls=1), tokens=Tokens(("ab", "cd", "ef"), array("i"), array("f")))
    at_token, between = prefix(Chain((), (step,)), 4).steps[0], prefix(Chain((), (step,)), 3).steps[0]
    assert (at_token.text, at_token.usage.completion, at_token.tokens.texts) == ("abcd", 2, ("ab", "cd"))
    assert (between.text, between.usage.completion, between.tokens) == ("abc", 2, None)


def values_of(guide, chains, **how):
    return made_by(lambda root, run: judged(run, guide, chains), Scripted([]), answer=first_word, **how)


def test_equal_chains_are_scored_once_and_each_has_the_value():
    guide = Values({"a": 0.1, "b": 0.9})
    found = values_of(guide, [chain("a", finish="stop"), chain("b"), chain("a", finish="stop"), chain("b", finish="stop")])
    assert guide.judged == ["a", "b", "b"], "a finished chain and an open one of the same text are two"
    assert [one.value for one in found] == [0.1, 0.9, 0.1, 0.9]


def test_what_was_cut_or_failed_or_has_no_answer_is_gone_and_a_score_that_failed_is_none():
    gone = [chain("a", finish=finish) for finish in ("length", "error", "filtered", "cancelled")] + [chain(" ", finish="stop")]
    found = values_of(Values({"a": None, " ": 0.3}), [*gone, chain("a"), chain(" ")])
    assert [(one.chain.text, one.live, one.value) for one in found] == [("a", True, UNSCORED), (" ", True, 0.3)]


def test_scores_that_cannot_be_paid_for_leave_the_chains_without_values():
    class Dear(Values):
        async def score(self, chains, run):
            return [Score(0.5, usage=Usage(scored=3, calls=1)) for _ in chains]

    async def twice(root, run):
        first = await judged(run, guide, [chain("a"), chain("b")])
        return first, await judged(run, guide, [chain("c")])

    guide = Dear({}, fingerprint="dear")
    first, second = made_by(twice, Scripted([]), budget=Budget(tokens=3))
    assert [one.value for one in first] == [0.5, UNSCORED]
    assert [one.value for one in second] == [UNSCORED]


def test_the_best_come_first_ties_to_what_was_seen_first_and_copies_count_once():
    a, b, c, copy = Worth(chain("a"), 0.5), Worth(chain("b"), 0.7), Worth(chain("c"), 0.5), Worth(chain("a"), 0.5)
    assert best([a, b, copy, c], 9) == [b, a, c]
    assert best([a, b, copy, c], 9, distinct=False) == [b, a, copy, c]
    assert best([a, Worth(chain("a", finish="stop"), 0.6)], 2)[1] is a
    assert best([Worth(chain("d")), a], 1) == [a], "what has no value comes last"


def chosen(final, *rounds):
    """The texts that are proposed as these rounds of chains come in."""

    async def search(root, run):
        choice = Choice(final)
        for found in rounds:
            choice.add(run, found)

    outcome = solved(search, Scripted([]), answer=first_word)
    return [event.chains[0].text for event in outcome.events]


VOTES = [[done("a 1", 0.6), done("b 1", 0.3), Worth(chain("c 1"), 0.9)], [done("b 2", 0.5)], [done("d", 0.7), done("b 3", 0.1)]]


def test_a_choice_proposes_its_leader_whenever_that_is_another():
    assert chosen("max", *VOTES) == ["a 1", "d"]
    assert chosen("vote", *VOTES) == ["a 1", "b 1"]
    assert chosen("weighted_vote", *VOTES) == ["a 1", "b 1"]
    assert chosen("weighted_vote", [done("a", 0.6)], [done("b", 0.2), done("b", 0.2)], [done("b", 0.3)]) == ["a", "b"]


def test_a_chain_without_a_value_leads_only_where_there_is_no_other():
    unknown = [done("u", UNSCORED)]
    assert chosen("max", unknown, [done("a", 0.0)]) == ["u", "a"]
    assert chosen("weighted_vote", unknown * 3, [done("a", 0.0)]) == ["u", "a"]
    assert chosen("vote", [*unknown, done("u", UNSCORED)], [done("a", 1.0)]) == ["u"], "a vote is a vote"


def test_what_may_not_vote_may_lead():
    async def search(root, run):
        choice = Choice("vote", accept=0.8)
        choice.add(run, [done("a", 0.9)], vote=False)
        assert choice.settled
        assert choice.leader.text == "a"
        choice.add(run, [done("b", 0.1)])
        assert choice.leader.text == "b"

    assert solved(search, Scripted([]), answer=first_word).answer == "b"


def test_chains_that_give_no_answer_are_never_chosen():
    bad = [Worth(chain("a", finish="length"), 1.0), Worth(chain(" ", finish="stop"), 1.0), Worth(chain("a"), 1.0)]
    assert chosen("max", bad) == chosen("vote", bad) == []


def test_a_way_to_choose_that_there_is_not_is_refused():
    check_final("beam", "max")
    check_final("mcts", "visits", "visits")
    with pytest.raises(UsageError) as caught:
        check_final("beam", "visits")
    assert str(caught.value) == "beam: final = 'visits' must be one of max, vote, weighted_vote"
    with pytest.raises(UsageError) as caught:
        check_final("beam", "max", accept=1.5)
    assert str(caught.value) == "beam: accept = 1.5 must lie in [0, 1], or be None to search to the end"


def drawn(name="", text="", seed=0, purpose=""):
    async def draw(root, run):
        stream = run.purpose(purpose) if purpose else run
        return stream.random(root.then(Step(text)) if text else root, name).random()

    return made_by(draw, Scripted([]), seed=seed)


def test_what_a_strategy_draws_is_a_function_of_seed_chain_and_name():
    assert drawn() == drawn()
    assert drawn("mcts", "a", 3, "rollout") == drawn("mcts", "a", 3, "rollout")
    different = [
        drawn(),
        drawn("mcts"),
        drawn("qalign"),
        drawn(text="a"),
        drawn(text="b"),
        drawn(seed=1),
        drawn(purpose="rollout"),
    ]
    assert len(set(different)) == len(different)


def test_a_draw_does_not_depend_on_what_the_run_has_done():
    async def draw(root, run):
        before = run.random(root, "x").random()
        await run.extend([root], n=3)
        return before, run.random(root, "x").random()

    before, after = made_by(draw, Scripted([("a", "stop", 1)]))
    assert before == after
