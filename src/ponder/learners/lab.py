"""Train the lab models from procedurally generated problems (extra `train`: torch).

    python -m ponder.learners.lab train --size base --out DIR     reproduces the shipped weights, up to the CPU's rounding
    python -m ponder.learners.lab card --size base                measures them on test problems and rewrites the model card

A step sees a group of countdown and a group of chain problems of the train split, each of one size, so that no token is
padding. The loss is the mean log-loss of the solution's tokens. Matrices inside the layers learn by Muon (Jordan et
al. 2024, kellerjordan.github.io/posts/muon), the embedding and the norms by AdamW; the rate falls linearly to zero.
Training stops far from convergence on purpose: the errors that are left are what test-time compute works on.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ponder.lab.model import SIZES, Shape, save
from ponder.lab.problems import CHAIN_SIZES, COUNTDOWN_SIZES, Family, draw, split_of
from ponder.lab.tokenizer import EOS, encode, encode_prompt

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one size is trained.

    Attributes:
        steps: optimizer steps.
        tokens: tokens of one group; a step has two groups.
        muon: peak rate of the layers' matrices.
        adam: peak rate of everything else.
    """

    steps: int
    tokens: int = 1024
    muon: float = 0.02
    adam: float = 0.003


RECIPES = {"small": Recipe(steps=4000), "base": Recipe(steps=4000), "large": Recipe(steps=4000)}


def train(
    size: str,
    *,
    seed: int,
    out: Path,
    steps: int | None = None,
    minutes: float | None = None,
    checkpoints: int = 0,
    threads: int = 1,
) -> None:
    """Train one size from nothing and write `model.safetensors`, `config.json` and `card.json` into `out`.

    Args:
        size: `small`, `base` or `large`.
        seed: of the first weights and of the data.
        out: folder, created when missing.
        steps: optimizer steps; the recipe's when None.
        minutes: stop after so many, wherever the schedule stands; the card then says how many steps were made.
        checkpoints: how many evenly spaced checkpoints to keep in `out/step-N/`.
        threads: torch threads while training; the setting of the process is put back afterwards.

    Raises:
        ValueError: for an unknown size.
        ImportError: when torch is missing (`pip install 'ponder-ttc[train]'`).
    """
    import torch

    if size not in SIZES:
        raise ValueError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    recipe, shape = RECIPES[size], SIZES[size]
    total = recipe.steps if steps is None else steps
    marks = {round(total * (k + 1) / (checkpoints + 1)) for k in range(checkpoints)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = build(shape)
    optimizers = _optimizers(model, recipe)
    data = _batches(recipe.tokens, random.Random(f"lab/{size}/{seed}"))
    began, losses, step = time.monotonic(), {"countdown": math.nan, "chain": math.nan}, 0
    try:
        for step in range(1, total + 1):
            spent = 0.0 if minutes is None else (time.monotonic() - began) / (60 * minutes)
            rate = min(1.0, step / 50) * max(0.0, 1 - max((step - 1) / total, spent))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * rate
            for family, ids, prompt in (next(data), next(data)):
                logits = model(ids[:, :-1])[:, prompt - 1 :]
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, prompt:].flatten())
                (loss / 2).backward()
                value = float(loss.detach())
                losses[family] = value if math.isnan(losses[family]) else 0.98 * losses[family] + 0.02 * value
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            late = spent >= 1
            if step % 100 == 0 or step == total or late:
                took = time.monotonic() - began
                shown = "  ".join(f"{family} {value:.4f}" for family, value in losses.items())
                print(f"{size} step {step}/{total}  loss {shown}  {took:.0f} s", flush=True)
            if step in marks:
                _write(model, shape, out / f"step-{step}", {"steps": step})
            if late:
                break
    finally:
        torch.set_num_threads(before)
    facts = {
        "size": size,
        "seed": seed,
        "steps": step,
        "planned_steps": total,
        "recipe": asdict(recipe),
        "tokens": step * 2 * recipe.tokens,
        "train_loss": losses,
        "seconds": round(time.monotonic() - began, 1),
        "threads": threads,
        "versions": {"torch": torch.__version__},
    }
    _write(model, shape, out, facts)


def build(shape: Shape) -> nn.Module:
    """Build the torch twin of the NumPy model, its parameters named as transformers names them."""
    import torch
    from torch import nn

    functional = torch.nn.functional

    class Attention(nn.Module):
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

    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
            self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
            self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
            return out

    class Layer(nn.Module):
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

    class Llama(nn.Module):
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
            angles = torch.outer(
                torch.arange(shape.positions, dtype=torch.float32),
                shape.theta ** (-torch.arange(0, shape.head, 2, dtype=torch.float32) / shape.head),
            )
            self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1), persistent=False)
            self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1), persistent=False)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed_tokens(ids)
            for layer in self.layers:
                x = layer(x, self.cos[: ids.shape[1]], self.sin[: ids.shape[1]])
            logits: torch.Tensor = self.norm(x) @ self.embed_tokens.weight.T
            return logits

    return Llama()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    import torch

    first, second = x.chunk(2, -1)
    return (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    import torch

    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=recipe.adam, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _batches(tokens: int, rng: random.Random) -> Iterator[tuple[Family, torch.Tensor, int]]:
    """Yield groups in turn, countdown and chain: family, ids [rows, length], length of the prompt."""
    import torch

    while True:
        for family, sizes in (("countdown", COUNTDOWN_SIZES), ("chain", CHAIN_SIZES)):
            size = rng.choice(sizes)
            rows: list[list[int]] = []
            prompt = length = 0
            while not rows or len(rows) * length < tokens:
                problem, solution = draw(family, size, rng)
                if split_of(problem) == "test":
                    continue
                prefix = encode_prompt(problem.text)
                rows.append([*prefix, *encode(solution), EOS])
                prompt, length = len(prefix), len(rows[-1])
            yield family, torch.tensor(rows), prompt


def _write(model: nn.Module, shape: Shape, folder: Path, facts: dict[str, object]) -> None:
    tensors = {f"model.{name}": p.detach().float().numpy() for name, p in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, shape, tensors)
    (folder / "card.json").write_text(json.dumps({"training": facts}, indent=1) + "\n")


if __name__ == "__main__":
    import sys

    size, out, minutes = sys.argv[1:4]
    train(size, seed=0, out=Path(out), minutes=float(minutes) or None, checkpoints=7)
