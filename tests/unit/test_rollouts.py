"""Labelling by roll-outs: closed forms, searches worked by hand, and what the door promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, log2

import pytest

from fakes import QUESTION, Flaky, Scripted, question, solved, words
from ponder.bank import MemoryTable, TableBank
from ponder.core import Ask, Budget, PolicyInfo, Sampling, Until
from ponder.errors import OracleError, UsageError
from ponder.learners.labels import Count, contradiction, first_error, hard, soft
from ponder.learners.rollouts import OmegaTree, StepRollouts, _State, cut_steps, labelled
from ponder.testing import MarkovPolicy, MazePolicy
from ponder.types import Chain, Step, Tokens, Usage, Verdict, user

SPREAD = 3.0  # standard errors


def judge_by(right):
    """A grader of whole texts; what did not finish by stop must not reach it."""

    async def judge(chains):
        assert all(chain.finish == "stop" for chain in chains)
        return [Verdict(right(chain.text)) for chain in chains]

    return judge


no_b = judge_by(lambda text: "b" not in text)
ends_well = judge_by(lambda text: text.endswith("end\n"))


def found(strategy, policy, judge=no_b, **how):
    asked = how.get("question", QUESTION)
    return labelled(strategy, asked.id, solved(strategy, policy, judge=judge, **how))


@dataclass
class Book:
    """Goes on from a text as the book says, child i with entry i (the last one repeats); notes what it was asked, and in which stream.

    An entry of more than `cap` characters ends by length.
    """

    pages: Mapping[str, Sequence[str]]
    cap: int = 1000
    asked: list[tuple[str, str, int]] = field(default_factory=list)

    @property
    def info(self) -> PolicyInfo:
        return PolicyInfo("book", "book", frozenset({"continue", "seed", "n"}))

    async def sample(self, asks: Sequence[Ask], *, until: Until, sampling: Sampling) -> list[list[Chain]]:
        self.asked += [(ask.stream, ask.chain.text, index) for ask in asks for index in ask.indices]
        return [[self.child(ask.chain, index) for index in ask.indices] for ask in asks]

    def child(self, chain: Chain, index: int) -> Chain:
        page = self.pages[chain.text]
        text = page[min(index, len(page) - 1)]
        finish = "stop" if len(text) <= self.cap else "length"
        return chain.then(Step(text, Usage(prompt=1, completion=len(text), calls=1), tokens=words(text)), finish)

    @property
    def probes(self) -> Counter[str]:
        """How often each prefix was rolled out."""
        return Counter(text for stream, text, _ in self.asked if stream.endswith("rollout"))


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


# ---- by hand ----

EIGHT = "1\n2\n3\n4\nX\n6\n7\n8\n"
LINES = EIGHT.splitlines(keepends=True)


def prefix(steps):
    return "".join(LINES[:steps])


def book(**right):
    """A chain of eight steps that ends badly; roll-outs of the prefixes named end well in the entries named."""
    pages = {"": (EIGHT,)}
    for at in range(1, 8):
        ends = right.get(f"at{at}", "0")
        pages[prefix(at)] = tuple("end\n" if end == "1" else "off\n" for end in ends)
    return Book(pages)


def search(pages, **how):
    return found(StepRollouts(n=1, k=4, method="binary", **how), pages, ends_well)


def test_the_search_halves():
    pages = book(at1="1", at2="1", at3="1", at4="0100")
    [chain] = search(pages).chains
    assert list(pages.probes.items()) == [(prefix(4), 4), (prefix(6), 4), (prefix(5), 4)]
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)


def test_a_lazy_probe_stops_at_the_first_right_roll_out_and_labels_the_same():
    for lazy, spent in ((1, 2), (2, 2), (3, 3), (4, 4)):
        pages = book(at4="0100")
        [chain] = search(pages, lazy=lazy).chains
        assert dict(pages.probes) == {prefix(4): spent, prefix(6): 4, prefix(5): 4}
        assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)
        assert chain.lazy


def test_lazy_and_full_hard_labels_are_equal_draw_for_draw():
    for method in ("exhaustive", "binary"):
        full, lazy = (found(StepRollouts(n=5, k=6, method=method, reuse=False, lazy=lazy), MazePolicy(0.8, 8)) for lazy in (0, 2))
        assert [hard(one, 6).labels for one in full.chains] == [hard(one, 6).labels for one in lazy.chains]
        assert lazy.rollouts < full.rollouts


def test_verify_sees_a_recovery_behind_the_first_error_and_then_knows_less():
    recovers = {"at4": "1", "at6": "0001"}  # the halving looks at 4, 6, 7: the error is step 7, and all is well at first sight
    assert first_error(search(book(**recovers)).chains[0], 4).labels == (1, 1, 1, 1, 1, 1, 0, 0)
    missed = {"at4": "1", "at5": "0", "at6": "0", "at7": "1"}  # looks at 4, 6, 5: step 5; the probe behind it tells nothing yet
    [chain] = search(book(**missed), verify=True).chains
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)
    luck = {"at2": "0", "at4": "0", "at1": "1", "at3": "0100"}  # looks at 4, 2, 1: step 2; the probe at 3 is right
    pages = book(**luck)
    [chain] = search(pages, verify=True).chains
    assert dict(pages.probes) == {prefix(4): 4, prefix(2): 4, prefix(1): 4, prefix(3): 4}
    assert contradiction(chain, 4) == 2
    assert first_error(chain, 4).labels == (1, None, None, None, None, None, None, 0)


def test_verify_sees_that_nobody_solves_the_problem():
    pages = book()
    pages.pages[""] = (EIGHT, "off\n")
    plain, checked = search(pages), search(pages, verify=True)
    assert first_error(plain.chains[0], 4).labels == (0,) * 8
    assert first_error(checked.chains[0], 4).labels == (None,) * 7 + (0,)
    assert checked.rollouts - plain.rollouts == 4  # the root; the step behind the first error was looked at before


@pytest.mark.parametrize("reuse", [False, True])
def test_verify_does_not_ask_of_the_root_what_is_known(reuse):
    pages = book(at4="1")
    [chain] = search(pages, verify=True, reuse=reuse).chains
    assert "" not in pages.probes
    assert first_error(chain, 4).labels == (1, 1, 1, 1, 0, 0, 0, 0)


def test_a_right_chain_proves_the_root_to_the_others():
    pages = book()
    pages.pages[""] = (EIGHT, "end\n", "off\n")
    checked = found(StepRollouts(n=2, k=4, method="binary", verify=True), pages, ends_well)
    assert "" not in pages.probes
    assert first_error(checked.chains[0], 4).labels == (0,) * 8


def test_a_right_chain_proves_its_prefixes_to_the_others():
    pages = book()
    pages.pages[""] = (EIGHT, "1\n2\n3\n4\n5\nend\n")
    one = found(StepRollouts(n=2, k=4, method="binary"), pages, ends_well)
    assert list(pages.probes) == [prefix(6), prefix(5)]
    assert [first_error(chain, 4).labels for chain in one.chains] == [(1, 1, 1, 1, 0, 0, 0, 0), (1,) * 6]


def test_roll_outs_top_up_what_chains_have_told():
    """Three chains go through step 1, one of them right: k = 4 takes one roll-out more, of the same prefix."""
    pages = Book(
        {"": ("1\n2\nend\n", "1\n3\noff\n", "1\n4\noff\n"), "1\n": ("9\noff\n",), **{f"1\n{at}\n": ("off\n",) for at in "234"}}
    )
    one = found(StepRollouts(n=3, k=4), pages, ends_well)
    assert dict(pages.probes) == {"1\n": 1, "1\n2\n": 3, "1\n3\n": 3, "1\n4\n": 3}
    assert [soft(chain).labels for chain in one.chains] == [(0.25, 0.25, 1.0), (0.25, 0.0, 0.0), (0.25, 0.0, 0.0)]


def test_a_chain_whose_text_another_goes_on_from_keeps_its_verdict():
    pages = Book({"": ("1\n", "1\nend\n"), "1\n": ("off\n",)})
    for method in ("exhaustive", "binary"):
        one = found(StepRollouts(n=2, k=2, method=method), pages, ends_well)
        assert [chain.correct for chain in one.chains] == [False, True]
        assert first_error(one.chains[0], 2).labels == (0.0,)


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


def test_a_strategy_prints_as_its_spec():
    assert repr(StepRollouts(n=2, method="binary")) == "step_rollouts(n=2, method='binary')"
    assert repr(OmegaTree(k=4)) == "omega_tree(k=4)"


# ---- OmegaPRM's tree ----


def test_the_tree_searches_the_most_promising_wrong_roll_out_and_probes_no_state_twice():
    """The root is right once in four, its wrong roll-outs are long and short: the short one is worth more, beta ** (2 / L) > beta ** (16 / L).

    It is searched from 0 to 2: state "1\n", half right; the wrong roll-out there is worth most of all, alpha ** .5, and has nothing to
    halve. Then the two others, of which the long one is halved at 4 (never right), 2 and 1, and 1 is known.
    """
    pages = book(at4="0", at2="0")
    pages.pages |= {"": ("end\n", EIGHT, "1\nX\n", "off\n"), "1\n": ("end\n", "X\n", "end\n", "off\n")}
    one = found(OmegaTree(k=4, searches=10), pages, ends_well)
    assert dict(pages.probes) == {"": 4, "1\n": 4, prefix(4): 4, prefix(2): 4}
    assert [text for _, text, index in pages.asked if index == 0] == ["", "1\n", prefix(4), prefix(2)]
    by_steps = {chain.steps: chain for chain in one.chains}
    long = by_steps[tuple(LINES)]
    assert long.counts == (Count(1, 4), Count(2, 4), Count(0, 4), Count(), Count(0, 4), Count(), Count(), Count())
    assert first_error(long, 4).labels == (1, 0, 0, 0, 0, 0, 0, 0)
    assert soft(long).labels == (0.5, 0.0, None, 0.0, None, None, None, 0.0)
    assert first_error(by_steps["1\n", "end\n"], 4).labels == (1.0, 1.0)
    assert one.rollouts == 16


@pytest.mark.parametrize(("length", "second"), [(1.0, "shorter"), (float("inf"), "older")])
def test_the_length_of_a_roll_out_counts_against_it(length, second):
    """With one search only the long roll-out, which is older, is halved at 4 where lengths do not matter."""
    pages = book(at4="0", at2="0")
    pages.pages |= {"": ("end\n", EIGHT, "1\nX\n"), "1\n": ("off\n",)}
    found(OmegaTree(k=3, searches=1, length=length), pages, ends_well)
    assert list(pages.probes)[1] == ("1\n" if second == "shorter" else prefix(4))


def test_a_candidate_is_worth_what_the_paper_says():
    rollout = Chain((user("q"),), (Step("1\n", Usage(completion=7)), Step("2\noff\n", Usage(completion=50))), "stop")
    worth = OmegaTree()._worth(_State(right=3, total=4, visits=1), rollout, visits=9)
    assert worth == pytest.approx(0.5**0.25 * 0.9**0.1 + 0.125 * 3 / 2)


def test_a_wrong_roll_out_of_a_state_that_is_mostly_right_goes_first():
    """The root is right once in three, the middle of its first candidate twice: its wrong roll-out overtakes the root's second."""
    pages = book(at4="110")
    pages.pages |= {
        "": ("end\n", EIGHT, "A\nB\nC\nD\n"),
        prefix(4): ("end\n", "end\n", "P\nQ\nR\n"),
        prefix(4) + "P\n": ("off\n",),
    }
    found(OmegaTree(k=3, searches=2, beta=1.0, c_puct=0.0), pages, ends_well)
    assert list(pages.probes) == ["", prefix(4), prefix(6), prefix(5), prefix(4) + "P\n"]


