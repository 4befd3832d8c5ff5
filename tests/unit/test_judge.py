"""The generative verifier: what it is shown, what is read off its reply, what costs and does not count."""

import pytest
from judge_cases import ASKED, MARK, ROOT, Speaker, always, chain, judged, tokens, watched, word

from fakes import BehindTheDoor, Believer, Door, solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget, Sampling, parts
from ponder.errors import CapabilityError
from ponder.strategies.best_of_n import BestOfN
from ponder.types import Step, Usage
from ponder.verifiers.judge import Judge, form


def rationale(yes, *, finish="stop", said=None, middle="Fine.\n"):
    """A rationale whose verdict has P(Yes) = yes at its word."""
    said = said or (" Yes" if yes >= 0.5 else " No")
    return tokens((middle, {}), (MARK, {}), (said, {" Yes": yes, " No": 1 - yes})), finish


def test_the_direct_judge_reads_the_share_of_yes_over_all_spellings():
    """Yes .3 + .1 + .05 against No .1 + .05: the word in any case, with any space around it; other words take no part."""
    told = {"Yes": 0.3, " yes": 0.1, "YES\n": 0.05, "No": 0.1, " no": 0.05, "Yesterday": 0.2, "Not": 0.1}
    [score] = judged(Judge(), always((tokens(("Yes", told)), "length")), chain("4"))
    assert score.value == score.raw == pytest.approx(0.45 / 0.6, rel=1e-6)
    assert score.error == ""


def test_a_word_that_is_not_among_the_alternatives_counts_as_nothing():
    assert judged(Judge(), always(word(Yes=0.9, Maybe=0.1)), chain("4"))[0].value == 1.0
    assert judged(Judge(), always(word(No=0.9, Maybe=0.1)), chain("4"))[0].value == 0.0


def test_the_words_need_not_be_the_likeliest_but_must_have_been_meant():
    assert judged(Judge(), always(word(The=0.9, Yes=0.03, No=0.01)), chain("4"))[0].value == pytest.approx(0.75)
    [score] = judged(Judge(), always(word(The=0.99, Yes=0.004, No=0.005)), chain("4"))
    assert score.value is None
    assert score.error == "judge: 1 of 1 replies (1 length) hold no verdict that can be read"


@pytest.mark.parametrize("reply", [(None, "length"), (tokens(), "stop"), (tokens(("Yes", {"Yes": 1.0})), "error")])
def test_no_probabilities_no_token_or_a_failed_request_is_no_score(reply):
    [score] = judged(Judge(), always(reply), chain("4"))
    assert score.value is None
    assert score.error


def test_the_direct_judge_is_greedy_and_costs_one_token_in_a_stream_of_its_own():
    policy = always(word(Yes=0.9, No=0.1))
    _, outcome = watched(Judge(top=7), policy, chain("4"), chain("5"))
    assert {sampling for _, sampling in policy.asked} == {Sampling(temperature=0.0, max_tokens=1, logprobs=7)}
    assert {stream for stream, _ in policy.asked} == {"0/score/judge"}
    assert outcome.spent.usage == Usage(prompt=18, completion=2, calls=2)


def test_a_rationale_is_read_at_its_verdict_and_votes_are_averaged():
    policy = always(rationale(0.9), rationale(0.2), rationale(0.7))
    [score] = judged(Judge(prompt="genrm_cot@1", votes=3), policy, chain("4"))
    assert score.value == pytest.approx((0.9 + 0.2 + 0.7) / 3, rel=1e-6)
    stated = judged(Judge(prompt="genrm_cot@1", votes=3, read="stated"), policy, chain("4"))
    assert stated[0].value == pytest.approx(2 / 3)


def test_rationales_are_sampled_with_the_judges_own_settings():
    policy = always(rationale(0.9))
    judged(Judge(prompt="genrm_cot@1", temperature=0.6, max_tokens=99, top=5), policy, chain("4"))
    judged(Judge(prompt="genrm_cot@1", read="stated"), policy, chain("4"), sampling=Sampling(temperature=0.1, max_tokens=3))
    assert [sampling for _, sampling in policy.asked] == [
        Sampling(0.6, max_tokens=99, logprobs=5),
        Sampling(1.0, max_tokens=1024, logprobs=0),
    ]


def test_votes_that_were_cut_or_say_nothing_cost_and_do_not_count():
    cut, other = rationale(0.9, finish="length"), (tokens(("I cannot tell.", {})), "stop")
    policy = always(rationale(0.8), cut, other, rationale(0.6))
    [score], outcome = watched(Judge(prompt="genrm_cot@1", votes=4), policy, chain("4"))
    assert score.value == pytest.approx(0.7, rel=1e-6)
    assert score.error == "judge: 2 of 4 replies (1 length, 3 stop) hold no verdict that can be read"
    assert outcome.spent.usage.calls == 4
    [none] = judged(Judge(prompt="genrm_cot@1", votes=2), always(cut, other), chain("4"))
    assert none.value is None


