"""Adapters in the engine: combinations against merged weights, memory limits, reading again what was let go."""

import pytest
import torch

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.tests.test_packed import PACKABLE
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import PackedCausalAttention, load_adapter, load_model
from fw_sdk.types import FwError
from kernels import native

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
PROMPT = tuple(range(40, 60))
SPLIT = {"q_proj": ("qkv", 0), "k_proj": ("qkv", 1), "v_proj": ("qkv", 2), "o_proj": ("output", 0)}
SPLIT |= {"gate_proj": ("gate_up", 0), "up_proj": ("gate_up", 1), "down_proj": ("down", 0)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """More threads than that only wait for each other in a model this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", **PACKABLE)


@pytest.fixture(scope="module")
def folders(path, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: tiny_adapter(root / name, path, seed=seed, rank=seed) for name, seed in (("a", 2), ("b", 3))}


@pytest.fixture
def engine(path, folders):
    engine = Engine(load_model(path, dtype=torch.float32), None, EngineConfig(page_size=4))
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    return engine


def merged_model(path, folders, weights):
    """The model with the adapters' updates added to its matrices."""
    model = load_model(path, dtype=torch.float32)
    config = model.config
    for name, weight in weights:
        adapter = load_adapter(folders[name], config, torch.float32)
        for (layer, target), (down, up) in adapter.weights.items():
            buffer, part = SPLIT[target]
            sizes = [config.query_size, config.kv_size, config.kv_size] if buffer == "qkv" else [config.ffn_size] * 2
            start = sum(sizes[:part])
            rows = getattr(model.layers[layer], buffer)[start : start + up.shape[0]]
            rows += weight * adapter.scale * (up @ down)
    return model


@torch.inference_mode()
def is_greedy(model, prompt, tokens):
    ids = torch.tensor([*prompt, *tokens])
    hidden = model(ids, torch.arange(len(ids)), PackedCausalAttention([len(ids)]))
    return tuple(model.logits(hidden).argmax(-1)[len(prompt) - 1 : -1].tolist()) == tuple(tokens)


MIXES = [(("a", 0.7), ("b", -0.4)), (("b", 1.0), ("a", 1.0)), (("b", 0.3),), (("a", 1.0),), ()]


def test_combinations_mixed_in_a_batch_equal_merged_weights(engine, path, folders):
    requests = [Request(f"r{i}", PROMPT, GREEDY, adapters=mix) for i, mix in enumerate(MIXES)]
    found = engine.generate([*requests, Request("single", PROMPT, GREEDY, "a")])
    for mix, answer in zip(MIXES, found[:-1], strict=True):
        assert is_greedy(merged_model(path, folders, mix), PROMPT, answer.token_ids)
        assert answer.usage.cached_tokens == 0
    assert found[-1].token_ids == found[3].token_ids
    assert found[-1].usage.cached_tokens == 16, "one adapter at full strength is that adapter"
    assert len({answer.token_ids for answer in found}) == len(MIXES)
    turned = engine.generate([Request("turned", PROMPT, GREEDY, adapters=MIXES[0][::-1])])[0]
    assert (turned.token_ids, turned.usage.cached_tokens) == (found[0].token_ids, 16)
    engine.check_integrity()


@pytest.mark.skipif(native.library() is None, reason="no C compiler here")
def test_combinations_on_packed_weights_follow_the_full_model(path, folders):
    engine = Engine.load(path, dtype="int8", config=EngineConfig(kv_bytes=1 << 20, max_batched_tokens=64))
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=5, ignore_eos=True)
    for mix in MIXES:
        top = engine.generate([Request("r", PROMPT, sampling, adapters=mix)])[0].logprobs[0].top
        model = merged_model(path, folders, mix)
        with torch.inference_mode():
            hidden = model(torch.tensor(PROMPT), torch.arange(20), PackedCausalAttention([20]))
            wanted = model.logits(hidden[-1:])[0].log_softmax(-1)
        assert [value for _, value in top] == pytest.approx([wanted[token].item() for token, _ in top], abs=0.5)
    engine.check_integrity()


@pytest.mark.parametrize(
    ("adapter", "adapters", "code"),
    [
        ("a", (("b", 1.0),), "invalid_argument"),
        (None, (("a", 1.0), ("nope", 1.0)), "not_found"),
        (None, (("a", 1.0),) * 9, "invalid_argument"),
        (None, (("a", float("nan")),), "invalid_argument"),
    ],
)
def test_a_combination_that_cannot_be_is_refused(engine, adapter, adapters, code):
    with pytest.raises(FwError) as caught:
        engine.add(Request("r", PROMPT, GREEDY, adapter, adapters))
    assert caught.value.code == code
    assert not engine.has_work


def test_tenants_share_nothing_and_each_token_has_its_version(engine):
    first, other, again = (
        engine.generate([Request("r", PROMPT, GREEDY, tenant=tenant)])[0] for tenant in ("x", "y", "x")
    )
    assert [answer.usage.cached_tokens for answer in (first, other, again)] == [0, 0, 16]
    assert [answer.usage.cache_miss for answer in (first, other, again)] == ["first_seen", "first_seen", None]
    assert first.token_ids == other.token_ids == again.token_ids
    assert first.weight_versions == (0,) * 12
