"""From the fields of a request to the body or the events of its reply, in the dialect that is set."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

from ponder.testing.endpoint.dialects import Dialect, Prefill, SeedRule, Thinking, UsageRule, render_chat, split_reply
from ponder.testing.endpoint.replies import Draw, Manner, TokenChance, continue_reply, count_tokens, split_tokens, token_chances
from ponder.testing.endpoint.settings import Settings

Fields = dict[str, Any]  # a request's JSON object, as it came


class Refusal(Exception):
    """A request that is answered by an error object."""

    def __init__(
        self, status: int, message: str, *, kind: str, param: str | None = None, code: str | None = None,
        headers: str = "",
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.param, self.code, self.headers = status, kind, param, code, headers

    def body(self) -> dict[str, dict[str, str | None]]:
        """The error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


class Memory:
    """What the endpoint remembers between requests: how often a text was sampled, which prefixes are cached.

    Bounded: past `most` items the oldest half is forgotten.
    """

    def __init__(self, most: int = 200_000) -> None:
        self._most = most
        self._counts: dict[str, int] = {}
        self._prefixes: dict[bytes, None] = {}

    def count(self, text: str, by: int = 1) -> int:
        """How often the text was counted before; counts it `by` more times."""
        before = self._counts.get(text, 0)
        self._counts[text] = before + by
        _forget(self._counts, self._most)
        return before

    def cached_length(self, text: str, block: int = 64) -> int:
        """Length of the longest known prefix in whole blocks of characters; afterwards all of the text is known."""
        rolling, known = blake2b(digest_size=12), 0
        for end in range(block, len(text) + 1, block):
            rolling.update(text[end - block : end].encode("utf-8", "surrogatepass"))
            digest = rolling.digest()
            if digest in self._prefixes:
                known = end
            self._prefixes[digest] = None
        _forget(self._prefixes, self._most)
        return known


@dataclass(slots=True)
class Choice:
    """One choice: the visible tokens of its thought and its content, what they cost, how it ended."""

    thought: list[str]
    tokens: list[str]
    spent: int  # tokens generated, those of a stop string included
    finish: str
    stop_reason: str | None = None
    chances: list[TokenChance] | None = None
    call: dict[str, str] | None = None  # the tool that is called instead of content: its name and arguments


