"""The toys: closed forms, replay from any prefix, caps, clocks."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import QUESTION, ROOT, solved
from ponder.core import END, LINE, Ask, Sampling, Until, room
from ponder.strategies.sample import Sample
from ponder.testing import FakeClock, MarkovPolicy, MazePolicy, NoisyVerifier
from ponder.types import Chain, Step, Usage, user

MARKOV = MarkovPolicy({"start": {"left": 0.5, "right": 0.25, "start": 0.25}})
POLICIES = [MazePolicy(0.5, 5), MARKOV]
both = pytest.mark.parametrize("policy", POLICIES, ids=["maze", "markov"])


def draw(policy, chain=ROOT, indices=(0,), stream="0", until=END, cap=1000):
    [line] = asyncio.run(policy.sample([Ask(chain, tuple(indices), stream)], until=until, sampling=Sampling(max_tokens=cap)))
    return line


@both
def test_a_child_is_a_function_of_its_key(policy):
    line = draw(policy, indices=range(50))
    assert draw(policy, indices=(7, 3)) == [line[7], line[3]]
    assert draw(policy, indices=range(50), stream="1") != line
    assert draw(policy, Chain((user("another"),)), indices=range(50)) != line
    assert len({child.text for child in line}) > 1


@both
@pytest.mark.parametrize("cap", [1, 2, 3, 4])
def test_a_smaller_cap_cuts_the_same_text(policy, cap):
    for whole, short in zip(draw(policy, indices=range(60)), draw(policy, indices=range(60), cap=cap), strict=True):
        assert whole.text.startswith(short.text)
        assert short.finish == ("stop" if short.text == whole.text else "length")
        assert short.usage.completion == short.text.count("\n") <= cap


@both
def test_a_line_at_a_time_comes_to_the_same_kind_of_end(policy):
    chain, steps = ROOT, 0
    while chain.finish is None:
        [chain] = draw(policy, chain, until=LINE)
        steps += 1
    assert chain.finish == "stop"
    assert len(chain.steps) == steps == chain.usage.completion
    assert all(step.text.count("\n") == 1 for step in chain.steps)


@both
def test_a_step_of_k_tokens_has_k_tokens_or_is_the_last(policy):
    for child in draw(policy, indices=range(40), until=Until(tokens=2)):
        assert child.usage.completion == 2 if child.finish is None else child.usage.completion <= 2


@both
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6))
def test_the_cap_is_that_of_the_whole_chain(policy, first, cap):
    [chain] = draw(policy, until=Until(tokens=first), cap=cap)
    if chain.finish is None and room(chain, Sampling(max_tokens=cap)):
        [chain] = draw(policy, chain, cap=cap)
    assert chain.usage.completion <= cap


def test_two_mazes_that_differ_in_the_tenth_digit_are_two_policies():
    """Fingerprints name pools in a bank: rounding one would serve the samples of another."""
    assert MazePolicy(0.1234567891).info.fingerprint != MazePolicy(0.1234567892).info.fingerprint
    assert MazePolicy(0.5, 4).info.fingerprint != MazePolicy(0.5, 5).info.fingerprint
    assert MARKOV.info.fingerprint != MarkovPolicy({"start": {"left": 0.5, "right": 0.25000001, "start": 0.25}}).info.fingerprint


def test_a_maze_counts_children_and_not_requests():
    policy = MazePolicy()
    draw(policy, indices=range(5))
    assert policy.calls == 5


@pytest.mark.parametrize(("p", "text"), [(1.0, "a\n" * 4), (0.0, "b\n" * 4)])
def test_a_certain_maze_is_certain(p, text):
    outcome = solved(Sample(), MazePolicy(p, 4), question=QUESTION)
    assert outcome.chain is not None
    assert outcome.chain.text == text


def test_absorption_solves_the_linear_system():
    """A gambler with 1 of 3 coins and p = .4: ruin 1 - P, P = (1 - q/p) / (1 - (q/p)^3) with q/p = 1.5."""
    walk = MarkovPolicy({"1": {"2": 0.4, "0": 0.6}, "2": {"3": 0.4, "1": 0.6}}, start="1")
    assert walk.answers() == pytest.approx({"3": (1 - 1.5) / (1 - 1.5**3), "0": 1 - (1 - 1.5) / (1 - 1.5**3)})


def test_a_noisy_verifier_without_noise_knows_and_with_full_noise_lies():
    chains = [ROOT.then(Step("yes"), "stop"), ROOT.then(Step("no"), "stop")]

    def values(**how):
        return [score.value for score in asyncio.run(NoisyVerifier(frozenset({"yes"}), **how).score(chains, None))]

    assert values() == [1.0, 0.0]
    assert values(fpr=1.0, fnr=1.0) == [0.0, 1.0]
    assert values(fpr=1.0) == [1.0, 1.0]


def test_a_noisy_verifier_errs_at_its_rates():
    n, chains = 4000, [ROOT.then(Step(str(i)), "stop") for i in range(4000)]
    for right, fpr, fnr, accepted in ((frozenset(map(str, range(n))), 0.0, 0.3, 0.7), (frozenset(), 0.2, 0.0, 0.2)):
        scores = asyncio.run(NoisyVerifier(right, fpr, fnr).score(chains, None))
        assert abs(sum(score.value for score in scores) / n - accepted) <= 3 * (accepted * (1 - accepted) / n) ** 0.5


def test_a_price_is_charged_for_each_score_and_makes_the_scores_worth_keeping():
    free, dear = NoisyVerifier(frozenset()), NoisyVerifier(frozenset(), price=4)
    assert free.fingerprint == ""
    assert dear.fingerprint != NoisyVerifier(frozenset(), price=4, seed=1).fingerprint != ""
    [score] = asyncio.run(dear.score([ROOT], None))
    assert score.usage == Usage(scored=4, calls=1)
    assert type(score.usage.calls) is int


def test_a_clock_moves_only_when_told_to_and_never_backwards():
    clock = FakeClock()
    assert (clock(), clock()) == (0.0, 0.0)
    clock.advance(2.5)
    assert clock() == 2.5
    with pytest.raises(ValueError, match=r"^time does not run backwards: advance\(-1\)$"):
        clock.advance(-1)
    assert [FakeClock(times=[1.0, 4.0])() for _ in range(2)] == [1.0, 1.0]
    listed = FakeClock(times=[1.0, 4.0])
    assert [listed(), listed(), listed()] == [1.0, 4.0, 4.0]


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("example.invalid", 80), ("2001:db8::1", 80, 0, 0)])
def test_these_tests_cannot_reach_the_network(address):
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with socket.socket(family) as tried, pytest.raises(PermissionError, match="tests use the loopback only"):
        tried.connect(address)
    with socket.socket(family, socket.SOCK_DGRAM) as tried, pytest.raises(PermissionError, match="tests use the loopback only"):
        tried.sendto(b"x", address)
    with pytest.raises(PermissionError, match="tests use the loopback only"):
        socket.create_connection(("example.invalid", 80), timeout=1)


def test_these_tests_reach_the_loopback():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
