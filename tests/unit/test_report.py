"""The page loads and runs nothing, whatever stands in it: names, questions and answers are those of an enemy."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ponder.cli import report
from ponder.cli.axes import COUNTS, Unit
from ponder.cli.compare import Source, compared
from ponder.cli.curve import Line
from ponder.errors import DataError

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "]]><!--<svg onload=alert(1)>-->",
    "\u202egnitirw thgir ot tfel\u2066",
    "\x00\x1b[31m\ud800\ufffe\x7f",
    "$\\frac{1}{0}$ &amp; &#60;b&#62;",
    "[a](javascript:alert(1)) ![b](https://evil.example/x.png) www.evil.example |`|",
    "x" * 1_000_000,
    "مرحبا بالعالم",
)


def line(strategy, task="task", *, ids=HOSTILE, bound=False, right=1, cell=None):
    n = len(ids)
    values = np.stack([(np.arange(n) < right + k).astype(float) for k in range(3)], axis=1)
    spent = np.zeros((n, 3, len(COUNTS)))
    spent[:, :, COUNTS.index("completion")] = [10, 20, 40]
    cell = cell or f"{strategy} | p | t=1"
    return Line(cell, strategy, "runs", bound, 1, [1, 2, 4], values, spent[:, :, 3], spent, tuple(ids), task, "print")


def hostile():
    lines = tuple(line(text, right=at) for at, text in enumerate(HOSTILE))
    answers = {(a, b): c for a, b, c in zip(HOSTILE, HOSTILE[1:] + HOSTILE[:1], HOSTILE[2:] + HOSTILE[:2], strict=True)}
    questions = dict(zip(HOSTILE, reversed(HOSTILE), strict=True))
    source = Source(Path("<b>&'\""), lines, {text[:50]: text for text in HOSTILE}, questions, answers, HOSTILE)
    return compared([source], Unit())


class Page(HTMLParser):
    """Every start tag with its attributes, and the text of every element."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page():
    return report.html(hostile())


def test_no_element_of_the_page_is_the_enemys(page):
    found = Page(page)
    names = {tag for tag, _ in found.tags}
    assert names.isdisjoint({"script", "img", "iframe", "object", "embed", "link", "base", "form", "a", "b", "foreignobject"})
    assert [tag for tag, _ in found.tags].count("style") == 1
    for _, attributes in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert all(str(attributes.get(name, "#")).startswith("#") for name in ("href", "xlink:href", "src"))
        addresses = [value for name, value in attributes.items() if "//" in str(value) and not name.startswith("xmlns")]
        assert all("evil.example" in value for value in addresses), "shown in a label, never loaded"


def test_what_is_hostile_is_shown_as_it_is_written(page):
    text = "".join(Page(page).texts)
    for shown in ("<script>alert(1)</script>", "{{ 7 * 7 }}", "\"'><img src=x onerror=alert(1)>", "مرحبا", "&#60;b&#62;"):
        assert shown in text


def test_nothing_that_steers_or_cannot_be_encoded_gets_into_the_page(page):
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    page.encode("utf-8")


def test_huge_texts_are_cut(page):
    assert len(page) < 600_000
    assert "x" * 4001 not in page


def test_the_policy_of_the_page_forbids_all_but_its_own_style_sheet(page):
    [policy] = [
        attributes["content"] for tag, attributes in Page(page).tags if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    [style] = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "unsafe" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>")
    assert "url(" not in style
    assert "@import" not in style


def test_the_figure_is_in_the_page_with_its_text_as_text(page):
    told = compared([Source(Path("one"), (line("sample"), line("pass@k", bound=True, right=4)))], Unit())
    text = report.html(told)
    [figure] = re.findall(r"<figure>\s*<div[^>]*>\s*(<svg (?!class=.heat).*?</svg>)", text, re.DOTALL)
    root = ElementTree.fromstring(figure)
    words = {"".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"sample", "pass@k", "tokens per question", "accuracy"} <= words
    assert not [node for node in root.iter() if "style" in node.attrib]
    names = [node.attrib["id"] for node in root.iter() if "id" in node.attrib]
    assert all(name.startswith("f0-") for name in names)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', figure)
    assert used
    assert set(used) <= set(names)
    assert 'fill="none"' in figure or 'fill="#0072b2"' in figure


def test_every_problem_is_in_the_heat_map_until_columns_are_shared():
    told = compared([Source(Path("one"), (line("sample", ids=[f"q{i}" for i in range(300)], right=100),))], Unit())
    [whole] = re.findall(r'<svg class="heat".*?</svg>', report.html(told, columns=300), re.DOTALL)
    assert re.findall(r"<title>(q\d+): (?:1.000|.000)</title>", whole) == [f"q{i}" for i in [*range(102, 300), *range(102)]]
    [shared] = re.findall(r'<svg class="heat".*?</svg>', report.html(told, columns=100), re.DOTALL)
    assert shared.count("<title>3 problems: ") == 100
    assert shared.count('class="h10"') == 34 + 1  # in the key


def test_a_page_that_would_be_too_large_is_drawn_coarser_or_refused(tmp_path, monkeypatch):
    told = compared([Source(Path("one"), (line("sample", ids=[f"q{i}" for i in range(300)], right=100),))], Unit())
    full = report.write_html(told, tmp_path / "full.html")
    monkeypatch.setattr(report, "LARGEST", full - 1)
    assert report.write_html(told, tmp_path / "less.html") < full
    monkeypatch.setattr(report, "LARGEST", 1000)
    with pytest.raises(DataError, match="at most 1,000 are allowed; compare fewer studies"):
        report.write_html(told, tmp_path / "none.html")
    with pytest.raises(DataError, match="cannot be written"):
        report.write_markdown(told, tmp_path / "nowhere" / "r.md")


def test_markdown_shows_what_is_hostile_and_links_nothing():
    text = report.markdown(hostile())
    assert "<" not in text
    assert not re.search(r"(?<!\\)\[(?!\.|-|\d)", text.replace("| [", "| ("))
    assert not re.search(r"(?i)(https?:|www\.)", text)
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7, 8}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_markdown_holds_findings_tables_and_method():
    told = compared([Source(Path("one"), (line("a", right=1), line("b", right=3)), notes=("2 samples failed",))], Unit())
    text = report.markdown(told)
    assert text.startswith("# Comparison: one\n\n## a (11 problems)\n\n- Pareto front, cheapest first: b from 10 to 40 tokens")
    assert "| a | 1 | 10 | .091 | [.000, .273] |  |" in text
    assert "| b | 4 | 40 | .455 | " in text
    assert "- one: 2 samples failed" in text
    assert "3 comparisons were made" in text