def test_a_state_searched_often_gives_way_to_others_by_its_visits():
    """Two candidates of the root, and one of a state less likely right than it: without exploration the root's second is next."""

    def order(c_puct):
        pages = book(at4="10")
        pages.pages |= {
            "": ("end\n", EIGHT, "A\nB\nC\nD\n"),
            prefix(4): ("end\n", "P\nQ\nR\n", "off\n", "off\n"),
            prefix(6): ("off\n",),
            prefix(5): ("off\n",),
            "A\nB\n": ("off\n",),
            "A\n": ("off\n",),
            prefix(4) + "P\n": ("off\n",),
        }
        found(OmegaTree(k=3, searches=2, c_puct=c_puct, beta=1.0), pages, ends_well)
        return list(pages.probes)

    assert order(0.0)[4] == "A\nB\n"  # MC is 1/3 at both states, the older candidate comes first
    assert order(1.0)[4] == prefix(4) + "P\n"  # N(root) = 1 halves its bonus


def test_a_root_that_is_always_or_never_right_leaves_nothing_to_search():
    for p in (0.0, 1.0):
        assert found(OmegaTree(k=4), MazePolicy(p, 5)).rollouts == 4


def test_the_tree_finds_first_errors_of_a_maze():
    k, searches, depth = 40, 6, 8
    one = found(OmegaTree(k=k, searches=searches), MazePolicy(0.9, depth))
    assert one.rollouts <= k * (1 + searches * ceil(log2(depth)))
    solved_chains = 0
    for chain in one.chains:
        right = "".join(chain.steps).partition("b")[0].count("a")
        labels = first_error(chain, k).labels
        assert all(label is None or label == float(at < right) for at, label in enumerate(labels))
        solved_chains += not chain.correct and None not in labels
    assert solved_chains >= searches


def test_a_tree_stops_a_search_whose_roll_outs_failed():
    pages = book(at2="1")
    pages.pages[""] = (EIGHT, EIGHT, "end\n")
    one = found(OmegaTree(k=3, searches=1), Flaky(pages, frozenset({0})), ends_well)
    assert [chain.counts[4] for chain in one.chains if len(chain.steps) == 8] == [Count(0, 2)]
    assert set(pages.probes) == {"", prefix(4)}


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
