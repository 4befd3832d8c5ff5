import re
import struct
import warnings
from itertools import pairwise

import pytest

from ponder.errors import DataError
from ponder.scaling.figure import LABEL, PALETTE, Series, _spread, curve_figure, labels, short


def line(name, y, kind="strategy"):
    x = [23.0 * 2**i for i in range(len(y))]
    return Series(name, x, y, [max(v - 0.05, 0) for v in y], [min(v + 0.05, 1) for v in y], kind)


CURVES = [
    line("pass@k", [0.3, 0.5, 0.7, 0.9], "bound"),
    line("self_consistency", [0.3, 0.4, 0.45, 0.5]),
    line("sample", [0.3]),
]


@pytest.mark.slow
def test_a_png_is_written_large_enough_to_read(tmp_path):
    path = curve_figure(CURVES, tmp_path / "new" / "curve.png", title="t", caption="300 problems, seed 0")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert (width, height) == (1600, 960)


@pytest.mark.slow
def test_an_svg_holds_the_texts_as_text_and_is_the_same_each_time(tmp_path):
    texts = {"title": "what $5 buys", "caption": "300 problems, seed 0"}
    first = curve_figure(CURVES, tmp_path / "a.svg", **texts).read_text(encoding="utf-8")
    second = curve_figure(CURVES, tmp_path / "b.svg", **texts).read_text(encoding="utf-8")
    assert first == second
    for text in ("what $5 buys", "300 problems, seed 0", "pass@k", "self_consistency", "tokens per question", "accuracy"):
        assert f">{text}</text>" in first
    assert PALETTE[0].lower() in first  # the first strategy has the first colour, whatever bound comes before it
    assert "stroke-dasharray" in first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$x$ and $unclosed", r"$\undefined{", "答案 ✓ 🙂", "a\nb\tc", "_" * 200, "<&>", ""])
def test_any_text_can_be_a_name(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for suffix in ("png", "svg"):
            curve_figure([line(name, [0.1, 0.2])], tmp_path / f"c.{suffix}", title=name, caption=name, x_label=name)


@pytest.mark.slow
@pytest.mark.parametrize("y", [[0.0], [1.0, 1.0], [0.5] * 14])
def test_flat_and_tiny_curves_draw(tmp_path, y):
    curve_figure([line(f"s{i}", y) for i in range(12)], tmp_path / "c.png", title="t")


def test_labels_keep_their_order_and_distance():
    places = _spread([0.5, 0.5, 0.52, 0.99, 1.0], gap=0.06)
    assert places[0] < places[1] < places[2]
    ordered = sorted(places)
    assert all(b - a > 0.0599 for a, b in pairwise(ordered))
    assert max(places) <= 1.0
    assert _spread([0.2, 0.8], gap=0.06) == [0.2, 0.8]


@pytest.mark.slow
def test_a_line_that_is_too_long_for_the_picture_keeps_its_ends(tmp_path):
    caption = f"hf:{'/folder' * 40}/model, 96 problems, 1 seed; bands: 95%"
    text = curve_figure(CURVES, tmp_path / "a.svg", title="t" * 200, caption=caption).read_text(encoding="utf-8")
    lines = re.findall(r">([^<>]*…[^<>]*)</text>", text)
    assert sorted(map(len, lines)) == [60, 120]
    assert any(line.startswith("hf:/folder") and line.endswith("/model, 96 problems, 1 seed; bands: 95%") for line in lines)


def test_what_is_cut_out_of_a_label_is_what_names_share():
    names = ["sample", "a\nb", *(f"auto(card='some/long/path/card.toml', budget={b})" for b in (150, 2500))]
    names += [f"rejection(reward_model('lab/prm'), threshold=0.{t}, otherwise='best')" for t in ("0059", "2131")]
    found = labels(names)
    assert found[:2] == ["sample", "a b"]
    assert found[2:4] == ["auto(card…toml', budget=150)", "auto(card…oml', budget=2500)"]
    assert found[4:] == ["rejection… threshold=0.0059…", "rejection… threshold=0.2131…"]
    assert max(map(len, found)) <= LABEL
    assert labels(["x" * 99, "x" * 99, "x" * 98]) == ["xxxxxxxxx…xxxxxxxxxxxxxxxxxx"] * 3


def test_a_label_loses_its_end_after_a_word_unless_the_end_tells_it_from_others():
    spine = ["best_of_n(confidence)", "rejection(confidence, threshold=0.95)", "pass@k (any of k correct)"]
    assert labels(spine) == ["best_of_n(confidence)", "rejection(confidence,…", "pass@k (any of k correct)"]
    assert labels(["vote [mine, temperature=0.75]", "vote [other, temperature=0.75]"]) == [
        "vote [mine, temperature=…",
        "vote [other, temperature=…",
    ]
    both = labels(["rejection(confidence, threshold=0.95)", "rejection(confidence, threshold=0.99)"])
    assert [one[-6:] for one in both] == ["=0.95)", "=0.99)"]
    assert labels(["a_word_of_more_than_half_the_room(n=8)"]) == ["a_word_of_more_than_half_th…"]
    for room in range(4, 40):
        assert all(len(one) <= room for one in labels(spine, room))
    exact = "rejection(confidence, aaaaa)"
    assert labels([exact]) == [exact]
    assert labels([f"{exact}b"]) == ["rejection(confidence, aaaaa…"], "a word that ends with the room is whole"


@pytest.mark.slow
def test_no_label_runs_off_the_edge(tmp_path, monkeypatch):
    """Letters of the widest kind would take nearly twice the margin; a common name keeps its size."""
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure

    right, size = {}, {}

    def measured(figure, part, **_):
        for dpi in (72, 100, 200):
            figure.set_dpi(dpi)
            renderer = RendererAgg(8 * dpi, 4.8 * dpi, dpi)
            for text in figure.axes[0].texts:
                right[text.get_text(), dpi] = text.get_window_extent(renderer).x1 / figure.bbox.x1
                size[text.get_text()] = text.get_fontsize()
        part.touch()

    monkeypatch.setattr(Figure, "savefig", measured)
    names = ("W" * LABEL, "m" * LABEL, "vote")
    curve_figure([line(name, [0.1, 0.2]) for name in names], tmp_path / "c.svg", title="t")
    assert max(right[name, dpi] for name in names for dpi in (72, 100, 200)) <= 1
    assert size["vote"] == 9.5
    assert 5 < size["W" * LABEL] < size["m" * LABEL] < 9.5


@pytest.mark.slow
def test_a_narrow_range_has_ticks_too(tmp_path):
    x = [0.73, 0.77, 0.85, 0.96]
    text = curve_figure([Series("a", x, x, x, x)], tmp_path / "a.svg", title="t").read_text(encoding="utf-8")
    assert all(f">{tick}</text>" in text for tick in ("0.7", "0.8", "0.9", "1"))


def test_ticks_are_short():
    assert [short(v) for v in (1, 23, 500, 1472, 20_000, 2_500_000, 3e9)] == [
        "1",
        "23",
        "500",
        "1.47k",
        "20k",
        "2.5M",
        "3G",
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (([1.0, 2.0], [0.5], [0.4], [0.6]), "equally many"),
        (([], [], [], []), "equally many"),
        (([1.0], [float("nan")], [0.4], [0.6]), "nan or infinity"),
        (([0.0], [0.5], [0.4], [0.6]), "must be > 0"),
        (([2.0, 1.0], [0.5] * 2, [0.4] * 2, [0.6] * 2), "ascending"),
        (([1.0], [0.5], [0.55], [0.6]), "0.55..0.6 around 0.5"),
    ],
)
def test_a_series_that_is_no_curve_is_refused(values, words):
    with pytest.raises(ValueError, match=f"series 'maj'.*{words}"):
        Series("maj", *values)


def test_other_formats_and_empty_figures_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"c\.pdf ends in '\.pdf'"):
        curve_figure(CURVES, tmp_path / "c.pdf", title="t")
    with pytest.raises(ValueError, match="at least one"):
        curve_figure([], tmp_path / "c.png", title="t")


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_leaves_nothing_half_done(tmp_path):
    (tmp_path / "c.png").mkdir()
    with pytest.raises(
        DataError, match=r"c\.png: cannot be drawn \(Is a directory\); name a file in a folder that can be written and has room"
    ):
        curve_figure(CURVES, tmp_path / "c.png", title="t")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be drawn"):
        curve_figure(CURVES, tmp_path / "file" / "c.svg", title="t")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.png", "file"]


def test_a_front_is_drawn_as_steps_behind_the_lines(tmp_path):
    line = Series("a", [10, 20], [0.2, 0.4], [0.1, 0.3], [0.3, 0.5])
    plain = curve_figure([line], tmp_path / "plain.svg", title="t").read_text()
    stepped = curve_figure([line], tmp_path / "front.svg", title="t", front=[(10, 0.2), (20, 0.4)]).read_text()
    assert "#f2d98b" not in plain
    assert "#f2d98b" in stepped
    assert stepped.index("#f2d98b") < stepped.index(PALETTE[0].lower()), "behind: drawn before"
