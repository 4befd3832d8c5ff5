"""The front door: every public name is there, and none costs anything before it is used."""

import subprocess
import sys

import pytest

import ponder


def test_every_public_name_loads_and_is_listed():
    assert set(ponder.__all__) <= set(dir(ponder))
    assert all(getattr(ponder, name).__name__ == name for name in ponder.__all__)


def test_the_names_are_sorted():
    assert list(ponder.__all__) == sorted(ponder.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'slove'"):
        ponder.slove  # noqa: B018  the access is the test


def test_importing_the_package_loads_none_of_its_modules():
    code = "import sys, ponder; print(*(name for name in sys.modules if name.startswith('ponder.')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
