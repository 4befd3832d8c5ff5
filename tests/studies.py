"""Small studies for the tests of store, runner and command line: on the maze, so that every number is known."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

from ponder.store import Journal
from ponder.store.export import canonical

STRATEGIES = (
    "self_consistency(n=8)",
    "adaptive_consistency(n=8, batch=2)",
    r"best_of_n(n=8, verifier=noisy(right=('a\na\na\na\n',), fpr=0.2, price=3))",
    "rejection(n=8, verifier=oracle(fpr=0.1))",
    "first_finish(n=4)",
)


def options(*strategies, task="maze(n=12, depth=4)", policy="maze(0.6, 4)", slice=8, more=()):
    """The options of `ponder run` that make a study on the maze."""
    chosen = [part for spec in strategies or STRATEGIES for part in ("--strategy", spec)]
    return ["--task", task, "--policy", policy, *chosen, "--slice", str(slice), "--allow-oracle", *more]


def command(*words):
    """A `ponder` command line on this interpreter."""
    return [sys.executable, "-c", "from ponder.cli import main; main()", *map(str, words)]


def cli(*words, fault=None, cwd=None, timeout=60, stdin=None):
    """A finished `ponder` process, with its output as text."""
    env = {**os.environ, "PONDER_FAULT": fault or "", "COLUMNS": "200"}
    return subprocess.run(command(*words), env=env, cwd=cwd, timeout=timeout, input=stdin, capture_output=True, text=True)


def resume_command(stderr):
    """The command to go on with that a process printed, as words."""
    [line] = re.findall(r"(?:go on with|draw them again with): (ponder run .*)$", stderr, re.MULTILINE)
    return shlex.split(line)[1:]


def exported(folder: Path) -> list[str]:
    """The canonical export of a study."""
    with Journal(folder / "study.db") as journal:
        return list(canonical(journal))


QUERIES = {
    "samples": "SELECT policy, chain, sampling, stream, idx, cap, finish, text, samples.prompt, completion FROM samples "
    "JOIN pools ON pools.id = samples.pool",
    "scores": "SELECT * FROM scores",
    "verdicts": "SELECT * FROM verdicts",
    "runs": "SELECT id, cell, problem, strategy FROM runs",
    "problems": "SELECT * FROM problems",
}


def kept(folder: Path, *, file: str = "study.db") -> dict[str, list[tuple[object, ...]]]:
    """What a study file holds, read past all of our code; nothing where there is no schema yet."""
    connection = sqlite3.connect(folder / file)
    try:
        if not connection.execute("SELECT * FROM sqlite_master").fetchall():
            return {name: [] for name in QUERIES}
        return {name: connection.execute(query).fetchall() for name, query in QUERIES.items()}
    finally:
        connection.close()


def asked(folder: Path, *, file: str = "study.db") -> int:
    """How many children the policy was asked for, over all processes that lived to say so."""
    connection = sqlite3.connect(folder / file)
    try:
        if not connection.execute("SELECT * FROM sqlite_master").fetchall():
            return 0
        [[count]] = connection.execute("SELECT coalesce(sum(children), 0) FROM attempts").fetchall()
        return int(count)
    finally:
        connection.close()
