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
from typing import Any, NamedTuple, TypeVar

from ponder.core import MOST_CHILDREN
from ponder.errors import DataError
from ponder.files import whole

T = TypeVar("T")

FEATURES = ("agreement", "answered", "tokens", "mean", "best")
SCORED = ("mean", "best")
LARGEST = 1_000_000  # bytes of a card; those of `ponder tune` have some thousands
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
    """pilot: samples looked at first; guide: the verifier that scores them, "" for none.

    measured: on what it was chosen; of its keys, `fingerprints` are those of the policies, the run's own first, and `verifiers` those of all
    that scored.
    """

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

    def strangers(self, policies: Sequence[str], verifiers: Sequence[str]) -> list[str]:
        """Those of these fingerprints that the card was not measured with: the run's own policy first, then the parts; none where the card does not say.

        A server adds to its policy's fingerprint what a request brings along, after a dash; that is the same policy still.
        """
        known = dict(self.measured)
        prints, scored = known.get("fingerprints"), known.get("verifiers")
        own = [] if not prints else [one for one in policies[:1] if one != prints[0] and not one.startswith(f"{prints[0]}-")]
        others = [] if not prints else [one for one in policies[1:] if one not in prints]
        return own + others + [one for one in verifiers if scored is not None and one not in scored]

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
        with Path(path).expanduser().open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise DataError(f"card {path!r}: is larger than the {LARGEST:,} bytes that a card may have")
        body = tomllib.loads(text.decode("utf-8-sig"))
    except OSError as error:
        raise DataError(
            f"card {path!r}: cannot be read ({error.strerror}); `ponder tune STUDY --out {path}` writes one"
        ) from None
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        raise DataError(f"card {path!r}: is not TOML: {error}") from None
    try:
        card = _made(Card, {"guide": "", "splits": [], "expected": [], "measured": {}, **body}, "")
    except DataError as error:
        raise DataError(f"card {path!r}: {error}") from None
    _check(card, path)
    return card


def _made(kind: type[T], body: object, place: str) -> T:
    """One of the classes above from a TOML table: every field, no other, each of its type."""
    if not isinstance(body, dict):
        raise DataError(f"{place} = {repr(body)[:80]} must be a table")
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # they are dataclasses
    if strange := [key for key in body if key not in known]:
        raise DataError(f"there is no key {f'{place}.{strange[0]}'.lstrip('.')!r}; there are {', '.join(known)}")
    if missing := [key for key in known if key not in body]:
        raise DataError(f"{f'{place}.{missing[0]}'.lstrip('.')} is missing")
    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]  # as above
    return kind(**{key: _value(types[key], value, f"{place}.{key}".lstrip(".")) for key, value in body.items()})


def _value(kind: str, value: object, place: str) -> object:
    if kind == "tuple[tuple[str, Any], ...]":
        if not isinstance(value, dict):
            raise DataError(f"{place} = {repr(value)[:80]} must be a table")
        return tuple(value.items())
    if kind in _LINES:
        if not isinstance(value, list):
            raise DataError(f"{place} = {repr(value)[:80]} must be a list of tables")
        return tuple(_made(_LINES[kind], one, f"{place}[{at}]") for at, one in enumerate(value))
    if kind == "Triple":
        if not isinstance(value, list) or len(value) != 3 or not all(map(_number, value)) or not value[1] <= value[2]:
            raise DataError(f"{place} = {repr(value)[:80]} must be a number and its interval, such as [0.5, 0.4, 0.6]")
        return Triple(*map(float, value))
    wanted: tuple[type, ...] = {"int": (int,), "str": (str,), "float": (int, float)}[kind]
    if not isinstance(value, wanted) or isinstance(value, bool) or (kind == "float" and not _number(value)):
        name = {"int": "a whole number", "str": "text", "float": "a finite number"}[kind]
        raise DataError(f"{place} = {repr(value)[:80]} must be {name}")
    return value


_LINES: Mapping[str, type] = {"tuple[Split, ...]": Split, "tuple[Choice, ...]": Choice, "tuple[Expected, ...]": Expected}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _check(card: Card, path: str) -> None:
    """Every bin can be reached by number, and has a choice for every budget; numbers are what they may be."""

    def fail(what: str) -> None:
        raise DataError(f"card {path!r}: {what}")

    if not 1 <= card.pilot <= MOST_CHILDREN:
        fail(f"pilot = {card.pilot!r} must be a whole number of 1 to {MOST_CHILDREN:,}")
    bins = {0}
    for split in card.splits:
        if split.feature not in FEATURES:
            fail(f"there is no feature {split.feature!r}; there are {', '.join(FEATURES)}")
        if split.feature in SCORED and not card.guide:
            fail(f"a split of bin {split.bin} by {split.feature!r}, which is of scores, and there is no guide that gives any")
        if split.bin not in bins or split.becomes in bins:
            fail(
                f"a split of bin {split.bin!r} into {split.becomes!r}: it must split a bin that there is, into one that there is not"
            )
        bins.add(split.becomes)
    if not card.choices:
        fail("has no choices")
    have = Counter((choice.bin, choice.budget) for choice in card.choices)
    for budget in card.budgets:
        if budget < 1:
            fail(f"budget = {budget!r} must be a whole number of tokens of at least 1")
        for bin_ in sorted(bins):
            if have.pop((bin_, budget), 0) != 1:
                fail(f"bin {bin_} must have one choice for a budget of {budget} tokens")
    if have:
        fail(f"there is a choice for bin {next(iter(have))[0]}, which no split makes")
    for place, accuracy, tokens in (
        *((f"choice of bin {one.bin} at {one.budget}", one.accuracy, one.tokens) for one in card.choices),
        *((f"expected at {one.budget}", one.accuracy, one.tokens) for one in card.expected),
        *((f"expected at {one.budget}", one.fixed_accuracy, one.fixed_tokens) for one in card.expected),
    ):
        if not all(0 <= number <= 1 for number in accuracy) or min(tokens) < 0:
            fail(
                f"{place}: an accuracy of {list(accuracy)} in {list(tokens)} tokens; accuracies lie in [0, 1], tokens are at least 0"
            )
    for key in ("fingerprints", "verifiers"):
        if not isinstance(prints := dict(card.measured).get(key, []), list) or not all(isinstance(one, str) for one in prints):
            fail(f"measured.{key} = {repr(prints)[:80]} must be a list of texts")


def write(card: Card, path: Path) -> None:
    """Write a card that `read` reads back as the same card; it appears whole or not at all. Raises `OSError`."""
    lines = [HEAD.format(name=path.name), f"pilot = {card.pilot}", f"guide = {_toml(card.guide)}"]
    for name, group in (("splits", card.splits), ("choices", card.choices), ("expected", card.expected)):
        for one in group:
            lines += ["", f"[[{name}]]", *(f"{field.name} = {_toml(getattr(one, field.name))}" for field in fields(one))]
    if card.measured:
        lines += ["", "[measured]", *(f"{key} = {_toml(value)}" for key, value in card.measured)]
    with whole(path) as part:
        part.write_text("\n".join(lines) + "\n", "utf-8")


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value).lower() if isinstance(value, bool) else repr(value)
