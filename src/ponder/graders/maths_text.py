r"""One spelling for what models write: from Unicode, LaTeX and plain text to a small dialect of LaTeX in ASCII.

`normalise` only rewrites characters and drops decoration; it understands nothing. Linear in the text, pure, nothing is evaluated.
`Unit` is the small table behind "5 cm": units are dropped against a bare number, compared where both answers have one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction


def normalise(text: str) -> str:
    r"""The answer in the dialect that `maths_grammar` reads.

    Digits of every script become ASCII, zero-width and other format characters vanish, and so do the wrappings of an answer: tags, boxes,
    mathematics and emphasis signs, "the answer is", a full stop at the end. Typographic signs become LaTeX commands, raised and
    lowered characters ^{} and _{}; \left, \right, spacing, \displaystyle and \limits go; \dfrac, \tfrac, \cfrac are \frac;
    \text{}, \mathrm{} and their kin are \text{}. Separators of thousands that only LaTeX or typography can write (1{,}234,
    1\,234) are joined; the plain comma is left to the grammar, which knows the brackets around it.
    """
    return unwrapped(_latex(unwrapped(_ascii(text)))).replace("$", "\\dollar ").strip()


def unwrapped(text: str) -> str:
    """Without what is around an answer and no part of it."""
    for _ in range(6):  # decorations nest only so deep; hostile ones stay, and are no answer
        before = text = text.strip().strip("*`").strip()
        text = _LEAD.sub("", _TAG.sub("", text))
        text = text.removesuffix(".") if not text.endswith("..") else text
        text = text.rstrip(",;").removesuffix("\\\\").strip()
        for left, right in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
            inside = text[len(left) : -len(right)]
            if len(text) > len(left + right) and text.startswith(left) and text.endswith(right) and left not in inside:
                text = inside
                break
        for box in ("\\boxed{", "\\fbox{"):
            if text.startswith(box) and text.endswith("}") and balanced(text[len(box) : -1]):
                text = text[len(box) : -1]
        if text == before:
            break
    return text


def balanced(text: str) -> bool:
    """Whether braces pair up within the text."""
    depth = 0
    for brace in _BRACES.findall(text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure. kind: what it measures; units of one kind convert by `factor`, exactly."""

    kind: str
    factor: Fraction = Fraction(1)


def unit(words: str) -> Unit | None:
    """The unit that lower-case words name ("cm", "square inches", "km / h"); None for words that measure nothing ("apples")."""
    words = " ".join(words.replace("per ", "/ ").replace("/", " / ").split())
    power = 1
    if found := _POWER.search(words):
        words, power = words[: found.start()], int(found[1])
    for prefix, raised in (("square ", 2), ("sq ", 2), ("cubic ", 3), ("cu ", 3)):
        if words.startswith(prefix):
            words, power = words[len(prefix) :], raised
    over, _, under = words.partition(" / ")
    top, bottom = (_UNITS.get(part) or _UNITS.get(part.removesuffix("s")) for part in (over.strip(), under.strip()))
    if top is None or (bottom is None and under and under.strip() not in ("each",)):
        return top if top is not None and not under else None
    if bottom is None:
        return Unit(f"{top.kind}^{power}" if power > 1 else top.kind, top.factor**power)
    return Unit(f"{top.kind}/{bottom.kind}^{power}", top.factor / bottom.factor**power)


def _table() -> Iterator[tuple[str, Unit]]:
    for kind, rows in _MEASURES.items():
        for row in rows.split(";"):
            factor, *names = row.split()
            for name in names:
                yield name, Unit(kind, Fraction(factor))


# Factors within a kind: the international yard and pound (exact since 1959), the US gallon of 231 cubic inches, the international acre.
_MEASURES = {
    "length": "1 m meter metre; 1/1000 mm millimeter millimetre; 1/100 cm centimeter centimetre; 1/10 dm decimeter decimetre;"
    "1000 km kilometer kilometre; 127/5000 in inch inche; 381/1250 ft foot feet; 1143/1250 yd yard; 201168/125 mi mile",
    "mass": "1 g gram; 1/1000 mg milligram; 1000 kg kilogram; 1000000 ton tonne; 45359237/100000 lb pound; 45359237/1600000 oz ounce",
    "time": "1 s sec second; 60 min minute; 3600 h hr hour; 86400 day; 604800 week",
    "months": "1 month; 12 year yr; 120 decade; 1200 century centurie",
    "volume": "1 l liter litre; 1/1000 ml milliliter millilitre; 473176473/125000000 gal gallon; 473176473/500000000 qt quart;"
    "473176473/1000000000 pt pint; 473176473/2000000000 cup;473176473/32000000000 tablespoon tbsp; 473176473/96000000000 teaspoon tsp",
    "length^2": "10000 hectare; 316160658/78125 acre",
    "dollar": "1 dollar usd; 1/100 cent penny pennie",
    "euro": "1 euro eur",
    "sterling": "1 sterling gbp quid",
    "yen": "1 yen jpy",
    "rupee": "1 rupee inr",
    "angle": "1 degree deg",
    "radian": "1 radian rad",
    "celsius": "1 celsius",
    "fahrenheit": "1 fahrenheit",
    "force": "1 newton; 1000 kilonewton",
    "energy": "1 j joule; 1000 kj kilojoule",
    "power": "1 w watt; 1000 kw kilowatt",
    "voltage": "1 v volt",
    "current": "1 ampere amp",
    "resistance": "1 ohm",
    "frequency": "1 hz hertz",
    "pressure": "1 pascal",
    "amount": "1 mole mol",
    "temperature": "1 kelvin",
    "length/time^1": "1397/3125 mph; 5/18 kph kmh",
}
_UNITS = dict(_table())
_POWER = re.compile(r"\s*\^\s*\{?([23])\}?$")

