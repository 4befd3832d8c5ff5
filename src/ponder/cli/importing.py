"""`ponder import`: samples made elsewhere, as a study that `ponder curve` reads like any other."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ponder.bank import Row
from ponder.cli.provenance import write_provenance
from ponder.cli.runner import Cell, Draw, record, run_id, verdict_key
from ponder.cli.study import check, write
from ponder.core import END, Ask, Budget, Outcome, PolicyInfo, Sampling, Spent, Task, Until
from ponder.errors import DataError, MissingExtraError, StudyError
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import JSON, Chain, Finish, Problem, Question, Score, Step, Usage, Verdict, user

MAX_TOKENS = 1_000_000
"""Cap recorded for imported samples, whose own cap is not known."""
MOST_ROWS = 2_000_000
MOST_TOKENS = 2**53
"""Of one sample: whole numbers up to here are exact wherever they are summed."""
LARGEST = 1.7e308
"""Of a score; JSON has whole numbers that no float holds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One imported sample, checked."""

    answer: str | None
    correct: bool
    text: str
    score: float | None
    tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class _Elsewhere:
    """The policy of an imported bank: known by name only."""

    info: PolicyInfo

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Nothing can be drawn from it."""
        raise DataError(f"{self.info.name}: an imported bank cannot draw the {len(asks)} samples that are missing")


@dataclass(frozen=True, slots=True)
class _GivenVerdicts:
    version: str = "imported"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """Verdicts come with the import."""
        raise DataError(f"{problem.question.id}: {len(texts)} answers have no imported verdict")


def bring(file: Path, out: Path | None, name: str | None) -> None:
    """Read a file of samples into a study folder. Raises `DataError` with file and line before anything is written."""
    name = name or file.stem
    where = out or Path("studies") / name
    read = list(_problems(file))
    n = min(len(samples) for _, samples in read)
    widest = max(len(samples) for _, samples in read)
    if n != widest:
        raise DataError(
            f"{file}: problems have {n} to {widest} samples; estimators need the same number of every problem: cut them to {n}"
        )
    if (where / "study.db").exists():
        raise StudyError(f"{where}: holds a study already; name another folder with --out")
    scored = all(sample.score is not None for _, samples in read for sample in samples)
    strategies = ["sample", f"self_consistency(n={n})"]
    if scored:
        strategies += [f"{kind}(n={n}, verifier=recorded('score'))" for kind in ("best_of_n", "weighted_vote")]
    body: dict[str, object] = {
        "name": name,
        "tasks": ["imported"],
        "policies": ["imported"],
        "strategies": strategies,
        "slice": n,
    }
    study = check({**body, "sampling": [Sampling(max_tokens=MAX_TOKENS)]}, str(file))
    with Journal(where / "study.db") as journal:
        write(study, where / "study.resolved.toml")
        write_provenance(where / "provenance.json", study)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        asyncio.run(_keep(journal, file.stem, f"imported-{digest}", read))
    print(f"ponder: {len(read)} problems x {n} samples in {where}; curve: ponder curve {where}", file=sys.stderr)


async def _keep(journal: Journal, name: str, fingerprint: str, read: Sequence[tuple[Problem, list[Sample]]]) -> None:
    policy = _Elsewhere(PolicyInfo(name, fingerprint, frozenset()))
    problems = tuple(problem for problem, _ in read)
    task = Task(name, _problems_digest(problems), problems, lambda _: None, _GivenVerdicts())
    sampling = Sampling(max_tokens=MAX_TOKENS)
    cell = Cell(task, policy, sampling, 0)
    store, table = StudyStore(journal), SqliteTable(journal)
    await store.keep_problems(task.fingerprint, task.problems)
    for problem, samples in read:
        root = Chain(problem.question.messages)
        pool = Ask(root, (), "0").pool(policy.info.fingerprint, END, sampling)
        steps = [Step(one.text, Usage(completion=one.tokens, calls=1)) for one in samples]
        chains = [root.then(step, one.finish) for step, one in zip(steps, samples, strict=True)]
        rows = [Row(pool, i, MAX_TOKENS, chain.finish, chain.steps[-1]) for i, chain in enumerate(chains)]
        await table.keep(rows, [root])
        verdicts = {
            verdict_key(chain): Verdict(one.correct and chain.finish == "stop", one.answer)
            for chain, one in zip(chains, samples, strict=True)
        }
        await store.keep_verdicts(task.fingerprint, problem.question.id, task.grader.version, verdicts)
        scores = {
            chain.digest: Score(1 / (1 + math.exp(-max(-700.0, min(700.0, one.score)))), one.score)
            for chain, one in zip(chains, samples, strict=True)
            if one.score is not None
        }
        await table.keep_scores("recorded:score", scores)
        draw = Draw(len(samples))
        usage = sum((chain.usage for chain in chains), Usage())
        outcome = Outcome(None, None, Spent(len(samples), usage), (), oracle=False, failed=0, exhausted=False)
        run = run_id(cell, problem, draw, Budget())
        await store.keep_run(record(run, cell, problem, draw, Budget(), outcome, correct=False), outcome)


