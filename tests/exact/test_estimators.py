"""Estimators against brute force: every subset, in pool order, judged by a few plain lines."""

import json
import os
from collections import defaultdict
from fractions import Fraction
from itertools import combinations
from math import comb, isnan
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.scaling.estimators import best_of_n_at_k, expected_tokens, maj_at_k, pass_at_k, value_of_best_at_k, weighted_at_k

EVERY_SUBSET = 10**6  # more than any pool below has, so that voting is exact


def over_subsets(n, k, judge):
    subsets = list(combinations(range(n), k))
    return sum(judge(subset) for subset in subsets) / len(subsets)


def best_is_right(subset, correct, scores):
    best = None
    for i in subset:
        if not isnan(scores[i]) and (best is None or scores[i] > scores[best]):
            best = i
    return best is not None and correct[best]


def vote_is_right(subset, correct, answers, weights):
    totals, first = defaultdict(Fraction), {}
    for i in subset:
        if answers[i] != -1 and not isnan(weights[i]):
            totals[answers[i]] += Fraction(str(weights[i]))
            first.setdefault(answers[i], i)
    if not totals:
        return False
    most = max(totals.values())
    return correct[next(i for answer, i in first.items() if totals[answer] == most)]


@st.composite
def pools(draw):
    n = draw(st.integers(1, 7))
    sample = st.tuples(
        st.booleans(),
        st.sampled_from([-1, 0, 1, 2, 10**12]),
        st.sampled_from([float("nan"), 0.0, 0.1, 0.2, 0.3, 0.5, 1.0]),
    )
    problems = draw(st.lists(st.lists(sample, min_size=n, max_size=n), min_size=1, max_size=3))
    correct, answers, scores = (np.array([[s[f] for s in p] for p in problems]) for f in range(3))
    return correct.astype(bool), answers.astype(np.int64), scores.astype(float)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pools())
@pytest.mark.slow
def test_every_estimator_equals_enumeration_of_all_subsets(pool):
    correct, answers, scores = pool
    n = correct.shape[1]
    ks = range(1, n + 1)
    by_estimator = {
        "pass": pass_at_k(correct, ks),
        "bon": best_of_n_at_k(correct, scores, ks),
        "maj": maj_at_k(correct, answers, ks, subsets=EVERY_SUBSET),
        "weighted": weighted_at_k(correct, answers, scores, ks, subsets=EVERY_SUBSET),
    }
    for p in range(len(correct)):
        judges = {
            "pass": lambda subset, p=p: any(correct[p][i] for i in subset),
            "bon": lambda subset, p=p: best_is_right(subset, correct[p], scores[p]),
            "maj": lambda subset, p=p: vote_is_right(subset, correct[p], answers[p], [1] * n),
            "weighted": lambda subset, p=p: vote_is_right(subset, correct[p], answers[p], scores[p]),
        }
        for name, judge in judges.items():
            expected = [over_subsets(n, k, judge) for k in ks]
            assert by_estimator[name][p] == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("k", [1, 2, 17, 9_999, 10_000])
