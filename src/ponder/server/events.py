"""/v1/responses as it is answered: what a chat's reply is made of, written as items, whole or as events.

One writer, `Events`, makes both, so that the object at the end of a stream is the one that would have come whole.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from typing_extensions import NotRequired, TypedDict  # noqa: UP035  # pydantic reads those of typing from Python 3.12 on only

from ponder.server.answer import CompletionDetails, Head, PromptDetails, Spending
from ponder.server.asked import Asked
from ponder.server.engine import Engine
from ponder.server.guard import Allowance
from ponder.server.metrics import Metrics
from ponder.server.refusal import Refusal
from ponder.server.reply import Reply
from ponder.server.responses import FunctionChoice, Respond, Status, TextShape, Thinking, renamed
from ponder.server.stream import Chunks
from ponder.types import JSON


class PartObject(TypedDict):
    """A text: of the answer, of a thought, or of a refusal."""

    type: Literal["output_text", "reasoning_text", "refusal"]
    text: NotRequired[str]
    refusal: NotRequired[str]
    annotations: NotRequired[list[None]]
    logprobs: NotRequired[list[None]]


class FunctionCallObject(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: Status
    call_id: str
    name: str
    arguments: str


class FunctionObject(TypedDict):
    """A function that was offered."""

    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class ItemObject(TypedDict):
    """What was thought, or the answer."""

    id: str
    type: Literal["reasoning", "message"]
    status: Status
    content: list[PartObject]
    role: NotRequired[Literal["assistant"]]
    summary: NotRequired[list[None]]


class ResponseUsage(TypedDict):
    """What was spent: the numbers of a chat completion under other names."""

    input_tokens: int
    input_tokens_details: PromptDetails
    output_tokens: int
    output_tokens_details: CompletionDetails
    total_tokens: int


class Incomplete(TypedDict):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens", "content_filter"]


class Failure(TypedDict):
    """Why there is no answer."""

    code: Literal["server_error", "invalid_prompt"]
    message: str


class ResponseObject(TypedDict):
    """The reply of /v1/responses."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: Failure | None
    incomplete_details: Incomplete | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[ItemObject | FunctionCallObject]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, str | None]
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[FunctionObject]
    top_p: float
    truncation: str
    usage: ResponseUsage | None
    ponder: NotRequired[Spending]


class Responding(Reply):
    """A reply to one request, as a response."""

    def __init__(self, body: Respond, engine: Engine, metrics: Metrics, asked: Asked, ends: float, allowance: Allowance) -> None:
        super().__init__(engine, metrics, asked, ends, allowance, chat=True)
        self.body, self.head = body, replace(self.head, id=_new_id("resp"))

    async def whole(self) -> dict[str, JSON]:
        """The object. Raises `Refusal`, and what a run raises."""
        chat, events = await super().whole(), self.chunks(usage=True)
        [choice] = cast("list[dict[str, Any]]", chat["choices"])
        events.piece(0, choice["message"], None, choice["finish_reason"])
        events.usage(chat["usage"], chat["ponder"])
        return cast("dict[str, JSON]", events.response)

    def chunks(self, *, usage: bool) -> Events:
        """What a stream is written with; usage always stands in its last event."""
        return Events(self.head, self.body)


@dataclass(slots=True)
class _Open:
    """An item that is being written: its kind, its place in the output, what was said. A call: which one, its id and its function."""

    id: str
    kind: str
    place: int
    said: list[str] = field(default_factory=list)
    call: int = 0
    call_id: str = ""
    name: str = ""


