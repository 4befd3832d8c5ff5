"""A chat template applied on this side, in a sandbox: for servers that only complete text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ponder.errors import DataError
from ponder.types import Message

LARGEST = 1_000_000
"""Characters of a template file or a rendered prompt; templates come with model files, so they are not trusted."""
_KEPT = 64  # prompts rendered last; the children of one question share theirs


class ChatTemplate:
    """A Jinja chat template, as tokenizers ship them. Raises `DataError` for a file that cannot be read or rendered.

    It knows what Transformers gives a template (`raise_exception`, `tojson`, loop controls), but no beginning-of-text or
    end-of-text token: servers put the first one in front by themselves.
    """

    def __init__(self, path: Path) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.path = path
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _plain_json
        try:
            text = path.read_text("utf-8")
            if len(text) > LARGEST:
                raise DataError(
                    f"template {path}: has {len(text)} characters, at most {LARGEST} are read; is it a chat template?"
                )
            self._template = environment.from_string(text)
        except (OSError, UnicodeDecodeError, TemplateError, RecursionError) as error:
            raise DataError(f"template {path}: cannot be used ({error}); give the path of a Jinja chat template") from None
        self.fingerprint = f"template-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"
        self._rendered: dict[tuple[Message, ...], str] = {}

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant begins to speak."""
        key = tuple(messages)
        if key not in self._rendered:
            if len(self._rendered) >= _KEPT:
                self._rendered.clear()
            self._rendered[key] = self._render(messages)
        return self._rendered[key]

    def _render(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            prompt = self._template.render(messages=turns, add_generation_prompt=True, bos_token="", eos_token="")
        except Exception as error:  # a template may raise anything
            raise DataError(f"template {self.path}: cannot render these messages ({error})") from None
        if len(prompt) > LARGEST:
            raise DataError(f"template {self.path}: rendered {len(prompt)} characters, at most {LARGEST} are sent")
        return prompt


def _refuse(why: object) -> None:
    from jinja2 import TemplateError

    raise TemplateError(str(why))


def _plain_json(value: object, indent: int | None = None) -> str:
    """Without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
