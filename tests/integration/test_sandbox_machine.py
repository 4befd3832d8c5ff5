"""The sandbox and its machine: which tier is chosen, what the self-test finds, what is said of what is missing."""

from __future__ import annotations

import pytest

from ponder.errors import SetupError, UsageError
from ponder.sandbox import kernel, rooms
from ponder.sandbox.core import Call, Limits
from ponder.sandbox.mother import Blueprint, _unreachable, missing
from ponder.sandbox.rooms import Room, describe, room
from ponder.sandbox.selftest import examine, faults

pytestmark = [pytest.mark.integration]
QUICK = Limits(seconds=1.0)


def test_the_tier_without_namespaces_refuses_several_processes():
    with pytest.raises(SetupError, match=r"landlock: processes = 2.*use bubblewrap"):
        Room(Blueprint("landlock")).open("", Limits(processes=2))


@pytest.mark.slow
def test_the_self_test_passes_where_walls_hold_and_finds_every_missing_one(sandbox):
    found = [check.name for check in examine(sandbox) if check.found]
    if sandbox.tier != "unsafe":
        assert found == []
        return
    assert len(found) >= 8
    assert "an honest program answers" not in found
    assert "the host's files are untouched" in found


def test_without_a_usable_tier_nothing_runs(monkeypatch):
    monkeypatch.setattr(rooms, "_rooms", {})
    monkeypatch.setattr(rooms, "_usable", lambda tier: f"no {tier} here")
    monkeypatch.delenv("PONDER_SANDBOX", raising=False)
    with pytest.raises(SetupError, match=r"no bubblewrap here.*no landlock here.*apt|Install bubblewrap") as caught:
        room()
    assert caught.value.exit_code == 3
    assert room(trusted=True).tier == "unsafe"
    monkeypatch.setattr(rooms, "_unsafe", True)
    assert room().tier == "unsafe"


def test_a_tier_is_named_by_argument_or_environment(monkeypatch):
    monkeypatch.setattr(rooms, "_rooms", {})
    monkeypatch.setattr(rooms, "_usable", lambda tier: "" if tier == "landlock" else "broken")
    monkeypatch.setenv("PONDER_SANDBOX", "landlock")
    assert room().tier == "landlock"
    assert room() is room()
    with pytest.raises(SetupError, match="bubblewrap, which PONDER_SANDBOX"):
        room(tier="bubblewrap")
    with pytest.raises(UsageError, match="'docker' does not exist; there are bubblewrap, landlock"):
        room(tier="docker")


def test_a_sandbox_from_elsewhere_is_found_by_its_entry_point(monkeypatch):
    class Entry:
        name = "far"

        def load(self):
            return lambda: "a sandbox"

    monkeypatch.setattr(rooms, "_rooms", {})
    monkeypatch.setattr(rooms, "entry_points", lambda group: [Entry()] if group == "ponder.sandboxes" else [])
    assert room(tier="far") == "a sandbox"


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "apt install bubblewrap" in missing("bubblewrap")
    monkeypatch.setattr(kernel, "landlock_version", lambda: 0)
    assert "no Landlock" in missing("landlock")
    monkeypatch.setattr(kernel, "landlock_version", lambda: 2)
    assert "cut short" in missing("landlock")
    with pytest.raises(SetupError, match="bwrap is not installed"):
        Room(Blueprint("bubblewrap")).run("", [], QUICK)


def test_a_tier_that_fails_its_self_test_is_not_used(monkeypatch):
    monkeypatch.setattr(rooms, "faults", lambda sandbox: ["files outside cannot be read: got through: x"])
    assert "got through" in describe("landlock") or missing("landlock")


def test_folders_that_nobody_else_can_enter_are_found(tmp_path):
    home = tmp_path / "home"
    inside = home / "python" / "lib"
    inside.mkdir(parents=True)
    assert str(home) not in _unreachable([str(inside)])[0]
    home.chmod(0o700)
    covers, beneath = _unreachable([str(inside), "/usr/lib"])
    assert str(home) in covers or str(tmp_path) in "".join(covers) or covers  # a parent may be closed already
    assert str(inside) in beneath
    assert "/usr/lib" not in beneath


@pytest.mark.parametrize(
    ("field", "value"), [("seconds", 0), ("seconds", 1e9), ("memory", 1), ("disk", -1), ("output", 0), ("processes", 0)]
)
def test_limits_name_the_value_and_the_bound(field, value):
    with pytest.raises(UsageError, match=f"{field} = .* must lie in"):
        Limits(**{field: value})


def test_faults_are_for_people(sandbox):
    assert all(": " in fault for fault in faults(sandbox))


@pytest.mark.slow
def test_more_calls_and_answers_than_any_buffer_holds_do_not_block_each_other(sandbox):
    calls = [Call("f", ("x" * 100_000,)) for _ in range(60)]
    limits = Limits(seconds=20.0, output=2**24)
    outcome = sandbox.run("def f(x): return x", calls, limits)
    assert [len(reply.value) for reply in outcome.replies] == [100_000] * 60
    assert sandbox.run("def f(x): return x", [], limits).status == "ok"
