"""Solutions or verdicts: what a budget buys on the lab, on one more solution or on one more look at those that are there.

`make evidence NAME=verify_or_solve`, some minutes of two cores; solutions and verdicts are banked, so it can be stopped and started again. A verdict on a
solution is the policy's own, without the reference: it is given the first half of the steps and goes on anew, and accepts if it ends in the same
answer. A second kind is simulated: it errs at given rates, anew at each look, and is as long as a solution. What is claimed was fixed beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evidence.common import DOCS, Claim, claims_table, completed, insert, save
from ponder.bank import TableBank
from ponder.cli.harvest import harvest
from ponder.cli.study import Study, check
from ponder.core import Task
from ponder.learners.datasets import Sample
from ponder.policies.lab import Lab
from ponder.run import Run, solve
from ponder.scaling.bootstrap import Interval, paired_difference
from ponder.scaling.estimators import maj_at_k
from ponder.scaling.figure import Series, curve_figure
from ponder.scaling.verify_or_solve import Surface, exponents, surface
from ponder.store import SqliteTable
from ponder.tasks.lab import chain, countdown
from ponder.types import Chain, Step

TASKS = {"chain(14-20)": chain(least=14, n=175), "countdown(4)": countdown(numbers=4, n=200)}
SEEDS, EACH, VERDICTS = (0, 1, 2), 16, 8
SOLUTIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
LOOKS = (1, 2, 4, 8)
BUDGETS = (4, 8, 16, 32, 64, 128)  # in solutions
ERRS = 0.3  # of the simulated verifier, either way
OPEN = 8  # problems whose verdicts are drawn together


@dataclass(frozen=True, slots=True)
class Table:
    """All solutions of one task, by problem: rights, answers as numbers (-1: none), and the verdicts on each; costs in tokens."""

    correct_P_S: np.ndarray
    answers_P_S: np.ndarray
    accepts_P_S_V: np.ndarray
    solve: float
    verify: float


@dataclass(frozen=True, slots=True)
class Found:
    """The surface of one task under one verifier, its costs in solutions. verdicts: the part with verdicts, votes: that without."""

    task: str
    verifier: str
    slug: str
    price: float
    whole: Surface
    verdicts: Surface
    votes: Surface


def study() -> Study:
    """The solutions: sixteen of each held-out problem under each of three seeds."""
    body = {
        "name": "verify_or_solve",
        "tasks": ["chain(least=14, n=175)", "countdown(numbers=4, n=200)"],
        "policies": ["lab"],
        "strategies": ["sample"],
        "slice": EACH,
        "seeds": list(SEEDS),
    }
    return check(body, "verify_or_solve")


def tables() -> dict[str, Table]:
    """Solutions and verdicts of both tasks, drawn as far as they are not banked."""
    with completed(study()) as (journal, where):
        pool = sorted((one for one in harvest([where]) if one.index < EACH), key=lambda one: (one.stream, one.index))
        bank = TableBank(SqliteTable(journal))
        return {name: asyncio.run(judged(task, pool, bank)) for name, task in TASKS.items()}


async def judged(task: Task, pool: Sequence[Sample], bank: TableBank) -> Table:
    """The solutions of one task and the policy's verdicts on them."""
    order = {problem.question.id: at for at, problem in enumerate(task.problems)}
    mine: list[list[Sample]] = [[] for _ in order]
    for one in pool:
        if one.problem in order:
            mine[order[one.problem]].append(one)
    policy, gate = Lab(), asyncio.Semaphore(OPEN)

    async def looks(at: int) -> tuple[np.ndarray, list[int]]:
        told = [s for s, one in enumerate(mine[at]) if one.answer is not None]
        prefixes = [half(mine[at][s]) for s in told]
        leaves: list[tuple[Chain, str | None]] = []

        async def look(root: Chain, run: Run) -> None:
            drawn = await run.purpose("verify").extend(prefixes, n=VERDICTS)
            leaves.extend(zip(drawn, run.answers(drawn), strict=True))

        async with gate:
            if prefixes:
                await solve(look, task.problems[at].question, policy, answer=task.answer, bank=bank)  # type: ignore[arg-type]  # a function is a strategy; see the protocols
        accepts = np.full((len(mine[at]), VERDICTS), -1)
        for place, s in enumerate(told):
            same = [answer == mine[at][s].answer for _, answer in leaves[place * VERDICTS :][:VERDICTS]]
            accepts[s] = np.array(same, dtype=int)
        return accepts, [leaf.steps[-1].usage.completion for leaf, _ in leaves]

    found = await asyncio.gather(*(looks(at) for at in range(len(mine))))
    ids: dict[str, int] = {}
    answers = [[-1 if one.answer is None else ids.setdefault(one.answer, len(ids)) for one in row] for row in mine]
    return Table(
        np.array([[one.correct for one in row] for row in mine]),
        np.array(answers),
        np.stack([accepts for accepts, _ in found]),
        float(np.mean([one.tokens for row in mine for one in row])),
        float(np.mean([tokens for _, row in found for tokens in row])),
    )


