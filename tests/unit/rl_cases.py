"""A task of even numbers, graders that go wrong, and what a policy learns them by."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from ponder.core import Task
from ponder.types import Problem, Question, Verdict, user


@dataclass
class Even:
    """Accepts answers whose number is even, and takes down what it was asked."""

    version: str = "even-1"
    asked: list[tuple[str, tuple[str | None, ...], tuple[str, ...]]] = field(default_factory=list)

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        self.asked.append((problem.question.id, tuple(answers), tuple(texts)))
        found = [one is not None and int(one) % 2 == 0 for one in answers]
        return [Verdict(ok, one, "" if ok else "odd") for ok, one in zip(found, answers, strict=True)]


def number(text: str) -> str | None:
    return text if text.isdecimal() else None


def task_of(grader, count: int = 8, max_tokens: int = 8) -> Task:
    problems = tuple(Problem(Question(f"p{k}", (user(f"chain {k}+{k + 1}"),)), None) for k in range(count))
    return Task("numbers", "numbers-1", problems, number, grader, max_tokens)


class Broken:
    version = "broken-1"
    stopped = 0

    async def grade(self, problem, answers, texts):
        if problem.question.id == "p1":
            raise RuntimeError("the judge is ill")
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.stopped += 1
