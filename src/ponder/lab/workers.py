"""The engine in worker processes: all cores at work, one BLAS thread each, the same completions bit for bit.

Two processes with one BLAS thread each are both faster and steadier than one process with two: the products are too small
to be worth splitting, and threads that wait for each other stall when the machine is shared. Requests go to a worker and
completions come back as lines of JSON, arrays as base64; a worker ends with its input.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ponder.lab.batch import Completion, Request, check, resolve
from ponder.lab.engine import Engine
from ponder.lab.model import load_weights


class Pool:
    """An engine spread over worker processes. Any thread may call it; workers start with the first request.

    Attributes:
        engine: the model in this process, for `hidden`, `logits` and `score`.
        weights: the model.
    """

    def __init__(self, path: Path, workers: int) -> None:
        """Prepare a pool.

        Args:
            path: weights, as `load_weights` takes them.
            workers: processes, at least 1.

        Raises:
            ValueError: for fewer than one worker.
        """
        if workers < 1:
            raise ValueError(f"workers is {workers}; it must be at least 1")
        self.engine = Engine(load_weights(path))
        self.weights = self.engine.weights
        self._path, self._count = path, workers
        self._workers: list[_Worker] = []
        self._lock = threading.Lock()
        atexit.register(self.close)

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """Draw all requests; the order of the answers is the order of the requests; errors as for `Engine.run`."""
        for request in requests:
            check(request, self.engine.weights)
        return [future.result() for future in [self.submit(request) for request in requests]]

    def submit(self, request: Request) -> Future[Completion]:
        """Hand one request to the worker with the least to do; cancelling its future frees the slot.

        The future raises RuntimeError when its worker dies; the next request starts another.

        Raises:
            ValueError: when the request is outside its bounds.
        """
        check(request, self.engine.weights)
        with self._lock:
            alive = [worker for worker in self._workers if worker.alive]
            self._workers = alive + [_Worker(self._path) for _ in range(self._count - len(alive))]
            worker = min(self._workers, key=lambda worker: worker.load)
            return worker.send(request)

    def rest(self) -> bool:
        """End the workers if none has anything to do; tells whether it did."""
        with self._lock:
            if any(worker.load for worker in self._workers):
                return False
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()
        return True

    def close(self) -> None:
        """End the workers; futures not done raise RuntimeError. The next request starts new ones."""
        with self._lock:
            workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()


class _Worker:
    """One process and the futures it owes."""

    def __init__(self, path: Path) -> None:
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1")
        packages = str(Path(__file__).parents[2])
        inherited = os.environ.get("PYTHONPATH")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(filter(None, (packages, inherited)))},
            start_new_session=True,  # Ctrl-C is for this process to handle; the worker ends with its input
        )
        self._owed: dict[int, Future[Completion]] = {}
        self._lock = threading.Lock()
        self._next = 0
        self._reader = threading.Thread(target=self._receive, name="ponder-lab-pool", daemon=True)
        self._reader.start()

    @property
    def load(self) -> int:
        return len(self._owed)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, request: Request) -> Future[Completion]:
        future: Future[Completion] = Future()
        with self._lock:
            self._next += 1
            self._owed[self._next] = future
            if not self._write({"id": self._next, **_pack_request(request)}):
                del self._owed[self._next]
                resolve(future, self._death())
            number = self._next
        future.add_done_callback(partial(self._forget, number))
        return future

    def _write(self, message: dict[str, object]) -> bool:
        try:
            _pipe(self._process.stdin).write(json.dumps(message).encode() + b"\n")
            _pipe(self._process.stdin).flush()
        except (OSError, ValueError):  # the worker is gone, or its pipe closed
            return False
        return True

    def _forget(self, number: int, future: Future[Completion]) -> None:
        if future.cancelled():
            with self._lock:
                if self._owed.pop(number, None) is not None:
                    self._write({"cancel": number})

    def close(self) -> None:
        with self._lock, suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def _receive(self) -> None:
        with _pipe(self._process.stdout) as lines:
            for line in lines:
                message = json.loads(line)
                with self._lock:
                    future = self._owed.pop(message["id"], None)
                if future is not None:
                    resolve(future, _read_outcome(message))
        self._process.wait()
        with self._lock, suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        with self._lock:
            owed, self._owed = list(self._owed.values()), {}
        for future in owed:
            resolve(future, self._death())

    def _death(self) -> RuntimeError:
        return RuntimeError(f"lab worker {self._process.pid} ended with code {self._process.poll()}; ask again")


def serve(path: Path) -> None:
    """Be a worker: answer requests from standard input until it ends."""
    engine = Engine(load_weights(path))
    lock = threading.Lock()
    running: dict[int, Future[Completion]] = {}

    def answer(number: int, future: Future[Completion]) -> None:
        running.pop(number, None)
        if future.cancelled():
            return
        error = future.exception()
        content = _pack_completion(future.result()) if error is None else {"error": repr(error)}
        with lock:
            sys.stdout.write(json.dumps({"id": number, **content}) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        message = json.loads(line)
        if "cancel" in message:
            if (future := running.get(message["cancel"])) is not None:
                future.cancel()
            continue
        number = message.pop("id")
        running[number] = future = engine.submit(_unpack_request(message))
        future.add_done_callback(partial(answer, number))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("a lab worker was started without pipes")
    return stream


def _read_outcome(message: dict[str, Any]) -> Completion | Exception:
    return RuntimeError(message["error"]) if "error" in message else _unpack_completion(message)


def _pack_request(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in _PLAIN} | {"stop": sorted(request.stop)}


def _unpack_request(message: dict[str, Any]) -> Request:
    message["prefix"], message["stop"] = tuple(message["prefix"]), frozenset(message["stop"])
    return Request(**message)


def _pack_completion(completion: Completion) -> dict[str, object]:
    arrays = {name: getattr(completion, name) for name in _ARRAYS}
    packed = {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}
    return packed | {"top": completion.top_ids.shape[1], "stopped_by": completion.stopped_by}


def _unpack_completion(message: dict[str, Any]) -> Completion:
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in _ARRAYS.items():
        arrays[name] = np.frombuffer(bytearray(base64.b64decode(message[name])), dtype=kind)
    for name in ("top_ids", "top_logprobs"):
        arrays[name] = arrays[name].reshape(len(arrays["ids"]), message["top"])
    return Completion(**arrays, stopped_by=message["stopped_by"])


_PLAIN = ("prefix", "key", "max_tokens", "temperature", "top_p", "top_k", "top")
_ARRAYS = {"ids": np.int64, "logprobs": np.float32, "top_ids": np.int64, "top_logprobs": np.float32}

_WORKER = "import sys, pathlib; from ponder.lab.workers import serve; serve(pathlib.Path(sys.argv[1]))"
