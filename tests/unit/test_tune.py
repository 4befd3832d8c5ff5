"""`ponder tune` on small studies: what it refuses, what it may buy, and that its card does what it says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from fakes import QUESTION, Believer, Scripted, Watched, solved
from ponder.bank import MemoryTable, TableBank
from ponder.cli.candidates import raced
from ponder.cli.importing import bring
from ponder.cli.ledger import Ledger, OverSpent, Purse
from ponder.cli.main import run_app
from ponder.cli.pools import guides_of, opened
from ponder.cli.space import Space, levels, read
from ponder.cli.tune import difficulty_told, split_of, tokens_of, tune
from ponder.errors import DataError, SpecError, StudyError, UsageError
from ponder.run import solve
from ponder.scaling import card
from ponder.scaling.orders import Guide, Pools
from ponder.spec import parse
from ponder.testing import MazePolicy
from ponder.types import Score, Usage
from studies import cli

NOISY = r"noisy(right=('a\na\n',), fpr=0.1, price=2)"


@pytest.mark.parametrize(
    ("spec", "split"),
    [
        ("countdown", "test"),
        ("countdown(numbers=4, n=10)", "test"),
        ("countdown(4, 10, 'train')", "train"),
        ("chain(n=10, split='train')", "train"),
        ("maze(n=4)", None),
        ("jsonl:file.jsonl", None),
    ],
)
def test_the_split_of_a_task_is_read_off_its_spec(spec, split):
    assert split_of(spec) == split


def test_a_budget_is_of_whole_tokens():
    assert [tokens_of("tokens=1000"), tokens_of("tokens = 1_000")] == [1000, 1000]
    assert tokens_of("tokens=0", least=0) == 0
    for text in ("samples=3", "tokens=0", "tokens=1.5", "1000", "tokens=10,samples=3"):
        with pytest.raises(StudyError, match=r"^budget .* a card is for whole tokens, at least 1; write tokens=1000$"):
            tokens_of(text)


# What is bought


def bought(purse, strategy="self_consistency(n=4)", policy=None, bank=None, verifier=None):
    bank = bank or TableBank(MemoryTable())
    made = parse(strategy, "strategies")
    if verifier is not None:
        made = type(made)(n=4, verifier=verifier)
    return asyncio.run(solve(made, QUESTION, policy or Scripted([("x", "stop", 3)]), bank=Ledger(bank, purse))), bank


def test_what_is_banked_is_bought_once():
    purse = Purse()
    outcome, bank = bought(purse)
    assert (purse.spent, outcome.spent.usage.completion) == (12, 12)
    again, _ = bought(purse, bank=bank)
    assert (purse.spent, again) == (12, outcome)


def test_scores_are_bought_once_and_prefixes_count_once():
    purse, verifier = Purse(), Believer(usage=Usage(scored=5, calls=1), fingerprint="dear")
    _, bank = bought(purse, "best_of_n(n=4, verifier=oracle())", MazePolicy(0.5, 20), verifier=verifier)
    assert (purse.written, purse.read) == (80, 20)
    bought(purse, "best_of_n(n=4, verifier=oracle())", MazePolicy(0.5, 20), bank, verifier)
    assert purse.spent == 100


def test_a_search_is_charged_for_reading_each_position_once():
    class Reader:
        fingerprint = "reader"

        async def score(self, chains, run):
            return [card_score(len(chain.text)) for chain in chains]

    def card_score(length):
        return Score(0.5, usage=Usage(scored=length, calls=1))

    purse, bank = Purse(), TableBank(MemoryTable())
    made = parse("beam(width=1, branch=1, verifier=confidence)", "strategies")
    outcome = solved(type(made)(1, 1, Reader()), MazePolicy(0.5, 4), bank=Ledger(bank, purse))
    assert purse.read == outcome.spent.usage.scored == 8, "four lines of two characters, each read once"


def test_nothing_is_bought_past_the_limit_and_what_was_bought_is_kept():
    purse, policy, bank = Purse(limit=20), Watched(Scripted([("x", "stop", 3)])), TableBank(MemoryTable())
    bought(Purse(), "self_consistency(n=2)", policy, bank)
    with pytest.raises(OverSpent, match=r"^0 of 20 new tokens are spent, and what comes next may take \d+$"):
        bought(purse, policy=policy, bank=bank)
    assert purse.spent == 0
    assert policy.children == 2
    assert purse.pending == 0
    outcome, _ = bought(purse, "self_consistency(n=2)", policy, bank)
    assert outcome.spent.samples == 2, "a replay is free on an empty purse"
    assert policy.children == 2


# What there is to choose from


def test_families_are_filled_with_every_guide_and_drawn_in_turn():
    family = {"spec": "beam(width={width}, branch=2, verifier={guide})", "width": [1, 2]}
    other = {"spec": "mcts(simulations={n}, branch=2, verifier=confidence)", "n": [4, 8]}
    space = Space(guides=("confidence()", "confidence('marco')"), draws=5, search=(family, other))
    found = space.searches()
    assert len(set(found)) == 5
    assert [spec.split("(")[0] for spec in found] == ["beam", "mcts", "beam", "mcts", "beam"]
    assert found == space.searches()
    assert found != Space(guides=space.guides, draws=5, search=(family, other), seed=1).searches()
    for family in ({"w": 3}, {"v": [3]}):
        with pytest.raises(
            StudyError, match=r"^space: 'beam\(width=\{w\}\)' cannot be filled: there is no list 'w'; give one for each"
        ):
            Space(draws=1, search=({"spec": "beam(width={w})", **family},)).searches()
    with pytest.raises(StudyError, match=r"has 40,000 members, at most 10,000 are drawn from; give shorter lists$"):
        Space(draws=1, search=({"spec": "beam(width={w}, branch={b})", "w": [3] * 200, "b": [2] * 200},)).searches()
    auto = f"auto('{Path(__file__).parents[1] / 'data' / 'card.toml'}')"
    with pytest.raises(StudyError, match=r"card\.toml.*asks a card itself; a card chooses among other strategies$"):
        Space(draws=1, search=({"spec": auto},)).searches()
    with pytest.raises(SpecError, match=r"there is no strategy 'bean'"):
        Space(draws=1, search=({"spec": "bean(width={w})", "w": [3]},)).searches()


def test_every_policy_of_the_study_may_play_the_part_that_is_asked_for(tmp_path):
    policies = ["maze(p=0.4, depth=2)", "maze(p=0.9, depth=2)"]
    file = tmp_path / "space.toml"
    file.write_text(
        "guides = ['judge(policy={policy})', 'confidence']\ndraws = 9\n"
        "[[search]]\nspec = 'beam(width=1, branch=2, final={final}, verifier=judge(policy={policy}))'\nfinal = ['\"max\"', '\"vote\"']\n"
    )
    space = read(file, [], 4, policies)
    assert space.guides == (*(f"judge(policy={one})" for one in policies), "confidence()")
    found = space.searches(policies)
    assert len(found) == 4
    assert sum(one.endswith(f"policy={policies[1]}))") for one in found) == 2


def test_guides_left_out_are_those_of_the_study_without_graders(tmp_path):
    specs = ["best_of_n(n=2, verifier=confidence)", "weighted_vote(n=2, verifier=oracle())", "sample"]
    space = read(None, [parse(spec, "strategies") for spec in specs], 3)
    assert space.guides == ("confidence()",)
    assert space.pilots == (1, 2)
    file = tmp_path / "space.toml"
    for text, message in (
        ("size = [1]", "size = [1]: Extra inputs are not permitted"),
        ("pilots = [9]", "pilots = [9] must lie in 1..3"),
        ("leaves = [0]", "leaves = [0] must lie in 1..64"),
        ("sure = [0.9, 1.0]", "sure = [0.9, 1.0] must lie between 0.5 and 1, both excluded"),
        ("sure = [nan]", "sure = [nan] must lie between 0.5 and 1, both excluded"),
        ("accept = [-1.0]", "accept = [-1.0] must lie in 0..1"),
        ("=", "is not TOML"),
    ):
        file.write_text(text)
        with pytest.raises(StudyError) as caught:
            read(file, [], 3)
        assert str(caught.value).startswith(f"{file}: {message}")


def test_levels_are_quantiles_of_a_guides_own_scores():
    scores = np.linspace(0, 1, 101)[None, :]
    pools = Pools(np.array([0]), scores > 2, np.zeros((1, 101), int), np.ones((1, 101)), {"g": Guide(scores, scores * 0)})
    assert levels(pools, "g") == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.75, 0.85, 0.92, 0.97, 0.99], abs=1e-4)
    silent = Pools(np.array([0]), scores > 2, np.full((1, 101), -1), np.ones((1, 101)), {"g": Guide(scores, scores * 0)})
    assert levels(silent, "g") == []


# What the pilot tells


def told_of(right, pilot=4):
    """What is said of pools whose right answers are all alike, and whose wrong ones all differ."""
    rows, n = right.shape
    answers = np.where(right, 0, 1 + np.arange(n))
    pools = Pools(np.arange(rows), right, answers, np.full((rows, n), 10.0), {}).shuffled(2, seed=0)
    return difficulty_told(pools, card.Card(pilot, "", (), ()))


def test_a_card_says_how_well_its_pilot_tells_difficulty_by_samples_that_the_pilot_is_not_among():
    rng = np.random.default_rng(0)
    chance = rng.beta(0.5, 0.5, 200)[:, None]
    clear = told_of(rng.random((200, 24)) < chance)
    assert clear["gain"][1] > 0
    assert clear["near"][0] > 0.7
    pilot = np.repeat(rng.random((200, 1)) < 0.5, 4, axis=1)
    blind = told_of(np.hstack([pilot, rng.random((200, 20)) < 0.5]))
    assert blind["gain"][0] < 0.01, "a pilot that knows its own samples alone predicts nothing"
    assert told_of(pilot) == {}, "nothing is left to predict"
    assert told_of(rng.random((12, 8)) < 0.5) == {}


# The verb


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A maze of which one sample in three is right, with eight samples of sixteen problems."""
    where = tmp_path_factory.mktemp("tune")
    words = [
        "--task",
        "maze(n=16, depth=2)",
        "--policy",
        "maze(0.6, 2)",
        "--strategy",
        "sample",
        "--slice",
        "8",
        "--allow-oracle",
    ]
    done = cli("run", *words, "--out", "study", cwd=where)
    assert done.returncode == 0, done.stderr
    (where / "space.toml").write_text(
        f"guides = [{NOISY!r}]\ndraws = 2\nleaves = [1, 2]\n[[search]]\n"
        "spec = 'beam(width={{width}}, branch=2, verifier={{guide}})'\nwidth = [1, 2]\n".replace("{{", "{").replace("}}", "}")
    )
    return where


