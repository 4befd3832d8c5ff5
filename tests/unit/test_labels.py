"""Step labels: every definition on trees worked by hand, and the published files."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from ponder.errors import DataError, UsageError
from ponder.learners.datasets import Sample
from ponder.learners.labels import (
    Count,
    Counted,
    Stepwise,
    Tree,
    advantages,
    bounds,
    contradiction,
    first_error,
    from_samples,
    hard,
    progress,
    soft,
    weighted_values,
)
from ponder.learners.prm800k import math_shepherd, prm800k
from ponder.types import user

PROMPT = (user("What is it?"),)
PAGE = Path(__file__).parents[2] / "docs" / "learning" / "labels.md"


def sample(steps, correct, finish="stop", problem="q"):
    texts = tuple(f"{step}\n" for step in steps)
    return Sample(problem, PROMPT, texts, correct, None, finish, "policy", 1.0, None, len(texts))


def chain(counts, correct=False, **more):
    """A chain of as many steps as there are counts; `3/8` is 3 right of 8, the root's first."""
    pairs = [Count(*map(int, count.split("/"))) for count in counts.split()]
    return Counted("q", PROMPT, tuple(f"s{at}\n" for at in range(len(pairs))), correct, tuple(pairs), **more)


# ---- what a label is ----


def test_a_chain_has_one_label_in_range_for_each_step():
    assert Stepwise("q", PROMPT, ("a", "b"), (None, 1.0)).finished
    with pytest.raises(UsageError, match=r"^problem q: 1 labels for 2 steps; one each is needed$"):
        Stepwise("q", PROMPT, ("a", "b"), (1.0,))
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(UsageError, match=rf"^problem q: a label is {bad!r}; it must lie in \[0, 1\], or be None$"):
            Stepwise("q", PROMPT, ("a",), (bad,))


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_a_value_is_the_share_of_subsets_that_hold_a_right_chain(right, k):
    subsets = list(combinations([1] * right + [0] * (5 - right), k))
    assert Count(right, 5).value(k) == pytest.approx(sum(map(max, subsets)) / len(subsets))


def test_a_value_is_unknown_with_fewer_draws_than_it_needs():
    assert Count().value() is None
    assert Count(1, 3).value(4) is None


# ---- whole samples that share prefixes ----

# root 2/4 -+- a 1/3 -+- b 1/2 -+- c right
#           |         |         +- d wrong
#           |         +- e wrong
#           +- f 1/1 --- g right
SAMPLES = [sample("abc", True), sample("abd", False), sample("ae", False), sample("fg", True)]


def test_the_value_of_a_prefix_is_the_mean_verdict_of_the_samples_through_it():
    abc, abd, ae, fg = from_samples(SAMPLES)
    assert abc.counts == (Count(2, 4), Count(1, 3), Count(1, 2))
    assert ae.counts == (Count(2, 4), Count(1, 3))
    assert soft(abc).labels == (1 / 3, 1 / 2, 1.0)
    assert soft(abd).labels == (1 / 3, 1 / 2, 0.0)
    assert soft(fg).labels == (1.0, 1.0)
    assert [hard(one).labels for one in (abc, abd, ae, fg)] == [(1, 1, 1), (1, 1, 0), (1, 0), (1, 1)]


def test_a_step_that_too_few_samples_share_has_no_soft_label_and_the_verdict_stays():
    assert soft(from_samples(SAMPLES)[0], least=3).labels == (1 / 3, None, 1.0)
    assert hard(from_samples(SAMPLES)[2], least=4).labels == (1.0, 0.0)
    assert hard(from_samples([sample("ab", False)])[0], least=2).labels == (None, 0.0)


def test_problems_do_not_mix_and_equal_samples_count_as_often_as_they_were_drawn():
    first, second, other = from_samples([sample("ab", True), sample("ac", False), sample("ab", False, problem="r")])
    assert soft(first).labels == (0.5, 1.0)
    assert soft(second).labels == (0.5, 0.0)
    assert soft(other).labels == (0.0, 0.0)
    assert from_samples([sample("ab", True)] * 3 + [sample("ac", False)])[0].counts[1] == Count(3, 4)


def test_a_cut_sample_is_a_wrong_draw_without_a_label_of_its_own_and_a_failed_one_is_none():
    whole, cut = from_samples([sample("ab", True), sample("ab", False, "length"), sample("a", False, "error")])
    assert whole.counts == (Count(1, 2), Count(1, 2))
    assert soft(cut).labels == (0.5, None)
    assert not soft(cut).finished
    assert soft(whole).finished


