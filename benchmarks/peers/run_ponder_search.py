"""ponder's beam and particles under the same guide, every sample durable in an SQLite bank before it is used."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import MAX_TOKENS, MOST_STEPS, SAMPLES, TEMPERATURE, WIDTH, Problems, prompt, worth

from ponder.bank import TableBank
from ponder.cli.runner import spare_the_collector
from ponder.core import Attempt, Sampling
from ponder.graders.answer import stated_answer
from ponder.policies.openai import openai
from ponder.run import Run, solve
from ponder.store import Journal, SqliteTable
from ponder.strategies.beam import Beam
from ponder.strategies.particles import Particles
from ponder.types import Chain, Question, Score, user

BUILD = Path(__file__).parents[2] / "build"


@dataclass(slots=True)
class Guide:
    scored: int = 0
    fingerprint: str = ""  # free

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        del run
        self.scored += len(chains)
        return [Score(worth(chain.text)) for chain in chains]


async def main(url: str, journal: Journal, search: str, at_once: int, warm_up: float) -> None:
    guide, table, sampling = Guide(), SqliteTable(journal), Sampling(TEMPERATURE, max_tokens=MAX_TOKENS)
    bank, attempts, failed = TableBank(table), list[Attempt](), 0
    strategy = (
        Beam(WIDTH, SAMPLES // WIDTH, guide, depth=MOST_STEPS)
        if search == "beam"
        else Particles(SAMPLES, guide, resample="multinomial", depth=MOST_STEPS)
    )
    async with openai(url, concurrency=4096) as policy:
        policy.observer = attempts.append
        problems = Problems()
        numbers = iter(problems)

        async def worker() -> None:
            nonlocal failed
            for number in numbers:
                question = Question(str(number), (user(prompt(number)),))
                outcome = await solve(strategy, question, policy, sampling=sampling, answer=stated_answer, bank=bank)
                failed += outcome.failed
                problems.done(number, outcome.chain.text if outcome.chain else "")
                if len(attempts) >= 1000:
                    batch, attempts[:] = attempts[:], []
                    await table.keep_attempts(batch)

        await asyncio.gather(*(worker() for _ in range(at_once)))
        await table.keep_attempts(attempts)
    [[durable]] = journal.read("SELECT count(*) FROM samples")
    problems.finish(warm_up, "ponder-ttc", "aiohttp", scored=guide.scored, durable=durable, failed=failed)


BUILD.mkdir(exist_ok=True)
spare_the_collector()  # as `ponder run` does
with (
    tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder,
    Journal(Path(folder) / "study.db") as opened,
):  # on a real disk
    os.environ["PONDER_CACHE"] = folder  # what was probed of a server that lives for seconds is not worth remembering
    asyncio.run(main(sys.argv[1], opened, sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
