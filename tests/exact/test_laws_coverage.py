"""Laws of coverage against closed forms, known parameters, SciPy's own optimisers and published fits."""

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import betabinom

from ponder.errors import UnidentifiedError
from ponder.scaling import coverage
from ponder.scaling.coverage import (
    BETA_BINOMIAL,
    EXPONENTIATED_POWER,
    LAWS,
    POWER,
    SIGMOID,
    extrapolate,
    fit_coverage,
    sizes_between,
)
from ponder.scaling.estimators import pass_at_k

KNOWN = [
    (EXPONENTIATED_POWER, {"a": -1.74, "b": -0.21}),
    (EXPONENTIATED_POWER, {"a": -0.9, "b": -1.1}),
    (POWER, {"e": 0.12, "a": 0.6, "b": 0.45}),
    (SIGMOID, {"A": 0.9, "m": 6.0, "s": 0.8}),
]


def pool(chances, n, seed=0):
    """n verdicts of each problem."""
    rng = np.random.default_rng(seed)
    return rng.random((len(chances), n)) < np.asarray(chances)[:, None]


def counts(rows, n):
    """Verdicts with so many right ones in each row."""
    return np.arange(n) < np.asarray(rows)[:, None]


@pytest.mark.parametrize(("law", "known"), KNOWN)
def test_a_curve_is_found_again_from_its_own_points(law, known, monkeypatch):
    """Every problem is made to follow the law exactly, so that nothing but the fitting is looked at."""
    theta = np.array(list(known.values()))
    monkeypatch.setattr(coverage, "pass_at_k", lambda verdicts, ks: np.tile(law.curve(theta, np.asarray(ks)), (len(verdicts), 1)))
    fit = fit_coverage(law, np.ones((20, 64), bool))
    for name, value in known.items():
        found = fit.parameters[name]
        assert found.value == pytest.approx(value, rel=1e-4)
        assert (found.low, found.high) == pytest.approx((value, value), rel=1e-3)
    assert fit.held_out.fitted_to == 16
    assert fit.held_out.at[-1] == 64
    assert fit.held_out.worst < 1e-5
    assert fit.predict([10_000])[0].value == pytest.approx(float(law.curve(theta, np.array([1e4]))[0]), abs=1e-4)


@pytest.mark.parametrize(
    ("a", "b", "k", "covered"),
    [(-1.74, -0.21, 1, 0.175), (-1.74, -0.21, 250, 0.579), (-1.33, -0.43, 100, 0.832), (-1.33, -0.43, 10_000, 0.975)],
)
def test_published_exponentiated_fits_give_their_points(a, b, k, covered):
    """SWE-bench Lite, and MATH with an 8B model (Brown et al. 2024, figure 4)."""
    assert EXPONENTIATED_POWER.curve(np.array([a, b]), np.array([k]))[0] == pytest.approx(covered, abs=1e-3)


def test_least_squares_are_those_of_scipy():
    correct = pool(np.random.default_rng(1).beta(0.6, 2.0, 200), 16)
    ks = np.arange(1, 17, dtype=float)
    covered = pass_at_k(correct, range(1, 17)).mean(axis=0)
    (a, b), _ = curve_fit(lambda k, a, b: np.exp(a * k**b), ks, covered, p0=(-1, -0.5))
    found = fit_coverage(EXPONENTIATED_POWER, correct, resamples=100)
    assert found.parameters["a"].value == pytest.approx(a, rel=1e-4)
    assert found.parameters["b"].value == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (1, 5), (2, 3)])
def test_the_beta_binomial_curve_is_a_product_of_fractions(alpha, beta):
    """B(alpha, beta + k) / B(alpha, beta) is the product of (beta + i) / (alpha + beta + i) over i < k."""
    for k in (1, 2, 7, 40):
        failed = np.prod([(beta + i) / (alpha + beta + i) for i in range(k)])
        assert BETA_BINOMIAL.curve(np.array([alpha, beta]), np.array([k]))[0] == pytest.approx(1 - failed, abs=1e-12)