def _problems_digest(problems: Sequence[Problem]) -> str:
    """Identity of the problems alone: two files of samples of the same problems can be compared."""
    told = sorted(json.dumps([p.question.id, p.question.messages[0].text, p.reference]) for p in problems)
    return f"imported-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}"


def _problems(file: Path) -> Iterator[tuple[Problem, list[Sample]]]:
    seen: set[str] = set()
    asked: dict[str, str] = {}
    for place, body in _rows_of_parquet(file) if file.suffix == ".parquet" else _lines(file):
        try:
            name, given = str(body["problem"]), body["samples"]
            if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
                raise DataError(f"{place}: samples = {str(given)[:80]!r} must be a list of samples, each an object with correct")
            samples = [_sample(cast("dict[str, JSON]", one), at, place) for at, one in enumerate(given)]
            said: list[object] = [{**body, "samples": []}, *((one.text, one.answer) for one in samples)]
            json.dumps(said, ensure_ascii=False, default=str).encode()  # half a surrogate pair is no text, and cannot be kept
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{place}: is not an imported problem ({error!r}); `ponder import --help` shows the form") from None
        if not samples:
            raise DataError(f"{place}: problem {name!r} has no samples")
        _check_texts(samples, place)
        if name in seen:
            raise DataError(f"{place}: problem {name!r} stands in the file twice")
        seen.add(name)
        question = str(body.get("question") or f"(imported problem {name})")
        if question in asked:
            raise DataError(
                f"{place}: problem {name!r} asks what problem {asked[question]!r} asks; merge their samples, or tell them apart"
            )
        asked[question] = name
        metadata = {key: value for key, value in body.items() if key not in ("problem", "samples", "question", "gold")}
        yield Problem(Question(name, (user(question),), metadata), body.get("gold")), samples
    if not seen:
        raise DataError(f"{file}: holds no problem; one JSON object a line is expected")


def _lines(file: Path) -> Iterator[tuple[str, dict[str, JSON]]]:
    """The problems of a JSONL file, each with its place."""
    try:
        lines = file.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); give the path of a JSONL file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not UTF-8 (byte {error.start}); convert it first") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            place = f"{file}:{number}"
            try:
                body = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{place}: is not an imported problem ({error!r}); `ponder import --help` shows the form"
                ) from None
            yield place, body


def _rows_of_parquet(file: Path) -> Iterator[tuple[str, dict[str, JSON]]]:
    """The problems of a Parquet file with a row for each sample, in the order of their first rows."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        rows = parquet.ParquetFile(file).metadata.num_rows
        if rows > MOST_ROWS:
            raise DataError(
                f"{file}: {rows:,} samples are more than the {MOST_ROWS:,} that a journal takes in minutes; `ponder curve {file}` reads them as they are"
            )
        table = parquet.read_table(file).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({error}); write it again") from None
    found: dict[str, dict[str, JSON]] = {}
    for number, row in enumerate(table, 1):
        if row.get("problem") is None:
            raise DataError(f"{file}[{number}]: has no problem; a sample is a row with problem and correct")
        mine = found.setdefault(
            str(row["problem"]), {**{key: row[key] for key in ("question", "gold") if row.get(key) is not None}}
        )
        cast("list[JSON]", mine.setdefault("samples", [])).append({key: value for key, value in row.items() if value is not None})
    yield from ((f"{file}[{name}]", {"problem": name, **body}) for name, body in found.items())


def _check_texts(samples: Sequence[Sample], place: str) -> None:
    """Verdicts and scores are kept by text: equal ones must have been judged alike."""
    first: dict[str, int] = {}
    for at, sample in enumerate(samples):
        other = first.setdefault(sample.text, at)
        if (sample.answer, sample.correct, sample.score) != (samples[other].answer, samples[other].correct, samples[other].score):
            raise DataError(
                f"{place}: samples {other} and {at} have the same text, but not the same answer, verdict and score; mend one of them"
            )


def _sample(one: dict[str, JSON], at: int, place: str) -> Sample:
    answer, correct, score, tokens = one.get("answer"), one["correct"], one.get("score"), one.get("tokens", 1)
    if not isinstance(correct, bool):
        raise DataError(f"{place}: sample {at}: correct = {correct!r} must be true or false")
    if score is not None and not _finite(score):
        raise DataError(f"{place}: sample {at}: score = {str(score)[:80]} must be a finite number, or be left out")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens <= MOST_TOKENS:
        raise DataError(f"{place}: sample {at}: tokens = {str(tokens)[:80]} must be a count of at most {MOST_TOKENS:,}")
    # Samples without text would be one chain: the number keeps them, and their scores, apart.
    text = str(one.get("text") or f"(sample {at} of an imported bank, without its text)\nanswer: {answer}")
    finish: Finish = "stop" if answer is not None and one.get("finish", "stop") == "stop" else "length"
    number = None if score is None else float(cast("float", score))
    return Sample(None if answer is None else str(answer), correct, text, number, tokens, finish)


def _finite(score: JSON) -> bool:
    return isinstance(score, int | float) and not isinstance(score, bool) and abs(score) < math.inf and abs(score) <= LARGEST
