"""optillm's server in front of the endpoint, asked for self_consistency by many clients at once (5 samples a question, its number).

It samples one by one within a question, with the openai client in threads of a development server, so the number of questions
at a time is what it has in flight.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
from shared import MAX_TOKENS, Load, finish

OWN_SAMPLES = 5


def main(url: str, at_once: int) -> None:
    with tempfile.TemporaryDirectory() as folder:  # it loads plugins from the folder it is started in
        port, log = free_port(), Path(folder) / "log"
        command = [str(Path(sys.executable).with_name("optillm")), "--base-url", url, "--port", str(port), "--log", "error"]
        environment = {**os.environ, "OPENAI_API_KEY": "none"}
        with log.open("w") as file:  # it writes a line for each request
            server = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        try:
            if not asyncio.run(ready(port, server)):
                raise SystemExit(
                    f"optillm's server was not ready within 60 s (exit code {server.poll()}): {log.read_text()[-500:]}"
                )
            done, failed = asyncio.run(ask(f"http://127.0.0.1:{port}/v1/chat/completions", at_once))
        finally:
            server.terminate()
            server.wait(20)
    finish(done, "optillm", "openai", questions_at_once=at_once, failed_questions=failed)


async def ask(url: str, at_once: int) -> tuple[int, int]:
    done = failed = 0
    questions = iter(Load())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            nonlocal done, failed
            for text in questions:
                messages = [{"role": "user", "content": text}]
                body = {"model": "self_consistency-fake", "messages": messages, "max_tokens": MAX_TOKENS}
                async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(60)) as response:
                    await response.read()
                done += OWN_SAMPLES if response.status == 200 else 0
                failed += response.status != 200

        await asyncio.gather(*(worker() for _ in range(at_once)))
    return done, failed


async def ready(port: int, server: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until and server.poll() is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health"):
                    return True
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


main(sys.argv[1], int(sys.argv[2]))
