"""Every recipe is read, and those of the lab run to their end on a problem of each task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ponder.cli import loop
from ponder.cli.main import run_app
from ponder.cli.runner import parse_policy, parse_strategy
from ponder.cli.study import read
from ponder.spec import parse
from ponder.store import Journal, StudyStore

pytestmark = [pytest.mark.integration, pytest.mark.slow]  # lab workers are processes
ROOT = Path(__file__).parents[2]
LOOPS = [ROOT / "recipes" / "lab_loop.toml"]
SERVERS = [ROOT / "recipes" / "serve.toml"]  # tests/unit/test_server_parts.py reads it
STUDIES = [path for path in sorted((ROOT / "recipes").glob("*.toml")) if path not in LOOPS + SERVERS]
SAMPLED = ("lab_verifier_chain", "lab_verifier_countdown", "lab_verifier_trial")  # pools of samples, not systems
SYSTEMS = [path for path in STUDIES if re.search(r"arXiv:\d{4}\.\d{5}|Nature 5\d\d|Beeching", path.read_text("utf-8"))]
ON_THE_LAB = [path for path in STUDIES if read(path).policies == ("lab",) and path.stem not in SAMPLED]


def named(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", STUDIES, ids=named)
def test_a_recipe_is_a_study_whose_parts_there_are(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = read(path)
    assert study.name == path.stem
    for spec in study.expanded:
        parse_strategy(spec)
    for spec in study.tasks:
        if path.stem not in SAMPLED and "PATH" not in path.read_text("utf-8"):  # thousands of problems; a file of somebody's own
            assert parse(spec, "tasks").problems
    for spec in study.policies:
        if not spec.startswith("gguf:"):  # which must have been pulled
            parse_policy(spec)


@pytest.mark.parametrize("path", LOOPS, ids=named)
def test_a_loop_recipe_is_read(path):
    assert loop.read(path).name == path.stem


def test_there_is_a_recipe_for_each_published_search():
    stems = {path.stem for path in SYSTEMS}
    assert stems >= {
        "snell_beam", "lookahead", "dvts", "rebase", "tot", "tot_prompts", "ucb_for_language", "alphago", "alphago_zero", "rest_mcts",
        "marco_o1", "marco_o1_reflection", "rstar", "ab_mcts", "particles", "particle_gibbs", "qalign", "evoscale", "evoscale_prompt", "llava_o1",
    }  # fmt: skip


@pytest.mark.parametrize("path", SYSTEMS, ids=named)
def test_a_system_says_its_source_its_deviation_and_its_command(path):
    header = [line for line in path.read_text("utf-8").splitlines() if line.startswith("#")]
    assert 3 <= len(header) <= 6, "a comment of three to six lines"
    assert "Deviation: " in "\n".join(header)
    assert header[-1] == f"#   ponder run recipes/{path.name}"


@pytest.mark.parametrize("path", ON_THE_LAB, ids=named)
def test_a_lab_recipe_runs_to_its_end(path, tmp_path, capsys):
    assert run_app(["run", str(path), "--limit", "1", "--out", str(tmp_path / "study")]) == 0, capsys.readouterr().err
    study = read(path)
    with Journal(tmp_path / "study" / "study.db") as journal:
        runs = [run for run in StudyStore(journal).runs() if not run.strategy.startswith("draw(")]
    assert len(runs) == len(study.expanded) * len(study.tasks), "each strategy on a problem of each task"
    assert all(run.spent.samples for run in runs)
    assert not any(run.failed for run in runs)


@pytest.mark.parametrize("path", [path for path in SYSTEMS if path not in ON_THE_LAB], ids=named)
def test_a_recipe_for_an_instruction_model_is_planned_for_an_endpoint(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run_app(["run", str(path), "--policy", "http://127.0.0.1:9/v1", "--dry-run"]) == 0
    assert "completion tokens" in capsys.readouterr().out