class Events(Chunks):
    """The events of one response, from the same pieces that a chat's chunks are made of; what they told is in `response`.

    One item is open at a time, but for calls: engines may write several in turns, so each is open until all that is said is said.
    """

    end = b""

    def __init__(self, head: Head, body: Respond) -> None:
        super().__init__(head, chat=True, usage=True)
        self.response = _begun(head, body)
        self._number = 0
        self._open: list[_Open] = []

    def piece(self, index: int, said: Mapping[str, JSON], probabilities: JSON = None, finish: str | None = None) -> bytes:
        """The events of one delta; `finish` ends the last item."""
        told = []
        if "role" in said:
            told += [self._event("response.created", response=self.response)]
            told += [self._event("response.in_progress", response=self.response)]
        for name in ("reasoning_content", "content", "refusal"):
            if text := said.get(name):
                told += [*self._begin(name), self._delta(self._open[-1], cast("str", text))]
        calls = said.get("tool_calls")
        for at, call in enumerate(calls if isinstance(calls, list) else []):
            told += self._call(at, call) if isinstance(call, dict) else []
        if finish is not None:
            status: Status = "incomplete" if finish in ("length", "content_filter") else "completed"
            if status == "completed" and (not self._open or self._open[-1].kind == "reasoning_content"):
                told += self._begin(
                    "content"
                )  # an answer of no words is an answer; one that was cut while it was thought over is none
            told += self._done(status)
            self.response["status"] = status
            if status == "incomplete":
                reason: Incomplete = {"reason": "max_output_tokens" if finish == "length" else "content_filter"}
                self.response["incomplete_details"] = reason
        return b"".join(told)

    def usage(self, usage: JSON, spending: JSON) -> bytes:
        """The last event: the whole response."""
        spent = cast("dict[str, Any]", usage)
        self.response["usage"] = {
            "input_tokens": spent["prompt_tokens"],
            "input_tokens_details": spent["prompt_tokens_details"],
            "output_tokens": spent["completion_tokens"],
            "output_tokens_details": spent["completion_tokens_details"],
            "total_tokens": spent["total_tokens"],
        }
        self.response["ponder"] = cast("Spending", spending)
        return self._event(f"response.{self.response['status']}", response=self.response)

    def error(self, refusal: Refusal) -> bytes:
        """An error after the stream began: as an event of its own, and in the response that failed."""
        said = renamed(refusal)
        self.response["status"] = "failed"
        self.response["error"] = {"code": "server_error" if said.status != 400 else "invalid_prompt", "message": said.message}
        told = self._event("error", code=said.code, message=said.message, param=said.param)
        return told + self._event("response.failed", response=self.response)

    def _begin(self, name: str) -> list[bytes]:
        """Open an item for such text, unless it is the one that is open."""
        if self._open and self._open[-1].kind == name:
            return []
        told = self._done("completed")
        one = _Open(_new_id("rs" if name == "reasoning_content" else "msg"), name, len(self.response["output"]))
        self._open.append(one)
        item = {**_item(one, "in_progress"), "content": []}
        told.append(self._event("response.output_item.added", output_index=one.place, item=item))
        told.append(self._of(one, "response.content_part.added", content_index=0, part=_part_object(name, "")))
        return told

    def _call(self, at: int, piece: Mapping[str, JSON]) -> list[bytes]:
        """A piece of a call, or a whole one; `index` says of which, else its place `at`."""
        which, function = piece.get("index", at), piece.get("function")
        function = function if isinstance(function, dict) else {}
        name, arguments = str(function.get("name") or ""), str(function.get("arguments") or "")
        told: list[bytes] = []
        one = next((one for one in self._open if one.kind == "call" and one.call == which), None)
        if one is None:
            told += [] if self._open and self._open[-1].kind == "call" else self._done("completed")
            place = len(self.response["output"]) + len(self._open)
            one = _Open(_new_id("fc"), "call", place, call=cast("int", which), name=name)
            one.call_id = str(piece.get("id") or _new_id("call"))
            self._open.append(one)
            told.append(self._event("response.output_item.added", output_index=place, item=_item(one, "in_progress")))
        else:
            one.name += name
        return told + ([self._delta(one, arguments)] if arguments else [])

    def _delta(self, one: _Open, text: str) -> bytes:
        one.said.append(text)
        if one.kind == "call":
            return self._of(one, "response.function_call_arguments.delta", delta=text)
        more: dict[str, object] = {"logprobs": []} if one.kind == "content" else {}
        return self._of(one, f"response.{_TYPES[one.kind]}.delta", content_index=0, delta=text, **more)

    def _done(self, status: Status) -> list[bytes]:
        """Close what is open."""
        told = []
        for one in self._open:
            item, said = _item(one, status), "".join(one.said)
            if one.kind == "call":
                told.append(self._of(one, "response.function_call_arguments.done", name=one.name, arguments=said))
            else:
                part, kind = _part_object(one.kind, said), _TYPES[one.kind]
                text = {key: value for key, value in part.items() if key not in ("type", "annotations")}
                told.append(self._of(one, f"response.{kind}.done", content_index=0, **text))
                told.append(self._of(one, "response.content_part.done", content_index=0, part=part))
            told.append(self._event("response.output_item.done", output_index=one.place, item=item))
            self.response["output"].append(item)
        self._open.clear()
        return told

    def _of(self, one: _Open, kind: str, **more: object) -> bytes:
        return self._event(kind, item_id=one.id, output_index=one.place, **more)

    def _event(self, kind: str, **more: object) -> bytes:
        body = json.dumps({"type": kind, "sequence_number": self._number, **more})
        self._number += 1
        return f"event: {kind}\ndata: {body}\n\n".encode()


_TYPES: Mapping[str, Literal["output_text", "reasoning_text", "refusal"]] = {
    "reasoning_content": "reasoning_text",
    "content": "output_text",
    "refusal": "refusal",
}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex[:24]}"


def _item(one: _Open, status: Status) -> ItemObject | FunctionCallObject:
    said = "".join(one.said)
    if one.kind == "call":
        return {
            "id": one.id,
            "type": "function_call",
            "status": status,
            "call_id": one.call_id,
            "name": one.name,
            "arguments": said,
        }
    content = [_part_object(one.kind, said)]
    if one.kind == "reasoning_content":
        return {"id": one.id, "type": "reasoning", "status": status, "summary": [], "content": content}
    return {"id": one.id, "type": "message", "status": status, "role": "assistant", "content": content}


def _part_object(name: str, text: str) -> PartObject:
    if name == "refusal":
        return {"type": "refusal", "refusal": text}
    if name == "reasoning_content":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _begun(head: Head, body: Respond) -> ResponseObject:
    """A response before anything was said."""
    thinking, text, choice = body.reasoning or Thinking(), body.text or TextShape(), body.tool_choice
    shape = text.format.model_dump(by_alias=True, exclude_none=True) if text.format else {"type": "text"}
    return {
        "id": head.id,
        "object": "response",
        "created_at": head.created,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": head.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "reasoning": {"effort": thinking.effort, "summary": thinking.summary},
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": shape},
        "tool_choice": choice.model_dump() if isinstance(choice, FunctionChoice) else choice or "auto",
        "tools": [cast("FunctionObject", tool.model_dump()) for tool in body.tools or ()],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
    }
