"""One figure for every study: accuracy against tokens per question, with bands.

Strategies are solid lines with a marker at every size; bounds that no strategy can buy without the reference (pass@k)
are dashed. The first six colours are those of Okabe and Ito (2008), told apart with every common colour blindness; two more follow, and every series
has a marker shape of its own, and beyond eight of them the lines are dotted. Labels stand at the ends of the lines, pushed apart where they would
touch; a long one loses its end, or where that tells it from others, what it shares with them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ponder.errors import DataError
from ponder.files import whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C564B")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
BOUND_COLOUR = "#5A5A5A"
INK, FAINT = "#222222", "#E3E3E3"
LEFT = 0.09  # where the axes, the title and the caption begin
LABEL = 28  # characters that the margin right of the axes has room for
FILLED = 0.98  # of that margin's width by the widest label
TITLE, CAPTION = 60, 120  # and the lines above and below


@dataclass(frozen=True, slots=True)
class Series:
    """One line of the figure.

    Attributes:
        name: what the reader calls it; any text, shown as it is.
        x: tokens per question, > 0 and ascending; one point for each size.
        y: accuracy in [0, 1].
        low: lower end of the interval at each point, <= y.
        high: upper end, >= y.
        kind: "strategy" can be had without the reference, "bound" cannot.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    kind: Literal["strategy", "bound"] = "strategy"

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.x, self.y, self.low, self.high)]
        if min(lengths) < 1 or min(lengths) != max(lengths):
            raise ValueError(f"series {self.name!r} has {lengths} numbers in x, y, low, high; they must be equally many")
        if not all(isfinite(v) for values in (self.x, self.y, self.low, self.high) for v in values):
            raise ValueError(f"series {self.name!r} holds nan or infinity; leave out the points that were not measured")
        if self.x[0] <= 0 or any(b <= a for a, b in pairwise(self.x)):
            raise ValueError(f"series {self.name!r} has x = {list(self.x)}; tokens must be > 0 and ascending")
        for low, y, high in zip(self.low, self.y, self.high, strict=True):
            if not low <= y <= high:
                raise ValueError(f"series {self.name!r} has the interval {low}..{high} around {y}; it must contain it")


