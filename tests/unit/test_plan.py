"""What is needed for an accuracy: counted by hand where it was measured, foreseen by a law that is known, and refused elsewhere."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path

import numpy as np
import pytest

from ponder.cli.main import run_app
from ponder.cli.output import counted
from ponder.errors import StudyError, UnidentifiedError, UsageError
from ponder.scaling.need import foreseen, needed


def test_the_first_size_that_reaches_the_target_and_its_tokens():
    values = np.tile([0.25, 0.5, 0.75], (4, 1))
    tokens = np.tile([10.0, 20.0, 40.0], (4, 1))
    need = needed(values, tokens, [1, 2, 4], 0.5)
    assert (need.tokens, need.low, need.high, need.samples, need.reached, need.best) == (20.0, 20.0, 20.0, 2.0, 1.0, 0.75)
    assert needed(values, tokens, [1, 2, 4], 0.76).tokens == inf
    falling = needed([[0.9, 0.2]], [[5.0, 9.0]], [1, 2], 0.8)
    assert (falling.tokens, falling.best) == (5.0, 0.9), "a curve that falls again has reached it where it was"
    cheaper = needed([[0.9, 0.9]], [[9.0, 5.0]], [1, 2], 0.8)
    assert (cheaper.tokens, cheaper.samples) == (5.0, 2.0)


def test_the_interval_is_that_of_the_search_over_resampled_problems():
    """Half of ten problems are solved by one sample, the others by four: the share solved by one is Binomial(10, 1/2) / 10."""
    values = np.array([[1.0, 1.0]] * 5 + [[0.0, 1.0]] * 5)
    tokens = np.tile([10.0, 40.0], (10, 1))
    need = needed(values, tokens, [1, 4], 0.5, resamples=20000)
    assert (need.tokens, need.low, need.high) == (10.0, 10.0, 40.0)
    short = needed(values[:, :1], tokens[:, :1], [1], 0.5, resamples=20000)
    assert short.high == inf
    assert short.reached == pytest.approx(638 / 1024, abs=0.015)  # P(Binomial(10, 1/2) >= 5)


def test_tables_that_do_not_fit_and_targets_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"^values has shape \(1, 2\), tokens \(1, 1\)"):
        needed([[0.5, 0.6]], [[1.0]], [1, 2], 0.5)
    for target in (0, -1, 1.01):
        with pytest.raises(ValueError, match=r"^target is .*; an accuracy lies above 0 and is at most 1"):
            needed([[0.5]], [[1.0]], [1], target)


@pytest.mark.slow
def test_coverage_is_foreseen_where_the_law_is_known():
    """Chances uniform on (0, 1): coverage is k / (k + 1), so that .95 takes 19 samples; the pool has eight."""
    rng = np.random.default_rng(3)
    correct = rng.random((600, 8)) < rng.random((600, 1))
    need = foreseen(correct, 7.0, 0.95)
    assert need.low <= 19 * 7 <= need.high
    assert 14 <= need.samples <= 26
    assert need.tokens == 7 * need.samples
    assert need.best == correct.any(axis=1).mean(), "what was measured, not what the law hopes for"
    free = foreseen(correct, 0.0, 1.0)
    assert (free.samples, free.tokens) == (inf, inf), "never reached is never reached, though it cost nothing"
    with pytest.raises(UnidentifiedError):
        foreseen(np.ones((50, 8), bool), 7.0, 0.95)


@pytest.mark.slow
def test_one_of_a_kind_is_told_in_the_singular_by_plan_curve_and_the_picture(tmp_path, capsys):
    assert (counted(0, "seed"), counted(1, "seed"), counted(2, "seed")) == ("0 seeds", "1 seed", "2 seeds")
    one = ["--task", "maze(n=1, depth=2)", "--policy", "maze(1.0, 2)", "--strategy", "sample", "--slice", "1"]
    folder = str(tmp_path / "study")
    assert run_app(["run", *one, "--out", folder, "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("1 question x 1 sample = 1 sample, at most ")
    assert run_app(["run", *one, "--out", folder]) == 0
    capsys.readouterr()
    assert run_app(["plan", folder, "--target-accuracy", "0.5"]) == 0
    assert "\n(1 problem, 1 seed; 95% intervals over problems)\n" in capsys.readouterr().out
    assert run_app(["curve", folder, "--png", str(tmp_path / "c.svg")]) == 0
    assert "  (1 problem, 1 seed; 95% intervals over problems)\n" in capsys.readouterr().out
    assert ", 1 problem, 1 seed; bands: 95% bootstrap over problems<" in (tmp_path / "c.svg").read_text("utf-8")
    files = [str(tmp_path / "r.html"), str(tmp_path / "r.md")]
    assert run_app(["compare", folder, "--html", files[0], "--markdown", files[1]]) == 0
    assert "  (1 problem)\n" in capsys.readouterr().out
    for file in files:
        assert "(1 problem)" in Path(file).read_text("utf-8")
    assert ">1 problem, 1 seed; bands" in Path(files[0]).read_text("utf-8")


@pytest.mark.slow
def test_the_verb_prints_what_each_strategy_needs_and_refuses_what_is_no_accuracy(tmp_path, capsys):
    words = ["--task", "maze(n=20, depth=2)", "--policy", "maze(0.7, 2)", "--slice", "8", "--allow-oracle"]
    made = ["--strategy", "sample", "--strategy", "best_of_n(n=8, verifier=oracle())", "--out", str(tmp_path / "study")]
    assert run_app(["run", *words, *made]) == 0
    capsys.readouterr()
    assert run_app(["plan", str(tmp_path / "study"), "--target-accuracy", "0.8", "--json"]) == 0
    lines = {line["strategy"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    best = lines["best_of_n(oracle)"]
    assert best["samples"] in (2, 4), "1 - .51^k reaches .8 at 3, of the sizes 1, 2, 4, 8"
    assert best["low"] <= best["tokens"] == 2 * best["samples"]
    assert lines["sample"]["tokens"] is None
    assert lines["sample"]["how"] == "measured"
    assert run_app(["plan", str(tmp_path / "study"), "--target-accuracy", "0.8"]) == 0
    out = capsys.readouterr()
    assert "not within what was measured" in out.out
    assert "run the study with a larger --slice" in out.err
    assert run_app(["plan", str(tmp_path / "study"), "--target-accuracy", "90"]) == UsageError.exit_code
    assert "--target-accuracy 90 must lie above 0 and be at most 1, such as 0.9" in capsys.readouterr().err
    assert run_app(["plan", str(tmp_path / "nothing"), "--target-accuracy", "0.9"]) == StudyError.exit_code
