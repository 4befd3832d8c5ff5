"""What the E-step keeps, whom a hint is given, and when the loop stops: by hand."""

from __future__ import annotations

import pytest

from ponder.errors import UsageError
from ponder.learners.datasets import Sample
from ponder.learners.em import EM, METHODS, Report, best, e_step, stalled, unsolved
from ponder.types import user


def sample(problem: str, text: str, correct: bool = True, index: int = 0, stream: str = "1") -> Sample:
    return Sample(problem, (user(problem),), (text,), correct, None, "stop", "p", 1.0, None, 5, stream, index)


FIRST = [sample("a", "1+2=3"), sample("a", "1+2=3", index=1), sample("a", "2+1=3", index=2), sample("b", "1+1=3", correct=False)]
SECOND = [sample("a", "3=3", stream="2"), sample("b", "1+1=2", stream="2"), sample("b", "so 1 + 1 = 2", stream="2", index=1)]


def texts(kept: list[Sample]) -> list[str]:
    return [one.text for one in kept]


def test_only_right_samples_of_the_last_round_are_kept_each_text_once():
    assert texts(e_step([FIRST, SECOND], EM(), 0)) == ["3=3", "1+1=2", "so 1 + 1 = 2"]


def test_a_growing_set_keeps_all_rounds():
    assert texts(e_step([FIRST, SECOND], EM(grow=True, cap=0), 0)) == ["1+2=3", "2+1=3", "3=3", "1+1=2", "so 1 + 1 = 2"]


def test_distinct_derivations_count_equations_not_words():
    kept = e_step([SECOND], METHODS["rft"], 0)
    assert [one.problem for one in kept] == ["a", "b"]


def test_duplicates_stay_where_nothing_is_deduplicated():
    assert texts(e_step([FIRST], EM(dedupe="none", cap=0), 0)) == ["1+2=3", "1+2=3", "2+1=3"]


def test_the_cap_holds_for_each_problem():
    many = [sample(problem, f"{i}+0={i}", index=i) for problem in "ab" for i in range(30)]
    kept = e_step([many], EM(), 0)
    assert {problem: sum(one.problem == problem for one in kept) for problem in "ab"} == {"a": 10, "b": 10}


def test_a_verifier_keeps_what_it_chose_right_or_wrong():
    em = EM(verifier="confidence", dedupe="none")
    kept = e_step([FIRST], em, 0, frozenset({("b", "1+1=3"), ("a", "2+1=3")}))
    assert [(one.text, one.correct) for one in kept] == [("2+1=3", True), ("1+1=3", True)]


def test_a_hint_is_given_for_problems_without_a_right_sample():
    assert unsolved(FIRST) == {"b"}
    assert unsolved(FIRST + SECOND) == frozenset()


def report(number: int, first: float, eighth: float) -> Report:
    return Report(number, 0, 0, 0, 0.0, {1: first, 8: eighth}, 0.0, 1.0, 0.0, 10, {})


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ([(0.2, 0.8), (0.3, 0.7)], 1, False),  # pass@1 still gains
        ([(0.3, 0.7), (0.3, 0.8)], 1, False),  # pass@8 still gains
        ([(0.3, 0.8), (0.3, 0.8)], 1, True),
        ([(0.3, 0.8), (0.2, 0.7)], 2, False),
        ([(0.3, 0.8), (0.2, 0.7), (0.3, 0.7)], 2, True),
        ([(0.3, 0.8), (0.2, 0.7), (0.2, 0.6)], 0, False),
    ],
)
def test_the_loop_stops_when_neither_pass_at_1_nor_pass_at_k_gains(values, patience, stops):
    assert stalled([report(number, *pair) for number, pair in enumerate(values)], patience) is stops


def test_the_best_round_is_the_earliest_of_the_highest():
    assert best([report(0, 0.2, 0.9), report(1, 0.4, 0.8), report(2, 0.4, 0.9)]).round == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, r"^em: rounds = 0 must be at least 1$"),
        ({"pairs": 0}, r"^em: pairs = 0 must be at least 1$"),
        ({"patience": -1}, r"^em: patience = -1 must be at least 0$"),
        ({"temperature": float("nan")}, r"temperature = nan must lie in \[0, 100\]"),
        ({"dedupe": "words"}, r"^em: dedupe = 'words' must be none, chain or derivation$"),
        ({"beside": "judge"}, r"^em: beside = 'judge' must be empty, preference, outcome or process$"),
        ({"verifier": "confidence", "samples": 1}, r"^em: a verifier that chooses among 1 sample has no choice"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(UsageError, match=message):
        EM(**given)
