"""Spec strings: misuse first with whole messages, then hostile input, then the round trip."""

from __future__ import annotations

import ast
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ponder import spec as spec_module
from ponder.errors import SetupError, SpecError, UsageError
from ponder.spec import KINDS, named, names, parse, render
from ponder.strategies.adaptive_consistency import AdaptiveConsistency
from ponder.strategies.best_of_n import BestOfN
from ponder.strategies.first_finish import FirstFinish
from ponder.strategies.rejection import Rejection
from ponder.strategies.sample import Sample
from ponder.strategies.self_consistency import SelfConsistency
from ponder.strategies.weighted_vote import WeightedVote
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.oracle import Oracle

THERE_ARE = "there are " + ", ".join(names("strategies"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best_of", f"'best_of': there is no strategy 'best_of' (did you mean 'best_of_n'?); {THERE_ARE}"),
        ("zzz(n=1)", f"'zzz(n=1)': there is no strategy 'zzz'; {THERE_ARE}"),
        ("oracle()", f"'oracle()': there is no strategy 'oracle'; {THERE_ARE}"),
        (
            "self_consistency(m=4)",
            "'self_consistency(m=4)': self_consistency has no argument 'm'; it takes n, batch",
        ),
        (
            "self_consistency(n=4, bach=2)",
            "'self_consistency(n=4, bach=2)': self_consistency has no argument 'bach' (did you mean 'batch'?); it takes n, batch",
        ),
        ("self_consistency()", "'self_consistency()': self_consistency needs 'n'; it takes n, batch"),
        ("self_consistency", "'self_consistency': self_consistency needs 'n'; it takes n, batch"),
        ("self_consistency(n=4, n=5)", "'self_consistency(n=4, n=5)': self_consistency got 'n' twice"),
        ("self_consistency(4, n=4)", "'self_consistency(4, n=4)': self_consistency got 'n' twice"),
        ("self_consistency(1, 2, 3)", "'self_consistency(1, 2, 3)': self_consistency takes 2 arguments (n, batch), 3 were given"),
        ("self_consistency(n='4')", "\"self_consistency(n='4')\": self_consistency(n=...) must be int, not '4'"),
        ("self_consistency(n=4.0)", "'self_consistency(n=4.0)': self_consistency(n=...) must be int, not 4.0"),
        ("self_consistency(n=True)", "'self_consistency(n=True)': self_consistency(n=...) must be int, not True"),
        ("self_consistency(n=None)", "'self_consistency(n=None)': self_consistency(n=...) must be int, not None"),
        ("self_consistency:4", "'self_consistency:4': self_consistency(n=...) must be int, not '4'"),
        ("best_of_n(n=4)", "'best_of_n(n=4)': best_of_n needs 'verifier'; it takes n, verifier, batch"),
        ("best_of_n(4, 'oracle')", "\"best_of_n(4, 'oracle')\": best_of_n(verifier=...) must be Verifier, not 'oracle'"),
        ("best_of_n(4, sample)", "'best_of_n(4, sample)': best_of_n(verifier=...) must be Verifier, not sample()"),
        ("best_of_n(4, oracle(fpr='x'))", "\"best_of_n(4, oracle(fpr='x'))\": oracle(fpr=...) must be float, not 'x'"),
        ("self_consistency(*[4])", "'self_consistency(*[4])': * and ** have no meaning in a spec; write the arguments out"),
        ("self_consistency(**{})", "'self_consistency(**{})': * and ** have no meaning in a spec; write the arguments out"),
        ("sample(", "'sample(' is not a spec (column 7); write a name with arguments, such as best_of_n(n=16)"),
        ("", "'' is not a spec (column 1); write a name with arguments, such as best_of_n(n=16)"),
        ("16", "'16': column 1 is neither a literal nor a registered name with arguments; specs are never evaluated"),
        (
            "self_consistency(n=2**4)",
            "'self_consistency(n=2**4)': column 20 is neither a literal nor a registered name with arguments; specs are never evaluated",
        ),
        (
            "adaptive_consistency(n=4, threshold=" + "9" * 310 + ")",
            f"{'adaptive_consistency(n=4, threshold=' + '9' * 164 + '...'!r}: adaptive_consistency(threshold=...) is too large for a float",
        ),
    ],
)
def test_misuse_is_told_in_one_clear_message(text, message):
    with pytest.raises(SpecError) as caught:
        parse(text, "strategies")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidence('marcos')", "confidence: there is no measure 'marcos'; there are mean_logprob, self_certainty, marco"),
        (
            "confidence(measure=sample())",
            "confidence: there is no measure sample(); there are mean_logprob, self_certainty, marco",
        ),
        ("oracle(fpr=1.5)", "oracle: fpr = 1.5 must lie in [0, 1]"),
        ("oracle(fnr=-1)", "oracle: fnr = -1.0 must lie in [0, 1]"),
        ("oracle(fpr=1e999)", "oracle: fpr = inf must lie in [0, 1]"),
    ],
)
def test_values_out_of_range_are_refused_when_the_spec_is_read(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text, "verifiers")
    assert str(caught.value) == message


