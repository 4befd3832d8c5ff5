"""Runs every hostile program in a sandbox and says which got out, seen from outside.

    python -m tests.hostile.judge [--tier bubblewrap|landlock|plain] [--json] [--only NAME]

Contained is a program that changed nothing it should not reach, told nothing it should not know, left no process 0.5 s after its return, was
over within its limit and one second, made this process grow by no more than 20 MB, was not judged right, and whose successors (the next
program, and an honest neighbour that runs all the time) were judged right. Ends with 1 if one escaped, 3 if the tier is not to be had here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from fractions import Fraction

from tests.hostile import machine
from tests.hostile.corpus import PROGRAMS
from tests.hostile.plain import PlainSandbox
from tests.hostile.program import Program, fill
from tests.hostile.yard import SECRET, Yard, secret

from ponder.errors import SetupError
from ponder.sandbox.core import Call, Handle, Limits, Outcome, Sandbox
from ponder.sandbox.rooms import room

HONEST = "def solve(x):\n    return x + 1\n"
THREADED = """
import tempfile, threading
def solve(x):
    found = []
    thread = threading.Thread(target=lambda: found.append(x + 1))
    thread.start()
    thread.join()
    return found[0]
"""
ASKED, RIGHT = 41, 42
SECONDS, MEMORY, DISK = 0.6, 256 * 2**20, 16 * 2**20
GRACE, GROWTH, PAUSE, BATCH = 1.0, 20 * 2**20, 0.5, 16
TREE = MEMORY + MEMORY // 4 + 128 * 2**20  # its own limit, a quarter for what is sampled late, the mother and an honest neighbour
WHOLE: dict[str, tuple[str, ...]] = {
    "survive": ("signals", "imports", "source"),
    "fill": ("files", "sockets", "source"),
    "daemonise": ("signals", "imports", "source"),
    "forge": ("files", "sockets", "signals", "imports"),
}
PLAIN = (int, float, complex, str, bytes, bool, type(None), list, tuple, set, frozenset, dict, Fraction, Decimal, Handle)


@dataclass(slots=True)
class Trial:
    """One program in one sandbox. effects: what it got done, in words; none if it was contained."""

    name: str
    anchor: str
    status: str = ""
    seconds: float = 0.0
    effects: list[str] = field(default_factory=list)
    span: tuple[float, float] = (0.0, 0.0)
    mark: str = ""
    suspects: set[machine.Process] = field(default_factory=set)


def judged_right(outcome: Outcome, question: int) -> bool:
    """The verdict: ended well, with one answer, which is the right plain number, or with that printed and nothing else."""
    if outcome.stdout.strip() == str(question + 1) and outcome.status == "ok":
        return True
    values = [reply.value for reply in outcome.replies if not reply.error]
    return (
        outcome.status == "ok" and len(outcome.replies) == 1 and [type(v) for v in values] == [int] and values == [question + 1]
    )


def texts(outcome: Outcome) -> Iterator[str]:
    """Every text in what came back, however deep; raises `TypeError` on what is not plain data."""
    stack: list[object] = [outcome.stdout, outcome.stderr, outcome.detail, outcome.status]
    for reply in outcome.replies:
        stack += [reply.value, reply.error, reply.message]
    while stack:
        one = stack.pop()
        if type(one) not in PLAIN:
            raise TypeError(f"a {type(one).__name__} came across")
        if isinstance(one, str):
            yield one
        elif isinstance(one, bytes):
            yield one.decode("latin1")
        elif isinstance(one, dict):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            stack += one


class Neighbour:
    """Honest programs, one after the other, while the hostile ones run; each has to be judged right."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox, self.wrong, self.over = sandbox, list[tuple[float, str]](), threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.count = 0

    def work(self) -> None:
        while not self.over.wait(0.02):
            start, fault = time.monotonic(), honest(self.sandbox, self.count, (HONEST, THREADED)[self.count % 2])
            self.count += 1
            if fault:
                self.wrong.append((start, fault))


def honest(sandbox: Sandbox, question: int, source: str = HONEST) -> str:
    """Why an honest program was judged wrong, or ""."""
    try:
        outcome = sandbox.run(source, [Call("solve", (question,))], Limits(seconds=5.0, memory=MEMORY, disk=DISK))
    except Exception as error:
        return f"raised {type(error).__name__}: {error}"
    return (
        ""
        if judged_right(outcome, question)
        else f"{outcome.status} {outcome.detail} {[reply.value for reply in outcome.replies]}"[:200]
    )


