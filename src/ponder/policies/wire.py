"""The OpenAI wire format, both routes, as pure functions: what is asked for, and what a reply says."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeAlias, cast

from ponder.core import Sampling
from ponder.policies.tools import render_calls
from ponder.types import JSON, Message, Tokens

Object: TypeAlias = Mapping[str, JSON]
Route: TypeAlias = Literal["chat", "completions"]
EXTRAS: dict[str, JSON] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Neutral, on servers that know these fields: vLLM, SGLang and llama.cpp take a top_k of -1 for none."""


class MalformedError(Exception):
    """A reply that is not what the format says; worth another try."""


class Choice(NamedTuple):
    """One choice of a reply. stopped_by: the stop text that ended it; None if it is not told. told: whether the server tells at all."""

    text: str
    finish: str
    tokens: Tokens | None
    stopped_by: str | None
    told: bool


class Reply(NamedTuple):
    """A whole reply. completion is None where the server counts nothing."""

    choices: tuple[Choice, ...]
    prompt: int
    cached: int
    completion: int | None


def messages_body(messages: Sequence[Message], prefill: str = "") -> list[JSON]:
    """Messages as JSON, with a partial answer as a last assistant turn."""
    body: list[JSON] = [{"role": message.role, "content": message.text} for message in messages]
    return [*body, {"role": "assistant", "content": prefill}] if prefill else body


def sampling_body(sampling: Sampling, route: Route, *, extras: bool) -> dict[str, JSON]:
    """Sampling fields. `extras`: the server takes those that OpenAI does not have.

    Neutral values are sent too. Left out, they are the server's choice: vLLM takes them from the model's generation_config.json,
    llama.cpp's own are top-k 40 and min-p 0.05, and neither is what `Sampling` says.
    """
    body: dict[str, JSON] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if extras:
        body |= EXTRAS
    if sampling.top_k:
        body["top_k"] = sampling.top_k
    return body | logprobs_body(sampling.logprobs, route) if sampling.logprobs else body


def logprobs_body(count: int, route: Route) -> dict[str, JSON]:
    """The fields that ask for `count` alternatives for each token."""
    return {"logprobs": True, "top_logprobs": count} if route == "chat" else {"logprobs": count}


def read_reply(body: JSON, *, strip: str = "") -> Reply:
    """A reply, checked. `strip` is a partial answer that the server may repeat before its continuation. Raises `MalformedError`."""
    if not isinstance(body, dict) or not isinstance(body.get("choices"), list) or not body["choices"]:
        raise MalformedError("a reply without choices")  # its text is not shown: servers repeat keys in it
    found = [_choice(one, strip) for one in cast("list[JSON]", body["choices"])]
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return Reply(tuple(found), 0, 0, None)
    details, written = usage.get("prompt_tokens_details"), usage.get("completion_tokens")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    counted = written if isinstance(written, int) and 0 <= written <= _MOST else None
    prompt = _count(usage.get("prompt_tokens"))
    return Reply(tuple(found), prompt, min(_count(cached), prompt), counted)


def read_json(raw: bytes) -> JSON:
    """What a server sent, as a value. Raises `ValueError`, `RecursionError`."""
    import pydantic_core

    try:
        found: JSON = pydantic_core.from_json(raw, cache_strings="keys")  # a fifth of the time of json.loads; texts are not kept
    except ValueError:
        found = json.loads(raw)  # which takes lone surrogates
    return found


def read_all(events: Sequence[bytes]) -> list[JSON]:
    """What each of these holds, read together, as most of the time of a small one is the call. Raises as `read_json`."""
    import pydantic_core

    if len(events) > 1:
        try:
            found: list[JSON] = pydantic_core.from_json(b"[" + b",".join(events) + b"]", cache_strings="keys")
            if len(found) == len(events):
                return found
        except ValueError:
            pass  # one of them, or none for itself
    return [read_json(event) for event in events]


def write_json(body: Mapping[str, JSON]) -> bytes:
    """A body as it is sent."""
    import pydantic_core

    try:
        return pydantic_core.to_json(body)
    except ValueError:
        return json.dumps(body).encode()  # which writes lone surrogates as escapes


def completion_counts(reply: Reply, cap: int, stops: bool = False) -> list[int]:
    """Completion tokens of each choice, of a reply whose usage counts all choices or nothing.

    They add up to what was counted. Where it is more than one choice, each has its own tokens where they are told (what is over are
    closing tokens that are not shown, and is spread evenly). Else a choice that ended by length has the cap, and the others an
    estimate, a share by the length of the text. Where nothing is counted: its own tokens, and one for a stop text that may not be shown
    (`stops`); else the cap.
    """
    if reply.completion is not None and len(reply.choices) == 1:
        return [max(reply.completion, int(bool(reply.choices[0].text)))]  # text without a token is a server's mistake
    told = [len(choice.tokens) for choice in reply.choices if choice.tokens is not None]
    if len(told) < len(reply.choices):
        if reply.completion is None:
            return [cap] * len(reply.choices)
        return _estimates(reply.completion, reply.choices, cap)
    if reply.completion is None:
        ended = [stops and choice.finish == "stop" for choice in reply.choices]
        return [count + end for count, end in zip(told, ended, strict=True)]
    over = reply.completion - sum(told)
    if over < 0:
        return _shares(reply.completion, told)
    return [count + extra for count, extra in zip(told, _shares(over, [1] * len(told)), strict=True)]


