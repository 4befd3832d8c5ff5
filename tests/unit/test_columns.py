"""Curves from columns are those of the same samples in a journal; what is no file of samples is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ponder.cli import columns, importing
from ponder.cli.axes import Unit
from ponder.cli.compare import gather, report
from ponder.cli.main import run_app
from ponder.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def samples(problems=7, n=5, seed=0):
    """Rows of all kinds: wrong ones, ties, cut ones, in an order that mixes the problems."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        for p in rng.permutation(problems):
            answer = None if rng.random() < 0.15 else str(rng.integers(0, 3))
            row = {"problem": f"p{p}", "answer": answer, "correct": answer == "0", "score": round(float(rng.normal()), 1)}
            rows.append({**row, "tokens": int(rng.integers(1, 9)), "text": f"{p} {i}"})
    return rows


def written(path, rows, **types):
    table = pyarrow.Table.from_pylist(rows)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table.column(name).cast(kind))
    parquet.write_table(table, path)
    return path


def values(lines):
    short = {"recorded(name='score')": "score"}
    return {
        (one.strategy.replace(*next(iter(short.items()))), k): (list(one.values_P_K[:, at]), list(one.tokens_P_K[:, at]))
        for one in lines
        for at, k in enumerate(one.ks)
    }


@pytest.mark.slow
def test_columns_give_what_a_journal_of_the_same_samples_gives(tmp_path):
    rows = samples()
    file = written(tmp_path / "bank.parquet", rows)
    by_problem = {}
    for row in rows:
        by_problem.setdefault(row["problem"], []).append({key: value for key, value in row.items() if key != "problem"})
    body = [json.dumps({"problem": name, "samples": those}) for name, those in by_problem.items()]
    (tmp_path / "bank.jsonl").write_text("\n".join(body))
    importing.bring(tmp_path / "bank.jsonl", tmp_path / "lines", None)
    importing.bring(file, tmp_path / "rows", None)
    direct, lines, rows_ = (values(gather(path, Unit()).lines) for path in (file, tmp_path / "lines", tmp_path / "rows"))
    assert {name for name, _ in direct} == {
        "sample", "self_consistency", "best_of_n(score)", "weighted_vote(score)", "pass@k (any of k correct)"
    }  # fmt: skip
    assert direct.keys() == lines.keys() == rows_.keys()
    for key, (accuracy, tokens) in direct.items():
        for other in (lines, rows_):
            assert accuracy == pytest.approx(other[key][0])
            assert tokens == pytest.approx(other[key][1])


@pytest.mark.slow
def test_imported_files_of_the_same_problems_are_compared(tmp_path):
    for seed in (0, 1):
        importing.bring(written(tmp_path / f"b{seed}.parquet", samples(seed=seed)), tmp_path / str(seed), None)
    told = report([tmp_path / "0", tmp_path / "1"], Unit())
    [group] = told.groups
    assert len(group.ids) == 7
    assert len({entry.name for entry in group.entries}) == len(group.entries) == 10


@pytest.mark.slow
def test_files_of_columns_meet_over_their_problems(tmp_path):
    paths = [written(tmp_path / f"{seed}.parquet", samples(seed=seed)) for seed in (0, 1)]
    [group] = report(paths, Unit("samples")).groups
    assert len(group.ids) == 7
    [other] = [len(one.entries) for one in report([paths[0]], Unit()).groups]
    assert other == 5


def test_columns_that_are_missing_take_their_curves_along(tmp_path):
    rows = [
        {"problem": 1, "correct": True},
        {"problem": 1, "correct": False},
        {"problem": 2, "correct": False},
        {"problem": 2, "correct": False},
    ]
    found = values(columns.lines_of(written(tmp_path / "a.parquet", rows)))
    assert {name for name, _ in found} == {"sample", "pass@k (any of k correct)"}
    assert found["sample", 1] == ([0.5, 0.0], [1.0, 1.0])
    assert found["pass@k (any of k correct)", 2] == ([1.0, 0.0], [2.0, 2.0])
    with_score = [{**row, "score": at} for at, row in enumerate(rows)]
    found = values(columns.lines_of(written(tmp_path / "b.parquet", with_score)))
    assert found["best_of_n(score)", 2] == ([0.0, 0.0], [2.0, 2.0])


