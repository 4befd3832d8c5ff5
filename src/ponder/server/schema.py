"""What may be asked for: every field, every limit, checked before anything is built from it.

Unknown fields are refused (400, with the nearest name): a misspelt one must not be silently without effect. Fields that OpenAI has and
that mean nothing here (`store`, `metadata`, `user` ...) are accepted and ignored; those that would change the answer and cannot be
honoured (`functions`, `audio`, `prediction` ...) are unknown. A field that says nothing without another one (`top_logprobs` without
`logprobs`) is refused, as OpenAI does.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.config import JsonDict
from pydantic_core import CoreSchema, from_json
from pydantic_core.core_schema import with_info_after_validator_function

from ponder.server.refusal import Refusal

DEEPEST = 64
"""Levels of nesting in a body."""
MOST_VALUES = 50_000
"""Values in a body, each costing as much as a long text: 8 MB of small ones would hold the server up for minutes."""
_BETWEEN = bytes(set(range(256)) - set(b'",[{'))


def _whole(value: object) -> object:
    """JSON has one kind of number: 3.0 is a whole one."""
    return int(value) if type(value) is float and value.is_integer() else value


def _off(value: bool) -> bool:
    if value:
        raise ValueError("is not offered here; leave it out")
    return value


class Needs:
    """A field that may be given only beside another one, which stands before it. free: values that may stand alone."""

    def __init__(self, other: str, free: Sequence[str] = ()) -> None:
        self.other, self.free = other, (None, *free)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The field's own check, and then this one."""

        def check(value: object, info: ValidationInfo) -> object:
            if value not in self.free and self.other in info.data and not info.data[self.other]:
                raise ValueError(f"says nothing without {self.other}")
            return value

        return with_info_after_validator_function(check, handler(source))

    def rule(self, field: str) -> JsonDict:
        """The same in JSON Schema."""
        beside: JsonDict = {"type": "array", "minItems": 1} if self.other == "tools" else {"const": True}
        alone: JsonDict = {"properties": {field: {"enum": list(self.free)}}}
        return {"anyOf": [alone, {"required": [self.other], "properties": {self.other: beside}}]}


def told(schema: JsonDict, model: type[BaseModel]) -> None:
    """Write the rules of `Needs` into a model's JSON Schema."""
    rules = [part.rule(name) for name, field in model.model_fields.items() for part in field.metadata if isinstance(part, Needs)]
    if rules:
        schema["allOf"] = [*rules]


WHOLE = BeforeValidator(_whole)
Off = Annotated[bool, AfterValidator(_off), WithJsonSchema({"const": False})]
Biases = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=300),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 300,
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
        }
    ),
]
Labels = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 16,
            "propertyNames": {"maxLength": 64},
            "additionalProperties": {"type": "string", "maxLength": 512},
        }
    ),
]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
B = TypeVar("B", bound="Body")


class Body(BaseModel):
    """Strict: a number is no string, and there is no field that is not here."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, json_schema_extra=told)


class Spend(Body):
    """A budget of the caller's; the operator's bounds hold beside it."""

    samples: Annotated[int, Field(ge=1, le=2**31), WHOLE] | None = None
    tokens: Annotated[int, Field(ge=1, le=2**53), WHOLE] | None = None
    calls: Annotated[int, Field(ge=1, le=2**31), WHOLE] | None = None
    seconds: float | None = Field(None, gt=0.001, le=86_400)


class Ponder(Body):
    """`extra_body={"ponder": {...}}`: strategy by served name or spec, budget, what votes on calls of tools compare, progress in streams."""

    strategy: str | None = Field(None, min_length=1, max_length=500)
    budget: Spend | None = None
    vote: Literal["arguments", "name"] | None = None
    progress: bool | None = None


class StreamOptions(Body):
    """What a stream ends with."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Text(Body):
    """A piece of text."""

    type: Literal["text"]
    text: str


class Location(Body):
    """A picture in the request itself; addresses are refused, as the engine would fetch them from where it stands."""

    url: str = Field(pattern=r"^data:image/[a-z0-9.+-]{1,40};base64,")
    detail: Literal["auto", "low", "high"] | None = None


class Picture(Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: Location


class FunctionCall(Body):
    """What a tool is called with."""

    name: Name
    arguments: str


class ToolCall(Body):
    """A call that the assistant made."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal["function"]
    function: FunctionCall


class System(Body):
    """Instructions."""

    role: Literal["system", "developer"]
    content: str | Annotated[list[Text], Field(min_length=1)]
    name: Name | None = None


class User(Body):
    """A turn of the user."""

    role: Literal["user"]
    content: str | Annotated[list[Annotated[Text | Picture, Field(discriminator="type")]], Field(min_length=1)]
    name: Name | None = None


class Assistant(Body):
    """A turn of the assistant. `reasoning_content` is what it thought, which is not sent on."""

    role: Literal["assistant"]
    content: str | Annotated[list[Text], Field(min_length=1)] | None = None
    name: Name | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, min_length=1, max_length=128)


class Tool(Body):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | Annotated[list[Text], Field(min_length=1)]
    tool_call_id: str = Field(min_length=1, max_length=200)


Turn = Annotated[System | User | Assistant | Tool, Field(discriminator="role")]


class FunctionShape(Body):
    """A tool as it is described to the model."""

    name: Name
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None


class ToolShape(Body):
    """A tool."""

    type: Literal["function"]
    function: FunctionShape


class NamedFunction(Body):
    """A tool's name."""

    name: Name


class ToolChoice(Body):
    """The one tool to call."""

    type: Literal["function"]
    function: NamedFunction


class JsonShape(Body):
    """A JSON Schema with a name."""

    name: Name
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    strict: bool | None = None


class Format(Body):
    """The form of the answer."""

    type: Literal["text", "json_object"]


class JsonFormat(Body):
    """An answer by a schema."""

    type: Literal["json_schema"]
    json_schema: JsonShape


Stop = Annotated[str, Field(min_length=1, max_length=500)]


class Streams(Body):
    """The fields of all routes."""

    model: str = Field(min_length=1, max_length=300)
    stream: bool | None = None
    stream_options: Annotated[StreamOptions | None, Needs("stream")] = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), WHOLE] | None = None
    user: str | None = Field(None, max_length=1000)
    ponder: Ponder | None = None


