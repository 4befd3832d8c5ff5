"""The fake endpoint, asked over HTTP: faults, aborts, log, counters, the process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, IncompleteRead, RemoteDisconnected
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fake_endpoint_client import deltas, post, raw_connection, request_bytes

from ponder.testing.endpoint import (
    FakeEndpoint,
    Fault,
    FaultKind,
    Settings,
)
from ponder.testing.endpoint.service import Service
from ponder.testing.endpoint.wire import Connection


@pytest.fixture(scope="module")
def running():
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running):
    running.configure(**{field.name: getattr(Settings(), field.name) for field in fields(Settings)})
    running.reset()
    return running


# Faults.


def faulty(endpoint, kind, seconds=1.0, **body):
    endpoint.configure(faults=(Fault(kind, at=(0,), seconds=seconds),))
    endpoint.reset()
    return post(endpoint, **body)


def test_retry_after_comes_in_every_form(endpoint):
    forms = {
        FaultKind.RETRY_SECONDS: ("retry-after", "2"),
        FaultKind.RETRY_MS: ("retry-after-ms", "2000"),
        FaultKind.RETRY_ABSURD: ("retry-after", "1000000000"),
        FaultKind.RETRY_NEGATIVE: ("retry-after", "-5"),
    }
    for kind, (name, value) in forms.items():
        reply = faulty(endpoint, kind, seconds=2.0)
        assert (reply.status, reply.headers[name]) == (429, value)
    dated = faulty(endpoint, FaultKind.RETRY_DATE, seconds=2.0)
    wait = parsedate_to_datetime(dated.headers["retry-after"]).timestamp() - endpoint.requests()[0].time
    assert 2.0 <= wait <= 3.0


def test_server_errors_come_with_their_bodies(endpoint):
    assert faulty(endpoint, FaultKind.SERVER_ERROR).status == 500
    assert faulty(endpoint, FaultKind.UNAVAILABLE).json["error"]["message"]
    gateway = faulty(endpoint, FaultKind.BAD_GATEWAY)
    assert (gateway.status, gateway.headers["content-type"]) == (502, "text/html")
    assert gateway.body.startswith(b"<html>")


def test_bodies_are_spoilt_as_announced(endpoint):
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        faulty(endpoint, FaultKind.TRUNCATED_JSON).json  # noqa: B018
    wrong = faulty(endpoint, FaultKind.WRONG_CONTENT_TYPE)
    assert wrong.headers["content-type"] == "text/html"
    assert wrong.texts
    assert faulty(endpoint, FaultKind.EMPTY_CHOICES).texts == []
    assert [len(faulty(endpoint, FaultKind.WRONG_COUNT, n=n).texts) for n in (1, 4)] == [2, 3]
    assert faulty(endpoint, FaultKind.SLOW_LORIS, seconds=1e-6).texts
    with pytest.raises(RemoteDisconnected):
        faulty(endpoint, FaultKind.DROP)
    assert endpoint.stats().faulted == 1
    assert endpoint.requests()[0].fault == "drop"


def read_to_the_end(connection, received):
    while piece := connection.recv(65536):
        received += piece


def test_a_reset_comes_after_half_of_the_body(endpoint):
    endpoint.configure(faults=(Fault(FaultKind.RESET, at=(0,)),))
    received = bytearray()
    with raw_connection(endpoint) as connection:
        connection.sendall(request_bytes())
        with pytest.raises(ConnectionResetError):
            read_to_the_end(connection, received)
    head, _, body = received.partition(b"\r\n\r\n")
    promised = int(head.partition(b"Content-Length: ")[2] or 0)
    assert abs(len(body) - promised // 2) <= 1


def test_streams_are_spoilt_as_announced_and_whole_replies_spared(endpoint):
    good = post(endpoint, seed=3, stream=True).events
    short = faulty(endpoint, FaultKind.TRUNCATED_STREAM, seed=3, stream=True).events
    assert b"[DONE]" not in short
    assert 0 < len(short) < len(good)
    twice = faulty(endpoint, FaultKind.DUPLICATE_CHUNK, seed=3, stream=True).events
    assert len(twice) == len(good) + 1
    assert sum(one == two for one, two in pairwise(twice)) == 1
    cut = faulty(endpoint, FaultKind.TRUNCATED_JSON, seed=3, stream=True).events
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        json.loads(cut[-1])
    assert [deltas(faulty(endpoint, FaultKind.EMPTY_CHOICES, stream=True).events)] == [[]]
    for kind in (FaultKind.TRUNCATED_STREAM, FaultKind.DUPLICATE_CHUNK):
        assert faulty(endpoint, kind).texts
        assert endpoint.stats().answered == 1


def test_a_fault_hits_the_request_with_its_number_only(endpoint):
    endpoint.configure(faults=(Fault(FaultKind.SERVER_ERROR, at=(1, 3)),))
    assert [post(endpoint).status for _ in range(5)] == [200, 500, 200, 500, 200]


def test_a_poisonous_prompt_always_drops_the_connection(endpoint):
    for _ in range(2):
        with pytest.raises(RemoteDisconnected):
            post(endpoint, messages=[{"role": "user", "content": "POISON"}])
    assert post(endpoint).status == 200
    assert (endpoint.stats().dropped, endpoint.requests()[0].status) == (2, 0)


def test_clients_that_hang_up_are_counted_as_aborts(endpoint):
    hang = Fault(FaultKind.HANG, probability=1.0)
    endpoint.configure(faults=(hang,))
    waiting = [raw_connection(endpoint) for _ in range(20)]
    for connection in waiting:
        connection.sendall(request_bytes())
    while endpoint.stats().live < 20:
        pass
    for connection in waiting:
        connection.close()
    while (stats := endpoint.stats()).live:
        pass
    assert (stats.received, stats.aborted, stats.max_live, stats.answered) == (20, 20, 20, 0)
    endpoint.configure(faults=(), token_latency=60.0)
    with raw_connection(endpoint) as connection:
        connection.sendall(request_bytes(stream=True))
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    while endpoint.stats().live:
        pass
    assert endpoint.requests()[-1].outcome == "aborted"


@pytest.mark.parametrize("latency", [0.0, 0.001])
def test_requests_sent_ahead_or_in_pieces_are_answered_in_order(endpoint, latency):
    endpoint.configure(latency=latency)
    sent = b"".join(request_bytes(seed=seed, max_tokens=4) for seed in range(3))
    with raw_connection(endpoint) as connection:
        for piece in (sent[:37], sent[37:90], sent[90:]):
            connection.sendall(piece)
        received = b""
        while received.count(b"}}") < 3 or received.count(b"HTTP/1.1 200") < 3:
            received += connection.recv(65536)
    assert [entry.seed for entry in endpoint.requests()] == [0, 1, 2]
    assert endpoint.stats().answered == 3


def test_a_body_of_unknown_length_is_refused_and_one_held_back_is_asked_for(endpoint):
    with raw_connection(endpoint) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        assert connection.recv(4096) == b""
    head, _, body = request_bytes().partition(b"\r\n\r\n")
    with raw_connection(endpoint) as connection:
        connection.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 OK")


class Listening(asyncio.Transport):
    def is_closing(self):
        return False


def test_a_reply_whose_client_is_gone_is_not_played():
    async def hang_up_early():
        trouble, loop = [], asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: trouble.append(context))
        service = Service(Settings(latency=0.001), lambda: 0.0)
        connection = Connection(service)
        connection.connection_made(Listening())
        connection.data_received(request_bytes())
        assert service.live == 1
        connection.connection_lost(None)
        due = loop.create_future()
        loop.call_later(0.005, due.set_result, None)  # past the moment at which the reply was due
        await due
        return trouble, service.live, service.stats()["aborted"]

    assert asyncio.run(hang_up_early()) == ([], 0, 1)


# Log, counters, process.


def test_the_log_holds_what_was_asked_and_what_it_cost(endpoint):
    reply = post(endpoint, n=2, seed=3, max_tokens=9, stop=["x"], logprobs=True, top_logprobs=4, temperature=0.7)
    (entry,) = endpoint.requests()
    asked = (entry.route, entry.n, entry.seed, entry.max_tokens, entry.stop, entry.logprobs, entry.temperature)
    assert asked == ("/chat/completions", 2, 3, 9, ["x"], 4, 0.7)
    assert (entry.roles, entry.status, entry.outcome, entry.choices) == (["user"], 200, "answered", 2)
    assert entry.completion_tokens == reply.json["usage"]["completion_tokens"]


def test_the_log_is_bounded_and_can_be_off(endpoint):
    endpoint.configure(log=2)
    for seed in range(4):
        post(endpoint, seed=seed)
    assert [entry.seed for entry in endpoint.requests()] == [2, 3]
    endpoint.configure(log=0)
    post(endpoint)
    assert endpoint.requests() == []
    assert endpoint.stats().answered == 5


def test_every_request_is_counted_under_one_outcome(endpoint):
    chances = tuple(Fault(kind, probability=0.05) for kind in (FaultKind.SERVER_ERROR, FaultKind.DROP, FaultKind.RESET))
    endpoint.configure(faults=chances, max_live=1)
    for seed in range(60):
        with suppress(ConnectionError, IncompleteRead):
            post(endpoint, seed=seed, model="fake" if seed % 7 else "nope")
    s = endpoint.stats()
    assert s.received == 60 == s.live + s.answered + s.refused + s.faulted + s.crashed + s.dropped + s.aborted
    assert min(s.answered, s.refused, s.faulted) > 0


def test_512_requests_in_flight_are_all_answered(endpoint):
    endpoint.configure(latency=0.05)

    async def one(seed):
        parts = urlsplit(endpoint.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(request_bytes(seed=seed).replace(b"Host: x", b"Connection: close"))
        reply = await reader.read()
        writer.close()
        await writer.wait_closed()
        return reply.startswith(b"HTTP/1.1 200 OK")

    async def crowd():
        return await asyncio.gather(*(one(seed) for seed in range(512)))

    assert all(asyncio.run(crowd()))
    stats = endpoint.stats()
    assert (stats.answered, stats.aborted) == (512, 0)
    assert stats.max_live > 100


def test_health_and_models_answer_to_get(endpoint):
    connection = HTTPConnection(urlsplit(endpoint.url).netloc, timeout=5)
    connection.request("GET", "/health")
    assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    connection.request("GET", "/v1/models")  # on the same connection: it is kept
    models = json.loads(connection.getresponse().read())["data"]
    connection.close()
    assert [(model["id"], model["max_model_len"]) for model in models] == [("fake", 8192)]


def test_the_url_is_refused_before_the_endpoint_runs():
    with pytest.raises(RuntimeError, match="is not running: enter it with"):
        FakeEndpoint().url  # noqa: B018


@pytest.mark.slow
def test_the_command_prints_its_url_and_a_taken_port_is_an_error(running):
    command = [sys.executable, "-m", "ponder.testing.endpoint", "--dialect", "openai", "--fault", "server_error@0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="src") as process:
        ready = json.loads(process.stdout.readline())
        assert set(ready) == {"url", "pid"}
        assert ready["pid"] == process.pid
        process.terminate()
        assert process.wait(5) == 0
    with (
        pytest.raises(RuntimeError, match="before it was ready"),
        FakeEndpoint(port=urlsplit(running.url).port),
    ):
        pass


@pytest.mark.slow
def test_the_endpoint_does_not_outlive_a_parent_that_was_killed():
    program = """
import os, signal
from ponder.testing.endpoint import FakeEndpoint
with FakeEndpoint() as endpoint:
    print(endpoint.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd="src", timeout=20)
    pid = int(done.stdout)
    with suppress(ProcessLookupError):
        while not zombie(pid):
            os.kill(pid, 0)


def zombie(pid):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
