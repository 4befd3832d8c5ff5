"""ponder's self_consistency, every sample durable in an SQLite bank before it is used; one sample a request, or many."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from shared import IN_FLIGHT, MAX_TOKENS, SAMPLES, TEMPERATURE, Load, finish

from ponder.bank import TableBank
from ponder.cli.runner import spare_the_collector
from ponder.core import Attempt, Sampling
from ponder.graders.answer import stated_answer
from ponder.policies.openai import openai
from ponder.run import solve
from ponder.store import Journal, SqliteTable
from ponder.strategies.self_consistency import SelfConsistency
from ponder.types import Question, user

BUILD = Path(__file__).parents[2] / "build"


async def main(url: str, journal: Journal, *, many: bool, questions_at_once: int) -> None:
    table = SqliteTable(journal)
    bank, strategy, sampling = TableBank(table), SelfConsistency(SAMPLES), Sampling(TEMPERATURE, max_tokens=MAX_TOKENS)
    done = answered = failed = 0
    attempts: list[Attempt] = []
    questions = enumerate(Load())
    async with openai(url, concurrency=IN_FLIGHT, many=many) as policy:
        policy.observer = attempts.append

        async def worker() -> None:
            nonlocal done, answered, failed
            for number, text in questions:
                question = Question(str(number), (user(text),))
                outcome = await solve(strategy, question, policy, sampling=sampling, answer=stated_answer, bank=bank)
                done, failed = done + outcome.spent.samples, failed + outcome.failed
                answered += outcome.answer is not None
                if len(attempts) >= 1000:
                    batch, attempts[:] = attempts[:], []
                    await table.keep_attempts(batch)

        await asyncio.gather(*(worker() for _ in range(questions_at_once)))
        await table.keep_attempts(attempts)
    [[durable]] = journal.read("SELECT count(*) FROM samples")
    finish(
        done,
        "ponder-ttc",
        "aiohttp",
        questions_at_once=questions_at_once,
        durable=durable,
        answered_questions=answered,
        failed=failed,
    )


BUILD.mkdir(exist_ok=True)
spare_the_collector()  # as `ponder run` does
with (
    tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder,
    Journal(Path(folder) / "study.db") as opened,
):  # on a real disk
    os.environ["PONDER_CACHE"] = folder  # what was probed of a server that lives for seconds is not worth remembering
    asyncio.run(main(sys.argv[1], opened, many=sys.argv[2] == "many", questions_at_once=int(sys.argv[3])))
