"""Real text, real engine: beam and tree search on GSM8K with a 0.5B model through llama.cpp, and what its prefix cache serves.

`make evidence NAME=gsm8k_search`; PONDER_DATA is the folder of gsm8k_test.jsonl. Ten minutes on two idle cores; can be stopped and
started again. A handful of problems: it shows that steps work on a real engine and hit its cache, and claims no accuracy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, run_study, save
from ponder.cli.study import check
from ponder.scaling.bootstrap import mean_intervals
from ponder.store import Journal, RunRecord, StudyStore

PROBLEMS = 8
STRATEGIES = (
    "sample",
    "best_of_n(n=4, verifier=confidence)",
    "beam(width=2, branch=2, verifier=confidence)",
    "beam(width=2, branch=2, verifier=judge())",
    "mcts(simulations=8, branch=2, verifier=confidence)",
    "mcts(simulations=8, branch=2, verifier=judge())",
)


def served(where: Path) -> list[tuple[float, float]]:
    """(cached, prompt) tokens of the steps of each problem's searches: all samples whose pool ends at a step, by the prompt they grew from."""
    with Journal(where / "study.db") as journal:
        rows = journal.read(
            "SELECT prefixes.body, samples.cached, samples.prompt FROM samples JOIN pools ON pools.id = samples.pool"
            " JOIN prefixes ON prefixes.digest = pools.chain WHERE pools.sampling LIKE '%stop=%'"
        )
    found: dict[str, tuple[float, float]] = {}
    for body, cached, prompt in rows:
        question = json.dumps(json.loads(str(body))["messages"])
        before = found.get(question, (0.0, 0.0))
        found[question] = before[0] + float(str(cached)), before[1] + float(str(prompt))
    return list(found.values())


def main() -> None:
    """Run, claim, and put the table into the page."""
    data = Path(os.environ.get("PONDER_DATA", ROOT.parent / "shared" / "data")) / "gsm8k_test.jsonl"
    body = {
        "name": "gsm8k_search",
        "tasks": [f"gsm8k({str(data)!r}, max_tokens=320)"],
        "limit": PROBLEMS,
        "policies": ["gguf:qwen2.5-coder-0.5b"],
        "strategies": list(STRATEGIES),
        "sampling": [{"temperature": 0.7}],
        "concurrency": 2,
    }
    _, where = run_study(check(body, "gsm8k_search"))
    shares = np.array(served(where))
    share_P = shares[:, 0] / shares[:, 1]
    rng = np.random.default_rng(0)
    draws = rng.integers(0, len(shares), (2000, len(shares)))
    low, high = np.quantile(shares[draws, 0].sum(1) / shares[draws, 1].sum(1), [0.025, 0.975])
    text = "share of the prompt tokens of all steps that the engine's prefix cache served"
    pooled = float(shares[:, 0].sum() / shares[:, 1].sum())
    made = [Claim("cached", text, pooled, float(low), float(high), "> .7", pooled > 0.7, len(share_P), 1)]
    with Journal(where / "study.db") as journal:
        runs = StudyStore(journal).runs()
    rows = [
        "| strategy | problems | right | 95% interval | samples | completion | prompt | cached |",
        "|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name in dict.fromkeys(run.strategy for run in runs):
        mine = [run for run in runs if run.strategy == name]
        [right] = mean_intervals(np.array([[float(run.correct)] for run in mine]), seed=0)
        spent = [sum(values) / len(mine) for values in zip(*map(_usage, mine), strict=True)]
        numbers = " | ".join(f"{number:.0f}" for number in spent)
        rows.append(f"| `{name}` | {len(mine)} | {right.value:.2f} | [{right.low:.2f}, {right.high:.2f}] | {numbers} |")
    save("gsm8k_search", made)
    insert(DOCS / "evidence" / "gsm8k_search.md", "gsm8k_search", "\n".join(rows))


def _usage(run: RunRecord) -> tuple[float, ...]:
    usage = run.spent.usage
    return run.spent.samples, usage.completion, usage.prompt, usage.cached


if __name__ == "__main__":
    main()
