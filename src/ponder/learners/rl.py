"""Reinforcement learning from verdicts: GRPO and RLOO through TRL, with a task's grader as the reward (extra `train`).

Every step samples a group of answers to each of some problems, has them judged, and raises the probability of the answers that did
better than their group. With rewards r_1 .. r_G of a group:

    grpo    A_i = (r_i - mean) / (std + 1e-4)             std with G - 1; the ratio of each token is clipped
    rloo    A_i = r_i - mean of the other G - 1 rewards   the ratio of the whole answer is clipped

(Shao et al. 2024, arXiv:2402.03300, section 4.1; Ahmadian et al. 2024, arXiv:2402.14740, section 2.2.) A group whose rewards are all equal
teaches nothing. Lab models are sampled by the lab's own engine, others by `generate` of transformers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from ponder.core import Task
from ponder.errors import DataError, UsageError
from ponder.learners import models
from ponder.learners.rewards import Counts, Rewards
from ponder.learners.training import check_ranges, fingerprint, require

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Algorithm: TypeAlias = Literal["grpo", "rloo"]
Scale: TypeAlias = Literal["group", "batch", "none"]
Loss: TypeAlias = Literal["dapo", "grpo", "dr_grpo"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a policy is reinforced.

    Attributes:
        algorithm: `grpo` or `rloo`.
        group: G, answers to a problem, at least 2.
        prompts: problems sampled together.
        steps: optimizer steps, a multiple of `iterations`.
        rate: peak learning rate; it warms up over the first twentieth of the steps and falls linearly to zero. 1e-4 to 1e-3 suits the
            lab's models, 1e-6 to 1e-5 pretrained ones of 0.1 billion parameters and more.
        beta: weight of the divergence from the base model. grpo adds an unbiased estimate of it to the loss of each token, rloo
            takes the log-ratio of the whole answer off its reward. 0 loads no second model.
        epsilon: a probability ratio outside 1 +- epsilon gives no more gradient. Without effect where iterations is 1.
        temperature: of sampling and of the probabilities in the loss.
        max_tokens: an answer is cut after so many, and its reward is 0; the task's cap when None.
        mask_truncated: an answer that was cut takes no part in the loss nor in the mean of its group (Yu et al. 2025,
            arXiv:2503.14476, section 3.4).
        scale_rewards: grpo divides by the standard deviation of the `group`, of the whole `batch`, or by `none` (Liu et al. 2025,
            arXiv:2503.20783, section 3.1). None is `group`, and the only choice with rloo.
        loss_type: grpo takes the mean over all tokens of the batch (`dapo`), over the tokens of an answer and then over answers
            (`grpo`), or the sum over max_tokens (`dr_grpo`). None is `dapo`, and the only choice with rloo.
        iterations: optimizer steps made on the same answers.
        rows: answers in one forward pass; more are gathered into a step.
        seed: of the order of problems, of sampling and of training.
        checkpoints: how many evenly spaced checkpoints to keep, apart from the end.
    """

    algorithm: Algorithm = "grpo"
    group: int = 8
    prompts: int = 16
    steps: int = 100
    rate: float = 1e-4
    beta: float = 0.0
    epsilon: float = 0.2
    temperature: float = 1.0
    max_tokens: int | None = None
    mask_truncated: bool = False
    scale_rewards: Scale | None = None
    loss_type: Loss | None = None
    iterations: int = 1
    rows: int = 64
    seed: int = 0
    checkpoints: int = 0

    def __post_init__(self) -> None:
        check_ranges(
            "rl",
            ("group", self.group, 2, 2**16),
            ("prompts", self.prompts, 1, 2**16),
            ("steps", self.steps, 1, 2**31),
            ("rate", self.rate, 1e-12, 1.0),
            ("beta", self.beta, 0.0, 100.0),
            ("epsilon", self.epsilon, 1e-6, 1.0),
            ("temperature", self.temperature, 1e-3, 100.0),
            ("max_tokens", 1 if self.max_tokens is None else self.max_tokens, 1, 2**31),
            ("iterations", self.iterations, 1, self.steps),
            ("rows", self.rows, 1, 2**31),
            ("seed", self.seed, 0, 2**32 - 1),
            ("checkpoints", self.checkpoints, 0, self.steps - 1),
        )
        if self.steps % self.iterations:
            raise UsageError(f"rl: steps = {self.steps} must be a multiple of iterations = {self.iterations}")
        for name, chosen, choices in (
            ("algorithm", self.algorithm, get_args(Algorithm)),
            ("scale_rewards", self.scale_rewards, (None, *get_args(Scale))),
            ("loss_type", self.loss_type, (None, *get_args(Loss))),
        ):
            if chosen not in choices:
                raise UsageError(f"rl: {name} = {chosen!r} must be one of {', '.join(map(repr, choices))}")
            if self.algorithm == "rloo" and name != "algorithm" and chosen is not None:
                raise UsageError(f"rl: {name} = {chosen!r} has no meaning for rloo; leave it out, or take grpo")

    @property
    def marks(self) -> frozenset[int]:
        """The steps after which a checkpoint is kept."""
        return frozenset(round(self.steps * (k + 1) / (self.checkpoints + 1)) for k in range(self.checkpoints))

    @property
    def passes(self) -> int:
        """Passes over the answers without a gradient: of the policy that sampled them (where the ratio needs it), of the base model."""
        return (self.algorithm == "rloo" or self.iterations > 1) + (self.beta > 0)


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer step.

    reward: mean over the answers it learned from. spread: their standard deviation. flat: share of groups whose rewards are all
    equal. entropy: mean over tokens, in nats, at the recipe's temperature. length: mean tokens of an answer. truncated: share of
    answers cut by length. clipped: share of the ratios (of tokens in grpo, of answers in rloo) that are out of bounds. kl: mean over tokens of
    the estimated divergence from the base model; None without one.
    """

    step: int
    reward: float | None
    spread: float | None
    flat: float | None
    entropy: float | None
    length: float | None
    truncated: float | None
    clipped: float | None
    kl: float | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What training has cost so far.

    prompts: groups sampled. prompt_tokens: read, once for each sample. sampled_tokens: written. trained_tokens: completion tokens
    that took part in the loss, once for each optimizer step. flops: 2N for each token of prompt and answer in sampling and in each pass
    without a gradient, 6N in each optimizer step, N the number of parameters (Kaplan et al. 2020, arXiv:2001.08361, section 2.1);
    padding, attention and the grader are left out. seconds: of the clock.
    """

    prompts: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    trained_tokens: int = 0
    flops: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete model folder, after `step` steps and what they cost."""

    step: int
    folder: Path
    cost: Cost


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of a training: the policy, its checkpoints, and what was measured. verdicts: "correct", "length", or the grader's reason."""

    folder: Path
    parameters: int
    cost: Cost
    verdicts: Mapping[str, int]
    history: tuple[Update, ...]
    checkpoints: tuple[Checkpoint, ...]


