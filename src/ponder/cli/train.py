"""`ponder train ...`: samples in, weights out. What each verb trains, and on what, stands in the learner it calls."""

from __future__ import annotations

import json as json_
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from ponder.errors import UsageError

if TYPE_CHECKING:
    from ponder.cli.em import Loop
    from ponder.learners.em import EM
    from ponder.learners.training import Recipe

# ruff: noqa: D417  options that verbs share are described where they are defined
app = App(name="train", help="Train a policy or a verifier from verified samples (extra `train`).", help_format="plaintext")

Model = Annotated[
    str, Parameter(help="What training starts from: lab, lab:SIZE_OR_FOLDER, hf:FOLDER_OR_ID, gguf:NAME, or a folder.")
]
Out = Annotated[Path, Parameter(help="Folder of the result.")]
Studies = Annotated[list[Path], Parameter(negative="")]
Epochs = Annotated[float, Parameter(help="Times the examples are gone through.")]
Batch = Annotated[int, Parameter(help="Examples of one step.")]
Rate = Annotated[
    float | None, Parameter(help="Peak learning rate; default 1e-3 for lab models, 1e-5 for others, 1e-4 with adapters.")
]
Lora = Annotated[int, Parameter(name="--lora", help="Rank of adapters; 0 trains all weights.")]
Optimizer = Annotated[Literal["adamw", "muon"], Parameter(help="muon suits lab models that learn whole; its usual rate is 0.02.")]
Half = Annotated[bool, Parameter(name="--bfloat16", negative="", help="Multiply in bfloat16.")]
Solve = Annotated[float, Parameter(help="Weight of the language model's loss on right answers, beside the verifier's own.")]
Seed = Annotated[int, Parameter(help="Of splits, order and draws.")]
Checkpoints = Annotated[int, Parameter(help="How many to keep along the way, in step-N folders.")]
Share = Annotated[float, Parameter(help="Share of the problems that is held out to measure on.")]
StepEnd = Annotated[str, Parameter(name="--step", help=r"The text that ends a step; \n is a line break.")]
Hard = Annotated[str, Parameter(help="Spec of an earlier verifier: wrong samples that it believes weigh more.")]
HardWeight = Annotated[float, Parameter(help="How much more.")]
JSONFlag = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object a line on stdout, nothing else.")]
Flag = Annotated[bool, Parameter(negative="")]


@app.command
def lab(
    *, size: str = "base", seed: Seed = 0, out: Out = Path("weights"), checkpoints: Checkpoints = 0, steps: int | None = None
) -> None:
    """Train one of the lab's own models from nothing.

    Args:
        size: small, base or large.
        steps: Fewer or more than the recipe's.
    """
    from ponder.learners.lab import RECIPES, train

    if size not in RECIPES:
        raise UsageError(f"train lab: size {size!r} must be one of {', '.join(RECIPES)}")
    train(size, seed=seed, out=out, checkpoints=checkpoints, steps=steps)


