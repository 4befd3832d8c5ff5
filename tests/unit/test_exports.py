"""Files of examples: what trainers read, what comes back, and what the card says of it."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter

import pyarrow.parquet
import pytest

from ponder.errors import DataError, MissingExtraError, UsageError
from ponder.learners.datasets import Sample, held_out, pairs, steps_of
from ponder.learners.exports import (
    Choice,
    card_path,
    export,
    read,
    read_pairs,
    read_stepwise,
    stepwise_row,
    write,
)
from ponder.learners.labels import Stepwise
from ponder.types import Message, user

NASTY = 'a "b"\r\n\u2028\tc\x00 \U0001f600\n\nend'


def sample(text, correct, problem="p", **more):
    chosen = {
        "prompt": (Message("system", ("Think.",)), user(f"What of {problem}?")),
        "answer": text.strip()[-1:] or None,
        "finish": "stop",
        "policy": "lab",
        "temperature": 1.0,
        "difficulty": None,
        "tokens": 7,
        "stream": "0",
    }
    return Sample(problem=problem, steps=steps_of(text), correct=correct, **(chosen | more))


TOLD = [
    sample("1+1=2\nanswer: 2\n", True, index=0),
    sample("1 + 1 = 2\nso 2", True, index=1, temperature=0.3, policy="other", stream="1/hint"),
    sample("1+1=3\n", False, index=2),
    sample(NASTY, False, index=3, answer=None),
    sample("1+1=", False, index=4, finish="length", answer=None),
    sample("\u00e9t\u00e9", True, "q", difficulty=2.5, tokens=1),
    sample("", False, "q", difficulty=2.5, tokens=1, answer=None),
]
WHOLE = [one for one in TOLD if one.finish == "stop"]
files = pytest.mark.parametrize("ending", ["jsonl", "parquet"])


def rows(path):
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    return pyarrow.parquet.read_table(path).to_pylist()


@files
@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("samples", WHOLE),
        ("unpaired", WHOLE),
        ("prompt_completion", [one for one in TOLD if one.correct]),
    ],
)
def test_samples_come_back_as_they_were(tmp_path, ending, kind, kept):
    file = tmp_path / f"x.{ending}"
    export(TOLD, file, kind)
    assert read(file) == kept


@files
def test_cut_samples_come_along_on_demand_and_are_never_right(tmp_path, ending):
    for kind in ("samples", "unpaired"):
        export(TOLD, tmp_path / f"x.{ending}", kind, Choice(truncated=True, distinct="no"))
        assert read(tmp_path / f"x.{ending}") == TOLD
    assert [row["label"] for row in rows(tmp_path / f"x.{ending}")] == [one.correct for one in TOLD]
    export(TOLD, tmp_path / f"x.{ending}", "prompt_completion", Choice(truncated=True))
    assert all(one.correct and one.finish == "stop" for one in read(tmp_path / f"x.{ending}"))
    export(TOLD, tmp_path / f"x.{ending}", "preference", Choice(truncated=True))
    assert Counter(pair.rejected.finish for pair in read_pairs(tmp_path / f"x.{ending}")) == {"stop": 5, "length": 2}


@files
def test_pairs_come_back_as_they_were(tmp_path, ending):
    export(TOLD, tmp_path / f"x.{ending}", "preference")
    assert read_pairs(tmp_path / f"x.{ending}") == pairs(WHOLE)
    assert len(pairs(WHOLE)) == 5


@files
def test_labels_come_back_as_they_were(tmp_path, ending):
    chains = [
        Stepwise("p", (user("?"),), ("a\n", "b\n", NASTY), (0.25, None, 1.0)),
        Stepwise("q", (user("?"),), ("a\n",), (None,), finished=False),
    ]
    write(tmp_path / f"x.{ending}", "stepwise", [stepwise_row(chain) for chain in chains], {"rollouts": 8})
    assert read_stepwise(tmp_path / f"x.{ending}") == chains
    assert json.loads(card_path(tmp_path / f"x.{ending}").read_text())["rollouts"] == 8


@files
def test_of_samples_the_verdict_is_the_label_of_the_last_step_alone(tmp_path, ending):
    export(TOLD, tmp_path / f"x.{ending}", "stepwise", Choice(truncated=True))
    labels = [chain.labels for chain in read_stepwise(tmp_path / f"x.{ending}")]
    assert labels == [(None, 1.0), (None, 1.0), (0.0,), (None, None, 0.0), (None,), (1.0,), ()]


@files
def test_the_columns_are_those_of_the_trainers(tmp_path, ending):
    heads = {}
    for kind in ("prompt_completion", "unpaired", "preference", "stepwise"):
        export(TOLD, tmp_path / f"x.{ending}", kind)
        heads[kind] = rows(tmp_path / f"x.{ending}")[0]
    asked = [{"role": "system", "content": "Think."}, {"role": "user", "content": "What of p?"}]
    assert all(head["prompt"] == asked for head in heads.values())
    assert heads["prompt_completion"]["completion"] == "1+1=2\nanswer: 2\n"
    assert (heads["unpaired"]["completion"], heads["unpaired"]["label"]) == ("1+1=2\nanswer: 2\n", True)
    assert heads["preference"]["chosen"] in (TOLD[0].text, TOLD[1].text)
    assert heads["preference"]["rejected"] in (TOLD[2].text, NASTY)
    assert heads["stepwise"]["completions"] == ["1+1=2\n", "answer: 2\n"]
    assert heads["stepwise"]["labels"] == [None, 1.0]


def test_a_row_holds_all_that_is_known_of_a_sample(tmp_path):
    export(TOLD[1:2], tmp_path / "x.jsonl")
    assert rows(tmp_path / "x.jsonl") == [
        {
            "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "What of p?"}],
            "completion": "1 + 1 = 2\nso 2",
            "problem": "p",
            "correct": True,
            "answer": "2",
            "finish": "stop",
            "policy": "other",
            "temperature": 0.3,
            "difficulty": None,
            "tokens": 7,
            "stream": "1/hint",
            "index": 1,
            "ends": [10, 14],
        }
    ]


@files
def test_the_card_tells_what_was_chosen_from_what_and_how(tmp_path, ending):
    file = tmp_path / f"x.{ending}"
    card = export(TOLD, file, "prompt_completion", Choice(most=1), left_out={"without a verdict": 3})
    assert card == json.loads(card_path(file).read_text("utf-8"))
    assert card["policies"] in ({"lab": 2}, {"lab": 1, "other": 1})
    assert card["temperatures"] in ({"1.0": 2}, {"0.3": 1, "1.0": 1})
    rest = {key: value for key, value in card.items() if key not in ("policies", "temperatures")}
    assert rest == {
        "kind": "prompt_completion",
        "file": file.name,
        "rows": 2,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "samples": 2,
        "problems": 2,
        "correct_share": 1.0,
        "tokens": 8,
        "choice": {
            "distinct": "text", "most": 1, "balanced": False, "truncated": False, "side": None, "share": 0.1, "seed": 0,
        },
        "chosen_from": {"samples": 7, "problems": 2, "correct_share": 3 / 7, "tokens": 37},
        "left_out": {"without a verdict": 3},
    }  # fmt: skip


def test_a_card_of_pairs_counts_each_sample_once(tmp_path):
    card = export(TOLD, tmp_path / "x.jsonl", "preference")
    assert (card["rows"], card["samples"], card["problems"], card["correct_share"], card["tokens"]) == (5, 6, 2, 0.5, 30)


def test_choices_are_made_one_after_the_other(tmp_path):
    """Distinct before the cap, or duplicates would take its places; the cap before the balance, or levels would be uneven again."""
    told = [sample(f"So {of}+{at}=0", True, f"easy{of}", difficulty=1.0, index=at) for of in range(5) for at in range(2)]
    told += [sample(f"{word} {at}+0={at}", True, "hard", difficulty=2.0) for at in range(6) for word in ("So", "Now", "Then")]

    def count(choice):
        export(told, tmp_path / "x.jsonl", "prompt_completion", choice)
        found = read(tmp_path / "x.jsonl")
        return sum(one.problem != "hard" for one in found), sum(one.problem == "hard" for one in found)

    assert count(Choice("text")) == (10, 18)
    assert count(Choice("derivation")) == (10, 6)
    assert count(Choice("derivation", most=6)) == (10, 6)
    assert count(Choice("derivation", most=4)) == (10, 4)
    assert count(Choice("derivation", most=4, balanced=True)) == (4, 4)


def test_what_says_the_same_is_told_once_unless_asked_for(tmp_path):
    for choice, kept in ((None, 1), (Choice(), 1), (Choice(distinct="no"), 3)):
        assert export(TOLD[:1] * 3, tmp_path / "x.jsonl", choice=choice)["rows"] == kept


def test_levels_are_measured_before_right_samples_are_chosen(tmp_path):
    told = [sample(f"{at}", at < right, name, index=at) for name, right in (("easy", 8), ("hard", 2)) for at in range(8)]
    export(told, tmp_path / "x.jsonl", "prompt_completion", Choice(balanced=True))
    assert [sum(one.problem == name for one in read(tmp_path / "x.jsonl")) for name in ("easy", "hard")] == [2, 2]


def test_the_sides_of_the_split_are_exported_apart(tmp_path):
    told = [sample("2", True, f"p{at}") for at in range(40)]
    sides = {}
    for side in ("train", "evaluation"):
        export(told, tmp_path / "x.jsonl", choice=Choice(side=side, share=0.25, seed=1))
        sides[side] = {one.problem for one in read(tmp_path / "x.jsonl")}
    assert sides["evaluation"] == {f"p{at}" for at in range(40) if held_out(f"p{at}", share=0.25, seed=1)}
    assert sides["train"] == {f"p{at}" for at in range(40)} - sides["evaluation"]


def test_equal_choices_give_equal_bytes(tmp_path):
    written = []
    for name in ("a.jsonl", "b.jsonl"):
        assert export(iter(TOLD), tmp_path / name, "preference", Choice(most=2))["rows"] == 2 + 1
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


# ---- what goes wrong ----


def test_an_export_without_an_example_is_an_error(tmp_path):
    message = r"x.jsonl: of 2 samples \(0 right\) none makes a prompt_completion example; sample more problems or more often"
    with pytest.raises(DataError, match=message):
        export(TOLD[2:4], tmp_path / "x.jsonl", "prompt_completion")
    with pytest.raises(DataError, match=r"of 0 samples \(0 right\) none makes a samples example"):
        export([], tmp_path / "x.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_its_card_does_not_describe_is_refused(tmp_path):
    file = tmp_path / "x.jsonl"
    export(TOLD, file)
    file.write_text(file.read_text("utf-8").replace('"correct": false', '"correct": true'), "utf-8")
    with pytest.raises(
        DataError, match=r"x.jsonl: is not the file that x.jsonl.card.json describes; export it again, or remove the card$"
    ):
        read(file)
    card_path(file).write_text("{")
    with pytest.raises(DataError, match=r"x.jsonl.card.json: is not what an export wrote \(JSONDecodeError"):
        read(file)
    card_path(file).unlink()
    assert all(one.correct for one in read(file))


@pytest.mark.parametrize(
    "change",
    [
        {"ends": [3]},
        {"ends": None},
        {"correct": 1},
        {"prompt": "What?"},
        {"completion": None},
        {"finish": "length"},
    ],
)
def test_a_row_that_is_no_sample_is_named(tmp_path, change):
    file = tmp_path / "x.jsonl"
    export(TOLD[:2], file)
    first, second, _ = file.read_text("utf-8").split("\n")
    file.write_text(f"{first}\n\n{json.dumps({**json.loads(second), **change})}\n", "utf-8")
    card_path(file).unlink()
    with pytest.raises(DataError, match=r"x.jsonl:3: is not what an export wrote \("):
        read(file)


@files
def test_a_file_of_another_kind_is_refused(tmp_path, ending):
    export(TOLD, tmp_path / f"x.{ending}", "preference")
    for reader in (read, read_stepwise):
        with pytest.raises(DataError, match=rf"x.{ending}:1: is not what an export wrote \(KeyError"):
            reader(tmp_path / f"x.{ending}")


def test_a_torn_file_is_refused(tmp_path):
    for ending, body in (("jsonl", b'{"prompt"'), ("jsonl", b"\xff"), ("parquet", b"PAR1 and then nothing")):
        (tmp_path / f"x.{ending}").write_bytes(body)
        with pytest.raises(DataError, match=r"is not what an export wrote|cannot be read as Parquet"):
            read(tmp_path / f"x.{ending}")


def test_places_that_cannot_be_written_or_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no/x.jsonl: cannot be written \(No such file or directory\); name a file in a folder"):
        export(TOLD, tmp_path / "no" / "x.jsonl")
    with pytest.raises(
        DataError, match=r"no.jsonl: cannot be read \(No such file or directory\); give a file that an export wrote"
    ):
        read(tmp_path / "no.jsonl")
    with pytest.raises(UsageError, match=r"x.csv: examples are written as .jsonl or .parquet, not '.csv'"):
        export(TOLD, tmp_path / "x.csv")


def test_a_prompt_with_an_image_or_in_parts_is_not_flattened(tmp_path):
    told = sample("2", True, prompt=(Message("user", ("One", "two")),))
    with pytest.raises(DataError, match=r"^problem 'p': a message of its prompt is not one text but 2 parts; exports hold plain"):
        export([told], tmp_path / "x.jsonl")


def test_parquet_needs_an_extra_and_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ponder-ttc\[data\]'"):
        export(TOLD, tmp_path / "x.parquet")
    with pytest.raises(MissingExtraError):
        read(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"completions": "ab"}, "completions must be a list of texts"),
        ({"completions": ["a", ""]}, "none of them empty"),
        ({"completions": [1, "b"]}, "completions must be a list of texts"),
        ({"labels": [1.0]}, "1 labels for 2 steps"),
        ({"labels": [1.0, float("nan")]}, "a label is nan"),
        ({"labels": [1.0, "0"]}, "not supported between"),
        ({"problem": 7}, "problem must be a text"),
        ({"finished": "no"}, "finished true or false"),
        ({"prompt": [{"role": "user", "content": 5}]}, "the content of a message must be a text"),
        ({"prompt": None}, "not iterable"),
    ],
)
def test_labels_of_another_shape_are_refused_with_their_row(tmp_path, change, message):
    good = {
        "prompt": [{"role": "user", "content": "q"}],
        "completions": ["a", "b"],
        "labels": [1.0, None],
        "problem": "p",
        "finished": True,
    }
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(DataError, match=rf"labels.jsonl:2: is not what an export wrote .*{message}"):
        read_stepwise(file)
    file.write_text(json.dumps(good) + "\n" + "[" * 100_000)
    with pytest.raises(DataError, match=r"labels.jsonl:2: is not what an export wrote"):
        read_stepwise(file)
