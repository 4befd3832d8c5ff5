"""`ponder train ...`: samples in, weights out. What each verb trains, and on what, stands in the learner it calls."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from ponder.errors import UsageError

if TYPE_CHECKING:
    from ponder.cli.learning import Data
    from ponder.learners.training import Recipe

# ruff: noqa: D417  options that verbs share are described where they are defined
app = App(name="train", help="Train a policy or a verifier from verified samples (extra `train`).", help_format="plaintext")

Model = Annotated[
    str, Parameter(help="What training starts from: lab, lab:SIZE_OR_FOLDER, hf:FOLDER_OR_ID, gguf:NAME, or a folder.")
]
Out = Annotated[Path, Parameter(help="Folder of the result.")]
Studies = Annotated[list[Path], Parameter(negative="")]
Solve = Annotated[float, Parameter(help="Weight of the language model's loss on right answers, beside the verifier's own.")]
Surprise = Annotated[
    bool, Parameter(negative="", help="Let the head read how surprised the model is by the answer (lab models).")
]
Seed = Annotated[int, Parameter(help="Of splits, order and draws.")]
Checkpoints = Annotated[int, Parameter(help="How many to keep along the way, in step-N folders.")]
Hard = Annotated[str, Parameter(help="Spec of an earlier verifier: wrong samples that it believes weigh more.")]
HardWeight = Annotated[float, Parameter(help="How much more.")]
JSONFlag = Annotated[bool, Parameter(name="--json", negative="", help="One JSON object a line on stdout, nothing else.")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how hard to train; what is left out is as the verb has it.

    Attributes:
        epochs: Times the examples are gone through; default 1, of `em` 2.
        batch: Examples or pairs of one forward pass; default 128 of outcome and process, else 64.
        rate: Peak learning rate; default 1e-3 for lab models, 1e-5 for others, 1e-4 with adapters; of preferences a tenth of it.
        max_length: Tokens of the longest example that takes part; longer ones are left out and counted.
        lora: Rank of adapters; 0 trains all weights.
        optimizer: muon suits lab models that learn whole; its usual rate is 0.02.
        bfloat16: Multiply in bfloat16.
        checkpoints: How many to keep along the way, in step-N folders.
    """

    epochs: float | None = None
    batch: int | None = None
    rate: float | None = None
    max_length: int = 512
    lora: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    bfloat16: Flag = False
    checkpoints: int = 0

    def start(self, model: str, *, epochs: float = 1.0, batch: int = 64, scale: float = 1.0) -> tuple[Path, Recipe]:
        """The folder that training starts from, and the recipe; `scale` lowers the default rate of losses that need care."""
        from ponder.cli.bases import locate
        from ponder.learners.models import is_lab
        from ponder.learners.training import Recipe

        base = locate(model)
        usual = 0.02 if self.optimizer == "muon" else 1e-3 if is_lab(base) else 1e-4 if self.lora else 1e-5
        return base, Recipe(
            epochs=epochs if self.epochs is None else self.epochs,
            batch=batch if self.batch is None else self.batch,
            rate=usual * scale if self.rate is None else self.rate,
            max_length=self.max_length,
            lora_rank=self.lora,
            optimizer=self.optimizer,
            bfloat16=self.bfloat16,
            checkpoints=self.checkpoints,
        )


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class Holding:
    r"""What is held out, and how answers are cut.

    Attributes:
        seed: Of splits, order and draws.
        share: Share of the problems that is held out to measure on.
        step: The text that ends a step; \n is a line break.
    """

    seed: int = 0
    share: float = 0.1
    step: str = "\\n"

    @property
    def end(self) -> str:
        """The separator as it is meant, not as it is typed."""
        return self.step.replace("\\n", "\n")

    def gather(self, studies: list[Path], *, distinct_only: bool = True) -> Data:
        """The samples of studies, split by problem."""
        from ponder.cli.learning import gather

        return gather(studies, share=self.share, seed=self.seed, step=self.end, distinct_only=distinct_only)


