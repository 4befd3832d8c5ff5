"""Reward models by transformers: each shape on a random two-layer model saved as that shape is, against its card's own computation."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs the extra hf: torch")
transformers = pytest.importorskip("transformers", reason="needs the extra hf: transformers")

from safetensors.torch import load_file, save_file  # noqa: E402  # after the skip
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors  # noqa: E402

from ponder.errors import DataError, SetupError, UsageError  # noqa: E402
from ponder.learners import models as folders  # noqa: E402
from ponder.learners.datasets import steps_of  # noqa: E402
from ponder.types import Blob, Chain, Message, Step, user  # noqa: E402
from ponder.verifiers.reward_model import RewardModel  # noqa: E402
from ponder.verifiers.reward_shapes import QWEN_SYSTEM  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTEXT = 400
CHAT = (
    "{% for m in messages %}<|head|>{{ m.role }}\n{{ m.content | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant\n{% endif %}"
)
SPECIAL = ["<|head|>", "<|end|>", "<extra_0>", "<pad>"]
QUESTION = "What is 2 + 3 - 1?"
ASKED = (user(QUESTION),)
TEXTS = ("2 + 3 = 5\n\n5 - 1 = 4\n\nSo: 4", "2 + 3 = 6\n\nSo: 6 + 0\n", "It is 4.", "2 + 3 = 5\n\n5 - 1 = 4")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def byte_tokenizer(folder, chat=CHAT):
    """Tokens are bytes, and the special ones above."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[:3]})
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    return tokenizer


