"""Batched sampling from a lab model: continuous batching over a key-value cache, with results that do not depend on the batch.

A completion is a bit-for-bit function of (weights, prefix, key, sampling settings). Which other samples are under way,
their order, the number of threads that submit, and whether the prefix was prefilled or sampled change nothing: the kernel
(`model.forward`) is row-wise exact and the random number for a token hashes (key, its position in the sequence). So a
sample cut by `max_tokens` is continued, by asking again with what was written as the prefix and the same key, just as if
it had never been cut.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np

from ponder.lab.batch import Batch, Completion, Request, check, prefill, project
from ponder.lab.model import Cache, Floats, Weights
from ponder.lab.sampling import log_softmax

__all__ = ["Completion", "Engine", "Request"]

SCORED_AT_ONCE = 64  # sequences that share a cache while they are scored


class Engine:
    """Draws samples and scores text with one model, in the calling thread (`run`, `score`) or a background one (`submit`).

    All methods may be called from any thread; the work itself is done one step at a time.
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._batch = Batch(weights)
        self._working = threading.Lock()  # held by whoever steps the batch
        self._inbox: deque[tuple[Request, Future[Completion]]] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def run(self, requests: Sequence[Request]) -> list[Completion]:
        """Draw all requests; the order of the answers is the order of the requests.

        Raises:
            ValueError: naming the first request that is outside its bounds; nothing is drawn then.
        """
        for request in requests:
            check(request, self.weights)
        futures: list[Future[Completion]] = [Future() for _ in requests]
        with self._working:
            for request, future in zip(requests, futures, strict=True):
                self._batch.add(request, future)
            while not all(future.done() for future in futures):
                self._batch.step()
        return [future.result() for future in futures]

    def submit(self, request: Request) -> Future[Completion]:
        """Queue one request for the background thread, which draws it along with all others; cancelling frees its slot.

        Raises:
            ValueError: when the request is outside its bounds.
        """
        check(request, self.weights)
        future: Future[Completion] = Future()
        with self._wake:
            self._inbox.append((request, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="ponder-lab", daemon=True)
                self._thread.start()
            self._wake.notify()
        return future

    def hidden(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Give the last hidden states of sequences, [length, width] each, as value heads read them.

        Raises:
            ValueError: for a sequence that is empty, too long, or holds an id outside the vocabulary.
        """
        for sequence in sequences:
            check(Request(tuple(sequence), 0, 1), self.weights, room=0)
        states: list[Floats] = []
        for first in range(0, len(sequences), SCORED_AT_ONCE):
            some = sequences[first : first + SCORED_AT_ONCE]
            cache = Cache.empty(self.weights.shape, len(some) + 1)
            jobs = [(slot, 0, ids) for slot, ids in enumerate(some)]
            states += prefill(self.weights, cache, jobs, scratch=len(some))
        return states

    def logits(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Give the logits after every token of sequences, [length, vocabulary] each; errors as for `hidden`."""
        return [project(self.weights, states) for states in self.hidden(sequences)]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[Floats]:
        """Give log-probabilities at temperature 1 of every token given those before it; errors as for `hidden`.

        Returns:
            [length - 1] for each sequence: the first token has nothing before it.
        """
        scores: list[Floats] = []
        for sequence, values in zip(sequences, self.logits(sequences), strict=True):
            chosen = np.asarray(sequence[1:], dtype=np.int64)
            scores.append(log_softmax(values[:-1])[np.arange(len(chosen)), chosen])
        return scores

    def _serve(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._inbox or self._batch.busy)
                arrived = [self._inbox.popleft() for _ in range(len(self._inbox))]
            with self._working:
                for request, future in arrived:
                    self._batch.add(request, future)
                self._batch.step()
