"""Adapters in the engine: combinations against merged weights, memory limits, reading again what was let go."""

import random
from dataclasses import replace

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


pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_adapters_used_least_recently_lose_their_place_and_are_read_again(path, folders):
    engine = Engine(load_model(path, dtype=torch.float32), None, EngineConfig(page_size=4, max_adapters=2))
    mixes = [(("a", 1.0),), (("b", 1.0),), (("a", 0.5), ("b", 0.5))]
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    wanted = [engine.generate([Request("r", PROMPT, GREEDY, adapters=mix)])[0].token_ids for mix in mixes]
    for _ in range(2):
        for mix, tokens in zip(mixes, wanted, strict=True):
            assert engine.generate([Request("r", PROMPT, GREEDY, adapters=mix)])[0].token_ids == tokens
            assert engine.adapters.resident <= 2
            engine.check_integrity()
    assert engine.adapters.evictions >= 6
    assert set(engine.adapters) == {"a", "b"}, "both are still loaded"
    single = engine.generate([Request("r", PROMPT, GREEDY, "a")])[0]
    assert single.usage.cached_tokens == 16, "its pages are still those of the same weights"


def test_what_a_request_runs_with_stays_beyond_the_limits(path, folders):
    engine = Engine(load_model(path, dtype=torch.float32), None, EngineConfig(page_size=4, adapter_bytes=1))
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    assert engine.adapters.resident == 0
    for name in folders:
        engine.add(Request(name, PROMPT, GREEDY, name))
    assert engine.adapters.resident == 2
    collected = {name: () for name in folders}
    while engine.has_work:
        for output in engine.step():
            collected[output.request_id] += output.token_ids
        engine.check_integrity()
    assert engine.adapters.resident == 0
    alone = {name: engine.generate([Request("r", PROMPT, GREEDY, name)])[0].token_ids for name in folders}
    assert collected == alone


def test_files_that_changed_are_not_taken_for_those_that_were_loaded(path, tmp_path):
    engine = Engine(load_model(path, dtype=torch.float32), None, EngineConfig(page_size=4))
    engine.load_adapter("a", tiny_adapter(tmp_path / "a", path, seed=2))
    engine.adapters._resident.clear()
    tiny_adapter(tmp_path / "a", path, seed=3, rank=7)
    with pytest.raises(FwError, match="not those that were loaded") as caught:
        engine.add(Request("r", PROMPT, GREEDY, "a"))
    assert caught.value.code == "failed_precondition"
    assert not engine.has_work
    engine.check_integrity()


@pytest.mark.parametrize(
    "steps", [pytest.param(600, id="some"), pytest.param(10_000, id="many", marks=pytest.mark.slow)]
)
def test_nothing_leaks_in_random_traffic_with_adapters_coming_and_going(path, folders, steps):
    """Arrivals, cancels, preemptions, loads, replacements, evictions, updates of weights: all is accounted for."""
    chance = random.Random(7)
    model, page = load_model(path, dtype=torch.float32), 2 * 2 * 32 * 4 * 4
    config = EngineConfig(page_size=4, kv_bytes=40 * page, max_running=6, max_batched_tokens=32, max_adapters=2)
    engine = Engine(model, None, config)
    where = list(folders.values())
    engine.load_adapter("x", where[0])

    def arrive(number):
        names = list(engine.adapters)
        mix = (
            tuple((chance.choice(names), chance.choice((0.5, 1.0))) for _ in range(chance.randrange(3)))
            if names
            else ()
        )
        prompt = tuple(chance.choice(((7,), (8,), (9, 9))) * chance.randint(1, 30))
        sampling = SamplingParams(max_tokens=chance.randint(1, 30), seed=number)
        request = Request(f"r{number}", prompt, sampling, adapters=mix, tenant=chance.choice("ab"))
        engine.add(replace(request, priority=chance.randint(0, 2)))

    def swap(number):
        name, mode = chance.choice("xyz"), chance.choice(("abort", "wait", "keep"))
        if name in engine.adapters and chance.random() < 0.4:
            engine.unload_adapter(name)
        else:
            engine.install_adapter(name, *engine.read_adapter(chance.choice(where)), mode=mode)

    def leave(number):
        if engine.requests:
            engine.cancel(chance.choice(engine.requests))

    def change(number):
        engine.install_weights(engine.model, abort=chance.random() < 0.5)

    actions = [arrive] * 10 + [leave] * 3 + [swap] * 2 + [change]
    for number in range(steps):
        chance.choice(actions)(number)
        assert all(output.error is None for output in engine.step())
        engine.check_integrity()
    assert engine.stats.preemptions > 0
    assert engine.adapters.evictions > 0
    for name in engine.requests:
        engine.cancel(name)
    engine.check_integrity()
    assert engine._prefix.used == 0
    assert engine.adapters.resident <= 2
    engine._prefix.clear()
    assert engine._prefix.pool.free == engine.memory.pages
