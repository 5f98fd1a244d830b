"""The engine against a plain forward without cache, batch or scheduler: the same tokens however they are computed."""

import pytest
import torch

from engine.inference import Engine, EngineConfig, Request, SamplingParams
from engine.inference.tests.tiny import VOCABULARY, tiny_adapter, tiny_model
from engine.models import PackedCausalAttention, SingleAdapter, load_adapter, load_model, save_adapter
from engine.text import Renderer
from fw_sdk.types import FwError

PAGE_BYTES = 2 * 2 * 16 * 4 * 4
"""Keys and values, layers, kv width, page of 4 tokens, bytes of a float32."""

GREEDY = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(path):
    return load_model(path, dtype=torch.float32)


@pytest.fixture(scope="module")
def renderer(path):
    return Renderer.load(path)


@pytest.fixture(scope="module")
def adapters(path, tmp_path_factory):
    root = tmp_path_factory.mktemp("adapters")
    return {name: tiny_adapter(root / name, path, seed=seed, rank=seed) for name, seed in (("a", 2), ("b", 3))}


def make(model, renderer, **sizes):
    return Engine(model, renderer, EngineConfig(page_size=4, **sizes))


def prompts(count, length=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length, (count,), generator=generator).tolist()
    return [tuple(torch.randint(0, 256, (n,), generator=generator).tolist()) for n in lengths]


@torch.inference_mode()
def plain_logits(model, tokens, adapter=None):
    ids = torch.tensor(tokens)
    applied = SingleAdapter(adapter) if adapter else None
    hidden = model(ids, torch.arange(len(tokens)), PackedCausalAttention([len(tokens)]), applied)
    return model.logits(hidden)


def is_greedy(model, prompt, tokens, adapter=None):
    """Whether a plain forward over prompt and answer finds each token of the answer the most likely at its place."""
    best = plain_logits(model, prompt + tokens, adapter).argmax(-1)
    return tuple(best[len(prompt) - 1 : -1].tolist()) == tokens


def run(engine, requests):
    """Outputs joined by request id, with an integrity check after every step."""
    for request in requests:
        engine.add(request)
    tokens = {request.id: () for request in requests}
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens[output.request_id] += output.token_ids
        engine.check_integrity()
    return tokens


CASES = {
    "roomy": {},
    "chunked": {"max_batched_tokens": 5, "max_running": 4},
    "preempted": {"kv_bytes": 30 * PAGE_BYTES, "max_running": 8, "max_batched_tokens": 32},
    "preempted-uncached": {"kv_bytes": 30 * PAGE_BYTES, "max_running": 8, "prefix_cache": False},
    "one-by-one": {"max_running": 1, "prefix_cache": False},
}


@pytest.mark.parametrize("case", CASES)
def test_greedy_equals_the_plain_forward(model, renderer, case):
    engine = make(model, renderer, **CASES[case])
    shared = tuple(range(100, 121))
    requests = [Request(f"r{i}", (shared if i % 2 else ()) + prompt, GREEDY) for i, prompt in enumerate(prompts(12))]
    tokens = run(engine, requests)
    for request in requests:
        assert len(tokens[request.id]) == 20
        assert is_greedy(model, request.prompt, tokens[request.id])
    stats = engine.stats
    assert (stats.preemptions > 0) == case.startswith("preempted")
    assert (stats.prefix_hits > 0) == CASES[case].get("prefix_cache", True)
    assert stats.kv_usage == 0
    assert stats.generation_tokens == 12 * 20
    assert stats.prompt_tokens == sum(len(request.prompt) for request in requests)


def test_a_second_request_computes_only_what_is_new(model, renderer):
    engine = make(model, renderer)
    prompt = tuple(range(41))
    first, second = (engine.generate([prompt], GREEDY)[0] for _ in range(2))
    assert first.token_ids == second.token_ids
    assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 40)


def test_a_seeded_sample_is_the_same_whatever_else_is_in_the_batch(model, renderer):
    sampling = SamplingParams(max_tokens=24, temperature=1.0, top_p=0.95, seed=11, ignore_eos=True)
    request = Request("it", (5, 6, 7), sampling)
    alone = run(make(model, renderer), [request])["it"]
    others = [Request(f"o{i}", p, SamplingParams(max_tokens=30, seed=i)) for i, p in enumerate(prompts(9, seed=4))]
    crowded = run(make(model, renderer, max_batched_tokens=16, max_running=6), [*others[:4], request, *others[4:]])
    squeezed = run(make(model, renderer, kv_bytes=20 * PAGE_BYTES, max_running=8), [*others[:4], request])
    assert alone == crowded["it"] == squeezed["it"]
    other_seed = SamplingParams(max_tokens=24, temperature=1.0, top_p=0.95, seed=12, ignore_eos=True)
    assert run(make(model, renderer), [Request("it", (5, 6, 7), other_seed)])["it"] != alone


