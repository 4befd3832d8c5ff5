"""Which strategy for which questions, under a budget: pure choice from tables of what every candidate would have done.

Snell et al. 2024 (arXiv:2408.03314, section 3, eq. 1) take, for each difficulty and budget N, the strategy of the highest accuracy. Here the
bins of difficulty are leaves of a tree over what a pilot shows, grown for what the choice gains by each split, and N may bound the mean over
all questions instead of each bin: then tokens go where they buy most, by one price for all bins. What a pilot costs is in every table.

Everything is chosen on some problems and judged on others: two folds that hold as many hard problems as each other, and two more inside each
of them for the settings (how large a pilot, how many bins), so that the accuracy that is promised was not looked at by any choice.

Axes: P problems, R rows (a problem, a seed and an order of its pool; each problem has as many), C candidates, B bins, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ponder.errors import UsageError
from ponder.scaling.bootstrap import mean_intervals
from ponder.scaling.card import Choice, Expected, Split, Triple
from ponder.scaling.orders import Played, Pools

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Spread: TypeAlias = Literal["mean", "each"]
"""What a budget bounds: the mean over all questions, or the mean of each bin."""

CUTS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9)  # quantiles of a feature at which a bin may be split, besides its widest gap
LEAST = 0.5  # of the price of a token, that what is left of a budget must bring: more tokens for next to nothing are luck
FREE = 1e-8  # accuracy that a token must be worth even where the budget does not bind: of equals, the cheaper
PRIOR = 8.0  # a bin's means count as many problems of the mean over all bins; a choice must be better by more than chance


@dataclass(frozen=True)
class Candidate:
    """A strategy on every row. tokens: what it costs alone; drawn: how many samples of the pilot's own pool it draws, 0 for another pool."""

    spec: str
    policy: str
    right_R: NDArray[np.float32]
    tokens_R: NDArray[np.float32]
    drawn_R: Ints
    guide: str = ""


@dataclass(frozen=True)
class Setting:
    """How questions are told apart: a pilot of so many samples, scored by a guide or not, and so many bins."""

    pilot: int
    guide: str
    leaves: int


@dataclass(frozen=True)
class Table:
    """Every candidate on every row, with the pilot of one setting paid for, and what that pilot showed."""

    problem_R: Ints
    right_R_C: NDArray[np.float32]
    tokens_R_C: NDArray[np.float32]
    seen: Mapping[str, Floats]

    def rows(self, chosen_R: NDArray[np.bool_]) -> Table:
        """Some of the rows."""
        seen = {name: values[chosen_R] for name, values in self.seen.items()}
        return Table(self.problem_R[chosen_R], self.right_R_C[chosen_R], self.tokens_R_C[chosen_R], seen)

    @property
    def each(self) -> float:
        """Rows of a problem."""
        return len(self.problem_R) / len(np.unique(self.problem_R))


@dataclass(frozen=True)
class Plan:
    """Splits, and for each budget the candidate of each bin. price: accuracy that a token is worth at each budget."""

    splits: tuple[Split, ...]
    chosen: Mapping[int, Ints]
    price: Mapping[int, float]


def whole(pools: Pools, played: Played, policy: str = "", *, shares: bool = True) -> Candidate:
    """A strategy of whole samples as a candidate. shares: its pool is the pilot's own."""
    rows, drawn = np.arange(len(played.drawn_R)), played.drawn_R
    tokens = _cumulated(pools.tokens_R_N)[rows, drawn]
    if played.guide:
        tokens = tokens + _cumulated(pools.guides[played.guide].scored_R_N)[rows, drawn]
    return Candidate(
        played.spec,
        policy,
        played.right_R.astype(np.float32),
        tokens.astype(np.float32),
        drawn if shares else np.zeros_like(drawn),
        played.guide if shares else "",
    )