class Sampler:
    """The most memory that all descendants of this process together held since `reset`."""

    def __init__(self) -> None:
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        while not self.over.wait(0.05):
            members = machine.family(os.getpid())
            held = machine.memory(members)
            self.peak = max(self.peak, held if held <= TREE else machine.proportional(members))


class Judge:
    """Judges programs one at a time, and their survivors by the batch."""

    def __init__(self, sandbox: Sandbox, yard: Yard) -> None:
        self.sandbox, self.yard = sandbox, yard
        self.neighbour, self.sampler = Neighbour(sandbox), Sampler()
        self.bare = sandbox.tier == "plain"

    def all(self, programs: Sequence[Program], batch: int, told: Callable[[Trial], None]) -> list[Trial]:
        """A trial for each program, in order; each is told as soon as it is judged."""
        trials: list[Trial] = []
        for _ in range(3):
            fault = honest(self.sandbox, ASKED)
            if fault:
                raise SystemExit(f"an honest program is judged wrong before any hostile one ran: {fault}")
        with self.watching():
            for start in range(0, len(programs), batch):
                for trial in self.batch(programs[start : start + batch]):
                    told(trial)
                    trials.append(trial)
        return trials

    @contextmanager
    def watching(self) -> Iterator[None]:
        """With the honest neighbour and the sampler at work."""
        workers = [self.sampler] if self.bare else [self.sampler, self.neighbour]
        for worker in workers:
            worker.thread.start()
        try:
            yield
        finally:
            for worker in workers:
                worker.over.set()
                worker.thread.join()

    def batch(self, programs: Sequence[Program]) -> list[Trial]:
        """Trials of some programs, and one look for all of their survivors."""
        before = machine.family(os.getpid())
        trials = [self.settled(program) for program in programs]
        time.sleep(max(0.0, trials[-1].span[1] + PAUSE - time.monotonic()))
        alive = machine.family(os.getpid())
        carriers = dict(machine.marked({trial.mark for trial in trials}))
        # A mother who was killed is followed by another one: new, but no more than before.
        more = len(alive) > len(before) + (0 if self.bare else 4)  # the neighbour's program and its relay come and go
        for trial in trials:
            left = {process for process in trial.suspects & alive if more} | {
                one for one, mark in carriers.items() if mark == trial.mark
            }
            if left:
                names = sorted({machine.text(f"/proc/{process.pid}/comm").strip() or "?" for process in left})
                trial.effects.append(f"left {len(left)} processes running ({', '.join(names)})")
            trial.effects += [
                f"the neighbour was judged wrong: {why}"
                for at, why in self.neighbour.wrong
                if trial.span[0] <= at <= trial.span[1]
            ]
        for _ in range(3):  # some fork as fast as they can
            left = {one for one, _ in machine.marked({trial.mark for trial in trials})} | (
                machine.family(os.getpid()) - before if self.bare else set()
            )
            for process in left:
                if process.pid != self.yard.victim.pid:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
        machine.reap()
        return trials

    def settled(self, program: Program) -> Trial:
        """A trial; a second one where the first was only too slow, which other work on the machine may have been the reason for."""
        first = self.trial(program)
        return self.trial(program) if first.effects and all(effect.startswith("took ") for effect in first.effects) else first

    def trial(self, program: Program) -> Trial:
        """What one program got done, but for what outlives it."""
        places = self.yard.places()
        source, after = program.source(places), fill(program.after, places) if program.after else ""
        wide = program.processes if self.sandbox.tier == "bubblewrap" else 1
        limits = Limits(SECONDS, MEMORY, DISK, processes=wide)
        found = Trial(program.name, program.anchor, mark=str(places["marker"]))
        family, self.sampler.peak, held = machine.family(os.getpid()), 0, machine.forget_peak()
        start = time.monotonic()
        asked = f"{ASKED}\n" if program.whole else [Call("solve", (ASKED,))]
        found.status = self.run(source, asked, limits, str(places["flag"]), found.effects)
        found.seconds = time.monotonic() - start
        grown = machine.own_peak() - held
        found.suspects = machine.family(os.getpid()) - family
        if found.seconds > SECONDS + GRACE:
            found.effects.append(f"took {found.seconds:.1f} s of {SECONDS:g} s")
        if grown > GROWTH:
            found.effects.append(f"made the judge grow by {grown >> 20} MB")
        if self.sampler.peak > TREE:
            found.effects.append(f"held {self.sampler.peak >> 20} MB")
        if after:
            told: list[str] = []
            self.run(after, [Call("solve", (ASKED,))], limits, str(places["flag"]), told)
            found.effects += [f"next program: {one}" for one in told]
        fault = honest(self.sandbox, ASKED)
        if fault:
            found.effects.append(f"the next honest program was judged wrong: {fault}")
        found.effects += self.yard.findings(places)
        found.span = (start, time.monotonic())
        return found

    def run(self, source: str, asked: str | list[Call], limits: Limits, flag: str, effects: list[str]) -> str:
        """Run a source; its status, with what its answers give away added to `effects`."""
        try:
            outcome = self.sandbox.run(source, asked, limits)
        except Exception as error:
            effects.append(f"made the sandbox raise {type(error).__name__}: {str(error)[:200]}")
            return "raised"
        try:
            said = "\n".join(texts(outcome))
        except TypeError as error:
            effects.append(str(error))
            said = ""
        if flag in said:
            effects.append("did what it should not be able to")
        effects += [f"told a secret: {place}" for place, one in self.yard.secrets.items() if one in said]
        if judged_right(outcome, ASKED):
            effects.append("was judged right")
        return outcome.status


