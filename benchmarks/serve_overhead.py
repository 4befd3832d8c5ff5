"""What `ponder serve` costs: beside an empty proxy for requests that it passes through, beside optillm for the same approaches.

    python -m benchmarks.serve_overhead [--seconds 2] [--rounds 5] [--questions 5] [--without-optillm]

One fake endpoint stands behind all of them, and every server is a process of its own. Passed through: both servers are kept busy in
turn, round by round; what counts is the processor time of the server's process for each request that was answered whole. Approaches: one question
at a time, the servers in turn; seconds are the client's, upstream calls are counted by the endpoint. Both are asked for 16 samples;
optillm rates each of its best of n by a request of its own, and so does the judge that ponder is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from benchmarks.common import Target, process_cpu_seconds, report, say, versions
from benchmarks.peers import environments
from ponder.testing.endpoint import FakeEndpoint

N = 16
AT_ONCE = 16
LATENCY = 0.1  # of the approaches' upstream; requests that are passed through wait for nothing
WORDS = " ".join(f"w{number:03}" for number in range(40))  # 40 tokens
JUDGED = f"best_of_n(n={N}, verifier=judge(prompt='genrm_cot@1', read='stated', max_tokens=256))"
MODELS = {
    "self_consistency": {"ponder": f"fake+self_consistency-{N}", "optillm": "self_consistency-fake"},
    "best_of_n": {"ponder": f"fake+best_of_n-{N}", "optillm": "bon-fake"},
}


@contextmanager
def running(command: Sequence[str], folder: str, address: str | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address, which it prints unless it is given."""
    environment = {**os.environ, "PONDER_CACHE": folder, "OPENAI_API_KEY": "none"}
    out = subprocess.PIPE if address is None else subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=None if address is None else folder, env=environment, stdout=out, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    try:
        if address is None:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            address = json.loads(line)["url"] if line.startswith("{") else line
        yield process, str(address)
    finally:
        process.terminate()
        process.wait(60)
        if process.stdout:
            process.stdout.close()


def ponder(upstream: str) -> list[str]:
    words = [str(Path(sys.executable).with_name("ponder")), "serve", "--policy", upstream, "--port", "0"]
    return [*words, "--strategy", f"self_consistency(n={N})", "--strategy", JUDGED]


