"""Public benchmarks from their public files: GSM8K, MATH-500, AIME, AMC, GPQA, MMLU.

Each takes the path of the file, in any spelling of its fields that is around; without a path the problems come from the hub
through `datasets`. What a problem must have and has not is an error with file and line. Options of GPQA are shuffled by the seed;
which letter is right is the reference, and stands nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ponder.core import Task
from ponder.errors import DataError, SetupError, UsageError
from ponder.graders.extract import numeric_key
from ponder.graders.maths import MathsGrader, maths_answer
from ponder.tasks.compared import CompareGrader, answer_key, check_maths
from ponder.tasks.fields import Cells, Row, as_json, check_names, clip, listed, scalar, short
from ponder.tasks.files import Prompt, check_ids, digest, read_prompt, read_rows
from ponder.types import JSON, Problem, Question

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the hub has a benchmark: data set, configuration ("" for its only one) and the split that is reported on."""

    name: str
    hub: str
    configuration: str
    split: str


GSM8K = Source("gsm8k", "openai/gsm8k", "main", "test")
MATH500 = Source("math500", "HuggingFaceH4/MATH-500", "", "test")
AIME24 = Source("aime24", "HuggingFaceH4/aime_2024", "", "train")
AIME25 = Source("aime25", "math-ai/aime25", "", "test")
AMC23 = Source("amc23", "math-ai/amc23", "", "test")
GPQA = Source("gpqa", "Idavidrein/gpqa", "gpqa_diamond", "train")
MMLU = Source("mmlu", "cais/mmlu", "all", "test")


def gsm8k(path: str = "", split: str = "", prompt: str = "step_by_step", max_tokens: int = 512) -> Task:
    """Grade-school word problems: question, answer ending in `#### 42`. Compared as exact numbers.

    path: the file; without it the hub's `split` ("" is the test split; train is there for learners). prompt: by name or path.
    Raises `DataError` with file and line, `SetupError` where the hub cannot be used. Source: Cobbe et al., arXiv 2110.14168.
    """
    template, problems = read_prompt(prompt), []
    for row in _rows(GSM8K, path, split):
        reference = _answer(row).rpartition("####")[2].strip()
        if _number(reference) is None:
            raise DataError(f"{row.place}: gsm8k: the answer {short(reference)} is no number")
        problems.append(_problem(GSM8K, row, template, _words(row, "question"), reference))
    identity = _identity(GSM8K, path, problems, template, "numeric")
    return Task("gsm8k", identity, tuple(problems), answer_key("numeric"), CompareGrader("numeric"), max_tokens)


def math500(path: str = "", split: str = "", prompt: str = "boxed", max_tokens: int = 2048) -> Task:
    """500 problems of MATH: problem, answer in LaTeX, subject, level 1 to 5. Judged as mathematics.

    Arguments and errors as `gsm8k`. Source: Lightman et al., arXiv 2305.20050 (the split), Hendrycks et al., arXiv 2103.03874.
    """
    template, problems = read_prompt(prompt), []
    for row in _rows(MATH500, path, split):
        reference = _answer(row).strip()
        check_maths(reference, f"{row.place}: math500")
        problems.append(_problem(MATH500, row, template, _words(row, "problem", "question"), reference))
    return _maths(MATH500, path, problems, template, max_tokens)


def aime24(path: str = "", split: str = "", prompt: str = "boxed_integer", max_tokens: int = 8192) -> Task:
    """AIME 2024, both papers: 30 problems, answers 0 to 999. Arguments and errors as `gsm8k`."""
    return _integers(AIME24, path, split, prompt, max_tokens, range(1000))


def aime25(path: str = "", split: str = "", prompt: str = "boxed_integer", max_tokens: int = 8192) -> Task:
    """AIME 2025, both papers: 30 problems, answers 0 to 999. Arguments and errors as `gsm8k`."""
    return _integers(AIME25, path, split, prompt, max_tokens, range(1000))


def amc23(path: str = "", split: str = "", prompt: str = "boxed_integer", max_tokens: int = 4096) -> Task:
    """AMC 12 of 2023, the 40 problems whose answer is an integer (27.0 in some files). Arguments and errors as `gsm8k`."""
    return _integers(AMC23, path, split, prompt, max_tokens, None)


def gpqa(path: str = "", split: str = "", seed: int = 0, prompt: str = "letter", max_tokens: int = 2048) -> Task:
    """Graduate-level questions with four options each, as in gpqa_diamond.csv; the options in an order of the seed's.

    The order is a function of (seed, question) alone: the files list the right option first. Arguments and errors as `gsm8k`.
    Source: Rein et al., arXiv 2311.12022.
    """
    template, problems = read_prompt(prompt), []
    for row in _rows(GPQA, path, split):
        question = _words(row, "question").strip()
        right = _option(_field(row, "correct answer"), f"{row.place}: correct answer")
        wrong = [_option(_field(row, name), f"{row.place}: {name}") for name in (f"incorrect answer {n}" for n in (1, 2, 3))]
        _check_options(right, [right, *wrong], f"{row.place}: gpqa")
        check_names(wrong, f"{row.place}: gpqa: the option")
        options = sorted([right, *wrong], key=lambda option: _draw(seed, question, option))
        letter = ALPHABET[options.index(right)]
        problems.append(_problem(GPQA, row, template, _with_options(question, options), letter))
    return _choice(GPQA, path, problems, template, 4, max_tokens, f"choice/seed-{seed}")


