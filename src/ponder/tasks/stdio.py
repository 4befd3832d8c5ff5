"""Programs to write, judged by hidden inputs and outputs: files of LiveCodeBench's and CodeContests' shape."""

from __future__ import annotations

import base64
import math
import pickletools
import zlib

from ponder.core import Task
from ponder.errors import DataError
from ponder.graders.program import program_key
from ponder.graders.stdio import StdioGrader, Trials
from ponder.sandbox.core import Limits
from ponder.tasks.fields import Row, as_json, clip, exact, optional, scalar, short, text, unchanged
from ponder.tasks.files import check_ids, digest, read_json, read_prompt, read_rows, stem
from ponder.types import JSON, Problem, Question

LARGEST = 2**28  # bytes of a packed list of tests, unpacked
LONGEST = 60  # seconds that a file may give one test


def stdio(
    path: str,
    prompt: str = "write_program",
    starter: str = "write_method",
    seconds: float = 6.0,
    max_tokens: int = 2048,
) -> Task:
    """Competition problems, of a file of LiveCodeBench's or CodeContests' shape.

    LiveCodeBench (Jain et al. 2024, arXiv:2403.07974): question_content, public_test_cases and private_test_cases, lists of
    {input, output, testtype} as JSON or packed; starter_code and metadata.func_name for "functional" ones. CodeContests (Li et al.
    2022, arXiv:2203.07814): description, public_tests, private_tests and generated_tests, {input: [...], output: [...]}; time_limit in (0, 60] s.

    prompt: by name or path, for programs; starter: for functions. seconds: for one test. Raises `DataError` with file and line.
    Packed tests are never unpickled: the one text in them is read out of the bytes.
    """
    Limits(seconds)
    templates = {False: read_prompt(prompt), True: read_prompt(starter)}
    problems = []
    where = "give the path of a file of livecodebench/code_generation_lite or deepmind/code_contests of the hub: stdio:FILE"
    for row in read_rows(path, way_out=where):
        trials = _contest_trials(row) if "description" in row.fields else _bench_trials(row)
        if not trials.pairs:
            raise DataError(f"{row.place}: has no test")
        starting = optional(row, "starter_code").rstrip()
        messages = templates[bool(trials.function)].ask(text(row, "question_content", "description"), starter=starting)
        named = next((name for name in ("question_id", "name", "id") if row.fields.get(name) not in (None, "")), "")
        id_ = scalar(row.fields[named], f"{row.place}: {named}") if named else str(row.number)
        metadata = {
            name: as_json(row.fields[name], f"{row.place}: {name}")
            for name in ("difficulty", "contest_date", "platform")
            if name in row.fields
        }
        problems.append(Problem(Question(id_, messages, metadata), trials.packed()))
    check_ids(problems, path, "so mend the file")
    prints = f"{templates[False].fingerprint}/{templates[True].fingerprint}"
    return Task(stem(path), f"stdio-{digest(problems)}/{prints}", tuple(problems), program_key, StdioGrader(seconds), max_tokens)


def _bench_trials(row: Row) -> Trials:
    tests = [
        test
        for name in ("public_test_cases", "private_test_cases")
        if row.fields.get(name) not in (None, "")
        for test in _listed(row, name)
    ]
    kinds = {clip(test.fields.get("testtype", "stdin")) for test in tests}
    if not kinds <= {"stdin", "functional"} or len(kinds) > 1:
        raise DataError(f"{row.place}: tests of type {clip(', '.join(sorted(kinds)))}; all must be stdin, or all functional")
    pairs = tuple((exact(test, "input"), exact(test, "output")) for test in tests)
    return Trials(pairs, _function(row, pairs) if kinds == {"functional"} else "")


