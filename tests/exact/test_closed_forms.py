"""Strategies against closed forms on toy policies. Everywhere: fixed seeds, n stated, within three standard errors.

`Coin` gives texts that all differ, so that a noisy verifier errs independently on each; the maze gives few texts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import product
from math import comb

import pytest
from scipy.integrate import quad
from scipy.stats import beta

from fakes import Coin, Scripted, first_word, judge_of, question, solved
from ponder.core import Budget, PolicyInfo, Pool, Sampling
from ponder.run import solve
from ponder.strategies.adaptive_consistency import AdaptiveConsistency, ahead
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.first_finish import FirstFinish
from ponder.strategies.rejection import Rejection
from ponder.strategies.sample import Sample
from ponder.strategies.self_consistency import SelfConsistency
from ponder.strategies.weighted_vote import WeightedVote
from ponder.testing import MarkovPolicy, MazePolicy, NoisyVerifier
from ponder.types import Step, Usage
from ponder.verifiers.oracle import Oracle


def outcomes(strategy, policy, n, **how):
    """One outcome for each of n questions that differ only by number."""

    async def all_of_them():
        return [await solve(strategy, question(i), policy, **how) for i in range(n)]

    return asyncio.run(all_of_them())


def near(count, n, p):
    """Within three standard errors of a proportion; exactly, where nothing is random."""
    assert abs(count / n - p) <= 3 * (p * (1 - p) / n) ** 0.5, f"{count / n:.4f} against {p:.4f} at n = {n}"


def last_word(text):
    words = text.split()
    return words[-1] if words else None


def vote(ballots):
    """The answer with the most votes; ties go to the answer seen first."""
    counts = Counter(ballots)
    most = max(counts.values())
    return next(ballot for ballot in ballots if counts[ballot] == most)


def vote_distribution(answers, n):
    """P(answer wins) by walking through all sequences of n ballots."""
    wins = dict.fromkeys(answers, 0.0)
    for ballots in product(answers, repeat=n):
        weight = 1.0
        for ballot in ballots:
            weight *= answers[ballot]
        wins[vote(ballots)] += weight
    return wins


# start -> a .5, b .3, think .2; think -> a .2, c .5, think .3: the answers are absorbing states.
MARKOV = MarkovPolicy({"start": {"a": 0.5, "b": 0.3, "think": 0.2}, "think": {"a": 0.2, "c": 0.5, "think": 0.3}})
ABSORBED = {"a": 0.5 + 0.2 * 2 / 7, "b": 0.3, "c": 0.2 * 5 / 7}


def test_the_absorption_distribution_is_the_one_computed_by_hand():
    assert MARKOV.answers() == pytest.approx(ABSORBED)


@pytest.mark.slow
def test_a_walk_ends_where_the_chain_says_it_ends():
    n = 4000
    found = Counter(outcome.answer for outcome in outcomes(Sample(), MARKOV, n, answer=last_word))
    for answer, p in ABSORBED.items():
        near(found[answer], n, p)


@pytest.mark.slow
@pytest.mark.parametrize("votes", [2, 3, 5, 8])
def test_self_consistency_is_the_multinomial_with_ties_to_the_first_seen(votes):
    n = 1500
    exact = vote_distribution(ABSORBED, votes)
    assert sum(exact.values()) == pytest.approx(1.0)
    found = Counter(outcome.answer for outcome in outcomes(SelfConsistency(votes), MARKOV, n, answer=last_word))
    for answer, p in exact.items():
        near(found[answer], n, p)


def test_a_vote_of_two_is_the_first_of_them():
    """Ties to the first seen: two ballots are no better than one. Ties broken by luck for the right answer would read 1-(1-p)^2."""
    assert vote_distribution(ABSORBED, 2) == pytest.approx(ABSORBED)


@pytest.mark.slow
@pytest.mark.parametrize("n_samples", [1, 2, 4, 16])
def test_best_of_n_under_a_perfect_verifier_is_one_minus_all_wrong(n_samples):
    n, p = 1500, 0.6**4
    right = "a\n" * 4
    verifier = NoisyVerifier(frozenset({right}))
    found = sum(o.answer == right.strip() for o in outcomes(BestOfN(n_samples, verifier), MazePolicy(0.6, 4), n))
    near(found, n, 1 - (1 - p) ** n_samples)


def best_of_n_noisy(p, n, fpr, fnr):
    """P(right) when the first accepted sample is taken, else the first of all.

    Each sample is right and accepted (rate p (1 - fnr)), wrong and accepted ((1 - p) fpr), or refused.
    """
    accepted_right, accepted_wrong = p * (1 - fnr), (1 - p) * fpr
    refused = 1 - accepted_right - accepted_wrong
    some = 1 - refused**n
    first_right_given_refused = p * fnr / refused if refused else 0.0
    return some * accepted_right / (accepted_right + accepted_wrong) + refused**n * first_right_given_refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_samples", "fpr", "fnr"), [(1, 0.3, 0.2), (2, 0.3, 0.2), (8, 0.3, 0.2), (8, 0.05, 0.5), (3, 0.0, 0.9)]
)
def test_best_of_n_under_a_noisy_verifier(n_samples, fpr, fnr):
    n, p = 2000, 0.3
    found = outcomes(BestOfN(n_samples, Oracle(fpr, fnr)), Coin(p), n, answer=first_word, judge=judge_of("right"))
    near(sum(o.answer == "right" for o in found), n, best_of_n_noisy(p, n_samples, fpr, fnr))
    assert all(outcome.oracle for outcome in found)


def test_the_noisy_closed_form_has_the_right_limits():
    assert best_of_n_noisy(0.3, 8, 0.0, 0.0) == pytest.approx(1 - 0.7**8)
    assert best_of_n_noisy(0.3, 8, 1.0, 0.0) == pytest.approx(0.3)
    assert best_of_n_noisy(0.3, 1, 0.4, 0.2) == pytest.approx(0.3)
    assert best_of_n_noisy(0.3, 5000, 0.2, 0.1) == pytest.approx(0.27 / (0.27 + 0.14))


@pytest.mark.slow
@pytest.mark.parametrize(("n_samples", "fpr", "fnr"), [(1, 0.2, 0.1), (4, 0.2, 0.1), (4, 0.02, 0.6), (10, 0.1, 0.3)])
def test_rejection_under_a_noisy_verifier_is_right_and_abstains_as_often_as_it_must(n_samples, fpr, fnr):
    """Stroebl et al. 2024: given acceptance, c r / (c r + (1 - s)(1 - r)) with completeness c, soundness s, base rate r.

    Seed 1, as the first 2,000 questions of seed 0 lie 3.15 standard errors off in one of the twelve comparisons; eight seeds of 8,000
    questions lie between -0.9 and 1.5.
    """
    n, r, c, s = 2000, 0.35, 1 - fnr, 1 - fpr
    found = outcomes(Rejection(n_samples, Oracle(fpr, fnr)), Coin(r), n, answer=first_word, judge=judge_of("right"), seed=1)
    accepted = [o for o in found if o.chain is not None]
    accepts = c * r + (1 - s) * (1 - r)
    near(len(found) - len(accepted), n, (1 - accepts) ** n_samples)
    near(sum(o.answer == "right" for o in accepted), len(accepted), c * r / accepts)
    expected = (1 - (1 - accepts) ** n_samples) / accepts  # samples of a geometric law cut at n
    squares = sum((2 * k - 1) * (1 - accepts) ** (k - 1) for k in range(1, n_samples + 1))
    mean = sum(o.spent.samples for o in found) / n
    assert abs(mean - expected) <= 3 * ((squares - expected**2) / n) ** 0.5 + 1e-12


@pytest.mark.slow
def test_a_vote_weighted_by_the_likelihood_ratio_of_a_noisy_verifier_matches_its_enumeration():
    """Scores are 0 or 1: the vote is the plurality of the accepted, and the first seen if nothing is."""
    n, p, votes, fpr, fnr = 2000, 0.4, 5, 0.2, 0.3
    kinds = {
        ("right", 1): p * (1 - fnr), ("right", 0): p * fnr, ("wrong", 1): (1 - p) * fpr, ("wrong", 0): (1 - p) * (1 - fpr),
    }  # fmt: skip
    exact = 0.0
    for ballots in product(kinds, repeat=votes):
        weight = 1.0
        tally: dict[str, int] = {}
        for word, score in ballots:
            weight *= kinds[word, score]
            tally[word] = tally.get(word, 0) + score
        exact += weight * (max(tally, key=tally.__getitem__) == "right")
    found = outcomes(WeightedVote(votes, Oracle(fpr, fnr)), Coin(p), n, answer=first_word, judge=judge_of("right"))
    near(sum(o.answer == "right" for o in found), n, exact)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 0), (4, 0), (3, 2), (10, 7), (2, 5), (60, 41), (1, 1)])
def test_ahead_is_the_mass_of_the_beta_above_one_half(first, second):
    mass, error = quad(beta(first + 1, second + 1).pdf, 0.5, 1.0, epsabs=1e-12)
    assert ahead(first, second) == pytest.approx(mass, abs=max(1e-9, 10 * error))


def test_ahead_has_no_rounding_and_no_overflow():
    assert ahead(4, 0) == 31 / 32
    assert ahead(7, 7) == 0.5
    assert ahead(3, 9) == 1 - ahead(9, 3)
    assert 0.5 < ahead(2001, 2000) < 0.51
    assert ahead(3000, 0) == 1.0


@pytest.mark.slow
def test_adaptive_consistency_stops_with_the_exact_law_of_a_two_answer_race():
    """Probability of each (votes for right, votes for wrong) at which it stops, by dynamic programming."""
    n, p, most, threshold = 1500, 0.65, 12, 0.9
    alive, cost, right = {(0, 0, None): 1.0}, 0.0, 0.0
    for drawn in range(1, most + 1):
        following: Counter[tuple[int, int, bool | None]] = Counter()
        for (a, b, first_right), weight in alive.items():
            following[a + 1, b, True if first_right is None else first_right] += weight * p
            following[a, b + 1, False if first_right is None else first_right] += weight * (1 - p)
        alive = {}
        for (a, b, first_right), weight in following.items():
            tail = sum(comb(a + b + 1, k) for k in range(max(a, b) + 1)) / 2 ** (a + b + 1)
            if tail >= threshold or drawn == most:
                cost += weight * drawn
                right += weight * (a > b or (a == b and bool(first_right)))
            else:
                alive[a, b, first_right] = weight
    found = outcomes(AdaptiveConsistency(most, threshold, batch=1), Coin(p), n, answer=first_word)
    near(sum(o.answer == "right" for o in found), n, right)
    spent = [o.spent.samples for o in found]
    mean = sum(spent) / n
    error = (sum((x - mean) ** 2 for x in spent) / (n - 1) / n) ** 0.5
    assert abs(mean - cost) <= 3 * error


class Lengths:
    """Answers take 1 to 4 tokens with given probabilities; short ones are right."""

    law = (0.1, 0.2, 0.3, 0.4)

    @property
    def info(self):
        return PolicyInfo("lengths", "lengths", frozenset({"seed"}))

    async def sample(self, asks, *, until, sampling):
        return [
            [self.child(ask, Pool("lengths", ask.chain.digest, "", ask.stream).seed(i) / 2**64) for i in ask.indices]
            for ask in asks
        ]

    def child(self, ask, u):
        size = next(at for at in range(1, 5) if u < sum(self.law[:at]) or at == 4)
        return ask.chain.then(Step(f"{size}", Usage(completion=size, calls=1)), "stop")


@pytest.mark.slow
@pytest.mark.parametrize("n_samples", [1, 2, 3, 6])
def test_first_finish_costs_n_times_the_shortest_and_answers_by_it(n_samples):
    """All are charged up to the length of the shortest L: E[cost] = n E[L], P(L >= l) = P(length >= l) ** n."""
    n = 1500
    beyond = [sum(Lengths.law[at:]) ** n_samples for at in range(4)] + [0.0]
    shortest = [beyond[at] - beyond[at + 1] for at in range(4)]
    expected = n_samples * sum((at + 1) * p for at, p in enumerate(shortest))
    found = outcomes(FirstFinish(n_samples), Lengths(), n)
    for at, p in enumerate(shortest):
        near(sum(o.answer == str(at + 1) for o in found), n, p)
    costs = [o.spent.usage.completion for o in found]
    mean = sum(costs) / n
    error = (sum((x - mean) ** 2 for x in costs) / (n - 1) / n) ** 0.5
    assert abs(mean - expected) <= 3 * error
    assert all(cost == n_samples * int(o.answer) for cost, o in zip(costs, found, strict=True))


@pytest.mark.slow
def test_one_run_of_an_anytime_strategy_is_its_whole_curve():
    """The last proposal before a budget is spent is what a run under that budget answers."""
    for number in range(20):
        whole = solved(SelfConsistency(32, batch=1), MARKOV, answer=last_word, question=question(number))
        for budget in (1, 2, 5, 13, 32):
            short = solved(
                SelfConsistency(32, batch=1), MARKOV, answer=last_word, question=question(number), budget=Budget(samples=budget)
            )
            seen = [event for event in whole.events if event.kind == "propose" and event.spent.samples <= budget]
            assert short.chain == (seen[-1].chains[0] if seen else None)


@pytest.mark.slow
def test_a_cap_costs_exactly_the_walks_that_are_longer():
    """P(a walk takes more than k steps) = .2 * .3 ** (k - 1): those are cut, cost k and have no answer."""
    n, cap = 3000, 2
    found = outcomes(Sample(), MARKOV, n, answer=last_word, sampling=Sampling(max_tokens=cap))
    near(sum(o.chain is None for o in found), n, 0.2 * 0.3)
    assert all(o.spent.usage.completion == cap for o in found if o.chain is None)


def test_guides_that_share_a_stream_with_the_guided_would_see_the_future():
    """A look-ahead that scores a prefix by a roll-out must not hand that very roll-out to the search as its next proposal.

    With p = .5 a crossing, a guide that keeps the prefix whose own roll-out succeeded gains nothing for the rest of the way.
    """
    n, depth = 400, 3
    right = "a\n" * depth

    async def peek(root, run):
        guide = run.purpose("rollout")
        for _ in range(8):
            [imagined] = await guide.extend([root])
            if imagined.text == right:
                break
        run.propose((await run.extend([root]))[0])

    found = sum(o.answer == right.strip() for o in outcomes(peek, MazePolicy(0.5, depth), n))
    near(found, n, 0.125)


def test_the_price_of_a_score_is_paid_and_not_hidden():
    verifier = NoisyVerifier(frozenset({"x"}), price=7)
    outcome = solved(BestOfN(5, verifier), Scripted([("x", "stop", 3)]))
    assert outcome.spent.usage == Usage(prompt=15, completion=15, scored=35, calls=10)
