"""A request made ready: what the chain begins with, what is sent on as it came, how much may be spent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from ponder.core import Budget, Sampling
from ponder.graders.answer import stated_answer
from ponder.policies.tools import read_calls, render_calls
from ponder.server.config import Config
from ponder.server.models import Models, Plan, tighter
from ponder.server.refusal import Refusal
from ponder.server.schema import Assistant, Chat, Common, Completion, Picture, System, Text, Tool, User
from ponder.types import JSON, Blob, Message, Part, Role, user

_SENT_ON = {
    "tools", "tool_choice", "parallel_tool_calls", "response_format", "logit_bias", "presence_penalty", "frequency_penalty",
    "verbosity",
}  # fmt: skip
_PLAIN = {"role", "content"}


class Prompt(NamedTuple):
    """What one chain begins with, and the same as it came: messages, or the text that the completions route goes on from."""

    messages: tuple[Message, ...]
    turns: tuple[JSON, ...] | str


class Asked(NamedTuple):
    """A checked request. Each prompt gets n choices, each under the budget. top: alternatives for each token, None for no logprobs."""

    model: str
    plan: Plan
    prompts: tuple[Prompt, ...]
    n: int
    sampling: Sampling
    budget: Budget
    seed: int
    fields: dict[str, JSON]
    stops: tuple[str, ...]
    key: Callable[[str], str | None]
    tools: bool
    top: int | None
    progress: bool

    @property
    def choices(self) -> list[Prompt]:
        """The prompt of each choice, in order of their index."""
        return [prompt for prompt in self.prompts for _ in range(self.n)]

    def seed_of(self, choice: int) -> int:
        """The seed of a choice: the request's own for the first, a function of it for the others."""
        if choice == 0:
            return self.seed
        return int.from_bytes(hashlib.blake2b(f"{self.seed}/{choice}".encode(), digest_size=7).digest(), "big")

    def within(self, *, tokens: int | None) -> Asked:
        """Bounded by what a key has left, in equal parts, no sample above it."""
        if tokens is None:
            return self
        budget = tighter(self.budget, Budget(tokens=max(1, tokens // len(self.choices))))
        cap = min(self.sampling.max_tokens, budget.tokens or self.sampling.max_tokens)
        return self._replace(budget=budget, sampling=replace(self.sampling, max_tokens=cap))


def of_chat(body: Chat, models: Models, config: Config) -> Asked:
    """A chat request, ready. Raises `Refusal`."""
    plan = _plan(body, models, body.reasoning_effort)
    dumped = _sent_on(body)
    turns = tuple(map(_turn, body.messages))
    prompt = Prompt(tuple(_message(turn, sent) for turn, sent in zip(body.messages, turns, strict=True)), turns)
    if body.reasoning_effort and plan.single:
        dumped["reasoning_effort"] = body.reasoning_effort
    if (body.response_format or None) and dumped["response_format"] == {"type": "text"}:
        del dumped["response_format"]
    top = (body.top_logprobs or 0) if body.logprobs else None
    return _asked(body, plan, (prompt,), dumped, top, body.max_completion_tokens, config)


def of_text(body: Completion, models: Models, config: Config) -> Asked:
    """A request that goes on from texts, ready. Raises `Refusal`."""
    plan = _plan(body, models, None)
    fields = _sent_on(body)
    prompts = tuple(Prompt((user(text),), text) for text in body.prompts)
    return _asked(body, plan, prompts, fields, body.logprobs, None, config)


def _plan(body: Common, models: Models, effort: str | None) -> Plan:
    extra = body.ponder
    if extra is None and effort is None:
        return models.plan_of(body.model)
    return models.plan(body.model, extra.strategy if extra else None, extra.budget if extra else None, effort)  # type: ignore[arg-type]  # the schema checked the word


def _asked(
    body: Common,
    plan: Plan,
    prompts: tuple[Prompt, ...],
    fields: dict[str, JSON],
    top: int | None,
    most: int | None,
    config: Config,
) -> Asked:
    limits, n = config.limits, body.n or 1
    if n > limits.choices or n * len(prompts) > limits.samples:
        most = min(limits.choices, limits.samples // len(prompts))
        raise Refusal(400, f"n: {n} choices are too many; at most {most}", code="invalid_value", param="n")
    cap = body.max_tokens or most or config.max_tokens
    for name, value in (("max_tokens", body.max_tokens), ("max_completion_tokens", most)):
        if value is not None and value > limits.tokens:
            raise Refusal(400, f"{name}: {value} is too large; at most {limits.tokens}", code="invalid_value", param=name)
    if body.stops:
        fields["stop"] = cast("JSON", body.stops)
    budget = tighter(plan.budget, Budget(samples=max(1, limits.samples // (n * len(prompts))), tokens=most))
    return Asked(
        body.model,
        plan,
        prompts,
        n,
        Sampling(
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=max(1e-6, 1.0 if body.top_p is None else body.top_p),
            top_k=body.top_k or 0,
            max_tokens=min(cap, budget.tokens or cap),
            logprobs=0 if top is None else max(1, top),
        ),
        budget,
        int.from_bytes(os.urandom(6)) if body.seed is None else body.seed,
        fields,
        tuple(body.stops),
        _key(body) if isinstance(body, Chat) else stated_answer,
        isinstance(body, Chat) and bool(body.tools) and body.tool_choice != "none",
        top,
        body.ponder is None or body.ponder.progress is not False,
    )


def _key(body: Chat) -> Callable[[str], str | None]:
    """What votes are counted by: the calls of tools where there are any, by name alone if asked for; else the stated answer."""
    if not body.tools:
        return stated_answer
    by_name = body.ponder is not None and body.ponder.vote == "name"

    def key(text: str) -> str | None:
        _, calls = read_calls(text)
        return " ".join(call.name if by_name else call.key for call in calls) or stated_answer(text)

    return key


def _sent_on(body: Common) -> dict[str, JSON]:
    """The fields that go to the engine as they came."""
    given = body.model_fields_set & _SENT_ON
    return body.model_dump(exclude_none=True, by_alias=True, include=given) if given else {}


def _turn(turn: System | User | Assistant | Tool) -> dict[str, JSON]:
    """A message as it is sent on: without what was thought or refused, which engines do not take back; texts in one piece."""
    if isinstance(turn.content, str) and turn.model_fields_set == _PLAIN:
        return {"role": turn.role, "content": turn.content}
    sent: dict[str, JSON] = turn.model_dump(exclude_none=True, by_alias=True, exclude={"reasoning_content", "refusal"})
    content = sent.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        sent["content"] = "".join(cast("str", part["text"]) for part in cast("list[dict[str, JSON]]", content))
    if "content" not in sent:
        sent["content"] = None if "tool_calls" in sent else ""
    return sent


def _message(turn: System | User | Assistant | Tool, sent: dict[str, JSON]) -> Message:
    """A message of the chain: what a verifier can read. A picture is known by its digest; a call of a tool is text."""
    role: Role = "system" if turn.role == "developer" else turn.role
    if isinstance(turn.content, str) and "tool_calls" not in sent:
        return Message(role, (turn.content,))
    parts = turn.content if isinstance(turn.content, list) else [turn.content or ""]
    content: list[Part] = [_part(part) for part in cast("Sequence[str | Text | Picture]", parts)]
    calls = render_calls(sent.get("tool_calls"))
    return Message(role, (*content, *([calls] if calls else [])))


def _part(part: str | Text | Picture) -> Part:
    if isinstance(part, Picture):
        return Blob(hashlib.sha256(part.image_url.url.encode()).hexdigest(), part.image_url.url[5:].partition(";")[0])
    return part.text if isinstance(part, Text) else part
