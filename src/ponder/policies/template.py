"""A chat template applied on this side, in a sandbox: for servers that only complete text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ponder.errors import DataError
from ponder.types import Message

LARGEST = 1_000_000
"""Characters of a template file or a rendered prompt; templates come with model files, so they are not trusted."""


class ChatTemplate:
    """A Jinja chat template, as tokenizers ship them. Raises `DataError` for a file that cannot be read or rendered."""

    def __init__(self, path: Path) -> None:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self.path = path
        try:
            text = path.read_text("utf-8")[:LARGEST]
            self._template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)
        except (OSError, UnicodeDecodeError, TemplateError) as error:
            raise DataError(f"template {path}: cannot be used ({error}); give the path of a Jinja chat template") from None
        self.fingerprint = f"template-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant begins to speak."""
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            prompt = self._template.render(messages=turns, add_generation_prompt=True, bos_token="", eos_token="")
        except Exception as error:  # a template may raise anything
            raise DataError(f"template {self.path}: cannot render these messages ({error})") from None
        if len(prompt) > LARGEST:
            raise DataError(f"template {self.path}: rendered {len(prompt)} characters, at most {LARGEST} are sent")
        return prompt
