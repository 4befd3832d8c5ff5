"""`ponder tune`: from banked samples, a policy card that says what to do for which questions at which budget.

Strategies of whole samples are played through on the slice, in several orders of every pool, at no cost. Searches over steps are tried on the
bank in rounds: all of them on few problems, the better ones on more, the best on all, as long as the purse allows. The card is chosen by
`ponder.scaling.allocate`, on training problems only.
"""

from __future__ import annotations

import ast
import errno
import inspect
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ponder.cli.main import JSONFlag, interruptible
from ponder.errors import DataError, StudyError, UsageError

if TYPE_CHECKING:
    from ponder.cli.candidates import Gathered
    from ponder.cli.ledger import Purse
    from ponder.cli.pools import Shop
    from ponder.cli.space import Space
    from ponder.scaling.allocate import Spread, Table
    from ponder.scaling.card import Card
    from ponder.scaling.orders import Pools

LEAST_TOLD = 20  # problems, for a word on how well difficulty is told: five folds, and five bins in what is left
SEEN = {
    "agreement": "share of pilot samples that agree",
    "answered": "share of pilot samples with an answer",
    "tokens": "mean length of the pilot samples in tokens",
    "mean": "mean pilot score",
    "best": "best pilot score",
}
LEAST = 4  # problems: two folds to choose and to judge on, and two more inside each


# ruff: noqa: D417  --json is described where it is defined
def tune(
    study: Annotated[list[Path], Parameter(negative="")],
    /,
    *,
    budget: Annotated[list[str], Parameter(negative="")],
    out: Path,
    space: Path | None = None,
    spend: str = "tokens=0",
    spread: Annotated[str, Parameter(name="--spread")] = "mean",
    on_test: Annotated[bool, Parameter(negative="")] = False,
    json: JSONFlag = False,
) -> None:
    """Choose, for what a pilot shows and a budget allows, the strategy to use; written as a card for auto(card=...).

    Args:
        study: Folders of finished studies with a slice, of problems that may be trained on.
        budget: Tokens that a question may cost, such as tokens=1000. May be given several times.
        out: The card.
        space: A TOML file of guides, sizes, thresholds and searches to choose from.
        spend: New tokens that may be bought, such as tokens=500000: scores that are not banked, and searches. Left out, none.
        spread: mean: the budget bounds the mean over all questions; each: the mean of every bin.
        on_test: Choose on the test split, which makes what the card promises no result.
    """
    from ponder.cli.ledger import Purse
    from ponder.scaling.card import write

    if spread not in ("mean", "each"):
        raise UsageError(f"tune: spread = {spread!r} must be mean or each")
    if len({folder.resolve() for folder in study}) < len(study):
        raise StudyError("tune: a study is given twice; its questions would be chosen on and judged on at once: name it once")
    for folder in study:
        refuse_test(folder, allowed=on_test)
    budgets = sorted({tokens_of(text) for text in budget})
    purse = Purse(limit=tokens_of(spend, least=0))
    refuse_place(out)
    words = ["ponder", "tune", *map(str, study), *(f"--budget={text}" for text in budget), f"--out={out}", f"--spend={spend}"]
    words += [f"--spread={spread}", *([f"--space={space}"] if space else []), *(["--on-test"] if on_test else [])]
    card = interruptible(tuned(study, budgets, space, purse, spread), resume=shlex.join(words))  # type: ignore[arg-type]  # checked above
    try:
        write(card, out)
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); what was paid for is kept: give another --out") from None
    report(card, purse, as_json=json)
    print(f"ponder: card in {out}; use it as auto(card={str(out)!r})", file=sys.stderr)


def tokens_of(text: str, *, least: int = 1) -> int:
    """The tokens of a budget such as tokens=1000. Raises `StudyError` for any other unit, or less than is sensible."""
    found = re.fullmatch(r"tokens=(\d[\d_]*)", text.replace(" ", ""))
    if not found or int(found[1]) < least:
        raise StudyError(f"budget {text!r}: a card is for whole tokens, at least {least}; write tokens=1000")
    return int(found[1])


def refuse_place(out: Path) -> None:
    """Raise `DataError` now, before anything is spent, where a card could not be written in the end."""
    try:
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error.strerror}); name a file in a folder that exists") from None


