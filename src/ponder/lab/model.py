"""The lab's models: Llama-style decoders (RMSNorm, RoPE, SwiGLU, one key-value head, tied embedding), and their files.

Weights lie in fp16 safetensors under the names that `transformers.LlamaForCausalLM` gives them, with a config.json beside
them, and are computed with in float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ponder.lab.tokenizer import BOS, EOS, PAD, VOCABULARY

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that define a model.

    Attributes:
        width: of the residual stream.
        layers: how many.
        heads: query heads, `head` wide each.
        inner: width inside the SwiGLU.
        kv_heads: key-value heads shared by the query heads (multi-query attention, Shazeer 2019, when 1).
        head: width of a head, even.
        vocabulary: rows of the embedding.
        positions: longest sequence, in tokens.
        theta: base of the rotary frequencies.
        epsilon: added to the mean square in RMSNorm.
    """

    width: int
    layers: int
    heads: int
    inner: int
    kv_heads: int = 1
    head: int = 32
    vocabulary: int = len(VOCABULARY)
    positions: int = 512
    theta: float = 10_000.0
    epsilon: float = 1e-5


SIZES = {
    "small": Shape(width=64, layers=4, heads=2, inner=192),
    "base": Shape(width=128, layers=4, heads=4, inner=352),
    "large": Shape(width=256, layers=4, heads=8, inner=704),
}


def save(folder: Path, shape: Shape, tensors: Mapping[str, Floats]) -> None:
    """Write `model.safetensors` in fp16 and `config.json` into a folder that exists."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(t, dtype=np.float16) for name, t in tensors.items()}, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "rope_theta": shape.theta,
        "rms_norm_eps": shape.epsilon,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