def test_pass_at_k_of_a_pool_of_ten_thousand_equals_integer_arithmetic(k):
    n = 10_000
    for c in (0, 1, 3, n // 2, n - 1, n):
        correct = np.arange(n)[None, :] < c
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(correct, [k])[0, 0] == pytest.approx(float(exact), rel=1e-10, abs=1e-13)


def test_best_of_n_of_a_large_pool_equals_integer_arithmetic():
    rng = np.random.default_rng(0)
    correct, scores = rng.random((1, 3000)) < 0.3, rng.integers(0, 50, (1, 3000)) / 7
    order = sorted(range(3000), key=lambda i: (-scores[0, i], i))
    for k in (1, 2, 64, 3000):
        exact = sum(comb(3000 - r, k - 1) for r, i in enumerate(order, 1) if correct[0, i])
        assert best_of_n_at_k(correct, scores, [k])[0, 0] == pytest.approx(float(Fraction(exact, comb(3000, k))))


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not():
    # true p = .05, n = 20, k = 10: 1 - .95**10 = .4013; the plug-in 1 - (1 - c/n)**k averages .3365.
    chances = [comb(20, c) * 0.05**c * 0.95 ** (20 - c) for c in range(21)]
    correct = np.arange(20)[None, :] < np.arange(21)[:, None]
    assert chances @ pass_at_k(correct, [10])[:, 0] == pytest.approx(1 - 0.95**10, abs=1e-12)
    assert chances @ (1 - (1 - np.arange(21) / 20) ** 10) == pytest.approx(0.3365, abs=1e-4)


def test_the_value_of_the_best_is_its_mean_over_all_subsets():
    values, scores = [[3.0, -1.0, np.nan, 0.5, 7.0]], [[0.2, 0.9, np.nan, 0.9, 0.1]]
    for k in (1, 2, 3, 5):
        best = [max((i for i in s if i != 2), key=lambda i: (scores[0][i], -i), default=None) for s in combinations(range(5), k)]
        expected = np.mean([0.0 if i is None else values[0][i] for i in best])
        assert value_of_best_at_k(values, scores, [k])[0, 0] == pytest.approx(expected)


def test_equal_scores_choose_the_sample_seen_first():
    scores = [[0.5, 0.5, 0.5]]
    assert best_of_n_at_k([[True, False, False]], scores, [3])[0, 0] == 1
    assert best_of_n_at_k([[False, True, True]], scores, [3])[0, 0] == 0
    assert best_of_n_at_k([[False, True, False]], scores, [2])[0, 0] == pytest.approx(1 / 3)


def test_unscored_samples_take_a_place_and_are_never_chosen():
    scores = [[np.nan, -5.0, np.nan]]
    assert best_of_n_at_k([[True, False, True]], scores, [1, 2, 3])[0].tolist() == [0, 0, 0]
    assert best_of_n_at_k([[False, True, False]], scores, [1, 2, 3])[0] == pytest.approx([1 / 3, 2 / 3, 1])


def test_minus_infinity_is_a_score_and_beats_no_score():
    assert best_of_n_at_k([[False, True]], [[np.nan, -np.inf]], [2])[0, 0] == 1


def test_tied_votes_go_to_the_answer_seen_first():
    assert maj_at_k([[True, False, False, True]], [[7, 3, 3, 7]], [4])[0, 0] == 1
    assert maj_at_k([[False, True, True, False]], [[7, 3, 3, 7]], [4])[0, 0] == 0


def test_failures_never_vote_however_many_they_are():
    answers = [[-1, -1, -1, 5]]
    assert maj_at_k([[False, False, False, True]], answers, [4])[0, 0] == 1
    assert maj_at_k([[True, True, True, True]], [[-1, -1, -1, -1]], [1, 3, 4])[0].tolist() == [0, 0, 0]


def test_ties_of_decimal_weights_do_not_depend_on_floating_point_order():
    # 0.1 + 0.2 exceeds 0.3 in floating point; as votes they tie and the answer seen first wins.
    assert 0.1 + 0.2 > 0.3
    weights = [[0.3, 0.1, 0.2]]
    assert weighted_at_k([[True, False, False]], [[0, 1, 1]], weights, [3])[0, 0] == 1
    assert weighted_at_k([[False, True, True]], [[0, 1, 1]], weights, [3])[0, 0] == 0


def test_a_vote_of_weight_zero_wins_only_unopposed():
    assert weighted_at_k([[True, False]], [[0, 1]], [[0.0, 0.0]], [2])[0, 0] == 1
    assert weighted_at_k([[True, False]], [[0, 1]], [[0.0, 1e-6]], [2])[0, 0] == 0
    assert weighted_at_k([[False, True]], [[0, 1]], [[np.nan, 0.0]], [2])[0, 0] == 1


@pytest.mark.parametrize("scale", [1e-280, 1.0, 1e280])
def test_weights_of_any_scale_vote_alike(scale):
    weights = np.array([[0.4, 0.3, 0.2]]) * scale
    assert weighted_at_k([[False, True, True]], [[0, 1, 1]], weights, [3])[0, 0] == 1


def test_random_subsets_estimate_the_enumerated_value_without_bias():
    rng = np.random.default_rng(1)
    correct = np.sort(rng.random((400, 12)) < 0.45, axis=1)  # sorted: any order left in the subsets would show
    answers = np.where(correct, 0, rng.integers(1, 4, correct.shape))
    weights = rng.integers(0, 8, correct.shape) / 8
    exact = weighted_at_k(correct, answers, weights, [2, 5, 8], subsets=1000)
    sampled = weighted_at_k(correct, answers, weights, [2, 5, 8], subsets=50)
    error = sampled - exact
    # Errors of problems are uncorrelated, so their mean shrinks like that of 400 independent ones.
    assert np.all(np.abs(error.mean(axis=0)) < 4 * error.std(axis=0) / np.sqrt(400))
    assert np.all(error.std(axis=0) < 0.09)  # sqrt(.25 / 50) = .071 at worst, and more where problems were not shuffled
    assert np.all(np.abs(error.mean(axis=0)) < 0.015)


def test_hundreds_of_heavy_votes_add_up():
    answers = np.repeat([[0, 1]], [40, 300], axis=1)
    for right in (0, 1):
        assert weighted_at_k(answers == right, answers, np.full((1, 340), 1.048575), [340])[0, 0] == right


def test_votes_are_the_same_for_a_seed_whatever_else_is_asked(monkeypatch):
    rng = np.random.default_rng(2)
    correct, answers = rng.random((30, 40)) < 0.5, rng.integers(-1, 6, (30, 40))
    whole = maj_at_k(correct, answers, [3, 10, 30], seed=5)
    assert np.array_equal(whole, maj_at_k(correct, answers, [3, 10, 30], seed=5))
    assert np.array_equal(whole[:11], maj_at_k(correct[:11], answers[:11], [3, 10, 30], seed=5))
    assert np.array_equal(whole[:, [2, 0]], maj_at_k(correct, answers, [30, 3], seed=5))
    assert not np.array_equal(whole, maj_at_k(correct, answers, [3, 10, 30], seed=6))
    monkeypatch.setattr("ponder.scaling.estimators._Ballots._chunks", lambda *_: [slice(0, 7), slice(7, 30)])
    assert np.array_equal(whole, maj_at_k(correct, answers, [3, 10, 30], seed=5))


def test_answer_ids_are_names_not_numbers():
    rng = np.random.default_rng(3)
    correct, answers = rng.random((20, 15)) < 0.5, rng.integers(0, 5, (20, 15))
    renamed = np.array([10**15, 3, 0, 77, 5])[answers]
    assert np.array_equal(maj_at_k(correct, answers, [4, 9]), maj_at_k(correct, renamed, [4, 9]))


def test_expected_tokens_is_the_mean_over_all_subsets():
    tokens = [3, 10, 500, 1]
    expected = [over_subsets(4, k, lambda subset: sum(tokens[i] for i in subset)) for k in (1, 2, 4)]
    assert expected_tokens([tokens], [1, 2, 4])[0] == pytest.approx(expected)


RIGHT = [[True, False, True]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k(RIGHT, [4]), "k is 4 but each problem has 3 samples; choose k in 1..3 or sample more"),
        (lambda: pass_at_k(RIGHT, [0]), "k is 0 but each problem has 3 samples; choose k in 1..3 or sample more"),
        (lambda: pass_at_k(RIGHT, []), "no subset sizes"),
        (lambda: pass_at_k([[1.0, np.nan]], [1]), "correct has shape .* and type float64"),
        (lambda: pass_at_k([True, False], [1]), "correct has shape"),
        (lambda: pass_at_k(np.zeros((0, 3), bool), [1]), "not empty"),
        (lambda: best_of_n_at_k(RIGHT, [[1.0, 2.0]], [1]), "scores has shape .1, 2. but correct has .1, 3."),
        (lambda: value_of_best_at_k([[1.0]], [[1.0, 2.0]], [1]), "scores has shape .1, 2. but values has .1, 1."),
        (lambda: value_of_best_at_k([[1.0, np.inf]], [[1.0, 2.0]], [1]), "values holds nan or infinity"),
        (lambda: maj_at_k(RIGHT, [[0.0, 1.0, 2.0]], [2]), "answers has shape .* and type float64"),
        (lambda: maj_at_k(RIGHT, [[0, -2, 1]], [2]), "answers holds -2"),
        (lambda: maj_at_k(RIGHT, [[0, 1, 1]], [2], subsets=0), "subsets is 0"),
        (lambda: weighted_at_k(RIGHT, [[0, 1, 1]], [[1.0, -4.3, 6.1]], [2]), "from -4.3 to 6.1"),
        (lambda: weighted_at_k(RIGHT, [[0, 1, 1]], [[1.0, np.inf, 0.0]], [2]), "to inf"),
        (lambda: expected_tokens([[1.0, np.nan]], [1]), "tokens holds"),
        (lambda: expected_tokens([[1, -1]], [1]), "tokens holds"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def data_file(name):
    """A file of the shared data folder, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("PONDER_DATA") or Path(__file__).parents[3] / "shared" / "data")
    if not (folder / name).is_file():
        pytest.skip(f"{name} is in neither PONDER_DATA nor ../shared/data")
    return folder / name


def test_a_published_bank_gives_its_published_numbers():
    # 100 MATH problems x 8 answers with raw scores of a reward model.
    rows = [json.loads(line) for line in data_file("rm_bank_math100.jsonl").read_text().splitlines()]
    column = lambda field: [[sample[field] for sample in row["samples"]] for row in rows]  # noqa: E731
    correct, scores = np.array(column("correct")), np.array(column("score"))
    names: dict[str, int] = {}
    answers = np.array([[names.setdefault(a, len(names)) for a in row] for row in column("answer")])
    assert pass_at_k(correct, [1]).mean() == pytest.approx(0.91)
    assert maj_at_k(correct, answers, [8]).mean() == pytest.approx(0.93)
    assert best_of_n_at_k(correct, scores, [8]).mean() == pytest.approx(0.94)
    assert pass_at_k(correct, [8]).mean() == pytest.approx(0.96)