def test_logprobs_equal_recomputed_ones(model, renderer):
    engine = make(model, renderer, max_batched_tokens=8, max_running=4)
    sampling = SamplingParams(max_tokens=16, temperature=1.3, logprobs=4, seed=3, ignore_eos=True)
    for prompt, found in zip(prompts(6), engine.generate(prompts(6), sampling), strict=True):
        truth = plain_logits(model, prompt + found.token_ids).log_softmax(-1)[len(prompt) - 1 : -1]
        assert [item.token_id for item in found.logprobs] == list(found.token_ids)
        assert [item.logprob for item in found.logprobs] == pytest.approx(
            truth.gather(1, torch.tensor(found.token_ids)[:, None])[:, 0].tolist(), abs=1e-4
        )
        for row, item in zip(truth, found.logprobs, strict=True):
            assert [value for _, value in item.top] == pytest.approx(row.topk(4).values.tolist(), abs=1e-4)


def test_adapters_mixed_in_a_batch_equal_each_alone(model, renderer, adapters):
    engine = make(model, renderer, max_batched_tokens=24, max_running=6)
    loaded = {name: load_adapter(folder, model.config, torch.float32) for name, folder in adapters.items()}
    for name, folder in adapters.items():
        engine.load_adapter(name, folder)
    prompt = tuple(range(50, 70))
    names = [None, "a", "b"] * 3
    tokens = run(engine, [Request(f"r{i}", (*prompt, i), GREEDY, name) for i, name in enumerate(names)])
    for i, name in enumerate(names):
        assert is_greedy(model, (*prompt, i), tokens[f"r{i}"], loaded.get(name))
    assert len({tokens["r0"], tokens["r1"], tokens["r2"]}) == 3


def test_adapters_come_and_go_under_traffic(model, renderer, adapters):
    engine = make(model, renderer)
    engine.load_adapter("x", adapters["a"])
    first, second = (load_adapter(adapters[name], model.config, torch.float32) for name in "ab")
    engine.add(Request("running", (1, 2, 3), GREEDY, "x"))
    collected = engine.step()
    engine.unload_adapter("x")
    with pytest.raises(FwError) as caught:
        engine.add(Request("late", (1, 2, 3), GREEDY, "x"))
    assert caught.value.code == "not_found"
    engine.load_adapter("x", adapters["b"])
    engine.add(Request("new", (1, 2, 3), GREEDY, "x"))
    while engine.has_work:
        collected += engine.step()
    tokens = {
        name: sum((out.token_ids for out in collected if out.request_id == name), ()) for name in ("running", "new")
    }
    assert [len(found) for found in tokens.values()] == [20, 20]
    assert is_greedy(model, (1, 2, 3), tokens["running"], first)
    assert is_greedy(model, (1, 2, 3), tokens["new"], second)
    assert not is_greedy(model, (1, 2, 3), tokens["new"], first)
    engine.load_adapter("x", adapters["b"])
    with pytest.raises(FwError) as caught:
        engine.load_adapter("x", adapters["a"])
    assert caught.value.code == "already_exists"


def test_cancel_frees_the_pages(model, renderer):
    engine = make(model, renderer, max_running=3, prefix_cache=False)
    for i, prompt in enumerate(prompts(6)):
        engine.add(Request(f"r{i}", prompt, GREEDY))
    engine.step()
    for i in (0, 2, 4, 5):
        engine.cancel(f"r{i}")
        engine.check_integrity()
    engine.cancel("never-there")
    while engine.has_work:
        assert {output.request_id for output in engine.step()} <= {"r1", "r3"}
        engine.check_integrity()
    assert engine.stats.kv_usage == 0
    assert engine._prefix.pool.free == engine.memory.pages


def test_a_broken_adapter_fails_alone(model, renderer, path, tmp_path):
    adapter = load_adapter(tiny_adapter(tmp_path / "nan", path, seed=5), model.config, torch.float32)
    for _, up in adapter.weights.values():
        up.fill_(torch.nan)
    engine = make(model, renderer, kv_bytes=26 * PAGE_BYTES, max_running=4)
    save_adapter(tmp_path / "broken", adapter, "tiny")
    engine.load_adapter("broken", tmp_path / "broken")
    healthy = Request("healthy", tuple(range(30)), GREEDY)
    engine.add(healthy)
    engine.add(Request("broken", tuple(range(30, 70)), GREEDY, "broken"))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    failed = [output for output in outputs if output.error]
    assert [output.request_id for output in failed] == ["broken"]
    expected = sum((out.token_ids for out in outputs if out.request_id == "healthy"), ())
    assert len(expected) == 20
    assert is_greedy(model, healthy.prompt, expected)
    assert engine.generate([healthy.prompt] * 3, GREEDY)[2].token_ids == expected


