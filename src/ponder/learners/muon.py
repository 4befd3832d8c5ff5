"""Muon for the matrices inside the layers, AdamW for all else, as one optimizer: what the lab's models learn by.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) makes each step of a matrix nearly orthogonal. The lab's policies
and verifiers learn by it (dev/LOG.md has a first comparison, of several changes at once). For models trained from nothing or fully; adapters and large pretrained
models keep AdamW.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import torch
    from torch import nn

RATIO = 0.15  # AdamW's rate as a share of Muon's, as the lab's models were trained


def build(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """The optimizer for a model. rate: peak rate of the matrices; a scheduler sets both parts."""
    import torch

    class Both(torch.optim.Optimizer):  # type: ignore[misc]  # torch is untyped here
        """Steps both; its groups are theirs, so a scheduler reaches them."""

        def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
            self.parts = parts
            super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {"lr": rate})
            self.param_groups = [group for part in parts for group in part.param_groups]

        def step(self, closure: object = None) -> None:
            del closure
            for part in self.parts:
                part.step()

    learn = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in learn if _inside(name, p)]
    others = [p for name, p in learn if not _inside(name, p)]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=RATIO * rate, betas=(0.9, 0.98), weight_decay=0.0)
    return cast("torch.optim.Optimizer", Both([muon, adam]))


def _inside(name: str, parameter: torch.Tensor) -> bool:
    return parameter.dim() == 2 and ".layers." in f".{name}" and "embed" not in name
