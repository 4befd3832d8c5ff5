"""The gym task with a library and a sandbox of paper: what is drawn, what is refused, what counts as right."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from importlib import metadata
from itertools import pairwise
from random import Random

import pytest

from ponder.errors import MissingExtraError, SetupError, UsageError
from ponder.sandbox.core import Reply, Stopped
from ponder.tasks import gym as module
from ponder.tasks.gym import BLOCK, SEEDS, SPLITS, gym, tagged_answer


class Sums:
    """Sums of two numbers up to a bound; the answer is the sum."""

    def __init__(self, seed, most=10**9):
        rng = Random(seed)
        a, b = rng.randint(0, most), rng.randint(0, most)
        self.entry = {"question": f"{a} + {b} = {{?}}", "answer": str(a + b), "metadata": {"handles": {1, (2,)}}}

    def __getitem__(self, index):
        return [self.entry][index]

    def score_answer(self, answer, entry):
        return 1.0 if answer == entry["answer"] else 0.25


class Junk(Sums):
    def score_answer(self, answer, entry):
        return float(bool(answer))


class Deaf(Sums):
    def score_answer(self, answer, entry):
        return 0.999


class Silent(Sums):
    def __init__(self, seed):
        super().__init__(seed)
        self.entry["answer"] = None


class Odd(Sums):
    """Scores that are no marks."""

    def score_answer(self, answer, entry):
        marks = {entry["answer"]: 1.0 - 1e-10, "nan": float("nan"), "more": 1.5, "close": 0.999999, "true": True}
        if answer == "raise":
            raise ZeroDivisionError("in the scorer")
        return marks.get(answer, 0.0)


class Drifting(Sums):
    made = 0

    def __init__(self, seed):
        Drifting.made += 1
        super().__init__(seed + Drifting.made // 1000)


KINDS = {"sums": Sums, "junk": Junk, "deaf": Deaf, "silent": Silent, "odd": Odd, "drifting": Drifting}


class Session:
    def __init__(self, source, stops):
        self.scope, self.stops = {"__name__": "inside"}, stops
        exec(compile(source, "gym_inside.py", "exec", dont_inherit=True), self.scope)  # our own source

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def call(self, call):
        if self.stops.get(call.function):
            raise Stopped(self.stops[call.function])
        try:
            return Reply(self.scope[call.function](*call.args, **call.kwargs))
        except Exception as error:
            return Reply(None, type(error).__name__, str(error))


class Paper:
    tier = "paper"

    def __init__(self):
        self.stops = {}

    def open(self, source, limits):
        return Session(source, self.stops)


@pytest.fixture
def inside(monkeypatch):
    """The program that runs inside, loaded beside a library of paper."""
    library = types.ModuleType("reasoning_gym")
    library.create_dataset = lambda name, seed, size, **config: KINDS[name](seed, **config)
    monkeypatch.setitem(sys.modules, "reasoning_gym", library)
    return Session(module._source(), {}).scope


@pytest.fixture
def paper(monkeypatch, inside):
    sandbox = Paper()
    monkeypatch.setattr(module, "_sandbox", lambda: sandbox)
    monkeypatch.setattr(module, "_check_name", lambda name: "9.9")
    return sandbox


def questions(task):
    return [problem.question.messages[0].text for problem in task.problems]


def judged(task, *answers):
    return asyncio.run(task.grader.grade(task.problems[0], answers, [""] * len(answers)))


def test_problems_are_different_and_the_first_of_them_are_the_same_for_every_n(paper):
    few, many = gym("sums", n=5), gym("sums", n=30)
    assert len(set(questions(many))) == 30
    assert questions(few) == questions(many)[:5]
    assert few.fingerprint != many.fingerprint
    assert "{?}" in questions(few)[0]


def test_neighbouring_seeds_share_no_question(paper):
    drawn = [questions(gym("sums", n=30, seed=seed, split=split)) for seed in (0, 1, 2) for split in ("train", "test")]
    assert len({question for one in drawn for question in one}) == 180


def test_no_question_is_in_both_splits_however_few_there_are(paper):
    config = json.dumps({"most": 6})  # 49 questions
    train, test = (set(questions(gym("sums", n=12, split=split, config=config))) for split in ("train", "test"))
    assert len(train) == len(test) == 12
    assert not train & test


def test_the_blocks_of_seeds_do_not_touch_and_suit_numpy():
    blocks = sorted((SPLITS[split] + seed * BLOCK, split) for split in SPLITS for seed in (0, 1, SEEDS - 1))
    assert all(b[0] - a[0] >= BLOCK for a, b in pairwise(blocks))
    assert blocks[-1][0] + BLOCK <= 2**32
    assert module._draws(BLOCK // 40) <= BLOCK


def test_a_space_of_questions_that_is_too_small_is_said(paper):
    with pytest.raises(UsageError, match=r"has only [1-4] different questions for test in 400 draws, and n = 10"):
        gym("sums", n=10, config='{"most": 1}')


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("junk", "gives 'qqq zzz' full marks"),
        ("deaf", "the score 0.999"),
        ("silent", "has the answer None, so that its scorer cannot be checked"),
    ],
)
def test_an_item_whose_scorer_cannot_be_trusted_is_refused(paper, name, reason):
    with pytest.raises(UsageError, match=reason):
        gym(name, n=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 10**5, r"gym: config '\[{79}\.\.\. is not JSON"),
        ('{"most": 1, "most": 2}', "the key 'most' stands twice"),
        ('{"most": NaN}', "config is nan"),
        ('{"seed": 3}', "without seed and size"),
        ('{"no_such": 3}', "TypeError: .*no_such"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(paper, config, message):
    with pytest.raises(UsageError, match=message):
        gym("sums", config=config)


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"seed": -1}, {"seed": SEEDS}, {"n": 0}, {"n": BLOCK}])
def test_arguments_out_of_bounds_are_refused(paper, wrong):
    with pytest.raises(UsageError, match="must"):
        gym("sums", **wrong)


def test_right_is_full_marks_and_nothing_else_is(paper):
    task = gym("odd", n=1)
    right = task.problems[0].reference["answer"]
    verdicts = judged(task, right, "close", "nan", "more", "raise", None, "0", right)
    assert [verdict.correct for verdict in verdicts] == [True, False, False, False, False, False, False, True]
    assert [verdict.reason for verdict in verdicts] == [
        "",
        "score 0.999999",
        "score nan",
        "score 1.5",
        "exception ZeroDivisionError",
        "no_answer",
        "score 0.0",
        "",
    ]


@pytest.mark.parametrize("status", ["timeout", "died", "output"])
def test_an_answer_that_its_scoring_does_not_survive_is_wrong(paper, status):
    task = gym("sums", n=1)
    paper.stops["score"] = status
    [verdict] = judged(task, task.problems[0].reference["answer"])
    assert (verdict.correct, verdict.reason) == (False, status)


def test_an_item_that_cannot_be_made_again_is_nobodys_wrong_answer(paper):
    task = gym("drifting", n=1)
    Drifting.made += 5000
    with pytest.raises(SetupError, match="it is another item now"):
        judged(task, task.problems[0].reference["answer"])
    paper.stops["recall"] = "died"
    with pytest.raises(SetupError, match="cannot be made again: died"):
        judged(gym("sums", n=1), "1")


def test_the_answer_is_no_part_of_what_a_strategy_sees(paper):
    for problem in gym("sums", n=5).problems:
        assert problem.reference["answer"] not in json.dumps([problem.question.id, dict(problem.question.metadata)])


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>42</answer>", "42"),
        ("<answer>1</answer> no: <ANSWER>\n 2 \n</Answer> done", "2"),
        ("so it is 42", "so it is 42"),
        ("<think><answer>1</answer></think> 7", "7"),
        ("<answer>* . $x$ **.</answer>", "* . $x$ **."),
        ("<answer>1</answer> <answer>2", "1"),
        ("</answer>3", "</answer>3"),
        ("<answer>  </answer>", None),
        ("<think>never done", None),
        ("  ", None),
    ],
)
def test_an_answer_is_what_stands_between_the_last_tags(text, answer):
    assert tagged_answer(text) == answer


class Spy:
    def __init__(self):
        self.seen = []

    def score_answer(self, answer, entry):
        self.seen.append(answer)
        return 1.0


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("countdown", "2**3"),
        ("countdown", "7//2"),
        ("countdown", "factorial(3) + 2"),
        ("countdown", "3.4*10"),
        ("countdown", "__import__('os').getpid()"),
        ("countdown", "(" * 200_000 + "x"),
        ("simple_integration", "x.__class__"),
        ("simple_integration", "open('f')"),
        ("simple_integration", "x or 1"),
        ("simple_integration", "1 .real"),
        ("simple_integration", "[x][0]"),
        ("simple_integration", "1" * 200_000 + "!"),
    ],
)
def test_what_is_not_spelled_like_a_formula_never_reaches_a_scorer_that_evaluates(inside, name, answer):
    spy = Spy()
    assert inside["_scored"](name, spy, {}, answer) == 0.0
    assert spy.seen == []


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("countdown", "4*(53 + 34) - 46/2"),
        ("simple_integration", "-7*x**3/5 + 1.5*exp(2*x)*sin(x) - log(X) + sqrt(x)*pi + C"),
        ("sums", "__import__('os')"),  # read by no eval
    ],
)
def test_honest_formulas_do(inside, name, answer):
    spy = Spy()
    assert inside["_scored"](name, spy, {}, answer) == 1.0
    assert spy.seen == [answer]


def test_where_eval_reads_another_notation_it_is_closed(inside, monkeypatch):
    queens = types.ModuleType("queens")
    source = "class Queens:\n    def score_answer(self, answer, entry):\n        return 1.0 if eval(answer) else 0.0\n"
    exec(source, queens.__dict__)
    queens.Queens.__module__ = "queens"
    monkeypatch.setitem(sys.modules, "queens", queens)
    assert queens.Queens().score_answer("1 == 1", {}) == 1.0
    assert inside["_quietly"]("n_queens", queens.Queens(), {}, "1 == 1") == 0.0


def test_the_stand_in_for_plotting_does_not_stay(inside):
    left = [sys.modules[name] for name in ("matplotlib", "matplotlib.pyplot", "mpl_toolkits.mplot3d") if name in sys.modules]
    assert all(hasattr(one, "__file__") for one in left)


def table():
    return json.loads((module.resources.files("ponder.tasks") / "gym_refused.json").read_text("utf-8"))


def test_the_table_refuses_what_is_known_to_be_unsound():
    unstable = ("isomorphic_strings", "knight_swap", "list_functions", "polynomial_multiplication", "ransom_note", "word_ladder")
    assert {*unstable, "game_of_life_halting", "coin_flip", "complex_arithmetic", "puzzle24"} <= set(table()["refused"])
    assert not set(table()["refused"]) & set(table()["accepted"])


def test_a_refused_name_is_refused_with_its_reason(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: table()["version"])
    with pytest.raises(UsageError, match=r"gym\('game_of_life_halting'\): refused, since .*'qqq zzz' full marks"):
        gym("game_of_life_halting")
    with pytest.raises(UsageError, match=r"there is no task 'no_such' in reasoning-gym .*; there are .*countdown"):
        gym("no_such")


def test_another_version_than_the_measured_one_is_refused(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "0.0.7")
    with pytest.raises(SetupError, match=r"reasoning-gym 0\.0\.7 is installed, .* pip install reasoning-gym=="):
        gym("countdown")


def test_without_the_library_its_extra_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    with pytest.raises(MissingExtraError, match=r"ponder-ttc\[gym\]"):
        gym("countdown")
