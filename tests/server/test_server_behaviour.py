"""What the server does over time: clients that go away, full queues, deadlines, allowances, thoughts, faults upstream, an orderly end."""

from __future__ import annotations

import asyncio
import http.client
import inspect
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path

import conformance
import pytest
from served import Served, hang_up, opened, until

from ponder.cli.main import run_app
from ponder.cli.serve import _log
from ponder.errors import StoreError
from ponder.policies.openai import Passed
from ponder.policies.wire import messages_body
from ponder.server.config import Config
from ponder.server.record import Recorder
from ponder.store import Journal
from ponder.store.export import canonical
from ponder.testing.endpoint import Fault, FaultKind
from ponder.types import user

pytestmark = pytest.mark.slow
KEY = {"Authorization": f"Bearer {conformance.KEY}"}
SC = {"sc": "self_consistency(n=8)"}


def config(endpoint, **more):
    return Config(policy=endpoint.url, **{"strategies": SC, **more})


@pytest.mark.parametrize(
    "asked",
    [{"stream": True}, {}, {"stream": True, "n": 3}, {"model": "fake+sc"}, {"model": "fake+sc", "stream": True, "n": 2}],
    ids=["stream", "whole", "three streams", "search", "two streamed searches"],
)
def test_a_client_that_goes_away_takes_everything_upstream_with_it(endpoint, asked):
    with Served(config(endpoint)) as served:
        endpoint.configure(token_latency=0.2)
        endpoint.reset()
        connection = opened(served, **asked)
        until(lambda: endpoint.stats().live > 0)
        started, live = time.monotonic(), endpoint.stats().live
        hang_up(connection)
        until(lambda: endpoint.stats().live == 0 and served.server.gate.live == 0, 1.0)
        assert time.monotonic() - started < 1.0
        assert endpoint.stats().aborted == endpoint.stats().received >= live
        endpoint.configure(token_latency=0.0)
        assert served.chat().status == 200
        assert 'status="499"' in served.call("GET", "/metrics").text or asked.get("stream")


def test_a_client_that_goes_away_while_it_waits_leaves_the_queue(endpoint):
    with Served(config(endpoint, limits={"live": 1, "queue": 1})) as served:
        endpoint.configure(token_latency=0.2)
        first = opened(served, stream=True)
        until(lambda: served.server.gate.live == 1)
        second = opened(served)
        until(lambda: len(served.server.gate.waiting) == 1)
        hang_up(second)
        until(lambda: not served.server.gate.waiting, 1.0)
        hang_up(first)


