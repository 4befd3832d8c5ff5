"""A study file is read as it was written, and every mistake in one is named with its place and the way out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.cli.study import Study, capped, check, read, write
from ponder.core import Budget, Sampling
from ponder.errors import StudyError

GOOD = 'tasks = ["maze"]\npolicies = ["maze"]\nstrategies = ["sample"]\n'

specs = st.lists(st.text(min_size=1), min_size=1, max_size=3).map(tuple)
whole = st.integers(1, 10**9)
budgets = st.builds(
    Budget,
    samples=st.none() | whole,
    tokens=st.none() | whole,
    calls=st.none() | whole,
    seconds=st.none() | st.floats(1e-9, 1e9),
    money=st.none() | st.floats(1e-9, 1e9),
)
samplings = st.builds(Sampling, st.floats(0, 100), st.floats(1e-6, 1), st.integers(0, 1000), whole, st.integers(0, 20))
studies = st.builds(
    Study,
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,19}", fullmatch=True),
    tasks=specs,
    policies=specs,
    strategies=specs,
    k=st.lists(whole, max_size=3).map(tuple),
    slice=st.integers(0, 10**6),
    seeds=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3).map(tuple),
    sampling=st.lists(samplings, min_size=1, max_size=2).map(tuple),
    budgets=st.lists(budgets, min_size=1, max_size=2).map(tuple),
    limit=st.none() | whole,
    concurrency=whole,
    allow_oracle=st.booleans(),
    bank=st.none() | st.text(min_size=1),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(studies)
def test_a_study_is_read_as_it_was_written(tmp_path_factory, study):
    path = tmp_path_factory.mktemp("s") / "study.toml"
    write(study, path)
    assert read(path) == study


def test_the_example_in_the_documentation_of_studies_is_one(tmp_path):
    import ponder.cli.study as module

    block = [line[4:] for line in module.__doc__.splitlines() if line.startswith("    ")]
    (tmp_path / "study.toml").write_text("\n".join(block))
    study = read(tmp_path / "study.toml")
    assert study.expanded == [
        "self_consistency(n=64)", "first_finish(n=1)", "first_finish(n=2)", "first_finish(n=4)", "first_finish(n=8)"
    ]  # fmt: skip


def test_strategies_with_a_k_are_taken_once_for_each_and_repeats_once():
    study = check({"tasks": ["t"], "policies": ["p"], "strategies": ["a", "b(n={k})", "a", "b(n=2)"], "k": [1, 2]}, "here")
    assert study.expanded == ["a", "b(n=1)", "b(n=2)"]


def test_a_task_caps_what_the_study_left_at_the_default():
    assert capped(Sampling(), None, 7).max_tokens == 7
    assert capped(Sampling(max_tokens=9), None, 7).max_tokens == 9
    assert capped(Sampling(), 1024, 7).max_tokens == 1024


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "sead = [1]\n", ":4:1: there is no key 'sead'; did you mean 'seeds'?"),
        (
            GOOD + "zzz = 1\n",
            ":4:1: there is no key 'zzz'; there are name, tasks, policies, strategies, k, slice, seeds, sampling, budgets, max_tokens, limit, "
            "concurrency, allow_oracle, bank",
        ),
        (
            GOOD + "sampling = [\n  {temprature = 1.0},\n]\n",
            ":5:4: there is no key 'sampling.0.temprature'; did you mean 'temperature'?",
        ),
        (GOOD + "budgets = [{token = 9}]\n", ":4:13: there is no key 'budgets.0.token'; did you mean 'tokens'?"),
        (
            GOOD + "budgets = [{tokens = -1}]\n",
            ":4:1: budgets.0 = {'tokens': -1}: budget tokens=-1 cannot buy anything: it must be above 0, or left out for no bound",
        ),
        (
            GOOD + "sampling = [{top_p = 2}]\n",
            ":4:1: sampling.0 = {'top_p': 2}: sampling: top_p = 2.0 must lie in [1e-06, 1]",
        ),
        ('policies = ["maze"]\nstrategies = ["sample"]\n', ": 'tasks' is missing; see the example in `ponder run --help`"),
        (GOOD + "slice = -1\n", ":4:1: slice = -1 must be at least 0"),
        (GOOD + "concurrency = 0\n", ":4:1: concurrency = 0 must be at least 1"),
        (GOOD + "limit = 0\n", ":4:1: limit = 0 must be at least 1"),
        (GOOD + "slice = \n", ": is not TOML: Invalid value (at line 4, column 9)"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, message):
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(StudyError) as caught:
        read(path)
    assert str(caught.value) == f"{path}{message}"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("tasks = []", "tasks = []"),
        ('tasks = "maze"', "tasks = 'maze'"),
        ("seeds = []", "seeds = []"),
        ('seeds = ["one"]', "seeds.0 = 'one'"),
        ('limit = "all"', "limit = 'all'"),
        ('name = "../up"', "name = '../up'"),
        ('allow_oracle = "perhaps"', "allow_oracle = 'perhaps'"),
        ('bank = ""', "bank = ''"),
    ],
)
def test_a_wrong_value_is_shown_with_its_place(tmp_path, line, shown):
    path = tmp_path / "study.toml"
    others = [other for other in GOOD.splitlines() if other.split()[0] != line.split()[0]]
    path.write_text("\n".join([line, *others]))
    with pytest.raises(StudyError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:1:1: {shown}: ")


def test_a_file_that_is_not_there_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(StudyError) as caught:
        read(tmp_path / "none.toml")
    assert str(caught.value) == (
        f"{tmp_path}/none.toml: cannot be read (No such file or directory); name a study file, or use --task, --policy and --strategy"
    )
