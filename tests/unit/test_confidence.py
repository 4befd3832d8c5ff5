"""Confidence, by hand on hand-made tokens."""

from __future__ import annotations

import asyncio
from array import array
from math import exp, inf, log

import pytest

from fakes import ROOT
from ponder.core import logprobs_needed
from ponder.strategies.best_of_n import BestOfN
from ponder.types import Step, Tokens
from ponder.verifiers.confidence import Confidence


def step(*tokens, source="policy"):
    """Tokens as (probability of the written one, probabilities of the likeliest)."""
    width = max((len(top) for _, top in tokens), default=0)
    padded = [[log(p) for p in top] + [-inf] * (width - len(top)) for _, top in tokens]
    return Step(
        "x" * len(tokens),
        source=source,
        tokens=Tokens(
            ("x",) * len(tokens),
            logprobs=array("f", [log(own) for own, _ in tokens]),
            width=width,
            top_texts=("y",) * (width * len(tokens)),
            top_logprobs=array("f", [number for row in padded for number in row]),
        ),
    )


def score(measure, *steps):
    chain = ROOT
    for each in steps:
        chain = chain.then(each)
    [found] = asyncio.run(Confidence(measure).score([chain], None))
    return found


FIVE = (0.5, 0.2, 0.1, 0.1, 0.1)


def test_mean_log_probability_is_the_geometric_mean():
    found = score("mean_logprob", step((0.5, ()), (0.125, ())))
    assert found.raw == pytest.approx((log(0.5) + log(0.125)) / 2, rel=1e-6)
    assert found.value == pytest.approx(0.25, rel=1e-6)


def test_marco_is_the_mean_share_of_the_written_token_among_the_five_likeliest():
    found = score("marco", step((0.5, FIVE), (0.1, (0.4, 0.1))))
    assert found.value == found.raw == pytest.approx((0.5 / 1.0 + 0.1 / 0.5) / 2, rel=1e-6)


def test_self_certainty_is_the_mean_divergence_from_uniform():
    by_hand = -sum(log(5 * p) for p in FIVE) / 5
    found = score("self_certainty", step((0.5, FIVE)))
    assert found.raw == pytest.approx(by_hand, rel=1e-5)
    assert found.value == pytest.approx(by_hand / (1 + by_hand), rel=1e-5)


def test_self_certainty_of_a_uniform_guess_is_nothing_and_does_not_depend_on_the_mass_beyond_the_five():
    assert score("self_certainty", step((0.1, (0.1,) * 5))).raw == pytest.approx(0.0, abs=1e-6)
    halves = tuple(p / 2 for p in FIVE)
    assert score("self_certainty", step((0.25, halves))).raw == pytest.approx(
        score("self_certainty", step((0.5, FIVE))).raw, rel=1e-5
    )


@pytest.mark.parametrize("measure", ["mean_logprob", "self_certainty", "marco"])
def test_a_surer_token_is_never_less_confident(measure):
    values = [score(measure, step((p, (p, *[(1 - p) / 4] * 4)))).value for p in (0.25, 0.5, 0.75, 0.99)]
    assert values == sorted(values)
    assert len(set(values)) == 4


@pytest.mark.parametrize("measure", ["mean_logprob", "self_certainty", "marco"])
def test_the_mean_is_over_tokens_and_not_over_steps(measure):
    a, b, c = (0.5, FIVE), (0.1, (0.4, 0.1, 0.1, 0.1, 0.1)), (0.9, (0.9, 0.04, 0.03, 0.02, 0.01))
    assert score(measure, step(a), step(b, c)).raw == pytest.approx(score(measure, step(a, b, c)).raw, rel=1e-6)


@pytest.mark.parametrize("measure", ["mean_logprob", "self_certainty", "marco"])
def test_only_what_the_policy_wrote_counts(measure):
    own = step((0.5, FIVE))
    put = step((0.001, (0.001, 0.001, 0.001, 0.001, 0.001)), source="injected")
    assert score(measure, put, own) == score(measure, own)


@pytest.mark.parametrize("measure", ["mean_logprob", "self_certainty", "marco"])
@pytest.mark.parametrize(
    "bare", [Step("x"), Step("x", tokens=Tokens(("x",))), Step("", tokens=Tokens(()))], ids=["none", "bare", "empty"]
)
def test_a_chain_without_probabilities_has_no_score_and_not_a_middling_one(measure, bare):
    found = score(measure, bare)
    assert found.value is None
    assert found.error == "confidence: the engine gave no token probabilities for this chain"


def test_each_measure_asks_for_the_alternatives_it_reads():
    assert [logprobs_needed(BestOfN(2, Confidence(m))) for m in ("mean_logprob", "self_certainty", "marco")] == [1, 5, 5]


def test_the_sixth_alternative_is_not_read():
    six = (*FIVE, 0.09)
    for measure in ("self_certainty", "marco"):
        assert score(measure, step((0.5, six))) == score(measure, step((0.5, FIVE)))


def test_values_stay_in_range_when_rounding_takes_a_share_above_one():
    assert score("mean_logprob", step((1.0, ()))).value == 1.0
    assert 0 <= score("marco", step((0.9, (0.3,)))).value <= 1
    assert exp(score("mean_logprob", step((1e-30, ()))).raw) == pytest.approx(1e-30, rel=1e-3)
