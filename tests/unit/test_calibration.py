"""Calibration against hand-worked bins, brute force over pairs, and what must not change a number."""

import json
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.scaling.bootstrap import Interval, wilson
from ponder.scaling.calibration import CLIP, auc, calibrate


def by_pairs(scores, correct):
    right = [s for s, c in zip(scores, correct, strict=True) if c]
    wrong = [s for s, c in zip(scores, correct, strict=True) if not c]
    return sum((a > b) + (a == b) / 2 for a in right for b in wrong) / (len(right) * len(wrong))


def report(scores, correct, problems=None, difficulties=None, **how):
    how = {"resamples": 100} | how
    return calibrate(
        scores, np.array(correct, dtype=bool), problems or [f"p{i}" for i in range(len(scores))], difficulties, **how
    )


coarse = st.lists(st.tuples(st.integers(0, 6), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)
both = coarse.filter(lambda rows: {c for _, c, _ in rows} == {True, False})


def columns(rows):
    """Few different scores, so that there are ties; three decimals, so that sevenths do not stand on the edge of a bin."""
    return [round(s / 7 + 0.001, 3) for s, _, _ in rows], [c for _, c, _ in rows], [f"p{p}" for _, _, p in rows]


@pytest.mark.slow
@given(both)
def test_auc_by_ranks_is_auc_by_pairs(rows):
    scores, correct, _ = columns(rows)
    assert auc(scores, correct) == pytest.approx(by_pairs(scores, correct))


@pytest.mark.slow
@given(both)
def test_auc_sees_only_the_order_of_the_scores_and_turns_round_with_it(rows):
    scores, correct, _ = columns(rows)
    assert auc(np.array(scores) ** 3, correct) == auc(scores, correct)
    assert auc(-np.array(scores), correct) == pytest.approx(1 - auc(scores, correct))


def test_auc_of_equal_scores_is_a_half_and_of_one_kind_is_nothing():
    assert auc([0.3] * 4, [True, False, False, True]) == 0.5
    assert auc([0.1, 0.9], [True, True]) is None
    assert auc([0.1, 0.9], [False, False]) is None


def test_auc_within_problems_does_not_reward_knowing_which_problems_are_easy():
    """Every score of the easy problem lies above every score of the hard one; inside both, the order is upside down."""
    found = report([0.9, 0.8, 0.8, 0.2, 0.3, 0.3], [0, 1, 1, 0, 0, 0], ["easy"] * 3 + ["hard"] * 3).whole
    assert found.auc.value == pytest.approx(6 / 8)
    assert found.auc_within == Interval(0.0, 0.0, 0.0)
    assert (found.problems, found.mixed) == (2, 1)


@pytest.mark.slow
@settings(max_examples=25)
@given(both)
def test_auc_within_is_the_mean_over_problems_that_have_both_kinds(rows):
    scores, correct, problems = columns(rows)
    found = report(scores, correct, problems).whole
    inside = []
    for problem in set(problems):
        mine = [at for at, name in enumerate(problems) if name == problem]
        if {correct[at] for at in mine} == {True, False}:
            inside.append(by_pairs([scores[at] for at in mine], [correct[at] for at in mine]))
    assert found.mixed == len(inside)
    assert (found.auc_within.value if inside else None) == (pytest.approx(np.mean(inside)) if inside else None)


SCORES = [0.0, 0.1, 0.2, 0.6, 0.7, 0.8, 0.9, 1.0]
RIGHT = [0, 0, 1, 1, 0, 1, 1, 1]


def test_the_curve_of_equal_width_by_hand():
    """Two bins: [0, .5) holds .0 .1 .2, one of three right, mean .1; [.5, 1] holds the others, four of five right, mean .8."""
    curve = report(SCORES, RIGHT, bins=2).equal_width
    assert [(b.low, b.high, b.count) for b in curve.bins] == [(0.0, 0.5, 3), (0.5, 1.0, 5)]
    assert [b.score for b in curve.bins] == pytest.approx([0.1, 0.8])
    assert [b.right for b in curve.bins] == [wilson(1, 3), wilson(4, 5)]
    assert curve.ece == pytest.approx((3 * (1 / 3 - 0.1) + 5 * 0.0) / 8)
    assert curve.mce == pytest.approx(1 / 3 - 0.1)


def test_the_curve_of_equal_mass_by_hand():
    """Four bins of two: means .05 .4 .75 .95, shares 0 1 .5 1."""
    curve = report(SCORES, RIGHT, bins=4).equal_mass
    assert [(b.low, b.high, b.count) for b in curve.bins] == [(0.0, 0.1, 2), (0.2, 0.6, 2), (0.7, 0.8, 2), (0.9, 1.0, 2)]
    assert curve.ece == pytest.approx((0.05 + 0.6 + 0.25 + 0.05) / 4)
    assert curve.mce == pytest.approx(0.6)


def test_equal_scores_share_a_bin_of_equal_mass():
    curve = report([0.5, 0.5, 0.5, 0.5, 0.5, 0.9], [1, 0, 1, 0, 1, 1], bins=3).equal_mass
    assert [(b.score, b.count) for b in curve.bins] == [(0.5, 5), (0.9, 1)]
    rare = report([0.0] * 95 + [1.0] * 5, [0] * 100).equal_mass
    assert [(b.score, b.count) for b in rare.bins] == [(0.0, 95), (1.0, 5)]


def test_bins_include_their_lower_edge_and_the_last_one_both():
    assert [b.count for b in report([0.0, 0.5, 1.0], [0, 1, 1], bins=2).equal_width.bins] == [1, 2]
    assert report([0.29, 1.0], [0, 1], bins=100).equal_width.bins[0].low == 0.29  # 0.29 * 100 is below 29


def test_empty_bins_are_left_out():
    assert [(b.low, b.high) for b in report([0.05, 0.95], [0, 1]).equal_width.bins] == [(0.0, 0.1), (0.9, 1.0)]


def test_brier_and_log_loss_by_hand_and_a_certain_error_is_not_infinite():
    found = report([0.8, 0.5, 1.0], [1, 0, 0]).whole
    assert found.brier.value == pytest.approx((0.2**2 + 0.5**2 + 1.0) / 3)
    assert found.log_loss.value == pytest.approx(-(log(0.8) + log(0.5) + log(CLIP)) / 3)


def test_error_rates_at_a_threshold_that_is_itself_accepted():
    found = report(SCORES, RIGHT, threshold=0.7).whole
    assert found.false_positive.value == pytest.approx(1 / 3)  # .7 of .0 .1 .7
    assert found.false_negative.value == pytest.approx(2 / 5)  # .2 .6 of .2 .6 .8 .9 1
    assert report(SCORES, RIGHT, threshold=0.0).whole.false_positive.value == 1.0


def test_each_difficulty_is_measured_as_if_it_were_alone_and_unknown_ones_come_last():
    levels = [3, 3, 3, 3, 4, 4, None, None]
    found = report(SCORES, RIGHT, [f"p{i // 2}" for i in range(8)], levels)
    assert [one.difficulty for one in found.difficulties] == [3.0, 4.0, None]
    assert [one.n for one in found.difficulties] == [4, 2, 2]
    alone = report(SCORES[:4], RIGHT[:4], ["p0", "p0", "p1", "p1"]).whole
    assert found.difficulties[0].auc == alone.auc
    assert found.difficulties[0].false_negative == alone.false_negative


def test_a_rate_of_what_is_not_there_is_nothing():
    found = report([0.2, 0.8], [1, 1]).whole
    assert (found.auc, found.auc_within, found.false_positive) == (None, None, None)
    assert found.false_negative.value == 0.5
    assert report([0.2, 0.8], [0, 0]).whole.false_negative is None


def test_answers_without_a_score_are_counted_and_left_out():
    found = report([0.2, None, 0.8, float("nan")], [0, 1, 1, 0], difficulties=[3, 9, 3, 9])
    assert found.unscored == 2
    assert found.whole.n == 2
    assert [one.difficulty for one in found.difficulties] == [3.0]


def test_intervals_resample_problems_and_not_samples():
    """Sixteen copies of each answer say nothing new: the interval must be that of the 100 answers, not a quarter of it."""
    rng = np.random.default_rng(0)
    correct = rng.random(100) < 0.5
    scores = np.clip(0.5 + 0.2 * (correct - 0.5) + 0.2 * rng.standard_normal(100), 0, 1)
    once = report(scores, correct, resamples=400).whole
    often = report(np.repeat(scores, 16), np.repeat(correct, 16), [f"p{i // 16}" for i in range(1600)], resamples=400).whole
    for name in ("auc", "brier", "log_loss", "false_positive", "false_negative", "right"):
        left, right = getattr(once, name), getattr(often, name)
        assert (left.value, left.low, left.high) == pytest.approx((right.value, right.low, right.high)), name
    assert once.brier.high - once.brier.low == pytest.approx(2 * 1.96 * np.std((scores - correct) ** 2) / 10, rel=0.15)


@pytest.mark.slow
@settings(max_examples=25)
@given(coarse, st.integers(1, 12), st.randoms(use_true_random=False))
def test_what_holds_for_every_report(rows, bins, random):
    scores, correct, problems = columns(rows)
    found = report(scores, correct, problems, bins=bins)
    for curve in (found.equal_width, found.equal_mass):
        assert sum(b.count for b in curve.bins) == len(rows)
        assert 0.0 <= curve.ece <= curve.mce + 1e-12
        assert sum(b.count * b.right.value for b in curve.bins) == pytest.approx(sum(correct))
        assert all(b.low - 1e-12 <= b.score <= b.high + 1e-12 for b in curve.bins)
        assert len(curve.bins) <= bins
    whole = found.whole
    assert whole.brier.value == pytest.approx(np.mean((np.array(scores) - np.array(correct)) ** 2))
    for one in (whole.auc, whole.right, whole.brier, whole.false_positive, whole.false_negative):
        assert one is None or 0.0 <= one.low <= one.high <= 1.0
    order = random.sample(range(len(rows)), len(rows))
    shuffled = report([scores[i] for i in order], [correct[i] for i in order], [problems[i] for i in order], bins=bins)
    assert shuffled.equal_mass.ece == pytest.approx(found.equal_mass.ece)
    assert (shuffled.whole.auc and shuffled.whole.auc.value) == pytest.approx(whole.auc and whole.auc.value)


def test_a_perfectly_calibrated_verifier_has_next_to_no_error_and_a_certain_one_has_its_error_rate():
    rng = np.random.default_rng(0)
    scores = rng.random(3000)
    assert report(scores, rng.random(3000) < scores).equal_width.ece < 0.03
    assert report(np.ones(1000), rng.random(1000) < 0.7).equal_mass.ece == pytest.approx(0.3, abs=0.05)


def test_the_table_and_the_file_say_the_same_as_the_report(tmp_path):
    found = report(SCORES, RIGHT, [f"p{i // 2}" for i in range(8)], [3] * 4 + [4, 4, None, None], bins=2)
    lines = found.table().splitlines()
    assert lines[0].startswith("| difficulty | n | right | AUC | AUC within |")
    assert [line.split("|")[1].strip() for line in lines[2:6]] == ["all", "3", "4", "unknown"]
    assert f"| all | 8 | 0.625 [{found.whole.right.low:.3f}, {found.whole.right.high:.3f}] |" in lines[2]
    assert "| 0.000 .. 0.600 | 4 | 0.225 | 0.500 [0.150, 0.850] |" in lines
    assert lines[-1].startswith(f"ECE {found.equal_width.ece:.3f} (bins of equal width; of equal mass, as shown: ")
    found.save(tmp_path)
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert kept["whole"]["auc"]["value"] == found.whole.auc.value
    assert kept["difficulties"][2]["difficulty"] is None
    assert kept["equal_mass"]["bins"][0]["count"] == 4


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0.5], [True], ["a", "b"]), r"^scores have shape \(1,\), verdicts \(1,\) and type bool, problems 2"),
        (([0.5, 0.5], [1, 0], ["a", "b"]), "verdicts as bool$"),
        (([1.5, 0.5], [True, False], ["a", "b"]), "^2 of 2 answers have a score; it takes at least one, and each in"),
        (([None], [True], ["a"]), "^0 of 1 answers have a score"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(ValueError, match=message):
        calibrate(columns[0], np.array(columns[1]), columns[2])


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"^threshold is 2 and bins 10; "):
        report(SCORES, RIGHT, threshold=2)
    with pytest.raises(ValueError, match=r"^threshold is 0.5 and bins 0; "):
        report(SCORES, RIGHT, bins=0)
