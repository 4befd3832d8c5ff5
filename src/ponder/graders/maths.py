r"""The maths grader: is this answer the reference, whatever its spelling? Our own grammar first, computer algebra only where it must.

An answer is normalised, read by a grammar of our own (nothing of a model's is ever evaluated as code), measured against bounds, and compared
by rule: see docs/graders/maths.md for the rules. Exact normal forms decide the easy majority here, without another process; what they
leave open goes to a worker, one killable process for each answer (`maths_worker`). Verdicts are symmetric, but for words that only the
reference may bring (`maths_words`), and have no tolerance: 0.333 is not 1/3, a rounded reference must list what it accepts. Percent is a hundredth: 12\% is 0.12 and not 12.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Literal

from ponder.errors import DataError
from ponder.graders.answer import STATED_RULES
from ponder.graders.extract import Rule, extract
from ponder.graders.maths_answer import read
from ponder.graders.maths_compare import Comparison, Question, key
from ponder.graders.maths_text import normalise
from ponder.graders.maths_tokens import MAX_LENGTH, Refused
from ponder.graders.maths_tree import Node, plain
from ponder.graders.maths_words import own_words
from ponder.sandbox.core import Call, Limits, Outcome, Sandbox
from ponder.types import JSON, Problem, Verdict

Reason = Literal["equal", "different", "no_answer", "unparsable", "too_long", "too_deep", "tower", "timeout", "died"]
"""Why a verdict is what it is; only "equal" is right.

no_answer: nothing was stated. unparsable: no mathematics where the reference is, or without a value (a division by zero). too_long, too_deep, tower: refused before
anything was computed (characters, nesting, size of a number, power, factorial or binomial; work on a normal form). timeout, died: the worker was killed, or ran out of memory.
"""

LIMITS = Limits(seconds=1.5, memory=512 * 2**20, processes=1)


def maths_answer(text: str) -> str | None:
    """The key of the answer that a text states (boxed, tagged, after "####" or "the answer is"), else of its last number.

    For `Task.answer`. None where there is none, or where it has no key.
    """
    found = _stated(text)
    return None if found is None else maths_key(found)


def maths_key(answer: str) -> str | None:
    """One spelling for answers that are surely the same, for votes: normal forms of expressions, sets sorted, units and names dropped.

    Reference-free, pure, bounded in time and memory. Equal keys of answers without units are equal answers; equal
    answers may have two keys, where only computer algebra sees that they are. None where `read` refuses the answer.
    """
    try:
        node = read(answer)
        return None if node.kind == "text" and not any(map(str.isalpha, node.value)) else key(node)
    except Refused:
        return None


def judge_many(pairs: Sequence[tuple[str, str]], limits: Limits = LIMITS) -> list[Verdict]:
    """A verdict for each (reference, answer), in order. Blocks; works in scripts, threads and notebooks alike.

    Raises `DataError` for a reference that cannot be read, `SetupError` where no process can be started.
    """
    grader = MathsGrader(limits)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda pair: grader.judge(*pair), pairs))


def _worker_room() -> Sandbox:
    from ponder.sandbox.rooms import room

    return room(preload=("math_verify",), trusted=True)


@dataclass(frozen=True, slots=True)
class MathsGrader:
    """Judges answers by value (see the module). A problem's reference is an answer, or a list of accepted answers.

    limits: of the process that judges one answer. room: where it runs; the best sandbox of this machine, or a plain killable process, since its
    program is ours and only its data is a model's. Called only for answers that need it.
    """

    limits: Limits = LIMITS
    room: Callable[[], Sandbox] = field(default=_worker_room, repr=False, compare=False)

    @property
    def version(self) -> str:
        """Part of a verdict's key."""
        return "maths-2"

    async def grade(self, problem: Problem, answers: Sequence[str | None], texts: Sequence[str]) -> list[Verdict]:
        """One verdict for each answer. Judged is what the text states, which still has its unit, where that is what the key is of."""
        golds = _accepted(problem.reference, problem.question.id)
        stated = [_said(answer, text) for answer, text in zip(answers, texts, strict=True)]
        different = dict.fromkeys(one for one in stated if one is not None)
        found = await asyncio.gather(*(asyncio.to_thread(self._best, golds, one) for one in different))
        reasons = dict(zip(different, found, strict=True))
        return [
            _verdict("no_answer" if one is None else reasons[one], answer) for one, answer in zip(stated, answers, strict=True)
        ]

    def judge(self, gold: str, answer: str) -> Verdict:
        """Whether the answer is the reference. Blocks. Raises `DataError` for a reference that cannot be read."""
        return _verdict(self._reason(gold, answer), maths_key(answer))

    def _best(self, golds: Sequence[str], answer: str) -> Reason:
        reasons = [self._reason(gold, answer) for gold in golds]
        return "equal" if "equal" in reasons else reasons[0]

    def _reason(self, gold: str, answer: str) -> Reason:
        wanted = _reference(gold)
        try:
            found = read(answer, _own_words(gold))
            comparison = Comparison()
            same = comparison.same(wanted, found)
            if same is None:
                return self._asked(comparison, wanted, found)
            if same is False and _beyond_us(wanted, gold) and _beyond_us(found, answer):
                return self._run([Call("latex", (_guarded(gold), _guarded(answer)))])[1] or "different"
        except Refused as refused:
            return refused.reason
        if found.kind == "text" and wanted.kind != "text":
            return "unparsable"
        return "equal" if same else "different"

    def _asked(self, comparison: Comparison, wanted: Node, found: Node) -> Reason:
        questions = list(comparison.open)
        known, failure = self._run([_call(question) for question in questions])
        if failure is not None and failure != "equal":
            return failure
        comparison.known.update(zip(questions, known, strict=True))
        return "equal" if comparison.same(wanted, found) else "different"

    def _run(self, calls: Sequence[Call]) -> tuple[list[bool], Reason | None]:
        """What the worker said of each question; or why it could not. The second is "equal" if all are true."""
        outcome = self.room().run(_worker_source(), calls, self.limits)
        failure = _failure(outcome, len(calls))
        if failure is not None:
            return [], failure
        said = [reply.value is True for reply in outcome.replies]
        return said, "equal" if all(said) else None


