"""its_hub's BeamSearch and ParticleFiltering, guided by an adapter of our guide.

Its best settings, as far as there are any: steps end at a line break and a chain at the text that only conclusions have
(`stop_token`), or as it comes without one; all of a level is sent together (its own batching); concurrency is not limited, and every
worker has a client of its own, since one holds at most 100 connections.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import warnings

from its_hub import OpenAICompatibleLanguageModel
from its_hub.api import AbstractProcessRewardModel
from its_hub.core.algorithms.beam_search import BeamSearch
from its_hub.core.algorithms.particle_gibbs import ParticleFiltering
from its_hub.core.lms.step_generation import StepGeneration
from steps import CONCLUSION, MAX_TOKENS, MOST_STEPS, SAMPLES, TEMPERATURE, WIDTH, Problems, prompt, worth

warnings.filterwarnings("ignore", category=DeprecationWarning)


class Guide(AbstractProcessRewardModel):
    def __init__(self) -> None:
        self.scored = 0

    def score(self, prompt_or_messages, steps):
        self.scored += len(steps)
        return [worth(text) for text in steps]

    async def ascore(self, prompt_or_messages, steps):
        return self.score(prompt_or_messages, steps)


async def main(url: str, search: str, stop: str, at_once: int, warm_up: float) -> None:
    guide = Guide()
    token = CONCLUSION if stop == "stop" else None
    steps = StepGeneration(max_steps=MOST_STEPS, step_token="\n", stop_token=token, temperature=TEMPERATURE)
    strategy = BeamSearch(steps, guide, beam_width=WIDTH) if search == "beam" else ParticleFiltering(steps, guide)
    context = ssl.create_default_context()  # one for all: making it takes longer than a search
    models = [
        OpenAICompatibleLanguageModel(url, "none", "fake", max_completion_tokens=MAX_TOKENS, ssl_context=context)
        for _ in range(at_once)
    ]
    problems = Problems()
    numbers = iter(problems)

    async def worker(model: OpenAICompatibleLanguageModel) -> None:
        async with model:
            for number in numbers:
                reply = await strategy.ainfer(model, prompt(number), budget=SAMPLES)
                problems.done(number, reply["content"])

    await asyncio.gather(*map(worker, models))
    problems.finish(warm_up, "its-hub", "aiohttp", scored=guide.scored)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