def table(pools: Pools, candidates: Sequence[Candidate], pilot: int, guide: str) -> Table:
    """What candidates cost after a pilot, of which those on the same pool pay nothing twice. pilot 0: nothing is looked at."""
    rows = np.arange(len(pools.problem_R))
    samples = _cumulated(pools.tokens_R_N)
    scores = _cumulated(pools.guides[guide].scored_R_N) if guide and pilot else np.zeros_like(samples)
    columns = []
    for one in candidates:
        more_R = samples[rows, np.maximum(pilot, one.drawn_R)] - samples[rows, one.drawn_R]
        twice_R = scores[rows, np.minimum(pilot, one.drawn_R)] if guide and one.guide == guide else 0.0
        columns.append(one.tokens_R + more_R + scores[:, pilot] - twice_R)
    right_R_C = np.stack([one.right_R for one in candidates], axis=1)
    seen = features(pools, pilot, guide) if pilot else {}
    return Table(pools.problem_R, right_R_C, np.stack(columns, axis=1).astype(np.float32), seen)


def features(pools: Pools, pilot: int, guide: str) -> dict[str, Floats]:
    """`card.features` of the first samples of every row."""
    answers, places = pools.answers_R_N[:, :pilot], pools.places_R_N[:, :pilot]
    votes = (places[:, :, None] == np.arange(pilot)).sum(axis=1)
    seen = {
        "agreement": votes.max(axis=1) / pilot,
        "answered": (answers >= 0).mean(axis=1),
        "tokens": pools.tokens_R_N[:, :pilot].mean(axis=1),
    }
    if guide:
        scores = pools.scores(guide)[:, :pilot]
        known = np.isfinite(scores)
        total = np.where(known, scores, 0.0).sum(axis=1)
        seen["mean"] = total / np.maximum(known.sum(axis=1), 1)
        seen["best"] = np.where(known.any(axis=1), np.where(known, scores, 0.0).max(axis=1), 0.0)
    return seen


def binned(splits: Sequence[Split], seen: Mapping[str, Floats], rows: int) -> Ints:
    """The bin of every row, as `Card.bin` tells it."""
    bins = np.zeros(rows, np.int64)
    for split in splits:
        bins[(bins == split.bin) & (seen[split.feature] > split.above)] = split.becomes
    return bins


def allocate(right_B_C: Floats, tokens_B_C: Floats, share_B: Floats, budget: float, spread: Spread) -> tuple[Ints, float]:
    """The candidate of each bin, and what a token is worth at this budget.

    mean: maximises accuracy minus price times tokens in every bin, at the least price whose mean cost is within the budget, then spends
    what is left where it fits and brings half of that price or more; exact on the concave hull, a lower bound between its corners. each: the most accurate within the
    budget, bin by bin. Raises `UsageError` where even the cheapest candidates cost more.
    """
    every_B = np.arange(len(share_B))

    def best(price: float) -> Ints:
        found: Ints = np.argmax(right_B_C - price * tokens_B_C, axis=1)
        return found

    def cost(chosen_B: Ints) -> float:
        return float(share_B @ tokens_B_C[every_B, chosen_B])

    low, high = np.log(FREE), np.log(1.0)
    least = float((share_B @ tokens_B_C.min(axis=1)) if spread == "mean" else tokens_B_C.min(axis=1).max())
    if least > budget:
        raise UsageError(f"a budget of {budget:g} tokens is below the cheapest candidate, which costs {least:.0f} with its pilot")
    if cost(best(FREE)) > budget:
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(best(float(np.exp(middle)))) > budget else (low, middle)
        price = float(np.exp(high))
    else:
        price = FREE
    if spread == "each":
        worth = np.where(tokens_B_C <= budget, right_B_C - FREE * tokens_B_C, -np.inf)
        return np.argmax(worth, axis=1), price
    chosen_B = best(price)
    if cost(chosen_B) > budget:  # the price of one token for one answer is not enough
        chosen_B = tokens_B_C.argmin(axis=1)
    while True:  # the largest step up that still fits
        more_B_C = share_B[:, None] * (tokens_B_C - tokens_B_C[every_B, chosen_B][:, None])
        gain_B_C = share_B[:, None] * (right_B_C - right_B_C[every_B, chosen_B][:, None])
        fits = (more_B_C <= budget - cost(chosen_B)) & (gain_B_C >= LEAST * price * more_B_C)
        gain_B_C = np.where(fits, gain_B_C - FREE * np.maximum(more_B_C, 0.0), -np.inf)
        bin_, column = np.unravel_index(int(gain_B_C.argmax()), gain_B_C.shape)
        if gain_B_C[bin_, column] <= 1e-9:
            return chosen_B, price
        chosen_B[bin_] = column


