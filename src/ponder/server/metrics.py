"""What the operator watches, in Prometheus' format. Counted in plain numbers: they are told more rarely than they change."""

from __future__ import annotations

import asyncio
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ponder.server.guard import Gate
from ponder.types import Usage

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, float("inf"))
_KINDS = ("prompt", "cached", "completion", "scored")


@dataclass(slots=True)
class _Answers:
    """Of one strategy: how many took up to each bound of `_SECONDS` and more than the one before, and seconds of all."""

    counts: list[int] = field(default_factory=lambda: [0] * len(_SECONDS))
    seconds: float = 0.0


class Metrics:
    """Counters of one server. Labels are routes, statuses and names of strategies: never what a caller wrote."""

    def __init__(self, gate: Gate) -> None:
        self._gate, self._samples, self._usage = gate, 0, Usage()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._answers: dict[str, _Answers] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def request(self, route: str, status: int) -> None:
        """Count a request that is over; 499 is a client that went away."""
        self._requests[route, status] += 1

    def answered(self, strategy: str, samples: int, usage: Usage, seconds: float) -> None:
        """Count what an answer took."""
        answers = self._answers.get(strategy)
        if answers is None:
            answers = self._answers[strategy] = _Answers()
        answers.counts[bisect_left(_SECONDS, seconds)] += 1
        answers.seconds += seconds
        self._samples += samples
        self._usage += usage

    def collect(self) -> Iterator[Metric]:
        """As Prometheus asks for it."""
        requests = CounterMetricFamily("ponder_requests", "Requests by route and status", labels=["route", "status"])
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        tokens = CounterMetricFamily("ponder_tokens", "Tokens by kind", labels=["kind"])
        for kind in _KINDS:
            tokens.add_metric([kind], getattr(self._usage, kind))
        strategies = CounterMetricFamily("ponder_strategy", "Answers by strategy", labels=["strategy"])
        durations = HistogramMetricFamily("ponder_seconds", "Seconds to the end of an answer", labels=["strategy"])
        for strategy, answers in self._answers.items():
            strategies.add_metric([strategy], sum(answers.counts))
            bounds = ["+Inf" if bound == float("inf") else str(float(bound)) for bound in _SECONDS]
            sums = [sum(answers.counts[: at + 1]) for at in range(len(_SECONDS))]
            durations.add_metric([strategy], list(zip(bounds, sums, strict=True)), answers.seconds)
        yield from (
            requests,
            tokens,
            strategies,
            CounterMetricFamily("ponder_samples", "Children sampled", self._samples),
            durations,
        )
        yield GaugeMetricFamily("ponder_live", "Requests being answered", self._gate.live)
        yield GaugeMetricFamily("ponder_waiting", "Requests in the queue", len(self._gate.waiting))
        yield GaugeMetricFamily("ponder_tasks", "Tasks of the event loop", len(asyncio.all_tasks()))
        yield GaugeMetricFamily("ponder_blocks", "Blocks of memory that Python's objects hold", sys.getallocatedblocks())

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
