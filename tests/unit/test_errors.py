"""The error tree: one base, one exit code a branch, a docstring that shows all of it."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from ponder import errors

CLASSES = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, above = {}, {}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"( *)[*x+] (\w+)(?: \((\d)\))?", line)
        if found:
            depth = len(found[1]) // 2
            above[depth] = found[2]
            code = int(found[3]) if found[3] else drawn[above[depth - 1]][1] if depth else 1
            drawn[found[2]] = (above.get(depth - 1, "Exception"), code)
    real = {
        thing.__name__: (thing.__bases__[0].__name__, thing.exit_code)
        for thing in CLASSES
        if issubclass(thing, errors.PonderError)
    }
    assert drawn == real


def test_running_out_of_budget_is_no_error():
    assert not issubclass(errors.BudgetExhausted, errors.PonderError)


def test_what_makes_no_sense_is_a_value_error_too():
    assert issubclass(errors.UsageError, ValueError)


def test_a_missing_extra_says_how_to_get_it():
    error = errors.MissingExtraError("torch", "hf")
    assert str(error) == "torch is not installed; it comes with the extra 'hf': pip install 'ponder-ttc[hf]'"
    assert error.exit_code == 3


@pytest.mark.parametrize("made", CLASSES, ids=lambda made: made.__name__)
def test_errors_travel_between_processes(made):
    error = made("torch", "hf") if made is errors.MissingExtraError else made("what, value, bound, way out")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is made
    assert str(again) == str(error)