def aligned(tokens: Tokens, text: str) -> Tokens:
    """The tokens with texts that join to `text`.

    Engines show closing tokens that are not in the text, leave out stop texts and think tags, and cannot show half a character. A
    token's text is looked for where the last one ended, at most 32 characters on; what is passed over goes before it, what is left at
    the end to the last; a token that is not found has no text.
    """
    if "".join(tokens.texts) == text:
        return tokens
    found, at = [], 0
    for said in tokens.texts:
        place = text.find(said, at, at + len(said) + 32) if said else -1
        found.append(text[at : place + len(said)] if place >= 0 else "")
        at = place + len(said) if place >= 0 else at
    if found and at < len(text):
        found[-1] += text[at:]
    return replace(tokens, texts=tuple(found))


# Plumbing.

_MOST = 2**53  # a larger number is a server's mistake, and no database takes it


def _estimates(total: int, choices: Sequence[Choice], cap: int) -> list[int]:
    """`total` by the lengths of the texts, none above the cap; with no regard to the cap where the total shows that it was not kept."""
    lengths = [max(1, len(choice.text)) for choice in choices]
    full = [choice.finish == "length" for choice in choices]
    left = total - cap * sum(full)
    if left < 0 or total > cap * len(choices):
        return _shares(total, lengths)
    shares = _shares(left, [0 if whole else length for whole, length in zip(full, lengths, strict=True)])
    counts = [cap if whole else min(share, cap) for whole, share in zip(full, shares, strict=True)]
    for at, count in enumerate(counts):  # what was clipped goes to those below the cap
        counts[at] += min(cap - count, total - sum(counts))
    return counts


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts, proportional to the weights."""
    whole, before, given = sum(weights), 0, []
    for weight in weights:
        after = before + weight
        given.append(total * after // whole - total * before // whole if whole else 0)
        before = after
    return given


def _count(value: JSON) -> int:
    return value if isinstance(value, int) and 0 <= value <= _MOST else 0


def _choice(one: JSON, strip: str) -> Choice:
    if not isinstance(one, dict):
        raise MalformedError("a choice that is no object")
    message, finish, reason = one.get("message"), str(one.get("finish_reason")), one.get("stop_reason")
    if isinstance(message, dict):
        text = storable(message.get("content"))
        thought = storable(message.get("reasoning_content")) or storable(message.get("reasoning"))
        if thought:  # a thought that was cut, or ended by a stop text, has no end tag yet
            over = text or (finish == "stop" and not isinstance(reason, str))
            text = f"<think>{thought}{'</think>' if over else ''}{text}"
        if message.get("tool_calls"):
            text += storable(render_calls(message["tool_calls"]))
    elif isinstance(one.get("text"), str):
        text = storable(one["text"])
    else:
        raise MalformedError(f"a choice without text: {str(one)[:120]}")
    tokens = _tokens(one.get("logprobs"))
    if strip and text.startswith(strip):
        text = text[len(strip) :]
        if tokens is not None and "".join(tokens.texts) != text:
            tokens = _without(tokens, strip)
    return Choice(text, finish, tokens, reason if isinstance(reason, str) else None, "stop_reason" in one)


def storable(value: JSON) -> str:
    """A string as it can be stored and sent: a lone surrogate, which JSON lets through, becomes U+FFFD. "" for what is no string."""
    if not isinstance(value, str):
        return ""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _without(tokens: Tokens, strip: str) -> Tokens:
    """The tokens after those that spell `strip`, if they begin with it."""
    said = ""
    for at, text in enumerate(tokens.texts):
        if said == strip:
            return tokens[at:]
        said += text
        if not strip.startswith(said):
            return tokens
    return tokens[len(tokens) :] if said == strip else tokens


def _tokens(logprobs: JSON) -> Tokens | None:
    """Token columns from either route's form; None where there are none. Raises `MalformedError` for rows that are no such thing."""
    if not isinstance(logprobs, dict):
        return None
    try:
        content, texts = logprobs.get("content"), logprobs.get("tokens")
        if isinstance(content, list):
            rows = cast("list[Object]", content)
            tops = [
                [(top["token"], top["logprob"]) for top in cast("list[Object]", row.get("top_logprobs") or ())] for row in rows
            ]
            return _columns([row["token"] for row in rows], [row["logprob"] for row in rows], tops)
        if isinstance(texts, list):
            own = cast("list[JSON]", logprobs.get("token_logprobs") or [None] * len(texts))
            lines = cast("list[Object]", logprobs.get("top_logprobs") or [{}] * len(texts))
            tops = [sorted((line or {}).items(), key=lambda pair: -_number(pair[1])) for line in lines]
            return _columns(texts, own, tops)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MalformedError(f"token probabilities that cannot be read ({type(error).__name__}: {error})") from None
    return None


def _columns(texts: Sequence[JSON], own: Sequence[JSON], tops: Sequence[Sequence[tuple[JSON, JSON]]]) -> Tokens:
    if not len(texts) == len(own) == len(tops):
        raise ValueError(f"{len(texts)} tokens, {len(own)} probabilities, {len(tops)} rows of alternatives")
    width = max(map(len, tops), default=0)
    flat = [pair for top in tops for pair in [*top, *[("", None)] * (width - len(top))]]
    return Tokens(
        tuple(map(storable, texts)),
        array("i"),
        array("f", map(_number, own)),
        width,
        tuple(storable(text) for text, _ in flat),
        array("f", [_number(number) for _, number in flat]),
    )


def _number(value: JSON) -> float:
    return float(value) if isinstance(value, int | float) and -_MOST <= value <= _MOST else float("-inf")  # not so: NaN
