"""What a comparison says of small hand-made studies, word for word; which curves meet, and what is left out and said."""

from __future__ import annotations

import errno
import json
import os
import re
from math import comb
from pathlib import Path

import numpy as np
import pytest

from ponder.cli.axes import COUNTS, Unit, counts, on_axis, price_of, size_of, walked
from ponder.cli.compare import Source, accuracies, compared, front_points, report
from ponder.cli.curve import Line
from ponder.cli.findings import decimals, findings, method, p_text
from ponder.cli.main import run_app
from ponder.cli.report import write_html
from ponder.cli.runner import parse_policy
from ponder.cli.verbs import picture
from ponder.core import Price
from ponder.errors import DataError, StudyError, UsageError
from ponder.scaling import costs
from ponder.scaling.costs import Spending
from ponder.spec import parse
from ponder.store.records import EventRecord
from ponder.types import Usage
from studies import options


def line(strategy, costs, right, *, of=40, cell="lab | p | t=1", task="task", bound=False, ids=None):
    """A curve whose size number k solves the first right[k] of the problems."""
    values = np.stack([(np.arange(of) < n).astype(float) for n in right], axis=1)
    spent = np.zeros((of, len(costs), len(COUNTS)))
    spent[:, :, COUNTS.index("completion")] = costs
    spent[:, :, COUNTS.index("prompt")] = 100
    names = tuple(ids or (f"q{i}" for i in range(of)))
    return Line(
        cell, strategy, "runs", bound, 1, list(range(1, 1 + len(costs))), values, spent[:, :, 3], spent, names, task, "print"
    )


def found(*lines, unit=None, **more):
    return compared([Source(Path("one"), lines, **more)], unit or Unit())


def test_a_pair_that_crosses_is_told_in_one_sentence():
    """a solves 10 of 40 for 1,000 tokens and 36 for 4,000; b solves 26 for any. p by hand: 2 / 2^16, 2 / 2^10; Holm over three."""
    told = found(line("a", [1000, 4000], [10, 36]), line("b", [500, 8000], [26, 26]))
    [group] = told.groups
    first, middle, last = group.comparisons
    assert (first.difference.value, first.p, first.holm) == (-0.4, 2 / 2**16, 3 * 2 / 2**16)
    assert middle.difference.value == pytest.approx((16 * (1 / 3 - 1) + 10 / 3) / 40)
    ways = [(i, j) for i in range(17) for j in range(11) if abs(2 * (2 * i - 16) - (2 * j - 10)) >= 22]
    assert middle.p == pytest.approx(sum(comb(16, i) * comb(10, j) for i, j in ways) / 2**26, abs=0.003)
    assert (last.difference.value, last.p, last.holm) == (0.25, 2 / 2**10, 2 * 2 / 2**10)
    assert findings(told, group) == [
        "Pareto front, cheapest first: b at 500 tokens (accuracy .650), then a at 4k tokens (accuracy .900).",
        "a beats b from 4k tokens up, by .250 [.125, .400] (p = .002, Holm = .004) at 4k; "
        "loses up to 2k tokens, by .183 [.058, .317] (p = .014, Holm = .014) at 2k.",
    ]


def test_who_wins_at_the_largest_decided_cost_is_the_subject():
    told = found(line("a", [10, 90], [4, 8]), line("b", [10, 90], [4, 36]))
    assert findings(told, told.groups[0])[1].startswith("b beats a from 20 tokens up, by .700 [")
    assert findings(told, told.groups[0])[1].endswith("at 90; undecided at 10.")


def test_no_difference_is_no_finding():
    told = found(line("a", [10, 90], [4, 8]), line("b", [10, 90], [5, 9]), line("c", [90], [8]))
    assert findings(told, told.groups[0])[1:] == [
        "a and b: no difference is established from 10 to 90 tokens; -.025 [-.075, .000] (p = 1.000, Holm = 1.000) at 90.",
        "a and c reach the same on every problem at 90 tokens.",
        "b and c: no difference is established at 90 tokens; +.025 [.000, .075] (p = 1.000, Holm = 1.000) at 90.",
    ]


