"""From programs to verdicts: what all graders that run programs share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ponder.sandbox.core import Sandbox
from ponder.sandbox.relay import Found
from ponder.types import Verdict


async def verdicts(programs: Sequence[str | None], answers: Sequence[str | None], judge: Callable[[str], Found]) -> list[Verdict]:
    """One verdict for each program, "no_program" for None; equal ones are run once, all at the same time."""
    different = list(dict.fromkeys(one for one in programs if one is not None))
    judged = await asyncio.gather(*(asyncio.to_thread(judge, one) for one in different))
    found = dict(zip(different, judged, strict=True))
    nothing = Found(False, "no_program")
    paired = zip(answers, (nothing if one is None else found[one] for one in programs), strict=True)
    return [Verdict(one.passed, answer, one.reason) for answer, one in paired]


def best_room(preload: tuple[str, ...] = ()) -> Sandbox:
    """The sandbox of this machine, with these modules imported. Raises `SetupError` where there is none."""
    from ponder.sandbox.rooms import room  # starts processes

    return room(preload=preload)
