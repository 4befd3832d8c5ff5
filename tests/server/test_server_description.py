"""The server against its own OpenAPI document: a small dose of `fuzz`, which is run by command."""

from __future__ import annotations

from pathlib import Path

import conformance
import pytest
from hypothesis import HealthCheck, Phase, settings
from served import Served

from ponder.server.models import Models
from ponder.server.openapi import document
from ponder.testing.endpoint import FakeEndpoint

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow
FEW = {"choices": 4}  # so that an example is soon answered
CONFIG = conformance.config("http://127.0.0.1:1/v1", limits=FEW)
RULES = schemathesis.Config.from_path(Path(__file__).with_name("schemathesis.toml"))
SCHEMA = schemathesis.openapi.from_dict(document(Models("fake", CONFIG), CONFIG), config=RULES)
SCHEMA.config.phases.coverage.enabled = False  # a thousand cases an operation


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PONDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        with FakeEndpoint() as endpoint, Served(conformance.config(endpoint.url, limits=FEW)) as one:
            yield one
            assert one.lines == []


@SCHEMA.parametrize()
@settings(max_examples=12, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True)
def test_what_fits_the_description_is_taken_and_what_does_not_is_refused(case, served):
    case.call_and_validate(
        base_url=served.url.removesuffix("/v1"), headers={"Authorization": f"Bearer {conformance.KEY}"}, timeout=60
    )
