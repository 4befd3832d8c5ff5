"""Curves straight from a Parquet file of samples, a row for each: for banks of millions.

A journal keeps every sample, score and verdict as a checksummed row, so that it can be resumed and judged again; ten million of them take it
longer than anyone waits for a curve. A curve needs four numbers of a sample, and as columns those of ten million fit in memory.

| column | type | |
|---|---|---|
| problem | text or whole number | whose sample it is; its rows may stand anywhere, their order is that of the samples |
| correct | bool | |
| answer | text or whole number, or null | equal answers vote together; null: cut or without an answer, which is wrong and never votes |
| score | number | of a verifier, larger is better; a vote weighs its sigmoid, as with `ponder import` |
| tokens, prompt | whole number | written, and read as prompt; without `tokens` each sample costs 1 |

All but the first two may be missing, and take the curves that need them along.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ponder.cli.axes import COUNTS, tokens_of
from ponder.cli.curve import COVERAGE, Line, sizes
from ponder.errors import DataError, MissingExtraError
from ponder.scaling import estimators

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

VOTES = 200_000
"""Random subsets of all problems together, for votes: 20 of each of 10,000 problems leave an error of .001 in the mean, a tenth of its interval."""
KNOWN = ("problem", "correct", "answer", "score", "tokens", "prompt")


def lines_of(path: Path) -> list[Line]:
    """The curve of every estimator that the columns allow.

    Raises `DataError` for a file that cannot be read, a column of the wrong type, or problems with different numbers of samples;
    `MissingExtraError` without pyarrow.
    """
    table = _read(path)
    ids, order = _problems(table, path)
    count = len(ids)
    n = len(order) // count
    ks, subsets = sizes(n), min(100, max(20, VOTES // count))

    def laid_out(values_R: np.ndarray) -> np.ndarray:
        return cast("np.ndarray", values_R[order].reshape(count, n))

    names = set(table.column_names)
    correct = laid_out(_numbers(table, "correct", path, "bool"))
    answers = laid_out(_answers(table, path)) if "answer" in names else None
    if answers is not None:
        correct &= answers >= 0
    found: dict[str, np.ndarray] = {"sample": estimators.pass_at_k(correct, [1])}
    if answers is not None:
        found["self_consistency"] = estimators.maj_at_k(correct, answers, ks, subsets=subsets)
    if "score" in names:
        scores = laid_out(_numbers(table, "score", path, "number"))
        if answers is not None:
            scores[answers < 0] = np.nan
        found["best_of_n(score)"] = estimators.best_of_n_at_k(correct, scores, ks)
        if answers is not None:
            np.divide(1.0, 1.0 + np.exp(-np.clip(scores, -700, 700)), out=scores)
            found["weighted_vote(score)"] = estimators.weighted_at_k(correct, answers, scores, ks, subsets=subsets)
        del scores
    found[COVERAGE] = estimators.pass_at_k(correct, ks)
    spent_P_C = np.zeros((count, len(COUNTS)))
    lengths_P_N: np.ndarray | None = None
    spent_P_C[:, COUNTS.index("samples")] = spent_P_C[:, COUNTS.index("calls")] = 1.0
    for name, column in (("tokens", "completion"), ("prompt", "prompt")):
        if name in names:
            counted_P_N = laid_out(_numbers(table, name, path, "count"))
            spent_P_C[:, COUNTS.index(column)] = counted_P_N.mean(axis=1)
            lengths_P_N = counted_P_N if lengths_P_N is None else lengths_P_N + counted_P_N
        elif name == "tokens":
            spent_P_C[:, COUNTS.index(column)] = 1.0
    spent_P_C[:, COUNTS.index("attended")] = 1.0 if lengths_P_N is None else (lengths_P_N**2).mean(axis=1)
    task = hashlib.sha256("\x1f".join(sorted(ids)).encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return [_line(path, name, values, spent_P_C, ids, f"columns-{task}", ks) for name, values in found.items()]


def _line(
    path: Path, name: str, values_P_K: np.ndarray, spent_P_C: np.ndarray, ids: tuple[str, ...], task: str, ks: list[int]
) -> Line:
    ks = ks[: values_P_K.shape[1]]
    spent_P_K_C = spent_P_C[:, None, :] * np.array(ks, dtype=np.float64)[:, None]
    cell = f"{path.stem} | imported | {path.name}"
    return Line(
        cell, name, "subsets", name == COVERAGE, 1, ks, values_P_K, tokens_of(spent_P_K_C), spent_P_K_C, ids, task, "imported"
    )


def _read(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        schema = parquet.read_schema(path)
        if twice := [name for name in KNOWN if schema.names.count(name) > 1]:
            raise DataError(f"{path}: has {schema.names.count(twice[0])} columns {twice[0]!r}; write it with one")
        texts = [name for name in ("problem", "answer") if name in schema.names and _is_text(schema.field(name).type)]
        table = parquet.read_table(path, columns=[name for name in KNOWN if name in schema.names], read_dictionary=texts)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); write it again") from None
    missing = [name for name in ("problem", "correct") if name not in table.column_names]
    if missing or not table.num_rows:
        raise DataError(
            f"{path}: has {table.num_rows} rows and no column {', '.join(missing) or 'missing'}; a sample is a row with problem and correct"
        )
    return table


def _is_text(kind: Any) -> bool:  # noqa: ANN401  a type of pyarrow, which has no stubs
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or str(kind) == "string_view")


def _problems(table: Table, path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    """The names of the problems, and the rows, problem by problem, in the order of the file within each."""
    codes_R, values = _codes(table, "problem", path)
    if (codes_R < 0).any():
        raise DataError(f"{path}: row {int(np.argmin(codes_R)) + 1} has no problem")
    names = tuple(map(str, values))
    drawn = np.bincount(codes_R, minlength=len(names))
    if len(set(names)) != len(names) or drawn.min() != drawn.max():
        raise DataError(
            f"{path}: problems have {drawn.min()} to {drawn.max()} samples; estimators need the same number of every problem: cut them to {drawn.min()}"
        )
    grouped = bool((np.diff(codes_R) >= 0).all())
    return names, np.arange(len(codes_R)) if grouped else np.argsort(codes_R, kind="stable")


def _answers(table: Table, path: Path) -> np.ndarray:
    column = table.column("answer")
    if column.null_count == len(column):
        raise DataError(f"{path}: column answer holds nothing; leave it out")
    return _codes(table, "answer", path)[0]


def _codes(table: Table, name: str, path: Path) -> tuple[np.ndarray, list[object]]:
    """A number for each distinct value, in order of appearance, -1 for null; and the values. Raises `DataError` for another type than the table above has."""
    import pyarrow
    from pyarrow import types

    column: ChunkedArray = table.column(name)
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or types.is_integer(kind) or column.null_count == len(column)):
        raise DataError(f"{path}: column {name} is of type {column.type}; it must be text or whole numbers")
    encoded = column if types.is_dictionary(column.type) else column.dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    if isinstance(whole, pyarrow.ChunkedArray):
        whole = whole.chunk(0)
    try:
        values = whole.dictionary.to_pylist()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: column {name} is not UTF-8 ({error.reason}); write it again") from None
    return whole.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), values


def _numbers(table: Table, name: str, path: Path, kind: str) -> np.ndarray:
    """A column as bool or float64. Raises `DataError` naming the column for another type, a gap or a number outside its range."""
    from pyarrow import types

    column = table.column(name)
    fits: Callable[[Any], bool] = {
        "bool": types.is_boolean,
        "number": lambda t: types.is_floating(t) or types.is_integer(t),
        "count": types.is_integer,
    }[kind]
    if not fits(column.type):
        raise DataError(f"{path}: column {name} is of type {column.type}; it must be a {kind}")
    if column.null_count:
        raise DataError(f"{path}: column {name} lacks {column.null_count} values; give all of them, or leave the column out")
    values: np.ndarray = column.to_numpy()
    values = values.astype(np.bool_ if kind == "bool" else np.float64)
    if not np.isfinite(values).all() or (kind == "count" and values.min() < 0):
        raise DataError(f"{path}: column {name} reaches from {values.min()} to {values.max()}; it must hold a finite {kind}")
    return values
