"""The lean HTTP client: every way to frame a reply, however the bytes are cut; what is given up is cut off."""

import asyncio
import contextlib

import pytest

from ponder.policies.http import BrokenError, Client, ConnectError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;name=value\r\nllo\r\n0\r\n\r\n"
TRAILED = CHUNKED[:-2] + b"Checked: yes\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nA: b\r\n\r\n" + OK
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
OLD = b"HTTP/1.0 200 OK\r\n\r\nhello"  # the body ends with the connection


class Server:
    """Answers each request with the next script: the pieces to write, then whether to close."""

    def __init__(self, *scripts, end=()):
        self.scripts, self.end = list(scripts), set(end)
        self.requests, self.connections = [], 0
        self.arrived, self.lost = asyncio.Event(), asyncio.Event()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        self.client = Client(self.url, {"Authorization": "Bearer key"}, timeout=5)
        return self

    async def __aexit__(self, *_):
        self.client.close()
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append((head, await reader.readexactly(size)))
                self.arrived.set()
                at = len(self.requests) - 1
                for piece in self.scripts[at]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)  # let the client see this piece alone
                if at in self.end:
                    break
        writer.close()
        self.lost.set()


def run(work):
    return asyncio.run(asyncio.wait_for(work, 10))


@pytest.mark.parametrize("reply", [OK, CHUNKED, TRAILED, INTERIM], ids=["length", "chunked", "trailers", "interim"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_reply_is_read_however_its_bytes_are_cut(reply, size):
    async def work():
        async with Server([reply[i : i + size] for i in range(0, len(reply), size)], [OK]) as server:
            first, second = await server.client.request("POST", "/a", b"x"), await server.client.request("GET", "/b")
            assert (first.status, first.body, second.body) == (200, b"hello", b"hello")
            assert server.connections == 1
            assert server.requests[0][0].startswith(b"POST /v1/a HTTP/1.1\r\nHost: 127.0.0.1")
            assert b"Authorization: Bearer key\r\n" in server.requests[0][0]
            assert server.requests[0][1] == b"x"

    run(work())


def test_a_body_without_length_ends_with_the_connection():
    async def work():
        async with Server([OLD], [EMPTY], end={0}) as server:
            assert (await server.client.request("GET", "/")).body == b"hello"
            assert (await server.client.request("GET", "/")).status == 204
            assert server.connections == 2

    run(work())


def test_headers_are_found_by_their_name_in_lower_case():
    async def work():
        async with Server([OK.replace(b"200 OK", b"429 Too Many Requests\r\nRetry-After: 3")]) as server:
            response = await server.client.request("POST", "/")
            assert (response.status, response.headers["retry-after"], response.body) == (429, "3", b"hello")

    run(work())


def test_a_server_that_closes_after_its_reply_is_connected_to_again():
    async def work():
        said = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        async with Server([said], [OK], end={0}) as server:
            for _ in range(2):
                assert (await server.client.request("GET", "/")).body == b"hello"
            assert server.connections == 2

    run(work())


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        OK[:-1],
        CHUNKED[:-1],
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        OK.replace(b": 5", b": -5"),
        CHUNKED.replace(b"2\r\nhe", b"zz\r\nhe"),
        CHUNKED.replace(b"2\r\nhe", b"-2\r\nhe"),
        CHUNKED.replace(b": chunked", b": gzip"),
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
    ],
    ids=["nothing", "short", "cut chunks", "not HTTP", "no status", "length", "chunk", "negative", "coding", "endless head"],
)
def test_what_is_no_whole_reply_is_broken(reply):
    async def work():
        async with Server([reply], [OK], end={0}) as server:
            with pytest.raises(BrokenError):
                await server.client.request("GET", "/")
            assert (await server.client.request("GET", "/")).body == b"hello"

    run(work())


def test_bytes_that_nobody_asked_for_never_become_a_reply():
    async def work():
        async with Server([OK + OK.replace(b"hello", b"other")], [OK]) as server:
            for _ in range(2):
                assert (await server.client.request("GET", "/")).body == b"hello"
            assert server.connections == 2

    run(work())


def test_a_request_that_takes_too_long_ends_on_both_sides():
    async def work():
        async with Server([]) as server:
            with pytest.raises(TimeoutError):
                await server.client.request("GET", "/", within=0.05)
            await server.lost.wait()

    run(work())


def test_a_cancelled_request_ends_on_both_sides():
    async def work():
        async with Server([]) as server:
            task = asyncio.ensure_future(server.client.request("POST", "/", b"x"))
            await server.arrived.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.lost.wait()

    run(work())


def test_closing_ends_what_is_under_way():
    async def work():
        async with Server([]) as server:
            task = asyncio.ensure_future(server.client.request("POST", "/", b"x"))
            await server.arrived.wait()
            server.client.close()
            with pytest.raises(BrokenError, match="closed here"):
                await task

    run(work())


def test_a_port_where_nobody_listens_is_no_connection():
    async def work():
        async with Server() as server:
            url = server.url
        with pytest.raises(ConnectError):
            await Client(url, {}, timeout=5).request("GET", "/")

    run(work())
