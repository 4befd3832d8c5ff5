"""Policy cards: what is read is what was written, and a card that cannot work says where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ponder.errors import DataError
from ponder.scaling.card import Card, Choice, Expected, Split, Triple, features, read, write

NUMBER = Triple(0.5, 0.4, 0.6)


def choice(bin_, budget, strategy="sample", policy=""):
    return Choice(bin_, budget, strategy, policy, NUMBER, Triple(30.0, 20.0, 40.5), 3.5)


CARD = Card(
    4,
    "reward_model('lab/prm')",
    (Split(0, "tokens", 40.25, 1), Split(1, "best", 0.5, 2)),
    tuple(choice(b, n, f"self_consistency(n={b + 1})", "lab('large')" if b else "") for b in range(3) for n in (100, 900)),
    (Expected(100, NUMBER, NUMBER, 'best_of_n(n=4, verifier=reward_model("lab/prm"))', NUMBER, NUMBER),),
    (("studies", ("a", "b")), ("problems", 12), ("note", 'with "quotes" and\nlines')),
)


def test_a_card_reads_back_as_it_was_written(tmp_path):
    write(CARD, tmp_path / "card.toml")
    found = read(str(tmp_path / "card.toml"))
    assert replace(found, measured=()) == replace(CARD, measured=())
    assert dict(found.measured) == {"studies": ["a", "b"], "problems": 12, "note": 'with "quotes" and\nlines'}
    assert found.fingerprint == CARD.fingerprint


def test_the_fingerprint_is_that_of_what_it_does_and_not_of_its_evidence():
    assert replace(CARD, expected=(), measured=()).fingerprint == CARD.fingerprint
    others = [
        replace(CARD, pilot=5),
        replace(CARD, guide=""),
        replace(CARD, splits=CARD.splits[:1]),
        replace(CARD, choices=(*CARD.choices[:-1], replace(CARD.choices[-1], policy=""))),
    ]
    assert len({card.fingerprint for card in (CARD, *others)}) == 5


@pytest.mark.parametrize(
    ("tokens", "best", "bin_"), [(40.25, 1.0, 0), (40.5, 0.5, 1), (40.5, 0.51, 2), (0, 0, 0)], ids=["at", "above", "both", "none"]
)
def test_splits_are_taken_in_order_and_the_bound_stays_below(tokens, best, bin_):
    assert CARD.bin({"tokens": tokens, "best": best}) == bin_


def test_the_largest_budget_within_the_tokens_counts():
    assert [CARD.affordable(tokens) for tokens in (1, 99, 100, 899, 900, None)] == [100, 100, 100, 100, 900, 900]


def test_features_are_those_that_can_be_counted_by_hand():
    assert features(["a", None, "b", "a"], [4, 0, 2, 2], [0.5, None, 0.75]) == {
        "agreement": 0.5,
        "answered": 0.75,
        "tokens": 2.0,
        "mean": 0.625,
        "best": 0.75,
    }
    assert set(features([None], [3], []).values()) == {0.0, 3.0}


PLACES = {
    "pilot": (lambda body: body.replace("pilot = 4", "pilot = 0"), "pilot = 0 must be a whole number of at least 1"),
    "feature": (lambda body: body.replace('"tokens"', '"length"'), "there is no feature 'length'; there are agreement, "),
    "bin": (
        lambda body: body.replace("becomes = 2", "becomes = 1"),
        "a split of bin 1 into 1: it must split a bin that there is",
    ),
    "bound": (lambda body: body.replace("above = 0.5", "above = nan"), "a split of bin 1 above nan: it must be a finite number"),
    "missing": (lambda body: body.replace("budget = 900", "budget = 901", 1), "bin 0 must have one choice for a budget of 900"),
    "key": (lambda body: "plan = 3\n" + body, "there is no key 'plan'; there are choices, "),
    "toml": (lambda body: body + "=", "is not TOML"),
    "field": (lambda body: body.replace("policy =", "policies =", 1), "is not a card: "),
    "none": (lambda body: body[: body.index("[[choices]]")], "is not a card: 'choices'"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_card_that_cannot_work_is_refused_with_the_place(tmp_path, name):
    spoil, message = PLACES[name]
    file = tmp_path / "card.toml"
    write(CARD, file)
    file.write_text(spoil(file.read_text()))
    with pytest.raises(DataError) as caught:
        read(str(file))
    assert str(caught.value).startswith(f"card '{file}': {message}")


def test_a_card_that_is_not_there_names_the_verb_that_writes_one():
    with pytest.raises(
        DataError, match=r"^card 'no\.toml': cannot be read \(No such file or directory\); `ponder tune STUDY --out no"
    ):
        read("no.toml")


def test_the_card_of_the_contract_suite_is_a_card():
    assert read(str(Path(__file__).parents[1] / "data" / "card.toml")).budgets == [40, 400]
