"""V-STaR's verifier against the obvious computation, on the lab's NumPy and on transformers."""

import json
from math import exp, inf, log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_models import SHAPE, obvious_logits, random_tensors

from fakes import solved
from ponder.bank import MemoryTable, TableBank
from ponder.core import Budget
from ponder.errors import DataError, UsageError
from ponder.lab.model import save
from ponder.lab.tokenizer import EOS, encode, encode_prompt
from ponder.learners.models import encode as learned
from ponder.learners.training import fingerprint
from ponder.testing import MazePolicy
from ponder.types import Chain, Message, Question, Step, Usage, user
from ponder.verifiers.likelihood import Likelihood, _open, _Read

ASKED = Question("q", (user("chain 3+4*2"),))
ANSWERS = ["3+4=7\n7*2=14\nanswer: 14", "3+4=7\n7*2=15\nanswer: 15", "answer: 14", "3+4=7"]


def chain(text, finish="stop"):
    return Chain(ASKED.messages).then(Step(text), finish)


def scored(verifier, *chains, **how):
    found = []

    async def strategy(root, run):
        found.extend(await run.score(verifier, chains))

    outcome = solved(strategy, MazePolicy(), question=ASKED, **how)
    return found, outcome


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two random models, fp16 as saved."""
    made = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp(f"model{seed}")
        save(folder, SHAPE, random_tensors(seed))
        made.append(str(folder))
    return made


def obvious(seed, text, *, finished=True):
    """log p(text, end | prompt) in float64, a token at a time, with the weights rounded as they are kept."""
    tensors = {name: tensor.astype(np.float16) for name, tensor in random_tensors(seed).items()}
    prompt = encode_prompt("chain 3+4*2")
    ids = [*prompt, *encode(text), *[EOS] * finished]
    logits = obvious_logits(tensors, ids)
    total = 0.0
    for at in range(len(prompt), len(ids)):
        row = logits[at - 1]
        total += row[ids[at]] - log(sum(exp(one - row.max()) for one in row)) - row.max()
    return total


def test_raw_is_the_log_likelihood_of_the_answer_and_its_end(folders):
    scores, _ = scored(Likelihood(folders[0]), *map(chain, ANSWERS))
    assert [score.raw for score in scores] == pytest.approx([obvious(0, text) for text in ANSWERS], rel=1e-4)
    [open_one], _ = scored(Likelihood(folders[0]), chain(ANSWERS[0], None))
    assert open_one.raw == pytest.approx(obvious(0, ANSWERS[0], finished=False), rel=1e-4)
    [cut], _ = scored(Likelihood(folders[0]), chain(ANSWERS[0], "length"))
    assert cut.raw == open_one.raw


def test_with_a_reference_raw_is_the_implicit_reward(folders):
    scores, _ = scored(Likelihood(folders[0], folders[1], beta=0.3), *map(chain, ANSWERS))
    rewards = [0.3 * (obvious(0, text) - obvious(1, text)) for text in ANSWERS]
    assert [score.raw for score in scores] == pytest.approx(rewards, rel=1e-3, abs=1e-3)
    assert [score.value for score in scores] == pytest.approx([1 / (1 + exp(-reward)) for reward in rewards], abs=1e-4)
    same, _ = scored(Likelihood(folders[0], folders[0]), chain(ANSWERS[0]))
    assert (same[0].raw, same[0].value) == (0.0, 0.5)


def test_steps_do_not_matter_and_neither_does_what_is_scored_beside(folders):
    verifier = Likelihood(folders[0])
    [alone], _ = scored(verifier, chain(ANSWERS[0]))
    cut = Chain(ASKED.messages).then(Step("3+4=7\n")).then(Step("7*2=14\nanswer: 14"), "stop")
    assert [score.raw for score in scored(verifier, *map(chain, ANSWERS), cut)[0][:: len(ANSWERS)]] == [alone.raw] * 2


def test_usage_is_the_prompt_and_the_whole_answer_for_each_model(folders):
    prompt, answer = len(encode_prompt("chain 3+4*2")), len(encode(ANSWERS[0])) + 1
    [score], outcome = scored(Likelihood(folders[0]), chain(ANSWERS[0]))
    assert score.usage == outcome.spent.usage == Usage(prompt=prompt, scored=answer, calls=1)
    [score], _ = scored(Likelihood(folders[0], folders[1]), chain(ANSWERS[0]))
    assert score.usage == Usage(prompt=2 * prompt, scored=2 * answer, calls=1)


def test_a_budget_of_tokens_pays_for_whole_scores_only(folders):
    one = len(encode(ANSWERS[2])) + 1
    scores, outcome = scored(Likelihood(folders[0]), *[chain(ANSWERS[2])] * 3, budget=Budget(tokens=2 * one))
    assert [score.value is None for score in scores] == [False, False, True]
    assert outcome.exhausted


def test_scores_are_banked_under_weights_reference_and_beta(folders, monkeypatch):
    bank, verifier = TableBank(MemoryTable()), Likelihood(folders[0])
    first, _ = scored(verifier, *map(chain, ANSWERS), bank=bank)
    monkeypatch.setattr("ponder.verifiers.likelihood._open", lambda _: pytest.fail("the bank has these scores"))
    assert scored(verifier, *map(chain, ANSWERS), bank=bank)[0] == first
    prints = [
        Likelihood(path, reference, beta).fingerprint
        for path in folders
        for reference, beta in ((None, 0.1), (folders[0], 0.1), (folders[1], 0.1), (folders[0], 0.2))
    ]
    assert len(set(prints)) == len(prints)
    assert Likelihood(folders[0], beta=0.2).fingerprint == verifier.fingerprint
    assert all(one.startswith("likelihood-") for one in prints)


@pytest.mark.slow
@given(st.lists(st.integers(-(2**36), 0), min_size=2, max_size=20, unique=True))
def test_values_rank_as_log_likelihoods_do_at_any_length(millionths):
    sums = [number / 2**20 for number in millionths]
    values = [Likelihood("x")._judge([_Read(1, 1, total)]).value for total in sums]
    assert np.argsort(values).tolist() == np.argsort(sums).tolist()
    assert all(0 < value <= 1 for value in values)


@pytest.mark.slow
@given(st.lists(st.integers(-6000, 300), min_size=2, max_size=20, unique=True))
def test_values_rank_as_rewards_do(ratios):
    values = [Likelihood("x", "y")._judge([_Read(1, 1, ratio - 100.0), _Read(1, 1, -100.0)]).value for ratio in ratios]
    assert np.argsort(values).tolist() == np.argsort(ratios).tolist()
    assert all(0 < value < 1 for value in values)


def test_the_ends_of_the_maps():
    assert Likelihood("x")._judge([_Read(1, 1, 0.0)]).value == 1.0
    assert Likelihood("x")._judge([_Read(1, 1, -1.0)]).value == 0.5
    assert Likelihood("x")._judge([_Read(1, 1, -inf)]).value == 0.0
    assert Likelihood("x", "y")._judge([_Read(1, 1, -1e6), _Read(1, 1, 0.0)]).value == 0.0
    assert Likelihood("x", "y")._judge([_Read(1, 1, 0.0), _Read(1, 1, -1e6)]).value == 1.0


@pytest.mark.parametrize(
    ("unread", "why"),
    [
        (chain(""), "likelihood: the chain has no text"),
        (chain("well"), "likelihood: 'well' at character 12 is not in the lab's vocabulary"),
        (chain("3+4=7\n" * 60), "likelihood: the chain has 369 tokens, and the model reads 128"),
    ],
)
def test_a_chain_that_cannot_be_read_has_no_score_and_others_have(folders, unread, why):
    for verifier in (Likelihood(folders[0]), Likelihood(folders[0], folders[1])):
        scores, _ = scored(verifier, chain(ANSWERS[0]), unread, chain(ANSWERS[1]))
        assert [score.value is None for score in scores] == [False, True, False]
        assert scores[1].error.startswith(why)
        assert scores[1].usage == Usage()


def test_a_shipped_lab_model_believes_a_right_derivation_more_than_a_wrong_one():
    scores, _ = scored(Likelihood("small"), chain(ANSWERS[0]), chain(ANSWERS[1]))
    assert scores[0].value > scores[1].value


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"^likelihood: 'nowhere' is no folder with a model, and none of the lab's sizes"):
        _ = Likelihood("nowhere").fingerprint
    with pytest.raises(DataError, match=r"holds no model \(config.json: .*\); give a folder that a learner wrote$"):
        scored(Likelihood(str(tmp_path)), chain(ANSWERS[0]))
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    save(damaged, SHAPE, random_tensors(2) | {"score.weight": np.ones((1, SHAPE.width), np.float32)})
    with pytest.raises(DataError, match=r"damaged: no language model of the lab .*; one with a value head is reward_model\('"):
        scored(Likelihood(str(damaged)), chain(ANSWERS[0]))
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged: no language model of the lab \(Error while deserializing"):
        scored(Likelihood(str(damaged)), chain(ANSWERS[0]))
    (damaged / "reward.json").write_text("[]")
    with pytest.raises(DataError, match=r"reward.json: is not what a learner wrote .*; train the verifier again$"):
        scored(Likelihood(str(damaged), "small"), chain(ANSWERS[0]))
    with pytest.raises(UsageError, match=r"^likelihood: beta = 0 must be above 0$"):
        Likelihood("small", "base", beta=0)


def test_a_reference_that_training_did_not_start_from_is_refused(folders, tmp_path):
    save(tmp_path, SHAPE, random_tensors(2))
    note = {"kind": "likelihood", "reference": {"name": "x", "fingerprint": fingerprint(Path(folders[1]))}}
    (tmp_path / "reward.json").write_text(json.dumps(note))
    assert scored(Likelihood(str(tmp_path), folders[1]), chain(ANSWERS[0]))[0][0].value is not None
    with pytest.raises(DataError, match=r"was trained with a reference whose weights are .*; give the generator"):
        scored(Likelihood(str(tmp_path), folders[0]), chain(ANSWERS[0]))


def test_its_repr_is_the_spec_that_makes_it():
    verifier = Likelihood("runs/verifier", reference="base", beta=0.2)
    assert repr(verifier) == "likelihood(path='runs/verifier', reference='base', beta=0.2)"


# Transformers.


def by_torch(model, ids, begun):
    """log p of the ids from `begun` on, in double precision."""
    import torch

    with torch.no_grad():
        logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(logprobs[at - 1, ids[at]]) for at in range(begun, len(ids)))


def transformers_model(folder, template):
    """A two-layer model with two key-value heads and a vocabulary of words, and its tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    words = {word: at for at, word in enumerate(["<s>", "</s>", "<unk>", "user", "assistant", *"abcdefgh", "\n"])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"user|assistant|\n|."), "isolated")
    plain.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = template
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return transformers.LlamaForCausalLM.from_pretrained(folder), tokenizer


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }}{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the bindings that torch loads
@pytest.mark.parametrize(
    ("template", "prompt"),
    [(TEMPLATE, "<s> user a b \n assistant"), (None, "<s> a b \n \n")],
    ids=["chat", "plain"],
)
def test_any_causal_model_is_read_as_its_template_writes_and_learners_train(tmp_path, template, prompt):
    model, tokenizer = transformers_model(tmp_path, template)
    asked = Chain((Message("user", ("ab",)),))
    answers = [asked.then(Step("cd")).then(Step("e"), "stop"), asked.then(Step("ceh"), "length")]
    found = []

    async def strategy(root, run):
        found.extend(await run.score(Likelihood(str(tmp_path)), answers))

    solved(strategy, MazePolicy())
    for score, end in zip(found, (["c", "d", "e", "</s>"], ["c", "e", "h"]), strict=True):
        ids = tokenizer.convert_tokens_to_ids([*(one for one in prompt.split(" ") if one), *end])
        by_hand = by_torch(model, ids, len(ids) - len(end))
        assert score.raw == pytest.approx(by_hand, rel=1e-5)
        assert score.usage == Usage(prompt=len(ids) - len(end), scored=len(end), calls=1)

    expected = learned(tokenizer, asked.prompt, ["cd", "e"])
    assert _open(str(tmp_path)).encode(answers[0]) == (list(expected.ids), expected.prompt)
    long = asked.then(Step("c" * 40), "stop")
    with pytest.raises(ValueError, match=r"tokens, and the model reads 32$"):
        _open(str(tmp_path)).encode(long)


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the bindings that torch loads
def test_a_lab_folder_gives_transformers_what_numpy_gives(tmp_path, folders):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    model = transformers.LlamaForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    ids = [*encode_prompt("chain 3+4*2"), *encode(ANSWERS[0]), EOS]
    by_hand = by_torch(model, ids, len(encode_prompt("chain 3+4*2")))
    assert scored(Likelihood(folders[0]), chain(ANSWERS[0]))[0][0].raw == pytest.approx(by_hand, rel=1e-4)
