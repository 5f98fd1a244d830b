"""The GPU's runner with a CPU's tensors: recorded decoding, and steps launched before the one before is read."""

import asyncio
import dataclasses

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.inference import Engine, EngineConfig, EngineLoop, Request, SamplingParams
from engine.inference import sampler as sampling_module
from engine.inference.exactness.check import check
from engine.inference.exactness.tiny import tiny_model as random_model
from engine.inference.gpu_runner import ADAPTED, MOST_ADAPTERS, GpuRunner
from engine.inference.pages import PagePool
from engine.inference.prefix import Chain, PrefixIndex
from engine.inference.recorded import NOWHERE, ROWS, DecodeBuffers, Records, pages_of, rows_of
from engine.inference.runners import usual_running
from engine.inference.sampler import LADDER, draw
from engine.inference.scheduler import Scheduler, Slice, StepPlan
from engine.inference.sequence import Sequence
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import load_adapter, load_model
from engine.models.tests.tiny_hybrid import save_hybrid
from engine.text import Renderer
from kernels.arguments import interpreting
from kernels.gated_delta_net import native as recurrent
from kernels.native import library
from kernels.numerics import numerics as computing
from kernels.paged_attention import native
from kernels.registry import preferring

pytestmark = pytest.mark.usefixtures("one_thread")

PAGE_BYTES = 2 * 2 * 16 * 4 * 4
GREEDY = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
SIZES = {
    "roomy": {},
    "chunked": {"max_batched_tokens": 5, "max_running": 4},
    "preempted": {"kv_bytes": 30 * PAGE_BYTES, "max_running": 8, "max_batched_tokens": 32},
    "uncached": {"kv_bytes": 30 * PAGE_BYTES, "max_running": 8, "prefix_cache": False},
    "one-by-one": {"max_running": 1},
}


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


def make(model, renderer, runner, *, sizes=None, **options):
    """An engine with torch's runner, or the GPU's ``ahead`` or ``in step``."""
    config = EngineConfig(page_size=4, **(sizes or {}))
    own = None if runner == "torch" else GpuRunner(model, config, ahead=runner == "ahead")
    return Engine(model, renderer, config, runner=own, **options)


def traffic(count, seed, adapters=(None,)):
    """Requests of all kinds that the device draws alone, whose ends the host finds."""
    generator = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    kinds = (
        {"temperature": 0.0, "ignore_eos": True},
        {"temperature": 1.2},
        {"temperature": 0.9, "top_k": 7, "logprobs": 3},
        {"temperature": 1.0, "top_p": 0.8, "min_p": 0.01},
        {"temperature": 0.7, "stop": ("e", "a")},
        {"temperature": 1.0, "stop_token_ids": tuple(range(0, 200, 7)), "logprobs": 0},
    )
    shared = tuple(range(100, 121))
    requests = []
    for index in range(count):
        prompt = tuple(torch.randint(0, 256, (number(1, 30),), generator=generator).tolist())
        sampling = SamplingParams(max_tokens=number(1, 25), seed=index, **kinds[index % len(kinds)])
        prompt = (shared if number(0, 2) else ()) + prompt
        requests.append(Request(f"r{index}", prompt, sampling, adapters[index % len(adapters)]))
    return requests


def run(engine, requests, *, cancel=()):
    """All outputs by request, with an integrity check after every step; some requests leave on the way."""
    outputs = {request.id: [] for request in requests}
    waiting = list(requests)
    steps = 0
    while waiting or engine.has_work:
        for request in waiting[:2]:
            engine.add(request)
        del waiting[:2]
        for output in engine.step():
            assert not any(earlier.finished for earlier in outputs[output.request_id])
            outputs[output.request_id].append(output)
        steps += 1
        if steps in cancel:
            engine.cancel(cancel[steps])
        engine.check_integrity()
    return outputs


