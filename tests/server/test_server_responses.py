"""/v1/responses against /v1/chat/completions: one path, two forms. What they look like is in the conformance list."""

from __future__ import annotations

import json

import conformance
import pytest
from served import Served

from ponder.server import reading
from ponder.server.answer import Head
from ponder.server.asked import of_chat
from ponder.server.config import Config
from ponder.server.events import Events
from ponder.server.models import Models
from ponder.server.responses import Respond, of_response
from ponder.server.schema import Chat
from ponder.testing.endpoint import Fault, FaultKind

pytestmark = pytest.mark.slow
STRATEGIES = {"sc": "self_consistency(n=8)", "sure": "rejection(n=2, verifier=confidence(), threshold=1.0, otherwise='abstain')"}


FUNCTION = {"name": "answer", "description": "Give it.", "parameters": {"type": "object"}, "strict": True}


@pytest.fixture
def served(endpoint):
    with Served(Config(policy=endpoint.url, strategies=STRATEGIES)) as one:
        yield one


def respond(served, asked="ECHO: hello", model="fake", **more):
    headers = more.pop("headers", None)
    return served.call("POST", "/v1/responses", {"model": model, "input": asked, **more}, headers)


def texts(response):
    """What a response says, by the kind of its items."""
    return {item["type"]: item["content"][0].get("text") or item["content"][0].get("refusal") for item in response["output"]}


@pytest.mark.parametrize("model", ["fake", "fake+sc"])
def test_answer_and_usage_are_those_of_a_chat_with_the_same_seed(served, endpoint, model):
    endpoint.reset()
    chat = served.chat("QUESTION: 3+4", model, seed=5, max_completion_tokens=300).json
    counted = endpoint.stats().completion_tokens
    endpoint.reset()
    got = respond(served, "QUESTION: 3+4", model, seed=5, max_output_tokens=300).json
    streamed = respond(served, "QUESTION: 3+4", model, seed=5, max_output_tokens=300, stream=True).events[-1]["response"]
    assert endpoint.stats().completion_tokens == 2 * counted
    assert texts(got)["message"] == texts(streamed)["message"] == chat["choices"][0]["message"]["content"]
    usage = chat["usage"]
    for one in (got, streamed):
        assert one["usage"] == {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": usage["prompt_tokens_details"],
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": usage["completion_tokens_details"],
            "total_tokens": usage["total_tokens"],
        }
        assert {**one["ponder"], "seconds": 0} == {**chat["ponder"], "seconds": 0}


def test_instructions_are_the_first_message(served):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ECHO: x"}]
    chat = served.call("POST", "/v1/chat/completions", {"model": "fake", "messages": turns}).json
    got = respond(served, "ECHO: x", instructions="Be brief.").json
    assert (
        got["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"] > respond(served, "ECHO: x").json["usage"]["input_tokens"]
    )


@pytest.mark.parametrize("dialect", ["reasoning", "think_tags"])
def test_thoughts_are_an_item_of_their_own_before_the_answer(served, endpoint, dialect):
    endpoint.configure(dialect=dialect)
    whole = respond(served, "QUESTION: 1+2", seed=5).json
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    assert texts(whole)["reasoning"].startswith("Step 1")
    assert texts(whole)["message"].startswith("The answer is")
    assert 0 < whole["usage"]["output_tokens_details"]["reasoning_tokens"] < whole["usage"]["output_tokens"]
    streamed = respond(served, "QUESTION: 1+2", seed=5, stream=True).events[-1]["response"]
    assert [item["type"] for item in streamed["output"]] == ["reasoning", "message"]
    assert texts(streamed)["message"] == texts(whole)["message"]
    assert texts(streamed)["reasoning"].strip("\n") == texts(whole)["reasoning"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_cut_while_it_was_thought_over_holds_no_message(served, endpoint, stream):
    endpoint.configure(dialect="reasoning")
    got = respond(served, "QUESTION: 1+2", seed=5, max_output_tokens=3, stream=stream)
    response = got.events[-1]["response"] if stream else got.json
    assert [item["type"] for item in response["output"]] == ["reasoning"]
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_a_strategy_that_abstains_refuses(served, stream):
    got = respond(served, "QUESTION: 1+2", "fake+sure", stream=stream, ponder={"progress": False})
    response = got.events[-1]["response"] if stream else got.json
    [item] = response["output"]
    assert [part["type"] for part in item["content"]] == ["refusal"]
    assert item["content"][0]["refusal"].startswith("No answer")
    assert response["status"] == "completed"
    if stream:
        assert "response.refusal.delta" in [event["type"] for event in got.events]


def test_what_fails_upstream_is_said_in_the_form_of_the_route(served, endpoint):
    endpoint.configure(faults=(Fault(FaultKind.TRUNCATED_STREAM, at=(0,)),))
    endpoint.reset()
    *_, error, failed = respond(served, "ECHO: aaaa bbb ccc ddd", stream=True).events
    assert (error["type"], error["code"], failed["type"]) == ("error", "engine_failed", "response.failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert failed["sequence_number"] == error["sequence_number"] + 1
    endpoint.configure(faults=(), latency=0.1)
    late = respond(served, headers={"Ponder-Deadline": "0.02"})
    assert (late.status, late.error["code"]) == (408, "deadline_exceeded")


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort"),
    ],
)
def test_what_the_engine_cannot_do_is_named_as_this_route_names_it(asked, param):
    with Served(Config(policy="maze(0.6, 4)")) as served:
        got = respond(served, "go", served.server.engine.models.upstream, **asked)
        assert (got.status, got.error["code"], got.error["param"]) == (400, "unsupported_by_engine", param)
        assert got.error["message"].startswith(f"{param}: ")
        *_, error, failed = respond(served, "go", served.server.engine.models.upstream, stream=True, **asked).events
        assert (error["param"], failed["response"]["error"]["code"]) == (param, "invalid_prompt")


