"""A fake OpenAI-compatible endpoint: deterministic replies, dialects, faults as data, a log of every request.

Tests use `FakeEndpoint`; a terminal uses ``python -m ponder.testing.endpoint --dialect llamacpp --latency 0.1``.
"""

from __future__ import annotations

from ponder.testing.endpoint.dialects import DIALECTS, Dialect, Prefill, SeedRule, Thinking, UsageRule, render_chat
from ponder.testing.endpoint.faults import Fault, FaultKind
from ponder.testing.endpoint.process import EndpointStats, FakeEndpoint, LoggedRequest
from ponder.testing.endpoint.replies import answer_distribution, correct_answer, split_tokens
from ponder.testing.endpoint.settings import Settings

__all__ = [
    "DIALECTS",
    "Dialect",
    "EndpointStats",
    "FakeEndpoint",
    "Fault",
    "FaultKind",
    "LoggedRequest",
    "Prefill",
    "SeedRule",
    "Settings",
    "Thinking",
    "UsageRule",
    "answer_distribution",
    "correct_answer",
    "render_chat",
    "split_tokens",
]
