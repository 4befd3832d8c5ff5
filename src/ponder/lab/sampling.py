"""Choosing tokens from logits with counter-based randomness: a draw depends on its row, its key and its position alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ponder.lab.model import Floats, Ints

Keys = NDArray[np.uint64]

HEAD = 512
"""Tokens that are put in order first: of 150,000, sorting all takes eight times as long as the rest of a draw."""


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
    greedy = settings.temperature <= 0
    scaled = logits.astype(np.float64) / np.where(greedy, 1.0, settings.temperature)[:, None]
    weight = np.exp(scaled - scaled.max(-1, keepdims=True))
    vocabulary = logits.shape[1]
    limited = np.flatnonzero((settings.top_p < 1) | ((settings.top_k > 0) & (settings.top_k < vocabulary)))
    if len(limited):
        weight[limited] = _limit(weight[limited], settings[limited])
    cumulative = np.cumsum(weight, axis=-1)
    chosen = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    last = vocabulary - 1 - np.argmax(weight[:, ::-1] > 0, axis=-1)  # rounding may land past the last possible token
    drawn: Ints = np.where(greedy, np.argmax(logits, axis=-1), np.minimum(chosen, last))
    return drawn


def _limit(weight: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    """What top-k and top-p leave, the rest 0. A row whose cut lies beyond its head is sorted whole."""
    if weight.shape[1] <= HEAD:
        return _limit_sorted(weight, settings)
    kept = np.zeros_like(weight)
    whole = []
    for at, row in enumerate(weight):
        ids = _left_of_head(row, float(settings.top_p[at]), int(settings.top_k[at]) or len(row))
        if ids is None:
            whole.append(at)
        else:
            kept[at, ids] = row[ids]
    if whole:
        kept[whole] = _limit_sorted(weight[whole], settings[np.array(whole)])
    return kept


def _left_of_head(row: NDArray[np.float64], top_p: float, top_k: int) -> Ints | None:
    """Ids of the tokens that are left, if the likeliest `HEAD` and their equals tell; they are the first of the whole order."""
    ids = np.flatnonzero(row >= np.partition(row, -HEAD)[-HEAD])
    if len(ids) < top_k < len(row):
        return None
    order = ids[np.argsort(-row[ids], kind="stable")][:top_k]
    ranked = row[order]
    before = np.cumsum(ranked) - ranked
    inside = before < top_p * (ranked.sum() if top_k <= len(ids) else row.sum())
    return None if inside.all() and len(order) < top_k else order[inside]


def _limit_sorted(weight: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
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
