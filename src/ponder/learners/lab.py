"""Train the lab models from procedurally generated problems (extra `train`: torch).

    python -m ponder.learners.lab train base DIR      trains a size; the shipped weights' card states steps and seed
    python -m ponder.learners.lab install base DIR    makes what lies in DIR the shipped weights of that name, a size or a verifier's
    python -m ponder.learners.lab card                measures the shipped weights on test problems, rewrites their cards

A step sees two groups of countdown and one of chain problems of the train split, each of one size, so that no token is
padding. The loss is the mean log-loss of the solution's tokens. Matrices inside the layers learn by Muon (Jordan et
al. 2024, kellerjordan.github.io/posts/muon), the embedding and the norms by AdamW; the rate falls linearly to zero.
Training stops far from convergence on purpose: the errors that are left are what test-time compute works on.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import ponder.lab as weights
from ponder.lab.model import SIZES, Shape, save
from ponder.lab.problems import CHAIN_SIZES, COUNTDOWN_SIZES, Family, draw, split_of
from ponder.lab.tokenizer import EOS, encode, encode_prompt
from ponder.lab.twin import build
from ponder.learners.lab_card import measure

if TYPE_CHECKING:
    import torch
    from torch import nn

    Group = tuple[Family, torch.Tensor, int]  # family, ids [rows, length], length of the prompt

COUNTDOWN: tuple[Family, range] = ("countdown", COUNTDOWN_SIZES)
CHAIN: tuple[Family, range] = ("chain", CHAIN_SIZES)
STEP = (COUNTDOWN, COUNTDOWN, CHAIN)  # the groups of one step; countdown is the harder to learn
WARMUP = 50  # steps until the rate is at its peak


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one size is trained.

    Attributes:
        steps: optimizer steps until the rate is zero.
        stop: steps really made; all when None. The default model stops early, or its chains would leave nothing to win.
        tokens: tokens of one group; a step has three groups.
        muon: peak rate of the layers' matrices.
        adam: peak rate of everything else.
    """

    steps: int
    stop: int | None = None
    tokens: int = 1024
    muon: float = 0.02
    adam: float = 0.003


RECIPES = {"small": Recipe(steps=2400), "base": Recipe(steps=2400, stop=1920), "large": Recipe(steps=2000)}


def train(
    size: str,
    *,
    seed: int,
    out: Path,
    steps: int | None = None,
    minutes: float | None = None,
    checkpoints: int = 0,
    threads: int = 1,
) -> None:
    """Train one size from nothing and write `model.safetensors`, `config.json` and `card.json` into `out`.

    Args:
        size: `small`, `base` or `large`.
        seed: of the first weights and of the data.
        out: folder, created when missing.
        steps: optimizer steps until the rate is zero; the recipe's steps and stop when None.
        minutes: stop after so many, wherever the schedule stands; the card then says how many steps were made.
        checkpoints: how many evenly spaced checkpoints to keep in `out/step-N/`.
        threads: torch threads while training; the setting of the process is put back afterwards.

    Raises:
        ValueError: for an unknown size.
        ImportError: when torch is missing (`pip install 'ponder-ttc[train]'`).
    """
    import torch

    if size not in SIZES:
        raise ValueError(f"size is {size!r}; it must be one of {', '.join(SIZES)}")
    recipe, shape = RECIPES[size], SIZES[size]
    total = recipe.steps if steps is None else steps
    stop = total if steps is not None or recipe.stop is None else recipe.stop
    marks = {round(total * (k + 1) / (checkpoints + 1)) for k in range(checkpoints)}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model = build(shape)
    optimizers = _optimizers(model, recipe)
    data = _groups(recipe.tokens, random.Random(f"lab/{size}/{seed}"))
    began, losses, step, spent = time.monotonic(), dict.fromkeys(("countdown", "chain"), math.nan), 0, 0.0

    def facts() -> dict[str, object]:
        return {
            "size": size,
            "parameters": sum(p.numel() for p in model.parameters()),
            "seed": seed,
            "steps": step,
            "planned_steps": total,
            "minutes_allowed": minutes,
            "recipe": asdict(recipe),
            "tokens": step * len(STEP) * recipe.tokens,
            "train_loss": {family: round(loss, 4) for family, loss in losses.items()},
            "seconds": round(time.monotonic() - began, 1),
            "threads": threads,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }

    try:
        while step < stop and spent < 1:
            step += 1
            spent = 0.0 if minutes is None else (time.monotonic() - began) / (60 * minutes)
            rate = min(1.0, step / WARMUP) * max(0.0, 1 - max((step - 1) / total, spent))
            for family, loss in _step(model, optimizers, [next(data) for _ in STEP], rate).items():
                losses[family] = loss if math.isnan(losses[family]) else 0.98 * losses[family] + 0.02 * loss
            if step % 100 == 0 or step == stop or spent >= 1:
                shown = "  ".join(f"{family} {loss:.4f}" for family, loss in losses.items())
                _say(f"{size} step {step}/{total}  loss {shown}  {time.monotonic() - began:.0f} s")
            if step in marks:
                _write(model, shape, out / f"step-{step}", facts())
    finally:
        torch.set_num_threads(before)
    _write(model, shape, out, facts())


