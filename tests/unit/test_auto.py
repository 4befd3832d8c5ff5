"""`auto`: the pilot decides, what it paid for is used again, and the card's parts are seen by whoever asks a strategy for its parts."""

from __future__ import annotations

import pytest

from fakes import Believer, Scripted, Watched, first_word, solved
from ponder.bank import MemoryTable, TableBank
from ponder.cli.runner import needs_oracle
from ponder.core import Budget, logprobs_needed, parts
from ponder.errors import DataError, UsageError
from ponder.scaling.card import Card, Choice, Split, Triple, write
from ponder.spec import parse
from ponder.strategies.auto import Auto
from ponder.testing import MazePolicy

NUMBER = Triple(0.5, 0.4, 0.6)


def card(tmp_path, *choices, pilot=2, guide="", splits=(), measured=()):
    """A card file; choices: (bin, budget, strategy, policy)."""
    lines = tuple(Choice(b, n, s, p, NUMBER, NUMBER, 1.0) for b, n, s, p in choices)
    made = Card(pilot, guide, splits, lines, measured=measured)
    file = tmp_path / "card.toml"
    write(made, file)
    return str(file)


def two(tmp_path, **how):
    """Where the pilot agrees, vote once more; where it does not, vote among eight."""
    lines = [(0, 100, "self_consistency(n=8)", ""), (1, 100, "self_consistency(n=3)", "")]
    return card(tmp_path, *lines, splits=(Split(0, "agreement", 0.6, 1),), **how)


def script(*words):
    return Scripted([(f"{word} {number}", "stop", 2) for number, word in enumerate(words)])


def test_the_pilot_decides_and_costs_nothing_twice(tmp_path):
    auto = Auto(two(tmp_path))
    easy, hard = script("a", "a", "b", "b", "b"), script("a", "b", "b", "a", "a", "a", "c", "c")
    agreed = solved(auto, easy, answer=first_word)
    assert (agreed.answer, agreed.spent.samples) == ("a", 3)
    torn = solved(auto, hard, answer=first_word)
    assert (torn.answer, torn.spent.samples, torn.spent.usage.completion) == ("a", 8, 16)
    assert [index for _, index in hard.asked] == list(range(8))


def test_a_guide_scores_the_pilot_once_for_both(tmp_path):
    line = (0, 100, "rejection(n=6, verifier=noisy(right=('right',), price=3), threshold=0.9, otherwise='best')", "")
    auto = Auto(card(tmp_path, line, guide="noisy(right=('right',), price=3)"))
    policy = Scripted([("wrong", "stop", 1), ("right", "stop", 1), ("right", "stop", 1)])
    outcome = solved(auto, policy, answer=first_word)
    assert outcome.answer == "right"
    assert (outcome.spent.samples, outcome.spent.usage.scored) == (2, 6), (
        "the accepted sample is of the pilot: nothing more is drawn"
    )


def test_it_has_an_answer_when_the_budget_ends_with_the_pilot(tmp_path):
    auto = Auto(card(tmp_path, (0, 100, "first_finish(n=6)", ""), guide="noisy(right=('right',))"))
    policy = Scripted([("wrong", "stop", 1), ("right", "stop", 1)])
    outcome = solved(auto, policy, answer=first_word, budget=Budget(samples=2))
    assert outcome.answer == "right", "the one the guide believes in, not the first"


def test_the_budget_of_the_spec_comes_before_that_of_the_run_and_the_largest_without_either(tmp_path):
    lines = [(0, 10, "sample", ""), (0, 100, "self_consistency(n=4)", ""), (0, 1000, "self_consistency(n=9)", "")]
    file = card(tmp_path, *lines, pilot=1)
    policy = Scripted([("a", "stop", 1)])

    def drawn(tokens=None, **how):
        return solved(Auto(file, **how), policy, budget=Budget(tokens=tokens) if tokens else None).spent.samples

    assert [drawn(budget=10), drawn(budget=500), drawn()] == [1, 4, 9]
    assert [drawn(99), drawn(101), drawn(5000, budget=100)] == [1, 4, 4]
    assert drawn(5) == 1, "a run that may spend less than all of the card gets its smallest"
    with pytest.raises(UsageError, match=r"^auto: budget = 9 is below all of the card .*, which has 10, 100, 1000 tokens$"):
        Auto(file, budget=9)


def test_another_policy_plays_the_part_that_the_card_gives_it(tmp_path):
    auto = Auto(card(tmp_path, (0, 100, "self_consistency(n=3)", "maze(1.0, 3)"), pilot=1))
    own = Watched(MazePolicy(0.5, 2))
    outcome = solved(auto, own)
    assert own.children == 1
    assert outcome.answer == "a\na\na"
    assert outcome.spent.samples == 4


