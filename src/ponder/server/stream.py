"""Server-sent events: the role first, what the search does as `reasoning_content`, then the answer, how it ended, usage, [DONE].

A single sample is passed on token by token as the engine writes it. A comment goes out at least every ten seconds, so that nothing
between client and server takes the silence for the end. What comes from the engine waits in a short queue: a client that reads slowly
slows the engine's stream down, and holds nothing in memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, cast

from ponder.policies.streamed import Hear
from ponder.server.answer import Answer, Head, call_objects, logprobs, text_logprobs
from ponder.server.refusal import Refusal
from ponder.types import JSON

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
SILENCE = 10.0  # seconds
COMMENT = b": still at work\n\n"
DONE = b"data: [DONE]\n\n"
_END = object()


class Chunks:
    """The chunks of one reply. usage: with include_usage every chunk has the field, null in all but the last. end: comes after them."""

    end = DONE

    def __init__(self, head: Head, *, chat: bool, usage: bool) -> None:
        self.chat, self.counted = chat, usage
        kind = "chat.completion.chunk" if chat else "text_completion"
        fields: dict[str, JSON] = {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }
        self._head = json.dumps(fields)[:-1]
        self._usage = ', "usage": null' if usage else ""

    def piece(self, index: int, said: Mapping[str, JSON], probabilities: JSON = None, finish: str | None = None) -> bytes:
        """A chunk of one choice: a delta, or a text."""
        body: dict[str, JSON] = {"delta": dict(said)} if self.chat else {"text": said.get("content", "")}
        choice = {"index": index, **body, "logprobs": probabilities, "finish_reason": finish}
        return f'data: {self._head}, "choices": [{json.dumps(choice)}]{self._usage}}}\n\n'.encode()

    def usage(self, usage: JSON, spending: JSON) -> bytes:
        """The last chunk: no choice, all that was spent."""
        return f'data: {self._head}, "choices": [], "usage": {json.dumps(usage)}, "ponder": {json.dumps(spending)}}}\n\n'.encode()

    def error(self, refusal: Refusal) -> bytes:
        """An error after the stream began: the same object, and no end."""
        return f"data: {json.dumps(refusal.body())}\n\n".encode()


class Pipe:
    """From those who produce chunks to the one who sends them."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[object] = asyncio.Queue(maxsize=64)

    async def put(self, data: bytes) -> None:
        """Give a chunk; waits while the client is far behind."""
        await self._queue.put(data)

    async def close(self) -> None:
        """There will be no more."""
        await self._queue.put(_END)

    async def send_all(self, send: Send) -> None:
        """Send what comes until it is closed, with a comment in every silence."""
        while True:
            try:
                async with asyncio.timeout(SILENCE):
                    first = await self._queue.get()
            except TimeoutError:
                await send(COMMENT)
                continue
            ready = [first]
            while not self._queue.empty():
                ready.append(self._queue.get_nowait())
            data = b"".join(cast("bytes", one) for one in ready if one is not _END)
            if data:
                await send(data)
            if ready[-1] is _END:
                return


@dataclass
class Passing:
    """Passes the pieces of one single sample on, thoughts apart from the answer as in a reply that comes whole."""

    chunks: Chunks
    index: int
    put: Callable[[bytes], Awaitable[None]]
    top: int | None
    heard: bool = False
    calls: bool = False
    _held: str = ""
    _place: str = "start"  # start, thought, gap (between thought and answer), answer

    def listener(self) -> Hear:
        """What the policy tells."""

        async def hear(choice: Mapping[str, JSON]) -> None:
            said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
            said = said if isinstance(said, dict) else {}
            probabilities = self._probabilities(choice.get("logprobs"))
            self.heard = True
            thought = said.get("reasoning_content") or said.get("reasoning")
            if isinstance(thought, str) and thought:
                await self.put(self.chunks.piece(self.index, {"reasoning_content": thought}))
            text = said.get("content")
            if isinstance(text, str) and text:
                await self._text(text, probabilities)
            if said.get("tool_calls"):
                self.calls = True
                await self.put(self.chunks.piece(self.index, {"tool_calls": said["tool_calls"]}))

        return hear

    def _probabilities(self, given: JSON) -> JSON:
        """As many alternatives as were asked for; engines are asked for one at least."""
        if self.top is None or not isinstance(given, dict):
            return None
        rows = given.get("content")
        if not self.chunks.chat or not isinstance(rows, list):
            return given
        cut = [
            {**row, "top_logprobs": cast("list[JSON]", row.get("top_logprobs") or [])[: self.top]}
            for row in rows
            if isinstance(row, dict)
        ]
        return {"content": cast("JSON", cut), "refusal": None}

    async def _text(self, text: str, probabilities: JSON) -> None:
        """Text that may begin with a thought between tags; held back only while it might be a tag."""
        if self._place == "answer" or not self.chunks.chat:
            await self._say("content", text, probabilities)
            return
        self._held += text
        if self._place == "start":
            start = self._held.lstrip()
            if start.startswith("<think>"):
                self._place, self._held = "thought", start.removeprefix("<think>").lstrip("\n")
            elif not "<think>".startswith(start):
                self._place = "answer"
        if self._place == "thought":
            thought, closed, rest = self._held.partition("</think>")
            if closed:
                self._place, self._held = "gap", rest
                await self._say("reasoning_content", thought.rstrip("\n"), None)
            else:
                safe = max(0, len(thought) - len("\n</think>"))
                self._held = thought[safe:]
                await self._say("reasoning_content", thought[:safe], None)
        if self._place == "gap":
            self._held = self._held.lstrip("\n")
            self._place = "answer" if self._held else "gap"
        if self._place == "answer":
            held, self._held = self._held, ""
            await self._say("content", held, probabilities)

    async def flush(self) -> None:
        """What was held back when the sample ended."""
        held, self._held = self._held, ""
        await self._say("reasoning_content" if self._place == "thought" else "content", held, None)

    async def _say(self, field: str, text: str, probabilities: JSON) -> None:
        if text:
            await self.put(self.chunks.piece(self.index, {field: text}, probabilities))


def whole_answer(chunks: Chunks, index: int, answer: Answer, top: int | None) -> list[bytes]:
    """The chunks of an answer that is there at once."""
    found = [chunks.piece(index, {"reasoning_content": answer.thought})] if answer.thought and chunks.chat else []
    if answer.refusal:
        found.append(chunks.piece(index, {"refusal": answer.refusal}))
    if answer.text:
        tokens = None if top is None else logprobs(answer.tokens, top) if chunks.chat else text_logprobs(answer.tokens, top)
        found.append(chunks.piece(index, {"content": answer.text}, cast("JSON", tokens)))
    if answer.calls:
        calls = [{"index": at, **call} for at, call in enumerate(call_objects(answer.calls))]
        found.append(chunks.piece(index, {"tool_calls": cast("JSON", calls)}))
    return found
