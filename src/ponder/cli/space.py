"""What `ponder tune` chooses from, as a TOML file; every key may be left out.

    guides = ["reward_model('lab/prm')", "confidence"]      # verifiers; left out, those of the study's strategies
    sizes = [1, 2, 4, 8, 16, 32, 64]                        # samples of best-of-n and votes
    accept = [0.5, 0.8]                                     # scores at which best-of-n stops; left out, quantiles of each guide's scores
    sure = [0.8, 0.95]                                      # at which an adaptive vote stops
    batches = [1, 4]                                        # samples between looks, of those that stop
    pilots = [1, 2, 4]                                      # samples that are looked at first
    leaves = [1, 2, 4, 8]                                   # bins of difficulty
    draws = 24                                              # searches taken from the families below, by seed
    seed = 0

    [[search]]                                              # a family: every combination of its lists
    spec = "beam(width={width}, branch={branch}, verifier={guide})"
    width = [2, 4, 8]
    branch = [2, 4]

`{guide}` stands for every guide, `{policy}` in a guide or a search for every policy of the study. So which model plays which part is chosen, too:
every policy proposes for every search, and `judge(policy={policy})` lets every policy judge. Families are drawn from in turn, without repetition.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ponder.core import Verifier, parts
from ponder.errors import StudyError
from ponder.scaling import orders
from ponder.scaling.orders import Played, Pools
from ponder.spec import parse, render
from ponder.strategies.auto import AUTO

BRACES = re.compile(r"\{(\w+)\}")
MOST = 10_000  # members of a family: each is parsed before any is tried
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
LEVELS = (0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.92, 0.97, 0.99)  # quantiles of a guide's scores
SEARCHES = (
    {"spec": "beam(width={width}, branch={branch}, verifier={guide})", "width": [2, 4, 8], "branch": [2, 4]},
    {"spec": "dvts(trees={trees}, branch={branch}, verifier={guide})", "trees": [2, 4, 8], "branch": [2, 4]},
    {"spec": "rebase(n={n}, temperature={t}, final='max', verifier={guide})", "n": [8, 24], "t": [0.5, 1.0]},
    {"spec": "particles(n={n}, potential='ratio', anneal={a}, verifier={guide})", "n": [8, 24], "a": [0, 3]},
    {"spec": "best_first(expansions={n}, branch=8, verifier={guide})", "n": [8, 32]},
    {"spec": "mcts(simulations={n}, branch=4, verifier={guide})", "n": [16, 32]},
    {
        "spec": "evolve(population=8, generations={g}, parents=4, mutate='step', accept={a}, verifier={guide})",
        "g": [3, 9],
        "a": [0.6, 0.8],
    },
)


class Space(BaseModel):
    """What the TOML file says, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    guides: tuple[str, ...] = ()
    sizes: tuple[int, ...] = Field(default=SIZES, min_length=1)
    accept: tuple[float, ...] = ()
    sure: tuple[float, ...] = (0.7, 0.8, 0.9, 0.95, 0.99)
    batches: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    pilots: tuple[int, ...] = Field(default=(1, 2, 4), min_length=1)
    leaves: tuple[int, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    draws: int = Field(default=24, ge=0)
    seed: int = 0
    search: tuple[dict[str, Any], ...] = SEARCHES

    def searches(self, policies: Sequence[str] = ()) -> list[str]:
        """The specs of the searches to try: families in turn, each in an order of its own. Raises `StudyError` for one that does not fill.

        policies: what `{policy}` stands for.
        """
        known = {"guide": list(self.guides), "policy": list(policies)}
        lines = [self._family({**known, **family}, Random(f"{self.seed}/{number}")) for number, family in enumerate(self.search)]
        found: list[str] = []
        while len(found) < self.draws and any(lines):
            found += [line.pop() for line in lines if line]
        return list(dict.fromkeys(found))[: self.draws]

    def _family(self, body: dict[str, Any], random: Random) -> list[str]:
        spec = str(body.pop("spec", ""))
        braced = BRACES.findall(spec)
        names = [name for name in body if name in braced]
        if wrong := [name for name in braced if not isinstance(body.get(name), list)]:
            raise StudyError(f"space: {spec!r} cannot be filled: there is no list {wrong[0]!r}; give one for each name in braces")
        if (many := prod(len(body[name]) for name in names)) > MOST:
            raise StudyError(f"space: {spec!r} has {many:,} members, at most {MOST:,} are drawn from; give shorter lists")
        made = []
        for values in product(*(body[name] for name in names)):
            chosen = dict(zip(names, map(str, values), strict=True))
            made.append(BRACES.sub(lambda found, chosen=chosen: chosen[found[1]], spec))  # type: ignore[misc]  # a default to bind it
        for one in made:
            parse(one, "strategies")
            if AUTO.search(one):
                raise StudyError(f"space: {one!r} asks a card itself; a card chooses among other strategies")
        random.shuffle(made)
        return made

    def whole(self, pools: Pools) -> Iterator[Played]:
        """Every strategy of whole samples, on these pools."""
        most = pools.tokens_R_N.shape[1]
        sizes = [n for n in self.sizes if n <= most]
        wide = [n for n in sizes if n in (8, 16, 32, 64, most)] or sizes[-1:]
        yield orders.sampled(pools)
        yield from orders.voted(pools, [n for n in sizes if n > 1])
        yield from orders.adapted(pools, [n for n in wide if n in (16, most)] or wide[-1:], self.sure, self.batches)
        for guide in pools.guides:
            yield from orders.best(pools, guide, [n for n in sizes if n > 1])
            yield from orders.weighed(pools, guide, [n for n in sizes if n > 2])
            yield from orders.accepted(pools, guide, wide, self.accept or levels(pools, guide), self.batches)


def levels(pools: Pools, guide: str) -> list[float]:
    """Scores that the guide gives to ever fewer samples: what it calls good is its own affair. To four digits."""
    scores = pools.scores(guide)
    known = scores[np.isfinite(scores)]
    return sorted({round(float(at), 4) for at in np.quantile(known, LEVELS)}) if known.size else []


def read(path: Path | None, strategies: Sequence[object], slice_: int, policies: Sequence[str] = ()) -> Space:
    """The space in a file, or the default one; without guides, those of the strategies. Raises `StudyError` with the key.

    policies: specs, for `{policy}` in a guide.
    """
    body: dict[str, Any] = {}
    if path is not None:
        try:
            body = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise StudyError(f"{path}: cannot be read ({error.strerror}); name a space file, or leave --space out") from None
        except ValueError as error:
            raise StudyError(f"{path}: is not TOML: {error}") from None
    try:
        space = Space.model_validate(body)
    except ValidationError as error:
        problem = error.errors()[0]
        raise StudyError(f"{path}: {'.'.join(map(str, problem['loc']))} = {problem['input']!r}: {problem['msg']}") from None
    for name, numbers, most in (
        ("sizes", space.sizes, 10**6),
        ("batches", space.batches, 10**6),
        ("pilots", space.pilots, slice_),
        ("leaves", space.leaves, 64),
    ):
        if path is not None and name in body and not all(1 <= n <= most for n in numbers):
            raise StudyError(f"{path}: {name} = {list(numbers)} must lie in 1..{most}")
    if not all(0 <= share <= 1 for share in space.accept):
        raise StudyError(f"{path}: accept = {list(space.accept)} must lie in 0..1")
    if not all(0.5 < share < 1 for share in space.sure):
        raise StudyError(f"{path}: sure = {list(space.sure)} must lie between 0.5 and 1, both excluded")
    if not space.guides:
        found = dict.fromkeys(
            render(one.verifier) for strategy in strategies for one in parts(strategy) if hasattr(one, "verifier")
        )
        space = space.model_copy(update={"guides": tuple(spec for spec in found if "oracle" not in spec and "noisy" not in spec)})
    filled = [guide.replace("{policy}", one) for guide in space.guides for one in (policies if "{policy}" in guide else ("",))]
    canonical = tuple(dict.fromkeys(render(cast("Verifier", parse(guide, "verifiers"))) for guide in filled))
    fitting = tuple(pilot for pilot in space.pilots if pilot <= slice_) or (slice_,)
    return space.model_copy(update={"guides": canonical, "pilots": fitting})
