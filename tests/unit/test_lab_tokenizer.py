"""Text and ids of the lab determine each other."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ponder.lab.problems import draw
from ponder.lab.tokenizer import BOS, EOS, NEWLINE, VOCABULARY, decode, encode, encode_prompt, pieces

any_ids = st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=40)


@given(any_ids)
def test_every_sequence_of_ids_survives_its_text(ids):
    assert encode(decode(ids)) == ids


@given(any_ids, any_ids)
def test_pieces_continue_a_text_after_its_last_token(first, second):
    joined = decode(first) + "".join(pieces(second, after=first[-1] if first else None))
    assert joined == decode(first + second)


@given(st.sampled_from([("countdown", 3), ("countdown", 4), ("chain", 2), ("chain", 20)]), st.integers(0, 2**32))
def test_every_generated_text_survives_its_ids(kind, seed):
    problem, solution = draw(*kind, random.Random(seed))
    for text in (problem.text, solution, f"{problem.text}\n{solution}"):
        assert decode(encode(text)) == text


def test_the_vocabulary_has_256_distinct_tokens_with_those_reserved_for_learners():
    assert len(set(VOCABULARY)) == len(VOCABULARY) == 256
    tags = {"<pad>", "<bos>", "<eos>", "<hint>", "</hint>", "<think>", "</think>", "<r0>", "<r15>"}
    assert tags | {"yes", "no", "wait", "revise", "backtrack"} < set(VOCABULARY)


def test_a_prompt_starts_with_bos_and_ends_its_line():
    assert encode_prompt("chain 7+5", "7+5=12\n") == [BOS, *encode("chain 7+5\n7+5=12\n")]
    assert encode_prompt("chain 7+5")[-1] == NEWLINE
    assert decode([EOS]) == "<eos>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7+200", "'200' at character 2 is not in the lab's vocabulary"),
        ("7+07", "'07' at character 2 is not in the lab's vocabulary"),
        ("hello", "'hello' at character 0 is not in the lab's vocabulary"),
        ("7 ", "' ' at character 1 is not in the lab's vocabulary"),
        ("left  8", "' ' at character 4 is not in the lab's vocabulary"),
        ("7 + 5", "space before '+' at character 1 of '7 + 5': it may only stand between two numbers or words"),
        (" 7", "space before '7' at character 0 of ' 7': it may only stand between two numbers or words"),
        ("left8", "space before '8' at character 4 of 'left8': one is needed here"),
        ("7é", "'é' at character 1 is not in the lab's vocabulary"),
    ],
)
def test_text_outside_the_vocabulary_is_named_with_its_place(text, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        encode(text)
    assert str(caught.value).startswith(message)


def test_an_id_outside_the_vocabulary_is_an_error():
    with pytest.raises(ValueError, match=r"^token id 256 is outside 0..255$"):
        decode([256])
