"""Train against test compute by closed forms; chain lengths by counting pairs."""

from itertools import product

import numpy as np
import pytest

from ponder.errors import UnidentifiedError
from ponder.scaling.exchange import cost_of, fit_exchange, matched_budget, replaced
from ponder.scaling.horizon import fit_steps
from ponder.scaling.lengths import concordance
from ponder.scaling.paired import Curve


class TestMatchedBudget:
    @pytest.mark.parametrize("ratio", [0.16, 0.79, 22.0])
    def test_it_is_snells_factor_where_both_are_trained_and_asked_alike(self, ratio):
        """M = 14, D = 10^9 tokens, 500 an answer; ratio is of tokens of inference to tokens of pretraining."""
        small, times, tokens, written = 1e6, 14, 1e9, 500
        questions = ratio * tokens / written
        budget = matched_budget(2 * times * small * written, 6 * (times - 1) * small * tokens, questions)
        assert budget == pytest.approx(2 * small * written * (times + 3 / ratio * (times - 1)))

    def test_without_an_end_of_questions_training_is_nothing(self):
        assert matched_budget(7.0, 1e20, float("inf")) == 7.0

    def test_a_smaller_model_that_cost_more_leaves_less_than_the_answer(self):
        assert matched_budget(7.0, -90.0, 10.0) == -2.0

    @pytest.mark.parametrize(("answer", "saved", "questions"), [(0, 1, 1), (1, np.inf, 1), (1, 1, 0), (np.nan, 1, 1)])
    def test_numbers_outside_their_range_are_refused(self, answer, saved, questions):
        with pytest.raises(ValueError, match="an answer costs something"):
            matched_budget(answer, saved, questions)


def points(trainings=(1e12, 1e13, 1e14, 1e15), tests=(1e6, 1e7, 1e8, 1e9)):
    return np.array(list(product(trainings, tests))).T


def law(training, testing, *, e=1.2, g=0.9):
    odds = g * (np.log10(testing) - 7.5 + e * (np.log10(training) - 13.5))
    return 1 / (1 + np.exp(-odds))


class TestExchange:
    def test_exact_accuracies_give_the_law_back(self):
        training, testing = points()
        fit = fit_exchange(training, testing, np.tile(law(training, testing), (50, 1)))
        assert fit.parameters["e"].value == pytest.approx(1.2)
        assert fit.parameters["g"].value == pytest.approx(0.9)
        assert replaced(fit).value == pytest.approx(10**1.2)
        assert replaced(fit, 2.0).value == pytest.approx(2**1.2)
        assert fit.held_out.fitted_to == 1e14
        assert fit.held_out.at == (1e6, 1e7, 1e8, 1e9)
        assert fit.held_out.worst < 1e-9

    def test_a_prediction_is_the_law_and_equal_accuracy_its_exchange(self):
        training, testing = points()
        fit = fit_exchange(training, testing, np.tile(law(training, testing), (50, 1)))
        more, less = fit.predict([1e13, 1e14], [1e8, 1e8 / 10**1.2])
        assert more.value == pytest.approx(law(1e13, 1e8))
        assert less.value == pytest.approx(more.value)

    def test_noisy_accuracies_give_an_interval_that_holds_it(self):
        """Problems spread about each mean by a Beta of weight 4; a problem's points are drawn apart."""
        training, testing = points()
        mean = law(training, testing)
        rng = np.random.default_rng(0)
        found = replaced(fit_exchange(training, testing, rng.beta(4 * mean, 4 * (1 - mean), (300, len(mean)))))
        assert found.low < 10**1.2 < found.high
        assert found.high / found.low < 2

    def test_a_floor_of_the_last_training_shows_in_what_was_held_out(self):
        """The largest training adds nothing over the one before it: the law promises more."""
        training, testing = points()
        accuracy = law(np.minimum(training, 1e14), testing)
        held_out = fit_exchange(training, testing, np.tile(accuracy, (50, 1))).held_out
        promised = law(1e15, np.array(held_out.at)) - law(1e14, np.array(held_out.at))
        assert [one.value for one in held_out.errors] == pytest.approx(promised)

    def test_of_three_trainings_none_is_held_out(self):
        training, testing = points(trainings=(1e12, 1e13, 1e14))
        assert fit_exchange(training, testing, np.tile(law(training, testing), (50, 1))).held_out is None

    def test_two_trainings_are_refused(self):
        training, testing = points(trainings=(1e12, 1e13))
        with pytest.raises(UnidentifiedError, match="2 trainings; it takes 3"):
            fit_exchange(training, testing, np.tile(law(training, testing), (50, 1)))

    def test_trainings_without_an_accuracy_in_common_are_refused(self):
        training, testing = points(trainings=(1e12, 1e13, 1e20))
        with pytest.raises(UnidentifiedError, match=r"training of 1e\+13 FLOPs reaches 0\.692.* 1e\+20 begins at 0\.99"):
            fit_exchange(training, testing, np.tile(law(training, testing), (50, 1)))

    def test_a_gap_is_told_against_the_best_of_the_weaker_and_not_the_last(self):
        """The range .1 to .9 holds .3 to .4 inside it, so that .85 is in common with the first."""
        training = np.repeat([1.0, 2.0, 3.0], 2)
        accuracy = np.tile([0.1, 0.9, 0.3, 0.4, 0.85, 0.95], (50, 1))
        assert fit_exchange(training, np.tile([1.0, 10.0], 3), accuracy).parameters["g"].value > 0

    def test_test_compute_that_goes_with_training_is_refused(self):
        training = np.array([1e12, 1e13, 1e14])
        with pytest.raises(UnidentifiedError, match="does not vary by itself"):
            fit_exchange(training, training / 1e5, np.full((50, 3), 0.5))

    def test_test_compute_that_adds_nothing_is_refused(self):
        training, testing = points()
        with pytest.raises(UnidentifiedError, match="rise with test compute"):
            fit_exchange(training, testing, np.tile(law(training, 1e15 / testing), (50, 1)))

    def test_a_mean_of_nothing_is_refused(self):
        training, testing = points()
        accuracy = np.tile(law(training, testing), (50, 1))
        accuracy[:, 0] = 0
        with pytest.raises(UnidentifiedError, match=r"from 0\.000 to"):
            fit_exchange(training, testing, accuracy)

    @pytest.mark.parametrize(
        ("training", "testing", "accuracy", "why"),
        [
            ([1.0, 2.0], [1.0], [[0.5, 0.5]], "training has shape"),
            ([1.0, 0.0], [1.0, 1.0], [[0.5, 0.5]], "finite and > 0"),
            ([1.0, 2.0], [1.0, 1.0], [[0.5, 1.5]], r"lies in \[0, 1\]"),
        ],
    )
    def test_tables_that_do_not_match_are_refused(self, training, testing, accuracy, why):
        with pytest.raises(ValueError, match=why):
            fit_exchange(training, testing, accuracy)

    def test_only_its_own_fit_exchanges_anything(self):
        steps = fit_steps(np.arange(1, 21), np.random.default_rng(0).random((20, 8)) < 0.5)
        with pytest.raises(ValueError, match="exchanges nothing"):
            replaced(steps)

    def test_less_than_once_the_training_is_refused(self):
        training, testing = points()
        fit = fit_exchange(training, testing, np.tile(law(training, testing), (50, 1)))
        with pytest.raises(ValueError, match="more than once"):
            replaced(fit, 1.0)


