"""Samples and scores as rows: the `Table` under the bank."""

from __future__ import annotations

import json
import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from ponder.bank import Row
from ponder.core import Attempt, Pool
from ponder.errors import CorruptError
from ponder.store.journal import Journal, Value, fault
from ponder.types import Blob, Chain, Finish, Score, Step, Tokens, Usage

MOST_KNOWN = 1024
"""Pools that a table remembers to have written: a server that records for weeks must not grow by each."""

_SAMPLE = """INSERT OR IGNORE INTO samples SELECT id, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM pools
    WHERE policy = ? AND chain = ? AND sampling = ? AND stream = ?"""


class SqliteTable:
    """A `Table` in a journal: rows are checksummed, and checked when they are read."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._known: set[Pool] = set()

    def rows(self, pool: Pool) -> list[Row]:
        """All rows of a pool, oldest first. Raises `CorruptError` on a row that does not match its checksum."""
        found = self.journal.read(
            """SELECT idx, cap, finish, text, prompt, cached, completion, calls, seconds, tokens, data, crc FROM samples
            WHERE pool = (SELECT id FROM pools WHERE policy = ? AND chain = ? AND sampling = ? AND stream = ?) ORDER BY rowid""",
            pool,
        )
        return [self._row(pool, values) for values in found]

    async def keep(self, rows: Sequence[Row], prefixes: Sequence[Chain]) -> None:
        """Append rows and the chains they go on from."""
        if not rows:
            return
        fault("sample-before-keep")
        if len(self._known) > MOST_KNOWN:
            self._known.clear()  # what is written again is ignored by the journal
        new = {row.pool for row in rows} - self._known
        bodies = {chain.digest: prefix_body(chain) for chain in prefixes} if new else {}
        self._known |= new  # the journal commits in order: whatever names these pools from here on comes after them
        lines: list[list[Value]] = []
        for row in rows:
            values = sample_values(row)
            lines.append([*values, checksum(values), *row.pool])
        await self.journal.write(
            [
                ("INSERT OR IGNORE INTO prefixes VALUES (?, ?)", list(bodies.items())),
                ("INSERT OR IGNORE INTO pools VALUES (NULL, ?, ?, ?, ?)", [list(pool) for pool in new]),
                (_SAMPLE, lines),
            ]
        )
        fault("sample-after-keep")

    def scores(self, verifier: str, chains: Sequence[str]) -> Mapping[str, Score]:
        """The kept scores of these chain digests."""
        kept = {}
        for start in range(0, len(chains), 500):  # below every SQLite's bound on parameters
            part = chains[start : start + 500]
            marks = ", ".join("?" * len(part))
            for line in self.journal.read(
                f"SELECT chain, value, raw, steps, prompt, completion, scored, calls, seconds, crc FROM scores WHERE verifier = ? AND chain IN ({marks})",
                [verifier, *part],
            ):
                self._check(line[:-1], line[-1], f"score of chain {line[0]!r}")
                chain, value, raw, steps, prompt, completion, scored, calls, seconds = cast(
                    "tuple[str, float, float | None, str, int, int, int, int, float]", line[:-1]
                )
                usage = Usage(prompt, 0, completion, scored, calls, seconds)
                kept[chain] = Score(value, raw, tuple(json.loads(steps)), usage)
        return kept

    async def keep_scores(self, verifier: str, scores: Mapping[str, Score]) -> None:
        """Append scores by chain digest."""
        lines: list[list[Value]] = []
        for chain, score in scores.items():
            use = score.usage
            steps = json.dumps(list(score.steps))
            raw = None if score.raw is None else _real(score.raw)
            head: list[Value] = [chain, _real(score.value or 0.0), raw, steps]
            values = [*head, use.prompt, use.completion, use.scored, use.calls, _real(use.seconds)]
            lines.append([verifier, *values, checksum(values)])
        fault("score-before-keep")
        await self.journal.write([(f"INSERT OR IGNORE INTO scores VALUES ({', '.join('?' * 11)})", lines)])

    async def keep_attempts(self, attempts: Sequence[Attempt]) -> None:
        """Append what really happened on the wire."""
        lines: list[list[Value]] = [
            [a.policy, a.status, a.usage.prompt, a.usage.cached, a.usage.completion, a.children, a.usage.seconds, a.detail]
            for a in attempts
        ]
        fault("attempts-before-keep")
        await self.journal.write([("INSERT INTO attempts VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)", lines)])

    def _row(self, pool: Pool, line: tuple[Value, ...]) -> Row:
        self._check(line[:-1], line[-1], f"sample {line[0]!r} of chain {pool.chain}")
        index, cap, finish, text, prompt, cached, completion, calls, seconds, tokens, data = cast(
            "tuple[int, int, Finish | None, str, int, int, int, int, float, bytes | None, str | None]", line[:-1]
        )
        usage = Usage(prompt, cached, completion, 0, calls, seconds)
        blob = Blob(*json.loads(data)) if data else None
        return Row(pool, index, cap, finish, Step(text, usage, tokens=unpack(tokens) if tokens else None, data=blob))

    def _check(self, values: Iterable[Value], crc: Value, what: str) -> None:
        if checksum(values) != crc:
            raise CorruptError(f"{self.journal.path}: {what} does not match its checksum; restore the file from a copy")


def sample_values(row: Row) -> list[Value]:
    """The columns of a sample that its checksum covers."""
    step, use = row.step, row.step.usage
    data = json.dumps([step.data.digest, step.data.media]) if step.data else None
    packed = pack(step.tokens) if step.tokens is not None else None
    head: list[Value] = [row.index, row.cap, row.finish, step.text]
    return [*head, use.prompt, use.cached, use.completion, use.calls, _real(use.seconds), packed, data]


def checksum(values: Iterable[Value]) -> int:
    """CRC-32 over the values with their types, as SQLite gives them back."""
    plain = [("bytes", len(value), zlib.crc32(value)) if type(value) is bytes else value for value in values]
    return zlib.crc32(repr(plain).encode("utf-8", "surrogatepass"))


def _real(value: float) -> float | None:
    """A number as SQLite gives it back: it knows no NaN and no negative zero."""
    return None if value != value else value + 0.0


def prefix_body(chain: Chain) -> str:
    """Prompt and text of a chain as JSON, from which learners and viewers rebuild it."""
    messages = [
        {
            "role": m.role,
            "content": [part if isinstance(part, str) else {"blob": part.digest, "media": part.media} for part in m.content],
        }
        for m in chain.prompt
    ]
    return json.dumps({"messages": messages, "text": chain.text}, ensure_ascii=False)


def pack(tokens: Tokens) -> bytes:
    """Tokens as bytes: a JSON head with the texts, then the columns in little-endian."""
    head = json.dumps([tokens.texts, tokens.width, tokens.top_texts, len(tokens.ids), len(tokens.logprobs)]).encode()
    columns = tokens.ids.tobytes() + tokens.logprobs.tobytes() + tokens.top_logprobs.tobytes()
    return zlib.compress(struct.pack("<I", len(head)) + head + columns, 1)


def unpack(body: bytes) -> Tokens:
    """The inverse of `pack`."""
    raw = zlib.decompress(body)
    (size,) = struct.unpack_from("<I", raw)
    texts, width, top_texts, count_ids, count_logprobs = json.loads(raw[4 : 4 + size])
    at = 4 + size
    ids, logprobs, top = array("i"), array("f"), array("f")
    ids.frombytes(raw[at : at + 4 * count_ids])
    at += 4 * count_ids
    logprobs.frombytes(raw[at : at + 4 * count_logprobs])
    top.frombytes(raw[at + 4 * count_logprobs :])
    return Tokens(tuple(texts), ids, logprobs, width, tuple(top_texts), top)
