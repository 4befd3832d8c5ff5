"""Examples that teach a language model to judge: GenRM (Zhang et al. 2024, arXiv:2408.15240, section 3).

    L = L_SFT(verify) + lambda L_SFT(solve),    L_SFT(D) = -E_D sum over the tokens of the completion of log p

`verify` holds judgements: one word (`direct`), or a rationale that ends in one (`rationales`). `solve` holds right solutions. Rationales
are written by a policy that sees a reference (the paper's reference-guided grading) and taught without it; one whose verdict is not
the grader's is thrown away. That filters, it does not check: a rationale may be wrong and end right.

    asking = form("genrm_direct@1")                              # ponder.verifiers.judge
    verify = balanced(direct(train, asking), asking)
    both = unified(verify, solutions(train), 0.25)
    finetune(base, repeated(both, seed=0), out)

How a judge is asked comes in as an argument: give the form that it will be asked by.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import floor, inf
from random import Random
from typing import Protocol

from ponder.core import Policy, Sampling
from ponder.errors import DataError, UsageError
from ponder.learners.datasets import Sample
from ponder.run import Run
from ponder.types import Chain, Finish, Message


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the whole reply to learn. weight: what its log-loss counts for, above 0; `repeated` turns weights into repetitions."""

    problem: str
    prompt: tuple[Message, ...]
    completion: str
    weight: float = 1.0

    @property
    def steps(self) -> tuple[str, ...]:
        """The reply in one piece, as trainers of samples read it."""
        return (self.completion,)

    @property
    def finish(self) -> Finish:
        """A reply is taught to its end."""
        return "stop"


class Asking(Protocol):
    """How a judge is asked, and how its reply is read; `ponder.verifiers.judge.Form` is one."""

    @property
    def words(self) -> tuple[str, str]:
        """What it says of a right and of a wrong answer."""
        ...

    def ask(self, prompt: Sequence[Message], answer: str, reference: str = "") -> tuple[Message, ...]:
        """What it is asked."""
        ...

    def verdict(self, text: str) -> bool | None:
        """What a reply says, None where it cannot be read."""
        ...


def direct(samples: Iterable[Sample], asking: Asking) -> list[Example]:
    """One word for each sample that has text: the paper's D_Direct."""
    yes, no = asking.words
    return [Example(s.problem, asking.ask(s.prompt, s.text), yes if s.correct else no) for s in samples if s.text]


async def rationales(
    samples: Iterable[Sample],
    run: Run,
    asking: Asking,
    guided: Asking,
    references: Mapping[str, str],
    *,
    n: int = 4,
    most: int = 2,
    policy: Policy | None = None,
    sampling: Sampling | None = None,
) -> list[Example]:
    """Rationales that end in the grader's verdict, written with a reference in sight and taught without: the paper's D_CoT.

    Kept are replies that finished by "stop", say what the grader said, do not speak of a reference, and differ: at most `most` of an
    answer, in the order drawn. All that are drawn go through the run, in the stream "rationale", and are paid for.

    Args:
        samples: judged answers, right and wrong ones.
        run: its policy writes where `policy` is None.
        asking: how the judge will be asked.
        guided: how the writer is asked.
        references: for each problem a right solution, or the answer; a verified sample will do.
        n: rationales drawn for each answer, at least 1.
        most: kept of each answer, at least 1.
        policy: who writes.
        sampling: of the rationales; the run's where it is None.

    Raises:
        DataError: for a problem without a reference.
        UsageError: for an n or most below 1.
    """
    if n < 1 or most < 1:
        raise UsageError(f"rationales: n = {n} and most = {most} must be at least 1")
    samples = [sample for sample in samples if sample.text]
    if missing := [sample.problem for sample in samples if not references.get(sample.problem)]:
        raise DataError(f"rationales: problem {missing[0]!r} has no reference, which the writer is to judge by")
    if not samples:
        return []
    roots = [Chain(guided.ask(sample.prompt, sample.text, references[sample.problem])) for sample in samples]
    replies = await run.purpose("rationale").extend(roots, n=n, policy=policy, sampling=sampling)
    made = []
    for at, sample in enumerate(samples):
        drawn = [reply.text.strip() for reply in replies[at * n :][:n] if reply.finish == "stop"]
        kept = [text for text in drawn if guided.verdict(text) is sample.correct and "reference" not in text.lower()]
        prompt = asking.ask(sample.prompt, sample.text)
        made += [Example(sample.problem, prompt, text) for text in list(dict.fromkeys(kept))[:most]]
    return made


def balanced(examples: Iterable[Example], asking: Asking) -> list[Example]:
    """Judgements weighed so that those of right and of wrong answers count for half each, and an example for 1 in the mean.

    That takes the two means of the class-balanced loss separately, -E_right log p(yes) - E_wrong log p(no), and throws nothing away.

    Raises:
        DataError: when there are judgements of one kind only, or something that is none.
    """
    examples = list(examples)
    said = [asking.verdict(one.completion) for one in examples]
    count = Counter(said)
    if None in count:
        raise DataError(
            f"genrm: {examples[said.index(None)].completion[-80:]!r} is no judgement; balance before solutions are added"
        )
    if not count[True] or not count[False]:
        raise DataError(
            f"genrm: {count[True]} judgements of right and {count[False]} of wrong answers; a judge learns from both, so sample more"
        )
    return [
        replace(one, weight=one.weight * len(said) / (2 * count[verdict])) for one, verdict in zip(examples, said, strict=True)
    ]


def solutions(samples: Iterable[Sample]) -> list[Example]:
    """The right samples as what to write to their own prompts: the paper's D_correct."""
    return [Example(sample.problem, sample.prompt, sample.text) for sample in samples if sample.correct]


def unified(verify: Sequence[Example], solve: Sequence[Example], weight: float) -> list[Example]:
    """Both kinds together, the solutions weighed so that all of them count for `weight` (lambda) times all judgements.

    Raises:
        UsageError: for a weight below 0.
        DataError: when there are no judgements, or no solutions and a weight above 0.
    """
    if not 0 <= weight < inf:
        raise UsageError(f"unified: weight = {weight} must be a number of at least 0")
    if not verify or (weight and not solve):
        raise DataError(f"unified: {len(verify)} judgements and {len(solve)} solutions; a mixture needs both")
    if not weight:
        return list(verify)
    judged, solved = (sum(one.weight for one in kind) for kind in (verify, solve))
    return [*verify, *(replace(one, weight=one.weight * weight * judged / solved) for one in solve)]


def repeated(examples: Iterable[Example], *, seed: int) -> list[Example]:
    """Each example as often as it weighs, for trainers that know no weights: floor(w) times, and once more with probability w - floor(w).

    Expected repetitions are the weights, so a trainer that adds up the log-loss of the tokens it sees minimises the weighted loss in
    expectation. Deviation: `ponder.learners.policy.finetune` takes the mean over the tokens of a step, whose examples are of like length.
    Where judgements and solutions fall into different steps, a step of judgements in one word counts as much as one of long solutions,
    so that solutions weigh less than lambda by about the ratio of their completions' lengths. The order is that of the examples; which fractions come out is a function of `seed`.
    """
    random = Random(f"genrm/{seed}")
    return [replace(one, weight=1.0) for one in examples for _ in range(floor(one.weight + random.random()))]
