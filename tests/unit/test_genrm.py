"""What a judge is taught: known answers for each example, each filter, each weight."""

from collections import Counter
from dataclasses import dataclass, field

import pytest

from fakes import QUESTION, solved
from ponder.core import Budget, PolicyInfo, Sampling
from ponder.errors import DataError, UsageError
from ponder.learners.datasets import Sample, check_split
from ponder.learners.genrm import Example, balanced, direct, rationales, repeated, solutions, unified
from ponder.learners.models import lab_folder
from ponder.learners.policy import finetune
from ponder.learners.training import Recipe
from ponder.policies.lab import Lab
from ponder.types import Chain, Step, Usage, user
from ponder.verifiers.judge import Judge, form

MARK = "Verification: Is the answer correct (Yes/No)?"
DIRECT, COT, GUIDED = form("genrm_direct@1"), form("genrm_cot@1"), form("genrm_cot_guided@1")


def sample(text, correct, problem="p", steps=None):
    return Sample(problem, (user(f"What is {problem}?"),), steps or (text,), correct, text, "stop", "policy", 1.0, None, 3)


RIGHT, WRONG = sample("4", True), sample("5", False)


@dataclass
class Writer:
    """Writes the i-th of `texts` to the i-th request for one prompt."""

    texts: tuple[str | tuple[str, str], ...]
    prompts: list[str] = field(default_factory=list)
    asked: list[tuple[str, int, Sampling]] = field(default_factory=list)

    info = PolicyInfo("writer", "writer", frozenset({"seed", "n"}))

    async def sample(self, asks, *, until, sampling):
        return [[self.child(ask, index, sampling) for index in ask.indices] for ask in asks]

    def child(self, ask, index, sampling):
        self.prompts.append(ask.chain.prompt[-1].text)
        self.asked.append((ask.stream, index, sampling))
        said = self.texts[index % len(self.texts)]
        text, finish = said if isinstance(said, tuple) else (said, "stop")
        return ask.chain.then(Step(text, Usage(prompt=5, completion=7, calls=1)), finish)


def written(samples, writer, *, references=None, outcome=False, budget=None, **how):
    found = []

    async def strategy(root, run):
        found.extend(await rationales(samples, run, COT, GUIDED, references or {"p": "It is four."}, **how))

    ended = solved(strategy, writer, question=QUESTION, budget=budget)
    return (found, ended) if outcome else found


def says(verdict, reason="Because."):
    return f"{reason}\n{MARK} {verdict}"


def test_a_direct_example_is_what_the_judge_will_be_asked_and_the_graders_word():
    right, wrong = direct([RIGHT, WRONG], DIRECT)
    assert right == Example("p", DIRECT.ask(RIGHT.prompt, "4"), "Yes")
    assert wrong == Example("p", DIRECT.ask(WRONG.prompt, "5"), "No")
    assert [one.completion for one in direct([RIGHT, WRONG], form("lab_genrm@1"))] == ["yes", "no"]


def test_what_is_taught_is_word_for_word_what_the_judge_asks():
    """One is a prompt of the learner, the other what reaches the policy of a `judge` that scores the same chain."""
    policy = Writer((says("Yes"),))

    async def strategy(root, run):
        await run.score(Judge(prompt="genrm_cot@1", read="stated"), [root.then(Step("4"), "stop")])

    solved(strategy, policy, question=QUESTION)
    [example] = direct([Sample("q", QUESTION.messages, ("4",), True, "4", "stop", "policy", 1.0, None, 1)], COT)
    assert policy.prompts == [example.prompt[-1].text]


def test_steps_are_joined_and_a_sample_without_text_teaches_nothing():
    [example] = direct([sample("", False), sample("x", True, steps=("2+2\n", "=4"))], DIRECT)
    assert "\n2+2\n=4\n" in example.prompt[-1].text


def test_rationales_are_kept_where_their_verdict_is_the_graders():
    texts = (says("Yes", "a"), says("No", "b"), "no verdict", (says("Yes", "cut"), "length"), says("Yes", "c"))
    assert [one.completion for one in written([RIGHT], Writer(texts), n=5, most=9)] == [says("Yes", "a"), says("Yes", "c")]
    assert [one.completion for one in written([WRONG], Writer(texts), n=5, most=9)] == [says("No", "b")]


