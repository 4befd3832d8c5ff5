"""What /v1/responses may be asked for, and the chat request that says the same: everything after that is chat's own path.

Nothing is kept here: what refers to an earlier response is refused by name with the way out, and so are tools that a server would
have to run. Functions are the caller's: calls of them come back as items, and go in again with what they gave.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, cast

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, Tag, ValidationInfo, WithJsonSchema

from ponder.server.asked import Asked, of_chat
from ponder.server.config import Config
from ponder.server.models import Models
from ponder.server.refusal import Refusal
from ponder.server.schema import (
    WHOLE,
    Body,
    Chat,
    Data,
    Effort,
    Format,
    FunctionShape,
    Labels,
    Name,
    NamedFunction,
    Needs,
    Streams,
)
from ponder.types import JSON

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
_MOST_CALLS = 128  # in one turn, as on chat
_WAY_OUT = {
    "previous_response_id": "nothing is kept here; send the whole conversation as `input`",
    "conversation": "nothing is kept here; send the whole conversation as `input`",
    "prompt": "no prompts are kept here; send `instructions` and `input`",
    "store": "nothing is kept here; leave it out, or say false",
    "background": "an answer is not kept here; wait for it, or stream it",
    "include": "there is nothing more to include; leave it out",
}
_CHAT_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
    "verbosity": "text.verbosity",
}


def _refused(value: JsonValue, info: ValidationInfo) -> JsonValue:
    if value is not None and value is not False and value != []:
        raise ValueError(_WAY_OUT[str(info.field_name)])
    return value


Unoffered = Annotated[JsonValue, AfterValidator(_refused), WithJsonSchema({"enum": [None, False, []]})]


class InputText(Body):
    """A piece of text."""

    type: Literal["input_text"]
    text: str


class InputPicture(Body):
    """A picture in the request itself."""

    type: Literal["input_image"]
    image_url: Data
    detail: Literal["auto", "low", "high"] | None = None


class OutputText(Body):
    """What was answered before."""

    type: Literal["output_text"]
    text: str
    annotations: list[JsonValue] | None = None
    logprobs: list[JsonValue] | None = None


class OutputRefusal(Body):
    """What was refused before."""

    type: Literal["refusal"]
    refusal: str


class Item(Body):
    """What all messages have. A message may come back as it was given."""

    type: Literal["message"] | None = None
    id: str | None = Field(None, max_length=200)
    status: Status | None = None


class SystemItem(Item):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[InputText], Field(min_length=1)]


class UserItem(Item):
    """A turn of the user."""

    role: Literal["user"]
    content: str | Annotated[list[Annotated[InputText | InputPicture, Field(discriminator="type")]], Field(min_length=1)]


class AssistantItem(Item):
    """A turn of the assistant."""

    role: Literal["assistant"]
    content: str | Annotated[list[Annotated[OutputText | OutputRefusal, Field(discriminator="type")]], Field(min_length=1)]


class ThoughtItem(Body):
    """What the assistant thought, which may come back and is not sent on."""

    type: Literal["reasoning"]
    id: str | None = Field(None, max_length=200)
    status: Status | None = None
    summary: list[JsonValue] | None = None
    content: list[JsonValue] | None = None
    encrypted_content: str | None = None


class CallItem(Body):
    """A call of a function that the assistant made."""

    type: Literal["function_call"]
    id: str | None = Field(None, max_length=200)
    status: Status | None = None
    call_id: str = Field(min_length=1, max_length=200)
    name: Name
    arguments: str


class ResultItem(Body):
    """What such a call gave."""

    type: Literal["function_call_output"]
    id: str | None = Field(None, max_length=200)
    status: Status | None = None
    call_id: str = Field(min_length=1, max_length=200)
    output: str | Annotated[list[InputText], Field(min_length=1)]


def _kind(value: object) -> str | None:
    """Which item it is: the role of a message decides."""
    if not isinstance(value, dict):
        return None
    kind = value.get("role") if value.get("type", "message") in ("message", None) else value.get("type")
    return {"developer": "system"}.get(kind, kind) if isinstance(kind, str) else None


Turn = Annotated[
    Annotated[SystemItem, Tag("system")]
    | Annotated[UserItem, Tag("user")]
    | Annotated[AssistantItem, Tag("assistant")]
    | Annotated[ThoughtItem, Tag("reasoning")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")],
    Discriminator(
        _kind,
        custom_error_type="unknown_item",
        custom_error_message=(
            "must be a message by system, developer, user or assistant, a function_call or its function_call_output, or reasoning "
            "that was given before"
        ),
    ),
]


def _function(value: object) -> object:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "function":
        raise ValueError(f"{kind[:100]!r} is not run here; only tools of type 'function' are taken, which the caller runs")
    return value


class FunctionTool(FunctionShape):
    """A function as it is described to the model."""

    type: Literal["function"]


class FunctionChoice(NamedFunction):
    """The one function to call."""

    type: Literal["function"]


class Thinking(Body):
    """How much is spent on an answer. Of thoughts there are no summaries: they come as they are."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class SchemaFormat(Body):
    """An answer by a JSON Schema with a name."""

    type: Literal["json_schema"]
    name: Name
    description: str | None = None
    schema_: dict[str, JsonValue] = Field(alias="schema")
    strict: bool | None = None