def test_the_beta_binomial_is_at_the_top_of_its_likelihood():
    correct = pool(np.random.default_rng(1).beta(0.7, 3.0, 150), 12)
    right = correct.sum(axis=1)
    found = fit_coverage(BETA_BINOMIAL, correct, resamples=100).values_M
    best = betabinom.logpmf(right, 12, *found).sum()
    for move in ((1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98), (1.01, 1.01), (0.99, 0.99)):
        assert betabinom.logpmf(right, 12, *(found * move)).sum() < best


@pytest.mark.slow
def test_a_beta_is_found_again_and_foretells_what_was_never_sampled():
    """alpha within 8%, beta within 12%, coverage at 256 and 4,096 from 32 samples within 1 point."""
    fit = fit_coverage(BETA_BINOMIAL, pool(np.random.default_rng(2).beta(0.6, 2.0, 2000), 32))
    alpha, beta = fit.parameters["alpha"], fit.parameters["beta"]
    assert alpha.value == pytest.approx(0.6, rel=0.08)
    assert beta.value == pytest.approx(2.0, rel=0.12)
    assert alpha.low < 0.6 < alpha.high
    assert beta.low < 2.0 < beta.high
    truth = BETA_BINOMIAL.curve(np.array([0.6, 2.0]), np.array([1.0, 256.0, 4096.0]))
    for found, known in zip(fit.predict([1, 256, 4096]), truth, strict=True):
        assert found.value == pytest.approx(known, abs=0.01)
        assert found.low < known < found.high


@pytest.mark.slow
def test_an_interval_of_a_prediction_holds_the_truth_about_as_often_as_it_says():
    """60 pools of 100 problems x 16 samples; 95% intervals must hold coverage at k = 256 in 52 of them or more (P < .01 below)."""
    truth = BETA_BINOMIAL.curve(np.array([0.8, 2.0]), np.array([256.0]))[0]
    held = 0
    for seed in range(60):
        chances = np.random.default_rng([7, seed]).beta(0.8, 2.0, 100)
        found = fit_coverage(BETA_BINOMIAL, pool(chances, 16, seed)).predict([256])[0]
        held += found.low <= truth <= found.high
    assert held >= 52


@pytest.mark.parametrize(("law", "near"), [(BETA_BINOMIAL, 0.01), (EXPONENTIATED_POWER, 0.04), (SIGMOID, 0.04), (POWER, 0.06)])
def test_a_law_of_few_parameters_passes_near_what_was_seen(law, near):
    """Of problems with Beta chances, which the curves do not follow at small k."""
    correct = pool(np.random.default_rng(3).beta(0.8, 2.0, 300), 32)
    measured = pass_at_k(correct, [1, 8, 32]).mean(axis=0)
    found = [one.value for one in fit_coverage(law, correct, resamples=100).predict([1, 8, 32])]
    assert found == pytest.approx(measured.tolist(), abs=near)


def test_held_out_is_the_first_quarter_against_the_whole_pool():
    correct = pool(np.random.default_rng(4).beta(0.6, 2.0, 100), 32)
    whole = fit_coverage(BETA_BINOMIAL, correct, resamples=100)
    by_hand = extrapolate(BETA_BINOMIAL, correct[:, :8], correct, sizes_between(9, 32), resamples=100)
    assert whole.held_out == by_hand
    pilot = fit_coverage(BETA_BINOMIAL, correct[:, :8], resamples=100)
    gap = pilot.predict([32])[0].value - pass_at_k(correct, [32]).mean()
    assert by_hand.at[-1] == 32
    assert by_hand.errors[-1].value == pytest.approx(gap)
    assert by_hand.worst == max(abs(one.value) for one in by_hand.errors)


def test_the_interval_of_an_error_holds_the_noise_of_the_measurement_too():
    """Pilot and measurement resample together: where they are one pool, the law's error is narrower than its prediction."""
    correct = pool(np.random.default_rng(5).beta(0.6, 2.0, 100), 16)
    fit = fit_coverage(BETA_BINOMIAL, correct)
    [error] = extrapolate(BETA_BINOMIAL, correct, correct, [16]).errors
    [predicted] = fit.predict([16])
    assert error.high - error.low < (predicted.high - predicted.low) / 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_fit_and_another_seed_other_intervals():
    correct = pool(np.random.default_rng(6).beta(0.6, 2.0, 60), 8)
    first, again, other = (fit_coverage(POWER, correct, seed=seed, resamples=100) for seed in (1, 1, 2))
    assert first == again
    assert np.array_equal(first.draws_R_M, again.draws_R_M)
    assert not np.array_equal(first.draws_R_M, other.draws_R_M)
    assert first.values_M.tolist() == other.values_M.tolist()


