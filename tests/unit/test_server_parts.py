"""The parts of the server that need no server: specs of callers, names, budgets, the configuration."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from server_parts_cases import config

from ponder.core import Budget
from ponder.errors import SpecError, UsageError
from ponder.server.asked import of_text
from ponder.server.config import Config, Key, Limits, load
from ponder.server.models import Models, check_spec, served_name, tighter
from ponder.server.reading import read
from ponder.server.refusal import Refusal
from ponder.server.schema import Chat, Completion

pytest.importorskip("starlette")


# Names and specs.


def test_each_strategy_is_a_model_on_the_upstream():
    models = Models("qwen", config(strategies={"sc": "self_consistency(n=4)"}))
    assert models.names == ["qwen", "qwen+sc"]
    assert models.plan("qwen", None, None, None).single
    assert models.plan("qwen+sc", None, None, None).name == "sc"
    for unknown in ("sc", "qwen+", "qwen+sample2", "auto", "other+sc"):
        with pytest.raises(Refusal, match="there is no model") as refused:
            models.plan(unknown, None, None, None)
        assert refused.value.status == 404


def test_effort_bounds_a_strategy_and_takes_the_first_one_where_none_is_named():
    models = Models("qwen", config(strategies={"sc": "self_consistency(n=99)"}, effort={"low": Budget(samples=3)}))
    assert models.plan("qwen+sc", None, None, "low").budget == Budget(samples=3)
    assert models.plan("qwen", None, None, "low").name == "sc"
    assert models.plan("qwen", None, None, "minimal").single
    assert models.plan("qwen+sc", None, None, "high").budget == Budget()  # the operator gave it none
    assert Models("qwen", config()).plan("qwen", None, None, "high").single


@pytest.mark.parametrize(
    "text",
    [
        "self_consistency(n=8)",
        "self_consistency(8)",
        "best_of_n(n=2, verifier=judge)",
        "beam(width=2, branch=2, verifier=judge, step='line', final='last')",
        "mcts(simulations=8, branch=2, verifier=judge, c=1.5, accept=None)",
        "rejection(n=2, verifier=judge, threshold=-1)",
        "sample",
    ],
)
def test_a_caller_may_write_strategies_numbers_words_and_the_operators_verifiers(text):
    check_spec(ast.parse(text, mode="eval").body, {"judge": object()})


@pytest.mark.parametrize(
    "text",
    [
        "other", "openai('http://x')", "best_of_n(n=2, verifier=judge())", "best_of_n(n=2, verifier=confidence())",
        "auto(card='x')", "auto", "evolve(prompt='secret')", "evolve(prompt=x)", "f(policy=sample)", "beam('../x')", "beam(step='/etc')",
        "self_consistency(n=5000)", "self_consistency(n=1e99)", "self_consistency(n=-5000)", "x.y", "x[0]", "[sample]", "(sample,)", "{}",
        "lambda: 1", "1 + 1", "f'{x}'", "b'x'", "1j", "...", "not x", "sample if sample else sample", "(y := sample)",
        "self_consistency(**sample)", "self_consistency(*sample)", "sample()()",
    ],
)  # fmt: skip
def test_and_nothing_else(text):
    tree = ast.parse(text, mode="eval").body
    with pytest.raises(SpecError):
        check_spec(tree, {"judge": object()})


def test_the_callers_spec_holds_the_operators_own_verifier():
    models = Models("qwen", config(verifiers={"sure": "confidence"}))
    plan = models.plan("qwen", "best_of_n(n=2, verifier=sure)", None, None)
    assert plan.strategy.verifier is models.verifiers["sure"]
    with pytest.raises(Refusal):
        models.plan("qwen", "sure", None, None)


def test_names_of_strategies_from_the_command_line():
    assert served_name("best_of_n(n=16, verifier=confidence())", []) == "best_of_n-16"
    assert served_name("sample", []) == "sample"
    with pytest.raises(UsageError, match="two strategies"):
        served_name("self_consistency(n=4, batch=2)", ["self_consistency-4"])


def test_the_tighter_of_two_budgets():
    assert tighter(Budget(samples=3, tokens=9), Budget(samples=5, seconds=1.0)) == Budget(samples=3, tokens=9, seconds=1.0)


def test_choices_and_tokens_are_bounded_by_the_operator_and_samples_shared_among_choices():
    limited = config(limits={"choices": 4, "samples": 10, "tokens": 100})
    models = Models("qwen", limited)
    asked = of_text(Completion(model="qwen", prompt=["a", "b"], n=4), models, limited)
    assert asked.budget.samples == 1
    assert len(asked.choices) == 8
    for wrong in ({"n": 5}, {"n": 4, "prompt": ["a", "b", "c"]}, {"max_tokens": 101}):
        with pytest.raises(Refusal) as refused:
            of_text(Completion(**{"model": "qwen", "prompt": "a", **wrong}), models, limited)
        assert refused.value.status == 400


def test_a_keys_share_bounds_each_choice():
    models = Models("qwen", config())
    asked = of_text(Completion(model="qwen", prompt=["a", "b"], max_tokens=30), models, config())
    assert asked.within(tokens=50).budget.tokens == 25
    assert asked.within(tokens=None) is asked


def test_a_schema_violation_names_the_place():
    with pytest.raises(Refusal) as refused:
        read(b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}', Chat)
    assert refused.value.param == "messages[0].content[0].text"
    assert read(b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 3.0}', Chat).n == 3


# The operator's file.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'policy' is missing"),
        ("policy = 'x'\npolcy = 1", "did you mean 'policy'"),
        ("policy = 'x'\n[limits]\nlives = 1", "did you mean 'live'"),
        ("policy = 'x'\nhost = '0.0.0.0'", "there is no key"),
        ("policy = 'x'\nhost = '0.0.0.0'\n[[keys]]\nname='a'\nsha256='" + "0" * 64 + "'", "list those that clients use"),
        ("policy = 'x'\n[[keys]]\nname='a'\nsha256='short'", "keys.0.sha256"),
        ("policy = 'x'\n[strategies]\nauto='sample'", "cannot name a strategy"),
        ("policy = 'x'\nredact = 'a:b'", "nothing is recorded"),
        ("policy = ", "is not TOML"),
        ("policy = 'x'\nport = 70000", "port = '70000'"),
        ("policy = 'x'\n[effort]\nlow = {samples = 0}", "must be above 0"),
    ],
)
def test_a_wrong_file_is_refused_with_the_way_out(tmp_path, text, words):
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        load(file, {})
    assert words in str(raised.value)


def test_options_go_over_the_file(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text("policy = 'x'\nport = 1")
    assert load(file, {"port": 2}).port == 2


def test_the_recipe_shows_every_setting_and_is_valid():
    recipe = Path(__file__).parents[2] / "recipes" / "serve.toml"
    shown = load(recipe, {})
    text = recipe.read_text("utf-8")
    assert [name for name in [*Config.model_fields, *Limits.model_fields, *Key.model_fields] if name not in text] == []
    assert shown.limits == Limits()
    assert {name: shown.effort[name] for name in shown.effort} == {name: Config(policy="x").effort[name] for name in shown.effort}
    assert Models("m", shown).names == ["m", "m+self_consistency-16", "m+best_of_n-8"]