def reinforce(base: Path, task: Task, out: Path, recipe: Recipe, *, report: Callable[[Update], None] | None = None) -> Trained:
    """Train the policy in `base` on a task's verdicts, and write the trained one into `out`.

    The folder `out` appears when all is done, with `card.json` and checkpoints in `step-N` folders; when anything goes wrong nothing is left.
    Problems are taken in a new random order again and again. One seed gives one file on one machine.

    Args:
        base: a model folder.
        task: problems to train on, with the grader that judges.
        out: a folder that does not exist.
        recipe: how.
        report: called after every optimizer step.

    Raises:
        UsageError: when `out` exists, or the task has no problems, or an answer would not fit into the model's positions.
        DataError: when the tokenizer cannot be made to read prompts as the policy does.
        MissingExtraError: without TRL.
        Exception: what the grader raises.
    """
    require("trl")
    if out.exists():
        raise UsageError(f"{out} exists already; give a new folder, or take that one away")
    tokenizer, model = models.open_tokenizer(base), models.open_causal(base)
    recipe = replace(recipe, max_tokens=recipe.max_tokens or task.max_tokens)
    rows = _rows(_prompts(tokenizer, task), recipe, getattr(model.config, "max_position_embeddings", None))
    if models.is_lab(base):
        _sample_by_engine(model, base, recipe)

    decode, ends = _decoder(tokenizer, base), _ends(model, tokenizer)
    with models.fresh(out) as new, Rewards(task, decode, ends, mask_truncated=recipe.mask_truncated) as rewards:
        watch = _Watch(recipe, rewards, fingerprint(base), sum(parameter.numel() for parameter in model.parameters()))

        def kept(folder: Path) -> None:
            models.save(model, base, folder)
            watch.write_card(folder)

        def step(logs: Mapping[str, float]) -> None:
            update = watch.step(logs)
            if update.step in recipe.marks:
                kept(new / f"step-{update.step}")
                watch.checkpoints.append(Checkpoint(update.step, out / f"step-{update.step}", watch.cost))
            if report is not None:
                report(update)

        _train(model, tokenizer, rewards, rows, new, recipe, step)
        if not all(parameter.isfinite().all() for parameter in model.parameters()):
            raise UsageError(f"rl: weights are no longer finite; rate = {recipe.rate:g} is too high, lower it")
        kept(new)
    return Trained(out, watch.parameters, watch.cost, dict(rewards.verdicts), tuple(watch.history), tuple(watch.checkpoints))


