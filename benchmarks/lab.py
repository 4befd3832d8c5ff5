"""Tokens a second of the lab: NumPy through ponder's policy, the engine alone, and Hugging Face's generate on the same weights.

    python -m benchmarks.lab [--size base] [--seconds 10]

64 samples of each of eight problems, four of either family, to their ends, at temperature 1. Tokens are those written up to and including the end;
what a batch computes beyond it (padding, in generate) does not count. Arms run one after another, each in a process of its own:
policy (what a study uses), engine (one process, BLAS threads as they come, then one), pool (a worker for each core), hf_generate (2 threads).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Target, repeat, report, say, versions

THREADS = 2
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ARMS = {"policy": 0, "engine": 0, "engine_1_thread": 1, "pool": 0, "hf_generate": THREADS}
"""Threads that the environment asks for; 0 leaves it as it is, which is what a user has."""

PROBLEMS = 8
SAMPLES = 64
MAX_TOKENS = 224
SLOTS = 256  # sequences in one generate: as many as ponder's engine has under way


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab")
    parser.add_argument("--size", default="base", help="small, base, large, or a folder of weights (default: base)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each arm, after one unmeasured round (default: 10)")
    parser.add_argument("--arm", choices=list(ARMS), help="only this one, in this process; prints tokens and seconds")
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options.arm, options.size, options.seconds)), flush=True)
        return
    from ponder.lab import fingerprint

    rates: dict[str, float | None] = {}
    seconds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, threads in ARMS.items():
        command = [
            sys.executable,
            "-m",
            "benchmarks.lab",
            "--arm",
            name,
            "--size",
            options.size,
            "--seconds",
            str(options.seconds),
        ]
        environment = os.environ | (dict.fromkeys(THREAD_VARIABLES, str(threads)) if threads else {})
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        found = json.loads(run.stdout.strip().splitlines()[-1])
        if "reason" in found:
            rates[name], reasons[name] = None, found["reason"]
            say(f"{name:16s} not measured: {found['reason']}")
            continue
        rates[name], seconds[name] = round(found["tokens"] / found["seconds"], 1), found["seconds"]
        say(f"{name:16s} {rates[name]:10,.0f} tokens/s over {seconds[name]:.1f} s")
    ours, theirs = rates["policy"], rates["hf_generate"]
    targets = [
        Target("lab tokens/s", ours, 10_000, "tokens/s"),
        Target("lab tokens/s, wished for", ours, 20_000, "tokens/s"),
    ]
    body: dict[str, object] = {
        "tokens_per_second": rates,
        "policy_over_hf_generate": round(ours / theirs, 2) if ours and theirs else None,
        "seconds": {name: round(taken, 2) for name, taken in seconds.items()},
        "not_measured": reasons,
        "size": options.size,
        "weights": fingerprint(options.size),
        "problems": PROBLEMS,
        "samples": SAMPLES,
        "threads": {name: threads or "as they come" for name, threads in ARMS.items()},
        "versions": versions("ponder-ttc", "numpy", "torch", "transformers"),
    }
    report("lab", targets, body)


def measure(arm: str, size: str, seconds: float) -> dict[str, object]:
    """Tokens and seconds of one arm after a round of warm-up, or the reason why it cannot be run here."""
    from ponder.tasks.lab import chain, countdown

    tasks = countdown(n=PROBLEMS // 2), chain(n=PROBLEMS // 2)
    questions = [problem.question.messages[0].text for task in tasks for problem in task.problems]
    make = {"policy": policy_arm, "pool": pool_arm, "hf_generate": hf_arm}.get(arm, engine_arm)
    try:
        work = make(size, questions)
    except ImportError as error:
        return {"reason": str(error)}
    work()
    tokens, taken = repeat(work, seconds)
    return {"tokens": tokens, "seconds": taken}


def policy_arm(size: str, questions: list[str]) -> Callable[[], int]:
    """Through the policy, as a study calls it."""
    from ponder.core import END, Ask, Sampling
    from ponder.policies.lab import Lab
    from ponder.types import Chain, user

    policy, rounds = Lab(size), itertools.count()

    def work() -> int:
        stream = str(next(rounds))
        asks = [Ask(Chain((user(text),)), tuple(range(SAMPLES)), stream) for text in questions]
        lines = asyncio.run(policy.sample(asks, until=END, sampling=Sampling(max_tokens=MAX_TOKENS)))
        return sum(child.usage.completion for line in lines for child in line)

    return work


def engine_arm(size: str, questions: list[str]) -> Callable[[], int]:
    """The engine alone, in this process."""
    from ponder.lab import load

    return _requests(load(size).run, questions)


def pool_arm(size: str, questions: list[str]) -> Callable[[], int]:
    """The engine alone, in a worker process for each core."""
    from ponder.lab import pool

    return _requests(pool(size, THREADS).run, questions)


def _requests(run: Callable[..., list], questions: list[str]) -> Callable[[], int]:  # type: ignore[type-arg]
    from ponder.lab import Request
    from ponder.lab.tokenizer import encode_prompt

    prefixes = [tuple(encode_prompt(text, "")) for text in questions]
    keys = itertools.count()

    def work() -> int:
        requests = [Request(prefix, next(keys), MAX_TOKENS) for prefix in prefixes for _ in range(SAMPLES)]
        return sum(len(completion.ids) for completion in run(requests))

    return work


def hf_arm(size: str, questions: list[str]) -> Callable[[], int]:
    """Hugging Face's generate on the same weights in float32, prompts padded on the left. Raises ImportError where torch is missing."""
    import torch
    from transformers import LlamaForCausalLM

    from ponder.lab import weights_path
    from ponder.lab.tokenizer import EOS, PAD, encode_prompt

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    path = weights_path(size)
    with tempfile.TemporaryDirectory() as folder:
        config = path / "config.json" if path.is_dir() else path.with_suffix(".json")
        (Path(folder) / "config.json").symlink_to(config.resolve())
        (Path(folder) / "model.safetensors").symlink_to((path / "model.safetensors" if path.is_dir() else path).resolve())
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prefixes = [encode_prompt(text, "") for text in questions]
    at_once = SLOTS // SAMPLES

    def work() -> int:
        tokens = 0
        for first in range(0, len(prefixes), at_once):
            some = prefixes[first : first + at_once]
            width = max(map(len, some))
            ids = torch.tensor([[PAD] * (width - len(prefix)) + prefix for prefix in some])
            mask = (torch.arange(width)[None] >= torch.tensor([[width - len(prefix)] for prefix in some])).long()
            with torch.inference_mode():
                written = model.generate(
                    ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_TOKENS,
                    num_return_sequences=SAMPLES, eos_token_id=EOS, pad_token_id=PAD,
                )[:, width:]  # fmt: skip
            ended = (written == EOS).int()
            tokens += int((ended.cumsum(1) - ended == 0).sum())  # up to and including the first end
        return tokens

    return work


if __name__ == "__main__":
    main()