def fitted(given: Table, splits: tuple[Split, ...], budgets: Sequence[int], spread: Spread) -> Plan:
    """The choices of each bin. Raises as `allocate`."""
    right, tokens, share = _means(given, binned(splits, given.seen, len(given.problem_R)), len(splits) + 1)
    found = {budget: allocate(right, tokens, share, budget, spread) for budget in budgets}
    return Plan(splits, {b: chosen for b, (chosen, _) in found.items()}, {b: price for b, (_, price) in found.items()})


def grown(given: Table, leaves: int, budgets: Sequence[int], spread: Spread, *, least: float = 8.0) -> tuple[Split, ...]:
    """Splits, the one that gains most first, each leaving at least so many problems on both sides; fewer where none gains.

    A split into a bin that no candidate is cheap enough for, where each bin has to keep to a budget, is not made. Raises as `allocate` where that
    is so without any split.
    """
    splits: list[Split] = []
    bins = np.zeros(len(given.problem_R), np.int64)
    known: dict[int, tuple[float, Split] | None] = {}
    prices: list[float] = []
    now = _prices(given, bins, 1, budgets, spread)
    while len(splits) < leaves - 1:
        if now != prices:
            known, prices = {}, now
        for bin_ in range(len(splits) + 1):
            if bin_ not in known:
                known[bin_] = _split(given, bins == bin_, bin_, prices, least)
        found = max((one for one in known.values() if one is not None), key=lambda one: one[0], default=None)
        if found is None:
            break
        split = replace(found[1], becomes=len(splits) + 1)
        told = binned([*splits, split], given.seen, len(bins))
        try:
            now = _prices(given, told, len(splits) + 2, budgets, spread)
        except UsageError:
            known[split.bin] = None  # this bin stays whole
            continue
        splits.append(split)
        bins = told
        known.pop(split.bin)
    return tuple(splits)


def _prices(given: Table, bins: Ints, count: int, budgets: Sequence[int], spread: Spread) -> list[float]:
    """What a token is worth at each budget. Raises as `allocate`."""
    right, tokens, share = _means(given, bins, count)
    return [allocate(right, tokens, share, budget, spread)[1] for budget in budgets]


def _split(
    given: Table, inside_R: NDArray[np.bool_], bin_: int, prices: Sequence[float], least: float
) -> tuple[float, Split] | None:
    """The split of one bin that gains most, over all budgets; None where none gains."""
    every = len(inside_R)
    right, tokens = given.right_R_C[inside_R], given.tokens_R_C[inside_R]
    prior = PRIOR * given.each
    mean_right, mean_tokens = given.right_R_C.mean(axis=0), given.tokens_R_C.mean(axis=0)
    places = [
        (name, float(cut), above_R)
        for name, values in given.seen.items()
        for cut in _cuts(values[inside_R])
        if min((above_R := values[inside_R] > cut).sum(), (~above_R).sum()) >= least * given.each
    ]
    if not places:
        return None
    above_S_R = np.stack([above_R for _, _, above_R in places]).astype(np.float32)
    size_S = above_S_R.sum(axis=1, keepdims=True)
    total_right, total_tokens = right.sum(axis=0), tokens.sum(axis=0)
    high_right, high_tokens = above_S_R @ right, above_S_R @ tokens
    gain_S = np.zeros(len(places))
    for price in prices:
        worth_1 = (mean_right - price * mean_tokens) * prior
        worth_all, worth_high = total_right - price * total_tokens, high_right - price * high_tokens
        high_S = size_S[:, 0] * ((worth_high + worth_1) / (size_S + prior)).max(axis=1)
        rest_S = len(right) - size_S
        low_S = rest_S[:, 0] * ((worth_all - worth_high + worth_1) / (rest_S + prior)).max(axis=1)
        gain_S += (high_S + low_S - len(right) * ((worth_all + worth_1) / (len(right) + prior)).max()) / every
    at = int(gain_S.argmax())
    return (float(gain_S[at]), Split(bin_, places[at][0], places[at][1], -1)) if gain_S[at] > 1e-6 else None


