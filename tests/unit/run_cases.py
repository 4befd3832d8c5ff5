"""A strategy written as a function, and a reply of the scripted policy."""

from __future__ import annotations

from fakes import (
    solved,
)
from ponder.testing import MazePolicy


def does(body, policy=None, **how):
    """Solve with a function of root and run in the place of a strategy; what it returned, and the outcome."""
    returned = []

    async def strategy(root, run):
        returned.append(await body(root, run))

    outcome = solved(strategy, policy or MazePolicy(0.5, 8), **how)
    return (returned or [None])[0], outcome


def said(text, tokens, finish="stop"):
    return (text, finish, tokens)