def metaspace_tokenizer(folder):
    """As SentencePiece makes them: a space belongs to the word behind it, and " +", " -" and " ки" are one token each."""
    letters = ["<s>", "<pad>", *sorted({*map(chr, range(33, 127)), "к", "и", "\n", "▁"})]
    merges = [("▁", "+"), ("▁", "-"), ("▁", "к"), ("▁к", "и")]
    vocabulary = {symbol: at for at, symbol in enumerate([*letters, *("".join(pair) for pair in merges)])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="<pad>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny(kind, size, **more):
    torch.manual_seed(0)
    config = kind(
        vocab_size=size, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, initializer_range=0.4, tie_word_embeddings=False, **more,
    )  # fmt: skip
    return config


def chains(texts=TEXTS, finish="stop", prompt=ASKED):
    return [Chain(prompt).then(Step(text), finish) for text in texts]


def score(folder, asked=None, **how):
    return asyncio.run(RewardModel(str(folder), **how).score(asked or chains(), None))


def assert_process(scores, expected):
    assert [len(one.steps) for one in scores] == [len(steps) for steps in expected]
    for one, steps in zip(scores, expected, strict=True):
        assert list(one.steps) == pytest.approx(steps, abs=1e-5)
    assert min(max(one.steps) - min(one.steps) for one in scores if len(one.steps) > 1) > 0.001, (
        "the reference must tell steps apart"
    )


# Our own two kinds: what a learner trains is what is read.


def own(folder, kind, facts, pad="<pad>"):
    tokenizer = byte_tokenizer(folder)
    config = tiny(transformers.LlamaConfig, len(tokenizer), pad_token_id=tokenizer.convert_tokens_to_ids(pad), num_labels=1)
    model = kind(config).eval()
    model.save_pretrained(folder)
    (Path(folder) / "reward.json").write_text(json.dumps(facts))
    return tokenizer, model


@pytest.mark.parametrize("finish", ["stop", "length"])
@pytest.mark.parametrize("pad", ["<pad>", "<|end|>"])
def test_an_outcome_model_is_read_where_transformers_pools_what_learners_encode(tmp_path, finish, pad):
    tokenizer, model = own(tmp_path, transformers.LlamaForSequenceClassification, {"kind": "outcome"}, pad)
    asked = chains(finish=finish)
    for one, chain in zip(score(tmp_path, asked), asked, strict=True):
        encoded = folders.encode(tokenizer, chain.prompt, [chain.text], finished=finish == "stop")
        with torch.no_grad():
            logit = model(torch.tensor([encoded.ids])).logits[0, 0]
        assert one.raw == pytest.approx(float(logit), abs=1e-4)
        assert one.value == pytest.approx(float(torch.sigmoid(logit)), abs=1e-5)
        assert one.steps == ()
        assert (one.usage.prompt, one.usage.scored) == (encoded.prompt, len(encoded.ids) - encoded.prompt)
        assert (one.usage.calls, one.usage.completion) == (1, 0)


@pytest.mark.parametrize(
    ("how", "combine"), [("last", lambda steps: steps[-1]), ("min", min), ("mean", lambda steps: sum(steps) / len(steps))]
)
def test_a_process_model_is_read_at_the_step_ends_that_learners_label(tmp_path, how, combine):
    tokenizer, model = own(
        tmp_path, transformers.LlamaForTokenClassification, {"kind": "process", "step": "\n\n", "aggregate": how, "other": 1}
    )
    expected = []
    asked = chains((*TEXTS, "\n\n2 + 3\n\n\n\n= 5\n\n"))
    for chain in asked:
        encoded = folders.encode(tokenizer, chain.prompt, steps_of(chain.text, "\n\n"), finished=True)
        with torch.no_grad():
            expected.append(torch.sigmoid(model(torch.tensor([encoded.ids])).logits[0, list(encoded.ends), 0]).tolist())
    scores = score(tmp_path, asked)
    assert_process(scores, expected)
    assert [one.value for one in scores] == [combine(one.steps) for one in scores]


def test_a_token_that_reaches_over_a_step_end_counts_for_the_step_it_starts_in_as_learners_have_it(tmp_path):
    raw = Tokenizer(
        models.BPE(
            vocab={symbol: at for at, symbol in enumerate(["<pad>", "a", "b", "\n", "a\n", "\nb", "\n\n"])}, merges=[("\n", "b")]
        )
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<pad>", pad_token="<pad>")
    tokenizer.save_pretrained(tmp_path)
    model = transformers.LlamaForTokenClassification(tiny(transformers.LlamaConfig, 8, num_labels=1)).eval()
    model.save_pretrained(tmp_path)
    (tmp_path / "reward.json").write_text(json.dumps({"kind": "process"}))
    encoded = folders.encode(tokenizer, (user("ab"),), ["a\n", "b\n", "a"], finished=False)
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.tensor([encoded.ids])).logits[0, list(encoded.ends), 0]).tolist()
    [one] = score(tmp_path, chains(("a\nb\na",), prompt=(user("ab"),)))
    assert list(one.steps) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_a_lab_model_has_the_same_values_in_numpy_as_in_transformers(tmp_path, kind):
    source = folders.lab_folder("small", tmp_path)
    model = folders.open_outcome(source) if kind == "outcome" else folders.open_process(source)
    torch.manual_seed(2)
    with torch.no_grad():
        model.score.weight.normal_(0.0, 0.2)
    folders.save(model, source, tmp_path / "out", {"kind": kind, "aggregate": "min"})
    lines = ("3+4=7\n7*2=14\nanswer: 14", "3+4=7", "\n\n3+4=8\n\n8*2=16\nanswer: 16\n")
    for finish in ("stop", "length"):
        asked = chains(lines, finish, (user("chain 3+4*2"),))
        ours, theirs = (
            score(tmp_path / "out", asked),
            score(tmp_path / "out", asked, shape="orm" if kind == "outcome" else "process"),
        )
        assert RewardModel(str(tmp_path / "out")).fingerprint.startswith("reward-lab-")
        for one, other in zip(ours, theirs, strict=True):
            assert one.raw == pytest.approx(other.raw, abs=1e-4)
            assert list(one.steps) == pytest.approx(list(other.steps), abs=1e-5)
            assert one.usage == other.usage
        assert len({one.value for one in ours}) == len(lines)


