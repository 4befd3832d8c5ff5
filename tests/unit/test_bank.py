"""The bank: what replays under which cap, what is paid for once, what is kept, what survives a cancellation."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import QUESTION, ROOT, Backwards, Believer, Coin, Flaky, Gate, Scripted, Typist, first_word, question, solved, words
from ponder import bank as bank_module
from ponder.bank import MemoryTable, Row, TableBank, joined, replay
from ponder.core import END, Ask, Pool, Sampling, Until
from ponder.run import solve
from ponder.spec import parse
from ponder.testing import MazePolicy
from ponder.types import Chain, Score, Step, Tokens, Usage

POOL = Pool("policy", "chain", "sampling", "0")


def row(text, cap, finish="stop"):
    return Row(POOL, 0, cap, finish, Step(text, Usage(prompt=3, completion=len(text), calls=1), tokens=words(text)))


def told(found):
    return found and (found.step.text, found.finish, found.step.usage.completion)


def ask(*indices, chain=ROOT, stream="0"):
    return Ask(chain, indices, stream)


async def sample(bank, policy, *asks, cap=100, until=END):
    lines = await bank.sample(policy, asks, until=until, sampling=Sampling(max_tokens=cap))
    return [child for line in lines for child in line]


def sampled(bank, policy, *asks, **how):
    return asyncio.run(sample(bank, policy, *asks, **how))


ENDED, CUT, OPEN, FILTERED = row("abcde", 9), row("abcde", 5, "length"), row("ab\n", 9, None), row("abcde", 9, "filtered")


@pytest.mark.parametrize(
    ("rows", "cap", "expected"),
    [
        ([], 5, None),
        ([ENDED], 9, ("abcde", "stop", 5)),
        ([ENDED], 5, ("abcde", "stop", 5)),  # at least its length
        ([ENDED], 4, ("abcd", "length", 4)),
        ([ENDED], 1000, ("abcde", "stop", 5)),
        ([OPEN], 2, ("ab", "length", 2)),
        ([OPEN], 3, ("ab\n", None, 3)),
        ([FILTERED], 4, ("abcd", "length", 4)),
        ([FILTERED], 5, ("abcde", "filtered", 5)),
        ([CUT], 5, ("abcde", "length", 5)),
        ([CUT], 3, ("abc", "length", 3)),
        ([CUT], 6, None),
        ([CUT, row("abcdefgh", 8, "length")], 7, ("abcdefg", "length", 7)),
        ([CUT, row("abcdefgh", 8, "length")], 5, ("abcde", "length", 5)),
        ([CUT, row("abcdefgh", 8, "length")], 9, None),
        ([CUT, row("abcdefgh", 20)], 8, ("abcdefgh", "stop", 8)),
        ([CUT, row("abcdefgh", 20)], 7, ("abcdefg", "length", 7)),
        ([CUT, row("abcdefgh", 20)], 3, ("abc", "length", 3)),
    ],
)
def test_what_one_sample_gives_under_a_cap(rows, cap, expected):
    assert told(replay(rows, cap)) == expected


@pytest.mark.parametrize(
    ("rows", "cap", "expected"),
    [
        ([ENDED], 9, ("abcde", "stop", 5)),
        ([ENDED], 4, ("abcd", "length", 4)),
        ([ENDED], 10, None),  # it ended, but those beside it that did not would get a second chance
        ([CUT, row("xy", 8)], 5, ("abcde", "length", 5)),
        ([CUT, row("xy", 8)], 4, ("abcd", "length", 4)),
        ([CUT, row("xy", 8)], 6, ("xy", "stop", 2)),
        ([row("xy", 8), CUT], 4, ("abcd", "length", 4)),  # by cap, whatever is in it
        ([CUT, row("xy", 8)], 9, None),
    ],
)
def test_rows_of_an_engine_that_neither_repeats_itself_nor_goes_on_count_by_their_cap_alone(rows, cap, expected):
    assert told(replay(rows, cap, grows=False)) == expected


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 12))
def test_whatever_caps_a_sample_was_drawn_under_it_replays_as_if_drawn_once(caps, length, asked):
    """The one true sample has `length` tokens; each cap draws as much of it as it allows."""
    text = "abcdefghijkl"[:length]
    rows = []
    for cap in caps:
        if replay(rows, cap) is None:
            rows.append(row(text[:cap], cap, "stop" if length <= cap else "length"))
    found = replay(rows, asked)
    if found is None:
        assert all(kept.cap < min(length, asked) for kept in rows)
    else:
        assert told(found) == (text[:asked], "stop" if length <= asked else "length", min(length, asked))
    assert len(rows) <= len(set(caps))


@pytest.mark.slow
@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"seed"}), frozenset({"continue"})], ids=str)
def test_asking_again_with_a_larger_cap_gives_cut_samples_no_second_chance(capabilities):
    """Short answers (2 tokens) are right, long ones (10) wrong, half each. A bank that keeps the short ones and draws only the cut
    ones anew reads .75 instead of .5."""
    n = 600

    class Fresh(Coin):
        """Independent draws at each request, unless it has a seed; goes on from what it has begun."""

        @property
        def info(self):
            return replace(super().info, capabilities=capabilities)

        async def sample(self, asks, *, until, sampling):
            return [[self.draw(a, i, sampling.max_tokens) for i in a.indices] for a in asks]

        def draw(self, a, index, cap):
            self.calls += 1
            if a.chain.text:
                return a.chain.then(Step("!!!!!!!!", Usage(completion=8)), "stop")
            nonce = index if "seed" in capabilities else self.calls
            short = Pool("fresh", "", "", str(nonce)).seed(0) % 2
            whole = Step("ok" if short else "no!!!!!!!!", Usage(completion=2 if short else 10))
            if whole.usage.completion <= cap:
                return a.chain.then(whole, "stop")
            return a.chain.then(Step("no", Usage(completion=2)), "length")

    bank, policy = TableBank(MemoryTable()), Fresh(0.5)
    sampled(bank, policy, ask(*range(n)), cap=2)
    larger = sampled(bank, policy, ask(*range(n)), cap=20)
    assert {child.finish for child in larger} == {"stop"}
    assert abs(sum(child.text == "ok" for child in larger) / n - 0.5) < 3 * (0.25 / n) ** 0.5
    again = sampled(bank, policy, ask(*range(n)), cap=2)
    assert abs(sum(child.text == "ok" for child in again) / n - 0.5) < 3 * (0.25 / n) ** 0.5
    paid = policy.calls
    assert sampled(bank, policy, ask(*range(n)), cap=20) == larger
    assert policy.calls == paid


def test_an_engine_that_can_only_go_on_continues_its_own_samples():
    policy, table = Typist(["abcdefgh", "ABC", "xyzxyzxyz"]), MemoryTable()
    bank = TableBank(table)
    assert [child.text for child in sampled(bank, policy, ask(0, 1), cap=4)] == ["abcd", "ABC"]
    children = sampled(bank, policy, ask(0, 1, 2), cap=7)
    assert [(child.text, child.finish) for child in children] == [("abcdefg", "length"), ("ABC", "stop"), ("xyzxyzx", "length")]
    first = children[0].steps[-1]
    assert len(children[0].steps) == 1
    assert "".join(token.text for token in first.tokens) == "abcdefg"
    assert len(first.tokens.logprobs) == len(first.tokens.ids) == 7
    assert first.usage == Usage(prompt=5, completion=7, calls=1), "the prompt is read once, the call counted once"
    assert sampled(bank, policy, ask(0), cap=100)[0].text == "abcdefgh"
    assert policy.prompts == ["", "", "", "abcd", "abcdefg"], "nothing was written twice"
    again = TableBank(table)
    assert [child.text for cap in (2, 4, 5, 7, 8, 99) for child in sampled(again, policy, ask(0), cap=cap)] == [
        "abcdefgh"[:cap] for cap in (2, 4, 5, 7, 8, 99)
    ]
    assert len(policy.prompts) == 5


def test_going_on_does_not_make_a_step_longer_than_was_asked_for():
    policy, bank = Typist(["abcdefgh"]), TableBank(MemoryTable())
    until = Until(tokens=5)
    assert sampled(bank, policy, ask(0), cap=3, until=until)[0].finish == "length"
    [child] = sampled(bank, policy, ask(0), cap=50, until=until)
    assert (child.text, child.finish) == ("abcde", None)


def test_joined_steps_add_up_and_keep_tokens_only_where_both_have_them():
    one = Step("ab", Usage(prompt=5, cached=1, completion=2, calls=1, seconds=0.5), tokens=words("ab"))
    two = Step("c", Usage(prompt=7, cached=7, completion=1, calls=1, seconds=0.25), tokens=words("c"))
    both = joined(one, two)
    assert both == Step("abc", Usage(prompt=5, cached=1, completion=3, calls=1, seconds=0.75))
    assert list(both.tokens) == list(words("ab")) + list(words("c"))
    assert joined(one, replace(two, tokens=None)).tokens is None


def test_failed_and_cancelled_children_are_not_kept_and_the_rest_is():
    table = MemoryTable()
    script = [("a", "stop", 1), ("", "error", 2), ("c", "cancelled", 1), ("d", "filtered", 1), ("e", "length", 9)]
    policy = Scripted(script)
    bank = TableBank(table)
    assert [child.finish for child in sampled(bank, policy, ask(*range(5)))] == [
        "stop",
        "error",
        "cancelled",
        "filtered",
        "length",
    ]
    sampled(bank, policy, ask(*range(5)))
    assert [index for _, index in policy.asked] == [0, 1, 2, 3, 4, 1, 2]
    pool = ask().pool("scripted", END, Sampling(max_tokens=100))
    assert [kept.index for kept in table.rows(pool)] == [0, 3, 4]


def test_a_failed_child_is_paid_for_once_within_one_call_even_when_another_caller_gives_up():
    async def both():
        gate, slow = Gate(Flaky(MazePolicy(1.0, 4), frozenset({0}))), Gate(MazePolicy(1.0, 4))
        other = asyncio.ensure_future(sample(bank, slow, ask(1)))
        await slow.entered.wait()
        mine = asyncio.ensure_future(sample(bank, gate, ask(0, 1)))
        gate.open.set()
        for _ in range(10):
            await asyncio.sleep(0)
        other.cancel()
        return await mine, gate.requests, gate.policy.policy.calls

    bank = TableBank(MemoryTable())
    children, requests, calls = asyncio.run(both())
    assert [child.finish for child in children] == ["error", "stop"]
    assert (requests, calls) == (2, 2)


class SlowTable(MemoryTable):
    """Becomes durable only when told."""

    def __init__(self):
        super().__init__()
        self.writing, self.go = asyncio.Event(), asyncio.Event()

    async def keep(self, rows, prefixes):
        self.writing.set()
        await self.go.wait()
        await super().keep(rows, prefixes)


def test_nothing_is_given_out_before_it_is_durable_and_a_cancellation_does_not_lose_what_was_paid():
    async def story():
        table, policy = SlowTable(), MazePolicy(0.5, 4)
        bank = TableBank(table)
        first = asyncio.ensure_future(sample(bank, policy, ask(0)))
        second = asyncio.ensure_future(sample(bank, policy, ask(0)))
        await table.writing.wait()
        first.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not first.done()
        assert not second.done()
        table.go.set()
        [child] = await second
        return first, child, policy.calls, table.rows(ask().pool(policy.info.fingerprint, END, Sampling()))

    first, child, calls, rows = asyncio.run(story())
    assert first.cancelled()
    assert calls == 1
    assert [kept.step for kept in rows] == [child.steps[-1]]


def test_an_engine_that_breaks_for_the_first_caller_is_asked_by_the_second():
    class Breaks(MazePolicy):
        async def sample(self, asks, *, until, sampling):
            await asyncio.sleep(0)
            if not self.calls:
                self.calls += 1
                raise ConnectionError("gone")
            return await MazePolicy.sample(self, asks, until=until, sampling=sampling)

    async def both():
        policy, bank = Breaks(1.0, 2), TableBank(MemoryTable())
        return await asyncio.gather(*(sample(bank, policy, ask(0)) for _ in range(2)), return_exceptions=True)

    first, second = asyncio.run(both())
    assert isinstance(first, ConnectionError)
    assert second[0].text == "a\na\n"


def test_callers_that_pay_for_each_others_children_do_not_wait_in_a_circle():
    async def both():
        bank, policy = TableBank(MemoryTable()), MazePolicy(0.5, 6)
        slow = Backwards(policy, most=4)
        left = asyncio.ensure_future(sample(bank, slow, ask(0)))
        right = asyncio.ensure_future(sample(bank, slow, ask(1)))
        await asyncio.sleep(0)
        crossing = [asyncio.ensure_future(sample(bank, slow, ask(*order))) for order in [(0, 1, 2, 3), (3, 2, 1, 0)]]
        async with asyncio.timeout(1):
            a, b, up, down = await asyncio.gather(left, right, *crossing)
        return a + b, up, down, policy.calls

    ends, up, down, calls = asyncio.run(both())
    assert up == down[::-1]
    assert up[:2] == ends
    assert calls == 4


def test_a_child_hangs_on_the_chain_it_was_asked_for_wherever_that_was_cut():
    whole = ROOT.then(Step("a\nb\n", Usage(completion=2)))
    parts = ROOT.then(Step("a\n", Usage(completion=1))).then(Step("b\n", Usage(completion=1)))
    assert whole.digest == parts.digest

    async def both():
        bank, gate = TableBank(MemoryTable()), Gate(MazePolicy(0.5, 4))
        lines = [asyncio.ensure_future(sample(bank, gate, ask(0, chain=chain))) for chain in (whole, parts)]
        await gate.entered.wait()
        await asyncio.sleep(0)
        gate.open.set()
        return [line[0] for line in await asyncio.gather(*lines)]

    for parent, child in zip((whole, parts), asyncio.run(both()), strict=True):
        assert child.steps[:-1] == parent.steps


def test_pools_that_were_dropped_from_memory_are_read_again(monkeypatch):
    monkeypatch.setattr(bank_module, "_POOLS_IN_MEMORY", 2)
    policy, table = MazePolicy(0.5, 6), MemoryTable()
    bank = TableBank(table)
    chains = [Chain(question(i).messages) for i in range(6)]
    first = [sampled(bank, policy, *(ask(0, 1, chain=chain) for chain in chains))]
    assert all(len(rows) == 1 for pool in bank._pools.values() for rows in pool.values()), "a row is held twice"
    first.append(sampled(bank, policy, *(ask(1, 2, chain=chain) for chain in chains)))
    assert policy.calls == 18
    assert [sampled(bank, policy, *(ask(*i, chain=chain) for chain in chains)) for i in ((0, 1), (1, 2))] == first
    assert policy.calls == 18
    assert len(bank._pools) <= 2
    assert sum(len(table.rows(ask(chain=c).pool(policy.info.fingerprint, END, Sampling(max_tokens=100)))) for c in chains) == 18


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sets(st.integers(0, 5), min_size=1), st.integers(1, 9), st.integers(0, 2), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_any_sequence_of_asks_gives_what_the_policy_would_have_given_and_pays_no_more_than_it_must(story):
    """The table against a policy without a bank; a new bank on the same table now and then is a restart."""
    table, paying, free = MemoryTable(), SpelledMaze(0.5, 6), SpelledMaze(0.5, 6)
    bank, longest, expected = TableBank(table), dict[tuple[int, int], int](), 0
    for indices, cap, stream, restart in story:
        bank = TableBank(table) if restart else bank
        question_ = ask(*sorted(indices), stream=str(stream))
        expected += sum(longest.get((stream, i), 0) < min(cap, 6) for i in indices)
        longest |= {(stream, i): max(longest.get((stream, i), 0), cap) for i in indices}
        assert sampled(bank, paying, question_, cap=cap) == sampled_alone(free, question_, cap=cap)
    assert paying.calls == expected


class SpelledMaze(MazePolicy):
    """A maze that gives its tokens, so that a replay has something to cut at."""

    async def sample(self, asks, *, until, sampling):
        lines = await MazePolicy.sample(self, asks, until=until, sampling=sampling)
        return [[spelled(ask.chain, child) for child in line] for ask, line in zip(asks, lines, strict=True)]


def spelled(parent, child):
    step = child.steps[-1]
    return parent.then(replace(step, tokens=Tokens(tuple(step.text.splitlines(keepends=True)))), child.finish)


def sampled_alone(policy, *asks, cap):
    lines = asyncio.run(policy.sample(asks, until=END, sampling=Sampling(max_tokens=cap)))
    return [child for line in lines for child in line]


# Scores


def dear(**how):
    return Believer(usage=Usage(scored=3, calls=1), fingerprint="dear", **how)


def scored(bank, verifier, *texts):
    chains = [ROOT.then(Step(text), "stop") for text in texts]
    return [score.value for score in asyncio.run(bank.score(verifier, chains, None))]


def test_scores_are_paid_for_once_by_fingerprint_and_text():
    bank, verifier = TableBank(MemoryTable()), dear(table=(("a", 0.1), ("b", 0.2)))
    assert scored(bank, verifier, "a", "b", "a") == [0.1, 0.2, 0.1]
    assert scored(bank, verifier, "b", "c", "a") == [0.2, 1.0, 0.1]
    assert verifier.judged == ["a", "b", "c"]
    other = replace(verifier, fingerprint="other", judged=[])
    assert scored(bank, other, "a") == [0.1]
    assert other.judged == ["a"]


def test_a_free_verifier_is_asked_each_time():
    bank, verifier = TableBank(MemoryTable()), Believer()
    scored(bank, verifier, "a")
    scored(bank, verifier, "a")
    assert verifier.judged == ["a", "a"]


def test_an_open_chain_and_a_finished_one_of_the_same_text_have_scores_of_their_own():
    class Ends:
        fingerprint = "ends"

        async def score(self, chains, run):
            return [Score(1.0 if chain.finish == "stop" else 0.25, usage=Usage(scored=1)) for chain in chains]

    bank = TableBank(MemoryTable())
    step = ROOT.then(Step("so"))
    ended, cut = ROOT.then(Step("so"), "stop"), ROOT.then(Step("so"), "length")
    for chains in ([step], [ended], [cut, ended, step]):
        values = [score.value for score in asyncio.run(bank.score(Ends(), chains, None))]
        assert values == [1.0 if chain.finish == "stop" else 0.25 for chain in chains]


def test_failed_scores_are_not_kept():
    bank, verifier = TableBank(MemoryTable()), dear(otherwise=None)
    assert scored(bank, verifier, "a", "a") == [None, None]
    assert scored(bank, dear(otherwise=0.5), "a") == [0.5]


def test_scores_that_are_on_their_way_are_not_paid_for_again():
    class Slow(Believer):
        async def score(self, chains, run):
            for _ in range(5):
                await asyncio.sleep(0)
            return await Believer.score(self, chains, run)

    async def crowd():
        strategies = [
            parse("best_of_n(n=4, verifier=oracle())", "strategies"),
            parse("weighted_vote(n=4, verifier=oracle())", "strategies"),
        ]
        return await asyncio.gather(
            *(
                solve(replace(s, verifier=verifier), QUESTION, MazePolicy(0.5, 30), bank=bank)
                for s in strategies
                for _ in range(3)
            )
        )

    bank, verifier = TableBank(MemoryTable()), Slow(usage=Usage(scored=3, calls=1), fingerprint="dear")
    outcomes = asyncio.run(crowd())
    assert len(verifier.judged) == len(set(verifier.judged)) == 4
    assert {outcome.spent.usage.scored for outcome in outcomes} == {12}, "each run is charged for what it used"


def test_a_replay_is_charged_what_the_first_run_was_charged():
    bank, verifier = TableBank(MemoryTable()), dear()
    strategy = replace(parse("best_of_n(n=5, verifier=oracle())", "strategies"), verifier=verifier)
    first, second = (solved(strategy, MazePolicy(0.5, 30), bank=bank, answer=first_word) for _ in range(2))
    assert first == second
    assert first.spent.usage == Usage(prompt=5, completion=150, scored=15, calls=10)
