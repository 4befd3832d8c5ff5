"""The sandbox against hostile programs: how many of how many each tier contains, as root and as a user, and a plain subprocess beside it.

`make evidence NAME=hostile`; about five minutes on two cores, one judge after the other, so that each has the machine to itself.
"""

from __future__ import annotations

import json

from tests.hostile.corpus import matrix
from tests.hostile.users import Unavailable, User, judged

from evidence.common import DOCS, Claim, insert, save
from ponder.scaling.bootstrap import wilson

CASES: tuple[tuple[str, User], ...] = (
    ("bubblewrap", "root"),
    ("bubblewrap", "nobody"),
    ("landlock", "root"),
    ("landlock", "nobody"),
    ("plain", "root"),
    ("plain", "nobody"),
)


def main() -> None:
    """Judge, claim, and put the tables into the page."""
    claims = []
    rows = ["| walls | user | programs | contained | escaped |", "|---|---|--:|--:|---|"]
    for tier, user in CASES:
        try:
            done = judged(tier, user)
        except Unavailable as error:
            print(f"{tier} as {user}: left out, {error}")
            continue
        if done.returncode not in (0, 1):
            print(f"{tier} as {user}: left out, {done.stderr.strip()}")
            continue
        said = json.loads(done.stdout)
        claims.append(claim(tier, user, said["programs"], len(said["escaped"])))
        names = "; ".join(one["name"] for one in said["escaped"]) if tier != "plain" else f"{len(said['escaped'])}"
        rows.append(f"| {tier} | {user} | {said['programs']} | {said['programs'] - len(said['escaped'])} | {names or '0'} |")
    save("hostile", claims)
    page = DOCS / "sandbox-corpus.md"
    insert(page, "matrix", matrix())
    insert(page, "hostile", "\n".join(rows))


def claim(tier: str, user: str, programs: int, escaped: int) -> Claim:
    """The share that was contained; the anchors claim nothing."""
    contained = programs - escaped
    interval = wilson(contained, programs)
    text = f"share of the hostile programs that {tier} contains, run by {user}: {contained} of {programs}"
    walled = tier != "plain"
    return Claim(
        f"{tier}-{user}",
        text,
        contained / programs,
        interval.low,
        interval.high,
        "1" if walled else None,
        not escaped if walled else None,
        programs,
        1,
    )


if __name__ == "__main__":
    main()