async def passed_through(servers: Mapping[str, tuple[int, str]], stream: bool, seconds: float, rounds: int) -> dict[str, object]:
    """Milliseconds of processor time for each request, round by round and server by server."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
    body = {"model": "fake", "stream": stream, "messages": [{"role": "user", "content": f"ECHO: {WORDS}"}]}
    last = WORDS.rpartition(" ")[2].encode()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def busy(url: str, ends: float) -> int:
            done = 0

            async def worker() -> None:
                nonlocal done
                while time.perf_counter() < ends:
                    async with session.post(url + "/chat/completions", json=body) as reply:
                        text = await reply.read()
                    if reply.status != 200 or last not in text:
                        raise RuntimeError(f"{url}: {reply.status}: {text[-200:]!r}")
                    done += 1

            await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
            return done

        for turn in range(rounds + 1):  # the first warms up
            order = list(servers.items()) if turn % 2 else list(servers.items())[::-1]
            for name, (pid, url) in order:
                before, started = process_cpu_seconds(pid), time.perf_counter()
                done = await busy(url, started + (seconds if turn else 1.0))
                if turn:
                    taken = time.perf_counter() - started
                    found[name].append(((process_cpu_seconds(pid) - before) * 1000 / done, done / taken))
    ratios = [one / other for (one, _), (other, _) in zip(found["ponder"], found["proxy"], strict=True)]
    return {
        "cpu_ms": {name: round(statistics.median(ms for ms, _ in rows), 3) for name, rows in found.items()},
        "requests_per_second": {name: round(statistics.median(rate for _, rate in rows)) for name, rows in found.items()},
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": statistics.median(ratios),
    }


async def approaches(
    endpoint: FakeEndpoint, servers: Mapping[str, str], questions: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Median seconds and upstream calls of one question, by approach and server."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    async with aiohttp.ClientSession() as session:
        for approach, models in MODELS.items():
            rows: dict[str, list[tuple[float, int]]] = {name: [] for name in servers}
            for number in range(questions + 1):  # the first warms up
                for name, url in servers.items():
                    endpoint.reset()
                    messages = [{"role": "user", "content": f"QUESTION: {number}+7"}]
                    started = time.perf_counter()
                    async with session.post(
                        url + "/chat/completions", json={"model": models[name], "messages": messages}
                    ) as reply:
                        said = json.loads(await reply.read())
                    taken = time.perf_counter() - started
                    if reply.status != 200 or not said["choices"][0]["message"]["content"]:
                        raise RuntimeError(f"{name}: {approach}: {reply.status}: {str(said)[:300]}")
                    if number:
                        rows[name].append((taken, endpoint.stats().received))
            found[approach] = {
                name: {
                    "seconds": round(statistics.median(taken for taken, _ in one), 3),
                    "upstream_calls": statistics.median(calls for _, calls in one),
                }
                for name, one in rows.items()
            }
            say(f"{approach}: {found[approach]}")
    return found


async def ready(url: str, process: subprocess.Popen[str]) -> None:
    """Wait until a server answers. Raises RuntimeError if it ends, or does not within a minute."""
    until = time.monotonic() + 60
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < until and process.poll() is None:
            try:
                async with session.get(url + "/models"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise RuntimeError(f"not ready within 60 s (exit code {process.poll()})")


def beside_optillm(questions: int) -> tuple[dict[str, dict[str, dict[str, float]]], str | None]:
    """The approaches on both servers; a reason where optillm cannot be had."""
    try:
        interpreter = environments.python("optillm")
    except environments.Unavailable as error:
        return {}, str(error)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())  # optillm loads plugins from the folder it is started in
        endpoint = stack.enter_context(FakeEndpoint(latency=LATENCY, log=0))
        _, ours = stack.enter_context(running(ponder(endpoint.url), folder))
        command = [str(interpreter), str(environments.HERE / "serve_optillm.py"), endpoint.url, str(port), str(N)]
        process, theirs = stack.enter_context(running(command, folder, f"http://127.0.0.1:{port}/v1"))
        try:
            asyncio.run(ready(theirs, process))
            return asyncio.run(approaches(endpoint, {"ponder": ours, "optillm": theirs}, questions)), None
        except RuntimeError as error:
            return {}, str(error)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_overhead")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each server in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=5, help="of each approach")
    parser.add_argument("--without-optillm", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        endpoint = stack.enter_context(FakeEndpoint(latency=0.0, log=0))
        proxy = [sys.executable, str(environments.HERE / "serve_proxy.py"), endpoint.url]
        started = {"proxy": proxy, "ponder": ponder(endpoint.url)}
        servers = {}
        for name, command in started.items():
            process, url = stack.enter_context(running(command, folder))
            servers[name] = (process.pid, url)
        asyncio.run(_all_ready([url for _, url in servers.values()]))
        whole = asyncio.run(passed_through(servers, False, options.seconds, options.rounds))
        say(f"whole: {whole}")
        streamed = asyncio.run(passed_through(servers, True, options.seconds, options.rounds))
        say(f"streamed: {streamed}")
    found, why = ({}, "left out") if options.without_optillm else beside_optillm(options.questions)
    if why:
        say(f"optillm: not measured: {why}")
    targets = [
        Target("CPU of a request passed through / empty proxy", _number(whole["ratio"]), 1.5, "x", at_most=True),
        Target("CPU of a stream passed through / empty proxy", _number(streamed["ratio"]), 1.5, "x", at_most=True),
        *(Target(f"{name}: seconds of optillm / ponder", _faster(found.get(name)), 5, "x") for name in MODELS),
    ]
    body = {"whole": whole, "streamed": streamed, "approaches": found, "not_measured": why, "n": N, "latency_seconds": LATENCY}
    report("serve_overhead", targets, {**body, "versions": versions("ponder-ttc", "starlette", "uvicorn", "h11", "aiohttp")})


async def _all_ready(urls: Sequence[str]) -> None:
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(url + "/models"):
                pass


def _faster(one: Mapping[str, Mapping[str, float]] | None) -> float | None:
    return one["optillm"]["seconds"] / one["ponder"]["seconds"] if one else None


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)


if __name__ == "__main__":
    main()
