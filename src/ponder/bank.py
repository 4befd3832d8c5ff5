"""The bank: every paid sample and score, kept before it is given out, and given out again at no cost.

`TableBank` puts the rules on top of a `Table`, which only keeps rows:
- an asked-for child is in the table, or on its way for somebody else, or it is paid for: never twice;
- a child is durable before anyone sees it; one that failed is not kept, so a resumed study tries again;
- the token cap is not in a sample's key. A sample that ended is valid under any cap at least its length and replays as `length`
  under a smaller one; one that was cut by its cap replays under that cap or a smaller one, and is continued for a larger one
  where the engine can go on (or repeat itself from its seed).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ponder.core import Ask, Policy, Pool, Sampling, Until, Verifier, cut, room
from ponder.types import Chain, Finish, Score, Step, Tokens

if TYPE_CHECKING:
    from ponder.run import Run

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


def replay(rows: Sequence[Row], cap: int) -> Row | None:
    """What the rows of one child give under a cap, or None where it must still be paid for."""
    for row in rows:
        if row.cap == cap:
            return row
    for row in rows:
        if row.finish != "length":
            fits = row.step.usage.completion <= cap
            return row if fits else replace(row, finish="length", step=cut(row.step, cap))
    longer = next((row for row in rows if row.cap > cap), None)
    return replace(longer, step=cut(longer.step, cap)) if longer else None


class TableBank:
    """The rules above, on a table."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._pools: OrderedDict[Pool, dict[int, list[Row]]] = OrderedDict()
        self._coming: dict[tuple[Pool, int, int], asyncio.Future[Chain]] = {}

    async def sample(self, policy: Policy, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        """As `Policy.sample`; only what is neither kept nor on its way reaches the policy."""
        pools = [ask.pool(policy.info.fingerprint, until, sampling) for ask in asks]
        wanted = [(pool, ask, room(ask.chain, sampling)) for pool, ask in zip(pools, asks, strict=True)]
        while True:
            found = [[self._find(pool, index, cap, ask) for index in ask.indices] for pool, ask, cap in wanted]
            missing = [
                replace(ask, indices=tuple(i for i, child in zip(ask.indices, line, strict=True) if child is None))
                for ask, line in zip(asks, found, strict=True)
            ]
            mine = [(pool, ask, cap) for (pool, _, cap), ask in zip(wanted, missing, strict=True) if ask.indices]
            paid = await self._pay(policy, mine, until, sampling) if mine else {}
            try:
                return [
                    [
                        child if isinstance(child, Chain) else paid[pool, index] if child is None else await asyncio.shield(child)
                        for index, child in zip(ask.indices, line, strict=True)
                    ]
                    for (pool, ask, _), line in zip(wanted, found, strict=True)
                ]
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # whoever was sampling it gave up; look again, and pay for it here

    async def score(self, verifier: Verifier, chains: Sequence[Chain], run: Run) -> list[Score]:
        """As `Verifier.score`; equal chains are scored once."""
        name = verifier.fingerprint
        if not name:
            return await verifier.score(chains, run)
        digests = [chain.digest for chain in chains]
        kept = dict(self.table.scores(name, digests))
        new = {digest: chain for digest, chain in zip(digests, chains, strict=True) if digest not in kept}
        if new:
            scores = dict(zip(new, await verifier.score(list(new.values()), run), strict=True))
            await self.table.keep_scores(name, {digest: score for digest, score in scores.items() if score.value is not None})
            kept |= scores
        return [kept[digest] for digest in digests]

    def _find(self, pool: Pool, index: int, cap: int, ask: Ask) -> Chain | asyncio.Future[Chain] | None:
        row = replay(self._rows(pool).get(index, ()), cap)
        if row is not None:
            return ask.chain.then(row.step, row.finish)
        return self._coming.get((pool, index, cap))

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
    ) -> dict[tuple[Pool, int], Chain]:
        keys = [(pool, index, cap) for pool, ask, cap in mine for index in ask.indices]
        futures = {key: asyncio.get_running_loop().create_future() for key in keys}
        self._coming |= futures
        try:
            lines = await self._sample(policy, mine, until, sampling)
            children = [child for line in lines for child in line]
            rows = [
                Row(pool, index, cap, child.finish, child.steps[-1])
                for (pool, index, cap), child in zip(keys, children, strict=True)
                if child.finish not in ("error", "cancelled")
            ]
            await self.table.keep(rows, [ask.chain for _, ask, _ in mine])
            for row in rows:
                self._rows(row.pool).setdefault(row.index, [])
                if row not in (lines_of := self._rows(row.pool)[row.index]):
                    lines_of.append(row)
            for key, child in zip(keys, children, strict=True):
                futures[key].set_result(child)
            return {(pool, index): child for (pool, index, _), child in zip(keys, children, strict=True)}
        finally:
            for key, future in futures.items():
                del self._coming[key]
                future.cancel()  # no effect on those that have a result

    async def _sample(
        self, policy: Policy, mine: Sequence[tuple[Pool, Ask, int]], until: Until, sampling: Sampling
    ) -> list[list[Chain]]:
        """Fresh children, and the rest of those that a smaller cap had cut where the engine can only go on, not repeat itself."""
        if "seed" in policy.info.capabilities or "continue" not in policy.info.capabilities:
            return await policy.sample([ask for _, ask, _ in mine], until=until, sampling=sampling)
        stumps = {
            (at, index): rows[-1]
            for at, (pool, ask, _) in enumerate(mine)
            for index in ask.indices
            if (rows := self._rows(pool).get(index))
        }
        fresh = [
            replace(ask, indices=tuple(i for i in ask.indices if (at, i) not in stumps)) for at, (_, ask, _) in enumerate(mine)
        ]
        onward = [Ask(mine[at][1].chain.then(row.step), (0,), f"{row.pool.stream}/more{i}") for (at, i), row in stumps.items()]
        asks = [ask for ask in fresh if ask.indices] + onward
        answers = iter(await policy.sample(asks, until=until, sampling=sampling))
        drawn = [dict(zip(ask.indices, next(answers), strict=True)) if ask.indices else {} for ask in fresh]
        for (at, index), row in stumps.items():
            more = next(answers)[0]
            drawn[at][index] = mine[at][1].chain.then(joined(row.step, more.steps[-1]), more.finish)
        return [[drawn[at][index] for index in ask.indices] for at, (_, ask, _) in enumerate(mine)]


def joined(first: Step, second: Step) -> Step:
    """Two steps of one sample as one; the prompt is counted once."""
    a, b = first.tokens, second.tokens
    tokens = None
    if a is not None and b is not None and a.width == b.width:
        tokens = Tokens(
            a.texts + b.texts,
            a.ids + b.ids,
            a.logprobs + b.logprobs,
            a.width,
            a.top_texts + b.top_texts,
            a.top_logprobs + b.top_logprobs,
        )
    usage = replace(first.usage + second.usage, prompt=first.usage.prompt, cached=first.usage.cached, calls=first.usage.calls)
    return Step(first.text + second.text, usage, tokens=tokens, data=second.data or first.data)
