"""The parts of the server that need no server: specs of callers, names, places, allowances, thoughts in streams, answers."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("starlette")


from ponder.core import Budget, Event, Outcome, Spent
from ponder.errors import BudgetExhausted, SpecError, UsageError
from ponder.server.answer import Head, answer_of, message, split_thought, usage_object
from ponder.server.asked import of_text
from ponder.server.config import Config, Key, Limits, load
from ponder.server.guard import Door, Fields, Gate, Ledger, deadline
from ponder.server.models import Models, check_spec, served_name, tighter
from ponder.server.reading import read
from ponder.server.refusal import Refusal
from ponder.server.schema import Chat, Completion
from ponder.server.stream import COMMENT, Chunks, Line, Passing
from ponder.types import Chain, Step, Usage, user

UPSTREAM = "http://127.0.0.1:1/v1"


def config(**more):
    return Config(policy=UPSTREAM, **more).check()


# Names and specs.


def test_each_strategy_is_a_model_on_the_upstream():
    models = Models("qwen", config(strategies={"sc": "self_consistency(n=4)"}))
    assert models.names == ["qwen", "qwen+sc"]
    assert models.plan("qwen", None, None, None).single
    assert models.plan("qwen+sc", None, None, None).name == "sc"
    for unknown in ("sc", "qwen+", "qwen+sample2", "auto", "other+sc"):
        with pytest.raises(Refusal, match="there is no model") as refused:
            models.plan(unknown, None, None, None)
        assert refused.value.status == 404


def test_effort_bounds_a_strategy_and_takes_the_first_one_where_none_is_named():
    models = Models("qwen", config(strategies={"sc": "self_consistency(n=99)"}, effort={"low": Budget(samples=3)}))
    assert models.plan("qwen+sc", None, None, "low").budget == Budget(samples=3)
    assert models.plan("qwen", None, None, "low").name == "sc"
    assert models.plan("qwen", None, None, "minimal").single
    assert models.plan("qwen+sc", None, None, "high").budget == Budget()  # the operator gave it none
    assert Models("qwen", config()).plan("qwen", None, None, "high").single


@pytest.mark.parametrize(
    "text",
    [
        "self_consistency(n=8)",
        "self_consistency(8)",
        "best_of_n(n=2, verifier=judge)",
        "beam(width=2, branch=2, verifier=judge, step='line', final='last')",
        "mcts(simulations=8, branch=2, verifier=judge, c=1.5, accept=None)",
        "rejection(n=2, verifier=judge, threshold=-1)",
        "sample",
    ],
)
def test_a_caller_may_write_strategies_numbers_words_and_the_operators_verifiers(text):
    check_spec(ast.parse(text, mode="eval").body, {"judge": object()})


@pytest.mark.parametrize(
    "text",
    [
        "other", "openai('http://x')", "best_of_n(n=2, verifier=judge())", "best_of_n(n=2, verifier=confidence())",
        "auto(card='x')", "auto", "evolve(prompt='secret')", "evolve(prompt=x)", "f(policy=sample)", "beam('../x')", "beam(step='/etc')",
        "self_consistency(n=5000)", "self_consistency(n=1e99)", "self_consistency(n=-5000)", "x.y", "x[0]", "[sample]", "(sample,)", "{}",
        "lambda: 1", "1 + 1", "f'{x}'", "b'x'", "1j", "...", "not x", "sample if sample else sample", "(y := sample)",
        "self_consistency(**sample)", "self_consistency(*sample)", "sample()()",
    ],
)  # fmt: skip
def test_and_nothing_else(text):
    tree = ast.parse(text, mode="eval").body
    with pytest.raises(SpecError):
        check_spec(tree, {"judge": object()})


def test_the_callers_spec_holds_the_operators_own_verifier():
    models = Models("qwen", config(verifiers={"sure": "confidence"}))
    plan = models.plan("qwen", "best_of_n(n=2, verifier=sure)", None, None)
    assert plan.strategy.verifier is models.verifiers["sure"]
    with pytest.raises(Refusal):
        models.plan("qwen", "sure", None, None)


def test_names_of_strategies_from_the_command_line():
    assert served_name("best_of_n(n=16, verifier=confidence())", []) == "best_of_n-16"
    assert served_name("sample", []) == "sample"
    with pytest.raises(UsageError, match="two strategies"):
        served_name("self_consistency(n=4, batch=2)", ["self_consistency-4"])


def test_the_tighter_of_two_budgets():
    assert tighter(Budget(samples=3, tokens=9), Budget(samples=5, seconds=1.0)) == Budget(samples=3, tokens=9, seconds=1.0)


def test_choices_and_tokens_are_bounded_by_the_operator_and_samples_shared_among_choices():
    limited = config(limits={"choices": 4, "samples": 10, "tokens": 100})
    models = Models("qwen", limited)
    asked = of_text(Completion(model="qwen", prompt=["a", "b"], n=4), models, limited)
    assert asked.budget.samples == 1
    assert len(asked.choices) == 8
    for wrong in ({"n": 5}, {"n": 4, "prompt": ["a", "b", "c"]}, {"max_tokens": 101}):
        with pytest.raises(Refusal) as refused:
            of_text(Completion(**{"model": "qwen", "prompt": "a", **wrong}), models, limited)
        assert refused.value.status == 400


def test_a_keys_share_bounds_each_choice():
    models = Models("qwen", config())
    asked = of_text(Completion(model="qwen", prompt=["a", "b"], max_tokens=30), models, config())
    assert asked.within(tokens=50).budget.tokens == 25
    assert asked.within(tokens=None) is asked


def test_a_schema_violation_names_the_place():
    with pytest.raises(Refusal) as refused:
        read(b'{"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}', Chat)
    assert refused.value.param == "messages[0].content[0].text"
    assert read(b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 3.0}', Chat).n == 3


# The operator's file.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'policy' is missing"),
        ("policy = 'x'\npolcy = 1", "did you mean 'policy'"),
        ("policy = 'x'\n[limits]\nlives = 1", "did you mean 'live'"),
        ("policy = 'x'\nhost = '0.0.0.0'", "there is no key"),
        ("policy = 'x'\nhost = '0.0.0.0'\n[[keys]]\nname='a'\nsha256='" + "0" * 64 + "'", "list those that clients use"),
        ("policy = 'x'\n[[keys]]\nname='a'\nsha256='short'", "keys.0.sha256"),
        ("policy = 'x'\n[strategies]\nauto='sample'", "cannot name a strategy"),
        ("policy = 'x'\nredact = 'a:b'", "nothing is recorded"),
        ("policy = ", "is not TOML"),
        ("policy = 'x'\nport = 70000", "port = '70000'"),
        ("policy = 'x'\n[effort]\nlow = {samples = 0}", "must be above 0"),
    ],
)
def test_a_wrong_file_is_refused_with_the_way_out(tmp_path, text, words):
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        load(file, {})
    assert words in str(raised.value)


def test_options_go_over_the_file(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text("policy = 'x'\nport = 1")
    assert load(file, {"port": 2}).port == 2


# The door.


def headers(**given):
    return Fields([(key.replace("_", "-").encode(), value.encode()) for key, value in given.items()])


@pytest.mark.parametrize("host", ["127.0.0.1:80", "localhost:80", "LOCALHOST:80", "[::1]:80", "localhost"])
def test_this_machines_names_may_come_in(host):
    Door(config(), 80).check(headers(host=host))


@pytest.mark.parametrize(
    "host",
    ["", "localhost:81", "localhost.", "localhost:80.", "evil", "a@localhost:80", "localhost:80@evil", "127.0.0.1:80:80", "0.0.0.0:80", "127.1:80", "localhost:080"],
)  # fmt: skip
def test_no_other_host_may(host):
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(headers(host=host))


def test_two_hosts_are_none():
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(Fields([(b"host", b"localhost"), (b"host", b"evil")]))
    with pytest.raises(Refusal, match="Host"):
        Door(config(), 80).check(Fields([]))


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        ({"origin": "https://app.example"}, True),
        ({"origin": "https://app.example", "sec_fetch_site": "cross-site"}, True),
        ({"origin": "https://app.example.evil.example"}, False),
        ({"origin": "https://app.example:444"}, False),
        ({"origin": "http://app.example"}, False),
        ({"origin": "null"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "none"}, True),
        ({}, True),
    ],
)
def test_pages_come_in_only_from_listed_origins(given, allowed):
    door = Door(config(origins=("https://app.example",)), 80)
    if allowed:
        door.check(headers(host="localhost", **given))
    else:
        with pytest.raises(Refusal) as refused:
            door.check(headers(host="localhost", **given))
        assert refused.value.code == "origin_refused"


def test_keys_are_known_by_their_hash_alone():
    import hashlib

    key = Key(name="a", sha256=hashlib.sha256(b"sk-1").hexdigest())
    door = Door(config(keys=(key,)), 80)
    assert door.key(headers(authorization="Bearer sk-1")) == key
    assert door.key(headers(authorization="bearer  sk-1")) == key
    for wrong in ("", "sk-1", "Bearer", "Bearer ", "Bearer sk-2", "Basic sk-1", f"Bearer {key.sha256}"):
        with pytest.raises(Refusal) as refused:
            door.key(headers(authorization=wrong))
        assert refused.value.status == 401
    assert Door(config(), 80).key(headers()) is None


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "1e-9"])
def test_a_deadline_is_a_number_of_seconds(text):
    with pytest.raises(Refusal):
        deadline({"ponder-deadline": text}, 60)


def test_the_operators_bound_holds_beside_a_deadline():
    assert deadline({}, 60) == 60
    assert deadline({"ponder-deadline": "5"}, 60) == 5
    assert deadline({"ponder-deadline": "500"}, 60) == 60


# Places and allowances.


def test_a_full_queue_says_when_to_come_back_and_places_go_in_order():
    async def scenario():
        gate, order = Gate(Limits(live=1, queue=2)), []
        release = asyncio.Event()

        async def one(name):
            async with gate.place():
                order.append(name)
                await release.wait()

        tasks = [asyncio.create_task(one(name)) for name in "abc"]
        await asyncio.sleep(0)
        assert (gate.live, len(gate.waiting), order) == (1, 2, ["a"])
        with pytest.raises(Refusal) as refused:
            gate.check()
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        with pytest.raises(Refusal):
            await one("d")
        tasks[1].cancel()  # a client that goes away while it waits
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["a", "c"]
        assert (gate.live, len(gate.waiting)) == (0, 0)

    asyncio.run(scenario())


def test_a_wait_that_is_too_long_is_refused_and_leaves_no_hole():
    async def scenario():
        gate = Gate(Limits(live=1, queue=5, patience=0.01))
        async with gate.place():
            with pytest.raises(Refusal, match="no place became free"):
                async with gate.place():
                    pass
            assert not gate.waiting
        assert gate.live == 0

    asyncio.run(scenario())


def test_a_place_handed_over_in_the_moment_of_cancellation_is_not_lost():
    async def scenario():
        gate = Gate(Limits(live=1, queue=5))
        first = gate.place()
        await first.__aenter__()

        async def second():
            async with gate.place():
                pass

        waiting = asyncio.create_task(second())
        await asyncio.sleep(0)
        await first.__aexit__(None, None, None)  # the place is on its way to the second ...
        waiting.cancel()  # ... who goes away before it arrives
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.live == 0

    asyncio.run(scenario())


def test_a_days_allowance_is_hard_also_for_requests_at_once():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, tokens_per_day=100), Ledger(clock=lambda: 86_400.0 * 3 + 80_000)
        first, second = ledger.spending(key), ledger.spending(key)
        async with first, second:
            assert (first.tokens, second.tokens) == (100, 100)  # nothing was asked for yet
            assert first.take(70) == 70
            assert second.take(70) == 30  # what the first has not set aside
            with pytest.raises(BudgetExhausted):
                first.take(1)
            with pytest.raises(Refusal) as refused:
                ledger.spending(key)
            assert (refused.value.code, refused.value.headers["Retry-After"]) == ("rate_limit_exceeded", "1")
            first.count(70, 20)
            assert first.take(999) == 50
            first.count(50, 50)
            second.count(30, 30)
            with pytest.raises(Refusal) as refused:
                ledger.spending(key)
            assert refused.value.code == "insufficient_quota"
            assert refused.value.headers["Retry-After"] == str(86_400 - 80_000)
        assert (ledger.accounts["a"].tokens, ledger.accounts["a"].held) == (100, 0)
        ledger.clock = lambda: 86_400.0 * 4
        assert ledger.spending(key).tokens == 100

    asyncio.run(scenario())


def test_what_was_asked_for_and_did_not_come_is_counted_as_set_aside():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, tokens_per_day=100), Ledger(clock=lambda: 0.0)
        async with ledger.spending(key) as allowance:
            allowance.count(allowance.take(40), 15)
            allowance.take(30)
        assert (ledger.accounts["a"].tokens, ledger.accounts["a"].held) == (45, 0)

    asyncio.run(scenario())


def test_requests_of_a_day_are_counted():
    async def scenario():
        key, ledger = Key(name="a", sha256="0" * 64, requests_per_day=1), Ledger(clock=lambda: 0.0)
        async with ledger.spending(key) as allowance:
            assert allowance.tokens is None
            assert allowance.take(10**9) == 10**9
        with pytest.raises(Refusal):
            ledger.spending(key)

    asyncio.run(scenario())


# Streams.


def heard(*pieces, top=None):
    """What is passed on of these pieces: (field, text) pairs, joined where the field stays the same."""
    sent = []

    async def put(data):
        sent.extend(json.loads(line[6:])["choices"][0]["delta"] for line in data.splitlines() if line)

    async def scenario():
        passing = Passing(Chunks(Head("id", 0, "m", "fp"), chat=True, usage=False), 0, put, top)
        listener = passing.listener()
        for piece in pieces:
            await listener([{"delta": piece if isinstance(piece, dict) else {"content": piece}}])
        for data in passing.flush():
            await put(data)

    asyncio.run(scenario())
    joined = []
    for field, text in (pair for delta in sent for pair in delta.items()):
        if joined and joined[-1][0] == field:
            joined[-1] = (field, joined[-1][1] + text)
        else:
            joined.append((field, text))
    return joined


@pytest.mark.parametrize(
    "text",
    [
        "plain", "", "<b>bold</b>", "<", "<thin", "a <think>b</think>", "<think>a</think>b", "<think>\na\n</think>\n\nb", "<think></think>b",
        "<think>a", "<think>a</thin", " <think>a < b </ c</think>d<think>e</think>", "<think>\n\n</think>\n\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_thoughts_are_parted_in_a_stream_as_in_a_whole_reply(text, size):
    found = dict(heard(*(text[at : at + size] for at in range(0, len(text), size))))
    thought, answer = split_thought(text)
    assert found.get("reasoning_content", "").strip("\n") == thought
    assert found.get("content", "") == answer


def test_thoughts_in_a_field_of_their_own_are_passed_on():
    assert heard({"reasoning_content": "hm"}, {"content": "yes"}) == [("reasoning_content", "hm"), ("content", "yes")]
    assert heard({"reasoning": "hm"}, {"content": "yes"})[0] == ("reasoning_content", "hm")


def test_what_an_engine_garbles_is_passed_on_as_what_clients_can_read():
    assert heard("a\ud83d", "b", {"content": 5}, {"tool_calls": "x"}, {"tool_calls": [None]}) == [("content", "a\ufffdb")]
    passing = Passing(Chunks(Head("id", 0, "m", "fp"), chat=True, usage=False), 0, None, 1)
    rows = [
        {
            "token": "a",
            "logprob": float("nan"),
            "top_logprobs": [{"token": "a", "logprob": float("-inf")}, {"token": "b", "logprob": -1}],
        },
        {"token": "b", "logprob": 10**400, "top_logprobs": "x"},
        7,
    ]
    [chunk] = passing._text("ab", passing._probabilities({"content": rows}))
    shown = json.loads(chunk[6:], parse_constant=pytest.fail)["choices"][0]["logprobs"]["content"]
    assert [row["logprob"] for row in shown] == [-9999.0, -9999.0]
    assert [row["top_logprobs"] for row in shown] == [[{"token": "a", "logprob": -9999.0}], []]


def test_a_silent_search_sends_comments(monkeypatch):
    monkeypatch.setattr("ponder.server.stream.SILENCE", 0.01)

    async def scenario():
        sent, enough = [], asyncio.Event()

        async def send(data):
            sent.append(data)
            if sent.count(COMMENT) == 2:
                enough.set()

        with Line(send) as line:
            await enough.wait()
            await line.put(b"data: x\n\n")
        assert sent == [COMMENT, COMMENT, b"data: x\n\n"]
        await asyncio.sleep(0.03)
        assert len(sent) == 3  # a stream that is over is silent

    asyncio.run(scenario())


def test_a_client_that_does_not_read_holds_the_engine_back_and_not_our_memory(monkeypatch):
    monkeypatch.setattr("ponder.server.stream.SILENCE", 0.001)

    async def scenario():
        begun, unread, given = 0, asyncio.Event(), 0

        async def send(_):
            nonlocal begun
            begun += 1
            await unread.wait()

        async def give(line):
            nonlocal given
            for given in range(1, 1001):  # noqa: B007  # counted for the check below
                await line.put(b"data: x\n\n")

        with Line(send) as line:
            giving = asyncio.create_task(give(line))
            await asyncio.sleep(0.02)
            assert (begun, given) == (1, 1)  # nor are there comments for one who has not read the last chunk
            unread.set()
            await giving
            assert given == 1000

    asyncio.run(scenario())


# Answers.


def outcome(*chains, proposed=None, failed=0, exhausted=False, samples=None):
    spent = Spent(len(chains) if samples is None else samples, Usage(completion=sum(chain.usage.completion for chain in chains)))
    return Outcome(proposed, None, spent, (Event("extend", spent, tuple(chains)),) if chains else (), False, failed, exhausted)


def chain(text, finish="stop", tokens=4):
    return Chain((user("q"),)).then(Step(text, Usage(completion=tokens)), finish)


@pytest.mark.parametrize(
    ("result", "text", "finish"),
    [
        (outcome(chain("a"), proposed=chain("a")), "a", "stop"),
        (outcome(chain("half", "length")), "half", "length"),
        (outcome(chain("", "filtered")), "", "content_filter"),
        (outcome(chain("", "stop", 0)), "", "stop"),
        (outcome(chain("half", "length"), chain("b"), proposed=chain("b")), "b", "stop"),
        (outcome(chain("cut", "length"), proposed=chain("cut", "length")), "cut", "length"),
    ],
)
def test_how_an_answer_ended(result, text, finish):
    answer = answer_of(result, [], tools=False)
    assert (answer.text, answer.finish) == (text, finish)


def test_a_strategy_that_finds_no_sample_good_enough_refuses():
    answer = answer_of(outcome(chain("wrong")), [], tools=False)
    assert message(answer)["content"] is None
    assert "No answer" in message(answer)["refusal"]


@pytest.mark.parametrize(
    ("result", "rejected", "status"),
    [
        (outcome(chain("", "error"), failed=1), "", 502),
        (outcome(chain("", "error"), failed=1), "too long", 400),
        (outcome(exhausted=True), "", 408),
    ],
)
def test_no_answer_is_an_error_and_never_an_empty_text(result, rejected, status):
    with pytest.raises(Refusal) as refused:
        answer_of(result, [], tools=False, rejected=rejected)
    assert refused.value.status == status


def test_a_stop_text_cuts_where_the_engine_did_not():
    answer = answer_of(outcome(chain("a b c"), proposed=chain("a b c")), ["c", "b"], tools=False)
    assert (answer.text, answer.finish) == ("a ", "stop")


def test_usage_parts_what_is_shown_from_what_was_spent():
    usage = usage_object(Usage(prompt=30, cached=10, completion=50, scored=7), visible=12, verifier=9)
    assert usage["completion_tokens"] == 57
    assert usage["total_tokens"] == 87
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 45, "verifier_tokens": 9}
    assert usage["prompt_tokens_details"] == {"cached_tokens": 10}


def test_the_recipe_shows_every_setting_and_is_valid():
    recipe = Path(__file__).parents[2] / "recipes" / "serve.toml"
    shown = load(recipe, {})
    text = recipe.read_text("utf-8")
    assert [name for name in [*Config.model_fields, *Limits.model_fields, *Key.model_fields] if name not in text] == []
    assert shown.limits == Limits()
    assert {name: shown.effort[name] for name in shown.effort} == {name: Config(policy="x").effort[name] for name in shown.effort}
    assert Models("m", shown).names == ["m", "m+self_consistency-16", "m+best_of_n-8"]