class TestCostOf:
    costs, accuracy = (1.0, 2.0, 4.0, 8.0), (0.2, 0.4, 0.3, 0.9)

    def test_it_undoes_reading_a_curve_at_a_cost(self):
        curve = Curve("rising", np.array([1.0, 2.0, 4.0]), np.array([[0.1, 0.5, 0.6], [0.3, 0.5, 1.0]]))
        for cost in (1.0, 1.3, 2.0, 3.9, 4.0):
            level = float(curve.at(cost).mean())
            assert cost_of(level, curve.costs_K, curve.values_P_K.mean(axis=0)) == pytest.approx(cost)

    @pytest.mark.parametrize(("level", "cost"), [(0.3, 1.5), (0.4, 2.0), (0.6, 6.0), (0.2, 1.0), (0.1, None), (0.95, None)])
    def test_the_first_crossing_counts(self, level, cost):
        assert cost_of(level, self.costs, self.accuracy) == (cost if cost is None else pytest.approx(cost))

    @pytest.mark.parametrize(("costs", "accuracy"), [([], []), ([1, 2], [0.5]), ([2, 1], [0.1, 0.5])])
    def test_what_is_no_curve_is_refused(self, costs, accuracy):
        with pytest.raises(ValueError, match="costs ascending"):
            cost_of(0.3, costs, accuracy)


class TestConcordance:
    def test_it_counts_every_pair_of_a_right_and_a_wrong_sample(self):
        rng = np.random.default_rng(0)
        lengths, correct = rng.integers(0, 6, (30, 9)), rng.random((30, 9)) < 0.4
        for p, found in enumerate(concordance(lengths, correct)):
            pairs = [np.sign(a - b) for a in lengths[p][correct[p]] for b in lengths[p][~correct[p]]]
            assert found == pytest.approx(np.mean(pairs)) if pairs else np.isnan(found)

    def test_right_ones_that_are_all_longer_say_1_and_shorter_ones_minus_1(self):
        correct = np.array([[True, False, False], [True, False, False], [True, False, False]])
        assert concordance([[9, 1, 2], [0, 1, 2], [3, 3, 3]], correct).tolist() == [1.0, -1.0, 0.0]

    def test_a_problem_of_one_kind_says_nothing(self):
        found = concordance(np.ones((2, 3)), np.array([[True] * 3, [False] * 3]))
        assert np.isnan(found).all()

    @pytest.mark.parametrize(
        ("lengths", "correct"),
        [([[1, 2]], [[True]]), ([[1, 2]], [[1, 0]]), ([1, 2], [True, False]), ([[1, np.inf]], [[True, False]])],
    )
    def test_tables_that_do_not_match_are_refused(self, lengths, correct):
        with pytest.raises(ValueError, match="finite numbers and bool"):
            concordance(lengths, np.array(correct))
