"""The curve of a study: accuracy against compute per question, for every strategy, with intervals.

Strategies that choose among independent whole samples are estimated from the declared slice, over all subsets of it (maj@k, bon@k,
weighted@k): one pool of N samples gives every point up to N with far less noise than running each size once. All others are read
off their own runs: what they had proposed by the time they had drawn k samples. Intervals are bootstrapped over problems.
Everything comes from the study file: no engine, grader or task file is needed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np

from ponder.bank import Row, replay
from ponder.cli.axes import COUNTS, Axis, counts, tokens_of, walked
from ponder.cli.output import counted
from ponder.cli.runner import needs_oracle, parse_strategy, sampling_of, verdict_key
from ponder.cli.study import Study
from ponder.core import END, Ask, Bank, PolicyInfo, Sampling, Strategy, Until, Verifier
from ponder.run import Direct, Run, solve
from ponder.scaling import bootstrap, estimators
from ponder.scaling.figure import Series
from ponder.store import RunRecord, SqliteTable, StudyStore
from ponder.types import Chain, Problem, Score, Usage, Verdict

RESAMPLES = 1000
COVERAGE = "pass@k (any of k correct)"
Columns: TypeAlias = tuple[list[int], np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a curve. tokens: mean per question; value, low, high: accuracy and its 95% interval; n: problems; cost: on the axis."""

    cell: str
    strategy: str
    k: int
    tokens: float
    value: float
    low: float
    high: float
    n: int
    seeds: int
    how: Literal["subsets", "runs"]
    bound: bool
    axis: Axis
    cost: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The declared samples of one seed, rectangular. answers: ids within a problem, -1 for none; missing: failed children."""

    correct_P_N: np.ndarray
    answers_P_N: np.ndarray
    spent_P_N_C: np.ndarray
    missing: int


@dataclass(frozen=True, slots=True)
class Line:
    """One strategy's curve before it is averaged: rows are problems (seeds averaged), columns the sizes `ks`.

    spent_P_K_C: what was spent, in the kinds of `axes.COUNTS`. ids, task: of the problems, and the fingerprint of where they are from. cost_P_K: on
    another axis than tokens, set by `axes.on_axis`. spec: of the strategy, "" for none.
    """

    cell: str
    strategy: str
    how: Literal["subsets", "runs"]
    bound: bool
    seeds: int
    ks: list[int]
    values_P_K: np.ndarray
    tokens_P_K: np.ndarray
    spent_P_K_C: np.ndarray
    ids: tuple[str, ...]
    task: str
    policy: str
    axis: Axis = "tokens"
    cost_P_K: np.ndarray | None = None
    spec: str = ""

    @property
    def costs_K(self) -> np.ndarray:
        """Mean cost per question at each size, in the unit of the axis."""
        return cast("np.ndarray", (self.tokens_P_K if self.cost_P_K is None else self.cost_P_K).mean(axis=0))

    def points(self) -> list[Point]:
        """Means over problems, with intervals."""
        intervals = bootstrap.accuracy_intervals(self.values_P_K, seed=0, resamples=RESAMPLES)
        rest = len(self.values_P_K), self.seeds, self.how, self.bound, self.axis
        return [
            Point(self.cell, self.strategy, k, float(tokens), one.value, one.low, one.high, *rest, float(cost))
            for k, one, tokens, cost in zip(self.ks, intervals, self.tokens_P_K.mean(axis=0), self.costs_K, strict=True)
        ]


class Curves:
    """Reads the curves of one study."""

    def __init__(self, study: Study, store: StudyStore, table: SqliteTable) -> None:
        self.study, self.store, self.table = study, store, table
        self.notes: list[str] = []
        self._judged: dict[tuple[str, str], dict[str, Verdict]] = {}
        self._members: set[tuple[str, str]] = set()
        self.strategies = [parse_strategy(spec) for spec in study.expanded]

    def lines(self) -> list[Line]:
        """One line for each strategy of each cell, in the order of the study, the bound last."""
        runs = self.store.runs()
        cells: dict[str, list[str]] = {}
        for cell in dict.fromkeys(run.cell for run in runs):
            body = json.loads(cell)
            body.pop("seed")
            cells.setdefault(json.dumps(body, sort_keys=True), []).append(cell)
        cells = dict(sorted(cells.items(), key=lambda item: _label(json.loads(item[0]))))
        plain = [_label(json.loads(name)) for name in cells]
        found = []
        for (name, group), label in zip(cells.items(), plain, strict=True):
            head = json.loads(name)  # two cells that look alike (other problems, other weights) must not be drawn as one
            alike = plain.count(label) > 1
            label = f"{label} | {head['problems']} {head['fingerprint']}" if alike else label
            found += [line for line in self._cell(label, head, group, runs) if line.ks and line.ids]
        return found

    def points(self) -> list[Point]:
        """All points of all lines."""
        return [point for line in self.lines() for point in line.points()]

    def _cell(self, label: str, head: dict[str, str], cells: Sequence[str], runs: Sequence[RunRecord]) -> Iterable[Line]:
        given = self.store.problems(head["problems"])
        problems = [problem for problem in given if self._took_part(problem, cells, runs)]
        if len(problems) < len(given):
            self.notes.append(f"{label}: {len(given) - len(problems)} of {len(given)} problems are not finished and left out")
        slices = [self._slice(json.loads(cell), problems) for cell in cells] if self.study.slice and problems else []
        missing = sum(one.missing for one in slices)
        if missing:
            self.notes.append(
                f"{counted(missing, 'sample')} failed and {'counts' if missing == 1 else 'count'} as wrong; start the study again to draw them"
            )
        mine = [run for run in runs if run.cell in cells]
        widest: dict[str, Strategy] = {}  # of several sizes of one strategy, the largest has the points of all
        for strategy in sorted(self.strategies, key=lambda strategy: -getattr(strategy, "n", 1)):
            widest.setdefault(line_of(strategy), strategy)
        budgets = list(dict.fromkeys(str(budget) for budget in self.study.budgets))
        for strategy in [widest[line] for line in dict.fromkeys(map(line_of, self.strategies))] if problems else ():
            bound = needs_oracle(strategy)
            for budget in budgets:
                estimated = None
                if budget == "none":
                    with suppress(_Samples):
                        estimated = self._estimate(strategy, slices, cells, problems)
                how: Literal["subsets", "runs"] = "runs" if estimated is None else "subsets"
                columns = estimated or self._from_runs(line_of(strategy), budget, mine, problems)
                name = line_of(strategy) if len(budgets) == 1 else f"{line_of(strategy)}, budget {budget}"
                yield Line(
                    label, name, how, bound, len(cells), *columns, head["problems"], head["fingerprint"], spec=repr(strategy)
                )
        if slices:
            ks = sizes(self.study.slice)
            coverage = np.mean([estimators.pass_at_k(one.correct_P_N, ks) for one in slices], axis=0)
            columns = subsets(ks, coverage, np.mean([one.spent_P_N_C for one in slices], axis=0), problems)
            yield Line(label, COVERAGE, "subsets", True, len(cells), *columns, head["problems"], head["fingerprint"])

    def _took_part(self, problem: Problem, cells: Sequence[str], runs: Sequence[RunRecord]) -> bool:
        """Whether a problem was run in every cell, with the whole slice drawn: estimators read rectangular slices."""
        if not self._members:
            self._members = {(run.cell, run.problem) for run in runs if not self.study.slice or _drawn(run) >= self.study.slice}
        return all((cell, problem.question.id) in self._members for cell in cells)

    def _rows(self, cell: dict[str, str], problem: Problem) -> dict[int, Row]:
        sampling = sampling_of(cell["sampling"])
        ask = Ask(Chain(problem.question.messages), (), str(cell["seed"]))
        drawn: dict[int, list[Row]] = {}
        for row in self.table.rows(ask.pool(cell["fingerprint"], END, sampling)):
            drawn.setdefault(row.index, []).append(row)
        under = (
            (index, replay(rows, sampling.max_tokens, grows="redraws" not in cell))
            for index, rows in drawn.items()
            if index < self.study.slice
        )
        return {index: row for index, row in under if row is not None}

    def _slice(self, cell: dict[str, str], problems: Sequence[Problem]) -> Slice:
        shape = (len(problems), self.study.slice)
        correct, answers, spent = np.zeros(shape, bool), np.full(shape, -1), np.zeros((*shape, len(COUNTS)))
        missing = 0
        for p, problem in enumerate(problems):
            rows = self._rows(cell, problem)
            missing += self.study.slice - len(rows)
            verdicts = self._verdicts(cell["problems"], problem)
            seen: dict[str, int] = {}
            root = Chain(problem.question.messages)
            for i, row in rows.items():
                verdict = verdicts.get(verdict_key(root.then(row.step, row.finish)), Verdict(False))
                spent[p, i] = counts(row.step.usage, 1)
                if row.finish == "stop" and verdict.answer is not None:
                    answers[p, i] = seen.setdefault(verdict.answer, len(seen))
                    correct[p, i] = verdict.correct
        return Slice(correct, answers, spent, missing)

    def _verdicts(self, task: str, problem: Problem) -> dict[str, Verdict]:
        key = task, problem.question.id
        if key not in self._judged:
            newest = self.store.journal.read("SELECT grader FROM verdicts WHERE task = ? ORDER BY rowid DESC LIMIT 1", [task])
            self._judged[key] = self.store.verdicts(*key, str(newest[0][0])) if newest else {}
        return self._judged[key]

    def _estimate(
        self, strategy: Strategy, slices: Sequence[Slice], cells: Sequence[str], problems: Sequence[Problem]
    ) -> Columns | None:
        """The columns of a strategy over independent samples; None for all others."""
        name = getattr(strategy, "__spec__", "")
        n = min(getattr(strategy, "n", 1), self.study.slice)
        if not slices or name not in ("sample", "self_consistency", "best_of_n", "weighted_vote"):
            return None
        ks = sizes(n)
        values, costs = [], []
        for one, cell in zip(slices, cells, strict=True):
            correct, answers, spent = one.correct_P_N[:, :n], one.answers_P_N[:, :n], one.spent_P_N_C[:, :n]
            if name in ("best_of_n", "weighted_vote"):
                scores, scored = self._scores(cast("Verifier", strategy.verifier), json.loads(cell), problems, n)  # type: ignore[attr-defined]  # both strategies have one
                scores[answers < 0] = np.nan
                spent = spent + scored
            match name:
                case "sample":
                    values.append(estimators.pass_at_k(one.correct_P_N, [1]))
                case "self_consistency":
                    values.append(estimators.maj_at_k(correct, answers, ks))
                case "weighted_vote":
                    values.append(estimators.weighted_at_k(correct, answers, scores, ks))
                case _:
                    values.append(estimators.best_of_n_at_k(correct, scores, ks))
            costs.append((one.spent_P_N_C if name == "sample" else spent).mean(axis=1, keepdims=True))
        return subsets(ks, np.mean(values, axis=0), np.mean(costs, axis=0), problems)

    def _scores(
        self, verifier: Verifier, cell: dict[str, str], problems: Sequence[Problem], n: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores P x N and their cost P x N x C of the banked slice: from the bank, or made anew where they cost nothing."""
        scores, scored = np.full((len(problems), n), np.nan), np.zeros((len(problems), n, len(COUNTS)))

        async def all_of_them() -> None:
            for p, problem in enumerate(problems):
                rows = self._rows(cell, problem)
                root = Chain(problem.question.messages)
                chains = {i: root.then(row.step, row.finish) for i, row in rows.items() if i < n and row.finish == "stop"}
                found = await self._score(verifier, list(chains.values()), problem, cell)
                for i, score in zip(chains, found, strict=True):
                    scores[p, i] = np.nan if score.value is None else score.value
                    scored[p, i] = counts(score.usage, 0, reading=True)

        asyncio.run(all_of_them())
        return scores, scored

    async def _score(self, verifier: Verifier, chains: list[Chain], problem: Problem, cell: dict[str, str]) -> list[Score]:
        if verifier.fingerprint:
            kept = self.table.scores(verifier.fingerprint, [chain.digest for chain in chains])
            return [kept.get(chain.digest, Score(None, error="not in the bank")) for chain in chains]
        verdicts = self._verdicts(cell["problems"], problem)
        given: list[Score] = []

        async def judge(asked: Sequence[Chain]) -> list[Verdict]:
            return [verdicts.get(verdict_key(chain), Verdict(False)) for chain in asked]

        @dataclass(frozen=True)
        class Ready:
            async def __call__(self, root: Chain, run: Run) -> None:
                given.extend(await run.score(verifier, chains))

        bank: Bank = Direct()
        await solve(Ready(), problem.question, _Offline(cell), judge=judge, bank=bank)
        return given

    def _from_runs(self, line: str, budget: str, runs: Sequence[RunRecord], problems: Sequence[Problem]) -> Columns:
        """The columns of all others: one run that proposed as it went, or a run for each size."""
        specs = [repr(strategy) for strategy in self.strategies if line_of(strategy) == line]
        taking_part = {problem.question.id for problem in problems}
        mine = [run for run in runs if run.strategy in specs and run.budget == budget and run.problem in taking_part]
        if len(specs) == 1:
            return self._anytime(mine, problems)
        finished = Counter((run.problem, run.cell) for run in mine)
        whole = {problem for problem in taking_part if all(n == len(specs) for (of, _), n in finished.items() if of == problem)}
        columns: dict[int, np.ndarray] = {}
        for spec in specs:
            group = [run for run in mine if run.strategy == spec and run.problem in whole]
            n = re.search(r"\bn=(\d+)", spec)
            k = int(n[1]) if n else max((run.spent.samples for run in group), default=0)
            told = [walked(self.store.events(run.id))[-1:] for run in group]
            cells = [(float(run.correct), *(one[0] if one else counts(Usage(), 0))) for run, one in zip(group, told, strict=True)]
            columns[k] = _by_problem(group, cells, problems)
        return _stacked(columns, [run for run in mine if run.problem in whole], problems)

    def _anytime(self, runs: Sequence[RunRecord], problems: Sequence[Problem]) -> Columns:
        """What each run had proposed, and spent, by the time it had drawn k samples."""
        traces = [(run, self.store.events(run.id)) for run in runs]
        spent = [walked(events) for _, events in traces]
        by_id = {problem.question.id: problem for problem in problems}
        columns: dict[int, np.ndarray] = {}
        for k in sizes(max((event.samples for _, events in traces for event in events), default=0)):
            cells = []
            for (run, events), told in zip(traces, spent, strict=True):
                by_then = [event for event in events if event.samples <= k]
                if not by_then:
                    break
                proposed = [event.chains[0] for event in by_then if event.kind == "propose"]
                verdicts = self._verdicts(json.loads(run.cell)["problems"], by_id[run.problem])
                right = bool(proposed) and verdicts.get(proposed[-1], Verdict(False)).correct
                cells.append((float(right), *told[len(by_then) - 1]))
            if cells and len(cells) == len(traces):
                columns[k] = _by_problem(runs, cells, problems)
        return _stacked(columns, runs, problems)


