"""Resampling under an imperfect verifier against enumeration, simulation and the numbers of the paper."""

from itertools import product

import numpy as np
import pytest

from ponder.scaling.imperfect import (
    ErrorRates,
    Stakes,
    accuracy_at,
    answered_at,
    best_tries,
    ceiling,
    ceiling_by_text,
    error_rates,
    utility_at,
)

RATES = ErrorRates(fpr=0.2, fnr=0.3)


def enumerated(right, wrong, rates, tries):
    """(right, answered) over every sequence of tries: right, wrong or no answer, accepted or refused."""
    one = [
        ("right", right * (1 - rates.fnr)),
        ("wrong", wrong * rates.fpr),
        ("refused", 1 - right * (1 - rates.fnr) - wrong * rates.fpr),
    ]
    good = answered = 0.0
    for path in product(one, repeat=tries):
        chance = np.prod([p for _, p in path])
        first = next((kind for kind, _ in path if kind != "refused"), None)
        good += chance * (first == "right")
        answered += chance * (first is not None)
    return good, answered


@pytest.mark.parametrize("tries", [0, 1, 2, 5])
@pytest.mark.parametrize(("right", "wrong"), [(0.4, 0.6), (0.4, 0.35), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_at_most_k_tries_equal_the_enumeration_of_all_of_them(right, wrong, tries):
    good, answered = enumerated(right, wrong, RATES, tries)
    assert accuracy_at([right], RATES, [tries], wrong_P=[wrong])[0, 0] == pytest.approx(good, abs=1e-12)
    assert answered_at([right], RATES, [tries], wrong_P=[wrong])[0, 0] == pytest.approx(answered, abs=1e-12)


def test_the_ceiling_is_the_limit_of_many_tries_and_the_accuracy_of_one_accepted_sample():
    right = np.array([0.05, 0.5, 0.95])
    assert ceiling(right, RATES) == pytest.approx(0.7 * right / (0.7 * right + 0.2 * (1 - right)))
    assert accuracy_at(right, RATES, [10_000])[:, 0] == pytest.approx(ceiling(right, RATES))


def test_only_false_positives_make_a_ceiling():
    assert ceiling([0.01, 0.9], ErrorRates(0.0, 0.9)) == pytest.approx([1, 1])
    assert ceiling([0.01, 0.9], ErrorRates(0.5, 0.0)).max() < 1


def test_a_verifier_that_accepts_nothing_has_no_accuracy_and_no_division_by_zero():
    assert ceiling([0.5], ErrorRates(0.0, 1.0))[0] == 0
    assert utility_at([0.5], ErrorRates(0.0, 1.0), Stakes(price=0.1), [0, 3])[1] == pytest.approx(-0.3)


PAPER = {"right_P": [0.87, 0.13], "rates": ErrorRates(fpr=0.25, fnr=0.0), "share_P": [0.58, 0.42]}
# Two classes of tasks, r = .87 and .13, soundness .75: the worked example of Stroebl et al.


def test_the_ceiling_of_the_paper_s_two_classes():
    share = np.array(PAPER["share_P"])
    assert share @ PAPER["right_P"] == pytest.approx(0.559, abs=5e-4)
    assert share @ ceiling(PAPER["right_P"], PAPER["rates"]) == pytest.approx(0.716, abs=5e-3)


@pytest.mark.parametrize(("wrong", "tries"), [(-0.7, 3), (-1.0, 2), (-2.0, 1)])
def test_the_dearer_an_error_the_fewer_the_tries(wrong, tries):
    assert best_tries(stakes=Stakes(1.0, wrong), **PAPER) == tries


def test_tries_without_an_end_where_an_error_costs_nothing_and_none_where_it_costs_all():
    assert best_tries([0.5], ErrorRates(0.1, 0.1), Stakes(1.0, 0.0), most=7) == 7
    assert best_tries([0.1], ErrorRates(0.5, 0.0), Stakes(1.0, -100.0)) == 0


def test_a_price_for_each_try_ends_the_tries():
    rates = ErrorRates(0.0, 0.0)
    assert best_tries([0.5, 1e-9], rates, Stakes(1.0, 0.0, price=0.01), most=100) < 10
    assert best_tries([0.5, 1e-9], rates, Stakes(1.0, 0.0), most=100) == 100


def test_utility_is_that_of_simulated_policies():
    rng = np.random.default_rng(0)
    right, share, stakes, tries, n = np.array([0.7, 0.2]), np.array([1.0, 3.0]), Stakes(1.0, -0.5, price=0.02), 4, 50_000
    task = (rng.random(n) > 0.25).astype(int)
    total, running = np.zeros(n), np.ones(n, bool)
    for _ in range(tries):
        good = rng.random(n) < right[task]
        accepted = rng.random(n) < np.where(good, 1 - RATES.fnr, RATES.fpr)
        total -= stakes.price * running
        total += np.where(good, stakes.right, stakes.wrong) * (accepted & running)
        running &= ~accepted
    found = utility_at(right, RATES, stakes, [tries], share_P=share)[0]
    assert found == pytest.approx(total.mean(), abs=4 * total.std() / np.sqrt(n))


def by_every_error(chance, right, rates, tries=np.inf):
    """E[R / (R + W)] over every set of accepted texts; of a Poisson number of tries, some are accepted but for e^(-tries (R + W))."""
    total = 0.0
    for accepted in product([0, 1], repeat=len(chance)):
        p = np.prod([(a if t == 1 else 1 - a) for t, a in zip(accepted, np.where(right, 1 - rates.fnr, rates.fpr), strict=True)])
        mass = np.dot(accepted, chance)
        total += p * (np.dot(np.array(accepted) * right, chance) / mass * -np.expm1(-tries * mass) if mass else 0.0)
    return total


@pytest.mark.parametrize(
    "rates", [RATES, ErrorRates(0.0, 0.4), ErrorRates(1.0, 0.0), ErrorRates(0.01, 0.0), ErrorRates(0.0, 1.0)]
)
@pytest.mark.parametrize(
    ("chance", "right"),
    [
        ([0.3, 0.05, 0.25, 0.1, 0.3], [True, True, False, False, False]),
        ([0.002, 0.9], [True, False]),
        ([1.0], [True]),
        ([1e-5, 0.5, 0.4], [True, False, False]),
        ([0.2] * 5, [False] * 5),
    ],
)
def test_the_ceiling_by_text_equals_the_enumeration_of_every_set_of_accepted_texts(chance, right, rates):
    assert ceiling_by_text(chance, right, rates) == pytest.approx(by_every_error(chance, np.array(right), rates), abs=1e-6)


def test_many_rare_texts_err_as_if_every_try_erred_anew():
    n = 1000
    right = np.arange(n) < n // 4
    found = ceiling_by_text(np.full(n, 1 / n), right, RATES)
    assert found == pytest.approx(ceiling([0.25], RATES)[0], abs=5e-3)


def test_one_right_text_that_is_refused_is_lost_for_good():
    assert ceiling_by_text([0.5], [True], ErrorRates(0.0, 0.3)) == pytest.approx(0.7)
    assert ceiling([0.5], ErrorRates(0.0, 0.3))[0] == 1


@pytest.mark.parametrize("tries", [0.5, 5.0, 64.0, 1e7])
def test_a_bounded_number_of_tries_equals_the_same_enumeration(tries):
    chance, right = np.array([0.1, 0.02, 0.5, 0.3]), np.array([True, True, False, False])
    found = ceiling_by_text(chance, right, RATES, tries=tries)
    assert found == pytest.approx(by_every_error(chance, right, RATES, tries), abs=1e-6)


def test_rates_are_shares_of_wrong_and_of_right_answers():
    accepted = np.array([True, False, True, True, False])
    assert error_rates(accepted, np.array([True, True, False, True, False])) == ErrorRates(0.5, 1 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ErrorRates(1.2, 0.0), "fpr is 1.2"),
        (lambda: error_rates([True], [True]), "1 of 1 answers are right"),
        (lambda: error_rates([0.5], [True]), "one bool of each"),
        (lambda: ceiling([0.5], RATES, wrong_P=[0.6]), "sum to more than 1"),
        (lambda: ceiling([], RATES), "one probability of each"),
        (lambda: accuracy_at([0.5], RATES, [-1]), "each >= 0"),
        (lambda: Stakes(-1.0, 0.0), "right > 0 >= wrong"),
        (lambda: utility_at([0.5], RATES, Stakes(), [1], share_P=[0.0]), "not all 0"),
        (lambda: best_tries([0.5], RATES, Stakes(), most=-1), "most is -1"),
        (lambda: ceiling_by_text([0.5, 0.6], [True, False], RATES), "sum to 1.1"),
        (lambda: ceiling_by_text([0.5], [1], RATES), "each text has a chance and a bool"),
        (lambda: ceiling_by_text([0.5], [True], RATES, tries=0), "tries are 0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
