"""GRPO and RLOO: rewards are verdicts, advantages are the papers', and a policy gets better at what the grader asks for."""

from __future__ import annotations

import sys
import threading

import pytest
from rl_cases import Broken, Even, task_of

from ponder.errors import MissingExtraError, UsageError
from ponder.lab import tokenizer as vocabulary
from ponder.learners import rl
from ponder.learners.rewards import Counts, Rewards
from ponder.learners.rl import Recipe, reinforce


def reward(grader, completions: list[list[int]], problem: list[int], *, mask: bool = False) -> tuple[list[float | None], Rewards]:
    with Rewards(task_of(grader), vocabulary.decode, frozenset({vocabulary.EOS}), mask_truncated=mask) as rewards:
        return rewards(
            prompts=[], completions=[], completion_ids=completions, problem=problem, tokens=[6] * len(problem)
        ), rewards


def ids(text: str, *, ended: bool = True) -> list[int]:
    return [*vocabulary.encode(text), *([vocabulary.EOS] if ended else [])]


def test_each_problem_is_graded_once_with_its_texts_and_their_keys_and_rewards_keep_the_order():
    even = Even()
    given = [ids("4"), ids("5"), ids("make"), ids("6"), ids("7"), ids("8 9")]
    rewards, counted = reward(even, given, [2, 0, 2, 0, 2, 0])
    assert rewards == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert sorted(even.asked) == [
        ("p0", ("5", "6", None), ("5", "6", "8 9")),
        ("p2", ("4", None, "7"), ("4", "make", "7")),
    ]
    assert counted.verdicts == {"correct": 2, "odd": 4}
    assert counted.total == Counts(samples=6, prompt=36, completion=13, learned=13)


def test_a_completion_cut_by_length_is_named_and_not_graded_and_its_reward_is_nothing():
    even = Even()
    rewards, counted = reward(even, [ids("4"), ids("4", ended=False), [], [vocabulary.PAD]], [0, 0, 0, 1])
    assert rewards == [1.0, 0.0, 0.0, 0.0]
    assert even.asked == [("p0", ("4",), ("4",))]
    assert counted.verdicts == {"correct": 1, "length": 3}
    assert counted.total == Counts(samples=4, prompt=24, completion=4, learned=4)


def test_with_masking_a_completion_cut_by_length_has_no_reward_and_teaches_nothing():
    rewards, counted = reward(Even(), [ids("4"), ids("4 6", ended=False)], [0, 0], mask=True)
    assert rewards == [1.0, None]
    assert counted.total == Counts(samples=2, prompt=12, completion=4, learned=2)


class Forgetful:
    version = "forgetful-1"

    async def grade(self, problem, answers, texts):
        return []


def test_a_grader_that_fails_is_an_error_and_the_rest_of_the_grading_is_stopped():
    broken = Broken()
    with pytest.raises(RuntimeError, match="the judge is ill"):
        reward(broken, [ids("4"), ids("4"), ids("4")], [0, 1, 2])
    assert broken.stopped == 2
    assert "ponder-rewards" not in {thread.name for thread in threading.enumerate()}


def test_a_grader_that_forgets_a_verdict_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        reward(Forgetful(), [ids("4")], [0])


# ---- recipe and rows ----


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm": "ppo"}, "rl: algorithm = 'ppo' must be one of 'grpo', 'rloo'"),
        ({"group": 1}, "rl: group = 1 must lie in [2, 65536]"),
        ({"rate": 0.0}, "rl: rate = 0.0 must lie in [1e-12, 1]"),
        ({"rate": float("nan")}, "rl: rate = nan must lie in [1e-12, 1]"),
        ({"temperature": 0.0}, "rl: temperature = 0.0 must lie in [0.001, 100]"),
        ({"max_tokens": 0}, "rl: max_tokens = 0 must lie in [1, 2.14748e+09]"),
        ({"steps": 7, "iterations": 2}, "rl: steps = 7 must be a multiple of iterations = 2"),
        ({"steps": 7, "checkpoints": 7}, "rl: checkpoints = 7 must lie in [0, 6]"),
        ({"loss_type": "sapo"}, "rl: loss_type = 'sapo' must be one of None, 'dapo', 'grpo', 'dr_grpo'"),
        (
            {"algorithm": "rloo", "loss_type": "grpo"},
            "rl: loss_type = 'grpo' has no meaning for rloo; leave it out, or take grpo",
        ),
        (
            {"algorithm": "rloo", "scale_rewards": "none"},
            "rl: scale_rewards = 'none' has no meaning for rloo; leave it out, or take grpo",
        ),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(UsageError) as caught:
        Recipe(**given)
    assert str(caught.value) == message


def test_checkpoints_are_evenly_spaced_and_leave_out_the_end():
    assert Recipe(steps=100, checkpoints=3).marks == {25, 50, 75}
    assert Recipe(steps=4, checkpoints=3).marks == {1, 2, 3}
    assert Recipe(steps=4).marks == set()


def test_rows_go_through_all_problems_in_a_new_order_each_time():
    prompts = [(f"chain {k}", k + 5) for k in range(5)]
    rows = rl._rows(prompts, Recipe(prompts=3, steps=8, iterations=2, max_tokens=4), 16)
    order = rows["problem"]
    assert len(order) == 3 * 8 // 2
    assert sorted(order[:5]) == sorted(order[5:10]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:10]
    assert rows["prompt"] == [f"chain {k}" for k in order]
    assert rows["tokens"] == [k + 5 for k in order]
    assert rl._rows(prompts, Recipe(prompts=3, steps=8, iterations=2, max_tokens=4, seed=1), 16)["problem"] != order


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(
        UsageError, match=r"^rl: max_tokens = 9 after a prompt of 8 tokens exceeds the model's 16 positions; at most 8 fit$"
    ):
        rl._rows([("chain 1", 8)], Recipe(max_tokens=9), 16)
    with pytest.raises(UsageError, match=r"^rl: the task has no problems$"):
        rl._rows([], Recipe(max_tokens=9), 16)


def test_without_trl_the_way_to_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(MissingExtraError, match=r"^trl is not installed; it comes with the extra 'train'"):
        reinforce(tmp_path, task_of(Even()), tmp_path / "out", Recipe())
