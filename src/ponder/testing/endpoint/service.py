"""What the fake endpoint answers: an HTTP request in, the bytes of the reply and when to send them out. No sockets.

`wire` plays the replies on connections; `completions` writes the bodies.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum
from hashlib import blake2b
from math import ceil

from ponder.testing.endpoint.completions import Completion, Memory, Refusal, complete, parse_body, prompt_of
from ponder.testing.endpoint.dialects import SeedRule
from ponder.testing.endpoint.faults import STREAM_ONLY, Fault, FaultKind, pick_fault
from ponder.testing.endpoint.replies import split_tokens
from ponder.testing.endpoint.settings import Settings, settings_from_json

GENERATING = ("/chat/completions", "/completions")
OUTCOMES = ("answered", "refused", "faulted", "crashed", "dropped", "aborted")


class End(Enum):
    """What happens to the connection after the last byte of a reply."""

    KEEP = 0
    CLOSE = 1
    RESET = 2
    HANG = 3  # nothing: the request stays in service until the client goes away


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request, cut out of the stream."""

    method: str
    path: str
    authorization: str
    body: bytes


@dataclass(slots=True)
class Reply:
    """What to send: the frames, the first after `delay` seconds and the others `gap` seconds apart."""

    frames: list[bytes]
    status: int = 200  # 0 where no byte of a status is sent
    entry: dict[str, object] | None = None  # the log's line, of a request to be closed when the reply is over
    outcome: str = "answered"
    delay: float = 0.0
    gap: float = 0.0
    end: End = End.KEEP


