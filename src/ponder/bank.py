"""The bank: every paid sample and score, kept before it is given out, and given out again at no cost.

`TableBank` puts the rules on top of a `Table`, which only keeps rows:
- an asked-for child is in the table, or on its way for somebody else, or it is paid for: never twice, but for the children of a call that was
  ended under way;
- a child is durable before anyone sees it; one that failed is not kept, so a resumed study tries again;
- the token cap is not in a sample's key. A sample that ended is valid under any cap at least its length and replays as `length`
  under a smaller one; one that was cut by its cap replays under that cap or a smaller one, and is continued for a larger one
  where the engine can go on (or repeat itself from its seed);
- an engine that can do neither draws all samples anew under a larger cap. Drawing only the cut ones anew would keep those that
  happened to be short and give the others a second chance.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from ponder.core import Ask, Policy, Pool, Sampling, Until, Verifier, cut, room, score_key
from ponder.types import Chain, Finish, Score, Step

if TYPE_CHECKING:
    from ponder.run import Run

K = TypeVar("K")
V = TypeVar("V")

_POOLS_IN_MEMORY = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One banked sample: child `index` of `pool`, drawn under a cap of `cap` tokens."""

    pool: Pool
    index: int
    cap: int
    finish: Finish | None
    step: Step


class Table(Protocol):
    """Keeps rows. `keep` and `keep_scores` return once the rows are durable."""

    def rows(self, pool: Pool) -> list[Row]:
        """All rows of a pool, oldest first."""
        ...

    async def keep(self, rows: Sequence[Row], prefixes: Sequence[Chain]) -> None:
        """Append rows; `prefixes` are the chains they go on from."""
        ...

    def scores(self, verifier: str, chains: Sequence[str]) -> Mapping[str, Score]:
        """The kept scores of these chain digests."""
        ...

    async def keep_scores(self, verifier: str, scores: Mapping[str, Score]) -> None:
        """Append scores by chain digest."""
        ...


class MemoryTable:
    """A table that lasts as long as the process."""

    def __init__(self) -> None:
        self._rows: dict[Pool, list[Row]] = {}
        self._scores: dict[tuple[str, str], Score] = {}

    def rows(self, pool: Pool) -> list[Row]:
        """All rows of a pool, oldest first."""
        return list(self._rows.get(pool, ()))

    async def keep(self, rows: Sequence[Row], prefixes: Sequence[Chain]) -> None:
        """Append rows."""
        del prefixes
        for row in rows:
            self._rows.setdefault(row.pool, []).append(row)

    def scores(self, verifier: str, chains: Sequence[str]) -> Mapping[str, Score]:
        """The kept scores of these chain digests."""
        return {chain: self._scores[verifier, chain] for chain in chains if (verifier, chain) in self._scores}

    async def keep_scores(self, verifier: str, scores: Mapping[str, Score]) -> None:
        """Append scores by chain digest."""
        self._scores.update({(verifier, chain): score for chain, score in scores.items()})


def replay(rows: Sequence[Row], cap: int, *, grows: bool = True) -> Row | None:
    """What the rows of one child give under a cap, or None where it must still be paid for.

    grows: all rows begin alike, since the engine repeats itself from a seed or goes on from a stump. Otherwise only rows drawn under
    at least this cap count, and the smallest such cap: which row is taken must not depend on what is in it.
    """
    for row in rows:
        if row.cap == cap:
            return row
    if not grows:
        rows = sorted((row for row in rows if row.cap > cap), key=lambda row: row.cap)[:1]
    for row in rows:
        if row.finish != "length":
            fits = row.step.usage.completion <= cap
            return row if fits else replace(row, finish="length", step=cut(row.step, cap))
    longer = next((row for row in rows if row.cap > cap), None)
    return replace(longer, step=cut(longer.step, cap)) if longer else None


def _grows(policy: Policy) -> bool:
    return not policy.info.capabilities.isdisjoint({"seed", "continue"})