class Common(Streams):
    """The fields of the routes of completions."""

    n: Annotated[int, Field(ge=1, le=128), WHOLE] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: Biases | None = None

    @property
    def stops(self) -> list[str]:
        """The stop texts."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class Chat(Common):
    """POST /v1/chat/completions."""

    messages: list[Turn] = Field(min_length=1, max_length=2000)
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Annotated[int, Field(ge=0, le=20), WHOLE] | None, Needs("logprobs")] = None
    tools: list[ToolShape] | None = Field(None, max_length=128)
    tool_choice: Annotated[Literal["none", "auto", "required"] | ToolChoice | None, Needs("tools", ("none", "auto"))] = None
    parallel_tool_calls: bool | None = None
    response_format: Annotated[Format | JsonFormat, Field(discriminator="type")] | None = None
    reasoning_effort: Effort | None = None
    metadata: Labels | None = None
    modalities: list[Literal["text"]] | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority"] | None = None
    safety_identifier: str | None = Field(None, max_length=1000)
    prompt_cache_key: str | None = Field(None, max_length=1000)
    verbosity: Literal["low", "medium", "high"] | None = None


class Completion(Common):
    """POST /v1/completions: goes on from a text."""

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=32)]
    )
    logprobs: Annotated[int, Field(ge=0, le=5), WHOLE] | None = None
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = None
    echo: Off | None = None
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts to go on from."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def read(data: bytes, shape: type[B]) -> B:
    """A request's body, checked. Raises `Refusal` (400) with the field at fault."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES and _values(data) > MOST_VALUES:
        raise Refusal(400, f"the body holds more than {MOST_VALUES} values", code="invalid_json")
    try:
        body = from_json(data, allow_inf_nan=False, cache_strings="none")
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise Refusal(400, f"the body must be a JSON object, not {_kind(body)}", code="invalid_json")
    if data.count(b"[") + data.count(b"{") > DEEPEST and _deeper(body, DEEPEST):
        raise Refusal(400, f"the body is nested deeper than {DEEPEST} levels", code="invalid_json")
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        raise _refusal(error, body, shape) from None


def _values(data: bytes) -> int:
    """How many values stand in JSON, those that are empty twice, without building any: what separates them, outside of texts."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BETWEEN)
    quotes = bare.count(b'"')
    return quotes // 4 if quotes > 4 * MOST_VALUES else sum(map(len, bare.split(b'"')[::2]))  # a field of text has four


def _deeper(body: object, most: int) -> bool:
    """Whether a value has more than so many levels, without recursion."""
    level: list[object] = [body]
    for _ in range(most):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _refusal(error: ValidationError, body: object, shape: type[Body]) -> Refusal:
    """The fault, with its place as a path in the body; names of alternatives that pydantic puts into the path are left out."""
    faults = error.errors(include_url=False, include_context=False)
    same = [
        fault for fault in faults if fault["loc"][:1] == faults[0]["loc"][:1]
    ]  # of alternatives, the one that was nearly right
    fault = max(same, key=lambda fault: (not fault["type"].endswith("_type"), len(fault["loc"])))
    at, path = body, ""
    for part in fault["loc"]:
        if isinstance(part, int) and isinstance(at, list) and part < len(at):
            at, path = at[part], f"{path}[{part}]"
        elif isinstance(at, dict) and (part in at or (fault["type"] == "missing" and part == fault["loc"][-1])):
            at, path = at.get(part), f"{path}.{_shown(str(part))}" if path else _shown(str(part))
    if fault["type"] == "missing":
        return Refusal(400, f"{path}: is missing", code="missing_required_parameter", param=path)
    if fault["type"] == "extra_forbidden":
        close = (
            difflib.get_close_matches(str(fault["loc"][-1])[:100], list(shape.model_fields), n=1)
            if len(fault["loc"]) == 1
            else []
        )
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return Refusal(400, f"{path}: there is no such field here{hint}", code="unknown_parameter", param=path)
    code = "invalid_type" if fault["type"].endswith("_type") else "invalid_value"
    return Refusal(400, f"{path}: {fault['msg'].removeprefix('Value error, ')}", code=code, param=path or None)


def _shown(key: str) -> str:
    return key if len(key) <= 100 else f"{key[:100]}..."


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
