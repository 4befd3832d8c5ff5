"""The conformance list with the official Python client and with curl; other clients by command (see `conformance`)."""

from __future__ import annotations

import shutil

import conformance
import pytest
from served import Served

from ponder.testing.endpoint import FakeEndpoint

pytestmark = pytest.mark.slow
CASES = conformance.load()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PONDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        with FakeEndpoint() as endpoint, Served(conformance.config(endpoint.url)) as one:
            yield one


def test_the_official_python_client(served):
    sdk = pytest.importorskip("sdk_python", exc_type=ImportError)
    assert len(CASES) >= 60
    results, again = ([sdk.run(case, served.url, conformance.KEY) for case in CASES] for _ in range(2))
    assert conformance.check("python", CASES, results, again) == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(served):
    results = [conformance.curl(case, served.url, conformance.KEY) for case in CASES]
    assert conformance.check("curl", CASES, results, results) == []


@pytest.mark.parametrize(
    ("expect", "result"),
    [
        ({}, {"status": 500}),
        ({"body.a": 1}, {"status": 200, "body": {"a": 2}}),
        ({"body.a": 0}, {"status": 200, "body": {"a": False}}),
        ({"body.a": None}, {"status": 200, "body": {"a": 0}}),
        ({"body.a": {"re": "^x"}}, {"status": 200, "body": {"a": "yx"}}),
        ({"body.a": {"is": "integer"}}, {"status": 200, "body": {"a": True}}),
        ({"body.a": {"min": 3}}, {"status": 200, "body": {"a": 2}}),
        ({"body.a": {"len": 3}}, {"status": 200, "body": {}}),
        ({"body.a": {"same": "body.b"}}, {"status": 200, "body": {"a": 1, "b": 2}}),
        ({"chunks.-1.x": 1}, {"status": 200, "chunks": [{"choices": [], "x": 1}, {"choices": []}]}),
        ({}, {"status": 200, "done": False, "chunks": []}),
        ({}, {"status": 200, "done": True, "error": {}, "chunks": []}),
    ],
)
def test_the_checker_finds_what_is_wrong(expect, result):
    assert len(conformance.faults({"expect": expect}, result)) == 1
