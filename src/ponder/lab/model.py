"""The lab's models: Llama-style decoders (RMSNorm, RoPE, SwiGLU, multi-query attention, tied embedding), in NumPy.

Weights lie in fp16 safetensors under the names that `transformers.LlamaForCausalLM` gives them, with a config.json beside
them, and are computed with in float32.

`forward` has one kernel for prefill, decoding and scoring. A row is a token at a position, whose memory has those before it. Everything a row's result
is computed from has a shape that depends on the row alone: matrices are multiplied in tiles of exactly `tile()` rows, and
attention reads a number of keys that is the row's position rounded up to SPAN. So the same row gives the same bits
whatever shares its batch, in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ponder.lab.tokenizer import BOS, EOS, PAD, VOCABULARY

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

BLOCK = 32  # rows come in multiples of this; the most that are multiplied together
SPAN = 32  # keys are read in multiples of this


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers that define a model. Keys and values have one head, shared by all query heads (Shazeer 2019).

    Attributes:
        width: of the residual stream.
        layers: how many.
        heads: query heads, `head` wide each.
        inner: width inside the SwiGLU.
        head: width of a head, even.
        vocabulary: rows of the embedding.
        positions: longest sequence, in tokens; a multiple of SPAN.
        theta: base of the rotary frequencies.
        epsilon: added to the mean square in RMSNorm.
    """

    width: int
    layers: int
    heads: int
    inner: int
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


@dataclass(frozen=True, slots=True)
class Layer:
    """Matrices of one layer, laid out for `rows @ matrix`, the scale of the norm before them multiplied in."""

    qkv: Floats  # [width, (heads + 2) * head]
    out: Floats  # [heads * head, width]
    gate_up: Floats  # [width, 2 * inner]
    down: Floats  # [inner, width]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model ready to compute: its shape, arrays in float32, and the first 16 hexadecimal digits of the file's SHA-256."""

    shape: Shape
    embedding: Floats  # [vocabulary, width]
    layers: tuple[Layer, ...]
    unembedding: Floats  # [width, vocabulary]
    cos: Floats  # [positions, head]
    sin: Floats  # [positions, head]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Cache:
    """Keys and values of every slot and layer, [layers, slots, positions, head] each. Unwritten entries are zero."""

    keys: Floats
    values: Floats

    @staticmethod
    def empty(shape: Shape, slots: int) -> Cache:
        """Make a cache; memory is taken up only as positions are written."""
        size = (shape.layers, slots, shape.positions, shape.head)
        return Cache(np.zeros(size, np.float32), np.zeros(size, np.float32))

    def copy_slot(self, source: int, targets: Ints, length: int) -> None:
        """Copy the first `length` positions of a slot to other slots."""
        self.keys[:, targets, :length] = self.keys[:, source, None, :length]
        self.values[:, targets, :length] = self.values[:, source, None, :length]


class Memory(Protocol):
    """Where the rows of a pass leave their keys and values, and where they find those of the tokens before them."""

    def write(self, layer: int, keys: Floats, values: Floats) -> None:
        """Keep keys and values of all rows, [rows, head] each."""
        ...

    def read(self, layer: int, rows: Ints, length: int) -> tuple[Floats, Floats]:
        """Keys and values of the first `length` positions before and at these rows, [rows, length, head] each; later ones are ignored."""
        ...


@dataclass(frozen=True, slots=True)
class Slots:
    """The memory of rows (position, cache slot): those before a row are the positions before its own in the same slot."""

    cache: Cache
    positions: Ints
    slots: Ints

    def write(self, layer: int, keys: Floats, values: Floats) -> None:
        """Into the slots, at the positions."""
        self.cache.keys[layer, self.slots, self.positions] = keys
        self.cache.values[layer, self.slots, self.positions] = values

    def read(self, layer: int, rows: Ints, length: int) -> tuple[Floats, Floats]:
        """The beginnings of the slots."""
        slots = self.slots[rows]
        return self.cache.keys[layer][slots, :length], self.cache.values[layer][slots, :length]


