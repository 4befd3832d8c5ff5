"""For a fixed budget, how much to spend on solutions and how much on verdicts about each: accuracy over (solutions s, verdicts v).

Singhi et al. 2025 (arXiv:2504.01005): a generative verifier judges every solution v times, the mean verdict is its score, the best-scored
solution is the answer; s solutions of cost 1 and s v verdicts of cost lambda each make s (1 + lambda v). One table of S solutions x V verdicts a
problem gives the whole surface, exactly: the accuracy at (s, v) is the mean over all size-s subsets of the solutions and all size-v subsets of
the verdicts on each.

How: of v verdicts of a solution, the number that accept is hypergeometric, and independent of those on others. Solution i wins with x of them where
the earlier ones have fewer and the later ones no more (ties go to the solution seen first); over subsets that is an elementary symmetric mean of
those chances, built one solution at a time from both ends. Axes: P problems, S solutions, V verdicts, X counts of accepting verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ponder.scaling.bootstrap import Interval, mean_intervals, times_drawn

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MEMORY = 1 << 21  # numbers held at once for one chunk of problems (16 MB)


@dataclass(frozen=True, slots=True)
class Cell:
    """One allocation: s solutions, v verdicts on each (0: no verifier, but the vote), its cost and its accuracy with interval."""

    solutions: int
    verdicts: int
    cost: float
    accuracy: Interval


@dataclass(frozen=True, slots=True)
class Surface:
    """Accuracy of every allocation, by problem, in the order of `allocations`. costs: of each, in the unit of the prices given."""

    allocations: tuple[tuple[int, int], ...]
    costs: tuple[float, ...]
    accuracy_P_A: Floats

    def cells(self, *, seed: int = 0, resamples: int = 1000) -> list[Cell]:
        """Every allocation, with 95% intervals over problems."""
        intervals = mean_intervals(self.accuracy_P_A, seed=seed, resamples=resamples)
        return [Cell(s, v, c, one) for (s, v), c, one in zip(self.allocations, self.costs, intervals, strict=True)]

    def best(self, budget: float, problems: Sequence[int] | None = None) -> int:
        """The place of the most accurate allocation that the budget pays for, the cheapest of equals. problems: only these rows count.

        Raises `ValueError` for a budget below the cheapest allocation.
        """
        affordable = [a for a, cost in enumerate(self.costs) if cost <= budget * (1 + 1e-12)]
        if not affordable:
            raise ValueError(f"budget {budget:g} pays for no allocation; the cheapest costs {min(self.costs):g}")
        rows = self.accuracy_P_A if problems is None else self.accuracy_P_A[np.asarray(problems)]
        mean_A = rows.mean(axis=0)
        return max(affordable, key=lambda a: (round(float(mean_A[a]), 12), -self.costs[a]))

    def honest(self, budget: float, *, seed: int = 0) -> Floats:
        """Accuracy by problem of the best allocation at a budget: each half of the problems at the one chosen on the other half.

        For paired comparisons. Raises `ValueError` as `best`, or for a single problem.
        """
        count = len(self.accuracy_P_A)
        if count < 2:
            raise ValueError("one problem cannot be split into one half to choose on and one to judge on; give at least 2")
        order = np.random.default_rng(seed).permutation(count)
        halves = (order[::2], order[1::2])
        honest_P = np.empty(count)
        for here, there in (halves, halves[::-1]):
            honest_P[here] = self.accuracy_P_A[here, self.best(budget, there.tolist())]
        return honest_P

    def frontier(self, budgets: Sequence[float], *, seed: int = 0, resamples: int = 1000) -> list[Cell]:
        """The best allocation at each budget, chosen on all problems, with an accuracy that is not: that of `honest`."""
        found = []
        for budget in budgets:
            [interval] = mean_intervals(self.honest(budget, seed=seed), seed=seed, resamples=resamples)
            chosen = self.best(budget)
            found.append(Cell(*self.allocations[chosen], self.costs[chosen], interval))
        return found

    def level(self, solutions: int | None = None, *, seed: int = 0, resamples: int = 1000) -> Interval:
        """How many times the compute of voting verdicts need to draw level, with 95% interval over problems; inf where they never do.

        The least cost, with a verifier, that reaches the accuracy of a vote, over the cost of that vote: of so many `solutions`, or of the most
        accurate vote, anew in each resample. A surface holds costs up to a largest one: inf says no more than that level lies beyond it. Where larger votes have
        stopped to gain, noise says which of them is best and the multiple falls with its cost; give the size at which they stop.
        Raises `ValueError` for a surface without votes or without verdicts, or without a vote of so many solutions, and for resamples below 100.
        """
        if resamples < 100:
            raise ValueError(f"resamples is {resamples}; it must be at least 100")
        votes = [a for a, (s, v) in enumerate(self.allocations) if v == 0 and solutions in (None, s)]
        judged = [a for a, (_, v) in enumerate(self.allocations) if v > 0]
        if not votes or not judged:
            raise ValueError(
                f"there are {len(votes)} votes{'' if solutions is None else f' of {solutions} solutions'} and {len(judged)} allocations with "
                "verdicts; to draw level takes both (v = 0 needs answers)"
            )
        costs, count = np.array(self.costs), len(self.accuracy_P_A)
        drawn_R_P = times_drawn(count, seed=seed, resamples=resamples)
        means_R_A = np.concatenate([self.accuracy_P_A.mean(axis=0)[None], drawn_R_P @ self.accuracy_P_A / count])
        found_R = []
        for mean_A in means_R_A:
            vote = max(votes, key=lambda a: (round(float(mean_A[a]), 12), -costs[a]))
            reaching = [costs[a] for a in judged if mean_A[a] >= mean_A[vote] - 1e-12]
            found_R.append(min(reaching, default=inf) / costs[vote])
        low, high = np.quantile(found_R[1:], [0.025, 0.975], method="inverted_cdf")  # between two infinities lies no number
        return Interval(float(found_R[0]), min(float(found_R[0]), float(low)), max(float(found_R[0]), float(high)))


def surface(
    correct_P_S: ArrayLike,
    accepts_P_S_V: ArrayLike,
    solutions: Sequence[int],
    verdicts: Sequence[int],
    *,
    solve: float = 1.0,
    verify: float = 1.0,
    vote_P_K: ArrayLike | None = None,
) -> Surface:
    """The surface of a table of verdicts.

    Args:
        correct_P_S: bool, whether each solution is right.
        accepts_P_S_V: 1 where a verdict accepts, 0 where it refuses or failed, -1 throughout for a solution that cannot be chosen (truncated,
            without answer): it costs and takes a place.
        solutions: sizes s, each in 1..S.
        verdicts: numbers v, each in 1..V.
        solve: cost of a solution, > 0, in any unit: tokens, FLOPs, money (`ponder.scaling.costs`).
        verify: cost of a verdict, >= 0, in the same unit.
        vote_P_K: accuracy of voting with each of `solutions`, as `maj_at_k` gives; it becomes the allocations with v = 0.

    Raises:
        ValueError: tables that do not match, sizes outside their range, or costs that are none.
    """
    correct, accepts = np.asarray(correct_P_S), np.asarray(accepts_P_S_V)
    if (
        correct.dtype != np.bool_
        or correct.ndim != 2
        or accepts.ndim != 3
        or accepts.shape[:2] != correct.shape
        or not accepts.size
    ):
        raise ValueError(
            f"correct has shape {correct.shape} and type {correct.dtype}, accepts {accepts.shape}; they are problems x solutions, of bool, "
            "and problems x solutions x verdicts"
        )
    barred = (accepts == -1).all(axis=2)
    if not (np.isin(accepts, (0, 1)).all(axis=2) | barred).all():
        raise ValueError(
            "accepts holds something else than 0, 1, or -1 for all verdicts of a solution; a verdict accepts or it does not"
        )
    for name, sizes, most in (("solutions", solutions, accepts.shape[1]), ("verdicts", verdicts, accepts.shape[2])):
        if not sizes or not all(1 <= size <= most for size in sizes):
            raise ValueError(f"{name} are {list(sizes)}; choose sizes in 1..{most}")
    if not (solve > 0 and verify >= 0):
        raise ValueError(f"solve costs {solve} and verify {verify}; they must be above 0 and at least 0")
    accepted_P_S = np.where(barred, -1, accepts.sum(axis=2))
    columns = [_best_at(correct, accepted_P_S, accepts.shape[2], v, list(solutions)) for v in verdicts]
    allocations = [(s, v) for v in verdicts for s in solutions]
    if vote_P_K is not None:
        vote = np.asarray(vote_P_K, dtype=np.float64)
        if vote.shape != (len(correct), len(solutions)):
            raise ValueError(f"vote has shape {vote.shape}; it takes {len(correct)} problems x {len(solutions)} sizes")
        columns, allocations = [vote, *columns], [(s, 0) for s in solutions] + allocations
    costs = tuple(s * (solve + v * verify) for s, v in allocations)
    return Surface(tuple(allocations), costs, np.concatenate(columns, axis=1))


def exponents(cells: Sequence[Cell]) -> tuple[float, float]:
    """How the best numbers of solutions and verdicts grow with the budget: a and b of s ~ C^a and v ~ C^b, least squares in logarithms.

    Singhi et al. find .57 and .39 for Llama 3.1 8B on MATH (section 4.3). cells: of a frontier; those that only vote are left out.

    Raises `ValueError` for fewer than 3 different costs.
    """
    kept = [cell for cell in cells if cell.verdicts > 0]
    if len({cell.cost for cell in kept}) < 3:
        raise ValueError(f"{len(kept)} allocations with verdicts tell no exponents; it takes at least 3 of different costs")
    cost, s, v = (np.log([getattr(cell, name) for cell in kept]) for name in ("cost", "solutions", "verdicts"))
    return float(np.polyfit(cost, s, 1)[0]), float(np.polyfit(cost, v, 1)[0])


def _best_at(correct_P_S: Bools, accepted_P_S: NDArray[np.int64], most: int, v: int, sizes: Sequence[int]) -> Floats:
    """P x sizes: chance that the best-scored of a random subset is right, with v of `most` verdicts on each."""
    chance_N_X = np.array([[comb(n, x) * comb(most - n, v - x) / comb(most, v) for x in range(v + 1)] for n in range(most + 1)])
    chance_N_X = np.concatenate([chance_N_X, np.zeros((1, v + 1))])  # the last row, reached by -1: never chosen
    exact_P_S_X = chance_N_X[accepted_P_S]
    most_P_S_X = np.cumsum(exact_P_S_X, axis=2)
    most_P_S_X[accepted_P_S == -1] = 1.0
    fewer_P_S_X = most_P_S_X - exact_P_S_X
    problems, count = correct_P_S.shape
    rows = max(1, MEMORY // (count * max(sizes) * (v + 1)))
    wins = [
        _wins(exact_P_S_X[p : p + rows], fewer_P_S_X[p : p + rows], most_P_S_X[p : p + rows], sizes)
        for p in range(0, problems, rows)
    ]
    right_P_K: Floats = np.einsum("ps,psk->pk", correct_P_S.astype(np.float64), np.concatenate(wins))
    return np.clip(right_P_K, 0.0, 1.0)


def _wins(exact_P_S_X: Floats, fewer_P_S_X: Floats, most_P_S_X: Floats, sizes: Sequence[int]) -> Floats:
    """P x S x sizes: chance that a random subset holds a solution and that it wins there."""
    problems, count, counts = exact_P_S_X.shape
    degree = max(sizes) - 1
    after = [np.zeros((degree + 1, problems, counts))]
    after[0][0] = 1.0
    for i in range(count - 1, 0, -1):  # after[k]: the last k solutions
        after.append(_joined(after[-1], len(after), most_P_S_X[:, i]))
    before = after[0]
    wins_P_S_K = np.empty((problems, count, len(sizes)))
    for i in range(count):
        for at, size in enumerate(sizes):
            # Of the size - 1 others, a stand before i with hypergeometric chance.
            some = range(max(0, size - count + i), min(i, size - 1) + 1)
            share = [comb(i, a) * comb(count - 1 - i, size - 1 - a) / comb(count - 1, size - 1) for a in some]
            mean_P_X = sum(w * before[a] * after[count - 1 - i][size - 1 - a] for w, a in zip(share, some, strict=True))
            wins_P_S_K[:, i, at] = (exact_P_S_X[:, i] * mean_P_X).sum(axis=1) * size / count
        before = _joined(before, i + 1, fewer_P_S_X[:, i])
    return wins_P_S_K


def _joined(means_M_P_X: Floats, j: int, value_P_X: Floats) -> Floats:
    """Means over all size-m subsets of j values of the product, from those of j - 1 and the j-th; each stays in [0, 1]."""
    m = np.arange(1, len(means_M_P_X)).reshape(-1, 1, 1)
    joined = means_M_P_X.copy()  # a subset of m of them leaves the j-th out with chance (j - m) / j
    joined[1:] = np.maximum(j - m, 0) / j * means_M_P_X[1:] + np.minimum(m, j) / j * value_P_X * means_M_P_X[:-1]
    return joined
