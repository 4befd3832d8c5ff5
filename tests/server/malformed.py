"""Requests that make no sense, each with the status and the code it must get: what strangers, broken clients and attackers send."""

from __future__ import annotations

import json
from typing import NamedTuple

CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
HELLO = [{"role": "user", "content": "ECHO: x"}]


class Malformed(NamedTuple):
    """One request. body: bytes as they are, or something to be sent as JSON. A header of None is not sent."""

    name: str
    status: int
    code: str
    body: object
    param: str | None = None
    path: str = CHAT
    method: str = "POST"
    headers: dict[str, str | None] = {}  # noqa: RUF012  # never changed


def chat(name, code, param, status=400, **fields):
    """A chat request that would be fine without these fields; a field of ... is left out."""
    body = {"model": "fake", "messages": HELLO, **fields}
    return Malformed(name, status, code, {key: value for key, value in body.items() if value is not ...}, param)


def text(name, code, param, **fields):
    body = {"model": "fake", "prompt": "ECHO: x", **fields}
    return Malformed(name, 400, code, {key: value for key, value in body.items() if value is not ...}, param, path=TEXT)


def response(name, code, param, status=400, **fields):
    body = {"model": "fake", "input": "ECHO: x", **fields}
    return Malformed(name, status, code, {key: value for key, value in body.items() if value is not ...}, param, path=RESPONSES)


def item(name, code, param, *items):
    return response(name, code, param, input=list(items))


def turn(name, code, param, *turns):
    return chat(name, code, param, messages=list(turns))


def spec(name, words):
    return chat(name, "invalid_strategy", "ponder.strategy", ponder={"strategy": words})


def raw(name, body, status=400, code="invalid_json", **more):
    return Malformed(name, status, code, body, **more)


_GOOD = json.dumps({"model": "fake", "messages": HELLO}).encode()
_DEEP = {"a": None}
for _ in range(70):
    _DEEP = {"a": _DEEP}

