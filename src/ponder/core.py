"""The contract: policies sample, verifiers score, strategies spend through a `Run`, a `Bank` keeps what was paid for.

A strategy gets a root chain and a run. It calls `run.extend` for children, `run.score` for beliefs, `run.answers` for the answers
it may count, and `run.propose` whenever its best answer changes. Seeds, meters, budgets, records and resume are the run's affair;
see `ponder.run`. Nothing here knows an engine, a file or a reference answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from ponder.errors import BudgetError, CapabilityError, UsageError
from ponder.types import Chain, Problem, Score, Step, Usage, Verdict

if TYPE_CHECKING:  # the run is defined on this contract; strategies and verifiers only need its name
    from ponder.run import Run

Capability: TypeAlias = Literal["continue", "logprobs", "seed", "n", "stop_reason", "cached"]
"""continue: goes on from a partial answer; seed: a child is a function of its key; n: many children in one request."""


@dataclass(frozen=True, slots=True)
class Until:
    """How far one continuation goes. The default goes to the end of the answer.

    stop: texts that end a step; the one that ended it stays at the step's end. tokens: at most so many tokens make a step.
    """

    stop: tuple[str, ...] = ()
    tokens: int | None = None

    @property
    def key(self) -> str:
        """Part of a sample's key."""
        return f"stop={self.stop!r} tokens={self.tokens}" if self.stop or self.tokens else ""


END = Until()
LINE = Until(stop=("\n",))
PARAGRAPH = Until(stop=("\n\n",))
MOST_CHILDREN = 1_000_000
"""Of one call: each takes half a kilobyte, even one that the budget cannot pay for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    temperature 0 is greedy. max_tokens caps what is written after the prompt, over all steps of a chain; it is not part of a
    sample's key. logprobs: how many alternatives are kept for each token (0: the chosen token's own, where the engine gives it).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 1024
    logprobs: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 1e-6, 1.0),
            ("top_k", self.top_k, 0, 2**31),
            ("max_tokens", self.max_tokens, 1, 2**31),
            ("logprobs", self.logprobs, 0, 20),
        ):
            if not low <= value <= high:
                raise UsageError(f"sampling: {name} = {value!r} must lie in [{low:g}, {high:g}]")

    @property
    def key(self) -> str:
        """Part of a sample's key: all but the token cap."""
        return f"temperature={float(self.temperature)!r} top_p={float(self.top_p)!r} top_k={self.top_k} logprobs={self.logprobs}"


