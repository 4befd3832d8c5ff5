"""Reward models of the lab's shape: the transformer of `ponder.lab.model` with a value head, scored in NumPy, incrementally.

Every token that was ever read is a node of one tree: its parent is the token before it. A node keeps its keys and values, and the
logit that the head gives there, so a chain whose beginning is known costs its new tokens only, equal beginnings are computed once, and
a chain that is known costs nothing. Nodes that were not used for longest make room for new ones.

A value is a bit-for-bit function of the weights and the tokens up to it, since the kernel that samples is (`ponder.lab.model.forward`):
what is kept, and what else is scored, changes nothing.

A head may read the model's own surprise beside its state h: the transformer is a language model still, and the least probable token of an
answer so far often tells an error that the state at the end of a step has lost. With surprise s = (s_1, s_2) the logit is linear in
(h, s, s_1 h, s_2 h), so that the state says what the surprise means: a rare choice is no wrong sum (`Facts.surprise`).
"""

from __future__ import annotations

import hashlib
import json
import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ponder.errors import DataError, UsageError
from ponder.lab.batch import project
from ponder.lab.blas import one_thread
from ponder.lab.model import BLOCK, Floats, Ints, Weights, forward, names, prepare, read_shape
from ponder.lab.sampling import log_softmax
from ponder.lab.tokenizer import EOS, NEWLINE, PAD, VOCABULARY, encode_prompt, pieces

Doubles: TypeAlias = NDArray[np.float64]
Aggregate: TypeAlias = Literal["last", "min", "prod", "mean"]

NODES = 65_536  # tokens kept: 64 MB for a model of size `base`
ROWS = 128  # of one forward pass: the keys that so many rows read fit into a processor's cache
SCALE = 16.0  # of the log-likelihood that a head reads
TOGETHER = 16_384  # tokens of sequences that are looked up together; fewer than NODES


@dataclass(frozen=True, slots=True)
class Facts:
    """What a `reward.json` says of a model.

    Attributes:
        kind: `outcome` has one value for an answer, `process` one after each step.
        step: the text that ends a step.
        aggregate: how the values of a process model become the chain's.
        read: where the value of an outcome stands: at the end token of a finished answer (`eos`), or at the last token before it (`last`).
        surprise: the head reads two numbers beside the state: over the tokens of the answer so far, which begins after the first line, the
            least log-probability, and their sum divided by SCALE.
    """

    kind: Literal["outcome", "process"] = "outcome"
    step: str = "\n"
    aggregate: Aggregate = "last"
    read: Literal["eos", "last"] = "eos"
    surprise: bool = False