def test_a_prompt_is_not_ended_where_a_tokenizer_without_template_ends_all_it_reads(tmp_path):
    tokenizer, model = own(tmp_path, transformers.LlamaForTokenClassification, {"kind": "process"})
    tokenizer.chat_template = None
    end = ("<|end|>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[end])
    (tmp_path / "chat_template.jinja").unlink()
    tokenizer.save_pretrained(tmp_path)
    [one] = score(tmp_path, chains(("a\nb",)))
    encoded = folders.encode(folders.open_tokenizer(tmp_path), ASKED, ["a\n", "b"], finished=False)
    assert tokenizer.eos_token_id not in encoded.ids
    assert (one.usage.prompt, one.usage.scored) == (encoded.prompt, 3)
    with torch.no_grad():
        expected = torch.sigmoid(model(torch.tensor([encoded.ids])).logits[0, list(encoded.ends), 0])
    assert list(one.steps) == pytest.approx(expected.tolist(), abs=1e-5)


# The public shapes.


@pytest.mark.parametrize("kind", ["Qwen2", "Bert"])
def test_a_public_outcome_model_reads_the_conversation_with_the_answer_as_its_last_message(tmp_path, kind):
    tokenizer = byte_tokenizer(tmp_path)
    config = tiny(getattr(transformers, f"{kind}Config"), len(tokenizer), pad_token_id=tokenizer.pad_token_id, num_labels=1)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path)
    prompt = (Message("system", ("Be brief.",)), user(QUESTION))
    for one, text in zip(score(tmp_path, chains(prompt=prompt)), TEXTS, strict=True):
        asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
        messages = [*asked, {"role": "assistant", "content": text}]
        ids = tokenizer.apply_chat_template(messages, return_dict=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            assert one.raw == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-4)
        assert one.usage.prompt + one.usage.scored == ids.shape[1]