class Pool(NamedTuple):
    """The children of one chain under one policy, sampling and stream: child i of a pool is one sample, paid for once."""

    policy: str
    chain: str
    sampling: str
    stream: str

    def seed(self, index: int) -> int:
        """A 64-bit seed that is a function of the key alone."""
        text = "\x1f".join((*self, str(index)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def pool_of(chain: Chain, stream: str, policy: str, until: Until, sampling: Sampling) -> Pool:
    """The pool that a chain's children in a stream belong to."""
    return Pool(policy, chain.digest, sampling.key if until is END else " ".join(filter(None, (sampling.key, until.key))), stream)


@dataclass(frozen=True, slots=True)
class Ask:
    """Which children of which chain, in which stream (study seed and purpose; see `Run.purpose`)."""

    chain: Chain
    indices: tuple[int, ...]
    stream: str

    def pool(self, policy: str, until: Until, sampling: Sampling) -> Pool:
        """The pool the asked-for children belong to."""
        return pool_of(self.chain, self.stream, policy, until, sampling)


def room(chain: Chain, sampling: Sampling) -> int:
    """Completion tokens that the cap leaves for going on with this chain."""
    return max(0, sampling.max_tokens - sum(step.usage.completion for step in chain.steps))


def cut(step: Step, tokens: int) -> Step:
    """The first `tokens` tokens of a step, with their usage; the text is empty where the engine gave no tokens to cut at."""
    kept = step.tokens[:tokens] if step.tokens is not None else None
    text = "".join(kept.texts) if kept is not None else ""
    return replace(step, text=text, tokens=kept, usage=replace(step.usage, completion=min(tokens, step.usage.completion)))


def score_key(chain: Chain) -> str:
    """Under which a score is kept: an open chain must not inherit what was said of a finished one with the same text, nor the reverse."""
    return chain.digest if chain.finish == "stop" else f"{chain.digest}/{chain.finish or 'open'}"


@dataclass(frozen=True, slots=True)
class KVShape:
    """What attention keeps for each token: layers x key-value heads x head size; `group` query heads share one of them."""

    layers: int
    kv_heads: int
    head_dim: int
    group: int = 1


@dataclass(frozen=True, slots=True)
class Price:
    """Money for a million tokens, in one currency."""

    prompt: float = 0.0
    cached: float = 0.0
    completion: float = 0.0

    def of(self, usage: Usage) -> float:
        """What this usage costs."""
        fresh = usage.prompt - usage.cached
        return (fresh * self.prompt + usage.cached * self.cached + usage.completion * self.completion) / 1e6


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """What is known of a policy. fingerprint: weights, template and engine, but not the address. parameters: active ones."""

    name: str
    fingerprint: str
    capabilities: frozenset[Capability] = frozenset()
    parameters: int | None = None
    kv: KVShape | None = None
    price: Price | None = None


class Policy(Protocol):
    """p(step given prefix): any language model that samples continuations."""

    @property
    def info(self) -> PolicyInfo:
        """Name, fingerprint, capabilities, size, price."""
        ...

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """One list of children for each ask, in the order of its indices; each child is the chain with one step more.

        A child that failed comes back finished by `error`, with what it cost; an engine that cannot be used at all raises
        `EndpointError`. The cap is the whole chain's: `room` tells what is left of it for an ask.
        """
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as it really happened: what was billed, apart from the logical usage of the children it gave.

    status: "ok", or the name of the failure ("rate_limited", "timeout", "reset", "server_error", "refused", "malformed",
    "cancelled"). usage: what the engine reported; where it reported nothing, the request's cap. children: samples in the reply.
    """

    policy: str
    status: str
    usage: Usage
    children: int
    detail: str = ""


class Verifier(Protocol):
    """r(x, z_1 .. z_t): belief without the reference."""

    @property
    def fingerprint(self) -> str:
        """Identity of a paid, deterministic verifier, under which scores are banked; "" if it costs nothing or samples through the run."""
        ...

    async def score(self, chains: Sequence[Chain], run: Run) -> list[Score]:
        """One score for each chain, in order. Policies it needs are called through the run."""
        ...


class Strategy(Protocol):
    """How to spend compute on one question."""

    async def __call__(self, root: Chain, run: Run) -> None:
        """Spend through `run`; call `run.propose` whenever the best answer changes."""
        ...


class Environment(Protocol):
    """Answers a chain with a step of its own: a tool, a compiler, a game."""

    async def act(self, chains: Sequence[Chain]) -> list[Step]:
        """One step (source `environment`) for each chain, in order."""
        ...


class Adapter(Protocol):
    """Fits a policy to a question at test time."""

    async def adapt(self, policy: Policy, chains: Sequence[Chain]) -> tuple[Policy, Usage]:
        """A policy with a fingerprint of its own, and what fitting it cost."""
        ...


class Bank(Protocol):
    """Every sample and score ever paid for. What is not in it is asked for, paid, kept, and only then given out."""

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As `Policy.sample`."""
        ...

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As `Verifier.score`."""
        ...


class Grader(Protocol):
    """Ver_x(y): decides with the reference, outside the reach of strategies."""

    @property
    def version(self) -> str:
        """Part of a verdict's key: change it whenever a verdict may change."""
        ...

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each finished answer, in order. `answers` are the task's extracted keys, `texts` the whole answers."""
        ...


def parts(thing: object) -> list[object]:
    """`thing` and everything that hangs on its dataclass fields, depth first: a strategy, its verifiers, their policies."""
    found = [thing]
    if is_dataclass(thing) and not isinstance(thing, type):
        for field in fields(thing):
            value = getattr(thing, field.name)
            for item in value if isinstance(value, tuple) else (value,):
                if is_dataclass(item) or hasattr(item, "sample") or hasattr(item, "score"):
                    found += parts(item)
    return found


def batches(n: int, size: int) -> Iterator[int]:
    """`n` cut into batches of at most `size`. Raises `UsageError` unless both are at least 1."""
    if n < 1:
        raise UsageError(f"n = {n} must be at least 1")
    if size < 1:
        raise UsageError(f"batch = {size} must be at least 1")
    return (min(size, n - start) for start in range(0, n, size))


def continues(thing: object) -> bool:
    """Whether a strategy, or one within it, goes on from partial answers after whole ones: it says so by `continues`.

    A strategy whose first call makes a step need not say so.
    """
    return any(getattr(part, "continues", False) for part in parts(thing))


def whole_only(info: PolicyInfo) -> CapabilityError:
    """What to raise where a policy that gives whole answers only is to go on from a part of one."""
    return CapabilityError(
        f"{info.name}: cannot go on from a partial answer (no 'continue' capability), which steps need; "
        "use an engine that continues an assistant message or offers the completions route, or a strategy of whole samples"
    )


def logprobs_needed(*things: object) -> int:
    """The most token alternatives that any part of these strategies reads: it says so by `logprobs`, so that a study asks once, for all."""
    needed: list[int] = [getattr(part, "logprobs", 0) for thing in things for part in parts(thing)]
    return max(needed, default=0)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one run may spend. Hard: nothing is started that could not be paid for.

    Budget()                  no bound
    Budget(samples=16)        16 children of any policy
    Budget(tokens=4_000)      completion tokens of every policy + positions scored by reward models
    Budget(calls=20)          children and scores
    Budget(seconds=30)        wall-clock, best effort
    Budget(money=0.05)        in the currency of the policies' prices
    """

    samples: int | None = None
    tokens: int | None = None
    calls: int | None = None
    seconds: float | None = None
    money: float | None = None

    def __post_init__(self) -> None:
        for value in (self.samples, self.tokens, self.calls, self.seconds, self.money):
            if value is not None and not value > 0:
                name = next(field.name for field in fields(self) if getattr(self, field.name) is value)
                raise BudgetError(f"budget {name}={value!r} cannot buy anything: it must be above 0, or left out for no bound")

    @property
    def counted(self) -> bool:
        """Whether anything but seconds is bounded: then what is settled first decides what may follow."""
        return not (self.samples is None and self.tokens is None and self.calls is None and self.money is None)

    def __str__(self) -> str:
        given = [f"{field.name}={getattr(self, field.name)}" for field in fields(self) if getattr(self, field.name) is not None]
        return ",".join(given) or "none"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run has spent so far: children sampled, usage of all policies and reward models, money at the policies' prices."""

    samples: int = 0
    usage: Usage = Usage()
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing a run did, in logical order. spent: after it. chains: what it was done to, or what came of it."""

    kind: Literal["extend", "score", "act", "adapt", "propose"]
    spent: Spent
    chains: tuple[Chain, ...] = ()
    scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run. chain: the last proposal, None if there was none (the strategy abstained, or could pay for nothing).

    answer: its answer by the task's key. oracle: a grader took part in the search, so this is an upper bound, not a result.
    failed: children that ended by `error`. exhausted: the budget ran out.
    """

    chain: Chain | None
    answer: str | None
    spent: Spent
    events: tuple[Event, ...]
    oracle: bool
    failed: int
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Task:
    """Problems with all that is needed to ask and to judge them.

    answer: the reference-free key, from the text of a finished answer to its canonical form, None where it gives none; voting and
    merging use it. fingerprint: changes whenever the prompts or the problems do. max_tokens: a sensible cap for an answer.
    """

    name: str
    fingerprint: str
    problems: tuple[Problem, ...]
    answer: Callable[[str], str | None]
    grader: Grader
    max_tokens: int = 1024