@app.command
def outcome(
    study: Studies,
    /,
    *,
    out: Out,
    model: Model = "lab",
    pairs: Flag = False,
    every_token: Flag = False,
    balanced: Flag = False,
    hard: Hard = "",
    hard_weight: HardWeight = 4.0,
    solve: Solve = 0.0,
    epochs: Epochs = 1.0,
    batch: Batch = 128,
    rate: Rate = None,
    lora: Lora = 0,
    optimizer: Optimizer = "adamw",
    bfloat16: Half = False,
    checkpoints: Checkpoints = 0,
    seed: Seed = 0,
    share: Share = 0.1,
    step: StepEnd = "\\n",
    json: JSONFlag = False,
) -> None:
    """Train an outcome reward model on the verdicts of studies, and print how far it can be believed.

    Args:
        study: Folders of studies whose samples are judged.
        pairs: Learn which of two answers is better (Bradley-Terry) instead of the verdict of each.
        every_token: Give the verdict as the label at every token; the result is read at step ends.
        balanced: Let right and wrong answers weigh the same.
    """
    from ponder.cli.learning import finish, gather
    from ponder.cli.learning import hard as weigh
    from ponder.learners.datasets import pairs as couples
    from ponder.learners.outcome import train_outcome, train_pairs

    end = _step(step)
    data = gather(study, share=share, seed=seed, step=end)
    base, recipe = _start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16)
    if pairs:
        if every_token or balanced or hard:
            raise UsageError("train outcome: --pairs compares answers; leave out --every-token, --balanced and --hard")
        trained = train_pairs(base, couples(data.train, most=16, seed=seed), out, step=end, recipe=recipe, seed=seed)
    else:
        weights = weigh(data.train, hard, hard_weight)
        trained = train_outcome(
            base,
            data.train,
            out,
            balanced=balanced,
            every_token=every_token,
            weights=weights,
            solve=solve,
            step=end,
            recipe=recipe,
            seed=seed,
        )
    finish(trained, f"reward_model({str(out)!r})", data.held_out, as_json=json)


@app.command
def process(
    study: Studies,
    /,
    *,
    out: Out,
    labels: Annotated[list[Path] | None, Parameter(negative="")] = None,
    model: Model = "lab",
    least: int = 1,
    aggregate: Literal["last", "min", "prod", "mean"] = "last",
    hard: Hard = "",
    hard_weight: HardWeight = 4.0,
    solve: Solve = 0.0,
    epochs: Epochs = 1.0,
    batch: Batch = 128,
    rate: Rate = None,
    lora: Lora = 0,
    optimizer: Optimizer = "adamw",
    bfloat16: Half = False,
    checkpoints: Checkpoints = 0,
    seed: Seed = 0,
    share: Share = 0.1,
    step: StepEnd = "\\n",
    json: JSONFlag = False,
) -> None:
    """Train a process reward model, and print how far it can be believed.

    Args:
        study: Folders of studies whose samples are judged. The value of a step is the share of right ones among all samples that go through
            it, and the verdict at the end: labels that cost no roll-out.
        labels: Files of labelled chains (`ponder label`, PRM800K or Math-Shepherd brought in); their problems must not be held out.
        least: Samples that must go through a step for a label.
        aggregate: How its user is to make one number of the values of the steps.
    """
    from ponder.cli.learning import finish, gather
    from ponder.cli.learning import hard as weigh
    from ponder.learners.datasets import check_split
    from ponder.learners.exports import read_stepwise
    from ponder.learners.labels import from_samples, soft
    from ponder.learners.process import train_process

    end = _step(step)
    data = gather(study, share=share, seed=seed, step=end, distinct_only=False)
    given = [chain for file in labels or () for chain in read_stepwise(file)]
    check_split(given, data.held_out)
    counted = {(one.problem, one.steps): one for one in from_samples(data.train)}
    chains = [soft(one, least) for one in counted.values()]
    weights = None
    if hard:
        found = {(sample.problem, sample.steps): sample for sample in data.train}
        weights = weigh([found[key] for key in counted], hard, hard_weight)
    base, recipe = _start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16)
    trained = train_process(
        base,
        [*chains, *given],
        out,
        weights=weights and [*weights, *[1.0] * len(given)],
        solve=solve,
        step=end,
        aggregate=aggregate,
        recipe=recipe,
        seed=seed,
    )
    finish(trained, f"reward_model({str(out)!r})", data.held_out, as_json=json)


