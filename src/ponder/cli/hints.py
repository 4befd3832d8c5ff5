"""STaR's rationalisation: a question with its answer as a hint, and samples of it without (Zelikman et al. 2022, section 3.2)."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import replace

from ponder.core import Task
from ponder.lab.problems import LabProblem, countdown_expression, solve_steps
from ponder.learners.datasets import Sample
from ponder.types import Message, Problem, user

TEMPLATE = "{question}\n\nHint: the answer is {answer}."
LAB_TEMPLATE = "{question}<hint>{answer}</hint>"  # tokens that the lab keeps for this


def hinted(task: Task, problems: Collection[str], template: str) -> Task:
    """The task with these problems alone, the reference answer in their prompts. Only for training: the hint is the answer.

    template: of the last message, with {question} and {answer}; empty takes the lab's own form for lab problems and a sentence for others.
    """
    kept = tuple(_with_hint(problem, template) for problem in task.problems if problem.question.id in problems)
    return replace(task, problems=kept, fingerprint=f"{task.fingerprint}/hint:{template or 'default'}")


def original(sample: Sample, prompts: Mapping[str, tuple[Message, ...]]) -> Sample:
    """A hinted sample as an answer to the problem without the hint."""
    return replace(sample, prompt=prompts[sample.problem], stream=f"{sample.stream}/hint")


def answer_of(problem: Problem) -> str:
    """What a hint says: the reference; for countdown, which has many answers, one expression that is right."""
    family = problem.question.metadata.get("family")
    if family != "countdown":
        return str(problem.reference)
    text = problem.question.messages[-1].text
    posed = LabProblem("countdown", problem.question.id, text, str(problem.reference), 0)
    return countdown_expression(solve_steps(posed, random.Random(problem.question.id))) or ""


def _with_hint(problem: Problem, template: str) -> Problem:
    *before, last = problem.question.messages
    form = template or (LAB_TEMPLATE if "family" in problem.question.metadata else TEMPLATE)
    text = form.replace("{question}", last.text).replace("{answer}", answer_of(problem))
    question = replace(problem.question, messages=(*before, user(text)))
    return replace(problem, question=question)
