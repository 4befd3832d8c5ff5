"""The answer in a model's text, and one spelling for numeric answers.

`extract` first takes the thinking away, then tries named rules in the order the task gives them; the first rule that
finds anything decides. Within a rule the last candidate wins, because models restate; an empty or unclosed candidate is
none. There is an answer or None, never an empty string. Everything runs in time linear in the text, whatever the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction


class Rule(StrEnum):
    """Where an answer may stand. The values are the names that tasks and spec strings use."""

    BOXED = "boxed"  # \boxed{...} or \fbox{...} with balanced braces, or \boxed followed by one word
    GSM8K = "gsm8k"  # the rest of a line after ####
    TAG = "tag"  # <answer>...</answer>
    PHRASE = "phrase"  # the rest of the sentence after "answer:", "the answer is", "final answer"
    LAST_NUMBER = "last_number"  # the last number anywhere: a fallback that also finds step numbers and years


DEFAULT_RULES = tuple(Rule)


@dataclass(frozen=True, slots=True)
class Extractor:
    """A choice of rules as a value: `Extractor((Rule.BOXED, Rule.LAST_NUMBER))(text)`.

    Attributes:
        rules: tried in this order; at least one, none twice. Their names ("boxed") serve as well.
    """

    rules: tuple[Rule, ...] = DEFAULT_RULES

    def __post_init__(self) -> None:
        names = ", ".join(Rule)
        try:
            rules = tuple(Rule(rule) for rule in self.rules)
        except ValueError as error:
            raise ValueError(f"{error}: the rules are {names}") from None
        if not rules or len(set(rules)) < len(rules):
            raise ValueError(f"rules is {self.rules}; give one or more of {names}, none twice")
        object.__setattr__(self, "rules", rules)

    def __call__(self, text: str) -> str | None:
        """The answer in the text, or None."""
        return extract(text, self.rules)


def extract(text: str, rules: Sequence[Rule] = DEFAULT_RULES) -> str | None:
    """The last answer that the first successful rule finds outside the thinking; None where there is none."""
    said = without_thinking(text)
    if said is None:
        return None
    for rule in rules:
        for candidate in _FINDERS[rule](said):
            if answer := _clean(candidate):
                return answer
    return None


def without_thinking(text: str) -> str | None:
    """The text outside <think>...</think> (or <thinking>); None when a thought was never closed.

    A closing tag without an opening one ends a thought that the prompt began: all before it is removed.
    """
    kept: list[str] = []
    at, thinking = 0, False
    for tag in _THINK.finditer(text):
        if tag[1]:  # closing
            if not thinking:
                kept.clear()
            thinking, at = False, tag.end()
        elif not thinking:
            kept.append(text[at : tag.start()])
            thinking = True
    return None if thinking else "".join([*kept, text[at:]])


def numeric_key(text: str) -> str | None:
    r"""One spelling for all spellings of a number: "a" or "a/b" in lowest terms, sign in front. Exact, never a float.

    Understood: thousands separators (1,234 and 1{,}234), decimals, a/b, \frac{a}{b}, mixed numbers (1 1/2), exponents
    (1e5, 1.5 \times 10^{3}), full-width digits, the typographic minus, dollar signs around or currency before the
    number, "x =" before it. Dropped after it: a percent sign (10% and 10 are one key, 10% and 0.1 are not), degrees, and units:
    up to four words of two or more letters after a space, such as "18 dollars per day", or in \text{}.

    Returns:
        None where the text is no number, is more than one, is multiplied by a word or symbol (2 pi, 5 million, 4t), or
        is out of range: more than 1,000 characters or 100 digits, an exponent beyond 400, a division by zero. Nothing
        is evaluated: 2^3 has no key.
    """
    if len(text) > 1_000:
        return None
    if _WHOLE.fullmatch(text):  # most answers; the rest of this function would take twenty times as long to say the same
        return str(int(text))
    match = _NUMBER.fullmatch(_plain_number(text))
    if match is None or (match["sign"] and match["inner_sign"]):
        return None
    power = int(match["e"] or match["ten"] or 0)
    if sum(character.isdigit() for character in match["number"]) > 100 or abs(power) > 400:
        return None
    if any(word in COUNT_WORDS for word in (match["units"] or "").lower().split()):
        return None
    whole, under, top, bottom = (
        Fraction((match[part] or default).replace(",", ""))
        for part, default in (("whole", "0"), ("under", "1"), ("top", "0"), ("bottom", "1"))
    )
    if not under or not bottom:
        return None
    value = (whole / under + top / bottom) * Fraction(10) ** power
    return str(-value if "-" in (match["sign"], match["inner_sign"]) else value)


_WHOLE = re.compile(r"-?[0-9]{1,100}")
_THINK = re.compile(r"<(/)?think(?:ing)?>", re.IGNORECASE)


def _boxed(text: str) -> Iterator[str]:
    """Contents of boxes that hold no box, the last first. Such boxes are disjoint, which keeps all of this linear."""
    if "box" not in text:  # most texts; scanning for braces is half of what an extraction takes
        return iter(())
    found: list[tuple[int, int]] = []
    open_braces: list[int] = []  # where the content of a box begins, or -1 for any other brace
    for token in _BRACE.finditer(text):
        kind = token.lastgroup  # None for an escaped brace
        if kind == "word":
            found.append(token.span("word"))
        elif kind == "box":
            open_braces.append(token.end())
        elif kind == "open":
            open_braces.append(-1)
        elif kind == "close" and open_braces:
            start = open_braces.pop()
            if start >= 0 and (not found or found[-1][0] < start):
                found.append((start, token.start()))
    return (text[start:end] for start, end in reversed(found))


_BRACE = re.compile(r"\\[{}\\]|(?P<box>\\(?:boxed|fbox)\s*\{)|\\boxed\s+(?P<word>[^\s{}$\\]+)|(?P<open>\{)|(?P<close>\})")


def _gsm8k(text: str) -> Iterator[str]:
    return (line.rpartition("####")[2] for line in reversed(text.splitlines()) if "####" in line)


def _tagged(text: str) -> Iterator[str]:
    found: list[str] = []
    start = -1
    for tag in _TAG.finditer(text):
        if tag[1] and start >= 0:
            found.append(text[start : tag.start()])
        start = -1 if tag[1] else tag.end()
    return reversed(found)


_TAG = re.compile(r"<(/)?answer>", re.IGNORECASE)


def _phrased(text: str) -> Iterator[str]:
    """What follows each marker up to the end of its sentence, line or the next marker; the last first."""
    markers = list(_MARKER.finditer(text))
    end = len(text)
    for marker in reversed(markers):
        rest = text[marker.end() : end].lstrip(" \t\r\n*_:,\uff1a")
        end = marker.start()
        yield _SENTENCE_END.split(rest, maxsplit=1)[0]


_MARKER = re.compile(
    r"\b(?:final\s+)?answer(?:\s*[*_]{1,3})?\s*(?:is\b|[:=\uff1a])|\bfinal\s+answer\b|\u7b54\u6848\s*[\u662f\u4e3a:\uff1a]",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?](?=[\s*]|$)|[\n\u3002]")


def _numbers(text: str) -> Iterator[str]:
    plain = text.translate(_NARROW)
    last = None
    for match in _ANY_NUMBER.finditer(plain):
        last = match
    return iter(() if last is None else (last[0],))


_ANY_NUMBER = re.compile(
    r"(?:(?<![\w)\]}.])[-+])?"
    r"(?:[0-9]*\\[dt]?frac\{-?[0-9]{1,100}\}\{-?[0-9]{1,100}\}"
    r"|(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?:/[0-9]+)?%?"
    r"|\.[0-9]+)"
)

_FINDERS: dict[Rule, Callable[[str], Iterator[str]]] = {
    Rule.BOXED: _boxed,
    Rule.GSM8K: _gsm8k,
    Rule.TAG: _tagged,
    Rule.PHRASE: _phrased,
    Rule.LAST_NUMBER: _numbers,
}

# Full-width digits, letters and signs, and the dashes that stand for a minus, in ASCII.
_NARROW = {0xFF01 + i: 0x21 + i for i in range(94)} | dict.fromkeys((0x2212, 0x2010, 0x2011, 0x2012, 0x2013), "-")
_WRAPS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("__", "__"))


def _clean(candidate: str) -> str:
    """Without what only decorates an answer: space, mathematics and emphasis signs around it, a full stop after it."""
    answer = candidate.strip()
    for _ in range(8):  # decorations nest only so deep; hostile ones stay
        before = answer
        answer = answer.strip("*`").removesuffix(".").strip()
        for left, right in _WRAPS:
            if len(answer) >= len(left) + len(right) and answer.startswith(left) and answer.endswith(right):
                answer = answer[len(left) : -len(right)].strip()
                break
        if answer.startswith(("\\boxed", "\\fbox")) and answer.endswith("}"):
            answer = next(_boxed(answer), answer).strip()
        if answer == before:
            break
    return "" if not answer.strip("*_$`.:") else answer


def _plain_number(text: str) -> str:
    """The text without LaTeX spacing and decoration, in ASCII, its units as plain words."""
    plain = _clean(text.translate(_NARROW))
    plain = _TEXT.sub(_unit, plain)
    for noise, instead in _NOISE:
        plain = plain.replace(noise, instead)
    plain = _FRAC.sub(r" \1/\2", plain)
    return " ".join(plain.split())


def _unit(text: re.Match[str]) -> str:
    r"""What \text{} holds: a unit, in which single letters are allowed too, unless it counts or multiplies."""
    words = text[1].lower().split()
    counts = any(character.isdigit() for character in text[1]) or not COUNT_WORDS.isdisjoint(words)
    return f" {text[1]} " if counts or not words else " unit "


_TEXT = re.compile(r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox)\{([^{}]*)\}")
_FRAC = re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}")
_NOISE = (
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("{,}", ","),
    ("\\!", ""),
    ("\\,", ""),
    ("\\;", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\\$", "$"),
    ("\\%", "%"),
    ("^{\\circ}", " degrees"),
    ("^\\circ", " degrees"),
    ("\u00b0", " degrees "),
    ("\\times", "*"),
    ("\\cdot", "*"),
    ("\u00d7", "*"),
)
_DECIMAL = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
_WORD = r"[A-Za-z]{2,}\.?(?:\s?\^\{?[23]\}?)?(?:/[A-Za-z]+(?:\^\{?[23]\}?)?)?"
_NUMBER = re.compile(
    rf"""
    (?: [A-Za-z] \s?=\s? )?
    (?P<sign> [-+] )? \s?
    [$\u20ac\u00a3\u00a5\u20b9]? \s?
    (?P<inner_sign> [-+] )? \s?
    (?P<number>
        (?P<whole> {_DECIMAL} )
        (?: \s?/\s? (?P<under> {_DECIMAL} )
          | \s (?P<top> [0-9]+ ) / (?P<bottom> [0-9]+ )
          | [eE] (?P<e> [-+]?[0-9]{{1,4}} )
          | \s?[*x]\s?10\s?\^\s?\{{? (?P<ten> [-+]?[0-9]{{1,4}} ) \}}?
        )?
    )
    (?: \s?[%$\u20ac\u00a3\u00a5\u20b9] | (?:cm|mm|km|kg|mg|ml|mi|ft|lbs?|min|hrs?|mph|kph|USD|EUR)
      | (?P<units> (?: \s{_WORD} ){{1,4}} )
    )?
    """,
    re.VERBOSE,
)
_COUNTS = (
    "and or to plus minus times over divided squared cubed pi tau hundred hundreds thousand thousands million millions "
    "billion billions trillion trillions lakh lakhs crore crores dozen dozens pair pairs score scores half halves third thirds quarter "
    "quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth eighths ninth ninths tenth tenths twelfth twelfths "
    "factorial root roots base mod modulo percentile is are was were be not no wrong incorrect false sorry more less fewer than but "
    "if except without choose of"
)
COUNT_WORDS = frozenset(_COUNTS.split())  # that count, join or deny: what holds one is no number with a unit
