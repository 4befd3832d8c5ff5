"""A maths grader over a sandbox that gives one outcome and keeps what it was asked."""

from dataclasses import dataclass, field

from ponder.graders.maths import MathsGrader
from ponder.sandbox.core import Outcome, Reply


@dataclass
class Fake:
    """A sandbox that says one thing of every program, and keeps what it was asked."""

    outcome: Outcome | None = None
    asked: list = field(default_factory=list)
    tier: str = "fake"

    def run(self, source, inputs, limits):
        self.asked.append((source, inputs, limits))
        if self.outcome is not None:
            return self.outcome
        return Outcome("ok", tuple(Reply(value=True) for _ in inputs))


def grader(outcome=None):
    fake = Fake(outcome)
    return MathsGrader(room=lambda: fake), fake
