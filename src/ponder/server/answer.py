"""From what came of the runs to OpenAI's objects: choices, finish reasons, calls of tools, logprobs, usage.

Usage sums all that was spent, discarded branches and verifiers included. `completion_tokens` are tokens as budgets count them (written
by any policy, or scored by a reward model); `reasoning_tokens` are those of them that are not in the answers shown; `verifier_tokens` are
those that verifiers wrote or read. `prompt_tokens` counts the prompt once for each sample that read it.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

from typing_extensions import NotRequired, TypedDict  # noqa: UP035  # pydantic reads those of typing from Python 3.12 on only

from ponder.core import Outcome
from ponder.policies.tools import Call, read_calls
from ponder.server.refusal import Refusal, late
from ponder.types import JSON, Chain, Tokens, Usage

Finished: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
ABSTAINED = "No answer: none of the samples was good enough for the strategy."


class FunctionText(TypedDict):
    """A call's tool and arguments."""

    name: str
    arguments: str


class CallObject(TypedDict):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionText


class MessageObject(TypedDict):
    """The answer."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[CallObject]]


class Alternative(TypedDict):
    """A token that might have stood there."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenObject(Alternative):
    """A token of the answer."""

    top_logprobs: list[Alternative]


class LogprobsObject(TypedDict):
    """The tokens of the answer."""

    content: list[TokenObject] | None
    refusal: None


class ChoiceObject(TypedDict):
    """One answer."""

    index: int
    message: MessageObject
    finish_reason: Finished
    logprobs: LogprobsObject | None


class TextLogprobs(TypedDict):
    """The tokens of a text, in the columns of the completions route."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(TypedDict):
    """One continuation."""

    index: int
    text: str
    finish_reason: Finished
    logprobs: TextLogprobs | None


class PromptDetails(TypedDict):
    """Of the prompt's tokens, those from a cache."""

    cached_tokens: int


class CompletionDetails(TypedDict):
    """Of the completion tokens, those that are in no answer, and those of verifiers."""

    reasoning_tokens: int
    verifier_tokens: int


class UsageObject(TypedDict):
    """What was spent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Spending(TypedDict):
    """How the answer was found."""

    strategy: str
    samples: int
    calls: int
    failed: int
    exhausted: bool
    seconds: float


class ChatObject(TypedDict):
    """The reply of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChoiceObject]
    usage: UsageObject
    system_fingerprint: str
    ponder: Spending


class TextObject(TypedDict):
    """The reply of /v1/completions."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageObject
    system_fingerprint: str
    ponder: Spending


class ModelObject(TypedDict):
    """A served name."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All served names."""

    object: Literal["list"]
    data: list[ModelObject]


class Answer(NamedTuple):
    """One choice: the text shown, what was thought before it, calls, how it ended, its tokens where they are known."""

    text: str
    thought: str
    calls: Sequence[Call]
    finish: Finished
    usage: Usage
    tokens: Tokens | None = None
    refusal: str | None = None
    visible: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """What all chunks of one reply begin with."""

    id: str
    created: int
    model: str
    fingerprint: str


def head(prefix: Literal["chatcmpl-", "cmpl-", "resp_"], model: str, engine: str, strategy: str) -> Head:
    """A new reply's. The fingerprint is a function of the engine's and the strategy's spec."""
    print_ = hashlib.blake2b(f"{engine}\x1f{strategy}".encode(), digest_size=6).hexdigest()
    return Head(prefix + os.urandom(12).hex(), int(time.time()), model, f"fp_{print_}")


def answer_of(outcome: Outcome, stops: Sequence[str], *, tools: bool, rejected: str = "") -> Answer:
    """What came of one run, as one choice.

    Where the strategy proposed nothing, a sample that was cut, filtered or is empty stands for what the engine would have said (`length`,
    `content_filter`, `stop`); a strategy that found no sample good enough refuses. Raises `Refusal`: 400 where the engine rejected the
    request (`rejected`: its words), 502 where every sample failed, 408 where the time was over before there was any.
    """
    chain = outcome.chain or _instead(outcome)
    if chain is None:
        if rejected:
            raise Refusal(400, f"the engine rejects this request: {rejected}", code="rejected_by_engine")
        if outcome.failed:
            raise Refusal(502, f"all {outcome.failed} samples failed at the engine; trying again may help", code="engine_failed")
        if outcome.exhausted and not outcome.spent.samples:
            raise late("the time or budget was over before there was an answer")
        return Answer("", "", (), "stop", outcome.spent.usage, refusal=ABSTAINED)
    thought, text = split_thought(chain.text)
    text, calls = read_calls(text) if tools else (text, ())
    at = min((place for stop in stops if (place := text.find(stop)) >= 0), default=-1)
    finish: Finished = "stop"
    if at >= 0:
        text, calls = text[:at], ()
    elif chain.finish == "filtered":
        finish = "content_filter"
    elif chain.finish != "stop":
        finish = "length"
    elif calls:
        finish = "tool_calls"
    tokens = _tokens(chain)
    usage = chain.usage
    whole = len(chain.text)
    visible = usage.completion if not thought else round(usage.completion * (whole - len(thought)) / max(1, whole))
    return Answer(text, thought, calls, finish, outcome.spent.usage, _shown(tokens, chain.text, text), visible=visible)