@dataclass(slots=True)
class Completion:
    """An answered request, ready to be written as one body or as events."""

    dialect: Dialect
    chat: bool
    streaming: bool
    model: str
    name: str
    prefix: str  # what the content repeats before the new text
    continuing: bool
    prompt_tokens: int
    cached_tokens: int
    usage_event: bool
    choices: list[Choice] = field(default_factory=list)

    @property
    def completion_tokens(self) -> int:
        """Tokens generated in all choices: the truth, whatever the usage object says."""
        return sum(choice.spent for choice in self.choices)

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max((choice.spent for choice in self.choices), default=0)

    def miscount(self) -> None:
        """Drop the last choice; of a single one make two."""
        if len(self.choices) > 1:
            self.choices.pop()
        else:
            self.choices.extend(self.choices)

    def body(self) -> bytes:
        """The body of a reply that is not streamed."""
        body = self._shell("chat.completion" if self.chat else "text_completion")
        body["choices"] = [self._whole(index, choice) for index, choice in enumerate(self.choices)]
        if self.dialect.usage is not UsageRule.NONE:
            body["usage"] = self._usage()
        if self.dialect.timings:
            body["timings"] = self._timings()
        return json.dumps(body).encode()

    def events(self) -> Iterator[bytes]:
        """The events of a streamed reply, without the final [DONE]: token by token, the choices in turn."""
        shell = self._shell("chat.completion.chunk" if self.chat else "text_completion")
        if self.chat:
            for index in range(len(self.choices)):
                yield _event(shell, {"index": index, "delta": {"role": "assistant", "content": self.prefix}})
        steps = [self._deltas(index, choice) for index, choice in enumerate(self.choices)]
        for place in range(max(map(len, steps), default=0)):
            for deltas in steps:
                if place < len(deltas):
                    yield _event(shell, deltas[place])
        for index, choice in enumerate(self.choices):
            empty: Fields = {"delta": {}} if self.chat else {"text": ""}
            yield _event(shell, {"index": index, **empty, "logprobs": None, **self._ending(choice)})
        if not self.choices:
            yield b"data: " + json.dumps({**shell, "choices": []}).encode() + b"\n\n"
        if self.usage_event and self.dialect.usage is not UsageRule.NONE:
            usage = {**shell, "choices": [], "usage": self._usage()}
            yield b"data: " + json.dumps(usage).encode() + b"\n\n"

    def _shell(self, kind: str) -> Fields:
        return {"id": self.name, "object": kind, "created": int(time.time()), "model": self.model}

    def _ending(self, choice: Choice) -> Fields:
        ending: Fields = {"finish_reason": choice.finish}
        if self.dialect.stop_reason:
            ending["stop_reason"] = choice.stop_reason
        return ending

    def _whole(self, index: int, choice: Choice) -> Fields:
        text = self.prefix + "".join(choice.tokens)
        logprobs = None if choice.chances is None else _logprobs(choice.chances, len(self.prefix), chat=self.chat)
        if not self.chat:
            return {"index": index, "text": text, "logprobs": logprobs, **self._ending(choice)}
        message: Fields = {"role": "assistant", "content": text}
        if self.dialect.thinking is Thinking.FIELD:  # a reply that was cut while it thought has content: null
            message |= {"content": text or None, "reasoning_content": "".join(choice.thought) or None}
        if choice.call:
            message |= {"content": None, "tool_calls": [{"id": f"call_{index}", "type": "function", "function": choice.call}]}
        return {"index": index, "message": message, "logprobs": logprobs, **self._ending(choice)}

    def _deltas(self, index: int, choice: Choice) -> list[Fields]:
        deltas: list[Fields] = [
            {"index": index, "delta": {"reasoning_content": token}, "finish_reason": None} for token in choice.thought
        ]
        if choice.call:
            opening = {"index": 0, "id": f"call_{index}", "type": "function", "function": {**choice.call, "arguments": ""}}
            pieces = [{"index": 0, "function": {"arguments": token}} for token in split_tokens(choice.call["arguments"])]
            return deltas + [
                {"index": index, "delta": {"tool_calls": [one]}, "finish_reason": None} for one in (opening, *pieces)
            ]
        offset = len(self.prefix)
        for place, token in enumerate(choice.tokens):
            chance = None if choice.chances is None else choice.chances[place : place + 1]
            logprobs = None if chance is None else _logprobs(chance, offset, chat=self.chat)
            offset += len(token)
            said: Fields = {"delta": {"content": token}} if self.chat else {"text": token}
            deltas.append({"index": index, **said, "logprobs": logprobs, "finish_reason": None})
        return deltas

    def _usage(self) -> Fields:
        counted = self.completion_tokens
        if self.dialect.usage is UsageRule.FIRST_CHOICE and self.choices:
            counted = self.choices[0].spent
        usage: Fields = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": counted,
            "total_tokens": self.prompt_tokens + counted,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.dialect.thinking is Thinking.FIELD:
            thought = sum(len(choice.thought) for choice in self.choices)
            usage["completion_tokens_details"] = {"reasoning_tokens": thought}
        return usage

    def _timings(self) -> Fields:
        fresh = self.prompt_tokens - self.cached_tokens
        return {"cache_n": self.cached_tokens, "prompt_n": fresh, "predicted_n": self.longest}


def parse_body(body: bytes) -> Fields:
    """The JSON object of a request."""
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise _invalid(f"We could not parse the JSON body of your request: {error}.", None) from None
    if not isinstance(fields, dict):
        raise _invalid("The body of your request must be a JSON object.", None)
    return fields


def prompt_of(fields: Fields, dialect: Dialect, *, chat: bool) -> str:
    """The text that the model continues: the rendered conversation, or the prompt as it came."""
    if not chat:
        prompt = fields.get("prompt")
        if not isinstance(prompt, str):
            raise _invalid("prompt must be one string.", "prompt")
        return prompt
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("messages must be a list with at least one message.", "messages")
    pairs = [_role_and_content(message) for message in messages]
    last = pairs[-1][0]
    generation_prompt = fields.get("add_generation_prompt", True)
    if dialect.prefill is Prefill.REPEATED:
        return render_chat(pairs, continuing=last == "assistant")
    if dialect.prefill is Prefill.FRESH or not fields.get("continue_final_message"):
        return render_chat(pairs, continuing=False, generation_prompt=dialect.strict or generation_prompt)
    if generation_prompt:
        raise _invalid("Cannot set both `continue_final_message` and `add_generation_prompt` to True.", None)
    if last != "assistant":
        raise _invalid(f"continue_final_message needs a final message of the assistant, not {last!r}.", "messages")
    return render_chat(pairs, continuing=True)


