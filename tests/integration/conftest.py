"""The sandbox of each tier that this machine has."""

from __future__ import annotations

import pytest

from ponder.sandbox.mother import Blueprint
from ponder.sandbox.rooms import Room, describe


@pytest.fixture(scope="module", params=["bubblewrap", "landlock", "plain"])
def sandbox(request):
    lack = describe(request.param) if request.param != "plain" else ""
    if lack:
        pytest.skip(f"{request.param}: {lack}")
    made = Room(Blueprint(request.param))
    yield made
    made.close()
