"""Server-sent events: the role first, what the search does as `reasoning_content`, then the answer, how it ended, usage, [DONE].

A single sample is passed on token by token as the engine writes it. A comment goes out at least every ten seconds, so that nothing
between client and server takes the silence for the end. What comes from the engine goes out before more is read: a client that reads
slowly slows the engine's stream down, and holds nothing in memory.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as _quote
from typing import TypeAlias, cast

from ponder.policies.streamed import Hear
from ponder.policies.wire import Object, storable
from ponder.server.answer import Answer, Head, call_objects, logprobs, text_logprobs
from ponder.server.refusal import Refusal
from ponder.types import JSON

Send: TypeAlias = Callable[[bytes], Awaitable[None]]
SILENCE = 10.0  # seconds
COMMENT = b": still at work\n\n"
DONE = b"data: [DONE]\n\n"


class Chunks:
    """The chunks of one reply. usage: with include_usage every chunk has the field, null in all but the last. end: comes after them."""

    end = DONE

    def __init__(self, head: Head, *, chat: bool, usage: bool) -> None:
        self.chat, self.counted = chat, usage
        kind = "chat.completion.chunk" if chat else "text_completion"
        self._head = f'{{"id": "{head.id}", "object": "{kind}", "created": {head.created}, "model": {_quote(head.model)}, '
        self._head += f'"system_fingerprint": "{head.fingerprint}"'
        self._usage = ', "usage": null' if usage else ""
        self._before = f'data: {self._head}, "choices": [{{"index": '
        self._after = f'}}, "logprobs": null, "finish_reason": null}}]{self._usage}}}\n\n'

    def piece(self, index: int, said: Mapping[str, JSON], probabilities: JSON = None, finish: str | None = None) -> bytes:
        """A chunk of one choice: a delta, or a text."""
        text = said.get("content", "")
        if not self.chat:
            body = f'"text": {json.dumps(text)}'
        elif len(said) == 1 and isinstance(text, str) and "content" in said:
            if probabilities is None and finish is None:  # nearly all chunks of a stream
                return f'{self._before}{index}, "delta": {{"content": {_quote(text)}{self._after}'.encode()
            body = f'"delta": {{"content": {_quote(text)}}}'
        else:
            body = f'"delta": {json.dumps(said)}'
        ending = f'"logprobs": {"null" if probabilities is None else json.dumps(probabilities)}, '
        ending += f'"finish_reason": {"null" if finish is None else _quote(finish)}'
        return f'data: {self._head}, "choices": [{{"index": {index}, {body}, {ending}}}]{self._usage}}}\n\n'.encode()

    def usage(self, usage: JSON, spending: JSON) -> bytes:
        """The last chunk: no choice, all that was spent."""
        return f'data: {self._head}, "choices": [], "usage": {json.dumps(usage)}, "ponder": {json.dumps(spending)}}}\n\n'.encode()

    def error(self, refusal: Refusal) -> bytes:
        """An error after the stream began: the same object, and no end."""
        return f"data: {json.dumps(refusal.body())}\n\n".encode()


class Line:
    """To the client: what is put goes out at once, and a comment in every silence. Use as a context manager."""

    def __init__(self, send: Send) -> None:
        self._send, self._loop = send, asyncio.get_running_loop()
        self._last, self._sending = self._loop.time(), 0
        self._comment: asyncio.Task[None] | None = None

    async def put(self, data: bytes) -> None:
        """Send chunks; waits while the client is behind, and whoever puts with it."""
        self._sending += 1
        try:
            await self._send(data)
        finally:
            self._sending -= 1
            self._last = self._loop.time()

    def __enter__(self) -> Line:
        self._timer = self._loop.call_later(SILENCE, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    def _look(self) -> None:
        rest = SILENCE if self._sending else self._last + SILENCE - self._loop.time()
        if rest <= 0:
            self._comment, rest = self._loop.create_task(self.put(COMMENT)), SILENCE
        self._timer = self._loop.call_later(rest, self._look)


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

        async def hear(choices: Sequence[Object]) -> None:
            self.heard = True
            if told := b"".join(piece for choice in choices for piece in self._pieces(choice)):
                await self.put(told)

        return hear

    def _pieces(self, choice: Object) -> list[bytes]:
        said = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        said = said if isinstance(said, dict) else {}
        told: list[bytes] = []
        if self.top is None and self._place == "answer" and len(said) == 1 and "content" in said:  # nearly all of a stream
            return self._say("content", storable(said["content"]), None)
        if thought := storable(said.get("reasoning_content")) or storable(said.get("reasoning")):
            told += self._say("reasoning_content", thought, None)
        if text := storable(said.get("content")):
            told += self._text(text, self._probabilities(choice.get("logprobs")))
        called = said.get("tool_calls")
        if calls := [call for call in called if isinstance(call, dict)] if isinstance(called, list) else []:
            self.calls = True
            told.append(self.chunks.piece(self.index, {"tool_calls": cast("JSON", calls)}))
        return told

    def _probabilities(self, given: JSON) -> JSON:
        """As many alternatives as were asked for; engines are asked for one at least."""
        if self.top is None or not isinstance(given, dict):
            return None
        rows = given.get("content")
        if not self.chunks.chat or not isinstance(rows, list):
            return given
        return {"content": cast("JSON", [_row(row, self.top) for row in rows if isinstance(row, dict)]), "refusal": None}

    def _text(self, text: str, probabilities: JSON) -> list[bytes]:
        """Text that may begin with a thought between tags; held back only while it might be a tag."""
        if self._place == "answer" or not self.chunks.chat:
            return self._say("content", text, probabilities)
        told: list[bytes] = []
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
                told += self._say("reasoning_content", thought.rstrip("\n"), None)
            else:
                safe = max(0, len(thought) - len("\n</think>"))
                self._held = thought[safe:]
                told += self._say("reasoning_content", thought[:safe], None)
        if self._place == "gap":
            self._held = self._held.lstrip("\n")
            self._place = "answer" if self._held else "gap"
        if self._place == "answer":
            held, self._held = self._held, ""
            told += self._say("content", held, probabilities)
        return told

    def flush(self) -> list[bytes]:
        """The chunks of what was held back when the sample ended."""
        held, self._held = self._held, ""
        return self._say("reasoning_content" if self._place == "thought" else "content", held, None)

    def _say(self, field: str, text: str, probabilities: JSON) -> list[bytes]:
        return [self.chunks.piece(self.index, {field: text}, probabilities)] if text else []


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


def _row(row: Mapping[str, JSON], top: int) -> dict[str, JSON]:
    """A token with so many alternatives."""
    others = row.get("top_logprobs")
    kept = [_finite(other) for other in others[:top] if isinstance(other, dict)] if isinstance(others, list) else []
    return {**_finite(row), "top_logprobs": cast("JSON", kept)}


def _finite(row: Mapping[str, JSON]) -> dict[str, JSON]:
    """What is no number in JSON (engines write NaN and -Infinity) is the number that OpenAI has for it."""
    number = row.get("logprob")
    known = isinstance(number, int | float) and -9999.0 <= number <= 9999.0
    return {**row, "logprob": number if known else -9999.0}
