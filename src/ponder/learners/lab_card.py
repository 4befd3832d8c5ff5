"""Measure the shipped lab models on test problems with the NumPy engine, and write what was seen into their cards.

For every family and difficulty: pass@k and maj@k from 64 samples a problem at temperature 1, by the unbiased estimators of
`ponder.scaling`, and the greedy answer beside them. Majority above greedy says that errors are accidents of a sample; greedy
far below majority would say the opposite.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypedDict

import numpy as np

import ponder.lab as lab
from ponder.lab.model import SIZES
from ponder.lab.problems import CHAIN_SIZES, COUNTDOWN_SIZES, Family, LabProblem, countdown_expression
from ponder.lab.problems import problems as draw_problems
from ponder.lab.tokenizer import EOS, decode, encode_prompt
from ponder.scaling.estimators import maj_at_k, pass_at_k

SAMPLES = 64
PASS_AT = (1, 8, 64)
MAJORITY_AT = (8, 64)
MAX_TOKENS = 200
SEED = 1
KINDS: tuple[tuple[Family, int], ...] = (
    *(("countdown", size) for size in COUNTDOWN_SIZES),
    *(("chain", size) for size in CHAIN_SIZES if size in (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)),
)

Row = TypedDict(
    "Row",
    {
        "family": str,
        "difficulty": int,
        "problems": int,
        "samples": int,
        "pass@1": float,
        "pass@8": float,
        "pass@64": float,
        "maj@8": float | None,
        "maj@64": float | None,
        "greedy": float,
        "truncated": float,
        "tokens": float,
    },
)


def measure(sizes: Sequence[str], *, problems: int, page: Path | None) -> None:
    """Measure models and rewrite the evaluation in their cards; with a page, also its table of all cards.

    Args:
        sizes: shipped sizes.
        problems: how many test problems of every family and difficulty.
        page: Markdown with the markers `<!-- lab table -->` and `<!-- end of lab table -->`.
    """
    for size in sizes:
        began = time.monotonic()
        pool = lab.pool(size)
        rows = [_measure_kind(pool, family, difficulty, problems) for family, difficulty in KINDS]
        card = _card(size)
        content = json.loads(card.read_text())
        content["evaluation"] = {
            "fingerprint": lab.fingerprint(size),
            "split": "test",
            "seed": SEED,
            "temperature": 1.0,
            "rows": rows,
            "pass@1 by family": {
                family: round(float(np.mean([row["pass@1"] for row in rows if row["family"] == family])), 4)
                for family in ("countdown", "chain")
            },
            "seconds": round(time.monotonic() - began, 1),
        }
        card.write_text(json.dumps(content, indent=1) + "\n")
        pool.close()
        print(f"{size}: {time.monotonic() - began:.0f} s, {card}", file=sys.stderr)
    if page is not None:
        before, _, rest = page.read_text().partition(_START)
        page.write_text(f"{before}{_START}\n{_table()}{_END}{rest.partition(_END)[2]}")


def judge(problem: LabProblem, solution: str) -> bool:
    """Tell whether a finished solution is right, from its text alone.

    A chain must end in its answer. A countdown must compose to an expression that uses every number once and is worth the target
    exactly, so a step that claims a wrong result does no harm unless it is built upon.
    """
    if problem.family == "chain":
        return solution.endswith(f"answer: {problem.reference}\n")
    expression = countdown_expression(solution)
    if expression is None:
        return False
    numbers, _, target = problem.reference.removeprefix("numbers=").partition(";target=")
    tree = ast.parse(expression, mode="eval").body
    used = sorted(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, int))
    try:
        return used == [int(number) for number in numbers.split(",")] and _evaluate(tree) == int(target)
    except ZeroDivisionError:
        return False


def _evaluate(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value)
    if not isinstance(node, ast.BinOp):
        raise TypeError(f"{ast.dump(node)} is not arithmetic")
    left, right = _evaluate(node.left), _evaluate(node.right)
    match node.op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case _:
            return left / right


def _measure_kind(pool: lab.Pool, family: Family, difficulty: int, count: int) -> Row:
    """Draw SAMPLES samples and one greedy answer for each of `count` problems."""
    size = range(difficulty, difficulty + 1)
    chosen = list(draw_problems(family, split="test", n=count, seed=SEED, size=size))
    requests = []
    for problem in chosen:
        prefix = tuple(encode_prompt(problem.text))
        requests += [lab.Request(prefix, _key(problem, index), MAX_TOKENS) for index in range(SAMPLES)]
        requests.append(lab.Request(prefix, 0, MAX_TOKENS, temperature=0.0))
    completions = pool.run(requests)
    texts = [decode(done.ids[:-1].tolist()) if done.stopped_by == EOS else None for done in completions]
    right = np.array([text is not None and judge(chosen[i // (SAMPLES + 1)], text) for i, text in enumerate(texts)]).reshape(
        count, SAMPLES + 1
    )
    correct, greedy = right[:, :-1], right[:, -1]
    passes = pass_at_k(correct, PASS_AT).mean(0)
    votes: list[float | None] = [None] * len(MAJORITY_AT)
    if family == "chain":
        answers = {text: index for index, text in enumerate(sorted({_last(text) for text in texts if text is not None}))}
        ids = np.array([-1 if text is None else answers[_last(text)] for text in texts]).reshape(count, SAMPLES + 1)
        votes = [round(float(share), 4) for share in maj_at_k(correct, ids[:, :-1], MAJORITY_AT).mean(0)]
    return {
        "family": family,
        "difficulty": difficulty,
        "problems": count,
        "samples": SAMPLES,
        "pass@1": round(float(passes[0]), 4),
        "pass@8": round(float(passes[1]), 4),
        "pass@64": round(float(passes[2]), 4),
        "maj@8": votes[0],
        "maj@64": votes[1],
        "greedy": round(float(greedy.mean()), 4),
        "truncated": round(sum(text is None for text in texts) / len(texts), 4),
        "tokens": round(float(np.mean([len(done.ids) for done in completions])), 1),
    }


def _last(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def _key(problem: LabProblem, index: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"card/{problem.id}/{index}".encode(), digest_size=8).digest(), "big")


def _card(size: str) -> Path:
    return lab.weights_path(size).with_suffix(".card.json")


def _table() -> str:
    """Render the cards of the sizes that are shipped as Markdown tables."""
    folder = lab.weights_path().parent
    cards = {size: json.loads(_card(size).read_text()) for size in SIZES if (folder / f"{size}.safetensors").exists()}
    lines = [
        "",
        "| size | parameters | steps | tokens | minutes | loss countdown | loss chain |",
        "|---" * 7 + "|",
    ]
    for size, card in cards.items():
        facts = card["training"]
        loss = facts["train_loss"]
        lines.append(
            f"| {size} | {facts['parameters']:,} | {facts['steps']:,} of {facts['planned_steps']:,} | {facts['tokens']:,} "
            f"| {facts['seconds'] / 60:.1f} | {loss['countdown']} | {loss['chain']} |"
        )
    columns = ("pass@1", "pass@8", "pass@64", "maj@8", "maj@64", "greedy")
    lines += ["", f"| size | family | difficulty | n | {' | '.join(columns)} | tokens |", "|---" * (5 + len(columns)) + "|"]
    for size, card in cards.items():
        for row in card["evaluation"]["rows"]:
            shown = " | ".join("" if row[column] is None else f"{row[column]:.2f}" for column in columns)
            lines.append(
                f"| {size} | {row['family']} | {row['difficulty']} | {row['problems']} x {row['samples']} | {shown} | {row['tokens']} |"
            )
    return "\n".join([*lines, "", ""])


_START, _END = "<!-- lab table -->", "<!-- end of lab table -->"