def read_facts(file: Path) -> Facts:
    """Read a `reward.json`; what it leaves out is at its default, what else it holds is for others.

    Raises:
        DataError: when it is no JSON object, or a value is none of those in `Facts`.
    """
    try:
        given = dict(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as the facts of a reward model ({error})") from None
    facts = Facts(**{field.name: given[field.name] for field in fields(Facts) if field.name in given})
    for name, value, allowed in (
        ("kind", facts.kind, ("outcome", "process")),
        ("aggregate", facts.aggregate, ("last", "min", "prod", "mean")),
        ("read", facts.read, ("eos", "last")),
        ("surprise", facts.surprise, (False, True)),
    ):
        if value not in allowed:
            raise DataError(f"{file}: {name} = {value!r} must be one of {', '.join(map(str, allowed))}")
    if not isinstance(facts.step, str) or not facts.step:
        raise DataError(f"{file}: step = {facts.step!r} must be the text that ends a step")
    return facts


def step_ends(text: str, step: str, starts: Sequence[int]) -> list[int]:
    """Give for each step of a text the index of its last token, from the characters at which the tokens start.

    A step ends with the separator, blank ones go with their neighbour, as `ponder.learners.datasets.steps_of` has it; a token that
    reaches over the end of a step counts for the step it starts in.
    """
    ends, past, blank = list[int](), 0, True
    *ended, rest = text.split(step)
    for piece in [*(part + step for part in ended), rest]:
        past, empty = past + len(piece), not piece.strip()
        if ends and (blank or empty):
            ends[-1], blank = past, blank and empty
        elif piece:
            ends.append(past)
            blank = empty
    return [max(bisect_left(starts, end), 1) - 1 for end in ends]


def logistic(logits: Doubles) -> Doubles:
    """1 / (1 + exp(-x)), without overflow."""
    values: Doubles = np.exp(-np.logaddexp(0.0, -logits))
    return values


def shipped() -> list[str]:
    """The names of the reward models that come with the lab."""
    return sorted(path.name.removesuffix(".reward.json") for path in _SHIPPED.glob("*.reward.json"))


_SHIPPED = Path(__file__).parent / "weights"


def lab_shaped(folder: Path) -> bool:
    """Whether a folder holds a model of the lab's shape and vocabulary. False where it holds none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return (config["model_type"], config["vocab_size"], config["num_key_value_heads"]) == ("llama", len(VOCABULARY), 1)
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True, slots=True)
class Files:
    """Where the parts of a reward model lie."""

    weights: Path
    config: Path
    facts: Path

    @staticmethod
    def of(path: Path) -> Files:
        """Of a folder, or of a file `NAME.safetensors` with `NAME.json` and `NAME.reward.json` beside it."""
        if path.is_dir():
            return Files(path / "model.safetensors", path / "config.json", path / "reward.json")
        return Files(path, path.with_suffix(".json"), path.with_suffix(".reward.json"))

    @staticmethod
    def named(name: str) -> Files:
        """Of a shipped model. Raises `UsageError` for a name that is not one."""
        if name not in shipped():
            raise UsageError(f"lab/{name}: no such reward model comes with the lab; there are {', '.join(shipped()) or 'none'}")
        return Files.of(_SHIPPED / f"{name}.safetensors")

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of weights, shape and facts."""
        digest = hashlib.sha256()
        for file in (self.weights, self.config, self.facts):
            digest.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"none")
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Asked:
    """A chain as a reward model reads it: ids, how many of them are the prompt's, and the positions whose values are wanted."""

    ids: tuple[int, ...]
    prompt: int
    positions: tuple[int, ...]


