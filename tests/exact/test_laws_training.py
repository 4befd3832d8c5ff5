"""Kaplan and Chinchilla: known parameters found again, and the best split of compute against closed forms and brute force."""

import numpy as np
import pytest

from ponder.errors import UnidentifiedError
from ponder.scaling.parametric import CHINCHILLA, KAPLAN, compute_optimal, fit_training

HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
KAPLANS = {"N_c": 8.8e13, "D_c": 5.4e13, "alpha_N": 0.076, "alpha_D": 0.095}
BUDGET = 5.76e23


def runs(law, known, *, count=40, noise=0.0, seed=0):
    """Parameters, tokens and losses of as many runs."""
    rng = np.random.default_rng(seed)
    sizes, tokens = 10 ** rng.uniform(7.5, 10, count), 10 ** rng.uniform(9, 11.5, count)
    losses = law.curve(np.array(list(known.values())), sizes, tokens) * np.exp(noise * rng.normal(size=count))
    return sizes, tokens, losses


@pytest.fixture(scope="module")
def chinchilla():
    return fit_training(CHINCHILLA, *runs(CHINCHILLA, HOFFMANN), resamples=100)


@pytest.fixture(scope="module")
def kaplan():
    return fit_training(KAPLAN, *runs(KAPLAN, KAPLANS), resamples=100)


@pytest.mark.slow
def test_published_parameters_are_found_again_from_their_own_losses(chinchilla, kaplan):
    for fit, known in ((chinchilla, HOFFMANN), (kaplan, KAPLANS)):
        for name, value in known.items():
            assert fit.parameters[name].value == pytest.approx(value, rel=1e-5)
        assert fit.held_out.worst < 1e-6
        assert len(fit.held_out.at) == 10
        assert fit.lost == 0


@pytest.mark.slow
def test_noisy_runs_give_the_exponents_within_a_tenth_and_intervals_that_hold_them():
    """60 runs, noise of .3% of the loss."""
    fit = fit_training(CHINCHILLA, *runs(CHINCHILLA, HOFFMANN, count=60, noise=0.003), resamples=100)
    for name in ("E", "alpha", "beta"):
        found = fit.parameters[name]
        assert found.value == pytest.approx(HOFFMANN[name], rel=0.1)
        assert found.low < HOFFMANN[name] < found.high
    assert fit.lost == 0
    best = compute_optimal(fit, BUDGET)
    assert best.parameters.low < 3.22e10 < best.parameters.high


@pytest.mark.slow
def test_a_run_that_went_wrong_moves_little():
    """One loss of 40 is doubled; squares would move the exponent of data by a third or more."""
    sizes, tokens, losses = runs(CHINCHILLA, HOFFMANN, noise=0.001)
    losses[7] *= 2
    fit = fit_training(CHINCHILLA, sizes, tokens, losses, resamples=100)
    assert fit.parameters["alpha"].value == pytest.approx(0.34, rel=0.05)
    assert fit.parameters["beta"].value == pytest.approx(0.28, rel=0.05)


@pytest.mark.slow
def test_the_best_split_of_chinchilla_is_its_closed_form(chinchilla):
    alpha, beta = HOFFMANN["alpha"], HOFFMANN["beta"]
    scale = (alpha * HOFFMANN["A"] / (beta * HOFFMANN["B"])) ** (1 / (alpha + beta))
    size = scale * (BUDGET / 6) ** (beta / (alpha + beta))
    found = compute_optimal(chinchilla, BUDGET)
    assert found.parameters.value == pytest.approx(size, rel=1e-4)
    assert found.tokens.value == pytest.approx(BUDGET / 6 / size, rel=1e-4)
    assert found.loss.value == pytest.approx(1.69 + 406.4 / size**alpha + 410.7 / (BUDGET / 6 / size) ** beta, rel=1e-6)


@pytest.mark.slow
def test_the_best_split_of_kaplan_is_its_closed_form_and_the_best_of_a_grid(kaplan):
    """Least (N_c / N)^g + 6 D_c N / C with g = alpha_N / alpha_D: N^(g + 1) = g N_c^g C / (6 D_c)."""
    g = KAPLANS["alpha_N"] / KAPLANS["alpha_D"]
    size = (g * KAPLANS["N_c"] ** g * BUDGET / (6 * KAPLANS["D_c"])) ** (1 / (g + 1))
    found = compute_optimal(kaplan, BUDGET)
    assert found.parameters.value == pytest.approx(size, rel=1e-3)
    grid = np.geomspace(1e6, 1e15, 20_001)
    losses = KAPLAN.curve(np.array(list(KAPLANS.values())), grid, BUDGET / 6 / grid)
    assert found.parameters.value == pytest.approx(grid[losses.argmin()], rel=1e-2)
    assert found.loss.value == pytest.approx(losses.min(), rel=1e-6)


@pytest.mark.slow
def test_cost_per_parameter_and_token_is_the_callers(chinchilla):
    twice = compute_optimal(chinchilla, 2 * BUDGET, per=12.0)
    assert twice.parameters.value == pytest.approx(compute_optimal(chinchilla, BUDGET).parameters.value)


def test_every_start_of_the_published_grid_is_looked_at():
    assert len(CHINCHILLA.starts_G_M) == 4500


def test_runs_of_one_size_are_refused():
    _, tokens, losses = runs(CHINCHILLA, HOFFMANN)
    with pytest.raises(UnidentifiedError, match="of 1 sizes and 40 amounts of data; it takes at least 7 runs, and three of each"):
        fit_training(CHINCHILLA, np.full(40, 1e9), tokens, losses)


def test_too_few_runs_are_refused():
    with pytest.raises(UnidentifiedError, match=r"^Kaplan: 5 runs .* at least 6 runs"):
        fit_training(KAPLAN, *runs(KAPLAN, KAPLANS, count=5))


@pytest.mark.slow
def test_losses_that_no_amount_of_data_moves_are_refused():
    """Then any large exponent and any small B will do."""
    sizes, tokens, _ = runs(CHINCHILLA, HOFFMANN)
    with pytest.raises(UnidentifiedError, match=r"Chinchilla: (B|beta) = .* ended at the edge|has no bound|no descent"):
        fit_training(CHINCHILLA, sizes, tokens, 1.69 + 406.4 / sizes**0.34, resamples=100)


def test_a_run_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="all finite and > 0"):
        fit_training(CHINCHILLA, [1e6, 1e7], [1e9, 1e9], [3.0, float("nan")])


@pytest.mark.slow
@pytest.mark.parametrize("flops", [6.0, 0.0, float("inf"), float("nan")])
def test_a_budget_of_nothing_or_everything_is_refused(flops, kaplan):
    with pytest.raises(ValueError, match="more than one parameter"):
        compute_optimal(kaplan, flops)


@pytest.mark.slow
def test_a_law_whose_best_size_is_at_an_end_is_refused(chinchilla):
    with pytest.raises(UnidentifiedError, match="falls to one end"):
        compute_optimal(chinchilla, 7.0)
