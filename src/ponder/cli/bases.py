"""From what a user calls a model to the folder that learners read."""

from __future__ import annotations

from pathlib import Path

from ponder.errors import UsageError
from ponder.learners.models import REWARD, dequantised, is_lab, lab_folder
from ponder.policies.pull import cache_dir, find


def locate(model: str) -> Path:
    """The model folder of "lab", "lab:SIZE_OR_FOLDER", "gguf:NAME_OR_FILE", "hf:FOLDER_OR_ID" or a folder.

    Lab sizes and GGUF files are made into folders once, in the cache. Raises `UsageError` for a model that does not exist, `SetupError` for
    one that must be fetched first.
    """
    kind, _, rest = model.partition(":")
    if kind == "lab":
        path = Path(rest)
        if path.is_dir() and (path / "tokenizer.json").is_file():
            return path
        try:
            return lab_folder(rest or "base", cache_dir())
        except ValueError as error:
            raise UsageError(str(error)) from None
    if kind == "gguf" or model.endswith(".gguf"):
        return dequantised(find(rest or model), cache_dir())
    folder = find(rest if kind == "hf" else model)
    if not (folder / "config.json").is_file():
        raise UsageError(f"model {model!r}: {folder} holds no config.json; give a folder that holds a model, lab or gguf:NAME")
    return folder


def policy_spec(folder: Path) -> str:
    """The policy that a model folder is: the lab's own engine for lab models, transformers for others."""
    return f"{'lab' if is_lab(folder) else 'hf'}({str(folder.absolute())!r})"


def scores(folder: Path) -> bool:
    """Whether a folder holds a verifier."""
    return (folder / REWARD).is_file()
