"""No, in the form that OpenAI's clients read: a status, and an error object with message, type, param and code."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ponder.errors import CapabilityError, EndpointError, PonderError, UsageError
from ponder.types import JSON

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(Exception):
    """A request that is answered by an error object. param: the field at fault; code: for programs."""

    def __init__(
        self, status: int, message: str, *, code: str, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, JSON]:
        """The error object."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy(message: str, seconds: float, code: str = "rate_limit_exceeded") -> Refusal:
    """429, with when to come back."""
    return Refusal(429, message, code=code, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


def refusal_of(error: PonderError) -> Refusal:
    """What a caller is told of an error of ours. Addresses and words of the engine stay here: they are for the operator."""
    match error:
        case CapabilityError():
            return Refusal(400, _after_name(str(error)), code="unsupported_by_engine")
        case UsageError():
            hidden = "this strategy cannot be run so; its operator finds the reason in the server's log"
            return Refusal(400, hidden if "/" in str(error) else str(error), code="invalid_value", param="ponder")
        case EndpointError():
            message = "the engine behind this server cannot be used now; its operator finds the reason in the server's log"
            return Refusal(502, message, code="engine_failed")
        case _:
            return Refusal(500, "this server failed; its operator finds the reason in the server's log", code="internal_error")


def _after_name(message: str) -> str:
    """A message without the engine's own name, which may hold its address."""
    return message.partition("): ")[2] or message.partition(": ")[2] or message


def late(message: str) -> Refusal:
    """408: the caller's own deadline, which another try would not keep either; clients of OpenAI's are told not to make it."""
    return Refusal(408, message, code="deadline_exceeded", headers={"x-should-retry": "false"})
