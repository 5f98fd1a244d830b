"""Models with recurrent layers: what a prefix hit resumes in, and that nothing is lost under traffic."""

import random
from functools import cache
from tempfile import mkdtemp

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.models import load_for_training, load_model, new_adapter, save_adapter
from engine.models.tests.tiny_hybrid import HYBRIDS, save_hybrid
from fw_sdk.types import FwError

GREEDY = SamplingParams(max_tokens=64, temperature=0, ignore_eos=True)
SHORT = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)


@cache
def folder(kind):
    return save_hybrid(mkdtemp(), kind)


@cache
def model(kind):
    return load_model(folder(kind), dtype=torch.float32)


@cache
def peer(kind):
    found = AutoModelForCausalLM.from_pretrained(folder(kind), dtype=torch.float32).eval()
    found.generation_config.eos_token_id = None
    return found


def engine(kind, **changes):
    """With room for few states and pages of 4 tokens, so that every way of running out of them is met."""
    sizes = {"page_size": 4, "max_running": 4, "state_bytes": 12 * state_bytes(kind), **changes}
    return Engine(model(kind), None, EngineConfig(**sizes))


def state_bytes(kind):
    config = model(kind).config
    return config.recurrent_layers * config.recurrence.state_bytes


def draw(length, seed):
    return tuple(torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


@cache
def expected(kind, prompt, count=64):
    """What transformers generates; the mask, because it takes tokens that look like padding for that."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        ids = peer(kind).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
    return tuple(ids[0, len(prompt) :].tolist())


def run(engine, requests):
    tokens = {request.id: () for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens[output.request_id] += output.token_ids
        engine.check_integrity()
    return tokens


@pytest.mark.parametrize("kind", HYBRIDS)
def test_greedy_tokens_after_a_prefix_hit_equal_transformers(kind):
    running, prompt = engine(kind), draw(50, 2)
    for cached in (0, 48):
        found = running.generate([prompt], GREEDY)[0]
        assert found.usage.cached_tokens == cached
        assert found.token_ids == expected(kind, prompt)
    turn = (*prompt, *found.token_ids, *draw(10, 3))
    answer = running.generate([turn], SHORT)[0]
    assert answer.usage.cached_tokens == 112
    assert answer.token_ids == expected(kind, turn, 12)


def test_a_miss_says_that_the_state_was_missing():
    running, prompt = engine("qwen3_5"), draw(50, 2)
    running.generate([prompt], SHORT)
    usage = [running.generate([(*prompt[:30], 200 + seed, *draw(8, seed))], SHORT)[0].usage for seed in range(2)]
    assert [(use.cached_tokens, use.cache_miss) for use in usage] == [(0, "no_state"), (28, "first_seen")]


def test_the_account_has_the_states_and_only_the_pages_of_attention():
    memory = engine("qwen3_5").memory
    assert (memory.states, memory.state_bytes) == (12, state_bytes("qwen3_5"))
    assert memory.page_bytes == 2 * 1 * 2 * 16 * 4 * 4
    assert "12 recurrent states" in memory.text()
    with pytest.raises(FwError) as caught:
        engine("qwen3_5", state_bytes=10)
    assert caught.value.code == "out_of_memory"


def test_adapters_change_attention_and_feed_forward_parts(tmp_path):
    config = model("qwen3_5").config
    adapter = new_adapter(config, 2, 8.0, ("q_proj", "v_proj", "o_proj", "down_proj"), seed=1)
    assert {layer for layer, target in adapter.weights if target == "q_proj"} == {3}
    with torch.no_grad():
        for _, up in adapter.weights.values():
            up.copy_(torch.randn(up.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    save_adapter(tmp_path, adapter, "tiny")
    prompts = [draw(20, seed) for seed in range(4)]
    alone = engine("qwen3_5")
    alone.load_adapter("a", tmp_path)
    wanted = [alone.generate([prompt], SHORT, adapter=name)[0].token_ids for prompt in prompts for name in (None, "a")]
    mixed = engine("qwen3_5", max_batched_tokens=9)
    mixed.load_adapter("a", tmp_path)
    requests = [
        Request(f"{index}-{name}", prompt, SHORT, name) for index, prompt in enumerate(prompts) for name in (None, "a")
    ]
    found = run(mixed, requests)
    assert list(found.values()) == wanted
    assert wanted[0] != wanted[1]


def test_guesses_are_refused_because_a_state_cannot_go_back():
    with pytest.raises(FwError, match="recurrent state") as caught:
        engine("qwen3_5", speculation="lookup")
    assert caught.value.code == "failed_precondition"


def test_training_is_refused():
    with pytest.raises(FwError) as caught:
        load_for_training(folder("qwen3_5"), dtype=torch.float32, device=torch.device("cpu"))
    assert caught.value.code == "model_unsupported"


@pytest.mark.parametrize("kind", HYBRIDS)
def test_random_traffic_gives_the_answers_of_unshared_runs(kind):
    """Arrivals, cancels and preemptions over few pages and states; afterwards nothing is held."""
    page_bytes = engine(kind).memory.page_bytes
    running = engine(kind, kv_bytes=24 * page_bytes, state_bytes=7 * state_bytes(kind), max_batched_tokens=16)
    plain = engine(kind, prefix_cache=False, max_running=1)
    choose, answers, asked = random.Random(3), {}, {}
    prefixes = [draw(length, 50 + length) for length in (9, 22, 40)]
    for number in range(150):
        event = choose.random()
        if event < 0.4:
            prompt = (*choose.choice(prefixes)[: choose.randrange(40)], *draw(choose.randrange(1, 9), number % 5))
            asked[f"r{number}"] = Request(f"r{number}", prompt, SHORT)
            answers[f"r{number}"] = ()
            running.add(asked[f"r{number}"])
        elif event < 0.5 and running.has_work:
            identifier = choose.choice(list(asked))
            running.cancel(identifier)
        for output in running.step():
            answers[output.request_id] += output.token_ids
        running.check_integrity()
    while running.has_work:
        for output in running.step():
            answers[output.request_id] += output.token_ids
    assert running.stats.preemptions > 0
    assert running.stats.prefix_hits > 100
    for identifier, found in answers.items():
        wanted = plain.generate([asked[identifier]])[0].token_ids
        assert found == wanted[: len(found)]
    prefix = running._prefix
    prefix.clear()
    assert prefix.pool.free == prefix.pool.total
    assert prefix.states.free == prefix.states.total
