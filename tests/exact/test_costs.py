"""Costs against sums over single tokens, heads and bytes."""

import pytest

from ponder.core import KVShape, PolicyInfo, Price
from ponder.errors import UsageError
from ponder.scaling import costs
from ponder.scaling.costs import Bill, Spending, Throughput, Trials
from ponder.types import Chain, Step, Usage, user

QWEN3_4B = KVShape(layers=36, kv_heads=8, head_dim=128, group=4)
SMALL = KVShape(layers=2, kv_heads=3, head_dim=5, group=4)


def model(shape=SMALL, parameters=1000, price=None):
    return PolicyInfo("m", "m", parameters=parameters, kv=shape, price=price)


def attention_of_a_token(shape, keys):
    """Scores and weighted values, two FLOPs for each multiply-add, head by head."""
    total = 0.0
    for _ in range(shape.layers):
        for _ in range(shape.kv_heads * shape.group):
            total += 2 * shape.head_dim * keys  # query . key
            total += 2 * shape.head_dim * keys  # weight * value
    return total


def bytes_of_a_token(shape):
    return sum(2 * 2 * shape.head_dim for _ in range(shape.layers) for _ in range(shape.kv_heads))  # key and value, two bytes


def decoded(shape, parameters, prefix, written, intensity):
    """Token by token: all trials that still write take a step together."""
    flops = memory = 0.0
    for t in range(1, max(written) + 1):
        writing = [n for n in written if n >= t]
        memory += prefix * bytes_of_a_token(shape)  # the prefix is read once for all of them
        for _ in writing:
            flops += 2 * parameters + attention_of_a_token(shape, prefix + t - 0.5)
            memory += (t - 0.5) * bytes_of_a_token(shape)
    return flops + intensity * memory


@pytest.mark.parametrize("shape", [SMALL, KVShape(1, 1, 4, 1), KVShape(3, 2, 8, 7)])
@pytest.mark.parametrize("written", [(1,), (9, 9, 9), (4, 17, 1, 8)])
@pytest.mark.parametrize("prefix", [0, 11])
def test_eflops_equal_a_sum_over_tokens_trials_and_heads(shape, written, prefix):
    found = costs.eflops(model(shape), Trials(prefix, written))
    assert found == pytest.approx(decoded(shape, 1000, prefix, written, 562.5), rel=1e-12)


def test_eflops_are_the_published_equation_for_trials_of_one_length():
    p, n, l_in, l_out, i = 4e9, 8, 300, 2000, 562.5
    r, d = 4, 2 * 36 * 8 * 128
    equation = (
        2 * n * p * l_out + 2 * r * n * l_in * d * l_out + r * n * d * l_out**2 + 2 * i * l_in * d * l_out + i * n * d * l_out**2
    )
    found = costs.eflops(model(QWEN3_4B, int(p)), Trials(l_in, (l_out,) * n))
    assert found == pytest.approx(equation, rel=1e-12)


def test_sharing_the_prefix_saves_memory_only():
    together = costs.eflops(model(), Trials(50, (7, 7)))
    apart = 2 * costs.eflops(model(), Trials(50, (7,)))
    assert apart - together == pytest.approx(562.5 * 50 * 7 * bytes_of_a_token(SMALL))
    assert costs.eflops(model(), Trials(50, (7, 7)), intensity=0) == pytest.approx(2 * costs.attended_flops(model(), 50, 7))


@pytest.mark.parametrize(("cached", "prefix", "written"), [(0, 0, (5,)), (0, 6, (5, 2)), (4, 6, (3,)), (6, 6, (1, 1, 1))])
def test_attention_equals_a_sum_over_tokens(cached, prefix, written):
    total = sum(2 * 1000 + attention_of_a_token(SMALL, t - 0.5) for t in range(cached + 1, prefix + 1))
    for n in written:
        total += sum(2 * 1000 + attention_of_a_token(SMALL, t - 0.5) for t in range(prefix + 1, prefix + n + 1))
    assert costs.attended(model(), Trials(prefix, written, cached)) == pytest.approx(total, rel=1e-12)


def test_linear_flops_count_each_token_that_a_model_touched():
    assert costs.flops(model(), Usage(prompt=10, cached=4, completion=5, scored=3)) == 2 * 1000 * (6 + 5 + 3)


def test_children_of_one_prefix_share_it_and_others_do_not():
    root, other = Chain((user("q"),)), Chain((user("other"),))
    step = lambda prompt, completion: Step("x", Usage(prompt=prompt, completion=completion, calls=1))  # noqa: E731  short
    first, second = root.then(step(10, 3)), root.then(step(10, 5))
    deeper = first.then(step(13, 2))
    made = Spending.of_chains("proposals", model(), [first, second, deeper, other.then(step(7, 1), "stop")])
    assert made.trials == (Trials(10, (3, 5)), Trials(13, (2,)), Trials(7, (1,)))
    assert made.usage == Usage(prompt=40, completion=11, calls=4)


