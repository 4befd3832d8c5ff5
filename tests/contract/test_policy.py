"""What every policy owes: laws of `Policy.sample`, each tried on all of them. Those that need a downloaded model have tests of their own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from ponder.bank import MemoryTable, TableBank
from ponder.core import END, LINE, Ask, Sampling, Until, room
from ponder.policies.banked import Banked
from ponder.policies.lab import Lab
from ponder.policies.openai import openai
from ponder.testing import MarkovPolicy, MazePolicy
from ponder.testing.endpoint import FakeEndpoint
from ponder.types import Chain, Step, user

TOYS = {
    "maze": MazePolicy(0.6, 4),
    "markov": MarkovPolicy(
        {"start": {"a": 0.5, "b": 0.5}, "a": {"a": 0.5, "b": 0.25, "end": 0.25}, "b": {"a": 0.5, "stop": 0.5}}
    ),
}
LAB = ["lab"]
ENDPOINTS = {
    "openai on vllm": ("vllm", {}),
    "openai on vllm, one by one": ("vllm", {"many": False}),
    "openai on llama.cpp": ("llamacpp", {}),
    "openai on a server that ignores n": ("ignores_n", {"route": "completions"}),
    "openai by the completions route": ("openai", {"route": "completions"}),
}
BANKED = {"banked maze": "maze", "banked markov": "markov", "banked openai": "openai on vllm"}
NAMES = [*TOYS, *(pytest.param(name, marks=pytest.mark.slow) for name in LAB), *ENDPOINTS, *BANKED]
every_policy = pytest.mark.parametrize("name", NAMES)
QUESTIONS = ("chain 17*3-25+48-9*7", "chain 9-2+5*3", "chain 2*3*4")
ROOTS = tuple(Chain((user(text),)) for text in QUESTIONS)
SAMPLING = Sampling(temperature=1.3, max_tokens=96)


@pytest.fixture(scope="module")
def endpoint():
    with FakeEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def using(endpoint, tmp_path, monkeypatch):
    """`using(name, work)` gives what `work(policy)` gives, with the policy open."""
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))

    @asynccontextmanager
    async def opened(name):
        if name in BANKED:
            async with opened(BANKED[name]) as inner:
                yield Banked(inner, TableBank(MemoryTable()))
        elif name in ENDPOINTS:
            dialect, arguments = ENDPOINTS[name]
            endpoint.reset()
            endpoint.configure(dialect=dialect)
            async with openai(endpoint.url, **arguments) as policy:
                yield policy
        else:
            yield TOYS[name] if name in TOYS else Lab("small")

    async def work_in(name, work):
        async with opened(name) as policy:
            return await work(policy)

    return lambda name, work: asyncio.run(work_in(name, work))


def ask(chain, *indices, stream="0"):
    return Ask(chain, indices, stream)


def texts(lines):
    return [[child.text for child in line] for line in lines]


@every_policy
def test_children_are_parent_major_in_the_order_of_the_asks_each_its_parent_with_one_step_more(using, name):
    asks = [ask(ROOTS[2], 0, 1), ask(ROOTS[0], 3), ask(ROOTS[1], 2, 0, 1)]
    lines = using(name, lambda policy: policy.sample(asks, until=END, sampling=SAMPLING))
    assert [len(line) for line in lines] == [2, 1, 3]
    for one, line in zip(asks, lines, strict=True):
        for child in line:
            assert child.prompt == one.chain.prompt
            assert len(child.steps) == 1
            assert child.finish in ("stop", "length")
            assert child.steps[0].source == "policy"


@every_policy
def test_usage_is_positive_per_child_and_within_the_cap(using, name):
    asks = [ask(root, *range(5)) for root in ROOTS]
    for sampling in (SAMPLING, Sampling(max_tokens=3)):
        lines = using(name, lambda policy, sampling=sampling: policy.sample(asks, until=END, sampling=sampling))
        for child in (child for line in lines for child in line):
            usage = child.steps[0].usage
            assert usage.calls == 1
            assert usage.prompt > 0
            assert 0 < usage.completion <= sampling.max_tokens
            assert usage.seconds >= 0.0
            assert usage.cached <= usage.prompt
            assert usage.scored == 0


@every_policy
def test_a_cap_that_cuts_says_length_and_never_stop(using, name):
    if name in ("maze", "banked maze"):
        cap, whole = 3, 4
    else:
        cap, whole = 2, 3  # no policy here can end within two tokens, but the Markov walk
    asks = [ask(ROOTS[0], *range(12))]
    [line] = using(name, lambda policy: policy.sample(asks, until=END, sampling=Sampling(max_tokens=cap)))
    for child in line:
        ended_by_itself = child.text.endswith(("stop\n", "end\n"))
        assert child.finish == ("stop" if ended_by_itself else "length")
        assert child.usage.completion <= cap < whole


@every_policy
def test_the_cap_is_the_whole_chains_over_all_its_steps(using, name):
    async def two_steps(policy):
        [[first]] = await policy.sample([ask(ROOTS[0], 0)], until=Until(tokens=1), sampling=Sampling(max_tokens=3))
        if first.finish is not None:
            return first
        assert room(first, Sampling(max_tokens=3)) == 2
        [[second]] = await policy.sample([ask(first, 0)], until=END, sampling=Sampling(max_tokens=3))
        return second

    last = using(name, two_steps)
    assert last.usage.completion <= 3
    assert last.finish == "length" if last.usage.completion == 3 else last.finish == "stop"


@every_policy
@pytest.mark.parametrize(
    "until", [LINE, Until(tokens=3), Until(("\n",), 4)], ids=["lines", "three tokens", "lines of four tokens"]
)
def test_steps_join_to_a_whole_that_ends(using, name, until):
    async def stepwise(policy):
        chains = [child for line in await policy.sample([ask(ROOTS[0], 0, 1)], until=until, sampling=SAMPLING) for child in line]
        while any(chain.finish is None for chain in chains):
            at = next(at for at, chain in enumerate(chains) if chain.finish is None)
            [[more]] = await policy.sample([ask(chains[at], 0)], until=until, sampling=SAMPLING)
            assert more.steps[:-1] == chains[at].steps
            assert more.finish is not None or more.text != chains[at].text  # it ends, or goes on
            chains[at] = more
        return chains

    for chain in using(name, stepwise):
        assert chain.finish in ("stop", "length")
        assert chain.text == "".join(step.text for step in chain.steps)
        assert chain.usage.completion <= SAMPLING.max_tokens
        for step in chain.steps:
            assert step.usage.calls == 1
            assert until.tokens is None or step.usage.completion <= until.tokens
        if until == LINE:
            assert all(step.text.endswith("\n") for step in chain.steps[:-1])
            assert all(step.text.count("\n") <= 1 for step in chain.steps)


@every_policy
def test_a_finished_chain_is_refused(using, name):
    over = ROOTS[0].then(Step("answer: 3\n"), "stop")
    with pytest.raises(ValueError, match="cannot extend a chain that finished by 'stop'"):
        using(name, lambda policy: policy.sample([ask(over, 0)], until=END, sampling=SAMPLING))


@every_policy
def test_a_child_is_a_function_of_its_key_where_the_policy_says_so(using, name):
    async def in_many_ways(policy):
        async def sample(*asks):
            return texts(await policy.sample(asks, until=END, sampling=SAMPLING))

        [together] = await sample(ask(ROOTS[0], *range(6)))
        alone = [(await sample(ask(ROOTS[0], index)))[0][0] for index in range(6)]
        [backwards], [other] = await sample(ask(ROOTS[0], *range(5, -1, -1))), await sample(ask(ROOTS[0], *range(6), stream="1"))
        beside = (await sample(ask(ROOTS[1], 0), ask(ROOTS[0], 4, 2)))[1]
        return "seed" in policy.info.capabilities, together, alone, backwards[::-1], other, beside

    seeded, together, alone, backwards, other, beside = using(name, in_many_ways)
    assert seeded == (name in (*TOYS, *LAB, "banked maze", "banked markov"))
    assert len(set(together)) > 1
    assert together != other  # another stream has children of its own
    if seeded or name in BANKED:  # what is banked is the same child for good
        assert together == alone == backwards
        assert beside == [together[4], together[2]]


@every_policy
def test_tokens_join_to_the_text_and_have_probabilities(using, name):
    async def with_logprobs(policy):
        if "logprobs" not in policy.info.capabilities:
            return None
        return await policy.sample([ask(ROOTS[0], 0, 1, 2)], until=LINE, sampling=Sampling(max_tokens=96, logprobs=3))

    lines = using(name, with_logprobs)
    assert (lines is None) == (name in (*TOYS, "banked maze", "banked markov"))
    for child in (lines or [[]])[0]:
        tokens = child.steps[0].tokens
        assert "".join(tokens.texts) == child.text
        for token in tokens:
            assert token.logprob <= 0.0
            assert len(token.top_logprobs) >= 3
            numbers = [number for _, number in token.top_logprobs]
            assert numbers == sorted(numbers, reverse=True)


@every_policy
def test_the_fingerprint_is_the_same_each_time_it_is_opened_and_info_is_for_ever(using, name):
    async def twice(policy):
        return policy.info, policy.info

    first, again = using(name, twice)
    assert first == again == using(name, twice)[0]
    assert first.name
    assert first.fingerprint


def test_policies_of_other_behaviour_have_other_fingerprints(using):
    async def fingerprint(policy):
        return policy.info.fingerprint

    prints = [using(name, fingerprint) for name in (*TOYS, *LAB, "openai on vllm", "openai by the completions route")]
    prints += [MazePolicy(0.5, 4).info.fingerprint, MarkovPolicy({}).info.fingerprint]
    assert len(set(prints)) == len(prints)


@pytest.mark.slow
def test_greedy_steps_of_the_lab_join_to_its_greedy_whole(using):
    greedy = Sampling(temperature=0.0, max_tokens=96)

    async def both(policy):
        [[whole]] = await policy.sample([ask(ROOTS[0], 0)], until=END, sampling=greedy)
        chain = ROOTS[0]
        while chain.finish is None:
            [[chain]] = await policy.sample([ask(chain, 0)], until=LINE, sampling=greedy)
        return whole, chain

    whole, chain = using("lab", both)
    assert chain.text == whole.text
    assert chain.usage.completion == whole.usage.completion
    assert len(chain.steps) > 1
