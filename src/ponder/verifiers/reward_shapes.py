r"""What the shapes of reward models read, as they were trained and published.

    orm            the conversation by the chat template, the answer as its last message
    process        prompt and answer as the policy would read them
    math_shepherd  "question step ки\nstep ки"; values stand at the tags (peiyi9979/math-shepherd-mistral-7b-prm)
    rlhflow        a conversation, the steps as the user's turns (the question before the first), each answered "+"; values stand where
                   the answers are foretold (RLHFlow/Llama3.1-8B-PRM-Deepseek-Data)
    skywork        question, newline, steps, each encoded alone and ended by its separator; values stand at the separators
                   (Skywork/Skywork-o1-Open-PRM-Qwen-2.5-1.5B)
    qwen_prm       a conversation whose last message has <extra_0> after each step instead of the separator; values stand there
                   (Qwen/Qwen2.5-Math-PRM-7B)

The public process shapes take the last message of the prompt as the question, and a line without anything on it is no step. Models told by
reward.json read what `ponder.learners.models.encode` makes: a finished answer has an end token behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ponder.errors import DataError
from ponder.lab.reward import Asked, Facts, step_ends
from ponder.types import Chain, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = {"math_shepherd": "\n", "rlhflow": "\n\n", "skywork": "\n", "qwen_prm": "\n\n"}
"""What ends a step where nothing else is said."""

TAG, SEPARATOR = "ки", "<extra_0>"
QWEN_SYSTEM = Message("system", ("Please reason step by step, and put your final answer within \\boxed{}.",))
"""The system message that the model was trained with, where a prompt has none."""


def _lines(text: str, step: str) -> list[str]:
    """Cut at the separator, which is left out, as is all white space at the end."""
    return text.rstrip().split(step)


def said(text: str, step: str) -> list[str]:
    """The steps: lines that have something on them."""
    return [line for line in _lines(text, step) if line.strip()]


def messages(prompt: Sequence[Message]) -> list[dict[str, str]]:
    """As chat templates and servers take them."""
    return [{"role": message.role, "content": message.text} for message in prompt]


def _template(tokenizer: PreTrainedTokenizerBase, turns: Sequence[dict[str, str]], *, ask: bool = False) -> str:
    if not tokenizer.chat_template:
        raise DataError("reward_model: this shape needs a chat template, and the tokenizer has none")
    text: str = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=ask)
    return text


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=special)["input_ids"]
    return ids


def ask_own(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    """As `ponder.learners.models.encode`."""
    if tokenizer.chat_template:
        before = _ids(tokenizer, _template(tokenizer, messages(chain.prompt), ask=True))
    else:
        before = _ids(tokenizer, "".join(f"{message.text}\n\n" for message in chain.prompt), special=True)
        before = before[:-1] if before and before[-1] == tokenizer.eos_token_id else before
    answer = tokenizer(chain.text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = [*before, *answer["input_ids"]], [start for start, _ in answer["offset_mapping"]]
    if facts.kind == "outcome":
        end = [tokenizer.eos_token_id] * (chain.finish == "stop" and facts.read == "eos")
        return Asked((*ids, *end), len(before), (len(ids) + len(end) - 1,))
    ends = step_ends(chain.text, facts.step, starts)
    return Asked(tuple(ids), len(before), tuple(len(before) + end for end in ends))


def _ask_orm(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    del facts
    turns = messages(chain.prompt)
    if tokenizer.chat_template:
        ids = _ids(tokenizer, _template(tokenizer, [*turns, {"role": "assistant", "content": chain.text}]))
        prompt = _ids(tokenizer, _template(tokenizer, turns, ask=True))
    else:
        before = "".join(f"{message.text}\n\n" for message in chain.prompt)
        ids, prompt = _ids(tokenizer, before + chain.text, special=True), _ids(tokenizer, before, special=True)
    return Asked(tuple(ids), min(len(prompt), len(ids) - 1), (len(ids) - 1,))


def tagged(chain: Chain, step: str) -> tuple[str, str]:
    """The question, and the steps with their tags, as math_shepherd reads them one after the other."""
    lines = (f"{line} {TAG}" if line.strip() else line for line in _lines(chain.text, step))
    return f"{chain.prompt[-1].text} ", step.join(lines)


def separated(chain: Chain, step: str) -> list[dict[str, str]]:
    """The conversation that qwen_prm reads."""
    system = [message for message in chain.prompt if message.role == "system"] or [QWEN_SYSTEM]
    answer = "".join(f"{line}{SEPARATOR}" for line in said(chain.text, step))
    return [*messages([*system, chain.prompt[-1]]), {"role": "assistant", "content": answer}]


def _ask_math_shepherd(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    question, answer = tagged(chain, facts.step)
    ids, tag = _ids(tokenizer, question + answer, special=True), _ids(tokenizer, TAG)[-1]
    return _at_tags(ids, tag, len(_ids(tokenizer, question, special=True)), len(said(chain.text, facts.step)), TAG)


def _ask_qwen_prm(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    turns, tag = separated(chain, facts.step), _one_token(tokenizer, SEPARATOR)
    ids, prompt = _ids(tokenizer, _template(tokenizer, turns)), _ids(tokenizer, _template(tokenizer, turns[:-1], ask=True))
    return _at_tags(ids, tag, len(prompt), len(said(chain.text, facts.step)), SEPARATOR)


def _at_tags(ids: Sequence[int], tag: int, prompt: int, steps: int, text: str) -> Asked:
    positions = [at for at, token in enumerate(ids) if token == tag]
    if len(positions) != steps:
        raise ValueError(f"{len(positions)} tokens {text!r} for {steps} steps: the chain or its question has one of its own")
    return Asked(tuple(ids), min(prompt, positions[0]), tuple(positions))


def _ask_rlhflow(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    lines = said(chain.text, facts.step)
    question, turns, texts = chain.prompt[-1].text, list[dict[str, str]](), list[str]()
    for line in lines:
        turns.append({"role": "user", "content": line if turns else f"{question} {line}"})
        turns.append({"role": "assistant", "content": "+"})
        text = _template(tokenizer, turns)
        texts.append(text[: text.rindex("+")])
    if not all(text.startswith(part) for part in texts):
        raise ValueError("the chat template rewrites earlier turns when another comes: their answers cannot be found")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, starts = encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]
    places = [sum(start <= len(part) for start in starts) - 1 for part in texts]
    if any(ids[at] != _ids(tokenizer, "+")[-1] for at in places):
        raise ValueError("the chat template does not leave the answer '+' a token of its own")
    asked = text.find(question.strip()) + len(question.strip())
    return Asked(tuple(ids), sum(start < asked for start in starts), tuple(at - 1 for at in places))


def _ask_skywork(tokenizer: PreTrainedTokenizerBase, chain: Chain, facts: Facts) -> Asked:
    ids = _ids(tokenizer, f"{tokenizer.bos_token or ''}{chain.prompt[-1].text}\n", special=True)
    prompt, step, positions = len(ids), _ids(tokenizer, facts.step)[-1], []
    for line in _lines(chain.text, facts.step):
        ids += [*_ids(tokenizer, line), step]
        if line.strip():
            positions.append(len(ids) - 1)
    return Asked(tuple(ids), prompt, tuple(positions))


ASK: dict[str, Callable[[PreTrainedTokenizerBase, Chain, Facts], Asked]] = {
    "orm": _ask_orm,
    "process": ask_own,
    "math_shepherd": _ask_math_shepherd,
    "rlhflow": _ask_rlhflow,
    "skywork": _ask_skywork,
    "qwen_prm": _ask_qwen_prm,
}
"""How each shape reads a chain. Raises `ValueError` for a chain that it cannot read, `DataError` for a tokenizer that is not its own."""


def signs(tokenizer: PreTrainedTokenizerBase, shape: str) -> tuple[int, int]:
    """The ids of + and -, as the model of this shape says them: with a space before, or as a whole turn."""
    if shape == "rlhflow":
        return _ids(tokenizer, "+")[-1], _ids(tokenizer, "-")[-1]
    ids = _ids(tokenizer, "+ -")
    if len(ids) != 2:
        raise DataError(
            f"reward_model: '+ -' must be two tokens, and this tokenizer makes {len(ids)} of it: not the shape {shape}"
        )
    return ids[0], ids[1]


def _one_token(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    ids = _ids(tokenizer, text)
    if len(ids) != 1:
        raise DataError(
            f"reward_model: {text!r} must be one token, and this tokenizer makes {len(ids)} of it: not the shape it was given"
        )
    return ids[0]
