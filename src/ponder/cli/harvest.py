"""Verified samples out of study folders: what the bank holds, joined with what the graders said.

Taken are whole answers, drawn from the bare problem to their end; parts of answers, which strategies in steps draw, belong to no
verdict. A sample is told once, however many studies or caps it was drawn under.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ponder.bank import Row, replay
from ponder.cli.runner import sampling_of, verdict_key
from ponder.cli.verbs import open_study
from ponder.core import END, Ask, Pool, Sampling
from ponder.errors import DataError
from ponder.learners.datasets import Sample, steps_of
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.types import Chain, Problem, Question, Verdict

NO_VERDICT = "without a verdict: graders judge the slice of a study and what its strategies proposed"
NO_TEXT = "imported without question or text"
KNOWN = "told before: another study or task holds it, too"


def harvest(folders: Sequence[Path], *, separator: str = "\n", skipped: Counter[str] | None = None) -> Iterator[Sample]:
    """The judged whole samples of these studies, by study, cell, problem and index, each marked with policy, temperature and cost.

    separator: what ends a step. skipped: counts, by reason, what was passed over, complete once the iterator is exhausted. Verdicts are
    those of the grader that judged last. A sample drawn under several caps is taken under the largest. Every sample of a slice has a
    verdict; beyond it only those have one that a strategy proposed, which are not a fair draw: declare a slice as wide as the
    widest strategy where rates matter.

    Raises `StudyError` for a folder without a study, `CorruptError` for a damaged one, and `DataError` for two problems under one id: those
    that ask different things and have different references. (One problem may be asked in several forms.)
    """
    skipped = Counter() if skipped is None else skipped
    known: set[tuple[str, Pool, int, str]] = set()
    unjudged: set[tuple[str, Pool, int, str]] = set()
    first: dict[str, tuple[Problem, Path]] = {}
    for folder in folders:
        with ExitStack() as stack:
            _, journal, table = open_study(folder, stack)
            for problem, verdicts, draw in asked(journal):
                _check_same(problem, folder, *first.setdefault(problem.question.id, (problem, folder)))
                for pool, row in draw.rows(table, problem.question):
                    name = (problem.question.id, pool, row.index, row.step.text)
                    verdict = verdicts.get(verdict_key(Chain(problem.question.messages).then(row.step, row.finish)))
                    if name in known:
                        skipped[KNOWN] += 1
                    elif _placeholder(problem, row):
                        skipped[NO_TEXT] += 1
                    elif verdict is None:
                        unjudged.add(name)
                    else:
                        known.add(name)
                        yield _sample(problem, pool, row, verdict, draw.sampling.temperature, separator)
    if unjudged - known:
        skipped[NO_VERDICT] += len(unjudged - known)


def _check_same(problem: Problem, folder: Path, other: Problem, where: Path) -> None:
    """A split, a cap, a rate and a reference go by the id: two problems under one would be taken for one."""
    if problem.reference != other.reference and problem.question.messages != other.question.messages:
        raise DataError(
            f"the id {problem.question.id!r} stands for two problems, one of {where} with the reference {other.reference!r:.60} and one of "
            f"{folder} with {problem.reference!r:.60}; give problems of different files different ids, as with jsonl(path, id=...), and run "
            "one study again with --bank, which pays for no sample twice"
        )


@dataclass(frozen=True, slots=True)
class Source:
    """What all cells of a study have in common that drew from the same pools, under the largest of their caps.

    task and policy are fingerprints, task_name and policy_name what people call them.
    """

    task: str
    task_name: str
    policy: str
    policy_name: str
    seed: int
    sampling: Sampling
    grows: bool

    def rows(self, table: SqliteTable, question: Question) -> Iterator[tuple[Pool, Row]]:
        """The whole answers to a question, by index."""
        pool = Ask(Chain(question.messages), (), str(self.seed)).pool(self.policy, END, self.sampling)
        drawn: dict[int, list[Row]] = {}
        for row in table.rows(pool):
            drawn.setdefault(row.index, []).append(row)
        for index in sorted(drawn):
            under = replay(drawn[index], self.sampling.max_tokens, grows=self.grows)
            if under is not None:
                yield pool, under


def asked(journal: Journal) -> Iterator[tuple[Problem, dict[str, Verdict], Source]]:
    """Every problem of every draw, with its verdicts by the grader that judged last."""
    store = StudyStore(journal)
    for draw in _draws(journal):
        newest = journal.read("SELECT grader FROM verdicts WHERE task = ? ORDER BY rowid DESC LIMIT 1", [draw.task])
        for problem in store.problems(draw.task):
            yield problem, store.verdicts(draw.task, problem.question.id, str(newest[0][0])) if newest else {}, draw


def _draws(journal: Journal) -> list[Source]:
    widest: dict[tuple[str, str, int, str], Source] = {}
    for (text,) in journal.read("SELECT DISTINCT cell FROM runs ORDER BY cell"):
        cell = json.loads(str(text))
        names = cell["problems"], cell["task"], cell["fingerprint"], cell["policy"]
        one = Source(*names, cell["seed"], sampling_of(cell["sampling"]), "redraws" not in cell)
        name = (one.task, one.policy, one.seed, one.sampling.key)
        if name not in widest or one.sampling.max_tokens > widest[name].sampling.max_tokens:
            widest[name] = one
    return list(widest.values())


def _sample(problem: Problem, pool: Pool, row: Row, verdict: Verdict, temperature: float, separator: str) -> Sample:
    ended = row.finish == "stop"
    difficulty = problem.question.metadata.get("difficulty")
    return Sample(
        problem=problem.question.id,
        prompt=problem.question.messages,
        steps=steps_of(row.step.text, separator),
        correct=verdict.correct and ended,
        answer=verdict.answer if ended else None,
        finish=row.finish or "error",
        policy=pool.policy,
        temperature=temperature,
        difficulty=float(difficulty) if isinstance(difficulty, int | float) else None,
        tokens=row.step.usage.completion,
        stream=pool.stream,
        index=row.index,
    )


def _placeholder(problem: Problem, row: Row) -> bool:
    """Whether `ponder import` put words of its own where a question or a text was missing: nothing to learn from."""
    asked = "".join(message.text for message in problem.question.messages)
    return bool(_NO_TEXT.match(row.step.text) or _NO_QUESTION.fullmatch(asked))


_NO_TEXT = re.compile(r"\(sample \d+ of an imported bank, without its text\)\n")
_NO_QUESTION = re.compile(r"\(imported problem .*\)", re.DOTALL)
