"""Reward models behind vLLM's routes /pooling, /classify and /score.

    route      shape          what is sent                                          what is read
    /classify  orm            messages, the answer last                             data[0].probs[0]
    /score     orm            text_1: the question, text_2: the answer              data[0].score
    /pooling   orm            messages, the answer last                             the last number of data[0].data
    /pooling   qwen_prm       messages with <extra_0> after each step               data[0].data: [bad, good] for each step
    /pooling   math_shepherd  input: question and steps with their tags             data[0].data: [good, bad] for each step

One request for each chain, with `use_activation`, so that the numbers are probabilities; what is none is an error. For math_shepherd the
server is started with --pooler-config '{"pooling_type": "STEP", "step_tag_id": 12902, "returned_token_ids": [648, 387]}'. The other shapes
answer at tokens that only a tokenizer finds: score those here, by folder or id.

The server counts one number of positions; it is split between prompt and answer by their bytes, and where it counts none, the bytes stand
for it, more than which they cannot be. Refused connections, time-outs, 408, 409, 425, 429, 5xx and replies that are not JSON are tried
again. A chain whose tries are spent, or that the server rejects for what is in it (400, 413, 422), has no score; a key, model or address
that is refused, and a server that nobody answers at, end the search with an error, as with policies.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ponder.errors import RefusedError, UnreachableError, UsageError
from ponder.lab.reward import Facts
from ponder.types import JSON, Chain, Usage
from ponder.verifiers.reward_model import Reading, logit
from ponder.verifiers.reward_shapes import STEPS, messages, said, separated, tagged

if TYPE_CHECKING:
    import aiohttp

SHAPES = {"classify": ("orm",), "score": ("orm",), "pooling": ("orm", "qwen_prm", "math_shepherd")}
GOOD = {"qwen_prm": 1, "math_shepherd": 0}  # which of the two numbers of a step
TRIES = 5
PAUSE = 0.5  # seconds before the second try, doubled for each one more
LONGEST_PAUSE = 30.0  # that a server may ask for
TIMEOUT = 600.0


class Remote:
    """One model on one server. A session is opened for each call, so it may be asked in any event loop."""

    info = None  # a server does not say its size

    def __init__(self, url: str, model: str, shape: str, step: str, batch: int, key_env: str) -> None:
        """See `ponder.verifiers.reward_model`. Raises `UsageError` for an address, shape or key that makes no sense."""
        self.url, self.model, self.batch, self.key_env = check_address(url), model, batch, key_env
        self.route = self.url.rpartition("/")[2]
        self.shape = self._shape() if shape == "auto" else shape
        if self.shape not in SHAPES[self.route]:
            raise UsageError(
                f"reward_model: the route /{self.route} serves {', '.join(SHAPES[self.route])}, not {self.shape}, which answers at tokens "
                "that only the tokenizer finds; name the model's folder or id, and it is scored here"
            )
        self.facts = Facts("outcome" if self.shape == "orm" else "process", step or STEPS.get(self.shape, "\n"))
        self._key = (os.environ.get(key_env) or "").strip()
        if not all(" " <= letter <= "~" for letter in self._key):
            raise UsageError(f"reward_model: the key in {key_env} holds characters that no header can carry; set it again")

    @property
    def fingerprint(self) -> str:
        """Of the model's name and what is asked of it. That a server has other weights under the same name is not noticed."""
        asked = "\x1f".join((self.model, self.route, self.shape, self.facts.step))
        return f"reward-remote-{hashlib.blake2b(asked.encode(), digest_size=8).hexdigest()}"

    async def read(self, chains: Sequence[Chain]) -> list[Reading]:
        """One reading for each chain, in order, `batch` requests in flight. Raises `RefusedError`, `UnreachableError`."""
        import aiohttp

        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}
        gate = asyncio.Semaphore(self.batch)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT, sock_connect=LONGEST_PAUSE)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            tasks = [asyncio.ensure_future(self._one(session, gate, chain)) for chain in chains]
            try:
                return await asyncio.gather(*tasks)
            finally:  # the first failure ends the others
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(self, session: aiohttp.ClientSession, gate: asyncio.Semaphore, chain: Chain) -> Reading:
        async with gate:
            try:
                reply = await self._post(session, json.dumps(self._body(chain)).encode())
            except _FailedError as error:
                return Reading(error=f"{self.url}: {error}", usage=Usage(calls=1))
        usage = _usage(reply, chain)
        try:
            values = self._values(reply, len(said(chain.text, self.facts.step)))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            return Reading(error=f"{self.url}: a reply that is not of the shape {self.shape}: {error!r:.200}", usage=usage)
        return Reading(values, [logit(value) for value in values], usage)

    def _body(self, chain: Chain) -> dict[str, JSON]:
        body: dict[str, JSON] = {"model": self.model, "use_activation": True}
        if self.route == "score":
            return body | {"text_1": "\n\n".join(message.text for message in chain.prompt), "text_2": chain.text}
        if self.shape == "math_shepherd":
            return body | {"input": "".join(tagged(chain, self.facts.step))}
        if self.shape == "qwen_prm":
            turns = separated(chain, self.facts.step)
        else:
            turns = [*messages(chain.prompt), {"role": "assistant", "content": chain.text}]
        return body | {"messages": [dict(turn) for turn in turns]}

    def _values(self, reply: Mapping[str, object], steps: int) -> list[float]:
        """The probabilities of a reply. Raises `ValueError`, or what a reply of another form raises."""
        [one] = _list(reply["data"])
        if not isinstance(one, dict):
            raise TypeError(f"data[0] is {one!r:.80}")
        if self.route == "score":
            return [_probability(one["score"])]
        if self.route == "classify":
            [probability] = _list(one["probs"])
            return [_probability(probability)]
        rows = _list(one["data"])
        if self.shape == "orm":
            [last] = rows[-1] if isinstance(rows[-1], list) else rows[-1:]
            return [_probability(last)]
        if len(rows) != steps:
            raise ValueError(
                f"{len(rows)} values for {steps} steps: the chain or its question has a tag of its own, or the server pools otherwise"
            )
        pairs = [tuple(map(_probability, _list(row))) for row in rows]
        if any(len(pair) != 2 or abs(sum(pair) - 1.0) > 0.02 for pair in pairs):
            raise ValueError(f"{pairs[0]} are not the probabilities of two classes")
        return [pair[GOOD[self.shape]] for pair in pairs]

    async def _post(self, session: aiohttp.ClientSession, data: bytes) -> dict[str, object]:
        """The reply to the first try that works. Raises `_FailedError` for this request alone, `RefusedError`, `UnreachableError` for all."""
        import aiohttp

        failures: list[str] = []
        unreachable = True
        while True:
            wait = PAUSE * 2.0 ** len(failures)
            try:
                async with session.post(self.url, data=data, allow_redirects=False) as response:
                    raw, status = await response.read(), response.status
                    wait = _asked(response.headers, wait)
                unreachable = False
                if status == 200 and (reply := _object(raw)) is not None:
                    return reply
                failures.append(self._failure(status, raw))
            except aiohttp.ClientConnectorError as error:
                failures.append(f"cannot be connected to ({error})")
            except TimeoutError:
                unreachable = False
                failures.append(f"no whole answer within {TIMEOUT:g} s")
            except (aiohttp.ClientError, OSError) as error:
                unreachable = False
                failures.append(f"the connection broke ({type(error).__name__})")
            if len(failures) == TRIES:
                if unreachable:
                    raise UnreachableError(
                        f"{self.url}: {failures[-1]}, {TRIES} times; start the server, or give the right address"
                    )
                raise _FailedError(f"gave up after {TRIES} tries: {failures[-1]}")
            await asyncio.sleep(wait)

    def _failure(self, status: int, raw: bytes) -> str:
        """What a status says, if it may pass. Raises `RefusedError` and `_FailedError` for those that will not."""
        text = raw[:2000].decode("utf-8", "replace").replace(self._key or "\0", "[key]")
        words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200] or "no reason given"
        if status in (401, 402, 403):
            raise RefusedError(f"{self.url}: refused the key ({status}: {words}); put the right one into {self.key_env}")
        if status in (404, 405) or 300 <= status < 400:
            raise RefusedError(
                f"{self.url}: {status}: {words}; check the model's name ({self.model!r}), the route and the address"
            )
        if status in (200, 408, 409, 425, 429) or status >= 500:
            return f"{status}: {words}"
        raise _FailedError(f"{status}: {words}")

    def _shape(self) -> str:
        if self.route != "pooling":
            return "orm"
        known = self.model.lower()
        for shape, told in (
            ("qwen_prm", "qwen2.5-math" in known and "prm" in known),
            ("math_shepherd", "math-shepherd" in known),
        ):
            if told:
                return shape
        raise UsageError(
            f"reward_model: the name {self.model!r} does not tell how it is read; give shape, one of {', '.join(SHAPES['pooling'])}"
        )


