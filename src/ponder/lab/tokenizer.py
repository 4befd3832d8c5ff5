"""The fixed vocabulary of the lab: whole numbers, operators, the words of its formats, and tokens reserved for learners.

Text and ids determine each other. A space stands between two neighbouring numbers or words and nowhere else, so
`encode(decode(ids)) == ids` for every sequence of ids and `decode(encode(text)) == text` for every text that `encode`
accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ponder.lab.problems import LARGEST

_MARKS: Final = ("<pad>", "<bos>", "<eos>", "\n", "+", "-", "*", "/", "=", "(", ")", ",", "?")
_WORDS: Final = ("countdown", "chain", "make", "left", "answer:", "yes", "no", "wait", "revise", "backtrack")
_TAGS: Final = ("<hint>", "</hint>", "<think>", "</think>", *(f"<r{index}>" for index in range(29)))
_NUMBERS: Final = tuple(str(number) for number in range(LARGEST + 1))

VOCABULARY: Final[tuple[str, ...]] = (*_MARKS, *_WORDS, *_TAGS, *_NUMBERS)
"""Every token, by id. `<r0>` to `<r28>` are spare: no lab text uses them, and learners may give them a meaning."""

_IDS: Final = {token: index for index, token in enumerate(VOCABULARY)}
_SPACED: Final = frozenset(_IDS[token] for token in (*_WORDS, *_NUMBERS))
_PIECES: Final = re.compile(r"( ?)(\d+|[a-z]+:?|</?[a-z]+\d*>|[^ ])|(.)", re.DOTALL)

PAD: Final = _IDS["<pad>"]
BOS: Final = _IDS["<bos>"]
EOS: Final = _IDS["<eos>"]
NEWLINE: Final = _IDS["\n"]


def encode(text: str) -> list[int]:
    """Turn text into ids.

    Raises:
        ValueError: naming the first piece that is not in the vocabulary, or a space that is missing or too many.
    """
    ids: list[int] = []
    for match in _PIECES.finditer(text):
        space, token = match[1], match[2]
        if token is None or token not in _IDS:
            raise ValueError(
                f"{token or match[0]!r} at character {match.start()} is not in the lab's vocabulary "
                f"(numbers 0..{LARGEST} without leading zeros, operators, {' '.join(_WORDS)}, and tags)"
            )
        spaced = bool(ids) and ids[-1] in _SPACED and _IDS[token] in _SPACED
        if spaced != bool(space):
            reason = "one is needed here" if spaced else "it may only stand between two numbers or words"
            raise ValueError(f"space before {token!r} at character {match.start()} of {text!r}: {reason}")
        ids.append(_IDS[token])
    return ids


def decode(ids: Iterable[int]) -> str:
    """Turn ids into text, special tokens included.

    Raises:
        ValueError: for an id outside the vocabulary.
    """
    return "".join(pieces(list(ids)))


def pieces(ids: Sequence[int], *, after: int | None = None) -> list[str]:
    """Give the text of every token with the space before it; `after` is the id before the first, when there is one.

    The pieces join to what `decode` gives, so text may be continued token by token.
    """
    texts: list[str] = []
    for token in ids:
        if not 0 <= token < len(VOCABULARY):
            raise ValueError(f"token id {token} is outside 0..{len(VOCABULARY) - 1}")
        spaced = after in _SPACED and token in _SPACED
        texts.append(" " + VOCABULARY[token] if spaced else VOCABULARY[token])
        after = token
    return texts


def encode_prompt(text: str, continuation: str = "") -> list[int]:
    """Give the prefix a lab model continues: `<bos>`, the problem, a newline, and what is already written."""
    return [BOS, *encode(f"{text}\n{continuation}")]