def _function(row: Row, pairs: tuple[tuple[str, str], ...]) -> str:
    metadata = row.fields.get("metadata")
    body = read_json(metadata, f"{row.place}: metadata") if isinstance(metadata, str) else metadata
    name = body.get("func_name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not name.isidentifier():
        raise DataError(f"{row.place}: functional tests need a func_name in metadata, not {short(name)}")
    for given, wanted in pairs:
        for line in (*filter(str.strip, given.split("\n")), wanted):
            place = f"{row.place}: a functional test"
            as_json(read_json(line, place), place)
    return f"Solution().{name}" if "class Solution" in optional(row, "starter_code") else name


def _contest_trials(row: Row) -> Trials:
    pairs: list[tuple[str, str]] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        tests = {} if row.fields.get(name) is None else row.fields[name]
        given, wanted = (tests.get(key, []) for key in ("input", "output")) if isinstance(tests, dict) else (None, None)
        if not isinstance(given, list) or not isinstance(wanted, list) or len(given) != len(wanted):
            raise DataError(f"{row.place}: {name} must hold as many texts under 'input' as under 'output'")
        for number, (one, other) in enumerate(zip(given, wanted, strict=True)):
            pairs.append(
                (_told(one, f"{row.place}: {name}.input[{number}]"), _told(other, f"{row.place}: {name}.output[{number}]"))
            )
    return Trials(tuple(pairs), seconds=_time_limit(row))


def _told(value: JSON, place: str) -> str:
    """An input or an output. Raises `DataError` for what is neither a text nor a number."""
    return unchanged(value, place) if isinstance(value, str) else scalar(value, place)


def _time_limit(row: Row) -> float:
    """Seconds for one test, as a number or as seconds and nanos; 0 where the row has none."""
    limit = row.fields.get("time_limit")
    if limit is None:
        return 0.0
    parts = limit if isinstance(limit, dict) else {"seconds": limit}
    seconds = _bounded(parts.get("seconds") or 0, LONGEST) + _bounded(parts.get("nanos") or 0, 1e9) / 1e9
    if 0 < seconds <= LONGEST:
        return seconds
    raise DataError(
        f"{row.place}: time_limit must be a number of seconds in (0, {LONGEST}], or seconds and nanos, not {short(limit)}; null for none"
    )


def _bounded(value: JSON, most: float) -> float:
    """The number, nan for what is none from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return math.nan
    return value


def _listed(row: Row, name: str) -> list[Row]:
    """The tests under a name: a list, its JSON, or its JSON as a pickled text, compressed, in base 64."""
    body, place = row.fields[name], f"{row.place}: {name}"
    if isinstance(body, str):
        body = read_json(body if body.lstrip().startswith("[") else unpacked(body, place), place)
    if not isinstance(body, list):
        raise DataError(f"{place} is {type(body).__name__}, not a list of tests")
    tests = [Row(row.file, number, f"{place}[{number}]", test) for number, test in enumerate(body) if isinstance(test, dict)]
    if len(tests) < len(body):
        raise DataError(f"{place} holds a test that is no object")
    return tests


def unpacked(text: str, place: str) -> str:
    """The one text in base 64 of a compressed pickle, read without unpickling. Raises `DataError` for a pickle of anything else."""
    try:
        inflater = zlib.decompressobj()
        body = inflater.decompress(base64.b64decode(text, validate=True), LARGEST)
        if inflater.unconsumed_tail:
            raise DataError(f"{place}: unpacks to more than {LARGEST:,} bytes")
        texts = []
        for opcode, argument, _ in pickletools.genops(body):
            if opcode.name in _TEXTS and isinstance(argument, str):
                texts.append(argument)
            elif opcode.name not in _HARMLESS:
                raise DataError(f"{place}: is a pickle with {opcode.name} in it, not of one text; it is not read")
    except DataError:
        raise
    except (ValueError, OverflowError, zlib.error) as error:  # of base64 and pickletools as well
        raise DataError(f"{place}: is neither JSON nor packed JSON ({clip(error)}); mend or remove the problem") from None
    if len(texts) != 1:
        raise DataError(f"{place}: is a pickle of {len(texts)} texts, not of one")
    return texts[0]


_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE")
_HARMLESS = ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP")
