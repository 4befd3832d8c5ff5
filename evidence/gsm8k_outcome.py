"""An outcome verifier learned from a small real model's own GSM8K answers, against its confidence and against majority, at n = 8.

`make evidence NAME=gsm8k_outcome`; PONDER_DATA is the folder of gsm8k_test.jsonl. Every problem is judged by a verifier that was trained on the
other half of the problems: adapters on a model of 0.135 billion parameters, which reads what one of 0.5 billion wrote. Sampling takes an
hour of one core for a hundred problems, training and scoring half of one; each can be stopped and started again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, run_study, save
from ponder.bank import replay
from ponder.cli.bases import locate
from ponder.cli.harvest import harvest
from ponder.cli.learning import scores_of, scores_of_chains
from ponder.cli.study import check, read
from ponder.core import END, Ask, Sampling
from ponder.learners.datasets import Sample, distinct
from ponder.learners.outcome import train_outcome
from ponder.learners.training import Recipe
from ponder.scaling.bootstrap import mean_intervals, paired_difference
from ponder.scaling.calibration import Measured, calibrate
from ponder.scaling.estimators import best_of_n_at_k, maj_at_k, pass_at_k, weighted_at_k
from ponder.store import Journal, SqliteTable
from ponder.types import Chain, Score
from ponder.verifiers.confidence import Confidence
from ponder.verifiers.reward_model import RewardModel

WHERE = ROOT / "studies" / "gsm8k_outcome_verifiers"
N, HALVES = 8, 2
POLICY, BASE = "gguf:qwen2.5-coder-0.5b", "gguf:smollm2"
RECIPE = Recipe(epochs=1.0, batch=8, rate=3e-4, max_length=640, lora_rank=16, bfloat16=True)


def main() -> None:
    """Sample, train two halves, score, claim, and put the table into the page."""
    where, sampling = sampled()
    samples = [one for one in harvest([where]) if one.index < N]
    names = list(dict.fromkeys(one.problem for one in samples))
    place = {name: number for number, name in enumerate(names)}
    shape = len(names), N
    correct, answers = np.zeros(shape, bool), np.full(shape, -1)
    scores = {name: np.full(shape, np.nan) for name in ("outcome verifier", "confidence")}
    seen: dict[str, int] = {}
    for one in samples:
        if one.finish == "stop" and one.answer is not None:
            correct[place[one.problem], one.index] = one.correct
            answers[place[one.problem], one.index] = seen.setdefault(one.answer, len(seen))
    ended = [one for one in samples if answers[place[one.problem], one.index] >= 0]
    for name, found in (("outcome verifier", learned(samples, ended, names)), ("confidence", confident(where, sampling, ended))):
        for one, score in zip(ended, found, strict=True):
            scores[name][place[one.problem], one.index] = np.nan if score.value is None else score.value
    table, claims = told(names, correct, answers, scores)
    save("gsm8k_outcome", claims)
    insert(DOCS / "evidence" / "gsm8k_outcome.md", "gsm8k_outcome", table)


def sampled() -> tuple[Path, Sampling]:
    """The folder of the samples, and how they were drawn."""
    data = Path(os.environ.get("PONDER_DATA", ROOT.parent / "shared" / "data")) / "gsm8k_test.jsonl"
    recipe = read(ROOT / "recipes" / "gsm8k_outcome.toml")
    limit = int(os.environ.get("PONDER_PROBLEMS", recipe.limit or 0))
    body = recipe.model_dump(exclude_none=True) | {"tasks": [f"gsm8k({str(data)!r}, max_tokens=320)"], "limit": limit}
    # The weights of the recipe's file; 64 answers decoded together took a quarter of the time that llama.cpp took for 16 on a busy machine.
    body |= {"policies": [f"hf({str(locate(POLICY))!r}, dtype='bfloat16', batch=64)"], "concurrency": 12}
    study = check(body, "gsm8k_outcome")
    _, where = run_study(study)
    [sampling] = study.sampling
    return where, sampling


def learned(samples: Sequence[Sample], ended: Sequence[Sample], names: Sequence[str]) -> list[Score]:
    """What the verifier of the other half says of each answer."""
    half = {name: number % HALVES for number, name in enumerate(names)}
    found: dict[tuple[str, ...], Score] = {}
    for one in range(HALVES):
        folder = WHERE / f"without-{one}-of-{len(names)}"
        if not folder.is_dir():
            others = distinct(sample for sample in samples if half[sample.problem] != one and sample.finish == "stop")
            train_outcome(locate(BASE), others, folder, recipe=RECIPE)
        mine = [sample for sample in ended if half[sample.problem] == one]
        verifier = RewardModel(str(folder), dtype="bfloat16")
        found |= {sample.key: score for sample, score in zip(mine, scores_of(verifier, mine), strict=True)}
    return [found[sample.key] for sample in ended]


def confident(where: Path, sampling: Sampling, ended: Sequence[Sample]) -> list[Score]:
    """The policy's own confidence in each answer, from the log-probabilities that were kept with it."""
    chains: list[Chain] = []
    with Journal(where / "study.db") as journal:
        table = SqliteTable(journal)
        for one in ended:
            root = Chain(one.prompt)
            pool = Ask(root, (), one.stream).pool(one.policy, END, replace(sampling, logprobs=Confidence().logprobs))
            rows = [row for row in table.rows(pool) if row.index == one.index]
            row = replay(rows, sampling.max_tokens)
            if row is None:
                raise SystemExit(f"{one.problem}: sample {one.index} is not in the bank of {where} with its log-probabilities")
            chains.append(root.then(row.step, row.finish))
    return scores_of_chains(Confidence(), chains)


