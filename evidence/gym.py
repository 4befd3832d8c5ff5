"""Which tasks of reasoning-gym give verdicts that hold: every registered one made twice, and its scorer asked what it takes.

`make evidence NAME=gym` writes src/ponder/tasks/gym_refused.json, which the task `gym` reads, and docs/evidence/gym.json. Two processes
with different hash seeds make the same items, the second in reverse order; the first also scores, for each item, its own answer, answers that
are none, fixed guesses, and answers that are wrong for certain: of the next item, with nan for numbers, with small numbers raised by one, with
its sign turned. Eight minutes on two cores. Nothing a model wrote is scored here, so this needs no sandbox.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import TypeAlias

from evidence.common import DOCS, ROOT, Claim, insert, save
from ponder.tasks import gym_inside as inside

ITEMS = 100  # made
SCORED = 40
FIRST = 3_000_000_000  # a seed of a test block, as tasks draw them
SECONDS = 240  # for all items of a name
GUESSES = ("0", "1", "-1", "True", "False", "yes", "no", "nan", "inf", "[]", "{}", "A")
UNTRIED = {
    "codeio": "its items are made by running programs that a language model wrote, some of which write files",
    "composite": "it is a mixture of others; take those by name",
}
TOLERATED = 0.1  # of the items; a solution of one puzzle may happen to solve another
TABLE = ROOT / "src" / "ponder" / "tasks" / "gym_refused.json"
Found: TypeAlias = "dict[str, str | list[str]]"  # name, refused, digests


def main() -> None:
    """Scan twice, decide, write the table and the claims."""
    version = metadata.version("reasoning_gym")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(scanned, (1, 2))
    refused, accepted = {}, []
    for name in sorted(first):
        reason = str(first[name]["refused"])
        pairs = zip(first[name]["digests"], second[name]["digests"], strict=False)
        other = sum(a != b for a, b in pairs)
        if not reason and other:
            reason = f"{other} of {ITEMS} items change with PYTHONHASHSEED, so that they cannot be made again"
        if reason:
            refused[name] = reason
        else:
            accepted.append(name)
    TABLE.write_text(
        json.dumps({"version": version, "refused": refused, "accepted": accepted}, indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    n = len(first)
    text = f"tasks of reasoning-gym {version} whose items can be made again and whose scorer took none of the wrong answers tried"
    known = {
        "game_of_life_halting",
        *("isomorphic_strings", "knight_swap", "list_functions"),
        "polynomial_multiplication",
        "ransom_note",
        "word_ladder",
    }
    missed = known - set(refused)
    save(
        "gym",
        [
            Claim("accepted", text, len(accepted), len(accepted), len(accepted), None, None, n, 1),
            Claim(
                "known", "tasks known to be unsound that the scan lets pass", len(missed), 0, 0, "0", not missed, len(known), 1
            ),
        ],
    )
    insert(DOCS / "tasks.md", "gym", table(refused))


def table(refused: dict[str, str]) -> str:
    """The refused tasks with their reasons, as a Markdown table."""
    cells = [(name, reason.replace("|", "\\|").replace("\\n", " ")) for name, reason in refused.items()]
    return "\n".join(["| refused | since |", "|---|---|", *(f"| {name} | {reason} |" for name, reason in cells)])


def scanned(hash_seed: int) -> dict[str, Found]:
    """What one process with this hash seed found, by name."""
    command = [sys.executable, "-m", "evidence.gym", "scan", str(hash_seed)]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)}, stdout=subprocess.PIPE, cwd=ROOT, check=True
    )
    return {one["name"]: one for one in map(json.loads, done.stdout.decode().splitlines())}


def scan(hash_seed: int) -> Iterator[Found]:
    """Every registered name; the second process goes backwards and scores nothing."""
    from reasoning_gym.factory import DATASETS

    def alarmed(number: int, frame: object) -> None:
        raise TimeoutError(f"{ITEMS} items take more than {SECONDS} s")

    signal.signal(signal.SIGALRM, alarmed)
    for name in sorted(DATASETS):
        if name in UNTRIED:
            yield {"name": name, "refused": UNTRIED[name], "digests": []}
            continue
        refused, digests = "", {}
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                order = range(ITEMS) if hash_seed == 1 else reversed(range(ITEMS))
                made = {number: inside._made(name, {}, FIRST + number) for number in order}
                digests = {number: digest(entry) for number, (_, entry) in made.items()}
                if hash_seed == 1:
                    refused = judged(name, [made[number] for number in range(SCORED)])
        except Exception as error:
            refused = f"making and scoring {ITEMS} items fails with {type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        yield {"name": name, "refused": refused, "digests": [digests[number] for number in sorted(digests)]}


def judged(name: str, made: list[tuple[inside.Dataset, inside.Entry]]) -> str:
    """Why the task is not sound; "" if nothing was found."""
    for number, (dataset, entry) in enumerate(made):
        if wrong := inside.fault(name, dataset, entry):
            return f"an item (seed {FIRST + number}) {wrong}"
    taken: dict[str, set[int]] = {}
    shown: dict[str, str] = {}
    for number, (dataset, entry) in enumerate(made):
        own = str(entry["answer"])
        following = str(made[(number + 1) % len(made)][1]["answer"])
        for kind, answer in wrong_answers(own, following):
            if not same(answer, own) and inside._quietly(name, dataset, entry, answer) >= inside.ENOUGH:
                taken.setdefault(kind, set()).add(number)
                shown.setdefault(kind, f"{answer[:60]!r} for {own[:60]!r}")
    worst = [(len(items), kind) for kind, items in taken.items() if len(items) > TOLERATED * len(made)]
    if not worst:
        return ""
    count, kind = max(worst)
    return f"{count} of {len(made)} items give full marks to {kind}, such as {shown[kind]}"


def wrong_answers(own: str, following: str) -> Iterator[tuple[str, str]]:
    """Kinds of wrong answers, and one of each."""
    for guess in GUESSES:
        yield f"the guess {guess!r}", guess
    yield "the answer of another item", following
    for nan in ("nan", "NaN"):
        yield "an answer with nan for its numbers", _NUMBER.sub(nan, own)
    raised = _SMALL.sub(lambda found: str(int(found[0]) + 1), own)
    if len(_NUMBER.findall(own)) == len(_SMALL.findall(own)):  # larger ones, a question may ask to round
        yield "an answer with all numbers raised by one", raised
    if _NUMBER.fullmatch(own):
        yield "an answer with the sign turned", own.removeprefix("-") if own.startswith("-") else f"-{own}"


def same(answer: str, own: str) -> bool:
    """Whether they are one answer written in two ways: case, space, a number."""
    if "".join(answer.casefold().split()) == "".join(own.casefold().split()):
        return True
    try:
        return float(answer) == float(own)
    except ValueError:
        return False


def digest(entry: inside.Entry) -> str:
    """Of question and answer."""
    return hashlib.blake2b(
        f"{entry['question']}\x1f{entry['answer']}".encode("utf-8", "surrogatepass"), digest_size=8
    ).hexdigest()


_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
_SMALL = re.compile(r"-?(?<![0-9.])[0-9]{1,2}(?![0-9.])")

if __name__ == "__main__":
    if sys.argv[1:2] == ["scan"]:
        for one in scan(int(sys.argv[2])):
            print(json.dumps(one), flush=True)
    else:
        main()
