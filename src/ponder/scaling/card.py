"""A policy card: for what a pilot shows and a budget allows, the strategy to use, with the evidence it was chosen on.

`ponder tune` writes one, `auto(card=...)` executes it. Bins are made by splits, in order: a question begins in bin 0, and a split moves
those of its bin whose feature lies above a bound into a bin of their own. A card is TOML that a person can read and edit.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ponder.errors import DataError

FEATURES = ("agreement", "answered", "tokens", "mean", "best")
HEAD = """# A policy card, written by `ponder tune` and executed by auto(card="{name}").
# A question begins in bin 0; each split moves those of its bin whose feature lies above the bound into a bin of their own.
# Triples are a number and its 95% interval. Accuracies of choices are those they were chosen by; `expected` is cross-validated."""


class Triple(NamedTuple):
    """A number and its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Split:
    """Questions of bin `bin` whose `feature` lies above `above` go to bin `becomes`."""

    bin: int
    feature: str
    above: float
    becomes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do in a bin when a question may cost `budget` tokens: a strategy, and the policy it samples from, "" for the run's own.

    accuracy, tokens: of the training questions of this bin, pilot included; problems: how many those were, by share.
    """

    bin: int
    budget: int
    strategy: str
    policy: str
    accuracy: Triple
    tokens: Triple
    problems: float


@dataclass(frozen=True, slots=True)
class Expected:
    """What the whole procedure reached on questions that it had not seen, and what the best single strategy, chosen in the same way, did."""

    budget: int
    accuracy: Triple
    tokens: Triple
    fixed: str
    fixed_accuracy: Triple
    fixed_tokens: Triple


@dataclass(frozen=True, slots=True)
class Card:
    """pilot: samples looked at first; guide: the verifier that scores them, "" for none. measured: on what it was chosen."""

    pilot: int
    guide: str
    splits: tuple[Split, ...]
    choices: tuple[Choice, ...]
    expected: tuple[Expected, ...] = ()
    measured: tuple[tuple[str, Any], ...] = ()

    @property
    def budgets(self) -> list[int]:
        """The budgets it has choices for, in tokens a question, ascending."""
        return sorted({choice.budget for choice in self.choices})

    @property
    def fingerprint(self) -> str:
        """Changes whenever what the card does may change."""
        body = [self.pilot, self.guide, [asdict(split) for split in self.splits]]
        body += [[one.bin, one.budget, one.strategy, one.policy] for one in self.choices]
        return f"card-{hashlib.blake2b(json.dumps(body).encode(), digest_size=8).hexdigest()}"

    def bin(self, seen: Mapping[str, float]) -> int:
        """The bin of a question with these features."""
        found = 0
        for split in self.splits:
            if found == split.bin and seen[split.feature] > split.above:
                found = split.becomes
        return found

    def affordable(self, tokens: int | None) -> int:
        """The largest of its budgets within so many tokens; the smallest where none is, the largest where there is no bound."""
        within = [budget for budget in self.budgets if tokens is None or budget <= tokens]
        return within[-1] if within else self.budgets[0]


def features(answers: Sequence[str | None], tokens: Sequence[int], scores: Sequence[float | None]) -> dict[str, float]:
    """What a pilot shows of its question.

    agreement: share of the samples that give the most frequent answer; answered: share that give one; tokens: mean length; mean, best: of
    the scores, 0 where there is none. Of no samples at all, everything is 0.
    """
    n = max(1, len(answers))
    votes = Counter(answer for answer in answers if answer is not None)
    known = [score for score in scores if score is not None]
    return {
        "agreement": max(votes.values(), default=0) / n,
        "answered": votes.total() / n,
        "tokens": sum(tokens) / n,
        "mean": sum(known) / len(known) if known else 0.0,
        "best": max(known, default=0.0),
    }


def read(path: str) -> Card:
    """The card in a TOML file. Raises `DataError` with the place, the value and what it must be."""
    try:
        body = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise DataError(
            f"card {path!r}: cannot be read ({error.strerror}); `ponder tune STUDY --out {path}` writes one"
        ) from None
    except ValueError as error:
        raise DataError(f"card {path!r}: is not TOML: {error}") from None
    known = {"pilot", "guide", "splits", "choices", "expected", "measured"}
    if strange := sorted(set(body) - known):
        raise DataError(f"card {path!r}: there is no key {strange[0]!r}; there are {', '.join(sorted(known))}")
    try:
        card = Card(
            body["pilot"],
            body.get("guide", ""),
            tuple(Split(**one) for one in body.get("splits", ())),
            tuple(Choice(**_triples(one)) for one in body["choices"]),
            tuple(Expected(**_triples(one)) for one in body.get("expected", ())),
            tuple(body.get("measured", {}).items()),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"card {path!r}: is not a card: {error}") from None
    _check(card, path)
    return card


def _triples(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: Triple(*value) if isinstance(value, list) else value for key, value in line.items()}


def _check(card: Card, path: str) -> None:
    """Every bin can be reached by number, and has a choice for every budget."""

    def fail(what: str) -> None:
        raise DataError(f"card {path!r}: {what}")

    if not isinstance(card.pilot, int) or card.pilot < 1:
        fail(f"pilot = {card.pilot!r} must be a whole number of at least 1")
    bins = {0}
    for split in card.splits:
        if split.feature not in FEATURES:
            fail(f"there is no feature {split.feature!r}; there are {', '.join(FEATURES)}")
        if split.bin not in bins or split.becomes in bins:
            fail(
                f"a split of bin {split.bin!r} into {split.becomes!r}: it must split a bin that there is, into one that there is not"
            )
        if not isinstance(split.above, int | float) or not isfinite(split.above):
            fail(f"a split of bin {split.bin} above {split.above!r}: it must be a finite number")
        bins.add(split.becomes)
    if not card.choices:
        fail("has no choices")
    have = Counter((choice.bin, choice.budget) for choice in card.choices)
    for budget in card.budgets:
        if not isinstance(budget, int) or budget < 1:
            fail(f"budget = {budget!r} must be a whole number of tokens of at least 1")
        for bin_ in sorted(bins):
            if have.pop((bin_, budget), 0) != 1:
                fail(f"bin {bin_} must have one choice for a budget of {budget} tokens")
    if have:
        fail(f"there is a choice for bin {next(iter(have))[0]}, which no split makes")


def write(card: Card, path: Path) -> None:
    """Write a card that `read` reads back as the same card."""
    lines = [HEAD.format(name=path.name), f"pilot = {card.pilot}", f"guide = {_toml(card.guide)}"]
    for name, group in (("splits", card.splits), ("choices", card.choices), ("expected", card.expected)):
        for one in group:
            lines += ["", f"[[{name}]]", *(f"{field.name} = {_toml(getattr(one, field.name))}" for field in fields(one))]
    if card.measured:
        lines += ["", "[measured]", *(f"{key} = {_toml(value)}" for key, value in card.measured)]
    part = path.with_name(path.name + ".part")
    part.write_text("\n".join(lines) + "\n", "utf-8")
    part.replace(path)


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
