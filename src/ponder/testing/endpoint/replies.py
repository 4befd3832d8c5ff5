"""What the fake model says: a pure function of the rendered prompt, the draw and the setting `correct`.

A reply is one to four reasoning lines and a last line::

    Step 1: 17 + 25 = 42.
    Step 2: 42 + 8 = 50.
    The answer is 316.

The answer is drawn from `answer_distribution`, so that voting, verifying and pass@k mean something and have closed forms.
The number of lines is uniform on 1..4. A partial reply is continued from where it ends (half a word included), and a
reply that is sampled line by line has the same distribution as one sampled whole. A prompt with a line ``ECHO: xyz`` is
answered by ``xyz`` exactly.

With the setting `slips`, a reasoning line is off by one with that probability, and a reply with such a line never gives the correct
answer: then its steps can be judged by their arithmetic, and a search over steps has something to find.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from math import log

MOST_LINES = 4
CONCLUSION = "The answer is "
WRONG_SHARES = (0.40, 0.25, 0.15, 0.12, 0.08)  # how wrong draws split over the five wrong answers

_USER_TURN = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)
_QUESTION = re.compile(r"QUESTION:(.*?)(?:<\|im_end\|>|$)", re.MULTILINE)
_ECHO = re.compile(r"^ECHO: (.*?)(?:<\|im_end\|>)?$", re.MULTILINE)
_CONCLUDED = re.compile(re.escape(CONCLUSION) + r"[^\n]*\.\s*$")
_SUM = re.compile(r"(\d+) (\+|times) (\d+) (?:=|is) (\d+)\.")
_TOKEN = re.compile(r"\s?\S{1,4}|\s")


def correct_answer(prompt: str) -> str:
    """The one correct answer of a prompt, a whole number from 20 to 999 written in digits.

    The question of a prompt is the rest of its last line after ``QUESTION:`` where there is one, so that a task may wrap
    it in instructions; else the last user turn of a ChatML rendering; else the whole text. White space around it does not
    count. A question, a message that holds it and a rendered chat therefore have the same correct answer.
    """
    return _answers(question_of(prompt))[0]


def answer_distribution(prompt: str, correct: float = 0.5) -> dict[str, float]:
    """Probability of each of the six answers to a prompt at temperature > 0; the correct one comes first.

    Args:
        prompt: The question or anything that contains it (see `correct_answer`).
        correct: Probability of the correct answer, in [0, 1]: the endpoint's setting of that name.
    """
    right, *wrong = _answers(question_of(prompt))
    shares = {answer: (1.0 - correct) * share for answer, share in zip(wrong, WRONG_SHARES, strict=True)}
    return {right: correct} | shares


def question_of(prompt: str) -> str:
    """The part of a prompt that decides its answers (see `correct_answer`)."""
    found: list[str] = _QUESTION.findall(prompt) or _USER_TURN.findall(prompt)
    return (found[-1] if found else prompt).strip()


def split_tokens(text: str) -> list[str]:
    """Cut a text into the fake model's tokens: at most four letters with the white space before them.

    The tokens, joined, are the text.
    """
    return _TOKEN.findall(text)


@lru_cache(maxsize=1024)
def count_tokens(text: str) -> int:
    """How many tokens a text has."""
    return len(split_tokens(text))


@dataclass(frozen=True, slots=True)
class Manner:
    """How the fake model writes: its chance of being right, what joins lines, whether it thinks between tags first, how often a line slips."""

    correct: float = 0.5
    separator: str = "\n"
    thinks: bool = False
    slips: float = 0.0


@dataclass(frozen=True, slots=True)
class Draw:
    """The chance behind one reply: 64 bytes derived from (rendered text, weights, seed or counter, index)."""

    chance: bytes
    greedy: bool = False

    @classmethod
    def derive(cls, text: str, name: str, *, greedy: bool) -> Draw:
        """Derive the draw called `name` of a rendered text; a greedy one has no rare tokens."""
        return cls(blake2b(name.encode(), key=_digest(text), digest_size=64).digest(), greedy)

    def uniform(self) -> float:
        """The number in [0, 1) that decides the answer."""
        return int.from_bytes(self.chance[56:60], "big") / 2**32


def continue_reply(before: str, partial: str, draw: Draw, manner: Manner) -> str:
    """What the model writes after `partial`, a reply under way (often empty) to the rendered prompt `before`.

    An empty result means that the reply had ended.
    """
    echo = _ECHO.findall(before)
    if echo:
        return echo[-1].removeprefix(partial) if echo[-1].startswith(partial) else ""
    if _CONCLUDED.search(partial):
        return ""
    if not manner.thinks or (partial and "<think>" not in partial):
        return _write_lines(before, partial, draw, manner, close=manner.separator)
    if "</think>" in partial:
        rest = partial.rpartition("</think>")[2].lstrip()
        ahead = "" if rest or partial[-1].isspace() else "\n\n"
        line = rest if CONCLUSION.startswith(rest[: len(CONCLUSION)]) else ""
        return ahead + _conclude(before, line, draw, manner, partial)
    thought = partial.partition("<think>")[2].lstrip()
    opening = "" if partial else "<think>\n"
    return opening + _write_lines(before, thought, draw, manner, close="\n</think>\n\n")


def _write_lines(before: str, partial: str, draw: Draw, manner: Manner, close: str) -> str:
    *done, line = partial.split(manner.separator)
    written = sum(1 for text in done if text.strip())
    if line and close == manner.separator and CONCLUSION.startswith(line[: len(CONCLUSION)]):
        return _conclude(before, line, draw, manner, partial)
    ahead = ""
    if line:  # a line under way is brought to its full stop first
        ahead = "" if line.endswith(".") else f" makes {draw.chance[0]}."
        written += 1
    fewest = max(written, 1)
    # Uniform on what is still possible: then P(stop after k lines | k lines) does not depend on how they were sampled.
    total = fewest + draw.chance[1] % (MOST_LINES + 1 - fewest) if fewest < MOST_LINES else written
    lines = [_reasoning(number, draw.chance[8 + 4 * number :], manner.slips) for number in range(written + 1, total + 1)]
    body = manner.separator.join(lines)
    if ahead or line:
        body = f"{ahead}{manner.separator}{body}" if lines else ahead
    if not body and not line:  # the partial reply ends with its own line break
        close = close.removeprefix(manner.separator).removeprefix("\n")
    return body + close + _conclude(before, "", draw, manner, partial + body)


def slipped(text: str) -> bool:
    """Whether a line of a reply is wrong in its arithmetic."""
    found = _SUM.findall(text)
    return any(int(a) + int(b) != int(c) if sign == "+" else int(a) * int(b) != int(c) for a, sign, b, c in found)


def _reasoning(number: int, chance: bytes, slips: float) -> str:
    left, right, off = chance[0] % 90 + 10, chance[1] % 90 + 2, chance[3] < 256 * slips
    if chance[2] % 2:
        return f"Step {number}: {left} + {right} = {left + right + off}."
    return f"Step {number}: {left} times {right} is {left * right + off}."


def _conclude(before: str, line: str, draw: Draw, manner: Manner, reasoning: str) -> str:
    """The rest of the last line, of which `line` is written; digits that are already there restrict the draw."""
    if manner.slips and slipped(reasoning):
        manner = replace(manner, correct=0.0)
    if len(line) < len(CONCLUSION):
        typed, ahead = "", CONCLUSION[len(line) :]
    else:
        typed, ahead = line[len(CONCLUSION) :], ""
    answers = _answers(question_of(before))
    shares = (manner.correct, *((1.0 - manner.correct) * share for share in WRONG_SHARES))
    open_to = [(answer, share) for answer, share in zip(answers, shares, strict=True) if answer.startswith(typed)]
    if not open_to:
        return ahead + "."
    left = draw.uniform() * sum(share for _, share in open_to)
    chosen = open_to[-1][0]
    for answer, share in open_to:
        left -= share
        if left < 0:
            chosen = answer
            break
    return f"{ahead}{chosen[len(typed) :]}."


@lru_cache(maxsize=4096)
def _answers(question: str) -> tuple[str, ...]:
    right = 20 + int.from_bytes(blake2b(question.encode(), digest_size=8).digest(), "big") % 980
    return tuple(str(value) for value in (right, right + 1, right - 1, right + 10, right - 10, right * 10))


@lru_cache(maxsize=1024)
def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()


# Log-probabilities. Sixteen shapes of a next-token distribution: the likeliest token has .35 .. .95, the others halve.

_RANKS = 24
_SHAPES = tuple(
    (log(top), *(log((1.0 - top) * 0.5**rank) for rank in range(1, _RANKS)))
    for top in (0.35 + 0.04 * shape for shape in range(16))
)
_OTHERS = (
    " a", " an", " and", " as", " at", " be", " but", " by", " for", " he", " if", " in", " is", " it", " no", " not",
    " of", " on", " or", " so", " that", " the", " then", " this", " to", " up", " we", " with",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenChance:
    """A token, its log-probability, and the `top` likeliest (token, log-probability), in falling order.

    The token itself is always among them: where it is the second likeliest and one was asked for, there are two.
    """

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


def token_chances(tokens: list[str], draw: Draw, top: int) -> list[TokenChance]:
    """Log-probabilities of the tokens of a reply: one in eight is the second likeliest, unless the draw is greedy.

    Args:
        tokens: The reply's tokens.
        draw: The draw that wrote the reply.
        top: How many alternatives to list, 0 to 20.
    """
    chances = []
    for place, token in enumerate(tokens):
        seed = draw.chance[place % 64] + 31 * place
        shape = _SHAPES[seed % 16]
        rank = 1 if not draw.greedy and seed // 16 % 8 == 0 else 0
        listed = max(top, rank + 1) if top else 0
        others = (other for step in range(len(_OTHERS)) if (other := _OTHERS[(seed + step) % len(_OTHERS)]) != token)
        ranked = tuple((token if at == rank else next(others), shape[at]) for at in range(listed))
        chances.append(TokenChance(token, shape[rank], ranked))
    return chances
