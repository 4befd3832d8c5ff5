"""What compute costs, in the unit that is asked for: tokens, FLOPs, eFLOPs, money, seconds.

Usage is recorded raw and converted here, late. A `Spending` is what one model did for one purpose (proposals, verifier, difficulty), so
that the compute of verifiers and of difficulty estimation stands in the same bill as that of the policy. Attention makes costs depend on how
long each text was, so what is priced are `Trials`, children of one prefix, and not sums.

With P active parameters, D = 2 x layers x key-value heads x head size elements of cache for a token and r query heads to a key-value head, a token
costs 2 P FLOPs, and 2 r D more for every token that it attends to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

import numpy as np

from ponder.core import KVShape, PolicyInfo
from ponder.errors import UsageError
from ponder.types import Chain, Message, Step, Usage

INTENSITY = 562.5
"""FLOPs that an accelerator computes while it reads a byte: an NVIDIA B200 in bf16 (Kinetics, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Trials:
    """Children of one prefix: its tokens, `cached` of them found in a cache, and the tokens that each child wrote after it."""

    prefix: int
    written: tuple[int, ...]
    cached: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.cached <= self.prefix or min(self.written, default=0) < 0:
            raise UsageError(f"trials: {self} must have 0 <= cached <= prefix and no negative length")


@dataclass(frozen=True, slots=True)
class Spending:
    """What one model did for one purpose. scored: texts that a reward model read, each a prefix and the positions that it scored after it."""

    purpose: str
    info: PolicyInfo
    usage: Usage
    trials: tuple[Trials, ...] = ()
    scored: tuple[Trials, ...] = ()

    def __post_init__(self) -> None:
        written, scored = (sum(sum(one.written) for one in texts) for texts in (self.trials, self.scored))
        if (written, scored) != (self.usage.completion, self.usage.scored):
            raise UsageError(
                f"{self.purpose}: {self.usage.completion} tokens written and {self.usage.scored} scored, but trials hold {written} and texts {scored}; "
                "make it by Spending.of_chains or Spending.of_records"
            )

    @classmethod
    def of_chains(cls, purpose: str, info: PolicyInfo, children: Sequence[Chain]) -> Spending:
        """From children as a run gives them, each by its last step; children of one prefix share it."""
        families: dict[tuple[tuple[Message, ...], tuple[Step, ...]], list[Usage]] = {}
        for child in children:
            if child.steps:
                families.setdefault((child.prompt, child.steps[:-1]), []).append(child.steps[-1].usage)
        every = [usage for family in families.values() for usage in family]
        trials = (
            Trials(max(u.prompt for u in one), tuple(u.completion for u in one), min(u.cached for u in one))
            for one in families.values()
        )
        return cls(purpose, info, sum(every, Usage()), tuple(trials), tuple(_scored(usage) for usage in every if usage.scored))

    @classmethod
    def of_records(cls, purpose: str, info: PolicyInfo, records: Sequence[Usage]) -> Spending:
        """From the usage of each child or score, nothing shared but what an engine reported as cached.

        Raises `UsageError` for a sum of several calls: how long each of them was is lost in it.
        """
        for usage in records:
            if usage.calls > 1:
                raise UsageError(
                    f"{purpose}: a record of {usage.calls} calls has no length of its own, and attention grows with the length; give them one by one"
                )
        reads = [u for u in records if u.scored and not u.completion]  # their prompt is what the scored positions attend to, too
        trials = tuple(
            Trials(u.prompt, (u.completion,), u.cached) for u in records if (u.prompt or u.completion) and u not in reads
        )
        scored = tuple(Trials(u.prompt, (u.scored,), u.cached) if u in reads else _scored(u) for u in records if u.scored)
        return cls(purpose, info, sum(records, Usage()), trials, scored)


@dataclass(frozen=True, slots=True)
class Bill:
    """One spending in every unit; None where the model's size, cache or price is not known. Adds: what is unknown stays unknown.

    tokens: as a budget counts them. flops: linear layers, 2 P a token, shared prefixes once. attention: the same with attention. eflops: Kinetics. money: by the
    model's price. seconds: as recorded.
    """

    tokens: int = 0
    flops: float | None = 0.0
    attention: float | None = 0.0
    eflops: float | None = 0.0
    money: float | None = 0.0
    seconds: float = 0.0

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.tokens + other.tokens,
            _plus(self.flops, other.flops),
            _plus(self.attention, other.attention),
            _plus(self.eflops, other.eflops),
            _plus(self.money, other.money),
            self.seconds + other.seconds,
        )


def bill(spending: Spending, *, intensity: float = INTENSITY) -> Bill:
    """A spending in every unit that is known of its model."""
    info, usage = spending.info, spending.usage
    sized, shaped = info.parameters is not None, info.parameters is not None and info.kv is not None
    scored = sum(attended(info, one) for one in spending.scored) if shaped else None
    return Bill(
        usage.tokens,
        sum(flops(info, one) for one in _once(spending)) if sized else None,
        _plus(sum(attended(info, one) for one in spending.trials), scored) if shaped else None,
        _plus(sum(eflops(info, one, intensity=intensity) for one in spending.trials), scored) if shaped else None,
        money(info, usage) if info.price is not None else None,
        usage.seconds,
    )


def flops(info: PolicyInfo, usage: Usage) -> float:
    """2 N D: two FLOPs for each active parameter and token read afresh, written or scored (Kaplan et al. 2020, section 2.1).

    Snell et al. count the written tokens only; give `Usage(completion=...)` for that. Raises `UsageError` where the size is not known.
    """
    return 2.0 * _parameters(info) * (usage.prompt - usage.cached + usage.completion + usage.scored)


