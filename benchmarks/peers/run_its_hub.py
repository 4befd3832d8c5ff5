"""its_hub's SelfConsistency, with the concurrency of its orchestrator raised by its own setting, or as it comes."""

from __future__ import annotations

import asyncio
import sys

from its_hub import LMOrchestrator, OpenAICompatibleLanguageModel, SelfConsistency
from shared import IN_FLIGHT, MAX_TOKENS, SAMPLES, TEMPERATURE, Load, finish


async def main(url: str, tuned: bool) -> None:
    done = 0
    questions = iter(Load())
    strategy = SelfConsistency(orchestrator=LMOrchestrator(max_concurrency=IN_FLIGHT)) if tuned else SelfConsistency()
    model = OpenAICompatibleLanguageModel(url, "none", "fake", max_completion_tokens=MAX_TOKENS, temperature=TEMPERATURE)

    async def worker() -> None:
        nonlocal done
        for text in questions:
            result = await strategy.ainfer(model, text, budget=SAMPLES, return_response_only=False)
            done += len(result.responses)

    async with model:
        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT // SAMPLES)))
    finish(done, "its-hub", "aiohttp")


asyncio.run(main(sys.argv[1], sys.argv[2] == "tuned"))
