"""The torch twin of the NumPy model, for training it: the same computation, parameters named as transformers names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ponder.lab.model import Shape

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(shape: Shape) -> nn.Module:
    """Build a freshly drawn model: token ids [rows, length] in, logits [rows, length, vocabulary] out.

    The names of its parameters are those of the weight files without the leading `model.`. Matrices are drawn with
    variance 1/inputs, those that write to the residual stream also divided by twice the number of layers (Radford et al.
    2019, section 2.3); the embedding with standard deviation 0.02. torch's global seed determines the draw.

    Raises:
        ImportError: when torch is missing (`pip install 'ponder-ttc[train]'`).
    """
    import torch
    from torch import nn

    functional = torch.nn.functional

    class Attention(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.q_proj = nn.Linear(shape.width, shape.heads * shape.head, bias=False)
            self.k_proj = nn.Linear(shape.width, shape.head, bias=False)
            self.v_proj = nn.Linear(shape.width, shape.head, bias=False)
            self.o_proj = nn.Linear(shape.heads * shape.head, shape.width, bias=False)

        def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            rows, length, _ = x.shape
            q = _rotate(self.q_proj(x).view(rows, length, shape.heads, shape.head).transpose(1, 2), cos, sin)
            k = _rotate(self.k_proj(x).view(rows, length, 1, shape.head).transpose(1, 2), cos, sin)
            v = self.v_proj(x).view(rows, length, 1, shape.head).transpose(1, 2)
            k, v = k.expand(-1, shape.heads, -1, -1), v.expand(-1, shape.heads, -1, -1)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            out: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
            return out

    class Mlp(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
            self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
            self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
            return out

    class Layer(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = nn.RMSNorm(shape.width, eps=shape.epsilon)
            self.self_attn = Attention()
            self.post_attention_layernorm = nn.RMSNorm(shape.width, eps=shape.epsilon)
            self.mlp = Mlp()

        def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
            x = x + self.self_attn(self.input_layernorm(x), cos, sin)
            out: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
            return out

    class Llama(nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
            self.layers = nn.ModuleList([Layer() for _ in range(shape.layers)])
            self.norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
            for name, parameter in self.named_parameters():
                if parameter.dim() == 2:
                    scale = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                    small = ("o_proj" in name or "down_proj" in name) and (2 * shape.layers) ** -0.5
                    nn.init.normal_(parameter, std=scale * (small or 1.0))
            angles = _angles(shape)
            self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1), persistent=False)
            self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1), persistent=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed_tokens(ids)
            for layer in self.layers:
                x = layer(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
            logits: torch.Tensor = self.norm(x) @ self.embed_tokens.weight.T
            return logits

    return Llama()


def _angles(shape: Shape) -> torch.Tensor:
    import torch

    positions = torch.arange(shape.positions, dtype=torch.float32)
    return torch.outer(positions, shape.theta ** (-torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    import torch

    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