def test_rationales_are_written_with_the_reference_in_sight_and_taught_without():
    policy = Writer((says("No"),))
    [example] = written([WRONG], policy, n=1)
    assert policy.prompts == [GUIDED.ask(WRONG.prompt, "5", "It is four.")[-1].text]
    assert "It is four." in policy.prompts[0]
    assert example == Example("p", COT.ask(WRONG.prompt, "5"), says("No"))
    assert "It is four." not in example.prompt[-1].text


def test_a_rationale_that_gives_the_reference_away_is_not_kept():
    texts = (says("No", "The Reference says four."), says("No", "Two and two is four."))
    assert [one.completion for one in written([WRONG], Writer(texts), n=2)] == [says("No", "Two and two is four.")]


def test_equal_rationales_count_once_and_the_first_ones_are_kept():
    texts = (says("Yes", "a"), f"  {says('Yes', 'a')}\n", says("Yes", "b"), says("Yes", "c"))
    assert [one.completion for one in written([RIGHT], Writer(texts), n=4, most=2)] == [says("Yes", "a"), says("Yes", "b")]


def test_rationales_are_paid_for_through_the_run_kept_or_not():
    policy = Writer((says("Yes"), says("No")))
    found, outcome = written([RIGHT, WRONG], policy, n=3, outcome=True, sampling=Sampling(0.7, max_tokens=99))
    assert len(found) == 2
    assert outcome.spent.usage == Usage(prompt=30, completion=42, calls=6)
    assert {(stream, sampling) for stream, _, sampling in policy.asked} == {("0/rationale", Sampling(0.7, max_tokens=99))}
    found, outcome = written([RIGHT, WRONG], Writer((says("Yes"),)), n=2, outcome=True, budget=Budget(samples=1))
    assert [one.completion for one in found] == [says("Yes")]


def test_another_policy_may_write_the_rationales():
    own, other = Writer((says("No"),)), Writer((says("Yes"),))
    assert len(written([RIGHT], own, policy=other)) == 1
    assert not own.prompts


def test_nothing_is_asked_where_nothing_can_be_judged():
    policy = Writer((says("Yes"),))
    assert written([], policy) == written([sample("", False)], policy) == []
    with pytest.raises(DataError, match=r"^rationales: problem 'other' has no reference, which the writer is to judge by$"):
        written([RIGHT, sample("1", True, "other")], policy)
    with pytest.raises(UsageError, match=r"^rationales: n = 0 and most = 2 must be at least 1$"):
        written([RIGHT], policy, n=0)
    assert not policy.prompts


def test_balance_makes_each_kind_count_for_half_and_an_example_for_one():
    """Three right and one wrong of four: weights 4 / 6 and 4 / 2."""
    made = balanced(direct([sample(text, text != "d") for text in "abcd"], DIRECT), DIRECT)
    assert [one.weight for one in made] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2.0])
    assert sum(one.weight for one in made) == pytest.approx(4)
    both = [Example("p", RIGHT.prompt, says(word)) for word in ("No", "Yes", "No", "No")]
    assert [one.weight for one in balanced(both, COT)] == pytest.approx([2 / 3, 2.0, 2 / 3, 2 / 3])


def test_the_weighted_loss_is_the_two_means_taken_separately():
    """Against the formula, with a log-loss for each example."""
    losses, correct = [0.3, 0.7, 0.1, 2.0, 0.5], [True, True, True, False, False]
    made = balanced(direct([sample(str(at), right) for at, right in enumerate(correct)], DIRECT), DIRECT)
    weighted = sum(one.weight * loss for one, loss in zip(made, losses, strict=True)) / len(made)
    assert weighted == pytest.approx(((0.3 + 0.7 + 0.1) / 3 + (2.0 + 0.5) / 2) / 2)


def test_balance_needs_both_kinds_and_judgements_only():
    with pytest.raises(DataError, match=r"^genrm: 1 judgements of right and 0 of wrong answers; "):
        balanced(direct([RIGHT], DIRECT), DIRECT)
    with pytest.raises(DataError, match=r"^genrm: 'It is 4' is no judgement; balance before solutions are added$"):
        balanced([Example("p", RIGHT.prompt, "It is 4")], DIRECT)


def test_only_right_samples_are_solutions_to_imitate():
    assert solutions([RIGHT, WRONG]) == [Example("p", RIGHT.prompt, "4")]


