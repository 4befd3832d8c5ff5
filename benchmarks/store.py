"""Durable samples a second of the bank: awaiting one means that it is on disk (SQLite, WAL, synchronous=FULL).

    python -m benchmarks.store [--seconds 10]

groups: 256 writers, each awaiting the 8 samples of a question before the next; the journal commits what is queued together.
alone: one writer, one sample at a time, so a commit for each. bank: the same groups through the bank's own door (`TableBank.sample`)
from a policy that costs nothing. A file of its own under build/, on a real disk; rows are counted in the file afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.common import Target, report, say, versions
from ponder.bank import Row, TableBank
from ponder.core import END, Ask, PolicyInfo, Sampling, Until
from ponder.store import Journal, SqliteTable
from ponder.types import Chain, Step, Usage, user

BUILD = Path(__file__).parents[1] / "build"
WRITERS = 256
SAMPLES = 8
STEP = Step("Step 1: 17 + 25 = 42.\nStep 2: 42 + 8 = 50.\nThe answer is 50." * 4, Usage(80, 0, 120, 0, 1, 0.1))
SAMPLING = Sampling(max_tokens=256)


class Free:
    """A policy that costs nothing: every child is the same."""

    info = PolicyInfo("free", "free", frozenset({"n"}))

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        return [[ask.chain.then(STEP, "stop") for _ in ask.indices] for ask in asks]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each arm (default: 10)")
    seconds = parser.parse_args().seconds
    rates = {
        "groups": measure("groups", through_table, WRITERS, SAMPLES, seconds),
        "alone": measure("alone", through_table, 1, 1, seconds),
        "bank": measure("bank", through_bank, WRITERS, SAMPLES, seconds),
    }
    targets = [Target("durable samples/s in groups", rates["groups"], 20_000, "samples/s")]
    say("(design.md measured 36,500 bare rows/s in groups; ours carry a pool, a prefix and a checksum)")
    report("store", targets, {"samples_per_second": rates, "seconds": seconds, "versions": versions("ponder-ttc")})


def measure(
    name: str,
    keeper: Callable[[SqliteTable, Ask], Awaitable[object]],
    writers: int,
    samples: int,
    seconds: float,
) -> float:
    """Samples a second that came to lie on disk. Raises AssertionError if the file holds another number of them than was awaited."""
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder, Journal(Path(folder) / "study.db") as journal:
        started = time.perf_counter()
        awaited = asyncio.run(_work(SqliteTable(journal), keeper, writers, samples, started + seconds))
        taken = time.perf_counter() - started
        [[kept]] = journal.read("SELECT count(*) FROM samples")
        assert kept == awaited, f"{name}: {kept} rows in the file, {awaited} awaited"
    say(f"{name:8s} {awaited / taken:10,.0f} samples/s over {taken:.1f} s")
    return round(awaited / taken, 1)


async def _work(
    table: SqliteTable, keeper: Callable[[SqliteTable, Ask], Awaitable[object]], writers: int, samples: int, until: float
) -> int:
    numbers = itertools.count()

    async def writer() -> int:
        done = 0
        while time.perf_counter() < until:
            question = Chain(
                (user(f"A farmer has {next(numbers)} hens and every hen lays three eggs a week; how many in four weeks?"),)
            )
            await keeper(table, Ask(question, tuple(range(samples)), "0"))
            done += samples
        return done

    return sum(await asyncio.gather(*(writer() for _ in range(writers))))


async def through_table(table: SqliteTable, ask: Ask) -> None:
    """The rows handed to the table."""
    pool = ask.pool("free", END, SAMPLING)
    await table.keep([Row(pool, index, SAMPLING.max_tokens, "stop", STEP) for index in ask.indices], [ask.chain])


_banks: dict[int, TableBank] = {}


async def through_bank(table: SqliteTable, ask: Ask) -> None:
    """The children asked of the bank."""
    bank = _banks.setdefault(id(table), TableBank(table))
    await bank.sample(Free(), [ask], until=END, sampling=SAMPLING)


if __name__ == "__main__":
    main()