CASES = [
    # Bodies.
    raw("no body", b""),
    raw("white space", b"  \n "),
    raw("not JSON", b"hello"),
    raw("half a body", _GOOD[: len(_GOOD) // 2]),
    raw("two bodies", _GOOD + _GOOD),
    raw("a trailing comma", b'{"model": "fake",}'),
    raw("single quotes", b"{'model': 'fake'}"),
    raw("a form", b"model=fake&messages=x"),
    raw("an array", b"[]"),
    raw("a string", b'"model"'),
    raw("a number", b"1"),
    raw("null", b"null"),
    raw("NaN", b'{"model": "fake", "messages": [], "temperature": NaN}'),
    raw("Infinity", b'{"model": "fake", "messages": [], "temperature": Infinity}'),
    raw("bytes that are no UTF-8", b'{"model": "\xff\xfe"}'),
    raw("UTF-16", '{"model": "fake"}'.encode("utf-16")),
    raw("a lone surrogate", b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}'),
    raw("a byte order mark", b"\xef\xbb\xbf" + _GOOD),
    raw("a field twice", b'{"model": "gpt-9", "model": "fake", "messages": [{"role": "user", "content": "x"}]}'),
    raw("a field twice in a message", b'{"model": "fake", "messages": [{"role": "user", "role": "system", "content": "x"}]}'),
    raw("a bare control character", b'{"model": "fa\nke"}'),
    raw("100,000 brackets", b"[" * 100_000),
    raw("100,000 braces", b'{"a":' * 100_000),
    raw("a schema of 70 levels", {"model": "fake", "messages": HELLO, "tools": [{"type": "function", "function": {"name": "f", "parameters": _DEEP}}]}),
    raw("a number of 5,000 digits", b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "n": ' + b"9" * 5000 + b"}"),
    raw("a million values in a message", b'{"model": "fake", "messages": [{"role": "user", "content": [' + b"1," * 10**6 + b"1]}]}"),
    raw("a hundred thousand parts", {"model": "fake", "messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 100_000}]}),
    raw("a hundred thousand fields", {"model": "fake", "messages": HELLO, **{f"field{n}": 1 for n in range(100_000)}}),
    raw("a hundred thousand fields in a message", {"model": "fake", "messages": [{"role": "user", **{f"field{n}": 1 for n in range(100_000)}}]}),
    # Headers, methods, paths.
    raw("no content type", _GOOD, 415, "unsupported_media_type", headers={"Content-Type": None}),
    raw("a form's content type", _GOOD, 415, "unsupported_media_type", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    raw("a page's simple request", _GOOD, 415, "unsupported_media_type", headers={"Content-Type": "text/plain"}),
    raw("a compressed body", _GOOD, 415, "unsupported_media_type", headers={"Content-Encoding": "gzip"}),
    raw("a body that is too large", b'{"model": "' + b"x" * 9_000_000 + b'"}', 413, "body_too_large"),
    raw("another Host", _GOOD, 403, "host_refused", headers={"Host": "evil.example"}),
    raw("a Host with a user", _GOOD, 403, "host_refused", headers={"Host": "127.0.0.1@evil.example"}),
    raw("another port in Host", _GOOD, 403, "host_refused", headers={"Host": "127.0.0.1:1"}),
    raw("a Host with a dot at its end", _GOOD, 403, "host_refused", headers={"Host": "localhost."}),
    raw("a page of elsewhere", _GOOD, 403, "origin_refused", headers={"Origin": "https://evil.example"}),
    raw("a page without an origin", _GOOD, 403, "origin_refused", headers={"Origin": "null"}),
    raw("a request from another site", _GOOD, 403, "origin_refused", headers={"Sec-Fetch-Site": "cross-site"}),
    raw("a deadline that is no number", _GOOD, 400, "invalid_value", param="Ponder-Deadline", headers={"Ponder-Deadline": "soon"}),
    raw("a deadline that is over", _GOOD, 400, "invalid_value", param="Ponder-Deadline", headers={"Ponder-Deadline": "-1"}),
    raw("an endless deadline", _GOOD, 400, "invalid_value", param="Ponder-Deadline", headers={"Ponder-Deadline": "inf"}),
    raw("a deadline of NaN", _GOOD, 400, "invalid_value", param="Ponder-Deadline", headers={"Ponder-Deadline": "nan"}),
    raw("GET where POST is meant", None, 405, "not_found", method="GET"),
    raw("PUT", _GOOD, 405, "not_found", method="PUT"),
    raw("no such path", _GOOD, 404, "not_found", path="/v1/embeddings"),
    raw("a slash at the end", _GOOD, 404, "not_found", path="/v1/chat/completions/"),
    raw("without /v1", _GOOD, 404, "not_found", path="/chat/completions"),
    raw("a path that climbs", None, 404, "not_found", path="/v1/../etc/passwd", method="GET"),
    # The model.
    chat("no model", "missing_required_parameter", "model", model=...),
    chat("an empty model", "invalid_value", "model", model=""),
    chat("a model of null", "invalid_type", "model", model=None),
    chat("a model that is a number", "invalid_type", "model", model=1),
    chat("an unknown model", "model_not_found", "model", 404, model="gpt-9"),
    chat("a strategy that is not served", "model_not_found", "model", 404, model="fake+mcts"),
    chat("another model with a strategy", "model_not_found", "model", 404, model="other+sc"),
    chat("a model that is an address", "model_not_found", "model", 404, model="http://127.0.0.1:1/v1"),
    chat("a model of 1,000 letters", "invalid_value", "model", model="m" * 1000),
    # Messages.
    chat("no messages", "missing_required_parameter", "messages", messages=...),
    chat("messages of null", "invalid_type", "messages", messages=None),
    chat("messages that are a string", "invalid_type", "messages", messages="hi"),
    chat("an empty list of messages", "invalid_value", "messages", messages=[]),
    chat("2,001 messages", "invalid_value", "messages", messages=HELLO * 2001),
    turn("a message that is a string", "invalid_type", "messages[0]", "hi"),
    turn("a message of null", "invalid_type", "messages[0]", None),
    turn("a message without a role", "invalid_value", "messages[0]", {"content": "x"}),
    turn("an unknown role", "invalid_value", "messages[0]", {"role": "robot", "content": "x"}),
    turn("a role of null", "invalid_value", "messages[0]", {"role": None, "content": "x"}),
    turn("a function's role", "invalid_value", "messages[0]", {"role": "function", "name": "f", "content": "x"}),
    turn("a message without content", "missing_required_parameter", "messages[0].content", {"role": "user"}),
    turn("content of null", "invalid_type", "messages[0].content", {"role": "user", "content": None}),
    turn("content that is a number", "invalid_type", "messages[0].content", {"role": "user", "content": 7}),
    turn("content that is an object", "invalid_type", "messages[0].content", {"role": "user", "content": {"text": "x"}}),
    turn("content without parts", "invalid_value", "messages[0].content", {"role": "user", "content": []}),
    turn("a part of unknown kind", "invalid_value", "messages[0].content[0]", {"role": "user", "content": [{"type": "video"}]}),
    turn("a part without its text", "missing_required_parameter", "messages[0].content[0].text", {"role": "user", "content": [{"type": "text"}]}),
    turn(
        "a picture by address", "invalid_value", "messages[0].content[0].image_url.url",
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest"}}]},
    ),
    turn(
        "a picture from a file", "invalid_value", "messages[0].content[0].image_url.url",
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]},
    ),
    turn("a field that messages do not have", "unknown_parameter", "messages[0].colour", {"role": "user", "content": "x", "colour": "red"}),
    turn("a tool's answer to nothing", "missing_required_parameter", "messages[0].tool_call_id", {"role": "tool", "content": "x"}),
    turn(
        "a call whose arguments are an object", "invalid_type", "messages[0].tool_calls[0].function.arguments",
        {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": {}}}]},
    ),
    turn("a picture that is no base64", "invalid_value", "messages[0].content[0].image_url.url", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,<svg>"}}]}),
    turn("an empty picture", "invalid_value", "messages[0].content[0].image_url.url", {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}),
    turn("an assistant who says nothing", "invalid_value", "messages[1]", *HELLO, {"role": "assistant", "content": None}),
    turn("a name with a space", "invalid_value", "messages[0].name", {"role": "user", "content": "x", "name": "a b"}),
    # Numbers and lists.
    chat("n = 0", "invalid_value", "n", n=0),
    chat("n = -1", "invalid_value", "n", n=-1),
    chat("n = 129", "invalid_value", "n", n=129),
    chat("n = a million", "invalid_value", "n", n=10**6),
    chat("n = 10^30", "invalid_value", "n", n=10**30),
    chat("n = 1.5", "invalid_type", "n", n=1.5),
    chat("n as text", "invalid_type", "n", n="3"),
    chat("n = true", "invalid_type", "n", n=True),
    chat("a temperature as text", "invalid_type", "temperature", temperature="1"),
    chat("a temperature below 0", "invalid_value", "temperature", temperature=-0.1),
    chat("a temperature above 2", "invalid_value", "temperature", temperature=2.1),
    chat("top_p above 1", "invalid_value", "top_p", top_p=1.1),
    chat("top_k below 0", "invalid_value", "top_k", top_k=-1),
    chat("max_tokens = 0", "invalid_value", "max_tokens", max_tokens=0),
    chat("max_tokens below 0", "invalid_value", "max_tokens", max_tokens=-5),
    chat("too many max_tokens", "invalid_value", "max_tokens", max_tokens=10**9),
    chat("max_tokens = 10^400", "invalid_value", "max_tokens", max_tokens=10**400),
    chat("too many max_completion_tokens", "invalid_value", "max_completion_tokens", max_completion_tokens=10**9),
    chat("a seed that is text", "invalid_type", "seed", seed="x"),
    chat("a seed of 70 bits", "invalid_value", "seed", seed=2**70),
    chat("a penalty above 2", "invalid_value", "presence_penalty", presence_penalty=3),
    chat("a penalty below -2", "invalid_value", "frequency_penalty", frequency_penalty=-3),
    chat("five stop texts", "invalid_value", "stop", stop=list("abcde")),
    chat("an empty stop text", "invalid_value", "stop", stop=""),
    chat("a stop text of 10,000 letters", "invalid_value", "stop", stop="x" * 10_000),
    chat("a stop text that is a number", "invalid_type", "stop[0]", stop=[1]),
    chat("a bias on a word", "invalid_value", "logit_bias.word", logit_bias={"word": 1}),
    chat("a bias of 101", "invalid_value", "logit_bias.1", logit_bias={"1": 101}),
    chat("301 biases", "invalid_value", "logit_bias", logit_bias={str(n): 1 for n in range(301)}),
    chat("logprobs as a number", "invalid_type", "logprobs", logprobs=3),
    chat("21 top_logprobs", "invalid_value", "top_logprobs", top_logprobs=21),
    chat("stream as text", "invalid_type", "stream", stream="yes"),
    chat("stream_options that are a list", "invalid_type", "stream_options", stream_options=[]),
    chat("an unknown stream option", "unknown_parameter", "stream_options.include", stream_options={"include": True}),
    chat("17 metadata", "invalid_value", "metadata", metadata={str(n): "x" for n in range(17)}),
    chat("stream_options without a stream", "invalid_value", "stream_options", stream_options={"include_usage": True}),
    chat("top_logprobs without logprobs", "invalid_value", "top_logprobs", top_logprobs=2),
    chat("a call of any tool, and no tools", "invalid_value", "tool_choice", tool_choice="required"),
    chat("a call of one tool, and an empty list of tools", "invalid_value", "tool_choice", tools=[], tool_choice={"type": "function", "function": {"name": "f"}}),
    # Tools and formats.
    chat("tools that are an object", "invalid_type", "tools", tools={}),
    chat("129 tools", "invalid_value", "tools", tools=[{"type": "function", "function": {"name": f"f{n}"}} for n in range(129)]),
    chat("a tool without a name", "missing_required_parameter", "tools[0].function.name", tools=[{"type": "function", "function": {}}]),
    chat("a tool with a wrong name", "invalid_value", "tools[0].function.name", tools=[{"type": "function", "function": {"name": "a b"}}]),
    chat("a tool of another kind", "invalid_value", "tools[0].type", tools=[{"type": "web_search", "function": {"name": "f"}}]),
    chat("parameters that are a list", "invalid_type", "tools[0].function.parameters", tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]),
    chat("an unknown tool_choice", "invalid_value", "tool_choice", tool_choice="maybe"),
    chat("an unknown format", "invalid_value", "response_format", response_format={"type": "xml"}),
    chat("a schema without a name", "missing_required_parameter", "response_format.json_schema.name", response_format={"type": "json_schema", "json_schema": {}}),
    chat("functions of old", "unknown_parameter", "functions", functions=[]),
    chat("audio", "unknown_parameter", "audio", audio={"voice": "x"}),
    chat("another modality", "invalid_value", "modalities[0]", modalities=["audio"]),
    chat("an unknown field", "unknown_parameter", "temprature", temprature=1),
    chat("an unknown effort", "invalid_value", "reasoning_effort", reasoning_effort="huge"),
    chat("a field with a dangerous name", "unknown_parameter", "__proto__", **{"__proto__": {}}),
    # What a caller may say about strategies: never a policy, a path, an address, the operator's key.
    chat("ponder as text", "invalid_type", "ponder", ponder="sc"),
    chat("an unknown field of ponder", "unknown_parameter", "ponder.policy", ponder={"policy": "http://evil.example/v1"}),
    chat("a base_url", "unknown_parameter", "base_url", base_url="http://evil.example/v1"),
    chat("a budget of nothing", "invalid_value", "ponder.budget.samples", ponder={"budget": {"samples": 0}}),
    chat("a budget in roubles", "unknown_parameter", "ponder.budget.roubles", ponder={"budget": {"roubles": 1}}),
    chat("an empty strategy", "invalid_value", "ponder.strategy", ponder={"strategy": ""}),
    chat("a strategy of 1,000 letters", "invalid_value", "ponder.strategy", ponder={"strategy": "x" * 1000}),
    spec("an unknown strategy", "magic(n=3)"),
    spec("an unknown argument", "self_consistency(m=3)"),
    spec("an argument twice", "self_consistency(n=2, n=3)"),
    spec("n = 0 in a spec", "self_consistency(n=0)"),
    spec("n = 10^9 in a spec", "self_consistency(n=1000000000)"),
    spec("code", "__import__('os').system('id')"),
    spec("a lambda", "(lambda: 1)()"),
    spec("an attribute", "sample().__class__"),
    spec("a policy", "best_of_n(n=2, verifier=judge(policy=openai('http://evil.example/v1')))"),
    spec("a verifier with a path", "best_of_n(n=2, verifier=reward_model('/etc/passwd'))"),
    spec("the grader", "best_of_n(n=2, verifier=oracle())"),
    spec("a verifier that is not named here", "best_of_n(n=2, verifier=confidence)"),
    spec("a path as a prompt", "evolve(population=2, generations=1, verifier=sure, prompt=secret)"),
    spec("a path as a word", "beam(width=1, branch=1, verifier=sure, step='../secret')"),
    spec("a word without a name", "beam(1, 1, sure, 'secret')"),
    spec("a short form", "best_of_n:3"),
    spec("a tower of brackets", "(" * 200 + ")" * 200),
    spec("a sum", "self_consistency(n=1+1)"),
    spec("a card", "auto(card='/etc/passwd')"),
    # The completions route.
    text("no prompt", "missing_required_parameter", "prompt", prompt=...),
    text("an empty prompt", "invalid_value", "prompt", prompt=""),
    text("stream_options of a text without a stream", "invalid_value", "stream_options", stream_options={}),
    text("no prompts", "invalid_value", "prompt", prompt=[]),
    text("33 prompts", "invalid_value", "prompt", prompt=["x"] * 33),
    text("tokens as a prompt", "invalid_type", "prompt[0]", prompt=[1, 2, 3]),
    text("six logprobs", "invalid_value", "logprobs", logprobs=6),
    text("best_of", "invalid_value", "best_of", best_of=3),
    text("echo", "invalid_value", "echo", echo=True),
    text("a suffix", "invalid_value", "suffix", suffix="x"),
    text("messages on the wrong route", "unknown_parameter", "messages", messages=HELLO),
    # The responses route.
    response("no input", "missing_required_parameter", "input", input=...),
    response("input of null", "invalid_type", "input", input=None),
    response("an empty list of input", "invalid_value", "input", input=[]),
    response("2,000 messages of input", "invalid_value", "input", input=HELLO * 2000),
    response("a response of an unknown model", "model_not_found", "model", 404, model="gpt-9"),
    response("messages in place of input", "unknown_parameter", "messages", messages=HELLO),
    response("max_tokens of a response", "unknown_parameter", "max_tokens", max_tokens=5),
    response("max_output_tokens = 0", "invalid_value", "max_output_tokens", max_output_tokens=0),
    response("too many max_output_tokens", "invalid_value", "max_output_tokens", max_output_tokens=10**9),
    response("n of a response", "unknown_parameter", "n", n=2),
    response("instructions that are a list", "invalid_type", "instructions", instructions=[]),
    response("reasoning as text", "invalid_type", "reasoning", reasoning="low"),
    response("an unknown effort of reasoning", "invalid_value", "reasoning.effort", reasoning={"effort": "huge"}),
    response("a response that goes on from another", "invalid_value", "previous_response_id", previous_response_id="resp_1"),
    response("a response in a conversation", "invalid_value", "conversation", conversation={"id": "conv_1"}),
    response("a prompt that is kept elsewhere", "invalid_value", "prompt", prompt={"id": "pmpt_1"}),
    response("store", "invalid_value", "store", store=True),
    response("store as a number", "invalid_value", "store", store=0),
    response("a response that must call a function, and none is there", "invalid_value", "tool_choice", tool_choice="required"),
    response("background", "invalid_value", "background", background=True),
    response("a search of the web", "invalid_value", "tools[0]", tools=[{"type": "web_search"}]),
    response("a function as chat has it", "missing_required_parameter", "tools[0].name", tools=[{"type": "function", "function": {"name": "f"}}]),
    response("a function without a kind", "missing_required_parameter", "tools[0].type", tools=[{"name": "f"}]),
    response("129 functions", "invalid_value", "tools", tools=[{"type": "function", "name": "f"}] * 129),
    response("a tool that is text", "invalid_type", "tools[0]", tools=["f"]),
    response("a choice as chat has it", "missing_required_parameter", "tool_choice.name", tool_choice={"type": "function", "function": {"name": "f"}}),
    response("a choice among tools", "invalid_value", "tool_choice", tool_choice={"type": "allowed_tools", "mode": "auto", "tools": []}),
    item("a call without arguments", "missing_required_parameter", "input[0].arguments", {"type": "function_call", "call_id": "c", "name": "f"}),
    item("a call without an id", "missing_required_parameter", "input[0].call_id", {"type": "function_call", "name": "f", "arguments": ""}),
    item("what a call gave, and it is null", "invalid_type", "input[0].output", {"type": "function_call_output", "call_id": "c", "output": None}),
    item("129 calls in one turn", "invalid_value", "input", *[{"type": "function_call", "call_id": "c", "name": "f", "arguments": ""}] * 129),
    response("more to include", "invalid_value", "include", include=["reasoning.encrypted_content"]),
    response("input that may be cut", "invalid_value", "truncation", truncation="auto"),
    response("a format without its schema", "missing_required_parameter", "text.format.schema", text={"format": {"type": "json_schema", "name": "f"}}),
    response("a strategy that is not there for a response", "invalid_strategy", "ponder.strategy", ponder={"strategy": "magic"}),
    item("thoughts alone", "invalid_value", "input", {"type": "reasoning", "summary": []}),
    item("a picture of a response that is no base64", "invalid_value", "input[0].content[0].image_url", {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,<svg>"}]}),
    item("an item that is a string", "invalid_value", "input[0]", "hi"),
    item("an item of an unknown role", "invalid_value", "input[0]", {"role": "robot", "content": "x"}),
    item("a reference to an item", "invalid_value", "input[0]", {"type": "item_reference", "id": "msg_1"}),
    item("an item without content", "missing_required_parameter", "input[0].content", {"role": "user"}),
    item("an item with a file", "invalid_value", "input[0].content[0]", {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}),
    item(
        "a picture of a response by address", "invalid_value", "input[0].content[0].image_url",
        {"role": "user", "content": [{"type": "input_image", "image_url": "http://169.254.169.254/latest"}]},
    ),
]  # fmt: skip


def wire(name, code, lines, body=b"", status=400):
    """One that no client sends: the lines of its head as they are, HOST in place of the host's name, and what follows them."""
    return Wire(name, status, code, "\r\n".join([*lines, "", ""]).encode("latin-1") + body)


class Wire(NamedTuple):
    """Bytes, and what must come back."""

    name: str
    status: int
    code: str
    data: bytes


_GET = ["GET /v1/models HTTP/1.1", "Host: HOST"]
_POST = ["POST /v1/chat/completions HTTP/1.1", "Host: HOST", "Content-Type: application/json"]
_CHUNKED = [*_POST, "Transfer-Encoding: chunked"]
_CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"

WIRES = [
    wire("no HTTP at all", "invalid_http", ["\x00\xff\xfe\x00"]),
    wire("the beginning of TLS", "invalid_http", ["\x16\x03\x01\x02\x00\x01\x00\x01"]),
    wire("HTTP/0.9", "invalid_http", ["GET /v1/models"]),
    wire("HTTP/2 without asking", "invalid_http", ["PRI * HTTP/2.0"], b"SM\r\n\r\n"),
    wire("HTTP/9.9", "invalid_http", ["GET /v1/models HTTP/9.9", "Host: HOST"]),
    wire("another protocol", "invalid_http", ["GET /v1/models HTCPCP/1.0", "Host: HOST"]),
    wire("no Host", "invalid_http", ["GET /v1/models HTTP/1.1"]),
    wire("no Host, as HTTP/1.0 allows", "host_refused", ["GET /v1/models HTTP/1.0"], status=403),
    wire("two Hosts", "invalid_http", [*_GET, "Host: evil.example"]),
    wire("an address in place of a path", "invalid_api_key", ["GET http://evil.example/v1/models HTTP/1.1", "Host: HOST"], status=401),
    wire("a header without a colon", "invalid_http", [*_GET, "nonsense"]),
    wire("a header with a space in its name", "invalid_http", [*_GET, "X Y: z"]),
    wire("a header with a NUL", "invalid_http", [*_GET, "X: a\x00b"]),
    wire("a header with half a line break", "invalid_http", [*_GET, "X: a\rHost: evil.example"]),
    wire("a header of 70,000 letters", "head_too_large", [*_GET, "X: " + "a" * 70_000], status=431),
    wire("20,000 headers", "head_too_large", [*_GET, *[f"X-{n}: a" for n in range(20_000)]], status=431),
    wire("an address of 70,000 letters", "head_too_large", [f"GET /{'a' * 70_000} HTTP/1.1", "Host: HOST"], status=431),
    wire("a length below 0", "invalid_http", [*_POST, "Content-Length: -1"], b"{}"),
    wire("a length with a sign", "invalid_http", [*_POST, "Content-Length: +2"], b"{}"),
    wire("a length in hexadecimal", "invalid_http", [*_POST, "Content-Length: 0x2"], b"{}"),
    wire("a length of 30 digits", "invalid_http", [*_POST, f"Content-Length: {'9' * 30}"], b"{}"),
    wire("two lengths", "invalid_http", [*_POST, "Content-Length: 2", "Content-Length: 3"], b"{}"),
    wire("a list of lengths", "invalid_http", [*_POST, "Content-Length: 2, 3"], b"{}"),
    wire("a length beside chunks", "invalid_http", [*_CHUNKED, "Content-Length: 3"], _CHUNKS),
    wire("another coding of the transfer", "invalid_http", [*_POST, "Transfer-Encoding: gzip, chunked"], _CHUNKS),
    wire("chunks announced twice", "invalid_http", [*_CHUNKED, "Transfer-Encoding: chunked"], _CHUNKS),
    wire("chunks announced in disguise", "invalid_http", [*_POST, "Transfer-Encoding: \x0bchunked"], _CHUNKS),
    wire("chunks announced with a space", "invalid_http", [*_POST, "Transfer-Encoding : chunked", "Content-Length: 2"], _CHUNKS),
]  # fmt: skip

BODIES = [
    wire("a chunk whose size is no number", "invalid_http", _CHUNKED, b"zz\r\n{}\r\n0\r\n\r\n"),
    wire("a chunk of size -1", "invalid_http", _CHUNKED, b"-1\r\n{}\r\n0\r\n\r\n"),
    wire("a chunk longer than it says", "invalid_http", _CHUNKED, b"2\r\n{}xx0\r\n\r\n"),
    wire("chunks of more than may be said", "body_too_large", _CHUNKED, (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 200, 413),
    wire("a body in pieces of a byte", "invalid_http", _CHUNKED, b"1\r\n \r\n" * 100_000),
    wire("a length of 9 GB", "body_too_large", [*_POST, "Content-Length: 9000000000"], b"{}", 413),
    wire("the same, asking first", "body_too_large", [*_POST, "Content-Length: 9000000000", "Expect: 100-continue"], status=413),
]
"""The same with a key, as bodies are read of those that have one."""
