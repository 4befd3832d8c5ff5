"""What `ponder serve` bears for long: an engine that fails in every way it can, callers of every kind, memory that must not grow.

    python -m benchmarks.serve_soak [--minutes 20] [--warm-up 4] [--rate 20]

Requests arrive at the rate whether or not earlier ones were answered; a quarter as many go beside them to a second server, which records.
The upstream is the fake endpoint with faults by chance. Memory is the resident set of each server's process; its slope is that of least
squares through means over 15 s after the warm-up, with a 95% interval widened by how much neighbouring means are alike. A process keeps
what its busiest moment needed, so the slope of the blocks that its objects hold (`slope_blocks`, a number) is told beside it. Once the load
is over and what was kept open for reuse has closed, no connection may be left, and no other descriptor that was not there before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp

from benchmarks.common import Target, process_cpu_seconds, report, say, versions
from benchmarks.serve_streams import Server, gauges
from ponder.testing.endpoint import FakeEndpoint, Fault, FaultKind

KEY = "sk-soak"
EVERY = 5.0  # seconds from one look at the servers to the next
MEAN = 15.0  # seconds that one point of the line is a mean of
KEPT = 150.0  # seconds in which every connection that is kept for reuse closes: twice the client's 60, and some
DEADLINE = 20.0  # of every request, in seconds; an answer that takes much longer is a hang
LISTENS = "0A"  # of the states in /proc/net/tcp, the one that is no connection
WORST = ("Traceback", "a fault of this server", "never retrieved", "Unclosed", "never awaited")
FAULTS = {  # a Retry-After of 10^9 s is left out: it is honoured for two minutes, in which there is nothing to soak
    FaultKind.SERVER_ERROR: 0.02, FaultKind.BAD_GATEWAY: 0.01, FaultKind.UNAVAILABLE: 0.01, FaultKind.DROP: 0.01,
    FaultKind.RESET: 0.02, FaultKind.TRUNCATED_JSON: 0.02, FaultKind.TRUNCATED_STREAM: 0.03, FaultKind.DUPLICATE_CHUNK: 0.01,
    FaultKind.WRONG_CONTENT_TYPE: 0.01, FaultKind.EMPTY_CHOICES: 0.01, FaultKind.WRONG_COUNT: 0.01, FaultKind.SLOW_LORIS: 0.01,
    FaultKind.HANG: 0.003, FaultKind.RETRY_SECONDS: 0.003, FaultKind.RETRY_MS: 0.004, FaultKind.RETRY_DATE: 0.001,
    FaultKind.RETRY_NEGATIVE: 0.002,
}  # fmt: skip
SECONDS = {FaultKind.SLOW_LORIS: 0.004, FaultKind.RETRY_SECONDS: 0.2, FaultKind.RETRY_MS: 0.05}
BEST = "best_of_n(n=4, verifier=judge(prompt='genrm_cot@1', read='stated', max_tokens=256))"
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
MALFORMED: tuple[tuple[bytes, int], ...] = (
    (b'{"model": "fake"', 400),
    (b"[" * 5000 + b"]" * 5000, 400),
    (b'{"model": "fake", "messages": []}', 400),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "temprature": 1}', 400),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "n": 100000}', 400),
    (b'{"model": "fake+nothing", "messages": [{"role": "user", "content": "x"}]}', 404),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "ponder": {"strategy": "best_of_n(n=10**9)"}}', 400),
    (b'{"model": "fake", "messages": [{"role": "user", "content": "' + b"x" * 300_000 + b'"}]}', 413),
)

Ask: TypeAlias = Callable[[aiohttp.ClientSession, str, int], Awaitable[str]]


def messages(number: int, before: str = "") -> list[dict[str, str]]:
    """A question that was not asked before."""
    return [{"role": "user", "content": f"{before}QUESTION: {number}+{number % 89}"}]


def chat(model: str = "fake", **more: object) -> Ask:
    """A chat request, whole or streamed."""

    async def ask(session: aiohttp.ClientSession, url: str, number: int) -> str:
        before = "CALL TOOL " if "tools" in more else ""
        return await answered(session, f"{url}/chat/completions", {"model": model, "messages": messages(number, before), **more})

    return ask


def text(**more: object) -> Ask:
    """A request of the completions route."""

    async def ask(session: aiohttp.ClientSession, url: str, number: int) -> str:
        return await answered(session, f"{url}/completions", {"model": "fake", "prompt": f"QUESTION: {number}+1", **more})

    return ask


def response(model: str = "fake", **more: object) -> Ask:
    """A request of the responses route."""

    async def ask(session: aiohttp.ClientSession, url: str, number: int) -> str:
        return await answered(session, f"{url}/responses", {"model": model, "input": messages(number), **more})

    return ask


async def answered(session: aiohttp.ClientSession, url: str, body: Mapping[str, object]) -> str:
    """The status of a reply that is as it should be, "event: CODE" for an error in a stream; else what is wrong."""
    async with session.post(url, json=body) as reply:
        data = await reply.read()
    if reply.status != 200:
        return f"{reply.status} {json.loads(data)['error']['code']}"
    if not body.get("stream"):
        return "200" if json.loads(data)["usage"] else "200 without usage"
    events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    last = json.loads(events[-1]) if events[-1] != b"[DONE]" else {}
    if "error" in last:
        return f"event: {last['error']['code']}"
    if last.get("type") == "response.failed":
        return f"event: {json.loads(events[-2])['code']}"
    ended = last.get("type") in ("response.completed", "response.incomplete") if url.endswith("/responses") else not last
    return "200" if ended else "200 without an end"


async def hung_up(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A client that goes away in mid-stream."""
    model = ("fake", "fake+self_consistency")[number % 2]
    async with session.post(
        f"{url}/chat/completions", json={"model": model, "stream": True, "messages": messages(number)}
    ) as reply:
        lines = 0
        async for _ in reply.content:
            lines += 1
            if lines > 2 + number % 7:
                break
        reply.close()
    return "gone" if reply.status == 200 else str(reply.status)