_TAG = re.compile(r"^<answer>|</answer>$", re.IGNORECASE)
_LEAD = re.compile(r"^(?:so |thus |hence |therefore,? )?(?:the )?(?:final |correct )?answer(?: is\b|\s*[:=])\s*:?", re.IGNORECASE)
_BRACES = re.compile(r"(?<!\\)[{}]")

_SUPERSCRIPTS = dict(
    zip("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207a\u207b\u207f\u2071", "0123456789+-ni", strict=True)
)
_SUBSCRIPTS = dict(zip("\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089\u2099", "0123456789n", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho varsigma sigma tau upsilon phi chi psi omega"
_SIGNS = {
    **{chr(0x3B1 + at): f"\\{name} " for at, name in enumerate(_GREEK.split())},
    **dict.fromkeys("\u2212\u2010\u2011\u2012\u2013\u2014\ufe63\uff0d", "-"),
    **dict.fromkeys("\u00d7\u2715\u22c5\u00b7\u2219\u2217", "*"),
    **dict.fromkeys("\u2044\u2215\u00f7", "/"),
    **dict.fromkeys("\u2009\u202f\u00a0\u2007", "\\,"),
    **dict.fromkeys("\u2018\u2019\u201c\u201d", ""),
    "\u221a": "\\sqrt ", "\u221b": "\\sqrt[3]", "\u221e": "\\infty ", "\u2264": "\\le ", "\u2265": "\\ge ", "\u2260": "\\ne ",
    "\u2a7d": "\\le ", "\u2a7e": "\\ge ", "\u222a": "\\cup ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u00b1": "\\pm ",
    "\u2213": "\\mp ", "\u00b0": "^{\\circ}", "\u00ba": "^{\\circ}", "\u2220": "\\angle ", "\u2248": "\\approx ", "\u211d": "\\mathbb{R}",
    "\u0394": "\\Delta ", "\u03a3": "\\Sigma ", "\u03a9": "\\Omega ", "\u03d5": "\\phi ", "\u03d1": "\\theta ", "\u2026": "...",
    "\u20ac": "\\euro ", "\u00a3": "\\pounds ", "\u00a5": "\\yen ", "\u20b9": "\\rupees ", "\u2032": "'", "\u066b": ".", "\u066c": ",",
}  # fmt: skip


def _ascii(text: str) -> str:
    """Characters of the dialect; what has no place in it stays as it is, and will be no mathematics."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: "^{" + "".join(map(_SUPERSCRIPTS.__getitem__, run[0])) + "}", text)
    text = _LOWERED.sub(lambda run: "_{" + "".join(map(_SUBSCRIPTS.__getitem__, run[0])) + "}", text)
    return "".join(map(_character, text))


def _character(character: str) -> str:
    if character.isascii():
        return character
    if character in _SIGNS:
        return _SIGNS[character]
    if unicodedata.category(character) == "Cf":  # zero-width spaces and joiners, byte-order marks, direction marks
        return ""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    plain = unicodedata.normalize("NFKC", character)
    if "\u2044" in plain:  # one half and its kin
        top, _, bottom = plain.partition("\u2044")
        return f"\\frac{{{top}}}{{{bottom}}}"
    return plain if len(plain) <= 3 else character  # some ligatures unfold into eighteen characters


_Replacement = str | Callable[[re.Match[str]], str]
_REWRITES: tuple[tuple[re.Pattern[str], _Replacement], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<=\d)(?:\{,\}|,?\\[!,;]|\\ |,\{\})(?=\d{3}(?!\d))", ""),
        (
            r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|quad|qquad|hspace\{[^{}]*\}|phantom\{[^{}]*\})(?![A-Za-z])\.?",
            " ",
        ),
        (r"(?<!\\)\\(?:[!,;: ]|$)|~", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        # A vector's letter is no word.
        (r"\\(?:mathbf|mathit|boldsymbol|bm)\s*\{\s*([A-Za-z])\s*\}", r" \1 "),
        (
            r"\\(?:text(?:rm|bf|it|sf|tt|normal)|math(?:rm|bf|it|sf|tt|normal)|mbox|operatorname\*?|boldsymbol|bm)\s*\{",
            r"\\text{",
        ),
        (r"\^\s*(?:\{\s*\\(?:circ|degree)\s*\}|\\(?:circ|degree)(?![A-Za-z]))", r"\\degree "),
        (r"\\(?:leq|leqslant|le)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant|ge)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\(?:neq|ne)(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:times|cdot|ast)(?![A-Za-z])|(?<!\*)\*(?!\*)", "*"),
        (r"\*\*", "^"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])", "|"),
        (r"\\(?:lbrace)(?![A-Za-z])", r"\\{"),
        (r"\\(?:rbrace)(?![A-Za-z])", r"\\}"),
        (r"\\%", "%"),
        (r"\\\$", r"\\dollar "),
        (r"(?<=\d) ?m/s(?![A-Za-z])", r"\\text{ m/s}"),
        (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:approx|simeq)(?![A-Za-z])", "="),
        (r"\\varphi(?![A-Za-z])", r"\\phi "),
        (r"\\(?:l|c)?dots(?![A-Za-z])", "..."),
        (r"\\(?:cr|tabularnewline)(?![A-Za-z])", r"\\\\"),
    )
)


def _latex(text: str) -> str:
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())
