"""Ten million samples in a Parquet file: seconds and memory of the curves of all estimators, and of the report with its page.

    python -m benchmarks.report [--problems 10000] [--samples 1000] [--keep]

Each step is a process of its own, as a user would start it, and its peak memory is the kernel's. curve: `ponder curve FILE.parquet`, read as
columns (`ponder.cli.columns` says why no journal is made). page: `ponder compare FILE.parquet --html`. open: Chromium, headless, from start to a
drawn page, less what the same browser takes for an empty page; where there is none, the time to parse the page.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import Target, report, say, versions

BUILD = Path(__file__).parents[1] / "build"
ROWS = 200_000  # of a row group
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--problems", type=int, default=10_000, help="default: 10,000")
    parser.add_argument("--samples", type=int, default=1000, help="of each problem (default: 1,000)")
    parser.add_argument("--keep", action="store_true", help="keep file and page under build/report/")
    options = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    folder = BUILD / "report" if options.keep else Path(tempfile.mkdtemp(dir=BUILD))
    folder.mkdir(exist_ok=True)
    try:
        file, page = folder / "samples.parquet", folder / "report.html"
        started = time.perf_counter()
        samples_file(file, options.problems, options.samples)
        say(
            f"{options.problems:,} x {options.samples:,} samples, {file.stat().st_size / 1e6:.0f} MB, written in {time.perf_counter() - started:.0f} s"
        )
        curve = measured("curve", [str(file), "--png", str(folder / "curve.png")])
        compared = measured("compare", [str(file), "--html", str(page)])
        how, opened = opening(page)
        body = {
            "samples": options.problems * options.samples,
            "curve": curve,
            "compare": compared,
            "page_bytes": page.stat().st_size,
            "opened_by": how,
            "open_seconds": opened,
            "versions": versions("ponder-ttc", "numpy", "pyarrow"),
        }
        targets = [
            Target("curve of all estimators", curve["seconds"], 60.0, "s", at_most=True),
            Target("peak memory of the curve", curve["gib"], 4.0, "GiB", at_most=True),
            Target(f"report opens ({how})", opened, 2.0, "s", at_most=True),
            Target("size of the page", page.stat().st_size / 1e6, 3.0, "MB", at_most=True),
        ]
        report("report", targets, body)
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def samples_file(path: Path, problems: int, samples: int) -> None:
    """Problems of all difficulties, a right and twenty wrong answers, a noisy score, and one answer in fifty cut."""
    import pyarrow
    from pyarrow import parquet

    text = pyarrow.string()
    schema = pyarrow.schema(
        {"problem": text, "correct": pyarrow.bool_(), "answer": text, "score": pyarrow.float64(), "tokens": pyarrow.int64()}
    )
    rng = np.random.default_rng(0)
    answers = np.array([str(number) for number in range(21)])
    at_once = max(1, ROWS // samples)
    with parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, problems, at_once):
            here = min(at_once, problems - start)
            shape = (here, samples)
            correct = rng.random(shape) < rng.beta(0.6, 0.9, size=(here, 1))
            given = answers[np.where(correct, 0, np.minimum(rng.geometric(0.4, size=shape), 20))]
            columns = {
                "problem": np.repeat([f"problem {start + i}" for i in range(here)], samples),
                "correct": correct.ravel(),
                "answer": pyarrow.array(given.ravel(), mask=rng.random(here * samples) < 0.02),
                "score": (2.0 * correct + rng.normal(0.0, 1.5, size=shape)).ravel(),
                "tokens": rng.integers(50, 500, size=here * samples),
            }
            writer.write_table(pyarrow.table(columns, schema=schema))


def measured(verb: str, words: list[str]) -> dict[str, float]:
    """Wall-clock and processor seconds and peak GiB of one `ponder` command."""
    started = time.perf_counter()
    command = [sys.executable, "-c", "from ponder.cli import main; main()", verb, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ponder {verb} ended with {process.returncode}")
    found = {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "gib": round(used.ru_maxrss / 2**20, 3),
    }
    say(f"ponder {verb}: {found['seconds']} s, of them {found['cpu_seconds']} s of processor, peak {found['gib']} GiB")
    return found


def opening(page: Path) -> tuple[str, float]:
    """How the page was opened, and the median of the seconds it took."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        text = page.read_text("utf-8")
        seconds = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            HTMLParser().feed(text)
            seconds.append(time.perf_counter() - started)
        say("no Chromium here: the time to parse the page, not to draw it")
        return "parsed only", round(median(seconds), 3)
    empty = page.with_name("empty.html")
    empty.write_text("<!DOCTYPE html><title>empty</title>", "utf-8")
    taken: dict[Path, list[tuple[float, float]]] = {empty: [], page: []}
    for _ in range(REPEATS):
        for one, times in taken.items():
            times.append(_draw(browser, one))
    (wall, cpu), (bare_wall, bare_cpu) = (tuple(map(median, zip(*taken[one], strict=True))) for one in (page, empty))
    say(
        f"Chromium draws the page in {wall:.2f} s, an empty one in {bare_wall:.2f} s; of them processor {cpu:.2f} and {bare_cpu:.2f} s"
    )
    return "Chromium, headless", round(wall - bare_wall, 3)


def _draw(browser: str, page: Path) -> tuple[float, float]:
    """Seconds and processor seconds, the browser's own start included."""
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile) / "page.png"
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--window-size=1100,3000"]
        started = time.perf_counter()
        process = subprocess.Popen(
            [browser, *words, f"--screenshot={picture}", page.as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not picture.exists():
            raise SystemExit(f"{browser} ended with {process.returncode} and drew nothing")
        return time.perf_counter() - started, used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