def split_thought(text: str) -> tuple[str, str]:
    """What stands in a first <think>...</think>, and the rest; a thought that has no end is all there is."""
    start = text.lstrip()
    if not start.startswith("<think>"):
        return "", text
    thought, closed, rest = start.removeprefix("<think>").partition("</think>")
    return thought.strip("\n"), rest.lstrip("\n") if closed else ""


def message(answer: Answer) -> MessageObject:
    """The choice's message."""
    said: MessageObject = {"role": "assistant", "content": answer.text, "refusal": answer.refusal}
    if answer.refusal is not None or (answer.calls and not answer.text):
        said["content"] = None
    if answer.thought:
        said["reasoning_content"] = answer.thought
    if answer.calls:
        said["tool_calls"] = call_objects(answer.calls)
    return said


def call_objects(calls: Sequence[Call]) -> list[CallObject]:
    """Calls of tools with new ids."""
    return [
        {"id": f"call_{os.urandom(12).hex()}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def logprobs(tokens: Tokens | None, top: int) -> LogprobsObject:
    """The tokens of an answer with at most `top` alternatives."""
    if tokens is None:
        return {"content": None, "refusal": None}
    rows: list[TokenObject] = [
        {
            **_alternative(token.text, token.logprob),
            "top_logprobs": [_alternative(text, number) for text, number in token.top_logprobs[:top]],
        }
        for token in tokens
        if token.text
    ]
    return {"content": rows, "refusal": None}


def text_logprobs(tokens: Tokens | None, top: int) -> TextLogprobs | None:
    """The same in the columns of the completions route."""
    if tokens is None:
        return None
    offsets, at = [], 0
    for text in tokens.texts:
        offsets.append(at)
        at += len(text)
    return {
        "tokens": list(tokens.texts),
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [dict(token.top_logprobs[:top]) for token in tokens],
        "text_offset": offsets,
    }


def usage_object(usage: Usage, visible: int, verifier: int) -> UsageObject:
    """The usage of one reply. visible: tokens of the answers shown; verifier: tokens that verifiers wrote or read."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.tokens,
        "total_tokens": usage.prompt + usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {
            "reasoning_tokens": max(0, usage.tokens - visible),
            "verifier_tokens": min(verifier, usage.tokens),
        },
    }


def _instead(outcome: Outcome) -> Chain | None:
    """What an engine would have said where a strategy proposed nothing: the first whole sample that ended, but gave no answer."""
    chains = [chain for event in outcome.events if event.kind == "extend" for chain in event.chains]
    for finish in ("length", "filtered", "stop"):
        for chain in chains:
            if chain.finish == finish and (finish != "stop" or not chain.text.strip()):
                return chain
    return None


def _tokens(chain: Chain) -> Tokens | None:
    """The tokens of all steps in one, where every step has them."""
    steps = [step.tokens for step in chain.steps]
    if len(steps) != 1 and any(tokens is None or tokens.width != (steps[0].width if steps[0] else 0) for tokens in steps):
        return None
    if len(steps) == 1:
        return steps[0]
    whole = [tokens for tokens in steps if tokens is not None]
    if not whole:
        return None
    return reduce(Tokens.then, whole)


def _shown(tokens: Tokens | None, whole: str, text: str) -> Tokens | None:
    """Of the tokens of the whole text, those of the part that is shown."""
    if tokens is None or whole == text:
        return tokens
    begin = whole.rfind(text)
    if begin < 0 or not text:
        return None
    first = last = at = 0
    for place, said in enumerate(tokens.texts):
        if at < begin:
            first = place + 1
        if at < begin + len(text):
            last = place + 1
        at += len(said)
    return tokens[first:last]


def _alternative(text: str, logprob: float | None) -> Alternative:
    number = _finite(logprob)
    return {"token": text, "logprob": -9999.0 if number is None else number, "bytes": list(text.encode("utf-8", "replace"))}


def _finite(value: float | None) -> float | None:
    return value if value is not None and value > float("-inf") else None


def as_json(value: object) -> JSON:
    """A typed object as plain JSON, for the type checker."""
    return value  # type: ignore[return-value]  # typed dictionaries of JSON values are JSON