def said(outputs):
    return {
        key: (
            [token for output in found for token in output.token_ids],
            "".join(output.text for output in found),
            found[-1].finish_reason,
            [dataclasses.replace(item, logprob=0, top=()) for output in found for item in output.logprobs],
        )
        for key, found in outputs.items()
        if found and found[-1].finished
    }


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("runner", ["ahead", "in step"])
def test_mixed_traffic_gets_the_tokens_of_torch_s_runner(model, renderer, adapters, sizes, runner):
    engines = [make(model, renderer, kind, sizes=SIZES[sizes]) for kind in ("torch", runner)]
    for engine in engines:
        for name, folder in adapters.items():
            engine.load_adapter(name, folder)
    requests = traffic(18, 5, (None, None, "a", "b"))
    theirs, ours = (run(engine, requests) for engine in engines)
    assert said(ours) == said(theirs)
    assert len(said(ours)) == 18
    assert {found[-1].finish_reason for found in ours.values()} == {"stop", "length"}
    assert engines[1].stats.kv_usage == 0
    assert (engines[1].stats.preemptions > 0) == (sizes in ("preempted", "uncached"))
    for theirs_found, ours_found in zip(theirs.values(), ours.values(), strict=True):
        pairs = zip(
            [i for o in theirs_found for i in o.logprobs], [i for o in ours_found for i in o.logprobs], strict=True
        )
        assert all(mine.logprob == pytest.approx(other.logprob, abs=1e-4) for other, mine in pairs)


def test_decoding_is_recorded_in_few_sizes_and_prefill_is_not(model, renderer):
    engine = make(model, renderer, "ahead")
    run(engine, traffic(24, 1))
    sizes = set(engine._runner._buffers)
    assert {(*size, 0, 0) for size in sizes} == set(engine._runner.records._held)
    assert {rows for rows, _ in sizes} <= {1, 2, 4, 8, 16, 24}
    assert {pages for _, pages in sizes} == {32}


def test_a_step_is_launched_before_the_one_before_is_read(model, renderer):
    engine = make(model, renderer, "ahead")
    engine.add(Request("it", (1, 2, 3), GREEDY))
    assert engine.step() == []
    assert engine._live["it"].sequence.placeholders == 1
    (first,) = engine.step()
    assert len(first.token_ids) == 1
    assert engine.steps == 2
    assert engine._live["it"].sequence.placeholders == 1


def test_an_end_found_one_step_late_costs_one_token_and_its_pages_come_back(model, renderer):
    engine = make(model, renderer, "ahead", sizes={"prefix_cache": False})
    answer = make(model, renderer, "torch").generate([(1, 2, 3)], GREEDY)[0].token_ids
    stop = next(place for place, token in enumerate(answer) if place > 4 and token not in answer[:place])
    request = Request("it", (1, 2, 3), dataclasses.replace(GREEDY, stop_token_ids=(answer[stop],)))
    outputs = run(engine, [request])["it"]
    assert tuple(token for output in outputs for token in output.token_ids) == answer[: stop + 1]
    assert engine.computed_tokens == 3 + stop + 1  # the last of these for nothing
    assert engine.stats.kv_usage == 0
    assert engine.stats.generation_tokens == stop + 1
    # At the limit the host knows without the token that it is the last.
    engine.generate([(1, 2, 3)], GREEDY)
    assert engine.computed_tokens == 3 + stop + 1 + 3 + 19


def test_a_request_that_left_and_one_of_its_name_do_not_meet(model, renderer):
    engine = make(model, renderer, "ahead")
    engine.add(Request("it", (1, 2, 3), GREEDY))
    engine.step()
    engine.step()
    engine.cancel("it")
    engine.check_integrity()
    engine.add(Request("it", (9, 8), GREEDY))
    tokens = []
    while engine.has_work:
        tokens += [token for output in engine.step() for token in output.token_ids]
    assert tuple(tokens) == make(model, renderer, "torch").generate([(9, 8)], GREEDY)[0].token_ids


def test_what_needs_the_host_between_logits_and_token_is_read_at_once(model, renderer):
    requests = traffic(6, 3)
    requests.insert(2, Request("special", (5, 6, 7), dataclasses.replace(GREEDY, prompt_logprobs=1)))
    results = [said(run(make(model, renderer, kind), requests)) for kind in ("torch", "ahead")]
    assert results[0] == results[1]
    assert len(results[1]) == 7


