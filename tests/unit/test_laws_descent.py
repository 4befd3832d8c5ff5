"""Many descents at once: each ends where it would alone, at an edge where it must, and unfinished ones are no answers."""

import numpy as np
import pytest

from ponder.scaling.descent import descend, squares
from ponder.scaling.fit import Parameter, inner, minimise, outer

X = np.arange(1, 9, dtype=float)


def line(targets_R_K):
    """Residuals of slope * X + offset."""
    return lambda points, rows: points[:, :1] * X + points[:, 1:] - targets_R_K[rows]


def test_each_fit_is_that_of_linear_algebra_alone():
    targets = np.random.default_rng(0).normal(size=(5, 8))
    points, values, done = descend(squares(line(targets)), np.zeros((5, 2)), [-9, -9], [9, 9])
    assert done.all()
    for point, value, target in zip(points, values, targets, strict=True):
        known, *_ = np.linalg.lstsq(np.stack([X, np.ones(8)], axis=1), target, rcond=None)
        assert point == pytest.approx(known, abs=1e-6)
        assert value == pytest.approx(((known[0] * X + known[1] - target) ** 2).sum() / 2)


def test_an_edge_holds_one_coordinate_and_frees_the_rest():
    """With its slope held at .5 the line's best offset is the mean of what is left."""
    targets = (2 * X + 1)[None]
    points, _, done = descend(squares(line(targets)), [[0.0, 0.0]], [-1, -50], [0.5, 50])
    assert done.all()
    assert points[0] == pytest.approx([0.5, (targets[0] - 0.5 * X).mean()])


def test_a_coordinate_leaves_an_edge_where_it_started():
    points, _, _ = descend(squares(line((2 * X + 1)[None])), [[5.0, 0.0]], [-5, 0], [5, 50])
    assert points[0] == pytest.approx([2, 1], abs=1e-6)


def test_huber_is_the_median_where_squares_are_the_mean():
    seen = np.array([[1.0, 1.0, 1.0, 1.0, 100.0]])

    def level(points, rows):
        return points - seen[rows]

    assert descend(squares(level), [[3.0]], [0], [200])[0][0, 0] == pytest.approx(20.8)
    assert descend(squares(level, 1e-3), [[3.0]], [0], [200])[0][0, 0] == pytest.approx(1, abs=1e-3)


def test_weights_say_how_often_a_residual_counts():
    seen, weights = np.array([0.0, 1.0, 5.0]), np.array([[3.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    points, _, _ = descend(squares(lambda points, rows: points - seen, weights_R_K=weights), [[2.0], [2.0]], [-9], [9])
    assert points[:, 0] == pytest.approx([0.25, 3.0])


def test_a_descent_without_end_is_not_done():
    """exp(-x) falls for ever; the step is at most 2."""
    _, _, done = descend(
        lambda points, rows: (np.exp(-points[:, 0]), -np.exp(-points), np.exp(-points)[:, :, None]), [[0.0]], [-9], [1e9], steps=9
    )
    assert not done.any()


def test_of_several_starts_each_fit_takes_its_own_best():
    """(p - 1)^2 (p - 4)^2 tilted one way or the other: the lower valley differs from fit to fit."""
    tilts = np.array([0.5, -0.5, 0.5])

    def valleys(points, rows):
        p = np.exp(points[:, 0])
        value = (p - 1) ** 2 * (p - 4) ** 2 + tilts[rows] * p
        slope = (2 * (p - 1) * (p - 4) ** 2 + 2 * (p - 1) ** 2 * (p - 4) + tilts[rows]) * p
        return value, slope[:, None], np.full((len(p), 1, 1), 60.0)

    found = minimise([Parameter("p", 0.1, 10.0)], valleys, [[0.8], [4.5]], 3)
    assert found[:, 0] == pytest.approx([1, 4, 1], abs=0.1)


def test_where_no_start_comes_to_an_end_there_is_no_number():
    found = minimise(
        [Parameter("p", -1.0, 1.0)], lambda points, rows: (np.full(len(points), np.nan), points, points[:, :, None]), [[0.5]], 2
    )
    assert np.isnan(found).all()


def test_scales_are_logarithmic_where_edges_share_a_sign():
    parameters = [Parameter("a", -50.0, -1e-6), Parameter("e", 0.0, 1.0), Parameter("b", 1e-3, 5.0)]
    values = np.array([[-1.74, 0.25, 0.5], [-0.1, 0.0, 2.0]])
    points = inner(parameters, values)
    assert points[0] == pytest.approx([np.log(1.74), 0.25, np.log(0.5)])
    assert outer(parameters, points) == pytest.approx(values)


@pytest.mark.parametrize(("value", "lost"), [(0.0, False), (0.5, False), (1.0, True), (0.995, True), (1.7, True)])
def test_only_an_edge_that_is_no_answer_loses_a_fit(value, lost):
    assert Parameter("e", 0.0, 1.0, (0.0,)).lost(value) == lost