class _Samples(Exception):
    """A verifier samples through the run, so what it would say of other subsets was never paid for; its runs are its curve."""


class _Offline:
    """Stands for a policy whose samples are all in the bank."""

    def __init__(self, cell: dict[str, str]) -> None:
        self.info = PolicyInfo(cell["policy"], cell["fingerprint"], frozenset({"continue", "logprobs"}))

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """Reached by a verifier that samples for its scores."""
        raise _Samples


def _label(cell: dict[str, str]) -> str:
    return f"{cell['task']} | {cell['policy']} | {cell['sampling']}"


def _drawn(run: RunRecord) -> int:
    """How many samples a run of `draw` drew; 0 for any other run."""
    return run.spent.samples if run.strategy.startswith("draw(") else 0


def line_of(strategy: Strategy) -> str:
    """The name of the curve a strategy is a point of: its spec without n and batch, such as `best_of_n(confidence)`."""
    text = re.sub(r"\b(n|batch)=\d+(, )?", "", repr(strategy)).replace("verifier=", "")
    return re.sub(r",? ?\(\)|, (?=\))", "", text)


def sizes(n: int) -> list[int]:
    """1, 2, 4 ... up to n, and n itself."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n}) if n > 0 else []


def series(points: Sequence[Point]) -> dict[str, list[Series]]:
    """The lines of one figure for each cell."""
    lines: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        lines.setdefault(point.cell, {}).setdefault(point.strategy, []).append(point)
    figures: dict[str, list[Series]] = {}
    for cell, by_name in lines.items():
        for name, group in by_name.items():
            kept: list[Point] = []
            for point in sorted(group, key=lambda p: (p.cost, p.k)):
                if point.cost > 0 and (not kept or point.cost > kept[-1].cost):
                    kept.append(point)
            if kept:
                columns = ([p.cost for p in kept], [p.value for p in kept], [p.low for p in kept], [p.high for p in kept])
                figures.setdefault(cell, []).append(Series(name, *columns, kind="bound" if kept[0].bound else "strategy"))
    return figures


def subsets(ks: list[int], values_P_K: np.ndarray, spent_P_N_C: np.ndarray, problems: Sequence[Problem]) -> Columns:
    """The columns of an estimate over subsets: one of k samples costs k times the mean of the pool, failed ones included."""
    spent_P_K_C = spent_P_N_C.mean(axis=1)[:, None, :] * np.array(ks, dtype=np.float64)[:, None]
    return ks, values_P_K, tokens_of(spent_P_K_C), spent_P_K_C, tuple(problem.question.id for problem in problems)


def _stacked(columns: dict[int, np.ndarray], runs: Sequence[RunRecord], problems: Sequence[Problem]) -> Columns:
    ks = sorted(columns)
    taken = {run.problem for run in runs}
    ids = tuple(problem.question.id for problem in problems if problem.question.id in taken)
    if not ks:
        return [], np.zeros((0, 0)), np.zeros((0, 0)), np.zeros((0, 0, len(COUNTS))), ids
    table_P_K_F = np.stack([columns[k] for k in ks], axis=1)
    spent_P_K_C = table_P_K_F[:, :, 1:]
    return ks, table_P_K_F[:, :, 0], tokens_of(spent_P_K_C), spent_P_K_C, ids


def _by_problem(runs: Sequence[RunRecord], cells: Sequence[tuple[float, ...]], problems: Sequence[Problem]) -> np.ndarray:
    """P x (right, spent): seeds averaged within each problem, as they are not independent of each other."""
    order = {problem.question.id: at for at, problem in enumerate(problems)}
    total, count = np.zeros((len(order), 1 + len(COUNTS))), np.zeros((len(order), 1))
    for run, cell in zip(runs, cells, strict=True):
        if run.problem in order:
            total[order[run.problem]] += cell
            count[order[run.problem]] += 1
    return cast("np.ndarray", (total / np.maximum(count, 1))[count[:, 0] > 0])