def test_requests_are_counted_by_their_route(served):
    respond(served)
    respond(served, model="gpt-9")
    text = served.call("GET", "/metrics").text
    assert 'ponder_requests_total{route="responses",status="200"} 1.0' in text
    assert 'ponder_requests_total{route="responses",status="404"} 1.0' in text


def test_the_checker_of_the_conformance_list_sees_a_gap_in_the_numbers():
    events = [{"type": "response.created", "sequence_number": 0}, {"type": "response.completed", "sequence_number": 2}]
    assert conformance.said(events)["0"]["numbers"] is False
    assert conformance.said(events)["0"]["kinds"] == ["created", "completed"]


@pytest.mark.parametrize("dialect", ["vllm", "reasoning"])
def test_the_official_clients_own_account_of_a_stream_is_the_response_that_ends_it(served, endpoint, dialect):
    openai = pytest.importorskip("openai")
    endpoint.configure(dialect=dialect)
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        with client.responses.stream(model="fake+sc", input="QUESTION: 1+2") as events:
            told = "".join(event.delta for event in events if event.type == "response.output_text.delta")
            response = events.get_final_response()
        assert response.output_text == told
        assert [item.type for item in response.output] == ["reasoning", "message"]
        again = [{"role": "user", "content": "QUESTION: 1+2"}, *response.output, {"role": "user", "content": "ECHO: and back"}]
        assert client.responses.create(model="fake", input=again).output_text.endswith("and back")


def read(shape, **body):
    return reading.read(json.dumps({"model": "fake", **body}).encode(), shape)


def test_functions_calls_and_what_they_gave_are_sent_on_as_a_chats():
    config = Config(policy="http://127.0.0.1:1/v1")
    call = {
        "type": "function_call",
        "call_id": "c1",
        "name": "answer",
        "arguments": '{"a": 1}',
        "id": "fc_1",
        "status": "completed",
    }
    respond = read(
        Respond,
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "Ask."},
            {"type": "reasoning", "summary": []},
            {"role": "assistant", "content": [{"type": "output_text", "text": "I will."}]},
            call,
            {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
            {**call, "call_id": "c3"},
            {"type": "function_call_output", "call_id": "c3", "output": ""},
        ],
        tools=[{"type": "function", **FUNCTION}],
        tool_choice={"type": "function", "name": "answer"},
        parallel_tool_calls=False,
        ponder={"vote": "name"},
    )
    calls = [{"id": f"c{at}", "type": "function", "function": {"name": "answer", "arguments": '{"a": 1}'}} for at in (1, 2, 3)]
    chat = read(
        Chat,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Ask."},
            {"role": "assistant", "content": "I will.", "tool_calls": calls[:2]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": None, "tool_calls": calls[2:]},
            {"role": "tool", "tool_call_id": "c3", "content": ""},
        ],
        tools=[{"type": "function", "function": FUNCTION}],
        tool_choice={"type": "function", "function": {"name": "answer"}},
        parallel_tool_calls=False,
        ponder={"vote": "name"},
    )
    one, other = of_response(respond, Models("fake", config), config), of_chat(chat, Models("fake", config), config)
    assert one.prompts == other.prompts
    assert one.fields == other.fields
    assert set(one.fields) == {"tools", "tool_choice", "parallel_tool_calls"}
    assert one.tools is other.tools is True
    called = '\n<tool_call>\n{"name": "answer", "arguments": {"a": 7}}\n</tool_call>'
    assert one.key(called) == other.key(called) == "answer"


@pytest.mark.parametrize("asked", [{"tool_choice": "auto", "parallel_tool_calls": True, "tools": []}, {"tool_choice": "none"}])
def test_without_functions_a_choice_among_them_is_not_sent_on(asked):
    config = Config(policy="http://127.0.0.1:1/v1")
    assert of_response(read(Respond, input="x", **asked), Models("fake", config), config).fields == {}


