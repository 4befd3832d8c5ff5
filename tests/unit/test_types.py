"""The nouns: chains, digests, tokens in columns, scores that must say something."""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.types import Blob, Chain, Message, Score, Step, Token, Tokens, Usage, chain_digest, user

ROOT = Chain((user("x"),))


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_score_outside_its_range_is_refused(value):
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the whole message is compared below
        Score(value)
    assert str(caught.value) == f"a score's value must lie in [0, 1], not {value!r}; keep the model's own number in `raw`"


def test_a_score_without_a_value_must_say_why():
    with pytest.raises(ValueError, match=r"^a score without a value must say why in `error`$"):
        Score(None)
    assert Score(None, error="why").error == "why"
    assert [Score(0.0).value, Score(1.0).value] == [0.0, 1.0]


@pytest.mark.parametrize("finish", ["stop", "length", "error", "filtered", "cancelled"])
def test_a_finished_chain_takes_no_more_steps(finish):
    with pytest.raises(ValueError, match=f"^cannot extend a chain that finished by '{finish}'"):
        ROOT.then(Step("end"), finish).then(Step("more"))


def test_chains_are_immutable_and_share_their_history():
    first = ROOT.then(Step("a"))
    left, right = first.then(Step("b")), first.then(Step("c"), "stop")
    assert (ROOT.text, first.text, left.text, right.text) == ("", "a", "ab", "ac")
    assert left.steps[0] is right.steps[0]
    with pytest.raises(FrozenInstanceError):
        left.finish = "stop"


USAGES = st.builds(Usage, *[st.integers(0, 10**6)] * 5)


@pytest.mark.slow
@given(st.lists(USAGES, max_size=5))
def test_usage_adds_field_by_field_and_a_chain_costs_its_steps(usages):
    chain = ROOT
    for usage in usages:
        chain = chain.then(Step("", usage))
    assert chain.usage == sum(usages, Usage())
    for name in ("prompt", "cached", "completion", "scored", "calls"):
        assert getattr(chain.usage, name) == sum(getattr(usage, name) for usage in usages)
    assert chain.usage.tokens == sum(usage.completion + usage.scored for usage in usages)
    assert sum([Usage(seconds=0.5), Usage(seconds=0.25)], Usage()).seconds == 0.75


@given(st.lists(st.text(max_size=8), max_size=5))
def test_the_digest_does_not_depend_on_where_the_steps_were_cut_or_how_they_ended(texts):
    chain = ROOT
    for text in texts:
        chain = chain.then(Step(text, Usage(completion=1)))
    whole = ROOT.then(Step("".join(texts)), "length")
    assert chain.digest == whole.digest == chain_digest(ROOT.prompt, "".join(texts))
    assert len(chain.digest) == 32


def test_the_digest_tells_apart_what_a_model_can_tell_apart():
    image = Blob("00ff", "image/png")
    chains = [
        ROOT,
        Chain((user("x "),)),
        Chain((Message("system", ("x",)),)),
        Chain((user("x"), user(""))),
        Chain((Message("user", ("x", image)),)),
        Chain((Message("user", (image, "x")),)),
        Chain((Message("user", ("x", Blob("00ff", "image/gif"))),)),
        Chain((user("x"),), (Step("x"),)),
        Chain((user("x"),), (Step("", data=image),)),
        Chain((user('x"],["assistant'),)),
        Chain((user("\ud800"),)),
    ]
    assert len({chain.digest for chain in chains}) == len(chains)


@pytest.mark.parametrize("text", ["", 'a "b" \\ c', "\x00\x1f\x7f\b\f\n\r\t", "\u2028é日\U0001f600", "\ud800 lone", "</script>"])
def test_the_digest_is_of_the_chain_as_json(text):
    prompt = (Message("system", (text, Blob("d" + text, "image/png"))), user(text), Message("user", ()))
    parts = [["system", text, {"blob": "d" + text, "media": "image/png"}], ["user", text], ["user"]]
    rendered = json.dumps([parts, text, [text, "x"]], ensure_ascii=False, separators=(",", ":"))
    wanted = hashlib.blake2b(rendered.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    assert chain_digest(prompt, text, (text, "x")) == wanted


def test_the_digest_of_old_banks_stays_what_it_was():
    """Changing it orphans every sample ever paid for: written out longhand, then as a number."""
    rendered = '[[["user","Which way?"]],"a\\n",[]]'
    assert chain_digest((user("Which way?"),), "a\n") == hashlib.blake2b(rendered.encode(), digest_size=16).hexdigest()
    assert chain_digest((user("Which way?"),), "a\n") == "cbbabc4837b17922f0c6391a8b2a9e9a"


def columns(n, width=2):
    return Tokens(
        tuple(f"t{i}" for i in range(n)),
        array("i", range(n)),
        array("f", [-float(i) for i in range(n)]),
        width,
        tuple(f"t{i}.{j}" for i in range(n) for j in range(width)),
        array("f", [-float(i) - j for i in range(n) for j in range(width)]),
    )


@given(st.integers(0, 6), st.integers(0, 3), st.integers(-8, 8), st.integers(-8, 8))
def test_a_slice_of_tokens_is_the_tokens_of_the_slice(n, width, start, stop):
    tokens = columns(n, width)
    assert list(tokens[start:stop]) == list(tokens)[start:stop]
    assert list(tokens[:stop]) == list(tokens)[:stop]


def test_a_token_reads_its_row():
    assert columns(3)[1] == Token("t1", 1, -1.0, (("t1.0", -1.0), ("t1.1", -2.0)))
    assert columns(3)[-1].text == "t2"
    bare = Tokens(("a", "b"))
    assert list(bare) == [Token("a"), Token("b")]
    assert list(bare[1:]) == [Token("b")]


def test_short_rows_are_padded_and_the_padding_is_not_read():
    tokens = Tokens(("a",), width=2, top_texts=("a", ""), top_logprobs=array("f", [-0.5, -math.inf]))
    assert tokens[0].top_logprobs == (("a", -0.5),)


def test_tokens_out_of_range_or_with_a_stride_are_refused():
    with pytest.raises(IndexError):
        columns(2)[2]
    with pytest.raises(ValueError, match=r"^tokens are cut in one piece: stride 2, must be 1$"):
        columns(4)[::2]


def test_a_message_reads_as_its_text_parts():
    assert Message("user", ("a", Blob("0", "image/png"), "b")).text == "ab"


def test_tokens_are_joined_column_by_column_if_they_keep_as_many_alternatives():
    def some(text):
        return Tokens((text, "!"), array("i", [1, 2]), array("f", [-0.5, -1.0]), 1, (text, "?"), array("f", [-0.5, -2.0]))

    both = some("a").then(some("b"))
    assert list(both) == [*some("a"), *some("b")]
    with pytest.raises(ValueError, match="with 1 alternatives cannot be followed by tokens with 0"):
        some("a").then(Tokens(("c",)))
