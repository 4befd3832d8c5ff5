"""What may be asked for: every field, every limit, checked before anything is built from it.

Unknown fields are refused (400, with the nearest name): a misspelt one must not be silently without effect. Fields that OpenAI has and
that mean nothing here (`store`, `metadata`, `user` ...) are accepted and ignored; those that would change the answer and cannot be
honoured (`functions`, `audio`, `prediction` ...) are unknown. A field that says nothing without another one (`top_logprobs` without
`logprobs`) is refused, as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import CoreSchema
from pydantic_core.core_schema import with_info_after_validator_function


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
Data = Annotated[str, Field(pattern=r"^data:image/[a-z0-9.+-]{1,40};base64,[A-Za-z0-9+/]+={0,2}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh"]


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

    url: Data
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


_SAYS: list[JsonValue] = [
    {"required": [name], "properties": {name: {"not": {"type": "null"}}}} for name in ("content", "refusal", "tool_calls")
]


class Assistant(Body):
    """A turn of the assistant, which says or calls something. `reasoning_content` is what it thought, which is not sent on."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _SAYS})

    role: Literal["assistant"]
    content: str | Annotated[list[Text], Field(min_length=1)] | None = None
    name: Name | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _check(self) -> Assistant:
        if self.content is None and self.refusal is None and self.tool_calls is None:
            raise ValueError("has neither content nor tool_calls")
        return self


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
