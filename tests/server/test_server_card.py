"""`--card`: a policy card behind the name `auto`, and what an effort buys under it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from served import Served

from ponder.errors import UsageError
from ponder.scaling.card import Card, Choice, Triple, write
from ponder.server.config import Config
from ponder.testing.endpoint import FakeEndpoint

pytestmark = pytest.mark.slow
NO = Triple(0.0, 0.0, 0.0)
BY_BUDGET = {100: "self_consistency(n=2)", 1000: "self_consistency(n=4)", 10_000: "self_consistency(n=8)"}


def card(folder, **how):
    path = folder / "card.toml"
    choices = tuple(Choice(0, budget, spec, "", NO, NO, 1.0) for budget, spec in BY_BUDGET.items())
    write(Card(**{"pilot": 1, "guide": "", "splits": (), "choices": choices, **how}), path)
    return str(path)


@pytest.fixture(scope="module")
def endpoint():
    with FakeEndpoint() as one:
        yield one


@pytest.fixture
def config(endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    return Config(policy=endpoint.url, card=card(tmp_path), strategies={"sc": "self_consistency(n=32)"})


def test_an_effort_is_one_of_the_cards_budgets(config):
    with Served(config) as served:
        assert served.server.engine.models.names == ["fake", "fake+sc", "auto"]
        for asked, samples in (
            ({}, 8),
            ({"reasoning_effort": "none"}, 2),
            ({"reasoning_effort": "low"}, 2),
            ({"reasoning_effort": "medium"}, 4),
            ({"reasoning_effort": "high"}, 8),
            ({"reasoning_effort": "xhigh"}, 8),
            ({"ponder": {"budget": {"tokens": 1500}}}, 4),
            ({"reasoning_effort": "high", "ponder": {"budget": {"tokens": 1500}}}, 4),
            ({"reasoning_effort": "low", "ponder": {"budget": {"tokens": 15_000}}}, 2),
            ({"reasoning_effort": "high", "ponder": {"budget": {"samples": 3}}}, 3),
        ):
            told = served.chat("ECHO: aaaa", "auto", **asked).json["ponder"]
            assert (told["strategy"], told["samples"]) == ("auto", samples), asked
        bare = served.chat("ECHO: aaaa", reasoning_effort="medium").json["ponder"]
        assert (bare["strategy"], bare["samples"]) == ("auto", 4)
        other = served.chat("ECHO: aaaa", "fake+sc", reasoning_effort="medium").json["ponder"]
        assert (other["strategy"], other["samples"]) == ("sc", 16)
        response = served.call("POST", "/v1/responses", {"model": "auto", "input": "ECHO: a", "reasoning": {"effort": "medium"}})
        assert response.json["ponder"]["samples"] == 4


def test_the_operators_own_budgets_of_efforts_hold_for_the_card_too(config):
    with Served(Config(**{**config.model_dump(), "effort": {"low": {"samples": 3}, "high": {"tokens": 150}}})) as served:
        assert served.chat("ECHO: aaaa", "auto", reasoning_effort="low").json["ponder"]["samples"] == 3
        assert served.chat("ECHO: aaaa", "auto", reasoning_effort="high").json["ponder"]["samples"] == 2


def test_the_parts_of_a_card_are_opened_once_whatever_is_asked(config, tmp_path):
    choices = tuple(Choice(0, budget, "best_of_n(n=2, verifier=confidence())", "", NO, NO, 1.0) for budget in (100, 1000))
    path = card(tmp_path, choices=choices, guide="confidence()")
    with Served(Config(policy=config.policy, card=path)) as served:
        models = served.server.engine.models
        low, high = (models.plan("auto", None, None, effort).strategy for effort in ("low", "high"))
        assert (low.budget, high.budget) == (100, 1000)
        assert low.strategies is high.strategies is models.strategies["auto"].strategies
        assert served.chat("QUESTION: 1+1", "auto", reasoning_effort="low").status == 200


def test_a_card_of_another_policy_is_refused_before_the_server_listens_unless_it_is_meant(config, tmp_path):
    path = card(tmp_path, measured=(("policies", ["gpt"]), ("fingerprints", ["openai-of-yore"])))
    with pytest.raises(UsageError) as caught, Served(Config(policy=config.policy, card=path)):
        pass
    said = str(caught.value)
    assert said.startswith(f"serve: auto: the card {path!r} was measured on gpt (openai-of-yore), and the policy here is fake (")
    assert said.endswith("; of --card: `--any-policy`, or any_policy = true in the file")
    with Served(Config(policy=config.policy, card=path, any_policy=True)) as served:
        assert served.chat("ECHO: aaaa", "auto", reasoning_effort="low").json["ponder"]["samples"] == 2


def test_a_request_that_adds_to_its_prompt_is_still_of_the_cards_policy(config, tmp_path):
    with Served(Config(policy=config.policy)) as served:
        own = served.server.engine.policy.info.fingerprint
    path = card(tmp_path, measured=(("fingerprints", [own]),))
    with Served(Config(policy=config.policy, card=path)) as served:
        assert served.chat("ECHO: aaaa", "auto", reasoning_effort="low", presence_penalty=0.5).json["ponder"]["samples"] == 2


def test_the_command_serves_a_card_on_the_lab(tmp_path):
    path = Path(sys.executable).with_name("ponder")
    command = [path, "serve", "--policy", "lab", "--card", card(tmp_path), "--port", "0", "--max-tokens", "40"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        ready = json.loads(process.stdout.readline())
        assert ready["models"][-1] == "auto"
        body = {"model": "auto", "messages": [{"role": "user", "content": "1+1="}], "reasoning_effort": "medium"}
        request = Request(f"{ready['url']}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as response:
            told = json.load(response)["ponder"]
        assert (told["strategy"], told["samples"]) == ("auto", 4)
    finally:
        process.terminate()
        process.communicate(timeout=30)
