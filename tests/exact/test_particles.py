"""Particle filtering against the forward algorithm on a hidden Markov toy, and resampling against its expected counts.

The toy walks over two states for four steps; the guide's value of a prefix is the likelihood of what was observed of its last state. All
is small enough to be enumerated. Fixed seeds, n stated, within three standard errors.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product
from math import exp, floor, log, prod
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from fakes import solved
from ponder.strategies.particles import LEAST, Particles, odds
from ponder.strategies.resampling import RESAMPLERS, effective, flattened, multinomial, residual, systematic
from ponder.strategies.steps import Worth
from ponder.testing import MarkovPolicy
from ponder.types import Step
from searches import Table, Values, made_by, mean_near

FIRST, MOVES = {"a": 0.6, "b": 0.4}, {"a": {"a": 0.7, "b": 0.3}, "b": {"a": 0.2, "b": 0.8}}
LIKELIHOOD = [{"a": 0.9, "b": 0.2}, {"a": 0.3, "b": 0.6}, {"a": 0.8, "b": 0.1}, {"a": 0.4, "b": 0.7}]
STEPS = len(LIKELIHOOD)
HIDDEN = MarkovPolicy(
    {"start": {f"{to}1": p for to, p in FIRST.items()}}
    | {f"{at}{t}": {f"{to}{t + 1}": p for to, p in row.items()} for t in range(1, STEPS) for at, row in MOVES.items()}
)


def text(path):
    return "".join(f"{state}{t}\n" for t, state in enumerate(path, 1))


PATHS = {text(path): path for size in range(1, STEPS + 1) for path in product("ab", repeat=size)}
GUIDE = Values({written: LIKELIHOOD[len(path) - 1][path[-1]] for written, path in PATHS.items()})


def prior(path):
    return FIRST[path[0]] * prod(MOVES[a][b] for a, b in pairwise(path))


def forward(potential):
    """sum over paths of p(path) times the product of potentials, one step at a time."""
    mass = {state: p * potential(LIKELIHOOD[0][state]) for state, p in FIRST.items()}
    for t in range(1, STEPS):
        mass = {
            to: sum(mass[at] * MOVES[at][to] for at in mass) * potential(LIKELIHOOD[t][to]) for to in mass
        }  # fmt: skip
    return mass


EVIDENCE = sum(forward(lambda value: value).values())
POSTERIOR = {
    written: prior(path) * prod(LIKELIHOOD[t][state] for t, state in enumerate(path)) / EVIDENCE
    for written, path in PATHS.items()
    if len(path) == STEPS
}


def swept(n, search):
    return made_by(lambda root, run: search.sweep(root, run, run.random(root, "particles")), HIDDEN, n=n)


def test_the_forward_algorithm_is_the_enumeration():
    assert sum(POSTERIOR.values()) == pytest.approx(1.0)


@pytest.mark.slow
@pytest.mark.parametrize("resample", RESAMPLERS)
@pytest.mark.parametrize("ess", [0.0, 0.5, 1.0])
def test_the_evidence_is_estimated_without_bias(resample, ess):
    search = Particles(4, GUIDE, potential="value", resample=resample, ess=ess)
    mean_near([exp(sweep.evidence) for sweep in swept(700, search)], EVIDENCE)


@pytest.mark.slow
def test_the_evidence_of_odds_and_of_ratios_is_that_of_their_products():
    mean_near([exp(s.evidence) for s in swept(900, Particles(6, GUIDE, potential="odds"))], sum(forward(odds).values()))
    last = sum(prior(path) * odds(GUIDE.table[written]) for written, path in PATHS.items() if len(path) == STEPS)
    mean_near([exp(s.evidence) for s in swept(900, Particles(6, GUIDE, potential="ratio"))], last)


@pytest.mark.slow
@pytest.mark.parametrize("resample", RESAMPLERS)
def test_weighted_particles_are_the_posterior(resample):
    """A self-normalised estimate is biased by about 1 / n: 200 particles, 40 sweeps."""
    shares = Counter()
    for sweep in swept(40, Particles(200, GUIDE, potential="value", resample=resample, ess=0.5)):
        for one, weight in zip(sweep.particles, sweep.weights, strict=True):
            shares[one.chain.text] += weight / sum(sweep.weights) / 40
    assert all(abs(shares[written] - p) < 0.015 for written, p in POSTERIOR.items()), shares


@pytest.mark.slow
@pytest.mark.parametrize("ess", [0.6, 1.0])
def test_a_sweep_that_keeps_a_particle_leaves_the_posterior_as_it_is(ess):
    """Andrieu et al. 2010, theorem 5: from a path of the posterior, a conditional sweep and a draw by weight give one again."""
    search, n = Particles(3, GUIDE, potential="value", ess=ess), 2000

    async def again(root, run):
        random, chain, kept = run.random(root, "again"), root, []
        [start] = random.choices(list(POSTERIOR), list(POSTERIOR.values()))
        for line in start.splitlines(keepends=True):
            chain = chain.then(Step(line), "stop" if chain.text + line == start else None)
            kept.append(Worth(chain, GUIDE.table[chain.text]))
        sweep = await search.sweep(root, run, random, kept)
        assert sweep.particles[0].chain is chain, "the kept particle was lost"
        assert sweep.lines[0] == kept
        [at] = multinomial(sweep.weights, 1, random)
        assert [one.chain.text for one in sweep.trace(at)][-1] == sweep.particles[at].chain.text
        assert [len(one.chain.steps) for one in sweep.trace(at)] == list(range(1, STEPS + 1))
        return start, sweep.particles[at].chain.text

    pairs = made_by(again, HIDDEN, n=n)
    ends = Counter(end for _, end in pairs)
    assert chisquare([ends[written] for written in POSTERIOR], [p * n for p in POSTERIOR.values()]).pvalue > 1e-3
    assert sum(start != end for start, end in pairs) > 0.2 * n, "it hardly moves"


def test_sweeps_after_the_first_sample_all_particles_but_the_kept_one():
    outcome = solved(Particles(5, GUIDE, potential="value", gibbs=3), HIDDEN)
    assert outcome.spent.samples == STEPS * (5 + 4 + 4)


LENGTHS = {"": [("x", "stop"), ("y\n", None)], "y\n": [("1", "stop"), ("2\n", None)]}
VALUED = Values({"x": 0.8, "y\n": 0.4, "y\n1": 0.6})


@pytest.mark.parametrize(
    ("potential", "weights"),
    [
        ("odds", (4 * 4, (2 / 3) * 1.5)),
        ("value", (0.8 * 0.8, 0.4 * 0.6)),
        ("ratio", (4 * 1, 1.5)),
    ],
)
def test_a_finished_particle_keeps_its_potential_and_of_a_ratio_it_is_1(potential, weights):
    search = Particles(2, VALUED, potential=potential, ess=0.0)
    sweep = made_by(lambda root, run: search.sweep(root, run, Random(0)), Table(LENGTHS))
    assert sweep.weights == pytest.approx([2 * weight / sum(weights) for weight in weights])
    assert exp(sweep.evidence) == pytest.approx(sum(weights) / 2)


def test_odds_are_kept_off_0_and_infinity():
    assert odds(0.5) == 1.0
    assert odds(1.0) == pytest.approx((1 - LEAST) / LEAST)
    assert odds(0.0) == pytest.approx(LEAST / (1 - LEAST))


@pytest.mark.parametrize("ends", [("", "error"), ("z", "length"), (" ", "stop"), ("u", "stop")])
def test_what_was_cut_or_failed_or_came_to_nothing_or_has_no_value_has_weight_0(ends):
    policy = Table({"": [("x", "stop"), ends]})
    search = Particles(2, Values({"x": 0.1, "u": None, "z": 1.0, " ": 1.0}), ess=0.0)
    sweep = made_by(lambda root, run: search.sweep(root, run, Random(0)), policy)
    assert sweep.weights == pytest.approx([2.0, 0.0])
    assert exp(sweep.evidence) == pytest.approx(1 / 18)
    assert solved(search, policy).answer == "x"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_guide_that_is_sure_for_many_steps_passes_no_range_of_numbers(value):
    rows = {"a\n" * size: [("a\n", None), ("a\n", None)] for size in range(80)}
    search = Particles(4, Values(dict.fromkeys(rows, value)), depth=79, ess=0.5)
    sweep = made_by(lambda root, run: search.sweep(root, run, Random(0)), Table(rows))
    assert sweep.weights == pytest.approx([1.0] * 4)
    assert sweep.evidence == pytest.approx(79 * log(odds(value)))


def test_copies_of_a_particle_are_asked_for_together_and_bad_ones_die_out():
    rows = {"": [("x\n", None), ("y\n", None), ("z\n", None)]} | {f"{at}\n": [("!", "stop")] for at in "xyz"}
    values = {"x\n": 0.9, "y\n": 0.1, "z\n": 0.1} | {f"{at}\n!": 0.5 for at in "xyz"}

    def second(**fields):
        policy = Table(rows)
        solved(Particles(3, Values(values), **fields), policy)
        return Counter(parent for parent, _ in policy.asked[3:])

    assert second()["x\n"] >= 2, "3 * 9 / (9 + 2 / 9) = 2.9 children, rounded by systematic resampling"
    assert second(ess=0.0) == {"x\n": 1, "y\n": 1, "z\n": 1}
    assert second(anneal=1) == {"x\n": 1, "y\n": 1, "z\n": 1}, "all weights are flat before the first step is over"
    assert second(anneal=0) == second()


WEIGHTS = [
    [0.1, 0.2, 0.3, 0.4],
    [0.0, 3.0, 0.0, 1.0, 0.0],
    [1.0],
    [0.25] * 4,
]


@pytest.mark.slow
@pytest.mark.parametrize("name", RESAMPLERS)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_resamplers_copy_by_weight_on_average(name, weights):
    random, n, many = Random(name), 7, 8000
    counts = [Counter(RESAMPLERS[name](weights, n, random)) for _ in range(many)]
    for at, weight in enumerate(weights):
        mean_near([count[at] for count in counts], n * weight / sum(weights))
        assert weight > 0 or not any(count[at] for count in counts)
    assert {sum(count.values()) for count in counts} == {n}


@given(weights=st.lists(st.floats(0, 10), min_size=1, max_size=9), n=st.integers(1, 30), seed=st.integers(0, 99))
def test_systematic_counts_lie_within_1_of_n_w_and_residual_ones_at_least_at_the_floor(weights, n, seed):
    assume(sum(weights) > 1e-3)
    shares = [n * weight / sum(weights) for weight in weights]
    counts = Counter(systematic(weights, n, Random(seed)))
    assert all(abs(counts[at] - share) < 1 + 1e-9 for at, share in enumerate(shares))
    kept = Counter(residual(weights, n, Random(seed)))
    assert all(kept[at] >= floor(share - 1e-9) for at, share in enumerate(shares))
    assert sum(counts.values()) == sum(kept.values()) == n


@given(weights=st.lists(st.floats(0.001, 1), min_size=2, max_size=8), share=st.floats(0.05, 1.0), dead=st.integers(0, 3))
def test_flattened_weights_hit_their_effective_size_by_the_least_flattening(weights, share, dead):
    target, all_of_them = share * len(weights), [*weights, *[0.0] * dead]
    flat = flattened(all_of_them, target)
    assert effective(flat) >= min(target, len(weights)) - 1e-6
    assert flat[len(weights) :] == [0.0] * dead
    if effective(weights) >= target:
        assert flat[: len(weights)] == pytest.approx([weight / max(weights) for weight in weights])
    else:
        assert effective(flat) == pytest.approx(min(target, len(weights)), rel=1e-6)
    order = sorted(range(len(weights)), key=weights.__getitem__)
    assert [flat[at] for at in order] == sorted(flat[: len(weights)])


def test_the_effective_size_is_that_of_small_cases():
    assert effective([1.0, 1.0, 1.0]) == pytest.approx(3.0)
    assert effective([2.0, 0.0]) == 1.0
    assert effective([3.0, 1.0]) == pytest.approx(16 / 10)
