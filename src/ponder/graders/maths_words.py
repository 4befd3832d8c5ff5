"""Words beside numbers: which of them multiply, which only name what is counted, and which change what is said.

After a number a word is dropped only if it is known to say nothing of the value: a unit of measure, a listed noun or companion, or a word
of the reference's own. Any other word ("5 negative", "10 binary", "3 eighths") makes the answer one of words, and no number. The list
errs on the side of refusing: a wrong answer that is accepted costs more than a rare noun that is not.
"""

from __future__ import annotations

import re

from ponder.graders.extract import COUNT_WORDS
from ponder.graders.maths_text import Unit, normalise, unit
from ponder.graders.maths_tokens import FUNCTIONS, Refused, Token, Tokens, opens, tokens


def without_unit(found: Tokens) -> tuple[Tokens, Unit | None]:
    """The tokens without the unit at their end and the currency at either end, and what they measure."""
    currency = [at for at, token in enumerate(found) if token.text in _CURRENCY]
    if len(currency) == 1 and (currency[0] in (0, len(found) - 1) or (currency[0] == 1 and found[0].text in "+-")):
        rest = [*found[: currency[0]], *found[currency[0] + 1 :]]
        inner, other = without_unit(rest)
        return inner, other if other is not None and other.kind != "dollar" else unit(_CURRENCY[found[currency[0]].text])
    start = len(found)
    while start > 1 and _in_unit(found, start - 1):
        start -= 1
    tail = found[start:]
    words = " ".join(token.text.lower() for token in tail if token.text not in ("{", "}"))
    if not any(token.kind == "word" or token.text == "\\degree" for token in tail) or not _measurable(found[:start]):
        return found, None
    if words == "\\degree" and any(token.text.lstrip("\\") in FUNCTIONS for token in found):
        return found, None  # of an angle, not of the whole
    if words in ("\\degree c", "\\degree f", "degrees celsius", "degrees fahrenheit"):
        words = "celsius" if "c" in words.split()[-1] else "fahrenheit"
    words = words.replace("\\degree", "degree").replace("^ ", "^").replace(".", "")
    if not all(is_known(word) for word in re.findall(r"[^\W\d]\S*", words.replace("/", " ").replace("^", " "))):
        raise Refused("unparsable")
    measured = unit(words)
    if measured is None and any(len(word) == 1 and word.isalpha() and word != "a" for word in words.split()):
        raise Refused("unparsable")  # \text{x} after a number is a variable, and no unit
    return found[:start], measured


def _in_unit(found: Tokens, at: int) -> bool:
    """Whether a token at the end may be part of a unit: words, a degree sign, a slash between words, an exponent of a word."""
    token = found[at]
    if token.kind == "word":
        return token.text.lower() not in MULTIPLIERS
    if token.text == "\\degree":
        return True
    if token.kind == "letter":
        return found[at - 1].text == "\\degree" and token.text in "CF"
    if token.text == "/":
        return at + 1 < len(found) and found[at + 1].kind == "word" and found[at - 1].kind == "word"
    rest = "".join(one.text for one in found[at:])
    before = found[at - 1]
    if token.text == "^":
        return before.kind == "word" and bool(re.match(r"\^\{?[23]\}?", rest))
    return (
        bool(re.match(r"[23]\}?|\{[23]\}|\}", rest))
        and any(one.kind == "word" for one in found[max(0, at - 3) : at])
        and (before.text in ("^", "{", "2", "3"))
    )


def _measurable(found: Tokens) -> bool:
    return any(token.kind in ("num", "letter", "cmd") for token in found) and sum(map(opens, found)) == 0


def is_known(word: str) -> bool:
    """Whether a lower-case word after a number says nothing of its value."""
    if word in NOT_UNITS:
        return False
    forms = [word, word.removesuffix("s"), word.removesuffix("es")]
    if word.endswith("ies"):
        forms.append(word[:-3] + "y")
    return unit(word) is not None or any(form in KNOWN for form in forms)


def own_words(reference: str) -> frozenset[str]:
    """The words of a reference that no list knows, in lower case: what it counts, which an answer may name, too. Never words that count or deny."""
    try:
        words = {token.text.lower() for token in tokens(normalise(reference)) if token.kind == "word"}
    except Refused:
        return frozenset()
    return frozenset(word for word in words - NOT_UNITS if len(word) > 1 and not is_known(word) and word not in MULTIPLIERS)


