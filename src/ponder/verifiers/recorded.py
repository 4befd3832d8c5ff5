"""Scores made elsewhere and brought in with `ponder import`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.errors import DataError
from ponder.run import Run
from ponder.spec import named
from ponder.types import Chain, Score


@named("recorded")
@dataclass(frozen=True, slots=True, repr=False)
class Recorded:
    """The scores of an imported bank, under the name they were imported with. Value: 1 / (1 + exp(-raw)), so ranks are the raw ones.

    Raises `DataError` for a chain that was not imported: nothing here can score it.
    """

    name: str

    @property
    def fingerprint(self) -> str:
        """Under which the import keeps its scores."""
        return f"recorded:{self.name}"

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """Only reached for chains that the bank has no score of."""
        del run
        raise DataError(
            f"recorded({self.name!r}): {len(chains)} chains have no imported score, and there is no model to make one"
        )
