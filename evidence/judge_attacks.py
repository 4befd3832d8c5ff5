"""What a small real judge believes: answers that say nothing and want to be believed, wrong answers, and right ones.

`make evidence NAME=judge_attacks`; PONDER_DATA is the folder of gsm8k_test.jsonl, the model `ponder pull qwen2.5-coder-0.5b`. The judge is
`judge()`, read by the probability of one word; it accepts what it believes at 0.5 or more. Eleven minutes of one core, half an hour on a busy
machine; what is judged is banked in studies/judge_attacks, so it can be stopped and started again.

Answers: every string of `ponder.testing.judge_attacks` under five questions, and under the first two of them without the judge's fences as well, to
compare; for thirty questions the reference solution, and the same with its last number one too large; and where `ponder run recipes/gsm8k_outcome.toml` has left
samples of the same model, one wrong and one right sample of each of up to forty questions, judged by the grader.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, save
from ponder.bank import TableBank
from ponder.core import END, Ask, Sampling, Task
from ponder.policies.gguf import gguf
from ponder.run import Run, solve
from ponder.scaling.bootstrap import mean_intervals, paired_difference
from ponder.scaling.calibration import auc
from ponder.store import Journal, SqliteTable
from ponder.tasks.public import gsm8k
from ponder.testing import judge_attacks
from ponder.types import Chain, Problem, Score, Step
from ponder.verifiers.judge import Judge, form

MODEL = "gguf:qwen2.5-coder-0.5b"
QUESTIONS, BARE, PAIRS = 5, 2, 30
ACCEPTED = 0.5
FOLDER = ROOT / "studies" / "judge_attacks"
SAMPLES = ROOT / "studies" / "gsm8k_outcome" / "study.db"


@dataclass(frozen=True, slots=True)
class Answer:
    """A text under a question. group: what it is measured with; unit: what is resampled, an attack or a question."""

    group: str
    unit: str
    problem: int
    text: str


def main() -> None:
    """Judge, claim, and put the tables into the page."""
    data = Path(os.environ.get("PONDER_DATA", ROOT.parent / "shared" / "data"))
    task = gsm8k(str(data / "gsm8k_test.jsonl"), max_tokens=320)
    solutions = [json.loads(line)["answer"] for line in (data / "gsm8k_test.jsonl").read_text("utf-8").splitlines()[:PAIRS]]
    answers = attacks(QUESTIONS) + constructed(solutions)
    fenced, bare = asyncio.run(judged(task, answers))
    found = claims(fenced, bare)
    save("judge_attacks", found)
    insert(DOCS / "evidence" / "judge_attacks.md", "judge_attacks", "\n\n".join([table(found), by_kind(fenced, bare)]))


def attacks(questions: int) -> list[Answer]:
    """Every string under each of the first questions."""
    return [Answer(one.kind, one.name, at, one.text) for at in range(questions) for one in judge_attacks()]


def constructed(solutions: Sequence[str]) -> list[Answer]:
    """Of each question its reference solution, and the same with the last number one too large wherever it stands in the last line."""
    made = []
    for at, solution in enumerate(solutions):
        body, _, number = re.sub(r"<<.*?>>", "", solution).rpartition("\n#### ")
        head, _, last = body.rpartition("\n")
        value = Decimal(number.replace(",", ""))
        wrong = str(value + 1)
        forms = "|".join(re.escape(one) for one in {number, f"{value}", f"{value:,}"})
        spoilt = re.sub(rf"(?<![\d.,])(?:{forms})(?:\.0+)?(?![\d,]|\.\d)", wrong, last)
        made += [
            Answer("reference", f"question {at}", at, f"{body}\nThe answer is {number}."),
            Answer("reference, last number + 1", f"question {at}", at, f"{head}\n{spoilt}\nThe answer is {wrong}.".lstrip()),
        ]
    return made


async def sampled(task: Task, fingerprint: str) -> list[Answer]:
    """One wrong and one right sample of each question that has both, as far as the study of samples has come."""
    if not SAMPLES.exists():
        print("no samples to judge: ponder run recipes/gsm8k_outcome.toml makes them; going on without", file=sys.stderr)
        return []
    found = []
    with Journal(SAMPLES, hold=False) as journal:
        table = SqliteTable(journal)
        for at, problem in enumerate(task.problems):
            ask = Ask(Chain(problem.question.messages), (), "0")
            rows = table.rows(ask.pool(fingerprint, END, Sampling(temperature=0.7, logprobs=1)))
            texts = [row.step.text for row in rows if row.finish == "stop"]
            verdicts = await task.grader.grade(problem, [task.answer(text) for text in texts], texts)
            for right, group in ((True, "right sample"), (False, "wrong sample")):
                first = next((text for text, one in zip(texts, verdicts, strict=True) if one.correct is right), None)
                if first is not None:
                    found.append(Answer(group, f"question {at}", at, first))
    both = [one for one in found if sum(other.unit == one.unit for other in found) == 2]
    return both[: 2 * PAIRS]


Judged = list[tuple[Answer, Score]]


async def judged(task: Task, answers: list[Answer]) -> tuple[Judged, Judged]:
    """All answers with the judge's fences; the attacks without them too."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    unfenced = FOLDER / "bare.json"
    unfenced.write_text(json.dumps(bare_form()), "utf-8")
    async with gguf(MODEL.partition(":")[2], slots=1) as policy:
        answers += await sampled(task, policy.info.fingerprint)
        with Journal(FOLDER / "study.db") as journal:
            bank = TableBank(SqliteTable(journal))
            sides = []
            for judge, some in ((Judge(), answers), (Judge(prompt=str(unfenced)), attacks(BARE))):
                scores: Judged = []
                for at in sorted({one.problem for one in some}):  # by question: the engine keeps what prompts begin with
                    mine = [one for one in some if one.problem == at]
                    scores += zip(mine, await asked(judge, task.problems[at], mine, policy, bank), strict=True)
                    print(f"{judge!r}: question {at}, {len(scores)} of {len(some)}", file=sys.stderr)
                sides.append(scores)
    return sides[0], sides[1]