def mmlu(path: str = "", split: str = "", prompt: str = "letter", max_tokens: int = 1024) -> Task:
    """Multiple choice over 57 subjects: question, choices, answer as an index from 0 or as a letter.

    path: a file, or a folder of them, such as the CSV files without header (question, four options, letter) whose names end in
    _test and give the subject. Arguments and errors as `gsm8k`. Source: Hendrycks et al., arXiv 2009.03300.
    """
    template, problems, most = read_prompt(prompt), [], 2
    for row in _rows(MMLU, path, split, _MMLU_HEADER if path else ()):
        options = _options(row)
        most = max(most, len(options))
        letter = _letter(row, len(options))
        _check_options(options[ALPHABET.index(letter)], options, f"{row.place}: mmlu")
        problems.append(_problem(MMLU, row, template, _with_options(_words(row, "question").strip(), options), letter))
    return _choice(MMLU, path, problems, template, most, max_tokens)


_MMLU_HEADER = ("question", "A", "B", "C", "D", "answer")
_DIGITS = 30


class _Found(NamedTuple):
    name: str
    value: JSON


def _integers(source: Source, path: str, split: str, prompt: str, max_tokens: int, among: range | None) -> Task:
    """Tasks whose answers are integers, however the file writes them: 73, "073", 73.0, 73 degrees."""
    template, problems = read_prompt(prompt), []
    for row in _rows(source, path, split):
        given = _answer(row)
        reference = _number(given) or ""
        if not reference.lstrip("-").isdigit() or len(reference) > _DIGITS or (among and int(reference) not in among):
            bound = f"an integer of {among.start} to {among.stop - 1}" if among else f"an integer of at most {_DIGITS} digits"
            raise DataError(f"{row.place}: {source.name}: the answer {short(given)} is not {bound}")
        problems.append(_problem(source, row, template, _words(row, "problem", "question"), reference))
    return _maths(source, path, problems, template, max_tokens)


def _maths(source: Source, path: str, problems: Sequence[Problem], prompt: Prompt, max_tokens: int) -> Task:
    identity = _identity(source, path, problems, prompt, "maths")
    return Task(source.name, identity, tuple(problems), maths_answer, MathsGrader(), max_tokens)


def _choice(
    source: Source, path: str, problems: Sequence[Problem], prompt: Prompt, options: int, max_tokens: int, rule: str = "choice"
) -> Task:
    identity = _identity(source, path, problems, prompt, rule)
    letters = ALPHABET[:options]
    grader = CompareGrader("choice", letters)
    return Task(source.name, identity, tuple(problems), answer_key("choice", letters), grader, max_tokens)


def _identity(source: Source, path: str, problems: Sequence[Problem], prompt: Prompt, rule: str) -> str:
    check_ids(problems, path or source.hub, "so mend the file")
    return f"{source.name}-{digest(problems)}/{prompt.fingerprint}/{rule}"


def _problem(source: Source, row: Row, prompt: Prompt, question: str, reference: str) -> Problem:
    found = _find(row, "unique_id", "record id", "id", "url")
    id_ = scalar(found.value, f"{row.place}: {found.name}") if found and found.value not in (None, "") else ""
    id_ = id_ or f"{source.name}-{row.number}"
    return Problem(Question(id_, prompt.ask(question), _metadata(source, row)), reference)


def _metadata(source: Source, row: Row) -> Mapping[str, JSON]:
    """Subject and level, where the file has them. Nothing that tells the answer."""
    subject = _find(row, "subject", "high-level domain", "type")
    level = _find(row, "level", "writer's difficulty estimate")
    found: dict[str, JSON] = {
        key: as_json(one.value, f"{row.place}: {one.name}") for key, one in (("subject", subject), ("level", level)) if one
    }
    if source is MMLU and not subject:
        found["subject"] = row.file.removesuffix("_test").removesuffix("_val").removesuffix("_dev")
    return found


def _with_options(question: str, options: Sequence[str]) -> str:
    return "\n".join([question, "", *(f"{letter}) {option}" for letter, option in zip(ALPHABET, options, strict=False))])


def _draw(seed: int, question: str, option: str) -> bytes:
    return hashlib.blake2b("\x1f".join((str(seed), question, option)).encode("utf-8", "replace"), digest_size=16).digest()