def test_solutions_count_for_lambda_times_the_judgements():
    verify = balanced(direct([RIGHT, WRONG, sample("6", False)], DIRECT), DIRECT)
    solve = [Example("p", RIGHT.prompt, text) for text in "abcdefghij"]
    both = unified(verify, solve, 0.25)
    assert both[:3] == verify
    assert sum(one.weight for one in both[3:]) == pytest.approx(0.25 * sum(one.weight for one in verify))
    assert [one.weight for one in both[3:]] == pytest.approx([0.25 * 3 / 10] * 10)
    losses = [1.0, 2.0, 4.0, *range(10)]
    total = sum(one.weight * loss for one, loss in zip(both, losses, strict=True)) / 3
    verified = sum(one.weight * loss for one, loss in zip(verify, losses[:3], strict=True)) / 3
    assert total == pytest.approx(verified + 0.25 * sum(range(10)) / 10), "L_verify + lambda L_solve, each a mean"


def test_lambda_is_a_ratio_of_weights_and_not_of_counts():
    verify = [Example("p", RIGHT.prompt, "Yes", 3.0), Example("p", WRONG.prompt, "No", 5.0)]
    solve = [Example("p", RIGHT.prompt, "a", 1.0), Example("p", RIGHT.prompt, "b", 3.0)]
    assert [one.weight for one in unified(verify, solve, 0.5)] == [3.0, 5.0, 1.0, 3.0]


def test_without_weight_there_are_no_solutions_and_a_mixture_needs_both():
    verify = direct([RIGHT, WRONG], DIRECT)
    assert unified(verify, [], 0.0) == unified(verify, solutions([RIGHT]), 0.0) == verify
    with pytest.raises(DataError, match=r"^unified: 2 judgements and 0 solutions; a mixture needs both$"):
        unified(verify, [], 0.5)
    with pytest.raises(DataError, match=r"^unified: 0 judgements"):
        unified([], solutions([RIGHT]), 0.5)
    for weight in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=rf"^unified: weight = {weight} must be a number of at least 0$"):
            unified(verify, [], weight)


def test_repetitions_are_the_weights_in_the_mean_and_whole_ones_exactly():
    examples = [Example("p", RIGHT.prompt, word, weight) for word, weight in (("a", 2.0), ("b", 0.25), ("c", 1.5), ("d", 1.0))]
    made = Counter(one.completion for seed in range(2000) for one in repeated(examples, seed=seed))
    assert made["a"] == 4000
    assert made["d"] == 2000
    assert made["b"] / 2000 == pytest.approx(0.25, abs=0.03)
    assert made["c"] / 2000 == pytest.approx(1.5, abs=0.04)
    once = repeated(examples, seed=3)
    assert once == repeated(examples, seed=3)
    assert {one.weight for one in once} == {1.0}
    assert [one.completion for one in once] == sorted(one.completion for one in once), "in the order of the examples"


def test_an_example_reads_like_a_sample_where_trainers_and_splits_look():
    example = Example("p", RIGHT.prompt, "Yes")
    assert (example.steps, example.finish) == (("Yes",), "stop")
    check_split([example], direct([sample("1", True, "other")], DIRECT))
    with pytest.raises(DataError):
        check_split([example], direct([RIGHT], DIRECT))


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of torch, transformers and TRL
def test_a_lab_model_learns_to_judge_and_is_asked_as_it_was_taught(tmp_path):
    """The small model overfits sixteen answers; the judge then believes the right ones and not the wrong ones."""
    pytest.importorskip("trl")
    import torch

    torch.set_num_threads(1)
    asking, base = form("lab_genrm@1"), lab_folder("small", tmp_path)
    judged = [
        Sample(f"{a}+2", (user(f"chain {a}+2"),), (f"answer: {a + 2 + wrong}",), not wrong, str(a), "stop", "x", 1.0, 1, 3)
        for wrong in (0, 80)
        for a in range(1, 9)
    ]
    examples = balanced(direct(judged, asking), asking)
    finetune(base, repeated(examples, seed=0), tmp_path / "judge", recipe=Recipe(epochs=60, batch=16, rate=3e-3))
    policy, scores = Lab(str(tmp_path / "judge"), workers=1), []

    async def strategy(root, run):
        chains = [Chain(one.prompt).then(Step(one.text), "stop") for one in judged]
        scores.extend(await run.score(Judge(policy, "lab_genrm@1"), chains))

    solved(strategy, policy)
    assert min(score.value for score, one in zip(scores, judged, strict=True) if one.correct) > 0.9
    assert max(score.value for score, one in zip(scores, judged, strict=True) if not one.correct) < 0.1