@pytest.mark.parametrize("sizes", ["roomy", "preempted"])
def test_penalties_biases_and_a_least_length_are_launched_ahead(model, renderer, sizes):
    """Of greedy requests that would repeat themselves, and of drawn ones, beside others."""
    ways = (
        {"frequency_penalty": 1.5, "presence_penalty": 0.3},
        {"repetition_penalty": 1.7},
        {"logit_bias": ((65, 9.0), (66, 8.5)), "frequency_penalty": 0.9},
        {"ignore_eos": False, "stop_token_ids": tuple(range(0, 256, 3)), "min_tokens": 10},
        {"temperature": 0.8, "presence_penalty": -0.7, "repetition_penalty": 0.8, "logprobs": 2},
    )
    shaped = [
        Request(f"s{index}", (5, 6, 7) * 3, dataclasses.replace(GREEDY, seed=index, **way))
        for index, way in enumerate(ways)
    ]
    requests = [one for pair in zip(shaped, traffic(5, 3), strict=True) for one in pair]
    engines = [make(model, renderer, kind, sizes=SIZES[sizes]) for kind in ("torch", "ahead")]
    results = [said(run(engine, requests)) for engine in engines]
    assert results[0] == results[1]
    plain = [dataclasses.replace(one, sampling=dataclasses.replace(GREEDY, seed=0)) for one in shaped]
    unshaped = said(run(make(model, renderer, "torch"), plain))
    assert all(results[1][one.id] != unshaped[one.id] for one in shaped)
    engine = engines[1]
    for request in shaped:
        engine.add(request)
    engine.step()
    while engine.has_work:
        assert engine._pending_step is not None
        engine.step()


def test_speculation_takes_the_synchronous_way(model, renderer):
    requests = traffic(8, 6)
    sizes = {"speculation": "lookup"}
    results = [said(run(make(model, renderer, kind, sizes=sizes), requests)) for kind in ("torch", "ahead")]
    assert results[0] == results[1]


def test_the_loop_s_tasks_get_their_outputs(model, renderer):
    requests = traffic(6, 9)
    expected = said(run(make(model, renderer, "torch"), requests))
    loop = EngineLoop(make(model, renderer, "ahead"), max_requests=6)
    loop.start()

    async def collect(stream):
        return [output async for output in stream]

    async def main():
        return await asyncio.gather(*(collect(loop.submit(request)) for request in requests))

    everything = asyncio.run(main())
    loop.stop()
    assert said({found[0].request_id: found for found in everything}) == expected


def test_requests_may_leave_at_any_step(model, renderer):
    requests = traffic(16, 8)
    cancel = {step: f"r{step % 16}" for step in range(3, 40, 2)}
    found = said(run(make(model, renderer, "ahead", sizes=SIZES["preempted"]), requests, cancel=cancel))
    whole = said(run(make(model, renderer, "torch"), requests))
    assert found
    assert all(whole[key] == answer for key, answer in found.items())


@pytest.mark.skipif(library() is None, reason="exact numerics on a CPU need compiled kernels")
@pytest.mark.parametrize("kind", ["tiny-dense", "tiny-windows"])
def test_random_traffic_launched_ahead_has_the_bits_of_a_plain_forward(kind, monkeypatch):
    """Requests come, leave, are preempted, cut and found in the cache, with adapters: no log-probability differs."""
    monkeypatch.setattr("engine.inference.engine.runner_for", lambda model, config, batched: GpuRunner(model, config))
    report = check(random_model(kind, torch.float32), kind, 800, seed=4)
    assert report.different == 0
    assert report.happened.preemptions > 0
    assert report.happened.adapted > 0


def test_a_broken_model_fails_its_requests_and_leaves_the_cache_clean(path, renderer):
    model = load_model(path, dtype=torch.float32)
    engine = make(model, renderer, "ahead")
    held = model.final_norm.clone()
    model.final_norm.fill_(float("nan"))
    engine.add(Request("it", (1, 2, 3), GREEDY))
    outputs = [output for _ in range(3) for output in engine.step()]
    assert [output.error.code for output in outputs] == ["internal"]
    model.final_norm.copy_(held)
    assert engine.generate([(1, 2, 3)], GREEDY)[0].token_ids == (
        make(model, renderer, "torch").generate([(1, 2, 3)], GREEDY)[0].token_ids
    )
    assert torch.isfinite(engine._runner.pages).all()


def test_an_error_in_a_launch_drops_every_request(model, renderer, monkeypatch):
    engine = make(model, renderer, "ahead")
    engine.add(Request("it", (1, 2, 3), GREEDY))
    engine.step()

    def broken(*arguments):
        raise RuntimeError("launch failed")

    monkeypatch.setattr(engine._runner, "launch", broken)
    with pytest.raises(RuntimeError, match="launch failed"):
        engine.step()
    assert not engine.has_work
    monkeypatch.undo()
    engine.restart()
    engine.check_integrity()
    assert len(engine.generate([(1, 2, 3)], GREEDY)[0].token_ids) == 20