@pytest.mark.parametrize("model", ["fake", "fake+sc"])
def test_a_call_is_the_one_that_a_chat_with_the_same_seed_makes(served, endpoint, model):
    asked = "CALL TOOL\nQUESTION: 9+1"
    endpoint.reset()
    chat = served.chat(asked, model, seed=5, tools=[{"type": "function", "function": FUNCTION}]).json
    [wanted] = chat["choices"][0]["message"]["tool_calls"]
    for more in ({}, {"stream": True, "ponder": {"progress": False}}):
        endpoint.reset()
        got = respond(served, asked, model, seed=5, tools=[{"type": "function", **FUNCTION}], **more)
        [item] = (got.events[-1]["response"] if more else got.json)["output"]
        assert (item["type"], item["name"]) == ("function_call", "answer")
        assert item["arguments"] == wanted["function"]["arguments"]


def test_an_engine_without_tools_refuses_them_by_name():
    with Served(Config(policy="maze(0.6, 4)")) as served:
        tools = [{"type": "function", **FUNCTION}]
        got = respond(served, "go", served.server.engine.models.upstream, tools=tools)
        assert (got.status, got.error["code"], got.error["param"]) == (400, "unsupported_by_engine", "tools")


def test_a_call_that_is_cut_is_an_incomplete_item():
    _, _, added, *_, done, last = told([piece(0, "answer", '{"val')], "length")
    assert (added["item"]["status"], done["item"]["status"], done["item"]["arguments"]) == ("in_progress", "incomplete", '{"val')
    assert last["response"]["status"] == "incomplete"
    assert last["response"]["tools"] == [{"type": "function", **FUNCTION}]


def test_calls_that_are_written_in_turns_are_put_together():
    pieces = [
        piece(0, "first", '{"a"', id="call_a"), piece(1, "second", "", id="call_b"), piece(1, None, "{}"), piece(0, None, ": 1}"),
    ]  # fmt: skip
    events = told(pieces, "tool_calls", text="Both:")
    items = events[-1]["response"]["output"]
    assert [item["type"] for item in items] == ["message", "function_call", "function_call"]
    assert [(item.get("call_id"), item.get("name"), item.get("arguments")) for item in items[1:]] == [
        ("call_a", "first", '{"a": 1}'),
        ("call_b", "second", "{}"),
    ]
    assert conformance.said(events)["0"]["numbers"]
    for kind in ("added", "done"):
        found = [event for event in events if event["type"] == f"response.output_item.{kind}"]
        assert [event["output_index"] for event in found] == [0, 1, 2]
        assert [event["item"]["id"] for event in found] == [item["id"] for item in items]
    said = {}
    for event in events:
        if event["type"] == "response.function_call_arguments.delta":
            said[event["output_index"]] = said.get(event["output_index"], "") + event["delta"]
    assert said == {1: '{"a": 1}', 2: "{}"}
    dones = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [(event["name"], event["arguments"]) for event in dones] == [("first", '{"a": 1}'), ("second", "{}")]


def test_text_after_a_call_is_an_item_of_its_own():
    events = told([piece(0, "first", "{}")], "stop", after="Done.")
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["function_call", "message"]


def piece(index, name, arguments, **more):
    return {"index": index, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def told(pieces, finish, text="", after=""):
    """The events of a response that is made of these pieces of calls."""
    body = read(Respond, input="x", tools=[{"type": "function", **FUNCTION}])
    events = Events(Head("resp_1", 1, "fake", "fp"), body)
    counted = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    usage = {**counted, "prompt_tokens_details": {}, "completion_tokens_details": {}}
    data = [
        events.piece(0, {"role": "assistant", "content": ""}),
        events.piece(0, {"content": text}),
        *(events.piece(0, {"tool_calls": [one]}) for one in pieces),
        events.piece(0, {"content": after}),
        events.piece(0, {}, None, finish),
        events.usage(usage, {}),
    ]
    lines = b"".join(data).decode().split("\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize("model", ["fake", "fake+sc"])
def test_the_official_client_reads_calls_and_sends_back_what_they_gave(served, model):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=0) as client:
        asked = [{"role": "user", "content": "CALL TOOL\nQUESTION: 1+2"}]
        tools = [{"type": "function", **FUNCTION}]
        with client.responses.stream(model=model, input=asked, tools=tools) as events:
            given = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
            response = events.get_final_response()
        call = response.output[-1]
        assert (call.type, call.name, call.arguments) == ("function_call", "answer", given)
        gave = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
        again = client.responses.create(model=model, input=[*asked, *response.output, gave], tools=tools, tool_choice="none")
        assert again.output[-1].type == "message"