@pytest.mark.slow
def test_it_writes_a_card_that_auto_executes_as_promised(study):
    done = cli("tune", "study", "--budget", "tokens=30", "--budget", "tokens=8", "--out", "card.toml", "--space", "space.toml",
               "--spend", "tokens=100000", "--json", cwd=study)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kind"] for line in lines} == {"expected", "choice"}
    made = card.read(str(study / "card.toml"))
    assert made.budgets == [8, 30]
    measured = dict(made.measured)
    assert measured["problems"] == 16
    assert measured["new_tokens"] > 0, "scores and searches were not banked"
    mean = {e.budget: e.tokens.value for e in made.expected}
    assert all(tokens <= 1.5 * budget for budget, tokens in mean.items())
    again = cli("tune", "study", "--budget", "tokens=30", "--budget", "tokens=8", "--out", "again.toml", "--space", "space.toml",
                "--spend", "tokens=100000", cwd=study)  # fmt: skip
    assert again.returncode == 0, again.stderr
    second = card.read(str(study / "again.toml"))
    assert second.choices == made.choices, "a second time everything is replayed, and the card is the same"
    assert dict(second.measured)["new_tokens"] == 0


def refused(study, name, *budgets, **how):
    """What `ponder tune` says when it will not."""
    with pytest.raises(UsageError) as caught:
        tune([study / name], budget=list(budgets or ["tokens=30"]), out=study / "none.toml", **how)
    assert not (study / "none.toml").exists()
    return str(caught.value)


