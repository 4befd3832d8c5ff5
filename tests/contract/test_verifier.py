"""The laws that every registered verifier keeps. A new verifier needs one line in `SPECS`."""

from __future__ import annotations

import asyncio
from array import array
from math import log

import pytest

from fakes import ROOT, BehindTheDoor, Door, judge_of, solved
from ponder.bank import MemoryTable, TableBank
from ponder.errors import PonderError
from ponder.spec import names, parse
from ponder.testing import MazePolicy
from ponder.types import Chain, Score, Step, Tokens, Usage

# Each verifier as it is tried; None where it cannot be tried without something that is not here, with the reason.
SPECS = {
    "aggregated": "aggregated(noisy(right=('right 0',)), 'min')",
    "calibrated": "calibrated(confidence('marco'), 'lab/prm')",
    "confidence": "confidence('marco')",
    "ensemble": "ensemble((confidence('marco'), noisy(right=('right 0', 'right 2'), price=3)), 'mean', weights=(3.0, 1.0))",
    "judge": "judge()",
    "likelihood": "likelihood('base')",
    "noisy": "noisy(right=('right 0', 'right 2'), fpr=0.1, price=3)",
    "oracle": "oracle(fpr=0.3, fnr=0.3)",
    "ballot": "ballot()",
    "pairwise": "pairwise()",
    "recorded": "recorded('elsewhere')",
    "reward_model": "reward_model('lab/prm')",
    "rollouts": "rollouts(noisy(right=('right 0',), price=2), n=2)",
    "unit_tests": "unit_tests()",
}
# Held to the laws elsewhere: `recorded` knows no chain that was not imported, and says so; `unit_tests` samples tests, which no toy policy
# writes (tests/unit/test_unit_tests_verifier.py); `judge` reads token probabilities, `likelihood` and `reward_model` lab text, of which the toys
# have none (tests/unit/test_judge.py, test_pairwise.py, test_likelihood.py, test_reward_model.py), and what `pairwise` says of a chain depends on the
# others that it is asked of together; `aggregated` reads values of steps (test_reward_model.py).
ONLY_IMPORTED = {"aggregated", "ballot", "judge", "likelihood", "pairwise", "recorded", "reward_model", "unit_tests"}
every = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
able = pytest.mark.parametrize("spec", [s for name, s in SPECS.items() if name not in ONLY_IMPORTED])


def chain(text, p=0.5, finish="stop"):
    top = array("f", [log(q) for q in (p, *[(1 - p) / 4] * 4)] * len(text))
    tokens = Tokens(
        tuple(text), logprobs=array("f", [log(p)] * len(text)), width=5, top_texts=tuple("abcde") * len(text), top_logprobs=top
    )
    return ROOT.then(Step(text, Usage(completion=len(text), calls=1), tokens=tokens), finish)


CHAINS = [
    chain(f"{word} {i}", p) for i, (word, p) in enumerate([("right", 0.9), ("wrong", 0.3), ("right", 0.5), ("wrong", 0.8)] * 8)
]


def scored(spec, chains, **how):
    """The scores, and the outcome of the run that asked for them."""
    found = []

    async def strategy(root, run):
        found.extend(await run.score(parse(spec, "verifiers"), chains))

    outcome = solved(strategy, how.pop("policy", MazePolicy()), judge=judge_of("right"), **how)
    return found, outcome


def test_every_registered_verifier_stands_in_the_table():
    assert sorted(SPECS) == names("verifiers"), "give each registered verifier a spec in SPECS: the laws below then hold it too"


@every
def test_the_repr_of_a_verifier_is_the_spec_that_makes_it(spec):
    verifier = parse(spec, "verifiers")
    assert parse(repr(verifier), "verifiers") == verifier
    assert isinstance(verifier.fingerprint, str)


@able
def test_scores_are_one_a_chain_in_order_and_depend_on_nothing_but_the_chain(spec):
    scores, _ = scored(spec, CHAINS)
    assert len(scores) == len(CHAINS)
    assert scored(spec, CHAINS)[0] == scores
    assert scored(spec, CHAINS[::-1])[0] == scores[::-1]
    assert scored(spec, CHAINS[3:4])[0] == scores[3:4]
    assert scored(spec, CHAINS[:1] * 3)[0] == scores[:1] * 3
    assert len({score.value for score in scores}) > 1


@able
def test_values_lie_between_nothing_and_certainty(spec):
    for score in scored(spec, CHAINS)[0]:
        assert score.value is not None
        assert 0.0 <= score.value <= 1.0


@able
def test_a_bank_changes_nothing(spec):
    bank = TableBank(MemoryTable())
    direct = scored(spec, CHAINS)
    assert scored(spec, CHAINS, bank=bank) == direct
    assert scored(spec, CHAINS, bank=bank) == direct


@able
def test_it_reaches_a_policy_through_the_run_only(spec):
    scores, _ = scored(spec, CHAINS, policy=BehindTheDoor(MazePolicy()), bank=Door())
    assert scores


@able
def test_it_learns_of_the_reference_only_as_an_oracle_that_leaves_a_mark(spec):
    _, outcome = scored(spec, CHAINS)
    assert outcome.oracle is spec.startswith("oracle")


@every
def test_an_unscorable_chain_is_no_score_or_an_error_and_never_a_middling_value(spec):
    """No tokens, no reference, nothing written: whatever a verifier says, it does not make a number up for an empty text."""
    empty = [Chain(ROOT.prompt, (Step(""),), "stop")]
    if spec == SPECS["recorded"]:
        with pytest.raises(PonderError, match="no imported score"):
            scored(spec, empty)
        return
    [score], _ = scored(spec, empty)
    assert score.value in (None, 0.0, 1.0)
    assert score.value is not None or score.error


def test_a_recorded_score_that_was_not_imported_is_an_error():
    with pytest.raises(PonderError, match=r"^recorded\('elsewhere'\): 32 chains have no imported score"):
        scored("recorded('elsewhere')", CHAINS)


def test_imported_scores_are_read_by_fingerprint_and_text():
    verifier = parse("recorded('elsewhere')", "verifiers")

    async def story():
        table = MemoryTable()
        await table.keep_scores(verifier.fingerprint, {c.digest: Score(0.25, raw=-1.0) for c in CHAINS})
        return await TableBank(table).score(verifier, CHAINS[:2], None)

    assert [score.value for score in asyncio.run(story())] == [0.25, 0.25]
