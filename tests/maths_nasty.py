"""Nasty answers, from a seed: what models write by accident or to be graded wrong, to hang a grader, or to run code in it.

All are wrong: what is left of one without its nastiness is 8, which is none of the references.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

CANARY = "/tmp/ponder-maths-canary"  # no answer may make this file

INJECTIONS = (
    "__import__('os').system('touch {canary}')",
    r"\text{{__import__('os').system('touch {canary}')}}",
    r"\boxed{{__import__('pathlib').Path('{canary}').touch()}}",
    "eval(\"open('{canary}','w')\")",
    "exec('import os; os.mknod(\"{canary}\")')",
    "(lambda: open('{canary}', 'w'))()",
    "[open(x, 'w') for x in ['{canary}']]",
    "().__class__.__base__.__subclasses__()[-1]('{canary}')",
    r"\input{{{canary}}}",
    r"\immediate\write18{{touch {canary}}}",
    "`touch {canary}`",
    "$(touch {canary})",
    "1; import os; os.mknod('{canary}')",
    "x = open('{canary}', 'w')",
    "Symbol('x', real=open('{canary}', 'w'))",
    r"\sqrt{{__import__('os').mknod('{canary}')}}",
    r"\frac{{open('{canary}','w')}}{{1}}",
    'f\'{{open("{canary}", "w")}}\'',
    "sympify(\"__import__('os').mknod('{canary}')\")",
    "S(\"__import__('os').mknod('{canary}')\")",
    "Function('f')(open('{canary}', 'w'))",
    "{{{{config.__class__.__init__.__globals__['os'].mknod('{canary}')}}}}",
)


def towers(draw: random.Random) -> str:
    base = draw.choice(["9", "2", "10", "x", "(x+1)", r"\pi", "e", "0.5", "-3"])
    height = draw.randint(2, 40)
    kind = draw.randrange(4)
    if kind == 0:
        return f"{base}^{{" * height + str(draw.randint(2, 10**6)) + "}" * height
    if kind == 1:
        return "^".join([base] * (height + 1))
    if kind == 2:
        return "**".join([base] * (height + 1))
    return f"{base}^{{10^{{{draw.randint(4, 99)}}}}}"


def factorials(draw: random.Random) -> str:
    n = draw.choice([9, 99, 1_000, 1_001, 10**6, 10**9, 10**18])
    return draw.choice(
        [
            f"{n}!",
            f"(({n}!)!)!",
            f"{n}!!",
            f"\\frac{{{n}!}}{{{n - 1}!}}",
            f"({n}!)^{{{n}!}}",
            f"{n}" + "!" * 50,
            f"\\sqrt{{{n}!}}",
        ]
    )


def binomials(draw: random.Random) -> str:
    n = draw.choice([1_000, 10**5, 10**9, 10**12])
    return draw.choice(
        [rf"\binom{{{n}}}{{{n // 2}}}", rf"\binom{{\binom{{{n}}}{{3}}}}{{7}}", rf"\dbinom{{{n}}}{{5}}", f"C({n},{n // 2})"]
    )


def nests(draw: random.Random) -> str:
    depth = draw.choice([40, 61, 200, 900, 20_000])
    left, right = draw.choice([("(", ")"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), (r"\{", r"\}"), ("[", "]"), ("|", "|"), (r"\sin(", ")"),
                               (r"\left(", r"\right)"), (r"\text{", "}"), (r"\boxed{", "}"), ("-", ""), (r"\sin", ""), ("2^-", ""),
                               (r"\frac", ""), ("<answer>", "</answer>"), (r"\frac{1+", "}{2}"), ("1+(x", ")")])  # fmt: skip
    return left * depth + "2" + right * depth * draw.choice([1, 1, 0])


def lengths(draw: random.Random) -> str:
    n = draw.choice([399, 401, 1_999, 20_000, 200_000])
    digit = str(draw.randint(1, 9))
    return draw.choice([digit * n, "0." + digit * n, f"{digit * n}/{digit * (n - 1)}", ",".join([digit] * n), "+".join(["x"] * n), "(" * n,
                        "1," + "000," * n, "\u200b" * n + "8", " " * n + "8", "x" * n, r"\," * n + "1", "1e" + digit * n, "$" * n,
                        "\u0661" * n, "\ufdfa" * n, "=".join(["7"] * n), "{" * n, r"\frac" * n, "-" * n + "1", "7" + "\\" * n])  # fmt: skip


def unicode(draw: random.Random) -> str:
    if draw.random() < 0.5:
        return "".join(
            chr(draw.choice([draw.randint(0x20, 0xD7FF), draw.randint(0xE000, 0x10FFFF)])) for _ in range(draw.randint(1, 60))
        )
    piece = draw.choice(
        [
            "\u202e12",
            "1\u20de2",
            "\ud800",
            "\x00",
            "\u00bd\u00bd",
            "\u221a" * 30,
            "x\u00b2" * 40,
            "\U0001d7d9\U0001d7da",
            "\u0301" * 99,
            "\u3000",
        ]
    )
    return piece + draw.choice(["", "8", "=8", "^8"])


def injections(draw: random.Random) -> str:
    text = draw.choice(INJECTIONS).format(canary=CANARY)
    return draw.choice([text, f"${text}$", f"\\boxed{{{text}}}", f"7 = {text}", f"({text}, 7)", f"x^{{{text}}}"])


def algebra(draw: random.Random) -> str:
    """Within the bounds, and hard to simplify: what reaches the worker."""
    n = draw.randint(3, 90)
    return draw.choice([
        "(" + "+".join(f"x_{i}" for i in range(draw.randint(5, 40))) + f")^{{{n}}}",
        "+".join(rf"\sqrt{{{draw.randint(2, 999)}}}" for _ in range(draw.randint(3, 60))),
        r"\sqrt{2+" * min(n, 25) + r"\sqrt{3}" + "}" * min(n, 25),
        "".join(rf"\frac{{1}}{{x_{{{i}}}+" for i in range(min(n, 25))) + "1" + "}" * min(n, 25),
        r"\sin(" * min(n, 25) + "x" + ")" * min(n, 25),
        rf"e^{{e^{{{draw.randint(1, 4)}}}}} + \ln({n}+\sqrt{{{n}}})",
        rf"\log_{{{n}}}({n}^{{{n}}}+1)",
        rf"\sin({n}^{{{n * 10}}})",
        rf"({n}+\sqrt{{2}})^{{{n * 9}}}",
        rf"\tan(\frac{{\pi}}{{{n}}})^{{{n}}}",
        rf"\lfloor \pi \cdot 10^{{{n * 20}}} \rfloor",
        rf"x^{{{n}}} = y^{{{n}}} + \sqrt{{x+y}}",
        rf"|x|^{{{n}}} < \sqrt{{x}}",
        rf"\binom{{n}}{{{n}}} + n!",
    ])  # fmt: skip


def growths(draw: random.Random) -> str:
    """Short answers whose normal forms grow: level upon level of sums that are multiplied out, and numbers too large to write."""
    sum_ = draw.choice(["x+y", "a+b+c+d+f+g+h+k+m+n", r"1+\sqrt{2}", "x+1"])
    depth, n = draw.randint(2, 28), draw.randint(2, 120)
    return draw.choice([
        rf"({sum_})\sin(" * depth + "x" + ")" * depth,
        f"({sum_})^{{" * depth + "x" + "}" * depth,
        rf"({sum_})\sqrt{{" * depth + "x" + "}" * depth,
        f"({sum_})" * n,
        f"({sum_}+z)^4" * n,
        "*".join(["1e400"] * n),
        "+".join(rf"\frac1{{10^{{2990}}+{2 * at + 1}}}" for at in range(n)),
        r"\sqrt{2^{9900}}" * n,
        "+".join(f"2^{{9900}}x_{{{at}}}" for at in range(n)),
        ",".join([f"({sum_})^4"] * min(n, 60)),
        f"x<{'*'.join(['1e390'] * 7)}y+1e-390z",
    ])  # fmt: skip


def reals(draw: random.Random) -> str:
    """Broken LaTeX as models write it."""
    text = (
        r"x = \frac{-b \pm \sqrt{b^2-4ac}}{2a}, \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} \cup (1, \infty) \text{ cm}^2 = 8\%"
    )
    start = draw.randrange(len(text))
    cut = text[start : start + draw.randint(1, len(text))]
    return "".join(draw.sample(cut, len(cut))) if draw.random() < 0.3 else cut


KINDS: tuple[Callable[[random.Random], str], ...] = (
    towers,
    factorials,
    binomials,
    nests,
    lengths,
    unicode,
    injections,
    algebra,
    growths,
    reals,
)
GOLDS = ("7", r"\frac{1}{2}", r"\sqrt{2}", "x^2+1", r"\{1, 2\}", "(1,2)", r"[0,\infty)", "x=5", "y=2x+1", "e^{x}", r"\sin x", r"5\text{ cm}", r"\text{even}",
         r"\begin{pmatrix}1\\2\end{pmatrix}", r"\sum_{k=1}^{n} k", "12\\%")  # fmt: skip


def nasty(count: int, seed: int) -> Iterator[tuple[str, str, str]]:
    """(kind, reference, answer), all kinds in turn."""
    draw = random.Random(seed)
    for at in range(count):
        kind = KINDS[at % len(KINDS)]
        yield kind.__name__, draw.choice(GOLDS), kind(draw)
