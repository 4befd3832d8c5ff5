"""The OpenAI wire format, both routes, as pure functions: what is asked for, and what a reply says."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from ponder.core import Sampling
from ponder.types import JSON, Message, Tokens

Object: TypeAlias = Mapping[str, JSON]
Route: TypeAlias = Literal["chat", "completions"]


class MalformedError(Exception):
    """A reply that is not what the format says; worth another try."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of a reply. stopped_by: the stop text that ended it; None if it is not told. told: whether the server tells at all."""

    text: str
    finish: str
    tokens: Tokens | None
    stopped_by: str | None
    told: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. completion is None where the server counts nothing."""

    choices: tuple[Choice, ...]
    prompt: int
    cached: int
    completion: int | None


def messages_body(messages: Sequence[Message], prefill: str = "") -> list[JSON]:
    """Messages as JSON, with a partial answer as a last assistant turn."""
    body: list[JSON] = [{"role": message.role, "content": message.text} for message in messages]
    return [*body, {"role": "assistant", "content": prefill}] if prefill else body


def sampling_body(sampling: Sampling, route: Route) -> dict[str, JSON]:
    """Sampling fields; those at their neutral value are left out, as not every server knows them."""
    body: dict[str, JSON] = {"temperature": sampling.temperature}
    if sampling.top_p < 1:
        body["top_p"] = sampling.top_p
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    if sampling.logprobs:
        body |= {"logprobs": True, "top_logprobs": sampling.logprobs} if route == "chat" else {"logprobs": sampling.logprobs}
    return body


def read_reply(body: JSON, *, strip: str = "") -> Reply:
    """A reply, checked. `strip` is a partial answer that the server may repeat before its continuation."""
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list) or not body["choices"]:
        raise MalformedError(f"a reply without choices: {str(body)[:120]}")
    found = [_choice(cast("Object", one), strip) for one in cast("list[JSON]", body["choices"])]
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return Reply(tuple(found), 0, 0, None)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Reply(tuple(found), _count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens")))


def _count(value: JSON) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _choice(one: Object, strip: str) -> Choice:
    if not isinstance(one, dict):
        raise MalformedError(f"a choice that is no object: {str(one)[:120]}")
    message = one.get("message")
    if isinstance(message, dict):
        text = _text(message.get("content"))
        thought = _text(message.get("reasoning_content")) or _text(message.get("reasoning"))
        if thought:
            text = f"<think>{thought}</think>{text}"
    elif isinstance(one.get("text"), str):
        text = _text(one["text"])
    else:
        raise MalformedError(f"a choice without text: {str(one)[:120]}")
    text = text.removeprefix(strip) if strip else text
    tokens = _tokens(one.get("logprobs"))
    if tokens is not None and strip and "".join(tokens.texts) != text:
        tokens = _without(tokens, strip)
    reason = one.get("stop_reason")
    return Choice(text, str(one.get("finish_reason")), tokens, reason if isinstance(reason, str) else None, "stop_reason" in one)


def _text(value: JSON) -> str:
    """A string that can be stored: a lone surrogate, which JSON lets through, becomes the replacement character."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _without(tokens: Tokens, strip: str) -> Tokens:
    """The tokens after those that spell `strip`, if they begin with it."""
    said = ""
    for at, text in enumerate(tokens.texts):
        if said == strip:
            return tokens[at:]
        said += text
        if not strip.startswith(said):
            return tokens
    return tokens[len(tokens) :]


def _tokens(logprobs: JSON) -> Tokens | None:
    """Token columns from either route's form; None where there are none."""
    if not isinstance(logprobs, dict):
        return None
    content = logprobs.get("content")
    if isinstance(content, list):
        rows = [cast("Object", one) for one in content if isinstance(one, dict)]
        tops = [
            [
                (_text(top.get("token")), _number(top.get("logprob")))
                for top in cast("list[Object]", row.get("top_logprobs") or [])
            ]
            for row in rows
        ]
        return _columns([_text(row.get("token")) for row in rows], [_number(row.get("logprob")) for row in rows], tops)
    texts = logprobs.get("tokens")
    if isinstance(texts, list):
        own = cast("list[JSON]", logprobs.get("token_logprobs") or [None] * len(texts))
        lines = cast("list[JSON]", logprobs.get("top_logprobs") or [None] * len(texts))
        tops = [
            sorted(((_text(k), _number(v)) for k, v in line.items()), key=lambda p: -p[1]) if isinstance(line, dict) else []
            for line in lines
        ]
        return _columns([_text(text) for text in texts], [_number(value) for value in own], tops)
    return None


def _columns(texts: Sequence[str], own: Sequence[float], tops: Sequence[Sequence[tuple[str, float]]]) -> Tokens:
    width = max(map(len, tops), default=0)
    padded = [[*top, *[("", float("-inf"))] * (width - len(top))] for top in tops]
    flat = [pair for top in padded for pair in top]
    return Tokens(
        tuple(texts),
        array("i"),
        array("f", own),
        width,
        tuple(text for text, _ in flat),
        array("f", [number for _, number in flat]),
    )


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) else float("-inf")


def completion_counts(reply: Reply, cap: int) -> list[int]:
    """Completion tokens of each choice: its own tokens where they are told, else its share of what was counted, else the cap.

    Shares are proportional to the length of the text and sum to the count exactly.
    """
    own = [len(choice.tokens) if choice.tokens is not None else None for choice in reply.choices]
    if all(count is not None for count in own):
        return [count for count in own if count is not None]
    if reply.completion is None:
        return [cap] * len(own)
    lengths = [max(1, len(choice.text)) for choice in reply.choices]
    total, before, given = sum(lengths), 0, []
    for length in lengths:
        after = before + length
        given.append(reply.completion * after // total - reply.completion * before // total)
        before = after
    return given