def refuse_test(folder: Path, *, allowed: bool) -> None:
    """Raise `StudyError` for a study on the test split of a task that has a train split."""
    from ponder.cli.study import read

    if not (folder / "study.db").exists():
        raise StudyError(f"{folder}: holds no study (study.db is missing); `ponder run` it first")
    for spec in read(folder / "study.resolved.toml").tasks:
        if split_of(spec) == "test" and not allowed:
            raise StudyError(
                f"{folder}: {spec} is the test split; choose on training problems (split='train'), or give --on-test if no result is meant"
            )


def split_of(spec: str) -> str | None:
    """The split that a task's spec asks for; None where the task has no such argument, or the spec is short for a file."""
    head, _, _ = spec.partition("(")
    [factory] = [entry.load() for entry in entry_points(group="ponder.tasks") if entry.name == head.strip()] or [None]
    if factory is None or "split" not in (signature := inspect.signature(factory)).parameters:
        return None
    node = ast.parse(spec.strip(), mode="eval").body
    args, keywords = (node.args, node.keywords) if isinstance(node, ast.Call) else ([], [])
    given = signature.bind_partial(*map(ast.literal_eval, args), **{k.arg or "": ast.literal_eval(k.value) for k in keywords})
    given.apply_defaults()
    return str(given.arguments["split"])


async def tuned(folders: Sequence[Path], budgets: Sequence[int], path: Path | None, purse: Purse, spread: Spread) -> Card:
    """A card from these studies."""
    from ponder.cli import space as spaces
    from ponder.cli.candidates import gather
    from ponder.cli.pools import opened
    from ponder.cli.runner import parse_policy, parse_strategy
    from ponder.cli.study import read
    from ponder.spec import render

    studies = [read(folder / "study.resolved.toml") for folder in folders]
    for folder, one in zip(folders, studies, strict=True):
        if "imported" in one.policies:
            raise StudyError(
                f"{folder}: was imported, and nobody can use a card on a policy that cannot be asked; tune a study that was run here"
            )
    strategies = [parse_strategy(spec) for one in studies for spec in one.expanded]
    least = min(one.slice for one in studies)
    owners = [render(parse_policy(spec)) for spec in studies[0].policies]
    space = spaces.read(path, strategies, max(1, least), owners)
    searches = space.searches(owners) if purse.limit != 0 else []
    async with AsyncExitStack() as stack:
        shops: list[Shop] = []
        numbers: dict[str, int] = {}
        for folder in folders:
            shops.append(await stack.enter_async_context(opened(folder, space.guides, searches, purse, numbers)))
        if len({(tuple(shop.study.policies), shop.study.sampling, shop.study.slice, shop.study.seeds) for shop in shops}) > 1:
            raise StudyError("tune: all studies must have the same policies, sampling, slice and seeds")
        if len(numbers) < LEAST:
            raise StudyError(
                f"tune: {len(numbers)} different questions are too few to choose on some and judge on others; it takes {LEAST}, and some dozens to tell"
            )
        gathered = await gather(shops, space, purse)
    card = chosen(gathered, space, budgets, spread)
    told = difficulty_told(gathered.pools, card)
    measured: dict[str, object] = {
        "studies": [one.name for one in studies],
        "tasks": [spec for one in studies for spec in one.tasks],
        "policies": gathered.policies,
        "fingerprints": gathered.fingerprints,
        "verifiers": gathered.verifiers,
        "sampling": studies[0].sampling[0].key,
        "problems": len(set(gathered.pools.problem_R.tolist())),
        "seeds": list(studies[0].seeds),
        "samples": least,
        "candidates": gathered.explored,
        "new_tokens": purse.spent,
        "spread": spread,
        "leaves": len(card.splits) + 1,
        **{f"difficulty_{name}": [round(number, 4) for number in numbers] for name, numbers in told.items()},
    }
    return replace(card, measured=tuple(measured.items()))


