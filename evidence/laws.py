"""Laws of coverage on the lab: what 16 samples of each problem say about 256. `make evidence NAME=laws`, half an hour on two cores.

Each law is fitted to the first 16 samples of every problem under one seed and compared with pass@256 of the other two seeds, which it has not seen: 512 samples
of the same problems. Three such pilots, in three settings: the default model, the same at a temperature that leaves more problems unsolved, and a smaller model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evidence.common import DOCS, ROOT, Claim, insert, save
from ponder.cli.harvest import harvest
from ponder.cli.rounds import run_study as run_in
from ponder.cli.study import Study, check
from ponder.errors import UnidentifiedError
from ponder.learners.datasets import Sample
from ponder.scaling.bootstrap import Interval, mean_intervals, paired_difference
from ponder.scaling.coverage import LAWS, Law, extrapolate, fit_coverage
from ponder.scaling.crossing import Crossing, crossing
from ponder.scaling.estimators import pass_at_k
from ponder.scaling.figure import Series, curve_figure
from ponder.scaling.fit import Fit, HeldOut
from ponder.scaling.pass_until import pass_until
from ponder.store import Journal, StudyStore

PILOT, FAR, WITHIN = 16, 256, 0.03
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RESAMPLES = 200
PASSES = 3
SHORT = {"power law with irreducible error": "power law with a floor"}  # a label of a figure has room for 30 characters


@dataclass(frozen=True, slots=True)
class Setting:
    """Where laws are tried. slug: of the study and the figure."""

    slug: str
    title: str
    policy: str
    temperature: float
    problems: int

    @property
    def study(self) -> Study:
        """256 samples of every problem, three times over."""
        return check(
            {
                "name": self.slug,
                "tasks": [f"countdown(numbers=4, n={self.problems})"],
                "policies": [self.policy],
                "strategies": ["sample"],
                "sampling": [{"temperature": self.temperature}],
                "slice": FAR,
                "seeds": [0, 1, 2],
            },
            self.slug,
        )


SETTINGS = (
    Setting("laws", "lab/base, temperature 1", "lab", 1.0, 300),
    Setting("laws-cool", "lab/base, temperature 0.5", "lab", 0.5, 200),
    Setting("laws-small", "lab/small, temperature 1", "lab('small')", 1.0, 200),
)


@dataclass(frozen=True, slots=True)
class Tried:
    """One law in one setting. By seed: the fit to the pilot and its error at 256, or why there is none."""

    law: Law
    fits: tuple[Fit | str, ...]
    errors: tuple[HeldOut | None, ...]

    @property
    def worst(self) -> Interval | None:
        """The largest error of the three; None if the law was refused in any of them."""
        found = [one.errors[0] for one in self.errors if one is not None]
        return max(found, key=lambda one: abs(one.value)) if len(found) == len(self.errors) else None


def drawn(setting: Setting) -> list[Sample]:
    """All samples of a setting; drawn first if they are not all there."""
    where = ROOT / "studies" / setting.slug
    if not whole(where, setting):
        run_in(setting.study, where, resume="make evidence NAME=laws")
    return [one for one in harvest([where]) if one.index < FAR]


def verdicts(setting: Setting) -> tuple[list[str], np.ndarray]:
    """Problems, and right or wrong by seed, problem and sample."""
    samples = drawn(setting)
    problems, streams = sorted({one.problem for one in samples}), sorted({one.stream for one in samples})
    row, page = ({name: at for at, name in enumerate(names)} for names in (problems, streams))
    correct_S_P_N = np.full((len(streams), len(problems), FAR), -1, np.int8)
    for one in samples:
        correct_S_P_N[page[one.stream], row[one.problem], one.index] = one.correct
    if (correct_S_P_N < 0).any():
        raise SystemExit(f"{setting.slug}: {(correct_S_P_N < 0).sum()} samples failed; make evidence NAME=laws draws them")
    return problems, correct_S_P_N.astype(np.bool_)


def whole(where: Path, setting: Setting) -> bool:
    """Whether the whole slice of every problem was drawn under every seed."""
    if not (where / "study.db").exists():
        return False
    with Journal(where / "study.db") as journal:
        drawn = sum(run.strategy == f"draw(n={FAR})" for run in StudyStore(journal).runs())
    return drawn == setting.problems * len(setting.study.seeds)


def others(correct_S_P_N: np.ndarray, seed: int) -> np.ndarray:
    """The samples of all seeds but one, side by side."""
    return np.concatenate(np.delete(correct_S_P_N, seed, axis=0), axis=1)


def tried(law: Law, correct_S_P_N: np.ndarray) -> Tried:
    """Fit a law to each seed's pilot and measure it on the others."""
    fits: list[Fit | str] = []
    errors: list[HeldOut | None] = []
    for seed, correct_P_N in enumerate(correct_S_P_N):
        pilot = correct_P_N[:, :PILOT]
        try:
            fits.append(fit_coverage(law, pilot, resamples=RESAMPLES))
            errors.append(extrapolate(law, pilot, others(correct_S_P_N, seed), [FAR], resamples=RESAMPLES))
        except UnidentifiedError as error:
            fits.append(str(error))
            errors.append(None)
    return Tried(law, tuple(fits), tuple(errors))


