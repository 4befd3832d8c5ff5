"""A bare aiohttp loop: what the machine and the endpoint allow a client that keeps nothing and checks nothing."""

from __future__ import annotations

import asyncio
import json
import sys

import aiohttp
from shared import IN_FLIGHT, MAX_TOKENS, TEMPERATURE, Load, finish


async def main(url: str) -> None:
    done = 0
    load = Load()
    questions = iter(load)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            nonlocal done
            for text in questions:
                body = {
                    "model": "fake",
                    "messages": [{"role": "user", "content": text}],
                    "max_tokens": MAX_TOKENS,
                    "temperature": TEMPERATURE,
                }
                async with session.post(f"{url}/chat/completions", json=body) as response:
                    reply = json.loads(await response.read())
                choice = reply["choices"][0]
                done += bool(choice["message"]["content"]) and choice["finish_reason"] == "stop"

        await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    finish(done, "aiohttp")


asyncio.run(main(sys.argv[1]))