def half(one: Sample) -> Chain:
    """A solution's first half, open to go on from."""
    root = Chain(one.prompt)
    kept = "".join(one.steps[: len(one.steps) // 2])
    return root.then(Step(kept)) if kept else root


def simulated(correct_P_S: np.ndarray, answers_P_S: np.ndarray) -> np.ndarray:
    """Verdicts that err at a rate, anew at each look."""
    drawn = np.random.default_rng(0).random((*correct_P_S.shape, VERDICTS))
    accepts = (drawn < np.where(correct_P_S, 1 - ERRS, ERRS)[:, :, None]).astype(int)
    accepts[answers_P_S < 0] = -1
    return accepts


def surfaces(name: str, table: Table) -> list[Found]:
    """Both verifiers on one task."""
    vote_P_K = maj_at_k(table.correct_P_S, table.answers_P_S, SOLUTIONS, subsets=400)
    kinds = {
        "its own, from half-way": (table.accepts_P_S_V, table.verify / table.solve),
        f"simulated, errs at {ERRS:g}": (simulated(table.correct_P_S, table.answers_P_S), 1.0),
    }
    made = []
    for verifier, (accepts, price) in kinds.items():
        whole = surface(table.correct_P_S, accepts, SOLUTIONS, LOOKS, verify=price, vote_P_K=vote_P_K)
        judging = [at for at, (_, v) in enumerate(whole.allocations) if v > 0]
        voting = [at for at, (_, v) in enumerate(whole.allocations) if v == 0]
        slug = f"{name.partition('(')[0]}-{verifier.partition(',')[0].split()[-1]}"
        made.append(Found(name, verifier, slug, price, whole, part(whole, judging), part(whole, voting)))
    return made


def part(whole: Surface, kept: Sequence[int]) -> Surface:
    """Some of the allocations."""
    return Surface(
        tuple(whole.allocations[a] for a in kept), tuple(whole.costs[a] for a in kept), whole.accuracy_P_A[:, list(kept)]
    )


def growth(one: Found) -> Interval | None:
    """By how much faster the best number of solutions grows with the budget than that of verdicts: a - b, and resamples of the problems."""

    def gap(some: Surface) -> float:
        cells = some.cells(resamples=100)  # their intervals are not read
        a, b = exponents([cells[some.best(budget)] for budget in BUDGETS])
        return a - b

    rng, count = np.random.default_rng(0), len(one.verdicts.accuracy_P_A)
    try:
        drawn = [gap(resampled(one.verdicts, rng.integers(0, count, count))) for _ in range(200)]
        value = gap(one.verdicts)
    except ValueError:  # fewer than three different allocations are best at any budget
        return None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(value, min(value, float(low)), max(value, float(high)))


def resampled(some: Surface, rows: np.ndarray) -> Surface:
    """The surface of other problems."""
    return Surface(some.allocations, some.costs, some.accuracy_P_A[rows])


def claims(one: Found) -> list[Claim]:
    """Where verdicts draw level, what they gain at equal compute, and which of the two grows faster."""
    n = len(one.whole.accuracy_P_A)
    weak = one.task.startswith("countdown")  # many right answers: votes are split
    level = one.whole.level(resamples=2000)
    target, holds = ("< 1", level.high < 1) if weak else ("> 1", level.low > 1)
    text = f"compute at which verdicts ({one.verifier}) draw level with the best vote on {one.task}, over that of the vote"
    made = [Claim(f"{one.slug}-level", text, level.value, level.low, level.high, target, holds, n, len(SEEDS))]
    for budget in (BUDGETS[2], BUDGETS[-1]):
        gain = paired_difference(one.verdicts.honest(budget), one.votes.honest(budget), seed=0, resamples=2000)
        text = f"accuracy with verdicts ({one.verifier}) over voting on {one.task}, for the compute of {budget} solutions"
        interval = gain.value, gain.low, gain.high
        made.append(Claim(f"{one.slug}-gain-{budget}", text, *interval, None, None, n, len(SEEDS)))
    if found := growth(one):
        text = f"exponent of solutions less that of verdicts in the budget, on {one.task} ({one.verifier})"
        interval = found.value, found.low, found.high
        made.append(Claim(f"{one.slug}-growth", text, *interval, "> 0", found.low > 0, n, len(SEEDS)))
    return made


def by_budget(found: Sequence[Found]) -> str:
    """The best allocation of each budget, beside the vote that costs no more."""
    rows = [
        "| task | verdicts | cost of one | budget | best with verdicts | accuracy | 95% interval | vote | accuracy | difference | 95% interval |",
        "|---|---|--:|--:|---|--:|---|---|--:|--:|---|",
    ]
    for one in found:
        for budget in BUDGETS:
            [best], [vote] = one.verdicts.frontier([budget]), one.votes.frontier([budget])
            gain = paired_difference(one.verdicts.honest(budget), one.votes.honest(budget), seed=0, resamples=2000)
            rows.append(
                f"| {one.task} | {one.verifier} | {one.price:.2f} | {budget} | {best.solutions} x {best.verdicts} | {shown(best.accuracy)} | "
                f"{vote.solutions} | {vote.accuracy.value:.3f} | {gain.value:+.3f} | [{gain.low:+.3f}, {gain.high:+.3f}] |"
            )
    return "\n".join(rows)


def by_vote(found: Sequence[Found]) -> str:
    """For votes of each size, at how many times their compute verdicts draw level."""
    rows = [
        "| task | verdicts | vote of | its accuracy | level at times its compute | 95% interval |",
        "|---|---|--:|--:|--:|---|",
    ]
    for one in found:
        for at, (size, _) in enumerate(one.votes.allocations):
            if size in (4, 8, 16, 32, 48):
                level, accuracy = one.whole.level(size), float(one.votes.accuracy_P_A[:, at].mean())
                times = [f"{value:.2f}" if np.isfinite(value) else "beyond" for value in (level.value, level.low, level.high)]
                rows.append(f"| {one.task} | {one.verifier} | {size} | {accuracy:.3f} | {times[0]} | [{times[1]}, {times[2]}] |")
    return "\n".join(rows)


def shown(one: Interval) -> str:
    """A number and its interval, as two cells."""
    return f"{one.value:.3f} | [{one.low:.3f}, {one.high:.3f}]"


def figure(one: Found) -> None:
    """Accuracy against cost, a line for each number of verdicts."""
    cells, drawn = one.whole.cells(), []
    for looks in (0, *LOOKS):
        some = [cell for cell in cells if cell.verdicts == looks]
        ends = [[getattr(cell.accuracy, end) for cell in some] for end in ("value", "low", "high")]
        name = "vote" if looks == 0 else f"{looks} verdict{'s' * (looks > 1)} on each"
        drawn.append(Series(name, [cell.cost for cell in some], *ends))
    count = len(one.whole.accuracy_P_A)
    caption = (
        f"lab/base, {count} problems, 3 seeds; a verdict costs {one.price:.2f} solutions; bands: 95% bootstrap over problems"
    )
    path = DOCS / "evidence" / f"verify_or_solve-{one.slug}.png"
    title = f"{one.task}, verdicts: {one.verifier}"
    curve_figure(drawn, path, title=title, caption=caption, x_label="cost of a question, in solutions")


def main() -> None:
    """Draw, judge, claim, and put the tables into the page."""
    found = [one for name, table in tables().items() for one in surfaces(name, table)]
    made = [claim for one in found for claim in claims(one)]
    save("verify_or_solve", made)
    for one in found:
        figure(one)
    page = DOCS / "evidence" / "diagnostics.md"
    for marker, text in (("verdict claims", claims_table(made)), ("by budget", by_budget(found)), ("by vote", by_vote(found))):
        insert(page, marker, text)


if __name__ == "__main__":
    main()