def forward(weights: Weights, memory: Memory, tokens: Ints, positions: Ints) -> Floats:
    """Compute the last hidden states of rows, and leave their keys and values in memory.

    Rows may come in any order, as long as every token before them is in memory or among the rows.

    Args:
        weights: the model.
        memory: of the rows.
        tokens: [rows], rows a multiple of BLOCK.
        positions: [rows], 0 <= position < shape.positions.

    Returns:
        [rows, width], after the last norm without its scale, which `logits` multiplies in.
    """
    shape = weights.shape
    rows = len(tokens)
    x = weights.embedding[tokens]
    cos, sin = weights.cos[positions][:, None, :], weights.sin[positions][:, None, :]
    groups = _group_by_span(positions)
    for index, layer in enumerate(weights.layers):
        qkv = _multiply(_normalize(x, shape.epsilon), layer.qkv).reshape(rows, shape.heads + 2, shape.head)
        qk = _rotate(qkv[:, :-1], cos, sin)
        memory.write(index, qk[:, -1], qkv[:, -1])
        mixed = np.empty((rows, shape.heads, shape.head), np.float32)
        for chosen, length, hidden in groups:
            keys, values = memory.read(index, chosen, length)
            mixed[chosen] = _attend(qk[chosen, :-1], keys, values, hidden)
        x = x + _multiply(mixed.reshape(rows, -1), layer.out)
        gate_up = _multiply(_normalize(x, shape.epsilon), layer.gate_up)
        x = x + _multiply(_swish(gate_up, shape.inner), layer.down)
    return _normalize(x, shape.epsilon)


def logits(weights: Weights, hidden: Floats) -> Floats:
    """Turn hidden states [rows, width] into logits [rows, vocabulary]; rows must be a multiple of BLOCK."""
    return _multiply(hidden, weights.unembedding)


def _multiply(x: Floats, matrix: Floats) -> Floats:
    """Multiply tile by tile, so that the shape BLAS sees, and with it every bit, is the same in any batch."""
    tiles = x.reshape(-1, tile(), x.shape[1])
    product: Floats = np.matmul(tiles, matrix).reshape(len(x), -1)
    return product


