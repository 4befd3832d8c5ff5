"""A tiny lab model in a folder, samples for it, and the obvious way to compute what learners need of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lab_models import SHAPE, obvious_logits

from ponder.lab.model import save
from ponder.lab.problems import draw
from ponder.learners import models
from ponder.learners.datasets import Sample, steps_of
from ponder.types import user


def tiny(folder: Path, *, seed: int = 0, head: bool = False, bias: bool = False) -> Path:
    """A model folder of `SHAPE` with fresh weights; head: one logit with random weights, with a bias if wanted."""
    import torch

    from ponder.lab.twin import build

    torch.manual_seed(seed)
    tensors = {f"model.{name}": parameter.detach().numpy() for name, parameter in build(SHAPE).named_parameters()}
    rng = np.random.default_rng(seed)
    if head:
        tensors["score.weight"] = rng.standard_normal((1, SHAPE.width)).astype(np.float32)
    if bias:
        tensors["score.bias"] = rng.standard_normal(1).astype(np.float32)
    folder.mkdir(parents=True)
    save(folder, SHAPE, tensors)
    models.write_lab_tokenizer(folder)
    return folder


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: tensor.astype(np.float64) for name, tensor in load_file(folder / "model.safetensors").items()}


def samples(count: int, *, seed: int = 0) -> list[Sample]:
    """Worked solutions of small problems, of lengths that differ; every other one is said to be right."""
    rng = random.Random(seed)
    found = []
    for index in range(count):
        problem, text = draw(*((("countdown", 3), ("chain", 3), ("chain", 4))[index % 3]), rng)
        prompt = (user(problem.text),)
        found.append(Sample(f"p{index}", prompt, steps_of(text), index % 2 == 0, None, "stop", "tiny", 1.0, None, 20))
    return found


def logprob(folder: Path, ids: Sequence[int], start: int) -> np.ndarray:
    """log p(ids[t] | ids[:t]) for each t from start on."""
    logits = obvious_logits(tensors_of(folder), list(ids))
    logs = logits - logits.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    return np.array([logs[t - 1, ids[t]] for t in range(start, len(ids))])


def head_logits(folder: Path, ids: Sequence[int]) -> np.ndarray:
    """The logit of the head at each position."""
    tensors = tensors_of(folder)
    embedding = tensors["model.embed_tokens.weight"]
    hidden = np.linalg.lstsq(embedding, obvious_logits(tensors, list(ids)).T, rcond=None)[0].T  # logits = hidden @ embedding.T
    return hidden @ tensors["score.weight"][0] + tensors.get("score.bias", np.zeros(1))[0]


def log_loss(logit: float, label: float) -> float:
    r = 1 / (1 + np.exp(-logit))
    return float(-(label * np.log(r) + (1 - label) * np.log(1 - r)))
