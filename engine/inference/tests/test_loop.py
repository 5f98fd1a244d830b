"""The engine's thread: outputs reach their task, leaving cancels, death is told to everyone."""

import asyncio
import gc
import threading

import pytest
import torch

from engine.inference import Engine, EngineConfig, EngineLoop, Request, SamplingParams
from engine.inference.tests.failing import make_failing
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
        assert 1 <= caught.value.details["retryAfterS"] <= 60
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


async def fails(loop, runner, name):
    """Fail the step that computes a request; returns its error."""
    runner.failures = 1
    with pytest.raises(FwError) as caught:
        await collect(loop.submit(Request(name, (1, 2), GREEDY)))
    return caught.value


def test_a_step_that_fails_ends_its_requests_and_the_engine_begins_anew(loop, caplog):
    runner = make_failing(loop.engine)

    async def main():
        before = await collect(loop.submit(Request("before", (1, 2, 3), GREEDY)))
        running = [loop.submit(Request(f"running{i}", (i,), LONG)) for i in range(3)]
        for stream in running:
            await anext(stream)
        runner.failures = 1
        errors = []
        for stream in running:
            with pytest.raises(FwError) as caught:
                await collect(stream)
            errors.append(caught.value)
        assert {error.code for error in errors} == {"unavailable"}
        assert len(set(map(id, errors))) == 3, "an error of its own for each"
        assert "IndexError: broken on purpose" in errors[0].message
        assert loop.alive
        assert (loop.health.status, loop.health.restarts, loop.stats.restarts) == ("ok", 1, 1)
        after = await collect(loop.submit(Request("after", (1, 2, 3), GREEDY)))
        assert [out.token_ids for out in after] == [out.token_ids for out in before]
        assert after[-1].usage.cached_tokens == 0

    asyncio.run(main())
    loop.engine.check_integrity()
    assert loop.stats.kv_usage == 0
    assert "a step of the engine failed" in caplog.text


def test_three_failures_in_a_minute_are_the_end(loop):
    runner = make_failing(loop.engine)

    async def main():
        for name in "ab":
            assert "failed" in (await fails(loop, runner, name)).message
        assert loop.alive
        waiting = loop.submit(Request("c", (1,), LONG))
        await anext(waiting)
        assert "died" in (await fails(loop, runner, "d")).message
        with pytest.raises(FwError, match="died"):
            await collect(waiting)
        with pytest.raises(FwError) as caught:
            loop.submit(Request("late", (1,), GREEDY))
        assert caught.value.code == "unavailable"
        with pytest.raises(FwError):
            await loop.unload_adapter("any")

    asyncio.run(main())
    assert not loop.alive
    assert (loop.health.status, loop.health.restarts) == ("dead", 2)
    assert "IndexError" in loop.health.error


def test_failures_far_apart_are_survived(loop, monkeypatch):
    monkeypatch.setattr("engine.inference.loop.FAILURES_WITHIN_S", 0.0)
    runner = make_failing(loop.engine)

    async def main():
        for index in range(5):
            await fails(loop, runner, f"r{index}")

    asyncio.run(main())
    assert (loop.health.status, loop.health.restarts) == ("ok", 5)


def test_a_request_that_was_not_begun_survives_a_failure(loop, path, tmp_path):
    """One that waits for its adapter to be read has lost nothing."""
    folder = tiny_adapter(tmp_path / "adapter", path, seed=1)
    runner = make_failing(loop.engine)
    read, may_read = loop.engine.adapters._load, threading.Event()

    async def main():
        await loop.load_adapter("mine", str(folder))
        wanted = await collect(loop.submit(Request("first", (1, 2), GREEDY, "mine")))
        loop.engine.adapters._resident.clear()
        loop.engine.adapters._load = lambda where: (may_read.wait(), read(where))[1]
        waits = loop.submit(Request("waits", (1, 2), GREEDY, "mine"))
        await fails(loop, runner, "lost")
        may_read.set()
        assert [out.token_ids for out in await collect(waits)] == [out.token_ids for out in wanted]

    asyncio.run(main())


def test_a_step_that_hangs_is_noticed(loop):
    runner = make_failing(loop.engine)
    loop._pulse._stall_s = 0.1

    async def main():
        stream = loop.submit(Request("r", (1,), GREEDY))
        runner.proceed.clear()
        await until(lambda: loop.health.status == "stalled")
        assert loop.health.fields()["secondsSinceLastStep"] >= 0.1
        runner.proceed.set()
        assert len(await collect(stream)) == 12
        assert loop.health.fields() == {"status": "ok"}

    asyncio.run(main())


def test_a_request_that_is_left_gives_its_pages_back_within_one_step(loop):
    runner = make_failing(loop.engine)

    async def main():
        stays = loop.submit(Request("stays", (5,), LONG))
        await anext(stays)
        for index in range(5):
            leaves = loop.submit(Request(f"r{index}", tuple(range(40)), LONG))
            await anext(leaves)
            runner.proceed.clear()
            await asyncio.sleep(0.02)  # now it waits in a step
            in_progress = len(runner.steps)
            await leaves.aclose()
            runner.proceed.set()
            await until(lambda in_progress=in_progress: len(runner.steps) > in_progress)
            assert runner.steps[in_progress] == {"stays"}
            assert loop.stats.running == 1
        await stays.aclose()
        await until(lambda: idle(loop))
        assert loop.stats.kv_usage == 0

    asyncio.run(main())


def test_the_wait_for_a_full_queue_is_estimated(loop):
    async def main():
        streams = [loop.submit(Request(f"r{i}", (1,) * 2000, LONG)) for i in range(6)]
        for stream in streams[:4]:
            await anext(stream)
        loop._pulse._tokens, loop._pulse._seconds = 1000.0, 10.0
        with pytest.raises(FwError) as caught:
            loop.submit(Request("more", (1,), GREEDY))
        assert caught.value.details["retryAfterS"] == 43, "2 prompts and 2 usual answers at 100 tokens per second"
        loop._pulse._seconds = 1e9
        with pytest.raises(FwError) as caught:
            loop.submit(Request("more", (1,), GREEDY))
        assert caught.value.details["retryAfterS"] == 60
        for stream in streams:
            await stream.aclose()

    asyncio.run(main())
