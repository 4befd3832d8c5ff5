"""What a pool of N samples says about strategies that would draw k of them: pass@k, bon@k, maj@k, weighted@k.

Every estimator averages over the size-k subsets of one pool, per problem; the mean over problems and its interval are
`ponder.scaling.bootstrap`'s business. Inputs are rectangular: the same N samples for every problem, declared before
sampling. A pool that stopped on success is biased (a true .10 reads .26) and must be refused before it gets here; these
functions see only arrays and cannot know.

A subset keeps the order of its pool, so "seen first" means the lowest index. Axes: P problems, N samples in a pool,
K subset sizes, J subsets, A distinct answers of a problem.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T", bound=np.generic)
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NO_VOTE = -1  # the answer id of a sample that was truncated, failed or has no answer
LARGEST_WEIGHT = 1e300  # fixed point multiplies by 10**6 and must not overflow


def pass_at_k(correct_P_N: ArrayLike, k_K: Sequence[int]) -> Floats:
    """Probability that a random size-k subset holds a right sample: 1 - C(n-c, k) / C(n, k).

    Chen et al. 2021 (arXiv:2107.03374), section 2.1, equation 1, as a product of ratios below 1, so that nothing
    overflows (relative error about n times the machine's, n = 10^4 included).

    Args:
        correct_P_N: bool, True where the grader accepts.
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats in [0, 1].

    Raises:
        ValueError: an array that is not P x N, or a k outside 1..N.
    """
    correct = _table("correct", correct_P_N, np.bool_)
    n = correct.shape[1]
    c_P = correct.sum(axis=1)
    columns = []
    for k in _sizes(k_K, n):
        # miss[c+1] / miss[c] = (n-c-k) / (n-c); it reaches 0 exactly at c = n-k+1 and stays there.
        ratio = (n - np.arange(n) - k) / (n - np.arange(n))
        miss = np.concatenate([[1.0], np.cumprod(ratio)])
        columns.append(1.0 - miss[c_P])
    return np.stack(columns, axis=1)


def best_of_n_at_k(correct_P_N: ArrayLike, scores_P_N: ArrayLike, k_K: Sequence[int]) -> Floats:
    """Probability that the best-scored sample of a random size-k subset is right. Exact, from ranks.

    The sample of rank r (1 = best) tops C(n-r, k-1) of the C(n, k) subsets. Equal scores rank in pool order: the tie
    goes to the sample seen first. A sample without a score (nan) occupies a place in the subset and is never chosen; a
    subset of nothing else has no answer and counts as wrong.

    Args:
        correct_P_N: bool, True where the grader accepts.
        scores_P_N: float, larger is better, infinities allowed, nan = not scored or may not be chosen.
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats in [0, 1].

    Raises:
        ValueError: arrays of different shapes, or a k outside 1..N.
    """
    correct = _table("correct", correct_P_N, np.bool_)
    scores = _table("scores", scores_P_N, np.float64, like=correct)
    chance_P_K: Floats = np.minimum(value_of_best_at_k(correct, scores, k_K), 1.0)
    return chance_P_K


def value_of_best_at_k(values_P_N: ArrayLike, scores_P_N: ArrayLike, k_K: Sequence[int]) -> Floats:
    """Expected value of the best-scored sample of a random size-k subset: of its own score, of its tokens, of any number a sample has.

    As `best_of_n_at_k`, of which it is the general form; with the scores for values it is the proxy score that choosing harder by them
    reaches (Gao et al. 2022, arXiv:2210.10760). A subset without a score has the value 0.

    Args:
        values_P_N: finite numbers; that of a sample without a score is never read.
        scores_P_N: float, larger is better, nan = never chosen.
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats, in the unit of the values.

    Raises:
        ValueError: arrays of different shapes, a value that is not finite, or a k outside 1..N.
    """
    values = _table("values", values_P_N, np.float64)
    scores = _table("scores", scores_P_N, np.float64)
    if scores.shape != values.shape:
        raise ValueError(f"scores has shape {scores.shape} but values has {values.shape}; both are problems x samples")
    chosen = np.where(np.isnan(scores), 0.0, values)
    if not np.isfinite(chosen).all():
        raise ValueError("values holds nan or infinity where there is a score; every sample that may be chosen has a number")
    n = values.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")  # NumPy sorts nan last
    wins_P_N = np.take_along_axis(chosen, order, axis=1)
    left_N = n - 1 - np.arange(n)  # how many samples rank below this one
    columns = []
    for k in _sizes(k_K, n):
        # chance[r+1] / chance[r] = (n-r-k+1) / (n-r), from k/n on; again 0 once reached stays.
        ratio = (left_N[:-1] - (k - 1)) / left_N[:-1]
        columns.append(wins_P_N @ (k / n * np.concatenate([[1.0], np.cumprod(ratio)])))
    return np.stack(columns, axis=1)


def maj_at_k(correct_P_N: ArrayLike, answers_P_N: ArrayLike, k_K: Sequence[int], *, subsets: int = 100, seed: int = 0) -> Floats:
    """Probability that the most frequent answer of a random size-k subset is right (self-consistency).

    Wang et al. 2022 (arXiv:2203.11171), section 2, with every vote worth one; see `weighted_at_k` for ties, failures,
    exactness and the meaning of `subsets` and `seed`.

    Args:
        correct_P_N: bool, True where the grader accepts.
        answers_P_N: int, canonical answer ids (equal = the same answer); `NO_VOTE` (-1) never votes.
        k_K: subset sizes, each in 1..N.
        subsets: random subsets per problem and size, >= 1.
        seed: of the random subsets, >= 0.

    Returns:
        P_K floats in [0, 1].

    Raises:
        ValueError: arrays of different shapes, or a number outside its range.
    """
    correct = _table("correct", correct_P_N, np.bool_)
    return weighted_at_k(correct, answers_P_N, np.ones(correct.shape), k_K, subsets=subsets, seed=seed)


def weighted_at_k(
    correct_P_N: ArrayLike,
    answers_P_N: ArrayLike,
    weights_P_N: ArrayLike,
    k_K: Sequence[int],
    *,
    subsets: int = 100,
    seed: int = 0,
) -> Floats:
    """Probability that the answer of the largest summed weight in a random size-k subset is right.

    A tie goes to the answer seen first in the subset, and the answer is as right as the sample that was seen first with
    it. Answer -1 or weight nan: the sample occupies a place and never votes; a subset without votes has no answer and
    counts as wrong. Weight 0 votes, with nothing to add.

    Exact where k is 1 or C(n, k) <= `subsets` (every subset counted once), so at k = n too. Otherwise the mean over `subsets`
    random ones: prefixes of random permutations, so those of one size lie inside those of the next. Each is uniform
    among its size; sizes are correlated, which makes a curve smoother, not truer. Problems share the permutations'
    pattern after a shuffle of their own, hence errors of different problems are uncorrelated.

    Sums do not depend on the order of the votes: weights become 63-bit fixed point, exact for weights of up to six
    decimals or some twenty binary places (fewer for pools of thousands). Closer totals than that are ties.

    Args:
        correct_P_N: bool, True where the grader accepts.
        answers_P_N: int, canonical answer ids (equal = the same answer); `NO_VOTE` (-1) never votes.
        weights_P_N: float in 0..1e300, or nan; map raw rewards into [0, 1] first.
        k_K: subset sizes, each in 1..N.
        subsets: random subsets per problem and size, >= 1.
        seed: of the random subsets, >= 0.

    Returns:
        P_K floats in [0, 1]; the same for the same arguments, and for a problem whatever problems follow it.

    Raises:
        ValueError: arrays of different shapes, a number outside its range, a weight below 0 or infinite.
    """
    correct = _table("correct", correct_P_N, np.bool_)
    answers = _table("answers", answers_P_N, np.int64, like=correct)
    weights = _table("weights", weights_P_N, np.float64, like=correct)
    n = correct.shape[1]
    sizes = _sizes(k_K, n)
    if subsets < 1 or seed < 0:
        raise ValueError(f"subsets is {subsets} and seed {seed}; they must be at least 1 and 0")
    if np.any(answers < NO_VOTE):
        raise ValueError(f"answers holds {answers.min()}; an answer id is >= 0, and {NO_VOTE} where there is no vote")
    if np.any((weights < 0) | (weights > LARGEST_WEIGHT)):
        raise ValueError(
            f"weights reach from {np.nanmin(weights)} to {np.nanmax(weights)}; a vote weighs 0 to {LARGEST_WEIGHT}: "
            "map raw rewards into [0, 1] first"
        )
    votes_P_N = (answers != NO_VOTE) & ~np.isnan(weights)
    ballots = _Ballots(correct, answers, weights, votes_P_N)
    by_size: dict[int, Floats] = {1: (correct & votes_P_N).mean(axis=1)}
    for k in set(sizes) - {1}:
        if comb(n, k) <= subsets:
            every_J_T = np.array(list(combinations(range(n), k)))
            by_size[k] = ballots.right_share(every_J_T, [k], np.broadcast_to(np.arange(n), correct.shape))[:, 0]
    sampled = sorted(set(sizes) - set(by_size))
    if sampled:
        pattern_rng, shuffle_rng = (np.random.default_rng([seed, part]) for part in range(2))
        pattern_J_T = np.argsort(pattern_rng.random((subsets, n)), axis=1)[:, : sampled[-1]]
        shuffle_P_N = np.argsort(shuffle_rng.random(correct.shape), axis=1)  # row by row: later problems change nothing
        by_size |= zip(sampled, ballots.right_share(pattern_J_T, sampled, shuffle_P_N).T, strict=True)
    return np.stack([by_size[k] for k in sizes], axis=1)


def expected_tokens(tokens_P_N: ArrayLike, k_K: Sequence[int]) -> Floats:
    """Expected tokens of a size-k subset: k times the mean of the pool. Failed samples cost what they cost.

    Args:
        tokens_P_N: tokens of each sample, >= 0 (completion plus scored positions, as a budget counts them).
        k_K: subset sizes, each in 1..N.

    Returns:
        P_K floats, in tokens per problem.

    Raises:
        ValueError: a negative or missing count, or a k outside 1..N.
    """
    tokens = _table("tokens", tokens_P_N, np.float64)
    if not np.all(tokens >= 0):
        raise ValueError("tokens holds a negative number or nan; every sample has a count, failed ones included")
    return np.outer(tokens.mean(axis=1), _sizes(k_K, tokens.shape[1]))


class _Ballots:
    """Votes of P pools, counted for many subsets at once.

    One 64-bit key per (subset, problem, answer): the summed weight in the high bits, N minus the index of the sample
    seen first in the low ones. Adding votes one at a time only ever raises keys, so the largest key met so far is that
    of the leader, tie rule included, and no argmax over the answers is needed.
    """

    def __init__(self, correct_P_N: Bools, answers_P_N: Ints, weights_P_N: Floats, votes_P_N: Bools) -> None:
        n = correct_P_N.shape[1]
        self._bits = n.bit_length()
        self._first_P_N = np.where(votes_P_N, n - np.arange(n), 0)
        self._added_P_N = _fixed_point(np.where(votes_P_N, weights_P_N, 0.0), 62 - self._bits) << self._bits
        self._slot_P_N, self._slots = _dense(np.where(votes_P_N, answers_P_N, NO_VOTE))
        # Right or wrong by the low bits of the winning key; 0 = nobody voted = wrong.
        self._right_P_F = np.concatenate([np.zeros((len(correct_P_N), 1), np.bool_), correct_P_N[:, ::-1]], axis=1)

    def right_share(self, members_J_T: Ints, checkpoints: Sequence[int], order_P_N: Ints) -> Floats:
        """Share of the J subsets whose leader is right after each number of votes (ascending); order moves samples."""
        subsets = len(members_J_T)
        low_bits = (1 << self._bits) - 1
        column = {k: number for number, k in enumerate(checkpoints)}
        share_P_K = np.empty((len(order_P_N), len(checkpoints)))
        for rows in self._chunks(subsets, len(order_P_N)):
            first_N_P, added_N_P, slot_N_P = (
                np.ascontiguousarray(np.take_along_axis(array[rows], order_P_N[rows], axis=1).T)
                for array in (self._first_P_N, self._added_P_N, self._slot_P_N)
            )
            here = first_N_P.shape[1]
            base_J_P = np.arange(subsets * here).reshape(subsets, here) * self._slots
            keys = np.zeros(subsets * here * self._slots, np.int64)
            best_J_P = np.zeros((subsets, here), np.int64)
            for step in range(checkpoints[-1]):
                sample_J = members_J_T[:, step]
                at_J_P = base_J_P + slot_N_P[sample_J]
                key_J_P = keys[at_J_P]
                earlier_J_P = first_N_P[sample_J] - (key_J_P & low_bits)
                key_J_P += np.maximum(earlier_J_P, 0, out=earlier_J_P)
                key_J_P += added_N_P[sample_J]
                keys[at_J_P] = key_J_P
                np.maximum(best_J_P, key_J_P, out=best_J_P)
                if step + 1 in column:
                    right_P_J = np.take_along_axis(self._right_P_F[rows], (best_J_P & low_bits).T, axis=1)
                    share_P_K[rows, column[step + 1]] = right_P_J.mean(axis=1)
        return share_P_K

    def _chunks(self, subsets: int, problems: int) -> Iterator[slice]:
        """Slices of problems whose keys fit in about 16 MB."""
        size = max(1, (1 << 21) // (subsets * self._slots))
        return (slice(start, start + size) for start in range(0, problems, size))


def _fixed_point(weights_P_N: Floats, bits: int) -> Ints:
    """Integers proportional to the weights, per problem, whose sum stays under 2**bits.

    The scale is 10**6 times a power of two, so that short decimals and short binary fractions are both exact.
    """
    scaled = weights_P_N * 1e6
    room = bits - 1 - weights_P_N.shape[1].bit_length()
    exponent_P_1 = np.frexp(scaled.max(axis=1, keepdims=True))[1]  # largest < 2**exponent
    fixed: Ints = np.rint(np.ldexp(scaled, room - exponent_P_1)).astype(np.int64)
    return fixed


def _dense(ids_P_N: Ints) -> tuple[Ints, int]:
    """Ids renamed 0, 1, 2 ... within each row, and how many names the richest row has."""
    order = np.argsort(ids_P_N, axis=1, kind="stable")
    sorted_P_N = np.take_along_axis(ids_P_N, order, axis=1)
    names = np.zeros_like(ids_P_N)
    np.cumsum(sorted_P_N[:, 1:] != sorted_P_N[:, :-1], axis=1, out=names[:, 1:])
    dense = np.empty_like(ids_P_N)
    np.put_along_axis(dense, order, names, axis=1)
    return dense, int(names.max()) + 1


def _table(name: str, values: ArrayLike, dtype: type[T], like: Bools | None = None) -> NDArray[T]:
    """The argument as a P x N array of the wanted type; nothing is converted that could change its meaning."""
    raw = np.asarray(values)
    kinds = {np.bool_: "b", np.int64: "iu"}.get(dtype, "fiub")
    if raw.ndim != 2 or raw.size == 0 or raw.dtype.kind not in kinds:
        raise ValueError(
            f"{name} has shape {raw.shape} and type {raw.dtype}; it must be a problems x samples table, not empty, "
            f"that holds {dtype.__name__}"
        )
    if like is not None and raw.shape != like.shape:
        raise ValueError(f"{name} has shape {raw.shape} but correct has {like.shape}; both are problems x samples")
    return raw.astype(dtype)


def _sizes(k_K: Sequence[int], n: int) -> list[int]:
    """The subset sizes as Python integers, each checked against the pool."""
    sizes = [int(k) for k in k_K]
    for k in sizes:
        if not 1 <= k <= n:
            raise ValueError(f"k is {k} but each problem has {n} samples; choose k in 1..{n} or sample more")
    if not sizes:
        raise ValueError("no subset sizes were given; choose at least one k")
    return sizes