def test_a_full_server_says_429_and_when_to_come_back(endpoint):
    with Served(config(endpoint, limits={"live": 1, "queue": 1})) as served:
        endpoint.configure(token_latency=0.2)
        first = opened(served, stream=True)
        until(lambda: served.server.gate.live == 1)
        second = opened(served, "ECHO: second")
        until(lambda: len(served.server.gate.waiting) == 1)
        got = served.chat()
        assert (got.status, got.error["type"], got.error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
        assert int(got.headers["retry-after"]) >= 1
        hang_up(first)
        assert json.loads(second.getresponse().read())["choices"][0]["message"]["content"] == "second"
        second.close()


def test_a_deadline_gives_the_best_so_far_or_says_that_there_is_none(endpoint):
    with Served(config(endpoint, strategies={"slow": "self_consistency(n=64, batch=1)"})) as served:
        endpoint.configure(latency=0.1)
        got = served.chat("ECHO: aaaa", "fake+slow", headers={"Ponder-Deadline": "0.7"})
        assert got.json["choices"][0]["message"]["content"] == "aaaa"
        assert got.json["ponder"]["exhausted"]
        assert 1 <= got.json["ponder"]["samples"] < 64
        late = served.chat(headers={"Ponder-Deadline": "0.02"})
        assert (late.status, late.error["code"], late.headers["x-should-retry"]) == (408, "deadline_exceeded", "false")


def test_a_stream_whose_time_is_over_has_been_cut(endpoint):
    with Served(config(endpoint)) as served:
        endpoint.configure(token_latency=0.05)
        got = served.chat("ECHO: " + "word " * 99, stream=True, headers={"Ponder-Deadline": "0.5"})
        said = conformance.said(got.events[:-1])["0"]
        assert said["content"].startswith("word")
        assert said["finish"] == ["length"]
        assert got.events[-1] == "[DONE]"


@pytest.mark.parametrize("dialect", ["reasoning", "think_tags"])
def test_thoughts_of_the_engine_come_as_reasoning_content(endpoint, dialect):
    endpoint.configure(dialect=dialect)
    with Served(config(endpoint)) as served:
        whole = served.chat("QUESTION: 1+2", seed=5).json
        message = whole["choices"][0]["message"]
        assert message["content"].startswith("The answer is")
        assert message["reasoning_content"].startswith("Step 1")
        assert 0 < whole["usage"]["completion_tokens_details"]["reasoning_tokens"] < whole["usage"]["completion_tokens"]
        streamed = conformance.said(served.chat("QUESTION: 1+2", seed=5, stream=True).events[:-1])["0"]
        assert streamed["content"] == message["content"]
        assert streamed["reasoning"].strip("\n") == message["reasoning_content"]
        search = conformance.said(served.chat("QUESTION: 1+2", "fake+sc", stream=True).events[:-1])["0"]
        assert search["content"].startswith("The answer is")
        assert "Step 1" in search["reasoning"]


@pytest.mark.parametrize("dialect", ["openai", "llamacpp", "ignores_n", "no_usage", "seeded_equal", "vllm_cpu"])
def test_usage_is_what_the_endpoint_counted_on_servers_of_all_kinds(endpoint, dialect):
    endpoint.configure(dialect=dialect)
    with Served(config(endpoint)) as served:
        for asked in ({}, {"stream": True, "stream_options": {"include_usage": True}}, {"model": "fake+sc"}, {"n": 3}):
            endpoint.reset()
            got = served.chat("QUESTION: 3+2", max_tokens=50, **asked)
            usage = got.events[-2]["usage"] if asked.get("stream") else got.json["usage"]
            assert usage["completion_tokens"] == endpoint.stats().completion_tokens
            assert usage["prompt_tokens"] >= endpoint.stats().prompt_tokens or dialect == "no_usage"


def test_what_fails_upstream_is_an_error_and_says_nothing_of_the_upstream(endpoint):
    with Served(config(endpoint)) as served:
        endpoint.configure(key="sk-the-operators-own")
        endpoint.reset()
        got = served.chat()
        assert (got.status, got.error["type"], got.error["code"]) == (502, "server_error", "engine_failed")
        assert "127.0.0.1" not in got.text
        assert "sk-" not in got.text
        assert any("RefusedError" in line for line in served.lines)
        streamed = served.chat(stream=True)
        assert streamed.status == 200
        assert streamed.events[-1]["error"]["code"] == "engine_failed"


def test_a_stream_that_breaks_upstream_is_not_begun_again(endpoint):
    with Served(config(endpoint)) as served:
        endpoint.configure(faults=(Fault(FaultKind.TRUNCATED_STREAM, at=(0,)),))
        endpoint.reset()
        got = served.chat("ECHO: aaaa bbb ccc ddd", stream=True)
        assert got.events[-1]["error"]["code"] == "engine_failed"
        assert endpoint.stats().received == 1
        endpoint.configure(faults=(Fault(FaultKind.UNAVAILABLE, at=(0,)),))  # before the first piece another try is fine
        endpoint.reset()
        got = served.chat("ECHO: aaaa bbb", stream=True)
        assert conformance.said(got.events[:-1])["0"]["content"] == "aaaa bbb"


def test_the_operators_key_goes_to_the_operators_engine_and_no_callers_key_does(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-operators-own")
    endpoint.configure(key="sk-the-operators-own")
    with Served(config(endpoint)) as served:
        assert served.chat(headers={"Authorization": "Bearer sk-a-callers"}).status == 200


def test_any_policy_can_be_served_and_says_what_it_cannot_take(endpoint):
    with Served(Config(policy="maze(0.6, 4)", strategies=SC)) as served:
        model = served.server.engine.models.upstream
        got = served.chat("go", model, max_tokens=10)
        assert got.json["choices"][0]["message"]["content"]
        streamed = conformance.said(served.chat("go", model, stream=True).events[:-1])["0"]
        assert streamed["content"]
        for more in (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            {"logit_bias": {"1": 1}},
            {"presence_penalty": 1.0},
        ):
            refused = served.chat("go", model, **more)
            assert (refused.status, refused.error["code"], refused.error["param"]) == (
                400,
                "unsupported_by_engine",
                next(iter(more)),
            )


def test_what_the_engine_cannot_do_is_said_before_anything_is_spent(endpoint):
    endpoint.configure(dialect="openai")  # it continues no partial answer
    with Served(config(endpoint, verifiers={"sure": "confidence"})) as served:
        endpoint.reset()
        got = served.chat(ponder={"strategy": "beam(width=2, branch=2, verifier=sure)"})
        assert (got.status, got.error["code"]) == (400, "unsupported_by_engine")
        assert "127.0.0.1" not in got.text
        assert endpoint.stats().received == 0


def test_every_registered_strategy_can_be_asked_for_by_a_caller(endpoint):
    needed = {"int": "2", "Verifier": "sure"}
    with Served(config(endpoint, verifiers={"sure": "confidence"})) as served:
        for entry in entry_points(group="ponder.strategies"):
            if entry.name == "auto":  # by the operator's card alone
                continue
            parameters = inspect.signature(entry.load()).parameters.values()
            asked = ", ".join(f"{one.name}={needed[one.annotation]}" for one in parameters if one.default is one.empty)
            spec = f"{entry.name}({asked})"
            got = served.chat("QUESTION: 1+1", ponder={"strategy": spec, "budget": {"samples": 8}})
            assert (got.status, got.json.get("ponder", {}).get("strategy")) == (200, spec), got.text
            assert got.json["ponder"]["samples"] <= 8


def test_no_reply_holds_an_address_of_the_operators(endpoint):
    strategies = {
        "secret": f"best_of_n(n=2, verifier=judge(policy=openai('{endpoint.url}'), prompt='genrm_cot@1', read='stated'))"
    }
    with Served(config(endpoint, strategies=strategies, verifiers={"mine": f"judge(policy=openai('{endpoint.url}'))"})) as served:
        got = served.chat("QUESTION: 1+1", "fake+secret")
        assert got.status == 200
        wrong = served.chat(ponder={"strategy": "best_of_n(n=0, verifier=mine)"})
        assert wrong.status == 400
        for text in (got.text, wrong.text, served.call("GET", "/openapi.json").text, served.call("GET", "/metrics").text):
            assert "127.0.0.1" not in text


def test_a_judges_tokens_are_in_the_usage_and_told_apart(endpoint):
    strategies = {"judged": "best_of_n(n=2, verifier=judge(prompt='genrm_cot@1', read='stated', max_tokens=30))"}
    with Served(config(endpoint, strategies=strategies)) as served:
        endpoint.reset()
        usage = served.chat("QUESTION: 4+2", "fake+judged").json["usage"]
        assert usage["completion_tokens"] == endpoint.stats().completion_tokens
        details = usage["completion_tokens_details"]
        assert 0 < details["verifier_tokens"] <= details["reasoning_tokens"]


def test_while_it_drains_it_takes_nothing_new(endpoint):
    with Served(config(endpoint)) as served:
        served.server.draining = True
        got, health = served.chat(), served.call("GET", "/health")
        assert (got.status, got.error["code"]) == (503, "shutting_down")
        assert (health.status, health.json) == (503, {"status": "draining"})
        assert served.call("GET", "/v1/models").status == 200


def test_what_is_not_over_when_the_drain_is_gets_503(endpoint):
    with Served(config(endpoint, drain=0)) as served:
        endpoint.configure(latency=60)
        connection = opened(served)
        until(lambda: served.server.gate.live == 1)
        served.server.draining = served.listener.should_exit = True
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (503, "shutting_down")
        connection.close()


def test_what_is_sent_on_is_part_of_the_fingerprint_and_plain_messages_are_not(endpoint):
    with Served(config(endpoint)) as served:
        policy, prompt = served.server.engine.policy, (user("hi"),)
        plain = policy.passing(Passed(prompt, tuple(messages_body(prompt)), {}))
        assert plain.info == policy.info  # served traffic and studies of the same model share their samples
        others = [
            Passed(prompt, tuple(messages_body(prompt)), {"tools": []}),
            Passed(prompt, tuple(messages_body(prompt)), {"logit_bias": {"1": 1}}),
            Passed(prompt, ({"role": "user", "content": "hi", "name": "ann"},), {}),
            Passed(prompt, "hi", {}),
        ]
        assert len({policy.info.fingerprint, *(policy.passing(one).info.fingerprint for one in others)}) == 5
        assert policy.limiter.limit == policy.limiter.limits.concurrency  # no slow start behind our own queue


def test_metrics_count_what_was_done(endpoint):
    with Served(config(endpoint)) as served:
        served.chat("ECHO: aaaa bbb", "fake+sc")
        served.chat(model="gpt-9")
        text = served.call("GET", "/metrics").text
        for line in (
            'ponder_requests_total{route="chat",status="200"} 1.0',
            'ponder_requests_total{route="chat",status="404"} 1.0',
            'ponder_strategy_total{strategy="sc"} 1.0',
            'ponder_tokens_total{kind="completion"} 16.0',
            "ponder_samples_total 8.0",
            "ponder_live 0.0",
            "ponder_waiting 0.0",
        ):
            assert line in text


def test_a_page_of_a_listed_origin_may_ask_first(endpoint):
    with Served(config(endpoint, origins=("https://app.example",))) as served:
        origin = {"Origin": "https://app.example"}
        asked = served.call("OPTIONS", "/v1/chat/completions", headers={**origin, "Access-Control-Request-Method": "POST"})
        assert asked.headers["access-control-allow-origin"] == "https://app.example"
        assert served.chat(headers=origin).headers["access-control-allow-origin"] == "https://app.example"
        assert served.chat(headers={"Origin": "https://other.example"}).status == 403


# Traffic kept.


def test_what_cannot_be_recorded_is_refused_before_it_is_paid_for(endpoint, tmp_path):
    with Journal(tmp_path / "study.db") as journal, Served(config(endpoint), Recorder(journal, str)) as served:
        assert served.chat().status == 200
        endpoint.reset()
        with pytest.raises(StoreError):  # as a full disk does
            asyncio.run(journal.write([("INSERT INTO nowhere VALUES (?)", [(1,)])]))
        refused = served.chat()
        assert (refused.status, refused.error["code"], endpoint.stats().received) == (503, "recording_failed", 0)
        health = served.call("GET", "/health")
        assert (health.status, health.json) == (503, {"status": "recording failed"})


def test_recorded_traffic_is_a_bank_of_redacted_samples_and_nobody_gets_what_another_paid_for(endpoint, tmp_path):
    with Journal(tmp_path / "study.db") as journal:
        recorder = Recorder(journal, lambda text: text.replace("SECRET", "[name]"))
        with Served(config(endpoint), recorder) as served:
            endpoint.reset()
            for _ in range(2):
                got = served.chat("ECHO: I am SECRET", "fake+sc", seed=3)
                assert got.json["choices"][0]["message"]["content"] == "I am SECRET"
            assert endpoint.stats().completion_tokens == 2 * got.json["usage"]["completion_tokens"]
        lines = [json.loads(line) for line in canonical(journal)]
    assert "SECRET" not in json.dumps(lines)
    assert [line["text"] for line in lines if line["kind"] == "sample"] == ["I am [name]"] * 8
    [problem] = [line for line in lines if line["kind"] == "problem"]
    assert problem["question"]["messages"] == [["user", ["ECHO: I am [name]"]]]
    [run] = [line for line in lines if line["kind"] == "run"]
    assert run["outcome"]["samples"] == 8


# The command.


def command(*words, **more):
    environment = {**os.environ, **more.pop("env", {})}
    ponder = Path(sys.executable).with_name("ponder")
    return subprocess.Popen([ponder, "serve", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_command_serves_drains_and_ends_with_the_signals_code(endpoint):
    process = command("--policy", endpoint.url, "--strategy", "self_consistency(n=4)", "--port", "0")
    ready = json.loads(process.stdout.readline())
    assert ready["models"] == ["fake", "fake+self_consistency-4"]
    port = int(ready["url"].rpartition(":")[2].removesuffix("/v1"))
    endpoint.configure(token_latency=0.05)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = {"model": "fake", "stream": True, "messages": [{"role": "user", "content": "ECHO: " + "word " * 20}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.readline()
    process.send_signal(signal.SIGTERM)
    rest = threading.Thread(target=lambda: read.append(response.read()))
    read = []
    rest.start()
    out, err = process.communicate(timeout=30)
    rest.join()
    connection.close()
    assert b'"finish_reason": "stop"' in read[0]
    assert read[0].endswith(b"data: [DONE]\n\n")
    assert process.returncode == 128 + signal.SIGTERM, err
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "give --policy URL"),
        (("--policy", "{url}", "--host", "0.0.0.0"), 2, "there is no key"),
        (("--policy", "{url}", "--port", "0", "--strategy", "magic"), 2, "there is no strategy 'magic'"),
        (("--policy", "http://127.0.0.1:9/v1", "--port", "0"), 4, "cannot be reached"),
        (("--policy", "{url}", "--port", "{taken}"), 3, "cannot listen on"),
        (("--config", "missing.toml"), 2, "cannot be read"),
    ],
)
def test_what_cannot_be_served_is_said_with_the_way_out(endpoint, words, code, said, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert run_app(["serve", *(word.format(url=endpoint.url, taken=port) for word in words)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err


def test_a_new_key_is_printed_once_and_its_hash_goes_into_the_file(capsys):
    assert run_app(["serve", "--new-key", "ann"]) == 0
    out, err = capsys.readouterr()
    assert sha256(out.strip().encode()).hexdigest() in err
    assert out.strip() not in err


def test_a_line_of_the_log_is_one_line_that_steers_no_terminal(capsys):
    _log("upstream: bad\x1b[31m\nponder: all is well\r\u202e" + "x" * 10_000)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ponder: upstream: bad[31m ponder: all is well")
    assert (err.count("\n"), len(err)) == (1, 2009)