@pytest.mark.slow
def test_what_cannot_be_bought_is_said_and_nothing_is_written(study):
    space = study / "space2.toml"
    space.write_text(f"guides = [{NOISY.replace('price=2', 'price=3')!r}]\n")
    said = refused(study, "study", space=space)
    assert said.startswith("tune: not all samples of the slices and scores of the guides are banked (0 of 0 new tokens are spent")
    assert said.endswith("allow more with --spend tokens=N")


@pytest.mark.slow
def test_it_refuses_a_test_split_a_study_without_a_slice_and_a_budget_that_buys_nothing(study):
    (study / "test").mkdir()
    (study / "test" / "study.db").touch()
    (study / "test" / "study.resolved.toml").write_text("tasks = ['chain(n=3)']\npolicies = ['lab']\nstrategies = ['sample']\n")
    assert refused(study, "test").endswith(
        "chain(n=3) is the test split; choose on training problems (split='train'), or give --on-test if no result is meant"
    )
    assert "has no slice of whole samples to choose from" in refused(study, "test", on_test=True)
    assert refused(study, "study", "tokens=1").startswith("a budget of 1 tokens is below")
    assert "nowhere: holds no study (study.db is missing)" in refused(study, "nowhere")
    assert refused(study, "study", spread="all") == "tune: spread = 'all' must be mean or each"


