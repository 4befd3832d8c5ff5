"""`ponder train ...`: samples in, weights out. What each verb trains, and on what, stands in the learner it calls."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from ponder.errors import UsageError

if TYPE_CHECKING:
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
Surprise = Annotated[
    bool, Parameter(negative="", help="Let the head read how surprised the model is by the answer (lab models).")
]
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
    surprise: Surprise = False,
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

    end = step_end(step)
    data = gather(study, share=share, seed=seed, step=end)
    base, recipe = start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16)
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
            surprise=surprise,
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
    surprise: Surprise = False,
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

    end = step_end(step)
    data = gather(study, share=share, seed=seed, step=end, distinct_only=False)
    given = [chain for file in labels or () for chain in read_stepwise(file)]
    check_split(given, data.held_out)
    counted = {(one.problem, one.steps): one for one in from_samples(data.train)}
    chains = [soft(one, least) for one in counted.values()]
    weights = None
    if hard:
        found = {(sample.problem, sample.steps): sample for sample in data.train}
        weights = weigh([found[key] for key in counted], hard, hard_weight)
    base, recipe = start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16)
    trained = train_process(
        base,
        [*chains, *given],
        out,
        weights=weights and [*weights, *[1.0] * len(given)],
        solve=solve,
        surprise=surprise,
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

    data = gather(study, share=share, seed=seed, step=step_end(step))
    base, recipe = start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16, scale=0.1)
    chosen = pairs(data.train, most=most, seed=seed)
    trained = train_preference(base, chosen, out, beta=beta, step=step_end(step), recipe=recipe, seed=seed)
    finish(trained, f"likelihood({str(out)!r})", data.held_out, as_json=json)


@app.command
def genrm(
    study: Studies,
    /,
    *,
    out: Out,
    model: Model = "lab",
    prompt: str = "",
    weight: float = 0.25,
    writer: str = "",
    rationales: int = 4,
    most: int = 2,
    max_tokens: int = 512,
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
    """Train a model that is asked whether an answer is right (GenRM): one word, or a rationale that ends in one.

    Args:
        study: Folders of studies whose samples are judged.
        prompt: Form of the question, as `judge` takes it; default lab_genrm@1 for lab models, genrm_direct@1, or genrm_cot@1 with a writer.
        weight: Of right solutions, learned beside, against all judgements.
        writer: Policy that writes rationales with a right answer in sight; left out, judgements are one word.
        rationales: Drawn for each answer.
        most: Kept of each answer, among those that end in the grader's verdict.
        max_tokens: Most tokens of a rationale.
    """
    from ponder.cli.bases import policy_spec
    from ponder.cli.learning import finish, gather
    from ponder.cli.rationales import Writing, write
    from ponder.learners import genrm as learner
    from ponder.learners.models import is_lab
    from ponder.learners.policy import finetune
    from ponder.verifiers.judge import form

    data = gather(study, share=share, seed=seed, step=step_end(step))
    base, recipe = start(model, epochs, batch, rate, lora, checkpoints, optimizer, bfloat16)
    name = prompt or ("genrm_cot@1" if writer else "lab_genrm@1" if is_lab(base) else "genrm_direct@1")
    asking = form(name)
    if writer:
        how = Writing(writer, rationales, most, asking, form("genrm_cot_guided@1"), max_tokens)
        said = write(data.train, how, out.with_name(out.name + ".bank.db"), resume=shlex.join(["ponder", *sys.argv[1:]]))
    else:
        said = learner.direct(data.train, asking)
    verify = learner.balanced(said, asking)
    both = learner.unified(verify, learner.solutions(data.train), weight)
    trained = finetune(base, learner.repeated(both, seed=seed), out, recipe=recipe, seed=seed)
    finish(trained, f"judge({policy_spec(out)}, prompt={name!r})", data.held_out, as_json=json)


# Loaded with their first use; with the help here, `ponder train --help` loads neither.
app.command(
    "ponder.cli.circle:em",
    name="em",
    help="Learn from verified samples of its own, round by round (STaR, ReST-EM, RFT, V-STaR ...).",
)
app.command("ponder.cli.circle:rl", name="rl", help="Reinforce a policy with a grader's verdicts as rewards: GRPO or RLOO.")


def start(
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


def step_end(text: str) -> str:
    """The separator as it is typed, as it is meant."""
    return text.replace("\\n", "\n")
