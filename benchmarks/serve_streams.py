"""What `ponder serve` bears: a thousand streams at once, clients that hang up in mid-stream, five times more than it can do.

    python -m benchmarks.serve_streams [--streams 1000] [--disconnects 500] [--seconds 10]

The upstream is the fake endpoint; it, the server and the clients are processes of their own on the same cores. Memory is the server's
peak resident set; aborts are counted by the endpoint. Overload: peak is what the server answers when always just full; then five times
as many requests a second arrive, whether or not earlier ones were answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from benchmarks.common import Target, process_cpu_seconds, report, say, versions
from ponder.testing.endpoint import FakeEndpoint

WARM_UP = 2.0
WORDS = " ".join(f"w{number:03}" for number in range(40))  # 40 tokens


class Server:
    """A running `ponder serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url

    def peak_mib(self) -> float:
        """Peak resident set."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@contextmanager
def served(upstream: str, **limits: int) -> Iterator[Server]:
    """A server of its own process on an upstream, with these limits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serve.toml"
        policy = f"openai('{upstream}', concurrency=4096)"
        bounds = "".join(f"{name} = {value}\n" for name, value in limits.items())
        file.write_text(f"policy = {json.dumps(policy)}\nport = 0\n[limits]\n{bounds}")
        command = [str(Path(sys.executable).with_name("ponder")), "serve", "--config", str(file)]
        environment = {**os.environ, "PONDER_CACHE": folder}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        assert process.stdout is not None
        try:
            yield Server(process, json.loads(process.stdout.readline())["url"])
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


async def gauges(session: aiohttp.ClientSession, server: Server) -> dict[str, float]:
    """The server's own metrics without labels."""
    async with session.get(server.url.removesuffix("/v1") + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines) if "{" not in name and name != "#"}


def ask(stream: bool) -> dict[str, object]:
    return {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": f"ECHO: {WORDS}"}]}


async def whole_stream(session: aiohttp.ClientSession, server: Server, first: list[float]) -> str:
    """ "ok" for a stream that came whole, else what was wrong."""
    started = time.perf_counter()
    try:
        async with session.post(server.url + "/chat/completions", json=ask(True)) as response:
            if response.status != 200:
                return str(response.status)
            text, last = "", b""
            async for line in response.content:
                if not last:
                    first.append(time.perf_counter() - started)
                if line.startswith(b"data: {"):
                    for choice in json.loads(line[6:])["choices"]:
                        text += choice["delta"].get("content") or ""
                last = line.strip() or last
            return "ok" if text == WORDS and last == b"data: [DONE]" else "not whole"
    except (aiohttp.ClientError, TimeoutError, KeyError) as error:
        return type(error).__name__


async def streams(count: int) -> dict[str, object]:
    """Many streams at once."""
    with FakeEndpoint(log=0) as endpoint, served(endpoint.url, live=2 * count) as server:
        endpoint.configure(token_latency=0.5)
        endpoint.reset()
        base, cpu, first = server.peak_mib(), process_cpu_seconds(server.process.pid), []
        async with session_of(count) as session:
            found = Counter(await asyncio.gather(*(whole_stream(session, server, first) for _ in range(count))))
        stats = endpoint.stats()
        first.sort()
        return {
            "streams": count,
            "errors": count - found["ok"],
            "outcomes": dict(found),
            "most_at_once_upstream": stats.max_live,
            "peak_mib": server.peak_mib(),
            "idle_mib": base,
            "kib_per_stream": (server.peak_mib() - base) * 1024 / count,
            "server_cpu_ms_per_stream": (process_cpu_seconds(server.process.pid) - cpu) * 1000 / count,
            "first_byte_p99": first[int(0.99 * len(first))] if first else 300.0,
        }


async def disconnects(count: int) -> dict[str, object]:
    """Clients that hang up after the second piece of text."""
    with FakeEndpoint(log=0) as endpoint, served(endpoint.url, live=2 * count) as server:
        endpoint.configure(token_latency=0.5)
        endpoint.reset()
        async with session_of(count) as session, session_of(1) as watching:
            before = {**await gauges(watching, server), "descriptors": server.descriptors()}
            ready, hang_up = asyncio.Semaphore(0), asyncio.Event()

            async def client() -> None:
                async with session.post(server.url + "/chat/completions", json=ask(True)) as response:
                    pieces = 0
                    async for line in response.content:
                        pieces += line.startswith(b"data: ") and b'"content": "w' in line.replace(b'" w', b'"w')
                        if pieces == 2:
                            break
                    ready.release()
                    await hang_up.wait()
                    response.close()

            clients = [asyncio.create_task(client()) for _ in range(count)]
            for _ in range(count):
                await ready.acquire()
            live = endpoint.stats().live
            hang_up.set()
            await asyncio.gather(*clients)
            started = time.perf_counter()
            while endpoint.stats().live and time.perf_counter() - started < 10:  # noqa: ASYNC110  # another process, which can only be asked
                await asyncio.sleep(0.02)
            all_aborted = time.perf_counter() - started
            await asyncio.sleep(max(0.0, 1.0 - (time.perf_counter() - started)))
            after = {**await gauges(watching, server), "descriptors": server.descriptors()}
        stats = endpoint.stats()
        return {
            "disconnects": count,
            "live_before": live,
            "aborted_upstream": stats.aborted,
            "seconds_to_last_abort": all_aborted,
            "tasks_left": after["ponder_tasks"] - before["ponder_tasks"],
            "requests_left": after["ponder_live"],
            "descriptors_left": after["descriptors"] - before["descriptors"],
        }


async def overload(seconds: float, live: int) -> dict[str, object]:
    """Peak with the server always just full, then arrivals at five times the peak."""
    with FakeEndpoint(log=0) as endpoint, served(endpoint.url, live=live, queue=live) as server:
        endpoint.configure(latency=0.5)
        async with session_of(4096) as session:
            outcomes: Counter[str] = Counter()
            starts = ends = 0.0

            async def one() -> None:
                try:
                    async with session.post(server.url + "/chat/completions", json=ask(False)) as response:
                        await response.read()
                        status = str(response.status)
                        if status == "429" and not response.headers.get("Retry-After"):
                            status = "429 without Retry-After"
                except (aiohttp.ClientError, TimeoutError) as error:
                    status = type(error).__name__
                outcomes[status if starts < time.perf_counter() < ends or status != "200" else "outside"] += 1

            async def closed() -> None:
                while time.perf_counter() < ends:
                    await one()

            starts = time.perf_counter() + WARM_UP
            ends = starts + seconds
            await asyncio.gather(*(closed() for _ in range(2 * live)))
            peak, full = outcomes["200"] / seconds, dict(outcomes)
            outcomes.clear()
            began = time.perf_counter()
            starts = began + WARM_UP
            ends = starts + seconds
            tasks = []
            for number in range(round(5 * peak * (WARM_UP + seconds))):
                await asyncio.sleep(began + number / (5 * peak) - time.perf_counter())
                tasks.append(asyncio.create_task(one()))
            offered = len(tasks) / (time.perf_counter() - began)
            await asyncio.gather(*tasks)
        goodput = outcomes["200"] / seconds
        return {
            "peak": peak,
            "at_peak": full,
            "offered": offered,
            "goodput": goodput,
            "share": goodput / peak,
            "outcomes": dict(outcomes),
            "neither_answered_nor_429": sum(
                count for status, count in outcomes.items() if status not in ("200", "outside", "429")
            ),
        }


def session_of(connections: int) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=300)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections), timeout=timeout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_streams")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--disconnects", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each half of the overload")
    parser.add_argument(
        "--live", type=int, default=32, help="requests that the overloaded server answers at once, half a second each"
    )
    options = parser.parse_args()
    many = asyncio.run(streams(options.streams))
    say(f"streams: {many}")
    gone = asyncio.run(disconnects(options.disconnects))
    say(f"disconnects: {gone}")
    over = asyncio.run(overload(options.seconds, options.live))
    say(f"overload: {over}")
    targets = [
        Target("errors of streams", number(many["errors"]), 0, at_most=True),
        Target("streams at once", number(many["most_at_once_upstream"]), options.streams),
        Target("peak memory of the server", number(many["peak_mib"]), 250, "MiB", at_most=True),
        Target("aborts that the upstream saw", number(gone["aborted_upstream"]), options.disconnects),
        Target("tasks left after 1 s", number(gone["tasks_left"]), 0, at_most=True),
        Target("requests left after 1 s", number(gone["requests_left"]), 0, at_most=True),
        Target("goodput at five times the load / peak", number(over["share"]), 0.9),
        Target("neither answered nor 429", number(over["neither_answered_nor_429"]), 0, at_most=True),
    ]
    body = {"streams": many, "disconnects": gone, "overload": over}
    report("serve_streams", targets, {**body, "versions": versions("uvicorn", "starlette", "h11", "aiohttp")})


def number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


if __name__ == "__main__":
    main()
