"""Choosing tokens from logits with counter-based randomness: a draw depends on its row, its key and its position alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ponder.lab.model import Floats, Ints

Keys = NDArray[np.uint64]

HEAD = 512
"""Likeliest tokens that are put in order first: sorting 150,000 takes eight times as long as the rest of a draw."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling settings of rows: temperature, top_p, top_k, all [rows]; 0 in top_k means all tokens."""

    temperature: NDArray[np.float64]
    top_p: NDArray[np.float64]
    top_k: Ints

    def __getitem__(self, rows: Ints) -> Settings:
        return Settings(self.temperature[rows], self.top_p[rows], self.top_k[rows])


def choose(logits: Floats, settings: Settings, uniform: NDArray[np.float64]) -> Ints:
    """Choose one token a row by the inverse of its cumulative distribution at `uniform`, in the order of ids.

    Temperature 0 takes the likeliest token, the lowest id among equals. Top-k comes first, then top-p on what is left, in which
    the token that crosses top_p is kept (Holtzman et al. 2020, section 3.1); equals are ranked by id.

    Args:
        logits: [rows, vocabulary].
        settings: of the rows.
        uniform: [rows] in [0, 1).

    Returns:
        [rows] token ids.
    """
    vocabulary = logits.shape[1]
    limited = (settings.temperature > 0) & ((settings.top_p < 1) | ((settings.top_k > 0) & (settings.top_k < vocabulary)))
    drawn = np.full(len(logits), -1, dtype=np.int64)
    if vocabulary > HEAD:
        for at in np.flatnonzero(limited):
            top_k = int(settings.top_k[at]) or vocabulary
            drawn[at] = _from_head(
                logits[at], float(settings.temperature[at]), float(settings.top_p[at]), top_k, float(uniform[at])
            )
    rest = np.flatnonzero(drawn < 0)
    if len(rest):
        drawn[rest] = _from_all(logits[rest], settings[rest], uniform[rest], limited[rest])
    return drawn


def _from_head(logits: Floats, temperature: float, top_p: float, top_k: int, uniform: float) -> int:
    """The token of one row [vocabulary] if its likeliest `HEAD` and their equals, the first of the whole order, tell; -1 if not."""
    ids = np.flatnonzero(logits >= np.partition(logits, -HEAD)[-HEAD])
    if len(ids) < top_k < len(logits):
        return -1
    order = ids[np.argsort(-logits[ids], kind="stable")][:top_k]
    peak = logits[order[0]]
    ranked = np.exp((logits[order] - peak).astype(np.float64) / temperature)
    total = ranked.sum() if top_k <= len(ids) else np.exp((logits - peak) / np.float32(temperature)).sum(dtype=np.float64)
    inside = (np.cumsum(ranked) - ranked < top_p * total) & (ranked > 0)
    if inside.all() and len(order) < top_k:
        return -1
    by_id = np.argsort(order[inside])
    cumulative = np.cumsum(ranked[inside][by_id])
    chosen = min(int((cumulative <= uniform * cumulative[-1]).sum()), len(cumulative) - 1)
    return int(order[inside][by_id][chosen])


def _from_all(logits: Floats, settings: Settings, uniform: NDArray[np.float64], limited: NDArray[np.bool_]) -> Ints:
    greedy = settings.temperature <= 0
    scaled = logits.astype(np.float64) / np.where(greedy, 1.0, settings.temperature)[:, None]
    weight = np.exp(scaled - scaled.max(-1, keepdims=True))
    if limited.any():
        weight[limited] = _limit(weight[limited], settings[np.flatnonzero(limited)])
    cumulative = np.cumsum(weight, axis=-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    last = logits.shape[1] - 1 - np.argmax(weight[:, ::-1] > 0, axis=-1)  # rounding may land past the last possible token
    drawn: Ints = np.where(greedy, np.argmax(logits, axis=-1), np.minimum(chosen, last))
    return drawn


def _limit(weight: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    order = np.argsort(-weight, axis=-1, kind="stable")
    ranked = np.take_along_axis(weight, order, -1)
    top_k = np.where(settings.top_k > 0, settings.top_k, ranked.shape[1])
    ranked = np.where(np.arange(ranked.shape[1]) < top_k[:, None], ranked, 0.0)
    before = np.cumsum(ranked, axis=-1) - ranked
    ranked = np.where(before < settings.top_p[:, None] * ranked.sum(-1, keepdims=True), ranked, 0.0)
    kept = np.zeros_like(weight)
    np.put_along_axis(kept, order, ranked, -1)
    return kept


def log_softmax(logits: Floats) -> Floats:
    """Give log-probabilities [rows, vocabulary] at temperature 1."""
    shifted = logits - logits.max(-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def uniforms(keys: Keys, positions: Ints) -> NDArray[np.float64]:
    """Give one number in [0, 1) for every pair of key and position: SplitMix64 (Steele et al. 2014) of the mixed key."""
    with np.errstate(over="ignore"):
        state = _mix(keys) + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        return (_mix(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: Keys) -> Keys:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