def _cuts(values: Floats) -> Floats:
    """Where a feature may be cut: some quantiles, and the middle of its widest gap."""
    ordered = np.sort(values)
    gap = int(np.diff(ordered).argmax())
    return np.unique(np.append(np.quantile(ordered, CUTS), (ordered[gap] + ordered[gap + 1]) / 2))


def _means(given: Table, bins: Ints, count: int) -> tuple[Floats, Floats, Floats]:
    """Accuracy and tokens of every candidate in every bin, drawn towards the means of all rows, and the bins' shares."""
    member_B_R = (bins == np.arange(count)[:, None]).astype(np.float32)
    size_B = member_B_R.sum(axis=1, keepdims=True)
    prior = PRIOR * given.each if count > 1 else 0.0
    right = (member_B_R @ given.right_R_C + prior * given.right_R_C.mean(axis=0)) / (size_B + prior)
    tokens = member_B_R @ given.tokens_R_C / np.maximum(size_B, 1.0)
    return right.astype(np.float64), tokens.astype(np.float64), (size_B[:, 0] / size_B.sum()).astype(np.float64)


def applied(plan: Plan, given: Table, budget: int) -> tuple[Floats, Floats]:
    """Right answers and tokens of every row under a plan."""
    rows = np.arange(len(given.problem_R))
    column_R = plan.chosen[budget][binned(plan.splits, given.seen, len(rows))]
    return given.right_R_C[rows, column_R].astype(np.float64), given.tokens_R_C[rows, column_R].astype(np.float64)


def halves(problem_R: Ints, rate_R: Floats, chosen_R: NDArray[np.bool_] | None = None) -> list[NDArray[np.bool_]]:
    """Two folds of the problems (of those rows, if given), of equal hardness: sorted by pass rate, dealt in turn there and back."""
    inside_R = np.ones(len(problem_R), bool) if chosen_R is None else chosen_R
    names = np.unique(problem_R[inside_R])
    rate = np.array([rate_R[problem_R == name].mean() for name in names])
    order = names[np.argsort(rate, kind="stable")]
    first = order[[at for at in range(len(order)) if at % 4 in (0, 3)]]
    fold_R = np.isin(problem_R, first)
    return [fold_R & inside_R, ~fold_R & inside_R]


def chosen_setting(
    tables: Mapping[tuple[int, str], Table],
    leaves: Sequence[int],
    inside_R: NDArray[np.bool_],
    rate_R: Floats,
    budgets: Sequence[int],
    spread: Spread,
) -> Setting:
    """The setting that does best on problems it was not fitted on, two folds of these rows: accuracy, with tokens over or under the budget at its price."""
    values: dict[Setting, float] = {}
    for (pilot, guide), given in tables.items():
        folds = halves(given.problem_R, rate_R, inside_R)
        sums = dict.fromkeys(leaves, 0.0)
        try:
            for fit_R, judge_R in (folds, folds[::-1]):
                fit, judge = given.rows(fit_R), given.rows(judge_R)
                splits = grown(fit, max(leaves), budgets, spread)
                for count in leaves:
                    plan = fitted(fit, splits[: count - 1], budgets, spread)
                    sums[count] += sum(_value(plan, judge, budget) for budget in budgets)
        except UsageError:  # the pilot alone is too dear for the least of the budgets
            continue
        values |= {Setting(pilot, guide, count): total for count, total in sums.items()}
    if not values:
        raise UsageError(f"a budget of {min(budgets)} tokens is below every candidate with its pilot; give a larger one")
    return max(values, key=lambda setting: (round(values[setting], 9), -setting.leaves, -setting.pilot))


def _value(plan: Plan, judge: Table, budget: int) -> float:
    right_R, tokens_R = applied(plan, judge, budget)
    return float(right_R.mean() - plan.price[budget] * (tokens_R.mean() - budget))


def fixed(alone: Table, budget: float) -> int:
    """The candidate of the highest accuracy whose mean cost is within the budget, of equals the cheaper. Raises `UsageError` where none is."""
    right, tokens = (matrix.mean(axis=0, dtype=np.float64) for matrix in (alone.right_R_C, alone.tokens_R_C))
    if tokens.min() > budget:
        raise UsageError(f"a budget of {budget:g} tokens is below the cheapest candidate, which costs {tokens.min():.0f}")
    return int(np.where(tokens <= budget, right - FREE * tokens, -np.inf).argmax())


