"""What runs inside the sandbox for `gym`: makes items, recalls one of them, scores an answer. Its text is the program.

Scorers of reasoning-gym read answers with Python's `eval` or SymPy's `parse_expr`, which run what they read; answers of a model
never come that far. Where `eval` serves answers in another notation, which earn part of a mark at most, it is closed. Where a formula is
read, only what is spelled like one is.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
from typing import Protocol, TypeAlias, cast

NO_ANSWERS = (None, "", "qqq zzz")
ENOUGH = 1 - 1e-9
Config: TypeAlias = "dict[str, object]"


class Library(Protocol):
    """What of reasoning-gym is used."""

    def create_dataset(self, name: str, **config: object) -> Dataset:
        """A data set by its registered name."""
        ...


class Entry(Protocol):
    """A dict with question, answer and metadata, of which the last may hold anything."""

    def __getitem__(self, key: str) -> object:
        """Its value."""
        ...


class Dataset(Protocol):
    """What of a data set of reasoning-gym is used."""

    def __getitem__(self, index: int) -> Entry:
        """Its item."""
        ...

    def score_answer(self, answer: str | None, entry: Entry) -> float:
        """1 for what is right."""
        ...


def items(name: str, config: Config, first: int, count: int, oracles: int) -> list[tuple[int, str, str, str]]:
    """Items of the seeds first .. first + count - 1: seed, question, answer, and what is wrong with its scorer, or "".

    oracles: of how many the own answer is scored, too; to score the answers that are none is cheaper than to score a right one.
    """
    found = []
    for number in range(count):
        dataset, entry = _made(name, config, first + number)
        wrong = fault(name, dataset, entry, oracle=number < oracles)
        found.append((first + number, str(entry["question"]), str(entry["answer"]), wrong))
    return found


def recall(name: str, config: Config, seed: int) -> tuple[str, str]:
    """Make an item again, to be scored against; gives its question and answer, so that the caller can see that it is the same."""
    global _kept
    _kept = (name, *_made(name, config, seed))
    return str(_kept[2]["question"]), str(_kept[2]["answer"])


def score(answer: str) -> float:
    """The score of an answer to the item recalled."""
    return _scored(*_kept, answer)


def fault(name: str, dataset: Dataset, entry: Entry, *, oracle: bool = True) -> str:
    """Why the verdicts of an item cannot be trusted; "" if its own answer scores 1, and none, nothing and junk do not."""
    answer = entry["answer"]
    if not isinstance(answer, str) or not answer.strip():
        return f"has the answer {answer!r}, so that its scorer cannot be checked"
    for given in NO_ANSWERS:
        if _quietly(name, dataset, entry, given) >= ENOUGH:
            return f"gives {given!r} full marks (its answer is {answer[:80]!r})"
    if oracle and not (got := _quietly(name, dataset, entry, answer.strip())) >= ENOUGH:
        return f"gives its own answer {answer[:80]!r} the score {got:.3g}"
    return ""


def _imported() -> Library:
    """The library, with an empty stand-in for the plotting that one of its dependencies imports: here is no home for its caches."""
    plotting = (
        "matplotlib",
        "matplotlib.pyplot",
        "matplotlib.animation",
        "matplotlib.collections",
        "mpl_toolkits",
        "mpl_toolkits.mplot3d",
    )
    absent = [name for name in plotting if name not in sys.modules]
    for name in absent:
        sys.modules[name] = types.ModuleType(name)
    vars(sys.modules["mpl_toolkits.mplot3d"]).setdefault("Axes3D", None)
    try:
        return cast("Library", importlib.import_module("reasoning_gym"))
    finally:
        for name in absent:
            del sys.modules[name]


_library = _imported()
_kept: tuple[str, Dataset, Entry]
_EVALS = ("binary_matrix", "n_queens", "spiral_matrix", "string_insertion")
_FORMULAS = {  # possessive, so that no text takes more than one pass
    "countdown": re.compile(r"(?:\s|[0-9]++|[-+()]|\*(?!\*)|/(?!/))*+"),
    "simple_integration": re.compile(
        r"(?:\s|[0-9]++(?:\.[0-9]*+)?|[-+()/*]|(?:a?(?:sin|cos|tan)h?|exp|log|sqrt|pi|[A-Za-z])(?![A-Za-z0-9_]))*+"
    ),
}


def _made(name: str, config: Config, seed: int) -> tuple[Dataset, Entry]:
    dataset = _library.create_dataset(name, **config, seed=seed, size=1)
    return dataset, dataset[0]


def _scored(name: str, dataset: Dataset, entry: Entry, answer: str | None) -> float:
    formula = _FORMULAS.get(name)
    if formula and answer is not None and not formula.fullmatch(answer):
        return 0.0
    if name in _EVALS:
        vars(sys.modules[type(dataset).__module__])["eval"] = _closed
    return float(dataset.score_answer(answer, entry))


def _closed(text: str) -> object:
    raise ValueError("another notation than the one asked for")


def _quietly(name: str, dataset: Dataset, entry: Entry, answer: str | None) -> float:
    try:
        return _scored(name, dataset, entry, answer)
    except Exception:  # as in a search, an exception is no mark
        return 0.0
