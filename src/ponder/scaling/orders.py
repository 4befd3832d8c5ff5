"""What strategies of whole samples answer, and how many samples they draw, on pools taken in a given order.

An estimator over subsets says how well a strategy does on average; an allocator must know it for those very orders whose first samples were
the pilot. So pools are shuffled, and each row here is one order of one problem's pool: its first samples are what a pilot would have seen.
These are fast twins of `ponder.strategies`, held to them sample by sample in the tests. Axes: R rows (orders), N samples, A answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Guide:
    """What one verifier says of the samples: scores (nan: none) and the positions they cost."""

    scores_R_N: Floats
    scored_R_N: Floats


@dataclass(frozen=True)
class Pools:
    """Samples in order. problem: of each row; answers: ids within a row, -1 for none; tokens: of each sample; guides: by spec."""

    problem_R: Ints
    correct_R_N: Bools
    answers_R_N: Ints
    tokens_R_N: Floats
    guides: Mapping[str, Guide]

    def shuffled(self, times: int, seed: int) -> Pools:
        """The pools as they are, and in `times - 1` random orders each; rows of one problem stay together."""
        rows, n = self.answers_R_N.shape
        order_R_N = np.argsort(np.random.default_rng(seed).random((rows, times, n)), axis=2)
        order_R_N[:, 0] = np.arange(n)
        order_R_N = order_R_N.reshape(rows * times, n)

        def taken(table: NDArray[np.generic]) -> NDArray[np.generic]:
            return np.take_along_axis(np.repeat(table, times, axis=0), order_R_N, axis=1)

        return Pools(
            np.repeat(self.problem_R, times),
            taken(self.correct_R_N),  # type: ignore[arg-type]  # the element type is kept, which the stubs cannot say
            taken(self.answers_R_N),  # type: ignore[arg-type]  # as above
            taken(self.tokens_R_N),  # type: ignore[arg-type]  # as above
            {
                name: Guide(taken(guide.scores_R_N), taken(guide.scored_R_N))  # type: ignore[arg-type]  # as above
                for name, guide in self.guides.items()
            },
        )

    @cached_property
    def voted_R_N(self) -> Bools:
        """Whether a sample has an answer."""
        return self.answers_R_N >= 0

    @cached_property
    def places_R_N(self) -> Ints:
        """The index, in a row, of the first sample with the same answer; -1 for none."""
        rows, n = self.answers_R_N.shape
        places = np.full((rows, n), -1)
        for t in range(n):
            same_R_N = (self.answers_R_N[:, : t + 1] == self.answers_R_N[:, t : t + 1]) & self.voted_R_N[:, : t + 1]
            places[:, t] = np.where(self.voted_R_N[:, t], np.argmax(same_R_N, axis=1), -1)
        return places

    def scores(self, guide: str) -> Floats:
        """Scores of the samples that have an answer, -inf elsewhere: only those are scored, and can be chosen."""
        scores = self.guides[guide].scores_R_N
        return np.where(self.voted_R_N & ~np.isnan(scores), scores, -np.inf)


@dataclass(frozen=True)
class Played:
    """One strategy on every row: whether its answer is right, and how many samples it drew. guide: whose scores it read, "" for none."""

    spec: str
    right_R: Bools
    drawn_R: Ints
    guide: str = ""


def votes(pools: Pools, weights_R_N: Floats | None = None) -> tuple[Ints, Floats, Floats]:
    """After each sample: the index of the leader's first sample (-1 before a vote), the leader's weight and the runner-up's.

    Equal weights: the answer seen first leads, as in `strategies.tally`.
    """
    rows, n = pools.answers_R_N.shape
    held_R_A = np.full((rows, n), -1.0)  # by the place where an answer was first seen; -1: never
    every_R = np.arange(rows)
    lead, first, second = np.full((rows, n), -1), np.zeros((rows, n)), np.zeros((rows, n))
    for t in range(n):
        place_R = pools.places_R_N[:, t]
        weight_R = np.ones(rows) if weights_R_N is None else weights_R_N[:, t]
        cast_R = place_R >= 0
        before_R = held_R_A[every_R, place_R]
        held_R_A[every_R[cast_R], place_R[cast_R]] = (np.maximum(before_R, 0.0) + weight_R)[cast_R]
        seen = held_R_A[:, : t + 1]
        leader_R = np.argmax(seen, axis=1)  # the first of equals was seen first
        top_R = seen[every_R, leader_R]
        lead[:, t] = np.where(top_R >= 0, leader_R, -1)
        first[:, t] = np.maximum(top_R, 0.0)
        if t:
            second[:, t] = np.maximum(np.partition(seen, t - 1, axis=1)[:, t - 1], 0.0)
    return lead, first, second


def sampled(pools: Pools) -> Played:
    """`sample()`."""
    right_R = pools.correct_R_N[:, 0] & pools.voted_R_N[:, 0]
    return Played("sample()", right_R, np.ones(len(right_R), np.int64))


def voted(pools: Pools, sizes: Sequence[int]) -> Iterator[Played]:
    """`self_consistency(n)`."""
    lead, _, _ = votes(pools)
    for n in sizes:
        yield Played(f"self_consistency(n={n})", _right(pools, lead[:, n - 1]), _all(pools, n))


def weighed(pools: Pools, guide: str, sizes: Sequence[int]) -> Iterator[Played]:
    """`weighted_vote(n, verifier)`."""
    scores = pools.scores(guide)
    scored = replace(pools, answers_R_N=np.where(np.isfinite(scores), pools.answers_R_N, -1))
    lead, _, _ = votes(scored, np.where(np.isfinite(scores), scores, 0.0))
    for n in sizes:
        yield Played(f"weighted_vote(n={n}, verifier={guide})", _right(pools, lead[:, n - 1]), _all(pools, n), guide)


def adapted(pools: Pools, sizes: Sequence[int], thresholds: Sequence[float], batches: Sequence[int]) -> Iterator[Played]:
    """`adaptive_consistency(n, threshold, batch)`."""
    lead, first, second = votes(pools)
    sure = _ahead(int(first.max()) + 1)
    ahead_R_N = sure[first.astype(np.int64), second.astype(np.int64)]
    for threshold in thresholds:
        for batch in batches:
            for n in sizes:
                drawn_R = _stops((lead >= 0) & (ahead_R_N >= threshold), n, batch)
                spec = f"adaptive_consistency(n={n}, threshold={threshold!r}, batch={batch})"
                yield Played(spec, _right(pools, np.take_along_axis(lead, drawn_R[:, None] - 1, axis=1)[:, 0]), drawn_R)


def best(pools: Pools, guide: str, sizes: Sequence[int]) -> Iterator[Played]:
    """`best_of_n(n, verifier)`."""
    scores = pools.scores(guide)
    for n in sizes:
        chosen_R = _highest(pools, scores, _all(pools, n))
        yield Played(f"best_of_n(n={n}, verifier={guide})", _right(pools, chosen_R), _all(pools, n), guide)


def accepted(
    pools: Pools, guide: str, sizes: Sequence[int], thresholds: Sequence[float], batches: Sequence[int]
) -> Iterator[Played]:
    """`rejection(n, verifier, threshold, batch, otherwise='best')`."""
    scores = pools.scores(guide)
    for threshold in thresholds:
        good_R_N = scores >= threshold
        first_R = np.where(good_R_N.any(axis=1), good_R_N.argmax(axis=1), good_R_N.shape[1])
        for batch in batches:
            for n in sizes:
                drawn_R = _stops(np.logical_or.accumulate(good_R_N, axis=1), n, batch)
                chosen_R = np.where(first_R < drawn_R, first_R, _highest(pools, scores, drawn_R))
                spec = f"rejection(n={n}, verifier={guide}, threshold={threshold!r}, batch={batch}, otherwise='best')"
                yield Played(spec, _right(pools, chosen_R), drawn_R, guide)


def _ahead(most: int) -> Floats:
    """`strategies.adaptive_consistency.ahead` for every two counts below `most`: P(p > 1/2) for p ~ Beta(first + 1, second + 1)."""
    table = np.full((most, most), 0.5)
    for first in range(most):  # Beta(a+1, b) exceeds Beta(a, b) by the chance that flip a + b + 1 decides
        for second in range(most):
            if first > second:
                table[first, second] = 0.5 * (table[first - 1, second] + (table[first, second - 1] if second else 1.0))
    return table


def _stops(done_R_N: Bools, n: int, batch: int) -> Ints:
    """How many samples are drawn by a strategy that looks after every batch whether it is done."""
    looks = np.array([min(at, n) for at in range(batch, n + batch, batch)])
    seen_R_L = done_R_N[:, looks - 1]
    found: Ints = looks[np.where(seen_R_L.any(axis=1), seen_R_L.argmax(axis=1), len(looks) - 1)]
    return found


def _highest(pools: Pools, scores_R_N: Floats, drawn_R: Ints) -> Ints:
    """The index of the highest score among those drawn; the first with an answer where there is no score, -1 where there is none."""
    inside_R_N = np.arange(scores_R_N.shape[1]) < drawn_R[:, None]
    within = np.where(inside_R_N, scores_R_N, -np.inf)
    answered = pools.voted_R_N & inside_R_N
    guess_R = np.where(answered.any(axis=1), answered.argmax(axis=1), -1)
    return np.where(np.isfinite(within).any(axis=1), within.argmax(axis=1), guess_R)


def _right(pools: Pools, chosen_R: Ints) -> Bools:
    found: Bools = np.take_along_axis(pools.correct_R_N, np.maximum(chosen_R, 0)[:, None], axis=1)[:, 0] & (chosen_R >= 0)
    return found


def _all(pools: Pools, n: int) -> Ints:
    return np.full(len(pools.problem_R), n, np.int64)