class Bomb:
    """Anything that evaluates a spec would find it by one of these names."""

    went_off = False

    def __getattr__(self, name):
        Bomb.went_off = True
        raise AssertionError("evaluated")

    __call__ = __getitem__ = __add__ = __getattr__


HOSTILE = [
    "__import__('os').system('true')",
    "bomb()",
    "bomb.method",
    "bomb.method()",
    "bomb[0]",
    "bomb + 1",
    "sample()()",
    "sample().__class__",
    "sample.__class__.__bases__[0]",
    "(lambda: sample())()",
    "lambda: 1",
    "[bomb for _ in (1,)]",
    "{1: sample()}",
    "f'{bomb()}'",
    "self_consistency(n=f'{bomb()}')",
    "self_consistency(n=bomb.n)",
    "self_consistency(n=[bomb()][0])",
    "self_consistency(n=4 if bomb() else 8)",
    "self_consistency(n=(n := 4))",
    "self_consistency(n=9**9**9)",
    "self_consistency(n='x' * 10**9)",
    "self_consistency(n=b'4')",
    "self_consistency(n=4j)",
    "self_consistency(n=...)",
    "self_consistency(n=await bomb())",
    "self_consistency(n=-True)",
    "self_consistency(n=--4)",
    "self_consistency(n=not 4)",
    "best_of_n(4, best_of_n(4, best_of_n))",
    "best_of_n(n=4, verifier=eval('bomb()'))",
    "sample\x00()",
    "sample()\nsample()",
    "sample(); bomb()",
    "import os",
    "'\ud800'",
    "ﬁrst_finish(n=4",
    "(" * 5000,
    "(" * 90 + ")" * 90,
    "[" * 4000 + "]" * 4000,
    "-" * 9000 + "1",
    "not " * 2400 + "a",
    "a" + ".b" * 4000,
    "a" + "()" * 4000,
    "1" + "+1" * 4500,
    "best_of_n(4," * 800 + "x" + ")" * 800,
    "best_of_n(4," * 60 + "x" + ")" * 60,
    "self_consistency(n=" + "9" * 5000 + ")",
    "x" * 9999,
    "self_consistency(n='" + "x" * 9000 + "')",
    "self_consistency(" + "x" * 9000 + "=1)",
    "x" * 10_000_000,
    "(" * 10_000_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:30]))
def test_hostile_strings_give_a_short_error_quickly_and_are_never_evaluated(text, monkeypatch):
    monkeypatch.setattr(spec_module, "bomb", Bomb(), raising=False)
    monkeypatch.setattr("builtins.bomb", Bomb(), raising=False)
    begun = time.process_time()
    with pytest.raises(SpecError) as caught:
        parse(text, "strategies")
    assert time.process_time() - begun < 2  # some 20 ms
    assert len(str(caught.value)) < 1500
    assert not Bomb.went_off


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="()[]{}'\"=,.:*-n4 \\\nsample_of", max_size=60), st.sampled_from(KINDS))
def test_any_text_is_a_spec_or_an_error_of_ours(text, kind):
    with suppress(SpecError, UsageError, SetupError):
        parse(text, kind)


def test_a_number_of_four_thousand_digits_is_a_number_and_costs_nothing():
    assert parse("self_consistency(n=" + "9" * 4000 + ")", "strategies").n == int("9" * 4000)


# The round trip

COUNTS, RATES = st.integers(1, 10**12), st.floats(0.0, 1.0)
VERIFIERS = st.builds(Oracle, RATES, RATES, st.integers(-(10**9), 10**9)) | st.builds(
    Confidence, st.sampled_from(["mean_logprob", "self_certainty", "marco"])
)
STRATEGIES = st.one_of(
    st.builds(Sample),
    st.builds(FirstFinish, COUNTS),
    st.builds(SelfConsistency, COUNTS, COUNTS),
    st.builds(BestOfN, COUNTS, VERIFIERS, COUNTS),
    st.builds(WeightedVote, COUNTS, VERIFIERS, COUNTS),
    st.builds(Rejection, COUNTS, VERIFIERS, RATES, COUNTS),
    st.builds(AdaptiveConsistency, COUNTS, st.floats(0.5, 1.0, exclude_min=True, exclude_max=True), COUNTS),
)


