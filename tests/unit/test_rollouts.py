"""Labelling by roll-outs: closed forms, searches worked by hand, and what the door promises."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import ceil, log2

import pytest
from rollouts_cases import Book, ends_well, found, no_b

from fakes import QUESTION, Flaky, Scripted, question, solved, words
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, PolicyInfo, Sampling
from ponder.errors import OracleError, UsageError
from ponder.learners.labels import Count, first_error, hard, soft
from ponder.learners.rollouts import OmegaTree, StepRollouts, cut_steps, labelled
from ponder.testing import MarkovPolicy, MazePolicy
from ponder.types import Chain, Step, Tokens, Usage, user

SPREAD = 3.0  # standard errors


# ---- closed forms ----


@pytest.mark.slow
@pytest.mark.parametrize("reuse", [False, True])
def test_exhaustive_shares_are_the_values_of_the_prefixes(reuse):
    """In a maze a prefix of t right turns is worth p ** (depth - t), any other nothing."""
    p, depth, k = 0.8, 5, 300
    one = found(StepRollouts(n=3, k=k, reuse=reuse, root=True), MazePolicy(p, depth), question=question(1))
    for chain in one.chains:
        for at, count in enumerate(chain.counts):
            value = p ** (depth - at) if "b" not in "".join(chain.steps[:at]) else 0.0
            assert abs(count.value() - value) <= SPREAD * (value * (1 - value) / count.total) ** 0.5
            assert count.total >= k


@pytest.mark.slow
def test_reuse_gives_no_bias_though_chains_count_for_their_own_prefixes():
    """Averaged over many problems, so that a lean towards a chain's own verdict would show."""
    p, depth, problems, k = 0.7, 3, 200, 3
    counts = [
        chain.counts[1]
        for at in range(problems)
        for chain in found(StepRollouts(n=2, k=k), MazePolicy(p, depth), question=question(at)).chains
        if chain.steps[0] == "a\n"
    ]
    mean, value = sum(count.value() for count in counts) / len(counts), p ** (depth - 1)
    assert len(counts) > 100
    assert abs(mean - value) <= SPREAD * (value * (1 - value) / k / len(counts)) ** 0.5 * 1.5  # chains of a problem share draws


def test_exhaustive_labelling_takes_k_roll_outs_of_every_prefix_but_the_whole_and_equal_prefixes_once():
    k, depth = 4, 7
    single = found(StepRollouts(n=1, k=k, reuse=False), MazePolicy(0.5, depth))
    assert single.rollouts == k * (depth - 1)
    assert {count.total for count in single.chains[0].counts[1:]} == {k}
    assert single.chains[0].counts[0] == Count()
    several = found(StepRollouts(n=8, k=k, reuse=False), MazePolicy(0.5, depth))
    prefixes = {chain.steps[:at] for chain in several.chains for at in range(1, depth)}
    assert several.rollouts == k * len(prefixes) < k * (depth - 1) * len(several.chains)


def test_reuse_needs_fewer_roll_outs_for_as_many_draws():
    alone, shared = (found(StepRollouts(n=4, k=8, reuse=reuse), MazePolicy(0.9, 10)) for reuse in (False, True))
    assert shared.rollouts < alone.rollouts / 2
    assert all(count.total >= 8 for chain in shared.chains for count in chain.counts[1:])


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3, 8, 13, 16])
def test_the_binary_search_finds_the_first_error_exactly_with_k_log_t_roll_outs(depth):
    k, wrong = 40, 0
    for at in range(10):
        one = found(StepRollouts(n=1, k=k, method="binary", reuse=False), MazePolicy(0.9, depth), question=question(at))
        [chain] = one.chains
        right = "".join(chain.steps).partition("b")[0].count("a")
        assert first_error(chain, k).labels == (1.0,) * right + (0.0,) * (depth - right)
        assert one.rollouts <= k * ceil(log2(depth))
        assert one.rollouts == 0 or not chain.correct
        wrong += not chain.correct
    assert wrong > 0