def expected(
    tables: Mapping[tuple[int, str], Table],
    alone: Table,
    specs: Sequence[str],
    leaves: Sequence[int],
    rate_R: Floats,
    budgets: Sequence[int],
    spread: Spread,
    *,
    raced_C: NDArray[np.bool_] | None = None,
    looked_R: NDArray[np.bool_] | None = None,
) -> list[Expected]:
    """What the whole procedure, settings included, reaches on problems it has not seen; and the best single candidate, chosen alike.

    raced_C: candidates that are here because they did better than others on the rows `looked_R`; where one of them is chosen at a budget, these rows
    are not judged, for they have made the choice.
    """
    rows = len(alone.problem_R)
    raced_C = np.zeros(len(specs), bool) if raced_C is None else raced_C
    looked_R = np.zeros(rows, bool) if looked_R is None else looked_R
    unseen = {b: np.ones(rows, bool) for b in budgets}
    right, tokens = {b: np.zeros(rows) for b in budgets}, {b: np.zeros(rows) for b in budgets}
    fixed_right, fixed_tokens = {b: np.zeros(rows) for b in budgets}, {b: np.zeros(rows) for b in budgets}
    folds = halves(alone.problem_R, rate_R)
    for fit_R, judge_R in (folds, folds[::-1]):
        setting = chosen_setting(tables, leaves, fit_R, rate_R, budgets, spread)
        given = tables[setting.pilot, setting.guide]
        fit = given.rows(fit_R)
        plan = fitted(fit, grown(fit, setting.leaves, budgets, spread), budgets, spread)
        for budget in budgets:
            right[budget][judge_R], tokens[budget][judge_R] = applied(plan, given.rows(judge_R), budget)
            column = fixed(alone.rows(fit_R), budget)
            fixed_right[budget][judge_R] = alone.right_R_C[judge_R, column]
            fixed_tokens[budget][judge_R] = alone.tokens_R_C[judge_R, column]
            if raced_C[[column, *plan.chosen[budget]]].any():
                unseen[budget] = ~looked_R
    found = []
    for b in budgets:
        columns = (right[b], tokens[b], fixed_right[b], fixed_tokens[b])
        judged_R = unseen[b]
        accuracy, cost, other, others_cost = (triple(alone.problem_R[judged_R], column[judged_R]) for column in columns)
        found.append(Expected(b, accuracy, cost, specs[fixed(alone, b)], other, others_cost))
    return found


def choices(given: Table, plan: Plan, candidates: Sequence[Candidate]) -> list[Choice]:
    """The lines of a card: every bin's candidate at every budget, with what it did on the bin's own rows."""
    bins = binned(plan.splits, given.seen, len(given.problem_R))
    found = []
    for budget, chosen_B in plan.chosen.items():
        for bin_, column in enumerate(chosen_B.tolist()):
            mine = bins == bin_
            accuracy = triple(given.problem_R[mine], given.right_R_C[mine, column].astype(np.float64))
            tokens = triple(given.problem_R[mine], given.tokens_R_C[mine, column].astype(np.float64))
            one = candidates[column]
            found.append(Choice(bin_, budget, one.spec, one.policy, accuracy, tokens, round(float(mine.sum() / given.each), 2)))
    return found


def triple(problem_R: Ints, values_R: Floats) -> Triple:
    """The mean over problems of the means of their rows, with its 95% bootstrap interval."""
    names, place_R = np.unique(problem_R, return_inverse=True)
    by_problem = np.bincount(place_R, values_R, minlength=len(names)) / np.bincount(place_R, minlength=len(names))
    [one] = mean_intervals(by_problem[:, None], seed=0)
    return Triple(*(float(f"{number:.6g}") for number in (one.value, one.low, one.high)))


def _cumulated(table_R_N: Floats) -> Floats:
    """R x (N + 1): what the first 0, 1 .. N samples come to."""
    return np.concatenate([np.zeros((len(table_R_N), 1)), np.cumsum(table_R_N, axis=1)], axis=1)
