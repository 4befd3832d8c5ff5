"""/v1/responses against /v1/chat/completions: one path, two forms. What they look like is in the conformance list."""

from __future__ import annotations

import conformance
import pytest
from served import Served

from ponder.server.config import Config
from ponder.testing.endpoint import FakeEndpoint, Fault, FaultKind

pytestmark = pytest.mark.slow
STRATEGIES = {"sc": "self_consistency(n=8)", "sure": "rejection(n=2, verifier=confidence(), threshold=1.0, otherwise='abstain')"}


@pytest.fixture(scope="module")
def running():
    with FakeEndpoint() as one:
        yield one


@pytest.fixture
def endpoint(running, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    running.configure(dialect="vllm", latency=0.0, token_latency=0.0, faults=())
    running.reset()
    return running


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
