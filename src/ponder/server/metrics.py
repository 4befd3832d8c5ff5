"""What the operator watches, in Prometheus' format."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ponder.server.guard import Gate
from ponder.types import Usage

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Counters of one server. Labels are routes, statuses and names of strategies: never what a caller wrote."""

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("ponder_requests", "Requests by route and status", ["route", "status"], registry=self.registry)
        self._tokens = Counter("ponder_tokens", "Tokens by kind", ["kind"], registry=self.registry)
        self._strategies = Counter("ponder_strategy", "Answers by strategy", ["strategy"], registry=self.registry)
        self._samples = Counter("ponder_samples", "Children sampled", registry=self.registry)
        self._seconds = Histogram(
            "ponder_seconds", "Seconds to the end of an answer", ["strategy"], buckets=_SECONDS, registry=self.registry
        )
        self._by_route: dict[tuple[str, int], Counter] = {}
        self._by_strategy: dict[str, tuple[Counter, Histogram]] = {}
        self._by_kind = {kind: self._tokens.labels(kind) for kind in ("prompt", "cached", "completion", "scored")}
        self._gauge("ponder_live", "Requests being answered", lambda: gate.live)
        self._gauge("ponder_waiting", "Requests in the queue", lambda: len(gate.waiting))
        self._gauge("ponder_tasks", "Tasks of the event loop", lambda: len(asyncio.all_tasks()))

    def request(self, route: str, status: int) -> None:
        """Count a request that is over; 499 is a client that went away."""
        counter = self._by_route.get((route, status))
        if counter is None:  # looking one up by its labels takes longer than counting
            counter = self._by_route[route, status] = self._requests.labels(route, str(status))
        counter.inc()

    def answered(self, strategy: str, samples: int, usage: Usage, seconds: float) -> None:
        """Count what an answer took."""
        if strategy not in self._by_strategy:
            self._by_strategy[strategy] = self._strategies.labels(strategy), self._seconds.labels(strategy)
        answers, duration = self._by_strategy[strategy]
        answers.inc()
        duration.observe(seconds)
        self._samples.inc(samples)
        for kind, counter in self._by_kind.items():
            if count := getattr(usage, kind):
                counter.inc(count)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str, value: Callable[[], float]) -> None:
        Gauge(name, what, registry=self.registry).set_function(value)