def chosen(given: Gathered, space: Space, budgets: Sequence[int], spread: Spread) -> Card:
    """The settings by cross-validation, the card on all problems, and what to expect of it by nested cross-validation."""
    import numpy as np

    from ponder.scaling import allocate
    from ponder.scaling.card import Card

    specs = [f"{one.spec} with {one.policy}" if one.policy else one.spec for one in given.candidates]
    alone = allocate.table(given.pools, given.candidates, 0, "")
    tables: dict[tuple[int, str], Table] = {
        (pilot, guide): allocate.table(given.pools, given.candidates, pilot, guide)
        for pilot in space.pilots
        for guide in ("", *given.pools.guides)
    }
    every = alone.problem_R >= 0
    setting = allocate.chosen_setting(tables, space.leaves, every, given.rate_R, budgets, spread)
    best = tables[setting.pilot, setting.guide]
    plan = allocate.fitted(best, allocate.grown(best, setting.leaves, budgets, spread), budgets, spread)
    expected = allocate.expected(
        tables,
        alone,
        specs,
        space.leaves,
        given.rate_R,
        budgets,
        spread,
        raced_C=np.arange(len(specs)) >= len(specs) - given.raced,
        looked_R=np.isin(alone.problem_R, list(given.looked)),
    )
    return Card(
        setting.pilot,
        setting.guide,
        plan.splits,
        tuple(allocate.choices(best, plan, given.candidates)),
        tuple(expected),
    )


def difficulty_told(pools: Pools, card: Card) -> dict[str, list[float]]:
    """How well what the card's pilot shows predicts the pass rate of the samples after it, on problems that were not fitted on.

    gain: in squared error, over predicting the mean of the others; near: share of problems at most one of Snell's five bins away from the oracle's.
    Numbers with their intervals; nothing where there are too few problems or samples.
    """
    import numpy as np

    from ponder.scaling import allocate, difficulty

    first = np.unique(pools.problem_R, return_index=True)[1]  # the pool of each as it was drawn, of the first seed
    rest = pools.correct_R_N[first, card.pilot :]
    if len(first) < LEAST_TOLD or not rest.shape[1]:
        return {}
    seen = allocate.features(pools, card.pilot, card.guide)
    fit = difficulty.logistic_fit(list(seen))
    graded = np.full(len(first), float(rest.shape[1]))
    found = difficulty.cross_validate(fit, np.column_stack(list(seen.values()))[first], rest.mean(axis=1), graded)
    return {name: [one.value, one.low, one.high] for name, one in (("gain", found.gain), ("near", found.near))}


def report(card: Card, purse: Purse, *, as_json: bool) -> None:
    """What to expect, and what was chosen."""
    from ponder.cli import output

    if as_json:
        for line in card.expected:
            print(json.dumps({"kind": "expected", **asdict(line)}))
        for choice in card.choices:
            print(json.dumps({"kind": "choice", **asdict(choice)}))
        return
    print("\nexpected of auto, and of the best single strategy chosen alike, on problems that were not looked at\n")
    rows = [
        [
            str(e.budget),
            _shown(e.accuracy, 3),
            _shown(e.tokens, 0),
            _shown(e.fixed_accuracy, 3),
            _shown(e.fixed_tokens, 0),
            e.fixed,
        ]
        for e in card.expected
    ]
    output.table(["budget", "accuracy", "tokens", "single: accuracy", "tokens", "strategy"], rows)
    print(f"\nthe card: a pilot of {card.pilot}{f', scored by {card.guide}' if card.guide else ''}\n")
    for number, split in enumerate(card.splits):
        of = f" of bin {split.bin}" if number else ""  # before the first split there is one bin
        print(f"questions{of} whose {SEEN[split.feature]} is above {split.above:.4g} go to bin {split.becomes}")
    rows = [
        [str(c.budget), str(c.bin), f"{c.problems:g}", _shown(c.accuracy, 3), _shown(c.tokens, 0), c.strategy, c.policy]
        for c in card.choices
    ]
    output.table(["budget", "bin", "problems", "accuracy", "tokens", "strategy", "policy"], rows)
    measured = dict(card.measured)
    if (gain := measured.get("difficulty_gain")) and (near := measured.get("difficulty_near")):
        print(
            f"ponder: difficulty_gain {_shown(gain, 2)}: the share of the squared error of predicting the mean that the pilot takes away; "
            f"where it is not above 0, a card can only be a constant\n"
            f"ponder: difficulty_near {_shown(near, 2)}: the share of the questions that it puts within one of five bins of their difficulty",
            file=sys.stderr,
        )
    print(f"ponder: {measured.get('candidates')} candidates, {purse.spent} new tokens", file=sys.stderr)


def _shown(number: Sequence[float], digits: int) -> str:
    value, low, high = number
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