def install(name: str, folder: Path) -> None:
    """Make the weights in a folder the shipped ones of a name, with their training facts as the card.

    name: a size, or that of a reward model, whose `reward.json` goes along and whose calibration becomes a part of the card.
    """
    target = Path(weights.__file__).parent / "weights"
    for source, kept in (
        ("model.safetensors", f"{name}.safetensors"),
        ("config.json", f"{name}.json"),
        ("reward.json", f"{name}.reward.json"),
    ):
        if (folder / source).exists():
            (target / kept).write_bytes((folder / source).read_bytes())
    card = json.loads((folder / "card.json").read_text("utf-8"))
    if (folder / "calibration.json").exists():
        card["calibration"] = json.loads((folder / "calibration.json").read_text("utf-8"))
    (target / f"{name}.card.json").write_text(json.dumps(card, indent=1) + "\n", "utf-8")


def _step(model: nn.Module, optimizers: list[torch.optim.Optimizer], groups: list[Group], rate: float) -> dict[Family, float]:
    """Take one step at `rate` times the peak rates; gives the loss of each family before it."""
    import torch

    for optimizer in optimizers:
        for parameters in optimizer.param_groups:
            parameters["lr"] = parameters["peak"] * rate
    losses: dict[Family, float] = {}
    for family, ids, prompt in groups:
        logits = model(ids[:, :-1])[:, prompt - 1 :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, prompt:].flatten())
        (loss / len(groups)).backward()
        losses[family] = float(loss.detach())
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return losses


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    import torch

    matrices = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=recipe.muon, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=recipe.adam, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return [muon, adam]


def _groups(tokens: int, rng: random.Random) -> Iterator[Group]:
    """Yield groups in the order of STEP: family, ids [rows, length], length of the prompt."""
    import torch

    while True:
        for family, sizes in STEP:
            size = rng.choice(sizes)
            rows: list[list[int]] = []
            prompt = length = 0
            while not rows or len(rows) * length < tokens:
                problem, solution = draw(family, size, rng)
                if split_of(problem) == "test":
                    continue
                prefix = encode_prompt(problem.text)
                rows.append([*prefix, *encode(solution), EOS])
                prompt, length = len(prefix), len(rows[-1])
            yield family, torch.tensor(rows), prompt


def _write(model: nn.Module, shape: Shape, folder: Path, facts: dict[str, object]) -> None:
    tensors = {f"model.{name}": p.detach().float().numpy() for name, p in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    save(folder, shape, tensors)
    (folder / "card.json").write_text(json.dumps({"training": facts}, indent=1) + "\n")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ponder.learners.lab", description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("train", "install"):
        sub = verbs.add_parser(verb)
        sub.add_argument("size", choices=sorted(SIZES) if verb == "train" else None)
        sub.add_argument("folder", type=Path)
        if verb == "train":
            sub.add_argument("--seed", type=int, default=0)
            sub.add_argument("--steps", type=int)
            sub.add_argument("--minutes", type=float)
            sub.add_argument("--checkpoints", type=int, default=0)
            sub.add_argument("--threads", type=int, default=1)
    sub = verbs.add_parser("card")
    sub.add_argument("sizes", nargs="*", default=list(SIZES))
    sub.add_argument("--problems", type=int, default=50, help="of each family and difficulty")
    sub.add_argument("--page", type=Path, help="a page whose table between markers is rewritten")
    given = vars(parser.parse_args())
    match given.pop("verb"):
        case "train":
            train(given.pop("size"), out=given.pop("folder"), **given)
        case "install":
            install(given["size"], given["folder"])
        case _:
            measure(given["sizes"], problems=given["problems"], page=given["page"])


if __name__ == "__main__":
    _main()
