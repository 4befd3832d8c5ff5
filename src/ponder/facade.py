"""The two calls of the library's front door: specs or objects in, an outcome out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import cast

from ponder.core import Bank, Budget, Outcome, Policy, Sampling, Strategy, parts
from ponder.run import solve as run_solve
from ponder.spec import parse
from ponder.types import Question, user


async def asolve(
    strategy: Strategy | str,
    question: Question | str,
    policy: Policy | str,
    *,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    answer: Callable[[str], str | None] | None = None,
    bank: Bank | None = None,
) -> Outcome:
    """Run one strategy on one question; specs are parsed, and what needs opening is opened for the call.

    answer: the key that votes are counted by; left out, it is the stated answer (boxed, "the answer is", last number, else the text).
    Errors as for `ponder.run.solve`.
    """
    from ponder.graders.answer import stated_answer

    made = cast("Strategy", parse(strategy, "strategies")) if isinstance(strategy, str) else strategy
    spec = f"openai:{policy}" if isinstance(policy, str) and policy.startswith(("http://", "https://")) else policy
    engine = cast("Policy", parse(spec, "policies")) if isinstance(spec, str) else spec
    asked = Question("question", (user(question),)) if isinstance(question, str) else question
    async with AsyncExitStack() as stack:
        for part in [engine, *parts(made)] if isinstance(policy, str) else parts(made):
            if hasattr(part, "__aenter__"):
                await stack.enter_async_context(part)  # type: ignore[arg-type]  # checked by the attribute above
        return await run_solve(
            made, asked, engine, budget=budget, sampling=sampling, seed=seed, answer=answer or stated_answer, bank=bank
        )


def solve(
    strategy: Strategy | str,
    question: Question | str,
    policy: Policy | str,
    *,
    budget: Budget | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    answer: Callable[[str], str | None] | None = None,
    bank: Bank | None = None,
) -> Outcome:
    """`asolve` for code that is not async; also works inside a running loop (a notebook), in a thread of its own."""
    work = asolve(strategy, question, policy, budget=budget, sampling=sampling, seed=seed, answer=answer, bank=bank)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[Outcome] = []
    failures: list[BaseException] = []

    def in_thread() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