def complete(fields: Fields, settings: Settings, memory: Memory, *, chat: bool) -> Completion:
    """Answer a request; `Refusal` when the dialect would not."""
    dialect = settings.dialect
    model = fields.get("model", settings.models[0])
    if model not in settings.models:
        message = f"The model `{model}` does not exist or you do not have access to it."
        raise Refusal(404, message, kind="invalid_request_error", code="model_not_found")
    if dialect.strict:
        _check_strictly(fields, model, chat=chat)
    text = prompt_of(fields, dialect, chat=chat)
    prompt_tokens = count_tokens(text)
    if prompt_tokens >= settings.context:
        limit = f"This model's maximum context length is {settings.context} tokens."
        message = f"{limit} However, your messages resulted in {prompt_tokens} tokens."
        raise _invalid(message, "messages" if chat else "prompt", "context_length_exceeded")
    before, partial = split_reply(text)
    n = _whole_number(fields, "n", 1)
    seed, options = fields.get("seed"), fields.get("stream_options")
    completion = Completion(
        dialect=dialect,
        chat=chat,
        streaming=bool(fields.get("stream")),
        model=model,
        name=f"{'chatcmpl' if chat else 'cmpl'}-{memory.count('')}",
        prefix=partial if chat and dialect.prefill is Prefill.REPEATED else "",
        continuing=bool(partial),
        prompt_tokens=prompt_tokens,
        cached_tokens=max(0, min(count_tokens(text[: memory.cached_length(text)]), prompt_tokens - 1)),
        usage_event=isinstance(options, dict) and bool(options.get("include_usage")),
    )
    writer = _Writer.of(fields, settings, room=settings.context - prompt_tokens, chat=chat)
    greedy = fields.get("temperature") == 0
    # Without a seed the draws of a text are numbered as they come: n choices in one request or one by one are the same.
    first = memory.count(text, n) if seed is None else 0
    for index in range(n if dialect.honours_n else 1):
        place = 0 if seed is not None and dialect.seed is SeedRule.ONE_FOR_ALL else first + index
        name = f"{settings.weights}/greedy" if greedy else f"{settings.weights}/{seed}/{place}"
        choice = writer.write(before, partial, Draw.derive(text, name, greedy=greedy))
        completion.choices.append(_calling(choice, fields, text) if chat and fields.get("tools") else choice)
    return completion


