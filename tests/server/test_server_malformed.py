"""Requests that make no sense get a 4xx with OpenAI's error object, whatever they are, and harm nobody who comes after."""

from __future__ import annotations

import os
from pathlib import Path

import conformance
import pytest
from malformed import BODIES, CASES, WIRES
from served import Served

from ponder.testing.endpoint import FakeEndpoint

pytestmark = pytest.mark.slow
KEY = {"Authorization": f"Bearer {conformance.KEY}"}


@pytest.fixture(scope="module")
def endpoint():
    with FakeEndpoint() as running:
        yield running


@pytest.fixture(scope="module")
def served(endpoint, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PONDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        with Served(conformance.config(endpoint.url)) as one:
            yield one


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_request_is_refused_with_the_error_object(served, endpoint, case):
    endpoint.reset()
    got = served.call(case.method, case.path, case.body, {**KEY, **case.headers})
    assert (got.status, got.error["code"], got.error["param"]) == (case.status, case.code, case.param), got.text
    assert set(got.json) == {"error"}
    assert set(got.error) == {"message", "type", "param", "code"}
    assert len(got.error["message"]) < 2000
    assert got.headers["x-request-id"]
    assert endpoint.stats().received == 0  # nothing was spent


@pytest.mark.parametrize("case", WIRES + BODIES, ids=lambda case: case.name)
def test_what_is_no_proper_http_is_refused_with_the_error_object_and_an_end(served, case):
    got = served.send(case.data, KEY if case in BODIES else {})
    assert (got.status, got.error["code"]) == (case.status, case.code), got.text
    assert set(got.error) == {"message", "type", "param", "code"}
    assert got.headers["x-request-id"]
    assert served.call("GET", "/v1/models", headers=KEY).status == 200
    assert served.lines == []


def test_there_are_enough_of_them_and_no_name_twice():
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_all_of_them_leave_the_memory_as_it_was_and_the_next_request_is_fine(served):
    def all_of_them():
        for case in CASES:
            assert 400 <= served.call(case.method, case.path, case.body, {**KEY, **case.headers}).status < 500

    all_of_them()
    grown: list[int] = []
    while len(grown) < 6 and (not grown or grown[-1] >= 2**20):  # what is kept of them would be kept each time
        before = resident()
        all_of_them()
        grown.append(resident() - before)
    assert grown[-1] < 2**20, grown
    assert served.chat("ECHO: fine", headers=KEY).json["choices"][0]["message"]["content"] == "fine"
    assert served.lines == []  # nothing that the operator would have to look at