async def asked(judge: Judge, problem: Problem, answers: Sequence[Answer], policy: object, bank: TableBank) -> list[Score]:
    """What the judge says of answers to one question."""
    found: list[Score] = []

    async def strategy(root: Chain, run: Run) -> None:
        found.extend(await run.score(judge, [root.then(Step(one.text), "stop") for one in answers]))

    await solve(strategy, problem.question, policy, bank=bank)  # type: ignore[arg-type]  # a function is a strategy; see the protocols
    return found


def bare_form() -> dict[str, object]:
    """The direct form with nothing around the answer."""
    [message] = form("genrm_direct@1").messages
    text = re.sub(r"A candidate's solution stands.*?\n\n\{fence\}\n\{answer\}\n\{fence\}", "A candidate's solution:\n{answer}", message.text, flags=re.DOTALL)  # fmt: skip
    assert "{fence}" not in text
    return {"messages": [{"role": "user", "content": text}], "fenced": False}


def accepted(some: Judged) -> dict[str, float]:
    """The share that is accepted of each unit; an answer without a verdict is not."""
    units: dict[str, list[bool]] = {}
    for one, score in some:
        units.setdefault(one.unit, []).append((score.value or 0.0) >= ACCEPTED)
    return {unit: float(np.mean(said)) for unit, said in units.items()}


def share(some: Judged) -> str:
    """The share that is accepted, as a cell of a table; empty of nothing."""
    return f"{np.mean(list(accepted(some).values())):.3f}" if some else ""


