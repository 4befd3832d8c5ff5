"""Tokens a second of the lab: NumPy through ponder's policy, the engine alone, and Hugging Face's generate on the same weights.

    python -m benchmarks.lab [--size base] [--seconds 10]

64 samples of each of eight problems, four of either family, to their ends, at temperature 1. Tokens are those written up to and including the end;
what a batch computes beyond it (padding, in generate) does not count. Arms run one after another.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.common import Target, repeat, report, say, versions

THREADS = 2
SAMPLES = 64
MAX_TOKENS = 224
SLOTS = 256  # sequences in one generate: as many as ponder's engine has under way


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lab")
    parser.add_argument("--size", default="base", help="small, base, large, or a folder of weights (default: base)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each arm, after one unmeasured round (default: 10)")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    from ponder.lab import fingerprint
    from ponder.tasks.lab import chain, countdown

    questions = [problem.question.messages[0].text for task in (countdown(n=4), chain(n=4)) for problem in task.problems]
    arms = {"policy": policy_arm, "engine": engine_arm, "pool": pool_arm, "hf_generate": hf_arm}
    rates: dict[str, float | None] = {}
    seconds: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for name, make in arms.items():
        try:
            work = make(options.size, questions)
        except ImportError as error:
            rates[name], reasons[name] = None, str(error)
            say(f"{name:12s} not measured: {error}")
            continue
        work()
        tokens, seconds[name] = repeat(work, options.seconds)
        rates[name] = round(tokens / seconds[name], 1)
        say(f"{name:12s} {rates[name]:10,.0f} tokens/s over {seconds[name]:.1f} s")
    ours, theirs = rates["policy"], rates["hf_generate"]
    targets = [
        Target("lab tokens/s", ours, 10_000, "tokens/s"),
        Target("lab tokens/s, wished for", ours, 20_000, "tokens/s"),
        Target("lab / hf_generate", ours / theirs if ours and theirs else None, 1.0, "x"),
    ]
    body: dict[str, object] = {
        "tokens_per_second": rates,
        "seconds": {name: round(taken, 2) for name, taken in seconds.items()},
        "not_measured": reasons,
        "size": options.size,
        "weights": fingerprint(options.size),
        "problems": len(questions),
        "samples": SAMPLES,
        "threads": THREADS,
        "versions": versions("ponder-ttc", "numpy", "torch", "transformers"),
    }
    report("lab", targets, body)


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