def test_a_chain_that_ends_where_another_goes_on_keeps_its_own_verdict():
    short, longer = from_samples([sample("a", False), sample("ab", True)])
    assert soft(short).labels == (0.0,)
    assert soft(longer).labels == (0.5, 1.0)
    assert hard(short).labels == (0.0,)
    assert first_error(short, 1).labels == (0.0,)


def test_a_roll_out_is_a_fair_draw_from_where_it_began_and_below_and_proves_what_is_above():
    tree = Tree()
    tree.add("abc", True, range(2, 4))
    tree.add("abd", False, range(1, 4))
    one = tree.counted("q", PROMPT, "abx", False)
    assert one.counts == (Count(0, 0), Count(0, 1), Count(1, 2))
    assert one.reached == 2
    assert tree.counted("q", PROMPT, "ay", False).reached == 1


# ---- reading counts ----


def test_a_hard_label_is_one_if_any_roll_out_is_right_and_zero_only_after_enough_of_them():
    assert hard(chain("0/0 1/8 0/8 0/7"), 8).labels == (1.0, 0.0, None, 0.0)
    assert hard(chain("0/0 0/8 0/8 0/8", reached=2), 8).labels == (1.0, 1.0, 0.0, 0.0)


def test_a_share_of_roll_outs_that_stopped_at_the_first_right_one_is_refused():
    lazy = chain("0/0 1/3", lazy=True)
    assert hard(lazy).labels == (1.0, 0.0)
    for read in (soft, progress):
        with pytest.raises(UsageError, match=r"stopped at the first right one.*\.10 reads \.26.*lazy=0"):
            read(lazy)


@pytest.mark.parametrize(
    ("counts", "between", "broken", "labels"),
    [
        ("0/0 0/0 1/4 0/4 0/0", (2, 3), None, (1, 1, 0, 0, 0)),  # found: step 3
        ("0/0 0/0 0/0 0/0 2/4", (4, 5), None, (1, 1, 1, 1, 0)),  # only the last step is wrong
        ("0/0 0/4 0/0 0/0 0/0", (0, 1), None, (0, 0, 0, 0, 0)),  # the first
        ("0/0 1/4 0/0 0/4 0/0", (1, 3), None, (1, None, 0, 0, 0)),  # the search did not end
        ("0/0 1/4 0/3 0/4 0/0", (1, 3), None, (1, None, 0, 0, 0)),  # three roll-outs of four claim nothing
        ("0/0 0/0 0/0 0/0 0/0", (0, 5), None, (None, None, None, None, 0)),  # nothing is known but the verdict
        ("0/0 1/4 0/4 1/4 0/4", (3, 4), 2, (1, None, None, None, 0)),  # it recovered
        ("0/4 0/4 0/0 0/0 0/0", (0, 1), 0, (None, None, None, None, 0)),  # nobody ever solved it
        ("0/4 1/4 0/4 0/0 0/0", (1, 2), None, (1, 0, 0, 0, 0)),  # somebody did, after all
    ],
)
def test_the_first_error_lies_between_the_bounds(counts, between, broken, labels):
    one = chain(counts)
    assert bounds(one, 4) == between
    assert contradiction(one, 4) == broken
    assert first_error(one, 4).labels == labels


def test_what_follows_the_first_error_may_be_left_out():
    assert first_error(chain("0/0 1/4 0/4 0/0"), 4, after=None).labels == (1.0, 0.0, None, 0.0)


def test_a_right_chain_has_ones_whatever_its_roll_outs_say():
    assert first_error(chain("0/4 1/4 0/4 0/4", correct=True), 4).labels == (1.0, 1.0, 1.0, 1.0)


def test_a_right_end_found_elsewhere_moves_the_lower_bound():
    assert bounds(chain("0/0 0/0 0/0 0/4", reached=2), 4) == (2, 3)


# ---- advantage ----


def test_an_advantage_is_what_a_step_adds_and_advantages_telescope():
    one = chain("4/8 2/8 6/8", correct=True)
    found = advantages(one.values())
    assert found == (-0.25, 0.5, 0.25)
    assert sum(found) == 1.0 - 0.5
    assert progress(one).labels == (0.375, 0.75, 0.625)
    assert advantages((0.5, None, 1.0)) == (None, None)


def test_the_search_score_is_mapped_from_its_range_and_is_the_soft_label_without_advantage():
    one = chain("4/8 2/8 6/8", correct=True)
    assert progress(one, alpha=0.0).labels == soft(one).labels
    assert progress(one, alpha=1.0).labels == pytest.approx([(0.25 - 0.25 + 1) / 3, (0.75 + 0.5 + 1) / 3, (1 + 0.25 + 1) / 3])
    assert progress(chain("0/1", correct=True), alpha=3.0).labels == (1.0,)  # Q = 1, A = 1: the top of the range
    assert progress(chain("1/1"), alpha=3.0).labels == (0.0,)  # Q = 0, A = -1: its bottom
    assert progress(chain("0/1", correct=True), alpha=0.1).labels == (1.0,)  # 1.2000000000000002 / 1.2


