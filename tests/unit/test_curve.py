"""The numbers of a curve are those that can be counted by hand, and those that the runs themselves would give."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations

import pytest

from fakes import Flaky
from ponder.cli.axes import COUNTS
from ponder.cli.curve import Curves, line_of, series, sizes
from ponder.cli.runner import Runner, parse_strategy
from ponder.cli.study import Study
from ponder.core import Budget, Sampling
from ponder.store import Journal, SqliteTable, StudyStore
from ponder.testing import MazePolicy

RIGHT = r"('a\na\n',)"


def study(*strategies, **more):
    chosen = {"tasks": ("maze(n=6, depth=2)",), "policies": ("maze(0.6, 2)",), "strategies": strategies, "allow_oracle": True}
    return Study(**(chosen | more))


def drawn(folder, asked, policy=None):
    """The points of a study that was run; with the curves that read them and the records of its runs."""
    runner = Runner(asked)
    if policy is not None:
        runner.policies = [policy]
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(folder / "study.db"))
        asyncio.run(runner.run(journal))
        curves = Curves(asked, StudyStore(journal), SqliteTable(journal))
        return curves.points(), curves, StudyStore(journal).runs(), texts(journal)


def texts(journal):
    """The text of each sample in order of its index, by problem: what a hand would count with."""
    found = {}
    for chain, text in journal.read(
        "SELECT chain, text FROM samples JOIN pools ON pools.id = samples.pool ORDER BY chain, stream, idx"
    ):
        found.setdefault(chain, []).append(text)
    return list(found.values())


def values(points, strategy):
    return {p.k: (pytest.approx(p.value), pytest.approx(p.tokens)) for p in points if p.strategy == strategy}


def mean(numbers):
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


def majority(votes):
    return max(dict.fromkeys(votes), key=votes.count)  # max gives the first of equals, fromkeys keeps the order


def test_points_from_a_slice_are_the_means_over_all_subsets_of_it(tmp_path):
    n = 4
    best = f"best_of_n(n={n}, verifier=noisy({RIGHT}, price=3))"
    vote = f"weighted_vote(n={n}, verifier=noisy({RIGHT}, price=3))"
    points, _, _, pools = drawn(tmp_path, study("sample", f"self_consistency(n={n})", best, vote, slice=n))
    right = "a\na\n"

    def over_subsets(k, wins):
        return mean(mean(wins([pool[i] for i in subset]) for subset in combinations(range(n), k)) for pool in pools)

    assert len(pools) == 6
    assert values(points, "sample") == {1: (over_subsets(1, lambda s: s[0] == right), 2.0)}
    majorities = {k: (over_subsets(k, lambda s: majority(s) == right), 2.0 * k) for k in (1, 2, 4)}
    assert values(points, "self_consistency") == majorities
    any_right = {k: over_subsets(k, lambda s: right in s) for k in (1, 2, 4)}
    assert values(points, "pass@k (any of k correct)") == {k: (value, 2.0 * k) for k, value in any_right.items()}
    name = f"({line_of(parse_strategy(best)).partition('(')[2]}"  # a verifier without errors finds what is there
    assert values(points, f"best_of_n{name}") == {k: (value, 5.0 * k) for k, value in any_right.items()}
    assert values(points, f"weighted_vote{name}") == {k: (value, 5.0 * k) for k, value in any_right.items()}


def test_an_oracle_marks_its_points_as_a_bound(tmp_path):
    points, _, _, _ = drawn(tmp_path, study("best_of_n(n=2, verifier=oracle)", "self_consistency(n=2)", slice=2))
    assert {(p.strategy, p.bound) for p in points} == {
        ("best_of_n(oracle)", True),
        ("self_consistency", False),
        ("pass@k (any of k correct)", True),
    }


@pytest.mark.slow
def test_one_anytime_run_gives_what_runs_under_each_budget_give(tmp_path):
    """No slice, so that the points come from the events of one run; budgets in samples cut the same run short."""
    spec = "self_consistency(n=8, batch=1)"
    points, _, _, _ = drawn(tmp_path / "one", study(spec))
    assert {p.how for p in points} == {"runs"}
    for p in points:
        _, _, runs, _ = drawn(tmp_path / str(p.k), study(spec, budgets=(Budget(samples=p.k),)))
        assert p.value == pytest.approx(mean(run.correct for run in runs))
        assert p.tokens == pytest.approx(mean(run.spent.usage.tokens for run in runs))
    assert [p.k for p in points] == [1, 2, 4, 8]


def test_one_run_for_each_size_gives_a_point_for_each(tmp_path):
    points, _, runs, _ = drawn(tmp_path, study("first_finish(n={k})", k=(1, 2, 4)))
    assert [(p.k, p.how) for p in points] == [(1, "runs"), (2, "runs"), (4, "runs")]
    for p in points:
        mine = [run for run in runs if run.strategy == f"first_finish(n={p.k})"]
        assert (p.value, p.tokens) == (mean(r.correct for r in mine), mean(r.spent.usage.tokens for r in mine))


def test_of_several_sizes_on_a_slice_none_is_left_out(tmp_path):
    points, _, _, _ = drawn(tmp_path, study("self_consistency(n={k})", "sample", k=(1, 4, 2), slice=4))
    assert [(p.strategy, p.k) for p in points if "pass" not in p.strategy] == [
        ("self_consistency", 1), ("self_consistency", 2), ("self_consistency", 4), ("sample", 1)
    ]  # fmt: skip


def test_seeds_are_pooled_within_problems(tmp_path):
    """The mean of two seeds, and an interval over problems: two answers to one problem are not two problems."""
    strategies = ("self_consistency(n=4)", "first_finish(n=2)")
    both, _, _, _ = drawn(tmp_path / "both", study(*strategies, slice=4, seeds=(0, 1)))
    alone = [drawn(tmp_path / str(seed), study(*strategies, slice=4, seeds=(seed,)))[0] for seed in (0, 1)]
    for point, *parts in zip(both, *alone, strict=True):
        assert point.value == pytest.approx(mean(part.value for part in parts))
        assert point.tokens == pytest.approx(mean(part.tokens for part in parts))
        assert (point.n, point.seeds) == (6, 2)
        assert point.low <= point.value <= point.high


def test_every_combination_of_task_policy_and_sampling_has_its_own_points(tmp_path):
    sampling = (Sampling(max_tokens=2), Sampling(max_tokens=1), Sampling(temperature=0.5, max_tokens=2))
    points, _, _, _ = drawn(tmp_path, study("sample", slice=2, sampling=sampling))
    cells = list(dict.fromkeys(p.cell for p in points))
    assert len(cells) == 3
    by_cap = {cell.rpartition("max_tokens=")[2]: [p.value for p in points if p.cell == cell] for cell in cells}
    assert by_cap["1"] == [0.0] * 3, "answers cut after one token are wrong, though longer ones stand in the same pool"
    assert max(by_cap["2"]) > 0


def test_failed_samples_are_said_and_count_as_wrong(tmp_path):
    flaky = Flaky(MazePolicy(1.0, 2), frozenset({1}))
    points, curves, _, _ = drawn(tmp_path, study("sample", slice=4), policy=flaky)
    assert curves.notes == ["6 samples failed and count as wrong; start the study again to draw them"]
    assert values(points, "sample") == {1: (0.75, 1.5)}


def test_problems_that_were_not_reached_are_left_out_for_all(tmp_path):
    asked = study("sample", "self_consistency(n=2)", slice=2)
    drawn(tmp_path, asked.model_copy(update={"limit": 3}))
    with Journal(tmp_path / "study.db") as journal:
        points = Curves(asked, StudyStore(journal), SqliteTable(journal)).points()
    assert {p.n for p in points} == {3}


def test_sizes_are_powers_of_two_and_the_whole():
    assert [sizes(n) for n in (0, 1, 2, 3, 8, 12)] == [[], [1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("sample", "sample"),
        ("self_consistency(n=64)", "self_consistency"),
        ("self_consistency(n=64, batch=2)", "self_consistency"),
        ("best_of_n(n=8, verifier=confidence)", "best_of_n(confidence)"),
        ("best_of_n(n=8, verifier=confidence('marco'), batch=4)", "best_of_n(confidence(measure='marco'))"),
        ("adaptive_consistency(n=8, threshold=0.9)", "adaptive_consistency(threshold=0.9)"),
    ],
)
def test_a_line_is_named_by_what_its_points_share(spec, line):
    assert line_of(parse_strategy(spec)) == line


def test_figures_get_lines_of_growing_cost(tmp_path):
    points, _, _, _ = drawn(tmp_path, study("self_consistency(n=4)", slice=4))
    [(cell, lines)] = series([*points, replace(points[0], k=3)]).items()
    assert cell == points[0].cell
    assert [line.name for line in lines] == ["self_consistency", "pass@k (any of k correct)"]
    assert [tuple(line.x) for line in lines] == [(2.0, 4.0, 8.0)] * 2


def test_a_verifier_that_samples_for_its_scores_is_drawn_from_its_runs(tmp_path):
    points, _, _, _ = drawn(tmp_path, study("best_of_n(n=4, verifier=unit_tests)", "sample", slice=4))
    [line] = {(p.strategy, p.how) for p in points if p.strategy.startswith("best_of_n")}
    assert line == ("best_of_n(unit_tests)", "runs")
    assert any(p.how == "subsets" for p in points)


def test_what_was_spent_stands_on_every_axis(tmp_path):
    """A maze costs a token a step and its prompt a token; the verifier scores 3 positions; a subset of k costs k times as much."""
    best = f"best_of_n(n=4, verifier=noisy({RIGHT}, price=3))"
    asked = study("self_consistency(n=4)", best, "adaptive_consistency(n=4, batch=1)", "first_finish(n={k})", k=(1, 2), slice=4)
    drawn(tmp_path, asked)
    with Journal(tmp_path / "study.db") as journal:
        lines = {
            line.strategy.partition("(")[0]: line for line in Curves(asked, StudyStore(journal), SqliteTable(journal)).lines()
        }
    assert set(lines) == {"self_consistency", "best_of_n", "adaptive_consistency", "first_finish", "pass@k "}
    for name, line in lines.items():
        spent = {kind: line.spent_P_K_C[:, :, at] for at, kind in enumerate(COUNTS)}
        assert line.ids == tuple(f"maze-{i}" for i in range(6))
        assert (spent["completion"] + spent["scored"] == line.tokens_P_K).all()
        assert (spent["scored"] == (3 * spent["samples"] if name == "best_of_n" else 0)).all()
        assert (spent["prompt"] >= spent["samples"]).all()
        if name != "first_finish":
            assert (spent["completion"] == 2 * spent["samples"]).all()
        if name != "adaptive_consistency":
            assert (spent["samples"] == line.ks).all()