def test_only_the_votes_whose_rationale_the_meta_verifier_believes_most_count():
    """Votes .9, .2, .7, .6 under rationales believed .3, .8, .5, .8: the best two are the second and the fourth."""
    replies = [rationale(yes, middle=f"{word} reasons\n") for yes, word in zip((0.9, 0.2, 0.7, 0.6), "abcd", strict=True)]
    meta = Believer((("a", 0.3), ("b", 0.8), ("c", 0.5), ("d", 0.8)), fingerprint="meta", usage=Usage(scored=5, calls=1))
    means = {1: 0.2, 2: (0.2 + 0.6) / 2, 3: (0.2 + 0.6 + 0.7) / 3, 4: (0.2 + 0.6 + 0.7 + 0.9) / 4}
    for keep, mean in means.items():
        [score], outcome = watched(Judge(prompt="genrm_cot@1", votes=4, meta=meta, keep=keep), always(*replies), chain("4"))
        assert score.value == score.raw == pytest.approx(mean, rel=1e-6)
        assert outcome.spent.usage.scored == 20, "the meta verifier is booked under its own name"


def test_the_meta_verifier_sees_the_judges_prompt_and_each_rationale_that_holds_a_verdict_in_one_call():
    seen = []

    class Meta(Believer):
        async def score(self, chains, run):
            seen.append(list(chains))
            return await super().score(chains, run)

    cut = rationale(0.9, finish="length")
    verifier = Judge(prompt="genrm_cot@1", votes=2, meta=Meta(), keep=2)
    scores = judged(verifier, always(cut, rationale(0.7)), chain("4"), chain("5"))
    assert [score.value for score in scores] == pytest.approx([0.7, 0.7], rel=1e-6)
    [[first, second]] = seen
    assert first.prompt == form("genrm_cot@1").ask(ASKED.messages, "4")
    assert second.prompt == form("genrm_cot@1").ask(ASKED.messages, "5")
    assert first.text.startswith("Fine.\nVerification:")
    assert "1 of 2 replies (1 length, 1 stop)" in scores[0].error


def test_a_vote_that_the_meta_verifier_cannot_place_does_not_count():
    replies = [rationale(yes, middle=f"{word} reasons\n") for yes, word in zip((0.9, 0.2), "ab", strict=True)]
    verifier = Judge(prompt="genrm_cot@1", votes=2, meta=Believer((("a", None),)), keep=2)
    [score] = judged(verifier, always(*replies), chain("4"))
    assert score.value == pytest.approx(0.2, rel=1e-6)
    assert score.error.startswith("judge: 1 of 2 votes have no value by Believer(")
    [none] = judged(Judge(prompt="genrm_cot@1", votes=2, meta=Believer(otherwise=None), keep=1), always(*replies), chain("4"))
    assert none.value is None
    assert "2 of 2 votes have no value by" in none.error


def test_a_judge_may_judge_a_judges_rationales():
    """The inner judge is asked in a stream of its own, and is shown the rationale as the answer."""
    meta = Judge(prompt="genrm_direct@1")
    policy = Speaker(
        lambda prompt, index: word(Yes=0.9, No=0.1) if "one word" in prompt else (rationale(0.6), rationale(0.8))[index]
    )
    [score] = judged(Judge(prompt="genrm_cot@1", votes=2, meta=meta, keep=1), policy, chain("4"))
    assert score.value == pytest.approx(0.6, rel=1e-6), "believed alike: the first"
    assert {stream for stream, _ in policy.asked} == {"0/score/judge", "0/score/score/judge"}
    assert meta in parts(Judge(prompt="genrm_cot@1", votes=2, meta=meta, keep=1))


def test_votes_that_the_budget_cannot_pay_for_are_missing():
    policy = always(rationale(0.8))
    [score], outcome = watched(Judge(prompt="genrm_cot@1", votes=4), policy, chain("4"), budget=Budget(samples=3))
    assert score.value == pytest.approx(0.8, rel=1e-6)
    assert "1 of 4 replies (1 cancelled, 3 stop)" in score.error
    assert outcome.exhausted


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (f"Right.\n{MARK} Yes", True),
        (f"Wrong.\n{MARK} No\n\n", False),
        (f"**{MARK} no.**", False),
        (f"**{MARK}** `YES`", True),
        (f"{MARK} No, I mean {MARK} Yes", True),
        (f"{MARK} Yes\nBut then again, no", None),  # quoted or taken back
        (f"{MARK} Yes and no", None),
        (f"{MARK} Yesterday", None),
        (f"{MARK} X", None),
        (f"{MARK}", None),
        ("Fine.\n*Yes*", True),  # the word alone
        ("Fine. Yes", None),
        ("", None),
    ],
)
def test_the_verdict_is_the_last_word_of_the_last_line(reply, said):
    assert form("genrm_cot@1").verdict(reply) is said


