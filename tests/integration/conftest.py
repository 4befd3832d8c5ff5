"""A fake endpoint, new before each test, and the sandbox of each tier that this machine has."""

from __future__ import annotations

import pytest

from ponder.sandbox.mother import Blueprint
from ponder.sandbox.rooms import Room, describe
from ponder.testing.endpoint import FakeEndpoint


@pytest.fixture(scope="module")
def running():
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    plain = {"dialect": "vllm", "latency": 0.0, "key": None, "models": ("fake",), "context": 8192, "weights": 0}
    running.configure(**plain, faults=(), rate_limit=None, max_live=None)
    running.reset()
    return running


@pytest.fixture(scope="module", params=["bubblewrap", "landlock", "plain"])
def sandbox(request):
    lack = describe(request.param) if request.param != "plain" else ""
    if lack:
        pytest.skip(f"{request.param}: {lack}")
    made = Room(Blueprint(request.param))
    yield made
    made.close()
