"""HTTP to one endpoint: what a status, a broken connection or an unreadable reply means, as one of four errors.

* `TransientError`    may pass: 408, 409, 425, 429, 5xx, time-outs, broken connections, replies that are not JSON
* `RejectedError`     this request is refused for what is in it (400, 413, 422 ...); others may be fine
* `RefusedError`      key, quota, model or address are refused, and would be again
* `UnreachableError`  nobody answers, when the first question is asked

The key is sent in one header and kept nowhere else: it is cut out of whatever a server says.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from ponder.errors import EndpointError, RefusedError, UnreachableError, UsageError
from ponder.policies.limited import TransientError, retry_after
from ponder.policies.streamed import events
from ponder.policies.wire import read_json
from ponder.types import JSON

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

T = TypeVar("T")

_FIRST_ANSWER = 30.0  # seconds for connecting, and for the list of models


class RejectedError(EndpointError):
    """The server refused one request for what is in it (400, 413, 422); others may be fine."""


def check_address(url: str) -> str:
    """The address without a slash at its end. Raises `UsageError` for one that makes no sense, or holds a password."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise UsageError("openai: the address cannot be read; it must be http:// or https://, a host, and end in /v1") from None
    if parts.query or parts.fragment:
        raise UsageError(
            "openai: the address holds a query, which would be shown; it must end in /v1, and the key goes into key_env"
        )
    if parts.username is not None or parts.password is not None:
        raise UsageError("openai: the address holds a user name or password, which would be shown; give a key by key_env instead")
    if not whole:
        raise UsageError(f"openai: {url!r} is not an address; it must begin with http:// or https:// and end in /v1")
    return url.rstrip("/")


def check_key(key: str | None, source: str) -> str:
    """The key without white space around it, "" for none. Raises `UsageError` for one that no header can carry; does not show it."""
    key = (key or "").strip()
    if not all(" " <= letter <= "~" for letter in key):
        raise UsageError(f"openai: the key in {source} holds characters that no header can carry; set it again")
    return key


