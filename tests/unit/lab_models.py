"""A small random lab model for tests, and the obvious way to compute with it."""

from __future__ import annotations

import functools

import numpy as np

from ponder.lab.model import Shape, Weights, prepare

SHAPE = Shape(width=32, layers=2, heads=2, inner=48, head=16, positions=128)


@functools.cache
def random_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.5) -> np.ndarray:
        return (scale * rng.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(SHAPE.vocabulary, SHAPE.width, 6.0)}
    tensors["model.norm.weight"] = rng.uniform(0.5, 1.5, SHAPE.width).astype(np.float32)
    width, wide = SHAPE.width, SHAPE.heads * SHAPE.head
    sizes = {
        "self_attn.q_proj": (wide, width),
        "self_attn.k_proj": (SHAPE.head, width),
        "self_attn.v_proj": (SHAPE.head, width),
        "self_attn.o_proj": (width, wide),
        "mlp.gate_proj": (SHAPE.inner, width),
        "mlp.up_proj": (SHAPE.inner, width),
        "mlp.down_proj": (width, SHAPE.inner),
    }
    for layer in range(SHAPE.layers):
        for name, size in sizes.items():
            tensors[f"model.layers.{layer}.{name}.weight"] = matrix(*size)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = rng.uniform(0.5, 1.5, width).astype(np.float32)
    return tensors


@functools.cache
def random_weights(seed: int = 0) -> Weights:
    return prepare(SHAPE, random_tensors(seed), fingerprint="random")


def obvious_logits(tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits [length, vocabulary] of one sequence in float64, one matrix after the other as in the Llama paper."""
    t = {name.removeprefix("model."): tensor.astype(np.float64) for name, tensor in tensors.items()}
    length, half = len(ids), SHAPE.head // 2
    angles = np.outer(np.arange(length), SHAPE.theta ** (-np.arange(half) / half))

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + SHAPE.epsilon) * scale

    def rotate(x: np.ndarray) -> np.ndarray:
        pair = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * angles)
        return np.concatenate([pair.real, pair.imag], -1)

    x = t["embed_tokens.weight"][ids]
    for layer in range(SHAPE.layers):
        w = {name: t[f"layers.{layer}.{name}.weight"] for name in _NAMES}
        y = norm(x, w["input_layernorm"])
        queries = (y @ w["self_attn.q_proj"].T).reshape(length, SHAPE.heads, SHAPE.head)
        key, value = rotate(y @ w["self_attn.k_proj"].T), y @ w["self_attn.v_proj"].T
        heads = []
        for head in range(SHAPE.heads):
            scores = rotate(queries[:, head]) @ key.T / SHAPE.head**0.5
            scores[np.triu_indices(length, 1)] = -np.inf
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weight / weight.sum(-1, keepdims=True) @ value)
        x = x + np.concatenate(heads, -1) @ w["self_attn.o_proj"].T
        y = norm(x, w["post_attention_layernorm"])
        gate = y @ w["mlp.gate_proj"].T
        x = x + (gate / (1 + np.exp(-gate)) * (y @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    return norm(x, t["norm.weight"]) @ t["embed_tokens.weight"].T


_NAMES = (
    *("input_layernorm", "post_attention_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    *("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)