class TextShape(Body):
    """The form of the answer."""

    format: Annotated[Format | SchemaFormat, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


def _spoken(turns: str | list[Turn]) -> str | list[Turn]:
    if isinstance(turns, str):
        return turns
    if all(isinstance(turn, ThoughtItem) for turn in turns):
        raise ValueError("holds no message")
    at = 0
    for turn in turns:
        at = at + 1 if isinstance(turn, CallItem) else at if isinstance(turn, ThoughtItem) else 0
        if at > _MOST_CALLS:
            raise ValueError(f"holds more than {_MOST_CALLS} calls one after the other")
    return turns


_SAYS: JSON = {"anyOf": [{"required": ["role"]}, {"required": ["call_id"]}]}  # more than thoughts


class Respond(Streams):
    """POST /v1/responses."""

    input: Annotated[
        str | Annotated[list[Turn], Field(min_length=1, max_length=1999, json_schema_extra={"contains": _SAYS})],
        AfterValidator(_spoken),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = None
    reasoning: Thinking | None = None
    text: TextShape | None = None
    metadata: Labels | None = None
    tools: list[Annotated[FunctionTool, BeforeValidator(_function)]] | None = Field(None, max_length=128)
    tool_choice: Annotated[
        Literal["none", "auto", "required"] | FunctionChoice | None, BeforeValidator(_function), Needs("tools", ("none", "auto"))
    ] = None
    parallel_tool_calls: bool | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    safety_identifier: str | None = Field(None, max_length=1000)
    prompt_cache_key: str | None = Field(None, max_length=1000)
    previous_response_id: Unoffered = None
    conversation: Unoffered = None
    prompt: Unoffered = None
    store: Unoffered = None
    background: Unoffered = None
    include: Unoffered = None


def of_response(body: Respond, models: Models, config: Config) -> Asked:
    """A request, ready: by way of the chat request that says the same. Raises `Refusal`, whose fields are those of chat (`renamed`)."""
    turns: list[dict[str, JSON]] = [{"role": "system", "content": body.instructions}] if body.instructions else []
    turns += [{"role": "user", "content": body.input}] if isinstance(body.input, str) else _turns(body.input)
    text = body.text or TextShape()
    same = ("model", "stream", "temperature", "top_p", "seed", "ponder")
    chat = Chat.model_validate(
        {name: getattr(body, name) for name in same}
        | {
            "messages": turns,
            "max_completion_tokens": body.max_output_tokens,
            "reasoning_effort": body.reasoning.effort if body.reasoning else None,
            "response_format": _format(text.format),
            "verbosity": text.verbosity,
            **_tools(body),
        }
    )
    return of_chat(chat, models, config)


def renamed(refusal: Refusal) -> Refusal:
    """The same, with the field at fault as this route calls it."""
    name = _CHAT_NAMES.get(refusal.param or "")
    if name is None:
        return refusal
    message = refusal.message.replace(f"{refusal.param}:", f"{name}:", 1)
    return Refusal(refusal.status, message, code=refusal.code, param=name, headers=refusal.headers)


def _turns(items: list[Turn]) -> list[dict[str, JSON]]:
    """The messages that items are: calls stand in the assistant's message before them, or in one of their own."""
    turns: list[dict[str, JSON]] = []
    for item in items:
        if isinstance(item, CallItem):
            if not turns or turns[-1]["role"] != "assistant":
                turns.append({"role": "assistant"})
            function: JSON = {"name": item.name, "arguments": item.arguments}
            calls = cast("list[JSON]", turns[-1].setdefault("tool_calls", []))
            calls.append({"id": item.call_id, "type": "function", "function": function})
        elif not isinstance(item, ThoughtItem):
            turns.append(_turn(item))
    return turns


def _tools(body: Respond) -> dict[str, JSON]:
    """Tools and their choice as chat has them. Without tools, a choice that says nothing is left out, as engines refuse it."""
    choice = body.tool_choice
    said: dict[str, JSON] = {}
    if isinstance(choice, FunctionChoice):
        said["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice and body.tools:
        said["tool_choice"] = choice
    if body.tools:
        said["tools"] = [
            {"type": "function", "function": cast("JSON", tool.model_dump(exclude_none=True, exclude={"type"}))}
            for tool in body.tools
        ]
        said["parallel_tool_calls"] = body.parallel_tool_calls
    return said


def _turn(item: SystemItem | UserItem | AssistantItem | ResultItem) -> dict[str, JSON]:
    if isinstance(item, ResultItem):
        output: JSON = item.output if isinstance(item.output, str) else [_part(part) for part in item.output]
        return {"role": "tool", "tool_call_id": item.call_id, "content": output}
    if isinstance(item.content, str):
        return {"role": item.role, "content": item.content}
    parts = cast("list[InputText | InputPicture | OutputText | OutputRefusal]", item.content)
    return {"role": item.role, "content": [_part(part) for part in parts]}


def _part(part: InputText | InputPicture | OutputText | OutputRefusal) -> JSON:
    if isinstance(part, InputPicture):
        return {"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}}
    return {"type": "text", "text": part.refusal if isinstance(part, OutputRefusal) else part.text}


def _format(shape: Format | SchemaFormat | None) -> JSON:
    if not isinstance(shape, SchemaFormat):
        return cast("JSON", shape)
    return {"type": shape.type, "json_schema": shape.model_dump(by_alias=True, exclude_none=True, exclude={"type"})}
