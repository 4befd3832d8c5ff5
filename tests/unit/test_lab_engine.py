"""The engine: a completion depends on nothing but its request, whatever else is under way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lab_models import SHAPE, obvious_logits, random_tensors, random_weights

from ponder import lab
from ponder.lab import fingerprint, weights_path
from ponder.lab.batch import SLOTS
from ponder.lab.engine import Completion, Engine, Request
from ponder.lab.model import save
from ponder.lab.tokenizer import EOS
from ponder.lab.workers import Pool

PREFIXES = [(1, 30, 40), (1, 30, 40, 50, 60), (1, 99), tuple(range(40, 85))]
STOP = frozenset(range(20))  # so many that lengths vary


def mixed_requests(n):
    kinds = [{}, {"temperature": 0.5, "top": 3}, {"temperature": 0.0}, {"top_p": 0.8}, {"top_k": 4, "top": 1}]
    return [
        Request(PREFIXES[i % len(PREFIXES)], key=i * 977, max_tokens=5 + i % 23, stop=STOP, **kinds[i % len(kinds)])
        for i in range(n)
    ]


def assert_same(ours: list[Completion], theirs: list[Completion]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.stopped_by == b.stopped_by
        for name in ("ids", "logprobs", "top_ids", "top_logprobs"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == getattr(b, name).dtype


@pytest.mark.slow
def test_completions_are_the_same_bits_alone_together_reversed_and_submitted_from_threads():
    requests = mixed_requests(40)
    together = Engine(random_weights()).run(requests)
    assert {completion.reason for completion in together} == {"stop", "length"}
    alone = Engine(random_weights())
    assert_same([alone.run([request])[0] for request in requests], together)
    assert_same(Engine(random_weights()).run(requests[::-1])[::-1], together)
    shared = Engine(random_weights())
    with ThreadPoolExecutor(8) as threads:
        futures = list(threads.map(shared.submit, requests))
    assert_same([future.result(60) for future in futures], together)


@pytest.mark.slow
def test_more_requests_than_slots_and_prefixes_than_fit_are_all_drawn_in_order():
    requests = [
        Request((1, 20 + i % 200, 30 + i % 7), key=i, max_tokens=1 + i % 3, stop=frozenset()) for i in range(2 * SLOTS + 30)
    ]
    engine = Engine(random_weights())
    completions = engine.run(requests)
    assert [len(completion.ids) for completion in completions] == [request.max_tokens for request in requests]
    assert_same(Engine(random_weights()).run(requests[-5:]), completions[-5:])
    assert_same(engine.run(requests), completions)


def test_a_sample_cut_and_continued_with_its_key_is_the_sample_that_was_not_cut():
    engine = Engine(random_weights())
    (whole,) = engine.run([Request((1, 30), key=5, max_tokens=20, stop=frozenset())])
    (first,) = engine.run([Request((1, 30), key=5, max_tokens=8, stop=frozenset())])
    (rest,) = engine.run([Request((1, 30, *first.ids.tolist()), key=5, max_tokens=12, stop=frozenset())])
    np.testing.assert_array_equal(np.concatenate([first.ids, rest.ids]), whole.ids)
    np.testing.assert_array_equal(np.concatenate([first.logprobs, rest.logprobs]), whole.logprobs)


def test_greedy_decoding_follows_the_obvious_logits_and_records_their_log_probabilities():
    (completion,) = Engine(random_weights()).run(
        [Request((1, 30), key=0, max_tokens=15, temperature=0.0, stop=frozenset(), top=4)]
    )
    ids = [1, 30]
    for step, token in enumerate(completion.ids.tolist()):
        values = obvious_logits(random_tensors(), ids)[-1]
        scores = values - values.max() - np.log(np.exp(values - values.max()).sum())
        assert token == values.argmax() == completion.top_ids[step, 0]
        np.testing.assert_allclose(completion.logprobs[step], scores[token], atol=1e-4)
        np.testing.assert_allclose(completion.top_logprobs[step], np.sort(scores)[::-1][:4], atol=1e-4)
        ids.append(token)


def test_log_probabilities_are_those_of_temperature_one_and_equal_the_score_of_the_text():
    engine = Engine(random_weights())
    (completion,) = engine.run([Request((1, 30), key=3, max_tokens=12, temperature=2.0, top_k=20, stop=frozenset())])
    (scores,) = engine.score([[1, 30, *completion.ids.tolist()]])
    np.testing.assert_array_equal(scores[1:], completion.logprobs)
    assert [len(states) for states in engine.hidden([[1], [1, 2, 3]])] == [1, 3]
    assert engine.score([[1]])[0].shape == (0,)
    assert engine.score([]) == []


def test_sampled_first_tokens_have_the_frequencies_of_the_model():
    engine, n = Engine(random_weights()), 2000
    completions = engine.run([Request((1, 30), key=key, max_tokens=1, temperature=0.3) for key in range(n)])
    values = obvious_logits(random_tensors(), [1, 30])[-1] / 0.3
    probabilities = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
    seen = np.bincount([int(completion.ids[0]) for completion in completions], minlength=256) / n
    error = np.sqrt(probabilities * (1 - probabilities) / n)
    assert np.all(np.abs(seen - probabilities) <= 4.5 * error + 1 / n)


def test_a_stop_id_ends_a_sample_and_is_included_and_a_full_context_cuts():
    engine = Engine(random_weights())
    (free,) = engine.run([Request((1, 30), key=1, max_tokens=10, stop=frozenset())])
    stop = int(free.ids[4])
    (stopped,) = engine.run([Request((1, 30), key=1, max_tokens=10, stop=frozenset({stop}))])
    assert (stopped.reason, stopped.stopped_by) == ("stop", stop)
    np.testing.assert_array_equal(stopped.ids, free.ids[: free.ids.tolist().index(stop) + 1])
    (cut,) = engine.run([Request((1,) * 120, key=1, max_tokens=999, stop=frozenset())])
    assert (len(cut.ids), cut.reason, cut.stopped_by) == (SHAPE.positions - 120, "length", None)
    assert Request((1,), 0, 1).stop == {EOS}


def test_a_cancelled_future_frees_its_place_and_a_broken_step_reaches_everybody_waiting(monkeypatch):
    engine = Engine(random_weights())
    entered, gate = threading.Event(), threading.Event()
    step = engine._batch.step

    def held() -> None:
        entered.set()
        gate.wait(30)
        step()

    monkeypatch.setattr(engine._batch, "step", held)
    futures = [engine.submit(Request((1, 30 + i), key=i, max_tokens=3)) for i in range(4)]
    entered.wait(30)
    assert futures[2].cancel()
    gate.set()
    assert [len(futures[i].result(30).ids) for i in (0, 1, 3)] == [3, 3, 3]

    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("no numbers today")

    monkeypatch.setattr("ponder.lab.batch.prefill", broken)
    with pytest.raises(FloatingPointError, match="no numbers today"):
        engine.submit(Request((1, 77), key=0, max_tokens=3)).result(30)
    monkeypatch.undo()
    assert len(engine.submit(Request((1, 30), key=0, max_tokens=3)).result(30).ids) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prefix": ()}, "prefix has 0 tokens; the model takes 1 to 127"),
        ({"prefix": (1,) * 128}, "prefix has 128 tokens; the model takes 1 to 127"),
        ({"prefix": (1, 256)}, "token id 256 is outside 0..255"),
        ({"stop": frozenset({-1})}, "token id -1 is outside 0..255"),
        ({"key": 2**64}, f"key is {2**64}; it must be 0 to 2**64 - 1"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0; it must be finite and at least 0"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; it must be at least 0"),
        ({"top": 257}, "top is 257; it must be 0 to 256"),
    ],
)
def test_a_request_outside_its_bounds_is_named_before_anything_is_drawn(change, message):
    request = Request(**({"prefix": (1,), "key": 0, "max_tokens": 1} | change))
    engine = Engine(random_weights())
    for ask in (engine.submit, lambda request: engine.run([request])):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            ask(request)
        assert str(caught.value) == message


@pytest.mark.slow
@pytest.mark.integration
def test_worker_processes_give_the_bits_of_the_engine_and_a_dead_worker_fails_its_futures(tmp_path):
    save(tmp_path, SHAPE, random_tensors())
    pool = Pool(tmp_path, 2)
    requests = mixed_requests(40)
    assert_same(pool.run(requests), pool.engine.run(requests))
    slow = [pool.submit(Request((1,), key=key, max_tokens=120, stop=frozenset())) for key in range(2000)]
    for worker in pool._workers:
        worker._process.kill()
    with pytest.raises(RuntimeError, match=r"^lab worker [0-9]+ ended with code -9; ask again$"):
        slow[-1].result(30)
    for worker in pool._workers:
        worker._process.wait()
    assert_same(pool.run(requests[:2]), pool.engine.run(requests[:2]))
    endless = [pool.submit(Request((1,), key=key, max_tokens=127, stop=frozenset())) for key in range(3000)]
    assert all([future.cancel() for future in endless[5:]])
    assert [len(future.result(30).ids) for future in endless[:5]] == [127] * 5
    pool.close()
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Pool(tmp_path, 0)


@pytest.mark.slow
@pytest.mark.integration
def test_pools_that_idle_for_long_let_their_workers_go_and_start_others_when_asked(tmp_path):
    request = Request((1,), key=1, max_tokens=3, stop=frozenset())
    for name in "abcd":
        (tmp_path / name).mkdir()
        save(tmp_path / name, SHAPE, random_tensors())
    asked = [lab.pool(str(tmp_path / name), 1) for name in "abc"]
    before = asked[0].run([request])
    lab.pool(str(tmp_path / "b"), 1)
    assert len(asked[0]._workers) == 1
    lab.pool(str(tmp_path / "d"), 1)
    assert asked[0]._workers == [], "three others were used since"
    assert lab.pool(str(tmp_path / "a"), 1) is asked[0]
    assert_same(asked[0].run([request]), before)
    asked[0].close()


def test_an_unknown_size_names_the_three(tmp_path):
    with pytest.raises(ValueError, match="lab model 'huge' is none of small, base, large"):
        weights_path("huge")
    save(tmp_path, SHAPE, random_tensors())
    assert len(fingerprint(str(tmp_path))) == 16