def attended_flops(info: PolicyInfo, before: int, new: int) -> float:
    """FLOPs of reading or writing `new` tokens after `before`, attention included: 2 P new + 2 r D before new + r D new^2.

    A token attends to all before it and, for half, to itself, as Kinetics counts; exact to r D FLOPs a token.

    Raises `UsageError` where size or cache are not known.
    """
    shape = _shape(info)
    return 2.0 * _parameters(info) * new + shape.group * cache(shape) * (2.0 * before * new + float(new) * new)


def attended(info: PolicyInfo, trials: Trials) -> float:
    """FLOPs with attention of a prefix, read once as far as it was not cached, and of all that was written after it."""
    read = attended_flops(info, trials.cached, trials.prefix - trials.cached)
    return read + sum(attended_flops(info, trials.prefix, new) for new in trials.written)


def eflops(info: PolicyInfo, trials: Trials, *, intensity: float = INTENSITY) -> float:
    """Decoding in eFLOPs, compute plus memory: C_comp + I C_mem (Sadhukhan et al. 2025, Kinetics, arXiv:2506.05333, equations 1 to 4).

    For N trials of one length this is 2 N P L_out + 2 r N L_in D L_out + r N D L_out^2 + 2 I L_in D L_out + I N D L_out^2. The trials decode
    together: at each position the cache of the prefix is read once for all that are still writing, in 16 bits. Reading the prefix
    costs nothing, nor does reading the parameters, which a large batch amortises. Our addition: trials of different lengths.

    Args:
        info: size and cache of the model.
        trials: L_in = prefix, L_out = written.
        intensity: I, FLOPs for a byte, >= 0; 0 leaves compute alone.

    Raises:
        UsageError: size or cache are not known, or a negative intensity.
    """
    if not 0 <= intensity < inf:
        raise UsageError(f"intensity is {intensity}; FLOPs for a byte are finite and at least 0")
    elements = cache(_shape(info))
    compute = sum(attended_flops(info, trials.prefix, new) for new in trials.written)
    shared = 2.0 * trials.prefix * elements * max(trials.written, default=0)
    own = elements * sum(float(new) * new for new in trials.written)
    return compute + intensity * (shared + own)


def cache(shape: KVShape) -> int:
    """D: elements of cache for a token, keys and values of all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim


def money(info: PolicyInfo, usage: Usage) -> float:
    """By the model's price; positions that a reward model scored cost what a prompt costs. Raises `UsageError` without a price."""
    if info.price is None:
        raise UsageError(f"{info.name} has no price; give one to PolicyInfo (money for a million tokens)")
    return info.price.of(usage) + info.price.prompt * usage.scored / 1e6


@dataclass(frozen=True, slots=True)
class Throughput:
    """Seconds that an engine takes for a call, and for a token of each kind; >= 0."""

    call: float = 0.0
    prompt: float = 0.0
    completion: float = 0.0
    scored: float = 0.0

    def seconds(self, usage: Usage) -> float:
        """Wall-clock of this usage, one call after the other; divide by how many an engine serves at once."""
        fresh = usage.prompt - usage.cached
        kinds = (usage.calls, fresh, usage.completion, usage.scored)
        return float(np.dot(kinds, (self.call, self.prompt, self.completion, self.scored)))


def throughput(records: Sequence[Usage]) -> Throughput:
    """The non-negative rates that explain the recorded seconds best, by least squares.

    Exact: with four rates, every choice of which of them are zero is tried. Raises `UsageError` without records that took time, or for
    records so alike that rates cannot be told apart.
    """
    table = np.array([(u.calls, u.prompt - u.cached, u.completion, u.scored) for u in records], dtype=np.float64).reshape(-1, 4)
    seconds = np.array([u.seconds for u in records])
    used = [kind for kind in range(4) if table[:, kind].any()]
    if not used or not seconds.any():
        raise UsageError(f"{len(records)} records tell no throughput: none of them took time, or none did anything")
    scale = table[:, used].max(axis=0)
    if np.linalg.matrix_rank(table[:, used] / scale) < len(used):
        raise UsageError(
            f"{len(records)} records tell no throughput: their {len(used)} kinds of work always come in one proportion; measure longer and shorter ones"
        )
    best, rates = inf, np.zeros(4)
    for size in range(1, len(used) + 1):
        for kinds in combinations(used, size):
            found = np.linalg.lstsq(table[:, kinds], seconds, rcond=None)[0]
            missed = float(((table[:, kinds] @ found - seconds) ** 2).sum())
            if found.min() >= 0 and missed < best:
                best, rates = missed, np.zeros(4)
                rates[list(kinds)] = found
    return Throughput(*map(float, rates))


def _once(spending: Spending) -> list[Usage]:
    """The usage with each shared prefix read once."""
    every = [*spending.trials, *spending.scored]
    return [Usage(prompt=one.prefix, cached=one.cached, completion=sum(one.written)) for one in every]


def _scored(usage: Usage) -> Trials:
    """Positions that were scored of a text that was written in the same call, and is in the cache."""
    before = usage.prompt + usage.completion
    return Trials(before, (usage.scored,), before)


def _parameters(info: PolicyInfo) -> int:
    if info.parameters is None:
        raise UsageError(f"{info.name} does not say how many parameters it has; FLOPs need PolicyInfo(parameters=...)")
    return info.parameters


def _shape(info: PolicyInfo) -> KVShape:
    if info.kv is None:
        raise UsageError(f"{info.name} does not say what its cache looks like; attention needs PolicyInfo(kv=KVShape(...))")
    return info.kv


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