def test_a_sentence_counts_every_comparison_of_the_report():
    """p = 2 / 2^7 alone is established; beside a second task with as many comparisons it is not."""
    pair = line("a", [10], [0]), line("b", [10], [7])
    assert "beats" in findings(alone := found(*pair), alone.groups[0])[1]
    others = [line(name, [10], [0], task="other") for name in "abc"]
    both = found(*pair, *others)
    assert both.tests == 4
    assert "no difference is established" in findings(both, both.groups[0])[1]
    assert any(text.startswith("4 comparisons were made.") for text in method(both))


def test_strategies_that_begin_with_the_same_sample_share_its_place_on_the_front():
    told = found(line("a", [10, 20], [10, 12]), line("b", [10, 20], [10, 11]))
    assert findings(told, told.groups[0])[0] == "Pareto front, cheapest first: a from 10 to 20 tokens (accuracy .250 to .300)."


def test_bounds_are_neither_compared_nor_on_the_front():
    told = found(line("a", [10], [10]), line("pass@k", [5], [30], bound=True))
    [group] = told.groups
    assert group.comparisons == ()
    assert front_points(group) == [(10.0, 0.25)]
    assert len(group.points) == 2


def test_a_search_is_not_compared_where_it_has_proposed_nothing_yet():
    told = found(line("beam", [10, 20, 40], [0, 0, 30]), line("vote", [10, 40], [5, 6]))
    assert [(one.cost, one.a_value) for one in told.groups[0].comparisons] == [(40, 0.75)]
    assert len(told.groups[0].points[0]) == 3
    hopeless = found(line("beam", [10, 40], [0, 0]), line("vote", [10, 40], [5, 6]))
    assert [one.cost for one in hopeless.groups[0].comparisons] == [10, 20, 40]


def test_studies_meet_over_the_problems_that_all_have_whatever_their_order():
    a = line("a", [10], [3], of=4, ids=("q0", "q1", "q2", "q3"))
    b = line("a", [10], [2], of=4, ids=("q3", "q2", "q1", "q9"), cell="lab | other | t=1")
    told = compared([Source(Path("x/one"), (a,)), Source(Path("x/two"), (b,))], Unit())
    [group] = told.groups
    assert group.ids == ("q1", "q2", "q3")
    assert accuracies(group).tolist() == [[1, 1, 0], [0, 1, 1]]
    assert [entry.name for entry in group.entries] == ["a [one, p]", "a [two, other]"]
    assert told.notes == ("lab: 3 of 4 problems are in all curves, and only they are compared",)


def test_curves_that_look_alike_keep_names_of_their_own():
    told = found(line("a", [10], [3]), line("a", [10], [4]))
    assert [entry.name for entry in told.groups[0].entries] == ["a", "a #2"]
    many = found(*[line(name, [10], [at]) for at, name in enumerate(["a", "a", "a #2", "a", "a", "b", "b"])])
    names = [entry.name for entry in many.groups[0].entries]
    assert names == ["a", "a #2", "a #2 #2", "a #3", "a #4", "b", "b #2"]
    pairs = [text for text in findings(many, many.groups[0]) if not text.startswith("Pareto")]
    assert len(pairs) == comb(7, 2), "curves of one name would be told as one"


def keyed(strategy, right, **settings):
    """A curve under the key of its sampling, as a study writes it."""
    chosen = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "logprobs": 0, "max_tokens": 512} | settings
    key = " ".join(f"{name}={value}" for name, value in chosen.items())
    return line(strategy, [10], [right], cell=f"lab | p | {key}")


def names_of(*lines):
    [group] = compared([Source(Path(f"x/{study}"), (one,)) for study, one in lines], Unit()).groups
    return [entry.name for entry in group.entries]


def test_a_name_tells_only_the_settings_of_the_sampling_that_differ():
    one, other = keyed("vote", 3), keyed("vote", 4, temperature=0.6, max_tokens=64)
    assert names_of(("mine", one), ("other", other)) == [
        "vote [mine, temperature=1.0, max_tokens=512]",
        "vote [other, temperature=0.6, max_tokens=64]",
    ]
    assert names_of(("mine", one), ("other", keyed("vote", 4, top_k=5))) == ["vote [mine, top_k=0]", "vote [other, top_k=5]"]


