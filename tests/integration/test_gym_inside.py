"""reasoning-gym in the sandbox: honest answers pass, and what attacks a scorer that evaluates does not."""

from __future__ import annotations

import asyncio
import time

import pytest

from ponder.tasks.gym import gym

pytest.importorskip("reasoning_gym")
pytestmark = [pytest.mark.integration, pytest.mark.slow]


def judged(task, problem, *answers):
    texts = [f"<answer>{answer}</answer>" for answer in answers]
    return asyncio.run(task.grader.grade(problem, [task.answer(text) for text in texts], texts))


@pytest.mark.parametrize("name", ["countdown", "n_queens", "sudoku", "word_sorting", "simple_integration", "rearc"])
def test_own_answers_pass_and_the_answers_of_other_problems_do_not(name):
    task = gym(name, n=3)
    first, second, third = (problem.reference["answer"] for problem in task.problems)
    verdicts = judged(task, task.problems[0], first, second, third, "qqq zzz")
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False]


def test_tasks_are_made_alike_twice_and_their_splits_are_apart():
    one, two, train = gym("countdown", n=20), gym("countdown", n=20), gym("countdown", n=20, split="train")
    assert (one.fingerprint, one.problems) == (two.fingerprint, two.problems)
    texts = [{problem.question.messages[0].text for problem in task.problems} for task in (one, train)]
    assert not texts[0] & texts[1]


def test_a_config_reaches_the_task():
    task = gym("countdown", n=3, config='{"min_numbers": 3, "max_numbers": 3}')
    assert all(len([c for c in p.reference["answer"] if c in "+-*/"]) >= 2 for p in task.problems)
    assert task.fingerprint != gym("countdown", n=3).fingerprint


@pytest.mark.parametrize("name", ["countdown", "n_queens", "simple_integration", "spiral_matrix"])
def test_an_answer_that_is_code_is_wrong_and_runs_nowhere(name, tmp_path):
    task, mark = gym(name, n=1), tmp_path / "mark"
    [problem] = task.problems
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    forged = "__import__('os').write(3, b'1.0')"
    assert not any(verdict.correct for verdict in judged(task, problem, code, forged, "[][0]", "(lambda: 1)()"))
    assert not mark.exists()


def test_a_tower_costs_the_time_that_an_answer_has_and_is_wrong():
    task = gym("simple_integration", n=1)
    start = time.monotonic()
    [tower] = judged(task, task.problems[0], "9**9**9**9")
    assert (tower.correct, tower.reason) in {
        (False, "timeout"),
        (False, "exception MemoryError"),
        (False, "died"),
        (False, "score 0.0"),
    }
    assert time.monotonic() - start < 13
