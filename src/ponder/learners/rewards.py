"""A task's grader as the reward of reinforcement learning: 1 for a verdict of correct, else 0.

A reward function of TRL is called in the training thread and graders are asynchronous, so one event loop in a thread of its own does
the grading, all problems of a batch at the same time. What a grader cannot do is an error, never a reward.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence, Set
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from ponder.core import Task
from ponder.types import Verdict

T = TypeVar("T")

CORRECT, LENGTH = "correct", "length"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was sampled. Adds.

    prompt: tokens of the prompts, once for each sample. completion: tokens written, end tokens included. learned: those of them that
    take part in the loss.
    """

    samples: int = 0
    prompt: int = 0
    completion: int = 0
    learned: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.samples + other.samples,
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.learned + other.learned,
        )


class Rewards:
    """A reward function of TRL, and a context manager that ends its thread.

    The data set needs two columns more: `problem`, an index into `task.problems`, and `tokens`, the length of the prompt. What is judged
    is the text of the ids that were sampled, without the end token; `completions`, which TRL decoded, is not looked at.

    Args:
        task: its answer key and its grader judge.
        decode: from ids to the text that the policy means.
        ends: ids that end an answer. A completion without one was cut by length: it is not judged, and its reward is 0.
        mask_truncated: a completion cut by length has no reward instead, takes no part in the mean of its group, and has advantage 0.
    """

    def __init__(
        self, task: Task, decode: Callable[[Sequence[int]], str], ends: Set[int], *, mask_truncated: bool = False
    ) -> None:
        self.last = self.total = Counts()
        self.verdicts: Counter[str] = Counter()  # "correct", "length", or the reason of the grader
        self._task, self._decode, self._ends, self._masked = task, decode, ends, mask_truncated
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ponder-rewards", daemon=True)
        self._thread.start()

    def __call__(
        self, *, completion_ids: Sequence[Sequence[int]], problem: Sequence[int], tokens: Sequence[int], **_: object
    ) -> list[float | None]:
        """One reward for each completion, in order; raises what the grader raises."""
        whole = [bool(ids) and ids[-1] in self._ends for ids in completion_ids]
        groups: dict[int, list[int]] = {}
        for row in (row for row, ended in enumerate(whole) if ended):
            groups.setdefault(problem[row], []).append(row)
        texts = [self._decode(ids[:-1]) for ids in completion_ids]
        rewards: list[float | None] = [None if self._masked else 0.0] * len(texts)
        named = [LENGTH] * len(texts)
        judged = self._wait(self._grade({one: [texts[row] for row in rows] for one, rows in groups.items()}))
        for rows, verdicts in zip(groups.values(), judged, strict=True):
            for row, verdict in zip(rows, verdicts, strict=True):
                rewards[row] = float(verdict.correct)
                named[row] = CORRECT if verdict.correct else verdict.reason or "wrong"
        self.verdicts.update(named)
        lengths = [len(ids) for ids in completion_ids]
        learned = sum(length for length, ended in zip(lengths, whole, strict=True) if ended or not self._masked)
        self.last = Counts(len(texts), sum(tokens), sum(lengths), learned)
        self.total += self.last
        return rewards

    async def _grade(self, groups: dict[int, list[str]]) -> list[list[Verdict]]:
        """The verdicts of each problem's texts."""
        task = self._task
        return await asyncio.gather(
            *(task.grader.grade(task.problems[at], [task.answer(text) for text in texts], texts) for at, texts in groups.items())
        )

    def _wait(self, work: Coroutine[object, object, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop what is still being graded, and end the thread."""
        if self._loop.is_closed():
            return
        self._wait(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
