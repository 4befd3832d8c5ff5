"""The verbs of policies that learn from their own samples, of labels before training, and of the loop that joins it with search."""

from __future__ import annotations

import json as json_
import shlex
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter

from ponder.cli.train import EFFORT, Effort, JSONFlag, Model, Out, Seed
from ponder.errors import UsageError
from ponder.learners.rl import Recipe

if TYPE_CHECKING:
    from ponder.cli.em import Loop
    from ponder.learners.em import EM

# ruff: noqa: D417  options that verbs share are described where they are defined


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
    reuse: bool = True,
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

    body = read(plan)
    folder = out or Path("studies") / body.name
    report(loop_of(body, folder, shlex.join(["ponder", "loop", str(plan)])), as_json=json)


def rl(
    *,
    out: Out,
    task: str,
    model: Model = "lab",
    recipe: Annotated[Recipe | None, Parameter(name="*")] = None,
    limit: int | None = None,
    json: JSONFlag = False,
) -> None:
    """Reinforce a policy with the verdicts of a task's grader as rewards: GRPO or RLOO.

    Args:
        task: Spec of the training problems, such as "countdown(n=1000, split='train')".
        limit: Only the first so many problems.
    """
    from ponder.cli.bases import locate
    from ponder.core import Task
    from ponder.learners.models import is_lab
    from ponder.learners.rl import Update, reinforce
    from ponder.spec import parse

    if limit is not None and limit < 1:
        raise UsageError(f"train rl: limit = {limit} must be at least 1; leave it out for all problems")
    posed = cast("Task", parse(task, "tasks"))
    base = locate(model)
    chosen = recipe or Recipe()
    if not is_lab(base) and chosen.rate == Recipe().rate:
        chosen = replace(chosen, rate=1e-6)
        print("ponder: rate 1e-6, as this is no lab model; give --rate for another", file=sys.stderr)

    def told(update: Update) -> None:
        if json:
            print(json_.dumps(asdict(update)), flush=True)
        elif update.step % max(1, chosen.steps // 20) == 0:
            mean = "none, as all answers were cut" if update.reward is None else f"{update.reward:.3f}"
            print(f"ponder: step {update.step} of {chosen.steps}: mean reward {mean}", file=sys.stderr)

    trained = reinforce(base, replace(posed, problems=posed.problems[:limit]), out, chosen, report=told)
    print(f"ponder: {trained.folder}: {asdict(trained.cost)}", file=sys.stderr)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Changes:
    """What is given on top of a method.

    Attributes:
        rounds: At most so many.
        samples: Of each training problem in each round.
        temperature: Of these samples.
        restart: Train from the base each round, not from the last round's policy.
        grow: Train on the samples of all rounds so far.
        dedupe: What counts as the same chain.
        cap: Kept samples of one problem; 0 for all.
        verifier: Keep what this verifier believes most (bond).
        rationalise: Sample problems that failed again, with the answer as a hint.
        patience: Rounds without a gain until the loop stops; 0 never stops early.
    """

    rounds: int | None = None
    samples: int | None = None
    temperature: float | None = None
    restart: bool | None = None
    grow: bool | None = None
    dedupe: Literal["none", "chain", "derivation"] | None = None
    cap: int | None = None
    verifier: str | None = None
    rationalise: bool | None = None
    patience: int | None = None

    def of(self, method: str) -> EM:
        """The method with these changes. Raises `UsageError` for best-of-n distillation without a verifier."""
        from ponder.learners.em import METHODS

        given = {field.name: getattr(self, field.name) for field in fields(self)}
        em = replace(METHODS[method], **{name: value for name, value in given.items() if value is not None})
        if method == "bond" and not em.verifier:
            raise UsageError(
                "train em --method bond: name the verifier that chooses, such as --verifier 'reward_model(\"lab/orm\")'"
            )
        return em


def em(
    *,
    out: Out,
    task: Annotated[list[str], Parameter(negative="")],
    dev: str,
    model: Model = "lab",
    method: Literal["star", "rest", "rest_em", "rft", "bond", "vstar"] = "rest_em",
    changes: Changes | None = None,
    hint: str = "",
    slice_: Annotated[int, Parameter(name="--slice")] = 32,
    max_tokens: int | None = None,
    effort: Effort = EFFORT,
    seed: Seed = 0,
    json: JSONFlag = False,
) -> None:
    """Let a policy learn from its own verified samples, round by round: STaR, ReST, ReST-EM, RFT, best-of-n distillation, V-STaR.

    The method presets what is left out. Each round reports tokens, samples kept, held-out pass@1 and pass@k, and entropy.

    Args:
        task: Specs of training problems, such as "countdown(n=1000, split='train')".
        dev: Spec of held-out problems; the loop stops early by them, so what is claimed needs a third set.
        hint: Template of a hinted question, with {question} and {answer}.
        slice_: Samples of each held-out problem.
        max_tokens: Most tokens of an answer.
    """
    from ponder.cli.em import Loop

    chosen = (changes or Changes()).of(method)
    base, recipe = effort.start(model, epochs=2.0)
    _, gentle = effort.start(model, epochs=2.0, scale=0.1)
    resume = shlex.join(["ponder", *sys.argv[1:]])
    loop = Loop(base, tuple(task), dev, chosen, recipe, gentle, out, seed, slice_, hint, (), max_tokens, resume)
    report(loop, as_json=json)


def report(loop: Loop, *, as_json: bool) -> None:
    """Run a loop, and print each round."""
    from ponder.cli import output
    from ponder.learners.em import best

    reports = []
    for one in loop.run():
        reports.append(one)
        if as_json:
            print(json_.dumps(asdict(one)), flush=True)
        else:
            print(f"ponder: round {one.round}: pass@1 {one.pass_at[1]:.3f}", file=sys.stderr)
    if not as_json:
        ks = sorted(reports[0].pass_at)
        head = [
            "round",
            "kept",
            "sampled tokens",
            "trained tokens",
            "held-out tokens",
            "FLOPs",
            *(f"pass@{k}" for k in ks),
            "entropy",
        ]
        rows = [
            [
                str(one.round),
                str(one.kept),
                f"{one.sampled_tokens:,}",
                f"{one.trained_tokens:,}",
                f"{one.held_out_tokens:,}",
                f"{one.train_flops:.2g}",
                *(f"{one.pass_at[k]:.3f}" for k in ks),
                f"{one.entropy:.3f}",
            ]
            for one in reports
        ]
        output.table(head, rows)
        print(
            f"ponder: best by held-out pass@1: round {best(reports).round}, {loop.policy(best(reports).round)}", file=sys.stderr
        )
