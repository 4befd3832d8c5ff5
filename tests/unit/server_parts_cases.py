"""A configuration whose upstream nobody asks."""

from __future__ import annotations

from ponder.server.config import Config

UPSTREAM = "http://127.0.0.1:1/v1"


def config(**more):
    return Config(policy=UPSTREAM, **more).check()
