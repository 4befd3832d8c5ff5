"""Policy cards: what is read is what was written, and a card that cannot work says where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ponder.cli.ledger import Purse
from ponder.cli.tune import SEEN, report
from ponder.errors import DataError
from ponder.scaling.card import FEATURES, Card, Choice, Expected, Split, Triple, features, read, write

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


def test_a_card_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "card.toml").mkdir()
    with pytest.raises(IsADirectoryError):
        write(CARD, tmp_path / "card.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["card.toml"]


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
    "pilot": ("pilot = 4", "pilot = 0", "pilot = 0 must be a whole number of 1 to 1,000,000"),
    "huge pilot": ("pilot = 4", "pilot = 1000000001", "pilot = 1000000001 must be a whole number of 1 to 1,000,000"),
    "a truth for a number": ("pilot = 4", "pilot = true", "pilot = True must be a whole number"),
    "guide": ("guide = ", "guide = 5 # ", "guide = 5 must be text"),
    "feature": ('"tokens"', '"length"', "there is no feature 'length'; there are agreement, "),
    "feature of scores": ("guide = ", 'guide = "" # ', "a split of bin 1 by 'best', which is of scores, and there is no guide"),
    "bin": ("becomes = 2", "becomes = 1", "a split of bin 1 into 1: it must split a bin that there is"),
    "no hash": ("becomes = 2", "becomes = [1]", "splits[1].becomes = [1] must be a whole number"),
    "bound": ("above = 0.5", "above = nan", "splits[1].above = nan must be a finite number"),
    "missing": ("budget = 900", "budget = 901", "bin 0 must have one choice for a budget of 900"),
    "budget": ("budget = 900", 'budget = "900"', "choices[1].budget = '900' must be a whole number"),
    "no order": ("budget = 100", "budget = [1, 2, 3]", "choices[0].budget = [1, 2, 3] must be a whole number"),
    "strategy": ('strategy = "self', 'strategy = 5 # "self', "choices[0].strategy = 5 must be text"),
    "pair": (
        "[30.0, 20.0, 40.5]",
        "[30.0, 20.0]",
        "choices[0].tokens = [30.0, 20.0] must be a number and its interval, such as [0.5",
    ),
    "upside down": (
        "[30.0, 20.0, 40.5]",
        "[30.0, 41.0, 40.5]",
        "choices[0].tokens = [30.0, 41.0, 40.5] must be a number and its",
    ),
    "forged": (
        "accuracy = [0.5",
        "accuracy = [1.5",
        "choice of bin 0 at 100: an accuracy of [1.5, 0.4, 0.6] in [30.0, 20.0, 40.5]",
    ),
    "key": ("pilot = 4", "plan = 3\npilot = 4", "there is no key 'plan'; there are pilot, guide, splits, "),
    "line": ("problems = 3.5", "problems = 3.5\nnote = 1", "there is no key 'choices[0].note'; there are bin, budget, "),
    "toml": ("pilot = 4", "pilot = ", "is not TOML"),
    "deep": ("pilot = 4", f"pilot = {'[' * 9999}", "is not TOML"),
    "field": ("policy =", "policies =", "there is no key 'choices[0].policies'; there are bin, budget, strategy, policy, "),
    "none": ("[[choices]]", "[[measured]]", "is not TOML"),
    "no list": ("pilot = 4", "pilot = 4\nexpected = 3", "is not TOML"),
    "no table": ("[[splits]]", "[[expected]]\n[[splits]]", "expected[0].budget is missing"),
    "prints": ("problems = 12", "fingerprints = 5", "measured.fingerprints = 5 must be a list of texts"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_card_that_cannot_work_is_refused_with_the_place(tmp_path, name):
    old, new, message = PLACES[name]
    file = tmp_path / "card.toml"
    write(CARD, file)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as caught:
        read(str(file))
    assert str(caught.value).startswith(f"card '{file}': {message}")


def test_a_card_that_was_cut_anywhere_is_refused(tmp_path):
    file = tmp_path / "card.toml"
    write(replace(CARD, expected=(), measured=()), file)
    whole = file.read_text()
    for end in range(0, whole.rindex("problems"), 7):
        file.write_text(whole[:end])
        with pytest.raises(DataError, match=r"^card '.*card\.toml': "):
            read(str(file))
    file.write_bytes(b"# " + b"x" * 1_000_000)
    with pytest.raises(DataError, match=r"is larger than the 1,000,000 bytes that a card may have$"):
        read(str(file))


def test_strangers_are_the_policies_and_verifiers_that_it_was_not_measured_with():
    measured = replace(CARD, measured=(("fingerprints", ["own", "large"]), ("verifiers", ["prm"])))
    assert measured.strangers(["own", "large"], ["prm"]) == []
    assert measured.strangers(["own-of-a-request"], []) == [], "a request that adds to its prompt has the policy it had"
    assert measured.strangers(["large"], []) == ["large"], "the part of one is not the part of another"
    assert measured.strangers(["own", "larger"], ["prm", "orm"]) == ["larger", "orm"]
    assert CARD.strangers(["any"], ["any"]) == [], "a card written by hand does not say"


def test_a_card_that_is_not_there_names_the_verb_that_writes_one():
    with pytest.raises(
        DataError, match=r"^card 'no\.toml': cannot be read \(No such file or directory\); `ponder tune STUDY --out no"
    ):
        read("no.toml")


def test_the_card_of_the_contract_suite_is_a_card():
    assert read(str(Path(__file__).parents[1] / "data" / "card.toml")).budgets == [40, 400]


def test_the_card_is_printed_in_words_with_the_number_that_decides(capsys):
    splits = (Split(0, "best", 0.98256, 1), Split(1, "agreement", 0.5, 2))
    measured = {"candidates": 7, "difficulty_gain": [0.314, 0.2, 0.4], "difficulty_near": [0.93, 0.9, 0.95]}
    report(Card(4, "confidence", splits, (), (), tuple(measured.items())), Purse(), as_json=False)
    out, err = capsys.readouterr()
    assert "\nquestions whose best pilot score is above 0.9826 go to bin 1\n" in out
    assert "\nquestions of bin 1 whose share of pilot samples that agree is above 0.5 go to bin 2\n" in out
    assert err.startswith("ponder: difficulty_gain 0.31 [0.20, 0.40]: ")
    assert "ponder: difficulty_near 0.93 [0.90, 0.95]: " in err
    report(Card(4, "", (), (), (), ()), Purse(), as_json=False)
    assert "difficulty" not in capsys.readouterr().err, "too few problems to tell"
    assert {*SEEN} == {*FEATURES}
