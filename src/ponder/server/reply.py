"""One reply to one request, whole or streamed: runs the engine, writes OpenAI's objects, books what was spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from ponder.core import Outcome
from ponder.errors import PonderError
from ponder.server.answer import Answer, Spending, answer_of, head, logprobs, message, text_logprobs, usage_object
from ponder.server.asked import Asked
from ponder.server.engine import Engine, Listener, Say, Solved
from ponder.server.guard import Allowance
from ponder.server.metrics import Metrics
from ponder.server.refusal import Refusal, late, refusal_of
from ponder.server.stream import Chunks, Line, Passing, Send, whole_answer
from ponder.types import JSON


class Reply:
    """See `whole` and `stream`. ends: when it must be over, on the monotonic clock."""

    def __init__(self, engine: Engine, metrics: Metrics, asked: Asked, ends: float, allowance: Allowance, *, chat: bool) -> None:
        self.engine, self.metrics, self.asked, self.ends, self.allowance, self.chat = (
            engine,
            metrics,
            asked,
            ends,
            allowance,
            chat,
        )
        self.started = time.monotonic()
        fingerprint = engine.policy.info.fingerprint
        self.head = head("chatcmpl-" if chat else "cmpl-", asked.model, fingerprint, asked.plan.spec)

    async def whole(self) -> dict[str, JSON]:
        """The object. Raises `Refusal`, and what a run raises."""
        solved = await self._solve([Listener() for _ in self.asked.choices])
        answers = [self._answer(outcome, solved) for outcome in solved.outcomes]
        return {
            "id": self.head.id,
            "object": "chat.completion" if self.chat else "text_completion",
            "created": self.head.created,
            "model": self.head.model,
            "choices": [self._choice(at, answer) for at, answer in enumerate(answers)],
            **self._spent(solved, answers),
            "system_fingerprint": self.head.fingerprint,
        }

    async def stream(self, send: Send, *, usage: bool) -> bytes:
        """Send the chunks as they come; those that end the stream are returned. An error after the first chunk is one of the events."""
        chunks = self.chunks(usage=usage)
        with Line(send) as line:
            try:
                return await self._produce(line, chunks)
            except Refusal as refusal:
                return chunks.error(refusal)
            except PonderError as error:
                self.engine.log(f"{type(error).__name__}: {error}")
                return chunks.error(refusal_of(error))
            except Exception as error:  # a stream that just ends would be taken for an answer
                self.engine.log(f"a fault of this server: {type(error).__name__}: {error}")
                return chunks.error(refusal_of(PonderError()))

    def chunks(self, *, usage: bool) -> Chunks:
        """What a stream is written with."""
        return Chunks(self.head, chat=self.chat, usage=usage)

    async def _produce(self, line: Line, chunks: Chunks) -> bytes:
        asked = self.asked
        count = len(asked.choices)
        passing = [Passing(chunks, at, line.put, asked.top) for at in range(count)]
        listeners = [Listener(one.listener()) if asked.plan.single and self.engine.streams else Listener() for one in passing]
        if self.chat:
            await line.put(b"".join(chunks.piece(at, {"role": "assistant", "content": ""}) for at in range(count)))
            if asked.progress and not asked.plan.single:
                for at, listener in enumerate(listeners):
                    listener.say = _says(line, chunks, at)
        solved = await self._solve(listeners)
        answers, told = [], []
        for at, (outcome, one) in enumerate(zip(solved.outcomes, passing, strict=True)):
            answer = self._streamed(outcome, one) or self._answer(outcome, solved)
            answers.append(answer)
            told += one.flush() if one.heard else whole_answer(chunks, at, answer, asked.top)
            told.append(chunks.piece(at, {}, None, "tool_calls" if one.calls and answer.finish == "stop" else answer.finish))
        if chunks.counted:
            spent = self._spent(solved, answers)
            told.append(chunks.usage(spent["usage"], spent["ponder"]))
        return b"".join([*told, chunks.end])

    async def _solve(self, listeners: Sequence[Listener]) -> Solved:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise late("the time was over before there was an answer")
        solved = await self.engine.solve(self.asked, listeners, left, self.allowance)
        usage = solved.usage
        samples = sum(outcome.spent.samples for outcome in solved.outcomes)
        self.metrics.answered(self.asked.plan.name, samples, usage, time.monotonic() - self.started)
        return solved

    def _answer(self, outcome: Outcome, solved: Solved) -> Answer:
        return answer_of(outcome, self.asked.stops, tools=self.asked.tools, rejected=solved.rejected)

    def _streamed(self, outcome: Outcome, one: Passing) -> Answer | None:
        """A sample that was passed on until its time was over has been cut, not lost."""
        if one.heard and outcome.chain is None and outcome.exhausted and not outcome.spent.samples:
            return Answer("", "", (), "length", outcome.spent.usage)
        return None

    def _choice(self, index: int, answer: Answer) -> JSON:
        top = self.asked.top
        if self.chat:
            probabilities = None if top is None else logprobs(answer.tokens, top)
            said = cast("JSON", message(answer))
            return {"index": index, "message": said, "finish_reason": answer.finish, "logprobs": cast("JSON", probabilities)}
        columns = None if top is None else text_logprobs(answer.tokens, top)
        return {"index": index, "text": answer.text, "finish_reason": answer.finish, "logprobs": cast("JSON", columns)}

    def _spent(self, solved: Solved, answers: Sequence[Answer]) -> dict[str, JSON]:
        usage, outcomes = solved.usage, solved.outcomes
        spending: Spending = {
            "strategy": self.asked.plan.shown,
            "samples": sum(outcome.spent.samples for outcome in outcomes),
            "calls": usage.calls,
            "failed": sum(outcome.failed for outcome in outcomes),
            "exhausted": any(outcome.exhausted for outcome in outcomes),
            "seconds": round(time.monotonic() - self.started, 3),
        }
        counted = usage_object(usage, sum(answer.visible for answer in answers), usage.scored + solved.verifier)
        return {"usage": cast("JSON", counted), "ponder": cast("JSON", spending)}


def _says(line: Line, chunks: Chunks, index: int) -> Say:
    """Puts a line of progress into a choice."""

    async def say(text: str) -> None:
        await line.put(chunks.piece(index, {"reasoning_content": text}))

    return say
