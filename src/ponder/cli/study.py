"""A study: tasks x policies x strategies x sampling x budgets x seeds, as a TOML file.

    name = "lab"
    tasks = ["countdown(numbers=4, n=100)", "chain(n=100)"]
    policies = ["lab"]
    strategies = ["self_consistency(n=64)", "first_finish(n={k})"]
    k = [1, 2, 4, 8]              # every strategy with {k} is taken once for each of them
    slice = 64                    # that many whole samples of every problem, for estimators
    seeds = [0]
    sampling = [{temperature = 1.0}]
    budgets = [{}]                # or {samples = 16}, {tokens = 4000}, ...
    bank = "shared.db"            # samples and scores are kept there, for other studies too; left out, in the study's own folder

Unknown keys are refused with the nearest name and the place.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ponder.core import Budget, Sampling
from ponder.errors import StudyError
from ponder.store.export import write as write_lines


class Study(BaseModel):
    """What the TOML file says, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="study", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    tasks: tuple[str, ...] = Field(min_length=1)
    policies: tuple[str, ...] = Field(min_length=1)
    strategies: tuple[str, ...] = Field(min_length=1)
    k: tuple[int, ...] = ()
    slice: int = Field(default=0, ge=0)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    sampling: tuple[Sampling, ...] = Field(default=(Sampling(),), min_length=1)
    budgets: tuple[Budget, ...] = Field(default=(Budget(),), min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    limit: int | None = Field(default=None, ge=1)
    concurrency: int = Field(default=64, ge=1)
    allow_oracle: bool = False
    bank: str | None = Field(default=None, min_length=1)

    @property
    def expanded(self) -> list[str]:
        """The strategy specs, with `{k}` filled in, in order, each once."""
        specs = [spec.replace("{k}", str(k)) for spec in self.strategies for k in (self.k if "{k}" in spec else (0,))]
        return list(dict.fromkeys(specs))


def read(path: Path) -> Study:
    """The study in a TOML file. Raises `StudyError` with file, line and column, and the nearest key."""
    try:
        text = path.read_text("utf-8", errors="replace")
    except OSError as error:
        raise StudyError(
            f"{path}: cannot be read ({error.strerror}); name a study file, or use --task, --policy and --strategy"
        ) from None
    try:
        body = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: is not TOML: {error}") from None
    return check(body, str(path), text)


def check(body: dict[str, object], where: str, text: str = "") -> Study:
    """A study from its keys. Raises `StudyError` with the place and the nearest key."""
    try:
        study = Study.model_validate(body)
        _check_sizes(study, where)
        return study
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0]) if problem["loc"] else ""
        path = ".".join(map(str, problem["loc"]))
        keys = [part for part in reversed(problem["loc"]) if isinstance(part, str)]
        place = next(filter(None, (_place(text, key) for key in keys)), "")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            name = str(problem["loc"][-1])
            known = [*Study.model_fields] if name == key else [f.name for f in (*fields(Sampling), *fields(Budget))]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
            raise StudyError(f"{where}{place}: there is no key {path!r}; {hint}") from None
        if problem["type"] == "missing":
            raise StudyError(f"{where}: {path!r} is missing; see the example in `ponder run --help`") from None
        if problem["type"] == "greater_than_equal":
            raise StudyError(f"{where}{place}: {path} = {problem['input']!r} must be at least {problem['ctx']['ge']}") from None
        cause = problem.get("ctx", {}).get("error", problem["msg"])
        raise StudyError(f"{where}{place}: {path} = {problem['input']!r}: {cause}") from None


def _check_sizes(study: Study, where: str) -> None:
    """A strategy with {k} and no k would be no strategy at all."""
    if not study.k and any("{k}" in spec for spec in study.strategies):
        raise StudyError(f"{where}: a strategy holds {{k}}, but k is missing; give the sizes, such as k = [1, 2, 4, 8]")


def write(study: Study, path: Path) -> None:
    """Write a study as TOML that `read` reads back as the same study."""
    lines = ["# Every setting of this study, defaults included; `ponder run` on this folder goes on with it."]
    for key, value in study.model_dump(exclude_none=True).items():
        if key in ("sampling", "budgets"):
            value = [_given(item) for item in cast("tuple[Sampling | Budget, ...]", getattr(study, key))]
        lines.append(f"{key} = {_toml(value)}")
    write_lines(iter(lines), path)


def displaced(before: Study, now: Study) -> str:
    """The tasks and policies of the study a folder held, where `now` leaves out one of them; else "": the new one shows all of the old."""
    if {*before.tasks} <= {*now.tasks} and {*before.policies} <= {*now.policies}:
        return ""
    return f"{', '.join(before.tasks)} with {', '.join(before.policies)}"


def capped(sampling: Sampling, study_cap: int | None, task_cap: int) -> Sampling:
    """The sampling with the study's token cap; without one its own, or the task's where it was left at the default."""
    default = task_cap if sampling.max_tokens == Sampling().max_tokens else sampling.max_tokens
    return replace(sampling, max_tokens=study_cap or default)


def _given(item: Sampling | Budget) -> dict[str, object]:
    return {key: value for key, value in asdict(item).items() if value is not None}


def _toml(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # all else that TOML escapes, JSON does
        case _:
            return repr(value)


def _place(text: str, key: str) -> str:
    """Line and column of a key in a TOML text, as far as a search for its name can tell."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.search(rf"(?<![\w-]){re.escape(key)}\s*=", line) if key else None
        if found:
            return f":{number}:{found.start() + 1}"
    return ""