class RewardEngine:
    """Scores token sequences with one model. All methods may be called from any thread; the work is done one call at a time."""

    def __init__(self, files: Files | Path, *, nodes: int = NODES) -> None:
        """Load a model.

        Args:
            files: its files, or the folder or file that `Files.of` takes.
            nodes: tokens that are kept, at least TOGETHER.

        Raises:
            UsageError: for fewer nodes.
            DataError: when the files are not those of a lab reward model.
        """
        if nodes < TOGETHER:
            raise UsageError(f"nodes is {nodes}; it must be at least {TOGETHER}")
        self.files = files if isinstance(files, Files) else Files.of(files)
        self.facts = read_facts(self.files.facts)
        self.weights, self._head, self._bias = _load(self.files)
        self._nodes = nodes
        self._lock = threading.Lock()
        self._reset()

    def ask(self, question: str, text: str, *, finished: bool) -> Asked:
        """Encode a chain: the problem, the answer as far as it goes, and the end token where an outcome is read at it.

        Raises:
            ValueError: for text outside the vocabulary, an empty answer, or more tokens than the model has positions.
        """
        prompt = len(encode_prompt(question))
        ids = encode_prompt(question, text)
        if len(ids) == prompt:
            raise ValueError("the chain is empty: there is no answer to score")
        if self.facts.kind == "process":
            texts = pieces(ids[prompt:], after=ids[prompt - 1])
            starts = accumulate(map(len, texts[:-1]), initial=0)
            positions = [prompt + end for end in step_ends(text, self.facts.step, list(starts))]
        else:
            if finished and self.facts.read == "eos":
                ids.append(EOS)
            positions = [len(ids) - 1]
        most = self.weights.shape.positions
        if len(ids) > most:
            raise ValueError(f"the chain has {len(ids)} tokens, and the model has {most} positions")
        return Asked(tuple(ids), prompt, tuple(positions))

    def values(self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[Doubles]:
        """Give the model's belief after the tokens at these positions, in [0, 1]: the logistic function of `logits`."""
        return [logistic(logits) for logits in self.logits(sequences, positions)]

    def logits(self, sequences: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> list[Doubles]:
        """Give the head's numbers after the tokens at these positions.

        Args:
            sequences: token ids, from the first.
            positions: for each sequence the wanted ones, 0 <= position < its length, in any order.

        Returns:
            One array for each sequence, in the order of its positions.

        Raises:
            ValueError: for a sequence that is empty, too long, or holds an id outside the vocabulary; nothing is computed then.
        """
        for ids in sequences:
            self._check(ids)
        found: list[Doubles] = []
        with self._lock, one_thread():
            for part in _parts(sequences):
                paths = self._read(sequences[part])
                found += [self._logits[path[np.asarray(at, np.int64)]] for path, at in zip(paths, positions[part], strict=True)]
        return found

    def _check(self, ids: Sequence[int]) -> None:
        shape = self.weights.shape
        if not 1 <= len(ids) <= shape.positions:
            raise ValueError(f"a sequence has {len(ids)} tokens; the model takes 1 to {shape.positions}")
        if not 0 <= min(ids) <= max(ids) < shape.vocabulary:
            raise ValueError(f"token ids {min(ids)} to {max(ids)} are not inside 0..{shape.vocabulary - 1}")

    # The tree. Node 0 is the root; as a key it is nobody's, so that rows which only fill a block may write there.

    def _reset(self) -> None:
        shape, nodes = self.weights.shape, self._nodes + 1
        self._keys = np.zeros((shape.layers, nodes, shape.head), np.float32)  # memory is taken up only as nodes are
        self._values = np.zeros_like(self._keys)
        self._logits = np.zeros(nodes)
        self._states = np.zeros((nodes if self.facts.surprise else 0, shape.width), np.float32)
        self._surprise = np.zeros((nodes, 2))  # least log-probability and log-likelihood of the answer so far
        self._answer = np.zeros(nodes, np.bool_)  # whether what comes next belongs to the answer
        self._edge = np.zeros(nodes, np.int64)  # parent * vocabulary + token
        self._used = np.zeros(nodes, np.int64)  # when last
        self._depth = np.zeros(nodes, np.int64)
        self._children: dict[int, int] = {}  # edge -> node
        self._free = list(range(nodes - 1, 0, -1))
        self._clock = 0

    def _read(self, sequences: Sequence[Sequence[int]]) -> list[Ints]:
        """The nodes of these sequences, new ones computed."""
        self._clock += 1
        known = [self._known(ids) for ids in sequences]  # marks what must stay
        self._make_room(sum(len(ids) - len(path) for ids, path in zip(sequences, known, strict=True)))
        try:
            return self._grow(sequences)
        except BaseException:  # nodes without a value must not be found again
            self._reset()
            raise

    def _known(self, ids: Sequence[int]) -> list[int]:
        path, node, children, vocabulary = list[int](), 0, self._children, self.weights.shape.vocabulary
        for token in ids:
            child = children.get(node * vocabulary + token)
            if child is None:
                break
            path.append(child)
            node = child
        self._used[path] = self._clock
        return path

    def _make_room(self, wanted: int) -> None:
        """Give up the nodes unused for longest, half of all, if there are too few; a node is used whenever one below it is."""
        if wanted <= len(self._free):
            return
        taken = np.fromiter(self._children.values(), np.int64, len(self._children))
        taken = taken[self._used[taken] < self._clock]
        oldest = taken[np.lexsort((-self._depth[taken], self._used[taken]))]
        for node in oldest[: max(wanted - len(self._free), self._nodes // 2)].tolist():
            del self._children[int(self._edge[node])]
            self._free.append(node)

    def _grow(self, sequences: Sequence[Sequence[int]]) -> list[Ints]:
        vocabulary = self.weights.shape.vocabulary
        paths = np.zeros((len(sequences), self.weights.shape.positions), np.int64)
        tokens, positions, nodes, owners = list[int](), list[int](), list[int](), list[int]()
        for row, ids in enumerate(sequences):
            path = self._known(ids)
            for at in range(len(path), len(ids)):
                edge, node = (path[-1] if path else 0) * vocabulary + ids[at], self._free.pop()
                self._children[edge] = node
                self._edge[node], self._depth[node], self._used[node] = edge, at, self._clock
                path.append(node)
                tokens.append(ids[at])
                positions.append(at)
                nodes.append(node)
                owners.append(row)
            paths[row, : len(path)] = path
        new = np.array([tokens, positions, nodes, owners], np.int64)
        for first in range(0, len(tokens), ROWS):
            self._compute(new[:, first : first + ROWS], paths)
        return [path[: len(ids)] for path, ids in zip(paths, sequences, strict=True)]

    def _compute(self, new: Ints, paths: Ints) -> None:
        """Compute new rows: tokens, positions, nodes, and the paths that lead to them."""
        rows = new.shape[1]
        tokens, positions, nodes, owners = np.pad(new, ((0, 0), (0, -rows % BLOCK)), constant_values=PAD)
        memory = _Paths(self._keys, self._values, nodes, paths[owners])
        states = forward(self.weights, memory, tokens, positions)[:rows]
        read = states.astype(np.float64)
        if self.facts.surprise:
            said = self._surprises(tokens[:rows], nodes[:rows], states)
            read = np.concatenate([read, said, read * said[:, :1], read * said[:, 1:]], -1)
        self._logits[nodes[:rows]] = (read * self._head).sum(-1) + self._bias

    def _surprises(self, tokens: Ints, nodes: Ints, states: Floats) -> Doubles:
        """What the head reads beside the states of these nodes, parents before children, [rows, 2]."""
        self._states[nodes] = states
        parents = self._edge[nodes] // self.weights.shape.vocabulary
        said = log_softmax(project(self.weights, self._states[parents]))[np.arange(len(tokens)), tokens].astype(np.float64)
        for token, node, parent, own in zip(tokens.tolist(), nodes.tolist(), parents.tolist(), said.tolist(), strict=True):
            least, total = self._surprise[parent]
            self._surprise[node] = (min(least, own), total + own) if self._answer[parent] else (0.0, 0.0)
            self._answer[node] = self._answer[parent] or token == NEWLINE
        return self._surprise[nodes] / (1.0, SCALE)


@dataclass(frozen=True, slots=True)
class _Paths:
    """The memory of rows in a tree: keys and values of all nodes, the node of each row, and the nodes from the root to it."""

    keys: Floats  # [layers, nodes, head]
    values: Floats
    nodes: Ints  # [rows]
    paths: Ints  # [rows, positions]

    def write(self, layer: int, keys: Floats, values: Floats) -> None:
        self.keys[layer, self.nodes] = keys
        self.values[layer, self.nodes] = values

    def read(self, layer: int, rows: Ints, length: int) -> tuple[Floats, Floats]:
        before = self.paths[rows, :length]
        return self.keys[layer].take(before, 0), self.values[layer].take(before, 0)


def _parts(sequences: Sequence[Sequence[int]]) -> list[slice]:
    """Cut into runs of sequences of at most TOGETHER tokens in all."""
    cuts, total = [0], 0
    for at, ids in enumerate(sequences):
        total += len(ids)
        if total > TOGETHER and at > cuts[-1]:
            cuts.append(at)
            total = len(ids)
    return [slice(first, last) for first, last in zip(cuts, [*cuts[1:], len(sequences)], strict=True)]


def _load(files: Files) -> tuple[Weights, Doubles, float]:
    """The transformer, the head with the scale of the last norm multiplied in, and its bias."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        shape = read_shape(files.config)
        tensors = {name: tensor.astype(np.float32) for name, tensor in load(files.weights.read_bytes()).items()}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DataError(f"{files.weights}: no lab reward model ({error})") from None
    bias = tensors.pop("score.bias", np.zeros(1, np.float32))
    head = tensors.pop("score.weight", np.zeros((0, 0), np.float32))
    surprise = read_facts(files.facts).surprise
    width = 3 * shape.width + 2 if surprise else shape.width
    if set(tensors) != names(shape) or head.shape != (1, width) or bias.shape != (1,):
        raise DataError(
            f"{files.weights}: must hold the tensors of its config and score.weight [1, {width}]; it differs in "
            f"{sorted(set(tensors) ^ names(shape))[:3]} and has score.weight {list(head.shape)}"
        )
    if shape.vocabulary != len(VOCABULARY):
        raise DataError(f"{files.config}: vocab_size is {shape.vocabulary}; the lab's is {len(VOCABULARY)}")
    read = head[0].astype(np.float64)
    for first in (0, shape.width + 2, 2 * shape.width + 2) if surprise else (0,):
        read[first : first + shape.width] *= tensors["model.norm.weight"]
    return prepare(shape, tensors, fingerprint=files.fingerprint), read, float(bias[0])