@app.command
def preference(
    study: Studies,
    /,
    *,
    out: Out,
    model: Model = "lab",
    most: int = 8,
    beta: float = 0.1,
    epochs: Epochs = 1.0,
    batch: Batch = 64,
    rate: Rate = None,
    lora: Lora = 0,
    optimizer: Optimizer = "adamw",
    bfloat16: Half = False,
    checkpoints: Checkpoints = 0,
    seed: Seed = 0,
    share: Share = 0.1,
    step: StepEnd = "\\n",
    json: JSONFlag = False,
) -> None:
    """Train V-STaR's verifier: preference optimisation on right and wrong samples, the generator as the reference.

    Args:
        study: Folders of studies whose samples are judged.
        most: Pairs of one problem.
        beta: The smaller, the further the verifier may leave the generator.
    """
    from ponder.cli.learning import finish, gather
    from ponder.learners.datasets import pairs
    from ponder.learners.preference import train_preference

    data = gather(study, share=share, seed=seed, step=_step(step))
    base, recipe = _start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16, scale=0.1)
    chosen = pairs(data.train, most=most, seed=seed)
    trained = train_preference(base, chosen, out, beta=beta, step=_step(step), recipe=recipe, seed=seed)
    finish(trained, f"likelihood({str(out)!r})", data.held_out, as_json=json)


