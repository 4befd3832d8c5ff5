"""PassUntil by enumeration, crossings and horizons by hand, areas by brute force."""

from fractions import Fraction
from itertools import product
from math import comb, exp, inf, log

import numpy as np
import pytest

from ponder.errors import UnidentifiedError
from ponder.scaling.anytime import anytime_area, cumulative_regret, normalised_regret, progress
from ponder.scaling.crossing import cot_pass_at_k, crossing
from ponder.scaling.estimators import pass_at_k
from ponder.scaling.horizon import fit_steps, fitted_horizon, horizon, step_accuracy
from ponder.scaling.pass_until import fit_task_law, pass_until


class TestPassUntil:
    @pytest.mark.parametrize(("r", "cap"), [(2, 2), (2, 7), (3, 6), (5, 7)])
    def test_it_is_unbiased_over_every_sequence_of_verdicts(self, r, cap):
        chance = Fraction(3, 11)
        mean = Fraction(0)
        for verdicts in product((0, 1), repeat=cap):
            passes = draws = 0
            while draws < cap and passes < r:
                passes, draws = passes + verdicts[draws], draws + 1
            weight = chance ** sum(verdicts) * (1 - chance) ** (cap - sum(verdicts))
            [rate] = pass_until([passes], [draws], r=r, cap=cap)
            mean += weight * Fraction(float(rate)).limit_denominator(1000)
        assert mean == chance

    @pytest.mark.slow
    def test_without_a_cap_it_is_unbiased_where_the_likelihood_is_not(self):
        """True .02, r = 2: the mean of r / K is .038; 200,000 problems have a standard error of 2e-4."""
        draws = np.random.default_rng(0).negative_binomial(2, 0.02, 200_000) + 2
        rates = pass_until(np.full(200_000, 2), draws, r=2)
        assert rates.mean() == pytest.approx(0.02, abs=4 * rates.std() / 200_000**0.5)
        assert (2 / draws).mean() == pytest.approx(0.038, abs=1e-3)

    @pytest.mark.parametrize(
        ("passes", "draws", "cap"),
        [([3], [5], 9), ([2], [1], 9), ([1], [5], 9), ([1], [5], None), ([2], [10], 9), ([-1], [9], 9)],
    )
    def test_counts_that_the_rule_cannot_leave_are_refused(self, passes, draws, cap):
        with pytest.raises(ValueError, match="leaves no such counts"):
            pass_until(passes, draws, r=2, cap=cap)

    @pytest.mark.parametrize(("r", "cap"), [(1, 9), (5, 4)])
    def test_one_pass_and_a_cap_below_are_refused(self, r, cap):
        with pytest.raises(ValueError, match="r must be at least 2"):
            pass_until([1], [4], r=r, cap=cap)

    def test_counts_are_whole_numbers(self):
        with pytest.raises(ValueError, match="whole numbers"):
            pass_until([2.0], [4.0], r=2)


class TestTaskLaw:
    sizes = (1e6, 1e7, 1e8, 1e9)

    def rates(self, problems=200):
        return np.tile(np.exp(-30 * np.array(self.sizes) ** -0.2), (problems, 1))

    def test_exact_rates_give_the_law_back(self):
        fit = fit_task_law(self.sizes, self.rates())
        assert fit.parameters["c"].value == pytest.approx(30)
        assert fit.parameters["alpha"].value == pytest.approx(0.2)
        assert fit.held_out.fitted_to == 1e8
        assert fit.held_out.worst < 1e-9
        assert fit.predict(1e10)[0].value == pytest.approx(exp(-30 * 1e10**-0.2))

    def test_noisy_rates_give_an_interval_that_holds_it(self):
        """Problems spread about each mean by a Beta of weight 10."""
        rates = np.random.default_rng(0).beta(10 * self.rates(), 10 * (1 - self.rates()))
        found = fit_task_law(self.sizes, rates).parameters["alpha"]
        assert found.value == pytest.approx(0.2, rel=0.1)
        assert found.low < 0.2 < found.high

    def test_of_three_sizes_none_is_held_out(self):
        assert fit_task_law(self.sizes[:3], self.rates()[:, :3]).held_out is None

    def test_a_mean_of_nothing_is_refused(self):
        rates = self.rates()
        rates[:, 0] = 0
        with pytest.raises(UnidentifiedError, match="no points of a line"):
            fit_task_law(self.sizes, rates)

    def test_rates_that_fall_with_size_are_refused(self):
        with pytest.raises(UnidentifiedError, match=r"alpha = -0\.2 ended at the edge"):
            fit_task_law(self.sizes, self.rates()[:, ::-1])

    def test_two_sizes_are_refused(self):
        with pytest.raises(UnidentifiedError, match="2 sizes"):
            fit_task_law(self.sizes[:2], self.rates()[:, :2])

    def test_sizes_must_ascend(self):
        with pytest.raises(ValueError, match="must be > 0 and ascend"):
            fit_task_law(self.sizes[::-1], self.rates())


