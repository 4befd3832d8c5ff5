"""A small blocking client for the tests of the fake endpoint."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ponder.testing.endpoint import (
    render_chat,
)

QUESTION = "How many eggs do twelve hens lay?"
ASKED = render_chat([("user", QUESTION)], continuing=False)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def texts(self):
        return [choice["message"]["content"] for choice in self.json["choices"]]

    @property
    def events(self):
        return [line.removeprefix(b"data: ") for line in self.body.split(b"\n\n") if line]


def post(endpoint, route="/v1/chat/completions", *, headers=None, timeout=5, **body):
    if route.endswith("chat/completions"):
        body = {"messages": [{"role": "user", "content": QUESTION}]} | body
    connection = HTTPConnection(urlsplit(endpoint.url).netloc, timeout=timeout)
    try:
        connection.request("POST", route, json.dumps(body), headers or {})
        reply = connection.getresponse()
        return Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
    finally:
        connection.close()


def body_of(**fields):
    return json.dumps({"messages": [{"role": "user", "content": QUESTION}], **fields}).encode()


def raw_connection(endpoint):
    parts = urlsplit(endpoint.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=5)


def request_bytes(**fields):
    body = body_of(**fields)
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def deltas(events, index=0):
    chunks = [json.loads(event) for event in events if event != b"[DONE]"]
    return [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
