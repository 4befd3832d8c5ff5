"""`ponder loop LOOP.toml`: the whole circle. Search, bank, train verifier and policy, search with the better pair.

    name = "lab"
    model = "lab:small"
    tasks = ["countdown(n=500, split='train')"]
    dev = "countdown(n=100, split='train', skip=600)"    # other problems of the train split; what is claimed needs the test split
    method = "vstar"                                   # of `ponder train em`; [em] changes its fields
    search = ["best_of_n(n=16, verifier={verifier})", "self_consistency(n=16)"]
    slice = 32
    seed = 0
    [em]
    rounds = 3
    beside = "process"                                 # the verifier: preference, outcome or process
    [recipe]                                           # of the policy's training, fields of `ponder.learners.training.Recipe`
    epochs = 2.0
    [verifier_recipe]
    epochs = 4.0

Each round samples the training problems with the policy of the round before, trains the verifier on the samples of all rounds and the
policy on what the method keeps, and runs the strategies of `search` on the held-out problems with the new pair. Train and test tokens are
both on the books. Started again with the same file it goes on where it was.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ponder.cli.bases import locate
from ponder.cli.em import Loop
from ponder.errors import StudyError
from ponder.learners.em import EM, METHODS
from ponder.learners.models import is_lab
from ponder.learners.training import Recipe

T = TypeVar("T", EM, Recipe)


class Plan(BaseModel):
    """What the TOML file says, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="loop", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    model: str = "lab"
    tasks: tuple[str, ...] = Field(min_length=1)
    dev: str
    method: str = "vstar"
    search: tuple[str, ...] = ()
    slice: int = Field(default=32, ge=1, strict=True)
    seed: int = Field(default=0, strict=True)
    hint: str = ""
    max_tokens: int | None = Field(default=None, ge=1, strict=True)
    em: dict[str, Any] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)
    verifier_recipe: dict[str, Any] = Field(default_factory=dict)


def read(path: Path) -> Plan:
    """The plan in a TOML file. Raises `StudyError` with the file and the key."""
    try:
        return Plan.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror}); name a loop file") from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise StudyError(f"{path}: {key}: {first['msg']}; there are {', '.join(Plan.model_fields)}") from None
    except ValueError as error:
        raise StudyError(f"{path}: is not TOML: {error}") from None


def loop_of(plan: Plan, out: Path, resume: str) -> Loop:
    """The loop that a plan describes. Raises `StudyError` for a method or a field that does not exist."""
    if plan.method not in METHODS:
        raise StudyError(f"loop: there is no method {plan.method!r}; there are {', '.join(METHODS)}")
    base = locate(plan.model)
    usual = Recipe(epochs=2.0, batch=64, rate=1e-3 if is_lab(base) else 1e-5)
    return Loop(
        base,
        plan.tasks,
        plan.dev,
        _with(METHODS[plan.method], plan.em, "em"),
        _with(usual, plan.recipe, "recipe"),
        _with(usual, plan.verifier_recipe, "verifier_recipe"),
        out,
        plan.seed,
        plan.slice,
        plan.hint,
        plan.search,
        plan.max_tokens,
        resume,
    )


def _with(usual: T, given: dict[str, Any], where: str) -> T:
    """The usual choices with those given, each of its field's own type: "2" is no number of rounds, and "no" is true."""
    kinds = get_type_hints(type(usual))
    for name, value in given.items():
        if name not in kinds:
            raise StudyError(f"loop: [{where}] has no field {name!r}; there are {', '.join(kinds)}")
        try:
            TypeAdapter(kinds[name]).validate_python(value, strict=True)
        except ValidationError as error:
            raise StudyError(f"loop: {where}.{name} = {value!r:.60}: {error.errors()[0]['msg']}") from None
    return replace(usual, **given)
