"""Public benchmarks: every spelling of their files gives the same problems, and what is wrong in a file is said with its place."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import sys
import types

import pytest

from ponder.errors import DataError, MissingExtraError, SetupError, UsageError
from ponder.tasks import public
from ponder.tasks.files import read_prompt, read_rows
from ponder.tasks.public import aime24, aime25, amc23, gpqa, gsm8k, math500, mmlu


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def table(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def judged(task, *texts):
    keys = [task.answer(text) for text in texts]
    return [verdict.correct for verdict in asyncio.run(task.grader.grade(task.problems[0], keys, texts))]


DUCKS = {"question": "Ducks?", "answer": "16 - 7 = <<16-7=9>>9\n#### 2,125"}
VECTOR = {
    "problem": "Half?",
    "solution": "...",
    "answer": "\\frac{1}{2}",
    "subject": "Algebra",
    "level": 2,
    "unique_id": "test/algebra/1.json",
}
CHOICE = ["Which?", "one", "two\n2", "three, 3", "four"]
HARD = {
    "Question": "Which decay?\n",
    "Correct Answer": "alpha\n",
    "Incorrect Answer 1": "beta",
    "Incorrect Answer 2": "gamma",
    "Incorrect Answer 3": "none",
    "Record ID": "rec1",
    "High-level domain": "Physics",
    "Writer's Difficulty Estimate": "Hard",
}


def test_gsm8k_compares_the_number_after_the_marks(tmp_path):
    task = gsm8k(lines(tmp_path / "q.jsonl", DUCKS))
    assert [(p.question.id, p.reference) for p in task.problems] == [("gsm8k-1", "2,125")]
    assert judged(task, "The answer is 2125.", "#### 2,125", "\\boxed{2125.0}", "The answer is 2126", "none") == [
        *(True, True, True),
        *(False, False),
    ]


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz", "csv", pytest.param("parquet", marks=pytest.mark.slow)])
def test_every_form_of_a_file_gives_the_same_problems(tmp_path, form):
    path = tmp_path / f"test.{form}"
    if form == "parquet":
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist([DUCKS]), path)
    elif form == "csv":
        table(path, ["question", "answer"], [DUCKS["question"], DUCKS["answer"]])
    elif form == "json":
        path.write_text(json.dumps([DUCKS], indent=1))
    else:
        body = (json.dumps(DUCKS) + "\n").encode()
        path.write_bytes(gzip.compress(body) if form == "jsonl.gz" else body)
    expected = gsm8k(lines(tmp_path / "expected.jsonl", DUCKS))
    assert (gsm8k(str(path)).problems, gsm8k(str(path)).fingerprint) == (expected.problems, expected.fingerprint)


def test_math500_is_judged_as_mathematics_and_keeps_subject_and_level(tmp_path):
    task = math500(lines(tmp_path / "q.jsonl", VECTOR))
    [problem] = task.problems
    assert problem.question.id == "test/algebra/1.json"
    assert problem.question.metadata == {"subject": "Algebra", "level": 2}
    assert "\\boxed{}" in problem.question.messages[0].text
    assert judged(task, "So \\boxed{0.5}", "\\boxed{\\frac12}", "\\boxed{2}") == [True, True, False]


@pytest.mark.parametrize(
    "row",
    [
        {"ID": "2024-I-1", "Problem": "?", "Solution": "", "Answer": 73},
        {"id": "2024-I-1", "problem": "?", "answer": "073"},
        {"id": "2024-I-1", "question": "?", "answer": "73^\\circ"},
        {"id": "2024-I-1", "question": "?", "answer": 73.0, "year": 2024},
    ],
)
def test_aime_reads_the_spellings_of_its_files(tmp_path, row):
    for task in (aime24(lines(tmp_path / "q.jsonl", row)), aime25(lines(tmp_path / "q.jsonl", row))):
        [problem] = task.problems
        assert (problem.question.id, problem.reference, problem.question.metadata) == ("2024-I-1", "73", {})
        assert judged(task, "\\boxed{073}", "\\boxed{73}", "\\boxed{74}") == [True, True, False]


@pytest.mark.parametrize("answer", ["1000", "-1", "1/2", "C", "12 or 13"])
def test_what_is_no_aime_answer_is_refused_with_its_line(tmp_path, answer):
    with pytest.raises(DataError, match=r"q\.jsonl:1: aime24: the answer '.*' is not an integer of 0 to 999"):
        aime24(lines(tmp_path / "q.jsonl", {"id": 1, "problem": "?", "answer": answer}))


def test_amc_answers_written_as_floats_are_integers(tmp_path):
    task = amc23(lines(tmp_path / "q.jsonl", {"id": 0, "question": "?", "answer": 27.0, "url": "u"}))
    assert [(p.question.id, p.reference) for p in task.problems] == [("0", "27")]
    assert judged(task, "\\boxed{27}", "\\boxed{2.7}") == [True, False]


def test_gpqa_shuffles_by_the_seed_and_tells_nobody_where_the_right_option_went(tmp_path):
    path = lines(tmp_path / "q.jsonl", HARD)
    tasks = [gpqa(path, seed=seed) for seed in range(40)]
    for task in tasks:
        [problem] = task.problems
        text = problem.question.messages[0].text
        shown = dict(line.split(") ") for line in text.splitlines() if line[1:3] == ") ")
        assert sorted(shown.values()) == ["alpha", "beta", "gamma", "none"]
        assert shown[problem.reference] == "alpha"
        assert problem.question.metadata == {"subject": "Physics", "level": "Hard"}
        assert problem.question.id == "rec1"
    assert {task.problems[0].reference for task in tasks} == set("ABCD")
    assert len({task.fingerprint for task in tasks}) == 40
    assert gpqa(path, seed=3).problems == tasks[3].problems


def test_the_order_of_gpqa_options_does_not_hang_on_their_order_in_the_file(tmp_path):
    turned = {**HARD, "Incorrect Answer 1": "none", "Incorrect Answer 3": "beta"}
    a, b = gpqa(lines(tmp_path / "a.jsonl", HARD)), gpqa(lines(tmp_path / "b.jsonl", turned))
    assert a.problems == b.problems


def test_a_right_option_that_is_also_a_wrong_one_is_refused(tmp_path):
    with pytest.raises(DataError, match="'alpha' is among the wrong ones"):
        gpqa(lines(tmp_path / "q.jsonl", {**HARD, "Incorrect Answer 2": " alpha"}))


@pytest.mark.parametrize(
    ("said", "right"),
    [
        *(("The answer is B", True), ("(B)", True), ("B) two", True), ("\\boxed{B}", True), ("The answer is **B**.", True)),
        *(
            ("The answer is A", False),
            ("The answer is not B", False),
            ("A or B", False),
            ("B cat", False),
            ("E", False),
            ("", False),
        ),
    ],
)
def test_a_choice_is_one_letter_in_the_forms_that_models_write(tmp_path, said, right):
    task = mmlu(table(tmp_path / "law_test.csv", [*CHOICE, "B"]))
    assert judged(task, said) == [right]


def test_a_letter_beyond_the_options_is_no_vote(tmp_path):
    four = mmlu(table(tmp_path / "law_test.csv", [*CHOICE, "B"]))
    five = mmlu(lines(tmp_path / "q.jsonl", {"question": "?", "choices": list("vwxyz"), "answer": 4}))
    assert (four.answer("The answer is E"), five.answer("The answer is E")) == (None, "E")
    assert judged(five, "E") == [True]
    assert four.grader.version != five.grader.version


def test_the_forms_of_mmlu_give_the_same_problem(tmp_path):
    question, *options = CHOICE
    bare = mmlu(table(tmp_path / "law_test.csv", [*CHOICE, "B"]))
    named = mmlu(table(tmp_path / "mmlu.csv", ["", "Question", *"ABCD", "Answer", "Subject"], [0, *CHOICE, "B", "law"]))
    header = mmlu(table(tmp_path / "law_dev.csv", ["Question", *"ABCD", "Answer"], [*CHOICE, "B"]))
    index = mmlu(
        lines(tmp_path / "q.jsonl", {"question": question, "subject": "law", "choices": options, "answer": 1, "question_id": 9})
    )
    assert bare.problems == named.problems == header.problems == index.problems
    [problem] = bare.problems
    assert (problem.question.id, problem.reference, problem.question.metadata) == ("mmlu-1", "B", {"subject": "law"})
    assert "Which?\n\nA) one\nB) two\n2\nC) three, 3\nD) four" in problem.question.messages[0].text


def test_a_folder_stands_for_its_files_in_order_of_name(tmp_path):
    table(tmp_path / "b_test.csv", [*CHOICE, "A"])
    table(tmp_path / "a_test.csv", [*CHOICE, "C"], ["Another?", "1", "2", "3", "4", "D"])
    (tmp_path / "README.txt").write_text("not a problem")
    found = [(p.question.id, p.question.metadata["subject"], p.reference) for p in mmlu(str(tmp_path)).problems]
    assert found == [("mmlu-1", "a", "C"), ("mmlu-2", "a", "D"), ("mmlu-3", "b", "A")]


@pytest.mark.parametrize(
    ("load", "row", "message"),
    [
        (gsm8k, {"question": "?"}, r"q\.jsonl:1: has no field 'answer' \(it has question\)"),
        (gsm8k, {"question": "?", "answer": "#### a cat"}, r"q\.jsonl:1: gsm8k: the answer 'a cat' is no number"),
        (gsm8k, {"question": " ", "answer": "#### 1"}, r"q\.jsonl:1: question is empty"),
        (math500, {"problem": "?", "answer": None}, r"q\.jsonl:1: answer is empty"),
        (
            mmlu,
            {"question": "?", "choices": ["1", "2"], "answer": 2},
            "the answer 2 is neither an index from 0 nor a letter of its 2",
        ),
        (mmlu, {"question": "?", "choices": ["1", "2"], "answer": "C"}, "the answer 'C' is neither"),
        (mmlu, {"question": "?", "choices": ["1"], "answer": 0}, "has 1 options, 2 to 26 are expected"),
        (mmlu, {"question": "?", "choices": "1 2", "answer": 0}, "choices is str, not a list of options"),
        (gpqa, {"Question": "?", "Correct Answer": "1"}, "has no field 'incorrect answer 1'"),
    ],
)
def test_what_a_problem_lacks_is_said_with_its_line(tmp_path, load, row, message):
    with pytest.raises(DataError, match=message):
        load(lines(tmp_path / "q.jsonl", row))


def test_one_id_on_two_lines_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the id 'x' stands on two lines"):
        amc23(lines(tmp_path / "q.jsonl", {"id": "x", "problem": "?", "answer": 1}, {"id": "x", "problem": "!", "answer": 2}))


def test_a_torn_table_is_said_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"law_test\.csv:3: has 3 columns, 6 are expected"):
        mmlu(table(tmp_path / "law_test.csv", [*CHOICE, "B"], ["Which?", "one", "two"]))


def test_a_parquet_file_that_is_none_is_said(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "q.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"q\.parquet: cannot be read as Parquet"):
        read_rows(str(path))


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "q.parquet").touch()
    with pytest.raises(MissingExtraError, match=r"ponder-ttc\[data\]"):
        read_rows(str(tmp_path / "q.parquet"))


def test_an_empty_folder_and_an_empty_file_hold_no_problem(tmp_path):
    with pytest.raises(DataError, match="is a folder without any file that ends in"):
        read_rows(str(tmp_path))
    with pytest.raises(DataError, match="holds no problem"):
        read_rows(lines(tmp_path / "q.jsonl"))


def test_without_a_path_and_without_the_hub_library_the_way_out_is_the_file(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SetupError, match=r"HuggingFaceH4/MATH-500 .*pip install 'ponder-ttc\[data\]', or .*math500\('FILE'\)"):
        math500()


def hub(monkeypatch, load):
    library = types.ModuleType("datasets")
    library.load_dataset = load
    monkeypatch.setitem(sys.modules, "datasets", library)


def test_without_a_path_the_hub_is_asked_for_the_split_that_is_reported_on(monkeypatch, tmp_path):
    asked = []
    hub(monkeypatch, lambda *names, split: asked.append((*names, split)) or [DUCKS])
    tasks = gsm8k(), gsm8k(split="train")
    assert asked == [("openai/gsm8k", "main", "test"), ("openai/gsm8k", "main", "train")]
    assert tasks[0].problems == gsm8k(lines(tmp_path / "q.jsonl", DUCKS)).problems


def test_a_hub_out_of_reach_is_said_with_the_way_out(monkeypatch):
    def fail(*names, split):
        raise ConnectionError("no route")

    hub(monkeypatch, fail)
    with pytest.raises(
        SetupError, match=r"Idavidrein/gpqa \(split train\) did not come from the hub \(no route\); give .*gpqa\('FILE'\)"
    ):
        gpqa()


def test_a_file_has_no_splits(tmp_path):
    with pytest.raises(UsageError, match="give one of the two"):
        gsm8k(lines(tmp_path / "q.jsonl", DUCKS), split="train")


def test_the_prompt_is_part_of_the_identity(tmp_path):
    path = lines(tmp_path / "q.jsonl", DUCKS)
    assert gsm8k(path).fingerprint != gsm8k(path, prompt="boxed").fingerprint
    assert {message.role for message in read_prompt("letter").ask("?")} == {"user"}


def test_what_a_question_says_in_braces_is_left_alone(tmp_path):
    [problem] = gsm8k(lines(tmp_path / "q.jsonl", {**DUCKS, "question": "{question} \udcff {x}"})).problems
    assert problem.question.messages[0].text.startswith("{question} ? {x}\n")


def test_every_source_is_a_task_of_its_name():
    for name in ("gsm8k", "math500", "aime24", "aime25", "amc23", "gpqa", "mmlu"):
        assert getattr(public, name.upper()).name == name
