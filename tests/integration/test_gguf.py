"""GGUF files: the header reader against files laid out by hand, and the server on the small model if it is in the cache."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import struct
import urllib.error
import urllib.request

import pytest

from ponder.core import Ask, KVShape, Sampling, Until
from ponder.errors import DataError, MissingExtraError, SetupError, UsageError
from ponder.policies import gguf as module
from ponder.policies.gguf import Header, gguf, read_header
from ponder.policies.pull import CATALOGUE, cache_dir
from ponder.types import Chain, user

engine = pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="needs the extra gguf: xllamacpp")
model = pytest.mark.skipif(
    not (cache_dir() / CATALOGUE["smollm2"].file).is_file(), reason="needs the model smollm2: ponder pull smollm2"
)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def whole(name: str, value: int) -> bytes:
    return text(name) + struct.pack("<II", 4, value)


def array(name: str, kind: int, items: list[bytes]) -> bytes:
    return text(name) + struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


def tensor(name: str, *shape: int) -> bytes:
    return text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, 0)


LLAMA = [
    text("general.architecture") + struct.pack("<I", 8) + text("llama"),
    array("tokenizer.ggml.tokens", 8, [text("a"), text("bc"), text("")]),
    array("tokenizer.ggml.scores", 6, [struct.pack("<f", 0.5)] * 3),
    text("llama.rope.freq_base") + struct.pack("<If", 6, float("nan")),
    text("tokenizer.ggml.add_bos_token") + struct.pack("<I?", 7, True),
    whole("llama.block_count", 2),
    whole("llama.embedding_length", 32),
    whole("llama.attention.head_count", 4),
    whole("llama.attention.head_count_kv", 2),
]
TENSORS = [tensor("token_embd.weight", 32, 100), tensor("blk.0.attn_q.weight", 32, 32), tensor("output_norm.weight", 32)]


@pytest.fixture
def write(tmp_path):
    def write(entries=LLAMA, tensors=TENSORS, edition=3):
        path = tmp_path / "toy.gguf"
        path.write_bytes(
            b"GGUF" + struct.pack("<IQQ", edition, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
        )
        return path

    return write


def test_a_header_gives_architecture_active_parameters_and_cache_shape(write):
    assert read_header(write()) == Header("llama", 3200 + 1024 + 32, KVShape(2, 2, 8, 2))
    assert read_header(write(edition=2)).architecture == "llama"


def test_an_embedding_table_beside_an_output_is_looked_up_and_does_not_count(write):
    assert read_header(write(tensors=[*TENSORS, tensor("output.weight", 32, 100)])).parameters == 3200 + 1024 + 32


def test_of_the_experts_as_many_count_as_a_token_uses(write):
    entries = [*LLAMA, whole("llama.expert_count", 8), whole("llama.expert_used_count", 2)]
    found = read_header(write(entries, [*TENSORS, tensor("blk.0.ffn_up_exps.weight", 32, 64, 8)]))
    assert found.parameters == 3200 + 1024 + 32 + 32 * 64 * 2


def test_a_head_size_of_its_own_and_a_missing_group_are_read(write):
    entries = [entry for entry in LLAMA if b"head_count_kv" not in entry]
    assert read_header(write([*entries, whole("llama.attention.key_length", 16)])).kv == KVShape(2, 4, 16, 1)


def test_heads_that_vary_by_layer_give_no_shape_rather_than_a_wrong_one(write):
    entries = [entry for entry in LLAMA if b"head_count_kv" not in entry]
    assert read_header(write([*entries, array("llama.attention.head_count_kv", 4, [struct.pack("<I", 2)] * 2)])).kv is None


@pytest.mark.slow
def test_a_header_torn_at_any_byte_is_refused(write, tmp_path):
    data = write().read_bytes()
    torn = tmp_path / "torn.gguf"
    for length in range(len(data)):
        torn.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"torn\.gguf (does not begin|ends inside|claims)"):
            read_header(torn)


@pytest.mark.slow
def test_a_header_with_any_byte_changed_is_read_or_refused_and_nothing_else(write, tmp_path):
    data = bytearray(write().read_bytes())
    bent = tmp_path / "bent.gguf"
    refused = 0
    for at in range(len(data)):
        for mask in (0x01, 0x80, 0xFF):
            data[at] ^= mask
            bent.write_bytes(data)
            try:
                read_header(bent)
            except DataError:
                refused += 1
            data[at] ^= mask
    assert 0 < refused < 3 * len(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"PK\x03\x04", "does not begin with 'GGUF'"),
        (b"GGUF" + struct.pack("<I", 1), "is GGUF version 1; 2 and 3 can be read"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "claims 1099511627776 tensors, more than 65536"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "claims 4611686018427387904 bytes in a string, more than 16777216"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x") + struct.pack("<I", 99), "has a metadata value of unknown type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array("x", 9, []), "has a metadata value of unknown type 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("x") + struct.pack("<I", 9), "gives tensor 'x' 9 axes, more than 8"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(tmp_path, data, why):
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(DataError) as failed:
        read_header(path)
    assert str(failed.value).startswith(f"{path} {why} (near byte ")


def test_without_the_engine_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ponder-ttc\[gguf\]'"):
        gguf("smollm2")


@engine
@pytest.mark.integration
def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"gguf\('smollm2'\): slots = 0 must be at least 1"):
        gguf("smollm2", slots=0)
    with pytest.raises(UsageError, match=r"threads = -1 must be at least 1"):
        gguf("smollm2", threads=-1)


@engine
@pytest.mark.integration
def test_a_model_that_is_not_here_gets_the_command_that_fetches_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PONDER_CACHE", str(tmp_path))
    with pytest.raises(SetupError, match=r"fetch it once: ponder pull smollm2"):
        gguf("smollm2")


@engine
@pytest.mark.integration
@pytest.mark.slow
def test_a_file_that_llama_cpp_cannot_load_is_a_setup_error_and_the_process_lives(write):
    async def run():
        async with gguf(str(write())):
            pass

    with pytest.raises(SetupError, match=r"llama\.cpp could not serve"):
        asyncio.run(run())


QUESTION = Chain((user("What is 3 + 4? Write one short sentence, then on a new line only the number."),))


def ask(*calls, slots=4):
    """The answers to calls (asks, until, sampling), made one after another on the small model."""

    async def run():
        async with gguf("smollm2", context=512, slots=slots, threads=1) as policy:
            found = []
            for asks, until, sampling in calls:
                found.append(await policy.sample(asks, until=until, sampling=sampling))
            return policy.info, found

    return asyncio.run(run())


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_the_small_model_answers_and_every_child_has_its_price(capfd):
    sampling = Sampling(temperature=0.8, max_tokens=24)
    info, ((children,),) = ask(([Ask(QUESTION, tuple(range(4)), "s")], Until(), sampling))
    assert info.parameters == CATALOGUE["smollm2"].parameters
    assert info.kv == KVShape(30, 3, 64, 3)
    assert len(children) == 4
    for child in children:
        assert child.finish in ("stop", "length")
        assert child.text
        assert child.usage.calls == 1
        assert child.usage.prompt > 20
        assert 0 < child.usage.completion <= 24
        assert (child.usage.completion == 24) or child.finish == "stop"
    assert capfd.readouterr().err == ""


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_a_chain_is_continued_line_by_line_from_the_cached_prefix():
    async def run():
        async with gguf("smollm2", context=512, slots=1, threads=1) as policy:
            assert "continue" in policy.info.capabilities
            chain, sampling = QUESTION, Sampling(temperature=0.0, max_tokens=60)
            for _ in range(3):
                if chain.finish is None:
                    asks = [Ask(chain, (0,), "s")]
                    ((chain,),) = await policy.sample(asks, until=Until(tokens=6), sampling=sampling)
            ((whole,),) = await policy.sample([Ask(QUESTION, (0,), "s")], until=Until(), sampling=sampling)
            return chain, whole

    chain, whole = asyncio.run(run())
    assert len(chain.steps) > 1
    assert whole.text.startswith(chain.text)
    for before, step in zip(chain.steps, chain.steps[1:], strict=False):
        assert step.usage.cached >= before.usage.prompt


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_alternatives_come_best_first_and_greedy_takes_the_best():
    sampling = Sampling(temperature=0.0, max_tokens=8, logprobs=5)
    _, (((child,),),) = ask(([Ask(QUESTION, (0,), "s")], Until(), sampling))
    tokens = child.steps[-1].tokens
    assert tokens is not None
    assert "".join(tokens.texts) == child.text
    for token in tokens:
        values = [logprob for _, logprob in token.top_logprobs]
        assert len(values) == 5
        assert values == sorted(values, reverse=True)
        assert token.logprob == pytest.approx(values[0])


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_seeds_reach_the_engine_one_for_each_child_but_no_more_is_claimed():
    sampling = Sampling(max_tokens=16)
    several = ([Ask(QUESTION, (0, 1, 2), "s")], Until(), sampling)
    one = ([Ask(QUESTION, (2,), "s")], Until(), sampling)
    info, ((children,), (first,), (again,)) = ask(several, one, one, slots=1)
    assert len({child.text for child in children}) == 3
    assert first[0].text == again[0].text
    assert not {"seed", "n"} & info.capabilities


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_the_server_listens_on_loopback_and_wants_its_key():
    server = module._serve(gguf("smollm2", context=64, slots=1, threads=1), "key")
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{server.url}/props")
    with refused.value as error:
        assert error.code == 401
    with urllib.request.urlopen(urllib.request.Request(f"{server.url}/props", headers={"Authorization": "Bearer key"})) as reply:
        assert reply.status == 200
    server.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(server.url)


@engine
@model
@pytest.mark.integration
@pytest.mark.slow
def test_llama_cpps_own_sampling_defaults_are_switched_off():
    server = module._serve(gguf("smollm2", context=64, slots=1, threads=1), "key")
    request = urllib.request.Request(f"{server.url}/props", headers={"Authorization": "Bearer key"})
    with urllib.request.urlopen(request) as reply:
        drawn = json.load(reply)["default_generation_settings"]["params"]
    server.close()
    assert (drawn["temperature"], drawn["top_k"], drawn["top_p"], drawn["min_p"]) == (1.0, 0, 1.0, 0.0)
    assert drawn["samplers"] == ["temperature", "top_k", "top_p", "min_p"]


def test_a_policy_that_is_not_open_says_so(write, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="is not open: use it inside `async with"):
        asyncio.run(gguf(str(write())).sample([], until=Until(), sampling=Sampling()))
