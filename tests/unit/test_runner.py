"""A study pays once for what its strategies share, gives the same bytes at any concurrency, and goes on where something failed."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from fakes import Flaky
from ponder.cli.runner import BEAT, Cell, Progress, Runner, Work
from ponder.cli.study import Study
from ponder.core import Ask, Budget, PolicyInfo, Sampling, Until
from ponder.errors import EndpointError, OracleError
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.store.export import canonical
from ponder.testing import MazePolicy
from ponder.types import Chain
from studies import STRATEGIES, kept

RIGHT = r"('a\na\na\na\n',)"
PARALLEL = (
    "sample",
    "self_consistency(n=16)",
    f"best_of_n(n=16, verifier=noisy({RIGHT}, fpr=0.1))",
    f"weighted_vote(n=16, verifier=noisy({RIGHT}, fpr=0.1))",
    f"rejection(n=16, verifier=noisy({RIGHT}, fpr=0.1))",
    "adaptive_consistency(n=16)",
    "first_finish(n=16)",
)


def study(*strategies, **more):
    chosen = {"tasks": ("maze(n=12)",), "policies": ("maze(0.6)",), "strategies": strategies or STRATEGIES, "allow_oracle": True}
    return Study(**(chosen | more))


@dataclass
class Ran:
    """A study that was run: its runner with its policies, how far it got, its export."""

    runner: Runner
    progress: object
    export: list[str]

    @property
    def calls(self):
        return sum(policy.calls for policy in self.runner.policies)


def ran(folder, asked, *, bank=None, policy=None):
    """Run a study in this process; `policy` stands in for what the spec names."""
    runner = Runner(asked)
    if policy is not None:
        runner.policies = [policy]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(Path(folder) / "study.db"))
        shared = stack.enter_context(Journal(bank)) if bank else None
        progress = asyncio.run(runner.run(journal, shared))
        return Ran(runner, progress, list(canonical(journal, shared)))


@dataclass
class Jittery:
    """Answers some requests much later than others: request k takes a number of turns of the loop that looks like chance."""

    policy: MazePolicy
    requests: int = 0

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: list[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.requests += 1
        for _ in range(self.requests * 7919 % 31):
            await asyncio.sleep(0)
        return await self.policy.sample(asks, until=until, sampling=sampling)


@pytest.mark.slow
def test_concurrency_changes_no_byte_of_the_export(tmp_path):
    chosen = {
        "strategies": (*STRATEGIES, "adaptive_consistency(n=8, batch=1)"),
        "slice": 4,
        "budgets": (Budget(), Budget(tokens=18)),
    }
    one = ran(tmp_path / "1", study(concurrency=1, **chosen))
    many = ran(tmp_path / "64", study(concurrency=64, **chosen), policy=Jittery(MazePolicy(0.6)))
    assert one.export == many.export
    assert len(one.export) > 500


@pytest.mark.slow
def test_all_parallel_strategies_together_cost_what_the_dearest_costs_alone(tmp_path):
    def tokens(name, *strategies):
        ran(tmp_path / name, study(*strategies))
        return sum(row[-1] for row in kept(tmp_path / name)["samples"])

    alone = [tokens(str(at), strategy) for at, strategy in enumerate(PARALLEL)]
    together = tokens("all", *PARALLEL)
    assert max(alone) == 12 * 16 * 4
    assert together <= 1.05 * max(alone)


def test_a_slice_is_shared_with_the_strategies(tmp_path):
    assert ran(tmp_path / "a", study("self_consistency(n=8)", slice=8)).calls == 12 * 8
    assert ran(tmp_path / "b", study("self_consistency(n=8)", slice=3)).calls == 12 * 8


def test_a_priced_verifier_is_paid_once_for_each_chain(tmp_path):
    verifier = f"noisy({RIGHT}, price=3)"
    ran(tmp_path, study(*[f"{kind}(n=8, verifier={verifier})" for kind in ("best_of_n", "weighted_vote", "rejection")]))
    rows = kept(tmp_path)
    assert len(rows["scores"]) == len({(row[1], row[7]) for row in rows["samples"]})


def test_a_finished_study_costs_nothing_to_start_again(tmp_path):
    first, again = ran(tmp_path, study()), ran(tmp_path, study())
    assert first.calls > 0
    assert again.calls == 0
    assert again.progress.runs == 0
    assert again.progress.done == again.progress.total == 12
    assert again.export == first.export


def test_a_changed_study_pays_for_what_is_new_alone(tmp_path):
    ran(tmp_path, study("self_consistency(n=4)"))
    assert ran(tmp_path, study("self_consistency(n=4)", "self_consistency(n=6)")).calls == 12 * 2
    assert ran(tmp_path, study("self_consistency(n=6)", tasks=("maze(n=15)",))).calls == 3 * 6
    assert ran(tmp_path, study("self_consistency(n=6)", tasks=("maze(n=15)",), seeds=(0, 1))).calls == 15 * 6
    assert ran(tmp_path, study("self_consistency(n=6)", sampling=(Sampling(temperature=0.5),))).calls == 12 * 6


def test_another_seed_policy_or_temperature_draws_other_samples(tmp_path):
    variants = [{}, {"seeds": (1,)}, {"policies": ("maze(0.61)",)}, {"sampling": (Sampling(temperature=0.5),)}]
    texts = []
    for at, variant in enumerate(variants):
        ran(tmp_path / str(at), study("self_consistency(n=8)", **variant))
        texts.append(tuple(sorted((row[1], row[4], row[7]) for row in kept(tmp_path / str(at))["samples"])))
    assert len(set(texts)) == len(variants)


def test_two_studies_on_one_bank_pay_once(tmp_path):
    bank = tmp_path / "bank.db"
    first = ran(tmp_path / "one", study("self_consistency(n=8)"), bank=bank)
    second = ran(tmp_path / "two", study("self_consistency(n=8)", "first_finish(n=8)"), bank=bank)
    alone = ran(tmp_path / "three", study("self_consistency(n=8)", "first_finish(n=8)"))
    assert (first.calls, second.calls) == (12 * 8, 0)
    assert second.export == alone.export
    assert kept(tmp_path / "two")["samples"] == []


def test_failed_samples_are_no_answers_and_the_next_start_draws_them(tmp_path):
    flaky = Flaky(MazePolicy(0.6), frozenset({1}))  # of every problem the second sample
    first = ran(tmp_path, study("self_consistency(n=4)"), policy=flaky)
    assert first.progress.failed == 12
    assert len(kept(tmp_path)["samples"]) == 12 * 3
    second = ran(tmp_path, study("self_consistency(n=4)"))
    assert (second.progress.failed, second.calls) == (0, 12)
    assert second.export == ran(tmp_path / "whole", study("self_consistency(n=4)")).export


@dataclass
class Broken:
    """Works for so many requests; then its engine is gone."""

    policy: MazePolicy
    left: int

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: list[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.left -= 1
        if self.left < 0:
            raise EndpointError("the engine is gone")
        return await self.policy.sample(asks, until=until, sampling=sampling)


def test_an_engine_that_dies_ends_the_study_with_its_own_error_and_all_that_was_paid_for(tmp_path):
    with pytest.raises(EndpointError, match=r"^the engine is gone$"):
        ran(tmp_path, study("self_consistency(n=4, batch=1)"), policy=Broken(MazePolicy(0.6), 20))
    assert len(kept(tmp_path)["samples"]) == 20
    assert ran(tmp_path, study("self_consistency(n=4, batch=1)")).calls == 12 * 4 - 20


def test_a_grader_in_the_search_needs_leave_before_anything_is_opened(tmp_path):
    for spec in ("rejection(n=4, verifier=oracle)", "best_of_n(n=4, verifier=oracle(fpr=0.1))"):
        with pytest.raises(OracleError, match=r"give --allow-oracle \(or allow_oracle = true\) if an upper bound is meant"):
            Runner(study(spec, allow_oracle=False))
    Runner(study("best_of_n(n=4, verifier=oracle)"))


def test_a_run_that_a_grader_took_part_in_says_so(tmp_path):
    ran(tmp_path, study("best_of_n(n=2, verifier=oracle)", "self_consistency(n=2)"))
    with Journal(tmp_path / "study.db") as journal:
        by_strategy = {run.strategy: run.oracle for run in StudyStore(journal).runs()}
    assert by_strategy == {"best_of_n(n=2, verifier=oracle())": True, "self_consistency(n=2)": False}


def test_verdicts_are_those_of_the_grader(tmp_path):
    """The text of every kept sample, judged by hand."""
    ran(tmp_path, study("self_consistency(n=1)", slice=8))
    with Journal(tmp_path / "study.db") as journal:
        store = StudyStore(journal)
        for problem in store.problems("maze-1/4"):
            root = Chain(problem.question.messages)
            verdicts = store.verdicts("maze-1/4", problem.question.id, "maze-1")
            pool = Ask(root, (), "0").pool("maze(0.6, 4)", Until(), Sampling())
            for row in SqliteTable(journal).rows(pool):
                verdict = verdicts[root.then(row.step, row.finish).digest]
                assert verdict.correct == (row.step.text == "a\n" * 4)
                assert verdict.answer == row.step.text.strip()


def test_a_cut_sample_is_wrong_even_where_the_same_text_whole_is_right(tmp_path):
    """A cap of 3 tokens on mazes of 4 crossings: nothing ends, so nothing may be right or vote."""
    done = ran(tmp_path, study("self_consistency(n=4)", policies=("maze(1.0)",), sampling=(Sampling(max_tokens=3),), slice=4))
    with Journal(tmp_path / "study.db") as journal:
        runs = [run for run in StudyStore(journal).runs() if run.strategy.startswith("self")]
    assert [(run.correct, run.chain, run.answer) for run in runs] == [(False, None, None)] * 12
    assert done.progress.failed == 0, "to be cut is not to fail"


def test_every_cell_is_run(tmp_path):
    asked = study(
        "sample", policies=("maze(0.6)", "maze(0.7)"), seeds=(0, 1), sampling=(Sampling(), Sampling(top_p=0.5)), limit=3
    )
    assert ran(tmp_path, asked).progress.total == 2 * 2 * 2 * 3
    assert len(kept(tmp_path)["runs"]) == 24


def test_a_budget_is_an_axis_of_the_study(tmp_path):
    ran(tmp_path, study("self_consistency(n=8, batch=1)", budgets=(Budget(), Budget(samples=3), Budget(tokens=9)), limit=2))
    with Journal(tmp_path / "study.db") as journal:
        spent = {(run.problem, run.budget): run.spent for run in StudyStore(journal).runs()}
    assert {budget: (one.samples, one.usage.completion) for (_, budget), one in spent.items()} == {
        "none": (8, 32),
        "samples=3": (3, 12),
        "tokens=9": (3, 9),
    }


def test_the_identity_of_a_run_is_everything_that_may_change_it(tmp_path):
    def ids(**more):
        runner = Runner(study(*more.pop("strategies", ["self_consistency(n=2)"]), limit=1, **more))
        ran(tmp_path / str(len(seen)), runner.study)
        return {row[0] for row in kept(tmp_path / str(len(seen)))["runs"]}

    seen: list[set[str]] = []
    for more in (
        {},
        {"strategies": ["self_consistency(n=3)"]},
        {"strategies": ["self_consistency(n=2, batch=1)"]},
        {"strategies": [f"best_of_n(n=2, verifier=noisy({RIGHT}))"]},
        {"strategies": [f"best_of_n(n=2, verifier=noisy({RIGHT}, seed=1))"]},
        {"seeds": (1,)},
        {"policies": ("maze(0.7)",)},
        {"budgets": (Budget(samples=2),)},
        {"sampling": (Sampling(max_tokens=3),)},
        {"tasks": ("maze(depth=5)",)},
    ):
        seen.append(ids(**more))
    assert len(set.union(*seen)) == len(seen)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.skipif(
    not list(files("ponder.lab").joinpath("weights").iterdir()), reason="the lab's weights are not in this checkout"
)
def test_concurrency_changes_no_byte_of_a_study_on_the_lab(tmp_path):
    """A batch has other sizes and other neighbours at other times; what is drawn must not depend on them."""
    strategies = ("self_consistency(n=8)", "best_of_n(n=8, verifier=confidence)", "adaptive_consistency(n=8, batch=2)")
    chosen = {"tasks": ("countdown(n=6)", "chain(n=6)"), "policies": ("lab('small')",), "slice": 8}
    one, many = (ran(tmp_path / str(at), study(*strategies, concurrency=at, **chosen)) for at in (1, 64))
    assert one.export == many.export


@dataclass
class Held:
    """Answers its first request at once and every later one when `more` is set."""

    policy: MazePolicy
    more: asyncio.Event

    @property
    def info(self) -> PolicyInfo:
        return self.policy.info

    async def sample(self, asks: list[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        if self.policy.calls:
            await self.more.wait()
        return await self.policy.sample(asks, until=until, sampling=sampling)


def test_a_study_tells_how_far_it_is_before_its_first_problem_is_done(tmp_path):
    seen, waited = [], []

    async def told(journal):
        more = asyncio.Event()

        async def pause(seconds):
            waited.append(seconds)
            await asyncio.sleep(0)

        def report(progress):
            seen.append(progress)
            if progress.samples == 4:
                more.set()

        runner = Runner(
            study("rejection(n=12, batch=4, verifier=noisy(right=('none',)))", "sample", tasks=("maze(n=1, depth=3)",))
        )
        [task] = runner.tasks
        work = Work(runner, journal, SqliteTable(journal), [], report, 1, pause=pause)
        await work.all([Cell(task, Held(MazePolicy(0.6), more), Sampling(), 0)])
        return work.progress

    with Journal(tmp_path / "study.db") as journal:
        ended = asyncio.run(told(journal))
    first = next(one for one in seen if one.samples)
    assert first == Progress(0, 1, first.tokens, 0, 0, samples=4)
    assert 4 <= first.tokens < ended.tokens
    assert (ended.done, ended.runs, ended.samples) == (1, 2, 13), "as charged"
    assert max(one.samples for one in seen) == 13, "no run is counted twice, as running and as finished"
    assert {*waited} == {BEAT}
