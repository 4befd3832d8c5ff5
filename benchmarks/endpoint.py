"""Samples a second of clients of one endpoint: ponder with its bank on, beside a bare loop, its_hub and optillm.

    python -m benchmarks.endpoint [--seconds 10] [--arms bare,ponder]

The endpoint is our fake one (100 ms, log off) in a process of its own; the arms are processes of their own, one after another, each
sampling until it is told to end. Server and client share the machine's cores, so every number is one of this machine. What is
printed is counted by the endpoint: replies sent whole between two moments, times the choices of a reply.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.common import Target, cpu_seconds, process_cpu_seconds, report, say, versions
from benchmarks.peers import environments
from ponder.testing.endpoint import FakeEndpoint

LATENCY = 0.1
WARM_UP = 2.0
READY_WITHIN = 90.0


@dataclass(frozen=True, slots=True)
class Arm:
    """A script of benchmarks/peers with its arguments. environment: the peer's, or None for this one."""

    script: str
    arguments: tuple[str, ...] = ()
    environment: str | None = None


ARMS = {
    "bare": Arm("run_bare"),
    "ponder": Arm("run_ponder", ("one", "16")),
    "ponder_n": Arm("run_ponder", ("many", "64")),
    "its_hub": Arm("run_its_hub", ("tuned",), "its_hub"),
    "its_hub_default": Arm("run_its_hub", ("default",), "its_hub"),
    "optillm": Arm("run_optillm", ("128",), "optillm"),
}
RATIOS = (
    ("ponder / bare", "ponder", "bare", 0.8),
    ("ponder / its_hub", "ponder", "its_hub", 2.8),
    ("ponder / its_hub_default", "ponder", "its_hub_default", 8.0),
    ("ponder_n / ponder", "ponder_n", "ponder", 4.0),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """samples_per_second and requests_per_second: by the endpoint's counters. most_in_flight: at once, seen by the endpoint.

    server_cpu and client_cpu: cores in use. samples_per_client_core_second: what a busy machine changes least. own: what the arm said of itself at its end.
    """

    samples_per_second: float
    requests_per_second: float
    seconds: float
    most_in_flight: int
    not_answered: int
    server_cpu: float
    client_cpu: float
    samples_per_client_core_second: float
    own: Mapping[str, object]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured for each arm, after a warm-up (default: 10)")
    parser.add_argument("--arms", default=",".join(ARMS), help="which arms (default: all)")
    options = parser.parse_args()
    found: dict[str, Measured] = {}
    reasons: dict[str, str] = {}
    for name in options.arms.split(","):
        try:
            found[name] = measure(ARMS[name], options.seconds)
            say(_line(name, found[name]))
        except (environments.Unavailable, RuntimeError) as error:
            reasons[name] = str(error)
            say(f"{name:16s} not measured: {error}")
    rates = {name: found[name].samples_per_second if name in found else None for name in ARMS}
    targets = [Target(what, _ratio(rates, top, under), target, "x") for what, top, under, target in RATIOS]
    body: dict[str, object] = {name: rate and round(rate, 1) for name, rate in rates.items()}
    body["ratios"] = {target.what: target.value and round(target.value, 3) for target in targets}
    body["seconds"] = {name: round(one.seconds, 2) for name, one in found.items()}
    body["arms"] = {name: asdict(one) for name, one in found.items()}
    body["not_measured"] = reasons
    body["endpoint"] = {
        "latency_seconds": LATENCY,
        "log": 0,
        "note": "server and client share the cores; arms ran one after another",
    }
    report("endpoint", targets, {**body, "versions": versions("ponder-ttc", "aiohttp", "numpy")})


def measure(arm: Arm, seconds: float) -> Measured:
    """Run one arm against an endpoint of its own. Raises RuntimeError if it ends early or samples nothing, `Unavailable` if it cannot be installed."""
    interpreter = environments.python(arm.environment) if arm.environment else Path(sys.executable)
    script = environments.HERE / f"{arm.script}.py"
    with FakeEndpoint(latency=LATENCY, log=0) as endpoint:
        command = [str(interpreter), str(script), endpoint.url, *arm.arguments]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True)
        try:
            _await_samples(client, endpoint)
            time.sleep(WARM_UP)
            before, cpu_before, started = endpoint.stats(), _cpu(endpoint, client), time.perf_counter()
            time.sleep(seconds)
            after, taken, cpu_after = endpoint.stats(), time.perf_counter() - started, _cpu(endpoint, client)
            endpoint.configure(log=4096)  # more than are in flight
            time.sleep(1.0)
            choices = [one.choices for one in endpoint.requests() if one.outcome == "answered"]
            output, _ = client.communicate("", timeout=120)
        finally:
            client.kill()
            client.wait()
        if client.returncode or not output.strip():
            raise RuntimeError(f"{arm.script} ended with code {client.returncode}; its standard error says why")
        answered = (after.answered - before.answered) / taken
        samples, client_cpu = answered * sum(choices) / len(choices), (cpu_after[1] - cpu_before[1]) / taken
        return Measured(
            samples,
            answered,
            taken,
            after.max_live,
            (after.received - after.live - after.answered) - (before.received - before.live - before.answered),
            round((cpu_after[0] - cpu_before[0]) / taken, 2),
            round(client_cpu, 2),
            round(samples / client_cpu),
            json.loads(output.strip().splitlines()[-1]) | {"answered_in_all": endpoint.stats().answered},
        )


def _await_samples(client: subprocess.Popen[str], endpoint: FakeEndpoint) -> None:
    until = time.monotonic() + READY_WITHIN
    while endpoint.stats().answered == 0:
        if client.poll() is not None:
            raise RuntimeError(f"ended with code {client.returncode} before its first sample; its standard error says why")
        if time.monotonic() > until:
            raise RuntimeError(f"no sample within {READY_WITHIN:g} s")
        time.sleep(0.05)


def _cpu(endpoint: FakeEndpoint, client: subprocess.Popen[str]) -> tuple[float, float]:
    return process_cpu_seconds(endpoint.pid), cpu_seconds(client.pid)


def _ratio(rates: Mapping[str, float | None], top: str, under: str) -> float | None:
    one, other = rates[top], rates[under]
    return one / other if one is not None and other else None


def _line(name: str, one: Measured) -> str:
    return (
        f"{name:16s} {one.samples_per_second:9,.0f} samples/s  {one.requests_per_second:8,.0f} requests/s  {one.most_in_flight:4d} in flight  "
        f"cores: server {one.server_cpu:.2f} client {one.client_cpu:.2f} ({one.samples_per_client_core_second:,.0f} samples per client core-second)  not answered {one.not_answered}"
    )


if __name__ == "__main__":
    main()