def test_weights_changed_under_way_are_named_by_the_tokens_they_drew(path, model, renderer):
    engine = make(load_model(path, dtype=torch.float32), renderer, "ahead")
    engine.add(Request("it", (1, 2, 3), GREEDY))
    engine.step()
    engine.step()
    engine.install_weights(engine.read_weights(path), abort=False)
    versions = [version for _ in range(3) for output in engine.step() for version in output.weight_versions]
    assert versions == [0, 1, 1]


def test_a_recorded_step_depends_on_nothing_but_its_buffers(model, renderer, hybrid, monkeypatch):
    """A graph of operators recorded at the first step, with every value that Python saw, serves all others."""

    class Traced(Records):
        def _recorded(self, function):
            with torch.inference_mode(False), torch.no_grad():
                return make_fx(function)()  # its operators, on the very tensors that it read

    monkeypatch.setattr(native, "decode", lambda *arguments: None)  # C reads memory where no graph sees it
    monkeypatch.setattr(recurrent, "gated_delta_net", lambda *arguments: None)
    for one, own in ((model, renderer), (hybrid, None)):
        engine = make(one, own, "ahead")
        engine._runner.records = Traced(torch.device("cpu"))
        requests = [request if own else strip(request) for request in traffic(8, 2)]
        assert said(run(engine, requests)) == said(run(make(one, own, "torch"), requests))
        assert len(engine._runner.records) >= 3


def test_unused_rows_point_to_the_spare_page_and_a_promised_token_to_its_row():
    buffers = DecodeBuffers(4, 3, 4, spare=9, spare_state=7, device=torch.device("cpu"))
    first, second = (Sequence(Request(name, (7, 8, 9), GREEDY), arrival=0, limit=23) for name in "ab")
    first.pages.extend([2])
    second.pages.extend([5, 3])
    second.append(11)
    second.placeholders = 1
    second.adapter_id = 5
    second.chain = Chain(b"", slot=3)
    buffers.fill([Slice(first, 2, 1, 1), Slice(second, 4, 1, 1)], {second: 6}, {5: 2})
    assert buffers.ids.tolist() == [9, 0, 0, 0]
    assert buffers.sources.tolist() == [NOWHERE, 6, NOWHERE, NOWHERE]
    assert buffers.contexts.tolist() == [3, 5, 1, 1]
    assert buffers.owners.tolist() == [NOWHERE, 2, NOWHERE, NOWHERE]
    assert buffers.slots.tolist() == [2 * 4 + 2, 3 * 4, 36, 36]
    assert buffers.states.tolist() == [7, 3, 7, 7]
    assert buffers.table.tolist() == [[2, 9, 9], [5, 3, 9], [9, 9, 9], [9, 9, 9]]
    filled = buffers._device.clone()
    buffers.clear()
    cleared = buffers._device.clone()
    buffers.fill([], {}, {})
    assert torch.equal(buffers._device, cleared)
    assert not torch.equal(filled, cleared)


def test_a_chunk_that_ends_before_a_promised_token_draws_nothing():
    sequence = Sequence(Request("it", tuple(range(8)), GREEDY), arrival=0, limit=28)
    sequence.placeholders = 1
    scheduler = Scheduler(PrefixIndex(PagePool(20), 4), max_running=2, max_batched_tokens=8)
    scheduler.add(sequence)
    plan = scheduler.schedule()
    assert [(item.count, item.rows) for item in plan.slices] == [(8, 0)]
    scheduler.advance(plan)
    assert [(item.start, item.logits()[0].position) for item in scheduler.schedule().slices] == [(8, 9)]
    assert len(sequence.pages) == 3


def test_sizes_are_rounded_up():
    assert [rows_of(n) for n in (1, 2, 3, 5, 9, 25, 256, 257)] == [1, 2, 4, 8, 16, 32, 256, None]
    assert [pages_of(n, 100) for n in (1, 32, 33, 64, 65)] == [32, 32, 64, 64, 100]


def test_records_beyond_the_budget_run_as_they_are():
    records = Records(torch.device("cpu"), budget=0)
    records.record((1,), lambda: torch.ones(2))
    assert records.run((1,)).tolist() == [1, 1]
    records.clear()
    assert len(records) == 0


def test_one_step_of_the_ladder_draws_what_several_do(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 5000, generator=generator) * 2
    params = [
        SamplingParams(temperature=1.0, seed=i, top_k=(0, 5, 300)[i % 3], top_p=(0.9, 1.0, 0.5)[i % 3])
        for i in range(12)
    ]
    several = draw(logits, params, [3] * 12).tokens
    ladder = sampling_module._ladder
    seen = []

    def single(params, width, *, waits):
        seen.append(ladder(params, width, waits=False))
        return seen[-1]

    monkeypatch.setattr(sampling_module, "_ladder", single)
    assert draw(logits, params, [3] * 12).tokens == several
    assert seen == [[5000]]
    assert ladder([params[1]], 5000, waits=False) == [LADDER[0]]
    assert ladder([params[2]], 5000, waits=False) == [LADDER[1]]


