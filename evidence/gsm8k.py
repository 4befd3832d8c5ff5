"""Real text, real engine: GSM8K with a 0.5B model through llama.cpp, majority of 8 against one sample.

`make evidence NAME=gsm8k`; PONDER_DATA is the folder of gsm8k_test.jsonl. Ten to twenty minutes on two cores; can be stopped and
started again.
"""

from __future__ import annotations

import os
from pathlib import Path

from evidence.common import DOCS, ROOT, Claim, at, compare, insert, line, run_study, save, table
from ponder.cli.study import check, read
from ponder.scaling.bootstrap import mean_intervals


def main() -> None:
    """Run, claim, and put the table into the page."""
    data = Path(os.environ.get("PONDER_DATA", ROOT.parent / "shared" / "data")) / "gsm8k_test.jsonl"
    recipe = read(ROOT / "recipes" / "gsm8k_qwen05b.toml")
    study = check({**recipe.model_dump(exclude_none=True), "tasks": [f"gsm8k({str(data)!r}, max_tokens=320)"]}, "gsm8k")
    lines, _ = run_study(study)
    single = line(lines, "gsm8k", "sample"), 1
    [head] = mean_intervals(at(*single), seed=0)
    n = len(at(*single))
    [any_] = mean_intervals(at(line(lines, "gsm8k", "pass@k (any of k correct)"), 8), seed=0)
    found = [
        Claim("single", "accuracy of one sample (pass@1)", head.value, head.low, head.high, None, None, n, 1),
        Claim("pass_at_8", "problems that any of 8 samples solves", any_.value, any_.low, any_.high, None, None, n, 1),
    ]
    for name in ("self_consistency", "best_of_n(confidence)", "weighted_vote(confidence)"):
        text = f"accuracy gained by {name} with 8 samples over one sample"
        found.append(compare(name, text, (line(lines, "gsm8k", name), 8), single))
    save("gsm8k", found)
    insert(DOCS / "evidence" / "gsm8k.md", "gsm8k", table([point for one in lines for point in one.points()]))


if __name__ == "__main__":
    main()