def test_a_shared_prefix_is_on_the_bill_once_in_every_kind_of_flops():
    root = Chain((user("q"),))
    pair = [root.then(Step("x", Usage(prompt=10, completion=n, calls=1))) for n in (3, 5)]
    shared, alone = (
        costs.bill(Spending.of_chains("p", model(), pair)),
        costs.bill(Spending.of_records("p", model(), [c.usage for c in pair])),
    )
    assert (shared.flops, alone.flops) == (2 * 1000 * (10 + 8), 2 * 1000 * (20 + 8))
    assert shared.attention is not None
    assert alone.attention is not None
    assert alone.attention - shared.attention == pytest.approx(costs.attended_flops(model(), 0, 10))


def test_a_bill_holds_every_unit_and_the_verifier_is_on_it():
    policy = model(price=Price(prompt=1.0, cached=0.5, completion=2.0))
    judge = PolicyInfo("judge", "j", parameters=50, kv=KVShape(1, 1, 2), price=Price(prompt=4.0))
    proposals = Spending.of_records("proposals", policy, [Usage(prompt=10, cached=2, completion=6, calls=1, seconds=0.5)] * 2)
    verdicts = Spending.of_records("verifier", judge, [Usage(prompt=7, cached=3, scored=9, calls=1)] * 2)
    whole = costs.bill(proposals) + costs.bill(verdicts)
    assert whole.tokens == 2 * 6 + 2 * 9
    assert whole.flops == 2 * (2 * 1000 * 14 + 2 * 50 * 13)
    scored = sum(
        2 * 50 + attention_of_a_token(KVShape(1, 1, 2), t - 0.5) for t in range(4, 17)
    )  # scored ones attend to the prompt
    assert whole.attention == pytest.approx(2 * (costs.attended(policy, Trials(10, (6,), 2)) + scored))
    assert whole.eflops == pytest.approx(2 * (costs.eflops(policy, Trials(10, (6,))) + scored))
    assert whole.money == pytest.approx(2 * ((8 * 1 + 2 * 0.5 + 6 * 2) + 13 * 4) / 1e6)
    assert whole.seconds == 1.0


def test_what_is_scored_in_the_call_that_wrote_it_attends_to_all_of_it():
    made = Spending.of_records("p", model(), [Usage(prompt=5, completion=4, scored=3, calls=1)])
    assert (made.trials, made.scored) == ((Trials(5, (4,)),), (Trials(9, (3,), 9),))
    alone = Spending.of_records("p", model(), [Usage(prompt=5, completion=4, calls=1)])
    more = costs.attended_flops(model(), 9, 3)
    assert costs.bill(made).attention == pytest.approx(costs.bill(alone).attention + more)


def test_what_is_not_known_of_one_model_is_not_known_of_the_sum():
    unknown = costs.bill(Spending.of_records("judge", PolicyInfo("api", "api"), [Usage(prompt=3, completion=2, calls=1)]))
    assert unknown == Bill(2, None, None, None, None, 0.0)
    known = costs.bill(Spending.of_records("proposals", model(), [Usage(completion=4)]))
    assert (known + unknown).flops is None
    assert (known + unknown).tokens == 6
    assert known.money is None  # a size is no price


def test_a_size_without_a_cache_gives_flops_without_attention():
    found = costs.bill(Spending.of_records("p", PolicyInfo("m", "m", parameters=7), [Usage(completion=3)]))
    assert (found.flops, found.attention, found.eflops) == (42.0, None, None)


def test_throughput_recovers_the_rates_that_made_the_records():
    true = Throughput(call=0.02, prompt=1e-4, completion=0.01, scored=0.0)
    records = [Usage(prompt=p, completion=c, calls=1) for p, c in ((10, 5), (500, 7), (90, 200), (1000, 90))]
    records = [Usage(u.prompt, 0, u.completion, 0, 1, true.seconds(u)) for u in records]
    found = costs.throughput(records)
    assert (found.call, found.prompt, found.completion) == pytest.approx((0.02, 1e-4, 0.01))
    assert found.seconds(Usage(prompt=100, cached=40, completion=10, calls=2)) == pytest.approx(0.04 + 0.006 + 0.1)


def test_no_rate_is_negative_though_the_best_line_would_be():
    records = [Usage(completion=n, calls=1, seconds=s) for n, s in ((10, 0.0), (20, 1.0), (30, 2.0))]
    found = costs.throughput(records)  # the line is -1 + .1 n
    assert found.call == 0.0
    assert found.completion == pytest.approx((20 * 1 + 30 * 2) / (10**2 + 20**2 + 30**2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Trials(3, (1,), cached=4), "0 <= cached <= prefix"),
        (lambda: Trials(3, (-1,)), "no negative length"),
        (lambda: costs.eflops(model(), Trials(1, (1,)), intensity=-1), "intensity is -1"),
        (lambda: costs.flops(PolicyInfo("api", "x"), Usage()), "api does not say how many parameters"),
        (lambda: costs.attended_flops(PolicyInfo("api", "x", parameters=1), 0, 1), "api does not say what its cache"),
        (lambda: costs.money(model(), Usage()), "m has no price"),
        (lambda: Spending.of_records("judge", model(), [Usage(completion=9, calls=2)]), "judge: a record of 2 calls"),
        (lambda: Spending("p", model(), Usage(completion=9)), "p: 9 tokens written and 0 scored, but trials hold 0"),
        (lambda: costs.throughput([Usage(completion=3)]), "tell no throughput"),
        (lambda: costs.throughput([Usage(prompt=3, completion=3, seconds=1.0)] * 5), "one proportion"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
