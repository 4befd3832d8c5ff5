"""The lab's reward models: a value depends on nothing but its tokens, and nothing is computed twice."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lab_models import SHAPE, obvious_logits, random_tensors

import ponder.lab.reward as reward
from ponder.errors import DataError, UsageError
from ponder.lab.blas import _openblas, one_thread
from ponder.lab.engine import Engine
from ponder.lab.model import load_weights, save
from ponder.lab.reward import Facts, Files, RewardEngine, lab_shaped, logistic, read_facts, shipped, step_ends
from ponder.lab.tokenizer import EOS, encode_prompt
from ponder.learners.datasets import steps_of

RNG = np.random.default_rng(5)
HEAD = RNG.standard_normal((1, SHAPE.width)).astype(np.float16).astype(np.float32)


def folder(path, kind="process", bias=0.25, **facts):
    path.mkdir(exist_ok=True)
    save(path, SHAPE, random_tensors() | {"score.weight": HEAD} | ({"score.bias": np.array([bias])} if bias is not None else {}))
    (path / "reward.json").write_text(json.dumps({"kind": kind, **facts}))
    return path


@pytest.fixture
def engine(tmp_path):
    return RewardEngine(folder(tmp_path / "model"))


def tree(count, seed=0):
    """Sequences that share beginnings of all lengths, some of them equal, some a beginning of another."""
    rng, found = np.random.default_rng(seed), [[1, 40, 41]]
    for _ in range(count - 1):
        old = found[rng.integers(len(found))]
        kept = old[: rng.integers(1, len(old) + 1)]
        found.append([*kept, *rng.integers(20, 60, rng.integers(0, min(50, SHAPE.positions - len(kept)))).tolist()])
    return found


def everywhere(sequences):
    return [list(range(len(ids))) for ids in sequences]


def all_logits(engine, sequences):
    return engine.logits(sequences, everywhere(sequences))


def counting(monkeypatch):
    """How many rows each forward pass computes."""
    rows, compute = [], RewardEngine._compute
    monkeypatch.setattr(RewardEngine, "_compute", lambda self, new, paths: rows.append(new.shape[1]) or compute(self, new, paths))
    return rows


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_values_are_those_of_the_obvious_computation(engine):
    sequences = [[1], tree(8)[-1], list(range(1, 100))]
    tensors = {name: value.astype(np.float16) for name, value in random_tensors().items()}
    for ids, logits, values in zip(
        sequences, all_logits(engine, sequences), engine.values(sequences, everywhere(sequences)), strict=True
    ):
        over_vocabulary = obvious_logits(tensors, ids)
        hidden = np.linalg.lstsq(tensors["model.embed_tokens.weight"].astype(np.float64), over_vocabulary.T, rcond=None)[0].T
        expected = hidden @ HEAD[0].astype(np.float64) + 0.25
        np.testing.assert_allclose(logits, expected, atol=2e-4)
        np.testing.assert_allclose(values, 1 / (1 + np.exp(-expected)), atol=1e-4)


def test_it_is_the_kernel_that_samples_bit_for_bit(tmp_path):
    engine, sequences = RewardEngine(folder(tmp_path / "scored")), tree(40)
    save(tmp_path, SHAPE, random_tensors())
    plain = Engine(load_weights(tmp_path)).hidden(sequences)
    scale = random_tensors()["model.norm.weight"].astype(np.float16).astype(np.float64)
    expected = [(states.astype(np.float64) * (HEAD[0].astype(np.float64) * scale)).sum(-1) + 0.25 for states in plain]
    assert_same(all_logits(engine, sequences), expected)


@pytest.mark.slow
def test_values_are_the_same_bits_alone_together_reversed_by_pieces_and_after_others(tmp_path):
    path, sequences = folder(tmp_path / "model"), tree(60)
    together = all_logits(RewardEngine(path), sequences)
    assert_same([all_logits(RewardEngine(path), [ids])[0] for ids in sequences], together)
    assert_same(all_logits(RewardEngine(path), sequences[::-1])[::-1], together)
    grown, after = RewardEngine(path), RewardEngine(path)
    for end in (1, 3, 7, 40):
        grown.logits([ids[:end] for ids in sequences], [[0]] * len(sequences))
    assert_same(all_logits(grown, sequences), together)
    all_logits(after, tree(60, seed=1))
    assert_same(all_logits(after, sequences), together)
    assert_same(all_logits(after, sequences), together)


def test_values_are_the_same_bits_from_several_threads(tmp_path):
    path, sequences = folder(tmp_path / "model"), tree(60)
    together, shared = all_logits(RewardEngine(path), sequences), RewardEngine(path)
    with ThreadPoolExecutor(6) as threads:
        assert_same(list(threads.map(lambda ids: all_logits(shared, [ids])[0], sequences)), together)


def test_every_token_is_computed_once_however_often_it_is_asked_for(engine, monkeypatch):
    rows, sequences = counting(monkeypatch), tree(60)
    prefixes = {tuple(ids[: end + 1]) for ids in sequences for end in range(len(ids))}
    all_logits(engine, sequences)
    assert sum(rows) == len(prefixes) < 0.6 * sum(map(len, sequences))
    rows.clear()
    all_logits(engine, sequences[::-1])
    assert rows == []
    engine.logits([[*sequences[3], 77, 78]], [[0]])
    assert rows == [2]


def test_positions_are_given_in_the_order_asked_for(engine):
    ids = tree(3)[-1]
    [whole] = all_logits(engine, [ids])
    assert_same(engine.logits([ids, ids], [[2, 0, 2], []]), [whole[[2, 0, 2]], whole[:0]])
    assert engine.logits([], []) == []


@pytest.mark.slow
def test_what_was_not_used_for_longest_makes_room_and_changes_no_value(tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "TOGETHER", 200)
    path, sequences = folder(tmp_path / "model"), [[1, 20 + i % 50, 30 + i // 50, *range(60, 60 + i % 40)] for i in range(120)]
    expected = [all_logits(RewardEngine(path, nodes=5000), [ids])[0] for ids in sequences]
    small, hot = RewardEngine(path, nodes=200), [1, 99, 98, 97]
    rows = counting(monkeypatch)
    for ids, wanted in zip(sequences, expected, strict=True):
        assert_same(all_logits(small, [ids]), [wanted])
        small.logits([hot], [[3]])
    assert len(small._children) + len(small._free) == 200
    assert sum(rows) >= sum(map(len, sequences)) - 200
    rows.clear()
    small.logits([hot], [[3]])
    assert rows == [], "what is used all the time is never given up"
    assert_same(all_logits(small, sequences), expected)


def test_what_is_asked_for_now_is_not_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "TOGETHER", 150)
    engine, long = RewardEngine(folder(tmp_path / "model"), nodes=150), [1, *range(20, 119)]
    engine.logits([long], [[0]])
    engine.logits([list(range(40))], [[0]])
    rows = counting(monkeypatch)
    engine.logits([[*long, *range(20)]], [[0]])
    assert rows == [20]


def test_what_is_given_up_leaves_no_node_without_the_one_before_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "TOGETHER", 150)
    engine = RewardEngine(folder(tmp_path / "model"), nodes=150)
    for seed in range(12):
        all_logits(engine, tree(12, seed))
        vocabulary, known = SHAPE.vocabulary, set(engine._children.values())
        assert {edge // vocabulary for edge in engine._children} <= known | {0}
        assert len(known) + len(engine._free) == 150 == len(known | set(engine._free))


def test_a_computation_that_fails_leaves_nothing_behind(engine, monkeypatch):
    sequences = tree(20)
    expected = all_logits(engine, sequences)
    with monkeypatch.context() as patch:
        patch.setattr(RewardEngine, "_compute", lambda self, new, paths: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises(MemoryError):
            engine.logits([[1, 150]], [[1]])
    assert_same(all_logits(engine, [[1, 150]]), all_logits(RewardEngine(engine.files), [[1, 150]]))
    assert_same(all_logits(engine, sequences), expected)


def test_sequences_outside_the_model_are_refused_before_anything_is_computed(engine, monkeypatch):
    rows = counting(monkeypatch)
    for ids, what in (
        ([], "0 tokens"),
        ([1] * (SHAPE.positions + 1), "129 tokens; the model takes 1 to 128"),
        ([1, 256], "0..255"),
        ([-1], "0..255"),
    ):
        with pytest.raises(ValueError, match=what):
            engine.logits([[1, 2], ids], [[0], [0]])
    assert rows == []


def test_a_model_without_a_bias_and_one_of_a_single_file_are_read_too(tmp_path):
    path = folder(tmp_path / "model", bias=None)
    plain = RewardEngine(path)
    for source, name in (
        ("model.safetensors", "prm.safetensors"),
        ("config.json", "prm.json"),
        ("reward.json", "prm.reward.json"),
    ):
        (tmp_path / name).write_bytes((path / source).read_bytes())
    single = RewardEngine(Files.of(tmp_path / "prm.safetensors"))
    assert single.weights.fingerprint == plain.weights.fingerprint
    assert_same(all_logits(single, [[1, 2, 3]]), all_logits(plain, [[1, 2, 3]]))
    assert_same([all_logits(plain, [[1, 2, 3]])[0] + 0.25], all_logits(RewardEngine(folder(tmp_path / "biased")), [[1, 2, 3]]))


@pytest.mark.skipif(_openblas() is None, reason="NumPy has another BLAS than its wheels'")
def test_products_use_one_thread_while_something_is_scored_and_as_many_as_before_afterwards(engine, monkeypatch):
    count, put = _openblas()
    compute, seen, before = RewardEngine._compute, [], count()
    monkeypatch.setattr(RewardEngine, "_compute", lambda self, new, paths: seen.append(count()) or compute(self, new, paths))
    try:
        put(2)
        all_logits(engine, [[1, 2]])
        assert (seen, count()) == ([1], 2)
        with one_thread(), ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda token: all_logits(engine, [[1, token]]), range(20, 40)))
            assert count() == 1
            with pytest.raises(KeyError), one_thread():
                raise KeyError
            assert count() == 1
        assert (set(seen), count()) == ({1}, 2)
    finally:
        put(before)


# What a chain becomes.


def test_a_process_model_is_asked_at_the_last_token_of_each_step(engine):
    question, text = "chain 3+4*2", "3+4=7\n7*2=14\nanswer: 14"
    prompt = len(encode_prompt(question))
    ends = [prompt + 5, prompt + 11, prompt + 13]
    for finished in (True, False):
        asked = engine.ask(question, text, finished=finished)
        assert asked.ids == tuple(encode_prompt(question, text))
        assert (asked.prompt, asked.positions) == (prompt, tuple(ends))
    assert engine.ask(question, text[:13], finished=False).positions == (prompt + 5, prompt + 11)
    assert engine.ask(question, "3+4", finished=False).positions == (prompt + 2,)


def test_an_outcome_model_is_asked_at_the_end_token_of_a_finished_answer(tmp_path):
    question, text = "chain 3+4*2", "3+4=7\nanswer: 7"
    ids = tuple(encode_prompt(question, text))
    for read, more in (("eos", (EOS,)), ("last", ())):
        engine = RewardEngine(folder(tmp_path / read, kind="outcome", read=read))
        asked = engine.ask(question, text, finished=True)
        assert (asked.ids, asked.positions) == ((*ids, *more), (len(ids) + len(more) - 1,))
        asked = engine.ask(question, text, finished=False)
        assert (asked.ids, asked.positions) == (ids, (len(ids) - 1,))


def test_chains_that_cannot_be_read_are_named(engine):
    for question, text, why in (
        ("What is 2+2?", "4", "'W' at character 0 is not in the lab's vocabulary"),
        ("chain 3+4", "", "the chain is empty"),
        ("chain 3+4", "7+" * 64 + "7", "135 tokens, and the model has 128 positions"),
    ):
        with pytest.raises(ValueError, match=why):
            engine.ask(question, text, finished=True)


@pytest.mark.parametrize("step", ["\n", "\n\n"])
def test_steps_end_where_learners_cut_them_and_belong_to_the_token_they_start_in(step):
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(rng.choice(list("ab \n\n\n"), rng.integers(1, 14)))
        cuts = sorted({0, *rng.integers(0, len(text), 4).tolist()})
        tokens = [text[first:last] for first, last in zip(cuts, [*cuts[1:], len(text)], strict=True)]
        owner = [token for token, part in enumerate(tokens) for _ in part]
        ends, past = [], 0
        for part in steps_of(text, step):
            past += len(part)
            ends.append(owner[past - 1])
        assert step_ends(text, step, cuts) == ends


def test_the_logistic_function_does_not_overflow():
    np.testing.assert_array_equal(logistic(np.array([-2000.0, 0.0, 2000.0])), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(logistic(np.array([-700.0, 3.0])), [np.exp(-700.0), 1 / (1 + np.exp(-3.0))], rtol=1e-12)


# Files.


def test_facts_are_read_with_their_defaults_and_wrong_ones_are_named(tmp_path):
    file = tmp_path / "reward.json"
    file.write_text('{"kind": "process", "trained_on": 3}')
    assert read_facts(file) == Facts("process", "\n", "last", "eos")
    file.write_text("{}")
    assert read_facts(file) == Facts()
    for text, why in (
        ('{"kind": "likelihood"}', "kind = 'likelihood' must be one of outcome, process"),
        ('{"aggregate": "max"}', "aggregate = 'max' must be one of last, min, prod, mean"),
        ('{"read": 3}', "read = 3 must be one of eos, last"),
        ('{"step": ""}', "step = '' must be the text that ends a step"),
        ('{"step": 1}', "step = 1 must be the text"),
        ("[1]", "cannot be read as the facts of a reward model"),
        ("[" * 100_000, "cannot be read as the facts of a reward model"),
        ("{", "cannot be read as the facts of a reward model"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=why):
            read_facts(file)
    with pytest.raises(DataError, match="nowhere"):
        read_facts(tmp_path / "nowhere")


def test_files_that_are_no_reward_model_are_named(tmp_path):
    for name, tensors, why in (
        ("policy", {}, r"has score.weight \[0, 0\]"),
        ("wide", {"score.weight": np.ones((1, 5))}, r"score.weight \[1, 32\].*has score.weight \[1, 5\]"),
        ("two", {"score.weight": np.ones((2, SHAPE.width))}, r"has score.weight \[2, 32\]"),
        ("more", {"score.weight": HEAD, "lm_head.weight": np.ones((2, 2))}, r"differs in \['lm_head.weight'\]"),
    ):
        path = tmp_path / name
        path.mkdir()
        save(path, SHAPE, random_tensors() | tensors)
        (path / "reward.json").write_text("{}")
        with pytest.raises(DataError, match=why):
            RewardEngine(path)
    (path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="no lab reward model"):
        RewardEngine(path)
    with pytest.raises(UsageError, match=f"nodes is 5; it must be at least {reward.TOGETHER}"):
        RewardEngine(folder(tmp_path / "good"), nodes=5)


def test_the_fingerprint_follows_weights_and_facts_but_not_the_place(tmp_path):
    first, second = folder(tmp_path / "a"), folder(tmp_path / "b")
    assert Files.of(first).fingerprint == Files.of(second).fingerprint
    seen = {
        Files.of(first).fingerprint,
        Files.of(folder(second, bias=0.5)).fingerprint,
        Files.of(folder(second, aggregate="min")).fingerprint,
    }
    assert len(seen) == 3


def test_a_shape_is_told_by_its_config(tmp_path):
    path = folder(tmp_path / "model")
    assert lab_shaped(path)
    config = json.loads((path / "config.json").read_text())
    for change in ({"vocab_size": 257}, {"num_key_value_heads": 2}, {"model_type": "qwen2"}):
        (path / "config.json").write_text(json.dumps(config | change))
        assert not lab_shaped(path)
    assert not lab_shaped(tmp_path / "nowhere")


def test_shipped_models_are_found_by_name_and_others_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "_SHIPPED", tmp_path)
    with pytest.raises(UsageError, match="lab/prm: no such reward model comes with the lab; there are none"):
        Files.named("prm")
    path = folder(tmp_path / "model")
    for source, name in (
        ("model.safetensors", "prm.safetensors"),
        ("config.json", "prm.json"),
        ("reward.json", "prm.reward.json"),
    ):
        (tmp_path / name).write_bytes((path / source).read_bytes())
    assert shipped() == ["prm"]
    assert RewardEngine(Files.named("prm")).facts.kind == "process"
    with pytest.raises(UsageError, match="lab/orm: no such reward model comes with the lab; there are prm"):
        Files.named("orm")


def surprised(path, weights=(0.7, -0.3)):
    """A model whose head reads surprise alone, gated by the state."""
    path.mkdir(exist_ok=True)
    head = (
        np.concatenate([np.zeros((1, SHAPE.width)), [weights], 0.1 * HEAD, -0.1 * HEAD], 1).astype(np.float16).astype(np.float32)
    )
    save(path, SHAPE, random_tensors() | {"score.weight": head})
    (path / "reward.json").write_text(json.dumps({"kind": "process", "surprise": True}))
    return path


def plain(path):
    """The same model without a head."""
    path.mkdir()
    save(path, SHAPE, random_tensors())
    return path


def test_a_head_reads_the_least_log_probability_and_the_log_likelihood_of_the_answer(tmp_path):
    engine = RewardEngine(surprised(tmp_path / "model"))
    ids = encode_prompt("chain 3+4*2", "3+4=7\n7*2=14\nanswer: 14\n")
    prompt = len(encode_prompt("chain 3+4*2"))
    kept = {name: tensor.astype(np.float16) for name, tensor in random_tensors().items()}
    rows = obvious_logits(kept, ids)
    said = rows - np.log(np.exp(rows).sum(-1, keepdims=True))
    own = [said[at - 1, ids[at]] for at in range(prompt, len(ids))]
    states = Engine(load_weights(plain(tmp_path / "plain"))).hidden([ids])[0].astype(np.float64)
    gates = states @ ((0.1 * HEAD[0]).astype(np.float16) * random_tensors()["model.norm.weight"].astype(np.float16))
    weights = np.array([0.7, -0.3]).astype(np.float16)
    [found] = all_logits(engine, [ids])
    np.testing.assert_allclose(found[:prompt], 0, atol=1e-9)  # nothing is said yet
    for count in range(1, len(own) + 1):
        at, least, total = prompt + count - 1, min(own[:count]), sum(own[:count]) / reward.SCALE
        expected = (weights[0] + gates[at]) * least + (weights[1] - gates[at]) * total
        assert found[at] == pytest.approx(expected, abs=5e-3)


def test_surprise_is_the_same_bits_however_it_is_scored(tmp_path):
    folder_ = surprised(tmp_path / "model")
    problem, text = "chain 3+4*2", "3+4=7\n7*2=14\nanswer: 14\n"
    sequences = [encode_prompt(problem, text[:end]) for end in (0, 6, 13, len(text))] + [encode_prompt(problem, "3+4=8\n")]
    together = all_logits(RewardEngine(folder_), sequences)
    alone = [all_logits(RewardEngine(folder_), [ids])[0] for ids in sequences]
    grown = RewardEngine(folder_)
    piecewise = [all_logits(grown, [ids])[0] for ids in sequences]
    for one, other, third in zip(together, alone, piecewise, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, third)


def test_a_head_of_the_wrong_width_for_its_facts_is_refused(tmp_path):
    with pytest.raises(DataError, match=rf"must hold the tensors of its config and score.weight \[1, {3 * SHAPE.width + 2}\]"):
        RewardEngine(folder(tmp_path / "model", surprise=True))
