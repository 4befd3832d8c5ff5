"""All programs, and what they cover: goal by channel.

`python -m tests.hostile.corpus` prints the matrix; `make evidence NAME=hostile` writes it into docs/sandbox-corpus.md.
"""

from __future__ import annotations

from collections import Counter

from tests.hostile.attacks import files, imports, namespaces, proc, signals, sockets, source, syscalls
from tests.hostile.program import CHANNELS, GOALS, Program

PROGRAMS: tuple[Program, ...] = tuple(
    program for module in (files, proc, sockets, signals, namespaces, syscalls, imports, source) for program in module.PROGRAMS
)
assert len({program.name for program in PROGRAMS}) == len(PROGRAMS), "two programs of one name"


def counts() -> Counter[tuple[str, str]]:
    """How many programs each cell (goal, channel) has."""
    return Counter((program.goal, program.channel) for program in PROGRAMS)


def matrix() -> str:
    """The coverage as a Markdown table."""
    found = counts()
    rows = ["| goal | " + " | ".join(CHANNELS) + " | all |", "|---|" + "--:|" * (len(CHANNELS) + 1)]
    for goal in GOALS:
        cells = [found[goal, channel] for channel in CHANNELS]
        rows.append(f"| {goal} | " + " | ".join(str(n or "") for n in cells) + f" | {sum(cells)} |")
    totals = [sum(found[goal, channel] for goal in GOALS) for channel in CHANNELS]
    rows.append("| all | " + " | ".join(map(str, totals)) + f" | {sum(totals)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(matrix())