def test_the_kernel_draws_what_torch_s_operators_draw():
    if not interpreting():
        pytest.skip("the interpreter is off")
    pytest.importorskip("kernels.testing.interpreter").install()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 700, generator=generator) * 2
    ways = [{"temperature": 0.0}, {}, {"top_k": 9}, {"top_p": 0.6}, {"min_p": 0.05}, {"top_k": 10**6, "top_p": 0.9}]
    params = [SamplingParams(seed=-i, logprobs=2, **ways[i % 6]) for i in range(8)]
    theirs = draw(logits, params, range(8))
    with preferring("triton"):
        ours = draw(logits, params, range(8))
    assert ours.tokens == theirs.tokens
    assert ours.valid == theirs.valid


@pytest.fixture
def triton():
    """Triton's kernels in the interpreter."""
    if not interpreting():
        pytest.skip("the interpreter is off")
    pytest.importorskip("kernels.testing.interpreter").install()
    with preferring("triton"):
        yield


def test_triton_s_kernels_give_the_tokens_of_torch_s_runner(model, renderer, adapters, triton):
    requests = [
        Request("greedy", tuple(range(9)), dataclasses.replace(GREEDY, max_tokens=3)),
        Request("adapted", tuple(range(3, 8)), dataclasses.replace(GREEDY, max_tokens=5), "a"),
        Request("drawn", (7, 8), SamplingParams(max_tokens=3, temperature=0.9, top_p=0.9, seed=3, ignore_eos=True)),
    ]
    results = []
    for kind in ("torch", "ahead"):
        with preferring("triton" if kind == "ahead" else "torch"):
            engine = make(model, renderer, kind)
            engine.load_adapter("a", adapters["a"])
            results.append(said(run(engine, requests)))
    assert results[0] == results[1]
    assert any(key[ADAPTED] for key in engine._runner.records._held)


@pytest.mark.parametrize("kind", ["tiny-moe", "tiny-sinks"])
def test_a_mixture_s_decoding_is_recorded_where_a_kernel_finds_the_experts(kind, triton):
    mixture, prompts = random_model(kind, torch.float32), [(5, 6, 7), (9, 8)]
    greedy, found = dataclasses.replace(GREEDY, max_tokens=4), []
    for backend, runner in (("torch", "torch"), ("torch", "ahead"), ("triton", "ahead")):
        with preferring(backend):
            engine = make(mixture, None, runner)
            found.append([answer.token_ids for answer in engine.generate(prompts, greedy)])
            if runner == "ahead":
                assert len(engine._runner.records) == (1 if backend == "triton" else 0)
    assert found[0] == found[1] == found[2]


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory):
    return load_model(save_hybrid(tmp_path_factory.mktemp("hybrid"), "qwen3_5"), dtype=torch.float32)


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_recurrent_states_move_on_once_in_recorded_steps(hybrid, prefix_cache):
    """With room for few, so that requests go on from stored states, wait for room, and are preempted."""
    one = hybrid.config.recurrent_layers * hybrid.config.recurrence.state_bytes
    sizes = {"max_running": 4, "state_bytes": 12 * one, "prefix_cache": prefix_cache}
    requests = [dataclasses.replace(request, prompt=request.prompt * 2) for request in traffic(16, 7)]
    engines = [make(hybrid, None, kind, sizes=sizes) for kind in ("torch", "in step")]
    theirs, ours = (run(engine, [strip(request) for request in requests]) for engine in engines)
    assert said(ours) == said(theirs)
    assert len(said(ours)) == 16
    assert {rows for rows, _ in engines[1]._runner._buffers} == {1, 2, 4}
    assert engines[1].stats.prefix_hits == engines[0].stats.prefix_hits
    assert (engines[1].stats.prefix_hits > 0) == prefix_cache


def strip(request):
    """Without stop strings, which need a tokenizer."""
    return dataclasses.replace(request, sampling=dataclasses.replace(request.sampling, stop=()))