def claims(setting: Setting, found: list[Tried], correct_S_P_N: np.ndarray) -> list[Claim]:
    """One for each law: the largest of its three errors; then what PassUntil says of pass@1."""
    seeds, problems, _ = correct_S_P_N.shape
    made = []
    for one in found:
        name = f"{setting.slug}-{one.law.name.replace(' ', '-')}"
        text = (
            f"pass@{FAR} on countdown(4), {setting.title}: the {one.law.name} of {PILOT} samples minus what other seeds measured, "
            "the largest error of three pilots"
        )
        worst = one.worst
        target = f"within {WITHIN}"
        if worst is None:
            made.append(
                Claim(name, f"{text} (refused)", float("nan"), float("nan"), float("nan"), target, False, problems, seeds)
            )
            continue
        intervals = [error.errors[0] for error in one.errors if error is not None]
        holds = all(each.low >= -WITHIN and each.high <= WITHIN for each in intervals)
        made.append(Claim(name, text, worst.value, worst.low, worst.high, target, holds, problems, seeds))
    stopped = [until(correct_P_N) for correct_P_N in correct_S_P_N]
    rates, likely, draws = (np.mean(column, axis=0) for column in zip(*stopped, strict=True))
    single = correct_S_P_N.mean(axis=(0, 2))
    for slug, name, values, target in (
        ("pass-until", f"(r - 1) / (K - 1) of PassUntil, r = {PASSES}", rates, "interval holds 0"),
        ("r-over-k", f"r / K of PassUntil, r = {PASSES}", likely, None),
    ):
        gap = paired_difference(values, single, seed=0, resamples=2000)
        text = f"mean of {name}, cap {FAR}, minus pass@1 of all samples, {setting.title}; {draws.mean():.0f} draws a problem against {FAR}"
        holds = not gap.excludes_zero if target else None
        made.append(Claim(f"{setting.slug}-{slug}", text, gap.value, gap.low, gap.high, target, holds, problems, seeds))
    return made