async def gave_up(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A client that does not wait for its whole reply."""
    body = {"model": "fake+self_consistency", "messages": messages(number)}
    try:
        async with session.post(
            f"{url}/chat/completions", json=body, timeout=aiohttp.ClientTimeout(total=0.02 * (number % 10 + 1))
        ) as reply:
            return str(reply.status)
    except TimeoutError:
        return "gone"


async def half_sent(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A client that goes away before its request is whole: in the headers, or in the body."""
    address = url.removeprefix("http://").partition("/")[0]
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
    if number % 2:
        head = f"Host: {address}\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head.encode() + b'{"model":')
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.close()
    return "gone"


async def malformed(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A request that makes no sense."""
    data, wanted = MALFORMED[number % len(MALFORMED)]
    async with session.post(f"{url}/chat/completions", data=data, headers={"Content-Type": "application/json"}) as reply:
        said = json.loads(await reply.read())
    return str(reply.status) if reply.status == wanted and said["error"]["message"] else f"{reply.status} instead of {wanted}"


async def wrong_key(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A request with a key that nobody has."""
    async with session.post(
        f"{url}/chat/completions",
        json={"model": "fake", "messages": messages(number)},
        headers={"Authorization": f"Bearer {number}"},
    ) as reply:
        await reply.read()
    return str(reply.status)


async def impatient(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A request whose deadline comes before most answers."""
    body = {"model": "fake+self_consistency", "messages": messages(number)}
    async with session.post(f"{url}/chat/completions", json=body, headers={"Ponder-Deadline": "0.08"}) as reply:
        await reply.read()
    return str(reply.status)


async def looked(session: aiohttp.ClientSession, url: str, number: int) -> str:
    """A request that costs nothing."""
    path = ("/v1/models", "/metrics", "/openapi.json", "/health", "/v1/nothing")[number % 5]
    async with session.get(url.removesuffix("/v1") + path) as reply:
        await reply.read()
    return str(reply.status)


KINDS: Sequence[tuple[str, int, Ask]] = (
    ("chat", 16, chat()),
    ("chat streamed", 16, chat(stream=True, stream_options={"include_usage": True})),
    ("chat with logprobs", 3, chat(logprobs=True, top_logprobs=2)),
    ("self_consistency", 8, chat("fake+self_consistency")),
    ("self_consistency streamed", 5, chat("fake+self_consistency", stream=True)),
    ("best_of_n", 5, chat("fake+best_of_n")),
    ("a strategy of the caller's", 3, chat(ponder={"strategy": "self_consistency(n=3)", "budget": {"tokens": 100}})),
    ("tools", 3, chat("fake+self_consistency", tools=[TOOL])),
    ("tools streamed", 2, chat(stream=True, tools=[TOOL])),
    ("responses", 5, response()),
    ("responses streamed", 5, response("fake+self_consistency", stream=True)),
    ("completions", 4, text(n=2)),
    ("completions streamed", 3, text(stream=True)),
    ("hung up in mid-stream", 8, hung_up),
    ("gave up", 3, gave_up),
    ("half sent", 2, half_sent),
    ("malformed", 5, malformed),
    ("wrong key", 2, wrong_key),
    ("impatient", 2, impatient),
    ("looked", 2, looked),
)
ANSWERS = {"200", "408 deadline_exceeded", "502 engine_failed", "event: engine_failed", "event: deadline_exceeded"}
EXPECTED: Mapping[str, set[str]] = {
    "hung up in mid-stream": {"gone"},
    "gave up": {"gone", "200", "502"},
    "half sent": {"gone"},
    "malformed": {"400", "404", "413"},
    "wrong key": {"401"},
    "impatient": {"200", "408", "502"},
    "looked": {"200", "404"},
}


class Watched(Server):
    """A server with what was seen of it: (seconds, resident MB, anonymous MB, descriptors, connections)."""

    def __init__(self, process: subprocess.Popen[str], url: str, log: Path) -> None:
        super().__init__(process, url)
        self.log = log
        self.seen: list[tuple[float, float, float, int, int]] = []
        self.blocks: list[tuple[float, float]] = []
        self.outcomes: dict[str, Counter[str]] = {name: Counter() for name, *_ in KINDS}

    def look(self, now: float) -> None:
        """Add a line to what was seen."""
        self.seen.append((now, *self.memory(), self.descriptors(), self.connections()))

    def memory(self) -> tuple[float, float]:
        """Resident set, and the part of it that is no file's, in MB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = {name: int(value.split()[0]) for name, value in (line.split(":\t") for line in lines if line.endswith(" kB"))}
        return found["VmRSS"] * 1024 / 1e6, found["RssAnon"] * 1024 / 1e6

    def connections(self) -> int:
        """Open TCP connections, in whatever state."""
        folder, held = f"/proc/{self.process.pid}/fd", set()
        for name in os.listdir(folder):
            with suppress(OSError):  # closed meanwhile
                held.add(os.readlink(f"{folder}/{name}"))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return sum(f"socket:[{row[9]}]" in held and row[3] != LISTENS for row in rows)

    def bad_lines(self) -> list[str]:
        """Lines of its log that tell of a mistake of its own."""
        with self.log.open(errors="replace") as lines:
            return [line.strip() for line in lines if any(word in line for word in WORST)]


@contextmanager
def serving(upstream: str, folder: Path, record: bool) -> Iterator[Watched]:
    """A server of its own process."""
    keys = {"name": "soak", "sha256": sha256(KEY.encode()).hexdigest(), "tokens_per_day": 10**12}
    body = {"policy": upstream, "port": 0, **({"record": str(folder / "traffic")} if record else {})}
    lines = [f"{name} = {json.dumps(value)}" for name, value in body.items()]
    lines += ["[strategies]", 'self_consistency = "self_consistency(n=4)"', f'best_of_n = "{BEST}"']
    lines += ["[limits]", "body = 200_000", "[[keys]]", *(f"{name} = {json.dumps(value)}" for name, value in keys.items())]
    file, log = folder / f"serve{record:d}.toml", folder / f"serve{record:d}.log"
    file.write_text("\n".join(lines))
    command = [str(Path(sys.executable).with_name("ponder")), "serve", "--config", str(file)]
    environment = {**os.environ, "PONDER_CACHE": str(folder)}
    with log.open("w") as chatter:
        # A session of its own: where Linux shares processors out by session, the client does not take them from the server.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=chatter, text=True, env=environment, start_new_session=True
        )
        assert process.stdout is not None
        try:
            yield Watched(process, json.loads(process.stdout.readline())["url"], log)
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()


async def load(servers: Sequence[Watched], rate: float, seconds: float) -> float:
    """Requests at the rate to the first server and at a quarter of it to the second, with a look at both now and then; the worst lateness."""
    draw, names = random.Random(0), [name for name, *_ in KINDS]
    weights, by_name = [weight for _, weight, _ in KINDS], {name: ask for name, _, ask in KINDS}
    timeout = aiohttp.ClientTimeout(total=3 * DEADLINE)
    headers = {"Authorization": f"Bearer {KEY}", "Ponder-Deadline": f"{DEADLINE:g}"}
    began, latest, looked_at = time.perf_counter(), 0.0, -EVERY
    tasks: set[asyncio.Task[None]] = set()

    async def one(session: aiohttp.ClientSession, server: Watched, kind: str, number: int) -> None:
        try:
            outcome = await by_name[kind](session, server.url, number)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, IndexError) as error:
            outcome = f"{type(error).__name__}: {error}"[:100]
        server.outcomes[kind][outcome] += 1

    async def count_blocks(session: aiohttp.ClientSession, server: Watched, now: float) -> None:
        with suppress(aiohttp.ClientError, OSError, TimeoutError, KeyError):
            server.blocks.append((now, (await gauges(session, server))["ponder_blocks"]))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers) as session:
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            now = time.perf_counter() - began
            latest = max(latest, now - number / rate)
            if now - looked_at >= EVERY:
                looked_at = now
                for server in servers:
                    server.look(now)
                    tasks.add(asyncio.create_task(count_blocks(session, server, now)))
                if number and number % round(60 * rate) < EVERY * rate:
                    say(
                        f"{now / 60:4.1f} min: "
                        + "; ".join("{1:.1f} MB, {3} descriptors".format(*one.seen[-1]) for one in servers)
                    )
            for server in servers[: 2 if number % 4 == 0 else 1]:
                [kind] = draw.choices(names, weights)
                tasks.add(asyncio.create_task(one(session, server, kind, number)))
            tasks = {task for task in tasks if not task.done()}
        await asyncio.gather(*tasks)
    return latest


