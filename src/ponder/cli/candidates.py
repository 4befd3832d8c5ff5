"""What studies offer to choose from: their pools in several orders, strategies of whole samples played through on them, searches tried in rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from ponder.cli.ledger import OverSpent, Purse
from ponder.cli.pools import Shop, guides_of
from ponder.cli.space import Space
from ponder.core import Policy, Verifier, parts
from ponder.errors import StudyError
from ponder.scaling import allocate
from ponder.scaling.allocate import Candidate
from ponder.scaling.orders import Guide, Pools

ORDERS = 6  # in which every pool is taken
ROUNDS = ((0.06, 3), (0.2, 1), (1.0, 1))  # of the problems, and how many searches go on from there


@dataclass
class Gathered:
    """What all studies together offer: pools in order, candidates, how many there were, and the rows' pass rates.

    raced: candidates, the last ones, that are there because they did better than other searches on the questions `looked`.
    """

    pools: Pools
    candidates: list[Candidate]
    explored: int
    rate_R: np.ndarray
    policies: list[str]
    fingerprints: list[str]
    verifiers: list[str]
    raced: int
    looked: set[int]


async def gather(shops: Sequence[Shop], space: Space, purse: Purse) -> Gathered:
    """Pools and candidates of all studies, rows in the same order everywhere."""
    policies = list(shops[0].study.policies)
    try:
        pools = [
            joined([await shop.slices(at, guides_of(shop, len(space.guides))) for shop in shops]) for at in range(len(policies))
        ]
    except OverSpent as error:
        raise StudyError(
            f"tune: not all samples of the slices and scores of the guides are banked ({error}); finish the study with `ponder run`, or allow "
            "more with --spend tokens=N"
        ) from None
    rate_R = np.repeat(pools[0].correct_R_N.mean(axis=1), ORDERS)
    pools = [one.shuffled(ORDERS, seed=space.seed) for one in pools]
    candidates = []
    for at, one in enumerate(pools):
        name = policies[at] if at else ""
        candidates += [allocate.whole(one, played, name, shares=not at) for played in space.whole(one)]
    tried, explored, looked = await raced(shops, len(space.guides), candidates, purse)
    runner = shops[0].runner
    infos = [policy.info for policy in runner.policies]
    inside = [part for strategy in runner.strategies for part in parts(strategy)]
    infos += [cast("Policy", part).info for part in inside if hasattr(part, "sample")]
    names, prints = list(dict.fromkeys(info.name for info in infos)), list(dict.fromkeys(info.fingerprint for info in infos))
    scorers = dict.fromkeys(cast("Verifier", part).fingerprint for part in inside if hasattr(part, "score"))
    every = candidates + tried
    count = len(candidates) + explored
    return Gathered(pools[0], every, count, rate_R, names, prints, list(filter(None, scorers)), len(tried), looked)


def joined(pools: Sequence[Pools]) -> Pools:
    """The rows of several pools, one after the other."""
    guides = {
        name: Guide(
            np.concatenate([one.guides[name].scores_R_N for one in pools]),
            np.concatenate([one.guides[name].scored_R_N for one in pools]),
        )
        for name in pools[0].guides
    }
    problem, correct, answers, tokens = (
        np.concatenate([getattr(one, name) for one in pools])
        for name in ("problem_R", "correct_R_N", "answers_R_N", "tokens_R_N")
    )
    return Pools(problem, correct, answers, tokens, guides)


async def raced(
    shops: Sequence[Shop], guides: int, whole: Sequence[Candidate], purse: Purse
) -> tuple[list[Candidate], int, set[int]]:
    """Searches that were tried on all problems, how many were tried at all, and the problems that told which go on.

    Every policy of the study proposes for each search.

    A round tries those that are left on a share of the problems, the same ones for all, and keeps those that lie highest above what the
    strategies of whole samples reach there at as many tokens. What the purse does not allow is left out: a search with holes goes no further.
    """
    strategies, owners = shops[0].runner.strategies, shops[0].study.policies
    left = [(owner, at) for at in range(guides, len(strategies)) for owner in range(len(owners))]
    places = [[shop.places(owner) for shop in shops] for owner in range(len(owners))]
    numbers = np.array([place.number for line in places[0] for place in line])
    names = np.random.default_rng(0).permutation(np.unique(numbers))
    done: dict[tuple[int, int], list[tuple[bool, int] | None]] = {}
    explored: set[tuple[int, int]] = set()
    looked: set[int] = set()
    for share, keep in ROUNDS if left else ():
        some = set(names[: max(1, round(share * len(names)))].tolist())
        inside = np.isin(numbers, list(some))
        above: dict[tuple[int, int], float] = {}
        for owner, at in left:
            found: list[tuple[bool, int] | None] = []
            for shop, line in zip(shops, places[owner], strict=True):
                found += await shop.tried(shop.runner.strategies[at], [place for place in line if place.number in some])
            if None in found:
                continue
            explored.add((owner, at))
            done[owner, at] = found
            right, tokens = (np.array([one[k] for one in found if one is not None], float) for k in (0, 1))
            above[owner, at] = float(right.mean()) - reached(whole, np.repeat(inside, ORDERS), float(tokens.mean()))
        if share < 1 and len(above) > keep:
            looked |= some
        left = sorted(above, key=lambda pair: -above[pair])[:keep] if share < 1 else list(above)
    made = []
    for owner, at in left:
        found = done[owner, at]
        right, tokens = (np.repeat(np.array([one[k] for one in found if one is not None], np.float32), ORDERS) for k in (0, 1))
        name = owners[owner] if owner else ""
        made.append(Candidate(repr(strategies[at]), name, right, tokens, np.zeros(len(right), np.int64)))
    return made, len(explored), looked


def reached(whole: Sequence[Candidate], rows: np.ndarray, tokens: float) -> float:
    """The accuracy of the best whole-sample strategy within so many tokens, on these rows."""
    within = [one for one in whole if one.tokens_R[rows].mean() <= tokens]
    return max((float(one.right_R[rows].mean()) for one in within), default=0.0)