def _failure(outcome: Outcome, expected: int) -> Reason | None:
    if outcome.status == "timeout":
        return "timeout"
    if outcome.status != "ok" or len(outcome.replies) != expected:
        return "died"
    errors = {reply.error for reply in outcome.replies if reply.error}
    if "MemoryError" in errors:
        return "died"
    return "unparsable" if errors else None


def _call(question: Question) -> Call:
    trees = (plain(question.left), plain(question.right), question.digits)
    if question.kind == "equal":
        return Call("equal", trees)
    return Call("proportional", (*trees, question.kind == "inequality"))


@cache
def _worker_source() -> str:
    return (resources.files("ponder.graders") / "maths_worker.py").read_text("utf-8")


@cache
def _reference(gold: str) -> Node:
    try:
        node = read(gold, _own_words(gold))
        key(node)  # which a division by zero has none of
    except Refused as refused:
        raise DataError(
            f"the reference {gold[:80]!r} cannot be judged by value ({refused.reason}); correct it, or grade this task by exact text"
        ) from None
    return node


_own_words = cache(own_words)


def check_reference(reference: JSON, problem: str) -> None:
    """Raises `DataError` for a reference that `MathsGrader` could not judge by; for loaders, before anything is paid for."""
    for gold in _accepted(reference, problem):
        _reference(gold)


def _accepted(reference: JSON, problem: str) -> list[str]:
    golds = [str(one) for one in reference] if isinstance(reference, list) else [str(reference)]
    if reference is None or not golds:
        raise DataError(f"{problem}: the reference is {reference!r}; a problem needs an answer, or a list of accepted answers")
    return golds


def _stated(text: str) -> str | None:
    return extract(text, STATED_RULES) or extract(text, (Rule.LAST_NUMBER,))


def _said(answer: str | None, text: str) -> str | None:
    """What to judge: the words of the text if they have this key, else the key."""
    if answer is None:
        return None
    found = _stated(text)
    return found if found is not None and maths_key(found) == answer else answer


def _beyond_us(node: Node, text: str) -> bool:
    r"""Whether this is LaTeX that our grammar does not read (\sum, \int ...), and no relation, list or percentage, which math-verify misjudges."""
    return node.kind == "text" and bool(_COMMAND.search(text)) and not _MISJUDGED.search(_LIMITS_OF.sub("", text))


_COMMAND = re.compile(r"\\(?:sum|prod|int|lim|max|min|gcd|lcm|det|pmod|bmod|vmatrix|begin\{vmatrix\})")
_LIMITS_OF = re.compile(r"_\s*\{[^{}]*\}")
_MISJUDGED = re.compile(r"[=<>%,;|]|\\(?:le|ge|in|text|mathrm|\{|%)")


def _guarded(text: str) -> str:
    """The text for math-verify, if it holds no number and no nesting of powers that is hopeless from the start."""
    plain_text = normalise(text)
    if len(plain_text) > MAX_LENGTH // 4:
        raise Refused("too_long")
    if re.search(r"\d{7}", plain_text) or len(re.findall(r"[\^!]", plain_text)) > 6:
        raise Refused("tower")
    return plain_text


def _verdict(reason: Reason, answer: str | None) -> Verdict:
    return Verdict(reason == "equal", answer, "" if reason == "equal" else reason)