EFFORT, HOLDING = Effort(), Holding()


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
    effort: Effort = EFFORT,
    holding: Holding = HOLDING,
    json: JSONFlag = False,
) -> None:
    """Train an outcome reward model on the verdicts of studies, and print how far it can be believed.

    Args:
        study: Folders of studies whose samples are judged.
        pairs: Learn which of two answers is better (Bradley-Terry) instead of the verdict of each.
        every_token: Give the verdict as the label at every token; the result is read at step ends.
        balanced: Let right and wrong answers weigh the same.
    """
    from ponder.cli.learning import finish
    from ponder.cli.learning import hard as weigh
    from ponder.learners.datasets import pairs as couples
    from ponder.learners.outcome import train_outcome, train_pairs

    data = holding.gather(study)
    base, recipe = effort.start(model, batch=128)
    beside = 0
    if pairs:
        if every_token or balanced or hard:
            raise UsageError("train outcome: --pairs compares answers; leave out --every-token, --balanced and --hard")
        chosen = couples(data.train, most=16, seed=holding.seed)
        trained = train_pairs(base, chosen, out, step=holding.end, recipe=recipe, seed=holding.seed)
    else:
        weights, beside = weigh(data.train, hard, hard_weight)
        trained = train_outcome(
            base,
            data.train,
            out,
            balanced=balanced,
            every_token=every_token,
            weights=weights,
            solve=solve,
            surprise=surprise,
            step=holding.end,
            recipe=recipe,
            seed=holding.seed,
        )
    finish(trained, f"reward_model({str(out)!r})", data.held_out, beside, as_json=json)


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
    effort: Effort = EFFORT,
    holding: Holding = HOLDING,
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
    from ponder.cli.learning import finish
    from ponder.cli.learning import hard as weigh
    from ponder.learners.datasets import check_split
    from ponder.learners.exports import read_stepwise
    from ponder.learners.labels import from_samples, soft
    from ponder.learners.process import train_process
    from ponder.learners.training import check_ranges

    check_ranges("process", ("least", least, 1, 2**31))
    data = holding.gather(study, distinct_only=False)
    given = [chain for file in labels or () for chain in read_stepwise(file)]
    check_split(given, data.held_out)
    counted = {(one.problem, one.prompt, one.steps): one for one in from_samples(data.train)}
    chains = [soft(one, least) for one in counted.values()]
    found = {(sample.problem, sample.prompt, sample.steps): sample for sample in data.train}
    weights, beside = weigh([found[key] for key in counted], hard, hard_weight)
    base, recipe = effort.start(model, batch=128)
    trained = train_process(
        base,
        [*chains, *given],
        out,
        weights=weights and [*weights, *[1.0] * len(given)],
        solve=solve,
        surprise=surprise,
        step=holding.end,
        aggregate=aggregate,
        recipe=recipe,
        seed=holding.seed,
    )
    finish(trained, f"reward_model({str(out)!r})", data.held_out, beside, as_json=json)


@app.command
def preference(
    study: Studies,
    /,
    *,
    out: Out,
    model: Model = "lab",
    most: int = 8,
    beta: float = 0.1,
    effort: Effort = EFFORT,
    holding: Holding = HOLDING,
    json: JSONFlag = False,
) -> None:
    """Train V-STaR's verifier: preference optimisation on right and wrong samples, the generator as the reference.

    Args:
        study: Folders of studies whose samples are judged.
        most: Pairs of one problem.
        beta: The smaller, the further the verifier may leave the generator.
    """
    from ponder.cli.learning import finish
    from ponder.learners.datasets import pairs
    from ponder.learners.preference import train_preference

    data = holding.gather(study)
    base, recipe = effort.start(model, scale=0.1)
    chosen = pairs(data.train, most=most, seed=holding.seed)
    trained = train_preference(base, chosen, out, beta=beta, step=holding.end, recipe=recipe, seed=holding.seed)
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
    effort: Effort = EFFORT,
    holding: Holding = HOLDING,
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
    from ponder.cli.learning import finish
    from ponder.cli.rationales import Writing, write
    from ponder.learners import genrm as learner
    from ponder.learners.models import is_lab
    from ponder.learners.policy import finetune
    from ponder.verifiers.judge import form

    data = holding.gather(study)
    base, recipe = effort.start(model)
    name = prompt or ("genrm_cot@1" if writer else "lab_genrm@1" if is_lab(base) else "genrm_direct@1")
    asking = form(name)
    if writer:
        how = Writing(writer, rationales, most, asking, form("genrm_cot_guided@1"), max_tokens)
        said, beside = write(data.train, how, out.with_name(out.name + ".bank.db"), resume=shlex.join(["ponder", *sys.argv[1:]]))
    else:
        said, beside = learner.direct(data.train, asking), 0
    verify = learner.balanced(said, asking)
    both = learner.unified(verify, learner.solutions(data.train), weight)
    trained = finetune(base, learner.repeated(both, seed=holding.seed), out, recipe=recipe, seed=holding.seed)
    finish(trained, f"judge({policy_spec(out)}, prompt={name!r})", data.held_out, beside, as_json=json)


# Loaded with their first use; with the help here, `ponder train --help` loads neither.
app.command(
    "ponder.cli.circle:em",
    name="em",
    help="Learn from verified samples of its own, round by round (STaR, ReST-EM, RFT, V-STaR ...).",
)
app.command("ponder.cli.circle:rl", name="rl", help="Reinforce a policy with a grader's verdicts as rewards: GRPO or RLOO.")
