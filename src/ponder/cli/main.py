"""The verbs of the command line. stdout is data, stderr is chatter; exit codes are listed in `ponder.errors`."""

from __future__ import annotations

import math
import os
import shlex
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

from cyclopts import App, CycloptsError, Parameter

from ponder.errors import MissingExtraError, PartialError, PonderError, StudyError, UsageError

if TYPE_CHECKING:
    from ponder.cli.study import Study
    from ponder.core import Sampling

T = TypeVar("T")

app = App(
    name="ponder",
    help="""Spend compute at test time, measure what it buys, and keep what it found.

    ponder run --task countdown --policy lab --strategy "self_consistency(n=16)" --limit 20

    ponder curve studies/study
    """,
    help_format="plaintext",  # rendering Markdown would double the time of --help
    version_flags=["--version"],
    result_action="return_value",
)
app["--help"].group = app["--version"].group = "Other"

# ruff: noqa: D417  --json and --out are described where they are defined
UnsafeFlag = Annotated[
    bool,
    Parameter(
        name="--unsafe-exec",
        negative="",
        help="Run model-written code unprotected where no sandbox is usable; kept in the provenance.",
    ),
]
JSONFlag = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object a line on stdout, nothing else.")]
OutOption = Annotated[Path | None, Parameter(name="--out", help="Study folder; default studies/NAME.")]


@app.command
def run(
    study: Path | None = None,
    /,
    *,
    task: Annotated[list[str] | None, Parameter(negative="")] = None,
    policy: Annotated[list[str] | None, Parameter(negative="")] = None,
    strategy: Annotated[list[str] | None, Parameter(negative="")] = None,
    limit: int | None = None,
    slice_: Annotated[int | None, Parameter(name="--slice")] = None,
    seed: Annotated[list[int] | None, Parameter(negative="")] = None,
    temperature: Annotated[list[float] | None, Parameter(negative="")] = None,
    top_p: Annotated[list[float] | None, Parameter(negative="")] = None,
    max_tokens: int | None = None,
    budget: Annotated[list[str] | None, Parameter(negative="")] = None,
    concurrency: int | None = None,
    allow_oracle: Annotated[bool, Parameter(negative="")] = False,
    name: str | None = None,
    out: OutOption = None,
    bank: Path | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    unsafe_exec: UnsafeFlag = False,
    json: JSONFlag = False,
) -> None:
    """Run a study, or go on with it: what is banked is not paid for again.

    Args:
        study: A TOML file, or the folder of a study to go on with. Left out: one is made from the options.
        task: Such as countdown, "chain(n=50)", jsonl:FILE. May be given several times, as may the next options.
        policy: Such as lab, "lab('large')", gguf:smollm2, hf:PATH, or the URL of an OpenAI-compatible server.
        strategy: Such as "self_consistency(n=16)".
        limit: Only the first so many problems of each task.
        slice_: Whole samples of every problem, which estimators read.
        seed: Study seed.
        temperature: Of the sampling; 0 is greedy.
        top_p: Of the sampling.
        max_tokens: Most tokens of an answer.
        budget: Such as samples=16 or tokens=4000,seconds=30.
        concurrency: Problems in flight.
        allow_oracle: Let graders take part in a search; the result is an upper bound.
        name: Of the study.
        bank: A bank file shared with other studies.
        dry_run: Print how many requests and tokens this may cost at most, and stop.
    """
    from ponder.cli import verbs
    from ponder.cli.study import check, read

    given: dict[str, object] = {
        "tasks": task,
        "policies": policy,
        "strategies": strategy,
        "limit": limit,
        "slice": slice_,
        "seeds": seed,
        "concurrency": concurrency,
        "name": name,
        "bank": str(bank.absolute()) if bank else None,
        "allow_oracle": allow_oracle or None,
        "sampling": _sampling(temperature, top_p),
        "max_tokens": max_tokens,
        "budgets": [_budget(text) for text in budget] if budget else None,
    }
    options = {key: value for key, value in given.items() if value is not None}
    where = "the options"
    if study is not None:
        where = str(study)
        if study.is_dir():
            out = out or study
            study = study / "study.resolved.toml"
        options = {**read(study).model_dump(exclude_none=True), **options}
    elif not (task and policy and strategy):
        raise UsageError("run: give a study file, or --task, --policy and --strategy; `ponder run --help` has examples")
    checked: Study = check(options, where)
    _permit(unsafe_exec)
    verbs.run(checked, out, dry_run=dry_run, as_json=json)