def test_how_many_logprobs_a_study_kept_is_named_only_where_nothing_else_tells():
    kept = keyed("vote", 4, logprobs=1)
    assert names_of(("mine", keyed("vote", 3)), ("other", kept)) == ["vote [mine]", "vote [other]"]
    assert names_of(("mine", keyed("vote", 3)), ("mine", kept), ("mine", keyed("sample", 2))) == [
        "vote [logprobs=0]",
        "vote [logprobs=1]",
        "sample",
    ]


def test_so_many_curves_that_pairs_are_too_many_are_drawn_and_not_compared(monkeypatch):
    monkeypatch.setattr("ponder.cli.compare.MOST", 2)
    told = found(*[line(name, [10], [at]) for at, name in enumerate("abc")])
    assert (told.tests, len(told.groups[0].front)) == (0, 1)
    assert told.notes == ("lab: 3 curves are more than the 2 that are compared pair by pair; name fewer studies or strategies",)


def test_other_problems_are_another_group():
    told = found(line("a", [10], [3]), line("b", [10], [4], task="other"))
    assert [len(group.entries) for group in told.groups] == [1, 1]


@pytest.mark.parametrize(
    ("unit", "cost"),
    [
        (Unit("tokens"), 10.0),
        (Unit("completion"), 10.0),
        (Unit("prompt"), 100.0),
        (Unit("flops", parameters=3), 2 * 3 * 110.0),
        (Unit("money", price=Price(1.0, 0.5, 4.0)), (100 + 40) / 1e6),
    ],
)
def test_an_axis_converts_what_was_spent(unit, cost):
    [one] = on_axis([line("a", [10], [1])], (), unit)
    assert one.costs_K.tolist() == pytest.approx([cost])
    assert [(p.axis, p.tokens) for p in one.points()] == [(unit.axis, 10.0)]


def priced(spent, axis, *, spec="", policies=("lab",), **more):
    """What a question costs on the axis, and what was assumed; spent: of one problem at one size."""
    shape = dict(cell="lab | lab/base | t=1", how="subsets", bound=False, seeds=1, ks=[1], ids=("q",), task="task")
    own = parse_policy("lab").info.fingerprint
    values, notes = np.ones((1, 1)), []
    table = np.array(spent, dtype=float)[None, None]
    one = Line(strategy="s", values_P_K=values, tokens_P_K=values, spent_P_K_C=table, policy=own, spec=spec, **shape)
    [found] = on_axis([one], policies, Unit(axis, **more), notes)
    return found.costs_K[0], notes


DRAWN = [Usage(prompt=40, completion=n, cached=c, calls=1) for n, c in ((30, 0), (55, 10), (12, 40))]
READ = [Usage(prompt=20, scored=n, calls=1) for n in (30, 55)]
PRM = "best_of_n(n=3, verifier=aggregated(reward_model('lab/prm'), 'min'))"


@pytest.mark.parametrize(("axis", "field"), [("flops", "flops"), ("attention", "attention")])
def test_flops_of_a_curve_are_those_of_the_bill_with_the_verifier_at_its_own_size(axis, field):
    spent = np.sum([counts(use, 1) for use in DRAWN] + [counts(use, 0, reading=True) for use in READ], axis=0)
    reader = parse("reward_model('lab/prm')", "verifiers").reader
    policy = parse_policy("lab").info
    whole = costs.bill(Spending.of_records("p", policy, DRAWN)) + costs.bill(Spending.of_records("v", reader, READ))
    cost, notes = priced(spent, axis, spec=PRM)
    assert cost == pytest.approx(getattr(whole, field), rel=1e-12)
    assert notes == []
    assert reader.parameters != policy.parameters


