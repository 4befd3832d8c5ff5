"""Faults as data: which request meets which failure, decided by number or by chance, and the same on every replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b


class FaultKind(StrEnum):
    """The ways in which an endpoint fails. Those marked (stream) leave other requests alone."""

    RETRY_SECONDS = "retry_seconds"  # 429, Retry-After in seconds
    RETRY_DATE = "retry_date"  # 429, Retry-After as an HTTP date
    RETRY_MS = "retry_ms"  # 429, retry-after-ms
    RETRY_ABSURD = "retry_absurd"  # 429, Retry-After: 1000000000
    RETRY_NEGATIVE = "retry_negative"  # 429, Retry-After: -5
    SERVER_ERROR = "server_error"  # 500 with an error object
    BAD_GATEWAY = "bad_gateway"  # 502 with an HTML page
    UNAVAILABLE = "unavailable"  # 503 with an error object
    DROP = "drop"  # the connection closes before the first byte
    RESET = "reset"  # half of the body, then a connection reset
    SLOW_LORIS = "slow_loris"  # one byte every `seconds`
    HANG = "hang"  # no byte, ever
    TRUNCATED_JSON = "truncated_json"  # well-formed HTTP, JSON cut in the middle
    TRUNCATED_STREAM = "truncated_stream"  # (stream) ends after half of the events, without [DONE]
    DUPLICATE_CHUNK = "duplicate_chunk"  # (stream) the event in the middle is sent twice
    WRONG_CONTENT_TYPE = "wrong_content_type"  # the right body as text/html
    EMPTY_CHOICES = "empty_choices"  # choices: []
    WRONG_COUNT = "wrong_count"  # one choice too few, or two for n = 1


STREAM_ONLY = frozenset({FaultKind.TRUNCATED_STREAM, FaultKind.DUPLICATE_CHUNK})


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of a fault script.

    Attributes:
        kind: What goes wrong.
        at: Numbers of the generation requests it happens to; the first request after a reset is number 0.
        probability: Chance, in [0, 1], that it happens to any other request. The chance is drawn from (fault seed, body,
            how often this body came), so that neither the order of arrival nor concurrency changes who is hit.
        seconds: What Retry-After asks for, or the time per byte of a slow loris; at least 0.
    """

    kind: FaultKind
    at: tuple[int, ...] = ()
    probability: float = 0.0
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"fault {self.kind}: probability is {self.probability:g}, must lie in [0, 1]")
        if self.seconds < 0:
            raise ValueError(f"fault {self.kind}: seconds is {self.seconds:g}, must be at least 0")

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """Read ``KIND[=SECONDS][@NUMBER,NUMBER...][:PROBABILITY]``, for example ``hang@3`` or ``retry_ms=0.02:0.1``."""
        rest, _, chance = spec.partition(":")
        rest, _, numbers = rest.partition("@")
        kind, _, seconds = rest.partition("=")
        try:
            at = tuple(int(number) for number in numbers.split(",")) if numbers else ()
            return cls(FaultKind(kind), at, float(chance or 0.0), float(seconds or 1.0))
        except ValueError as error:
            form = "write KIND[=SECONDS][@NUMBER,...][:PROBABILITY]"
            raise ValueError(f"fault {spec!r}: {error}; {form} with a kind of {', '.join(FaultKind)}") from error


def pick_fault(faults: Sequence[Fault], number: int, name: str) -> Fault | None:
    """The fault of the request with this number, or None.

    Args:
        faults: The script; the first line that names the number wins, then chance decides over all lines.
        number: The request's number in order of arrival.
        name: What chance is drawn from.
    """
    for fault in faults:
        if number in fault.at:
            return fault
    left = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
    for fault in faults:
        left -= fault.probability
        if left < 0:
            return fault
    return None
