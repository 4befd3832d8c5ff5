"""Sentences that a reader would stumble over."""

from __future__ import annotations

from ponder.cli.findings import corrected, size
from ponder.scaling.bootstrap import Interval
from ponder.scaling.paired import Comparison


def compared(value, low, high):
    return Comparison("a", "b", 100.0, 0.5, 0.5 - value, Interval(value, low, high), 0.0001, 0.036)


def test_a_difference_that_rounds_to_nothing_is_not_called_nothing():
    assert size(compared(0.0003, 0.0001, 0.0006)) == "less than .001 (p < .001, Holm = .036)"
    assert size(compared(-0.0003, -0.0006, -0.0001)) == "less than .001 (p < .001, Holm = .036)"
    assert size(compared(0.0006, 0.0001, 0.0009)) == ".001 [.000, .001] (p < .001, Holm = .036)"
    assert size(compared(0.0003, -0.01, 0.01), signed=True).startswith("+.000 [-.010, .010]")


def test_no_comparison_and_one_are_told_as_such():
    assert corrected(0).startswith("Nothing was compared")
    assert corrected(1).startswith("1 comparison was made.")
    assert corrected(2).startswith("2 comparisons were made.")
