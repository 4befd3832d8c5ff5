"""A GGUF file as a base to train on: a tiny one is written here, made into a folder, and trained with adapters."""

import json
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
torch = pytest.importorskip("torch")

from safetensors.numpy import load_file  # noqa: E402  # after the modules that may be missing

from ponder.learners import models  # noqa: E402
from ponder.learners.datasets import Sample  # noqa: E402
from ponder.learners.policy import finetune  # noqa: E402
from ponder.learners.training import Recipe  # noqa: E402
from ponder.types import user  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # peft asks by the old name
]
WIDTH, HEADS, INNER, LAYERS = 64, 2, 128, 2


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A Llama of two layers with the 256 bytes as its words, its matrices rounded to eight bits."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    words = [*bytes_to_unicode().values(), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in (
        ("context_length", 256),
        ("embedding_length", WIDTH),
        ("block_count", LAYERS),
        ("feed_forward_length", INNER),
    ):
        getattr(writer, f"add_{name}")(value)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * 257 + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(257)
    rng = np.random.default_rng(0)

    def matrix(name: str, *shape: int) -> None:
        values = rng.normal(0, 0.1, shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)

    matrix("token_embd.weight", len(words), WIDTH)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{name}.weight", WIDTH, WIDTH)
        for name, shape in (("ffn_gate", (INNER, WIDTH)), ("ffn_up", (INNER, WIDTH)), ("ffn_down", (WIDTH, INNER))):
            matrix(f"blk.{layer}.{name}.weight", *shape)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_becomes_a_folder_of_float32_with_its_rounded_weights(file, tmp_path):
    folder = models.dequantised(file, tmp_path)
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype.name for value in weights.values()} == {"float32"}
    config = json.loads((folder / "config.json").read_text("utf-8"))
    assert (config["num_hidden_layers"], "quantization_config" in config) == (LAYERS, False)
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    down = read["blk.1.ffn_down.weight"]
    expected = gguf.dequantize(down.data, down.tensor_type)
    np.testing.assert_array_equal(weights["model.layers.1.mlp.down_proj.weight"], expected)
    assert models.dequantised(file, tmp_path) == folder  # made once


def test_a_gguf_base_is_trained_with_adapters(file, tmp_path):
    base = models.dequantised(file, tmp_path)
    samples = [
        Sample(str(n), (user(f"What is {n} + 1?"),), (f"It is {n + 1}.",), True, str(n + 1), "stop", "p", 1.0, None, 5)
        for n in range(8)
    ]
    trained = finetune(base, samples, tmp_path / "out", recipe=Recipe(epochs=8.0, batch=4, rate=1e-2, lora_rank=4))
    assert trained.losses[-1][1] < trained.losses[0][1]
    before, after = load_file(base / "model.safetensors"), load_file(trained.folder / "model.safetensors")
    assert before.keys() == after.keys()  # adapters are merged
    assert any((before[name] != after[name]).any() for name in before)