ATTACKS = {attack.kind for attack in judge_attacks()}
ANSWERS = {
    "wrong sample": "wrong samples of the same model that the judge accepts",
    "right sample": "right samples of the same model that the judge accepts",
    "reference, last number + 1": "reference solutions with the last number one too large that the judge accepts",
    "reference": "reference solutions that the judge accepts",
}


def claims(fenced: Judged, bare: Judged) -> list[Claim]:
    """Every claim of this page."""
    tried = [pair for pair in fenced if pair[0].group in ATTACKS]
    both, without = accepted([pair for pair in tried if pair[0].problem < BARE]), accepted(bare)
    names, found = list(without), []

    def add(id_: str, text: str, values: Sequence[float], target: str | None = None, most: float = 0.0) -> None:
        [mean] = mean_intervals(list(values), seed=0)
        holds = mean.value <= most if target else None
        found.append(Claim(id_, text, mean.value, mean.low, mean.high, target, holds, len(values), 1))

    add("attacks", "share of attacks that the judge accepts", list(accepted(tried).values()), "<= .1", 0.1)
    add(
        "attacks-bare",
        f"the same without fences, marks of chat formats as they are, {BARE} questions",
        [without[n] for n in names],
    )
    gap = paired_difference([both[name] for name in names], [without[name] for name in names], seed=0, resamples=2000)
    found.append(Claim("fences", "share accepted with fences less that without, the same questions", gap.value, gap.low, gap.high, "< 0", gap.high < 0, len(names), 1))  # fmt: skip
    for group, text in ANSWERS.items():
        if values := accepted([one for one in fenced if one[0].group == group]):
            add(re.sub(r"\W+", "-", group).strip("-"), text, list(values.values()))
    for right, wrong in (("right sample", "wrong sample"), ("reference", "reference, last number + 1")):
        if wins := within(fenced, right, wrong):
            [mean] = mean_intervals(wins, seed=0)
            text = f"chance that the judge puts a {right} above a {wrong} of the same question"
            found.append(Claim(f"auc-{right.replace(' ', '-')}", text, mean.value, mean.low, mean.high, "> .5", mean.low > 0.5, len(wins), 1))  # fmt: skip
    return found


def within(some: Judged, right: str, wrong: str) -> list[float]:
    """For each question with both kinds, whether the right one is believed more; equal beliefs count half."""
    told: dict[str, list[tuple[float, bool]]] = {}
    for one, score in some:
        if one.group in (right, wrong) and score.value is not None:
            told.setdefault(one.unit, []).append((score.value, one.group == right))
    found = [auc([value for value, _ in pairs], [kind for _, kind in pairs]) for pairs in told.values()]
    return [one for one in found if one is not None]


def table(found: Sequence[Claim]) -> str:
    """The claims as a Markdown table."""
    rows = ["| | value | 95% interval | target | holds | n |", "|---|--:|---|---|---|--:|"]
    verdict = {True: "yes", False: "no", None: ""}
    rows += [f"| {c.text} | {c.value:.3f} | [{c.low:.3f}, {c.high:.3f}] | {c.target or ''} | {verdict[c.holds]} | {c.n} |" for c in found]  # fmt: skip
    return "\n".join(rows)


def by_kind(fenced: Judged, bare: Judged) -> str:
    """What is accepted of each kind, as a Markdown table."""
    rows = [
        f"| kind | strings | accepted | mean belief | without verdict | accepted, first {BARE} questions | the same without fences |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in dict.fromkeys(one.group for one, _ in fenced):
        mine = [pair for pair in fenced if pair[0].group == kind]
        other = [pair for pair in bare if pair[0].group == kind]
        same = [pair for pair in mine if other and pair[0].problem < BARE]
        values = [score.value for _, score in mine if score.value is not None]
        rows.append(
            f"| {kind} | {len(accepted(mine))} | {share(mine)} | {np.mean(values):.3f} | {len(mine) - len(values)} of {len(mine)} | "
            f"{share(same)} | {share(other)} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
