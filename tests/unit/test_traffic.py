"""What `ponder serve` records is read by the verbs that read a study, and measured by none."""

import asyncio
import json

import pytest

from ponder.cli.serve import _describe
from ponder.core import Budget, Sampling
from ponder.run import solve
from ponder.server.config import Config
from ponder.server.record import Recorder, redactor
from ponder.spec import parse
from ponder.store import Journal
from ponder.testing import MazePolicy
from ponder.types import Question, user
from studies import cli


@pytest.fixture
def recorded(tmp_path):
    folder = tmp_path / "traffic"
    config = Config(policy="maze(0.5, 4)", strategies={"four": "self_consistency(n=4)"}, record=str(folder))
    strategy, policy = parse("self_consistency(n=4)", "strategies"), MazePolicy(0.5, 4)
    with Journal(folder / "study.db") as journal:
        recorder = Recorder(journal, redactor(None))

        async def one():
            question = Question("served", (user("left or right?"),))
            bank, sampling = recorder.bank(7), Sampling(max_tokens=64)
            outcome = await solve(
                strategy, question, policy, budget=Budget(), sampling=sampling, answer=lambda text: text[-1:], bank=bank
            )
            await recorder.keep(question.messages, strategy, policy, sampling, 7, outcome)

        asyncio.run(one())
    _describe(config)
    return folder


@pytest.mark.slow
def test_traffic_is_shown_without_a_verdict_and_exported(recorded, tmp_path):
    said = cli("show", recorded).stdout
    assert said.endswith("  1 run\n")
    shown = cli("show", recorded, said.split()[0]).stdout
    assert "self_consistency(n=4)" in shown
    assert "wrong" not in shown
    assert cli("export", recorded, tmp_path / "all.jsonl").returncode == 0
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "all.jsonl").read_text("utf-8").splitlines()]
    assert kinds.count("sample") == 4
    assert kinds.count("run") == 1


@pytest.mark.slow
@pytest.mark.parametrize("verb", [("curve",), ("compare",), ("plan", "--target-accuracy", "0.9")])
def test_nothing_in_traffic_is_right_or_wrong(recorded, verb):
    done = cli(verb[0], recorded, *verb[1:])
    assert done.returncode != 0
    assert "has no references" in done.stderr
