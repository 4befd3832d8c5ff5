"""Judged samples of studies as the logs of other evaluation tools: inspect's `.eval` and the sample files of lm-eval.

A log has one task and one model, so that each combination of task, policy, sampling and seed makes a file, numbered where there are several.
Taken are the whole answers of the slice, as all of them are judged. Beyond it, or without one, verdicts are on what strategies proposed, which
is no fair draw: of a study with a slice they are left out, else they are taken and it is said. Equal studies give equal bytes: no time of day is
written, and where a format asks for one it is the epoch's first second.

inspect (log format 2, as of inspect_ai 0.3.285): a ZIP of `header.json`, `summaries.json`, `_journal/start.json` and a JSON for each sample.
A sample is an epoch of its problem, its score `C` or `I`. lm-eval (0.4): a line for each problem with all its answers in `resps`, its metric
`acc` the share of right ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ponder.bank import Row
from ponder.cli.harvest import NO_VERDICT, Source, asked
from ponder.cli.runner import verdict_key
from ponder.cli.verbs import open_study
from ponder.errors import DataError, UsageError
from ponder.files import whole
from ponder.types import JSON, Chain, Problem, Verdict

Body = dict[str, JSON]

EPOCH = "1970-01-01T00:00:01+00:00"
SUFFIX = {"inspect": ".eval", "lm_eval": ".jsonl"}
STOPPED = {"stop": "stop", "length": "max_tokens", "filtered": "content_filter"}
SCORER = "ponder"
BEYOND = "beyond the declared slice: only what was proposed of them is judged"


@dataclass(frozen=True, slots=True)
class Log:
    """The judged samples of one source, by problem, each with its index in the pool."""

    study: str
    source: Source
    judged: tuple[tuple[Problem, tuple[tuple[Row, Verdict], ...]], ...]


def write(folders: Sequence[Path], file: Path, kind: Literal["inspect", "lm_eval"]) -> list[Path]:
    """Write the logs of these studies; returns the files.

    Raises `UsageError` for another ending than the format's, `DataError` where there is nothing to write or it cannot be written.
    """
    if file.suffix != SUFFIX[kind]:
        raise UsageError(f"export: {file} must end in {SUFFIX[kind]} with --as {kind}")
    if file.exists() and file.resolve().parent in [folder.resolve() for folder in folders]:
        raise UsageError(f"export: {file} stands in the study's own folder and would be overwritten; name another file")
    left_out: Counter[str] = Counter()
    logs = [log for folder in folders for log in logs_of(folder, left_out)]
    if not logs:
        raise DataError(f"{file}: {folders[0]} holds no judged sample; declare a slice, or run the study to its end")
    written = []
    for number, log in enumerate(logs, 1):
        target = file.with_name(f"{file.stem}-{number}{file.suffix}") if len(logs) > 1 else file
        try:
            with whole(target) as part:
                if kind == "inspect":
                    _write_inspect(log, part)
                else:
                    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lm_eval_rows(log)), "utf-8")
        except OSError as error:
            raise DataError(f"{target}: cannot be written ({error.strerror}); name a file in a folder that exists") from None
        written.append(target)
        count = sum(len(rows) for _, rows in log.judged)
        print(f"ponder: {count} samples of {len(log.judged)} problems in {target}", file=sys.stderr)
    for reason, count in left_out.items():
        print(f"ponder: {count} samples left out, {reason}", file=sys.stderr)
    return written


def logs_of(folder: Path, left_out: Counter[str]) -> Iterator[Log]:
    """The logs of a study, by source. left_out: counts what was passed over. Raises as `open_study`."""
    with ExitStack() as stack:
        study, journal, table = open_study(folder, stack)
        found: dict[Source, list[tuple[Problem, tuple[tuple[Row, Verdict], ...]]]] = {}
        for problem, verdicts, source in asked(journal):
            root, rows = Chain(problem.question.messages), []
            for _, row in source.rows(table, problem.question):
                verdict = verdicts.get(verdict_key(root.then(row.step, row.finish)))
                if study.slice and row.index >= study.slice:
                    left_out[BEYOND] += 1
                elif verdict is None:
                    left_out[NO_VERDICT] += 1
                else:
                    rows.append((row, verdict))
            if rows:
                found.setdefault(source, []).append((problem, tuple(rows)))
        if found and not study.slice:
            print(
                f"ponder: {folder}: has no slice; its judged samples are those that strategies proposed, no fair draw",
                file=sys.stderr,
            )
        yield from (Log(study.name, source, tuple(judged)) for source, judged in found.items())


# ---- lm-eval ----


def lm_eval_rows(log: Log) -> Iterator[Body]:
    """A row for each problem; hashes as lm-eval makes them: SHA-256 of the document, the prompt and the target."""
    sampling = log.source.sampling
    for number, (problem, rows) in enumerate(log.judged):
        prompt = _prompt(problem)
        target = _target(problem)
        doc: Body = {"id": problem.question.id, "question": prompt, "answer": problem.reference}
        options: Body = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_gen_toks": sampling.max_tokens}
        answers: list[JSON] = [verdict.answer if row.finish == "stop" else None for row, verdict in rows]
        yield {
            "doc_id": number,
            "doc": doc,
            "target": target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"do_sample": sampling.temperature > 0, **options}}},
            "resps": [[row.step.text for row, _ in rows]],
            "filtered_resps": [answers],
            "filter": "none",
            "metrics": ["acc"],
            "doc_hash": _sha256(json.dumps(doc, indent=2, ensure_ascii=False)),
            "prompt_hash": _sha256(prompt),
            "target_hash": _sha256(target),
            "acc": sum(right(row, verdict) for row, verdict in rows) / len(rows),
        }


# ---- inspect ----


def _write_inspect(log: Log, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def put(name: str, body: object) -> None:
            member = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))

        header = inspect_header(log)
        put("_journal/start.json", {key: header[key] for key in ("version", "eval", "plan")})
        summaries = []
        for sample in inspect_samples(log):
            put(f"samples/{_member(str(sample['id']))}_epoch_{sample['epoch']}.json", sample)
            summaries.append(_summary(sample))
        put("summaries.json", summaries)
        put("header.json", header)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def inspect_header(log: Log) -> Body:
    """What is said of a whole log: task, model, settings and results."""
    source, sampling = log.source, log.source.sampling
    total = sum(len(rows) for _, rows in log.judged)
    means = [sum(right(*one) for one in rows) / len(rows) for _, rows in log.judged]
    mean = sum(means) / len(means)
    spread = math.sqrt(sum((m - mean) ** 2 for m in means) / (len(means) - 1) / len(means)) if len(means) > 1 else 0.0
    name = _sha256(json.dumps([log.study, source.task, source.policy, source.seed, sampling.key]))[:22]
    ids: list[JSON] = [problem.question.id for problem, _ in log.judged]
    spec: Body = {
        "eval_id": name,
        "run_id": name,
        "created": EPOCH,
        "task": source.task_name,
        "task_id": name,
        "dataset": {"name": source.task_name, "samples": len(ids), "sample_ids": ids},
        "model": source.policy_name,
        "model_generate_config": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "max_tokens": sampling.max_tokens,
            "seed": source.seed,
        },
        "config": {"epochs": max(len(rows) for _, rows in log.judged)},
        "scorers": [{"name": SCORER}],
        "metadata": {"study": log.study, "fingerprint": source.policy, "problems": source.task, "seed": source.seed},
    }
    metrics: Body = {key: {"name": key, "value": value} for key, value in (("accuracy", mean), ("stderr", spread))}
    scores: list[JSON] = [{"name": SCORER, "scorer": SCORER, "scored_samples": total, "metrics": metrics}]
    return {
        "version": 2,
        "status": "success",
        "eval": spec,
        "plan": {"name": "plan", "steps": [{"solver": "generate", "params": {}}], "config": {}},
        "results": {"total_samples": total, "completed_samples": total, "scores": scores},
        "stats": {"started_at": EPOCH, "completed_at": EPOCH, "model_usage": {source.policy_name: _usage(log)}},
    }


def inspect_samples(log: Log) -> Iterator[Body]:
    """Each sample, its epoch its place in the pool, from 1."""
    model = log.source.policy_name
    for problem, rows in log.judged:
        question = problem.question
        asked_: list[JSON] = [{"role": message.role, "content": message.text} for message in question.messages]
        plain = len(question.messages) == 1 and question.messages[0].role == "user"
        for row, verdict in rows:
            use = row.step.usage
            usage: Body = {
                "input_tokens": use.prompt,
                "output_tokens": use.completion,
                "total_tokens": use.prompt + use.completion,
            }
            said: Body = {"role": "assistant", "content": row.step.text, "source": "generate", "model": model}
            stopped = STOPPED.get(row.finish or "", "unknown")
            choices: list[JSON] = [{"message": said, "stop_reason": stopped}]
            yield {
                "id": question.id,
                "epoch": row.index + 1,
                "input": question.messages[0].text if plain else asked_,
                "target": _target(problem),
                "messages": [*asked_, said],
                "output": {"model": model, "choices": choices, "completion": row.step.text, "usage": usage},
                "scores": {
                    SCORER: {
                        "value": "C" if right(row, verdict) else "I",
                        "answer": verdict.answer if row.finish == "stop" else None,
                        "explanation": verdict.reason or None,
                    }
                },
                "metadata": dict(question.metadata),
                "model_usage": {model: usage},
            }


def right(row: Row, verdict: Verdict) -> bool:
    """Whether a sample counts as right: an answer that was cut never does."""
    return verdict.correct and row.finish == "stop"


def _summary(sample: Body) -> Body:
    kept = {key: sample[key] for key in ("id", "epoch", "input", "target", "scores", "model_usage")}
    messages = sample["messages"]
    return {**kept, "completed": True, "message_count": len(messages) if isinstance(messages, list) else 0}


def _usage(log: Log) -> Body:
    uses = [row.step.usage for _, rows in log.judged for row, _ in rows]
    prompt, completion = sum(use.prompt for use in uses), sum(use.completion for use in uses)
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}


def _member(name: str) -> str:
    """A problem's name as part of a path in the archive; where it would lead out of the folder it is unpacked in, another one."""
    if re.fullmatch(r"[\w,:@=+ -][\w .,:@=+-]{0,149}", name) and ".." not in name:
        return name
    return f"{re.sub(r'[^a-zA-Z0-9-]+', '_', name)[:60]}-{_sha256(name)[:16]}"


def _prompt(problem: Problem) -> str:
    return "\n\n".join(message.text for message in problem.question.messages)


def _target(problem: Problem) -> str:
    reference = problem.reference
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