def test_the_searches_of_all_chains_share_prefixes_and_what_is_right_elsewhere():
    k = 30
    apart, shared = (found(StepRollouts(n=12, k=k, method="binary", reuse=reuse), MazePolicy(0.9, 8)) for reuse in (False, True))
    assert shared.rollouts < apart.rollouts
    for one in (*apart.chains, *shared.chains):
        right = "".join(one.steps).partition("b")[0].count("a")
        assert first_error(one, k).labels == (1.0,) * right + (0.0,) * (8 - right)


def test_a_policy_that_recovers_has_soft_labels_between_and_the_truth_is_absorption():
    walk = {"start": {"good": 0.5, "bad": 0.5}, "good": {"end": 0.9, "off": 0.1}, "bad": {"end": 0.3, "off": 0.7}}
    k, values = 500, {"good": 0.9, "bad": 0.3}
    for chain in found(StepRollouts(n=6, k=k, reuse=False), MarkovPolicy(walk), ends_well).chains:
        value = values[chain.steps[0].strip()]
        assert value == MarkovPolicy(walk, chain.steps[0].strip()).answers()["end"]
        assert abs(soft(chain).labels[0] - value) <= SPREAD * (value * (1 - value) / k) ** 0.5


# ---- the door ----


def test_roll_outs_have_a_stream_of_their_own():
    """The root is extended in both streams, and its children differ: nothing of a proposal's future reaches a label."""

    @dataclass
    class Listening:
        policy: MazePolicy
        heard: dict[str, list[str]] = field(default_factory=dict)

        @property
        def info(self) -> PolicyInfo:
            return self.policy.info

        async def sample(self, asks, *, until, sampling):
            lines = await self.policy.sample(asks, until=until, sampling=sampling)
            for ask, line in zip(asks, lines, strict=True):
                if not ask.chain.text:
                    self.heard.setdefault(ask.stream, []).extend(child.text for child in line)
                assert ask.stream == "3/rollout" or not ask.chain.text
            return lines

    policy = Listening(MazePolicy(0.5, 30))
    found(StepRollouts(n=1, k=1, root=True, reuse=False), policy, seed=3)
    assert set(policy.heard) == {"3", "3/rollout"}
    assert len(policy.heard["3"]) == len(policy.heard["3/rollout"]) == 1
    assert set(policy.heard["3"]).isdisjoint(policy.heard["3/rollout"])


STRATEGIES = [
    StepRollouts(n=4, k=3),
    StepRollouts(n=4, k=3, reuse=False, root=True),
    StepRollouts(n=4, k=3, method="binary", lazy=2, verify=True),
    OmegaTree(k=4, searches=5),
]


every = pytest.mark.parametrize("strategy", STRATEGIES, ids=["reuse", "exhaustive", "binary", "tree"])


@every
def test_the_same_bank_gives_the_same_labels_at_no_cost(strategy):
    policy, bank = MazePolicy(0.8, 9), TableBank(MemoryTable())
    first = found(strategy, policy, bank=bank)
    paid = policy.calls
    assert paid > 0
    assert found(strategy, policy, bank=bank) == first
    assert policy.calls == paid
    assert found(strategy, MazePolicy(0.8, 9)) == first


@every
@pytest.mark.parametrize("unit", ["samples", "tokens", "calls"])
def test_a_budget_is_kept_and_labels_out_of_budget_are_unknown_or_those_of_the_whole_run(strategy, unit):
    bank = TableBank(MemoryTable())
    whole = {chain.steps: chain for chain in found(strategy, MazePolicy(0.8, 9), bank=bank).chains}
    for limit in (1, 5, 20, 33, 47, 80, 131):
        outcome = solved(strategy, MazePolicy(0.8, 9), judge=no_b, bank=bank, budget=Budget(**{unit: limit}))
        spent = outcome.spent
        assert {"samples": spent.samples, "tokens": spent.usage.tokens, "calls": spent.usage.calls}[unit] <= limit
        part = labelled(strategy, QUESTION.id, outcome)
        assert part.tokens == spent.usage.tokens
        for chain in part.chains:
            for count, full in zip(chain.counts, whole[chain.steps].counts, strict=True):
                assert count.total <= full.total
            for label, full in zip(hard(chain, strategy.k).labels, hard(whole[chain.steps], strategy.k).labels, strict=True):
                assert label is None or label == full or (label, full) == (0.0, 1.0)