def test_without_a_mark_the_last_line_is_the_verdict():
    assert [form("genrm_direct@1").verdict(text) for text in ("Yes", " no.", "Hm.\nYES", "Yes\nand no")] == [
        True,
        False,
        True,
        None,
    ]


def test_the_probability_is_that_of_the_token_which_holds_the_verdict():
    """Earlier words that happen to be Yes, and tokens that hold part of the mark as well, must not be read in its place."""
    reply = tokens(
        ("Yes", {"Yes": 1.0}), ("?\n", {}), (MARK[:-3], {}), (MARK[-3:] + " **", {"No": 1.0}), ("No", {"No": 0.75, "Yes": 0.25}), ("**", {})
    )  # fmt: skip
    [score] = judged(Judge(prompt="genrm_cot@1"), always((reply, "stop")), chain("4"))
    assert score.value == pytest.approx(0.25, rel=1e-6)


def test_a_verdict_whose_probability_cannot_be_read_is_no_vote_but_may_be_taken_as_stated():
    """Spelt in two tokens, the alternatives of the first are no words."""
    reply = tokens((f"{MARK} ", {}), ("Y", {"Y": 0.9, "N": 0.1}), ("es", {"es": 1.0})), "stop"
    assert judged(Judge(prompt="genrm_cot@1"), always(reply), chain("4"))[0].value is None
    assert judged(Judge(prompt="genrm_cot@1", read="stated"), always(reply), chain("4"))[0].value == 1.0


def test_chains_alike_are_judged_once_and_a_chain_without_text_never():
    policy = Speaker(lambda prompt, _: word(Yes=0.9, No=0.1) if "\n4\n" in prompt else word(Yes=0.2, No=0.8))
    twice = ROOT.then(Step("")).then(Step("4"), "stop")
    scores = judged(Judge(), policy, chain("4"), chain(""), chain("5"), twice, chain(" \n"))
    assert [score.value and round(score.value, 3) for score in scores] == [0.9, None, 0.2, 0.9, None]
    assert scores[1].error == "judge: the chain has no text"
    assert len(policy.prompts) == 2


def test_only_chains_without_text_ask_nothing_of_an_engine_that_could_not_answer():
    policy = Speaker(lambda *_: word(Yes=1.0), capabilities=frozenset())
    assert judged(Judge(), policy, chain(""))[0].value is None
    assert not policy.prompts


def test_a_judge_of_its_own_is_asked_in_place_of_the_runs_policy():
    own, other = always(word(Yes=1.0)), always(word(No=1.0))
    assert judged(Judge(other), own, chain("4"))[0].value == 0.0
    assert not own.prompts
    assert other in parts(Judge(other))


def test_it_chooses_the_answer_the_judge_believes():
    policy = Speaker(
        lambda prompt, _: word(Yes=0.9, No=0.1) if "\n4\n" in prompt else word(Yes=0.1, No=0.9), ("5", "3", "4", "22")
    )
    assert solved(BestOfN(4, Judge()), policy, question=ASKED).answer == "4"


def test_a_bank_replays_what_was_judged():
    bank, policy = TableBank(MemoryTable()), always(rationale(0.9), rationale(0.3))
    verifier = Judge(prompt="genrm_cot@1", votes=2)
    first = judged(verifier, policy, chain("4"), bank=bank)
    assert judged(verifier, always(rationale(0.5)), chain("4"), bank=bank) == first
    assert len(policy.prompts) == 2


def test_it_reaches_its_policy_through_the_run_only():
    assert judged(Judge(), BehindTheDoor(always(word(Yes=1.0))), chain("4"), bank=Door())[0].value == 1.0


def test_an_engine_without_probabilities_is_refused_with_the_way_out():
    policy = Speaker(lambda *_: rationale(0.9), capabilities=frozenset({"n"}))
    with pytest.raises(
        CapabilityError, match=r"^speaker: gives no token probabilities .* or prompt='genrm_cot@1' with read='stated'$"
    ):
        judged(Judge(), policy, chain("4"))
    assert not policy.prompts
    assert judged(Judge(prompt="genrm_cot@1", read="stated"), policy, chain("4"))[0].value == 1.0
