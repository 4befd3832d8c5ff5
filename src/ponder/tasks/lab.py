"""The lab's own problems, generated: nothing to download, and a test split that no lab model has trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from ponder.core import Grader, Task
from ponder.errors import UsageError
from ponder.graders.compare import numeric
from ponder.graders.countdown import canonical, check
from ponder.graders.extract import Rule, extract, numeric_key
from ponder.lab.problems import CHAIN_SIZES, COUNTDOWN_SIZES, Family, Split, countdown_expression, problems
from ponder.types import Problem, Question, Verdict, user

VERSION = "1"


def countdown(numbers: int = 0, n: int = 200, split: str = "test", seed: int = 0, skip: int = 0) -> Task:
    """Reach a target with every number exactly once; many right answers.

    numbers: 3 or 4; 0 takes both in turn. n: how many problems. split: test, or train for learners. skip: leave out the first so many of
    this seed, so that `skip=1000` shares no problem with `n=1000`; other seeds may repeat a problem.
    """
    least, most = (numbers, numbers) if numbers else (COUNTDOWN_SIZES.start, COUNTDOWN_SIZES.stop - 1)
    return _task("countdown", least, most, n, split, seed, skip)


def chain(least: int = 2, most: int = 20, n: int = 200, split: str = "test", seed: int = 0, skip: int = 0) -> Task:
    """Left-to-right arithmetic with one right answer, of `least` to `most` operations in turn: the axis of difficulty.

    The rest as in `countdown`.
    """
    return _task("chain", least, most, n, split, seed, skip)


@dataclass(frozen=True, slots=True)
class CountdownGrader:
    """Composes the steps into one expression and judges it exactly: every number once, the target reached."""

    version: str = f"countdown-{VERSION}"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each text."""
        body = dict(part.split("=") for part in str(problem.reference).split(";"))
        numbers, target = [int(number) for number in body["numbers"].split(",")], int(body["target"])
        verdicts = []
        for answer, text in zip(answers, texts, strict=True):
            judged = check(countdown_expression(text) or "", numbers, target)
            verdicts.append(Verdict(judged.ok, answer, "" if judged.ok else judged.reason))
        return verdicts


@dataclass(frozen=True, slots=True)
class ChainGrader:
    """Compares the stated number with the reference."""

    version: str = f"chain-{VERSION}"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer."""
        del texts
        judged = [numeric(answer, str(problem.reference)) for answer in answers]
        return [Verdict(one.equal, answer, "" if one.equal else one.reason) for answer, one in zip(answers, judged, strict=True)]


def _countdown_key(text: str) -> str | None:
    expression = countdown_expression(text)
    return canonical(expression) if expression else None


def _chain_key(text: str) -> str | None:
    found = extract(text, (Rule.PHRASE,))
    return numeric_key(found) if found is not None else None


_KEYS: dict[Family, tuple[Callable[[str], str | None], Grader]] = {
    "countdown": (_countdown_key, CountdownGrader()),
    "chain": (_chain_key, ChainGrader()),
}


def _task(family: Family, least: int, most: int, n: int, split: str, seed: int, skip: int) -> Task:
    bounds = COUNTDOWN_SIZES if family == "countdown" else CHAIN_SIZES
    if least not in bounds or most not in bounds or least > most:
        raise UsageError(f"{family}: difficulty {least}..{most} must lie in {bounds.start}..{bounds.stop - 1}")
    if n < 1 or skip < 0:
        raise UsageError(f"{family}: n = {n} must be at least 1, skip = {skip} at least 0")
    if split not in ("train", "test"):
        raise UsageError(f"{family}: split {split!r} must be 'train' or 'test'")
    kept: Split = "train" if split == "train" else "test"
    found = islice(problems(family, split=kept, n=skip + n, seed=seed, size=range(least, most + 1)), skip, None)
    made = tuple(
        Problem(Question(one.id, (user(one.text),), {"family": family, "difficulty": one.difficulty}), one.reference)
        for one in found
    )
    whole = (least, most) == (bounds.start, bounds.stop - 1)
    name = family if whole else f"{family}({least})" if least == most else f"{family}({least}-{most})"
    key, grader = _KEYS[family]
    return Task(name, f"lab-{VERSION}/{family}/{least}-{most}/{split}/{seed}", made, key, grader, max_tokens=224)