def test_a_roll_out_that_the_budget_cut_is_no_verdict():
    """Two chains of four tokens, then roll-outs of three: a budget of 12 cuts the second one after a token."""
    strategy = StepRollouts(n=2, k=2, reuse=False)
    outcome = solved(strategy, MazePolicy(1.0, 4), judge=no_b, budget=Budget(tokens=12))
    [chain] = labelled(strategy, QUESTION.id, outcome).chains
    assert outcome.exhausted
    assert chain.counts[1] == Count(1, 1)
    assert hard(chain, 2).labels == (1.0, None, None, 1.0)


def test_a_roll_out_that_ends_by_length_is_not_right():
    """Roll-outs that dawdle run into the cap; the chain they start from did not."""
    pages = Book({"": ("1\n2\nend\n",), "1\n": ("slow\n" * 9 + "end\n", "end\n"), "1\n2\n": ("end\n",)}, cap=20)
    one = found(StepRollouts(k=2, reuse=False), pages, ends_well)
    assert one.chains[0].counts[1:] == (Count(1, 2), Count(2, 2))


def test_a_roll_out_that_ends_by_length_is_not_searched_for_an_error():
    pages = Book({"": ("slow\n" * 9, "end\n")}, cap=20)
    assert found(OmegaTree(k=2), pages, ends_well).rollouts == 2


def test_a_text_that_was_cut_does_not_share_the_verdict_of_one_that_ended():
    policy = Scripted([("end\n", "length", 4), ("end\n", "stop", 4)])
    [chain] = found(StepRollouts(n=2, k=2), policy, ends_well, sampling=Sampling(max_tokens=4)).chains
    assert chain.correct
    assert chain.counts == (Count(1, 2),)


def test_a_prefix_leaves_its_roll_outs_what_the_cap_leaves():
    """A walk that ends with probability .1 a step, under a cap of 12 steps in all."""
    walk, strategy = MarkovPolicy({"start": {"start": 0.9, "end": 0.1}}), StepRollouts(k=40, reuse=False)
    runs = (found(strategy, walk, ends_well, seed=seed, sampling=Sampling(max_tokens=12)).chains for seed in range(99))
    chain = next(one for chains in runs for one in chains if len(one.steps) > 8)
    for at, count in enumerate(chain.counts[1:], 1):
        value = 1 - 0.9 ** (12 - at)
        assert count.total == 40
        assert abs(count.value() - value) <= SPREAD * (value * (1 - value) / 40) ** 0.5


def test_failed_roll_outs_leave_fewer_draws_and_a_zero_unknown():
    policy = Flaky(MazePolicy(0.0, 4), frozenset({2}))
    one = found(StepRollouts(k=4, reuse=False), policy)
    assert one.chains[0].counts[1:] == (Count(0, 3),) * 3
    assert one.rollouts == 12
    assert hard(one.chains[0], 4).labels == (None, None, None, 0.0)
    assert hard(one.chains[0], 3).labels == (0.0,) * 4
    assert first_error(found(StepRollouts(k=4, method="binary"), policy).chains[0], 4).labels == (None, None, None, 0.0)


def test_chains_that_failed_give_no_labels():
    policy = Flaky(MazePolicy(0.5, 4), frozenset({0}))
    assert found(StepRollouts(n=1, k=2), policy).chains == ()
    assert len(found(StepRollouts(n=2, k=2), policy).chains) == 1