def test_the_prover_may_be_another_policy_or_the_best_of_several_roll_outs():
    one, prover = chain("4/8 2/8", correct=True), chain("1/4 3/4", correct=True)
    assert progress(one, prover).labels == ((0.5 + 1) / 2, (0.25 + 1) / 2)
    assert progress(one, prover, alpha=1.0).labels == pytest.approx([(0.25 + 0.5 + 1) / 3, (1 + 0.25 + 1) / 3])
    best = advantages((Count(4, 8).value(2), Count(2, 8).value(2), 1.0))
    assert progress(one, best_of=2).labels == pytest.approx([(a + 1) / 2 for a in best])
    assert progress(one, best_of=9).labels == (None, None)


def test_progress_refuses_counts_of_another_chain_and_numbers_out_of_range():
    with pytest.raises(UsageError, match="the prover's counts are those of another chain"):
        progress(chain("1/2 1/2"), chain("1/2"))
    for more in ({"best_of": 0}, {"alpha": -1.0}, {"alpha": float("nan")}):
        with pytest.raises(UsageError, match=r"^progress: best_of = "):
            progress(chain("1/2"), **more)


def test_weighted_values_grow_evenly_along_good_steps_and_never_fall_below_zero():
    assert weighted_values([True] * 4) == pytest.approx((0.25, 0.5, 0.75, 1.0))
    assert weighted_values([True, False, False]) == pytest.approx((1 / 3, 0.0, 0.0))  # 1/3 - (2/3) / 2 = 0
    assert weighted_values([True, True, False]) == pytest.approx((1 / 3, 2 / 3, 1 / 3))  # 2/3 - (1/3) / 1
    assert weighted_values([False, True]) == (0.0, 1.0)


# ---- published files ----


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def rated(*pairs, chosen=None, human=None):
    completions = [{"text": text, "rating": rating, "flagged": False} for text, rating in pairs]
    return {"completions": completions, "human_completion": human, "chosen_completion": chosen}


def human_row(*steps, finish="solution", problem="1 + 1?"):
    return {"question": {"problem": problem}, "label": {"steps": list(steps), "finish_reason": finish}}


def test_human_ratings_give_the_chosen_path_and_each_rejected_step_as_a_chain(tmp_path):
    row = human_row(
        rated(("Add.", 0), ("Subtract.", -1), ("Multiply.", -1), ("Subtract.", -1), chosen=0),
        rated(("It is 3.\n\n# Answer\n\n3", -1), ("It is 2.\n\n# Answer\n\n2", 1), chosen=1),
    )
    found = list(prm800k(write(tmp_path / "a.jsonl", row)))
    assert [(one.steps, one.labels, one.finished) for one in found] == [
        (("Subtract.\n",), (0.0,), False),
        (("Multiply.\n",), (0.0,), False),
        (("Add.\n", "It is 3.\n\n# Answer\n\n3"), (None, 0.0), True),
        (("Add.\n", "It is 2.\n\n# Answer\n\n2"), (1.0, 1.0), True),
    ]
    assert {one.problem for one in found} == {found[0].problem}
    assert found[0].prompt == (user("1 + 1?"),)


@pytest.mark.parametrize(("neutral", "label"), [(1.0, 1.0), (0.5, 0.5), (None, None)])
def test_a_neutral_rating_counts_as_good_unless_told_otherwise(tmp_path, neutral, label):
    path = write(tmp_path / "a.jsonl", human_row(rated(("Hm.", 0), chosen=0), rated(("So 2.", 1), chosen=0)))
    assert [one.labels for one in prm800k(path, neutral=neutral)] == [(label, 1.0)]


def test_flagged_and_missing_ratings_are_unknown_and_a_written_step_is_good(tmp_path):
    unsure = {"completions": [{"text": "Perhaps.", "rating": 1, "flagged": True}], "chosen_completion": 0}
    row = human_row(
        unsure,
        rated(("Eh.", None), chosen=0),
        rated(("No.", -1), human={"text": "Yes.", "rating": None, "source": "human", "flagged": False}),
        rated(("So 2.", 1), ("Who knows.", None), chosen=0),
    )
    wrong, path = prm800k(write(tmp_path / "a.jsonl", row))
    assert (wrong.steps[-1], wrong.labels) == ("No.\n", (None, None, 0.0))
    assert path.labels == (None, None, 1.0, 1.0)
    assert path.steps[2] == "Yes.\n"


