"""How servers that all call themselves OpenAI-compatible differ: one frozen record per dialect.

A dialect is a set of answers to the questions a client has to ask. The built-in ones hold what was seen in the wild; make
another by `dataclasses.replace(VLLM, honours_n=False)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Prefill(StrEnum):
    """What becomes of a final assistant message."""

    ON_REQUEST = "on_request"  # continued with continue_final_message: true and add_generation_prompt: false
    REPEATED = "repeated"  # continued unasked, and the content returned begins with the message
    FRESH = "fresh"  # a new turn begins after it


class SeedRule(StrEnum):
    """What a seed does."""

    PER_CHOICE = "per_choice"  # every choice has its own draw, the same each time
    ONE_FOR_ALL = "one_for_all"  # all n choices are equal
    CRASHES = "crashes"  # the engine dies and the connection with it


class UsageRule(StrEnum):
    """What the usage object counts."""

    ALL = "all"
    FIRST_CHOICE = "first_choice"  # the completion tokens of one of the n choices
    NONE = "none"  # there is no usage object


class Thinking(StrEnum):
    """Where reasoning goes."""

    PLAIN = "plain"  # the reasoning lines are part of the content
    FIELD = "field"  # in message.reasoning_content
    TAGS = "tags"  # in the content, between <think> and </think>


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one kind of server does.

    Attributes:
        name: The key in `DIALECTS`, also `owned_by` in the list of models.
        prefill: What becomes of a final assistant message.
        seed: What a seed does.
        usage: What the usage object counts.
        thinking: Where reasoning goes.
        honours_n: False gives one choice whatever `n` is.
        honours_max_tokens: False gives the whole text, with finish_reason "stop".
        strict: Unknown fields, more than 20 top_logprobs, and max_tokens for models named o... are refused with 400.
        stop_reason: Choices carry stop_reason: the stop string that was met, or null.
        timings: Replies carry llama.cpp's timings object.
        applies_template: POST /apply-template exists.
        tokenizes: POST /tokenize exists.
        completion_cap: max_tokens on the completions route when the request has none; None for no cap.
    """

    name: str
    prefill: Prefill = Prefill.FRESH
    seed: SeedRule = SeedRule.PER_CHOICE
    usage: UsageRule = UsageRule.ALL
    thinking: Thinking = Thinking.PLAIN
    honours_n: bool = True
    honours_max_tokens: bool = True
    strict: bool = False
    stop_reason: bool = False
    timings: bool = False
    applies_template: bool = False
    tokenizes: bool = False
    completion_cap: int | None = None


# The OpenAI API reference and vLLM's CompletionRequest give 16 as the default of max_tokens for completions.
OPENAI = Dialect("openai", strict=True, completion_cap=16)
VLLM = Dialect("vllm", prefill=Prefill.ON_REQUEST, stop_reason=True, tokenizes=True, completion_cap=16)
VLLM_CPU = replace(VLLM, name="vllm_cpu", seed=SeedRule.CRASHES)
LLAMACPP = Dialect(
    "llamacpp",
    prefill=Prefill.REPEATED,
    usage=UsageRule.FIRST_CHOICE,
    timings=True,
    applies_template=True,
    tokenizes=True,
)
IGNORES_N = Dialect("ignores_n", honours_n=False)
NO_USAGE = Dialect("no_usage", usage=UsageRule.NONE)
IGNORES_MAX_TOKENS = Dialect("ignores_max_tokens", honours_max_tokens=False)
SEEDED_EQUAL = Dialect("seeded_equal", seed=SeedRule.ONE_FOR_ALL)
REASONING = replace(VLLM, name="reasoning", thinking=Thinking.FIELD)
THINK_TAGS = replace(VLLM, name="think_tags", thinking=Thinking.TAGS)

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        OPENAI, VLLM, VLLM_CPU, LLAMACPP, IGNORES_N, NO_USAGE, IGNORES_MAX_TOKENS, SEEDED_EQUAL, REASONING, THINK_TAGS,
    )
}  # fmt: skip


def find_dialect(name: str) -> Dialect:
    """The built-in dialect of that name; `ValueError` lists the names there are."""
    if name not in DIALECTS:
        raise ValueError(f"unknown dialect {name!r}: choose one of {', '.join(DIALECTS)}")
    return DIALECTS[name]


def render_chat(messages: Sequence[tuple[str, str]], *, continuing: bool, generation_prompt: bool = True) -> str:
    """Render (role, content) pairs as ChatML, the fake model's chat template.

    Args:
        messages: The conversation.
        continuing: Leave the last message open, so that the text ends where the continuation begins.
        generation_prompt: Open an assistant turn at the end, unless continuing.
    """
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in messages)
    if continuing:
        return text.removesuffix("<|im_end|>\n")
    return text + "<|im_start|>assistant\n" if generation_prompt else text


def split_reply(prompt: str) -> tuple[str, str]:
    """Cut a rendered prompt in two: what was asked, and the reply that is already under way (often empty).

    In ChatML the reply is what follows an assistant turn that is still open; in plain text it begins at the last
    ``Step 1:`` or, without one, at a conclusion on the last line.
    """
    before, opened, after = prompt.rpartition("<|im_start|>assistant\n")
    if opened:
        return (before + opened, after) if "<|im_end|>" not in after else (prompt, "")
    for mark in ("Step 1: ", "The answer is "):
        at = prompt.rfind(mark)
        if at >= 0 and (mark[0] == "S" or "\n" not in prompt[at:].rstrip()):
            return prompt[:at], prompt[at:]
    return prompt, ""


def dialect_to_fields(dialect: Dialect) -> dict[str, object]:
    """The dialect as plain JSON values."""
    return asdict(dialect)


def dialect_from_fields(fields: dict[str, Any]) -> Dialect:
    """The dialect that `dialect_to_fields` took apart."""
    rules = {"prefill": Prefill, "seed": SeedRule, "usage": UsageRule, "thinking": Thinking}
    return Dialect(**fields | {name: rule(fields[name]) for name, rule in rules.items()})
