"""Behaviours by rule, on sentences written by hand."""

import json
import time

import pytest

from ponder.errors import DataError
from ponder.scaling.behaviours import Rules, profile

COUNT = Rules.read()


@pytest.mark.parametrize(
    ("text", "behaviour"),
    [
        ("84 + 72 - 83 - 34 = 39. Let me check: 156 - 117 is 39.", "verification"),
        ("Let's verify the answer by adding.", "verification"),
        ("that gives 61, which is not the target of 39", "verification"),
        ("Does this equal 24? Yes.", "verification"),
        ("Plugging it back gives 0.", "verification"),
        ("Wait, the second term is negative.", "backtracking"),
        ("This doesn\u2019t work at all.", "backtracking"),
        ("Let's try a different approach.", "backtracking"),
        ("I made a mistake in the carry.", "backtracking"),
        ("Step 1 is to find the area.", "subgoals"),
        ("First, we simplify the left side.", "subgoals"),
        ("We break this down into two cases.", "subgoals"),
        ("I want to get to a multiple of 10.", "subgoals"),
        ("Working backwards, 24 is 8 times 3.", "backward_chaining"),
        ("To reach 24, I need 8 and 3.", "backward_chaining"),
        ("Starting from the target, subtract 5.", "backward_chaining"),
        ("24 is 8 times 3, so I look for a 3.", "backward_chaining"),
    ],
)
def test_a_sentence_shows_its_behaviour(text, behaviour):
    assert COUNT(text)[behaviour] == 1


@pytest.mark.parametrize(
    "text",
    [
        "7+5=12\n12*3=36\n36-8=28\nanswer: 28",
        "The waiter brought a checkered cloth.",
        "The answer is 12 because 3 * 4 = 12.",
        "The train left the station at noon and the second one at one.",
        "",
    ],
)
def test_plain_solutions_show_none(text):
    assert COUNT(text) == {"verification": 0, "backtracking": 0, "subgoals": 0, "backward_chaining": 0}


def test_phrases_close_together_are_one_occurrence_and_far_apart_several():
    assert COUNT("Wait, that doesn't work. Let's try another way.")["backtracking"] == 1
    assert COUNT("Wait." + " 3 + 4 = 7" * 10 + " Wait." + " 3 + 4 = 7" * 10 + " Hmm.")["backtracking"] == 3


def test_a_profile_has_shares_means_and_gains_within_problems():
    wait, plain = "Wait. 3", "3"
    found = profile([[wait, plain], [wait, wait], [plain, plain]], [[True, False], [True, True], [False, True]])
    shown = found["backtracking"]
    assert shown.share.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert shown.times.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert shown.gain is not None
    assert shown.gain.value == pytest.approx((1 + 0) / 2)  # the second problem has no wrong trace
    assert found["verification"].share.value == 0


def test_a_judge_takes_the_place_of_rules():
    found = profile([["xx"], ["x"]], [[True], [False]], lambda text: {"crosses": text.count("x")})
    assert found["crosses"].times.value == 1.5
    assert found["crosses"].gain is None


def test_rules_are_data(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"behaviours": {"doubt": ["perhaps", "may(?:be)?"]}}))
    assert Rules.read(path)("Perhaps. Or not.") == {"doubt": 1}
    for body in ("{", "{}", '{"behaviours": {"doubt": ["("]}}', '{"behaviours": {"doubt": []}}', '{"behaviours": {}}'):
        path.write_text(body)
        with pytest.raises(DataError, match=r"mine\.json: holds"):
            Rules.read(path)


@pytest.mark.slow
def test_a_long_text_takes_no_long_time():
    start = time.process_time()
    COUNT("let me " * 20_000 + "to get " * 20_000 + "a" * 100_000)
    assert time.process_time() - start < 15


@pytest.mark.parametrize("traces", [[], [[]], [["a"], []]])
def test_problems_without_traces_are_refused(traces):
    with pytest.raises(ValueError, match="it takes a verdict for each trace"):
        profile(traces, [[True] * len(row) for row in traces])
    with pytest.raises(ValueError, match="it takes a verdict for each trace"):
        profile([["a"]], [[True, False]])
