"""What a study adds to the bank: its problems, verdicts, runs and their events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from ponder.core import Event, Outcome, Spent
from ponder.errors import CorruptError
from ponder.store.journal import Journal, Value, fault
from ponder.store.table import checksum
from ponder.types import Message, Problem, Question, Usage, Verdict


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A finished run as stored. cell: task, policy, sampling and seed it belongs to. chain: digest of the proposal, if any."""

    id: str
    cell: str
    problem: str
    strategy: str
    budget: str
    chain: str | None
    answer: str | None
    correct: bool
    spent: Spent
    oracle: bool
    failed: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of a run, without payload. samples, tokens, usage: spent by then; chains: digests."""

    kind: str
    samples: int
    tokens: int
    usage: Usage
    chains: tuple[str, ...]


class StudyStore:
    """Problems, verdicts and runs in a journal; every write is durable when it returns."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    async def keep_problems(self, task: str, problems: Iterable[Problem]) -> None:
        """Remember the problems of a task, in order."""
        lines: list[list[Value]] = [
            [task, p.question.id, at, _question_json(p.question), json.dumps(p.reference, ensure_ascii=False)]
            for at, p in enumerate(problems)
        ]
        fault("problems-before-keep")
        await self.journal.write([("INSERT OR REPLACE INTO problems VALUES (?, ?, ?, ?, ?)", lines)])

    def problems(self, task: str) -> list[Problem]:
        """The problems of a task, in order."""
        found = self.journal.read("SELECT question, reference FROM problems WHERE task = ? ORDER BY ord", [task])
        return [Problem(_question(str(question)), json.loads(str(reference))) for question, reference in found]

    async def keep_verdicts(self, task: str, problem: str, grader: str, verdicts: Mapping[str, Verdict]) -> None:
        """Remember verdicts by chain digest."""
        lines = []
        for chain, verdict in verdicts.items():
            values: list[Value] = [task, problem, chain, grader, int(verdict.correct), verdict.answer, verdict.reason]
            lines.append([*values, checksum(values)])
        fault("verdict-before-keep")
        await self.journal.write([("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", lines)])

    def verdicts(self, task: str, problem: str, grader: str) -> dict[str, Verdict]:
        """The kept verdicts of a problem by chain digest."""
        found = self.journal.read(
            "SELECT * FROM verdicts WHERE task = ? AND problem = ? AND grader = ?",
            [task, problem, grader],
        )
        kept = {}
        for line in found:
            self._check(line, f"verdict on chain {line[2]!r}")
            chain, correct, answer, reason = cast("tuple[str, int, str | None, str]", (line[2], *line[4:7]))
            kept[chain] = Verdict(bool(correct), answer, reason)
        return kept

    async def keep_run(self, record: RunRecord, outcome: Outcome) -> None:
        """Remember a finished run and its events, all or nothing."""
        values: list[Value] = [record.id, record.cell, record.problem, record.strategy, record.budget, _outcome_json(record)]
        events = [[record.id, at, *_event_values(event)] for at, event in enumerate(outcome.events)]
        fault("run-before-keep")
        await self.journal.write(
            [
                ("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", [[*values, checksum(values)]]),
                ("DELETE FROM events WHERE run = ?", [[record.id]]),
                ("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", events),
            ]
        )
        fault("run-after-keep")

    def runs(self, cell: str | None = None) -> list[RunRecord]:
        """The finished runs, of one cell or all."""
        where, values = ("WHERE cell = ?", [cell]) if cell is not None else ("", [])
        found = self.journal.read(f"SELECT * FROM runs {where} ORDER BY id", values)
        return [self._run(line) for line in found]

    def finished(self) -> dict[str, int]:
        """For each finished run its failed children: those with any are done again."""
        return {run.id: run.failed for run in self.runs()}

    def events(self, run: str) -> list[EventRecord]:
        """The events of a run, in logical order."""
        found = self.journal.read("SELECT kind, samples, tokens, usage, chains FROM events WHERE run = ? ORDER BY ord", [run])
        lines = cast("list[tuple[str, int, int, str, str]]", found)
        return [
            EventRecord(kind, samples, tokens, Usage(**json.loads(usage)), tuple(json.loads(chains)))
            for kind, samples, tokens, usage, chains in lines
        ]

    def _run(self, line: tuple[Value, ...]) -> RunRecord:
        self._check(line, f"run {line[0]!r}")
        run_id, cell, problem, strategy, budget, outcome = map(str, line[:-1])
        body = json.loads(outcome)
        spent = Spent(body["samples"], Usage(**body["usage"]), body["money"])
        rest = {key: body[key] for key in ("chain", "answer", "correct", "oracle", "failed", "exhausted")}
        return RunRecord(run_id, cell, problem, strategy, budget, spent=spent, **rest)

    def _check(self, line: Sequence[Value], what: str) -> None:
        if checksum(line[:-1]) != line[-1]:
            raise CorruptError(f"{self.journal.path}: {what} does not match its checksum; restore the file from a copy")


def _event_values(event: Event) -> list[Value]:
    use = event.spent.usage
    chains = json.dumps([chain.digest for chain in event.chains])
    return [event.kind, event.spent.samples, use.tokens, json.dumps(asdict(use)), chains]


def _outcome_json(run: RunRecord) -> str:
    body = {
        "chain": run.chain,
        "answer": run.answer,
        "correct": run.correct,
        "samples": run.spent.samples,
        "usage": asdict(run.spent.usage),
        "money": run.spent.money,
        "oracle": run.oracle,
        "failed": run.failed,
        "exhausted": run.exhausted,
    }
    return json.dumps(body, ensure_ascii=False)


def _question_json(question: Question) -> str:
    messages = [[m.role, [part for part in m.content if isinstance(part, str)]] for m in question.messages]
    return json.dumps({"id": question.id, "messages": messages, "metadata": dict(question.metadata)}, ensure_ascii=False)


def _question(body: str) -> Question:
    read = json.loads(body)
    return Question(read["id"], tuple(Message(role, tuple(content)) for role, content in read["messages"]), read["metadata"])