def test_a_public_outcome_model_without_padding_is_read_one_by_one(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    model = transformers.LlamaForSequenceClassification(tiny(transformers.LlamaConfig, len(tokenizer), num_labels=1)).eval()
    assert model.config.pad_token_id is None
    model.save_pretrained(tmp_path)
    alone = [score(tmp_path, [chain])[0].raw for chain in chains()]
    assert [one.raw for one in score(tmp_path)] == pytest.approx(alone, abs=1e-5)
    assert len(set(alone)) == len(TEXTS)


def test_math_shepherd_is_read_at_its_tags_between_plus_and_minus(tmp_path):
    tokenizer = metaspace_tokenizer(tmp_path)
    model = transformers.MistralForCausalLM(tiny(transformers.MistralConfig, len(tokenizer), pad_token_id=1)).eval()
    model.save_pretrained(tmp_path)
    two = tokenizer.encode("+ -", add_special_tokens=False)
    tag = tokenizer.encode("ки", add_special_tokens=False)[-1]
    assert tokenizer.convert_ids_to_tokens([*two, tag]) == ["▁+", "▁-", "▁ки"]
    expected = []
    for text in TEXTS:  # the card's code, on a text written out as its examples are
        written = "\n".join(f"{line} ки" if line else "" for line in text.rstrip("\n").split("\n"))
        ids = torch.tensor([tokenizer.encode(f"{QUESTION} {written}")])
        with torch.no_grad():
            scores = model(ids).logits[:, :, two].softmax(dim=-1)[:, :, 0]
        expected.append(scores[ids == tag].tolist())
    scores = score(tmp_path, shape="math_shepherd")
    assert_process(scores, expected)
    assert [one.value for one in scores] == [one.steps[-1] for one in scores]
    [one] = score(tmp_path, chains(("One ки\nTwo",)), shape="math_shepherd")
    assert one.error == "reward_model: 3 tokens 'ки' for 2 steps: the chain or its question has one of its own"


def test_rlhflow_is_read_turn_by_turn_where_plus_is_foretold(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    model = transformers.LlamaForCausalLM(
        tiny(transformers.LlamaConfig, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    ).eval()
    model.save_pretrained(tmp_path)
    two = [tokenizer.encode("+")[-1], tokenizer.encode("-")[-1]]
    expected = []
    for (
        text
    ) in TEXTS:  # the authors' code: one forward pass for each step, read three from the end ('+' and the end of turn follow)
        conversation, values = [], []
        for at, step in enumerate(text.rstrip("\n").split("\n\n")):
            conversation.append({"role": "user", "content": step if at else f"{QUESTION} {step}"})
            conversation.append({"role": "assistant", "content": "+"})
            ids = tokenizer.apply_chat_template(conversation, return_dict=True, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                values.append(float(model(ids).logits[:, -3, two].softmax(dim=-1)[0, 0]))
        expected.append(values)
    scores = score(tmp_path, shape="rlhflow")
    assert_process(scores, expected)
    question = len(tokenizer.encode(f"<|head|>user\n{QUESTION}"))
    assert {one.usage.prompt for one in scores} == {question}


def test_skywork_is_read_by_its_value_head_at_the_separators(tmp_path):
    tokenizer = byte_tokenizer(tmp_path, chat=None)
    config = tiny(transformers.Qwen2Config, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    head = torch.nn.Linear(16, 1)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {f"v_head.summary.{name}": value.detach() for name, value in head.named_parameters()},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    rename(tmp_path, architectures=["Qwen2ForPrmModel"])
    expected = []
    for text in TEXTS:  # the authors' prepare_input, and their wrapper's forward with return_probs
        ids, flags = tokenizer.encode(QUESTION + "\n"), []
        for step in text.rstrip("\n").split("\n"):
            ids += [*tokenizer.encode(step), tokenizer.encode("\n")[-1]]
            flags += [len(ids) - 1] * (step != "")
        with torch.no_grad():
            hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
            expected.append(torch.sigmoid(head(hidden))[0, flags, 0].tolist())
    scores = score(tmp_path)
    assert_process(scores, expected)
    assert {one.usage.prompt for one in scores} == {len(QUESTION) + 1}


def test_qwens_process_model_is_read_by_its_two_layer_head_at_the_separator_without_its_code(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    config = tiny(transformers.Qwen2Config, len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    model = transformers.Qwen2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    head = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    tensors = {name: value for name, value in load_file(tmp_path / "model.safetensors").items() if name != "lm_head.weight"}
    (tmp_path / "model.safetensors").unlink()
    scored = {f"score.{name}": value.detach() for name, value in head.named_parameters()}
    names = [*sorted(tensors), *scored]
    for number, part in enumerate((names[:7], names[7:]), 1):  # in two files, as the large ones are
        save_file(
            {name: (tensors | scored)[name] for name in part},
            tmp_path / f"model-0000{number}-of-00002.safetensors",
            {"format": "pt"},
        )
    index = {name: f"model-0000{1 if name in names[:7] else 2}-of-00002.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    rename(
        tmp_path,
        architectures=["Qwen2ForProcessRewardModel"],
        auto_map={"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel"},
    )
    (tmp_path / "modeling_qwen2_rm.py").write_text("raise RuntimeError('code of a model has run')\n")
    expected = []
    separator = tokenizer.encode("<extra_0>")[0]
    for text in TEXTS:  # the card's code
        steps = text.rstrip("\n").split("\n\n")
        messages = [
            {"role": "system", "content": QWEN_SYSTEM.text},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ]
        ids = torch.tensor(
            [tokenizer.encode(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False))]
        )
        with torch.no_grad():
            probabilities = head(model.model(ids).last_hidden_state).softmax(dim=-1)
        expected.append(probabilities[ids == separator][:, 1].tolist())
    scores = score(tmp_path)
    assert_process(scores, expected)
    assert_process(score(tmp_path, chains(prompt=(QWEN_SYSTEM, user(QUESTION)))), expected)
    by_line = score(tmp_path, step="\n")
    assert [len(one.steps) for one in by_line] == [3, 2, 1, 2]
    assert_process(
        [score(tmp_path, chains(("a\nb",)), step="\n")[0], by_line[0]],
        [score(tmp_path, chains(("a\n\nb",)))[0].steps, expected[0]],
    )
    [one] = score(tmp_path, chains(("a<extra_0>b",)))
    assert "2 tokens '<extra_0>' for 1 steps" in one.error


def rename(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


# What holds for all of them.


def test_batches_of_like_length_change_nothing_that_counts_and_equal_chains_are_read_once(tmp_path, monkeypatch):
    own(tmp_path, transformers.LlamaForTokenClassification, {"kind": "process"})
    from ponder.verifiers import reward_hf

    lengths, logits = [], reward_hf._Loaded.logits

    def noting(self, asked):
        lengths.append([len(one.ids) for one in asked])
        return logits(self, asked)

    monkeypatch.setattr(reward_hf._Loaded, "logits", noting)
    asked = [*chains(), *chains()]
    together = score(tmp_path, asked)
    assert list(map(len, lengths)) == [4]
    lengths.clear()
    apart = score(tmp_path, asked, batch=3)
    assert list(map(len, lengths)) == [3, 1]
    flat = [length for group in lengths for length in group]
    assert flat == sorted(flat, reverse=True)
    assert together[:4] == together[4:]
    for a, b in zip(together, apart, strict=True):
        assert list(a.steps) == pytest.approx(list(b.steps), abs=1e-5)


def test_what_cannot_be_read_is_no_score_with_the_reason(tmp_path):
    own(tmp_path, transformers.LlamaForTokenClassification, {"kind": "process"})
    pictured = Chain((Message("user", ("See.", Blob("0" * 64, "image/png"))),)).then(Step("4"), "stop")
    asked = [*chains(("", "\n", "x" * CONTEXT)), pictured, *chains(("4",))]
    errors = [one.error for one in score(tmp_path, asked)]
    assert errors[:2] == ["reward_model: the chain is empty: there is no answer to score"] * 2
    assert errors[2].startswith("reward_model: the chain has ")
    assert errors[2].endswith(f"and {tmp_path} has {CONTEXT} positions")
    assert errors[3] == "reward_model: the prompt is empty, or has parts that are not text"
    assert errors[4] == ""


def test_a_model_without_its_head_is_refused(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    transformers.LlamaForCausalLM(tiny(transformers.LlamaConfig, len(tokenizer))).save_pretrained(tmp_path)
    with pytest.raises(
        UsageError,
        match=r"neither reward\.json nor the architecture .LlamaForCausalLM. tells how it is read; give shape, one of orm",
    ):
        score(tmp_path)
    for shape, what in (
        ("orm", "score.weight"),
        ("process", "score."),
        ("skywork", "v_head.summary.weight"),
        ("qwen_prm", "score.0.weight"),
    ):
        with pytest.raises(DataError, match=what):
            score(tmp_path, shape=shape)
    with pytest.raises(DataError, match=r"'\+ -' must be two tokens"):
        score(tmp_path, shape="math_shepherd")


def test_two_labels_are_not_taken_for_one(tmp_path):
    tokenizer = byte_tokenizer(tmp_path)
    transformers.LlamaForTokenClassification(tiny(transformers.LlamaConfig, len(tokenizer), num_labels=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(DataError, match="process reads one logit, and this head has 2"):
        score(tmp_path)


def test_the_fingerprint_follows_weights_facts_shape_and_step_and_not_the_place(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        own(folder, transformers.LlamaForTokenClassification, {"kind": "process"})
    prints = {RewardModel(str(folder)).fingerprint for folder in (first, second)}
    assert len(prints) == 1
    prints.add(RewardModel(str(first), step="\n\n").fingerprint)
    prints.add(RewardModel(str(first), dtype="float64").fingerprint)
    (second / "reward.json").write_text(json.dumps({"kind": "process", "aggregate": "min"}))
    prints.add(RewardModel(str(second)).fingerprint)
    torch.manual_seed(1)
    model = folders.open_process(first)
    with torch.no_grad():
        model.score.weight += 0.1
    model.save_pretrained(second)
    prints.add(RewardModel(str(second)).fingerprint)
    assert len(prints) == 5


def test_an_id_that_is_not_on_this_machine_names_the_command_that_fetches_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SetupError, match="ponder pull nobody/nothing-at-all"):
        score("nobody/nothing-at-all")