class Service:
    """The endpoint's state: settings, log, counters, what its prompt cache holds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._log: deque[dict[str, object]] = deque()
        self.live = 0
        self._apply(settings)
        self.reset()

    def reset(self) -> None:
        """Forget the log, the counters and the prompt cache; requests in service stay counted."""
        names = (*OUTCOMES, "limited", "completion_tokens", "prompt_tokens")
        self.counts = {**dict.fromkeys(names, 0), "received": self.live, "max_live": self.live}
        self.memory = Memory()
        self._number = 0
        self._log.clear()

    def stats(self) -> dict[str, int]:
        """Counters of generation requests: received = live + the sum of `OUTCOMES`; tokens of complete answers."""
        return {**self.counts, "live": self.live}

    def respond(self, request: HttpRequest) -> Reply:
        """Answer a request, count it and log it."""
        path = request.path.partition("?")[0].removeprefix("/v1")
        if path.startswith("/fake/"):
            return self._control(request, path)
        generating = request.method == "POST" and path in GENERATING
        entry: dict[str, object] = {
            "time": self._clock(),
            "route": path,
            "digest": blake2b(request.body, digest_size=8).hexdigest(),
        }
        try:
            reply = self._generate(request, path, entry) if generating else self._inform(request, path)
        except Refusal as refusal:
            reply = refuse(refusal)
            self.counts["limited"] += generating and refusal.status == 429
        entry["status"] = reply.status
        if generating:
            self.live += 1
            self.counts["received"] += 1
            self.counts["max_live"] = max(self.counts["max_live"], self.live)
            reply.entry = entry
        self._log.append(entry)
        return reply

    def close(self, reply: Reply, *, aborted: bool) -> None:
        """Count a reply whose last byte is sent, or whose client went away before."""
        if reply.entry is None:
            return
        self.live -= 1
        outcome = "aborted" if aborted else reply.outcome
        self.counts[outcome] += 1
        reply.entry["outcome"] = outcome
        if outcome == "answered":
            for name in ("completion_tokens", "prompt_tokens"):
                count = reply.entry[name]
                assert isinstance(count, int)
                self.counts[name] += count

    def _apply(self, settings: Settings) -> None:
        self.settings = settings
        self._log = deque(self._log, maxlen=settings.log)
        self._allowance, self._counted_at = self._burst(), self._clock()

    def _control(self, request: HttpRequest, path: str) -> Reply:
        if path == "/fake/config" and request.method == "POST":
            self._apply(settings_from_json(request.body))
        elif path == "/fake/reset" and request.method == "POST":
            self.reset()
        elif path == "/fake/log":
            return Reply([respond_json(200, list(self._log))])
        elif path != "/fake/stats":
            return Reply([respond_json(404, {"error": {"message": f"no control route {request.method} {path}"}})], 404)
        return Reply([respond_json(200, self.stats())])

    def _inform(self, request: HttpRequest, path: str) -> Reply:
        """Answer the routes that generate nothing."""
        settings, dialect = self.settings, self.settings.dialect
        if path == "/health":
            return Reply([respond_json(200, {"status": "ok"})])
        self._admit(request)
        if path == "/models" and request.method == "GET":
            extra = {"max_model_len": settings.context} if dialect.tokenizes else {}
            facts = {"object": "model", "created": 1_700_000_000, "owned_by": dialect.name, **extra}
            models = [{"id": name, **facts} for name in settings.models]
            return Reply([respond_json(200, {"object": "list", "data": models})])
        if path == "/apply-template" and dialect.applies_template:
            return Reply([respond_json(200, {"prompt": prompt_of(parse_body(request.body), dialect, chat=True)})])
        if path == "/tokenize" and dialect.tokenizes:
            fields = parse_body(request.body)
            text = fields.get("content", fields.get("prompt"))
            tokens = split_tokens(text if isinstance(text, str) else prompt_of(fields, dialect, chat=True))
            numbers = [int.from_bytes(blake2b(token.encode(), digest_size=2).digest(), "big") for token in tokens]
            count = {} if dialect.applies_template else {"count": len(tokens), "max_model_len": settings.context}
            return Reply([respond_json(200, {**count, "tokens": numbers})])
        raise Refusal(404, f"Invalid URL ({request.method} {request.path})", kind="invalid_request_error")

    def _admit(self, request: HttpRequest) -> None:
        if self.settings.key is not None and request.authorization != f"Bearer {self.settings.key}":
            raise Refusal(401, "Incorrect API key provided.", kind="invalid_request_error", code="invalid_api_key")

    def _generate(self, request: HttpRequest, path: str, entry: dict[str, object]) -> Reply:
        settings, number = self.settings, self._number
        self._number += 1
        entry["number"] = number
        self._admit(request)
        self._limit_rate()
        fault = self._pick(number, str(entry["digest"]))
        fields = parse_body(request.body)
        chat = path == "/chat/completions"
        for name in ("model", "n", "seed", "stop", "stream", "temperature"):
            entry[name] = fields.get(name)
        entry["max_tokens"] = fields.get("max_completion_tokens", fields.get("max_tokens"))
        entry["logprobs"] = fields.get("top_logprobs", fields.get("logprobs"))
        messages = fields.get("messages") if chat else None
        if isinstance(messages, list):
            entry["roles"] = [message.get("role") for message in messages if isinstance(message, dict)]
        if fields.get("seed") is not None and settings.dialect.seed is SeedRule.CRASHES:
            return Reply([], 0, outcome="crashed", end=End.CLOSE)
        if b"POISON" in request.body:
            return Reply([], 0, outcome="dropped", end=End.CLOSE)
        completion = complete(fields, settings, self.memory, chat=chat)
        entry["continuing"] = completion.continuing
        entry["choices"] = len(completion.choices)
        entry["prompt_tokens"] = completion.prompt_tokens
        entry["completion_tokens"] = completion.completion_tokens
        streaming = bool(fields.get("stream"))
        if fault is not None and (streaming or fault.kind not in STREAM_ONLY):
            entry["fault"] = str(fault.kind)
            return spoil(completion, fault, self._clock(), self._pace(completion, streaming))
        return play(completion, self._pace(completion, streaming))

    def _pick(self, number: int, digest: str) -> Fault | None:
        if not self.settings.faults:
            return None
        name = f"{self.settings.fault_seed}/{digest}/{self.memory.count(digest)}"
        return pick_fault(self.settings.faults, number, name)

    def _pace(self, completion: Completion, streaming: bool) -> tuple[float, float]:
        latency, per_token = self.settings.latency, self.settings.token_latency
        return (latency, per_token) if streaming else (latency + per_token * completion.longest, 0.0)

    def _burst(self) -> float:
        return self.settings.burst or max(1.0, self.settings.rate_limit or 1.0)

    def _limit_rate(self) -> None:
        """Take one from the token bucket, or refuse; refuse too when too many requests are in service."""
        settings, now = self.settings, self._clock()
        if settings.max_live is not None and self.live >= settings.max_live:
            raise Refusal(429, f"Too many requests in service: at most {settings.max_live}.", kind="overloaded")
        if settings.rate_limit is None:
            return
        refill = (now - self._counted_at) * settings.rate_limit
        self._allowance, self._counted_at = min(self._burst(), self._allowance + refill), now
        if self._allowance < 1.0:
            wait = (1.0 - self._allowance) / settings.rate_limit
            headers = f"retry-after-ms: {ceil(wait * 1000)}\r\nRetry-After: {ceil(wait)}\r\n"
            message = f"Rate limit reached: {settings.rate_limit:g} requests per second."
            raise Refusal(429, message, kind="requests", code="rate_limit_exceeded", headers=headers)
        self._allowance -= 1.0


def play(completion: Completion, pace: tuple[float, float]) -> Reply:
    """The reply that sends a completion as it should be sent."""
    delay, gap = pace
    if completion.streaming:
        frames = [_STREAM_HEAD, *map(_chunk, completion.events()), _chunk(b"data: [DONE]\n\n") + _LAST_CHUNK]
        return Reply([frames[0] + frames[1], *frames[2:]], delay=delay, gap=gap)
    return Reply([respond_bytes(200, completion.body())], delay=delay)


def spoil(completion: Completion, fault: Fault, now: float, pace: tuple[float, float]) -> Reply:
    """The reply that sends a completion, or should have, with a fault."""
    kind = fault.kind
    if kind in _STATUS:
        return _spoilt_status(fault, now)
    if kind is FaultKind.HANG:
        return Reply([], 0, outcome="faulted", end=End.HANG)
    if kind is FaultKind.DROP:
        return Reply([], 0, outcome="faulted", end=End.CLOSE, delay=pace[0])
    if kind is FaultKind.EMPTY_CHOICES:
        completion.choices.clear()
    elif kind is FaultKind.WRONG_COUNT:
        completion.miscount()
    reply = play(completion, pace)
    reply.outcome = "faulted"
    frames = reply.frames
    if kind is FaultKind.RESET:
        whole = b"".join(frames)
        body = whole.index(b"\r\n\r\n") + 4
        reply.frames, reply.end = [whole[: (body + len(whole)) // 2]], End.RESET
    elif kind is FaultKind.SLOW_LORIS:
        reply.frames, reply.gap = [bytes((byte,)) for byte in b"".join(frames)], fault.seconds
    elif kind is FaultKind.WRONG_CONTENT_TYPE:
        right = b"text/event-stream" if completion.streaming else b"application/json"
        frames[0] = frames[0].replace(right, b"text/html", 1)
    elif kind is FaultKind.TRUNCATED_STREAM:
        reply.frames = [*frames[: max(1, len(frames) // 2)], _LAST_CHUNK]
    elif kind is FaultKind.DUPLICATE_CHUNK:
        middle = max(1, len(frames) // 2)
        reply.frames = [*frames[:middle], frames[middle], *frames[middle:]]
    elif kind is FaultKind.TRUNCATED_JSON and completion.streaming:
        cut = list(completion.events())[: max(1, len(frames) // 2)]
        cut[-1] = cut[-1][: len(cut[-1]) // 2] + b"\n\n"
        reply.frames = [_STREAM_HEAD, *map(_chunk, cut), _LAST_CHUNK]
    elif kind is FaultKind.TRUNCATED_JSON:
        body_bytes = completion.body()
        reply.frames = [respond_bytes(200, body_bytes[: len(body_bytes) // 2])]
    return reply


def refuse(refusal: Refusal) -> Reply:
    """The reply that says no, with OpenAI's error object."""
    return Reply([respond_json(refusal.status, refusal.body(), refusal.headers)], refusal.status, outcome="refused")