@pytest.mark.slow
@given(STRATEGIES)
def test_every_strategy_is_read_back_from_its_repr(strategy):
    assert parse(repr(strategy), "strategies") == strategy
    assert parse(render(strategy, full=True), "strategies") == strategy
    assert parse(f"  {strategy!r}\n", "strategies") == strategy
    ast.parse(repr(strategy), mode="eval")


@pytest.mark.slow
@given(VERIFIERS)
def test_every_verifier_is_read_back_from_its_repr(verifier):
    assert parse(repr(verifier), "verifiers") == verifier


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sample", "sample()"),
        ("sample()", "sample()"),
        ("self_consistency(16)", "self_consistency(n=16)"),
        ("self_consistency(n=16, batch=64)", "self_consistency(n=16)"),
        ("best_of_n(16, confidence)", "best_of_n(n=16, verifier=confidence())"),
        ("best_of_n(16, verifier=confidence('marco'))", "best_of_n(n=16, verifier=confidence(measure='marco'))"),
        ("rejection(4, oracle(), threshold=1)", "rejection(n=4, verifier=oracle(), threshold=1.0)"),
    ],
)
def test_the_repr_is_one_spelling_of_many(text, shown):
    assert repr(parse(text, "strategies")) == shown


def test_a_whole_number_and_its_float_are_one_identity():
    assert repr(parse("oracle(fpr=1)", "verifiers")) == repr(parse("oracle(fpr=1.0)", "verifiers")) == "oracle(fpr=1.0)"


def test_full_specs_write_out_the_defaults_of_all_parts():
    assert render(parse("best_of_n(4, oracle)", "strategies"), full=True) == (
        "best_of_n(n=4, verifier=oracle(fpr=0.0, fnr=0.0, seed=0), batch=64)"
    )
    assert render((parse("oracle", "verifiers"),), full=True) == "(oracle(fpr=0.0, fnr=0.0, seed=0),)"


def test_the_short_form_is_the_name_with_one_string():
    assert parse("confidence:marco", "verifiers") == Confidence("marco")
    assert parse(" confidence:marco ", "verifiers") == Confidence("marco")


# Other people's parts


@named("mixed")
@dataclass(frozen=True, repr=False)
class Mixed:
    """A part with a tuple of parts."""

    parts: tuple[object, ...]
    label: str | None = None


def registered(monkeypatch, **entries):
    known = {kind: spec_module._entries(kind) for kind in KINDS}
    extra = tuple(EntryPoint(name, value, "ponder.strategies") for name, value in entries.items())
    monkeypatch.setattr(spec_module, "_entries", lambda kind: known[kind] + (extra if kind == "strategies" else ()))


def test_registered_parts_of_others_nest_in_tuples(monkeypatch):
    registered(monkeypatch, mixed=f"{__name__}:Mixed")
    made = parse("mixed((oracle(fpr=.1), confidence, 3, 'x', None, -2.5), label='y')", "strategies")
    assert made == Mixed((Oracle(fpr=0.1), Confidence(), 3, "x", None, -2.5), "y")
    assert repr(made) == "mixed(parts=(oracle(fpr=0.1), confidence(), 3, 'x', None, -2.5), label='y')"
    assert parse(repr(made), "strategies") == made
    assert parse("mixed((oracle,), label=None)", "strategies") == Mixed((Oracle(),))


def test_a_registered_part_that_cannot_be_loaded_is_named(monkeypatch):
    registered(monkeypatch, gone="no_such_module_here:Thing", lost=f"{__name__}:Nothing")
    with pytest.raises(SetupError) as caught:
        parse("gone()", "strategies")
    assert str(caught.value) == (
        "'gone()': 'gone' is registered as no_such_module_here:Thing, which cannot be loaded: No module named 'no_such_module_here'"
    )
    with pytest.raises(SetupError, match=r"^'lost\(\)': 'lost' is registered as .* has no attribute 'Nothing'$"):
        parse("lost()", "strategies")


def test_all_built_in_strategies_and_verifiers_come_through_the_same_door():
    assert {"best_of_n", "self_consistency", "sample"} <= set(names("strategies"))
    assert {"confidence", "oracle"} <= set(names("verifiers"))