def until(correct_P_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates by PassUntil, its likelihood's maximum, and the draws, from verdicts in the order of their drawing."""
    so_far = correct_P_N.cumsum(axis=1)
    passes = np.minimum(so_far[:, -1], PASSES)
    draws = np.where(passes == PASSES, (so_far >= PASSES).argmax(axis=1) + 1, FAR)
    return pass_until(passes, draws, r=PASSES, cap=FAR), passes / draws, draws


def table(found: dict[Setting, list[Tried]], pools: dict[Setting, np.ndarray]) -> str:
    """Predictions and errors by law."""
    rows = [
        f"| setting | law | pass@{FAR} predicted by the three pilots | measured | error of each [95%] | pilot's own error, 4 to {PILOT} |",
        "|---|---|---|--:|---|---|",
    ]
    for setting, laws in found.items():
        [measured] = mean_intervals(pass_at_k(np.concatenate(pools[setting], axis=1), [FAR]), seed=0)
        for one in laws:
            fits = [each for each in one.fits if not isinstance(each, str)]
            if one.worst is None:
                rows.append(
                    f"| {setting.title} | {one.law.name} | refused: {next(e for e in one.fits if isinstance(e, str))} | | | |"
                )
                continue
            predicted = ", ".join(f"{each.predict([FAR])[0].value:.3f}" for each in fits)
            errors = ", ".join(
                f"{e.errors[0].value:+.3f} [{e.errors[0].low:+.3f}, {e.errors[0].high:+.3f}]" for e in one.errors if e is not None
            )
            own = ", ".join("-" if each.held_out is None else f"{each.held_out.errors[-1].value:+.3f}" for each in fits)
            rows.append(f"| {setting.title} | {one.law.name} | {predicted} | {measured.value:.3f} | {errors} | {own} |")
    return "\n".join(rows)


def figure(setting: Setting, found: list[Tried], correct_S_P_N: np.ndarray) -> None:
    """Measured coverage and what the laws made of the first seed's pilot."""
    whole = np.concatenate(correct_S_P_N, axis=1)
    seen = mean_intervals(pass_at_k(whole, SIZES), seed=0)
    drawn = [
        Series("measured", SIZES, *([getattr(one, part) for one in seen] for part in ("value", "low", "high")), kind="bound")
    ]
    drawn += [one.fits[0].series(SIZES, SHORT.get(one.law.name, "")) for one in found if isinstance(one.fits[0], Fit)]
    caption = f"{whole.shape[0]} problems; laws fitted to {PILOT} samples of each under one seed; measured on {whole.shape[1]}; bands: 95%"
    curve_figure(
        drawn,
        DOCS / "evidence" / f"{setting.slug}.png",
        title=f"coverage of countdown(4), {setting.title}",
        caption=caption,
        x_label="samples of each problem",
        y_label="pass@k",
    )


def turned(cool: tuple[list[str], np.ndarray], warm: tuple[list[str], np.ndarray]) -> tuple[list[Claim], str]:
    """Where the warmer policy overtakes the cooler, on the problems that both had."""
    both = [name for name in cool[0] if name in set(warm[0])]
    tables = [np.concatenate(correct, axis=1)[[names.index(name) for name in both]] for names, correct in (cool, warm)]
    found: Crossing = crossing(tables[0], tables[1], SIZES)
    rows = ["| k | temperature 0.5 minus 1 | 95% interval |", "|--:|--:|---|"]
    rows += [
        f"| {k} | {d.value:+.3f} | [{d.low:+.3f}, {d.high:+.3f}] |" for k, d in zip(found.k_K, found.differences, strict=True)
    ]
    text = "samples at which temperature 1 overtakes temperature 0.5 in coverage, lab/base"
    at = found.k
    claim = [] if at is None else [Claim("crossing", text, at.value, at.low, at.high, None, None, len(both), 3)]
    return claim, "\n".join(rows)


def main() -> None:
    """Sample, fit, claim, draw, and put the tables into the page."""
    pools: dict[Setting, tuple[list[str], np.ndarray]] = {}
    for setting in SETTINGS:
        pools[setting] = verdicts(setting)
    found = {setting: [tried(law, correct) for law in LAWS] for setting, (_, correct) in pools.items()}
    made = [claim for setting, laws in found.items() for claim in claims(setting, laws, pools[setting][1])]
    crossed, turn = turned(pools[SETTINGS[1]], pools[SETTINGS[0]])
    save("laws", [*made, *crossed])
    for setting, laws in found.items():
        figure(setting, laws, pools[setting][1])
    page = DOCS / "evidence" / "laws.md"
    insert(page, "laws", table(found, {setting: correct for setting, (_, correct) in pools.items()}))
    insert(page, "crossing", turn)


if __name__ == "__main__":
    main()
