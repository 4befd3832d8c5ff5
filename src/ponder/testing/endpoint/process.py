"""The fake endpoint as a context manager: a process of its own, with its log and counters within reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Self, Unpack

from ponder.testing.endpoint.settings import Changes, Settings, settings_to_json

READY_WITHIN = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as the endpoint saw it.

    Attributes:
        time: When it arrived, in seconds since 1970.
        route: The path without /v1, such as "/chat/completions".
        digest: Digest of the body.
        status: Status of the reply; 0 where the connection was closed without one.
        outcome: "answered", "refused" (4xx), "faulted", "crashed", "dropped" or "aborted" (the client went away); None
            while the request is in service, and for routes that generate nothing.
        number: Its number among the generation requests, which is what a fault script counts; None for other routes.
        model: Field of the request.
        n: Field of the request.
        seed: Field of the request.
        temperature: Field of the request.
        max_tokens: The cap that was asked for, by either name.
        stop: Field of the request.
        stream: Field of the request.
        logprobs: How many alternatives were asked for.
        roles: Roles of the messages, in order.
        continuing: Whether a partial reply was continued.
        choices: Number of choices in the reply.
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens generated in all choices: the truth, whatever the usage object said.
        fault: The fault that was injected.
    """

    time: float
    route: str
    digest: str
    status: int
    outcome: str | None = None
    number: int | None = None
    model: str | None = None
    n: int | None = None
    seed: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    logprobs: int | bool | None = None
    roles: list[str] | None = None
    continuing: bool = False
    choices: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class EndpointStats:
    """Counters of generation requests since the last reset.

    ``received == live + answered + refused + faulted + crashed + dropped + aborted`` at any moment.

    Attributes:
        received: Requests that arrived.
        live: Requests in service now.
        max_live: The most requests that were in service at once.
        answered: Replies with status 200 that were sent whole.
        refused: Replies that said no, with status 4xx.
        limited: Those of them with status 429.
        faulted: Replies that a fault spoilt.
        crashed: Requests that killed the engine.
        dropped: Poisonous requests.
        aborted: Requests whose client went away before the end.
        prompt_tokens: Tokens of the prompts of all answered requests.
        completion_tokens: Tokens of all choices of all answered requests: the truth, whatever usage objects said.
    """

    received: int
    live: int
    max_live: int
    answered: int
    refused: int
    limited: int
    faulted: int
    crashed: int
    dropped: int
    aborted: int
    prompt_tokens: int
    completion_tokens: int


class FakeEndpoint:
    """A fake OpenAI-compatible endpoint on the loopback address, as its own process, for tests and benchmarks.

    ::

        with FakeEndpoint(dialect="llamacpp", faults=(Fault(FaultKind.HANG, at=(3,)),)) as endpoint:
            ...                                  # talk to endpoint.url
            assert endpoint.stats().aborted == 1

    Args:
        port: Port to listen on; 0 takes a free one.
        **changes: What differs from the default `Settings`.

    Raises:
        ValueError: If a setting has a wrong name or value.
        RuntimeError: On entering, if the process ends, or is not ready within 20 s.
    """

    def __init__(self, *, port: int = 0, **changes: Unpack[Changes]) -> None:
        self.settings = Settings().changed(changes)
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL, ending in /v1."""
        if not self._url:
            raise RuntimeError("the fake endpoint is not running: enter it with `with FakeEndpoint() as endpoint:`")
        return self._url

    @property
    def pid(self) -> int:
        """Identifier of the endpoint's process."""
        if self._process is None:
            raise RuntimeError("the fake endpoint is not running: enter it with `with FakeEndpoint() as endpoint:`")
        return self._process.pid

    def requests(self) -> list[LoggedRequest]:
        """The log, in order of arrival; the latest `Settings.log` requests, control routes left out."""
        return [LoggedRequest(**entry) for entry in json.loads(self._call("GET", "log"))]

    def stats(self) -> EndpointStats:
        """The counters."""
        return EndpointStats(**json.loads(self._call("GET", "stats")))

    def configure(self, **changes: Unpack[Changes]) -> None:
        """Change settings while the endpoint runs; requests in service keep the old ones."""
        self.settings = self.settings.changed(changes)
        self._call("POST", "config", settings_to_json(self.settings).encode())

    def reset(self) -> None:
        """Forget log, counters, prompt cache and the numbering of requests and draws; settings stay."""
        self._call("POST", "reset", b"{}")

    def __enter__(self) -> Self:
        # The server runs the same source as the caller, installed or not.
        source = str(Path(__file__).parents[3])
        paths = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "ponder.testing.endpoint", "--stdin", "--port", str(self._port)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
        )
        try:
            self._url = self._wait_ready(self._process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process, self._url = self._process, None, ""
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # the server stops when its standard input ends
        try:
            process.wait(5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(settings_to_json(self.settings).encode() + b"\n")
        process.stdin.flush()
        if not select([process.stdout], [], [], READY_WITHIN)[0]:
            raise RuntimeError(f"the fake endpoint was not ready within {READY_WITHIN:g} s: is the machine overloaded?")
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the fake endpoint ended with code {process.wait(5.0)} before it was ready (port {self._port}): "
                "its standard error says why; port 0 takes a free port"
            )
        url: str = json.loads(line)["url"]
        return url

    def _call(self, method: str, route: str, body: bytes | None = None) -> bytes:
        from http.client import HTTPConnection
        from urllib.parse import urlsplit

        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            connection.request(method, f"/fake/{route}", body)
            return connection.getresponse().read()
        finally:
            connection.close()