class TableBank:
    """The rules above, on a table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._pools: OrderedDict[Pool, dict[int, list[Row]]] = OrderedDict()
        self._coming: dict[tuple[Pool, int, int], asyncio.Future[Chain]] = {}
        self._judging: dict[tuple[str, str], asyncio.Future[Score]] = {}

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As `Policy.sample`; only what is neither kept nor on its way reaches the policy."""
        pools = [ask.pool(policy.info.fingerprint, until, sampling) for ask in asks]
        wanted = [(pool, ask, room(ask.chain, sampling)) for pool, ask in zip(pools, asks, strict=True)]
        got: dict[tuple[Pool, int, int], Chain] = {}
        grows = _grows(policy)
        while True:
            coming: dict[tuple[Pool, int, int], asyncio.Future[Chain]] = {}
            missing: list[tuple[Pool, Ask, int]] = []
            for pool, ask, cap in wanted:
                indices = []
                for key in ((pool, index, cap) for index in ask.indices):
                    row = replay(self._rows(pool).get(key[1], ()), cap, grows=grows)
                    if row is not None:
                        got[key] = ask.chain.then(row.step, row.finish)
                    elif key in self._coming:
                        coming[key] = self._coming[key]
                    elif key not in got:
                        indices.append(key[1])
                if indices:
                    missing.append((pool, replace(ask, indices=tuple(indices)), cap))
            if missing:
                got |= await self._pay(policy, missing, until, sampling)
            got |= await _others(coming)
            if all((pool, index, cap) in got for pool, ask, cap in wanted for index in ask.indices):
                return [[_under(ask.chain, got[pool, index, cap]) for index in ask.indices] for pool, ask, cap in wanted]

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As `Verifier.score`; equal chains are scored once."""
        name = verifier.fingerprint
        if not name:
            return await verifier.score(chains, run)
        wanted = {(name, score_key(chain)): chain for chain in chains}
        got: dict[tuple[str, str], Score] = {}
        while len(got) < len(wanted):
            left = [digest for key in wanted if key not in got for digest in key[1:]]
            got |= {(name, digest): score for digest, score in self.table.scores(name, left).items()}
            coming = {key: self._judging[key] for key in wanted if key in self._judging and key not in got}
            new = {key: chain for key, chain in wanted.items() if key not in got and key not in coming}
            if new:
                got |= await self._judge(verifier, new, run)
            got |= await _others(coming)
        return [got[name, score_key(chain)] for chain in chains]

    def _rows(self, pool: Pool) -> dict[int, list[Row]]:
        if pool in self._pools:
            self._pools.move_to_end(pool)
            return self._pools[pool]
        lines: dict[int, list[Row]] = {}
        for row in self.table.rows(pool):
            lines.setdefault(row.index, []).append(row)
        self._pools[pool] = lines
        if len(self._pools) > _POOLS_IN_MEMORY:
            self._pools.popitem(last=False)
        return lines

    async def _pay(
        self, policy: Policy, mine: Sequence[tuple[Pool, Ask, int]], until: Until, sampling: Sampling
    ) -> dict[tuple[Pool, int, int], Chain]:
        keys = [(pool, index, cap) for pool, ask, cap in mine for index in ask.indices]
        with _Promise(self._coming, keys) as promise:
            lines = await self._sample(policy, mine, until, sampling)
            children = dict(zip(keys, (child for line in lines for child in line), strict=True))
            rows = [
                Row(*key, child.finish, child.steps[-1])
                for key, child in children.items()
                if child.finish not in ("error", "cancelled")
            ]
            await _whole(self._keep(rows, [ask.chain for _, ask, _ in mine]))
            return promise.kept(children)

    async def _keep(self, rows: Sequence[Row], prefixes: Sequence[Chain]) -> None:
        await self.table.keep(rows, prefixes)
        for row in rows:
            line = self._rows(row.pool).setdefault(row.index, [])
            if row not in line:  # a pool that was dropped meanwhile has been read again, with this row
                line.append(row)

    async def _judge(self, verifier: Verifier, new: Mapping[tuple[str, str], Chain], run: Run) -> dict[tuple[str, str], Score]:
        with _Promise(self._judging, list(new)) as promise:
            scores = dict(zip(new, await verifier.score(list(new.values()), run), strict=True))
            kept = {digest: score for (_, digest), score in scores.items() if score.value is not None}
            await _whole(self.table.keep_scores(verifier.fingerprint, kept))
            return promise.kept(scores)

    async def _sample(
        self, policy: Policy, mine: Sequence[tuple[Pool, Ask, int]], until: Until, sampling: Sampling
    ) -> list[list[Chain]]:
        """Fresh children, and the rest of those that a smaller cap had cut where the engine can only go on, not repeat itself."""
        stumps: dict[tuple[int, int], Row] = {}
        if "seed" not in policy.info.capabilities and "continue" in policy.info.capabilities:
            for at, (pool, ask, _) in enumerate(mine):
                cuts = ((index, self._rows(pool).get(index)) for index in ask.indices)
                stumps |= {(at, index): max(rows, key=lambda row: row.cap) for index, rows in cuts if rows}
        whole = {key for key, row in stumps.items() if until.tokens and row.step.usage.completion >= until.tokens}
        asks = [
            replace(ask, indices=tuple(i for i in ask.indices if (at, i) not in stumps)) for at, (_, ask, _) in enumerate(mine)
        ]
        drawn = {(at, index): mine[at][1].chain.then(stumps.pop((at, index)).step) for at, index in sorted(whole)}
        if any(ask.indices for ask in asks):
            lines = await policy.sample([ask for ask in asks if ask.indices], until=until, sampling=sampling)
            fresh = ((at, index) for at, ask in enumerate(asks) for index in ask.indices)
            drawn |= zip(fresh, (child for line in lines for child in line), strict=True)
        for rest in dict.fromkeys(_rest(until, row) for row in stumps.values()):
            those = {key: row for key, row in stumps.items() if _rest(until, row) == rest}
            onward = [Ask(mine[at][1].chain.then(row.step), (0,), f"{row.pool.stream}/more{i}") for (at, i), row in those.items()]
            lines = await policy.sample(onward, until=rest, sampling=sampling)
            for ((at, index), row), [more] in zip(those.items(), lines, strict=True):
                drawn[at, index] = mine[at][1].chain.then(joined(row.step, more.steps[-1]), more.finish)
        return [[drawn[at, index] for index in ask.indices] for at, (_, ask, _) in enumerate(mine)]


class _Promise(Generic[K, V]):
    """Futures for what this caller is paying for, so that others wait instead; given up if it does not come."""

    def __init__(self, shared: dict[K, asyncio.Future[V]], keys: Sequence[K]) -> None:
        self.shared = shared
        self.futures: dict[K, asyncio.Future[V]] = {key: asyncio.get_running_loop().create_future() for key in keys}

    def kept(self, results: dict[K, V]) -> dict[K, V]:
        """Give out the results."""
        for key, result in results.items():
            self.futures[key].set_result(result)
        return results

    def __enter__(self) -> _Promise[K, V]:
        self.shared |= self.futures
        return self

    def __exit__(self, *_: object) -> None:
        for key, future in self.futures.items():
            del self.shared[key]
            future.cancel()  # no effect on those that have a result


async def _others(coming: Mapping[K, asyncio.Future[V]]) -> dict[K, V]:
    """What others were paying for, without that which they gave up."""
    if coming:
        await asyncio.wait(coming.values())
    return {key: future.result() for key, future in coming.items() if not future.cancelled()}


async def _whole(work: Coroutine[object, object, None]) -> None:
    """Wait for work that must not be left half done, even when cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _under(parent: Chain, child: Chain) -> Chain:
    """The child with this parent: one of an equal parent may have been cut into other steps."""
    return parent.then(child.steps[-1], child.finish)


def _rest(until: Until, row: Row) -> Until:
    """What is left of a step's length after the part that is there."""
    return replace(until, tokens=until.tokens - row.step.usage.completion) if until.tokens else until


def joined(first: Step, second: Step) -> Step:
    """Two steps of one sample as one; the prompt is counted once."""
    a, b = first.tokens, second.tokens
    tokens = None
    if a is not None and b is not None and a.width == b.width:
        tokens = a.then(b)
    usage = replace(first.usage + second.usage, prompt=first.usage.prompt, cached=first.usage.cached, calls=first.usage.calls)
    return Step(first.text + second.text, usage, tokens=tokens, data=second.data or first.data)