def test_runs_are_walked_event_by_event_and_calls_of_one_event_are_taken_for_equally_long():
    def after(*uses):
        return sum(uses, Usage())

    events = [
        EventRecord("extend", 2, 60, after(DRAWN[0], DRAWN[0]), ()),
        EventRecord("propose", 2, 60, after(DRAWN[0], DRAWN[0]), ()),
        EventRecord("score", 2, 120, after(DRAWN[0], DRAWN[0], READ[0], READ[0]), ()),
        EventRecord("extend", 4, 187, after(DRAWN[0], DRAWN[0], READ[0], READ[0], DRAWN[0], DRAWN[1]), ()),
    ]
    told = walked(events)
    first = np.sum([counts(DRAWN[0], 1)] * 2, axis=0)
    assert told[0] == told[1] == pytest.approx(tuple(first))
    assert told[2] == pytest.approx(tuple(first + np.sum([counts(READ[0], 0, reading=True)] * 2, axis=0)))
    exact = np.sum([told[2], counts(DRAWN[0], 1), counts(DRAWN[1], 1)], axis=0)
    at = COUNTS.index("attended")
    assert told[3][:at] == pytest.approx(tuple(exact[:at]))
    assert 0.9 * exact[at] < told[3][at] < exact[at], "the least it may be"


def test_what_had_to_be_assumed_of_sizes_is_said_and_attention_is_never_guessed():
    reading = np.sum([counts(DRAWN[0], 1), counts(READ[0], 0, reading=True)], axis=0)
    size = parse_policy("lab").info.parameters
    cost, notes = priced(reading, "flops")
    assert cost == 2 * size * (70 + 50)
    assert notes == ["s: the size of its verifier is not known here and taken for that of lab/base; give --verifier-parameters N"]
    cost, notes = priced(reading, "flops", verifier_parameters=1000)
    assert (cost, notes) == (2 * size * 70 + 2 * 1000 * 50, [])
    judged = "best_of_n(n=2, verifier=judge(policy=maze(0.5, 2)))"
    assert priced(counts(DRAWN[0], 1), "flops", spec=judged)[1] == [
        "s: what its own policies write is counted at the size of lab/base"
    ]
    assert priced(counts(DRAWN[0], 1), "flops", spec="best_of_n(n=2, verifier=judge(policy=lab))")[1] == []
    with pytest.raises(
        UsageError, match="what the cache of its verifier looks like is not known here, and attention needs it; give --axis"
    ):
        priced(reading, "attention", verifier_parameters=1000)
    with pytest.raises(UsageError, match="what the cache of lab/base looks like is not known here"):
        priced(reading, "attention", policies=(), parameters=5)
    for size in (0, -5, 10**30):
        with pytest.raises(UsageError, match=rf"^--parameters {size}: a model has 1 to 10\^18 active parameters$"):
            Unit("flops", parameters=size)
    assert Unit("flops").label == "FLOPs per question (2 N a token, attention left out)"
    assert Unit("attention").label == "FLOPs per question with attention (2 N a token, and 2 r D a token attended to)"


def test_an_axis_that_needs_what_nobody_knows_says_what_to_give():
    with pytest.raises(UsageError, match="the size of p is not known here; give --parameters N"):
        on_axis([line("a", [10], [1])], (), Unit("flops"))
    with pytest.raises(UsageError, match="the price of p is not known here; give --price"):
        on_axis([line("a", [10], [1])], (), Unit("money"))
    with pytest.raises(StudyError, match="no curve has a cost on the axis seconds"):
        found(*on_axis([line("a", [10], [1])], (), Unit("seconds")), unit=Unit("seconds"))
    assert price_of("1,2") == Price(1.0, 1.0, 2.0)
    assert price_of("1,2,0.5") == Price(1.0, 0.5, 2.0)
    for text in ("1", "a,b", "1,2,3,4", "1,-2", "1,inf"):
        with pytest.raises(UsageError, match="price"):
            price_of(text)


def test_a_size_is_written_as_people_write_it():
    sizes = {
        "7000000000": 7 * 10**9,
        "7_000": 7000,
        "7e9": 7 * 10**9,
        "7B": 7 * 10**9,
        "500M": 5 * 10**8,
        "1.1b": 11 * 10**8,
        "2T": 2 * 10**12,
    }
    assert {text: size_of("--parameters", text) for text in sizes} == sizes
    assert size_of("--parameters", "-5") == -5, "Unit says what is wrong with it"
    assert size_of("--parameters", None) is None
    for text in ("", "_", "0.5", "7e-1", "7G", "B", "seven", "nan", "inf", "1e999999999", "1.2.3"):
        with pytest.raises(
            UsageError, match=f"^--parameters {re.escape(repr(text))}: give a whole number of parameters, such as .*7B or 500M$"
        ):
            size_of("--parameters", text)


