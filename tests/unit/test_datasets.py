"""Which samples become examples: by hand-worked cases, and by what must hold for any input."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder.errors import DataError, UsageError
from ponder.learners.datasets import (
    Pair,
    Sample,
    balance,
    cap,
    check_split,
    derivation,
    distinct,
    folded,
    held_out,
    levels,
    pairs,
    solve_rates,
    split,
    steps_of,
)
from ponder.types import Message, user


def sample(text="1+1=2\nanswer: 2\n", correct=True, problem="p", **more):
    chosen = {
        "prompt": (user(f"What of {problem}?"),),
        "answer": "2",
        "finish": "stop",
        "policy": "lab",
        "temperature": 1.0,
        "difficulty": None,
        "tokens": 7,
        "stream": "0",
    }
    return Sample(problem=problem, steps=steps_of(text), correct=correct, **(chosen | more))


def texts(samples):
    return [one.text for one in samples]


# ---- samples and steps ----


def test_a_cut_sample_cannot_be_right():
    with pytest.raises(
        DataError, match=r"^a sample of problem 'p' finished by 'length' and is marked correct; only 'stop' can be$"
    ):
        sample(finish="length")
    assert not sample(finish="length", correct=False).correct


@pytest.mark.parametrize(
    ("text", "separator", "steps"),
    [
        ("a\nb\n", "\n", ("a\n", "b\n")),
        ("a\nb", "\n", ("a\n", "b")),
        ("a", "\n", ("a",)),
        ("", "\n", ()),
        ("a\n\n\nb\n\n", "\n", ("a\n\n\n", "b\n\n")),
        ("\n\na\n", "\n", ("\n\na\n",)),
        ("\n \n", "\n", ("\n \n",)),
        ("a\nb\n\nc", "\n\n", ("a\nb\n\n", "c")),
        ("one. two. three", ". ", ("one. ", "two. ", "three")),
    ],
)
def test_steps_end_with_their_separator(text, separator, steps):
    assert steps_of(text, separator) == steps


@settings(max_examples=50)
@given(st.text(alphabet="ab \n", max_size=30))
def test_steps_join_to_the_text_and_say_something_each(text):
    steps = steps_of(text)
    assert "".join(steps) == text
    assert all(step.strip() for step in steps) or len(steps) == 1
    assert all(step.rstrip(" \n") != step and "\n" in step for step in steps[:-1])


def test_a_step_needs_a_separator():
    with pytest.raises(UsageError, match="the separator is empty"):
        steps_of("a", "")


# ---- derivations ----


@pytest.mark.parametrize(
    ("text", "equations"),
    [
        ("7*4=28 left 8 28\n28-8=20 left 20\nanswer: 20\n", ("7*4=28", "28-8=20")),
        ("She sold 48/2 = <<48/2=24>>24 clips.\n48+24 = <<48+24=72>>72 in all.\n#### 72", ("48/2=24", "48+24=72")),
        ("It costs $1,200.00 / 4 = $300.", ("1200/4=300",)),
        ("3 x 4 = 12.0 and 12 \u00f7 0.50 = 24", ("3*4=12", "12/0.5=24")),
        ("3 \u00d7 4 = 12; 12 \u2212 .5 = 11.5", ("3*4=12", "12-0.5=11.5")),
        ("(3+4)*2 = 14", ("(3+4)*2=14",)),
        ("that makes 14 ((3+4)*2=14)", ("(3+4)*2=14",)),
        ("that is ((3+4=7))", ("3+4=7",)),
        ("2+3+4=9", ("2+3+4=9",)),
        ("1. 3+4=7\n2) 7-9=-2\n- 5+3=8", ("3+4=7", "7-9=-2", "5+3=8")),
        ("In 2020 3+4=7", ("3+4=7",)),
        ("so the box = 4, y = 3 + z, n = 7", None),
        ("3+4\n=7", None),
        ("seven,  I\nthink", None),
        ("3 apples + 4 pears = 7 fruits", None),
        ("so 3+=7", None),
        ("so 7 = 7", None),
        ("007+01=8.10", ("7+1=8.1",)),
        ("0+0=0", ("0+0=0",)),
    ],
)
def test_a_derivation_is_its_equations_in_order(text, equations):
    assert derivation(text) == (equations or (folded(text),))


def test_the_order_of_equations_and_operands_counts():
    forms = ["3*4=12\n1+1=2", "1+1=2\n3*4=12", "4*3=12\n1+1=2", "3*4=12", "3*4=12\n1+1=2\n1+1=2"]
    assert len({derivation(form) for form in forms}) == len(forms)


@pytest.mark.parametrize("text", ["1+" * 20_000, "(" * 20_000 + "1+1=2", "1=" * 20_000, "1," * 20_000 + "=2", "." * 20_000])
def test_a_derivation_of_a_hostile_text_takes_linear_time(text):
    began = time.process_time()
    derivation(text)
    assert time.process_time() - began < 2


# ---- distinct ----


def test_white_space_makes_no_other_chain():
    kept = distinct([sample("1+1=2\n answer: 2"), sample("1+1=2\nanswer:  2\n"), sample("1 + 1=2\nanswer: 2")])
    assert texts(kept) == ["1+1=2\n answer: 2", "1 + 1=2\nanswer: 2"]


def test_words_make_no_other_derivation():
    said = [sample("So 1+1=2"), sample("Now 1 + 1 = 2."), sample("2*1=2"), sample("Two."), sample("Two")]
    assert texts(distinct(said, derivation)) == ["So 1+1=2", "2*1=2", "Two.", "Two"]


@pytest.mark.parametrize("key", [folded, derivation])
def test_only_samples_of_one_prompt_and_one_fate_stand_for_each_other(key):
    """A wrong answer may hold the equations of a right one, a cut text all of a whole one."""
    told = [
        sample(),
        sample(correct=False),
        sample(correct=False, finish="length"),
        sample(problem="q", prompt=sample().prompt),
        sample(prompt=(user("Otherwise?"),)),
    ]
    assert distinct([*told, *told], key) == told


def test_of_equal_chains_the_first_stays_whoever_wrote_it():
    assert [one.policy for one in distinct([sample(policy="a"), sample(policy="b")])] == ["a"]


# ---- cap ----

POOL = [sample(f"{at}", problem=f"p{at % 3}", index=at) for at in range(30)]


def test_a_cap_leaves_at_most_so_many_of_each_problem_in_their_order():
    kept = cap(POOL, 4)
    assert Counter(one.problem for one in kept) == {"p0": 4, "p1": 4, "p2": 4}
    assert kept == sorted(kept, key=POOL.index)
    assert cap(POOL, 10) == POOL


def test_what_a_cap_takes_depends_neither_on_order_nor_on_other_problems():
    mixed = Random(1).sample(POOL, len(POOL))
    assert set(cap(mixed, 4)) == set(cap(POOL, 4))
    alone = [one for one in POOL if one.problem == "p1"]
    assert cap(alone, 4) == [one for one in cap(POOL, 4) if one.problem == "p1"]


def test_a_smaller_cap_takes_a_part_of_what_a_larger_one_takes():
    kept = [set(cap(POOL, most, seed=5)) for most in range(1, 11)]
    assert all(less < more for less, more in pairwise(kept))


def test_a_cap_draws_by_its_seed_and_prefers_nobody():
    drawn = Counter(one.index for seed in range(300) for one in cap(POOL[::3], 3, seed=seed))
    assert sum(drawn.values()) == 900
    assert all(60 <= count <= 120 for count in drawn.values()), "90 of 300 expected, standard deviation 8"


def test_a_cap_takes_at_least_one():
    with pytest.raises(UsageError, match=r"^cap: most = 0 must be at least 1$"):
        cap(POOL, 0)


# ---- difficulty ----


def rated(problem, right, of, **more):
    return [sample(f"{at}", at < right, problem, index=at, **more) for at in range(of)]


def test_a_solve_rate_counts_cut_samples_as_wrong():
    told = [*rated("a", 1, 4), *rated("b", 0, 2), sample(problem="c"), sample(problem="c", correct=False, finish="length")]
    assert solve_rates(told) == {"a": 0.25, "b": 0.0, "c": 0.5}


def test_levels_are_difficulties_or_else_quantiles_of_solve_rates():
    rates = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 2, "f": 5, "g": 5, "h": 9, "i": 10, "j": 10}  # of 10
    told = [one for problem, right in rates.items() for one in rated(problem, right, 10)]
    found = levels([*told, *rated("given", 1, 2, difficulty=4.0)], bins=5)
    assert {problem: level for problem, (_, level) in found.items()} == {
        **dict.fromkeys("abc", 0), "d": 1, "e": 2, **dict.fromkeys("fgh", 3), **dict.fromkeys("ij", 4), "given": 4.0
    }  # fmt: skip
    assert found["given"] == ("difficulty", 4.0) != found["i"], "a difficulty is no bin"


def test_one_rate_is_one_level():
    assert set(levels([*rated("a", 1, 2), *rated("b", 1, 2), *rated("c", 1, 2)], bins=3).values()) == {("solve rate", 1.0)}


def test_balance_leaves_as_many_of_each_level_as_the_rarest_has():
    told = [*rated("easy", 8, 8, difficulty=1.0), *rated("middle", 4, 8, difficulty=2.0), *rated("hard", 3, 8, difficulty=3.0)]
    right = [one for one in told if one.correct]
    kept = balance(right, levels(told))
    assert Counter(one.problem for one in kept) == {"easy": 3, "middle": 3, "hard": 3}
    assert kept == sorted(kept, key=told.index)
    assert balance([], {}) == []


def test_balance_by_solve_rate_needs_the_rates_from_before_the_filter():
    told = [*rated("easy", 8, 8), *rated("hard", 2, 8)]
    right = [one for one in told if one.correct]
    assert Counter(one.problem for one in balance(right, levels(told, bins=2))) == {"easy": 2, "hard": 2}
    assert len(balance(right, levels(right, bins=2))) == len(right), "all rates are 1: one level"


# ---- pairs ----


def test_every_right_sample_meets_every_wrong_one_of_its_problem():
    told = [*rated("a", 2, 5), *rated("b", 1, 2), *rated("all right", 3, 3), *rated("all wrong", 0, 3)]
    found = pairs(told)
    assert {(pair.problem, pair.chosen.text, pair.rejected.text) for pair in found} == {
        *(("a", right, wrong) for right in "01" for wrong in "234"),
        ("b", "0", "1"),
    }
    assert len(found) == len({pair.key for pair in found}) == 7
    assert all(pair.chosen.correct and not pair.rejected.correct for pair in found)


def test_no_pair_holds_one_text_twice():
    """Two graders, or two fates of one text: nothing to prefer."""
    assert pairs([sample("1 + 1"), sample("1  +\n1", correct=False)]) == []


def test_no_pair_crosses_prompts_even_under_one_id():
    assert pairs([sample("a"), sample("b", correct=False, prompt=(user("Else?"),))]) == []


def test_cut_samples_are_wrong_only_on_demand():
    told = [sample("a"), sample("b", correct=False, finish="length")]
    assert pairs(told) == []
    assert texts(pair.rejected for pair in pairs(told, truncated=True)) == ["b"]


@pytest.mark.parametrize(("right", "wrong"), [(4, 6), (3, 5), (6, 4), (1, 7), (5, 5)])
def test_a_cap_on_pairs_uses_all_samples_equally_often(right, wrong):
    told = rated("a", right, right + wrong)
    for most in range(1, right * wrong + 1):
        some = pairs(told, most=most)
        assert len(set(some)) == most
        for side, size in (((pair.chosen for pair in some), right), ((pair.rejected for pair in some), wrong)):
            uses = Counter(side)
            assert {*uses.values()} <= {most // size, -(-most // size)}


def test_a_cap_on_pairs_draws_by_the_seed_whatever_the_order():
    told = [*rated("a", 5, 12), *rated("b", 1, 3)]
    every, some = pairs(told), pairs(told, most=6, seed=1)
    assert Counter(pair.problem for pair in some) == {"a": 6, "b": 2}
    assert set(some) < set(every)
    assert set(pairs(told[::-1], most=6, seed=1)) == set(some) != set(pairs(told, most=6, seed=2))
    with pytest.raises(UsageError, match=r"^pairs: most = 0 must be at least 1, or left out for all$"):
        pairs(told, most=0)


def test_pairs_can_be_balanced():
    told = [*rated("easy", 4, 8, difficulty=1.0), *rated("hard", 1, 3, difficulty=2.0)]
    kept = balance(pairs(told), levels(told))
    assert Counter(pair.problem for pair in kept) == {"easy": 2, "hard": 2}
    assert all(isinstance(pair, Pair) for pair in kept)


# ---- train and evaluation ----


def test_a_problem_is_on_one_side_for_good():
    few, many = ([one for at in range(n) for one in rated(f"p{at}", 1, 3)] for n in (40, 400))
    for share in (0.1, 0.5):
        train, evaluation = split(few, share=share, seed=3)
        assert {one.problem for one in train}.isdisjoint(one.problem for one in evaluation)
        assert Counter([*train, *evaluation]) == Counter(few)
        more = split(many, share=share, seed=3)
        assert set(train) <= set(more[0])
        assert set(evaluation) <= set(more[1])


def test_a_share_is_a_share_of_problems_and_grows_in_place():
    ids = [f"p{at}" for at in range(4000)]
    small, large = ({name for name in ids if held_out(name, share=share)} for share in (0.1, 0.3))
    assert small < large
    assert 330 <= len(small) <= 470
    assert 1080 <= len(large) <= 1320
    assert small != {name for name in ids if held_out(name, share=0.1, seed=1)}


@pytest.mark.parametrize("share", [0, 1, -0.5, float("nan")])
def test_a_share_lies_between_nothing_and_all(share):
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        split(POOL, share=share)


def test_a_split_with_an_empty_side_is_none():
    with pytest.raises(
        DataError, match=r"^split: of 1 problems none is left to (train|evaluate) on with share = 0.1 and seed = 0; sample"
    ):
        split([sample()])


def test_a_leaked_id_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"^problem 'a' is both to be trained and to be evaluated on"):
        check_split(rated("b", 1, 2) + rated("a", 1, 2), [sample(problem="a", prompt=(user("Something else?"),))])


def test_a_leaked_prompt_is_an_error_that_names_both_problems():
    train = [sample(problem="a", prompt=(Message("system", ("Think.",)), user("What  is\n1+1?")))]
    with pytest.raises(DataError, match=r"^problem 'b' is to be evaluated on, and asks what problem 'a' asks"):
        check_split(train, [sample(problem="b", prompt=(Message("system", ("Think.",)), user("what is 1+1? ")))])
    check_split(train, [sample(problem="b", prompt=(Message("system", ("Think.",)), user("what is 1+2?")))])


def test_a_split_of_equal_prompts_under_two_ids_is_refused():
    ids = [f"p{at}" for at in range(50)]
    inside, outside = (next(name for name in ids if held_out(name) is side) for side in (True, False))
    told = [sample(problem=inside, prompt=(user("Same?"),)), sample(problem=outside, prompt=(user("Same?"),))]
    with pytest.raises(DataError, match=f"problem '{inside}' is to be evaluated on, and asks what problem '{outside}' asks"):
        split(told)


def test_what_tells_samples_apart_is_in_their_key():
    one = sample()
    others = [
        replace(one, **change)
        for change in (
            {"problem": "q"}, {"policy": "b"}, {"temperature": 0.5}, {"stream": "1"}, {"index": 1}, {"steps": ("x",)},
        )
    ]  # fmt: skip
    assert len({each.key for each in [one, *others]}) == 7