def told(
    names: Sequence[str], correct: np.ndarray, answers: np.ndarray, scores: dict[str, np.ndarray]
) -> tuple[str, list[Claim]]:
    """The table and the claims."""
    columns = {
        "one sample": pass_at_k(correct, [1]),
        "majority": maj_at_k(correct, answers, [N]),
        "any of them (pass@8)": pass_at_k(correct, [N]),
    }
    ranked, claims, n = {}, [], len(names)
    for name, score in scores.items():
        columns[f"best-of-{N} by {name}"] = best_of_n_at_k(correct, score, [N])
        columns[f"votes weighted by {name}"] = weighted_at_k(correct, answers, score, [N])
        kept = ~np.isnan(score)
        problems = np.repeat(np.arange(n), N).reshape(score.shape)[kept].tolist()
        ranked[name] = calibrate(score[kept], correct[kept], problems).whole
    rows = [f"| chosen from {N} answers by | accuracy | 95% interval | AUC | 95% interval | AUC within problems | 95% interval |"]
    rows.append("|---|--:|---|--:|---|--:|---|")
    for name, column in columns.items():
        [value] = mean_intervals(column, seed=0)
        found = ranked.get(name.partition(" by ")[2]) if name.startswith("best") else None
        rows.append(f"| {name} | {value.value:.3f} | [{value.low:.3f}, {value.high:.3f}] | {areas(found)} |")
    mine, theirs = "outcome verifier", "confidence"
    for kind in (f"best-of-{N} by", "votes weighted by"):
        for other in (f"{kind} {theirs}", "majority", "one sample"):
            text = f"accuracy of {kind} {mine} over {other}"
            gain = paired_difference(columns[f"{kind} {mine}"][:, 0], columns[other][:, 0], seed=0, resamples=2000)
            slug = f"{kind.split()[0]}-over-{other.split()[-1]}"
            claims.append(Claim(slug, text, gain.value, gain.low, gain.high, None, None, n, 1))
    for name, one in ranked.items():
        for id_, area in (("auc", one.auc), ("auc-within", one.auc_within)):
            if area is not None:
                text = f"{'AUC within problems' if id_ == 'auc-within' else 'AUC'} of {name}, finished answers"
                claims.append(Claim(f"{id_}-{name.split()[0]}", text, area.value, area.low, area.high, None, None, n, 1))
    return "\n".join(rows), claims


def areas(found: Measured | None) -> str:
    """Areas under the curve as cells."""
    if found is None:
        return "| | | "
    return " | ".join(
        f"{one.value:.3f} | [{one.low:.3f}, {one.high:.3f}]" if one else " | " for one in (found.auc, found.auc_within)
    )


if __name__ == "__main__":
    main()