class TestEnds:
    def test_end_of_turn(self, model, renderer):
        free = make(model, renderer).generate([(9, 9)], SamplingParams(max_tokens=40, temperature=0, ignore_eos=True))[
            0
        ]
        stop = free.token_ids[7]
        first = free.token_ids.index(stop)
        found = make(model, renderer).generate([(9, 9)], SamplingParams(temperature=0, stop_token_ids=(stop,)))[0]
        assert found.finish_reason == "stop"
        assert found.token_ids == free.token_ids[: first + 1]
        assert found.text == renderer.tokenizer.decode(list(free.token_ids[:first]))

    def test_the_models_own_end(self, model, renderer):
        assert set(renderer.stop_ids) == {256, 258}
        sampling = SamplingParams(max_tokens=80, temperature=1.5)
        ends = [out for out in make(model, renderer).generate(prompts(30), sampling) if out.finish_reason == "stop"]
        assert ends
        for out in ends:
            assert out.token_ids[-1] in (256, 258)
            assert not {256, 258} & set(out.token_ids[:-1])

    def test_stop_string(self, model, renderer):
        free = make(model, renderer).generate([(65, 66)], GREEDY)[0]
        text = free.text
        stop = text[6:9]
        sampling = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, stop=("never", stop))
        found = make(model, renderer).generate([(65, 66)], sampling)[0]
        assert found.finish_reason == "stop"
        assert found.text == text[: text.index(stop)]
        assert len(found.token_ids) < len(free.token_ids)

    def test_length_and_context(self, model, renderer):
        engine = make(model, renderer)
        found = engine.generate(["abc"], SamplingParams(max_tokens=7, ignore_eos=True))[0]
        assert (found.finish_reason, found.usage.completion_tokens) == ("length", 7)
        found = engine.generate([(1,) * 250], SamplingParams(max_tokens=100, ignore_eos=True))[0]
        assert (found.finish_reason, found.usage.completion_tokens) == ("length", 6)
        assert engine.context == 256

    def test_a_small_cache_is_a_small_context(self, model, renderer):
        engine = make(model, renderer, kv_bytes=10 * PAGE_BYTES, max_running=4)
        assert engine.context == 40
        found = engine.generate([(1, 2)], SamplingParams(max_tokens=100, ignore_eos=True))[0]
        assert found.usage.completion_tokens == 38


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Request("r", ()), "invalid_argument"),
        (Request("r", (0,) * 256), "context_length_exceeded"),
        (Request("r", (VOCABULARY,)), "invalid_argument"),
        (Request("r", (-1,)), "invalid_argument"),
        (Request("r", (1,), adapter="nope"), "not_found"),
    ],
)
def test_a_wrong_request_is_refused_and_nothing_runs(model, renderer, request_, code):
    engine = make(model, renderer)
    with pytest.raises(FwError) as caught:
        engine.generate([(1, 2), request_])
    assert caught.value.code == code
    assert not engine.has_work
    engine.check_integrity()


def test_generate_takes_text_conversations_tokens_and_requests(model, renderer):
    engine = make(model, renderer)
    ids = tuple(renderer.tokenizer.encode("hello"))
    by_text, by_ids, by_request = engine.generate(["hello", ids, Request("own", ids, GREEDY)], GREEDY)
    assert by_text.token_ids == by_ids.token_ids == by_request.token_ids
    chat = engine.generate([[{"role": "user", "content": "hi"}]], GREEDY)[0]
    assert chat.usage.prompt_tokens == len(renderer.render([{"role": "user", "content": "hi"}]))


def test_special_tokens_stay_in_the_text_only_for_those_who_ask(model, renderer):
    tokenizer = renderer.tokenizer
    special = min(tokenizer.special_ids)
    sampling = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True, logit_bias=((special, 100.0),))
    requests = [Request(f"keep {keep}", (5, 6), sampling, keep_special=keep) for keep in (True, False)]
    kept, left_out = make(model, renderer).generate(requests)
    assert (kept.text, left_out.text) == (tokenizer.token(special) * 2, "")


def test_a_failing_step_drops_everything_and_leaves_nothing_behind(model, renderer):
    engine = make(model, renderer)
    engine.add(Request("r", tuple(range(20)), GREEDY))
    engine.add(Request("s", tuple(range(20)), GREEDY))
    engine._runner.pages = engine._runner.pages[:1]
    with pytest.raises(IndexError):
        engine.step()
    assert not engine.has_work
    engine.check_integrity()
    assert engine._prefix.pool.free == engine.memory.pages


def test_loads_from_a_path_as_a_library(path):
    engine = Engine.load(path, dtype="float32", device="cpu")
    assert engine.generate(["abc"], GREEDY)[0].usage.completion_tokens == 20
    assert "key-value cache" in engine.memory.text()
    with pytest.raises(FwError):
        Engine.load(path / "missing")