@pytest.mark.slow
def test_it_refuses_before_anything_is_spent_what_it_could_not_write_or_judge(study):
    with pytest.raises(
        DataError, match=r"gone/card\.toml: cannot be written \(No such file or directory\); name a file in a folder"
    ):
        tune([study / "study"], budget=["tokens=30"], out=study / "gone" / "card.toml")
    with pytest.raises(DataError, match=r"study: cannot be written \(Is a directory\)"):
        tune([study / "study"], budget=["tokens=30"], out=study / "study")
    with pytest.raises(
        StudyError, match=r"^tune: a study is given twice; its questions would be chosen on and judged on at once"
    ):
        tune([study / "study", study / "study" / ".." / "study"], budget=["tokens=30"], out=study / "none.toml")
    words = ["--task", "maze(n=3, depth=2)", "--policy", "maze(0.6, 2)", "--strategy", "sample", "--slice", "4"]
    assert cli("run", *words, "--out", "few", cwd=study).returncode == 0
    assert refused(study, "few").startswith(
        "tune: 3 different questions are too few to choose on some and judge on others; it takes 4"
    )


def test_an_imported_study_has_no_policy_that_a_card_could_be_for(tmp_path):
    (tmp_path / "bank.jsonl").write_text('{"problem": 1, "samples": [{"answer": "1", "correct": true}]}\n')
    bring(tmp_path / "bank.jsonl", tmp_path / "study", None)
    assert refused(tmp_path, "study").endswith(
        "was imported, and nobody can use a card on a policy that cannot be asked; tune a study that was run here"
    )


@pytest.mark.slow
def test_one_question_of_two_studies_is_one_question(study):
    """Else it would be chosen on in one fold and judged on in the other."""
    words = ["--task", "maze(n=20, depth=2)", "--policy", "maze(0.6, 2)", "--strategy", "sample", "--slice", "8"]
    assert cli("run", *words, "--out", "more", cwd=study).returncode == 0
    done = cli("tune", "study", "more", "--budget", "tokens=30", "--out", "both.toml", cwd=study)
    assert done.returncode == 0, done.stderr
    assert dict(card.read(str(study / "both.toml")).measured)["problems"] == 20


@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on_and_pays_for_nothing_twice(study, monkeypatch):
    from ponder.cli import pools

    tried = pools.Shop.tried

    async def stopped(self, strategy, places):
        await tried(self, strategy, places)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
        return await tried(self, strategy, places)

    how = {"budget": ["tokens=30"], "space": study / "space.toml", "spend": "tokens=100000"}
    assert cli("run", "study/study.resolved.toml", "--out", "cut", cwd=study).returncode == 0
    with monkeypatch.context() as patched:
        patched.setattr(pools.Shop, "tried", stopped)
        words = [f"--{key}={value[0] if isinstance(value, list) else value}" for key, value in how.items()]
        with pytest.MonkeyPatch.context() as quiet, contextlib.redirect_stderr(io.StringIO()) as said:
            quiet.chdir(study)
            assert run_app(["tune", "cut", *words, "--out=cut.toml"]) == 143
    assert (
        "stopped by SIGTERM; go on with: ponder tune cut --budget=tokens=30 --out=cut.toml --spend=tokens=100000"
        in said.getvalue()
    )
    assert not (study / "cut.toml").exists()
    tune([study / "cut"], out=study / "cut.toml", **how)
    tune([study / "cut"], out=study / "again.toml", **how)
    first, second = (card.read(str(study / name)) for name in ("cut.toml", "again.toml"))
    assert first.choices == second.choices
    assert dict(second.measured)["new_tokens"] == 0


@pytest.mark.slow
def test_a_shop_reads_the_slice_as_it_was_drawn(study):
    async def looked():
        numbers = dict.fromkeys(map(str, range(100)), 0) | {"one of another study": 100}
        async with opened(study / "study", [], ["self_consistency(n=3)"], Purse(limit=0), numbers) as shop:
            pools = await shop.slices(0, guides_of(shop, 0))
            tried = await shop.tried(shop.runner.strategies[0], shop.places())
            return pools, tried, [place.number for place in shop.places()]

    pools, tried, numbers = asyncio.run(looked())
    assert numbers == pools.problem_R.tolist() == list(range(101, 117))
    assert pools.correct_R_N.shape == (16, 8)
    assert 0.2 < pools.correct_R_N.mean() < 0.55
    assert np.all(pools.tokens_R_N[pools.answers_R_N >= 0] == 2)
    assert all(one is not None and one[1] == pools.tokens_R_N[row, :3].sum() for row, one in enumerate(tried))


