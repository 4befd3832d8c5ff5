"""The description of the API: requests from the models that check them, replies from the types that make them."""

from __future__ import annotations

from functools import cache
from typing import cast

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from ponder.server import answer, events, responses, schema
from ponder.server.config import Config
from ponder.server.guard import SOONEST
from ponder.server.models import Models
from ponder.types import JSON

Object = dict[str, JSON]
_REF = "#/components/schemas/{model}"
_EVENT: Object = {
    "type": "object",
    "properties": {
        "data": {"type": "string", "description": "A chunk, an event or an error object, as JSON; at the end of chunks [DONE]."}
    },
}
_ERRORS = {
    "400": "The request makes no sense, or asks for what the engine cannot do.",
    "401": "No key, or an unknown one.",
    "403": "A Host or Origin that may not come in.",
    "404": "No such model.",
    "408": "The body did not come in time, or the request's deadline came before any answer.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
    "429": "No room, or the day's allowance is used up; Retry-After says when to come back.",
    "502": "The engine behind this server failed.",
    "503": "The server is being stopped, or cannot keep its record.",
}


def document(models: Models, config: Config) -> Object:
    """OpenAPI 3.1. The names of models and strategies are those served here; bounds are the operator's."""
    schemas = _schemas()
    for name in ("Chat", "Completion", "Respond"):
        properties = cast("dict[str, Object]", schemas[name]["properties"])
        properties["model"] = {"type": "string", "enum": cast("JSON", models.names)}
        for field, most in (
            ("n", config.limits.choices),
            ("max_tokens", config.limits.tokens),
            ("max_completion_tokens", config.limits.tokens),
            ("max_output_tokens", config.limits.tokens),
        ):
            if field in properties:
                properties[field] = {"anyOf": [{"type": "integer", "minimum": 1, "maximum": most}, {"type": "null"}]}
    served = cast("dict[str, Object]", schemas["Ponder"]["properties"])
    served["strategy"] = {
        "anyOf": [{"type": "string", "enum": cast("JSON", list(models.strategies))}, {"type": "null"}],
        "description": "A served strategy. A spec such as self_consistency(n=16) is taken, too.",
    }
    paths: Object = {
        "/v1/chat/completions": {"post": _generates("createChatCompletion", "Chat", "ChatObject")},
        "/v1/completions": {"post": _generates("createCompletion", "Completion", "TextObject")},
        "/v1/responses": {"post": _generates("createResponse", "Respond", "ResponseObject")},
        "/v1/models": {"get": _tells("listModels", "ModelList")},
        "/v1/models/{model}": {
            "get": {**_tells("retrieveModel", "ModelObject", "404"), "parameters": [_model_parameter(models)]}
        },
        "/health": {"get": _tells("health", "Health", "503")},
    }
    body: Object = {
        "openapi": "3.1.0",
        "info": {"title": "ponder", "version": "1", "description": "Test-time compute behind the OpenAI API."},
        "paths": paths,
        "components": {"schemas": cast("JSON", schemas)},
    }
    if config.keys:
        cast("Object", body["components"])["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        body["security"] = [{"key": []}]
    return body


def _schemas() -> dict[str, Object]:
    """A fresh copy of the parts that are the same everywhere."""
    import copy

    return copy.deepcopy(_fixed())


@cache
def _fixed() -> dict[str, Object]:
    shapes: tuple[type[schema.Body], ...] = (schema.Chat, schema.Completion, responses.Respond)
    _, requests = models_json_schema([(shape, "validation") for shape in shapes], ref_template=_REF)
    found = cast("dict[str, Object]", requests["$defs"])
    for kind in (answer.ChatObject, answer.TextObject, events.ResponseObject, answer.ModelList):
        one = TypeAdapter(kind).json_schema(ref_template=_REF, mode="serialization")
        for name, shape in {**one.pop("$defs", {}), kind.__name__: one}.items():
            if found.setdefault(name, shape) != shape:
                raise TypeError(f"two shapes are called {name}")
    found["Health"] = {
        "type": "object",
        "properties": {"status": {"enum": ["ok", "draining", "recording failed"]}},
        "required": ["status"],
    }
    words: JSON = {"type": ["string", "null"]}
    fields: Object = {"message": {"type": "string"}, "type": {"type": "string"}, "param": words, "code": words}
    inner: Object = {"type": "object", "properties": fields, "required": ["message", "type", "param", "code"]}
    found["Error"] = {"type": "object", "properties": {"error": inner}, "required": ["error"], "additionalProperties": False}
    return found


def _generates(name: str, body: str, reply: str) -> Object:
    """An operation that spends compute."""
    header: Object = {
        "name": "Ponder-Deadline",
        "in": "header",
        "description": "Seconds after which the best answer so far is given.",
        "schema": {"type": "number", "minimum": SOONEST},
    }
    content: Object = {"application/json": {"schema": _ref(reply)}, "text/event-stream": {"schema": _EVENT}}
    return {
        "operationId": name,
        "parameters": [header],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref(body)}}},
        "responses": {"200": {"description": "The answer.", "content": content}, **{code: _error(code) for code in _ERRORS}},
    }


def _tells(name: str, reply: str, *errors: str) -> Object:
    """An operation that costs nothing."""
    content: Object = {"application/json": {"schema": _ref(reply)}}
    ok: Object = {"description": "What was asked for.", "content": content}
    known = {code: _error(code) for code in ("401", "403", *errors)}
    if name == "health":
        return {"operationId": name, "security": [], "responses": {"200": ok, "403": known["403"], "503": ok}}
    return {"operationId": name, "responses": {"200": ok, **known}}


def _model_parameter(models: Models) -> Object:
    return {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "enum": cast("JSON", models.names)}}


def _error(code: str) -> Object:
    return {"description": _ERRORS[code], "content": {"application/json": {"schema": _ref("Error")}}}


def _ref(name: str) -> Object:
    return {"$ref": _REF.format(model=name)}
