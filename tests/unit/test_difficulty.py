"""Difficulty: features by hand, bins by counting, fits against known numbers and slow references, and no verdict at prediction time."""

import inspect
from dataclasses import replace

import numpy as np
import pytest

from ponder.errors import DataError, UsageError
from ponder.scaling.card import features
from ponder.scaling.difficulty import (
    Estimator,
    cross_validate,
    edges_of,
    isotonic_fit,
    logistic_fit,
    oracle_bins,
    table_of,
)


def test_a_question_is_told_by_its_features_alone():
    assert list(inspect.signature(Estimator.bin).parameters) == ["self", "features"]


def test_five_quantiles_are_of_equal_size_and_the_easiest_is_0():
    rate = np.random.default_rng(0).permutation(100) / 100
    found = oracle_bins(rate)
    assert np.bincount(found).tolist() == [20] * 5
    assert found[rate.argmax()] == 0
    assert found[rate.argmin()] == 4
    assert all(rate[found == b].min() > rate[found == b + 1].max() for b in range(4))


def test_equal_pass_rates_share_a_bin_though_bins_become_fewer():
    rate = np.array([1.0] * 50 + [0.5] * 30 + [0.0] * 20)
    assert oracle_bins(rate).tolist() == [0] * 50 + [1] * 30 + [2] * 20
    assert edges_of(rate) == (0.75, 0.25)
    assert edges_of([0.5] * 9) == ()


FIXED = Estimator("mine", ("agreement", "mean"), (2.0, 1.0), -1.5, (0.8, 0.4))


def test_the_bin_of_a_question_is_counted_from_the_easiest():
    assert [FIXED.bin({"agreement": a, "mean": s}) for a, s in ((1.0, 1.0), (0.7, 0.1), (0.0, 0.0))] == [0, 1, 2]
    assert FIXED.ease({"agreement": 0.5, "mean": 0.5}) == pytest.approx(0.5)
    assert FIXED.bins == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": (1.0,)}, "a weight for each"),
        ({"edges": (0.4, 0.8)}, "edges .0.4, 0.8. fall"),
        ({"bias": float("nan")}, "must be finite"),
        ({"knots_x": (0.1,)}, "knots in pairs"),
    ],
)
def test_what_is_no_estimator_is_refused(change, message):
    with pytest.raises(DataError, match=message):
        replace(FIXED, **change)


def test_a_missing_feature_is_named():
    with pytest.raises(UsageError, match=r"'mine' needs mean; there are agreement .scores need the verifier"):
        FIXED.bin({"agreement": 0.3})
    with pytest.raises(UsageError, match="no feature 'entropy'; pilots have agreement"):
        table_of([features(["a"], [1], [])], ["best", "entropy"])


def drawn(problems, seed=0, samples=8):
    """Problems of known pass rate, with pilots whose right answers agree and whose wrong ones scatter."""
    rng = np.random.default_rng(seed)
    p = rng.beta(0.7, 0.7, problems)
    right = rng.random((problems, samples)) < p[:, None]
    answers = np.where(right, 0, rng.integers(1, 50, right.shape))
    scores = np.clip(rng.normal(0.3 + 0.4 * right, 0.15), 0, 1)
    pilots = [
        features(list(map(str, a)), [10 + a[0] % 3] * samples, s) for a, s in zip(answers.tolist(), scores.tolist(), strict=True)
    ]
    rate = rng.binomial(64, p) / 64
    return pilots, rate, np.full(problems, 64.0)


def test_logistic_regression_recovers_the_weights_that_made_the_rates():
    rng = np.random.default_rng(1)
    x = rng.normal([3.0, -2.0], [2.0, 0.5], (20_000, 2))
    rate = 1 / (1 + np.exp(-(0.5 + 0.7 * x[:, 0] + 1.5 * x[:, 1])))
    found = logistic_fit(["a", "b"], ridge=1e-6)(x, rate, np.ones(len(x)))
    assert (*found.weights, found.bias) == pytest.approx((0.7, 1.5, 0.5), abs=1e-4)


