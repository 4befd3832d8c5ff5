"""Examples as files in the columns of TRL's trainers, as JSONL or Parquet, each with a card beside it.

    export(harvest([folder]), Path("sft.jsonl"), "prompt_completion", Choice(distinct="derivation", most=4, side="train"))

| kind              | columns for the trainer        | a row is                                                            |
|-------------------|--------------------------------|---------------------------------------------------------------------|
| samples           | prompt, completion             | any sample                                                          |
| prompt_completion | prompt, completion             | a right sample (SFT)                                                |
| unpaired          | prompt, completion, label      | any sample, right or wrong (KTO)                                    |
| preference        | prompt, chosen, rejected       | a right and a wrong sample of one problem (DPO, reward models)      |
| stepwise          | prompt, completions, labels    | a chain in steps, each with a label in [0, 1] or null for not known |

A prompt is a list of messages {"role", "content"}, an answer plain text: which template joins them is the model's affair. The other
columns hold all that is known of a sample, so that `read` and `read_pairs` give back what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from ponder.errors import DataError, MissingExtraError, UsageError
from ponder.files import whole
from ponder.learners.datasets import (
    Asked,
    Pair,
    Sample,
    T,
    balance,
    cap,
    derivation,
    distinct,
    folded,
    levels,
    pairs,
    split,
)
from ponder.learners.labels import Stepwise
from ponder.types import JSON, Message

Kind = Literal["samples", "prompt_completion", "unpaired", "preference", "stepwise"]
Row: TypeAlias = dict[str, JSON]


@dataclass(frozen=True, slots=True)
class Choice:
    """Which samples become examples; the card repeats it.

    distinct: leave out what says the same, by text or by derivation. most: examples of a problem. balanced: equally many examples of
    each level. truncated: take cut samples for wrong ones. side: of the split by `share` and `seed`; left out, all problems.
    seed: of the split and of every draw.
    """

    distinct: Literal["no", "text", "derivation"] = "text"
    most: int | None = None
    balanced: bool = False
    truncated: bool = False
    side: Literal["train", "evaluation"] | None = None
    share: float = 0.1
    seed: int = 0


def export(
    samples: Iterable[Sample],
    path: Path,
    kind: Kind = "samples",
    choice: Choice | None = None,
    *,
    left_out: Mapping[str, int] | None = None,
) -> Row:
    """Choose, write, and return the card, which lies in `PATH.card.json`.

    In this order: the side of the split, whole answers (and right ones, for `prompt_completion`), distinct, pairs, cap, balance. Levels are
    measured before anything but the split. path: ends in .jsonl or .parquet. left_out: what the harvest passed over, by reason.

    Of a `stepwise` export of samples only the last label is known, the verdict; labels of inner steps come from roll-outs
    (`ponder.learners.labels`, `stepwise_row`).

    Raises `DataError` where no example is left or the file cannot be written, `MissingExtraError` for Parquet without pyarrow.
    """
    choice = choice or Choice()
    given = list(samples)
    mine = given
    if choice.side:
        mine = split(given, share=choice.share, seed=choice.seed)[choice.side == "evaluation"]
    found = [one for one in mine if one.finish == "stop" or choice.truncated]
    if kind == "prompt_completion":
        found = [one for one in found if one.correct]
    if choice.distinct != "no":
        found = distinct(found, derivation if choice.distinct == "derivation" else folded)
    if kind == "preference":
        couples = pairs(found, most=choice.most, seed=choice.seed, truncated=choice.truncated)
        couples = _balanced(couples, mine, choice)
        used = list(dict.fromkeys(one for pair in couples for one in (pair.chosen, pair.rejected)))
        rows = [pair_row(pair) for pair in couples]
    else:
        used = cap(found, choice.most, seed=choice.seed) if choice.most is not None else found
        used = _balanced(used, mine, choice)
        rows = [_ROWS[kind](one) for one in used]
    if not rows:
        raise DataError(
            f"{path}: of {len(given)} samples ({sum(one.correct for one in given)} right) none makes a {kind} example; "
            "sample more problems or more often, or choose less strictly"
        )
    card: Row = {
        **_counted(used),
        "policies": _tally(one.policy for one in used),
        "temperatures": _tally(repr(one.temperature) for one in used),
        "choice": asdict(choice),
        "chosen_from": _counted(given),
        "left_out": dict(left_out or {}),
    }
    return write(path, kind, rows, card)


def sample_row(one: Sample) -> Row:
    """The columns of a sample: `prompt`, `completion` and all that is known of it."""
    return {"prompt": _chat(one), "completion": one.text, "problem": one.problem, **_own(one)}


def pair_row(pair: Pair) -> Row:
    """The columns of a pair: `prompt`, `chosen`, `rejected`, and all that is known of each."""
    row: Row = {"prompt": _chat(pair.chosen), "chosen": pair.chosen.text, "rejected": pair.rejected.text, "problem": pair.problem}
    for name, one in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        row |= {f"{name}_{key}": value for key, value in _own(one).items()}
    return row


def stepwise_row(one: Stepwise) -> Row:
    """The columns of a chain with labels."""
    steps: list[JSON] = [*one.steps]
    row: Row = {"prompt": _chat(one), "completions": steps, "labels": [*one.labels]}
    return {**row, "problem": one.problem, "finished": one.finished}


def write(path: Path, kind: Kind, rows: Sequence[Row], card: Mapping[str, JSON]) -> Row:
    """Write rows and their card: kind, file, number of rows and SHA-256, then what `card` says. Returns the card.

    Each file appears whole or not at all. Raises as `export`.
    """
    suffix = suffix_of(path)
    try:
        with whole(path) as part:
            if suffix == ".parquet":
                _write_parquet(part, kind, rows)
            else:
                part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
            full: Row = {"kind": kind, "file": path.name, "rows": len(rows), "sha256": _sha256(part), **card}
        with whole(card_path(path)) as part:
            part.write_text(json.dumps(full, ensure_ascii=False, indent=1) + "\n", "utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists") from None
    return full


def card_path(path: Path) -> Path:
    """Where the card of a file lies."""
    return path.with_name(path.name + ".card.json")


def read(path: Path) -> list[Sample]:
    """The samples of a file of kind `samples`, `prompt_completion` or `unpaired`.

    Raises `DataError` with file and row for what is none, and for a file that is not the one its card describes.
    """
    return [_sample(row, place, "", "completion") for place, row in _rows(path)]


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of kind `preference`. Raises as `read`."""
    return [
        Pair(_sample(row, place, "chosen_", "chosen"), _sample(row, place, "rejected_", "rejected")) for place, row in _rows(path)
    ]


