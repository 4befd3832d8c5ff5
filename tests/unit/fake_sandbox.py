"""A sandbox without walls, in this process, for the small programs of the tests; what crosses goes through the real border."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, field

from ponder.sandbox import guest, wire
from ponder.sandbox.core import Call, Handle, Limits, Outcome, Reply, Stopped


@dataclass
class FakeSandbox:
    """`opened` lists the sources, in order. A program that calls `hang()` or `leave()` has run out of time or died."""

    tier: str = "fake"
    opened: list[str] = field(default_factory=list)

    def open(self, source: str, limits: Limits) -> FakeSession:
        self.opened.append(source)
        return FakeSession(source, limits)

    def run(self, source: str, inputs: Sequence[Call] | str, limits: Limits) -> Outcome:
        if not isinstance(inputs, str):
            session, replies = self.open(source, limits), []
            with contextlib.suppress(Stopped):
                for call in inputs:
                    replies.append(session.call(call))
            stop = session.ended
            return Outcome(stop.status if stop else "ok", tuple(replies), detail=stop.detail if stop else "")
        self.opened.append(source)
        before, out = sys.stdin, io.StringIO()
        sys.stdin = io.StringIO(inputs)
        try:
            with contextlib.redirect_stdout(out):
                exec(source, {"__name__": "__main__", "hang": hang, "leave": leave})
        except Stopped as stop:
            return Outcome(stop.status)
        except BaseException as error:
            return Outcome("error", stdout=out.getvalue(), stderr=f"Traceback\n{type(error).__name__}: {error}\n")
        finally:
            sys.stdin = before
        return Outcome("ok", stdout=out.getvalue())


def hang() -> None:
    raise Stopped("timeout")


def leave() -> None:
    raise Stopped("died")


class FakeSession:
    def __init__(self, source: str, limits: Limits) -> None:
        self.limits = limits
        self.space: dict[str, object] = {"__name__": "program", "hang": hang, "leave": leave}
        self.handles: list[object] = []
        self.ended: Stopped | None = None
        try:
            exec(source, self.space)
        except Stopped as stop:
            self.ended = stop
        except BaseException as error:
            self.ended = Stopped("error", f"{type(error).__name__}: {error}")

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def outcome(self) -> Outcome:
        return Outcome(self.ended.status if self.ended else "ok")

    def call(self, call: Call) -> Reply:
        if self.ended:
            raise self.ended
        given = wire.decode(self._over(call.args), self.handles.__getitem__)
        named = wire.decode(self._over(dict(call.kwargs)), self.handles.__getitem__)
        try:
            value = guest._resolve(types.SimpleNamespace(**self.space), self.handles, call.function)(*given, **named)
        except Stopped as stop:
            self.ended = stop
            raise
        except BaseException as error:
            return Reply(error=type(error).__name__, message=str(error))
        return Reply(wire.decode(wire.loads(wire.dumps(wire.encode(value, self._keep))), Handle))

    def _keep(self, value: object) -> int:
        self.handles.append(value)
        return len(self.handles) - 1

    def _over(self, value: object) -> object:
        return wire.loads(wire.dumps(wire.encode(value, lambda handle: handle.id)))
