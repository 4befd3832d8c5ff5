"""Beam search and particle filtering: ponder beside its_hub, on the same endpoint, problems and guide.

    python -m benchmarks.search [--seconds 10] [--rounds 2] [--arms ponder_beam,its_hub_beam]

The endpoint is our fake one (100 ms, log off) in a process of its own; its replies are one to four lines of arithmetic and a conclusion,
and a line that slips spoils the answer. The guide checks the arithmetic of a prefix and is wrong about one in four, as a function of the
text: the same function in both. Sixteen particles; a beam of width 4 with 16 next steps at a time. its_hub runs with the settings that
serve it best, which are printed, and once without a stop text, as it then never sees that a chain has ended.

Every arm is first tried with several numbers of problems at once, and measured with the one that suits it best; the measured
arms take turns, each in a process of its own. Problems are counted by the arm, requests and tokens by the endpoint, accuracy over
the problems that both of a pair have solved. Server and client share the machine's cores: read the ratios. Asked one at a
time, both wait for the same levels of a search and hardly differ; with many at once the requests count, and ponder sends one for all
children of a prefix. Its beam begins with width * branch first steps, its_hub's with width, so it writes more and reads less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path

from benchmarks.common import Target, report, say, versions
from benchmarks.peers import environments
from ponder.testing.endpoint import EndpointStats, FakeEndpoint

LATENCY = 0.1
SLIPS = 0.4
WARM_UP = 3.0
TRIAL = 4.0
AT_ONCE = (1, 4, 16, 64)
STOP = {
    "stop_token": "The answer is",
    "step_token": "line break",
    "max_steps": 20,
    "max_concurrency": "unlimited",
    "clients": "one a worker",
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A script of benchmarks/peers with its arguments. environment: the peer's, or None for this one. at_once: problems at once, where it is not tried out."""

    script: str
    arguments: tuple[str, ...]
    environment: str | None = None
    at_once: int | None = None