class _FailedError(Exception):
    """One request has failed for good; others may be fine."""


def check_address(url: str) -> str:
    """The address without a slash at its end. Raises `UsageError` unless it is one of a route, without password and query."""
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if whole and (parts.username is not None or parts.password is not None or parts.query or parts.fragment):
        raise UsageError(
            "reward_model: the address holds a user name, password or query, which would be shown; give a key by key_env"
        )
    if not whole or parts.path.rstrip("/").rpartition("/")[2] not in SHAPES:
        raise UsageError(
            f"reward_model: the address must end in one of {', '.join(f'/{route}' for route in SHAPES)}, not as {url!r} does"
        )
    return url.rstrip("/")


def _usage(reply: Mapping[str, object], chain: Chain) -> Usage:
    prompt, answer = sum(len(message.text.encode()) for message in chain.prompt), len(chain.text.encode())
    counted = reply.get("usage")
    total = counted.get("prompt_tokens") if isinstance(counted, dict) else None
    total = total if isinstance(total, int) and total > 0 else prompt + answer
    scored = max(1, round(total * answer / (prompt + answer)))
    return Usage(prompt=total - scored, scored=scored, calls=1)


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{value!r:.80} is no probability: does the server apply an activation (`use_activation`)?")
    return float(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is no list")
    return value


def _object(raw: bytes) -> dict[str, object] | None:
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return reply if isinstance(reply, dict) else None


def _asked(headers: Mapping[str, str], wait: float) -> float:
    """The seconds that a server asks to wait, within bounds; `wait` where it asks for none in seconds."""
    try:
        return min(max(0.0, float(headers["Retry-After"])), LONGEST_PAUSE)
    except (KeyError, ValueError):
        return wait