def _options(row: Row) -> list[str]:
    found = _find(row, "choices", "options")
    if found is None:
        cells = [_find(row, letter) for letter in ALPHABET[:5].lower()]
        given: list[tuple[str, JSON]] = [(cell.name, cell.value) for cell in cells if cell and cell.value is not None]
    elif isinstance(found.value, list):
        given = [(f"{found.name}[{number}]", option) for number, option in enumerate(found.value)]
    else:
        raise DataError(f"{row.place}: mmlu: {found.name} is {type(found.value).__name__}, not a list of options")
    if not 2 <= len(given) <= len(ALPHABET):
        raise DataError(f"{row.place}: mmlu: has {len(given)} options, 2 to {len(ALPHABET)} are expected")
    return [_option(value, f"{row.place}: mmlu: {name}") for name, value in given]


def _option(value: JSON, place: str) -> str:
    option = scalar(value, place).strip()
    if not option:
        raise DataError(f"{place} is empty; every option needs a text")
    return option


def _check_options(right: str, options: Sequence[str], place: str) -> None:
    """Raises `DataError` where two letters would be right. Wrong options that are equal do no harm."""
    if options.count(right) > 1:
        raise DataError(
            f"{place}: the right option {short(right)} is among the wrong ones, so that two letters are right; mend or remove it"
        )


def _letter(row: Row, options: int) -> str:
    """The right letter, from an index (0 is A) or a letter."""
    given = _field(row, "answer")
    text = scalar(given, f"{row.place}: mmlu: the answer").strip().upper()
    at = int(text) if text.isascii() and text.isdigit() and len(text) < 3 else ALPHABET.find(text) if len(text) == 1 else -1
    if not 0 <= at < options:
        raise DataError(
            f"{row.place}: mmlu: the answer {short(given)} is neither an index from 0 nor a letter of its {options} options"
        )
    return ALPHABET[at]


def _field(row: Row, *names: str) -> JSON:
    """The first of the names that the row has. Raises `DataError` for none, and for null or an empty text."""
    found = _find(row, *names)
    if found is None:
        raise DataError(f"{row.place}: has no field {' or '.join(map(repr, names))} (it has {listed(row.fields)})")
    if found.value is None or (isinstance(found.value, str) and not found.value.strip()):
        raise DataError(f"{row.place}: {clip(found.name)} is empty; every problem needs one")
    return found.value


def _answer(row: Row) -> str:
    """A text or a number, as text."""
    return scalar(_field(row, "answer"), f"{row.place}: the answer")


def _words(row: Row, *names: str) -> str:
    """A question: a text."""
    found = _field(row, *names)
    if not isinstance(found, str):
        raise DataError(f"{row.place}: the question is {short(found)}; a text is expected")
    return found


def _number(text: str) -> str | None:
    try:
        return numeric_key(text)
    except (ValueError, ArithmeticError):  # beyond all bounds
        return None


def _find(row: Row, *names: str) -> _Found | None:
    """Names match whatever their case, and with underscores for spaces."""
    for name in map(_plainly, names):
        keys = [key for key in row.fields if _plainly(key) == name]
        if len(keys) > 1:
            raise DataError(f"{row.place}: has {listed(keys)}, which are one name here; remove all but one")
        if keys:
            return _Found(keys[0], row.fields[keys[0]])
    return None


def _plainly(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def _rows(source: Source, path: str, split: str, header: Sequence[str] = ()) -> list[Row]:
    if path and split:
        raise UsageError(
            f"{source.name}: split={split!r} chooses among the hub's, and the file {short(path)} is one; give one of the two"
        )
    if path:
        place = ", ".join(filter(None, (source.hub, source.configuration, source.split)))
        way_out = f"give the path of its file ({place}): {source.name}:FILE, or leave it out for the hub's"
        return [replace(row, number=number) for number, row in enumerate(read_rows(path, header, way_out=way_out), 1)]
    return _from_hub(source, split or source.split)


def _from_hub(source: Source, split: str) -> list[Row]:
    way_out = f"give the path of its file: {source.name}('FILE')"
    try:
        from datasets import load_dataset
    except ImportError:
        raise SetupError(
            f"{source.name}: without a path, the problems are {source.hub} of the hub, read by `datasets`, which is not installed: "
            f"pip install 'ponder-ttc[data]', or {way_out}"
        ) from None
    try:
        body = [dict(row) for row in load_dataset(source.hub, source.configuration or None, split=split)]
    except Exception as error:  # whatever the library and its network say, the way out is the same
        raise SetupError(f"{source.name}: {source.hub} (split {split}) did not come from the hub ({error}); {way_out}") from error
    places = [f"{source.hub}: record {number}" for number in range(1, len(body) + 1)]
    return [
        Row(source.name, number, place, Cells(row, row.__getitem__, place))
        for number, (row, place) in enumerate(zip(body, places, strict=True), 1)
    ]