@app.command
def solve(
    question: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    policy: str,
    strategy: str = "sample",
    budget: str | None = None,
    temperature: float = 1.0,
    max_tokens: int = 1024,
    seed: int = 0,
    unsafe_exec: UnsafeFlag = False,
    json: JSONFlag = False,
) -> None:
    """Spend compute on one question and print the answer.

    Args:
        question: The question; "-" reads it from standard input. Answers are compared by their last stated result.
        policy: A policy spec or the URL of a server.
        strategy: A strategy spec.
        budget: Such as samples=16 or tokens=4000,seconds=30.
        temperature: Of the sampling; 0 is greedy.
        max_tokens: Most tokens of an answer.
        seed: Of the samples.
    """
    from ponder.cli import verbs
    from ponder.core import Budget, Sampling

    _permit(unsafe_exec)
    text = sys.stdin.read() if question == "-" else question
    sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
    limit = Budget(**_budget(budget)) if budget else Budget()  # type: ignore[arg-type]  # whole numbers where they must be
    interruptible(verbs.solve_one(text, policy, strategy, limit, sampling, seed, as_json=json), resume="")


@app.command
def regrade(study: Path, /, *, unsafe_exec: UnsafeFlag = False, json: JSONFlag = False) -> None:
    """Judge a finished study again with the graders of this version, from its bank: no engine is asked for anything."""
    from ponder.cli import verbs

    _permit(unsafe_exec)
    verbs.regrade(study, as_json=json)


@app.command
def show(study: Path, problem: str | None = None, /, *, json: JSONFlag = False) -> None:
    """Print the problems of a study with their runs, or one problem with what each strategy proposed."""
    from ponder.cli import verbs

    verbs.show(study, problem, as_json=json)


@app.command
def ls(what: str = "studies", /, *, json: JSONFlag = False) -> None:
    """List studies (below this folder), strategies, verifiers, policies or tasks."""
    from ponder.cli import verbs

    verbs.ls(what, as_json=json)


@app.command
def pull(model: str, /) -> None:
    """Fetch a model into the cache and print where it is: a name of the catalogue, or a Hugging Face repository id."""
    from ponder.cli import verbs

    verbs.pull_model(model)


@app.command(name="import")
def import_(file: Path, /, *, out: OutOption = None, name: str | None = None) -> None:
    """Take samples made elsewhere as a study.

    Args:
        file: JSONL, a problem a line: {"problem", "gold"?, "question"?, "samples": [{"answer", "correct", "text"?, "score"?, "tokens"?}]};
            or Parquet, a sample a row, with the same columns.
        name: Of the study; default the file's.
    """
    from ponder.cli import importing

    importing.bring(file, out, name)


@app.command
def export(
    paths: Annotated[list[Path], Parameter(negative="", name="STUDY... FILE")],
    /,
    *,
    as_: Annotated[
        Literal["samples", "prompt_completion", "unpaired", "preference", "stepwise", "inspect", "lm_eval"] | None,
        Parameter(name="--as"),
    ] = None,
    distinct: Literal["no", "text", "derivation"] = "text",
    most: int | None = None,
    balanced: Annotated[bool, Parameter(negative="")] = False,
    truncated: Annotated[bool, Parameter(negative="")] = False,
    side: Literal["train", "evaluation"] | None = None,
    share: float = 0.1,
    seed: int = 0,
    separator: str = r"\n",
    json: JSONFlag = False,
) -> None:
    """Write a study as sorted JSONL, equal byte for byte for equal studies, or studies as examples to train on.

    Args:
        paths: Studies (one, unless --as is given), then the file; examples end in .jsonl or .parquet and get a card beside them.
        as_: Write the judged samples of all studies in the columns of TRL's trainers, the options below choosing among them; or as logs that
            inspect (.eval) or the tools of lm-eval (.jsonl) read.
        distinct: Leave out what says the same, by text or by its list of equations.
        most: Examples of a problem.
        balanced: As many examples of each difficulty as of the rarest.
        truncated: Take samples that were cut for wrong ones.
        side: Problems of one side of the split only.
        share: Of the problems, held out for evaluation.
        seed: Of the split and of what is drawn.
        separator: What ends a step.
    """
    from ponder.cli import verbs

    *studies, file = paths
    if not studies:
        raise UsageError(f"export: {file} is one path; give the studies, then the file to write")
    if as_ == "inspect" or as_ == "lm_eval":
        from ponder.cli import interchange

        interchange.write(studies, file, as_)
    elif as_ is not None:
        from ponder.learners.exports import Choice

        choice = Choice(distinct, most, balanced, truncated, side, share, seed)
        verbs.examples(studies, file, as_, choice, separator.replace(r"\n", "\n"), as_json=json)
    elif len(studies) > 1:
        raise UsageError(f"export: {len(studies)} studies make no canonical export; export each alone, or give --as for examples")
    elif file.suffix in (".parquet", ".eval"):
        raise UsageError(f"export: {file}: the canonical export is JSONL; give --as samples for Parquet, --as inspect for .eval")
    else:
        verbs.export(studies[0], file)