@dataclass(slots=True)
class _Watch:
    """Follows a training: one update a step, and the bill."""

    recipe: Recipe
    rewards: Rewards
    base: str
    parameters: int
    began: float = field(default_factory=time.monotonic)
    used: Counts = field(default_factory=Counts)  # answers are counted in every step made on them
    logs: dict[str, float | None] = field(default_factory=dict)
    history: list[Update] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)

    def step(self, logs: Mapping[str, float]) -> Update:
        """Take down a step from what TRL logs of it; a step on answers sampled earlier logs no reward and keeps theirs."""
        self.used += self.rewards.last
        self.logs.update(logs)
        values = {name: self.logs.get(key) for name, key in _LOGGED.items()}
        self.history.append(Update(len(self.history) + 1, **values))
        return self.history[-1]

    @property
    def cost(self) -> Cost:
        sampled, used = self.rewards.total, self.used
        read = self.parameters * (sampled.prompt + sampled.completion)
        flops = 2 * read * (1 + self.recipe.passes) + 6 * self.parameters * (used.prompt + used.completion)
        seconds = round(time.monotonic() - self.began, 3)
        groups = sampled.samples // self.recipe.group
        return Cost(groups, sampled.samples, sampled.prompt, sampled.completion, used.learned, flops, seconds)

    def write_card(self, folder: Path) -> None:
        versions = {name: import_module(name).__version__ for name in ("torch", "transformers", "trl")}
        facts = {
            "base": self.base,
            "recipe": asdict(self.recipe),
            "parameters": self.parameters,
            "cost": asdict(self.cost),
            "verdicts": dict(self.rewards.verdicts),
            "history": [asdict(update) for update in self.history],
            "versions": versions,
        }
        (folder / "card.json").write_text(json.dumps({"training": facts}, indent=1) + "\n", "utf-8")


_LOGGED = {
    "reward": "reward",
    "spread": "reward_std",
    "flat": "frac_reward_zero_std",
    "entropy": "entropy",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "clipped": "clip_ratio/region_mean",
    "kl": "kl",
}


def _train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rewards: Rewards,
    rows: Mapping[str, Sequence[object]],
    folder: Path,
    recipe: Recipe,
    step: Callable[[Mapping[str, float]], None],
) -> None:
    """Run TRL's trainer over the rows once, in their order; `step` is called after every optimizer step."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    class Logged(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_log(self, *_: object, logs: Mapping[str, float], **__: object) -> None:
            if "entropy" in logs:  # the last log sums up the run
                step(logs)

    trl = require("trl")
    answers = recipe.prompts * recipe.group
    batch = max(size for size in range(1, min(recipe.rows, answers) + 1) if answers % size == 0)
    given = models.settings(
        folder, epochs=1, batch=batch, rate=recipe.rate, seed=recipe.seed, accumulate=answers // batch, steps=recipe.steps
    ) | {
        "logging_steps": 1,
        "shuffle_dataset": False,
        "disable_dropout": True,  # the policy that learns is the one that sampled
        "num_generations": recipe.group,
        "num_iterations": recipe.iterations,
        "max_completion_length": recipe.max_tokens,
        "mask_truncated_completions": recipe.mask_truncated,
        "temperature": recipe.temperature,
        "epsilon": recipe.epsilon,
        "beta": recipe.beta,
    }
    kind, arguments = (trl.RLOOTrainer, trl.RLOOConfig) if recipe.algorithm == "rloo" else (trl.GRPOTrainer, trl.GRPOConfig)
    if recipe.algorithm == "grpo":
        given |= {"scale_rewards": recipe.scale_rewards or "group", "loss_type": recipe.loss_type or "dapo"}

    class Quiet(kind):  # type: ignore[misc, valid-type]  # trl is untyped here
        def _send_telemetry(self) -> None:
            """TRL would tell Hugging Face which trainer and architecture this is."""

    trainer = Quiet(
        model=model,
        reward_funcs=rewards,
        args=arguments(**given),
        train_dataset=Dataset.from_dict(dict(rows)),
        processing_class=tokenizer,
        callbacks=[Logged()],
    )
    trainer.remove_callback(PrinterCallback)  # standard output is for data
    trainer.train()


def _prompts(tokenizer: PreTrainedTokenizerBase, task: Task) -> list[tuple[str, int]]:
    """For each problem the text that TRL's tokenizing turns into the ids the policy reads, and how many they are."""
    prompts = []
    for problem in task.problems:
        text = models.render(tokenizer, problem.question.messages)
        ids = list(models.encode(tokenizer, problem.question.messages, (), finished=False).ids)
        forms = (text, text.removeprefix(tokenizer.bos_token or ""))  # a template may write what the tokenizer adds, too
        found = next((form for form in forms if tokenizer(form)["input_ids"] == ids), None)
        if found is None:
            raise DataError(
                f"the tokenizer adds tokens of its own to the prompt of {problem.question.id}; "
                "switch off add_bos_token and add_eos_token in the model's tokenizer_config.json"
            )
        prompts.append((found, len(ids)))
    return prompts


