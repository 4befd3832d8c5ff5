"""What reasoners do in their traces, counted by rule: verification, backtracking, subgoals, backward chaining.

Gandhi et al. 2025 (arXiv:2503.01307) find that a model gains from reinforcement learning and from longer thinking as far as it shows these four. They have a
model count them; here phrases do, from a versioned data file that `Rules.read` takes from any path. Phrases are cheap, the same every
time, and blind to what is done without saying so: compare traces of one kind, and read some of those counted. A judge of your own is any
function from a text to counts; `profile` takes either.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ponder.errors import DataError
from ponder.scaling.bootstrap import Interval, mean_intervals

Counter: TypeAlias = Callable[[str], Mapping[str, int]]
"""From a trace to how often it shows each behaviour; always the same names."""

RULES = Path(__file__).with_name("behaviours@1.json")
FAR = 60  # characters: phrases of one behaviour that are nearer to each other are one occurrence


@dataclass(frozen=True, slots=True)
class Rules:
    """Phrases for each behaviour, as regular expressions without regard to case. Called with a text, it counts.

    Phrases of one behaviour that follow each other within 60 characters ("Wait, let me try another way") count once.
    """

    phrases: Mapping[str, re.Pattern[str]]

    @classmethod
    def read(cls, path: Path = RULES) -> Rules:
        """The rules of a JSON file: `{"behaviours": {name: [expression, ...]}}`. Raises `DataError` for one that is none."""
        try:
            body = json.loads(path.read_text("utf-8"))["behaviours"]
            made = {str(name): re.compile("|".join(f"(?:{one})" for one in some), re.IGNORECASE) for name, some in body.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
            raise DataError(
                f"{path}: holds no rules ({type(error).__name__}: {error}); see {RULES.name} for their form"
            ) from None
        if not made or not all(body.values()):
            raise DataError(f"{path}: holds a behaviour without phrases, or none at all")
        return cls(made)

    def __call__(self, text: str) -> dict[str, int]:
        """How often a trace shows each behaviour."""
        plain = text.replace("\u2019", "'")
        return {name: _occurrences(pattern, plain) for name, pattern in self.phrases.items()}


@dataclass(frozen=True, slots=True)
class Shown:
    """One behaviour over a set of traces, with 95% intervals over problems. share: of traces that show it; times: mean number in a trace.

    gain: share among right traces less share among wrong ones of the same problem, over problems that have both; None without any. It is no effect:
    hard problems make for both errors and second thoughts, but within one problem that is held still.
    """

    share: Interval
    times: Interval
    gain: Interval | None


def profile(
    traces_P: Sequence[Sequence[str]],
    correct_P: Sequence[Sequence[bool]],
    count: Counter | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Shown]:
    """Every behaviour over the traces of several problems; each problem weighs the same.

    A trace that was cut by its cap is wrong and long: who checks longer is cut more often, and then looks wrong for checking. Leave the cut ones out to
    compare right with wrong.

    Args:
        traces_P: texts of each problem, at least one each; how many may differ.
        correct_P: the verdict on each of them.
        count: rules or a judge; left out, the rules that come with this file.
        seed: of the bootstrap over problems.
        resamples: at least 100.

    Raises:
        ValueError: no problem, a problem without traces, or verdicts that do not match.
    """
    if not traces_P or [len(row) for row in traces_P] != [len(row) for row in correct_P] or not all(traces_P):
        raise ValueError(
            f"{len(traces_P)} problems have traces and {len(correct_P)} verdicts; it takes a verdict for each trace, and a trace of each problem"
        )
    count = count or Rules.read()
    counted = [[count(text) for text in row] for row in traces_P]
    names = sorted(counted[0][0])
    found = {}
    for name in names:
        times = [np.array([one[name] for one in row], dtype=np.float64) for row in counted]
        shares = [(row > 0).astype(np.float64) for row in times]
        columns = np.array([[share.mean(), row.mean()] for share, row in zip(shares, times, strict=True)])
        share, mean = mean_intervals(columns, seed=seed, resamples=resamples)
        gains = [_gain(one, np.asarray(right, dtype=np.bool_)) for one, right in zip(shares, correct_P, strict=True)]
        both = [gain for gain in gains if gain is not None]
        found[name] = Shown(share, mean, mean_intervals(both, seed=seed, resamples=resamples)[0] if both else None)
    return found


def _gain(share_n: NDArray[np.float64], right_n: NDArray[np.bool_]) -> float | None:
    if right_n.all() or not right_n.any():
        return None
    return float(share_n[right_n].mean() - share_n[~right_n].mean())


def _occurrences(pattern: re.Pattern[str], text: str) -> int:
    seen, last = 0, -FAR - 1
    for found in pattern.finditer(text):
        seen += found.start() - last > FAR
        last = found.end()
    return seen