def read_stepwise(path: Path) -> list[Stepwise]:
    """The labelled chains of a file of kind `stepwise`. Raises as `read`."""
    found = []
    for place, row in _rows(path):
        with _as_written(place):
            steps, labels = tuple(row["completions"]), tuple(row["labels"])
            if not (isinstance(row["completions"], list) and all(isinstance(step, str) and step for step in steps)):
                raise ValueError("completions must be a list of texts, none of them empty")
            if not (isinstance(row["problem"], str) and isinstance(row["finished"], bool)):
                raise ValueError("problem must be a text, and finished true or false")
            found.append(Stepwise(row["problem"], _messages(row), steps, labels, row["finished"]))
    return found


# ---- rows ----


def _chat(one: Asked) -> JSON:
    for message in one.prompt:
        if len(message.content) != 1 or not isinstance(message.content[0], str):
            raise DataError(
                f"problem {one.problem!r}: a message of its prompt is not one text but {len(message.content)} parts; exports hold plain messages only"
            )
    return [{"role": message.role, "content": message.text} for message in one.prompt]


def _own(one: Sample) -> Row:
    """What is known of a sample besides problem, prompt and text; ends: where in the text each step ends, in characters."""
    body = {key: getattr(one, key) for key in _OWN if key != "ends"}
    return {**body, "ends": list(accumulate(map(len, one.steps)))}


def _outcome(one: Sample) -> Stepwise:
    """The sample with one label, its verdict, at its last step; none where it was cut."""
    ended = one.finish == "stop"
    labels = [float(one.correct) if ended and at == len(one.steps) else None for at in range(1, len(one.steps) + 1)]
    return Stepwise(one.problem, one.prompt, one.steps, tuple(labels), ended)


