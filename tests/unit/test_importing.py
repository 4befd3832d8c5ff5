"""Samples made elsewhere become a study whose curve is that of the bank they came from."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import pytest

from ponder.cli import importing, verbs
from ponder.cli.curve import Curves
from ponder.errors import DataError, StudyError
from ponder.store import Journal, StudyStore
from studies import cli

PUBLISHED = Path(__file__).parents[3] / "shared" / "data" / "rm_bank_math100.jsonl"


def one(answer, correct, **more):
    return {"answer": answer, "correct": correct, **more}


def written(tmp_path, *problems):
    file = tmp_path / "bank.jsonl"
    file.write_text("".join(json.dumps({"problem": at, "samples": samples}) + "\n" for at, samples in enumerate(problems)))
    return file


def curve(folder):
    with ExitStack() as stack:
        study, journal, table = verbs.open_study(folder, stack)
        points = Curves(study, StudyStore(journal), table).points()
    return {(p.strategy, p.k): p.value for p in points}, {(p.strategy, p.k): p.tokens for p in points}


def test_the_curve_of_an_imported_bank_is_what_a_hand_counts(tmp_path):
    file = written(
        tmp_path,
        # Majority 7 (right); best score on a wrong one; sum of sigmoids 7: .5 + .5, 8: .98, so 7 by weight too.
        [one("7", True, score=0.0, tokens=3), one("8", False, score=4.0, tokens=5), one("7", True, score=0.0, tokens=4)],
        # All differ: the vote goes to the first, which is wrong; the best score is right.
        [one("1", False, score=-2.0, tokens=1), one("2", True, score=-1.0, tokens=1), one(None, False, score=9.0, tokens=1)],
    )
    importing.bring(file, tmp_path / "study", None)
    values, tokens = curve(tmp_path / "study")
    assert values["sample", 1] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert values["self_consistency", 3] == 0.5
    assert values["best_of_n(recorded(name='score'))", 3] == 0.5  # a sample without an answer is never chosen, whatever its score
    assert values["weighted_vote(recorded(name='score'))", 3] == 1.0
    assert values["pass@k (any of k correct)", 3] == 1.0
    assert tokens["self_consistency", 3] == pytest.approx((12 + 3) / 2)


def test_raw_scores_keep_their_ranks_far_out(tmp_path):
    """The value of a score is its sigmoid, which runs out of digits near 1: ties there would fall to the first seen."""
    file = written(tmp_path, [one("a", False, score=30.0), one("b", True, score=31.0)])
    importing.bring(file, tmp_path / "study", None)
    assert curve(tmp_path / "study")[0]["best_of_n(recorded(name='score'))", 2] == 1.0
    assert 1 / (1 + math.exp(-30.0)) < 1 / (1 + math.exp(-31.0)) < 1.0


def test_a_bank_without_scores_has_no_curve_that_needs_them(tmp_path):
    importing.bring(written(tmp_path, [one("a", True), one("b", False, score=1.0)]), tmp_path / "study", "mine")
    values, _ = curve(tmp_path / "study")
    assert {strategy for strategy, _ in values} == {"sample", "self_consistency", "pass@k (any of k correct)"}


def test_equal_answers_without_text_stay_samples_of_their_own(tmp_path):
    importing.bring(written(tmp_path, [one("7", True)] * 4), tmp_path / "study", None)
    assert curve(tmp_path / "study")[0]["self_consistency", 4] == 1.0
    with Journal(tmp_path / "study" / "study.db") as journal:
        assert journal.read("SELECT count(DISTINCT text) FROM samples") == [(4,)]


def test_equal_texts_share_a_verdict_and_must_agree_on_it(tmp_path):
    """One text, judged twice, differently: whichever came last would win in silence."""
    file = written(tmp_path, [one("7", True, text="It is 7."), one("7", False, text="It is 7.")])
    with pytest.raises(DataError) as caught:
        importing.bring(file, tmp_path / "study", None)
    assert str(caught.value) == (
        f"{file}:1: samples 0 and 1 have the same text, but not the same answer, verdict and score; mend one of them"
    )
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"problem": 1, "samples": []}', ":1: problem '1' has no samples"),
        ('{"problem": 1, "samples": [{"answer": "1", "correct": "yes"}]}', ":1: sample 0: correct = 'yes' must be true or false"),
        (
            '{"problem": 1, "samples": [{"answer": "1", "correct": true, "score": NaN}]}',
            ":1: sample 0: score = nan must be a finite number, or be left out",
        ),
        ('{"problem": 1, "samples": [{"answer": "1", "correct": true, "tokens": -1}]}', ":1: sample 0: tokens = -1 must be a count of at most 9,007,199,254,740,992"),
        (
            '{"problem": 1, "samples": [{"answer": "1", "correct": true, "tokens": true}]}',
            ":1: sample 0: tokens = True must be a count of at most 9,007,199,254,740,992",
        ),
        (
            f'{{"problem": 1, "samples": [{{"answer": "1", "correct": true, "tokens": {2**63}}}]}}',
            ":1: sample 0: tokens = 9223372036854775808 must be a count of at most 9,007,199,254,740,992",
        ),
        (
            '{"problem": 1, "samples": [{"answer": "1", "correct": true, "score": true}]}',
            ":1: sample 0: score = True must be a finite number, or be left out",
        ),
        (
            f'{{"problem": 1, "samples": [{{"answer": "1", "correct": true, "score": {"9" * 400}}}]}}',
            f":1: sample 0: score = {'9' * 80} must be a finite number, or be left out",
        ),
        (
            '{"problem": 1, "samples": ["a"]}',
            """:1: samples = "['a']" must be a list of samples, each an object with correct""",
        ),
        ('{"problem": 1, "samples": [{"answer": "1"}]}', ":1: is not an imported problem (KeyError('correct')); `ponder import --help` shows the form"),
        ('{"problem": 1}', ":1: is not an imported problem (KeyError('samples')); `ponder import --help` shows the form"),
        ("[1]", ":1: is not an imported problem (TypeError('list indices must be integers or slices, not str')); `ponder import --help` shows the form"),
        ("", ": holds no problem; one JSON object a line is expected"),
        (
            '{"problem": 1, "samples": [{"answer": "1", "correct": true}]}\n{"problem": 1, "samples": [{"answer": "1", "correct": true}]}',
            ":2: problem '1' stands in the file twice",
        ),
        (
            '{"problem": 1, "samples": [{"answer": "1", "correct": true}]}\n'
            '{"problem": 2, "samples": [{"answer": "1", "correct": true}, {"answer": "2", "correct": true}]}',
            ": problems have 1 to 2 samples; estimators need the same number of every problem: cut them to 1",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line_before_anything_is_written(tmp_path, line, message):
    file = tmp_path / "bank.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(DataError) as caught:
        importing.bring(file, tmp_path / "study", None)
    assert str(caught.value) == f"{file}{message}"
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("place", ["problem", "answer", "text", "question", "gold"])
def test_half_a_surrogate_pair_is_no_text_and_leaves_nothing_behind(tmp_path, place):
    sample = {"answer": "1", "correct": True, "text": "one"}
    body = {"problem": "a", "question": "b", "gold": "1", "samples": [sample]}
    (sample if place in sample else body)[place] = "\ud800"
    file = tmp_path / "bank.jsonl"
    file.write_text(json.dumps(body))
    with pytest.raises(DataError, match=r":1: is not an imported problem .*surrogates not allowed"):
        importing.bring(file, tmp_path / "study", None)
    assert not (tmp_path / "study").exists()
    file.write_text(f'{{"problem": 1, "x": {"[" * 100_000}')
    with pytest.raises(DataError, match=r":1: is not an imported problem \(RecursionError"):
        importing.bring(file, tmp_path / "study", None)


def test_a_study_is_not_imported_over(tmp_path):
    file = written(tmp_path, [one("7", True)])
    importing.bring(file, tmp_path / "study", None)
    with pytest.raises(StudyError, match="holds a study already; name another folder with --out"):
        importing.bring(file, tmp_path / "study", None)


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published bank is not beside this checkout")
def test_the_published_bank_gives_the_published_numbers(tmp_path):
    """100 problems of MATH x 8 answers with the raw scores of a reward model."""
    assert cli("import", PUBLISHED, "--out", tmp_path / "study").returncode == 0
    done = cli("curve", tmp_path / "study", "--json")
    assert done.returncode == 0, done.stderr
    points = {(p["strategy"], p["k"]): p for p in map(json.loads, done.stdout.splitlines())}
    found = {
        "pass@1": points["pass@k (any of k correct)", 1]["value"],
        "maj@8": points["self_consistency", 8]["value"],
        "bon@8": points["best_of_n(recorded(name='score'))", 8]["value"],
        "pass@8": points["pass@k (any of k correct)", 8]["value"],
    }
    assert {name: round(value, 2) for name, value in found.items()} == {
        "pass@1": 0.91,
        "maj@8": 0.93,
        "bon@8": 0.94,
        "pass@8": 0.96,
    }
    assert {p["n"] for p in points.values()} == {100}
    assert (tmp_path / "study" / "curve.png").stat().st_size > 10_000
