"""`--card`: a policy card behind the name `auto`, and what an effort buys under it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from served import Served

from ponder.core import Sampling
from ponder.errors import UsageError
from ponder.graders.answer import stated_answer
from ponder.run import solve
from ponder.scaling.card import Card, Choice, Triple, read, write
from ponder.server.config import Config
from ponder.server.engine import Engine
from ponder.server.record import Recorder
from ponder.store import Journal
from ponder.store.export import canonical
from ponder.testing.endpoint import FakeEndpoint
from ponder.types import Question, user

pytestmark = pytest.mark.slow
REAL = Path(__file__).parents[2] / "docs" / "evidence" / "tune_card.toml"  # written by `ponder tune` on the lab
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


def test_a_real_card_over_http_is_auto_at_the_cards_budgets_and_what_is_told_is_what_was_spent(tmp_path):
    config, asked, budgets = Config(policy="lab:base", card=str(REAL), max_tokens=200), "chain 3+4*2", read(REAL).budgets
    lowest, middle, largest = budgets[0], budgets[len(budgets) // 2], budgets[-1]
    wanted = {None: largest, "low": lowest, "medium": middle, "high": largest}
    with Journal(tmp_path / "study.db") as journal:
        with Served(config, Recorder(journal, str)) as served:
            assert served.server.engine.models.names == ["lab/base", "auto"]
            told = {
                effort: served.chat(asked, "auto", seed=1, **({"reasoning_effort": effort} if effort else {}))
                for effort in wanted
            }
            *_, last, done = served.chat(
                asked, "auto", seed=2, reasoning_effort="low", stream=True, stream_options={"include_usage": True}
            ).events
            response = served.call(
                "POST", "/v1/responses", {"model": "auto", "input": asked, "seed": 3, "reasoning": {"effort": "medium"}}
            ).json
            metrics = served.call("GET", "/metrics").text
        runs = [line for line in map(json.loads, canonical(journal)) if line["kind"] == "run"]
    assert done == "[DONE]"

    async def directly():
        async with Engine(config, str) as engine:
            auto, question = engine.models.strategies["auto"], Question("served", (user(asked),))
            how = {"sampling": Sampling(max_tokens=200), "seed": 1, "answer": stated_answer}
            return {budget: await solve(auto.within(budget), question, engine.policy, **how) for budget in {*wanted.values()}}

    direct = asyncio.run(directly())
    for effort, budget in wanted.items():
        got, outcome = told[effort].json, direct[budget]
        assert got["choices"][0]["message"]["content"] == outcome.chain.text, effort
        assert got["ponder"]["samples"] == outcome.spent.samples
        assert (got["usage"]["prompt_tokens"], got["usage"]["completion_tokens"]) == (
            outcome.spent.usage.prompt,
            outcome.spent.usage.tokens,
        )
    samples = [told[effort].json["ponder"]["samples"] for effort in ("low", "medium", "high")]
    assert samples == sorted({*samples})

    usages = [one.json["usage"] for one in told.values()] + [last["usage"]]
    spent = sorted((one["prompt_tokens"], one["completion_tokens"]) for one in usages)
    spent = sorted([*spent, (response["usage"]["input_tokens"], response["usage"]["output_tokens"])])
    kept = [run["outcome"]["usage"] for run in runs]
    assert sorted((one["prompt"], one["completion"] + one["scored"]) for one in kept) == spent
    counted = {kind: sum(one[kind] for one in kept) for kind in ("prompt", "completion", "scored")}
    for kind, total in counted.items():
        assert f'ponder_tokens_total{{kind="{kind}"}} {total:.1f}' in metrics
