"""The nouns. Everything that travels is immutable and knows its price.

A `Chain` is a prompt plus the steps of reasoning that follow it: x, z_1 .. z_T. It holds no reference answer, so a strategy
cannot peek at what it cannot hold. Branches share their history; nothing is copied. A `Usage` rides on the step or score that
caused it, as raw counts; tokens, FLOPs and money are late conversions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from json.encoder import encode_basestring as _quote
from typing import Literal, TypeAlias, overload

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Finish: TypeAlias = Literal["stop", "length", "error", "filtered", "cancelled"]
"""How a chain ended. `stop` may vote; the others cost (or were never paid for: `cancelled`) and never vote."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Compute as it was counted, before any conversion. Adds.

    prompt, cached, completion and scored are tokens: read as prompt (`cached` of them from a prefix cache), written by a policy,
    and positions scored by a reward model. `calls` are logical: one for each child or score. `seconds` are best effort.
    """

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    scored: int = 0
    calls: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.completion + other.completion,
            self.scored + other.scored,
            self.calls + other.calls,
            self.seconds + other.seconds,
        )

    @property
    def tokens(self) -> int:
        """What a budget in tokens counts: completion tokens plus positions scored by reward models."""
        return self.completion + self.scored


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes kept elsewhere under their SHA-256: an image, latents, noise."""

    digest: str
    media: str


Part: TypeAlias = str | Blob


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a prompt."""

    role: Role
    content: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part for part in self.content if isinstance(part, str))


def user(text: str) -> Message:
    """A user turn of plain text."""
    return Message("user", (text,))


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the engine reported it; logprob in nats, `top_logprobs` best first."""

    text: str
    id: int | None = None
    logprob: float | None = None
    top_logprobs: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens(Sequence[Token]):
    """The tokens of a step, in columns (an object per token would be most of the memory of a study).

    texts: T strings whose concatenation is the text; ids: T or none; logprobs: T or none, nats; top_texts and top_logprobs:
    T * width, row-major, best first, short rows padded with "" and -inf.
    """

    texts: tuple[str, ...]
    ids: array[int] = field(default_factory=lambda: array("i"))
    logprobs: array[float] = field(default_factory=lambda: array("f"))
    width: int = 0
    top_texts: tuple[str, ...] = ()
    top_logprobs: array[float] = field(default_factory=lambda: array("f"))

    def __len__(self) -> int:
        return len(self.texts)

    def then(self, more: Tokens) -> Tokens:
        """These and those after them. Raises `ValueError` unless both keep as many alternatives."""
        if self.width != more.width:
            raise ValueError(f"tokens with {self.width} alternatives cannot be followed by tokens with {more.width}")
        return Tokens(
            self.texts + more.texts,
            self.ids + more.ids,
            self.logprobs + more.logprobs,
            self.width,
            self.top_texts + more.top_texts,
            self.top_logprobs + more.top_logprobs,
        )

    @overload
    def __getitem__(self, index: int) -> Token: ...
    @overload
    def __getitem__(self, index: slice) -> Tokens: ...
    def __getitem__(self, index: int | slice) -> Token | Tokens:
        if isinstance(index, slice):
            start, stop, stride = index.indices(len(self))
            if stride != 1:
                raise ValueError(f"tokens are cut in one piece: stride {stride}, must be 1")
            wide = slice(start * self.width, max(start, stop) * self.width)
            part = slice(start, max(start, stop))
            return Tokens(
                self.texts[part],
                self.ids[part],
                self.logprobs[part],
                self.width,
                self.top_texts[wide],
                self.top_logprobs[wide],
            )
        at = range(len(self))[index]
        wide = slice(at * self.width, (at + 1) * self.width)
        top = zip(self.top_texts[wide], self.top_logprobs[wide], strict=True)
        return Token(
            self.texts[at],
            self.ids[at] if self.ids else None,
            self.logprobs[at] if self.logprobs else None,
            tuple((text, logprob) for text, logprob in top if logprob != float("-inf")),
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of reasoning z_t. `injected` steps were written by a strategy, `environment` steps by the world."""

    text: str
    usage: Usage = Usage()
    source: Literal["policy", "injected", "environment"] = "policy"
    tokens: Tokens | None = field(default=None, compare=False, repr=False)
    data: Blob | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """An immutable prompt plus steps, open (`finish` None) or finished."""

    prompt: tuple[Message, ...]
    steps: tuple[Step, ...] = ()
    finish: Finish | None = None

    def then(self, step: Step, finish: Finish | None = None) -> Chain:
        """This chain with one step more. Raises `ValueError` on a finished chain."""
        if self.finish is not None:
            raise ValueError(f"cannot extend a chain that finished by {self.finish!r}: ...{self.text[-40:]!r}")
        return Chain(self.prompt, (*self.steps, step), finish)

    @property
    def text(self) -> str:
        """The steps, joined: what the policy wrote and what was put in its mouth."""
        if len(self.steps) == 1:
            return self.steps[0].text
        return "".join(step.text for step in self.steps)

    @property
    def usage(self) -> Usage:
        """What the steps of this chain cost together."""
        return self.steps[0].usage if len(self.steps) == 1 else sum((step.usage for step in self.steps), Usage())

    @property
    def digest(self) -> str:
        """128 bits over prompt, text and attached data; where the steps were cut does not matter."""
        return _digest(self.prompt, self.text, tuple([step.data.digest for step in self.steps if step.data]))


def chain_digest(prompt: Sequence[Message], text: str, data: Sequence[str] = ()) -> str:
    """The digest of a chain with this prompt, text and data, as 32 hexadecimal digits: of all three as JSON without spaces."""
    turns = ",".join(f"[{','.join([_quote(m.role), *map(_quoted, m.content)])}]" for m in prompt)
    rendered = f"[[{turns}],{_quote(text)},[{','.join(map(_quote, data))}]]"
    return hashlib.blake2b(rendered.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


_digest = lru_cache(maxsize=8)(chain_digest)  # a chain is asked for its own by everyone who has it in hand, one after the other


def _quoted(part: Part) -> str:
    return _quote(part) if isinstance(part, str) else f'{{"blob":{_quote(part.digest)},"media":{_quote(part.media)}}}'


@dataclass(frozen=True, slots=True)
class Score:
    """What a verifier said of a chain.

    value: belief in [0, 1] that the chain is, or will end, correct; None if the verifier could not say (`error` tells why):
    such a chain costs and is never chosen. raw: the model's own number, of which `value` is a named map. steps: values in [0, 1] after
    each step, for process verifiers. usage: only what did not go through the run.
    """

    value: float | None
    raw: float | None = None
    steps: tuple[float, ...] = ()
    usage: Usage = Usage()
    error: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and not 0.0 <= self.value <= 1.0:
            raise ValueError(f"a score's value must lie in [0, 1], not {self.value!r}; keep the model's own number in `raw`")
        if self.value is None and not self.error:
            raise ValueError("a score without a value must say why in `error`")


@dataclass(frozen=True, slots=True)
class Question:
    """What a strategy may see of a problem."""

    id: str
    messages: tuple[Message, ...]
    metadata: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Problem:
    """A question plus its hidden reference, in the form its grader reads."""

    question: Question
    reference: JSON


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a grader decided. `answer` is the extracted answer; `reason` names why a chain is not correct."""

    correct: bool
    answer: str | None = None
    reason: str = ""