@pytest.mark.parametrize(
    ("kind", "numerics"),
    [
        *((kind, "fast") for kind in ("tiny-dense", "tiny-windows", "tiny-moe", "tiny-sinks", "tiny-hybrid")),
        *((kind, "exact") for kind in ("tiny-dense", "tiny-windows", "tiny-moe", "tiny-sinks")),
    ],
)
def test_a_recorded_step_exchanges_nothing_with_the_host(kind, numerics, triton, monkeypatch):
    """With tensors that have no contents: to look at one is an error, so nothing can wait for a device."""
    monkeypatch.setattr("triton.runtime.interpreter.GridExecutor.__call__", lambda *arguments, **named: None)
    bare = random_model(kind, torch.bfloat16).to("meta")
    bare.device = torch.device("meta")
    runner = GpuRunner(bare, EngineConfig(page_size=16, kv_bytes=1 << 20))
    sequence = Sequence(Request("it", (7, 8, 9), GREEDY), arrival=0, limit=23)
    sequence.pages.extend([2])
    sequence.chain = Chain(b"", slot=0)
    with computing(numerics):
        logits = runner.compute(StepPlan((Slice(sequence, 2, 1, 1),)), {})
        (replay,) = runner.records._held.values()
        with OnDevice("meta"), torch.inference_mode():
            assert replay().shape == logits.values.shape == (1, bare.config.vocab_size)


class OnDevice(TorchDispatchMode):
    """Whose operators take tensors of one device alone: another's would have to be brought there."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        assert all(one.device.type == self._device for one in given), f"{func} takes a tensor of another device"
        return func(*args, **(kwargs or {}))


def test_adapters_that_recorded_steps_choose_from_are_few_and_the_last_used(model, adapters):
    runner = GpuRunner(model, EngineConfig(page_size=4))
    loaded = load_adapter(adapters["a"], model.config, torch.float32)
    copies = {number: dataclasses.replace(loaded) for number in range(1, MOST_ADAPTERS + 3)}
    runner._know({1: copies[1]})
    runner.records.record((1, 32, 0, 1), lambda: torch.zeros(1))
    runner.records.record((1, 32, 0, 0), lambda: torch.zeros(1))
    runner._know({1: copies[1]})
    assert len(runner.records) == 2
    runner._know({2: copies[2], 3: copies[3]})
    assert list(runner.records._held) == [(1, 32, 0, 0)]
    assert list(runner._adapters) == [1, 2, 3]
    runner._know({number: copies[number] for number in range(4, MOST_ADAPTERS + 3)})
    assert list(runner._adapters) == [3, *range(4, MOST_ADAPTERS + 3)]


def test_exact_rows_have_the_same_bits_in_any_batch(model, renderer, triton):
    sampling = SamplingParams(max_tokens=3, temperature=1.0, seed=5, logprobs=1, ignore_eos=True)
    request = Request("it", tuple(range(40, 51)), sampling)
    others = [Request(f"o{i}", tuple(range(i, i + 5)), dataclasses.replace(sampling, seed=i)) for i in range(2)]
    found = []
    for requests, sizes in (([request], {}), ([*others, request], {"max_batched_tokens": 7, "max_running": 4})):
        engine = make(model, renderer, "ahead", sizes=sizes, numerics="exact")
        outputs = run(engine, requests)["it"]
        found.append([(item.token_id, item.logprob, item.top) for output in outputs for item in output.logprobs])
    assert len(found[0]) == 3
    assert found[0] == found[1]
    assert len(engine._runner.records) > 0


def test_a_gpu_runs_more_requests_at_once():
    assert usual_running("cpu") == EngineConfig.max_running == 64
    if torch.cuda.is_available():
        assert usual_running("auto") == ROWS[-1] == 256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("numerics", ["fast", "exact"])
def test_on_a_gpu_no_launch_waits_for_it_and_the_tokens_are_the_cpu_s(path, renderer, adapters, numerics):
    requests = [
        Request(f"r{i}", prompt, GREEDY, (None, "a")[i % 2]) for i, prompt in enumerate([(1, 2, 3), (9, 8)] * 3)
    ]
    results = []
    for device in ("cpu", "cuda"):
        model = load_model(path, dtype=torch.float32, device=device)
        engine = Engine(model, renderer, EngineConfig(page_size=16), numerics=numerics)
        engine.load_adapter("a", adapters["a"])
        results.append(said(run(engine, requests)))
    assert results[0] == results[1]
    for request in requests:
        engine.add(request)
    for _ in range(4):  # everything is decoding, and its sizes are recorded
        engine.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(8):
            assert len(engine.step()) == len(requests)
    finally:
        torch.cuda.set_sync_debug_mode("default")
