"""What the verbs do."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ponder import spec
from ponder.cli import output
from ponder.cli.main import interruptible, partial, resume_line
from ponder.cli.provenance import write_provenance
from ponder.cli.runner import Progress, Runner, folder, parse_policy, parse_strategy
from ponder.cli.study import Study, displaced, read, write
from ponder.core import Budget, Sampling, parts
from ponder.errors import DataError, PartialError, StudyError, UsageError
from ponder.sandbox.core import RunsCode
from ponder.sandbox.rooms import room
from ponder.server.record import TASK as TRAFFIC
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.store.export import canonical
from ponder.store.export import write as write_lines
from ponder.types import Question, user

if TYPE_CHECKING:
    from ponder.cli.axes import Axis, Unit
    from ponder.learners.exports import Choice, Kind

STUDY_FILE = "study.db"


def run(study: Study, out: Path | None, *, dry_run: bool, as_json: bool) -> None:
    """Run a study in its folder; ends with what each strategy reached."""
    runner = Runner(study)
    if dry_run:
        output.plan(runner, as_json=as_json)
        return
    where, tier = folder(study, out), runner.sandbox()
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(where / STUDY_FILE))
        bank_journal = stack.enter_context(Journal(Path(study.bank))) if study.bank else None
        _say_displaced(study, where)
        write(study, where / "study.resolved.toml")
        write_provenance(where / "provenance.json", study, tier)
        with output.progress() as report:
            done: Progress = interruptible(runner.run(journal, bank_journal, report), resume=resume_line(where))
        output.summary(StudyStore(journal), where, [repr(one) for one in runner.strategies], as_json=as_json)
        if not as_json:
            if study.slice:
                print("ponder: above is one run of each; `ponder curve` averages over all samples of the slice", file=sys.stderr)
            print(f"ponder: {billed(bank_journal or journal)}", file=sys.stderr)
        if done.failed:
            raise partial(done.failed, where, last_failure(bank_journal or journal))


def _say_displaced(study: Study, where: Path) -> None:
    """Two studies may share a folder, as they share its bank; but what `curve` shows changes, and that should not be a surprise."""
    try:
        other = displaced(read(where / "study.resolved.toml"), study)
    except StudyError:  # nothing there, or nothing that this version can read
        return
    if other:
        now = f"{', '.join(study.tasks)} with {', '.join(study.policies)}"
        print(
            output.clean(
                f"ponder: {where} held another study ({other}); what was paid for of both is kept, "
                f"and `ponder curve` shows the new one ({now}); --name or --out gives it a folder of its own"
            ).replace("\n", " "),
            file=sys.stderr,
        )


def billed(journal: Journal) -> str:
    """What really happened on the wire, over the life of a bank; engines in this process have no attempts."""
    [[requests, failed, tokens]] = journal.read(
        "SELECT count(*), coalesce(sum(status != 'ok'), 0), coalesce(sum(completion), 0) FROM attempts"
    )
    return f"{requests!r} requests on the wire so far, {failed!r} of them failed, {tokens!r} completion tokens billed at most"


def last_failure(journal: Journal) -> str:
    """What the newest failed attempt said, for the message; "" if none was kept."""
    found = journal.read("SELECT status, detail FROM attempts WHERE status != 'ok' ORDER BY id DESC LIMIT 1")
    return output.clean(" ".join(map(str, found[0]))) if found else ""


async def solve_one(
    text: str, policy_spec: str, strategy_spec: str, budget: Budget, sampling: Sampling, seed: int, *, as_json: bool
) -> None:
    """One question, one answer."""
    from ponder.graders.answer import stated_answer
    from ponder.run import solve

    strategy, policy = parse_strategy(strategy_spec), parse_policy(policy_spec)
    if any(isinstance(part, RunsCode) for part in parts(strategy)):
        room()  # refuses before anything is spent
    question = Question("question", (user(text),))
    async with AsyncExitStack() as stack:
        if hasattr(policy, "__aenter__"):
            await stack.enter_async_context(policy)  # type: ignore[arg-type]  # checked by the attribute above
        outcome = await solve(strategy, question, policy, budget=budget, sampling=sampling, seed=seed, answer=stated_answer)
    use = outcome.spent.usage
    if as_json:
        body = {
            "answer": outcome.answer,
            "text": outcome.chain.text if outcome.chain else None,
            "samples": outcome.spent.samples,
            "usage": asdict(use),
            "failed": outcome.failed,
            "exhausted": outcome.exhausted,
        }
        print(json.dumps(body))
        return
    if outcome.chain is None and outcome.failed:
        raise PartialError(
            f"no answer: {outcome.failed} of {outcome.spent.samples} samples failed; `ponder doctor URL` tells what the server can do"
        )
    if outcome.chain is None:
        why = "the budget ran out" if outcome.exhausted else "no sample gave an answer, or the strategy abstained"
        print(f"ponder: no answer ({why})", file=sys.stderr)
    else:
        print(output.clean(outcome.chain.text))
        print(f"ponder: answer {output.clean(outcome.answer or '')!r}", file=sys.stderr)
    print(
        f"ponder: {output.counted(outcome.spent.samples, 'sample')}, {output.counted(use.completion, 'completion token')}, "
        f"{output.counted(use.prompt, 'prompt token')}",
        file=sys.stderr,
    )


def curve(paths: list[Path], png: Path | None, unit: Unit, *, as_json: bool) -> None:
    """Table and picture of one or several studies."""
    from ponder.cli.compare import gather, say  # NumPy: a study on an endpoint needs none
    from ponder.cli.curve import Point, series
    from ponder.scaling.figure import curve_figure

    if png is not None and png.suffix.lower() not in (".png", ".svg"):
        raise UsageError(f"curve: {png} must end in .png or .svg")
    points: list[Point] = []
    for where in paths:
        source = gather(where, unit)
        found = [point for line in source.lines for point in line.points()]
        points += [replace(p, cell=f"{p.cell} | {where.name}") for p in found] if len(paths) > 1 else found
        say(f"{where}: {note}" for note in source.notes)
    if not points:
        raise StudyError(f"{paths[0]}: holds no finished run; `ponder run {paths[0]}` first")
    output.curve_table(points, as_json=as_json)
    figures = series(points)
    for number, (cell, lines) in enumerate(figures.items()):
        target = png or picture(paths[0], unit.axis)
        if len(figures) > 1:
            target = target.with_name(f"{target.stem}-{number + 1}{target.suffix}")
        one = next(point for point in points if point.cell == cell)
        title, _, rest = cell.partition(" | ")
        caption = f"{rest.split(' | ')[0]}, {output.counted(one.n, 'problem')}, {output.counted(one.seeds, 'seed')}; bands: 95% bootstrap over problems"
        curve_figure(lines, target, title=title, caption=caption, x_label=unit.label)
        print(f"ponder: picture in {target}", file=sys.stderr)


def picture(path: Path, axis: Axis) -> Path:
    """Where the curve of a study or a file is drawn: a picture for each axis, that of tokens without its name."""
    target = path / "curve.png" if path.is_dir() else path.with_suffix(".png")
    return target if axis == "tokens" else target.with_stem(f"{target.stem}-{axis}")


def regrade(where: Path, *, as_json: bool) -> None:
    """Judge a study again, from its bank."""
    from ponder.cli.regrade import regrade as again

    if not (where / STUDY_FILE).exists():
        raise StudyError(f"{where}: holds no study ({STUDY_FILE} is missing); `ponder ls` lists the studies below this folder")
    study = read(where / "study.resolved.toml")
    runner = Runner(study)
    tier = runner.sandbox()
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(where / STUDY_FILE))
        bank = stack.enter_context(Journal(Path(study.bank))) if study.bank else None
        with output.progress() as report:
            changes = interruptible(again(runner, journal, bank, report), resume=shlex.join(["ponder", "regrade", str(where)]))
        write_provenance(where / "provenance.json", study, tier)
    if as_json:
        print(json.dumps(asdict(changes)))
    else:
        print(f"{changes.runs} runs judged again, slices included: {changes.right} became right, {changes.wrong} became wrong")


def show(where: Path, problem: str | None, *, as_json: bool) -> None:
    """The problems of a study, or one of them."""
    with ExitStack() as stack:
        study, journal, table = open_study(where, stack)
        output.problems(StudyStore(journal), table.journal, problem, judged=TRAFFIC not in study.tasks, as_json=as_json)


def ls(what: str, *, as_json: bool) -> None:
    """Studies below this folder, or registered names."""
    kinds = [*spec.KINDS, "studies"]
    if what not in kinds:
        shown = f"; `ponder show {what}` shows the study in a folder" if Path(what).is_dir() else ""
        raise UsageError(f"ls: {what!r} must be one of {', '.join(kinds)}{shown}")
    if what != "studies":
        for name in spec.names(what):  # type: ignore[arg-type]  # checked above
            print(json.dumps({"kind": what, "name": name}) if as_json else name)
        return
    for file in sorted(Path().glob(f"**/{STUDY_FILE}")):
        resolved = file.parent / "study.resolved.toml"
        if resolved.exists():
            study = read(resolved)
            body = {"folder": str(file.parent), "name": study.name, "tasks": study.tasks, "policies": study.policies}
            line = output.clean(f"{file.parent}  {', '.join(study.tasks)}  {', '.join(study.policies)}")
            print(json.dumps(body) if as_json else line)


def pull_model(name: str) -> None:
    """Fetch a model; prints its path."""
    from ponder.policies.pull import pull

    with output.download(name) as report:
        path = pull(name, progress=report)
    print(path)


def export(where: Path, file: Path) -> None:
    """Write the canonical export."""
    _check_outside([where], file)
    with ExitStack() as stack:
        study, journal, table = open_study(where, stack)
        try:
            count = write_lines(canonical(journal, table.journal), file)
        except OSError as error:
            raise DataError(f"{file}: cannot be written ({error.strerror}); name a file in a folder that exists") from None
    if study.bank:
        print(f"ponder: with all samples and scores of the shared bank {study.bank}", file=sys.stderr)
    print(f"ponder: {count} lines in {file}", file=sys.stderr)


def examples(folders: list[Path], file: Path, kind: Kind, choice: Choice, separator: str, *, as_json: bool) -> None:
    """Write the judged samples of studies as examples, and say what was left out."""
    from ponder.cli.harvest import harvest
    from ponder.learners import exports

    _check_outside(folders, file)
    skipped: Counter[str] = Counter()
    samples = list(harvest(folders, separator=separator, skipped=skipped))
    for reason, count in skipped.items():
        print(f"ponder: {count} samples left out, {reason}", file=sys.stderr)
    card = exports.export(samples, file, kind, choice, left_out=skipped)
    if as_json:
        print(json.dumps(card))
    beside = exports.card_path(file)
    print(f"ponder: {card['rows']} examples of {card['problems']} problems in {file}, described in {beside}", file=sys.stderr)


def _check_outside(folders: list[Path], file: Path) -> None:
    if file.exists() and file.resolve().parent in [where.resolve() for where in folders]:
        raise UsageError(f"export: {file} stands in the study's own folder and would be overwritten; name another file")


def open_study(where: Path, stack: ExitStack) -> tuple[Study, Journal, SqliteTable]:
    """The study in a folder and the table of its samples, for reading; another process may be at work in it."""
    if not (where / STUDY_FILE).exists():
        raise StudyError(f"{where}: holds no study ({STUDY_FILE} is missing); `ponder ls` lists the studies below this folder")
    study = read(where / "study.resolved.toml")
    journal = stack.enter_context(Journal(where / STUDY_FILE, hold=False))
    bank = stack.enter_context(Journal(Path(study.bank), hold=False)) if study.bank else journal
    return study, journal, SqliteTable(bank)


def refuse_traffic(where: Path, study: Study) -> None:
    """Raise `StudyError` for what `ponder serve` recorded, where accuracy is asked for."""
    if TRAFFIC in study.tasks:
        raise StudyError(
            f"{where}: is traffic that `ponder serve` recorded; it has no references, so that nothing in it is right or wrong: "
            "`ponder show` and `ponder export` read it"
        )