def _rows(prompts: Sequence[tuple[str, int]], recipe: Recipe, positions: int | None) -> dict[str, list[object]]:
    """The columns that TRL reads: one row for each group, problems in a new random order each time round."""
    longest = max((length for _, length in prompts), default=0)
    if not longest:
        raise UsageError("rl: the task has no problems")
    if positions is not None and longest + (recipe.max_tokens or 0) > positions:
        raise UsageError(
            f"rl: max_tokens = {recipe.max_tokens} after a prompt of {longest} tokens exceeds the model's {positions} positions; "
            f"at most {positions - longest} fit"
        )
    rng, order = random.Random(f"rl/{recipe.seed}"), list[int]()
    groups = recipe.steps // recipe.iterations * recipe.prompts
    while len(order) < groups:
        order += rng.sample(range(len(prompts)), len(prompts))
    columns: dict[str, list[object]] = {"prompt": [], "problem": [], "tokens": []}
    for at in order[:groups]:
        for name, value in zip(columns, (prompts[at][0], at, prompts[at][1]), strict=True):
            columns[name].append(value)
    return columns


def _decoder(tokenizer: PreTrainedTokenizerBase, base: Path) -> Callable[[Sequence[int]], str]:
    """From ids to text, special tokens written out as the lab's policy does, or left out as that of other models does."""
    hidden = not models.is_lab(base)

    def decode(ids: Sequence[int]) -> str:
        return cast("str", tokenizer.decode(ids, skip_special_tokens=hidden, clean_up_tokenization_spaces=False))

    return decode


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids that end an answer: those of the model's generation settings, and the tokenizer's."""
    ends = model.generation_config.eos_token_id
    listed = [] if ends is None else ends if isinstance(ends, list) else [ends]
    return frozenset([*listed, tokenizer.eos_token_id])


def _sample_by_engine(model: PreTrainedModel, base: Path, recipe: Recipe) -> None:
    """Let `generate`, which both trainers call, be the lab's engine with the weights of the moment.

    It reads the prompt of a group once and wastes no row on an answer that has ended. Answer i of a training is a function of
    (weights, prompt, seed, i).
    """
    import torch

    from ponder.lab.engine import Engine, Request
    from ponder.lab.model import prepare, read_shape
    from ponder.lab.tokenizer import PAD

    shape, number = read_shape(base / "config.json"), itertools.count()

    def generate(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> torch.Tensor:
        tensors = {name: tensor.detach().float().cpu().numpy() for name, tensor in model.state_dict().items()}
        requests = [
            Request(
                tuple(ids[mask.bool()].tolist()),
                _key(recipe.seed, next(number)),
                recipe.max_tokens or 1,
                temperature=recipe.temperature,
            )
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        drawn = Engine(prepare(shape, tensors, fingerprint="")).run(requests)
        width = max(len(one.ids) for one in drawn)
        answers = torch.full((len(drawn), width), PAD, dtype=input_ids.dtype, device=input_ids.device)
        for row, one in zip(answers, drawn, strict=True):
            row[: len(one.ids)] = torch.from_numpy(one.ids)
        return torch.cat([input_ids, answers], dim=1)

    model.generate = generate


def _key(seed: int, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"rl/{seed}/{index}".encode(), digest_size=8).digest(), "big")
