"""Reward models behind vLLM's routes, on a small server that answers in its documented forms, and fails in every way."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from ponder.errors import RefusedError, UnreachableError, UsageError
from ponder.types import Chain, Message, Step, Usage, user
from ponder.verifiers import reward_remote
from ponder.verifiers.reward_model import RewardModel, logit

QUESTION = "What is 2 + 3?"
ASKED = (user(QUESTION),)
SYSTEM = Message("system", ("Be brief.",))


def chain(text, prompt=ASKED):
    return Chain(prompt).then(Step(text), "stop")


CHAINS = [chain("2 + 3 = 5\n\nSo: 5"), chain("It is 6.")]


class Server:
    """Answers like vLLM, from the text alone. `faults` are answers given first, one for each request."""

    def __init__(self, *faults):
        self.faults, self.bodies, self.headers, self.live, self.most = list(faults), [], [], 0, 0

    async def handle(self, request):
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            self.bodies.append(body := await request.json())
            self.headers.append(request.headers)
            await asyncio.sleep(0)
            if self.faults:
                return await self.fail(request, self.faults.pop(0))
            return web.json_response(self.reply(request.path, body))
        finally:
            self.live -= 1

    async def fail(self, request, fault):
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        status, text = fault if isinstance(fault, tuple) else (200, fault)
        return web.Response(status=status, text=text, headers={"Retry-After": "0", "Location": "/v1/score"})

    def reply(self, path, body):
        if path.endswith("/score"):
            text = body["text_2"]
            data = {"index": 0, "object": "score", "score": self.value(text)}
        elif path.endswith("/classify"):
            text = body["messages"][-1]["content"]
            data = {"index": 0, "label": "LABEL_0", "probs": [self.value(text)], "num_classes": 1}
        else:
            text = body["input"] if "input" in body else body["messages"][-1]["content"]
            data = {"index": 0, "object": "pooling", "data": self.pooled(text)}
        usage = {"prompt_tokens": 100, "total_tokens": 100, "completion_tokens": 0, "prompt_tokens_details": None}
        return {"id": "pool-1", "object": "list", "created": 1, "model": body["model"], "data": [data], "usage": usage}

    def value(self, text):
        return len(text) / 100

    def pooled(self, text):
        for tag, good in (("<extra_0>", 1), ("ки", 0)):
            if tag in text:
                pairs = [[1 - len(part) / 100, len(part) / 100] for part in text.split(tag)[:-1]]
                return pairs if good else [pair[::-1] for pair in pairs]
        return [[0.1], [0.2], [self.value(text)]]  # at every token


@asynccontextmanager
async def serving(server):
    app = web.Application()
    for route in ("/pooling", "/classify", "/score", "/v1/score", "/v1/classify"):
        app.router.add_post(route, server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"
    finally:
        await runner.cleanup()


def score(server, route, chains=CHAINS, **how):
    async def story():
        async with serving(server) as url:
            return await RewardModel(f"{url}{route}", model=how.pop("model", "some/orm"), **how).score(chains, None)

    return asyncio.run(story())


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(reward_remote, "PAUSE", 0.0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def test_classify_is_sent_the_conversation_and_its_one_probability_is_the_value():
    server = Server()
    scores = score(server, "/classify", [chain(one.text, (SYSTEM, user(QUESTION))) for one in CHAINS])
    assert [one.value for one in scores] == [len(one.text) / 100 for one in CHAINS]
    assert [one.raw for one in scores] == [logit(one.value) for one in scores]
    assert [one.steps for one in scores] == [(), ()]
    assert server.bodies[0] == {
        "model": "some/orm",
        "use_activation": True,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": CHAINS[0].text},
        ],
    }


@pytest.mark.parametrize("route", ["/score", "/v1/score"])
def test_score_is_sent_question_and_answer_as_a_pair(route):
    server = Server()
    scores = score(server, route)
    assert [one.value for one in scores] == [len(one.text) / 100 for one in CHAINS]
    assert server.bodies[1] == {"model": "some/orm", "use_activation": True, "text_1": QUESTION, "text_2": "It is 6."}


def test_pooling_gives_an_outcome_at_its_last_token():
    assert [one.value for one in score(Server(), "/pooling", shape="orm")] == [len(one.text) / 100 for one in CHAINS]
    flat = Server()
    flat.pooled = lambda text: [0.1, 0.75]
    assert [one.value for one in score(flat, "/pooling", shape="orm")] == [0.75, 0.75]


def test_pooling_gives_qwens_process_values_at_its_separators():
    server = Server()
    scores = score(server, "/pooling", model="Qwen/Qwen2.5-Math-PRM-7B")
    assert [one.steps for one in scores] == [(0.09, 0.05), (0.08,)]
    assert [one.value for one in scores] == [0.05, 0.08]
    assert server.bodies[0]["messages"] == [
        {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "2 + 3 = 5<extra_0>So: 5<extra_0>"},
    ]
    by_line = score(Server(), "/pooling", [chain("a\nbb")], model="served", shape="qwen_prm", step="\n")
    assert by_line[0].steps == (0.01, 0.02)


def test_pooling_gives_math_shepherds_process_values_at_its_tags():
    server = Server()
    scores = score(server, "/pooling", model="peiyi9979/math-shepherd-mistral-7b-prm")
    assert server.bodies[0] == {
        "model": "peiyi9979/math-shepherd-mistral-7b-prm",
        "use_activation": True,
        "input": f"{QUESTION} 2 + 3 = 5 ки\n\nSo: 5 ки",
    }
    assert [one.steps for one in scores] == [(0.25, 0.08), (0.24,)]


def test_the_servers_count_is_split_by_bytes_and_bytes_stand_for_one_that_is_missing():
    [counted, _] = score(Server(), "/score")
    share = len(CHAINS[0].text) / (len(QUESTION) + len(CHAINS[0].text))
    assert counted.usage == Usage(prompt=100 - round(100 * share), scored=round(100 * share), calls=1)
    silent = Server()
    reply = silent.reply
    silent.reply = lambda path, body: {**reply(path, body), "usage": {}}
    assert score(silent, "/score")[0].usage == Usage(prompt=len(QUESTION), scored=len(CHAINS[0].text), calls=1)


def test_no_more_requests_are_in_flight_than_the_batch():
    server = Server()
    score(server, "/score", [chain(f"It is {number}.") for number in range(30)], batch=3)
    assert server.most == 3
    assert len(server.bodies) == 30


@pytest.mark.parametrize("fault", [(429, "slow down"), (500, "oops"), (503, "loading"), (408, ""), "reset", "<html>", "[]"])
def test_what_may_pass_is_tried_again(fault):
    server = Server(fault, fault)
    assert [one.value for one in score(server, "/score", CHAINS[:1])] == [len(CHAINS[0].text) / 100]
    assert len(server.bodies) == 3


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ((429, "slow down"), "429: slow down"),
        ((500, "oops"), "500: oops"),
        ("reset", "the connection broke"),
        ("<html>", "200: <html>"),
    ],
)
def test_tries_are_bounded_and_then_there_is_no_score(fault, why):
    server = Server(*[fault] * reward_remote.TRIES)
    [one] = score(server, "/score", CHAINS[:1])
    assert one.value is None
    assert one.error.startswith("reward_model: http://127.0.0.1:")
    assert f"gave up after {reward_remote.TRIES} tries: {why}" in one.error
    assert one.usage == Usage(calls=1)
    assert len(server.bodies) == reward_remote.TRIES


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_chain_that_the_server_rejects_has_no_score_and_the_others_do(status):
    server = Server((status, json.dumps({"error": {"message": "too long"}})))
    scores = score(server, "/score", batch=1)
    assert [one.value is None for one in scores] == [True, False]
    assert f"{status}: " in scores[0].error
    assert "too long" in scores[0].error
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, "refused the key"), (403, "into SOME_KEY"), (404, "check the model's name"), (405, "the route"), (307, "the address")],
)
def test_what_would_be_refused_again_ends_the_search(status, why, monkeypatch):
    monkeypatch.setenv("SOME_KEY", " geheim ")
    server = Server(*[(status, "no, geheim, not you")] * 40)
    with pytest.raises(RefusedError, match=why) as caught:
        score(server, "/score", [chain(f"{number}") for number in range(40)], key_env="SOME_KEY", batch=2)
    assert "no, [key], not you" in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert server.headers[0]["Authorization"] == "Bearer geheim"
    assert len(server.bodies) < 10


def test_a_server_that_nobody_answers_at_ends_the_search():
    async def story():
        async with serving(Server()) as url:
            pass
        return await RewardModel(f"{url}/score", model="m").score(CHAINS, None)

    with pytest.raises(UnreachableError, match="cannot be connected to"):
        asyncio.run(story())


@pytest.mark.parametrize(
    ("route", "change", "why"),
    [
        ("/score", {"data": []}, "of the shape orm"),
        ("/score", {"data": [{"index": 0}]}, "KeyError"),
        ("/score", {"data": [{"score": 1.7}]}, "1.7 is no probability"),
        ("/score", {"data": [{"score": None}]}, "None is no probability"),
        ("/score", {"data": [{"score": True}]}, "True is no probability"),
        ("/score", {"data": [{"score": float("nan")}]}, "nan is no probability"),
        ("/score", {"data": "none"}, "is no list"),
        ("/score", {"data": [3]}, "data\\[0\\] is 3"),
        ("/classify", {"data": [{"probs": [0.2, 0.8]}]}, "too many values"),
        ("/pooling", {"data": [{"data": [[0.5, 0.5]]}]}, "1 values for 2 steps"),
        ("/pooling", {"data": [{"data": [[0.5, 0.4], [0.5, 0.5]]}]}, "are not the probabilities of two classes"),
        ("/pooling", {"data": [{"data": [[0.5], [0.5]]}]}, "are not the probabilities of two classes"),
        ("/pooling", {"data": [{"data": [0.5, 0.5]}]}, "is no list"),
        ("/pooling", {"data": [{"data": "AAAAPw=="}]}, "is no list"),
    ],
)
def test_a_reply_of_another_form_is_no_score_and_costs_what_it_says(route, change, why):
    server = Server()
    reply = server.reply
    server.reply = lambda path, body: {**reply(path, body), **change}
    shape = "qwen_prm" if route == "/pooling" else "orm"
    [one] = score(server, route, CHAINS[:1], shape=shape)
    assert one.value is None
    assert f"a reply that is not of the shape {shape}" in one.error
    assert re.search(why, one.error), one.error
    assert one.usage.prompt + one.usage.scored == 100


def test_addresses_shapes_and_keys_that_make_no_sense_are_named(monkeypatch):
    for path, how, why in (
        ("http://127.0.0.1:8000", {}, "must end in one of /classify, /score, /pooling"),
        ("http://127.0.0.1:8000/v1", {}, "must end in one of /classify, /score, /pooling"),
        ("http:///score", {}, "must end in one of"),
        ("http://[/score", {}, "must end in one of"),
        ("http://me:word@127.0.0.1/score", {}, "holds a user name, password or query"),
        ("http://127.0.0.1/score?key=word", {}, "holds a user name, password or query"),
        ("http://127.0.0.1/score", {"shape": "qwen_prm"}, "the route /score serves orm, not qwen_prm"),
        ("http://127.0.0.1/pooling", {"shape": "rlhflow"}, "serves orm, qwen_prm, math_shepherd, not rlhflow"),
        ("http://127.0.0.1/pooling", {}, "the name 'm' does not tell how it is read"),
    ):
        with pytest.raises(UsageError, match=why) as caught:
            _ = RewardModel(path, model="m", **how).fingerprint
        assert "word" not in str(caught.value).replace("password", "")
    monkeypatch.setenv("OPENAI_API_KEY", "a\nb")
    with pytest.raises(UsageError, match="the key in OPENAI_API_KEY holds characters that no header can carry"):
        _ = RewardModel("http://127.0.0.1/score", model="m").fingerprint


def test_the_fingerprint_is_of_what_is_asked_and_of_the_name_and_not_of_the_address():
    def of(path, **how):
        return RewardModel(path, **{"model": "m", **how}).fingerprint

    assert of("http://a/score") == of("https://b:81/v1/score/")
    others = {
        of("http://a/score"),
        of("http://a/classify"),
        of("http://a/score", model="n"),
        of("http://a/pooling", shape="orm"),
        of("http://a/pooling", shape="qwen_prm"),
        of("http://a/pooling", shape="qwen_prm", step="\n"),
    }
    assert len(others) == 6


def test_a_server_may_ask_to_wait_within_bounds():
    assert reward_remote._asked({"Retry-After": "7"}, 1.0) == 7.0
    assert reward_remote._asked({"Retry-After": "9999"}, 1.0) == reward_remote.LONGEST_PAUSE
    assert reward_remote._asked({"Retry-After": "-3"}, 1.0) == 0.0
    assert reward_remote._asked({"Retry-After": "Tue, 03 Mar 2026 10:00:00 GMT"}, 1.0) == 1.0
    assert reward_remote._asked({}, 1.0) == 1.0