def verdicts(right, n):
    return np.arange(n) < np.asarray(right)[:, None]


class TestCrossing:
    # a is right half the time on 12 problems and never on 8; b is right on one in eight samples of every problem
    a, b = verdicts([8] * 12 + [0] * 8, 16), verdicts([2] * 20, 16)

    def test_it_lies_where_the_line_between_two_differences_does(self):
        ks = [1, 2, 4, 8, 16]
        found = crossing(self.a, self.b, ks)
        gaps = [0.6 * (1 - comb(8, k) / comb(16, k)) - (1 - comb(14, k) / comb(16, k)) for k in ks]
        assert [one.value for one in found.differences] == pytest.approx(gaps)
        assert gaps[2] > 0 > gaps[3]
        by_hand = exp(log(4) + gaps[2] / (gaps[2] - gaps[3]) * log(2))
        assert found.k.value == pytest.approx(by_hand)
        assert found.k.low < by_hand < found.k.high

    def test_either_may_be_named_first(self):
        one, other = crossing(self.a, self.b, [1, 4, 8]), crossing(self.b, self.a, [1, 4, 8])
        assert one.k == other.k
        assert [d.value for d in one.differences] == [-d.value for d in other.differences]

    def test_a_policy_that_leads_throughout_crosses_nothing(self):
        found = crossing(self.a, verdicts([1] * 8 + [0] * 12, 16), [1, 4, 16])
        assert found.k is None
        assert found.share == 0

    def test_policies_that_are_alike_cross_nothing(self):
        assert crossing(self.a, self.a, [1, 4]).k is None

    def test_an_interval_that_reaches_beyond_the_sizes_says_so(self):
        """At 8 the lead has hardly turned: many resamples have not."""
        found = crossing(self.a, self.b, [1, 4, 6])
        assert found.k.high == inf
        assert 0.3 < found.share < 0.975

    def test_it_is_established_where_both_lead_beyond_doubt(self):
        assert crossing(self.a, self.b, [1, 4, 16]).established
        near = crossing(self.a, self.b, [1, 4, 6])
        assert near.k is not None
        assert not near.established
        rng = np.random.default_rng(0)
        alike = [crossing(*(rng.random((2, 40, 16)) < 0.4), [1, 2, 4, 8, 16], resamples=200) for _ in range(20)]
        assert sum(one.k is not None for one in alike) > 5
        assert sum(one.established for one in alike) <= 1

    def test_a_lead_that_shrinks_to_nothing_and_returns_has_not_turned(self, monkeypatch):
        tables = iter([np.tile([0.5, 0.5, 0.9], (12, 1)), np.tile([0.4, 0.5, 0.8], (12, 1))])
        monkeypatch.setattr("ponder.scaling.crossing.pass_at_k", lambda verdicts, ks: next(tables))
        assert crossing(self.a, self.b, [1, 2, 4]).k is None

    def test_other_problems_are_refused(self):
        with pytest.raises(ValueError, match="a has 20 problems and b 19"):
            crossing(self.a, self.b[1:], [1, 2])

    @pytest.mark.parametrize("ks", [[4], [4, 2], [2, 2]])
    def test_sizes_must_ascend(self, ks):
        with pytest.raises(ValueError, match="an ascending row"):
            crossing(self.a, self.b, ks)

    def test_right_answers_by_wrong_reasoning_do_not_count(self):
        reasoning = verdicts([3] * 20, 16)
        found = cot_pass_at_k(self.a, reasoning, [1, 4])
        assert found.tolist() == pass_at_k(verdicts([3] * 12 + [0] * 8, 16), [1, 4]).tolist()
        assert cot_pass_at_k(self.a, np.ones_like(self.a), [4]).tolist() == pass_at_k(self.a, [4]).tolist()
        with pytest.raises(ValueError, match="both are bool"):
            cot_pass_at_k(self.a, reasoning.astype(int), [1])


