"""Choosing a token: exact frequencies, exact limits, and a draw that depends on its own row alone."""

from __future__ import annotations

import numpy as np
import pytest

from ponder.lab.sampling import HEAD, Settings, choose, log_softmax, uniforms

PROBABILITIES = np.array([0.1, 0.4, 0.0, 0.3, 0.2])


def settings(rows, temperature=1.0, top_p=1.0, top_k=0):
    return Settings(np.full(rows, temperature), np.full(rows, top_p), np.full(rows, top_k))


def frequencies(n=100_000, **kind):
    with np.errstate(divide="ignore"):
        rows = np.tile(np.log(PROBABILITIES).astype(np.float32), (n, 1))
    grid = (np.arange(n) + 0.5) / n
    return np.bincount(choose(rows, settings(n, **kind), grid), minlength=5) / n


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 0.5}, PROBABILITIES**2 / (PROBABILITIES**2).sum()),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.75, "top_k": 4}, [0, 4 / 9, 0, 3 / 9, 2 / 9]),
        ({"top_p": 0.5, "top_k": 2}, [0, 1, 0, 0, 0]),
        ({"top_k": 99}, PROBABILITIES),
    ],
)
def test_an_even_grid_of_draws_has_the_closed_form_frequencies(kind, expected):
    np.testing.assert_allclose(frequencies(**kind), expected, atol=2e-5)


def test_equal_tokens_are_ranked_by_id():
    rows = np.zeros((1, 4), np.float32)
    assert choose(rows, settings(1, temperature=0.0), np.array([0.9])) == [0]
    assert choose(rows, settings(1, top_k=2), np.array([0.999])) == [1]


def test_a_draw_at_either_end_never_lands_on_an_impossible_token():
    rows = np.array([[-np.inf, 0.0, 0.0, -np.inf]], np.float32)
    assert choose(rows, settings(1), np.array([0.0])) == [1]
    assert choose(rows, settings(1), np.array([np.nextafter(1.0, 0.0)])) == [2]


def test_rows_with_different_settings_do_not_disturb_each_other():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 256)).astype(np.float32) * 3
    kinds = Settings(rng.choice([0.0, 0.7, 1.0], 50), rng.choice([0.5, 1.0], 50), rng.choice([0, 5], 50))
    uniform = rng.random(50)
    together = choose(rows, kinds, uniform)
    for i in range(50):
        one = np.array([i])
        assert choose(rows[one], kinds[one], uniform[one]) == together[i]
        np.testing.assert_array_equal(log_softmax(rows[one])[0], log_softmax(rows)[i])


def test_uniforms_are_splitmix64_of_the_mixed_key():
    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    keys, positions = [0, 1, 2**64 - 1, 12345], [0, 5, 511, 7]
    expected = [
        mix((mix(k) + (p + 1) * 0x9E3779B97F4A7C15) % 2**64) // 2**11 / 2**53 for k, p in zip(keys, positions, strict=True)
    ]
    assert uniforms(np.array(keys, np.uint64), np.array(positions)).tolist() == expected


def test_uniforms_of_neighbouring_keys_and_positions_look_independent():
    keys, positions = np.meshgrid(np.arange(200, dtype=np.uint64), np.arange(200))
    grid = uniforms(keys.ravel(), positions.ravel()).reshape(200, 200)
    assert abs(grid.mean() - 0.5) < 0.006  # 4 standard errors of 40,000 draws
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.02


def brute_force(weight: np.ndarray, top_p: float, top_k: int) -> set[int]:
    """One token after the other, likeliest first, equals by id, until top_p of what top-k leaves is reached."""
    order = sorted(range(len(weight)), key=lambda at: (-weight[at], at))[: top_k or len(weight)]
    total, held, kept = sum(weight[order]), 0.0, set()
    for token in order:
        if held >= top_p * total:
            break
        kept.add(token)
        held += weight[token]
    return kept


@pytest.mark.parametrize(
    ("top_p", "top_k"), [(0.9, 0), (0.3, 0), (0.999, 0), (0.7, HEAD - 12), (0.7, HEAD + 30), (1.0, HEAD + 30)]
)
@pytest.mark.parametrize("spread", [0.0, 0.3, 1.0, 3.0])
def test_a_large_vocabulary_is_cut_as_a_sorted_one_whatever_the_head_holds(spread: float, top_p: float, top_k: int):
    rng = np.random.default_rng(3)
    logits = np.round(spread * rng.standard_normal((2, 3 * HEAD)), 1)  # rounded: many equals, some across the head's end
    points = (np.arange(150) + 0.5) / 150
    for row in logits:
        weight = np.exp(row - row.max())
        drawn = choose(np.tile(row, (150, 1)), settings(150, top_p=top_p, top_k=top_k), points)
        kept = brute_force(weight, top_p, top_k)
        assert set(drawn.tolist()) <= kept
        share = 1 / sum(weight[sorted(kept)])
        assert {token for token in kept if weight[token] * share > 1 / 150} <= set(drawn.tolist())
