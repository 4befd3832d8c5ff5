"""Nobody holds a connection without using it: not by a request that never becomes whole, not by an answer that is never taken."""

from __future__ import annotations

import asyncio
import socket

import pytest
from served import Served
from served import until as eventually

from ponder.server import connection
from ponder.server.config import Config
from ponder.server.connection import Connection
from ponder.server.guard import BODIES
from ponder.server.serving import Listener
from ponder.testing.endpoint import FakeEndpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def endpoint():
    with FakeEndpoint(latency=0.4) as running:
        yield running


@pytest.fixture
def served(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    with Served(Config(policy=endpoint.url)) as one:
        monkeypatch.setattr(connection, "HEAD_WITHIN", 0.1)
        yield one


def until(client, end=None) -> bytes:
    """What comes until a text, or until the other side closes."""
    said = b""
    while not (end and said.endswith(end)) and (piece := client.recv(65_536)):
        said += piece
    return said


@pytest.mark.parametrize("begun", [b"", b"G", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A"])
def test_a_head_that_does_not_come_is_not_waited_for(served, begun):
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(begun)
        said = until(client)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "request_timeout"' in said


def test_an_answer_may_take_longer_than_the_head_of_its_request(served):
    assert served.chat("ECHO: slow").json["choices"][0]["message"]["content"] == "slow"


def test_a_kept_connection_may_rest_between_two_requests_but_not_within_one(served):
    request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as client:
        client.sendall(request)
        assert until(client, b'"ok"}').startswith(b"HTTP/1.1 200 ")
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(30)
        client.sendall(request)
        assert until(client, b'"ok"}').startswith(b"HTTP/1.1 200 ")
        client.sendall(request[:9])
        assert until(client, b"}").startswith(b"HTTP/1.1 408 ")


def test_a_client_that_takes_nothing_is_cut_and_one_that_goes_on_is_not(served, monkeypatch):
    monkeypatch.setattr(connection, "TAKEN_WITHIN", 0.0)

    class Transport(asyncio.Transport):
        aborted = False

        def abort(self):
            self.aborted = True

    async def cut(goes_on):
        settings = Listener(served.server).config
        settings.load()
        client, transport = Connection(settings, Listener(served.server).server_state, {}), Transport()
        client.connection_made(transport)
        client.pause_writing()
        if goes_on:
            client.resume_writing()
        for _ in range(3):
            await asyncio.sleep(0)
        client.connection_lost(ConnectionResetError())
        return transport.aborted

    assert asyncio.run(cut(goes_on=False))
    assert not asyncio.run(cut(goes_on=True))


def test_bodies_that_are_announced_take_no_more_room_than_there_is(served):
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
    clients = []
    for _ in range(BODIES):
        clients.append(socket.create_connection(("127.0.0.1", served.port), timeout=30))
        clients[-1].sendall(f"{head}Content-Length: {served.config.limits.body}\r\n\r\n{{".encode())
    eventually(lambda: served.server.gate.held == BODIES * served.config.limits.body)
    refused = served.chat("ECHO: no room")
    assert (refused.status, refused.error["code"], refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
    clients.pop().close()
    eventually(lambda: served.server.gate.held < BODIES * served.config.limits.body)
    assert served.chat("ECHO: room").status == 200
    for client in clients:
        client.close()
    eventually(lambda: served.server.gate.held == 0)
