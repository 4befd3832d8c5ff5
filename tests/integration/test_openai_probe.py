"""The openai policy remembers what a server can do, and finds out when that has changed."""

from __future__ import annotations

import asyncio
import importlib.util
import json

import pytest
from openai_cases import asks, written

from ponder.core import END, Attempt, Sampling
from ponder.policies.gguf import gguf
from ponder.policies.openai import openai
from ponder.policies.pull import CATALOGUE, cache_dir
from ponder.testing.endpoint import Fault, FaultKind

pytestmark = pytest.mark.slow


def opened_once(endpoint, **arguments):
    """The fingerprint, and how many requests the opening took."""
    endpoint.reset()

    async def main():
        async with openai(endpoint.url, **arguments) as policy:
            return policy.info.fingerprint

    return asyncio.run(main()), endpoint.stats().received


def test_a_server_is_probed_once_and_then_asked_for_its_canary_alone(endpoint):
    first, probing = opened_once(endpoint)
    assert 8 <= probing <= 16
    assert opened_once(endpoint) == (first, 1)
    assert opened_once(endpoint, fresh=True) == (first, probing)
    assert opened_once(endpoint, route="completions")[1] > 1  # another way to ask is another thing to know


def test_weights_swapped_behind_a_name_are_found_by_the_canary_and_probed_again(endpoint):
    first, probing = opened_once(endpoint)
    endpoint.configure(weights=1)
    second, requests = opened_once(endpoint)
    assert second != first
    assert requests == probing + 1
    assert opened_once(endpoint) == (second, 1)
    endpoint.configure(weights=0)
    assert opened_once(endpoint)[0] == first


def test_a_server_that_refuses_what_was_known_of_it_is_probed_again(endpoint):
    first, _ = opened_once(endpoint, model="fake")
    endpoint.configure(dialect="openai", models=("fake", "o9"))
    opened_once(endpoint, model="o9")
    assert opened_once(endpoint, model="fake") == (first, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\x00\xff",
        lambda text: json.dumps(json.loads(text) | {"version": 1}),
        lambda text: json.dumps(json.loads(text) | {"caps": "yes"}),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "seeds"}),
    ],
    ids=["torn", "empty", "another thing", "bytes", "an old version", "a wrong type", "a field short"],
)
def test_a_cache_that_cannot_be_read_is_made_again(endpoint, tmp_path, spoil):
    first, probing = opened_once(endpoint)
    [file] = tmp_path.rglob("*.json")
    file.write_text(spoil(file.read_text()), encoding="latin-1")
    assert opened_once(endpoint) == (first, probing)
    assert opened_once(endpoint) == (first, 1)


def test_a_cache_that_cannot_be_written_is_no_harm(endpoint, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "file"))
    first, probing = opened_once(endpoint)
    assert opened_once(endpoint) == (first, probing)


def test_what_a_passing_failure_made_of_a_probe_is_not_remembered(endpoint):
    endpoint.configure(faults=[Fault(FaultKind.EMPTY_CHOICES, at=(3,))])
    _, spoilt = opened_once(endpoint)
    endpoint.configure(faults=())
    assert opened_once(endpoint)[1] > 1
    assert opened_once(endpoint)[1] == 1
    assert spoilt > 1


# llama.cpp itself, behind the gguf policy.


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the extra gguf: xllamacpp")
@pytest.mark.skipif(not (cache_dir() / CATALOGUE["smollm2"].file).is_file(), reason="needs the model: ponder pull smollm2")
def test_attempts_on_llama_cpp_reach_the_observer_of_the_gguf_policy_and_its_ledger_is_true(monkeypatch, tmp_path):
    policy = gguf("smollm2", context=256, slots=2)  # finds its file before the cache is moved
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    attempts: list[Attempt] = []
    policy.observer = attempts.append  # before it is open, as the runner does

    async def main():
        async with policy:
            return await policy.sample(asks(1, range(3)), until=END, sampling=Sampling(max_tokens=12))

    [children] = asyncio.run(main())
    assert [attempt.status for attempt in attempts] == ["ok"] * 3
    assert sum(attempt.usage.completion for attempt in attempts) == written(children) > 0
    assert all(child.usage.completion <= 12 for child in children)
