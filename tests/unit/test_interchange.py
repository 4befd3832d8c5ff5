"""Logs for other tools hold what the study holds, in their own form; a hostile name leads out of no folder."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace

import pytest

from ponder.cli import interchange, verbs
from ponder.cli.curve import Curves
from ponder.cli.interchange import _member, lm_eval_rows, logs_of
from ponder.cli.main import run_app
from ponder.store import StudyStore
from studies import options

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("studies") / "one"
    assert run_app(["run", *options("self_consistency(n=8)", slice=4), "--out", str(where)]) == 0
    return where


def curve(folder):
    with ExitStack() as stack:
        study, journal, table = verbs.open_study(folder, stack)
        return {(p.strategy, p.k): p.value for p in Curves(study, StudyStore(journal), table).points()}


def members(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        return {name: json.loads(archive.read(name)) for name in archive.namelist()}


def test_an_inspect_log_holds_every_judged_sample_as_an_epoch_of_its_problem(folder, tmp_path):
    [file] = interchange.write([folder], tmp_path / "log.eval", "inspect")
    held = members(file)
    samples = {name: body for name, body in held.items() if name.startswith("samples/")}
    assert set(held) - set(samples) == {"_journal/start.json", "summaries.json", "header.json"}
    assert all(name == f"samples/{body['id']}_epoch_{body['epoch']}.json" for name, body in samples.items())
    assert {(body["id"], body["epoch"]) for body in samples.values()} == {
        (f"maze-{i}", k) for i in range(12) for k in (1, 2, 3, 4)
    }
    for body in samples.values():
        said = body["output"]["choices"][0]["message"]["content"]
        assert (body["scores"]["ponder"]["value"] == "C") == (said == body["target"])
        assert body["scores"]["ponder"]["answer"] == said.strip()
        assert body["messages"] == [
            {"role": "user", "content": body["input"]},
            {"role": "assistant", "content": said, "source": "generate", "model": "maze(0.6, 4)"},
        ]
        assert body["output"]["usage"] == {"input_tokens": 1, "output_tokens": 4, "total_tokens": 5}
        assert body["output"]["choices"][0]["stop_reason"] == "stop"
    assert [(one["id"], one["epoch"]) for one in held["summaries.json"]] == [
        (one["id"], one["epoch"]) for one in samples.values()
    ]


def test_the_header_of_an_inspect_log_has_what_its_schema_requires(folder, tmp_path):
    """Required by log format 2: version; created, task, dataset, model and config of `eval`; name, scorer, and name and value of metrics."""
    [file] = interchange.write([folder], tmp_path / "log.eval", "inspect")
    held = members(file)
    header = held["header.json"]
    assert held["_journal/start.json"] == {key: header[key] for key in ("version", "eval", "plan")}
    assert (header["version"], header["status"]) == (2, "success")
    assert header["eval"].keys() >= {"created", "task", "dataset", "model", "config"}
    assert (header["eval"]["task"], header["eval"]["model"]) == ("maze", "maze(0.6, 4)")
    [score] = header["results"]["scores"]
    samples = [body for name, body in held.items() if name.startswith("samples/")]
    by_problem = {}
    for body in samples:
        by_problem.setdefault(body["id"], []).append(body["scores"]["ponder"]["value"] == "C")
    means = [sum(those) / len(those) for those in by_problem.values()]
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(sum(means) / 12)
    spread = sum((m - sum(means) / 12) ** 2 for m in means) / 11 / 12
    assert score["metrics"]["stderr"]["value"] == pytest.approx(spread**0.5)


def test_lm_eval_has_a_line_for_each_problem_and_the_curves_accuracy(folder, tmp_path):
    [file] = interchange.write([folder], tmp_path / "samples.jsonl", "lm_eval")
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert [row["doc_id"] for row in rows] == list(range(12))
    for row in rows:
        [texts], [answers] = row["resps"], row["filtered_resps"]
        assert [text.strip() for text in texts] == answers
        assert row["acc"] == sum(text == row["target"] for text in texts) / len(texts)
        assert row["target_hash"] == hashlib.sha256(row["target"].encode()).hexdigest()
        assert row["prompt_hash"] == hashlib.sha256(row["arguments"]["gen_args_0"]["arg_0"].encode()).hexdigest()
        assert row["doc_hash"] == hashlib.sha256(json.dumps(row["doc"], indent=2).encode()).hexdigest()
    assert sum(row["acc"] for row in rows) / 12 == pytest.approx(curve(folder)["self_consistency", 1])


def test_equal_studies_give_equal_bytes(folder, tmp_path):
    for name, kind in (("log.eval", "inspect"), ("log.jsonl", "lm_eval")):
        [one] = interchange.write([folder], tmp_path / name, kind)
        first = one.read_bytes()
        [two] = interchange.write([folder], tmp_path / name, kind)
        assert two.read_bytes() == first


def test_a_cut_answer_is_wrong_and_says_how_it_stopped(folder):
    [log] = logs_of(folder, Counter())
    (problem, rows), *_ = log.judged
    row, verdict = rows[0]
    cut = replace(log, judged=((problem, ((replace(row, finish="length"), replace(verdict, correct=True)),)),))
    [sample] = interchange.inspect_samples(cut)
    assert sample["scores"]["ponder"]["value"] == "I"
    assert sample["output"]["choices"][0]["stop_reason"] == "max_tokens"
    assert next(lm_eval_rows(cut))["acc"] == 0


def test_what_is_judged_because_it_was_proposed_is_no_fair_draw(folder, tmp_path, capsys):
    interchange.write([folder], tmp_path / "log.eval", "inspect")
    assert "48 samples left out, beyond the declared slice" in capsys.readouterr().err
    assert run_app(["run", *options("self_consistency(n=8)", slice=0), "--out", str(tmp_path / "none")]) == 0
    interchange.write([tmp_path / "none"], tmp_path / "log.eval", "inspect")
    assert "has no slice; its judged samples are those that strategies proposed" in capsys.readouterr().err


def test_several_sources_make_several_files(tmp_path, capsys):
    assert run_app(["run", *options("sample", slice=2, more=("--seed", "0", "--seed", "1")), "--out", str(tmp_path / "two")]) == 0
    assert run_app(["export", str(tmp_path / "two"), str(tmp_path / "log.eval"), "--as", "inspect"]) == 0
    assert [members(tmp_path / f"log-{i}.eval")["header.json"]["eval"]["metadata"]["seed"] for i in (1, 2)] == [0, 1]
    assert "24 samples of 12 problems" in capsys.readouterr().err


def test_what_cannot_be_written_is_said(folder, tmp_path, capsys):
    for words, message in (
        ([folder, tmp_path / "log.json", "--as", "inspect"], "must end in .eval"),
        ([folder, tmp_path / "nowhere" / "log.eval", "--as", "inspect"], "cannot be written"),
        ([folder, tmp_path / "samples.parquet"], "give --as samples for Parquet"),
    ):
        assert run_app(["export", *map(str, words)]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a/../b", "/root", "..", "", "a\x00b", "a\\b", "x" * 1000, "a\nb", "C:/x", "☃/"]
)
def test_a_name_leads_out_of_no_folder(name):
    found = _member(name)
    assert not set(found) & set("/\\\x00\n")
    assert ".." not in found
    assert 0 < len(found) <= 150
    assert found != _member(name + "!")


def test_plain_names_stay():
    assert [_member(name) for name in ("maze-1", "HumanEval_12", "AIME 2024 p. 3")] == [
        "maze-1",
        "HumanEval_12",
        "AIME 2024 p. 3",
    ]


@pytest.mark.integration
def test_inspect_reads_what_was_written(folder, tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    [file] = interchange.write([folder], tmp_path / "log.eval", "inspect")
    read = log.read_eval_log(str(file))
    assert (read.status, read.eval.model, read.eval.task) == ("success", "maze(0.6, 4)", "maze")
    assert len(read.samples) == read.results.completed_samples
    one = log.read_eval_log_sample(str(file), "maze-3", 2)
    assert (one.scores["ponder"].value == "C") == (one.output.completion == one.target)
