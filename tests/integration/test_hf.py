"""The in-process Hugging Face policy, on a random two-layer model over bytes, built here: nothing is fetched."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="needs the extra hf: torch")
transformers = pytest.importorskip("transformers", reason="needs the extra hf: transformers")

from ponder.core import Ask, Sampling, Until  # noqa: E402  # after the skip
from ponder.errors import CapabilityError, DataError, SetupError, UsageError  # noqa: E402
from ponder.policies.hf import _cut_at_stop, _Reader, hf  # noqa: E402
from ponder.types import Blob, Chain, Message, Step, user  # noqa: E402

pytestmark = [pytest.mark.integration, pytest.mark.slow]

CONTEXT = 160
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def build(folder, template=TEMPLATE, seed=0, ascii_only=True):
    """A model whose tokens are the 256 bytes and an end; any text has one encoding, so cutting a chain changes no token.

    ascii_only: tokens that are no printable ASCII get the logit 0, so that the likeliest never is one of them.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: at for at, symbol in enumerate([*alphabet, "<end>"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=256,
    )
    model = transformers.LlamaForCausalLM(config)
    if ascii_only:
        with torch.no_grad():
            model.lm_head.weight[[at for symbol, at in vocabulary.items() if not symbol.isascii()]] = 0.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    return build(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(folder):
    return transformers.LlamaForCausalLM.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


def sample(folder, asks, sampling, until=Until(), **settings):
    async def run():
        async with hf(str(folder), **settings) as policy:
            return await policy.sample(asks, until=until, sampling=sampling)

    return asyncio.run(run())


def root(text="2 + 2 = ?"):
    return Chain((user(text),))


def rendered(chain):
    return "".join(f"[{m.role}]{m.text}\n" for m in chain.prompt) + "[assistant]" + chain.text


def test_greedy_is_what_transformers_generates(folder, reference):
    model, tokenizer = reference
    asks = [Ask(root(text), (0,), "s") for text in ("a", "a longer question", "2 + 2 = ?")]
    children = sample(folder, asks, Sampling(temperature=0.0, max_tokens=40))
    for ask, (child,) in zip(asks, children, strict=True):
        ids = tokenizer(rendered(ask.chain), return_tensors="pt").input_ids
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=40, pad_token_id=0)
        wanted = whole[0, ids.shape[1] :].tolist()
        ended = 256 in wanted
        tokens = child.steps[-1].tokens
        assert tokens is not None
        assert list(tokens.ids) == [token for token in wanted if token != 256]
        assert child.finish == ("stop" if ended else "length")


def test_tokens_come_as_often_as_the_models_distribution_says(folder, reference):
    model, tokenizer = reference
    sampling = Sampling(temperature=0.7, top_k=6, max_tokens=8)
    (children,) = sample(folder, [Ask(root(), tuple(range(3000)), "s")], sampling, Until(tokens=1), batch=500)
    ids = tokenizer(rendered(root()), return_tensors="pt").input_ids
    with torch.no_grad():
        logits = model(ids).logits[0, -1].double() / 0.7
    best = logits.topk(6)
    expected = dict(zip(best.indices.tolist(), torch.softmax(best.values, 0).tolist(), strict=True))
    seen = Counter(child.steps[-1].tokens.ids[0] if child.finish is None else 256 for child in children)
    assert set(seen) <= set(expected)
    for token, p in expected.items():
        assert abs(seen[token] / 3000 - p) < 4 * math.sqrt(p * (1 - p) / 3000)


def test_a_child_is_a_function_of_its_key_whatever_it_is_batched_with(folder):
    sampling = Sampling(max_tokens=30, logprobs=2)
    chains = [root(), root("quite another question, and longer"), root("x").then(Step("so far"))]
    asks = [Ask(chain, tuple(range(12)), "s") for chain in chains]
    together = sample(folder, asks, sampling, batch=16)
    for size in (1, 5, 36):
        assert [texts(row) for row in sample(folder, asks, sampling, batch=size)] == [texts(row) for row in together]
    alone = sample(folder, [Ask(chains[1], (7,), "s")], sampling)
    assert texts(alone[0]) == [together[1][7].text]
    elsewhere = sample(folder, [Ask(chains[1], (7,), "t")], sampling)
    assert texts(elsewhere[0]) != texts(alone[0])
    assert len(set(texts(together[0]))) == 12
    assert {child.finish for row in together for child in row} == {"stop", "length"}


def texts(chains):
    return [chain.text for chain in chains]


def test_a_smaller_cap_cuts_the_same_child_and_calls_it_length(folder):
    ask = Ask(root(), tuple(range(8)), "s")
    (whole,) = sample(folder, [ask], Sampling(max_tokens=25))
    (short,) = sample(folder, [ask], Sampling(max_tokens=5))
    for long, cut in zip(whole, short, strict=True):
        if long.usage.completion > 5:
            assert (cut.finish, cut.usage.completion) == ("length", 5)
            assert list(cut.steps[-1].tokens.ids) == list(long.steps[-1].tokens.ids[:5])
        else:
            assert cut == replace(long, steps=cut.steps)


def test_steps_of_a_few_tokens_add_up_to_the_whole_greedy_answer(folder):
    sampling = Sampling(temperature=0.0, max_tokens=24)
    ((whole,),) = sample(folder, [Ask(root("steps?"), (0,), "s")], sampling)

    async def stepwise():
        async with hf(str(folder)) as policy:
            chain = root("steps?")
            while chain.finish is None and chain.usage.completion < 24:
                ((chain,),) = await policy.sample([Ask(chain, (0,), "s")], until=Until(tokens=5), sampling=sampling)
            return chain

    chain = asyncio.run(stepwise())
    assert [step.usage.completion for step in chain.steps] == [5, 5, 5, 5, 4]
    assert (chain.text, chain.finish) == (whole.text, whole.finish)
    assert whole.text.isascii()


def test_logprobs_are_the_models_own_at_temperature_one_best_first(folder, reference):
    model, tokenizer = reference
    ((child,),) = sample(folder, [Ask(root(), (3,), "s")], Sampling(temperature=1.3, top_p=0.9, max_tokens=12, logprobs=4))
    tokens = child.steps[-1].tokens
    prompt = tokenizer(rendered(root()), return_tensors="pt").input_ids
    ids = torch.cat([prompt, torch.tensor([list(tokens.ids)])], -1)
    with torch.no_grad():
        logprobs = torch.log_softmax(model(ids).logits[0, prompt.shape[1] - 1 : -1], -1)
    for at, token in enumerate(tokens):
        best = logprobs[at].topk(4)
        assert token.logprob == pytest.approx(logprobs[at, token.id].item(), abs=1e-4)
        assert [logprob for _, logprob in token.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert [text for text, _ in token.top_logprobs] == [tokenizer.decode([i]) for i in best.indices.tolist()]
    assert "".join(tokens.texts) == child.text


def test_a_stop_text_ends_the_step_stays_at_its_end_and_leaves_the_chain_open(folder):
    sampling = Sampling(temperature=0.4, max_tokens=30)
    (free,) = sample(folder, [Ask(root(), tuple(range(40)), "s")], sampling)
    pairs = Counter(child.text[at : at + 2] for child in free for at in range(1, len(child.text) - 1))
    stop = pairs.most_common(1)[0][0]
    (children,) = sample(folder, [Ask(root(), tuple(range(40)), "s")], sampling, Until(stop=(stop, "never there")))
    stopped = [child for child in children if child.finish is None]
    assert len(stopped) > 5
    assert all(child.text.endswith(stop) and child.text.find(stop) == len(child.text) - 2 for child in stopped)
    assert len(stopped) < 40
    assert all(stop not in child.text for child in children if child.finish is not None)


@pytest.mark.parametrize(
    ("pieces", "stops", "kept"),
    [
        (["ab", "c\nd"], ("\n",), ["ab", "c\n"]),
        (["ab\n", "\nd"], ("\n\n",), ["ab\n", "\n"]),
        (["ab\n", "", "\nd"], ("\n\n",), ["ab\n", "", "\n"]),
        (["x"] * 9 + ["yz"], ("xxxy", "z"), ["x"] * 9 + ["y"]),
        (["stop", "!"], ("stop",), None),  # it came up before this piece, and would have ended the step then
        (["a"], ("b",), None),
    ],
)
def test_the_earliest_end_of_a_stop_text_cuts_the_last_piece(pieces, stops, kept):
    found = list(pieces)
    assert _cut_at_stop(found, stops) is (kept is not None)
    assert found == (kept or pieces)


def test_usage_is_of_each_child_and_siblings_share_the_prompt(folder):
    (children,) = sample(folder, [Ask(root("abc"), (0, 1, 2), "s")], Sampling(max_tokens=6))
    prompt = len(rendered(root("abc")))
    assert [child.usage.prompt for child in children] == [prompt] * 3
    assert [child.usage.cached for child in children] == [0, prompt, prompt]
    assert [child.usage.calls for child in children] == [1, 1, 1]
    assert all(child.usage.completion == 6 or child.finish == "stop" for child in children)


def test_characters_of_several_bytes_are_never_torn(tmp_path):
    wide = build(tmp_path, ascii_only=False)
    (children,) = sample(wide, [Ask(root(), tuple(range(30)), "s")], Sampling(temperature=2.0, max_tokens=60))
    for child in children:
        assert "".join(child.steps[-1].tokens.texts) == child.text
        assert not child.text.endswith("\ufffd")
    assert any(ord(letter) > 127 and letter != "\ufffd" for child in children for letter in child.text)


class Spaced:
    """A decoder that, like SentencePiece's, drops the space that a text begins with; its last token is special."""

    pieces = ("[inst]", "_the", "_cat", "s", "_", "<mark>")
    special = frozenset({5})

    def text(self, ids):
        return "".join(self.pieces[at] for at in ids).replace("_", " ").removeprefix(" ")


def test_spaces_between_words_survive_and_special_tokens_write_nothing():
    reader = _Reader(Spaced(), [0, 1, 3])
    assert [reader.read(token) for token in (1, 2, 3, 5, 1, 4, 2) * 3] == [" the", " cat", "s", "", " the", " ", " cat"] * 3


def test_a_prompt_beyond_the_context_fails_by_name_and_a_full_context_is_length(folder):
    long, near = root("x" * CONTEXT), root("y" * (CONTEXT - 30))
    sampling = Sampling(max_tokens=1000, temperature=1.0)
    (failed,), (full,) = sample(folder, [Ask(long, (0,), "s"), Ask(near, (0,), "s")], sampling)
    assert (failed.finish, failed.text, failed.usage.completion) == ("error", "", 0)
    assert full.usage.prompt + full.usage.completion <= CONTEXT
    assert full.finish == "length" or full.usage.prompt + full.usage.completion < CONTEXT


def test_without_a_template_the_texts_of_the_messages_are_the_prompt(tmp_path):
    plain = build(tmp_path, template=None)
    ((child,),) = sample(plain, [Ask(root("abc").then(Step("so")), (0,), "s")], Sampling(max_tokens=2))
    assert child.usage.prompt == len("abc\n\nso")


def test_what_is_known_before_loading(folder, tmp_path):
    policy = hf(str(folder))
    model = transformers.LlamaForCausalLM.from_pretrained(folder)
    assert policy.info.parameters == model.num_parameters() - model.get_input_embeddings().weight.numel()
    kv = policy.info.kv
    assert kv is not None
    assert (kv.layers, kv.kv_heads, kv.head_dim, kv.group) == (2, 2, 8, 2)
    assert {"continue", "logprobs", "seed"} <= policy.info.capabilities
    assert "seed" not in hf(str(folder), dtype="bfloat16").info.capabilities
    assert hf(str(folder)).info.fingerprint == policy.info.fingerprint
    assert hf(str(folder), dtype="float64").info.fingerprint != policy.info.fingerprint
    assert hf(str(build(tmp_path / "other", seed=1))).info.fingerprint != policy.info.fingerprint
    assert hf(str(build(tmp_path / "worded", template="{{ 'x' }}"))).info.fingerprint != policy.info.fingerprint


def test_mistakes_are_named_before_anything_is_loaded(folder, tmp_path):
    with pytest.raises(UsageError, match="dtype = 'int4' must be one of float32, float64, bfloat16, float16"):
        hf(str(folder), dtype="int4")
    with pytest.raises(UsageError, match="batch = 0 must be at least 1"):
        hf(str(folder), batch=0)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(DataError, match=r"no pickles are read"):
        hf(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(DataError, match=r"model\.safetensors is not a safetensors file"):
        _ = hf(str(tmp_path)).info
    with pytest.raises(UsageError, match="is not open"):
        asyncio.run(hf(str(folder)).sample([], until=Until(), sampling=Sampling()))


def test_code_that_comes_with_a_model_never_runs(tmp_path):
    import json

    build(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SetupError, match="transformers cannot load"):
        sample(tmp_path, [], Sampling())
    assert not ran.exists()


def test_parts_that_are_not_text_are_refused(folder):
    chain = Chain((Message("user", ("look", Blob("0" * 64, "image/png"))),))
    with pytest.raises(CapabilityError, match="reads text only"):
        sample(folder, [Ask(chain, (0,), "s")], Sampling())


def test_a_cancelled_call_stops_and_the_next_one_is_served(folder):
    async def run():
        async with hf(str(folder)) as policy:
            many = asyncio.ensure_future(
                policy.sample([Ask(root(), tuple(range(5000)), "s")], until=Until(), sampling=Sampling(max_tokens=100))
            )
            await asyncio.sleep(0)
            many.cancel()
            with pytest.raises(asyncio.CancelledError):
                await many
            return await policy.sample([Ask(root(), (0,), "s")], until=Until(), sampling=Sampling(max_tokens=3))

    ((child,),) = asyncio.run(asyncio.wait_for(run(), 30))
    assert child.usage.completion <= 3


def test_calls_that_wait_are_decoded_together_and_say_what_they_say_alone(folder, monkeypatch):
    from ponder.policies.hf import _Engine

    turns = []
    plain = _Engine.run

    def counted(self, rows, *rest):
        turns.append(len(rows))
        plain(self, rows, *rest)

    asks = [Ask(root(f"{n} + {n} = ?"), (0, 1), "s") for n in range(5)]
    sampling = Sampling(max_tokens=12)
    alone = [sample(folder, [ask], sampling)[0] for ask in asks]
    monkeypatch.setattr(_Engine, "run", counted)

    async def run():
        async with hf(str(folder)) as policy:
            calls = [asyncio.ensure_future(policy.sample([ask], until=Until(), sampling=sampling)) for ask in asks]
            other = asyncio.ensure_future(policy.sample([asks[0]], until=Until(), sampling=Sampling(max_tokens=3)))
            await asyncio.sleep(0)
            calls[1].cancel()
            found = await asyncio.gather(*calls, other, return_exceptions=True)
            return found[:-1], found[-1]

    found, other = asyncio.run(run())
    assert turns == [10, 2]  # five calls of two children, then the one of another kind
    assert isinstance(found.pop(1), asyncio.CancelledError)
    assert [[child.text for child in row] for (row,) in found] == [[c.text for c in alone[at]] for at in (0, 2, 3, 4)]
    assert max(child.usage.completion for child in other[0]) <= 3


def test_an_engine_that_fails_fails_everyone_who_waited_for_it_and_goes_on(folder, monkeypatch):
    from ponder.errors import EndpointError
    from ponder.policies.hf import _Engine

    plain, broken = _Engine.run, [True]

    def run_once_broken(self, *given):
        if broken.pop() if broken else False:
            raise RuntimeError("out of memory")
        plain(self, *given)

    monkeypatch.setattr(_Engine, "run", run_once_broken)

    async def run():
        async with hf(str(folder)) as policy:

            def one():
                return policy.sample([Ask(root(), (0,), "s")], until=Until(), sampling=Sampling(max_tokens=3))

            failed = await asyncio.gather(one(), one(), return_exceptions=True)
            return failed, await one()

    failed, ((child,),) = asyncio.run(run())
    assert [type(error) for error in failed] == [EndpointError, EndpointError]
    assert "out of memory; try a smaller batch" in str(failed[0])
    assert child.usage.completion <= 3