def refused(law, correct):
    with pytest.raises(UnidentifiedError) as found:
        fit_coverage(law, correct, resamples=100)
    return str(found.value)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
class TestRefusals:
    def test_nothing_solved(self, law):
        assert "no sample is right" in refused(law, np.zeros((20, 16), bool))

    def test_everything_solved(self, law):
        assert "every sample is right" in refused(law, np.ones((20, 16), bool))

    def test_problems_that_are_solved_always_or_never(self, law):
        assert "solved always or never" in refused(law, counts([16] * 10 + [0] * 10, 16))

    def test_too_few_problems(self, law):
        assert "at least 10" in refused(law, pool(np.full(9, 0.5), 16))

    def test_too_few_samples(self, law):
        assert f"at least {law.least} to fit" in refused(law, pool(np.linspace(0.1, 0.9, 20), law.least - 1))

    @pytest.mark.slow
    def test_growth_that_hangs_on_one_problem(self, law):
        """A resample without it, 36% of them, has nothing to fit."""
        message = refused(law, counts([3] + [16] * 10 + [0] * 4, 16))
        assert "has no bound" in message or "ended at the edge" in message

    def test_verdicts_that_are_numbers(self, law):
        with pytest.raises(ValueError, match="table of bool"):
            fit_coverage(law, np.ones((20, 16)))


def test_equal_problems_have_no_spread_to_be_fitted():
    assert "differ no more than chance" in refused(BETA_BINOMIAL, counts([4] * 30, 16))


def test_a_parameter_at_its_edge_is_refused_by_name(monkeypatch):
    """Coverage that jumps to its end at k = 2 falls faster than any power."""
    monkeypatch.setattr(
        coverage, "pass_at_k", lambda verdicts, ks: np.tile(np.where(np.asarray(ks) > 1, 0.8, 0.3), (len(verdicts), 1))
    )
    assert "b = 5 ended at the edge of 0.001..5" in refused(POWER, np.ones((20, 64), bool))


def test_a_floor_of_zero_is_an_answer_and_not_an_edge():
    fit = fit_coverage(POWER, pool(np.random.default_rng(2).beta(1.0, 2.0, 300), 32), resamples=100)
    assert fit.parameters["e"].value == 0
    assert fit.lost == 0


def test_a_pilot_of_other_problems_is_refused():
    with pytest.raises(ValueError, match="the pilot has 20 problems and the larger pool 21"):
        extrapolate(POWER, pool(np.full(20, 0.5), 8), pool(np.full(21, 0.5), 8), [8])


@pytest.mark.parametrize("k", [[0], [-1.0], [], [float("nan")], [[1, 2]]])
def test_a_prediction_needs_numbers_above_zero(k):
    fit = fit_coverage(POWER, pool(np.random.default_rng(2).beta(1.0, 2.0, 50), 8), resamples=100)
    with pytest.raises(ValueError, match="cannot predict at"):
        fit.predict(k)


def test_a_series_is_the_prediction_to_be_drawn():
    fit = fit_coverage(POWER, pool(np.random.default_rng(2).beta(1.0, 2.0, 50), 8), resamples=100)
    drawn = fit.series([1, 10, 100], "by eight samples")
    assert drawn.name == "by eight samples"
    assert list(drawn.y) == [one.value for one in fit.predict([1, 10, 100])]


def test_sizes_are_whole_and_hold_both_ends():
    assert sizes_between(1, 16) == [*range(1, 17)]
    sizes = sizes_between(1, 256)
    assert (sizes[0], sizes[-1], len(sizes)) == (1, 256, len(set(sizes)))
    assert len(sizes) <= 40
    with pytest.raises(ValueError, match="from 5 to 4"):
        sizes_between(5, 4)
