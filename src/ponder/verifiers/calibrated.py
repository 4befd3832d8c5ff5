"""A verifier's value as the rate of right answers that was seen at such values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import fsum, isfinite
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ponder.core import Verifier
from ponder.errors import DataError, UsageError
from ponder.lab.reward import Files, shipped
from ponder.run import Run
from ponder.scaling.calibration import isotonic
from ponder.spec import named
from ponder.types import Chain, Score, Usage


@named("calibrated")
@dataclass(frozen=True, slots=True, repr=False)
class Calibrated:
    """The scores of another verifier, their values mapped to the share of right answers that its calibration report found there.

    table: a folder that holds calibration.json, such a file, or `lab/NAME` for a reward model that comes with the lab; "" takes the
    verifier's own `path`. The map goes through the report's bins of equal mass: shares made to rise by pooling adjacent violators, each bin
    weighing its count (isotonic regression; Zadrozny and Elkan 2002, KDD, section 3.2), at the bins' mean scores. Deviations: linear between them,
    where isotonic regression has steps, so that fewer scores are tied; constant beyond the first and the last.

    Raw, and the values after steps, stay the verifier's. A chain that it could not score has no score. It is asked through the run, banked
    and paid for under its own name; this one costs nothing. Raises `UsageError` where no table is named, `DataError` for what is none.
    """

    verifier: Verifier
    table: str = ""

    def __post_init__(self) -> None:
        self._map()

    @property
    def fingerprint(self) -> str:
        """It scores through the run, so it is never banked; the inner verifier is."""
        return ""

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain."""
        at, shares = self._map()
        return [
            replace(score, value=None if score.value is None else float(np.interp(score.value, at, shares)), usage=Usage())
            for score in await run.score(self.verifier, chains)
        ]

    def _map(self) -> tuple[list[float], list[float]]:
        """Scores, rising, and the shares of right answers at them, never falling."""
        name = self.table or getattr(self.verifier, "path", "")
        if not name:
            raise UsageError(f"calibrated: {self.verifier!r} has no folder of its own; name its calibration.json as table")
        points = read(_file(name))
        return [point.score for point in points], isotonic([point.right for point in points], [point.answers for point in points])


class Seen(NamedTuple):
    """Answers of about this score: their mean score, the share of right ones, how many they are."""

    score: float
    right: float
    answers: float


def read(path: Path) -> list[Seen]:
    """The bins of equal mass of a calibration report, or of a card that holds one, by rising score; those of one score as one.

    Raises `DataError` for a file that is none.
    """
    try:
        body = json.loads(path.read_text("utf-8"))
        bins = body.get("calibration", body)["equal_mass"]["bins"]
        rows = [Seen(float(one["score"]), float(one["right"]["value"]), float(one["count"])) for one in bins]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DataError(
            f"calibrated: {path} is no calibration report ({type(error).__name__}: {error}); training a verifier writes one beside its weights, "
            "and ponder.scaling.calibration.calibrate(...).save(folder) makes one for any other"
        ) from None
    if not rows or not all(
        0 <= row.score <= 1 and 0 <= row.right <= 1 and row.answers > 0 and isfinite(row.answers) for row in rows
    ):
        raise DataError(f"calibrated: {path}: it takes at least one bin, scores and shares in [0, 1] and counts above 0")
    alike = [list(group) for _, group in groupby(sorted(rows), key=lambda row: row.score)]
    counts = [fsum(row.answers for row in group) for group in alike]
    shares = [fsum(row.right * row.answers for row in group) / count for group, count in zip(alike, counts, strict=True)]
    return [Seen(group[0].score, share, count) for group, share, count in zip(alike, shares, counts, strict=True)]


def _file(name: str) -> Path:
    known = name.removeprefix("lab/")
    if known != name and known in shipped():
        return Files.named(known).weights.with_suffix(".card.json")
    path = Path(name).expanduser()
    return path / "calibration.json" if path.is_dir() else path
