"""Chat templates come with model files, so they are rendered in a sandbox and bounded."""

from __future__ import annotations

import pytest

from ponder.errors import DataError
from ponder.policies.template import ChatTemplate
from ponder.types import Message, user

CHATML = """{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""
TALK = [Message("system", ("Be brief.",)), user("1 < 2 & so on?")]


@pytest.fixture
def template(tmp_path):
    def template(text):
        path = tmp_path / "chat.jinja"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ChatTemplate(path)

    return template


def test_a_template_is_rendered_up_to_where_the_assistant_begins(template):
    assert template(CHATML).render(TALK) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 < 2 & so on?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_are_not_mixed_up_however_many_there_are(template):
    made = template("{{ messages[0].content }}")
    for _ in range(2):
        assert [made.render([user(str(number))]) for number in range(200)] == [str(number) for number in range(200)]


def test_a_template_finds_what_tokenizers_give_it(template):
    text = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}{{ bos_token }}"
    assert template(text).render(TALK) == '{"role": "system", "content": "Be brief."}'
    assert template("{{ ['<é>'] | tojson }}").render(TALK) == '["<é>"]'


def test_the_fingerprint_is_the_text(template):
    assert template("a").fingerprint == template("a").fingerprint != template("b").fingerprint


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{ raise_exception('no system turn') }}", "cannot render these messages (no system turn)"),
        (
            "{{ ''.__class__.__mro__ }}",
            "cannot render these messages (access to attribute '__class__' of 'str' object is unsafe.)",
        ),
        ("{{ messages.append(1) }}", "cannot render these messages"),
        ("{{ range(1000000) | list }}", "cannot render these messages (Range too big."),
        ("{{ 'x' * 1000001 }}", "rendered 1000001 characters, at most 1000000 are sent"),
        ("{{ nothing.at.all }}", "cannot render these messages ('nothing' is undefined)"),
    ],
)
def test_what_a_template_must_not_do_is_an_error_that_names_it(template, tmp_path, text, says):
    with pytest.raises(DataError) as caught:
        template(text).render(TALK)
    assert str(caught.value).startswith(f"template {tmp_path / 'chat.jinja'}: {says}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{% for %}", "cannot be used (Expected an expression, got 'end of statement block'); give the path of a Jinja chat template"),
        (b"\xff\xfe", "cannot be used ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); give the path of a Jinja chat template"),
        ("x" * 1_000_001, "has 1000001 characters, at most 1000000 are read; is it a chat template?"),
    ],
)  # fmt: skip
def test_what_is_no_template_is_refused_when_it_is_read(template, tmp_path, text, says):
    with pytest.raises(DataError) as caught:
        template(text)
    assert str(caught.value) == f"template {tmp_path / 'chat.jinja'}: {says}"


def test_a_template_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError) as caught:
        ChatTemplate(tmp_path / "gone.jinja")
    gone = tmp_path / "gone.jinja"
    assert str(caught.value) == (
        f"template {gone}: cannot be used ([Errno 2] No such file or directory: '{gone}'); give the path of a Jinja chat template"
    )
