"""What the verbs of learning do: samples out of studies, a trainer, and how far the result can be believed."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ponder.cli import output
from ponder.cli.harvest import harvest
from ponder.core import PolicyInfo, Verifier, parts
from ponder.errors import DataError, UsageError
from ponder.learners.datasets import Sample, check_split, distinct, split
from ponder.run import Run, solve
from ponder.scaling.calibration import Report, calibrate
from ponder.spec import parse
from ponder.types import Chain, Question, Score, Step, user

if TYPE_CHECKING:
    from ponder.learners.training import Trained


@dataclass(frozen=True, slots=True)
class Data:
    """Judged samples, some to train on, those of other problems to measure on."""

    train: list[Sample]
    held_out: list[Sample]


def gather(studies: Sequence[Path], *, share: float, seed: int, step: str, distinct_only: bool = True) -> Data:
    """The samples of studies, split by problem: `share` of the problems are held out; training samples are distinct if so asked.

    What is passed over is said on stderr. Raises `DataError` where a side would be empty, or a problem on both.
    """
    skipped: Counter[str] = Counter()
    samples = list(harvest(studies, separator=step, skipped=skipped))
    for reason, count in skipped.items():
        print(f"ponder: {count} samples passed over: {reason}", file=sys.stderr)
    train, held_out = split(samples, share=share, seed=seed)
    check_split(train, held_out)
    kept = distinct(train) if distinct_only else train
    right = sum(sample.correct for sample in kept)
    print(
        f"ponder: {len(kept)} samples to train on, {right} of them right; {len(held_out)} of other problems to measure on",
        file=sys.stderr,
    )
    return Data(kept, held_out)


def scores_of(verifier: Verifier, samples: Sequence[Sample]) -> list[Score]:
    """What a verifier says of each sample, in order, without a bank. A verifier that needs the run's own policy has none here."""
    return _scored(verifier, _chains(samples))[0]


def scores_of_chains(verifier: Verifier, chains: Sequence[Chain]) -> list[Score]:
    """What a verifier says of each chain, in order, without a bank."""
    return _scored(verifier, chains)[0]


def _chains(samples: Sequence[Sample]) -> list[Chain]:
    return [Chain(sample.prompt, tuple(Step(step) for step in sample.steps), sample.finish) for sample in samples]


def _scored(verifier: Verifier, chains: Sequence[Chain]) -> tuple[list[Score], int]:
    """The scores, and the tokens that were read and written for them."""
    found: list[Score] = []

    @dataclass(frozen=True)
    class Ready:
        async def __call__(self, root: Chain, run: Run) -> None:
            found.extend(await run.score(verifier, chains))

    async def opened() -> int:
        async with AsyncExitStack() as stack:
            for part in parts(verifier):
                if hasattr(part, "__aenter__"):
                    await stack.enter_async_context(part)  # type: ignore[arg-type]  # checked by the attribute above
            spent = (await solve(Ready(), Question("calibration", (user(""),)), _Nobody())).spent.usage
            return spent.prompt + spent.tokens

    return found, asyncio.run(opened())


def measure(spec: str, samples: Sequence[Sample]) -> tuple[Report, int]:
    """The calibration of a verifier on samples of problems it has not seen, and the tokens that took.

    Raises `DataError` when there is none that finished.
    """
    ended = [sample for sample in samples if sample.finish == "stop"]
    if not ended:
        raise DataError("no held-out sample finished, so nothing can be measured; hold out more problems (--share)")
    scores, tokens = _scored(cast("Verifier", parse(spec, "verifiers")), _chains(ended))
    values = [float("nan") if score.value is None else score.value for score in scores]
    if all(score.value is None for score in scores):
        raise DataError(f"{spec}: none of {len(scores)} held-out samples could be scored: {scores[0].error}; train it longer")
    levels = [sample.difficulty for sample in ended]
    return calibrate(values, [sample.correct for sample in ended], [sample.problem for sample in ended], levels), tokens


def finish(trained: Trained, spec: str, held_out: Sequence[Sample], beside: int = 0, *, as_json: bool) -> None:
    """Measure what was trained, keep the report beside it, and print both with the bill.

    beside: tokens that an earlier verifier took for weights, or a writer for rationales; like those of measuring they are no part of the
    training's FLOPs.
    """
    report, measuring = measure(spec, held_out)
    report.save(trained.folder)
    cost = trained.cost
    if as_json:
        whole = report.whole
        body = {"verifier": spec, "examples": trained.examples, "dropped": trained.dropped, "tokens": cost.tokens}
        body |= {"flops": cost.flops, "seconds": cost.seconds, "beside_tokens": beside, "measuring_tokens": measuring}
        body["ece"] = report.equal_width.ece
        body |= {"auc": whole.auc and whole.auc.value, "auc_within": whole.auc_within and whole.auc_within.value}
        print(json.dumps(body))
        return
    print(output.clean(report.table()), end="")
    print(
        f"ponder: {trained.examples} examples, {cost.tokens:,} tokens, {cost.flops:.3g} FLOPs, {cost.seconds:.0f} s, and {beside:,} tokens "
        f"beside, {measuring:,} to measure it; use it as {spec}",
        file=sys.stderr,
    )


def hard(samples: Sequence[Sample], spec: str, weight: float, threshold: float = 0.5) -> tuple[list[float] | None, int]:
    """Weights of samples, `weight` for wrong ones that an earlier verifier believes, 1 for all others, and the tokens that took.

    None and 0 without a verifier. What it cannot score weighs 1, and is counted on stderr.
    What best-of-n by that verifier would choose wrongly are the errors it must unlearn.
    """
    if not spec:
        return None, 0
    if not 0 < weight < inf:
        raise UsageError(f"--hard-weight = {weight} must be a number above 0")
    scores, tokens = _scored(cast("Verifier", parse(spec, "verifiers")), _chains(samples))
    unscored = [score.error for score in scores if score.value is None]
    if unscored:
        print(f"ponder: {len(unscored)} samples that {spec} cannot score weigh 1 (the first: {unscored[0]})", file=sys.stderr)
    fooled = [not s.correct and (score.value or 0.0) >= threshold for s, score in zip(samples, scores, strict=True)]
    print(f"ponder: {sum(fooled)} wrong samples that {spec} believes weigh {weight:g}", file=sys.stderr)
    return [weight if one else 1.0 for one in fooled], tokens


class _Nobody:
    """Stands for the policy of a run that only scores."""

    info = PolicyInfo("nobody", "nobody", frozenset({"continue", "logprobs"}))

    async def sample(self, *_: object, **__: object) -> list[list[Chain]]:
        """Refused."""
        raise UsageError("this verifier samples from the run's own policy, and there is none here; name the policy in its spec")