@pytest.mark.parametrize("verb", ["curve", "compare"])
def test_both_verbs_read_sizes_and_say_which_option_was_wrong(tmp_path, capsys, verb):
    for option in ("--parameters", "--verifier-parameters"):
        assert run_app([verb, str(tmp_path), option, "7B"]) == StudyError.exit_code, "read, and then there is no study"
        assert run_app([verb, str(tmp_path), option, "7 apples"]) == UsageError.exit_code
        assert f"{option} '7 apples': give a whole number" in capsys.readouterr().err
        assert run_app([verb, str(tmp_path), option, "-5"]) == UsageError.exit_code
        assert f"{option} -5: a model has 1 to 10^18" in capsys.readouterr().err


def test_a_curve_on_another_axis_leaves_the_picture_of_tokens(tmp_path):
    (tmp_path / "study").mkdir()
    found = {axis: picture(tmp_path / "study", axis).name for axis in ("tokens", "flops", "money")}
    assert found == {"tokens": "curve.png", "flops": "curve-flops.png", "money": "curve-money.png"}
    assert picture(tmp_path / "a.b.parquet", "tokens") == tmp_path / "a.b.png"
    assert picture(tmp_path / "a.b.parquet", "flops") == tmp_path / "a.b-flops.png"


@pytest.mark.slow
def test_each_cell_and_axis_has_a_picture_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_app(["run", *options("self_consistency(n=2)"), "--policy", "maze(0.3, 3)", "--out", "one"]) == 0
    capsys.readouterr()
    for words in ([], ["--axis", "samples"], ["--axis", "samples", "--png", "named.svg"]):
        assert run_app(["curve", "one", *words]) == 0
    found = [line.partition("picture in ")[2] for line in capsys.readouterr().err.splitlines() if "picture in" in line]
    kept = ["one/curve-1.png", "one/curve-2.png", "one/curve-samples-1.png", "one/curve-samples-2.png"]
    assert found == [*kept, "named-1.svg", "named-2.svg"]
    assert all(Path(name).exists() for name in found)


def test_a_full_disk_leaves_no_half_a_page(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ponder.store.export.os.fsync", full)
    with pytest.raises(DataError, match=r"page\.html: cannot be written \(No space left on device\)"):
        write_html(found(line("a", [10], [3])), tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_numbers_are_written_short():
    assert [decimals(x) for x in (0.04, -0.0125, 1.0, -1.0, 0.0, -0.0001)] == [".040", "-.013", "1.000", "-1.000", ".000", ".000"]
    assert [p_text(p) for p in (0.0009, 0.001, 0.05, 1.0)] == ["< .001", "= .001", "= .050", "= 1.000"]


@pytest.mark.slow
def test_the_verb_compares_studies_of_its_own_making(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_app(["run", *options("self_consistency(n=8)", "first_finish(n=4)"), "--out", "one"]) == 0
    assert run_app(["run", *options("adaptive_consistency(n=8, batch=2)"), "--out", "two"]) == 0
    capsys.readouterr()
    files = ["--html", "r.html", "--markdown", "r.md", "--png", "r.svg"]
    assert run_app(["compare", "one", "two", "--json", *files]) == 0
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert {(one["a"], one["b"]) for one in lines} >= {("self_consistency [one]", "adaptive_consistency [two]")}
    assert all(one["n"] == 12 and 0 < one["p"] <= one["holm"] <= 1 for one in lines)
    assert all((tmp_path / name).stat().st_size for name in ("r.html", "r.md", "r.svg"))
    assert run_app(["compare", "one", "--axis", "flops"]) == 0
    assert "Pareto front, cheapest first" in capsys.readouterr().out
    told = report([Path("one")], Unit("samples"))
    assert told.groups[0].entries[0].line.costs_K.tolist() == [1, 2, 4, 8]
    assert told.sources[0].questions["maze-0"].startswith("Maze 0")
    assert set(told.sources[0].answers) >= {("self_consistency", "maze-0"), ("first_finish", "maze-11")}