def slope(seen: Sequence[tuple[float, float]]) -> dict[str, float]:
    """What a number grows by in 10 minutes, with a 95% interval."""
    from scipy import stats

    bins: dict[int, list[tuple[float, float]]] = {}
    for at, value in seen:
        bins.setdefault(int(at // MEAN), []).append((at, value))
    times = [sum(at for at, _ in rows) / len(rows) for rows in bins.values()]
    values = [sum(value for _, value in rows) / len(rows) for rows in bins.values()]
    line = stats.linregress(times, values)
    rest = [value - line.intercept - line.slope * at for at, value in zip(times, values, strict=True)]
    square = sum(value * value for value in rest)
    alike = sum(one * next_ for one, next_ in pairwise(rest)) / square if square else 0.0
    alike = min(0.95, max(0.0, alike))
    half = stats.t.ppf(0.975, len(times) - 2) * line.stderr * math.sqrt((1 + alike) / (1 - alike))
    low, high = float(line.slope - half), float(line.slope + half)
    return {"value": 600 * float(line.slope), "low": 600 * low, "high": 600 * high, "points": len(times)}


async def state(server: Watched) -> dict[str, float]:
    """What an idle server holds. The connection that asks is closed before its descriptors are counted."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, headers={"Authorization": f"Bearer {KEY}"}) as session:
        told = await gauges(session, server)
    await asyncio.sleep(0.5)
    connections = server.connections()
    held = {"connections": float(connections), "other_descriptors": float(server.descriptors() - connections)}
    return held | {name: told[f"ponder_{name}"] for name in ("live", "waiting", "tasks")}


async def soak(servers: Sequence[Watched], endpoint: FakeEndpoint, options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """Both servers under load, and what was left afterwards."""
    before = [await state(server) for server in servers]
    cpu = [process_cpu_seconds(server.process.pid) for server in servers]
    endpoint.configure(
        latency=0.03, token_latency=0.004,
        faults=tuple(Fault(kind, (), chance, SECONDS.get(kind, 1.0)) for kind, chance in FAULTS.items()),
    )  # fmt: skip
    endpoint.reset()
    late = await load(servers, options.rate, 60 * options.minutes)
    say(f"load is over; upstream: {endpoint.stats()}")
    spent = [process_cpu_seconds(server.process.pid) - old for server, old in zip(servers, cpu, strict=True)]
    ended = time.perf_counter()
    while any(server.connections() for server in servers) and time.perf_counter() - ended < KEPT:  # noqa: ASYNC110  # other processes
        await asyncio.sleep(1.0)
    found: dict[str, dict[str, object]] = {}
    for name, server, was, seconds in zip(("server", "recorder"), servers, before, spent, strict=True):
        steady = [line for line in server.seen if line[0] >= 60 * options.warm_up]
        after = await state(server)
        wrong = {
            kind: odd
            for kind, outcomes in server.outcomes.items()
            if (odd := {said: count for said, count in outcomes.items() if said not in EXPECTED.get(kind, ANSWERS)})
        }
        served = Counter[str]()
        for kind, outcomes in server.outcomes.items():
            served.update(outcomes if kind not in EXPECTED else {})
        asked = sum(sum(outcomes.values()) for outcomes in server.outcomes.values())
        found[name] = {
            "requests": asked,
            "answered_whole": served["200"] / max(1, served.total()),
            "cpu_ms_per_request": seconds * 1000 / max(1, asked),
            "slope": slope([(line[0], line[1]) for line in steady]),
            "slope_blocks": slope([line for line in server.blocks if line[0] >= 60 * options.warm_up]),
            "resident_mb": {"first": server.seen[0][1], "warm": steady[0][1], "last": steady[-1][1], "idle": server.memory()[0]},
            "most_descriptors": max(line[3] for line in server.seen),
            "left": {what: after[what] - (0 if what == "connections" else was[what]) for what in after},
            "outcomes": {kind: dict(outcomes) for kind, outcomes in server.outcomes.items()},
            "unexpected": wrong,
            "bad_lines": (lines := server.bad_lines())[:5],
            "bad_line_count": len(lines),
            "memory": [[round(line[0]), round(line[1], 1)] for line in server.seen[::12]],
        }
    found["client"] = {"latest_arrival_seconds": late}
    found["upstream"] = {
        "live": endpoint.stats().live,
        "received": endpoint.stats().received,
        "faulted": endpoint.stats().faulted,
    }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve_soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=4.0, help="minutes of them that the slope leaves out")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second to the first server")
    options = parser.parse_args()
    if 60 * (options.minutes - options.warm_up) < 4 * MEAN:
        parser.error(f"--minutes {options.minutes:g}: must be at least {4 * MEAN / 60:g} more than --warm-up")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        endpoint = stack.enter_context(FakeEndpoint(log=0))
        servers = [stack.enter_context(serving(endpoint.url, folder, record)) for record in (False, True)]
        found = asyncio.run(soak(servers, endpoint, options))
    targets = []
    for name in ("server", "recorder"):
        one: Any = found[name]
        say(f"{name}: {one}")
        odd = sum(count for outcomes in one["unexpected"].values() for count in outcomes.values())
        targets += [
            Target(f"{name}: memory in 10 minutes", one["slope"]["value"], 1, "MB", at_most=True),
            Target(f"{name}: connections left", one["left"]["connections"], 0, at_most=True),
            Target(f"{name}: other descriptors left", one["left"]["other_descriptors"], 0, at_most=True),
            Target(f"{name}: tasks left", one["left"]["tasks"], 0, at_most=True),
            Target(f"{name}: requests left", one["left"]["live"] + one["left"]["waiting"], 0, at_most=True),
            Target(f"{name}: answered whole, of what made sense", one["answered_whole"], 0.9),
            Target(f"{name}: answers that should not be", odd, 0, at_most=True),
            Target(f"{name}: mistakes of its own in its log", one["bad_line_count"], 0, at_most=True),
        ]
    body = {"minutes": options.minutes, "warm_up": options.warm_up, "rate": options.rate, **found}
    report("serve_soak", targets, {**body, "versions": versions("uvicorn", "starlette", "h11", "aiohttp")})


if __name__ == "__main__":
    main()
