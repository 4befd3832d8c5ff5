"""A loop in virtual time, and attempts that fail by name."""

from __future__ import annotations

import asyncio

from ponder.policies.limited import Limiter, Limits, TransientError


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else is to be done."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


def virtually(main):
    """The result of a coroutine function of one argument, the loop, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main(runner.get_loop()))


def limiter_in(loop, jitter=lambda: 1.0, **limits):
    return Limiter("http://there/v1", Limits(**limits), clock=loop.time, jitter=jitter)


def failing(*failures, then="done"):
    """An attempt that fails by these names (or errors), one after the other, then works."""
    left = list(failures)

    async def attempt():
        if not left:
            return then
        failure = left.pop(0)
        raise failure if isinstance(failure, Exception) else TransientError(failure, f"it was {failure}")

    return attempt