def test_a_card_of_another_policy_is_refused_before_anything_is_spent_unless_it_is_meant(tmp_path):
    own = MazePolicy(0.5, 2)
    line = (0, 100, "self_consistency(n=3)", "")
    same = card(tmp_path, line, measured=(("policies", ["maze"]), ("fingerprints", [own.info.fingerprint])))
    assert solved(Auto(same), own).spent.samples == 3
    other = Watched(MazePolicy(0.6, 2))
    with pytest.raises(UsageError) as caught:
        solved(Auto(same), other)
    assert str(caught.value) == (
        f"auto: the card {same!r} was measured on maze ({own.info.fingerprint}), and the policy here is {other.info.name} "
        f"({other.info.fingerprint}): what it promises does not hold; tune a card on this (`ponder tune`), or use it all the same: "
        f"auto(card={same!r}, any_policy=True)"
    )
    assert other.children == 0
    assert solved(Auto(same, any_policy=True), other).spent.samples == 3
    assert solved(parse(f"auto(card={same!r}, any_policy=True)", "strategies").within(100), other).spent.samples == 3


def test_a_part_that_has_changed_since_it_was_measured_is_refused_too(tmp_path):
    own, part = MazePolicy(0.5, 2), MazePolicy(1.0, 3)
    lines = [(0, 100, "best_of_n(n=3, verifier=noisy(right=('a',), price=3))", "maze(1.0, 3)")]
    [scorer] = [one.fingerprint for one in parts(parse(lines[0][2], "strategies")) if hasattr(one, "score")]

    def auto(*prints, verifiers=(scorer,)):
        told = (("fingerprints", [own.info.fingerprint, *prints]), ("verifiers", list(verifiers)))
        return Auto(card(tmp_path, *lines, measured=told))

    assert solved(auto(part.info.fingerprint), own).spent.samples > 3
    with pytest.raises(UsageError, match=r"a part of it is now maze\(1\.0, 3\): what it promises does not hold"):
        solved(auto("maze-of-yore"), own)
    with pytest.raises(UsageError, match=r"a part of it is now noisy"):
        solved(auto(part.info.fingerprint, verifiers=["noisy-of-yore"]), own)


def test_its_parts_are_seen(tmp_path):
    auto = Auto(card(tmp_path, (0, 100, "best_of_n(n=3, verifier=confidence('marco'))", "maze(1.0, 3)"), guide="oracle()"))
    assert needs_oracle(auto)
    assert logprobs_needed(auto) == 5
    assert {type(part).__name__ for part in parts(auto)} >= {"BestOfN", "Confidence", "MazePolicy", "Oracle", "Card"}


def test_a_changed_card_is_another_strategy_though_its_spec_is_the_same(tmp_path):
    file = card(tmp_path, (0, 100, "sample", ""))
    first = Auto(file)
    assert repr(first) == f"auto(card={file!r})"
    card(tmp_path, (0, 100, "self_consistency(n=2)", ""))
    assert Auto(file).plan.fingerprint != first.plan.fingerprint


def test_a_card_of_unknown_or_circular_strategies_is_refused_when_the_spec_is_read(tmp_path):
    with pytest.raises(UsageError, match=r"there is no strategy 'best_of'"):
        parse(f"auto(card={card(tmp_path, (0, 9, 'best_of(n=3)', ''))!r})", "strategies")
    with pytest.raises(UsageError, match=r"names auto itself"):
        Auto(card(tmp_path, (0, 9, "auto(card='x')", "")))
    for hidden in ("(auto(card='card.toml'))", "auto:card.toml"):
        with pytest.raises(UsageError, match=r"names auto itself"):
            Auto(card(tmp_path, (0, 9, hidden, "")))
    with pytest.raises(DataError, match=r"^card 'nowhere': cannot be read"):
        parse("auto(card='nowhere')", "strategies")


def test_a_replay_costs_the_engine_nothing(tmp_path):
    policy, bank = Watched(MazePolicy(0.6, 3)), TableBank(MemoryTable())
    auto = Auto(two(tmp_path))
    first = solved(auto, policy, bank=bank)
    before = policy.children
    assert solved(auto, policy, bank=bank) == first
    assert policy.children == before


# rejection that does not abstain


def test_rejection_gives_the_best_where_none_is_accepted_if_told_so():
    policy = Scripted([(word, "stop", 1) for word in ("low", "mid", "odd", "mid2")])
    table = (("low", 0.1), ("mid", 0.3), ("mid2", 0.3))
    best = parse("rejection(n=4, verifier=oracle(), otherwise='best')", "strategies")
    outcome = solved(type(best)(4, Believer(table, None), otherwise="best"), policy)
    assert (outcome.answer, outcome.spent.samples) == ("mid", 4), "ties go to what was seen first"
    unscored = solved(type(best)(4, Believer((), None), otherwise="best"), policy)
    assert unscored.answer == "low"
    accepted = solved(type(best)(4, Believer(table, None), 0.3, otherwise="best"), policy)
    assert (accepted.answer, accepted.spent.samples) == ("mid", 2)
    with pytest.raises(UsageError, match=r"^rejection: otherwise = 'none' must be 'abstain' or 'best'$"):
        type(best)(4, Believer(), otherwise="none")
