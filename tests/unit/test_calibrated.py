"""The calibrated wrapper: the map by hand, isotonic regression against a slow and a foreign reference."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import ROOT, Believer, solved
from ponder.bank import MemoryTable, TableBank
from ponder.errors import DataError, UsageError
from ponder.scaling.calibration import calibrate, isotonic
from ponder.spec import parse
from ponder.testing import MazePolicy
from ponder.types import Score, Step, Usage
from ponder.verifiers.calibrated import Calibrated, read
from ponder.verifiers.reward_model import RewardModel


def bins(*rows):
    return {"equal_mass": {"bins": [{"score": s, "right": {"value": r}, "count": n} for s, r, n in rows]}}


@pytest.fixture
def table(tmp_path):
    def write(*rows, body=None):
        path = tmp_path / "table.json"
        path.write_text(json.dumps(body if body is not None else bins(*rows)))
        return str(path)

    return write


class Says(Believer):
    """The number that a chain's text is."""

    async def score(self, chains, run):
        self.judged.extend(chain.text for chain in chains)
        return [Score(float(chain.text), raw=-7.0, steps=(0.1, 0.9), usage=self.usage) for chain in chains]


def mapped(verifier, *values, **how):
    found = []
    chains = [ROOT.then(Step(repr(value)), "stop") for value in values]

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    outcome = solved(strategy, MazePolicy(), **how)
    return found, outcome


def test_values_are_the_shares_at_the_bins_linear_between_and_constant_beyond(table):
    verifier = Calibrated(Says(), table((0.2, 0.1, 10), (0.6, 0.5, 10), (0.8, 0.9, 10)))
    scores, _ = mapped(verifier, 0.0, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 1.0)
    assert [score.value for score in scores] == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.9])


def test_shares_that_fall_are_pooled_by_their_counts(table):
    """Right shares .2, .6, .3, .9 of 10, 10, 20, 10 answers: the middle two become (6 + 6) / 30 = .4."""
    verifier = Calibrated(Says(), table((0.1, 0.2, 10), (0.4, 0.6, 10), (0.6, 0.3, 20), (0.9, 0.9, 10)))
    scores, _ = mapped(verifier, 0.1, 0.4, 0.5, 0.6, 0.75, 0.9)
    assert [score.value for score in scores] == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.65, 0.9])


def test_bins_of_one_score_are_one_and_their_order_does_not_matter(table):
    assert read(Path(table((0.8, 0.9, 10), (0.2, 0.0, 30), (0.2, 0.4, 10)))) == [(0.2, 0.1, 40), (0.8, 0.9, 10)]


def test_raw_and_steps_stay_the_verifiers_and_it_is_banked_and_paid_for_under_its_own_name(table):
    bank = TableBank(MemoryTable())
    inner = Says(usage=Usage(scored=3, calls=1), fingerprint="says")
    for _ in range(2):
        [score], outcome = mapped(Calibrated(inner, table((0.5, 0.25, 1))), 0.9, bank=bank)
        assert score == Score(0.25, raw=-7.0, steps=(0.1, 0.9))
        assert outcome.spent.usage == Usage(scored=3, calls=1)
    assert len(inner.judged) == 1


def test_a_chain_without_a_score_has_none_after(table):
    [score], _ = mapped(Calibrated(Believer(otherwise=None), table((0.5, 0.5, 1))), 0.5)
    assert score.value is None
    assert score.error == "no idea"


@pytest.mark.slow
def test_what_it_says_on_the_answers_it_was_measured_on_is_calibrated(tmp_path):
    """A verifier whose values are the squares of the truth is put right, bin by bin."""
    rng = np.random.default_rng(0)
    truth, problems = rng.random(6_000), [str(i) for i in range(6_000)]
    correct, scores = rng.random(6_000) < truth, truth**2
    before = calibrate(scores, correct, problems, resamples=100)
    before.save(tmp_path)
    verifier = Calibrated(Says(), str(tmp_path))
    found, _ = mapped(verifier, *np.quantile(scores, [0.05, 0.35, 0.65, 0.95]).tolist())
    assert [score.value for score in found] == pytest.approx([0.05, 0.35, 0.65, 0.95], abs=0.03)
    after = calibrate(np.interp(scores, *verifier._map()), correct, problems, resamples=100)
    assert before.equal_mass.ece > 0.15
    assert after.equal_mass.ece < 0.02


def brute(values, weights):
    """max over starts of min over ends of the weighted mean between: the min-max formula of isotonic regression."""
    n = len(values)

    def mean(a, b):
        return np.average(values[a : b + 1], weights=weights[a : b + 1])

    return [max(min(mean(a, b) for b in range(at, n)) for a in range(at + 1)) for at in range(n)]


rows = st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 50)), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(rows)
def test_pooling_is_isotonic_regression(rows):
    values, weights = map(list, zip(*rows, strict=True))
    found = isotonic(values, weights)
    assert found == pytest.approx(brute(values, weights), abs=1e-9)
    assert all(a <= b + 1e-12 for a, b in pairwise(found))


@pytest.mark.slow
def test_pooling_agrees_with_scipy():
    from scipy.optimize import isotonic_regression

    rng = np.random.default_rng(1)
    values, weights = rng.random(200) + np.linspace(0, 0.5, 200), rng.random(200) + 0.1
    values /= values.max()
    assert isotonic(values.tolist(), weights.tolist()) == pytest.approx(isotonic_regression(values, weights=weights).x.tolist())


@pytest.mark.parametrize("name", ["lab/prm", "lab/orm"])
def test_a_reward_model_of_the_lab_brings_its_own_report(name):
    at, shares = Calibrated(RewardModel(name))._map()
    assert at == sorted(set(at))
    assert shares == sorted(shares)
    assert shares[0] < 0.05
    assert shares[-1] > 0.95
    assert Calibrated(Believer(), name)._map() == (at, shares)


def test_a_verifier_without_a_folder_needs_a_table():
    with pytest.raises(
        UsageError, match=r"^calibrated: confidence\(\) has no folder of its own; name its calibration.json as table$"
    ):
        parse("calibrated(confidence())", "verifiers")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], r"is no calibration report \(AttributeError"),
        ({}, r"is no calibration report \(KeyError: 'equal_mass'\); training a verifier writes one beside its weights"),
        (bins((0.5, 0.5, 10**400)), r"is no calibration report \(OverflowError"),
        (bins(), r"it takes at least one bin"),
        (bins((1.5, 0.5, 1)), r"scores and shares in \[0, 1\]"),
        (bins((0.5, -0.5, 1)), r"scores and shares in \[0, 1\]"),
        (bins((0.5, 0.5, 0)), "counts above 0"),
        (bins((float("nan"), 0.5, 1)), r"scores and shares in \[0, 1\]"),
    ],
)
def test_a_file_that_is_no_report_is_refused_when_the_spec_is_read(table, body, message):
    with pytest.raises(DataError, match=message):
        Calibrated(Says(), table(body=body))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(DataError, match="is no calibration report"):
            Calibrated(Says(), str(path))
