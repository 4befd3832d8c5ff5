"""A streamed reply, taken event by event and put together into the body that would have come whole."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from ponder.policies.wire import MalformedError, Object, read_all, read_json
from ponder.types import JSON

Hear: TypeAlias = Callable[[Sequence[Object]], Awaitable[None]]
"""Told of the pieces of a choice as they come, of those together that came together: chat `delta`s with the `logprobs` of their tokens
beside them, or `text`s."""


def events(buffer: bytearray) -> list[bytes]:
    """Cut the data of all whole lines off the front of a buffer of server-sent events; comments and other fields are passed over."""
    end = max(buffer.rfind(b"\n"), buffer.rfind(b"\r")) + 1
    lines = bytes(buffer[:end]).splitlines()
    del buffer[:end]
    return [line[5:].strip() for line in lines if line.startswith(b"data:")]


@dataclass
class Assembled:
    """What has come so far. `begun`: something was passed on, so that another try would say it twice."""

    hear: Hear
    chat: bool
    begun: bool = False
    done: bool = False
    usage: JSON = None
    choices: dict[int, _Parts] = field(default_factory=dict)

    async def take(self, events: Sequence[bytes]) -> None:
        """Take the data of events. Raises `MalformedError` for what is no such thing, once what came before it has been heard."""
        heard: list[Object] = []
        self.done = self.done or b"[DONE]" in events
        try:
            for event in _values([event for event in events if event != b"[DONE]"]):
                self._take(event, heard)
        finally:
            if heard:
                self.begun = True
                await self.hear(heard)

    def _take(self, event: JSON, heard: list[Object]) -> None:
        choices = event.get("choices") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(choices, list):
            raise MalformedError("an event without choices")
        self.usage = event.get("usage") or self.usage
        for choice in choices:
            if not isinstance(choice, dict):
                raise MalformedError("a choice that is no object")
            index = choice.get("index", 0)
            index = index if isinstance(index, int) else 0
            parts = self.choices.get(index)
            if parts is None:
                parts = self.choices[index] = _Parts()
            if parts.take(choice, self.chat):
                heard.append(choice)

    def body(self) -> JSON:
        """The whole reply. Raises `MalformedError` where a choice has no end."""
        if not self.choices or not all(parts.finish for parts in self.choices.values()):
            raise MalformedError("a stream that stopped before its end")
        return {"choices": [self.choices[index].whole(self.chat) for index in sorted(self.choices)], "usage": self.usage}


def _values(events: Sequence[bytes]) -> Iterator[JSON]:
    """The events as values, up to the first that is none: raises `MalformedError` there."""
    try:
        yield from read_all(events)
    except (ValueError, RecursionError):
        for event in events:
            try:
                value = read_json(event)
            except (ValueError, RecursionError):
                raise MalformedError("an event that is not JSON") from None
            yield value


@dataclass(slots=True)
class _Parts:
    """One choice so far."""

    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    rows: list[JSON] = field(default_factory=list)
    columns: dict[str, list[JSON]] = field(default_factory=dict)
    finish: str = ""
    reason: dict[str, JSON] = field(default_factory=dict)

    def take(self, choice: dict[str, JSON], chat: bool) -> bool:
        """Whether there was anything to hear."""
        said = choice.get("delta") or choice.get("message") if chat else choice
        said = said if isinstance(said, dict) else {}
        text, thought = said.get("content" if chat else "text"), said.get("reasoning_content") or said.get("reasoning")
        calls, logprobs = said.get("tool_calls"), choice.get("logprobs")
        if isinstance(text, str):
            self.texts.append(text)
        if isinstance(thought, str):
            self.thoughts.append(thought)
        if isinstance(calls, list):
            self._call(calls)
        if isinstance(logprobs, dict):
            self._note(logprobs)
        if "stop_reason" in choice:
            self.reason["stop_reason"] = choice["stop_reason"]
        if isinstance(finish := choice.get("finish_reason"), str):
            self.finish = finish
        return bool(text or thought or calls)

    def whole(self, chat: bool) -> JSON:
        """The choice as it would have come whole."""
        logprobs: JSON = {"content": self.rows} if self.rows else dict(self.columns) or None
        ending: dict[str, JSON] = {"finish_reason": self.finish, "logprobs": logprobs, **self.reason}
        if not chat:
            return {"text": "".join(self.texts), **ending}
        message: dict[str, JSON] = {"content": "".join(self.texts), "reasoning_content": "".join(self.thoughts)}
        if self.calls:
            message["tool_calls"] = [{"function": dict(self.calls[at])} for at in sorted(self.calls)]
        return {"message": message, **ending}

    def _call(self, calls: list[JSON]) -> None:
        for place, call in enumerate(calls):
            if isinstance(call, dict) and isinstance(call.get("function"), dict):
                at, function = call.get("index", place), cast("dict[str, JSON]", call["function"])
                kept = self.calls.setdefault(at if isinstance(at, int) else place, {"name": "", "arguments": ""})
                for key in kept:
                    kept[key] += str(function.get(key) or "")

    def _note(self, logprobs: Mapping[str, JSON]) -> None:
        content = logprobs.get("content")
        if isinstance(content, list):
            self.rows += content
        for key in ("tokens", "token_logprobs", "top_logprobs"):
            column = logprobs.get(key)
            if isinstance(column, list):
                self.columns.setdefault(key, []).extend(column)