@every
def test_the_grader_is_asked_for_leave_before_anything_is_spent(strategy):
    policy = MazePolicy()
    with pytest.raises(OracleError):
        solved(strategy, policy)
    assert policy.calls == 0
    assert solved(strategy, policy, judge=no_b).oracle


def test_another_policy_may_roll_out():
    """Chains of a policy that mostly errs, values of one that never does; a chain is no draw of the other's."""
    strategy = StepRollouts(n=4, k=3, completer=MazePolicy(1.0, 6))
    for chain in found(strategy, MazePolicy(0.5, 6)).chains:
        for at, count in enumerate(chain.counts[1:], 1):
            assert count.value() == float("b" not in "".join(chain.steps[:at]))
            assert count.total == 3


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n": 0}, "step_rollouts: n = 0 must be at least 1"),
        ({"k": 0}, "step_rollouts: k = 0 must be at least 1"),
        ({"step": ""}, "step_rollouts: step must be the text that ends a step"),
        ({"method": "linear"}, "step_rollouts: method 'linear' must be one of exhaustive, binary"),
        ({"lazy": 9}, "step_rollouts: lazy = 9 must lie in 0..k = 8"),
        ({"verify": True}, "step_rollouts: verify checks a binary search"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(how, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        StepRollouts(**how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"searches": 0}, "omega_tree: searches = 0 must be at least 1"),
        ({"alpha": 0.0}, r"omega_tree: alpha = 0.0 must lie in \(0, 1\]"),
        ({"beta": 1.5}, r"omega_tree: beta = 1.5 must lie in \(0, 1\]"),
        ({"length": 0.0}, "omega_tree: length = 0.0 must be above 0"),
        ({"c_puct": float("nan")}, "omega_tree: length = 500.0 must be above 0, c_puct = nan at least 0"),
    ],
)
def test_a_tree_refuses_numbers_that_make_no_sense(how, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        OmegaTree(**how)


# ---- cutting ----


def test_a_cut_chain_is_the_same_text_in_open_steps_that_cost_the_same():
    text = "ab\n\nc\nde"
    for tokens, sizes in ((words(text), [4, 2, 2]), (None, [4, 2, 2])):
        whole = Chain((user("q"),), (Step(text, Usage(prompt=5, completion=8, calls=1), tokens=tokens),), "stop")
        cut = cut_steps(whole, "\n")
        assert [step.text for step in cut.steps] == ["ab\n\n", "c\n", "de"]
        assert [step.usage for step in cut.steps] == [Usage(completion=size) for size in sizes]
        assert (cut.digest, cut.finish) == (whole.digest, "stop")


def test_a_token_belongs_to_the_step_it_begins_in_and_the_end_token_to_the_last():
    tokens = Tokens(("a", ".\nb", "\n", "c\n", ""))
    cut = cut_steps(Chain((user("q"),), (Step("a.\nb\nc\n", Usage(completion=5), tokens=tokens),), "stop"), "\n")
    assert [(step.text, step.usage.completion) for step in cut.steps] == [("a.\n", 2), ("b\n", 1), ("c\n", 2)]


def test_an_empty_continuation_adds_no_step():
    cut = cut_steps(Chain((user("q"),), (Step("a\n"), Step("", Usage(completion=1))), "stop"), "\n")
    assert [step.text for step in cut.steps] == ["a\n"]


def test_several_runs_at_once_do_not_mix():
    async def both():
        from ponder.run import solve

        bank, strategy = TableBank(MemoryTable()), StepRollouts(n=3, k=3)
        asked = [question(at) for at in range(4)]
        outcomes = await asyncio.gather(*(solve(strategy, one, MazePolicy(0.8, 6), bank=bank, judge=no_b) for one in asked))
        return [labelled(strategy, one.id, outcome) for one, outcome in zip(asked, outcomes, strict=True)]

    assert asyncio.run(both()) == [found(StepRollouts(n=3, k=3), MazePolicy(0.8, 6), question=question(at)) for at in range(4)]
