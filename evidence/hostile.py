"""The sandbox against hostile programs: how many of how many each tier contains, as root and as a user, and a plain subprocess beside it.

`make evidence NAME=hostile`; about three minutes on two cores, two judges at a time.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from tests.hostile.corpus import matrix
from tests.hostile.users import Unavailable, User, judged

from evidence.common import DOCS, Claim, insert, save
from ponder.scaling.bootstrap import wilson

CASES: tuple[tuple[str, User], ...] = (
    ("bubblewrap", "root"),
    ("bubblewrap", "nobody"),
    ("landlock", "root"),
    ("landlock", "nobody"),
    ("plain", "root"),  # as another user the programs would go for the judge itself
)


def main() -> None:
    """Judge, claim, and put the tables into the page."""
    claims = []
    rows = ["| walls | user | programs | contained | escaped |", "|---|---|--:|--:|---|"]
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(judged, *case) for case in CASES]
    for (tier, user), future in zip(CASES, futures, strict=True):
        try:
            done = future.result()
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
