"""The fake endpoint without HTTP: what its model says, its limits, its settings."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import fields, replace

import pytest
from fake_endpoint_client import ASKED, QUESTION, body_of

from ponder.testing.endpoint import (
    DIALECTS,
    FakeEndpoint,
    Fault,
    FaultKind,
    Settings,
    answer_distribution,
    correct_answer,
    render_chat,
    split_tokens,
)
from ponder.testing.endpoint.completions import Memory, complete
from ponder.testing.endpoint.replies import Draw, Manner, continue_reply, slipped
from ponder.testing.endpoint.service import HttpRequest, Service
from ponder.testing.endpoint.settings import Changes, settings_from_json, settings_to_json

# What it says.


def replies(count, partial="", manner=Manner()):  # noqa: B008  # frozen
    return [
        continue_reply(ASKED, partial, Draw.derive(ASKED + partial, f"0/{seed}/0", greedy=False), manner) for seed in range(count)
    ]


def answers(texts):
    return Counter(re.search(r"The answer is (\d+)\.$", text)[1] for text in texts)


def within_three_errors(count, total, probability):
    return abs(count - total * probability) <= 3 * math.sqrt(total * probability * (1 - probability)) + 1e-9


def test_the_correct_answer_is_the_same_for_a_question_a_message_and_a_rendering():
    wrapped = f"Think step by step.\nQUESTION: {QUESTION}\nEnd with a number."
    rendered = render_chat([("system", "Be brief."), ("user", wrapped)], continuing=False)
    one_line = render_chat([("user", f"QUESTION: {QUESTION}")], continuing=False)
    assert {correct_answer(text) for text in (QUESTION, ASKED, wrapped, rendered, one_line)} == {correct_answer(QUESTION)}
    assert len({correct_answer(f"Question {number}") for number in range(50)}) > 40


def test_every_reply_is_one_to_four_numbered_lines_and_a_conclusion():
    lengths = Counter()
    for text in replies(2000):
        *steps, last = text.split("\n")
        assert [step.split(":")[0] for step in steps] == [f"Step {number}" for number in range(1, len(steps) + 1)]
        assert last.startswith("The answer is ")
        lengths[len(steps)] += 1
    assert set(lengths) == {1, 2, 3, 4}
    assert all(within_three_errors(count, 2000, 0.25) for count in lengths.values())


@pytest.mark.parametrize("correct", [0.0, 0.2, 0.5, 1.0])
def test_answers_appear_as_often_as_their_distribution_says(correct):
    expected = answer_distribution(QUESTION, correct)
    assert next(iter(expected)) == correct_answer(QUESTION)
    assert sum(expected.values()) == pytest.approx(1.0)
    seen = answers(replies(3000, manner=Manner(correct)))
    assert set(seen) <= set(expected)
    assert all(within_three_errors(seen[answer], 3000, share) for answer, share in expected.items())


def test_sampling_line_by_line_has_the_distribution_of_sampling_whole():
    lengths, ends = Counter(), []
    for seed in range(1500):
        partial = ""
        while True:
            draw = Draw.derive(ASKED + partial, f"0/{seed}/0", greedy=False)
            line, broken, _ = continue_reply(ASKED, partial, draw, Manner()).partition("\n")
            partial += line + broken
            if not broken:
                break
        lengths[partial.count("\n")] += 1
        ends.append(partial)
    assert all(within_three_errors(lengths[steps], 1500, 0.25) for steps in (1, 2, 3, 4))
    seen = answers(ends)
    assert all(within_three_errors(seen[answer], 1500, share) for answer, share in answer_distribution(QUESTION).items())


@pytest.mark.parametrize(("correct", "slips"), [(1.0, 0.25), (0.5, 0.5), (1.0, 1.0)])
def test_a_reply_with_a_slip_is_never_correct_and_the_others_as_often_as_without(correct, slips):
    right, manner = correct_answer(QUESTION), Manner(correct, slips=slips)
    said = [(slipped(text), text.endswith(f"answer is {right}.")) for text in replies(2000, manner=manner)]
    clean = sum((1 - slips) ** lines for lines in (1, 2, 3, 4)) / 4
    assert (True, True) not in said
    assert within_three_errors(sum(not slip for slip, _ in said), 2000, clean)
    assert within_three_errors(sum(good for _, good in said), 2000, clean * correct)


def test_a_slip_that_is_already_written_decides_the_answer():
    wrong, fine = "Step 1: 12 + 3 = 16.\n", "Step 1: 12 + 3 = 15.\n"
    manner, right = Manner(1.0, slips=0.25), correct_answer(QUESTION)
    assert right not in answers(replies(200, wrong, manner))
    assert f"{right}." not in replies(50, f"{wrong}The answer is ", manner)
    assert set(replies(50, f"{fine}The answer is ", manner)) == {f"{right}."}


def test_any_cut_of_a_reply_is_continued_to_one_well_formed_conclusion():
    whole = replies(1)[0]
    for cut in range(len(whole)):
        for rest in replies(3, partial=whole[:cut]):
            joined = whole[:cut] + rest
            assert joined.count("The answer is ") == 1, joined
            assert answers([joined]).keys() <= answer_distribution(QUESTION).keys(), joined
            numbers = re.findall(r"Step (\d)", joined)
            assert numbers == sorted(set(numbers)), joined


def test_a_concluded_reply_is_continued_by_nothing():
    assert replies(3, partial=replies(1)[0]) == ["", "", ""]
    assert replies(1, partial=replies(1)[0] + "\n") == [""]


def test_typed_digits_restrict_the_answer_to_those_that_begin_with_them():
    right = correct_answer(QUESTION)
    seen = Counter(replies(1000, partial=f"Step 1: 1 + 1 = 2.\nThe answer is {right}"))
    shares = answer_distribution(QUESTION)
    tenfold = shares[right + "0"]  # ten times the answer is one of the wrong ones
    assert set(seen) == {".", "0."}
    assert within_three_errors(seen["0."], 1000, tenfold / (tenfold + shares[right]))
    assert set(replies(20, partial="The answer is 77x")) == {"."}


def test_thoughts_stand_between_tags_and_are_closed_once_when_continued():
    manner = Manner(thinks=True)
    for text in replies(20, manner=manner):
        assert re.fullmatch(r"<think>\n(Step \d: .*\.\n)+</think>\n\nThe answer is \d+\.", text)
        for cut in range(len("<think>\n"), len(text)):
            joined = text[:cut] + replies(1, text[:cut], manner)[0]
            if "</think>" in text[:cut] or "</thin" not in text[:cut][-7:]:
                assert joined.endswith(".")
                assert joined.count("The answer is ") == 1, joined


@pytest.mark.parametrize("text", ["", " ", "a\n\n b", "The answer is 1234567.", "ünïcödé\t\u2003x", "  two"])
def test_joined_tokens_are_the_text(text):
    assert "".join(split_tokens(text)) == text
    assert all(len(token) <= 5 for token in split_tokens(text))


# Limits and chance.


def test_the_rate_limit_lets_a_burst_through_and_refills_with_time():
    now = [0.0]
    service = Service(Settings(rate_limit=10.0, burst=3.0), lambda: now[0])

    def admitted():
        reply = service.respond(HttpRequest("POST", "/v1/chat/completions", "", body_of()))
        service.close(reply, aborted=False)
        return reply.frames[0].startswith(b"HTTP/1.1 200"), reply.frames[0]

    assert [admitted()[0] for _ in range(5)] == [True, True, True, False, False]
    assert b"retry-after-ms: 100\r\nRetry-After: 1\r\n" in admitted()[1]
    now[0] = 0.1
    assert [admitted()[0] for _ in range(2)] == [True, False]
    now[0] = 100.0
    assert sum(admitted()[0] for _ in range(9)) == 3
    assert service.stats()["limited"] == 3 + 1 + 6


def test_more_than_max_live_requests_are_refused():
    service = Service(Settings(max_live=2), lambda: 0.0)
    opened = [service.respond(HttpRequest("POST", "/v1/completions", "", b'{"prompt": "x"}')) for _ in range(3)]
    assert [reply.outcome for reply in opened] == ["answered", "answered", "refused"]
    service.close(opened[0], aborted=False)
    service.close(opened[2], aborted=False)
    assert service.respond(HttpRequest("POST", "/v1/completions", "", b'{"prompt": "x"}')).outcome == "answered"


def outcomes(service, order):
    replies = {}
    for number in order:
        request = HttpRequest("POST", "/v1/chat/completions", "", body_of(seed=number))
        replies[number] = service.respond(request).outcome
    return replies


def test_faults_by_chance_follow_the_body_and_the_attempt_not_the_order_of_arrival():
    settings = Settings(faults=(Fault(FaultKind.SERVER_ERROR, probability=0.3),))
    forward = outcomes(Service(settings, lambda: 0.0), range(400))
    assert forward == outcomes(Service(settings, lambda: 0.0), range(399, -1, -1))
    assert within_three_errors(Counter(forward.values())["faulted"], 400, 0.3)
    assert forward != outcomes(Service(replace(settings, fault_seed=1), lambda: 0.0), range(400))
    retried = Service(settings, lambda: 0.0)
    assert outcomes(retried, range(400)) != outcomes(retried, range(400))


# Settings.


def test_settings_survive_the_way_to_the_process():
    faults = (Fault(FaultKind.HANG, at=(1, 2)), Fault(FaultKind.RETRY_MS, probability=0.1, seconds=0.02))
    for dialect in DIALECTS.values():
        settings = Settings(dialect=dialect, rate_limit=3.5, faults=faults, models=("a", "b"), key="k")
        assert settings_from_json(settings_to_json(settings)) == settings
    assert set(Changes.__annotations__) == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": -1.0}, "latency is -1, must be at least 0"),
        ({"rate_limit": 0.0}, "rate_limit is 0, must be above 0; leave it out for the default"),
        ({"correct": 1.5}, "correct is 1.5, must lie in [0, 1]: it is a probability"),
        ({"dialect": "vlm"}, f"unknown dialect 'vlm': choose one of {', '.join(DIALECTS)}"),
        ({"latncy": 1.0}, f"unknown setting latncy: there are {', '.join(f.name for f in fields(Settings))}"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(changes, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        FakeEndpoint(**changes)


def test_fault_specs_parse_and_a_wrong_one_names_the_kinds():
    assert Fault.parse("hang@3,5") == Fault(FaultKind.HANG, at=(3, 5))
    assert Fault.parse("retry_ms=0.02:0.1") == Fault(FaultKind.RETRY_MS, probability=0.1, seconds=0.02)
    with pytest.raises(ValueError, match=r"'hnag' is not a valid FaultKind; write KIND.*with a kind of retry_seconds"):
        Fault.parse("hnag")


def test_memory_forgets_the_oldest_and_stays_bounded():
    memory = Memory(most=10)
    for number in range(100):
        memory.count(str(number))
    assert memory.count("99") == 1
    assert memory.count("0") == 0


def test_a_completion_can_be_made_without_a_server():
    reply = complete({"messages": [{"role": "user", "content": QUESTION}]}, Settings(correct=1.0), Memory(), chat=True)
    assert "".join(reply.choices[0].tokens).endswith(f"The answer is {correct_answer(QUESTION)}.")
