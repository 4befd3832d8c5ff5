"""A ballot's shares against counts by hand."""

from __future__ import annotations

import pytest

from fakes import QUESTION, ROOT, Scripted, solved
from ponder.errors import UsageError
from ponder.spec import parse
from ponder.types import Chain, Step, user
from ponder.verifiers.ballot import Ballot


def chains(*texts, prompt=ROOT.prompt):
    return [Chain(prompt, (Step(text),), "stop") for text in texts]


def scored(given, replies, **fields):
    found = []

    async def ask(root, run):
        del root
        found.extend(await run.score(Ballot(**fields), given))

    policy = Scripted([(text, finish, 3) for text, finish in replies])
    outcome = solved(ask, policy, question=QUESTION)
    return found, policy, outcome


def said(number):
    return f"One is short.\nThe best choice is {number}.", "stop"


def test_a_candidate_is_worth_its_share_of_the_votes_that_can_be_read():
    replies = [
        said(2),
        said(1),
        said("**2**"),
        ("The best choice is 2", "length"),
        said(9),
        ("I like 1", "stop"),
        said(2),
        said(2),
    ]
    found, policy, outcome = scored(chains("a", "b", "c"), replies, votes=8)
    assert [score.value for score in found] == [1 / 5, 4 / 5, 0.0]
    assert {score.error for score in found} == {"ballot: 3 of 8 votes name no candidate"}
    assert policy.asked == [("0/score/judge", index) for index in range(8)]
    assert outcome.spent.samples == 8


def test_only_the_last_line_votes():
    found, *_ = scored(chains("a", "b"), [("The best choice is 1.\nNo. The best choice is 2.", "stop")], votes=1)
    assert [score.value for score in found] == [0.0, 1.0]


def test_candidates_alike_are_listed_once_and_those_of_other_questions_apart():
    other = chains("a", prompt=(user("Another?"),))
    found, policy, _ = scored([*chains("a", "b", "a"), *other], [said(1)], votes=2)
    assert [score.value for score in found] == [1.0, 0.0, 1.0, None]
    assert "no other candidate" in found[3].error
    assert len(policy.asked) == 2


def test_without_votes_or_text_there_is_no_score_and_nothing_is_asked_for_one_candidate():
    found, *_ = scored(chains("a", "b"), [("hm", "stop")], votes=2)
    assert [score.value for score in found] == [None, None]
    found, policy, _ = scored(chains(" ", "b"), [said(1)])
    assert [score.value for score in found] == [None, None]
    assert policy.asked == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("votes=0", "votes = 0 must be at least 1"),
        ("temperature=0", "5 votes at temperature 0 are one vote"),
        ("prompt='genrm_direct@1'", "must have a mark"),
    ],
)
def test_a_ballot_that_cannot_work_is_refused(fields, message):
    with pytest.raises(UsageError, match=message):
        parse(f"ballot({fields})", "verifiers")
