"""How results are printed: tables for people, one JSON object a line for programs; model text is stripped of control characters."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ponder.errors import StudyError
from ponder.types import JSON

if TYPE_CHECKING:
    from ponder.cli.curve import Point
    from ponder.cli.runner import Progress, Runner
    from ponder.scaling.bootstrap import Interval
    from ponder.store import Journal, RunRecord, StudyStore


LEDGER = ("completion", "scored", "prompt", "cached")
"""The kinds of tokens of a question's whole run, discarded branches included: written, read by reward models, read by policies, and of
these from the engine's cache."""


def clean(text: str) -> str:
    """Text that cannot steer a terminal: no escape, control or direction-changing characters but newline and tab."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co"))


def counted(count: int, noun: str) -> str:
    """A number of things: 1 problem, 2 problems."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns, the first flush left, the others flush right."""
    lines = [list(head), *[[clean(cell).replace("\n", " ") for cell in row] for row in rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    for number, line in enumerate(lines):
        print(
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )
        if number == 0:
            print("  ".join("-" * width for width in widths))


def curve_table(points: Sequence[Point], *, as_json: bool) -> None:
    """Accuracy against compute, a line for each point, a block for each cell."""
    if as_json:
        for point in points:
            print(json.dumps(asdict(point)))
        return
    for cell in dict.fromkeys(point.cell for point in points):
        group = [point for point in points if point.cell == cell]
        print(
            f"\n{clean(cell)}  ({counted(group[0].n, 'problem')}, {counted(group[0].seeds, 'seed')}; 95% intervals over problems)\n"
        )
        rows, before = [], ""
        for p in group:
            name = p.strategy if p.strategy != before else ""
            before = p.strategy
            note = "bound" if p.bound else ""
            cost = f"{p.cost:.0f}" if p.cost >= 10 or p.axis == "tokens" else f"{p.cost:.3g}"
            rows.append([name, str(p.k), cost, f"{p.value:.3f}", f"[{p.low:.3f}, {p.high:.3f}]", p.how, note])
        table(
            [
                "strategy",
                "samples",
                group[0].axis if group[0].axis != "samples" else "drawn",
                "accuracy",
                "95% interval",
                "from",
                "",
            ],
            rows,
        )


def summary(store: StudyStore, where: Path, order: Sequence[str], *, as_json: bool) -> None:
    """What each strategy reached in each cell, its seeds pooled; strategies in the given order.

    tokens are completion and scored; prompt and cached are beside it. Seeds of one problem are averaged first, as they are not independent: the interval is Wilson's over problems for one seed, and a
    bootstrap over problems for several.
    """
    groups: dict[tuple[str, str, str], list[RunRecord]] = {}
    for run in store.runs():
        if not run.strategy.startswith("draw("):
            cell = {key: value for key, value in json.loads(run.cell).items() if key != "seed"}
            groups.setdefault((json.dumps(cell), run.strategy, run.budget), []).append(run)
    rows = []
    place = {strategy: at for at, strategy in enumerate(order)}
    for (cell_key, strategy, budget), runs in sorted(
        groups.items(), key=lambda item: (item[0][0], place.get(item[0][1], len(place)))
    ):
        cell = json.loads(cell_key)
        n, interval = _over_problems(runs)
        body: dict[str, JSON] = {
            "cell": f"{cell['task']} | {cell['policy']} | {cell['sampling']}",
            "strategy": strategy,
            "budget": budget,
            "n": n,
            "seeds": len(runs) // n,
            "accuracy": interval.value,
            "low": interval.low,
            "high": interval.high,
            "samples": sum(run.spent.samples for run in runs) / len(runs),
            "tokens": sum(run.spent.usage.tokens for run in runs) / len(runs),
            **{kind: sum(getattr(run.spent.usage, kind) for run in runs) / len(runs) for kind in LEDGER},
            "no_answer": sum(run.chain is None for run in runs),
            "oracle": any(run.oracle for run in runs),
            "study": str(where),
        }
        if as_json:
            print(json.dumps(body))
        mark = " (upper bound)" if body["oracle"] else ""
        temperature = cell["sampling"].split()[0]
        accuracy = f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
        head = [f"{strategy}{mark}", f"{cell['task']} | {cell['policy']} | {temperature}", budget, str(n), accuracy]
        kinds = [f"{body[kind]:.0f}" for kind in ("tokens", *LEDGER)]
        rows.append([*head, f"{body['samples']:.1f}", *kinds, str(body["no_answer"])])
    if not as_json:
        table(
            [
                "strategy",
                "task and sampling",
                "budget",
                "problems",
                "accuracy, 95% interval",
                "samples",
                "tokens",
                *LEDGER,
                "no answer",
            ],
            rows,
        )
        print(f"ponder: kept in {where}; curve: ponder curve {where}", file=sys.stderr)


def _over_problems(runs: Sequence[RunRecord]) -> tuple[int, Interval]:
    """How many problems, and accuracy over them."""
    from ponder.scaling.bootstrap import accuracy_intervals, wilson

    by_problem: dict[str, list[bool]] = {}
    for run in runs:
        by_problem.setdefault(run.problem, []).append(run.correct)
    if len(by_problem) == len(runs):
        return len(runs), wilson(sum(run.correct for run in runs), len(runs))
    [interval] = accuracy_intervals([sum(right) / len(right) for right in by_problem.values()], seed=0)
    return len(by_problem), interval


def problems(store: StudyStore, bank: Journal, problem: str | None, *, judged: bool = True, as_json: bool) -> None:
    """A line for each problem, or for each run of one; texts are in the bank. judged: whether there are references to be right by."""
    runs = [run for run in store.runs() if not run.strategy.startswith("draw(")]
    if problem is None:
        for name in dict.fromkeys(run.problem for run in runs):
            mine = [run for run in runs if run.problem == name]
            right = sum(run.correct for run in mine)
            body: dict[str, JSON] = {"problem": name, "runs": len(mine), **({"correct": right} if judged else {})}
            told = f"{right} of {len(mine)} runs right" if judged else f"{len(mine)} run{'s' * (len(mine) > 1)}"
            print(json.dumps(body) if as_json else f"{clean(name)}  {told}")
        return
    mine = [run for run in runs if run.problem == problem]
    if not mine:
        raise StudyError(f"there is no problem {problem!r} in this study; `ponder show STUDY` lists them")
    shown: dict[str, str] = {}
    for run in mine:
        text, reason = _text(store, bank, run), _reason(store, run)
        verdict: dict[str, JSON] = {"correct": run.correct, "reason": reason} if judged else {}
        body = {"strategy": run.strategy, "budget": run.budget, "answer": run.answer, **verdict}
        if as_json:
            print(json.dumps({**body, "text": text}))
            continue
        why = f" ({clean(reason)})" if reason else ""
        answer = clean(run.answer or "no answer")
        said = f": {'right' if run.correct else 'wrong'}{why}" if judged else ""
        print(f"\n{run.strategy}  budget {run.budget}{said}")
        print(f"answer: {answer}" if "\n" not in answer else "answer: as in the text")
        if text and text in shown:
            print(f"text: that of {shown[text]}")
        else:
            print(clean(text or "").rstrip())
            shown[text or ""] = run.strategy


def _reason(store: StudyStore, run: RunRecord) -> str:
    """Why the newest verdict on a run's proposal is what it is; "" for a right one, or without a proposal."""
    found = store.journal.read(
        "SELECT reason FROM verdicts WHERE problem = ? AND chain = ? ORDER BY rowid DESC LIMIT 1", [run.problem, run.chain]
    )
    return str(found[0][0]) if found else "" if run.chain else "no proposal"


def plan(runner: Runner, *, as_json: bool) -> None:
    """The most a study can cost: every strategy draws from one bank, so the widest counts."""
    from ponder.cli.study import capped
    from ponder.core import parts
    from ponder.sandbox.core import RunsCode

    study = runner.study
    widest = max([study.slice, *[int(getattr(strategy, "n", 1)) for strategy in runner.strategies]])
    limits = [budget.samples or widest for budget in study.budgets]
    samples = max(study.slice, min(widest, max(limits)))
    questions = sum(len(task.problems) for task in runner.tasks) * len(study.policies) * len(study.sampling) * len(study.seeds)
    tokens = (
        sum(
            len(task.problems) * samples * capped(sampling, study.max_tokens, task.max_tokens).max_tokens
            for task in runner.tasks
            for sampling in study.sampling
        )
        * len(study.policies)
        * len(study.seeds)
    )
    body: dict[str, JSON] = {
        "questions": questions,
        "samples_each": samples,
        "samples": questions * samples,
        "completion_tokens_at_most": tokens,
    }
    if as_json:
        print(json.dumps(body))
    else:
        print(
            f"{counted(questions, 'question')} x {counted(samples, 'sample')} = {counted(questions * samples, 'sample')}, "
            f"at most {counted(tokens, 'completion token')}; banked ones are free"
        )
        asking = {repr(one) for strategy in runner.strategies for one in parts(strategy) if isinstance(one, RunsCode)}
        if asking:
            print(f"besides what {', '.join(sorted(asking))} samples for its scores")


@contextmanager
def progress(clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[Progress], None] | None]:
    """A bar with the time left on a terminal; elsewhere a line every 10 s while problems get done, every 30 s while none does."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("problems"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("problems", total=None, note="")
            yield lambda p: bar.update(task, completed=p.done, total=p.total, note=_so_far(p))
        return
    last, shown = clock(), 0

    def line(p: Progress) -> None:
        nonlocal last, shown
        if p.done == p.total > shown or clock() - last >= (10 if p.done > shown else 30):
            last, shown = clock(), p.done
            print(f"ponder: {p.done}/{p.total} problems, {_so_far(p)}", file=sys.stderr)

    yield line


def _so_far(p: Progress) -> str:
    samples = f"{p.samples:,} sample{'s' * (p.samples != 1)}, " if p.samples else ""
    return f"{samples}{p.tokens:,} tokens of runs so far (banked ones too), {p.failed} failed"


@contextmanager
def download(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Megabytes so far, on a terminal."""
    del name
    shown = sys.stderr.isatty()
    yield (
        lambda done, total: (
            print(f"\r{done / 1e6:.0f} of {(total or 0) / 1e6:.0f} MB", end="", file=sys.stderr) if shown else None
        )
    )
    if shown:
        print(file=sys.stderr)


def _text(store: StudyStore, bank: Journal, run: RunRecord) -> str | None:
    """The text a run proposed, found in the pools of its cell."""
    if run.chain is None:
        return None
    from ponder.types import chain_digest

    cell = json.loads(run.cell)
    for one in store.problems(cell["problems"]):
        if one.question.id == run.problem:
            for (text,) in bank.read(
                "SELECT text FROM samples JOIN pools ON pools.id = samples.pool WHERE policy = ? AND chain = ?",
                [cell["fingerprint"], chain_digest(one.question.messages, "")],
            ):
                if chain_digest(one.question.messages, str(text)) == run.chain:
                    return str(text)
    return None