@app.command
def rl(
    *,
    out: Out,
    task: str,
    model: Model = "lab",
    algorithm: Literal["grpo", "rloo"] = "grpo",
    group: int = 8,
    prompts: int = 16,
    steps: int = 100,
    rate: Rate = None,
    beta: float = 0.0,
    epsilon: float = 0.2,
    temperature: float = 1.0,
    max_tokens: int | None = None,
    mask_truncated: Flag = False,
    scale_rewards: Literal["group", "batch", "none"] | None = None,
    loss_type: Literal["dapo", "grpo", "dr_grpo"] | None = None,
    iterations: int = 1,
    checkpoints: Checkpoints = 0,
    seed: Seed = 0,
    limit: int | None = None,
    json: JSONFlag = False,
) -> None:
    """Reinforce a policy with the verdicts of a task's grader as rewards: GRPO or RLOO.

    Args:
        task: Spec of the training problems, such as "countdown(n=1000, split='train')".
        group: Answers to one problem.
        prompts: Problems of one step.
        steps: Optimizer steps.
        beta: Weight of the divergence from the base model.
        epsilon: Probability ratios are clipped outside 1 +- epsilon.
        temperature: Of the sampling.
        max_tokens: An answer is cut there, and earns nothing; default the task's cap.
        mask_truncated: Leave cut answers out of the loss.
        scale_rewards: What rewards of grpo are divided by the deviation of.
        loss_type: How grpo takes the mean over tokens.
        iterations: Optimizer steps on the same answers.
        limit: Only the first so many problems.
    """
    from dataclasses import asdict, replace
    from typing import cast

    from ponder.cli.bases import locate
    from ponder.core import Task
    from ponder.learners.models import is_lab
    from ponder.learners.rl import Recipe, Update, reinforce
    from ponder.spec import parse

    posed = cast("Task", parse(task, "tasks"))
    base = locate(model)
    recipe = Recipe(
        algorithm=algorithm,
        group=group,
        prompts=prompts,
        steps=steps,
        rate=(3e-4 if is_lab(base) else 1e-6) if rate is None else rate,
        beta=beta,
        epsilon=epsilon,
        temperature=temperature,
        max_tokens=max_tokens,
        mask_truncated=mask_truncated,
        scale_rewards=scale_rewards,
        loss_type=loss_type,
        iterations=iterations,
        seed=seed,
        checkpoints=checkpoints,
    )

    def told(update: Update) -> None:
        if json:
            print(json_.dumps(asdict(update)), flush=True)
        elif update.step % max(1, steps // 20) == 0:
            print(f"ponder: step {update.step} of {steps}: mean reward {update.reward:.3f}", file=sys.stderr)

    trained = reinforce(base, replace(posed, problems=posed.problems[:limit]), out, recipe, report=told)
    print(f"ponder: {trained.folder}: {asdict(trained.cost)}", file=sys.stderr)


@app.command
def em(
    *,
    out: Out,
    task: Annotated[list[str], Parameter(negative="")],
    dev: str,
    model: Model = "lab",
    method: Literal["star", "rest", "rest_em", "rft", "bond", "vstar"] = "rest_em",
    rounds: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    restart: bool | None = None,
    grow: bool | None = None,
    dedupe: Literal["none", "chain", "derivation"] | None = None,
    cap: int | None = None,
    verifier: str | None = None,
    rationalise: bool | None = None,
    patience: int | None = None,
    hint: str = "",
    slice_: Annotated[int, Parameter(name="--slice")] = 32,
    max_tokens: int | None = None,
    epochs: Epochs = 2.0,
    batch: Batch = 64,
    rate: Rate = None,
    lora: Lora = 0,
    seed: Seed = 0,
    json: JSONFlag = False,
) -> None:
    """Let a policy learn from its own verified samples, round by round: STaR, ReST, ReST-EM, RFT, best-of-n distillation, V-STaR.

    The method presets what is left out. Each round reports tokens, samples kept, held-out pass@1 and pass@k, and entropy.

    Args:
        task: Specs of training problems, such as "countdown(n=1000, split='train')".
        dev: Spec of held-out problems; the loop stops early by them, so what is claimed needs a third set.
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
        hint: Template of a hinted question, with {question} and {answer}.
        slice_: Samples of each held-out problem.
        max_tokens: Most tokens of an answer.
    """
    from dataclasses import replace

    from ponder.cli.em import Loop
    from ponder.learners.em import METHODS

    given: dict[str, object] = {
        "rounds": rounds,
        "samples": samples,
        "temperature": temperature,
        "restart": restart,
        "grow": grow,
        "dedupe": dedupe,
        "cap": cap,
        "verifier": verifier,
        "rationalise": rationalise,
        "patience": patience,
    }
    chosen: EM = replace(METHODS[method], **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]  # each of its field's type
    if method == "bond" and not chosen.verifier:
        raise UsageError("train em --method bond: name the verifier that chooses, such as --verifier 'reward_model(\"lab/orm\")'")
    base, recipe = _start(model, epochs, batch, rate, lora, 0)
    _, gentle = _start(model, epochs, batch, rate, lora, 0, scale=0.1)
    resume = shlex.join(["ponder", *sys.argv[1:]])
    loop = Loop(base, tuple(task), dev, chosen, recipe, gentle, out, seed, slice_, hint, (), max_tokens, resume)
    report(loop, as_json=json)


def report(loop: Loop, *, as_json: bool) -> None:
    """Run a loop, and print each round."""
    from dataclasses import asdict

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
        head = ["round", "kept", "sampled tokens", "trained tokens", "FLOPs", *(f"pass@{k}" for k in ks), "entropy"]
        rows = [
            [
                str(one.round),
                str(one.kept),
                f"{one.sampled_tokens:,}",
                f"{one.trained_tokens:,}",
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


def _start(
    model: str,
    epochs: float,
    batch: int,
    rate: float | None,
    lora: int,
    checkpoints: int,
    optimizer: Literal["adamw", "muon"] = "adamw",
    bfloat16: bool = False,
    *,
    scale: float = 1.0,
) -> tuple[Path, Recipe]:
    """The folder that training starts from, and the recipe; `scale` lowers the default rate of losses that need care."""
    from ponder.cli.bases import locate
    from ponder.learners.models import is_lab
    from ponder.learners.training import Recipe

    base = locate(model)
    usual = 0.02 if optimizer == "muon" else 1e-3 if is_lab(base) else 1e-4 if lora else 1e-5
    return base, Recipe(
        epochs=epochs,
        batch=batch,
        rate=usual * scale if rate is None else rate,
        lora_rank=lora,
        optimizer=optimizer,
        bfloat16=bfloat16,
        checkpoints=checkpoints,
    )


def _step(text: str) -> str:
    return text.replace("\\n", "\n")