_OWN = {
    "correct": "bool",
    "answer": "string",
    "finish": "string",
    "policy": "string",
    "temperature": "float64",
    "difficulty": "float64",
    "tokens": "int64",
    "stream": "string",
    "index": "int64",
    "ends": "list",
}
_ROWS: dict[Kind, Callable[[Sample], Row]] = {
    "samples": sample_row,
    "prompt_completion": sample_row,
    "unpaired": lambda one: {**sample_row(one), "label": one.correct},
    "stepwise": lambda one: stepwise_row(_outcome(one)),
}


def _balanced(examples: list[T], pool: Sequence[Sample], choice: Choice) -> list[T]:
    return balance(examples, levels(pool), seed=choice.seed) if choice.balanced else examples


def _counted(samples: Sequence[Sample]) -> Row:
    return {
        "samples": len(samples),
        "problems": len({one.problem for one in samples}),
        "correct_share": sum(one.correct for one in samples) / len(samples),
        "tokens": sum(one.tokens for one in samples),
    }


def _tally(names: Iterable[str]) -> JSON:
    return dict(sorted(Counter(names).items()))


# ---- files ----


def suffix_of(path: Path) -> str:
    """The ending of a file of examples. Raises `UsageError` for one that is neither .jsonl nor .parquet."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"{path}: examples are written as .jsonl or .parquet, not {path.suffix or 'without an ending'!r}")
    return path.suffix


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_parquet(path: Path, kind: Kind, rows: Sequence[Row]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    text, flag = pyarrow.string(), pyarrow.bool_()
    own = {key: pyarrow.list_(pyarrow.int64()) if name == "list" else pyarrow.type_for_alias(name) for key, name in _OWN.items()}
    columns = {"prompt": pyarrow.list_(pyarrow.struct({"role": text, "content": text})), "problem": text}
    match kind:
        case "preference":
            columns |= {"chosen": text, "rejected": text}
            columns |= {f"{name}_{key}": column for name in ("chosen", "rejected") for key, column in own.items()}
        case "stepwise":
            columns |= {"completions": pyarrow.list_(text), "labels": pyarrow.list_(pyarrow.float64()), "finished": flag}
        case _:
            columns |= {"completion": text, **own} | ({"label": flag} if kind == "unpaired" else {})
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(columns)), path)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place, once the file has been compared with its card."""
    suffix, card = suffix_of(path), card_path(path)
    try:
        with _as_written(str(card)):
            same = not card.exists() or json.loads(card.read_text("utf-8"))["sha256"] == _sha256(path)
        if not same:
            raise DataError(f"{path}: is not the file that {card.name} describes; export it again, or remove the card")
        if suffix == ".parquet":
            yield from ((f"{path}:{number}", row) for number, row in enumerate(_read_parquet(path), 1))
            return
        with _as_written(str(path)):
            text = path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file that an export wrote") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line:
            place = f"{path}:{number}"
            with _as_written(place):
                row = json.loads(line)
            yield place, row


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "data") from None
    try:
        return cast("list[dict[str, Any]]", parquet.read_table(path).to_pylist())
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}); export it again") from None


@contextmanager
def _as_written(place: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{place}: is not what an export wrote ({error!r}); export it again") from None


def _sample(row: dict[str, Any], place: str, prefix: str, column: str) -> Sample:
    with _as_written(place):
        text, own = row[column], {key: row[prefix + key] for key in _OWN}
        steps = tuple(text[start:end] for start, end in pairwise([0, *own.pop("ends")]))
        if "".join(steps) != text or not isinstance(own["correct"], bool):
            raise ValueError("steps must join to the text, and correct be true or false")
        return Sample(row["problem"], _messages(row), steps, **own)


def _messages(row: dict[str, Any]) -> tuple[Message, ...]:
    if not all(isinstance(message["content"], str) for message in row["prompt"]):
        raise ValueError("the content of a message must be a text")
    return tuple(Message(message["role"], (message["content"],)) for message in row["prompt"])