def test_provenance_stands_in_the_page():
    told = compared([Source(Path("one"), (line("a"),), {"python": "3.11", "git": None})], Unit())
    assert json.loads("".join(Page(re.findall(r"<pre>.*?</pre>", report.html(told), re.DOTALL)[0]).texts)) == {
        "python": "3.11",
        "git": None,
    }


def test_where_comparisons_are_left_out_the_established_ones_stay_and_it_is_said():
    lines = [line(name, right=right, ids=[f"q{i}" for i in range(40)]) for name, right in (("a", 5), ("b", 6), ("c", 30))]
    told = compared([Source(Path("one"), tuple(lines))], Unit())
    text = report.html(told, rows=4)
    assert "4 comparisons of 9, those established first" in text
    assert text.count('<tr class="decided">') == 4
    assert report.html(told).count('<tr class="decided">') == 6


def test_long_lists_of_findings_are_folded_and_one_is_not_called_many(monkeypatch):
    lines = [line(name, right=right, ids=[f"q{i}" for i in range(40)]) for name, right in (("a", 5), ("b", 6), ("c", 30))]
    text = report.html(compared([Source(Path("one"), tuple(lines))], Unit()))
    assert "<summary>1 pair without an established difference</summary>" in text
    assert "more established differences" not in text
    monkeypatch.setattr(report, "FINDINGS", 1)
    folded = report.html(compared([Source(Path("one"), tuple(lines))], Unit()))
    assert "<summary>2 more established differences</summary>" in folded
    assert folded.count("beats") == text.count("beats")


def test_what_was_left_out_is_said_before_anything_else():
    text = report.html(compared([Source(Path("one"), (line("a"),), notes=("24 of 120 problems are not finished",))], Unit()))
    assert text.index("24 of 120 problems") < text.index("<h2")
    assert text.count("24 of 120 problems") == 1


def test_an_answer_is_called_one():
    answers = {("a", "q0"): "42", ("b", "q0"): "no answer"}
    lines = (line("a", ids=["q0", "q1"], right=-1), line("b", ids=["q0", "q1"], right=-2))
    text = "".join(Page(report.html(compared([Source(Path("one"), lines, answers=answers)], Unit()))).texts)
    assert "a: 1.000, answered 42" in text
    assert "b: .000, no answer" in text


def test_long_answers_that_begin_alike_show_where_they_differ():
    answers = {(name, "q0"): "def f(x):\n" + "    pass\n" * 50 + f"    return {name * 3}" for name in "ab"}
    lines = (line("a", ids=["q0"], right=-1), line("b", ids=["q0"], right=-3))
    text = "".join(Page(report.html(compared([Source(Path("one"), lines, answers=answers)], Unit()))).texts)
    assert text.count("answered def f(x): pass") == 2
    assert "pass return aaa" in text
    assert "pass return bbb" in text


def test_a_column_of_several_problems_says_how_many():
    told = compared([Source(Path("one"), (line("sample", ids=[f"q{i}" for i in range(300)], right=100),))], Unit())
    assert "A column is the mean of 1 or 2 problems" in report.html(told, columns=240)
    assert "A column is the mean of 3 problems" in report.html(told, columns=100)
    assert "A column is a problem," in report.html(told, columns=300)