def familiar(token: Token, own: frozenset[str]) -> Token:
    """The token, or a known noun in the place of a word of the reference's own."""
    return Token("word", "units", token.spaced) if token.kind == "word" and token.text.lower() in own else token


_CURRENCY = {"\\dollar": "dollar", "\\euro": "euro", "\\pounds": "sterling", "\\yen": "yen", "\\rupees": "rupee", "USD": "dollar"}
MULTIPLIERS = {
    name + plural: value
    for name, value in (
        ("hundred", 10**2), ("thousand", 10**3), ("million", 10**6), ("billion", 10**9), ("trillion", 10**12), ("dozen", 12),
        ("lakh", 10**5), ("crore", 10**7),
    )
    for plural in ("", "s")
}  # fmt: skip

_DENYING = (
    "never false undefined unknown maybe about around roughly approximately approx greater am pm a.m. p.m. none cannot impossible "
    "negative negated opposite inverse reciprocal double doubled triple tripled twice thrice halved instead isn't"
)
# Words that count, join or deny: what holds one of them is no number with a unit, whatever the reference says, and names nothing.
NOT_UNITS = (COUNT_WORDS | frozenset(_DENYING.split())) - {"of"}
NEVER_NAMES = frozenset(["not", "no", "never", "isn't", "wrong", "incorrect", "false", "impossible", "cannot"]) | (
    frozenset(
        [
            "negative",
            "negated",
            "minus",
            "opposite",
            "inverse",
            "reciprocal",
            "twice",
            "double",
            "doubled",
            "thrice",
            "triple",
            "tripled",
            "half",
            "halved",
        ]
    )
)

_COMPANIONS = (
    "of a an the per each every in total altogether left remaining square sq cubic cu long tall wide high deep old different distinct "
    "possible red blue green yellow black white brown orange purple pink gray grey small large big new whole full"
)
_PEOPLE = (
    "people person man men woman women boy girl child children kid adult baby student pupil teacher worker employee player member friend "
    "guest customer passenger visitor voter runner team family parent brother sister participant candidate user soldier "
    "driver doctor nurse citizen resident"
)
_ANIMALS = (
    "animal dog puppy cat kitten bird fish cow horse sheep goat pig chicken hen duck rabbit mouse mice frog turtle bee ant butterfly spider "
    "elephant lion tiger monkey bear insect leg paw"
)
_THINGS = (
    "apple orange banana pear peach grape cherry berry strawberry lemon melon mango fruit vegetable carrot potato tomato onion egg cookie cake pie "
    "pizza slice piece sandwich muffin cupcake donut bread loaf loaves candy chocolate lollipop sweet nut meal burger drink bottle can jar "
    "glass plate bowl spoon fork knife knives bag box basket package packet pack carton crate bucket barrel tank container book page word letter chapter "
    "magazine newspaper card stamp sticker ticket coin bill note marble ball bead block tile brick stone rock pebble toy doll balloon flower "
    "rose tulip tree plant leaf leaves seed bush branch pencil pen crayon marker eraser paper sheet notebook desk chair table bed room "
    "door window house home building apartment floor story storey stair step street road mile car truck bus train plane boat ship bike bicycle "
    "wheel seat shirt dress shoe sock hat coat jacket glove ring button ribbon rope string stick nail screw bolt pipe wire lamp light bulb "
    "computer phone machine robot battery photo picture painting song movie video game puzzle class school store shop farm garden field park city town state "
    "country planet star flag bar chip gift present prize medal trophy vote call message email error"
)
_MATHEMATICS = (
    "unit way point solution side edge vertex vertices face corner diagonal angle triangle quadrilateral pentagon hexagon polygon circle "
    "rectangle square cube sphere line segment intersection number integer digit prime factor divisor multiple term element "
    "subset set function polynomial value case outcome combination permutation arrangement sequence path route choice possibility pattern "
    "row column group committee handshake match round turn move jump toss flip roll lap trip visit win goal "
    "question problem answer test exam quiz lesson mark grade chance symmetry axis axes region"
)
_MEASURES = (
    "buck coin knot byte bit kb mb gb pixel beat revolution rotation cycle rpm calorie kcal serving night "
    "morning evening afternoon season weekday weekend candela lumen decibel db ph bushel"
)
KNOWN = frozenset(" ".join((_COMPANIONS, _PEOPLE, _ANIMALS, _THINGS, _MATHEMATICS, _MEASURES)).split())
