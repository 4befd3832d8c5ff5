"""Evolution and stages: what the policy is told, what its answers hang on, who the parents are; and the prompts of strategies."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fakes import QUESTION, ROOT, first_word, solved
from ponder.core import PolicyInfo
from ponder.errors import CapabilityError, DataError
from ponder.prompting import ask, read
from ponder.strategies.evolve import Evolve
from ponder.strategies.qalign import Qalign
from ponder.strategies.stages import Stages
from ponder.types import Blob, Message, Step, Usage, user
from searches import Table, Values


class Parrot:
    """Numbers its answers; notes what it was asked and for how many children. `until` of each request, too."""

    def __init__(self, *texts):
        self.texts, self.told, self.count = list(texts), [], 0
        self.untils = []

    info = PolicyInfo("parrot", "parrot", frozenset({"continue", "seed", "n"}))

    async def sample(self, asks, *, until, sampling):
        self.untils.append(until)
        lines = []
        for one in asks:
            self.told.append((one.chain.prompt, one.chain.text, len(one.indices)))
            lines.append([self.child(one.chain) for _ in one.indices])
        return lines

    def child(self, chain):
        text, finish = self.texts[min(self.count, len(self.texts) - 1)]
        self.count += 1
        return chain.then(Step(text, Usage(prompt=9, completion=1, calls=1)), finish)


def test_the_best_so_far_are_shown_best_first_and_answers_hang_on_the_question():
    policy = Parrot(*[(text, "stop") for text in ("a", "b", "c", "d", "e", "f", "g", "h", "i")])
    guide = Values({"a": 0.2, "b": 0.7, "c": 0.5, "d": 0.6, "e": 0.1, "f": 0.9, "g": 0.3, "h": 0.3, "i": 0.3})
    outcome = solved(Evolve(3, 2, guide), policy)
    assert [count for *_, count in policy.told] == [3, 3, 3], "asked for together"
    prompts = [prompt[-1].text for prompt, *_ in policy.told]
    assert prompts[0] == QUESTION.messages[-1].text
    assert prompts[1].startswith(QUESTION.messages[-1].text)
    assert "Attempt 1:\nb\n\nAttempt 2:\nc\n" in prompts[1]
    assert "Attempt 1:\nf\n\nAttempt 2:\nb\n" in prompts[2], "the best of all generations, not of the last one"
    judged = [chain for event in outcome.events if event.kind == "score" for chain in event.chains]
    assert {chain.prompt for chain in judged} == {ROOT.prompt}
    assert (outcome.answer, outcome.chain.prompt) == ("f", ROOT.prompt)
    assert [event.chains[0].text for event in outcome.events if event.kind == "propose"] == ["b", "f"]


def test_a_parent_is_good_for_several_generations_but_a_copy_of_it_is_none():
    policy = Parrot(("a", "stop"), ("a", "stop"), ("b", "stop"), ("c", "stop"))
    solved(Evolve(3, 1, Values({"a": 0.9, "b": 0.1, "c": 0.0})), policy)
    assert "Attempt 1:\na\n\nAttempt 2:\nb\n" in policy.told[1][0][-1].text


def test_without_a_parent_a_generation_is_sampled_from_the_question():
    policy = Parrot(("x", "length"), ("", "error"), ("a", "stop"))
    solved(Evolve(2, 2, Values({"a": 0.5})), policy)
    assert [prompt == ROOT.prompt for prompt, *_ in policy.told] == [True, True, False]


def test_mutation_by_steps_keeps_the_beginning_of_the_parents_in_turn():
    policy = Table({"": [("p\nq\n", "stop"), ("r\ns\n", "stop")], "p\n": [("t", "stop")], "r\n": [("u", "stop")]})
    values = Values({"p\nq\n": 0.6, "r\ns\n": 0.7, "p\nt": 0.1, "r\nu": 0.1})
    kept = Counter()
    for seed in range(20):
        policy.asked.clear()
        solved(Evolve(2, 1, values, mutate="step"), policy, seed=seed)
        kept[tuple(text for text, _ in policy.asked[2:])] += 1
    assert set(kept) == {("r\n", "p\n"), ("r\n", ""), ("", "p\n"), ("", "")}, (
        "the best parent first, each cut at a step drawn uniformly"
    )
    assert set(policy.prompts) == {QUESTION.messages[-1].text}


@pytest.mark.parametrize(("final", "answer"), [("max", "x"), ("vote", "y"), ("weighted_vote", "z")])
def test_candidates_of_all_generations_are_chosen_from(final, answer):
    """x has .9 once, y .1 three times, z .5 twice."""
    texts = [("x 0", "stop"), ("y 0", "stop"), ("z 0", "stop"), ("y 1", "stop"), ("z 1", "stop"), ("y 2", "stop")]
    guide = Values({"x 0": 0.9, "y 0": 0.1, "y 1": 0.1, "y 2": 0.1, "z 0": 0.5, "z 1": 0.5})
    assert solved(Evolve(3, 1, guide, final=final), Parrot(*texts), answer=first_word).answer == answer


def test_evolution_ends_with_the_generation_that_is_good_enough():
    guide = Values({"a": 0.7, "b": 0.8})
    assert solved(Evolve(1, 5, guide, accept=0.75), Parrot(("a", "stop"), ("b", "stop"))).spent.samples == 2


def test_each_stage_begins_with_its_tag_ends_with_it_and_the_last_goes_to_the_end():
    policy = Parrot(("p1</A>", None), ("p2</A>", None), ("7", "stop"), ("8", "stop"))
    guide = Values({"<A>p1</A>": 0.2, "<A>p2</A>": 0.6, "<A>p2</A>\n<B>7": 0.9, "<A>p2</A>\n<B>8": 0.3})
    outcome = solved(Stages(2, guide, stages=("A", "B")), policy)
    assert [(text, count) for _, text, count in policy.told] == [("<A>", 2), ("<A>p2</A>\n<B>", 2)]
    assert [(until.stop, until.tokens) for until in policy.untils] == [(("</A>",), None), ((), None)]
    told = policy.told[0][0][-1].text
    assert told.startswith(QUESTION.messages[-1].text)
    assert "<A> ... </A>, <B> ... </B>" in told
    assert policy.told[1][0] == policy.told[0][0]
    judged = [chain for event in outcome.events if event.kind == "score" for chain in event.chains]
    assert {chain.prompt for chain in judged} == {ROOT.prompt}, "guides judge stages as an answer to the question itself"
    assert outcome.chain.text == "<A>p2</A>\n<B>7"
    assert outcome.chain.prompt == ROOT.prompt
    assert [step.source for step in outcome.chain.steps] == ["injected", "policy", "injected", "policy"]


def test_without_a_prompt_the_question_is_asked_as_it_is():
    policy = Parrot(("p</A>", "stop"))
    solved(Stages(1, Values({"<A>p</A>": 0.5}), stages=("A", "B"), prompt=""), policy)
    assert [prompt for prompt, *_ in policy.told] == [ROOT.prompt]


def test_a_wide_beam_of_stages_keeps_an_answer_that_came_early():
    policy = Parrot(("early", "stop"), ("p1</A>", None), ("p2</A>", None), ("p3</A>", None), ("7", "stop"))
    guide = Values({"<A>early": 0.5, "<A>p1</A>": 0.9, "<A>p2</A>": 0.1, "<A>p3</A>": 0.2, "<A>p1</A>\n<B>7": 0.4})
    outcome = solved(Stages(2, guide, width=2, stages=("A", "B")), policy)
    assert [(text, count) for _, text, count in policy.told] == [("<A>", 4), ("<A>p1</A>\n<B>", 2)]
    assert outcome.chain.text == "<A>early"


@pytest.mark.parametrize("name", ["evolve@1", "stages@1"])
def test_shipped_prompts_are_read_by_name_and_version(name):
    assert "{question}" in read(name, "question")


def test_a_prompt_of_ones_own_is_read_by_path_and_must_have_its_places(tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"last": "Q: {question} {more}"}))
    assert read(str(own), "question", "more") == "Q: {question} {more}"
    with pytest.raises(DataError, match=r"its text must hold \{attempts\}$"):
        read(str(own), "attempts")
    own.write_text("[]")
    with pytest.raises(DataError, match="is none of evolve@1, stages@1, and no JSON file with a text 'last'"):
        read(str(own))
    own.write_text("[" * 100_000)
    with pytest.raises(DataError, match="is none of evolve@1, stages@1, and no JSON file"):
        read(str(own))
    with pytest.raises(DataError, match="prompt 'nothing@9' is none of"):
        read("nothing@9")


def test_the_question_is_filled_in_once_and_what_stands_before_it_stays():
    messages = (Message("system", ("Be brief.",)), user("What is {attempts}?"))
    told = ask("{question} | {attempts} | {unknown}", messages, attempts="{question}")
    assert told == (messages[0], user("What is {attempts}? | {question} | {unknown}"))


def test_the_images_of_a_question_stay_with_it():
    image = Blob("ab" * 32, "image/png")
    [told] = ask("{question} {more}", (Message("user", ("How many ", image, "birds?")),), more="Say why.")
    assert told == Message("user", (image, "How many birds? Say why."))


@pytest.mark.parametrize("inner", [Evolve(2, 1, Values({}), mutate="step"), Qalign(1, Values({}))])
def test_what_goes_on_from_whole_answers_is_refused_before_the_first_is_paid_for(inner):
    policy = Parrot(("A", "stop"))
    policy.info = PolicyInfo("parrot", "parrot", frozenset({"seed", "n"}))
    with pytest.raises(CapabilityError, match=r"^parrot: cannot go on from a partial answer"):
        solved(inner, policy)
    assert policy.count == 0
    outcome = solved(Evolve(2, 1, Values({"A": 0.5}), mutate="prompt"), policy)  # which needs none
    assert outcome.spent.samples == 4
