"""The verbs around training: labels before it, and the loop that joins it with search."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from ponder.cli.train import JSONFlag

# ruff: noqa: D417  --json and --out are described where they are defined


def label(
    *,
    task: str,
    policy: str,
    out: Path,
    labels: Literal["soft", "hard", "first_error", "progress"] = "soft",
    chains: int = 4,
    rollouts: int = 8,
    method: Literal["exhaustive", "binary", "tree"] = "exhaustive",
    lazy: int = 0,
    reuse: Annotated[bool, Parameter(negative="")] = False,
    verify: Annotated[bool, Parameter(negative="")] = False,
    completer: str = "",
    searches: int = 20,
    step: str = "\\n",
    limit: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    concurrency: int = 64,
) -> None:
    r"""Label the steps of sampled chains by roll-outs, for `ponder train process`; stopped, it goes on where it was.

    Args:
        task: Spec of training problems, such as "chain(least=14, n=500, split='train')".
        policy: Who samples the chains.
        out: File of labelled chains, .jsonl or .parquet; its bank and its card lie beside it.
        labels: Share of right roll-outs; whether any is right; ones before the first error and zeros from it; or the prover's progress.
        chains: Of each problem.
        rollouts: Of each prefix at most.
        method: Every prefix; halving for the first error (hard labels only); or the tree of such searches (OmegaPRM).
        lazy: Roll-outs drawn at a time, until one is right; 0 draws all at once.
        reuse: Count every chain that goes through a prefix as a roll-out of it.
        verify: Check what halving takes for granted.
        completer: Who rolls out; default the policy.
        searches: Of the tree.
        step: The text that ends a step; \n is a line break.
        limit: Only the first so many problems.
        seed: Of the samples.
        temperature: Of the samples.
        concurrency: Problems in flight.
    """
    from ponder.cli.labelling import label as work
    from ponder.cli.runner import parse_policy
    from ponder.learners.rollouts import OmegaTree, StepRollouts

    end = step.replace("\\n", "\n")
    strategy: OmegaTree | StepRollouts
    if method == "tree":
        strategy = OmegaTree(k=rollouts, searches=searches, step=end)
    else:
        rolls_out = parse_policy(completer) if completer else None
        root = labels == "progress"
        strategy = StepRollouts(
            chains, rollouts, end, method, lazy=lazy, reuse=reuse, verify=verify, root=root, completer=rolls_out
        )
    resume = shlex.join(["ponder", *sys.argv[1:]])
    work(
        task,
        policy,
        strategy,
        labels,
        out,
        limit=limit,
        seed=seed,
        temperature=temperature,
        concurrency=concurrency,
        resume=resume,
    )


def loop(
    plan: Path, /, *, out: Annotated[Path | None, Parameter(help="Folder; default studies/NAME.")] = None, json: JSONFlag = False
) -> None:
    """Close the circle, round by round: search, keep, train verifier and policy, search with the better pair.

    Args:
        plan: A TOML file; recipes/lab_loop.toml is one.
    """
    from ponder.cli.loop import loop_of, read
    from ponder.cli.train import report

    body = read(plan)
    folder = out or Path("studies") / body.name
    report(loop_of(body, folder, shlex.join(["ponder", "loop", str(plan)])), as_json=json)
