"""Model folders: the lab's tokenizer, step ends, heads, and that nobody sees half a folder."""

from __future__ import annotations

import errno
import json
import random
import shutil

import numpy as np
import pytest

from ponder import lab
from ponder.errors import DataError
from ponder.lab.tokenizer import EOS, VOCABULARY, decode, encode, encode_prompt
from ponder.types import user

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

from ponder.learners import models  # noqa: E402  after the skips

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PROMPT = (user("countdown 4 7 8 make 20"),)
STEPS = ("7*4=28 left 8 28\n", "28-8=20 left 20\n", "answer: 20\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return models.lab_folder("small", tmp_path_factory.mktemp("cache"))


def test_the_lab_tokenizer_is_the_labs_both_ways(folder):
    tokenizer, rng = models.open_tokenizer(folder), random.Random(0)
    for _ in range(300):
        ids = [rng.randrange(3, len(VOCABULARY)) for _ in range(rng.randrange(1, 15))]
        assert tokenizer(decode(ids), add_special_tokens=False)["input_ids"] == ids
        assert tokenizer.decode(ids) == decode(ids)


def test_an_answer_is_encoded_as_the_policy_reads_it_with_its_step_ends(folder):
    got = models.encode(models.open_tokenizer(folder), PROMPT, STEPS)
    before = encode_prompt(PROMPT[0].text)
    assert list(got.ids) == [*before, *encode("".join(STEPS)), EOS]
    assert got.prompt == len(before)
    ends = [len(before) + len(encode("".join(STEPS[:n]))) - 1 for n in (1, 2, 3)]
    assert list(got.ends) == ends
    assert models.encode(models.open_tokenizer(folder), PROMPT, STEPS, finished=False).ids == got.ids[:-1]


def test_a_step_without_text_is_refused(folder):
    with pytest.raises(ValueError, match=r"^a step without text has no last token; leave it out$"):
        models.encode(models.open_tokenizer(folder), PROMPT, ("7*4=28 left 8 28\n", ""))


def test_transformers_reads_the_lab_as_numpy_does(folder):
    ids = models.encode(models.open_tokenizer(folder), PROMPT, STEPS).ids
    with torch.no_grad():
        theirs = models.open_causal(folder)(torch.tensor([ids])).logits[0].numpy()
    [ours] = lab.load("small").logits([ids])
    np.testing.assert_allclose(theirs, ours, atol=2e-3)


def test_a_new_head_believes_one_half_and_a_kept_one_is_kept(folder, tmp_path):
    for opened in (models.open_outcome, models.open_process):
        model = opened(folder)
        assert torch.count_nonzero(model(torch.tensor([[1, 2, 3]])).logits) == 0
    torch.nn.init.ones_(model.score.weight)
    models.save(model, folder, tmp_path / "new", {"kind": "process"})
    assert torch.equal(models.open_process(tmp_path / "new").score.weight, model.score.weight)
    assert models.is_lab(tmp_path / "new")


def test_a_saved_policy_is_a_lab_model_again(folder, tmp_path):
    models.save(models.open_causal(folder), folder, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes()
    [ours], [again] = lab.load("small").logits([[1, 20, 30]]), lab.load(str(tmp_path / "again")).logits([[1, 20, 30]])
    assert np.array_equal(ours, again)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fails():
        with models.fresh(tmp_path / "out") as new:
            (new / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert list(tmp_path.iterdir()) == []
    with models.fresh(tmp_path / "out") as new:
        (new / "whole").write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_where_no_folder_can_be_is_said_before_the_work(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(DataError, match=r"file.*name"), models.fresh(place):
            pytest.fail("the block began")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_is_an_error_with_a_way_out_and_leaves_nothing(tmp_path):
    from safetensors import SafetensorError

    for full in (OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left on device")):
        with (
            pytest.raises(DataError, match=r"out: cannot be written \(.*No space left on device\); name a folder"),
            models.fresh(tmp_path / "out"),
        ):
            raise full
    assert list(tmp_path.iterdir()) == []


def test_text_outside_the_vocabulary_is_an_error_that_shows_it(folder):
    with pytest.raises(DataError, match=r"cannot spell 'the answer is zebra' after '<bos>countdown 4 7.*another: --model"):
        models.encode(models.open_tokenizer(folder), PROMPT, ("the answer is zebra",))


@pytest.mark.parametrize("config", ["[]", "5", "[" * 100_000, '{"hidden_size": "x", "model_type": "llama"}'])
def test_a_folder_with_another_config_is_refused(folder, tmp_path, config):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "config.json").write_text(config)
    with pytest.raises(DataError, match=r"broken: (holds no model|transformers cannot open)"):
        models.is_lab(broken) or models.open_causal(broken)


def test_half_a_file_of_weights_is_refused(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    for opened in (models.open_causal, models.open_outcome):
        with pytest.raises(DataError, match=r"broken: transformers cannot open this model"):
            opened(broken)
    (broken / "tokenizer.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match=r"broken: transformers cannot open this model"):
        models.open_tokenizer(broken)
