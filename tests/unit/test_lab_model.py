"""The NumPy forward pass equals the obvious computation and transformers', and a row's bits depend on the row alone."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from lab_models import SHAPE, obvious_logits, random_tensors, random_weights

from ponder.lab.engine import Engine
from ponder.lab.model import BLOCK, SPAN, Cache, Slots, forward, load_weights, logits, save

RNG = np.random.default_rng(0)
IDS = RNG.integers(0, SHAPE.vocabulary, SHAPE.positions).tolist()


def test_logits_equal_the_obvious_computation_at_every_position():
    (values,) = Engine(random_weights()).logits([IDS])
    np.testing.assert_allclose(values, obvious_logits(random_tensors(), IDS), atol=1e-4)


def test_a_row_gives_the_same_bits_in_any_batch_order_and_split_between_prefill_and_decoding():
    weights = random_weights()
    length = 2 * SPAN + 5
    tokens = RNG.integers(0, SHAPE.vocabulary, (4, length))

    def run(order, parts):
        cache = Cache.empty(SHAPE, 5)
        out = np.zeros((4, length, SHAPE.vocabulary), np.float32)
        for first, last in itertools.pairwise(parts):
            rows = [(slot, position) for slot in order for position in range(first, last)]
            slots, positions = np.array(rows + [(4, 0)] * (-len(rows) % BLOCK)).T
            states = forward(weights, Slots(cache, positions, slots), tokens[np.minimum(slots, 3), positions], positions)
            for row, values in zip(rows, logits(weights, states), strict=False):
                out[row] = values
        return out

    at_once = run([0, 1, 2, 3], [0, length])
    for order, parts in (([3, 1, 0, 2], [0, length]), ([0, 1, 2, 3], range(length + 1)), ([2, 0, 3, 1], [0, 7, 40, length])):
        np.testing.assert_array_equal(run(order, parts), at_once)
    alone = run([2], [0, 30, length])
    np.testing.assert_array_equal(alone[2], at_once[2])


def test_what_a_slot_held_before_does_not_matter():
    weights, tokens, positions = random_weights(), np.array(IDS[:BLOCK]), np.arange(BLOCK)
    cache = Cache.empty(SHAPE, 1)
    slots = np.zeros(BLOCK, np.int64)
    clean = forward(weights, Slots(cache, positions, slots), tokens, positions)
    forward(weights, Slots(cache, positions + 3, slots), tokens[::-1].copy(), positions + 3)
    again = forward(weights, Slots(cache, positions, slots), tokens, positions)
    np.testing.assert_array_equal(again, clean)


def test_weights_survive_their_file_in_half_precision(tmp_path):
    save(tmp_path, SHAPE, random_tensors())
    weights = load_weights(tmp_path)
    assert weights.shape == SHAPE
    np.testing.assert_array_equal(weights.embedding, random_tensors()["model.embed_tokens.weight"].astype(np.float16))
    assert len(weights.fingerprint) == 16


def test_a_file_that_lacks_a_tensor_or_has_more_key_heads_is_refused(tmp_path):
    tensors = dict(random_tensors())
    del tensors["model.norm.weight"]
    save(tmp_path, SHAPE, tensors)
    with pytest.raises(ValueError, match=r"does not hold the tensors of its config: \['model.norm.weight'\]"):
        load_weights(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 2}))
    with pytest.raises(ValueError, match="num_key_value_heads is 2; the lab computes with 1"):
        load_weights(tmp_path)


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # third-party deprecations at import
def test_transformers_loads_the_same_file_and_gives_the_same_logits(tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `hf` is not installed")
    transformers = pytest.importorskip("transformers", reason="the extra `hf` is not installed")
    save(tmp_path, SHAPE, random_tensors())
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(torch.tensor([IDS])).logits[0].numpy()
    (values,) = Engine(load_weights(tmp_path)).logits([IDS])
    np.testing.assert_allclose(values, expected, atol=1e-4)