@pytest.mark.slow
def test_the_questions_that_let_a_search_through_are_named(study):
    async def looked_at(*searches):
        async with opened(study / "study", [], searches, Purse(), {}) as shop:
            made, explored, looked = await raced([shop], 0, [], Purse())
            return [one.spec for one in made], explored, len(looked)

    votes = [f"self_consistency(n={n})" for n in (2, 3)]
    assert asyncio.run(looked_at(votes[0])) == ([votes[0]], 1, 0), "there was none to prefer it to"
    made, explored, looked = asyncio.run(looked_at(*votes))
    assert (len(made), explored, looked) == (1, 2, 3), "a fifth of sixteen"


@pytest.mark.slow
def test_a_guide_that_reads_what_was_not_banked_is_refused(study):
    async def looked():
        async with opened(study / "study", ["confidence('marco')"], [], Purse(limit=0), {}):
            pass

    with pytest.raises(StudyError, match=r"its samples were banked with 0 alternatives for each token, and a guide reads 5"):
        asyncio.run(looked())


@pytest.mark.slow
def test_a_second_policy_plays_the_part_that_it_is_better_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--task", "maze(n=24, depth=2)", "--policy", "maze(0.3, 2)", "--policy", "maze(0.95, 2)", "--strategy", "sample"]
    assert run_app(["run", *words, "--slice", "6", "--out", "study"]) == 0
    tune([Path("study")], budget=["tokens=40"], out=Path("card.toml"))
    made = card.read("card.toml")
    assert {choice.policy for choice in made.choices} == {"maze(0.95, 2)"}
    [promised] = made.expected
    assert promised.accuracy.value > 0.8
    measured = dict(made.measured)
    assert measured["policies"] == ["maze(0.3, 2)", "maze(0.95, 2)"]
    assert len(measured["difficulty_gain"]) == len(measured["difficulty_near"]) == 3
    words = ["--task", "maze(n=60, depth=2)", "--policy", "maze(0.3, 2)", "--strategy", "auto('card.toml')"]
    assert run_app(["run", *words, "--out", "used", "--json"]) == 0


@pytest.mark.slow
def test_the_better_policy_proposes_for_a_search_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--task", "maze(n=16, depth=6)", "--policy", "maze(0.1, 6)", "--policy", "maze(0.6, 6)", "--strategy", "sample"]
    assert run_app(["run", *words, "--slice", "4", "--allow-oracle", "--out", "study"]) == 0
    prefixes = tuple("a\n" * depth for depth in range(1, 7))
    guide = f"noisy(right={prefixes!r})"
    Path("space.toml").write_text(
        f"guides = [{guide!r}]\ndraws = 1\n[[search]]\nspec = 'beam(width=1, branch=4, verifier={{guide}})'\n"
    )
    tune([Path("study")], budget=["tokens=200"], out=Path("card.toml"), space=Path("space.toml"), spend="tokens=100000")
    made = card.read("card.toml")
    assert {(choice.strategy[:5], choice.policy) for choice in made.choices} == {("beam(", "maze(0.6, 6)")}


@pytest.mark.slow
def test_a_search_that_beats_whole_samples_gets_into_the_card(tmp_path, monkeypatch):
    """A beam in a maze of six crossings under a guide that knows every crossing, where one whole sample in fifty is right."""
    monkeypatch.chdir(tmp_path)
    words = ["--task", "maze(n=24, depth=6)", "--policy", "maze(0.5, 6)", "--strategy", "sample", "--slice", "8"]
    assert run_app(["run", *words, "--allow-oracle", "--out", "study"]) == 0
    prefixes = tuple("a\n" * depth for depth in range(1, 7))
    guide = f"noisy(right={prefixes!r})"
    Path("space.toml").write_text(
        f"guides = [{guide!r}]\ndraws = 2\n[[search]]\nspec = '''beam(width={{width}}, branch=8, verifier={{guide}})'''\nwidth = [1, 4]\n"
    )
    tune([Path("study")], budget=["tokens=200"], out=Path("card.toml"), space=Path("space.toml"), spend="tokens=100000")
    made = card.read("card.toml")
    assert all(choice.strategy.startswith("beam(width=") for choice in made.choices)
    assert made.expected[0].accuracy.value > 0.9
    assert dict(made.measured)["new_tokens"] > 0