def test_prompts_stand_on_their_own_axis(tmp_path):
    rows = [{"problem": "a", "correct": True, "prompt": 30, "tokens": 4}]
    [sample, _] = gather(written(tmp_path / "a.parquet", rows), Unit("flops", parameters=2)).lines
    assert sample.costs_K.tolist() == [2 * 2 * 34]


@pytest.mark.parametrize(
    ("rows", "types", "message"),
    [
        ([{"problem": "a"}], {}, "no column correct; a sample is a row with problem and correct"),
        ([{"problem": "a", "correct": True}] * 2 + [{"problem": "b", "correct": True}], {}, "have 1 to 2 samples"),
        ([{"problem": "a", "correct": 1}], {}, "column correct is of type int64; it must be a bool"),
        ([{"problem": "a", "correct": True, "score": 1.0}, {"problem": "a", "correct": True}], {}, "column score lacks 1 values"),
        ([{"problem": "a", "correct": True, "tokens": -1}], {}, "reaches from -1.0 to -1.0; it must hold a finite count"),
        ([{"problem": "a", "correct": True, "score": float("inf")}], {}, "must hold a finite number"),
        ([{"problem": "a", "correct": True}, {"problem": None, "correct": True}], {}, "row 2 has no problem"),
        ([{"problem": "a", "correct": True, "answer": None}], {"answer": "string"}, "column answer holds nothing; leave it out"),
        ([{"problem": ["a"], "correct": True}], {}, "column problem is of type list.*; it must be text or whole numbers"),
        ([{"problem": {"a": 1}, "correct": True}], {}, "column problem is of type struct.*; it must be text or whole numbers"),
        ([{"problem": float("nan"), "correct": True}], {}, "column problem is of type double; it must be text or whole numbers"),
        ([{"problem": b"a", "correct": True}], {}, "column problem is of type binary; it must be text or whole numbers"),
        (
            [{"problem": "a", "correct": True, "answer": [1]}],
            {},
            "column answer is of type list.*; it must be text or whole numbers",
        ),
    ],
)
def test_what_is_no_file_of_samples_is_refused_by_name(tmp_path, rows, types, message):
    with pytest.raises(DataError, match=message):
        columns.lines_of(written(tmp_path / "a.parquet", rows, **types))


def test_a_column_that_stands_twice_or_is_no_text_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table([["a"], ["b"], [True]], names=["problem", "problem", "correct"]), path)
    with pytest.raises(DataError, match="has 2 columns 'problem'; write it with one"):
        columns.lines_of(path)
    broken = pyarrow.array([b"\xff", b"\xfe"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"problem": broken, "correct": [True, False]}), path)
    with pytest.raises(DataError, match=r"column problem is not UTF-8 \(invalid start byte\); write it again"):
        columns.lines_of(path)


def test_what_is_no_parquet_is_said(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    for path in (tmp_path / "a.parquet", tmp_path / "missing.parquet"):
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            columns.lines_of(path)
        with pytest.raises(DataError, match="cannot be read as Parquet"):
            importing.bring(path, tmp_path / "study", None)


def test_a_file_too_large_for_a_journal_is_sent_to_the_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "MOST_ROWS", 3)
    with pytest.raises(DataError, match=r"35 samples are more than the 3 .* `ponder curve .*a.parquet` reads them"):
        importing.bring(written(tmp_path / "a.parquet", samples()), tmp_path / "study", None)


@pytest.mark.slow
def test_the_verb_draws_the_picture_beside_the_file(tmp_path, capsys):
    file = written(tmp_path / "a.parquet", samples())
    assert run_app(["curve", str(file), "--axis", "samples"]) == 0
    assert "weighted_vote(score)" in capsys.readouterr().out
    assert Path(tmp_path / "a-samples.png").stat().st_size > 1000