class TestAnytime:
    tokens = np.array([[100.0, 250.0, 400.0], [50.0, 300.0, 900.0]])
    values = np.array([[0.2, 0.7, 0.6], [0.0, 0.5, 1.0]])

    @pytest.mark.parametrize("limit", [40.0, 100.0, 320.0, 400.0, 2000.0])
    def test_the_area_is_the_mean_over_very_many_budgets(self, limit):
        budgets = (np.arange(200_000) + 0.5) * limit / 200_000
        lines, steps = [], []
        for x, y in zip(self.tokens, self.values, strict=True):
            lines.append(np.interp(budgets, [0, *x], [0, *y]).mean())
            steps.append(np.array([0, *y])[np.searchsorted(x, budgets, side="right")].mean())
        assert anytime_area(self.tokens, self.values, limit).tolist() == pytest.approx(lines, abs=1e-5)
        assert anytime_area(self.tokens, self.values, limit, between="step").tolist() == pytest.approx(steps, abs=1e-5)
        assert normalised_regret(self.tokens, self.values, limit).tolist() == pytest.approx([1 - one for one in lines], abs=1e-5)

    def test_one_row_of_tokens_serves_every_problem(self):
        both = anytime_area(self.tokens[0], self.values, 300)
        assert both[1] == anytime_area(self.tokens[:1], self.values[1:], 300)[0]

    def test_right_at_once_is_nearly_one(self):
        assert anytime_area([1e-9], [[1.0]], 10)[0] == pytest.approx(1)
        assert anytime_area([20.0], [[1.0]], 10, between="step")[0] == 0

    @pytest.mark.parametrize(
        ("tokens", "values", "limit", "match"),
        [
            ([1.0, 1.0], [[0.0, 1.0]], 5, "ascending"),
            ([0.0, 1.0], [[0.0, 1.0]], 5, "must be > 0"),
            ([1.0, 2.0], [[0.0, 1.5]], 5, "accuracies in"),
            ([1.0], [[0.0, 1.0]], 5, "one number of tokens"),
            ([1.0, 2.0], [[0.0, 1.0]], 0, "limit is 0"),
        ],
    )
    def test_what_is_no_curve_is_refused(self, tokens, values, limit, match):
        with pytest.raises(ValueError, match=match):
            anytime_area(tokens, values, limit)

    def test_regret_is_the_sum_of_what_the_comparator_had_more(self):
        forced = [[0.25, 0.5, 1.0], [0.0, 0.0, 0.25]]
        assert cumulative_regret(1.0, forced).tolist() == [[0.75, 1.25, 1.25], [1.0, 2.0, 2.75]]
        assert cumulative_regret([0.5, 0.75, 1.0], forced)[0].tolist() == [0.25, 0.5, 0.5]
        assert progress(forced).tolist() == [[0.25, 0.5], [0.0, 0.25]]
        with pytest.raises(ValueError, match="same episodes"):
            cumulative_regret([0.5, 1.0], forced)
        with pytest.raises(ValueError, match="at least one episode"):
            progress([[0.5]])


class TestHorizon:
    def test_step_and_horizon_are_each_others_inverse(self):
        assert horizon(0.5) == 1
        assert horizon(0.99) == pytest.approx(68.97, abs=0.01)
        assert horizon(0.5**0.5, 0.25) == pytest.approx(4)
        for length in (1, 7.5, 1000):
            assert horizon(step_accuracy(length, 0.8), 0.8) == pytest.approx(length)
        assert step_accuracy(10, 0.3) ** 10 == pytest.approx(0.3)
        assert horizon(1) == inf

    @pytest.mark.parametrize(("step", "success"), [(0, 0.5), (1.1, 0.5), (0.9, 0), (0.9, 1)])
    def test_numbers_that_are_no_chances_are_refused(self, step, success):
        with pytest.raises(ValueError, match="must"):
            horizon(step, success)

    def lab(self, rate, lengths, n=400):
        return verdicts(np.rint(rate**lengths * n).astype(int), n)

    def test_one_length_gives_the_root_of_its_success(self):
        found = fit_steps(np.full(12, 8), verdicts([4, 8] * 6, 16), resamples=100).parameters["e"]
        assert found.value == pytest.approx(1 - (6 / 16) ** (1 / 8), rel=1e-6)

    def test_a_constant_error_is_found_again_and_foretells_longer_problems(self):
        lengths = np.tile(np.arange(2, 22), 5)
        fit = fit_steps(lengths, self.lab(0.93, lengths))
        assert fit.parameters["e"].value == pytest.approx(0.07, rel=0.01)
        assert fit.held_out.worst < 0.002
        assert fit.predict(50)[0].value == pytest.approx(0.93**50, rel=0.05)
        reach = fitted_horizon(fit, 0.8)
        assert reach.value == pytest.approx(horizon(1 - fit.parameters["e"].value, 0.8))
        assert reach.low <= reach.value <= reach.high

    def test_errors_that_grow_with_length_show_in_what_was_held_out(self):
        lengths = np.tile(np.arange(2, 22), 5)
        fit = fit_steps(lengths, self.lab(0.99 - 0.005 * np.arange(2, 22).repeat(5).reshape(20, 5).T.ravel(), lengths))
        assert fit.held_out.errors[0].low > 0

    @pytest.mark.parametrize(("right", "match"), [(16, "every sample is right"), (0, "no sample is right")])
    def test_all_or_nothing_is_refused(self, right, match):
        with pytest.raises(UnidentifiedError, match=match):
            fit_steps(np.arange(1, 21), verdicts([right] * 20, 16))

    def test_too_few_problems_are_refused(self):
        with pytest.raises(UnidentifiedError, match="at least 10"):
            fit_steps([2, 3], verdicts([1, 2], 16))

    def test_another_law_has_no_horizon(self):
        law = fit_task_law(TestTaskLaw.sizes, TestTaskLaw().rates())
        with pytest.raises(ValueError, match="has no step accuracy"):
            fitted_horizon(law)