def respond_json(status: int, value: object, headers: str = "") -> bytes:
    """A whole HTTP response with a JSON body."""
    return respond_bytes(status, json.dumps(value).encode(), headers)


def respond_bytes(status: int, body: bytes, headers: str = "", content_type: str = "application/json") -> bytes:
    """A whole HTTP response."""
    head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: {content_type}\r\n"
    return f"{head}{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _spoilt_status(fault: Fault, now: float) -> Reply:
    status = _STATUS[fault.kind]
    if status == 502:
        page = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
        return Reply([respond_bytes(502, page, content_type="text/html")], 502, outcome="faulted")
    asked = {
        FaultKind.RETRY_SECONDS: f"Retry-After: {fault.seconds:g}\r\n",
        FaultKind.RETRY_DATE: f"Retry-After: {formatdate(ceil(now + fault.seconds), usegmt=True)}\r\n",
        FaultKind.RETRY_MS: f"retry-after-ms: {fault.seconds * 1000:g}\r\n",
        FaultKind.RETRY_ABSURD: "Retry-After: 1000000000\r\n",
        FaultKind.RETRY_NEGATIVE: "Retry-After: -5\r\n",
    }
    message = {429: "Rate limit reached.", 500: "The server had an error.", 503: "The engine is overloaded."}[status]
    reply = refuse(Refusal(status, message, kind="server_error", headers=asked.get(fault.kind, "")))
    reply.outcome = "faulted"
    return reply


_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests",
    500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable",
}  # fmt: skip
_STATUS = {
    FaultKind.RETRY_SECONDS: 429, FaultKind.RETRY_DATE: 429, FaultKind.RETRY_MS: 429, FaultKind.RETRY_ABSURD: 429,
    FaultKind.RETRY_NEGATIVE: 429, FaultKind.SERVER_ERROR: 500, FaultKind.BAD_GATEWAY: 502, FaultKind.UNAVAILABLE: 503,
}  # fmt: skip
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
