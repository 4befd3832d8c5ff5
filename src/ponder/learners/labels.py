"""Step labels from verdicts: of the chains that go through a prefix, how many ended right. Pure: samples nothing, reads no file.

A chain of T steps has the prefixes 0 (the root) to T (the whole chain). The value of step t *includes* the step it scores: it is
that of prefix t, r(z_t) = (1/N) sum_n Ver(y^n) with y^n ~ p(. | x, z_1..t). Nothing is estimated for the whole chain: it has a
verdict. `Tree` counts verdicts, `Counted` is a chain with what the tree knows of its prefixes, and `soft`, `hard`, `first_error`
and `progress` read it in the ways of the papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import comb
from typing import TYPE_CHECKING, TypeAlias

from ponder.errors import UsageError
from ponder.types import Message

if TYPE_CHECKING:
    from ponder.learners.datasets import Sample

Label: TypeAlias = float | None


@dataclass(frozen=True, slots=True)
class Stepwise:
    """A chain with a label for each step.

    steps are texts that join to the answer. labels lie in [0, 1]; None is unknown and takes no part in a loss. finished: the chain
    came to its end. Raises `UsageError` for a label too many, too few or out of range.
    """

    problem: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    labels: tuple[Label, ...]
    finished: bool = True

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.steps):
            raise UsageError(f"problem {self.problem}: {len(self.labels)} labels for {len(self.steps)} steps; one each is needed")
        for label in self.labels:
            if label is not None and not 0.0 <= label <= 1.0:
                raise UsageError(f"problem {self.problem}: a label is {label!r}; it must lie in [0, 1], or be None")


@dataclass(frozen=True, slots=True)
class Count:
    """Of `total` chains drawn from a prefix, `right` ended right."""

    right: int = 0
    total: int = 0

    def value(self, best_of: int = 1) -> Label:
        """The chance that at least one of `best_of` chains from here is right: 1 - C(n - c, k) / C(n, k), unbiased; None for fewer draws.

        With best_of = 1 it is the share of right ones.
        """
        if self.total < best_of:
            return None
        subsets = comb(self.total, best_of)
        return (subsets - comb(self.total - self.right, best_of)) / subsets


@dataclass(frozen=True, slots=True)
class Counted:
    """A chain, its verdict, and what was found at its prefixes.

    counts: of the prefixes 0 .. T-1. reached: a right end was found through the prefix of so many steps, hence through every shorter
    one too, wherever it was drawn; so 0 claims nothing. lazy: roll-outs stopped at the first right one, so that shares are biased.
    finished: the chain ended by itself; the last step of one that was cut has no label.
    """

    problem: str
    prompt: tuple[Message, ...]
    steps: tuple[str, ...]
    correct: bool
    counts: tuple[Count, ...]
    reached: int = 0
    lazy: bool = False
    finished: bool = True

    def values(self, best_of: int = 1) -> tuple[Label, ...]:
        """T + 1 values: V(root), then Q after each step, the last of which is the verdict. Raises `UsageError` for lazy counts."""
        if self.lazy:
            raise UsageError(
                f"problem {self.problem}: its roll-outs stopped at the first right one, which makes shares too high (.10 reads .26); "
                "take hard labels, or roll out with lazy=0"
            )
        return (*(count.value(best_of) for count in self.counts), self._verdict)

    def labelled(self, labels: Iterable[Label]) -> Stepwise:
        """This chain with these labels of its steps but the last, whose label is the verdict."""
        return Stepwise(self.problem, self.prompt, self.steps, (*labels, self._verdict), self.finished)

    @property
    def _verdict(self) -> Label:
        return float(self.correct) if self.finished else None


@dataclass(slots=True)
class Tree:
    """Verdicts by prefix: a node for each text that chains go through, children by the text of the next step.

    right of total: chains that count as draws from here. reached: some chain through here ended right, drawn here or not.
    """

    right: int = 0
    total: int = 0
    reached: bool = False
    children: dict[str, Tree] = field(default_factory=dict)

    def path(self, steps: Sequence[str]) -> list[Tree]:
        """The T + 1 nodes along these steps, this one first; made where they are missing."""
        nodes = [self]
        for step in steps:
            nodes.append(nodes[-1].children.setdefault(step, Tree()))
        return nodes

    def add(self, steps: Sequence[str], right: bool, draws: range) -> None:
        """Note how a chain ended, as a draw from its prefixes `draws`.

        A chain continued from prefix d is a fair draw from d and from every longer prefix it goes through, and from no shorter one:
        range(d, T + 1).
        """
        for at, node in enumerate(self.path(steps)):
            node.reached |= right
            if at in draws:
                node.right += right
                node.total += 1

    def counted(self, problem: str, prompt: tuple[Message, ...], steps: Sequence[str], correct: bool) -> Counted:
        """A chain with what is known of its prefixes."""
        nodes = self.path(steps)[:-1]
        counts = tuple(Count(node.right, node.total) for node in nodes)
        reached = max((at for at, node in enumerate(nodes) if node.reached), default=0)
        return Counted(problem, prompt, tuple(steps), correct, counts, reached)


def from_samples(samples: Iterable[Sample]) -> list[Counted]:
    """Whole samples, each with the verdicts of all that share its prefixes: labels that cost no roll-out.

    Without bias if all samples are given that were drawn: before any filter, equal ones as often as they came. Few share a prefix far
    from the root; where only the sample itself goes through, the value is its own verdict (`least` of `soft` and `hard` leaves such
    steps out). Samples that failed, were cancelled or are empty are left out; one cut by length counts as wrong.
    """
    drawn = [sample for sample in samples if sample.finish in ("stop", "length") and sample.steps]
    trees: dict[tuple[str, tuple[Message, ...]], Tree] = {}
    for sample in drawn:
        tree = trees.setdefault((sample.problem, sample.prompt), Tree())
        tree.add(sample.steps, sample.correct, range(len(sample.steps) + 1))
    found = []
    for sample in drawn:
        one = trees[sample.problem, sample.prompt].counted(sample.problem, sample.prompt, sample.steps, sample.correct)
        found.append(replace(one, finished=sample.finish == "stop"))
    return found


def soft(chain: Counted, least: int = 1) -> Stepwise:
    """The share of right roll-outs, y_i = (1/N) sum_j 1[a_j = a*] (SE; Math-Shepherd, arXiv:2312.08935, eq. 4).

    Unknown where fewer than `least` roll-outs were drawn. Raises `UsageError` for lazy counts.
    """
    values = chain.values()[1:-1]
    return chain.labelled(value if count.total >= least else None for value, count in zip(values, chain.counts[1:], strict=True))


def hard(chain: Counted, least: int = 1) -> Stepwise:
    """1 if any roll-out is right, y_i = 1[exists j: a_j = a*] (HE; Math-Shepherd, arXiv:2312.08935, eq. 3).

    Every right end that is known of counts, so a zero is unknown below `least` roll-outs, a one never.
    """
    return chain.labelled(_hard(chain, at, least) for at in range(1, len(chain.steps)))


def bounds(chain: Counted, least: int) -> tuple[int, int]:
    """Between which prefixes the first error lies: (longest with a right end, shortest longer one with `least` roll-outs, all wrong).

    The first error is step `high` where high = low + 1. The root's right end is taken for granted, and a wrong chain is itself the
    high end where nothing shorter is; a right chain gives (T, T + 1).
    """
    whole = len(chain.steps)
    if chain.correct:
        return whole, whole + 1
    low = max([chain.reached, *(at for at, count in enumerate(chain.counts) if count.right)])
    return low, next((at for at in range(low + 1, whole) if chain.counts[at].total >= least), whole)


def contradiction(chain: Counted, least: int) -> int | None:
    """The first prefix of a wrong chain whose `least` roll-outs were all wrong though a right end is known further on, or no other is.

    The last is said of the root: the binary search takes for granted that the policy can solve the problem.
    """
    if chain.correct:
        return None
    low, _ = bounds(chain, least)
    known = enumerate(chain.counts[: low + 1])
    return next((at for at, count in known if count.total >= least and not count.right and (at or not low)), None)


def first_error(chain: Counted, least: int, *, after: Label = 0.0) -> Stepwise:
    """1 before the first error, 0 at it, `after` behind it (OmegaPRM, arXiv:2406.06592): no step recovers from an error.

    Unknown are the steps between the bounds where the search did not end, and from a contradiction on: then roll-outs missed a
    right end, the policy recovered, or it cannot solve the problem at all. A right chain has ones throughout: its steps are taken
    for right because its answer is, which a lucky error belies.
    """
    low, high = bounds(chain, least)
    broken = contradiction(chain, least)
    known = low if broken is None else broken - 1

    def label(at: int) -> Label:
        if at <= known:
            return 1.0
        if broken is not None or at < high:
            return None
        return 0.0 if at == high else after

    return chain.labelled(map(label, range(1, len(chain.steps))))


def advantages(values: Sequence[Label]) -> tuple[Label, ...]:
    """A(s_t, z_t) = Q(s_t, z_t) - V(s_t), T numbers in [-1, 1] from T + 1 values: V(s_t) is Q of the prefix one step shorter.

    PAV (arXiv:2410.08146), with the values of the prover, who need not be the policy that wrote the chain.
    """
    return tuple(None if before is None or value is None else value - before for before, value in pairwise(values))


def progress(chain: Counted, prover: Counted | None = None, *, best_of: int = 1, alpha: float | None = None) -> Stepwise:
    """Process advantage as a label (PAV, arXiv:2410.08146): the prover's progress A alone, or the search score Q + alpha * A.

    Mapped into [0, 1]: (A + 1) / 2, so that .5 is no progress; or (Q + alpha A + alpha) / (1 + 2 alpha), which is `soft` at alpha = 0.
    Q is the chain's own, A that of `prover`: counts of the same chain by roll-outs of another policy, or the same counts where None.
    best_of: the prover is best-of-k of whoever rolled out, under a perfect choice. Unlike other labels that of the last step is not
    the verdict, but what the step added to it. Raises `UsageError` for lazy counts, another chain, an alpha below 0 or a best_of below 1.
    """
    prover = prover or chain
    if prover.steps != chain.steps or prover.prompt != chain.prompt:
        raise UsageError(f"problem {chain.problem}: the prover's counts are those of another chain")
    if best_of < 1 or (alpha is not None and not alpha >= 0):
        raise UsageError(f"progress: best_of = {best_of} must be at least 1, and alpha = {alpha} None or at least 0")

    def mapped(q: Label, a: Label) -> Label:
        if a is None or q is None:
            return None
        value = (a + 1) / 2 if alpha is None else (q + alpha * a + alpha) / (1 + 2 * alpha)
        return min(1.0, max(0.0, value))  # rounding

    labels = map(mapped, chain.values()[1:], advantages(prover.values(best_of)))
    return Stepwise(chain.problem, chain.prompt, chain.steps, tuple(labels), chain.finished)


def weighted_values(good: Sequence[bool]) -> tuple[float, ...]:
    """v_1 .. v_K of ReST-MCTS* (arXiv:2406.03816): progress so far, which is k / K as long as all steps are good.

    v_k = max(v_{k-1} + w_k, 0), v_0 = 0, w_k = (1 - v_{k-1}) / (m_k + 1) * (1 - 2 r_k), where m_k = K - k steps remain and r_k is 0
    for a good step, 1 for a bad one. A good last step always brings 1, so steps that follow from an error must be called bad.
    """
    values, before = [], 0.0
    for at, fine in enumerate(good, 1):
        before = max(0.0, before + (1 - before) / (len(good) - at + 1) * (1 if fine else -1))
        values.append(before)
    return tuple(values)


def _hard(chain: Counted, at: int, least: int) -> Label:
    if at <= chain.reached or chain.counts[at].right:
        return 1.0
    return 0.0 if chain.counts[at].total >= least else None
