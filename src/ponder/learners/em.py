"""Expectation-maximisation with verified samples: one loop, whose published forms are assignments of its fields.

E-step: sample chains of training problems from the policy, keep what is verified. M-step: maximise the log-likelihood of what was kept,
sum over kept (x, y) of log p(y | x). Which weights the M-step starts from, how much of what is kept, and what verifies, is all in
which the methods differ:

star      one sample a problem, from the base each round; failures are sampled again with the answer as a hint, which is stripped
          before training (Zelikman et al. 2022, arXiv:2203.14465, algorithm 1)
rest      a batch grown once a round, the policy trained on from round to round (Gulcehre et al. 2023, arXiv:2308.08998; with the
          verdict as reward there is one threshold)
rest_em   many samples, from the base each round, at most 10 a problem (Singh et al. 2023, arXiv:2312.06585, algorithm 1 and section 3)
rft       one round of many samples, those with distinct equations kept (Yuan et al. 2023, arXiv:2308.01825, section 3.3)
bond      one round: of n samples the one that a verifier believes most, right or not (best-of-n distillation; Cobbe et al. 2021,
          arXiv:2110.14168, as data for the policy)
vstar     from the base on the samples of all rounds so far, with a verifier by preference beside it (Hosseini et al. 2024, arXiv:2402.06457)

Here the sampling, the grading and the training are somebody else's; this file decides what is trained on, and when to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ponder.core import Sampling
from ponder.errors import UsageError
from ponder.learners import datasets
from ponder.learners.datasets import Sample

Dedupe = Literal["none", "chain", "derivation"]
Beside = Literal["", "preference", "outcome", "process"]


@dataclass(frozen=True, slots=True)
class EM:
    """The choices of the loop.

    Attributes:
        rounds: at most so many.
        samples: of each training problem in each round.
        temperature: of these samples.
        restart: train from the base each round, else from the last round's policy.
        grow: train on the samples of all rounds so far, else on the last round's.
        dedupe: what counts as the same chain: nothing, its text, or its list of equations.
        cap: kept samples of one problem, 0 for all.
        verifier: spec of a verifier; of each problem's samples the one it believes most is kept, right or not. Empty: the grader decides.
        rationalise: problems without a right sample are sampled again with the answer as a hint.
        beside: the verifier that is trained on the samples of all rounds beside the policy: by `preference` from the round's policy, as
            V-STaR does, or an `outcome` or `process` reward model from the base; none when empty.
        pairs: of right and wrong samples of one problem at most, for the verifier by preference.
        patience: rounds that may pass without a gain in held-out pass@1 or pass@k before the loop stops; 0 never stops early.
    """

    rounds: int = 3
    samples: int = 32
    temperature: float = 1.0
    restart: bool = True
    grow: bool = False
    dedupe: Dedupe = "chain"
    cap: int = 10
    verifier: str = ""
    rationalise: bool = False
    beside: Beside = ""
    pairs: int = 8
    patience: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (
            ("rounds", self.rounds, 1),
            ("samples", self.samples, 1),
            ("cap", self.cap, 0),
            ("pairs", self.pairs, 1),
            ("patience", self.patience, 0),
        ):
            if value < least:
                raise UsageError(f"em: {name} = {value} must be at least {least}")
        Sampling(temperature=self.temperature)
        if self.dedupe not in ("none", "chain", "derivation"):
            raise UsageError(f"em: dedupe = {self.dedupe!r} must be none, chain or derivation")
        if self.beside not in ("", "preference", "outcome", "process"):
            raise UsageError(f"em: beside = {self.beside!r} must be empty, preference, outcome or process")
        if self.verifier and self.samples < 2:
            raise UsageError(f"em: a verifier that chooses among {self.samples} sample has no choice; give samples of 2 or more")


METHODS: dict[str, EM] = {
    "star": EM(samples=1, cap=1, rationalise=True),
    "rest": EM(restart=False, cap=0),
    "rest_em": EM(),
    "rft": EM(rounds=1, samples=100, dedupe="derivation", cap=0),
    "bond": EM(rounds=1, dedupe="none", cap=1),
    "vstar": EM(grow=True, beside="preference", cap=0),
}


def e_step(
    rounds: Sequence[Iterable[Sample]], em: EM, seed: int, chosen: frozenset[tuple[str, str]] = frozenset()
) -> list[Sample]:
    """What is trained on: of the samples of each round so far, oldest first, those that the method keeps.

    chosen: (problem, text) of what a verifier chose, where `em.verifier` says so: these alone are kept, whatever the grader says, and
    marked correct, since the learner is to imitate them. Rationalised samples come among a round's own, under their problem's own prompt.
    """
    pool = [sample for one in (rounds if em.grow else rounds[-1:]) for sample in one]
    if em.verifier:
        kept = [replace(sample, correct=True) for sample in pool if (sample.problem, sample.text) in chosen]
    else:
        kept = [sample for sample in pool if sample.correct]
    if em.dedupe != "none":
        kept = datasets.distinct(kept, datasets.derivation if em.dedupe == "derivation" else datasets.folded)
    return datasets.cap(kept, em.cap, seed=seed) if em.cap else kept


def unsolved(samples: Iterable[Sample]) -> frozenset[str]:
    """The problems none of whose samples is right: those that a hint is given for."""
    solved: dict[str, bool] = {}
    for sample in samples:
        solved[sample.problem] = solved.get(sample.problem, False) or sample.correct
    return frozenset(problem for problem, right in solved.items() if not right)


@dataclass(frozen=True, slots=True)
class Found:
    """What a strategy reached on held-out problems: accuracy with its 95% interval, mean tokens a question (verifier included)."""

    accuracy: float
    low: float
    high: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Report:
    """What one round came to; round 0 is the base.

    Attributes:
        round: its number.
        sampled_tokens: of the E-steps up to and with this round: completion tokens, hints included, and positions scored by the verifier
            that chooses.
        kept: examples trained on in this round.
        trained_tokens: read by the M-steps so far, those of verifiers included.
        train_flops: of E- and M-steps so far: 2 x the policy's parameters for a token sampled or scored, what `learners.training.Cost` says
            for those trained on.
        pass_at: held-out pass@k by k, unbiased.
        low, high: 95% intervals of pass@1, bootstrapped over problems.
        entropy: nats a token of held-out samples at temperature 1.
        problems: held-out ones.
        search: what each strategy reached with the round's policy and verifier.
        held_out_tokens: of measuring up to and with this round, which early stopping cannot do without: samples, searches, and positions
            that verifiers scored. No part of the training's FLOPs.
    """

    round: int
    sampled_tokens: int
    kept: int
    trained_tokens: int
    train_flops: float
    pass_at: dict[int, float]
    low: float
    high: float
    entropy: float
    problems: int
    search: dict[str, Found]
    held_out_tokens: int = 0


def stalled(reports: Sequence[Report], patience: int) -> bool:
    """Whether neither pass@1 nor pass@k (the largest k) has had a new best for `patience` rounds; never for patience 0."""
    if not patience or len(reports) <= patience:
        return False
    largest = max(reports[0].pass_at)
    late = reports[-patience:]
    before = reports[:-patience]
    return all(max(report.pass_at[k] for report in late) <= max(report.pass_at[k] for report in before) for k in (1, largest))


def best(reports: Sequence[Report]) -> Report:
    """The round with the highest held-out pass@1, the earliest among equals: what the loop hands out."""
    return max(reports, key=lambda report: (report.pass_at[1], -report.round))
