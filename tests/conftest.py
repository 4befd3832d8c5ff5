"""No test talks to the outside unless it is marked `integration`; the loopback and Unix sockets stay open. A fake endpoint for who wants one."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ponder.testing.endpoint import FakeEndpoint


def is_local(host: object) -> bool:
    """Whether an address, as sockets take it, stays on this machine."""
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.split("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("integration"):
        return

    def guard(method: str) -> None:
        real = getattr(socket.socket, method)

        def guarded(self: socket.socket, *args: object) -> object:
            address = args[-1]
            if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(address, tuple) and not is_local(address[0]):
                raise PermissionError(f"socket.{method}({address!r}): tests use the loopback only, or are marked integration")
            return real(self, *args)

        monkeypatch.setattr(socket.socket, method, guarded)

    for method in ("connect", "connect_ex", "sendto"):
        guard(method)
    lookup = socket.getaddrinfo

    def guarded_lookup(host: object, *args: object, **more: object) -> object:
        if not is_local(host):
            raise PermissionError(f"getaddrinfo({host!r}): tests use the loopback only, or are marked integration")
        return lookup(host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


@pytest.fixture(scope="module")
def running() -> Iterator[FakeEndpoint]:
    """One endpoint for all tests of a file."""
    from ponder.testing.endpoint import FakeEndpoint

    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(running: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEndpoint:
    """It, as it comes, with nothing remembered of it."""
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    running.configure(dialect="vllm", latency=0.0, token_latency=0.0, key=None, models=("fake",), context=8192, weights=0)
    running.configure(faults=(), rate_limit=None, max_live=None)
    running.reset()
    return running
