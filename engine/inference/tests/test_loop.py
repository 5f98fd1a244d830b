"""The engine's thread: outputs reach their task, leaving cancels, death is told to everyone."""

import asyncio
import gc

import pytest
import torch

from engine.inference import Engine, EngineConfig, EngineLoop, Request, SamplingParams
from engine.inference.tests.tiny import tiny_adapter, tiny_model
from engine.models import load_model
from engine.text import Renderer
from fw_sdk.types import FwError

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)
LONG = SamplingParams(max_tokens=100_000, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model", max_position_embeddings=50_000)


@pytest.fixture
def loop(path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine = Engine(load_model(path, dtype=torch.float32), Renderer.load(path), EngineConfig(max_running=4))
    loop = EngineLoop(engine, max_requests=6)
    loop.start()
    yield loop
    loop.stop()
    assert not loop.alive
    torch.set_num_threads(threads)


async def collect(stream):
    return [output async for output in stream]


async def until(condition):
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


def idle(loop):
    return not loop.engine.has_work and loop.stats.running == 0


def test_many_tasks_get_their_own_outputs(loop):
    async def main():
        requests = [Request(f"r{i}", (i, i + 1), GREEDY) for i in range(6)]
        return await asyncio.gather(*(collect(loop.submit(request)) for request in requests))

    everything = asyncio.run(main())
    for i, outputs in enumerate(everything):
        assert {output.request_id for output in outputs} == {f"r{i}"}
        assert outputs[-1].finish_reason == "length"
        assert outputs[-1].usage.completion_tokens == 12
    assert len({tuple(t for output in outputs for t in output.token_ids) for outputs in everything}) > 1


def test_leaving_a_stream_cancels_its_request(loop):
    async def main():
        async with loop.submit(Request("left", (1,), LONG)) as stream:
            async for _ in stream:
                break
        await until(lambda: idle(loop))
        dropped = loop.submit(Request("dropped", (1,), LONG))
        await until(lambda: loop.stats.running == 1)
        del dropped
        gc.collect()
        await until(lambda: idle(loop))

    asyncio.run(main())
    loop.engine.check_integrity()


def test_a_full_queue_is_refused_as_a_whole(loop):
    async def main():
        streams = [loop.submit(Request(f"r{i}", (1,), LONG)) for i in range(5)]
        with pytest.raises(FwError) as caught:
            loop.submit_all([Request("a", (1,), GREEDY), Request("b", (1,), GREEDY)])
        assert caught.value.code == "resource_exhausted"
        assert caught.value.details["retryAfterS"] == 1
        with pytest.raises(FwError) as caught:
            loop.submit_all([Request("ok", (1,), GREEDY), Request("bad", (), GREEDY)])
        assert caught.value.param == "prompt"
        last = loop.submit(Request("last", (1,), GREEDY))
        for stream in streams:
            await stream.aclose()
        assert len(await collect(last)) == 12

    asyncio.run(main())


def test_adapters_are_loaded_between_steps(loop, path, tmp_path):
    folder = tiny_adapter(tmp_path / "adapter", path, seed=1)

    async def main():
        running = loop.submit(Request("running", (1,), LONG))
        await anext(running)
        await loop.load_adapter("mine", str(folder))
        adapted = await collect(loop.submit(Request("adapted", (1, 2), GREEDY, "mine")))
        base = await collect(loop.submit(Request("base", (1, 2), GREEDY)))
        await loop.unload_adapter("mine")
        with pytest.raises(FwError) as caught:
            await loop.unload_adapter("mine")
        assert caught.value.code == "not_found"
        with pytest.raises(FwError) as caught:
            await loop.load_adapter("other", str(tmp_path / "nowhere"))
        assert caught.value.code == "not_found"
        assert not idle(loop)
        await running.aclose()
        return [output.token_ids for output in adapted] != [output.token_ids for output in base]

    assert asyncio.run(main())


def test_a_dead_thread_tells_everyone(loop, caplog):
    async def main():
        running = loop.submit(Request("running", (1,), LONG))
        await anext(running)
        assert loop.alive
        loop.engine._runner.pages = loop.engine._runner.pages[:1]
        with pytest.raises(FwError) as caught:
            await collect(running)
        assert caught.value.code == "unavailable"
        assert "IndexError" in caught.value.message
        with pytest.raises(FwError) as caught:
            loop.submit(Request("late", (1,), GREEDY))
        assert caught.value.code == "unavailable"
        with pytest.raises(FwError):
            await loop.unload_adapter("any")

    asyncio.run(main())
    assert not loop.alive
    assert isinstance(loop.error, IndexError)
    assert "the engine's thread died" in caplog.text