class Connection:
    """Connections to one endpoint, kept alive. Usable while entered.

    timeout: seconds for one try, from the first byte sent to the last received. key_source: what to name when the key is refused.
    """

    def __init__(self, url: str, key: str, key_source: str, timeout: float) -> None:
        self.url, self.timeout = url, timeout
        self._key, self._key_source = key, key_source
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def __aenter__(self) -> Connection:
        """Make ready; nothing is sent yet."""
        import aiohttp

        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        timeout = aiohttp.ClientTimeout(total=self.timeout, sock_connect=_FIRST_ANSWER)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections; the server sees what is in flight end."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def post(self, path: str, data: bytes) -> JSON:
        """One try of one request. Raises `TransientError`, `RejectedError`, `RefusedError`."""
        raw = await self._exchange(path, data, lambda response: response.read())
        try:
            return read_json(raw)
        except (ValueError, RecursionError):
            raise TransientError("malformed", f"a reply that is not JSON: {self._words(raw)}") from None

    async def stream(self, path: str, data: bytes, take: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        """One try of one request whose reply is streamed; the data of events goes to `take`, of those together that came together.

        Raises as `post`, and what `take` raises.
        """

        async def read(response: aiohttp.ClientResponse) -> None:
            if response.content_type == "application/json":  # a server that does not stream
                await take([b" ".join((await response.read()).splitlines())])
                return
            buffer = bytearray()
            async for piece in response.content.iter_any():
                buffer += piece
                found = events(buffer)
                failed = next((at for at, event in enumerate(found) if event.startswith(b'{"error"')), len(found))
                await take(found[:failed])
                if failed < len(found):
                    raise TransientError("server_error", f"an error in the stream: {self._words(found[failed])}")

        await self._exchange(path, data, read)

    async def _exchange(self, path: str, data: bytes, read: Callable[[aiohttp.ClientResponse], Awaitable[T]]) -> T:
        import aiohttp

        session = self._open()
        try:
            async with session.post(self._address(path), data=data, allow_redirects=False) as response:
                if response.status != 200:
                    raise self._failure(response.status, path, await response.read(), response.headers)
                return await read(response)
        except aiohttp.ClientConnectorError as error:
            raise TransientError("unreachable", f"cannot be connected to ({error})") from None
        except TimeoutError:
            raise TransientError("timeout", f"no whole answer within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TransientError("reset", f"the connection broke ({type(error).__name__})") from None

    async def find_model(self, named: str) -> str:
        """The name if it is served, the only name where none is given. Raises `UnreachableError`, `RefusedError`."""
        import aiohttp

        session = self._open()
        timeout = aiohttp.ClientTimeout(total=min(self.timeout, _FIRST_ANSWER))
        try:
            async with session.get(self._address("/models"), timeout=timeout) as response:
                raw, status = await response.read(), response.status
        except TimeoutError:
            raise UnreachableError(
                f"{self.url}: does not answer within {timeout.total:g} s; is the server still loading, or stuck?"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableError(
                f"{self.url}: cannot be reached ({error}); start the server, or give the right address (it ends in /v1)"
            ) from None
        if status in (401, 403):
            raise self._failure(status, "/models", raw, response.headers)
        names = _names(raw) if status == 200 else []
        if named in names or (named and not names):
            return named
        shown = ", ".join(names[:8])
        if named:
            close = get_close_matches(named, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {shown}"
            raise RefusedError(f"{self.url}: there is no model {named!r}; {hint}")
        if len(names) == 1:
            return names[0]
        if names:
            raise RefusedError(f"{self.url}: serves {len(names)} models; name one of them: {shown}")
        raise RefusedError(
            f"{self.url}: lists no models ({status}); name one: openai('{self.url}', model='...'), and check that the address "
            "ends in /v1"
        )

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise UsageError(f"openai({self.url!r}) is not open: use it inside `async with`")
        return self._session

    def _address(self, path: str) -> URL:
        if path not in self._urls:  # parsing it for every request takes a tenth of the time of one
            from yarl import URL

            self._urls[path] = URL(self.url + path)
        return self._urls[path]

    def _failure(self, status: int, path: str, raw: bytes, headers: Mapping[str, str]) -> TransientError | EndpointError:
        """The error that a status stands for."""
        said, wait = self._words(raw), retry_after(headers)
        if status == 429 and b"insufficient_quota" not in raw:
            return TransientError("rate_limited", f"429: {said}", wait)
        if status in (408, 409, 425) or status >= 500:
            return TransientError("server_error", f"{status}: {said}", wait)
        if status in (401, 403):
            return RefusedError(f"{self.url}: refused the key ({status}: {said}); put the right one into {self._key_source}")
        if status in (402, 429):
            return RefusedError(
                f"{self.url}: nothing is left to pay with ({status}: {said}); fill the account up, or use another key"
            )
        if 300 <= status < 400:
            return RefusedError(f"{self.url}{path}: is elsewhere ({status}); give the address it redirects to")
        if status in (404, 405):
            return RefusedError(f"{self.url}{path}: {status}: {said}; check the model's name, and that the address ends in /v1")
        return RejectedError(f"{self.url}{path}: {status}: {said}")

    def _words(self, raw: bytes) -> str:
        """The server's own words, on one line of at most 200 characters, without the key."""
        if self._key:
            raw = raw.replace(self._key.encode(), b"[key]")
        text = raw[:2000].decode("utf-8", "replace")
        try:
            body = json.loads(raw)
            error = body.get("error", body) if isinstance(body, dict) else body
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, RecursionError):
            pass
        text = text.replace(self._key, "[key]") if self._key else text
        return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200] or "no reason given"


def _names(raw: bytes) -> list[str]:
    try:
        return [str(one["id"]) for one in json.loads(raw)["data"]]
    except (ValueError, KeyError, TypeError):
        return []