ARMS = {
    f"{who}_{search}{'' if stop else '_no_stop'}": Arm(
        f"run_{who}_search",
        (search,) if who == "ponder" else (search, "stop" if stop else "none"),
        None if who == "ponder" else who,
        None if stop else 4,  # a level is slow enough as it is, and more would not end within a round
    )
    for search in ("beam", "particles")
    for who, stop in (("ponder", True), ("its_hub", True), ("its_hub", False))
}


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one arm, all its rounds: means a problem, and seconds a problem as problems follow one another. correct: problem by problem, of the longest round."""

    at_once: int
    problems: int
    seconds_measured: float
    calls: float
    prompt_tokens: float
    completion_tokens: float
    scored: float
    seconds: float
    accuracy: float
    correct: tuple[bool, ...]

    @property
    def tokens(self) -> float:
        """Written and read."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process did."""

    own: Mapping[str, object]
    spent: EndpointStats
    before: EndpointStats

    def counted(self, name: str) -> int:
        return int(getattr(self.spent, name)) - int(getattr(self.before, name))

    @property
    def rate(self) -> float:
        """Problems a second."""
        return float(str(self.own["within"])) / float(str(self.own["seconds"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search")
    parser.add_argument("--seconds", type=float, default=10.0, help="measured in each round, after a warm-up (default: 10)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each arm (default: 2)")
    parser.add_argument("--arms", default=",".join(ARMS), help="which arms (default: all)")
    options = parser.parse_args()
    names: list[str] = options.arms.split(",")
    tried: dict[str, dict[int, float]] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    found: dict[str, Measured] = {}
    reasons: dict[str, str] = {}
    say(f"its_hub: {STOP}")
    for step in range(1 + options.rounds):
        for name in names:
            if name in reasons:
                continue
            try:
                if step:
                    at_once = ARMS[name].at_once or max(tried[name], key=lambda at: tried[name][at])
                    turns[name].append(turn(ARMS[name], at_once, options.seconds))
                    found[name] = measured(at_once, turns[name])
                elif ARMS[name].at_once is None:
                    tried[name] = trial(name)
            except (environments.Unavailable, RuntimeError) as error:
                reasons[name] = str(error)
                found.pop(name, None)
                say(f"{name:26s} not measured: {error}")
    for name, one in found.items():
        say(_line(name, one))
    compared = {search: compare(found, search) for search in ("beam", "particles")}
    body: dict[str, object] = {
        name: {**asdict(one), "correct": sum(one.correct), "tokens": one.tokens} for name, one in found.items()
    }
    body["ratios"] = compared
    body["problems_a_second_by_problems_at_once"] = tried
    body["problems_a_second_by_round"] = {name: [round(one.rate, 3) for one in turns[name]] for name in found}
    body["its_hub_settings"] = STOP
    body["not_measured"] = reasons
    note = "server and client share the cores; arms took turns"
    body["endpoint"] = {"latency_seconds": LATENCY, "slips": SLIPS, "note": note}
    report("search", targets(compared), {**body, "versions": {**versions("ponder-ttc", "aiohttp"), **_versions(turns)}})


def trial(name: str) -> dict[int, float]:
    """Problems a second with each number of problems at once."""
    rates = {at_once: turn(ARMS[name], at_once, TRIAL).rate for at_once in AT_ONCE}
    say(f"{name:26s} problems/s by problems at once: " + "  ".join(f"{at}: {rate:.2f}" for at, rate in rates.items()))
    return rates


def turn(arm: Arm, at_once: int, seconds: float) -> Turn:
    """Run one arm against an endpoint of its own. Raises RuntimeError if it ends early, `Unavailable` if it cannot be installed."""
    interpreter = environments.python(arm.environment) if arm.environment else Path(sys.executable)
    with FakeEndpoint(latency=LATENCY, log=0, correct=1.0, slips=SLIPS) as endpoint:
        script = str(environments.HERE / f"{arm.script}.py")
        command = [str(interpreter), script, endpoint.url, *arm.arguments, str(at_once), str(WARM_UP)]
        client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, text=True)
        try:
            assert client.stdin is not None
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise RuntimeError(f"{arm.script} ended before it was ready; its standard error says why")
            before = endpoint.stats()
            client.stdin.write("go\n")
            client.stdin.flush()
            try:
                client.wait(WARM_UP + seconds)
                raise RuntimeError(f"{arm.script} ended with code {client.returncode}; its standard error says why")
            except subprocess.TimeoutExpired:
                output, _ = client.communicate("", timeout=120)
        finally:
            client.kill()
            client.wait()
        if client.returncode or not output.strip():
            raise RuntimeError(f"{arm.script} ended with code {client.returncode}; its standard error says why")
        own = json.loads(output.strip().splitlines()[-1])
        return Turn(own, endpoint.stats(), before)


def measured(at_once: int, turns: Sequence[Turn]) -> Measured:
    """The means over all rounds of an arm."""
    problems = sum(int(str(one.own["problems"])) for one in turns)
    seconds = sum(float(str(one.own["seconds"])) for one in turns)
    within = sum(int(str(one.own["within"])) for one in turns)
    calls, prompt, completion = (
        sum(one.counted(name) for one in turns) / problems for name in ("answered", "prompt_tokens", "completion_tokens")
    )
    if not within:
        raise RuntimeError(f"no problem was solved within {seconds:g} s")
    correct = [tuple(bool(good) for good in list_of(one.own["correct"])) for one in turns]
    return Measured(
        at_once,
        problems,
        round(seconds, 2),
        calls,
        prompt,
        completion,
        sum(int(str(one.own["scored"])) for one in turns) / problems,
        seconds / within,
        sum(map(sum, correct)) / sum(map(len, correct)),
        max(correct, key=len),
    )


def list_of(value: object) -> list[object]:
    """A JSON list."""
    assert isinstance(value, list)
    return value


def compare(found: Mapping[str, Measured], search: str) -> dict[str, float | None]:
    """What its_hub takes as a multiple of what ponder does; accuracy of ponder less its_hub's on the same problems, and twice its standard error."""
    ours, theirs, unstopped = (
        found.get(f"{name}_{search}{end}") for name, end in (("ponder", ""), ("its_hub", ""), ("its_hub", "_no_stop"))
    )
    ratios: dict[str, float | None] = {}
    for what in ("calls", "tokens", "completion_tokens", "seconds"):
        ratios[what] = getattr(theirs, what) / getattr(ours, what) if ours and theirs else None
        ratios[f"{what}_no_stop"] = getattr(unstopped, what) / getattr(ours, what) if ours and unstopped else None
    if ours and theirs:
        differences = [a - b for a, b in zip(ours.correct, theirs.correct, strict=False)]
        n, mean = len(differences), sum(differences) / len(differences)
        spread = sqrt(sum((one - mean) ** 2 for one in differences) / max(1, n - 1) / n)
        ratios |= {"accuracy": mean, "accuracy_two_errors": 2 * spread, "accuracy_problems": n}
    return ratios


def targets(compared: Mapping[str, Mapping[str, float | None]]) -> list[Target]:
    """Fewer calls and tokens, half the time, no less accurate beyond chance."""
    made = []
    for search, ratios in compared.items():
        for what, least in (("calls", 1.0), ("tokens", 1.0), ("seconds", 2.0)):
            made.append(Target(f"{search}: its_hub / ponder, {what}", ratios.get(what), least, "x"))
        mean, errors = ratios.get("accuracy"), ratios.get("accuracy_two_errors")
        above = None if mean is None or errors is None else mean + errors
        made.append(Target(f"{search}: accuracy of ponder less its_hub's, upper end of 95%", above, 0.0))
    return made


def _versions(turns: Mapping[str, Sequence[Turn]]) -> dict[str, object]:
    said = (one.own["versions"] for line in turns.values() for one in line)
    return {f"{name} of its arm": number for body in said if isinstance(body, dict) for name, number in body.items()}


def _line(name: str, one: Measured) -> str:
    return (
        f"{name:26s} {one.calls:7.1f} calls  {one.prompt_tokens:8,.0f} prompt  {one.completion_tokens:7,.0f} written  {one.scored:6.1f} scored  "
        f"{one.seconds:6.3f} s a problem  accuracy {one.accuracy:.3f} of {one.problems} ({one.at_once} at once)"
    )


if __name__ == "__main__":
    main()