@cache
def tile() -> int:
    """The most rows, up to BLOCK, that this machine's BLAS multiplies to the same bits wherever they stand among each other.

    Tried once, as it depends on the processor: 32 with the kernels for AVX-512, 8 with those for AVX2, which take rows by twelves and sum
    what is left over in another order (OpenBLAS 0.3.31).
    """
    random = np.random.default_rng(0)
    trials = [random.standard_normal((2, k, n), np.float32) for k in (64, 172, 688) for n in (96, 256)]
    for rows in (BLOCK, BLOCK // 2, BLOCK // 4, BLOCK // 8):
        products = [np.repeat(trial[0, None, :, 0], rows, 0) @ trial[1] for trial in trials]
        if all((product == product[0]).all() for product in products):
            return rows
    return 1


def _normalize(x: Floats, epsilon: float) -> Floats:
    mean = np.einsum("rd,rd->r", x, x)[:, None] / np.float32(x.shape[1])
    scale: Floats = np.sqrt(mean + np.float32(epsilon))
    return x / scale


def _swish(gate_up: Floats, inner: int) -> Floats:
    gate, up = gate_up[:, :inner], gate_up[:, inner:]
    x = np.negative(gate)
    np.exp(x, out=x)
    x += 1
    np.divide(gate, x, out=x)
    x *= up
    return x


def _rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    half = x.shape[-1] // 2
    turned: Floats = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    rotated: Floats = x * cos + turned * sin
    return rotated


def _group_by_span(positions: Ints) -> list[tuple[Ints, int, Floats]]:
    """Group rows that read equally many keys: row indices, that number, and a mask [rows, 1, keys] of 0 and -inf."""
    spans = positions // SPAN
    groups = []
    for span in np.unique(spans):
        chosen = np.flatnonzero(spans == span)
        length = int(span + 1) * SPAN
        later = np.arange(length) > positions[chosen, None]
        groups.append((chosen, length, np.where(later, -np.inf, 0).astype(np.float32)[:, None, :]))
    return groups


def _attend(queries: Floats, keys: Floats, values: Floats, hidden: Floats) -> Floats:
    """Attend: queries [n, heads, head], keys and values [n, length, head], hidden [n, 1, length]."""
    scores = np.matmul(queries, keys.transpose(0, 2, 1))
    scores *= np.float32(queries.shape[-1] ** -0.5)
    scores += hidden
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    mixed: Floats = np.matmul(scores, values) / scores.sum(-1, keepdims=True)
    return mixed


def load_weights(path: Path) -> Weights:
    """Read weights from `NAME.safetensors` with the shape in `NAME.json`, or from a folder as `save` writes it.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when the tensors are not those of the shape.
    """
    from safetensors.numpy import load

    file = path / "model.safetensors" if path.is_dir() else path
    raw = file.read_bytes()
    shape = read_shape(file.with_name("config.json") if path.is_dir() else path.with_suffix(".json"))
    tensors = {name: tensor.astype(np.float32) for name, tensor in load(raw).items()}
    expected = names(shape)
    if set(tensors) != expected:
        raise ValueError(f"{file} does not hold the tensors of its config: {sorted(set(tensors) ^ expected)[:3]} ...")
    return prepare(shape, tensors, fingerprint=hashlib.sha256(raw).hexdigest()[:16])


def prepare(shape: Shape, tensors: Mapping[str, Floats], *, fingerprint: str) -> Weights:
    """Lay tensors, named and oriented as transformers has them, out for computing."""

    def stack(index: int, norm: str, *names: str) -> Floats:
        scale = tensors[f"model.layers.{index}.{norm}.weight"]
        return np.ascontiguousarray(
            np.concatenate([tensors[f"model.layers.{index}.{n}.weight"] for n in names]).T * scale[:, None]
        )

    def plain(index: int, name: str) -> Floats:
        return np.ascontiguousarray(tensors[f"model.layers.{index}.{name}.weight"].T)

    layers = tuple(
        Layer(
            qkv=stack(i, "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            out=plain(i, "self_attn.o_proj"),
            gate_up=stack(i, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj"),
            down=plain(i, "mlp.down_proj"),
        )
        for i in range(shape.layers)
    )
    embedding = tensors["model.embed_tokens.weight"]
    unembedding = np.ascontiguousarray(embedding.T * tensors["model.norm.weight"][:, None])
    exponents = -np.arange(0, shape.head, 2, dtype=np.float32) / np.float32(shape.head)
    angles = np.outer(np.arange(shape.positions, dtype=np.float32), np.float32(shape.theta) ** exponents)
    angles = np.concatenate([angles, angles], axis=-1)
    return Weights(shape, embedding, layers, unembedding, np.cos(angles), np.sin(angles), fingerprint)


def save(folder: Path, shape: Shape, tensors: Mapping[str, Floats]) -> None:
    """Write `model.safetensors` in fp16 and `config.json` into a folder that exists; transformers loads it."""
    from safetensors.numpy import save_file

    half = {name: np.ascontiguousarray(tensor, dtype=np.float16) for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "dtype": "float16",
    }
    config |= {theirs: getattr(shape, ours) for ours, theirs in _CONFIG.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


_CONFIG = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "head": "head_dim",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "theta": "rope_theta",
    "epsilon": "rms_norm_eps",
}


def read_shape(config: Path) -> Shape:
    """The shape in a `config.json`, in the words of transformers. Raises `ValueError` for more than one key-value head."""
    values = json.loads(config.read_text())
    if values.get("num_key_value_heads") != 1:
        raise ValueError(f"{config}: num_key_value_heads is {values.get('num_key_value_heads')}; the lab computes with 1")
    return Shape(**{field.name: values[_CONFIG[field.name]] for field in fields(Shape)})


def names(shape: Shape) -> set[str]:
    """The names of a model's tensors, as transformers has them."""
    parts: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj")
    parts += ("mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm")
    found = {f"model.layers.{i}.{part}.weight" for i in range(shape.layers) for part in parts}
    return found | {"model.embed_tokens.weight", "model.norm.weight"}