def sandbox(tier: str) -> Sandbox:
    """The sandbox of one tier; raises `SetupError` where it is not to be had."""
    return PlainSandbox() if tier == "plain" else room(tier=tier)


def chosen_from(tier: str) -> list[Program]:
    """The programs for a tier: in a sandbox, those that fill, stay or lie are run as a whole, too."""
    if tier == "plain":
        return [program for program in PROGRAMS if program.anchor != "never"]
    twice = [one for one in PROGRAMS if one.goal in WHOLE and one.channel in WHOLE[one.goal] and "stamps(" not in one.body]
    return [*PROGRAMS, *(program.as_a_whole() for program in twice)]


def report(tier: str, trials: Sequence[Trial], seconds: float) -> dict[str, object]:
    """What is printed."""
    return {
        "tier": tier,
        "user": os.getuid(),
        "programs": len(trials),
        "escaped": [asdict(trial) | {"suspects": len(trial.suspects)} for trial in trials if trial.effects],
        "biting": sum(trial.anchor == "bites" for trial in trials),
        "bitten": sum(trial.anchor == "bites" and bool(trial.effects) for trial in trials),
        "seconds": round(seconds, 1),
        "slowest": [(trial.name, round(trial.seconds, 2)) for trial in sorted(trials, key=lambda one: -one.seconds)[:5]],
    }


def main() -> int:
    """Judge, print, and say by the exit code whether all were contained."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tier", default="bubblewrap", choices=("bubblewrap", "landlock", "plain"))
    options.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options.add_argument("--only", default="", help="only programs whose name has this in it")
    options.add_argument("--alone", action="store_true", help="look for survivors after each program")
    options.add_argument("--verbose", action="store_true", help="a line for each program, contained or not")
    chosen = options.parse_args()
    if SECRET not in os.environ:  # where /proc shows it, and the stack holds it, from the start of this process on
        os.execve(sys.executable, [sys.executable, "-m", "tests.hostile.judge", *sys.argv[1:]], {**os.environ, SECRET: secret()})
    machine.adopt()
    programs = [one for one in chosen_from(chosen.tier) if chosen.only in one.name]

    def told(trial: Trial) -> None:
        if not chosen.json and (trial.effects or chosen.verbose):
            word = "ESCAPED" if trial.effects else "held   "
            print(f"{word} {trial.name}  [{trial.status}, {trial.seconds:.2f} s]  {'; '.join(trial.effects)}", flush=True)

    start = time.monotonic()
    try:
        with Yard() as yard:
            trials = Judge(sandbox(chosen.tier), yard).all(programs, 1 if chosen.alone else BATCH, told)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 3
    found = report(chosen.tier, trials, time.monotonic() - start)
    escaped = sum(bool(one.effects) for one in trials)
    print(
        json.dumps(found)
        if chosen.json
        else f"{chosen.tier}, user {os.getuid()}: {escaped} of {len(trials)} escaped, in {found['seconds']} s"
    )
    return int(bool(found["escaped"]) and chosen.tier != "plain")


if __name__ == "__main__":
    sys.exit(main())