def test_a_path_that_ends_in_an_error_and_one_without_completions_end_there(tmp_path):
    stop = {"completions": None, "human_completion": None, "chosen_completion": None}
    rows = [
        human_row(rated(("Add.", 1), chosen=0), rated(("Off.", -1)), finish="found_error"),
        human_row(rated(("Add.", 1), chosen=0), stop, rated(("Never.", 1), chosen=0), finish="give_up"),
        human_row(rated(("Add.", 1), chosen=0), finish="bad_problem"),
    ]
    found = [(one.steps, one.labels) for one in prm800k(write(tmp_path / "a.jsonl", *rows))]
    assert found == [(("Add.\n", "Off.\n"), (None, 0.0)), (("Add.\n",), (1.0,)), (("Add.\n",), (1.0,))]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "is not JSON"),
        ("[1]", "is list; an object is expected"),
        ({"label": {}}, "question is missing or null; an object is expected"),
        (human_row(problem=""), "problem is ''; a text is expected"),
        (human_row(rated(("a", 2), chosen=0)), "a rating is 2; it must be -1, 0, 1 or null"),
        (human_row(rated(("a", True), chosen=0)), "a rating is True; it must be"),
        (human_row(rated(("a", 1), chosen=1)), "chosen_completion is 1; it must be null or one of the 1 completions"),
        (human_row({"completions": [1]}), r"completions is \[1\]; a list of objects is expected"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, reason):
    path = write(tmp_path / "a.jsonl", human_row(rated(("a", 1), chosen=0)), bad)
    with pytest.raises(DataError, match=rf"a\.jsonl:2: {reason}"):
        list(prm800k(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl: cannot be read \(No such file"):
        list(prm800k(tmp_path / "none.jsonl"))
    (tmp_path / "b.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"b\.jsonl: is not UTF-8"):
        list(math_shepherd(tmp_path / "b.jsonl"))


def shepherd(text):
    """A line of Math-Shepherd from a text with the signs in it: {+} and {-}."""
    return {"input": re.sub(r"\{[+-]\}", "ки", text), "label": re.sub(r"\{([+-])\}", r"\1", text), "task": "GSM8K"}


GOOD = "How many? Step 1: 2+2 = 4 {+}\nStep 2: 4-1 = 2 {-}\nStep 3: The answer is: 2 {-}"


def test_roll_out_labels_as_published_are_read(tmp_path):
    [one] = math_shepherd(write(tmp_path / "a.jsonl", shepherd(GOOD)))
    assert one.prompt == (user("How many?"),)
    assert one.steps == ("Step 1: 2+2 = 4\n", "Step 2: 4-1 = 2\n", "Step 3: The answer is: 2")
    assert one.labels == (1.0, 0.0, 0.0)
    assert one.finished


WRONG = {
    "a tag in the question, or no 'Step 1:'": shepherd("Mr. Rocky {+} has 2. Step 1: 2 {+}"),
    "'Step 1:' stands twice before the first tag": shepherd("Why? Step 1: or step 1: 2 {+}"),
    "the label's text is not that of the input": {"input": "Q Step 1: 2 ки", "label": "Q Step 1: 3 +"},
    "no tag": shepherd("How many? Step 1: 2"),
    "text without a tag at its end": shepherd("How many? Step 1: 2 {+}\nStep 2: 3"),
    "an empty question": shepherd("Step 1: 2 {+}"),
    "an empty step": shepherd("How many? Step 1: 2 {+}\n{-}"),
}


def test_lines_that_are_annotated_wrongly_are_refused_or_left_out_and_counted(tmp_path):
    path = write(tmp_path / "a.jsonl", shepherd(GOOD), *WRONG.values(), shepherd(GOOD))
    skipped: Counter[str] = Counter()
    assert len(list(math_shepherd(path, skipped=skipped))) == 2
    assert skipped == Counter(WRONG.keys())
    for reason, row in WRONG.items():
        with pytest.raises(DataError, match=rf"a\.jsonl:1: {re.escape(reason)}; give skipped=Counter\(\)"):
            list(math_shepherd(write(tmp_path / "a.jsonl", row)))


@pytest.mark.parametrize("label", ["Q Step 1: 2 + more", "Q Step 1: 2 *", "Q Step 1: 2 "])
def test_a_label_that_says_more_or_less_is_none(tmp_path, label):
    with pytest.raises(DataError, match="the label's text is not that of the input"):
        list(math_shepherd(write(tmp_path / "a.jsonl", {"input": "Q Step 1: 2 ки", "label": label})))


def test_the_python_of_the_page_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    scope: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "docs/learning/labels.md", "exec"), scope)  # our own page
    said = capsys.readouterr().out
    assert said
    for line in said.splitlines():
        assert f"# {line}" in "".join(blocks), f"the page does not say {line!r}"
