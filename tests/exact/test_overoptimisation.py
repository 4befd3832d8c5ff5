"""Best-of-n's distance against an integral, the fit against curves that are known, and falls against noise."""

from math import inf, log

import numpy as np
import pytest

from ponder.scaling.overoptimisation import best_of_with_kl, fall, fit, kl_of_best_of

SIZES = [1, 2, 4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_the_distance_of_best_of_n_is_the_integral_over_ranks(n):
    # At rank u best-of-n has density n u^(n-1) against the policy's 1: KL = integral of n u^(n-1) log(n u^(n-1)).
    u = (np.arange(200_000) + 0.5) / 200_000
    density = n * u ** (n - 1)
    kl = np.mean(np.where(density > 0, density * np.log(np.maximum(density, 1e-300)), 0.0))
    assert kl_of_best_of(n) == pytest.approx(kl, abs=1e-5)


def test_size_and_distance_determine_each_other():
    for n in (1.0, 1.5, 8.0, 1e6):
        assert best_of_with_kl(kl_of_best_of(n)) == pytest.approx(n, rel=1e-6)
    assert best_of_with_kl(0) == pytest.approx(1)


def curve(alpha, beta, problems=1, noise=0.0, seed=0):
    d = np.sqrt([kl_of_best_of(n) for n in SIZES])
    return 0.4 + d * (alpha - beta * d) + noise * np.random.default_rng(seed).standard_normal((problems, len(SIZES)))


def test_a_noiseless_curve_gives_its_numbers_back():
    found = fit(curve(0.3, 0.12, problems=5), SIZES)
    assert (found.alpha.value, found.beta.value) == pytest.approx((0.3, 0.12))
    assert kl_of_best_of(found.peak.value) == pytest.approx((0.3 / 0.24) ** 2)
    assert found.error == pytest.approx(0, abs=1e-12)
    assert found.fit_K == pytest.approx(curve(0.3, 0.12)[0] - 0.4)
    assert not found.beyond


def test_a_curve_that_only_rises_has_no_peak():
    assert fit(curve(0.2, -0.01), SIZES).peak.value == inf
    assert fit(curve(-0.1, 0.05), SIZES).peak.value == 1
    assert fit(curve(-0.1, -0.05), SIZES).peak.value == inf  # it falls first and rises without an end
    assert fit(curve(0.3, 0.05), SIZES).beyond


@pytest.mark.slow
def test_intervals_cover_the_numbers_that_made_the_data():
    inside = np.zeros(3)
    for seed in range(200):
        found = fit(curve(0.3, 0.12, problems=60, noise=0.3, seed=seed), SIZES, seed=seed, resamples=200)
        true = (0.3, 0.12, best_of_with_kl((0.3 / 0.24) ** 2))
        inside += [one.low <= t <= one.high for one, t in zip((found.alpha, found.beta, found.peak), true, strict=True)]
    assert np.all(inside / 200 > 0.88)
    assert np.all(inside / 200 < 0.995)


@pytest.mark.slow
def test_flat_noise_is_called_a_fall_no_more_often_than_its_level():
    falls = sum(fall(curve(0.0, 0.0, 60, 0.3, seed), SIZES, seed=seed, resamples=200).falls for seed in range(300))
    assert falls / 300 < 0.05  # 2.5% is due; a best size chosen on the problems that judge it gives far more


def test_a_real_fall_is_seen_and_measured():
    found = fall(curve(0.3, 0.12, 400, 0.1), SIZES)
    means = curve(0.3, 0.12)[0]
    assert found.falls
    assert found.best in (4, 8, 16)
    assert found.gain.value == pytest.approx(means[-1] - means.max(), abs=0.03)


def test_a_curve_that_rises_gains_over_every_smaller_size():
    found = fall(curve(0.2, 0.0, 10), SIZES)
    means = curve(0.2, 0.0)[0]
    assert found.gain.low == found.gain.high == pytest.approx(means[-1] - means[-2])
    assert (found.best, found.falls) == (64, False)


@pytest.mark.slow
def test_the_interval_holds_for_all_sizes_at_once():
    noise = lambda seed: curve(0.0, 0.0, 60, 0.3, seed)  # noqa: E731  short
    alone = np.mean([fall(noise(seed)[:, [0, -1]], [1, 128], seed=seed, resamples=200).gain.excludes_zero for seed in range(300)])
    every = np.mean([fall(noise(seed), SIZES, seed=seed, resamples=200).gain.excludes_zero for seed in range(300)])
    assert 0.02 < alone < 0.09
    assert every < 0.08  # the worst of seven, each at 5% of its own, would be past 15%


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kl_of_best_of(0.5), "n is 0.5"),
        (lambda: best_of_with_kl(-log(2)), "kl is -0.69"),
        (lambda: fit([[0.1, 0.2, 0.3]], [2, 4, 8]), "it takes n = 1"),
        (lambda: fit([[0.1, 0.2]], [1, 2]), "at least two larger"),
        (lambda: fit([[0.1, 0.2, np.nan]], [1, 2, 4]), "without holes"),
        (lambda: fit([[0.1, 0.2, 0.3]], [1, 4, 2]), "they must be at least 1 and rise"),
        (lambda: fall([[0.1, 0.2]], [1, 2]), "1 problems and 2 sizes"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