def curve_figure(
    series: Sequence[Series],
    path: Path | str,
    *,
    title: str,
    caption: str = "",
    x_label: str = "tokens per question",
    y_label: str = "accuracy",
    front: Sequence[tuple[float, float]] = (),
) -> Path:
    """Draw the series and write the file; nothing is shown and no display is needed.

    Args:
        series: at least one; drawn in this order, colours given to the strategies in this order.
        path: ends in .png (200 dots per inch) or .svg; parent folders are created.
        title: one line above the figure, at most 60 characters of it.
        caption: one line below, at most 120: problems, seeds, what the bands are.
        x_label: of the logarithmic axis.
        y_label: of the linear axis.
        front: (x, y) of a Pareto front, x ascending, drawn as broad steps behind the lines.

    Returns:
        The path written.

    Raises:
        ValueError: no series, or a suffix that is neither .png nor .svg.
        DataError: the file cannot be written; what stood there stays.
    """
    path = Path(path)
    if not series:
        raise ValueError("a figure without series shows nothing; give at least one")
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"{path.name} ends in {path.suffix!r}; a figure is a .png or a .svg")
    import warnings

    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A dollar in a name is a dollar. A fixed salt and no date: the same curve gives the same SVG, byte for byte.
    with (
        rc_context(
            {
                "font.family": "DejaVu Sans",
                "font.size": 9.5,
                "text.parse_math": False,
                "text.usetex": False,
                "text.hinting": "none",  # widths then scale with size and resolution, and labels fit in all of them
                "svg.hashsalt": "ponder",
                "svg.fonttype": "none",
            }
        ),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a box in the picture, not a failure
        figure = Figure(figsize=(8.0, 4.8), facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((LEFT, 0.155, 0.62, 0.735))
        _frame(axes, series, x_label, y_label)
        strategies = [one for one in series if one.kind == "strategy"]
        if front:
            _steps(axes, front)
        shade = min(1.0, 5 / len(series))  # bands of many lines lie over each other
        ends = [_line(axes, one, strategies.index(one) if one in strategies else len(strategies), shade) for one in series]
        _label_ends(axes, ends)
        figure.text(LEFT, 0.935, _line_of(title, TITLE), fontsize=13, weight="bold", color=INK)
        figure.text(LEFT, 0.025, _line_of(caption, CAPTION), fontsize=8, color="#666666")
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as part:
                figure.savefig(part, dpi=200, metadata=metadata, format=path.suffix[1:].lower() or None)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be drawn ({error.strerror}); name a file in a folder that can be written and has room"
            ) from None
    return path


def _line(axes: Axes, one: Series, number: int, shade: float) -> tuple[Series, str]:
    bound = one.kind == "bound"
    colour = BOUND_COLOUR if bound else PALETTE[number % len(PALETTE)]
    again = number // len(PALETTE)  # how often all colours have been given before
    if len(one.x) == 1:
        axes.vlines(one.x, one.low, one.high, color=colour, linewidth=1.6, zorder=3)
    else:
        axes.fill_between(one.x, one.low, one.high, color=colour, alpha=shade * (0.08 if bound else 0.13), linewidth=0)
        for edge in (one.low, one.high):
            axes.plot(one.x, edge, color=colour, alpha=0.35, linewidth=0.6, zorder=1)
    axes.plot(
        one.x,
        one.y,
        color=colour,
        linestyle=(0, (5, 2.5)) if bound else (0, (1, 1)) if again else "-",
        linewidth=1.4 if bound else 2.0,
        marker=MARKERS[(number + again) % len(MARKERS)],
        markersize=4.0 if bound else 5.0,
        markeredgecolor="white",
        markeredgewidth=0.7,
        zorder=2 if bound else 4 if len(one.x) == 1 else 3,
        clip_on=False,
    )
    axes.hlines(one.y[-1], one.x[-1], axes.get_xlim()[1], color=colour, linewidth=0.8, linestyle=":", zorder=1)
    return one, colour


def _steps(axes: Axes, front: Sequence[tuple[float, float]]) -> None:
    """The best that each cost buys, up to the right edge."""
    x, y = [cost for cost, _ in front], [value for _, value in front]
    axes.step(
        [*x, axes.get_xlim()[1]], [*y, y[-1]], where="post", color="#F2D98B", linewidth=7, solid_capstyle="butt", zorder=0.5
    )


def _frame(axes: Axes, series: Sequence[Series], x_label: str, y_label: str) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    left, right = min(one.x[0] for one in series), max(one.x[-1] for one in series)
    axes.set_xlim(left / 1.12, right * 1.12)
    measured = sorted({x for one in series for x in one.x})
    if len(measured) <= 10 and all(b / a >= 1.4 for a, b in pairwise(measured)):
        axes.xaxis.set_major_locator(FixedLocator(measured))
        axes.xaxis.set_minor_locator(FixedLocator([]))
    elif 1 < right / left < 4:  # hardly a decade's 1, 2 and 5 would stand in it
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axes.xaxis.set_minor_locator(FixedLocator([]))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if right / left >= 1000 else (1.0, 2.0, 5.0), numticks=20))
        axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=100))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = min(min(one.low) for one in series), max(max(one.high) for one in series)
    pad = max(0.03, 0.06 * (high - low))
    axes.set_ylim(max(0.0, low - pad), min(1.0, high + pad))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(100 * value, 1):g}%"))
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.7)
    axes.grid(axis="x", which="major", color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#888888")
    axes.tick_params(which="both", color="#888888", labelcolor=INK)


def _label_ends(axes: Axes, ends: Sequence[tuple[Series, str]]) -> None:
    """Each name right of the axes at the height of its line's end, at least one text line apart, and a thin leader; wide letters are drawn smaller."""
    low, high = axes.get_ylim()
    heights = [(min(max(one.y[-1], low), high) - low) / (high - low) for one, _ in ends]
    places = _spread(heights, gap=min(0.058, 1.0 / len(heights)))
    names = labels([one.name for one, _ in ends])
    for (_, colour), name, height, place in zip(ends, names, heights, places, strict=True):
        axes.annotate(
            "",
            xy=(1.0, height),
            xytext=(1.03, place),
            xycoords="axes fraction",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0},
        )
        label = axes.text(1.037, place, name, transform=axes.transAxes, color=colour, va="center")
        box = label.get_window_extent()
        room = FILLED * (axes.figure.bbox.x1 - box.x0)
        if box.width > room:
            label.set_fontsize(label.get_fontsize() * room / box.width)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Places in [0, 1] in the order of the heights, each `gap` from the next, near their heights."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    places = [0.0] * len(heights)
    floor = 0.0
    for i in order:
        places[i] = max(heights[i], floor)
        floor = places[i] + gap
    ceiling = 1.0
    for i in reversed(order):
        places[i] = min(places[i], ceiling)
        ceiling = places[i] - gap
    return places


def labels(names: Sequence[str], room: int = LABEL) -> list[str]:
    """Each name on one line of at most `room` characters.

    Of a long one its beginning, cut after a word; where others begin alike its beginning and end, or its beginning and what tells it from those
    that share both.
    """
    lines = [" ".join(name.split()) for name in names]
    begun = [_beginning(line, room) for line in lines]
    cut = [one if begun.count(one) == 1 else _line_of(line, room) for one, line in zip(begun, lines, strict=True)]
    for label in {one for one in cut if cut.count(one) > 1}:
        alike = [at for at, one in enumerate(cut) if one == label]
        ends = zip(*(lines[at][::-1] for at in alike), strict=False)
        shared = next((place for place, those in enumerate(ends) if len(set(those)) > 1), 0)
        for at in alike:
            told = lines[at][: len(lines[at]) - shared]
            cut[at] = f"{_line_of(told, room - 1)}…" if shared else label
    return cut


def _beginning(line: str, room: int) -> str:
    """As much of a line as `room` characters hold, cut after a word or number; within one that fills more than half of the room."""
    if len(line) <= room:
        return line
    part = re.split(r"[\w.]+$", line[:room])[0].rstrip()[: room - 1]
    return f"{part if 2 * len(part) >= room else line[: room - 1]}…"


def _line_of(text: str, room: int) -> str:
    """A text on one line, of at most `room` characters: its beginning and its end."""
    line, head = " ".join(text.split()), room // 3
    return line if len(line) <= room else f"{line[:head]}…{line[head + 1 - room :]}"


def short(value: float) -> str:
    """Three digits and a unit: 1000 is 1k, 2500000 is 2.5M."""
    for unit, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"