@app.command
def doctor(
    url: str | None = None, /, *, model: str = "", fresh: Annotated[bool, Parameter(negative="")] = False, json: JSONFlag = False
) -> None:
    """Print what this machine has, or what a server can do.

    Args:
        url: Of an OpenAI-compatible server.
        model: Which model of it; default the only one.
        fresh: Probe again instead of reading the cache.
    """
    from ponder.cli import doctor as checks

    checks.report(url, model, fresh=fresh, as_json=json)


# Loaded with their first use; with the help here, `ponder --help` loads none of them.
app.command("ponder.cli.comparing:curve", name="curve", help="Print accuracy against compute for every strategy, and draw it.")
app.command(
    "ponder.cli.comparing:compare", name="compare", help="Compare strategies and studies at equal compute; write a report."
)
app.command("ponder.cli.circle:label", name="label", help="Label the steps of sampled chains by roll-outs, for `train process`.")
app.command(
    "ponder.cli.circle:loop", name="loop", help="Close the circle: search, keep, train verifier and policy, search again."
)
app.command("ponder.cli.serve:app", name="serve", help="Serve every strategy behind the OpenAI API (extra `serve`).")
app.command(
    "ponder.cli.plan:plan", name="plan", help="Say how many tokens which strategy needs for an accuracy, from a small study."
)
app.command("ponder.cli.tune:tune", name="tune", help="Choose a strategy for each difficulty and budget; write a policy card.")
app.command("ponder.cli.train:app", name="train", help="Train a policy or a verifier from verified samples (extra `train`).")


def run_app(tokens: list[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return _fail(f"{error}\n(see `ponder --help`)", 2)
    except KeyboardInterrupt:
        return 130
    except Stopped as stopped:
        return stopped.code
    except PonderError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = {
            "torch": "train",
            "trl": "train",
            "peft": "train",
            "transformers": "hf",
            "xllamacpp": "gguf",
            "pyarrow": "data",
            "datasets": "data",
            "reasoning_gym": "gym",
        }.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return _fail(str(MissingExtraError(str(error.name), extra)), MissingExtraError.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run_main() -> None:
    """Run the process's own command line."""
    sys.exit(run_app())


class Stopped(Exception):
    """A signal ended the work after it was made safe."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def interruptible(work: Coroutine[object, object, T], *, resume: str) -> T:
    """Run a coroutine; the first SIGINT or SIGTERM cancels it and lets it close what is open, a second SIGINT ends at once."""
    import asyncio

    caught: list[int] = []

    async def guarded() -> T:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            if caught:
                os._exit(128 + number)
            caught.append(number)
            print("ponder: stopping; what has come is being kept", file=sys.stderr)
            if task:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        return await work

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if not caught:
            raise
        if resume:
            print(f"ponder: stopped by {signal.Signals(caught[0]).name}; go on with: {resume}", file=sys.stderr)
        raise Stopped(128 + caught[0]) from None


def resume_line(folder: Path) -> str:
    """The command that goes on with a study."""
    return shlex.join(["ponder", "run", str(folder)])


def partial(failed: int, folder: Path, last: str) -> PartialError:
    """What a study with failed samples ends with; `last` is what the newest failed attempt said."""
    why = f" (the last: {last})" if last else ""
    return PartialError(
        f"{failed} samples failed and are no answers{why}; all others are kept in {folder}; draw them again with: {resume_line(folder)}"
    )


def _permit(unsafe_exec: bool) -> None:
    if unsafe_exec:
        from ponder.sandbox.rooms import permit_unsafe

        print("ponder: --unsafe-exec: where no sandbox is usable, model-written code will run as you do", file=sys.stderr)
        permit_unsafe()


def _sampling(temperature: list[float] | None, top_p: list[float] | None) -> list[Sampling] | None:
    if temperature is None and top_p is None:
        return None
    from ponder.core import Sampling

    return [Sampling(temperature=t, top_p=p) for t in temperature or [1.0] for p in top_p or [1.0]]


def _budget(text: str) -> dict[str, float]:
    from ponder.core import Budget

    body: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = (word.strip() for word in part.partition("="))
        if key not in ("samples", "tokens", "calls", "seconds", "money"):
            raise StudyError(f"budget {text!r}: {key!r} is not one of samples, tokens, calls, seconds, money; write samples=16")
        if key in body:
            raise StudyError(f"budget {text!r}: {key!r} is given twice")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise StudyError(f"budget {text!r}: {value!r} is not a number; write {key}=16")
        if key not in ("seconds", "money"):
            if number != int(number):
                raise StudyError(f"budget {text!r}: {key} are counted in whole numbers; write {key}={int(number)}")
            number = int(number)
        body[key] = number
    Budget(**body)  # type: ignore[arg-type]  # checked here, so that the message names the budget
    return body


def _fail(message: str, code: int) -> int:
    from ponder.cli.output import clean

    print(f"ponder: {clean(message)}", file=sys.stderr)
    return code