def _calling(choice: Choice, fields: Fields, text: str) -> Choice:
    """The choice as a call of a tool, with its answer as the argument, where one is required or the prompt says CALL TOOL."""
    wanted = fields.get("tool_choice", "auto")
    if wanted == "none" or (wanted == "auto" and "CALL TOOL" not in text):
        return choice
    tool = (wanted if isinstance(wanted, dict) else fields["tools"][0])["function"]["name"]
    answer = "".join(choice.tokens).rpartition(" ")[2].rstrip(".")
    return replace(choice, call={"name": tool, "arguments": json.dumps({"value": answer})}, finish="tool_calls", chances=None)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Cuts a reply as the request wants it: stop strings, cap, logprobs."""

    manner: Manner
    thought_apart: bool
    cap: int
    stops: tuple[str, ...]
    keep_stop: bool
    top: int | None

    @classmethod
    def of(cls, fields: Fields, settings: Settings, *, room: int, chat: bool) -> _Writer:
        dialect = settings.dialect
        cap = _whole_number(fields, "max_completion_tokens", _whole_number(fields, "max_tokens", 0))
        if cap == 0 and not chat and dialect.completion_cap is not None:
            cap = dialect.completion_cap
        stops = fields.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
            raise _invalid(f"stop must be a string or a list of strings, not {stops!r}.", "stop")
        top = fields.get("logprobs")
        if chat:
            top = (fields.get("top_logprobs") or 0) if top else None
        if not isinstance(top, int | None):
            raise _invalid(f"the number of logprobs must be a whole number, not {top!r}.", "logprobs")
        return cls(
            manner=Manner(settings.correct, settings.separator, dialect.thinking is not Thinking.PLAIN, settings.slips),
            thought_apart=dialect.thinking is Thinking.FIELD,
            cap=min(cap or room, room) if dialect.honours_max_tokens else 1 << 30,
            stops=tuple(filter(None, stops)),
            keep_stop=bool(fields.get("include_stop_str_in_output")),
            top=None if top is None else max(0, min(top, 20)),
        )

    def write(self, before: str, partial: str, draw: Draw) -> Choice:
        text, thought = continue_reply(before, partial, draw, self.manner), ""
        if self.thought_apart and "</think>" in text:
            thought, _, text = text.partition("</think>")
            thought, text = thought.removeprefix("<think>").strip("\n"), text.lstrip("\n")
        thoughts, contents = split_tokens(thought), split_tokens(text)
        tokens = thoughts + contents
        visible, stop_reason, end = thought + text, None, len(thought) + len(text)
        if met := [(at, stop) for stop in self.stops if (at := visible.find(stop)) >= 0]:
            at, stop_reason = min(met)
            end = at + len(stop_reason)
            visible = visible[: end if self.keep_stop else at]
        spent, length = 0, 0
        while length < end and spent < len(tokens):
            length += len(tokens[spent])
            spent += 1
        finish = "stop"
        if spent > self.cap:
            spent, finish, stop_reason = self.cap, "length", None
            visible = visible[: sum(map(len, tokens[:spent]))]
        border = min(len(thoughts), spent)
        shown_thought = _trim(tokens[:border], len(visible))
        shown = _trim(tokens[border:spent], len(visible) - len(thought))
        chances = None if self.top is None else token_chances(shown, draw, self.top)
        return Choice(shown_thought, shown, spent, finish, stop_reason, chances)


def _trim(tokens: list[str], length: int) -> list[str]:
    """The tokens that make up the first `length` characters; the last one may be cut."""
    shown: list[str] = []
    for token in tokens:
        if length <= 0:
            break
        shown.append(token[:length])
        length -= len(token)
    return shown


def _logprobs(chances: list[TokenChance], offset: int, *, chat: bool) -> Fields:
    if chat:
        return {
            "content": [
                {
                    **_listed(chance.token, chance.logprob),
                    "top_logprobs": [_listed(token, logprob) for token, logprob in chance.top],
                }
                for chance in chances
            ]
        }
    offsets = []
    for chance in chances:
        offsets.append(offset)
        offset += len(chance.token)
    return {
        "tokens": [chance.token for chance in chances],
        "token_logprobs": [chance.logprob for chance in chances],
        "top_logprobs": [dict(chance.top) for chance in chances],
        "text_offset": offsets,
    }


def _listed(token: str, logprob: float) -> Fields:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "surrogatepass"))}


def _event(shell: Fields, choice: Fields) -> bytes:
    return b"data: " + json.dumps({**shell, "choices": [choice]}).encode() + b"\n\n"


def _role_and_content(message: object) -> tuple[str, str]:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(role, str):
        raise _invalid("a message must be an object with a role and a content.", "messages")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
    if content is None and role == "assistant" and message.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise _invalid(f"the content of a message must be a string, not {content!r}.", "messages")
    return role, content


def _whole_number(fields: Fields, name: str, default: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _invalid(f"{name} must be a whole number of at least 1, not {value!r}.", name)
    return value


def _check_strictly(fields: Fields, model: str, *, chat: bool) -> None:
    known = _COMMON_FIELDS | (_CHAT_FIELDS if chat else _TEXT_FIELDS)
    for name in fields:
        if name not in known:
            raise _invalid(f"Unrecognized request argument supplied: {name}", name)
    if model.startswith("o") and "max_tokens" in fields:
        advice = "Use 'max_completion_tokens' instead."
        message = f"Unsupported parameter: 'max_tokens' is not supported with this model. {advice}"
        raise _invalid(message, "max_tokens", "unsupported_parameter")
    top = fields.get("top_logprobs" if chat else "logprobs") or 0
    most = 20 if chat else 5
    if top > most:
        raise _invalid(f"{'top_logprobs' if chat else 'logprobs'} must be at most {most}, not {top}.", "top_logprobs")


def _invalid(message: str, param: str | None, code: str | None = None) -> Refusal:
    return Refusal(400, message, kind="invalid_request_error", param=param, code=code)


def _forget(items: dict[Any, Any], most: int) -> None:
    if len(items) > most:
        for old in list(items)[: most // 2]:
            del items[old]


_COMMON_FIELDS = {
    "model", "n", "temperature", "top_p", "max_tokens", "stop", "seed", "stream", "stream_options", "logprobs",
    "logit_bias", "presence_penalty", "frequency_penalty", "user",
}  # fmt: skip
_CHAT_FIELDS = {
    "messages", "max_completion_tokens", "top_logprobs", "response_format", "tools", "tool_choice", "reasoning_effort",
    "metadata", "store", "service_tier", "parallel_tool_calls", "modalities",
}  # fmt: skip
_TEXT_FIELDS = {"prompt", "best_of", "echo", "suffix"}
