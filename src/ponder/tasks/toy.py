"""A task for the maze policy, whose success is known in closed form: the right answer is all "a"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ponder.core import Task
from ponder.errors import UsageError
from ponder.types import Problem, Question, Verdict, user


def maze(n: int = 100, depth: int = 4) -> Task:
    """`n` mazes of `depth` crossings; a policy `maze(p, depth)` of equal depth answers right with probability p ** depth.

    Raises `UsageError` unless both are at least 1.
    """
    if n < 1 or depth < 1:
        raise UsageError(f"maze: n = {n} and depth = {depth} must both be at least 1")
    right = "a\n" * depth
    problems = tuple(Problem(Question(f"maze-{i}", (user(f"Maze {i}: {depth} crossings."),)), right) for i in range(n))
    return Task("maze", f"maze-1/{depth}", problems, _text, MazeGrader(), max_tokens=depth)


@dataclass(frozen=True, slots=True)
class MazeGrader:
    """Right if every crossing was."""

    version: str = "maze-1"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each text."""
        return [
            Verdict(text == problem.reference, answer, "" if text == problem.reference else "a wrong turn")
            for answer, text in zip(answers, texts, strict=True)
        ]


def _text(text: str) -> str | None:
    return text.strip() or None