def test_the_fit_is_where_the_penalised_likelihood_is_largest():
    pilots, rate, graded = drawn(40)
    x = table_of(pilots, ["agreement", "mean"])
    found = logistic_fit(["agreement", "mean"], ridge=2.0)(x, rate, graded)

    def loss(weights, bias):
        p = 1 / (1 + np.exp(-(bias + x @ weights)))
        return -np.sum(rate * np.log(p) + (1 - rate) * np.log(1 - p)) + np.sum((np.array(weights) * x.std(axis=0)) ** 2)

    best = loss(np.array(found.weights), found.bias)
    for nudge in np.eye(3) * 1e-3:
        for sign in (1, -1):
            assert loss(np.array(found.weights) + sign * nudge[:2], found.bias + sign * nudge[2]) > best


def test_features_that_separate_the_problems_do_not_run_away():
    found = logistic_fit(["agreement"])(np.array([[0.0]] * 5 + [[1.0]] * 5), np.repeat([0.0, 1.0], 5), np.ones(10))
    assert 0 < found.weights[0] < 20
    still = logistic_fit(["agreement"])(np.full((10, 1), 0.5), np.repeat([0.0, 1.0], 5), np.ones(10))
    assert still.ease({"agreement": 0.5}) == pytest.approx(0.5)


def test_a_monotone_fit_follows_the_feature_either_way():
    up = isotonic_fit("mean", bins=2)(np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([0.0, 0.6, 0.4, 1.0]), np.ones(4))
    assert [up.ease({"mean": s}) for s in (0.0, 0.2, 0.3, 0.9)] == pytest.approx([0.0, 0.5, 0.5, 1.0])
    down = isotonic_fit("tokens", falls=True, bins=2)(np.array([[0.1], [0.9]]), np.array([1.0, 0.2]), np.ones(2))
    assert down.ease({"tokens": 0.1}) == 1.0
    assert [down.bin({"tokens": e}) for e in (0.0, 1.0)] == [0, 1]


def test_equal_features_are_pooled_by_their_graded_samples():
    found = isotonic_fit("mean", bins=2)(np.array([[0.5], [0.5]]), np.array([0.0, 1.0]), np.array([30.0, 10.0]))
    assert found.ease({"mean": 0.5}) == pytest.approx(0.25)


def test_the_bins_of_the_fitted_problems_are_quantiles():
    pilots, rate, graded = drawn(200)
    found = logistic_fit(["tokens", "mean", "agreement"])(table_of(pilots, ["tokens", "mean", "agreement"]), rate, graded)
    counts = np.bincount([found.bin(pilot) for pilot in pilots], minlength=5)
    assert counts.min() >= 35


@pytest.mark.parametrize("fit", [isotonic_fit("agreement"), logistic_fit(["agreement", "mean"])])
def test_prediction_out_of_fold_beats_the_mean_and_is_mostly_near_the_oracle_s_bin(fit):
    pilots, rate, graded = drawn(300)
    names = ["agreement"] if fit is not None and "isotonic" in fit.__qualname__ else ["agreement", "mean"]
    found = cross_validate(fit, table_of(pilots, names), rate, graded)
    assert found.gain.low > 0
    assert found.error.value < 0.6 * rate.var()
    assert found.near.value > 0.8


def test_a_feature_that_says_nothing_predicts_nothing():
    pilots, rate, graded = drawn(300)
    del pilots
    noise = np.random.default_rng(5).random((300, 3))
    found = cross_validate(logistic_fit(["a", "b", "c"]), noise, rate, graded)
    assert found.gain.low < 0
    assert found.gain.value < 0.01  # a problem seen in its own fit would gain far more
    assert found.same.value == pytest.approx(0.2, abs=0.1)


def test_no_problem_is_predicted_by_a_fit_that_saw_it():
    seen = []

    def fit(table, rate, graded):
        seen.append(set(table[:, 0].tolist()))
        return logistic_fit(["id"])(table, rate, graded)

    table = np.arange(20.0)[:, None]
    cross_validate(fit, table, np.linspace(0, 1, 20), np.ones(20), folds=4)
    assert [len(one) for one in seen] == [15] * 4
    assert set.intersection(*seen) == set()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edges_of([0.1, 0.2], 5), "2 problems cannot be cut into 5 bins"),
        (lambda: logistic_fit(["a"], ridge=0), "ridge is 0"),
        (lambda: cross_validate(logistic_fit(["a"]), np.ones((6, 1)), np.ones(5), np.ones(6)), "each problem has a row"),
        (lambda: cross_validate(logistic_fit(["a"]), np.ones((6, 1)), np.ones(6), np.ones(6), folds=4), "6 problems, 4 folds"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
